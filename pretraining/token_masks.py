"""Which tokens an autoencoder sees, and which patches it has to give back: random over time, leads, or both.

A patch is one slice of time of one lead. A recording has the patches of the leads that it is shown with, as far as it
reaches: leads that are absent and padding are neither seen nor asked for.

Shapes: B records, L leads, G lead groups (1, or one a lead), P slices of time, N = G P tokens, K visible tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.counter_random import uniforms

__all__ = ["TokenMasks", "draw_token_masks", "n_visible"]

BoolArray = NDArray[np.bool_]

_STREAM = 0x3A5C


@dataclass(frozen=True)
class TokenMasks:
    """What is seen, as tokens, and what is to be reconstructed, as patches.

    Parameters
    ----------
    visible : Tensor of shape (B, K), int64
        Numbers of tokens, lead after lead, ascending; -1 fills the rows of recordings that have fewer.
    asked : Tensor of shape (B, L, P), bool
        Patches that are there and hidden.
    """

    visible: Tensor
    asked: Tensor

    def to(self, device: torch.device) -> TokenMasks:
        """Give the masks on a device."""
        return TokenMasks(self.visible.to(device, non_blocking=True), self.asked.to(device, non_blocking=True))

    def take(self, rows: slice) -> TokenMasks:
        """Give the masks of some of the records."""
        return TokenMasks(self.visible[rows], self.asked[rows])


def n_visible(n: int | NDArray[np.int64], ratio: float) -> NDArray[np.int64]:
    """Say how many of `n` things stay visible: at least one, and all but one at most where there are two."""
    n = np.asarray(n, dtype=np.int64)
    return np.clip(np.rint((1.0 - ratio) * n).astype(np.int64), 1, np.maximum(n - 1, 1))


def draw_token_masks(
    over: str, ratio: float, there_BLP: BoolArray, lead_groups: int, positions: range, *, seed: int, step: int
) -> TokenMasks:
    """Draw the masks of some records of a step's batch.

    Parameters
    ----------
    over : {"time", "leads", "both"}
        Whole slices of time, whole leads, or single patches are hidden. A recording with a single lead, of which
        hiding leads would leave nothing to see or nothing to ask, has slices of time hidden.
    ratio : float
        Share of what is there that is hidden; the same number for all recordings that have as much.
    there_BLP : ndarray of shape (B, L, P), bool
        Patches that recordings have.
    lead_groups : int
        1 for tokens of all leads, L for tokens of single ones.
    positions : range
        Places of the records in the batch of the whole step.
    seed, step : int

    Returns
    -------
    TokenMasks
        The same for a place whatever other places are drawn with it.
    """
    n_records, n_leads, n_patches = there_BLP.shape
    assert over == "time" or lead_groups == n_leads, "a token of all leads cannot be without one of them"
    drawn = uniforms(seed, step, positions, n_patches + n_leads + n_leads * n_patches, stream=_STREAM)
    by_slice, by_lead, by_patch = np.split(drawn, [n_patches, n_patches + n_leads], axis=1)
    slices_BP, leads_BL = np.any(there_BLP, axis=1), np.any(there_BLP, axis=2)
    shown_BLP = there_BLP & _choose(by_slice, slices_BP, ratio)[:, None, :]
    if over == "leads":
        several_B11 = (leads_BL.sum(axis=1) > 1)[:, None, None]
        shown_BLP = np.where(several_B11, there_BLP & _choose(by_lead, leads_BL, ratio)[:, :, None], shown_BLP)
    elif over == "both":
        shown_BLP = _choose(by_patch, there_BLP.reshape(n_records, -1), ratio).reshape(there_BLP.shape)
    tokens_BGP = shown_BLP if lead_groups > 1 else shown_BLP.any(axis=1, keepdims=True)
    most = {"time": lead_groups * n_visible(n_patches, ratio), "leads": n_visible(n_leads, ratio) * n_patches}
    n_most = int(most.get(over, n_visible(n_leads * n_patches, ratio)))
    visible = _numbers(tokens_BGP.reshape(n_records, -1), n_most)
    return TokenMasks(torch.from_numpy(visible), torch.from_numpy(there_BLP & ~shown_BLP))


def _choose(drawn_Bn: NDArray[np.float64], there_Bn: BoolArray, ratio: float) -> BoolArray:
    """Choose what stays visible of what is there."""
    rank = np.where(there_Bn, drawn_Bn, 2.0).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return there_Bn & (rank < n_visible(there_Bn.sum(axis=1), ratio)[:, None])


def _numbers(chosen_BN: BoolArray, n_most: int) -> NDArray[np.int64]:
    """Give the numbers of what was chosen, ascending, filled with -1 to the same length."""
    order = np.argsort(~chosen_BN, axis=1, kind="stable")[:, :n_most]
    return np.where(np.take_along_axis(chosen_BN, order, axis=1), order, -1)
