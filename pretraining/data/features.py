"""The median beat and the rhythm of a recording, from a simple detector of R peaks.

A beat that is missed here costs a little accuracy of a training target; it is no detector for other purposes.

What a beat is like, and what a recording is like, in raw numbers that a person would compute.

Where the beats are: the detector XQRS of the WFDB package, on a signal that all leads have a part in.

Twelve leads to a vectorcardiogram and back, as matrices.

Eight of the twelve leads are measured apart (I, II, V1 to V6); the vectorcardiogram says of them what one dipole in the
chest explains: X to the left, Y to the feet, Z to the back. Two matrices are used for it. The inverse Dower matrix was
computed from a model of the torso [1]_ [2]_; Kors' was fitted to leads of Frank that were recorded beside the twelve
[3]_. The way back is the pseudo-inverse of either. There and back again is therefore a projection of eight dimensions
on three: whatever of the eight leads is not a dipole's is lost, and what is left stays as it is however often it is
done.

References
----------
.. [1] Dower G. E., Machado H. B., Osborne J. A. (1980). On deriving the electrocardiogram from vectorcardiographic
       leads. Clinical Cardiology 3:87.
.. [2] Edenbrandt L., Pahlm O. (1988). Vectorcardiogram synthesized from a 12-lead ECG: superiority of the inverse Dower
       matrix. Journal of Electrocardiology 21:361.
.. [3] Kors J. A., van Herpen G., Sittig A. C., van Bemmel J. H. (1990). Reconstruction of the Frank vectorcardiogram
       from standard electrocardiographic leads: diagnostic comparison of different methods. European Heart Journal
       11:1083.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, find_peaks, sosfiltfilt

from pretraining.data.scaling import Kind
from skecg.errors import LeadError, ParameterError
from skecg.evaluation.baselines import hand_crafted_features
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS, derivation_matrix

__all__ = [
    "BEAT_KINDS",
    "RECORD_KINDS",
    "TO_VCG",
    "beat_features",
    "describe_beats",
    "describe_record",
    "find_beats",
    "find_r_peaks",
    "from_vcg",
    "to_vcg",
]


_QRS_BAND_HZ = (8.0, 30.0)


_QRS_SECONDS = 0.08


_REFRACTORY_SECONDS = 0.3


_MEDIAN_BEFORE_SECONDS, _MEDIAN_AFTER_SECONDS, _MEDIAN_STEP_SECONDS = 0.3, 0.5, 0.016


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
    """Compute the median of the beats that lie wholly inside, flattened lead after lead."""
    n_points = round((_MEDIAN_BEFORE_SECONDS + _MEDIAN_AFTER_SECONDS) / _MEDIAN_STEP_SECONDS)
    offsets = np.rint((np.arange(n_points) * _MEDIAN_STEP_SECONDS - _MEDIAN_BEFORE_SECONDS) * sampling_rate).astype(
        np.intp
    )
    inside = peaks[(peaks + offsets[0] >= 0) & (peaks + offsets[-1] < signal.shape[-1])]
    if not len(inside):
        return np.zeros(len(signal) * n_points, np.float32)
    beat = np.median(signal[:, inside[:, None] + offsets], axis=1)
    n_baseline = round(_BASELINE_SECONDS / _MEDIAN_STEP_SECONDS)
    return np.asarray((beat - beat[:, :n_baseline].mean(axis=1, keepdims=True)).ravel(), dtype=np.float32)


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


Floats = NDArray[np.float64]


#: By name: the matrix (3, 8) that gives X, Y and Z of the leads I, II, V1 to V6.
TO_VCG: dict[str, Floats] = {
    "dower": np.array(
        [
            [0.156, -0.010, -0.172, -0.074, 0.122, 0.231, 0.239, 0.194],
            [-0.227, 0.887, 0.057, -0.019, -0.106, -0.022, 0.041, 0.048],
            [0.022, 0.102, -0.229, -0.310, -0.246, -0.063, 0.055, 0.108],
        ]
    ),
    "kors": np.array(
        [
            [0.38, -0.07, -0.13, 0.05, -0.01, 0.14, 0.06, 0.54],
            [-0.07, 0.93, 0.06, -0.02, -0.05, 0.06, -0.17, 0.13],
            [0.11, -0.23, -0.43, -0.06, -0.14, -0.20, -0.11, 0.31],
        ]
    ),
}


def to_vcg(leads: Sequence[str], matrix: str = "dower") -> Floats:
    """Return the matrix from leads to the vectorcardiogram.

    Parameters
    ----------
    leads : sequence of str
        Canonical names of the rows of a signal, in any order. Leads beside the eight count nothing.
    matrix : {"dower", "kors"}

    Returns
    -------
    ndarray of shape (3, n_leads), float64
        ``to_vcg(leads) @ signal`` is X, Y and Z, in the unit of the signal.

    Raises
    ------
    LeadError
        When some of I, II, V1 to V6 is absent and cannot be derived from other limb leads.
    ParameterError
        For a matrix of another name.
    """
    eight, missing = derivation_matrix(leads, EIGHT_LEADS)
    if missing:
        raise LeadError(
            f"Got leads {', '.join(leads)}, expected the eight that a vectorcardiogram is made of; there is no "
            f"{', '.join(missing)}. Take recordings of twelve leads."
        )
    return np.asarray(_matrix(matrix) @ eight)


def from_vcg(leads: Sequence[str], matrix: str = "dower") -> Floats:
    """Return the matrix (n_leads, 3) from the vectorcardiogram to leads.

    Limb leads are derived from I and II, so that Einthoven's and Goldberger's laws hold. Parameters and errors are as
    in :func:`to_vcg`.
    """
    wanted, missing = derivation_matrix(EIGHT_LEADS, leads)
    if missing:
        raise LeadError(f"Got lead(s) {', '.join(missing)}, expected some of the twelve.")
    return np.asarray(wanted @ np.linalg.pinv(_matrix(matrix)))


def _matrix(name: str) -> NDArray[Any]:
    if name not in TO_VCG:
        raise ParameterError(f"Got matrix={name!r}, expected one of {', '.join(map(repr, TO_VCG))}.")
    return TO_VCG[name]


# XQRS filters, and learns what a beat is like, which takes some signal.
_SHORTEST_SECONDS = 2.0


def find_beats(signal: NDArray[np.float32], sampling_rate: float) -> NDArray[np.int64]:
    """Find the beats of a recording of twelve leads.

    Parameters
    ----------
    signal : ndarray of shape (12, n_samples)
        In millivolts.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of int64
        Samples, ascending, about where the heart's vector moves fastest; empty where no beat was found, and for signals
        that are shorter than two seconds or do not move.

    Notes
    -----
    The detector looks at one signal. Lead II may be the one in which a QRS complex is smallest, so it is given the
    speed of the vectorcardiogram (Kors' matrix) instead, which is large in every QRS complex.
    """
    from wfdb.processing import XQRS

    n_samples = signal.shape[-1]
    if n_samples < _SHORTEST_SECONDS * sampling_rate:
        return np.zeros(0, np.int64)
    speed = np.linalg.norm(np.gradient(to_vcg(CANONICAL_LEADS, "kors") @ signal, axis=1), axis=0)
    if not speed.any():
        return np.zeros(0, np.int64)
    detector = XQRS(speed, sampling_rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        detector.detect(verbose=False)
    found = np.unique(np.asarray(detector.qrs_inds, dtype=np.int64))
    return np.asarray(found[(found >= 0) & (found < n_samples)], dtype=np.int64)
