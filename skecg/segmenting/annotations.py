"""Labels of samples to waves with an onset, a peak and an offset, and these to WFDB annotations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.labelled import WAVE_KINDS
from skecg.records import ECGRecord

__all__ = ["WaveAnnotations", "waves_of"]

#: No wave lasts less, and no pause within one.
SHORTEST_WAVE_SECONDS = 0.02

_PEAKS = {"P": "p", "QRS": "N", "T": "t"}


@dataclass(frozen=True, eq=False)
class WaveAnnotations:
    """The waves of one record. It has the attributes of a ``wfdb.Annotation`` that matter, and makes one.

    Parameters
    ----------
    table : ndarray of shape (n_waves, 4), int64
        By onset: onset, peak and offset as sample numbers of the record from 0 (the last sample of the wave is its
        offset), and the kind of wave, an index into :data:`skecg.datasets.WAVE_KINDS`.
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
        object.__setattr__(self, "table", np.asarray(self.table, dtype=np.int64).reshape(-1, 4))

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        counts = np.bincount(self.table[:, 3], minlength=len(WAVE_KINDS))
        waves = ", ".join(f"{count} {kind}" for count, kind in zip(counts, WAVE_KINDS, strict=True))
        return f"WaveAnnotations({self.record_name!r}: {waves}, {self.sampling_rate:g} Hz)"

    @property
    def sample(self) -> NDArray[np.int64]:
        """Sample numbers of onsets, peaks and offsets, wave after wave."""
        return self.table[:, :3].ravel()

    @property
    def symbol(self) -> list[str]:
        """WFDB's symbols: ``"("``, ``"p"``, ``"N"`` (QRS) or ``"t"``, and ``")"`` of each wave."""
        return [symbol for kind in self.table[:, 3] for symbol in ("(", _PEAKS[WAVE_KINDS[kind]], ")")]

    @property
    def fs(self) -> float:
        """Samples a second (Hz), by wfdb's name."""
        return self.sampling_rate

    def seconds(self) -> NDArray[np.float64]:
        """Give onset, peak and offset of each wave in seconds, (n_waves, 3)."""
        return self.table[:, :3] / self.sampling_rate

    def to_wfdb(self, annotator: str = "waves") -> Any:
        """Make a ``wfdb.Annotation``."""
        from skecg.io.wfdb_annotations import make_annotation

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
            When WFDB allows no such name, or there are no waves.
        """
        from skecg.io.wfdb_annotations import write_annotation

        write_annotation(Path(path), self.sample, self.symbol, self.sampling_rate)


def waves_of(labels: NDArray[np.int8], record: ECGRecord) -> WaveAnnotations:
    """Find waves in the labels of a record's samples, as :meth:`skecg.Segmenter.annotate` does.

    A pause of less than 20 ms within a wave is closed, and what then is shorter than that is no wave. The peak is where
    the record is farthest from the straight line between onset and offset, all leads together (root of the sum of
    squares).

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int8
        Index into :data:`skecg.evaluation.wave_labels.WAVE_CLASSES`.
    record : ECGRecord

    Returns
    -------
    WaveAnnotations
    """
    shortest = SHORTEST_WAVE_SECONDS * record.sampling_rate
    signal = np.nan_to_num(record.signal)
    long_enough = [run for run in _joined(_runs(labels), shortest) if run[1] - run[0] + 1 >= shortest]
    runs = _joined(long_enough, shortest)
    rows = [[first, _peak(signal, first, last), last, label - 1] for first, last, label in runs]
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
    wave = signal[:, first : last + 1]
    line = np.linspace(wave[:, 0], wave[:, -1], wave.shape[1], axis=1)
    return first + int(np.square(wave - line).sum(axis=0).argmax())
