"""Stochastic depth: in training, a record skips some branches of the transformer blocks, the deeper the more.

After Huang et al. (2016, arXiv:1603.09382), as timm's drop-path and so Kim (arXiv:2410.08559): a branch is left out for
each row by itself and scaled up by 1 / keep where it stays; the probability falls linearly from the last block to 0 at
the first. It acts from outside, by hooks, so that the encoders know nothing of it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pretraining.data.batches import uniforms
from pretraining.objectives.predictors import LeadwisePredictor
from skecg.encoders.blocks import Block

__all__ = ["StochasticDepth"]

_STREAM = 0xD40 << 32  # room below it for the part and its pass


class StochasticDepth:
    """Leaves branches out while :meth:`active`, and does nothing otherwise.

    Parameters
    ----------
    parts : sequence of nn.Module
        Modules with ``blocks``, each with its own draws: both encoders and the predictor (the published code trains
        with its target encoder in training mode, so that targets have it too).
    rate : float
        Probability of leaving out a branch of the last block; 0 hooks nothing.
    seed : int

    Notes
    -----
    What is left out is drawn from (seed, step, part, number of the call within the step) and the record's place in the
    batch of the whole step, so it is the same however that batch is split.
    """

    def __init__(self, parts: Sequence[nn.Module], rate: float, seed: int) -> None:
        self._draws = [_PartDraws(number, part, rate, seed) for number, part in enumerate(parts)] if rate else []

    @contextlib.contextmanager
    def active(self, step: int, positions: range) -> Iterator[None]:
        """Leave branches out of the passes of the records at some places of a step's batch."""
        for draws in self._draws:
            draws.begin(step, positions)
        try:
            yield
        finally:
            for draws in self._draws:
                draws.end()


class _PartDraws:
    """What is left out of one encoder or predictor.

    All is drawn before a pass begins and laid beside the branches, so that blocks can be compiled as they are: one hook
    for all of them, which only multiplies.
    """

    def __init__(self, number: int, part: nn.Module, rate: float, seed: int) -> None:
        blocks = [block for block in part.blocks if isinstance(block, Block)]  # type: ignore[union-attr]
        self._number, self._seed = number, seed
        self._rates = np.linspace(0.0, rate, len(blocks))
        self._step, self._positions, self._call = 0, range(0), 0
        self._branches: list[list[Any]] = [[block.attn, block.mlp] for block in blocks]
        part.register_forward_pre_hook(self._draw)
        for branch in itertools.chain(*self._branches):
            branch.kept_R = None
            branch.register_forward_hook(_scale_rows)

    def begin(self, step: int, positions: range) -> None:
        self._step, self._positions, self._call = step, positions, 0

    def end(self) -> None:
        self._positions = range(0)
        for branch in itertools.chain(*self._branches):
            branch.kept_R = None

    def _draw(self, part: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Draw each row's factor, 0 or 1 / keep, for all branches of the pass that begins."""
        # Outside a step (gauges, probe, export) the same modules run whole.
        if not self._positions:
            return
        self._call += 1
        n_rows = part.n_rows(*inputs) if isinstance(part, LeadwisePredictor) else len(inputs[0])
        factors = self._factors(n_rows).to(inputs[0].device, non_blocking=True)
        for branches, factors_bR in zip(self._branches, factors, strict=True):
            for branch, factors_R in zip(branches, factors_bR, strict=True):
                branch.kept_R = factors_R

    def _factors(self, n_rows: int) -> Tensor:
        """Draw (n_blocks, 2, n_rows); a record may have several rows (its leads)."""
        n_rates = len(self._rates)
        # By places of the batch, so that a record skips the same branches however the batch is split.
        n_draws = n_rows // len(self._positions) * n_rates * 2
        stream = _STREAM + (self._number << 16) + self._call
        drawn = uniforms(self._seed, self._step, self._positions, n_draws, stream=stream)
        drawn_Rkb = drawn.reshape(n_rows, n_rates, 2)
        keep_k1 = 1.0 - self._rates[:, None]
        factors_kbR = np.moveaxis(np.where(drawn_Rkb < keep_k1, 1.0 / keep_k1, 0.0), 0, -1)
        return torch.from_numpy(np.ascontiguousarray(factors_kbR, dtype=np.float32))


def _scale_rows(branch: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
    """Scale the rows of a branch of a block by what was drawn for them, within a step."""
    return None if branch.kept_R is None else output * branch.kept_R.to(output.dtype)[:, None, None]
