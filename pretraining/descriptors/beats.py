"""The median beat and the rhythm of a recording, from a simple detector of R peaks.

A beat that is missed here costs a little accuracy of a training target; it is no detector for other purposes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, find_peaks, sosfiltfilt

__all__ = ["beat_features", "find_r_peaks"]

_QRS_BAND_HZ = (8.0, 30.0)
_QRS_SECONDS = 0.08
_REFRACTORY_SECONDS = 0.3
_BEFORE_SECONDS, _AFTER_SECONDS, _STEP_SECONDS = 0.3, 0.5, 0.016
_BASELINE_SECONDS = 0.08
# A peak counts from this share of the energy that all but 2 % of the samples stay under.
_ENOUGH = 0.25


def find_r_peaks(signal: NDArray[np.float32], sampling_rate: float) -> NDArray[np.intp]:
    """Find R peaks in all leads together, by the energy of the slope between 8 and 30 Hz.

    Parameters
    ----------
    signal : ndarray of shape (n_leads, n_samples)
        Any unit; leads count alike.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of int
        Samples, ascending; empty where there are none.
    """
    if signal.shape[-1] <= 0.5 * sampling_rate or not signal.any():
        return np.zeros(0, np.intp)
    band = np.minimum(_QRS_BAND_HZ, 0.45 * sampling_rate)
    quick = sosfiltfilt(butter(2, band, "band", fs=sampling_rate, output="sos"), signal, axis=-1)
    quick = quick / (quick.std(axis=-1, keepdims=True) + 1e-6)
    energy = (np.diff(quick, axis=-1) ** 2).sum(axis=0)
    n_smooth = max(1, round(_QRS_SECONDS * sampling_rate))
    energy = np.convolve(energy, np.full(n_smooth, 1 / n_smooth), "same")
    enough = _ENOUGH * np.quantile(energy, 0.98)
    return np.asarray(find_peaks(energy, distance=max(1, round(_REFRACTORY_SECONDS * sampling_rate)), height=enough)[0])


def beat_features(signals: NDArray[np.float32], sampling_rate: float) -> NDArray[np.float32]:
    """Describe the beats of each recording.

    Parameters
    ----------
    signals : ndarray of shape (n_records, n_leads, n_samples)
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
    return np.stack([_describe(signal, sampling_rate) for signal in signals])


def _describe(signal: NDArray[np.float32], sampling_rate: float) -> NDArray[np.float32]:
    peaks = find_r_peaks(signal, sampling_rate)
    intervals = np.diff(peaks) / sampling_rate
    rhythm = [len(peaks), 0.0, 0.0, 0.0]
    if len(intervals):
        rhythm[1:3] = [intervals.mean(), intervals.std()]
    if len(intervals) > 1:
        rhythm[3] = np.abs(np.diff(intervals)).mean()
    return np.concatenate([_median_beat(signal, peaks, sampling_rate), rhythm]).astype(np.float32)


def _median_beat(signal: NDArray[np.float32], peaks: NDArray[np.intp], sampling_rate: float) -> NDArray[np.float32]:
    """Give the median of the beats that lie wholly inside, flattened lead after lead."""
    n_points = round((_BEFORE_SECONDS + _AFTER_SECONDS) / _STEP_SECONDS)
    offsets = np.rint((np.arange(n_points) * _STEP_SECONDS - _BEFORE_SECONDS) * sampling_rate).astype(np.intp)
    inside = peaks[(peaks + offsets[0] >= 0) & (peaks + offsets[-1] < signal.shape[-1])]
    if not len(inside):
        return np.zeros(len(signal) * n_points, np.float32)
    beat = np.median(signal[:, inside[:, None] + offsets], axis=1)
    n_baseline = round(_BASELINE_SECONDS / _STEP_SECONDS)
    return np.asarray((beat - beat[:, :n_baseline].mean(axis=1, keepdims=True)).ravel(), dtype=np.float32)
