"""Prepared windows of many records, held in memory and handed out in parts that may travel together.

Windows of the same leads and the same length go through an encoder together, so that nothing is padded and nothing
absent is computed, as in :mod:`skecg.encoders.encode`. Shapes: B windows, L leads, T samples.

Records with labels as a network learns from them, and as it is asked about them.

In training a record shows one of its windows, drawn anew in every epoch; asked about, its logit is the mean over all of
them, as Weimann and Conrad (2025) have it.

Windows with a label for each sample, as a network learns from them and is scored on them.

Shapes: B windows, T samples, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from skecg.annotations import OUTSIDE
from skecg.compute.devices import autocast
from skecg.compute.progress import count_progress
from skecg.encoders import Encoder
from skecg.encoders.pooling import pool_windows
from skecg.errors import SkecgError, user_stacklevel
from skecg.finetuning.heads import Network
from skecg.finetuning.loop import over_parts
from skecg.finetuning.losses import confusion_of, f1_of_waves, loss_of
from skecg.finetuning.sample_labels import View, draw_view
from skecg.inference.inputs import RecordSource
from skecg.inference.pipeline import CHUNK_RECORDS
from skecg.preprocessing.quality import Policies, Screening, record_label, screen, warn_once_a_kind
from skecg.preprocessing.units import Amplitude, warn_about_units
from skecg.preprocessing.windows import Windows, prepare_screened
from skecg.records import ECGRecord
from skecg.spec import InputSpec

__all__ = [
    "Inputs",
    "LabelledWindows",
    "PreparedWindows",
    "RecordLessons",
    "TokenInputs",
    "WaveLessons",
    "WindowInputs",
    "prepare_in_chunks",
    "record_logits",
    "validation_f1",
    "window_logits",
    "window_loss_of",
]


Rows = NDArray[np.intp]


class PreparedWindows:
    """Windows of records, in the order of the records.

    Parameters
    ----------
    chunks : sequence of Windows
        Of consecutive records; their values are not copied.
    patch_samples : int
        Slice of time of a token: lengths are rounded up to whole ones.

    Attributes
    ----------
    owner : ndarray of shape (n_windows,), int64
        Number of the record that each window is of, over all chunks.
    start_samples, valid_samples : ndarray of shape (n_windows,), int64
    lead_mask : ndarray of shape (n_windows, n_leads), bool
        As in :class:`skecg.preprocessing.windows.Windows`.
    """

    def __init__(self, chunks: Sequence[Windows], patch_samples: int) -> None:
        self.chunks = list(chunks)
        self.patch_samples = patch_samples
        self._first = np.cumsum([0, *(len(chunk) for chunk in self.chunks)])
        n_records = np.cumsum([0, *(int(chunk.owner[-1]) + 1 for chunk in self.chunks)])
        self.owner = np.concatenate([w.owner + first for w, first in zip(self.chunks, n_records, strict=False)])
        self.start_samples = np.concatenate([chunk.start_samples for chunk in self.chunks])
        self.valid_samples = np.concatenate([chunk.valid_samples for chunk in self.chunks])
        self.lead_mask = np.concatenate([chunk.lead_mask for chunk in self.chunks])
        self.n_records = int(n_records[-1])
        self._patches = -(-self.valid_samples // patch_samples)
        kinds = np.column_stack([self.lead_mask, self._patches])
        self._kind = np.unique(kinds, axis=0, return_inverse=True)[1].ravel()

    def __len__(self) -> int:
        return len(self.owner)

    def of_record(self, record: int) -> Rows:
        """Give the numbers of a record's windows."""
        return np.arange(*np.searchsorted(self.owner, [record, record + 1]))

    def parts(self, rows: Rows, most: int) -> list[Rows]:
        """Divide windows into parts of one kind, of at most so many."""
        kinds = self._kind[rows]
        found: list[Rows] = []
        for kind in np.unique(kinds):
            same = rows[kinds == kind]
            found += [same[i : i + most] for i in range(0, len(same), most)]
        return found

    def take(self, rows: Rows, device: torch.device | None = None) -> tuple[Tensor, list[int] | None]:
        """Give windows of one kind as an encoder takes them.

        Returns
        -------
        values : Tensor of shape (B, L, T)
            As long as their signal, rounded up to whole patches.
        leads : list of int or None
            Rows that are present; None when all are.
        """
        present = self.lead_mask[rows[0]]
        n_samples = int(self._patches[rows[0]]) * self.patch_samples
        where = np.searchsorted(self._first, rows, side="right") - 1
        values = [
            self.chunks[c].values[row - self._first[c], :, :n_samples] for c, row in zip(where, rows, strict=True)
        ]
        leads = None if present.all() else np.flatnonzero(present).tolist()
        return torch.from_numpy(np.stack(values)).to(device or "cpu"), leads


def prepare_in_chunks(
    source: RecordSource,
    spec: InputSpec,
    policies: Policies,
    *,
    stride_seconds: float | None = None,
    n_jobs: int | None = None,
    title: str = "reading",
    verbose: int = 0,
) -> Iterator[tuple[list[ECGRecord], Windows]]:
    """Read and prepare records, :data:`skecg.inference.pipeline.CHUNK_RECORDS` at a time, warning once a kind at the end.

    Parameters
    ----------
    source : RecordSource
    spec : InputSpec
    policies : Policies
    stride_seconds : float, optional
        From one window of a long record to the next; the window's length when not given.
    n_jobs : int, optional
        Files read at once.
    title : str, default="reading"
        What the progress bar is called.
    verbose : int, default=0
        Whether to show it; a chunk is done when the next is asked for.

    Yields
    ------
    records : list of ECGRecord
    windows : Windows
        Of these records.

    Raises
    ------
    InputError, RecordReadError
        For the first record that cannot be used; a note says which it is.
    """
    notes: list[tuple[str, ...]] = []
    amplitudes: list[Amplitude | None] = []
    with count_progress(len(source), title, "record", verbose=verbose) as shown:
        for start in range(0, len(source), CHUNK_RECORDS):
            rows = range(start, min(start + CHUNK_RECORDS, len(source)))
            records, screenings = _read(source, rows, spec, policies, n_jobs)
            notes += [screening.notes for screening in screenings]
            amplitudes += [screening.amplitude for screening in screenings]
            yield records, prepare_screened(records, screenings, spec, stride=stride_seconds, policies=policies)
            shown.update(len(rows))
    warn_once_a_kind(notes, [f"record {row}" for row in range(len(notes))], stacklevel=user_stacklevel())
    warn_about_units(amplitudes, spec, stacklevel=user_stacklevel())


def _read(
    source: RecordSource, rows: Sequence[int], spec: InputSpec, policies: Policies, n_jobs: int | None
) -> tuple[list[ECGRecord], list[Screening]]:
    """Read some records and look them over, raising for the first that cannot be used."""
    records, screenings = [], []
    for row, record in zip(rows, source.read(rows, n_jobs), strict=True):
        try:
            if isinstance(record, SkecgError):
                raise record
            screenings.append(screen(record, spec, policies, record_label(record)))
            records.append(record)
        except SkecgError as error:
            error.add_note(f"This is record {row} of X.")
            raise
    return records, screenings


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
        See :func:`skecg.finetuning.losses.loss_of`.
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


def window_loss_of(logits_BCT: Tensor, labels_BT: Tensor) -> Tensor:
    """Add up the cross entropy of samples with a label; the others, with negative ones, count nothing."""
    return F.cross_entropy(logits_BCT, labels_BT.clamp(min=OUTSIDE), ignore_index=OUTSIDE, reduction="sum")


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
        """Give the numbers of the windows of some records in which anything is known."""
        return np.flatnonzero(np.isin(self.inputs.windows.owner, records) & (self.labels >= 0).any(axis=1))


@dataclass(frozen=True)
class WindowPart:
    """Windows of one kind, what one sample counts in the loss of their batch, and how they are seen, if otherwise."""

    rows: Rows
    weight: float
    view: View | None


@dataclass(frozen=True)
class WaveLessons:
    """What is learned from: in an epoch each window once, in any order.

    Parameters
    ----------
    windows : LabelledWindows
    rows : ndarray of int
        Those to learn from, each with a label somewhere.
    batch_size : int
        Windows in a batch.
    augment : bool
        Whether windows are seen otherwise each time, see :mod:`skecg.finetuning.sample_labels`.
    """

    windows: LabelledWindows
    rows: Rows
    batch_size: int
    augment: bool = False

    def epoch(self, rng: np.random.Generator) -> list[list[WindowPart]]:
        """Draw the order of the windows, and how they are seen."""
        order = rng.permutation(self.rows)
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        return [list(self._parts(batch, rng)) for batch in batches]

    def _parts(self, batch: Rows, rng: np.random.Generator) -> Iterator[WindowPart]:
        weight = 1 / max(1, int((self.windows.labels[batch] >= 0).sum()))
        inputs = self.windows.inputs
        for rows in inputs.windows.parts(batch, part_size(inputs.device)):
            yield WindowPart(rows, weight, draw_view(rng, inputs.windows.patch_samples) if self.augment else None)

    def loss(self, network: Network, part: WindowPart) -> Tensor:
        """Compute a part's share of the batch's mean cross entropy."""
        inputs = self.windows.inputs
        values_BLT, leads = inputs.windows.take(part.rows, inputs.device)
        labels_BT = self.windows.labels[part.rows, : values_BLT.shape[2]]
        if part.view is not None:
            patch_samples = inputs.windows.patch_samples
            labels_BT = labels_BT[:, part.view.span(labels_BT.shape[1], patch_samples)]
            values_BLT = part.view.show(values_BLT, patch_samples, self.windows.sampling_rate)
        logits_BCT = network(values_BLT, leads).float()
        return part.weight * window_loss_of(logits_BCT, torch.tensor(labels_BT, device=inputs.device).long())


def window_logits(
    network: Network, inputs: WindowInputs, rows: Rows, *, precision: str, n_jobs: int | None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Give the number and the logits (C, T) of windows, one kind after the other.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    inputs : WindowInputs
    rows : ndarray of int
    precision : {"fp32", "bf16"}
    n_jobs : int or None
    """

    def ask(part: Rows) -> NDArray[np.float32]:
        with torch.inference_mode(), autocast(inputs.device, precision):
            return inputs.outputs(network, part).float().cpu().numpy()

    parts = inputs.windows.parts(rows, part_size(inputs.device))
    with over_parts(inputs.device, n_jobs) as over:
        answers = over(ask, parts)
    for part, answer in zip(parts, answers, strict=True):
        yield from zip(part.tolist(), answer, strict=True)


def validation_f1(
    network: Network, windows: LabelledWindows, rows: Rows, *, precision: str, n_jobs: int | None
) -> float:
    """Give the mean F1 of P, QRS and T over the samples of windows."""
    confusion = sum(
        confusion_of(windows.labels[row, : logits.shape[1]], logits.argmax(axis=0))
        for row, logits in window_logits(network, windows.inputs, rows, precision=precision, n_jobs=n_jobs)
    )
    return float(f1_of_waves(np.asarray(confusion)).mean())
