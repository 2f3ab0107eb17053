"""Labels of samples: read in whatever form users have them, cut into windows, stitched together again, and augmented.

Shapes: B windows, L leads, C classes, T samples of a window, S samples of a record at the encoder's rate, n samples at
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.annotations import (
    MARK_CODES,
    OTHER_CODES,
    OUTSIDE,
    UNCLEAR,
    WAVE_CLASSES,
    WaveAnnotations,
    Waves,
    check_one_channel,
    lead_labels,
    majority_labels,
    pair_marks,
    read_wave_marks,
)
from skecg.errors import InputError, LeadError, ShapeError
from skecg.leads import canonical_lead
from skecg.preprocessing.windows import Windows, prepared_rate
from skecg.records import ECGRecord

__all__ = [
    "MAJORITY",
    "View",
    "at_own_rate",
    "check_sample_labels",
    "draw_view",
    "label_windows",
    "read_sample_labels",
    "stitch",
    "window_labels",
]

#: The `target` that makes the labels of several leads one by vote.
MAJORITY = "majority"

Logits = NDArray[np.float32]

# Spread of the logarithm of the gain; wandering in units of the input (0.2 mV each, where it is in such) and in Hz.
_GAIN_SPREAD = 0.2
_WANDER, _WANDER_HZ = 0.3, (0.1, 0.5)


def check_sample_labels(y: Any, n_records: int) -> Sequence[Any]:
    """Return `y` as a sequence with an entry for each record, or raise."""
    if y is None:
        raise InputError(
            "This Segmenter requires y to be passed, but the target y is None. Pass an array of labels for each record."
        )
    try:
        entries: Sequence[Any] = list(y) if hasattr(y, "to_numpy") else y
        # Slices are what is taken of it: sets, mappings and generators have none, columns of a frame are no records.
        n_entries, _ = len(entries), entries[:0]
    except (TypeError, KeyError) as error:
        raise _no_sequence(y) from error
    if isinstance(y, str | bytes) or hasattr(y, "columns"):
        raise _no_sequence(y)
    if n_entries != n_records:
        raise ShapeError(f"Got y of {n_entries} entries for {n_records} records, expected one for each.")
    # Other sequences may read their entries from files, each when it is asked for.
    for row, item in enumerate(entries if isinstance(entries, list | tuple | np.ndarray) else ()):
        if isinstance(item, list | tuple | np.ndarray) and len(item):
            _check_integers(np.asarray(item[:1]) if isinstance(item, list | tuple) else item, f"y[{row}]")
    return entries


def _no_sequence(y: Any) -> ShapeError:
    return ShapeError(
        f"Got y of type {type(y).__name__}, expected a sequence with an array of labels for each record. Pass a list."
    )


def _check_integers(array: NDArray[Any], where: str) -> None:
    """Raise for labels that are no integers, before their record is read."""
    if array.dtype.kind not in "iu":
        raise _no_labels(f"Got {where} of dtype {array.dtype} with values such as {array.flat[0]}")


def _no_labels(found: str) -> InputError:
    meanings = ", ".join(f"{number} {name}" for number, name in enumerate(WAVE_CLASSES))
    return InputError(f"{found}, expected integers: {meanings}, and -1 where nothing is known.")


def read_sample_labels(item: Any, record: ECGRecord, target: str, row: int) -> NDArray[np.int8]:
    """Label every sample of a record.

    Parameters
    ----------
    item : array-like, Waves, WaveAnnotations, object with ``sample`` and ``symbol``, or path
        Labels (n_samples,) or (n_leads, n_samples), unknown where they are masked, or marks of waves.
    record : ECGRecord
    target : str
        What becomes of the labels of several leads: ``"majority"``, or the name of the lead that counts.
    row : int
        Number of the record, for messages.

    Returns
    -------
    ndarray of shape (n_samples,), int8
        Index into :data:`skecg.annotations.WAVE_CLASSES`, negative where nothing is known.

    Raises
    ------
    InputError
        When the labels are not those of the record, or none at all.
    RecordReadError
        When a file of annotations cannot be read.
    """
    where = f"y[{row}]"
    if isinstance(item, Waves):
        return _one_of_leads(*_of_waves(item, record, where), target, where)
    if isinstance(item, WaveAnnotations):
        _check_rate(item.sampling_rate, record, where)
        return _of_table(item.table, record, where)
    if isinstance(item, str | Path):
        return _of_table(read_wave_marks(Path(item), record.sampling_rate), record, where)
    if hasattr(item, "sample") and hasattr(item, "symbol"):
        if getattr(item, "fs", None):
            _check_rate(float(item.fs), record, where)
        marks, channels = _marks(item)
        check_one_channel(channels, where)
        return _of_table(pair_marks(marks), record, where)
    labels = _of_array(item, record, where)
    return labels if labels.ndim == 1 else _one_of_leads(labels, record.leads, target, where)


def _of_waves(waves: Waves, record: ECGRecord, where: str) -> tuple[NDArray[np.int8], tuple[str, ...]]:
    if not waves.leads:
        raise LeadError(f"Got {where} with waves of no lead, expected those of one or more.")
    _check_rate(waves.sampling_rate, record, where)
    return np.stack([_of_table(table, record, where) for table in waves.tables]), waves.leads


def _marks(annotation: Any) -> tuple[list[tuple[int, int]], list[int]]:
    """Return (sample, code) of what marks waves, also such as have no label, and the channels of those that have."""
    chan = getattr(annotation, "chan", None)
    channels = [0] * len(annotation.sample) if chan is None else list(chan)
    found = [
        (int(sample), symbol, int(channel))
        for sample, symbol, channel in zip(annotation.sample, annotation.symbol, channels, strict=True)
    ]
    codes = MARK_CODES | OTHER_CODES
    marks = [(sample, codes[symbol]) for sample, symbol, _ in found if symbol in codes]
    return marks, [channel for _, symbol, channel in found if symbol in MARK_CODES]


def _of_table(table: NDArray[np.int64], record: ECGRecord, where: str) -> NDArray[np.int8]:
    first, last = int(np.min(table[:, :3], initial=-1)), int(np.max(table[:, :3], initial=-1))
    if first < -1 or last >= record.n_samples:
        raise InputError(
            f"Got {where} with a wave at sample {first if first < -1 else last}, but the record has "
            f"{record.n_samples}; expected annotations of this record, in samples of its own rate."
        )
    return lead_labels(table, record.n_samples)


def _of_array(item: Any, record: ECGRecord, where: str) -> NDArray[np.int8]:
    try:
        if np.ma.is_masked(item):
            item = np.ma.filled(item.astype(np.result_type(item.dtype, np.int8)), OUTSIDE)
        array = np.asarray(item)
    except ValueError as error:
        raise ShapeError(f"Got {where} ragged, expected labels (n_samples,) or (n_leads, n_samples).") from error
    wanted = f"expected ({record.n_samples},) or {record.signal.shape}: a label for each sample of the record"
    if array.shape not in ((record.n_samples,), record.signal.shape):
        raise ShapeError(f"Got {where} of shape {array.shape}, {wanted}.")
    _check_integers(array, where)
    if array.min() < UNCLEAR or array.max() >= len(WAVE_CLASSES):
        raise _no_labels(f"Got {where} with values from {array.min()} to {array.max()}")
    labels: NDArray[np.int8] = array.astype(np.int8)
    return labels


def _one_of_leads(labels: NDArray[np.int8], leads: Sequence[str], target: str, where: str) -> NDArray[np.int8]:
    """Make labels of several leads one, by vote or by the lead that counts."""
    if target == MAJORITY:
        return majority_labels(labels)
    lead = canonical_lead(target)
    if lead not in leads:
        raise LeadError(f"Got {where} with labels of {', '.join(leads)}, expected also target={target!r}.")
    return labels[list(leads).index(lead)]


def _check_rate(rate: float, record: ECGRecord, where: str) -> None:
    # Annotations at another rate would lie plausibly and wrong; 1e-6, for headers write rates with few digits.
    if abs(rate - record.sampling_rate) > 1e-6 * rate:
        raise InputError(
            f"Got {where} at {rate:g} Hz for a record at {record.sampling_rate:g} Hz, expected sample numbers at the "
            "record's own rate."
        )


def window_labels(
    labels: NDArray[np.int8], sampling_rate: float, encoder_rate: float, start: int, n_valid: int, n_samples: int
) -> NDArray[np.int8]:
    """Return the labels of a window's samples, each that of the nearest sample of the record.

    Parameters
    ----------
    labels : ndarray of shape (n,), int8
        Of the record, at its own rate.
    sampling_rate, encoder_rate : float
        Hz.
    start, n_valid : int
        First sample of the window in the record, and how many are signal, at the encoder's rate.
    n_samples : int
        T, the length of the window; what is no signal has no label.

    Returns
    -------
    ndarray of shape (T,), int8
    """
    in_window = np.full(n_samples, OUTSIDE, dtype=np.int8)
    nearest = np.rint((start + np.arange(n_valid)) * (sampling_rate / encoder_rate)).astype(np.int64)
    in_window[:n_valid] = labels[np.minimum(nearest, len(labels) - 1)]
    return in_window


def stitch(logits: Sequence[Logits], starts: Sequence[int]) -> Logits:
    """Join the windows of a record, averaging where they overlap.

    A sample counts the less the nearer it is to an edge of its window, beyond which the encoder saw nothing: weights
    rise evenly from the edges to the middle, so that one window takes over from the other without a step.

    Parameters
    ----------
    logits : sequence of ndarray of shape (C, T), float32
        Of the signal in each window, without padding. Together they cover the record.
    starts : sequence of int
        First sample of each in the record.

    Returns
    -------
    ndarray of shape (C, S), float32
    """
    if len(logits) == 1:
        return logits[0]
    length = max(start + part.shape[1] for start, part in zip(starts, logits, strict=True))
    total, weights = np.zeros((len(logits[0]), length), dtype=np.float64), np.zeros(length)
    for start, part in zip(starts, logits, strict=True):
        sample = np.arange(part.shape[1])
        # Half a sample more, so that no weight is zero and the sum is safe to divide by.
        weight = np.minimum(sample + 0.5, part.shape[1] - sample - 0.5)
        total[:, start : start + part.shape[1]] += weight * part
        weights[start : start + part.shape[1]] += weight
    return (total / weights).astype(np.float32)


def at_own_rate(logits: Logits, encoder_rate: float, sampling_rate: float, n_samples: int) -> Logits:
    """Interpolate logits (C, S) of the encoder's samples, on straight lines, at those of the record itself, (C, n)."""
    if encoder_rate == sampling_rate and logits.shape[1] == n_samples:
        return logits
    wanted = np.arange(n_samples) * (encoder_rate / sampling_rate)
    known = np.arange(logits.shape[1])
    # Logits and not classes: the border of a wave then falls between two samples of the encoder.
    return np.stack([np.interp(wanted, known, row) for row in logits]).astype(np.float32)


def label_windows(
    records: Sequence[ECGRecord], windows: Windows, items: Sequence[Any], target: str, first_row: int
) -> NDArray[np.int8]:
    """Label the samples of windows.

    Parameters
    ----------
    records : sequence of ECGRecord
    windows : Windows
        Of these records.
    items : sequence
        What is known of each record, see :func:`skecg.finetuning.sample_labels.read_sample_labels`.
    target : str
    first_row : int
        Number of the first of these records in all.

    Returns
    -------
    ndarray of shape (n_windows, window_samples), int8
    """
    spec = windows.spec
    of_records = [read_sample_labels(item, records[i], target, first_row + i) for i, item in enumerate(items)]
    rates = [prepared_rate(record, spec) for record in records]
    return np.stack(
        [
            window_labels(
                of_records[owner], records[owner].sampling_rate, rates[owner], start, n_valid, spec.window_samples
            )
            for owner, start, n_valid in zip(
                windows.owner.tolist(), windows.start_samples.tolist(), windows.valid_samples.tolist(), strict=True
            )
        ]
    )


@dataclass(frozen=True)
class View:
    """How windows are augmented: their waves stay where they are, but nothing else is to be relied on.

    Parameters
    ----------
    shift : int
        Samples by which the first slice of time begins later, less than a slice.
    seed : int
        Decides the rest.
    """

    shift: int
    seed: int

    def apply(self, values_BLT: Tensor, patch_samples: int, sampling_rate: float) -> Tensor:
        """Return windows one slice of time shorter, larger or smaller, and wandering; absent leads stay zeros."""
        rng = np.random.default_rng(self.seed)
        values_BLT = values_BLT[:, :, self.span(values_BLT.shape[2], patch_samples)]
        n_windows, n_leads, n_samples = values_BLT.shape
        gain = np.exp(rng.normal(0.0, _GAIN_SPREAD, (n_windows, 1, 1)))
        # Breathing has one rate in all leads, and in each another phase.
        hertz, phase = rng.uniform(*_WANDER_HZ, (n_windows, 1, 1)), rng.uniform(0, 2 * np.pi, (n_windows, n_leads, 1))
        size = rng.exponential(_WANDER, (n_windows, n_leads, 1))
        wander = size * np.sin(2 * np.pi * hertz * np.arange(n_samples) / sampling_rate + phase)
        present = (values_BLT != 0).any(dim=2, keepdim=True)
        return (values_BLT * _like(gain, values_BLT) + _like(wander, values_BLT) * present).contiguous()

    def span(self, n_samples: int, patch_samples: int) -> slice:
        """Return which samples of a window are kept: whole slices of time, all where there is only one."""
        if n_samples <= patch_samples:
            return slice(0, n_samples)
        return slice(self.shift, self.shift + n_samples - patch_samples)


def _like(array: NDArray[np.float64], values: Tensor) -> Tensor:
    return torch.from_numpy(array.astype(np.float32)).to(values.device)


def draw_view(rng: np.random.Generator, patch_samples: int) -> View:
    """Draw how windows are augmented."""
    # A seed instead of arrays: micro-batches of threads then draw the same whatever runs first.
    return View(int(rng.integers(patch_samples)), int(rng.integers(2**63)))
