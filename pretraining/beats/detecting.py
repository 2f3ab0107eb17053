"""Where the beats are: the detector XQRS of the WFDB package, on a signal that all leads have a part in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.vectorcardiogram import to_vcg
from skecg.leads import CANONICAL_LEADS

__all__ = ["find_beats"]

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
