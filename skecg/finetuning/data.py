"""Prepared windows in memory, the batches that are drawn from them, and the logits of all of them.

Windows of the same leads and the same length go through a network together, so that nothing is padded and nothing
absent is computed, as in :mod:`skecg.encoders.encode`. In training a record shows one of its windows, drawn anew in
every epoch; in prediction its logit is the mean over all of them, as Weimann and Conrad (2025) have it. Where samples
have labels, an epoch shows every window.

Shapes: B windows, L leads or labels, T samples, N records, C classes of waves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.compute.devices import autocast
from skecg.encoders import Encoder
from skecg.encoders.encode import micro_batches, number_shapes
from skecg.encoders.pooling import pool_windows
from skecg.finetuning.heads import Network
from skecg.finetuning.loop import ordered_map
from skecg.finetuning.losses import RecordLabels, confusion_of, mean_f1, wave_loss
from skecg.finetuning.sample_labels import View, draw_view
from skecg.preprocessing.windows import Windows

__all__ = [
    "Inputs",
    "LabelledWindows",
    "MicroBatch",
    "PreparedWindows",
    "RecordBatches",
    "TokenInputs",
    "WindowBatches",
    "WindowInputs",
    "record_logits",
    "validation_f1",
    "window_logits",
]

# Windows that go through the network at once; more of them outgrow a processor's cache.
_CPU_BATCH = 8
_ACCELERATOR_BATCH = 64

Rows = NDArray[np.intp]


class PreparedWindows:
    """Windows of records, in the order of the records.

    Parameters
    ----------
    chunks : sequence of Windows
        Of consecutive records; their values are not copied.
    length_step : int
        Of the encoder: lengths are rounded up to multiples of it.

    Attributes
    ----------
    owner : ndarray of shape (n_windows,), int64
        Number of the record that each window is of, over all chunks.
    start_samples, valid_samples : ndarray of shape (n_windows,), int64
    lead_mask : ndarray of shape (n_windows, n_leads), bool
        As in :class:`skecg.preprocessing.windows.Windows`.
    """

    def __init__(self, chunks: Sequence[Windows], length_step: int) -> None:
        self.chunks = list(chunks)
        self.length_step = length_step
        # Chunks stay apart: joining their values would hold all windows twice while it is done.
        self._first = np.cumsum([0, *(len(chunk) for chunk in self.chunks)])
        n_records = np.cumsum([0, *(int(chunk.owner[-1]) + 1 for chunk in self.chunks)])
        self.owner = np.concatenate([w.owner + first for w, first in zip(self.chunks, n_records, strict=False)])
        self.start_samples = np.concatenate([chunk.start_samples for chunk in self.chunks])
        self.valid_samples = np.concatenate([chunk.valid_samples for chunk in self.chunks])
        self.lead_mask = np.concatenate([chunk.lead_mask for chunk in self.chunks])
        self.n_records = int(n_records[-1])
        self._shapes = number_shapes(self.lead_mask, self.valid_samples, length_step)

    def __len__(self) -> int:
        return len(self.owner)

    def of_record(self, record: int) -> Rows:
        """Return the numbers of a record's windows."""
        return np.arange(*np.searchsorted(self.owner, [record, record + 1]))

    def micro_batches(self, rows: Rows, batch_size: int) -> list[Rows]:
        """Divide windows into batches of one shape and of at most `batch_size`."""
        return micro_batches(self._shapes, rows, batch_size)

    def take(self, rows: Rows, device: torch.device | None = None) -> tuple[Tensor, list[int] | None]:
        """Return windows of one shape as an encoder takes them.

        Returns
        -------
        values : Tensor of shape (B, L, T)
            As long as their signal, rounded up to whole steps.
        leads : list of int or None
            Rows that are present; None when all are.
        """
        present = self.lead_mask[rows[0]]
        # Rounded up to whole tokens: what a slice lacks is padding that the encoder knows of.
        n_samples = -(-int(self.valid_samples[rows[0]]) // self.length_step) * self.length_step
        chunk_of = np.searchsorted(self._first, rows, side="right") - 1
        values = [
            self.chunks[c].values[row - self._first[c], :, :n_samples] for c, row in zip(chunk_of, rows, strict=True)
        ]
        leads = None if present.all() else np.flatnonzero(present).tolist()
        return torch.from_numpy(np.stack(values)).to(device or "cpu"), leads


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
        """Compute the network's outputs (B, ...) for windows of one shape."""
        ...


@dataclass(frozen=True)
class WindowInputs:
    """Windows themselves, for the whole network."""

    windows: PreparedWindows
    device: torch.device

    def outputs(self, network: Network, rows: Rows) -> Tensor:
        """Compute the network's outputs (B, ...) for windows of one shape."""
        outputs: Tensor = network(*self.windows.take(rows, self.device))
        return outputs


class TokenInputs:
    """The tokens of a frozen encoder, computed once and kept in half precision, for the head alone."""

    def __init__(self, windows: PreparedWindows, encoder: Encoder, device: torch.device, n_jobs: int | None) -> None:
        self.windows, self.device = windows, device
        # Once: the encoder stays as it is while the head is trained, and so do its tokens.
        batches = windows.micro_batches(np.arange(len(windows)), _batch_size(device))

        def encode(rows: Rows) -> Tensor:
            with torch.no_grad():
                tokens: Tensor = encoder(*windows.take(rows, device))
            # Half the memory: all tokens of all windows are held, and are but what a head is trained on.
            return tokens.half().cpu()

        with ordered_map(device, n_jobs) as over:
            encoded = over(encode, batches)
        self._tokens = {
            row: tokens
            for rows, batch in zip(batches, encoded, strict=True)
            for row, tokens in zip(rows.tolist(), batch, strict=True)
        }

    def outputs(self, network: Network, rows: Rows) -> Tensor:
        """Compute the head's outputs (B, ...) for windows of one shape."""
        tokens = torch.stack([self._tokens[int(row)] for row in rows])
        return network.read_out(tokens.to(self.device).float(), self.windows.take(rows, self.device)[0])


def _batch_size(device: torch.device) -> int:
    """Return how many windows go through a network at once."""
    return _CPU_BATCH if device.type == "cpu" else _ACCELERATOR_BATCH


@dataclass(frozen=True)
class MicroBatch:
    """Windows of one shape that go through the network at once.

    Parameters
    ----------
    rows : ndarray of int
        Their numbers.
    weight : float
        What each window, or each sample with a label, counts in the loss of their batch.
    view : View or None
        How they are augmented.
    """

    rows: Rows
    weight: float
    view: View | None = None


def _divide(rows: Rows, size: int) -> list[Rows]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


@dataclass(frozen=True)
class RecordBatches:
    """Batches of records with labels.

    Parameters
    ----------
    inputs : Inputs
        Of all N records.
    records : ndarray of int
        Those to learn from.
    labels : RecordLabels
        Of all N.
    batch_size : int
        Records in a batch.
    """

    inputs: Inputs
    records: Rows
    labels: RecordLabels
    batch_size: int

    def epoch(self, rng: np.random.Generator) -> list[list[MicroBatch]]:
        """Draw the order of the records, and a window of each."""
        windows = self.inputs.windows
        order = rng.permutation(self.records)
        # Windows of a record lie together: one of them is drawn, so that long records do not count more.
        first = np.searchsorted(windows.owner, order)
        rows = first + rng.integers(np.searchsorted(windows.owner, order, side="right") - first)
        at_once = _batch_size(self.inputs.device)
        return [
            # Over the whole batch, not the micro-batch: how a batch is divided must not change its loss.
            [MicroBatch(alike, 1 / len(batch)) for alike in windows.micro_batches(batch, at_once)]
            for batch in _divide(rows, self.batch_size)
        ]

    def loss(self, network: Network, micro_batch: MicroBatch) -> Tensor:
        """Compute what a micro-batch adds to the mean loss of its batch."""
        logits = self.inputs.outputs(network, micro_batch.rows).float()
        return micro_batch.weight * self.labels.loss(logits, self.inputs.windows.owner[micro_batch.rows])


@dataclass(frozen=True)
class LabelledWindows:
    """Windows and the labels of their samples.

    Parameters
    ----------
    inputs : WindowInputs
    labels : ndarray of shape (n_windows, T), int8
        Negative where nothing is known.
    sampling_rate : float
        Of both (Hz).
    """

    inputs: WindowInputs
    labels: NDArray[np.int8]
    sampling_rate: float

    def of_records(self, records: Rows) -> Rows:
        """Return the numbers of the windows of these records in which anything is known."""
        # A window without a known sample has a loss of 0 and costs a forward pass.
        return np.flatnonzero(np.isin(self.inputs.windows.owner, records) & (self.labels >= 0).any(axis=1))


@dataclass(frozen=True)
class WindowBatches:
    """Batches of windows whose samples have labels; in an epoch each window comes once.

    Parameters
    ----------
    windows : LabelledWindows
    rows : ndarray of int
        Those to learn from, each with a label somewhere.
    batch_size : int
        Windows in a batch.
    augment : bool
        Whether windows are altered each time, see :class:`skecg.finetuning.sample_labels.View`.
    """

    windows: LabelledWindows
    rows: Rows
    batch_size: int
    augment: bool = False

    def epoch(self, rng: np.random.Generator) -> list[list[MicroBatch]]:
        """Draw the order of the windows, and how they are augmented."""
        return [list(self._augmented(batch, rng)) for batch in _divide(rng.permutation(self.rows), self.batch_size)]

    def _augmented(self, batch: Rows, rng: np.random.Generator) -> Iterator[MicroBatch]:
        # A batch's loss is the mean over its known samples, however they are spread over its windows.
        weight = 1 / max(1, int((self.windows.labels[batch] >= 0).sum()))
        inputs = self.windows.inputs
        for rows in inputs.windows.micro_batches(batch, _batch_size(inputs.device)):
            yield MicroBatch(rows, weight, draw_view(rng, inputs.windows.length_step) if self.augment else None)

    def loss(self, network: Network, micro_batch: MicroBatch) -> Tensor:
        """Compute what a micro-batch adds to the mean cross entropy of its batch."""
        inputs, view = self.windows.inputs, micro_batch.view
        values_BLT, leads = inputs.windows.take(micro_batch.rows, inputs.device)
        labels_BT = self.windows.labels[micro_batch.rows, : values_BLT.shape[2]]
        if view is not None:
            length_step = inputs.windows.length_step
            labels_BT = labels_BT[:, view.span(labels_BT.shape[1], length_step)]
            values_BLT = view.apply(values_BLT, length_step, self.windows.sampling_rate)
        logits_BCT = network(values_BLT, leads).float()
        return micro_batch.weight * wave_loss(logits_BCT, torch.tensor(labels_BT, device=inputs.device).long())


def _outputs(
    network: Network, inputs: Inputs, batches: list[Rows], precision: str, n_jobs: int | None
) -> list[NDArray[np.float32]]:
    """Compute the outputs of a network in evaluation mode for each of some micro-batches."""

    def compute(rows: Rows) -> NDArray[np.float32]:
        with torch.inference_mode(), autocast(inputs.device, precision):
            return inputs.outputs(network, rows).float().cpu().numpy()

    with ordered_map(inputs.device, n_jobs) as over:
        return over(compute, batches)


def record_logits(
    network: Network, inputs: Inputs, records: Sequence[int] | Rows, *, precision: str, n_jobs: int | None
) -> NDArray[np.float64]:
    """Compute the logits of records (n_records, L): means over their windows.

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
    batches = windows.micro_batches(rows, 1 if inputs.device.type == "cpu" else _batch_size(inputs.device))
    outputs = _outputs(network, inputs, batches, precision, n_jobs)
    logits = np.empty((len(windows), outputs[0].shape[1]), dtype=np.float32)
    for batch, output in zip(batches, outputs, strict=True):
        logits[batch] = output
    # Numbered anew: of some records only, numbers from 0 without holes.
    owner = np.unique(windows.owner[rows], return_inverse=True)[1].astype(np.int64)
    return pool_windows(logits[rows], owner, len(records)).astype(np.float64)


def window_logits(
    network: Network, inputs: WindowInputs, rows: Rows, *, precision: str, n_jobs: int | None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the number and the logits (C, T) of windows, one shape after the other.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    inputs : WindowInputs
    rows : ndarray of int
    precision : {"fp32", "bf16"}
    n_jobs : int or None
    """
    batches = inputs.windows.micro_batches(rows, _batch_size(inputs.device))
    for batch, output in zip(batches, _outputs(network, inputs, batches, precision, n_jobs), strict=True):
        yield from zip(batch.tolist(), output, strict=True)


def validation_f1(
    network: Network, windows: LabelledWindows, rows: Rows, *, precision: str, n_jobs: int | None
) -> float:
    """Compute the mean F1 over the samples of windows, of those of P, QRS and T that are annotated or predicted."""
    # Confusions are added and F1 taken once: a mean of windows' F1 would weigh quiet windows too much.
    confusion = sum(
        confusion_of(windows.labels[row, : logits.shape[1]], logits.argmax(axis=0))
        for row, logits in window_logits(network, windows.inputs, rows, precision=precision, n_jobs=n_jobs)
    )
    return mean_f1(np.asarray(confusion))
