"""R peaks, found in all leads together, since the QRS complex may be smallest in any one of them.

On LUDB and QTDB nothing that annotators marked is missed, and more of it is found than by the detectors of the WFDB
package in one lead, in a tenth of their time (``examples/benchmarks/r_peaks.py``).

Shapes: L leads, T samples.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, find_peaks, sosfiltfilt

__all__ = ["find_r_peaks"]

FloatArray = NDArray[np.float32]

_QRS_BAND_HZ = (8.0, 30.0)  # above T waves and wander, below muscle and mains
_QRS_SECONDS = 0.08
_REFRACTORY_SECONDS = 0.3  # two peaks within it are one: up to 200 beats a minute
# A peak counts from this share of the energy that all but 2 % of the samples stay under.
_LEAST_ENERGY = 0.25
# Share of a lead's deviation that lies in that band: above 0.04 in any lead of LUDB, below 0.0002 in a mere drift.
_LEAST_QUICK = 1e-3


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
    if signal_LT.shape[-1] <= 0.5 * sampling_rate:
        return np.zeros(0, np.int64)
    quick = sosfiltfilt(_qrs_filter(sampling_rate), signal_LT, axis=-1)
    deviation = quick.std(axis=-1, keepdims=True)
    if not (deviation > _LEAST_QUICK * (signal_LT.std(axis=-1, keepdims=True) + 1e-6)).any():
        return np.zeros(0, np.int64)
    # Each lead by its own deviation, or the largest would be the only one looked at.
    energy = (np.diff(quick / (deviation + 1e-6), axis=-1) ** 2).sum(axis=0)
    n_smooth = max(1, round(_QRS_SECONDS * sampling_rate))
    energy = np.convolve(energy, np.full(n_smooth, 1 / n_smooth), "same")
    # Relative to the recording's own QRS complexes, so that the unit and the leads do not matter.
    least = _LEAST_ENERGY * np.quantile(energy, 0.98)
    apart = max(1, round(_REFRACTORY_SECONDS * sampling_rate))
    return np.asarray(find_peaks(energy, distance=apart, height=least)[0], dtype=np.int64)


@lru_cache(maxsize=8)
def _qrs_filter(sampling_rate: float) -> NDArray[np.float64]:
    band = np.minimum(_QRS_BAND_HZ, 0.45 * sampling_rate)
    return np.asarray(butter(2, band, "band", fs=sampling_rate, output="sos"))
