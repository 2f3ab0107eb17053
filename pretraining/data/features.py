"""What a recording and its beats are like, in raw numbers that need no label: shapes and intervals.

R peaks are found by :mod:`skecg.preprocessing.r_peaks`; there is one cutter of windows around them.

Shapes: n recordings, L leads, T samples, K beats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.data.scaling import Kind
from skecg.evaluation.baselines import hand_crafted_features
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS
from skecg.preprocessing.r_peaks import find_r_peaks, r_peaks_of_each

__all__ = [
    "BEAT_KINDS",
    "N_RHYTHM",
    "RECORD_KINDS",
    "beat_features",
    "describe_beats",
    "describe_record",
]

FloatArray = NDArray[np.float32]

# Beats are sampled every 16 ms: finer than any wave, whatever the rate of the shards is. Their baseline is the mean of
# the first 80 ms.
_STEP_SECONDS, _N_BASELINE = 0.016, 5
_MEDIAN_BEFORE_SECONDS, _MEDIAN_AFTER_SECONDS = 0.3, 0.5  # P wave to T wave at usual rates
_BEFORE_SECONDS, _AFTER_SECONDS = 0.24, 0.448

_N_LEADS = len(CANONICAL_LEADS)
_EIGHT = [CANONICAL_LEADS.index(lead) for lead in EIGHT_LEADS]
_N_POINTS = round((_BEFORE_SECONDS + _AFTER_SECONDS) / _STEP_SECONDS)
_N_INTERVALS = 3

#: Numbers of the rhythm that :func:`beat_features` ends with.
N_RHYTHM = 4
#: Of a beat: shape in eight leads, and intervals.
BEAT_KINDS = (Kind(len(_EIGHT) * _N_POINTS, 40, 1.0), Kind(_N_INTERVALS, _N_INTERVALS, 0.3))
#: Of a recording: amplitudes, spectra and correlations; the median beat and the rhythm.
RECORD_KINDS = (
    Kind(21 * _N_LEADS + _N_LEADS * (_N_LEADS - 1) // 2, 100, 1.0),
    Kind(50 * _N_LEADS + N_RHYTHM, 64, 1.0),
)


def _offsets(before_seconds: float, after_seconds: float, sampling_rate: float) -> NDArray[np.int64]:
    """Return the samples of a beat's window, from its R peak on, every 16 ms."""
    n_points = round((before_seconds + after_seconds) / _STEP_SECONDS)
    return np.rint((np.arange(n_points) * _STEP_SECONDS - before_seconds) * sampling_rate).astype(np.int64)


def _baseline_removed(beats: FloatArray) -> FloatArray:
    """Take each beat's (..., n_points) first 80 ms from it."""
    return np.asarray(beats - beats[..., :_N_BASELINE].mean(axis=-1, keepdims=True))


def beat_features(signals_nLT: FloatArray, sampling_rate: float) -> FloatArray:
    """Describe the median beat and the rhythm of each recording.

    Parameters
    ----------
    signals_nLT : ndarray of shape (n_records, n_leads, n_samples)
        In millivolts.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (n_records, 50 * n_leads + 4), float32
        The median beat of each lead from 0.3 s before the R peak to 0.5 s after it, every 16 ms, less the mean of its
        first 80 ms; then the number of beats, the mean and the standard deviation of the intervals between them, and
        the mean size of the difference of successive ones (s). Zeros where no beat was found.
    """
    peaks = r_peaks_of_each(signals_nLT, sampling_rate)
    found = zip(signals_nLT, peaks, strict=True)
    return np.stack([_median_beat_and_rhythm(signal, peaks_K, sampling_rate) for signal, peaks_K in found])


def _median_beat_and_rhythm(signal_LT: FloatArray, peaks_K: NDArray[np.int64], sampling_rate: float) -> FloatArray:
    intervals = np.diff(peaks_K) / sampling_rate
    rhythm = [len(peaks_K), 0.0, 0.0, 0.0]
    if len(intervals):
        rhythm[1:3] = [intervals.mean(), intervals.std()]
    if len(intervals) > 1:
        rhythm[3] = np.abs(np.diff(intervals)).mean()
    return np.concatenate([_median_beat(signal_LT, peaks_K, sampling_rate), rhythm]).astype(np.float32)


def _median_beat(signal_LT: FloatArray, peaks_K: NDArray[np.int64], sampling_rate: float) -> FloatArray:
    """Compute the median of the beats that lie wholly inside, flattened lead after lead."""
    offsets = _offsets(_MEDIAN_BEFORE_SECONDS, _MEDIAN_AFTER_SECONDS, sampling_rate)
    inside = peaks_K[(peaks_K + offsets[0] >= 0) & (peaks_K + offsets[-1] < signal_LT.shape[-1])]
    if not len(inside):
        return np.zeros(len(signal_LT) * len(offsets), np.float32)
    # The median of beats drops extrasystoles and artefacts, which a mean would smear into all of it.
    beat = np.median(signal_LT[:, inside[:, None] + offsets], axis=1)
    return np.asarray(_baseline_removed(beat).ravel(), dtype=np.float32)


def describe_beats(signal_LT: FloatArray, peaks_K: NDArray[np.int64], sampling_rate: float) -> FloatArray:
    """Describe each beat of a recording by the numbers of :data:`BEAT_KINDS`, side by side.

    Parameters
    ----------
    signal_LT : ndarray of shape (12, n_samples)
        In millivolts.
    peaks_K : ndarray of shape (n_beats,), int64
        Samples of the R peaks, ascending.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (n_beats, 347), float32
        I, II, V1 to V6 from 0.24 s before to 0.43 s after, every 16 ms, less the mean of the first 80 ms; then the
        intervals (s) to the beats before and after, and the former over the recording's median. The first and the last
        sample are held beyond the ends; intervals that are not known are the median, which is 1 s for a single beat.
    """
    offsets = _offsets(_BEFORE_SECONDS, _AFTER_SECONDS, sampling_rate)
    places = np.clip(peaks_K[:, None] + offsets, 0, signal_LT.shape[-1] - 1)
    shapes = _baseline_removed(signal_LT[_EIGHT][:, places].transpose(1, 0, 2))
    flat = shapes.reshape(len(peaks_K), len(_EIGHT) * _N_POINTS)
    return np.asarray(np.concatenate([flat, _intervals(peaks_K, sampling_rate)], axis=1), dtype=np.float32)


def _intervals(peaks_K: NDArray[np.int64], sampling_rate: float) -> NDArray[np.float64]:
    """Compute the intervals (s) around each beat, (K, 3): before, after, and before over the usual one."""
    intervals = np.diff(peaks_K) / sampling_rate
    # The median, which an extrasystole and its pause leave alone.
    usual = np.median(intervals) if len(intervals) else 1.0
    known = np.concatenate([[usual], intervals, [usual]])
    before, after = known[: len(peaks_K)], known[1 : len(peaks_K) + 1]
    return np.stack([before, after, before / usual], axis=1)


def describe_record(
    signal_LT: FloatArray, sampling_rate: float, peaks_K: NDArray[np.int64] | None = None
) -> FloatArray:
    """Describe a recording (12, n_samples) in millivolts by the numbers of :data:`RECORD_KINDS`, side by side.

    Its R peaks are found, unless they are given.
    """
    peaks_K = find_r_peaks(signal_LT, sampling_rate) if peaks_K is None else peaks_K
    beat_and_rhythm = _median_beat_and_rhythm(signal_LT, peaks_K, sampling_rate)
    return np.concatenate([hand_crafted_features(signal_LT[None], sampling_rate)[0], beat_and_rhythm])
