"""What a beat is like, and what a recording is like, in raw numbers that a person would compute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.beats.likeness import Kind
from pretraining.descriptors.beats import beat_features
from skecg.evaluation.baselines import hand_crafted_features
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS

__all__ = ["BEAT_KINDS", "RECORD_KINDS", "describe_beats", "describe_record"]

FloatArray = NDArray[np.float32]

_BEFORE_SECONDS, _AFTER_SECONDS, _STEP_SECONDS = 0.24, 0.448, 0.016
_N_POINTS = round((_BEFORE_SECONDS + _AFTER_SECONDS) / _STEP_SECONDS)
_N_BASELINE = 5
_N_INTERVALS = 3
_EIGHT = [CANONICAL_LEADS.index(lead) for lead in EIGHT_LEADS]
_N_LEADS = len(CANONICAL_LEADS)

#: Shape in eight leads, and intervals.
BEAT_KINDS = (Kind(len(_EIGHT) * _N_POINTS, 40, 1.0), Kind(_N_INTERVALS, _N_INTERVALS, 0.3))

#: Amplitudes, spectra and correlations; the median beat and the rhythm.
RECORD_KINDS = (Kind(21 * _N_LEADS + _N_LEADS * (_N_LEADS - 1) // 2, 100, 1.0), Kind(50 * _N_LEADS + 4, 64, 1.0))


def describe_beats(signal: FloatArray, beats: NDArray[np.int64], sampling_rate: float) -> FloatArray:
    """Describe each beat of a recording.

    Parameters
    ----------
    signal : ndarray of shape (12, n_samples)
        In millivolts.
    beats : ndarray of shape (n_beats,), int64
        Samples, ascending.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (n_beats, 347), float32
        I, II, V1 to V6 from 0.24 s before to 0.43 s after, every 16 ms, less the mean of the first 80 ms; then the
        intervals (s) to the beats before and after, and the former over the recording's median. The first and the last
        sample are held beyond the ends; intervals that are not known are the median, which is 1 s for a single beat.
    """
    offsets = np.rint((np.arange(_N_POINTS) * _STEP_SECONDS - _BEFORE_SECONDS) * sampling_rate).astype(np.int64)
    places = np.clip(beats[:, None] + offsets, 0, signal.shape[-1] - 1)
    shapes = signal[_EIGHT][:, places].transpose(1, 0, 2)
    shapes = shapes - shapes[:, :, :_N_BASELINE].mean(axis=2, keepdims=True)
    intervals = np.diff(beats) / sampling_rate
    usual = np.median(intervals) if len(intervals) else 1.0
    known = np.concatenate([[usual], intervals, [usual]])
    before, after = known[: len(beats)], known[1 : len(beats) + 1]
    timing = np.stack([before, after, before / usual], axis=1)
    flat = shapes.reshape(len(beats), len(_EIGHT) * _N_POINTS)
    return np.asarray(np.concatenate([flat, timing], axis=1), dtype=np.float32)


def describe_record(signal: FloatArray, sampling_rate: float) -> FloatArray:
    """Describe a recording (12, n_samples) in millivolts by the numbers of :data:`RECORD_KINDS`, side by side."""
    made = [hand_crafted_features(signal[None], sampling_rate), beat_features(signal[None], sampling_rate)]
    return np.asarray(np.concatenate(made, axis=1)[0], dtype=np.float32)
