"""Records with labels as a network learns from them, and as it is asked about them.

In training a record shows one of its windows, drawn anew in every epoch; asked about, its logit is the mean over all of
them, as Weimann and Conrad (2025) have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.devices import autocast
from skecg.encoders import Encoder
from skecg.finetuning.criterion import loss_of
from skecg.finetuning.network import Network
from skecg.finetuning.prepared import PreparedWindows
from skecg.finetuning.workers import over_parts
from skecg.pooling import pool_windows

__all__ = ["Inputs", "RecordLessons", "TokenInputs", "WindowInputs", "record_logits"]

Rows = NDArray[np.intp]

# Windows that go through the network at once; more of them outgrow a processor's cache.
_CPU_PART = 8
_ACCELERATOR_PART = 64


class Inputs(Protocol):
    """Windows of records, in whatever form the part of the network that is trained takes them."""

    @property
    def windows(self) -> PreparedWindows:
        """All windows."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        ...

    def outputs(self, network: Network, rows: Rows) -> Tensor:
        """Give the network's outputs (B, L) for windows of one kind."""
        ...


@dataclass(frozen=True)
class WindowInputs:
    """Windows themselves, for the whole network."""

    windows: PreparedWindows
    device: torch.device

    def outputs(self, network: Network, rows: Rows) -> Tensor:
        """Give the network's outputs (B, L) for windows of one kind."""
        outputs: Tensor = network(*self.windows.take(rows, self.device))
        return outputs


class TokenInputs:
    """The tokens of a frozen encoder, computed once and kept in half precision, for the head alone."""

    def __init__(self, windows: PreparedWindows, encoder: Encoder, device: torch.device, n_jobs: int | None) -> None:
        self.windows, self.device = windows, device
        parts = windows.parts(np.arange(len(windows)), part_size(device))

        def encode(rows: Rows) -> Tensor:
            with torch.no_grad():
                tokens: Tensor = encoder(*windows.take(rows, device))
            return tokens.half().cpu()

        with over_parts(device, n_jobs) as over:
            encoded = over(encode, parts)
        self.tokens = {int(row): found for rows, some in zip(parts, encoded, strict=True)
                       for row, found in zip(rows, some, strict=True)}  # fmt: skip

    def outputs(self, network: Network, rows: Rows) -> Tensor:
        """Give the head's outputs (B, L) for windows of one kind."""
        tokens = torch.stack([self.tokens[int(row)] for row in rows])
        outputs: Tensor = network.head(tokens.to(self.device).float())
        return outputs


def part_size(device: torch.device) -> int:
    """Say how many windows go through a network at once."""
    return _CPU_PART if device.type == "cpu" else _ACCELERATOR_PART


@dataclass(frozen=True)
class Part:
    """Windows of one kind, and what share of a batch each of them is."""

    rows: Rows
    share: float


@dataclass(frozen=True)
class RecordLessons:
    """Records to learn from. N records in all, L labels.

    Parameters
    ----------
    inputs : Inputs
        Of all N.
    records : ndarray of int
        Those to learn from.
    has : ndarray of shape (N, L), bool
    weight : ndarray of shape (N, 1) or (N, L)
        What each record counts.
    joint : bool
        See :func:`skecg.finetuning.criterion.loss_of`.
    batch_size : int
        Records in a batch.
    """

    inputs: Inputs
    records: Rows
    has: NDArray[np.bool_]
    weight: NDArray[np.float64]
    joint: bool
    batch_size: int

    def epoch(self, rng: np.random.Generator) -> list[list[Part]]:
        """Draw the order of the records, and a window of each."""
        windows = self.inputs.windows
        order = rng.permutation(self.records)
        first = np.searchsorted(windows.owner, order)
        shown = first + rng.integers(np.searchsorted(windows.owner, order, side="right") - first)
        batches = [shown[i : i + self.batch_size] for i in range(0, len(shown), self.batch_size)]
        most = part_size(self.inputs.device)
        return [[Part(rows, 1 / len(batch)) for rows in windows.parts(batch, most)] for batch in batches]

    def loss(self, network: Network, part: Part) -> Tensor:
        """Compute a part's share of the batch's mean log-loss."""
        record = self.inputs.windows.owner[part.rows]
        has, weight = (
            torch.from_numpy(values[record].astype(np.float32)).to(self.inputs.device)
            for values in (self.has, self.weight)
        )
        logits = self.inputs.outputs(network, part.rows).float()
        return part.share * loss_of(logits, has, weight, joint=self.joint)


def record_logits(
    network: Network, inputs: Inputs, records: Sequence[int] | Rows, *, precision: str, n_jobs: int | None
) -> NDArray[np.float64]:
    """Give the logits of records (n_records, L): means over their windows.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    inputs : Inputs
    records : sequence of int
        Numbers of the records, ascending.
    precision : {"fp32", "bf16"}
    n_jobs : int or None
    """
    windows = inputs.windows
    rows = np.flatnonzero(np.isin(windows.owner, records))
    # On a CPU one by one: it takes hardly longer, and a record's answer then does not depend, not by a bit, on others.
    parts = windows.parts(rows, 1 if inputs.device.type == "cpu" else part_size(inputs.device))

    def ask(part: Rows) -> NDArray[np.float32]:
        with torch.inference_mode(), autocast(inputs.device, precision):
            return inputs.outputs(network, part).float().cpu().numpy()

    with over_parts(inputs.device, n_jobs) as over:
        answers = over(ask, parts)
    found = np.empty((len(windows), answers[0].shape[1]), dtype=np.float32)
    for part, answer in zip(parts, answers, strict=True):
        found[part] = answer
    owner = np.unique(windows.owner[rows], return_inverse=True)[1].astype(np.int64)
    return pool_windows(found[rows], owner, len(records)).astype(np.float64)
