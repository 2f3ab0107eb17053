"""The heart as one moving dipole: its beats as sums of Gaussians.

A beat is a sum of Gaussians on each of three axes [1]_ [2]_. The published model writes them as the solution of a
differential equation that a phase drives; here the solution itself is evaluated, which is exact but for the term that
pulls the published trajectory back to its baseline. Within a beat the phase runs evenly, so a Gaussian in phase is a
Gaussian in time, and the RR interval says how far it is stretched: the QRS complex keeps its duration, the T wave
follows the square root of RR as in [1]_ (Bazett's law), and the P wave comes nearer as its fourth root. Beats are
summed, not joined, so that the trace stays smooth where one beat's T wave meets the next one's P wave.

References
----------
.. [1] McSharry P. E. et al. (2003). A dynamical model for generating synthetic electrocardiogram signals. IEEE Trans
       Biomed Eng 50, 289-294.
.. [2] Sameni R. et al. (2007). Multichannel ECG and noise modeling: application to maternal and fetal ECG signals.
       EURASIP J Adv Signal Process 2007, 043407.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.heart import Heart
from skecg.datasets.rhythm import Beats
from skecg.datasets.torso import Floats

__all__ = ["beat_waves", "trace_dipole"]


def beat_waves(heart: Heart, rr_seconds: float, *, atrial: bool, ectopic: bool) -> tuple[Floats, float, float]:
    """Give one beat's Gaussians at its RR interval, and where its ST segment begins and ends (s from the R wave)."""
    stretch = np.sqrt(np.clip(rr_seconds, 0.3, 1.6))
    qrs, t = (heart.ectopic_qrs, heart.ectopic_t) if ectopic else (heart.qrs_waves, heart.t_waves)
    t = t * [stretch, stretch, 1.0, 1.0, 1.0]
    p = heart.p_waves * [np.sqrt(stretch), 1.0, 1.0, 1.0, 1.0]
    waves = np.concatenate([p, qrs, t] if atrial else [qrs, t])
    return waves, float((qrs[:, 0] + 2.0 * qrs[:, 1]).max()), float(t[-1, 0])


def trace_dipole(
    heart: Heart, beats: Beats, *, atrial: bool, sampling_rate: float, n_samples: int
) -> NDArray[np.float32]:
    """Trace the dipole of a sequence of beats from 0 s on.

    Parameters
    ----------
    heart : Heart
    beats : Beats
    atrial : bool
        Whether beats that are not ectopic have P waves.
    sampling_rate : float
        Samples a second (Hz).
    n_samples : int

    Returns
    -------
    ndarray of shape (3, n_samples), float32
    """
    dipole = np.zeros((3, n_samples), dtype=np.float32)
    for second, rr, gain, ectopic in zip(beats.seconds, beats.rr_seconds, beats.gains, beats.ectopic, strict=True):
        waves, st_onset, st_end = beat_waves(heart, float(rr), atrial=atrial and not ectopic, ectopic=bool(ectopic))
        # Six widths from its centre a Gaussian is below 2e-8 of its height, the resolution of float32.
        start = second + (waves[:, 0] - 6 * waves[:, 1]).min()
        stop = second + (waves[:, 0] + 6 * waves[:, 1]).max()
        first, last = max(0, int(np.ceil(start * sampling_rate))), min(n_samples, int(stop * sampling_rate) + 1)
        if first >= last:
            continue
        seconds = (np.arange(first, last) / sampling_rate - second).astype(np.float32)
        trace = _gaussians(waves, seconds)
        if not ectopic and heart.st.any():
            trace += heart.st.astype(np.float32)[:, None] * _plateau(seconds, st_onset, st_end)
        dipole[:, first:last] += np.float32(gain) * trace
    return dipole


def _gaussians(waves: Floats, seconds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum the Gaussians of a beat: (n_waves, 5) and (n_samples,) to (3, n_samples)."""
    rows = waves.astype(np.float32)
    z = (seconds - rows[:, :1]) / rows[:, 1:2]
    return np.asarray(rows[:, 2:].T @ np.exp(np.float32(-0.5) * z * z), dtype=np.float32)


def _plateau(seconds: NDArray[np.float32], onset: float, end: float) -> NDArray[np.float32]:
    """Rise to one within 20 ms of the end of the QRS complex, and come down with the T wave."""
    rise = (seconds - np.float32(onset - 0.004)) / np.float32(0.005)
    fall = (np.float32(end + 0.015) - seconds) / np.float32(0.018)
    with np.errstate(over="ignore"):  # exp(-x) of a far negative x is infinite, and its reciprocal the zero wanted
        return np.asarray(1 / ((1 + np.exp(-rise)) * (1 + np.exp(-fall))), dtype=np.float32)
