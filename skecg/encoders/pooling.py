"""Tokens to window vectors, window vectors to record vectors.

Shapes: B windows, R registers, N tokens, D width of a token, F features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ParameterError
from skecg.validation import is_integer

if TYPE_CHECKING:
    from torch import Tensor

    from skecg.spec import EncoderConfig

__all__ = [
    "AttentionPooling",
    "POOLINGS",
    "as_layers",
    "attend",
    "check_pooling",
    "kept_tokens",
    "n_encoder_features",
    "n_pooled_features",
    "n_registers",
    "pool_tokens",
    "pool_windows",
]

#: What a window's tokens may be pooled to.
POOLINGS = ("mean", "max", "mean+std", "mean+std+max", "cls")


@dataclass(frozen=True, eq=False)
class AttentionPooling:
    """A query that was trained to look at the tokens of an encoder's last stage.

    Parameters
    ----------
    query_D : Tensor
        Projected.
    keys_values : Tensor of shape (2 D, D)
        What makes keys and values of tokens.
    num_heads : int
    sha256 : str
        Digest of the file that it is from: it sets embeddings apart.
    """

    query_D: Tensor
    keys_values: Tensor
    num_heads: int
    sha256: str

    def pool(self, tokens_BND: Tensor, num_registers: int, counted_BN: Tensor | None) -> Tensor:
        """Pool the tokens of windows to (B, D); registers get attention, too."""
        if counted_BN is not None:
            counted_BN = kept_tokens(counted_BN, tokens_BND.shape[1] - num_registers)
        query_D, keys_values = (tensor.to(tokens_BND.device) for tensor in (self.query_D, self.keys_values))
        return attend(query_D, tokens_BND.float() @ keys_values.T, self.num_heads, counted_BN)


def attend(query_D: Tensor, keys_values_BNE: Tensor, num_heads: int, counted_BN: Tensor | None) -> Tensor:
    """Return what one query gathers from the tokens of each window, (B, D); from padding nothing.

    Keys and values lie side by side, E = 2 D. The tokens that come before those of patches always count.
    """
    import torch

    B, N, E = keys_values_BNE.shape
    width = E // (2 * num_heads)
    query_BH1d = query_D.view(1, num_heads, 1, width).expand(B, -1, -1, -1)
    keys_BHNd, values_BHNd = keys_values_BNE.view(B, N, 2, num_heads, width).permute(2, 0, 3, 1, 4)
    mask = None
    if counted_BN is not None:
        mask = torch.nn.functional.pad(counted_BN, (N - counted_BN.shape[1], 0), value=True)[:, None, None]
    gathered = torch.nn.functional.scaled_dot_product_attention(query_BH1d, keys_BHNd, values_BHNd, attn_mask=mask)
    return gathered.flatten(1)


def check_pooling(pooling: object, num_registers: int) -> str:
    """Return `pooling` if an encoder with so many registers offers it."""
    if pooling not in POOLINGS:
        raise ParameterError(f"Got pooling={pooling!r}, expected one of {', '.join(map(repr, POOLINGS))}.")
    if pooling == "cls" and num_registers == 0:
        raise ParameterError(
            "Got pooling='cls', but this encoder has no register token. Use 'mean', 'max', 'mean+std' or "
            "'mean+std+max'."
        )
    return str(pooling)


def as_layers(layer: object) -> tuple[int, ...]:
    """Read a choice of layers.

    Parameters
    ----------
    layer : int, sequence of int or str
        One block, several (their features are concatenated in this order), or ``"last4"`` for the last four.

    Examples
    --------
    >>> as_layers(-1), as_layers([2, 5]), as_layers("last3")
    ((-1,), (2, 5), (-3, -2, -1))
    """
    if isinstance(layer, str) and (match := re.fullmatch(r"last-?([1-9]\d*)", layer)):
        return tuple(range(-int(match[1]), 0))
    layers: Any = (layer,) if isinstance(layer, int | np.integer) else layer
    several = isinstance(layers, Sequence) and not isinstance(layers, str) and len(layers) > 0
    if not several or not all(map(is_integer, layers)):
        raise ParameterError(f"Got layer={layer!r}, expected an integer, a list of integers, or 'last4' and the like.")
    return tuple(int(n) for n in layers)


def n_pooled_features(pooling: str, width: int, num_registers: int) -> int:
    """Count the features of a record whose tokens, of all layers side by side, are so wide."""
    return width * {"mean+std": 2, "mean+std+max": 3, "cls": num_registers}.get(pooling, 1)


def n_encoder_features(pooling: str, config: EncoderConfig, layers: Sequence[int] = (-1,)) -> int:
    """Count the features of a record that stages of an encoder give."""
    width = sum(config.stages[layer].width for layer in layers)
    return n_pooled_features(pooling, width, n_registers(config))


def n_registers(config: EncoderConfig) -> int:
    """Return how many tokens without position an encoder has."""
    return int(getattr(config, "num_registers", 0))


def pool_tokens(
    states_BND: Sequence[Tensor], num_registers: int, pooling: str, counted_BN: Tensor | None = None
) -> Tensor:
    """Pool each window's tokens to one vector.

    Parameters
    ----------
    states_BND : sequence of Tensor of shape (B, R + N, D)
        Tokens of one or several layers, registers first.
    num_registers : int
        R.
    pooling : {"mean", "max", "mean+std", "mean+std+max", "cls"}
        Mean, maximum, mean and standard deviation (uncorrected), or all three over the patches' tokens; or the
        registers.
    counted_BN : Tensor of shape (B, N), bool, optional
        False for tokens of patches that are left out; all count when not given.

    Returns
    -------
    Tensor of shape (B, F)
        Layer after layer.
    """
    pooled = []
    for tokens in states_BND:
        patches = tokens[:, num_registers:]
        if pooling == "cls":
            pooled.append(tokens[:, :num_registers].flatten(1))
            continue
        kept = None if counted_BN is None else kept_tokens(counted_BN, patches.shape[1])[:, :, None]
        mean = _mean(patches, kept)
        if pooling != "max":
            pooled.append(mean)
        if pooling in ("mean+std", "mean+std+max"):
            pooled.append(_deviation(patches, mean, kept))
        if pooling in ("max", "mean+std+max"):
            # Minus infinity, not 0: a feature may be negative everywhere.
            shown = patches if kept is None else patches.masked_fill(~kept, -math.inf)
            pooled.append(shown.amax(dim=1))
    return pooled[0] if len(pooled) == 1 else _concatenate(pooled)


def kept_tokens(counted_BN: Tensor, n_tokens: int) -> Tensor:
    """Return which of a stage's tokens (B, n_tokens) are pooled: those at the place of one that counts.

    Of a window in which none counts all are.
    """
    import torch

    # An earlier stage may have more tokens: each is taken by what lies at its place in the last.
    place = torch.arange(n_tokens, device=counted_BN.device) * counted_BN.shape[1] // n_tokens
    return (counted_BN | ~counted_BN.any(dim=1, keepdim=True))[:, place]


def _mean(patches_BND: Tensor, kept_BN1: Tensor | None) -> Tensor:
    """Return the mean over the tokens that are kept, all where that is None."""
    if kept_BN1 is None:
        return patches_BND.mean(dim=1)
    return (patches_BND * kept_BN1).sum(dim=1) / kept_BN1.sum(dim=1)


def _deviation(patches_BND: Tensor, mean_BD: Tensor, kept_BN1: Tensor | None) -> Tensor:
    """Return the standard deviation over tokens, a twentieth of the time that torch's takes along a middle axis."""
    variance = _mean((patches_BND - mean_BD[:, None]).square(), kept_BN1)
    # Where nothing varies the root has no slope; what is filled in takes no gradient.
    return variance.masked_fill(variance == 0, 0.0).sqrt()


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat(list(parts), dim=1)


def pool_windows(vectors: NDArray[np.float32], owner: NDArray[np.int64], n_records: int) -> NDArray[np.float32]:
    """Average each record's window vectors.

    Parameters
    ----------
    vectors : ndarray of shape (n_windows, n_features)
    owner : ndarray of shape (n_windows,)
        Number of the record that each window belongs to, ascending.
    n_records : int

    Returns
    -------
    ndarray of shape (n_records, n_features), float32
        NaN for a record without a window.
    """
    counts = np.bincount(owner, minlength=n_records)
    # One window a record, the usual case: nothing to average, and nothing is copied.
    if np.array_equal(counts, np.ones(n_records)):
        return vectors
    pooled = np.full((n_records, vectors.shape[1]), np.nan, dtype=np.float32)
    present = np.flatnonzero(counts)
    starts = np.concatenate([[0], np.cumsum(counts[present])[:-1]])
    if len(present):
        # In float64: a day has thousands of windows.
        sums = np.add.reduceat(vectors, starts, axis=0, dtype=np.float64)
        pooled[present] = sums / counts[present, None]
    return pooled
