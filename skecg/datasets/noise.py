"""What disturbs an electrocardiogram: wander, mains, muscle and moving electrodes.

Noise is made at the nine electrodes and carried to the leads as the recorder does it, so that noisy limb leads obey
Einthoven's and Goldberger's laws like clean ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOISES", "NOISE_SHARES", "draw_noise"]

Floats = NDArray[np.float32]

#: Shares of each kind in a mixture of 1 mV: their powers sum to one.
NOISE_SHARES = {"wander": 0.8, "mains": 0.3, "emg": 0.4, "motion": float(np.sqrt(0.11))}

# Leads I, II, V1 to V6 from the electrodes RA, LA, LL, V1 to V6; chest leads are against Wilson's central terminal.
_ELECTRODES = np.zeros((8, 9), dtype=np.float32)
_ELECTRODES[0, :2] = -1.0, 1.0
_ELECTRODES[1, [0, 2]] = -1.0, 1.0
_ELECTRODES[2:, :3] = -1.0 / 3.0
_ELECTRODES[2:, 3:] = np.eye(6)
_N_ELECTRODES = 9
_EMG_BAND_HZ = (20.0, 150.0)


def draw_noise(
    rng: np.random.Generator,
    levels_mv: Mapping[str, float],
    sampling_rate: float,
    n_samples: int,
    mains_hz: float,
) -> Floats:
    """Draw noise for the leads I, II, V1 to V6.

    Parameters
    ----------
    rng : numpy.random.Generator
    levels_mv : mapping of str to float
        Root mean square over the eight leads of each kind in :data:`NOISES` (mV).
    sampling_rate : float
        Samples a second (Hz).
    n_samples : int
    mains_hz : float
        Frequency of the mains.

    Returns
    -------
    ndarray of shape (8, n_samples), float32
    """
    total = np.zeros((len(_ELECTRODES), n_samples), dtype=np.float32)
    # Each kind has a stream of its own, so that adding one leaves the others as they were.
    for (kind, draw), stream in zip(NOISES.items(), rng.spawn(len(NOISES)), strict=True):
        level = levels_mv.get(kind, 0.0)
        if level > 0:
            leads = _ELECTRODES @ draw(stream, sampling_rate, n_samples, mains_hz)
            rms = np.sqrt(np.mean(np.square(leads), dtype=np.float64))
            total += leads * np.float32(level / max(rms, 1e-12))
    return total


def _wander(rng: np.random.Generator, sampling_rate: float, n_samples: int, mains_hz: float) -> Floats:
    """Draw skin and breath: lines from 0.05 to 0.5 Hz, weaker towards the top, with a peak at the breathing rate."""
    seconds = np.arange(n_samples) / sampling_rate
    hz = np.append(rng.uniform(0.05, 0.5, 8), rng.uniform(0.2, 0.33))
    sizes = rng.standard_normal((_N_ELECTRODES, 2, len(hz))) * np.append(0.1 / hz[:-1], 0.8)
    angle = (2 * np.pi * hz[:, None] * seconds).astype(np.float32)
    waves = sizes[:, 0].astype(np.float32) @ np.cos(angle) + sizes[:, 1].astype(np.float32) @ np.sin(angle)
    return np.asarray(waves - waves.mean(axis=1, keepdims=True), dtype=np.float32)


def _mains(rng: np.random.Generator, sampling_rate: float, n_samples: int, mains_hz: float) -> Floats:
    """Draw one hum, with its third harmonic where the rate carries it, coupled into each electrode on its own."""
    angle = 2 * np.pi * mains_hz * np.arange(n_samples) / sampling_rate
    coupling = rng.standard_normal((_N_ELECTRODES, 1)).astype(np.float32)
    phases = rng.uniform(0.0, 2 * np.pi, 2)
    hum = np.sin(angle + phases[0])
    if 3 * mains_hz < sampling_rate / 2:
        hum += 0.1 * np.sin(3 * angle + phases[1])
    return np.asarray(coupling * hum.astype(np.float32))


def _emg(rng: np.random.Generator, sampling_rate: float, n_samples: int, mains_hz: float) -> Floats:
    """Draw muscle: noise between 20 and 150 Hz whose strength swells and fades within seconds."""
    low, high = _EMG_BAND_HZ
    noise = _in_band(rng.standard_normal((_N_ELECTRODES, n_samples), dtype=np.float32), sampling_rate, low, high)
    seconds = np.arange(n_samples) / sampling_rate
    swell = 1.0 + 0.6 * np.sin(2 * np.pi * rng.uniform(0.05, 0.3) * seconds + rng.uniform(0.0, 2 * np.pi))
    return noise * swell.astype(np.float32)


def _motion(rng: np.random.Generator, sampling_rate: float, n_samples: int, mains_hz: float) -> Floats:
    """Draw moving electrodes: they shake between 1 and 10 Hz, and now and then one jumps and settles."""
    seconds = np.arange(n_samples) / sampling_rate
    noise = 0.15 * _in_band(rng.standard_normal((_N_ELECTRODES, n_samples), dtype=np.float32), sampling_rate, 1.0, 10.0)
    for _ in range(1 + rng.poisson(0.3 * n_samples / sampling_rate)):
        electrode, size = rng.integers(_N_ELECTRODES), rng.normal(0.0, 3.0)
        since = seconds - rng.uniform(0.0, n_samples / sampling_rate)
        jump = np.exp(-np.maximum(since, 0.0) / rng.uniform(0.15, 0.6)) / (1 + np.exp(-np.clip(since / 0.02, -50, 50)))
        noise[electrode] += (size * jump).astype(np.float32)
    return noise


def _in_band(noise: Floats, sampling_rate: float, low_hz: float, high_hz: float) -> Floats:
    """Keep what lies in a band, with unit variance in the long run."""
    hz = np.fft.rfftfreq(noise.shape[1], 1 / sampling_rate)
    # Below 50 Hz of sampling rate nothing of the band is left; then the upper half of what there is stands for it.
    low_hz = min(low_hz, sampling_rate / 4)
    kept = (hz >= low_hz) & (hz <= high_hz)
    spectrum = np.fft.rfft(noise, axis=1) * (kept * np.sqrt(len(kept) / max(kept.sum(), 1)))
    return np.fft.irfft(spectrum, noise.shape[1], axis=1).astype(np.float32)


#: The kinds of noise.
NOISES: dict[str, Callable[[np.random.Generator, float, int, float], Floats]] = {
    "wander": _wander,
    "mains": _mains,
    "emg": _emg,
    "motion": _motion,
}
