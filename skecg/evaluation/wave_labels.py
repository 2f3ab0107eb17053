"""Annotated waves as labels of instants: background, P, QRS or T, or not known.

Annotators of LUDB marked the waves of each lead by themselves and left the first and last beats out. What lies outside
the first onset and the last offset of a lead is no background but not known, and so is the time between two waves where
an annotator left out the edge of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.labelled import WAVE_KINDS, Waves
from skecg.errors import LeadError, ShapeError

__all__ = ["OUTSIDE", "UNCLEAR", "WAVE_CLASSES", "Trace", "boundaries", "lead_labels", "majority_labels", "wave_traces"]

#: Classes of an instant; their numbers are its labels.
WAVE_CLASSES = ("background", *WAVE_KINDS)

#: Labels of instants that count nowhere: outside the annotated span, and beside a wave with an edge not marked.
OUTSIDE, UNCLEAR = -1, -2

# Where annotations of two waves overlap by a few samples the QRS complex is the surest, the T wave the vaguest.
_PAINTED = (WAVE_KINDS.index("T"), WAVE_KINDS.index("P"), WAVE_KINDS.index("QRS"))


@dataclass(frozen=True, eq=False)
class Trace:
    """Labels of one record, or of one of its leads, along time.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int8
        Index into :data:`WAVE_CLASSES`, :data:`OUTSIDE` or :data:`UNCLEAR`.
    sampling_rate : float
        Labels a second (Hz); the first is at 0 s.
    lead : str
        The lead that was annotated, or ``"majority"``.
    """

    labels: NDArray[np.int8]
    sampling_rate: float
    lead: str

    def at(self, seconds: NDArray[np.float64]) -> NDArray[np.int8]:
        """Give the labels at some instants, each that of the nearest sample."""
        rows = np.rint(seconds * self.sampling_rate).astype(np.int64)
        inside = (rows >= 0) & (rows < len(self.labels))
        found = np.full(len(rows), OUTSIDE, dtype=np.int8)
        found[inside] = self.labels[rows[inside]]
        return found


def lead_labels(table: NDArray[np.integer], n_samples: int | None = None) -> NDArray[np.int8]:
    """Label every sample of one lead.

    Parameters
    ----------
    table : ndarray of shape (n_waves, 4)
        Onset, peak and offset as sample numbers (-1 where none was marked) and the kind of wave, as in
        :class:`skecg.datasets.labelled.Waves`. A wave holds its onset and its offset.
    n_samples : int, optional
        Length of the lead; by default up to the last annotation.

    Returns
    -------
    ndarray of shape (n_samples,), int8

    Examples
    --------
    >>> lead_labels([[2, 3, 4, 1], [6, 7, -1, 2], [10, 10, 10, 1]], 12)
    array([-1, -1,  2,  2,  2,  0,  3,  3, -2,  0,  2, -1], dtype=int8)
    """
    waves = np.asarray(table, dtype=np.int64).reshape(-1, 4)
    length = int(waves[:, :3].max(initial=-1)) + 1 if n_samples is None else n_samples
    labels = np.full(length, OUTSIDE, dtype=np.int8)
    if not len(waves):
        return labels
    peaks = np.where(waves[:, 1] >= 0, waves[:, 1], np.maximum(waves[:, 0], waves[:, 2]))
    order = np.argsort(peaks, kind="stable")
    waves, peaks = waves[order], peaks[order]
    onsets = np.where(waves[:, 0] >= 0, waves[:, 0], peaks)
    offsets = np.where(waves[:, 2] >= 0, waves[:, 2], peaks)
    labels[onsets.min() : offsets.max() + 1] = 0
    _leave_open(labels, waves, onsets, offsets)
    for kind in _PAINTED:
        for wave in np.flatnonzero(waves[:, 3] == kind):
            labels[onsets[wave] : offsets[wave] + 1] = kind + 1
    return labels


def _leave_open(
    labels: NDArray[np.int8], waves: NDArray[np.int64], onsets: NDArray[np.int64], offsets: NDArray[np.int64]
) -> None:
    """Write UNCLEAR from edges that were not marked to the next wave, but for the sample beside a marked edge."""
    ends_before, begins_after = np.r_[-1, offsets[:-1]], np.r_[onsets[1:], len(labels)]
    for row, (onset, _, offset, _) in enumerate(waves):
        if onset < 0:
            labels[ends_before[row] + 1 : onsets[row]] = UNCLEAR
        if offset < 0:
            labels[offsets[row] + 1 : begins_after[row]] = UNCLEAR
    beside = np.r_[waves[waves[:, 0] > 0, 0] - 1, waves[(waves[:, 2] >= 0) & (waves[:, 2] < len(labels) - 1), 2] + 1]
    labels[beside[labels[beside] == UNCLEAR]] = 0


def majority_labels(labels: NDArray[np.int8]) -> NDArray[np.int8]:
    """Let leads vote at every sample.

    Parameters
    ----------
    labels : ndarray of shape (n_leads, n_samples), int8

    Returns
    -------
    ndarray of shape (n_samples,), int8
        What most leads say that know; the earlier of :data:`WAVE_CLASSES` where two are even. :data:`OUTSIDE` where not
        more than half of the leads know.
    """
    votes = np.stack([(labels == number).sum(axis=0) for number in range(len(WAVE_CLASSES))])
    return np.where(2 * votes.sum(axis=0) > len(labels), votes.argmax(axis=0), OUTSIDE).astype(np.int8)


def wave_traces(waves: Waves, target: str) -> list[Trace]:
    """Make the labels of one record.

    Parameters
    ----------
    waves : Waves
    target : str
        ``"majority"`` (one trace, the vote of the leads), the name of a lead (one trace), or ``"each"`` (one for each
        lead).

    Raises
    ------
    LeadError
        When the lead is not among those annotated.
    """
    if target not in ("majority", "each", *waves.leads):
        raise LeadError(f"Got target={target!r}, expected 'majority', 'each' or one of {', '.join(waves.leads)}.")
    n_samples = max((int(table[:, :3].max(initial=-1)) + 1 for table in waves.tables), default=0)
    labels = np.stack([lead_labels(table, n_samples) for table in waves.tables])
    if target == "majority":
        return [Trace(majority_labels(labels), waves.sampling_rate, target)]
    wanted: Sequence[str] = waves.leads if target == "each" else [target]
    return [Trace(labels[waves.leads.index(lead)], waves.sampling_rate, lead) for lead in wanted]


def boundaries(
    labels: NDArray[np.int8], sampling_rate: float, kind: int, start_seconds: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find where the waves of one kind begin and end.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int8
    sampling_rate : float
        Labels a second (Hz).
    kind : int
        Index into :data:`WAVE_CLASSES`.
    start_seconds : float, default=0.0
        Time of the first label.

    Returns
    -------
    onsets, offsets : ndarray of float64
        Times (s) of the first and the last label of each run, but for edges beside :data:`UNCLEAR` ones, which nobody
        marked.
    """
    if labels.ndim != 1:
        raise ShapeError(f"Got labels of shape {labels.shape}, expected (n_samples,).")
    around = np.r_[OUTSIDE, labels, OUTSIDE]
    is_wave = around == kind
    first = np.flatnonzero(is_wave[1:-1] & ~is_wave[:-2] & (around[:-2] != UNCLEAR))
    last = np.flatnonzero(is_wave[1:-1] & ~is_wave[2:] & (around[2:] != UNCLEAR))
    return start_seconds + first / sampling_rate, start_seconds + last / sampling_rate
