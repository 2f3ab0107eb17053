"""P waves, QRS complexes and T waves: as annotations with onset, peak and offset, and as labels of samples.

Annotators of LUDB marked the waves of each lead by themselves and left the first and last beats out. What lies outside
the first onset and the last offset of a lead is no background but not known, and so is the time between two waves where
an annotator left out the edge of one of them.

In MIT-BIH annotation files [1] a wave is a bracket, its peak and a bracket.

References
----------
.. [1] Moody G. et al., WFDB Applications Guide, annot(5), https://www.physionet.org/physiotools/wag/annot-5.htm
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.errors import InputError, LeadError, ParameterError, ShapeError
from skecg.io.wfdb import read_annotation
from skecg.records import ECGRecord

__all__ = [
    "MARK_CODES",
    "OTHER_CODES",
    "OUTSIDE",
    "Trace",
    "UNCLEAR",
    "WAVE_CLASSES",
    "WAVE_KINDS",
    "WaveAnnotations",
    "Waves",
    "boundaries",
    "check_one_channel",
    "lead_labels",
    "majority_labels",
    "pair_marks",
    "read_wave_marks",
    "wave_traces",
    "waves_of",
]

#: What the numbers in the last column of :attr:`Waves.tables` mean.
WAVE_KINDS = ("P", "QRS", "T")

#: Classes of an instant; their numbers are its labels.
WAVE_CLASSES = ("background", *WAVE_KINDS)

#: Labels of instants that count nowhere: outside the annotated span, and beside a wave with an edge not marked.
OUTSIDE, UNCLEAR = -1, -2

# Where annotations of two waves overlap by a few samples the QRS complex is the surest, the T wave the vaguest.
_PAINTED = (WAVE_KINDS.index("T"), WAVE_KINDS.index("P"), WAVE_KINDS.index("QRS"))

#: No wave lasts less, and no pause within one.
SHORTEST_WAVE_SECONDS = 0.02

_PEAKS = {"P": "p", "QRS": "N", "T": "t"}

# Annotation codes of the format [1].
_ONSET, _OFFSET = 39, 40

_BEATS = {"N": 1, "L": 2, "R": 3, "a": 4, "V": 5, "F": 6, "J": 7, "A": 8, "S": 9, "E": 10, "j": 11, "/": 12, "Q": 13,
          "B": 25, "?": 30, "e": 34, "n": 35, "f": 38, "r": 41}  # fmt: skip

# The peak of a QRS complex is marked by what beat it is of.
_KIND_OF_PEAK = {24: 0, **dict.fromkeys(_BEATS.values(), 1), 27: 2}

#: What marks waves: the symbols of wfdb and their codes in files.
MARK_CODES = {"(": _ONSET, ")": _OFFSET, "p": 24, "t": 27, **_BEATS}
#: U waves, blocked P waves, flutter waves and artifacts: none of the kinds here, though with edges of their own.
OTHER_CODES = {"u": 29, "x": 37, "!": 31, "|": 16}
_WAVE_CODES, _PAIRED_CODES = frozenset(MARK_CODES.values()), frozenset((MARK_CODES | OTHER_CODES).values())


@dataclass(frozen=True, eq=False)
class Waves:
    """Waves that annotators marked in one recording.

    Parameters
    ----------
    sampling_rate : float
        Samples a second (Hz) that the sample numbers count; that of the recording.
    leads : tuple of str
        Canonical names, in the order of the recording's leads.
    tables : tuple of ndarray of shape (n_waves, 4), int64
        One for each lead, by onset: onset, peak and offset as sample numbers from 0 (the last sample of the wave is its
        offset; -1 where none was marked), and the kind of wave, an index into :data:`WAVE_KINDS`.
    """

    sampling_rate: float
    leads: tuple[str, ...]
    tables: tuple[NDArray[np.int64], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", tuple(map(_as_wave_table, self.tables)))
        if len(self.tables) != len(self.leads):
            raise ShapeError(f"Got {len(self.tables)} tables for {len(self.leads)} leads, expected one for each.")


def _as_wave_table(table: ArrayLike) -> NDArray[np.int64]:
    """Check waves (n_waves, 4): a table of three columns, of seconds or of labels would mean others in silence."""
    given = np.asarray(table)
    if given.size == 0:
        return np.empty((0, 4), dtype=np.int64)
    if given.ndim != 2 or given.shape[1] != 4:
        raise ShapeError(f"Got waves of shape {given.shape}, expected (n_waves, 4): onset, peak, offset and kind.")
    if (
        given.dtype.kind not in "iuf"
        or not np.isfinite(given).all()
        or (given % 1 != 0).any()
        or given[:, :3].min() < -1
    ):
        raise ParameterError(
            "Got waves at other places than whole samples, expected their numbers from 0, -1 for none."
        )
    if not np.isin(given[:, 3], range(len(WAVE_KINDS))).all():
        raise ParameterError(
            f"Got waves of the kinds {np.unique(given[:, 3]).tolist()}, expected 0 (P), 1 (QRS) and 2 (T)."
        )
    return given.astype(np.int64)


@dataclass(frozen=True, eq=False)
class WaveAnnotations:
    """The waves of one record. It has the attributes of a ``wfdb.Annotation`` that matter, and makes one.

    Parameters
    ----------
    table : ndarray of shape (n_waves, 4), int64
        By onset: onset, peak and offset as sample numbers of the record from 0 (the last sample of the wave is its
        offset; -1 where not marked), and the kind of wave, an index into :data:`skecg.datasets.WAVE_KINDS`.
    sampling_rate : float
        Of the record (Hz).
    record_name : str, default=""

    Examples
    --------
    >>> waves = WaveAnnotations([[10, 15, 20, 0], [40, 44, 50, 1]], 500.0)
    >>> waves.sample.tolist(), "".join(waves.symbol)
    ([10, 15, 20, 40, 44, 50], '(p)(N)')
    """

    table: NDArray[np.int64]
    sampling_rate: float
    record_name: str = ""

    def __post_init__(self) -> None:
        table = _as_wave_table(self.table)
        marked = np.where(table[:, :3] < 0, table[:, 1:2], table[:, :3])  # an edge that is not marked breaks no order
        ends = np.diff(table[:, [0, 2]], axis=1)[:, 0] < 0
        disorder = np.where(table[:, 1] >= 0, (np.diff(marked, axis=1) < 0).any(axis=1), ends & (table[:, 2] >= 0))
        wrong = np.flatnonzero(disorder)
        if len(wrong):
            raise ParameterError(
                f"Got the wave {table[wrong[0]].tolist()}, expected onset, peak and offset in this order."
            )
        object.__setattr__(self, "table", table)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        counts = np.bincount(self.table[:, 3], minlength=len(WAVE_KINDS))
        waves = ", ".join(f"{count} {kind}" for count, kind in zip(counts, WAVE_KINDS, strict=True))
        return f"WaveAnnotations({self.record_name!r}: {waves}, {self.sampling_rate:g} Hz)"

    @property
    def sample(self) -> NDArray[np.int64]:
        """Sample numbers of onsets, peaks and offsets, wave after wave, without what is not marked."""
        return self.table[:, :3][self.table[:, :3] >= 0]

    @property
    def symbol(self) -> list[str]:
        """WFDB's symbols: ``"("``, ``"p"``, ``"N"`` (QRS) or ``"t"``, and ``")"``, as far as they are marked."""
        symbols = np.array([("(", _PEAKS[WAVE_KINDS[kind]], ")") for kind in self.table[:, 3]]).reshape(-1, 3)
        marked: list[str] = symbols[self.table[:, :3] >= 0].tolist()
        return marked

    @property
    def fs(self) -> float:
        """Samples a second (Hz), by wfdb's name."""
        return self.sampling_rate

    def seconds(self) -> NDArray[np.float64]:
        """Return onset, peak and offset of each wave in seconds, (n_waves, 3); NaN where not marked."""
        samples = self.table[:, :3]
        return np.where(samples >= 0, samples, np.nan) / self.sampling_rate

    def to_wfdb(self, annotator: str = "waves") -> Any:
        """Build a ``wfdb.Annotation``."""
        from skecg.io.wfdb import make_annotation

        return make_annotation(self.record_name, annotator, self.sample, self.symbol, self.sampling_rate)

    def write(self, path: str | Path) -> None:
        """Write a WFDB file of annotations.

        Parameters
        ----------
        path : str or Path
            The record's name with the annotator, letters only, as its suffix: ``"patient7.waves"``, which
            ``wfdb.rdann("patient7", "waves")`` reads. Its folder is created when absent; a file of that name is
            replaced.

        Raises
        ------
        ParameterError
            When WFDB allows no such name, there are no waves, they overlap, or one has no peak.
        """
        if (self.table[:, 1] < 0).any():
            raise ParameterError("Got a wave without a peak, expected one for each: files of annotations go by peaks.")
        from skecg.io.wfdb import write_annotation

        write_annotation(Path(path), self.sample, self.symbol, self.sampling_rate)


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
        """Return the labels at these instants, each that of the nearest sample."""
        rows = np.rint(seconds * self.sampling_rate).astype(np.int64)
        inside = (rows >= 0) & (rows < len(self.labels))
        labels = np.full(len(rows), OUTSIDE, dtype=np.int8)
        labels[inside] = self.labels[rows[inside]]
        return labels


def lead_labels(table: NDArray[np.integer], n_samples: int | None = None) -> NDArray[np.int8]:
    """Label every sample of one lead.

    Parameters
    ----------
    table : ndarray of shape (n_waves, 4)
        Onset, peak and offset as sample numbers (-1 where none was marked) and the kind of wave, as in
        :class:`skecg.annotations.Waves`. A wave holds its onset and its offset.
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
    # Unknown, not background: annotators of LUDB left out the first and the last beats.
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
    """Return what most leads say of every sample.

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
    # Most leads have to know the sample at all, or a few annotated ones would speak for twelve.
    return np.where(2 * votes.sum(axis=0) > len(labels), votes.argmax(axis=0), OUTSIDE).astype(np.int8)


def wave_traces(waves: Waves, target: str) -> list[Trace]:
    """Build the labels of one record.

    Parameters
    ----------
    waves : Waves
    target : str
        ``"majority"`` (one trace, the vote of the leads), the name of a lead (one trace), or ``"each"`` (one for each
        lead).

    Raises
    ------
    LeadError
        When the lead is not among those annotated, or there are none.
    """
    if not waves.leads:
        raise LeadError("Got waves of no lead, expected those of one or more.")
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


def waves_of(labels: NDArray[np.int8], record: ECGRecord) -> WaveAnnotations:
    """Find waves in the labels of a record's samples, as :meth:`skecg.Segmenter.annotate` does.

    A pause of less than 20 ms within a wave is closed, and what then is shorter than that is no wave. The peak is where
    the record is farthest from the straight line between onset and offset, all leads together (root of the sum of
    squares).

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int8
        Index into :data:`skecg.annotations.WAVE_CLASSES`.
    record : ECGRecord

    Returns
    -------
    WaveAnnotations
    """
    shortest = SHORTEST_WAVE_SECONDS * record.sampling_rate
    long_enough = [run for run in _joined(_runs(labels), shortest) if run[1] - run[0] + 1 >= shortest]
    # Joined once more, for a false wave between two halves of a true one is gone by now.
    runs = _joined(long_enough, shortest)
    rows = [[first, _peak(record.signal, first, last), last, label - 1] for first, last, label in runs]
    return WaveAnnotations(np.array(rows, dtype=np.int64), record.sampling_rate, record.name)


def _runs(labels: NDArray[np.int8]) -> list[tuple[int, int, int]]:
    """List the stretches of one wave: first sample, last sample, label."""
    edges = np.flatnonzero(np.diff(labels)) + 1
    firsts, lasts = np.r_[0, edges], np.r_[edges - 1, len(labels) - 1]
    return [
        (int(first), int(last), int(labels[first]))
        for first, last in zip(firsts, lasts, strict=True)
        if labels[first] > 0
    ]


def _joined(runs: list[tuple[int, int, int]], shortest: float) -> list[tuple[int, int, int]]:
    """Join neighbours of one kind with less than so many samples between them."""
    joined: list[tuple[int, int, int]] = []
    for first, last, label in runs:
        if joined and joined[-1][2] == label and first - joined[-1][1] - 1 < shortest:
            joined[-1] = joined[-1][0], last, label
        else:
            joined.append((first, last, label))
    return joined


def _peak(signal: NDArray[np.float32], first: int, last: int) -> int:
    """Find where a stretch of a signal (n_leads, n_samples) is farthest from the line between its ends."""
    wave = _bridged(signal[:, first : last + 1])
    # From a line and not from zero: a wave on a wandering baseline has its peak where it should be.
    line = np.linspace(wave[:, 0], wave[:, -1], wave.shape[1], axis=1)
    return first + int(np.square(wave - line).sum(axis=0).argmax())


def _bridged(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put lines into gaps, on which no peak can lie; a lead without a sample is level."""
    if not np.isnan(wave).any():
        return wave
    place, kept = np.arange(wave.shape[1]), ~np.isnan(wave)
    whole = [np.interp(place, place[k], lead[k]) if k.any() else 0 * place for lead, k in zip(wave, kept, strict=True)]
    return np.array(whole, dtype=np.float32)


def read_wave_marks(path: Path, sampling_rate: float | None = None) -> NDArray[np.int64]:
    """Read the waves of one lead.

    Parameters
    ----------
    path : Path
        A file of annotations.
    sampling_rate : float, optional
        The rate (Hz) that its sample numbers are to count.

    Returns
    -------
    ndarray of shape (n_waves, 4), int64
        Onset, peak, offset (sample numbers from 0, -1 where not marked) and kind of wave, in the order of time.

    Raises
    ------
    RecordNotFoundError
        When there is no such file.
    DamagedRecordError
        When it ends in the middle of an annotation.
    InputError
        When it says another rate, or has waves in several channels.
    """
    marks, channels, stated = read_annotation(path)
    # 1e-6, for headers write rates with few digits.
    if sampling_rate is not None and stated is not None and abs(stated / sampling_rate - 1) > 1e-6:
        raise InputError(
            f"Got {path}, whose sample numbers are at {stated:g} Hz, for a record at {sampling_rate:g} Hz; expected "
            "sample numbers at the record's own rate."
        )
    check_one_channel([channels[place] for place, (_, code) in enumerate(marks) if code in _WAVE_CODES], path)
    return pair_marks(marks)


def check_one_channel(channels: Iterable[int], where: object) -> None:
    """Raise for marks of several channels: of each by itself, their edges lie among each other's waves."""
    if len(found := sorted(set(channels))) > 1:
        raise InputError(
            f"Got waves of the channels {', '.join(map(str, found))} in {where}, expected those of one. Pass the marks "
            "of one channel, or a Waves with a table for each lead."
        )


def pair_marks(marks: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Build waves of (sample, code) in the order of time: a bracket belongs to the peak right beside it.

    Marks of rhythm or noise are passed over; U waves and artifacts, which are none here, keep the brackets beside them.
    """
    waves, marks = [], [mark for mark in marks if mark[1] in _PAIRED_CODES]
    for position, (sample, code) in enumerate(marks):
        if code in _KIND_OF_PEAK:
            before = marks[position - 1] if position else (-1, -1)
            after = marks[position + 1] if position + 1 < len(marks) else (-1, -1)
            # Only the mark right beside a peak is its edge: annotators leave edges out.
            onset = before[0] if before[1] == _ONSET else -1
            offset = after[0] if after[1] == _OFFSET else -1
            waves.append((onset, sample, offset, _KIND_OF_PEAK[code]))
    return np.array(waves, dtype=np.int64).reshape(-1, 4)
