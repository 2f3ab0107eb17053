"""R peaks, found in all leads together, since the QRS complex may be smallest in any one of them.

On LUDB and QTDB nothing that annotators marked is missed, and more of it is found than by the detectors of the WFDB
package in one lead, in a tenth of their time (``examples/benchmarks/r_peaks.py``).

Shapes: n recordings, L leads, T samples.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, find_peaks, sosfiltfilt

__all__ = ["find_r_peaks", "r_peaks_of_each"]

FloatArray = NDArray[np.float32]

_QRS_BAND_HZ = (8.0, 30.0)  # above T waves and wander, below muscle and mains
_QRS_SECONDS = 0.08
_REFRACTORY_SECONDS = 0.3  # two peaks within it are one: up to 200 beats a minute
# A peak counts from this share of the energy that all but 2 % of the samples stay under.
_LEAST_ENERGY = 0.25
# Share of a lead's deviation that lies in that band: above 0.04 in any lead of LUDB, below 0.0002 in a mere drift.
_LEAST_QUICK = 1e-3
# What the filter needs: more samples than it pads by, and a rate of which the band is not cut off.
_LEAST_SAMPLES, _LEAST_RATE = 15, 20.0
# Recordings filtered by one call: to set up the filter takes as long as to filter one recording.
_FILTERED_TOGETHER = 4


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
        Samples, ascending; empty where there are none, for signals of half a second or less, below 20 Hz, and for those
        that do no more than drift.
    """
    return r_peaks_of_each(signal_LT[None], sampling_rate)[0]


def r_peaks_of_each(signals_nLT: FloatArray, sampling_rate: float) -> list[NDArray[np.int64]]:
    """Find the R peaks of each of some recordings, (n_records, n_leads, n_samples)."""
    starts = range(0, len(signals_nLT), _FILTERED_TOGETHER)
    groups = (signals_nLT[start : start + _FILTERED_TOGETHER] for start in starts)
    return [peaks_K for group in groups for peaks_K in _r_peaks_of_each(group, sampling_rate)]


def _r_peaks_of_each(signals_nLT: FloatArray, sampling_rate: float) -> list[NDArray[np.int64]]:
    """Find the R peaks of some recordings, whose filtered leads should fit a CPU's cache."""
    if signals_nLT.shape[-1] <= max(0.5 * sampling_rate, _LEAST_SAMPLES) or sampling_rate < _LEAST_RATE:
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
