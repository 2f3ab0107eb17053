"""What is known of a record's waves, however it is said, as a label for each of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.labelled import Waves
from skecg.datasets.wave_marks import MARK_CODES, pair_marks, read_wave_marks
from skecg.errors import InputError, LeadError, ShapeError
from skecg.evaluation.wave_labels import UNCLEAR, WAVE_CLASSES, lead_labels, majority_labels
from skecg.leads import canonical_lead
from skecg.records import ECGRecord
from skecg.segmenting.annotations import WaveAnnotations

__all__ = ["MAJORITY", "check_tracks", "read_track"]

#: What is asked for when the labels of several leads are to become one track by vote.
MAJORITY = "majority"


def check_tracks(y: Any, n_records: int) -> Sequence[Any]:
    """Refuse a `y` that is not a sequence with an entry for each record."""
    if y is None:
        raise InputError(
            "This Segmenter requires y to be passed, but the target y is None. Pass an array of labels for each record."
        )
    try:
        n_found = len(y)
    except TypeError as error:
        raise ShapeError(
            f"Got y of type {type(y).__name__}, expected a sequence with an array of labels for each record."
        ) from error
    if n_found != n_records:
        raise ShapeError(f"Got y of {n_found} entries for {n_records} records, expected one for each.")
    entries: Sequence[Any] = list(y) if hasattr(y, "to_numpy") else y
    return entries


def read_track(item: Any, record: ECGRecord, target: str, row: int) -> NDArray[np.int8]:
    """Label every sample of a record.

    Parameters
    ----------
    item : array-like, Waves, WaveAnnotations, object with ``sample`` and ``symbol``, or path
        Labels (n_samples,) or (n_leads, n_samples), or marks of waves.
    record : ECGRecord
    target : str
        What becomes of the labels of several leads: ``"majority"``, or the name of the lead that counts.
    row : int
        Number of the record, for messages.

    Returns
    -------
    ndarray of shape (n_samples,), int8
        Index into :data:`skecg.evaluation.wave_labels.WAVE_CLASSES`, negative where nothing is known.

    Raises
    ------
    InputError
        When the labels are not those of the record, or none at all.
    RecordReadError
        When a file of annotations cannot be read.
    """
    where = f"y[{row}]"
    if isinstance(item, Waves):
        return _one(*_of_waves(item, record, where), target, where)
    if isinstance(item, WaveAnnotations):
        _check_rate(item.sampling_rate, record, where)
        return _of_table(item.table, record, where)
    if isinstance(item, str | Path):
        return _of_table(read_wave_marks(Path(item)), record, where)
    if hasattr(item, "sample") and hasattr(item, "symbol"):
        if getattr(item, "fs", None):
            _check_rate(float(item.fs), record, where)
        return _of_table(pair_marks(_marks(item)), record, where)
    labels = _of_array(item, record, where)
    return labels if labels.ndim == 1 else _one(labels, record.leads, target, where)


def _of_waves(waves: Waves, record: ECGRecord, where: str) -> tuple[NDArray[np.int8], tuple[str, ...]]:
    _check_rate(waves.sampling_rate, record, where)
    return np.stack([_of_table(table, record, where) for table in waves.tables]), waves.leads


def _marks(annotation: Any) -> list[tuple[int, int]]:
    """Give (sample, code) of what marks waves, leaving other annotations out."""
    pairs = zip(annotation.sample, annotation.symbol, strict=True)
    return [(int(sample), MARK_CODES[symbol]) for sample, symbol in pairs if symbol in MARK_CODES]


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
        array = np.asarray(item)
    except ValueError as error:
        raise ShapeError(f"Got {where} ragged, expected labels (n_samples,) or (n_leads, n_samples).") from error
    wanted = f"expected ({record.n_samples},) or {record.signal.shape}: a label for each sample of the record"
    if array.shape not in ((record.n_samples,), record.signal.shape):
        raise ShapeError(f"Got {where} of shape {array.shape}, {wanted}.")
    if array.dtype.kind not in "iu" or array.min() < UNCLEAR or array.max() >= len(WAVE_CLASSES):
        meanings = ", ".join(f"{number} {name}" for number, name in enumerate(WAVE_CLASSES))
        raise InputError(
            f"Got {where} of dtype {array.dtype} with values such as {array.flat[0]} and {array.max()}, expected "
            f"integers: {meanings}, and -1 where nothing is known."
        )
    labels: NDArray[np.int8] = array.astype(np.int8)
    return labels


def _one(labels: NDArray[np.int8], leads: Sequence[str], target: str, where: str) -> NDArray[np.int8]:
    """Make one track of those of several leads."""
    if target == MAJORITY:
        return majority_labels(labels)
    lead = canonical_lead(target)
    if lead not in leads:
        raise LeadError(f"Got {where} with labels of {', '.join(leads)}, expected also target={target!r}.")
    return labels[list(leads).index(lead)]


def _check_rate(rate: float, record: ECGRecord, where: str) -> None:
    if abs(rate - record.sampling_rate) > 1e-6 * rate:
        raise InputError(
            f"Got {where} at {rate:g} Hz for a record at {record.sampling_rate:g} Hz, expected sample numbers at the "
            "record's own rate."
        )
