"""What a recording and its beats are like, in raw numbers that need no label: R peaks, shapes, intervals.

There is one detector of R peaks and one cutter of windows around them. The detector looks at all leads together, since
the QRS complex may be smallest in any one of them: on LUDB and QTDB it misses nothing that annotators marked, and finds
more of it than the detectors of the WFDB package do in one lead, in a tenth of their time
(``examples/benchmarks/r_peaks.py``).

Shapes: n recordings, L leads, T samples, K beats.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, find_peaks, sosfiltfilt

from pretraining.data.scaling import Kind
from skecg.evaluation.baselines import hand_crafted_features
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS

__all__ = [
    "BEAT_KINDS",
    "N_RHYTHM",
    "RECORD_KINDS",
    "beat_features",
    "describe_beats",
    "describe_record",
    "find_r_peaks",
]

FloatArray = NDArray[np.float32]

_QRS_BAND_HZ = (8.0, 30.0)  # above T waves and wander, below muscle and mains
_QRS_SECONDS = 0.08
_REFRACTORY_SECONDS = 0.3  # two peaks within it are one: up to 200 beats a minute
# A peak counts from this share of the energy that all but 2 % of the samples stay under.
_LEAST_ENERGY = 0.25
# Share of a lead's deviation that lies in that band: above 0.04 in any lead of LUDB, below 0.0002 in a mere drift.
_LEAST_QUICK = 1e-3
# Recordings filtered by one call: to set up the filter takes as long as to filter one recording.
_FILTERED_TOGETHER = 4

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


def find_r_peaks(signal_LT: FloatArray, sampling_rate: float) -> NDArray[np.int64]:
    """Find R peaks in all leads together, by the energy of the slope between 8 and 30 Hz.

    Parameters
    ----------
    signal_LT : ndarray of shape (n_leads, n_samples)
        Any unit; leads count alike.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of int64
        Samples, ascending; empty where there are none, for signals of half a second or less, and for those that
        do no more than drift.
    """
    return _r_peaks_of_each(signal_LT[None], sampling_rate)[0]


def _r_peaks_of_each(signals_nLT: FloatArray, sampling_rate: float) -> list[NDArray[np.int64]]:
    """Find the R peaks of some recordings, whose filtered leads should fit a CPU's cache."""
    if signals_nLT.shape[-1] <= 0.5 * sampling_rate:
        return [np.zeros(0, np.int64)] * len(signals_nLT)
    quick_nLT = sosfiltfilt(_qrs_filter(sampling_rate), signals_nLT, axis=-1)
    deviation_nL = quick_nLT.std(axis=-1)
    is_quick = (deviation_nL > _LEAST_QUICK * (signals_nLT.std(axis=-1) + 1e-6)).any(axis=-1)
    # Each lead by its own deviation, or the largest would be the only one looked at.
    slope_nLT = np.diff(quick_nLT, axis=-1) / (deviation_nL[..., None] + 1e-6)
    energy_nT = np.einsum("nlt,nlt->nt", slope_nLT, slope_nLT)
    return [
        _peaks_of_energy(energy_T, sampling_rate) if quick else np.zeros(0, np.int64)
        for energy_T, quick in zip(energy_nT, is_quick, strict=True)
    ]


def _peaks_of_energy(energy_T: NDArray[np.float64], sampling_rate: float) -> NDArray[np.int64]:
    n_smooth = max(1, round(_QRS_SECONDS * sampling_rate))
    energy_T = np.convolve(energy_T, np.full(n_smooth, 1 / n_smooth), "same")
    # Relative to the recording's own QRS complexes, so that the unit and the leads do not matter.
    least = _LEAST_ENERGY * np.quantile(energy_T, 0.98)
    apart = max(1, round(_REFRACTORY_SECONDS * sampling_rate))
    return np.asarray(find_peaks(energy_T, distance=apart, height=least)[0], dtype=np.int64)


@lru_cache(maxsize=8)
def _qrs_filter(sampling_rate: float) -> NDArray[np.float64]:
    band = np.minimum(_QRS_BAND_HZ, 0.45 * sampling_rate)
    return np.asarray(butter(2, band, "band", fs=sampling_rate, output="sos"))


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
    starts = range(0, len(signals_nLT), _FILTERED_TOGETHER)
    groups = (signals_nLT[start : start + _FILTERED_TOGETHER] for start in starts)
    peaks = [peaks_K for group in groups for peaks_K in _r_peaks_of_each(group, sampling_rate)]
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
