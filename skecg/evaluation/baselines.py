"""Features that need no training: numbers that a person would compute of a signal, and random convolutions.

An encoder that does not beat these has not learned what they lack.

References
----------
.. [1] Dempster A., Schmidt D. F., Webb G. I. (2021). MiniRocket: a very fast (almost) deterministic transform for time
       series classification. KDD.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["hand_crafted_features", "random_convolution_features"]

# Of each lead: the lowest and highest value and those between.
_QUANTILES = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)

# Edges of the bands of the spectrum: baseline and T wave, P wave, QRS complex, muscle.
_BAND_EDGES_HZ = (0.5, 2, 4, 7, 11, 16, 25, 40)
_SPECTRUM_SECONDS = 4  # bins of 0.25 Hz, enough to part the lowest bands

# Random kernels: nine samples, at these distances, on about this share of the leads.
_KERNEL_SAMPLES = 9
_DILATIONS = (1, 2, 4, 8, 16, 32)
_SHARE_OF_LEADS = 0.3

# Windows computed together: so few that what is made of them stays in a CPU's cache.
_BATCH = 4


def hand_crafted_features(signals: NDArray[np.float32], sampling_rate: float) -> NDArray[np.float32]:
    """Compute amplitude, shape, spectrum and correlation of the leads.

    Parameters
    ----------
    signals : ndarray of shape (n_windows, n_leads, n_samples)
        In millivolts.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (n_windows, 21 * n_leads + n_leads * (n_leads - 1) / 2), float32
        Of each lead nine quantiles; standard deviation, skewness, excess kurtosis; standard deviation and greatest size
        of the difference from sample to sample; logarithm of the power in seven bands from 0.5 to 40 Hz (Welch).
        Then the correlation of each pair of leads.
    """
    starts = range(0, max(1, len(signals)), _BATCH)
    return np.concatenate([_hand_crafted(signals[start : start + _BATCH], sampling_rate) for start in starts])


def _hand_crafted(signals: NDArray[np.float32], sampling_rate: float) -> NDArray[np.float32]:
    """Compute all of it for a few windows."""
    of_each = [_quantiles(signals), _shape(signals), _log_bands(signals, sampling_rate)]
    of_leads = np.concatenate(of_each, axis=-1).reshape(len(signals), -1)
    return np.concatenate([of_leads, _correlations(signals)], axis=1).astype(np.float32)


def _quantiles(signals: NDArray[np.float32]) -> NDArray[np.floating]:
    """Compute quantiles as ``np.quantile`` does, from a whole sort, which is seven times as fast as its partition."""
    ordered = np.sort(signals, axis=-1)
    ordered[np.isnan(ordered[..., -1])] = np.nan  # what is not a number was sorted to the end
    place = np.asarray(_QUANTILES) * (signals.shape[-1] - 1)
    below = place.astype(np.int64)
    lower, upper = ordered[..., below], ordered[..., np.minimum(below + 1, signals.shape[-1] - 1)]
    share = place - below
    # From the nearer of the two, as numpy rounds.
    near_upper = upper - (upper - lower) * (1 - share)
    return np.asarray(np.where(share < 0.5, lower + (upper - lower) * share, near_upper))


def _shape(signals: NDArray[np.float32]) -> NDArray[np.floating]:
    """Compute the moments of each lead and of its slope."""
    centred = signals - signals.mean(axis=-1, keepdims=True)
    deviation = signals.std(axis=-1)
    standard = centred / np.where(deviation > 0, deviation, 1)[..., None]
    # Products, since numpy takes powers by logarithms, in twenty times the time; in float64, rounded once as those are.
    double, slope = standard.astype(np.float64), np.diff(signals, axis=-1)
    squares = double * double
    cubes, fourths = (squares * double).astype(signals.dtype), (squares * squares).astype(signals.dtype)
    skewness, kurtosis = cubes.mean(axis=-1), fourths.mean(axis=-1) - 3
    return np.stack([deviation, skewness, kurtosis, slope.std(axis=-1), np.abs(slope).max(axis=-1)], axis=-1)


def _log_bands(signals: NDArray[np.float32], sampling_rate: float) -> NDArray[np.floating]:
    """Compute the logarithm of the power in each band."""
    from scipy.signal import welch

    n_samples = min(signals.shape[-1], round(_SPECTRUM_SECONDS * sampling_rate))
    frequencies, power = welch(signals, sampling_rate, nperseg=n_samples)
    bands = [(frequencies >= low) & (frequencies < high) for low, high in itertools.pairwise(_BAND_EDGES_HZ)]
    # Logarithms, for power spans orders of magnitude; 1e-9 mV² keeps a flat lead finite.
    return np.log(np.stack([power[..., band].sum(axis=-1) for band in bands], axis=-1) + 1e-9)


def _correlations(signals: NDArray[np.float32]) -> NDArray[np.floating]:
    """Compute the correlation of each pair of leads, 0 where a lead is flat."""
    centred = signals - signals.mean(axis=-1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    unit = centred / np.where(length > 0, length, 1)
    upper = np.triu_indices(signals.shape[1], 1)
    return np.asarray(unit @ unit.swapaxes(1, 2))[:, upper[0], upper[1]]


def random_convolution_features(
    signals: NDArray[np.float32], *, n_kernels: int = 84, seed: int = 0
) -> NDArray[np.float32]:
    """Convolve with dilated random kernels and pool, in the manner of MiniRocket.

    Parameters
    ----------
    signals : ndarray of shape (n_windows, n_leads, n_samples)
        Each lead is standardized first.
    n_kernels : int, default=84
        Kernels of nine samples and zero mean for each of six dilations (1 to 32); each looks at about 30 % of the
        leads.
    seed : int, default=0
        Of the kernels.

    Returns
    -------
    ndarray of shape (n_windows, 18 * n_kernels), float32
        Greatest value, share of positive values, and standard deviation of each.
    """
    # A generator of its own: torch's global one belongs to the user.
    generator = torch.Generator().manual_seed(seed)
    n_leads = signals.shape[1]
    x = torch.from_numpy(np.ascontiguousarray(signals, dtype=np.float32))
    x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
    pooled = []
    for dilation in _DILATIONS:
        kernels = torch.randn(n_kernels, n_leads, _KERNEL_SAMPLES, generator=generator)
        kernels *= torch.rand(n_kernels, n_leads, 1, generator=generator) < _SHARE_OF_LEADS
        # Sums of zero: a kernel sees shapes and not the level of a lead.
        kernels -= kernels.mean(-1, keepdim=True)
        bias = torch.randn(n_kernels, generator=generator)
        parts = []
        with torch.inference_mode():
            for batch in x.split(_BATCH):
                y = torch.nn.functional.conv1d(batch, kernels, bias, dilation=dilation, padding="same")
                parts.append(_pool(y, bias))
        pooled.append(torch.cat(parts))
    return np.asarray(torch.cat(pooled, dim=1).numpy())


def _pool(y_NKT: torch.Tensor, bias_K: torch.Tensor) -> torch.Tensor:
    """Compute the greatest value, the share of positive ones and the deviation, (N, 3 K).

    ``y.std`` would take twice as long as the convolution. A mean square less a square gives its very bits in float64,
    and 0 for kernels that see no lead, since the bias is taken off before.
    """
    n_samples = y_NKT.shape[-1]
    positive = torch.gt(y_NKT, 0, out=torch.empty_like(y_NKT)).mean(-1)
    centred = y_NKT.double().sub_(bias_K[:, None])
    squares = torch.linalg.vector_norm(centred, dim=-1).square() - n_samples * centred.mean(-1).square()
    deviation = (squares.clamp(min=0) / (n_samples - 1)).sqrt().float()
    return torch.cat([y_NKT.amax(-1), positive, deviation], dim=1)
