"""How well R peaks are found: the project's detector and those of the WFDB package against annotators' QRS complexes.

    python examples/benchmarks/r_peaks.py --ludb ../shared/data/ludb_500hz.npz --qtdb ../shared/data/qtdb_250hz.npz

A complex counts as found when a peak lies within 150 ms of it, one peak for one complex. LUDB's annotators marked
each lead by itself and left the first and the last beat out: a complex is what was marked in six leads or more, at
the median of its peaks, and peaks before the first and after the last mark are not judged. QTDB has some thirty
marked beats a record, not always in a row: a peak is false when it lies between two marked beats that follow each
other (no further apart than one and a half times the record's usual interval). The detectors of WFDB look at one
lead, II or the first; XQRS also at the speed of the signal in all leads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skecg.preprocessing.r_peaks import find_r_peaks

TOLERANCE_SECONDS = 0.15
QRS = 1
Samples = NDArray[np.int64]


class Annotated(NamedTuple):
    """A recording (n_leads, n_samples) in millivolts, its QRS complexes, and the stretches where all are marked."""

    signal: NDArray[np.float32]
    sampling_rate: float
    complexes: Samples
    stretches: list[tuple[float, float]]


class Score(NamedTuple):
    """Complexes that were found, that there are, peaks that were judged, and the seconds of CPU time that it took."""

    found: int
    complexes: int
    peaks: int
    seconds: float


def read_ludb(path: Path) -> Iterator[Annotated]:
    """Yield the recordings of LUDB."""
    with np.load(path, allow_pickle=False) as data:
        rate, ids, waves = float(data["fs"]), data["record_ids"], data["waves"]
        signals = data["signals"] * np.float32(data["lsb"])
    for number, signal in zip(ids, signals, strict=True):
        marks = waves[(waves[:, 0] == int(number)) & (waves[:, 2] == QRS)]
        peaks = np.sort(marks[:, 4])
        groups = np.split(peaks, np.flatnonzero(np.diff(peaks) > 0.2 * rate) + 1)
        complexes = np.array([np.median(group) for group in groups if len(group) >= 6], dtype=np.int64)
        if len(complexes):
            yield Annotated(signal, rate, complexes, [(complexes[0], complexes[-1])])


def read_qtdb(path: Path) -> Iterator[Annotated]:
    """Yield the annotated part of the recordings of QTDB, with five seconds around it."""
    with np.load(path, allow_pickle=False) as data:
        rate, waves = float(data["fs"]), data["waves"]
        signals = data["signals"] * np.float32(data["lsb"])
    for number, signal in enumerate(signals):
        marks = waves[(waves[:, 0] == number) & (waves[:, 1] == 0) & (waves[:, 2] == QRS)]
        complexes = np.sort(marks[:, 4]).astype(np.int64)
        if len(complexes) < 2:
            continue
        start, stop = max(0, complexes[0] - int(5 * rate)), complexes[-1] + int(5 * rate)
        intervals = np.diff(complexes)
        usual = intervals <= 1.5 * np.median(intervals)
        shifted = complexes - start
        stretches = [(a, b) for a, b, follows in zip(shifted[:-1], shifted[1:], usual, strict=True) if follows]
        yield Annotated(signal[:, start:stop], rate, shifted, stretches)


def matched(complexes: Samples, peaks: Samples, tolerance: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which complexes have a peak and which peaks a complex, one for one, in order."""
    has_peak, is_true = np.zeros(len(complexes), bool), np.zeros(len(peaks), bool)
    i = j = 0
    while i < len(complexes) and j < len(peaks):
        difference = peaks[j] - complexes[i]
        if abs(difference) <= tolerance:
            has_peak[i] = is_true[j] = True
        i, j = i + (difference >= -tolerance), j + (difference <= tolerance)
    return has_peak, is_true


def score(detect: Callable[[NDArray[np.float32], float], Samples], recordings: list[Annotated]) -> Score:
    """Count what a detector finds."""
    found = complexes = judged = 0
    seconds = 0.0
    for one in recordings:
        begun = time.process_time()
        peaks = np.sort(detect(one.signal, one.sampling_rate))
        seconds += time.process_time() - begun
        has_peak, is_true = matched(one.complexes, peaks, TOLERANCE_SECONDS * one.sampling_rate)
        inside = np.zeros(len(peaks), bool)
        for start, stop in one.stretches:
            inside |= (peaks > start) & (peaks < stop)
        found, complexes = found + int(has_peak.sum()), complexes + len(has_peak)
        judged += int((is_true | inside).sum())
    return Score(found, complexes, judged, seconds)


def xqrs(signal: NDArray[Any], sampling_rate: float) -> Samples:
    """Find R peaks in one signal with XQRS."""
    from wfdb.processing import XQRS

    detector = XQRS(signal, sampling_rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        detector.detect(verbose=False)
    return np.unique(np.asarray(detector.qrs_inds, dtype=np.int64))


def gqrs(signal: NDArray[Any], sampling_rate: float) -> Samples:
    """Find R peaks in one signal with GQRS."""
    from wfdb.processing import gqrs_detect

    return np.asarray(gqrs_detect(signal.astype(np.float64), sampling_rate), dtype=np.int64)


def one_lead(signal: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return lead II of twelve, or the first."""
    return np.asarray(signal[1 if len(signal) == 12 else 0], dtype=np.float64)


def speed(signal: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how fast all leads together move."""
    return np.asarray(np.linalg.norm(np.gradient(signal, axis=1), axis=0), dtype=np.float64)


DETECTORS: dict[str, Callable[[NDArray[np.float32], float], Samples]] = {
    "find_r_peaks, all leads": find_r_peaks,
    "XQRS, one lead": lambda signal, rate: xqrs(one_lead(signal), rate),
    "XQRS, speed of all leads": lambda signal, rate: xqrs(speed(signal), rate),
    "GQRS, one lead": lambda signal, rate: gqrs(one_lead(signal), rate),
}


def main() -> None:
    """Print a row for each set and detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ludb", type=Path, help="packed file of LUDB with its waves")
    parser.add_argument("--qtdb", type=Path, help="packed file of QTDB with its waves")
    given = parser.parse_args()
    print(f"{'set':<6} {'detector':<26} {'complexes':>9} {'sensitivity':>11} {'precision':>9} {'CPU s':>7}")
    for name, path, read in (("LUDB", given.ludb, read_ludb), ("QTDB", given.qtdb, read_qtdb)):
        recordings = list(read(path)) if path else []
        for detector, detect in DETECTORS.items() if recordings else ():
            result = score(detect, recordings)
            sensitivity, precision = result.found / result.complexes, result.found / max(result.peaks, 1)
            row = f"{result.complexes:>9} {sensitivity:>11.4f} {precision:>9.4f} {result.seconds:>7.2f}"
            print(f"{name:<6} {detector:<26} {row}", flush=True)


if __name__ == "__main__":
    main()
