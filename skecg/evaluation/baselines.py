"""Features that need no training: numbers that a person would compute of a signal, and random convolutions.

An encoder that does not beat these has not learned what they lack.

References
----------
.. [1] Dempster A., Schmidt D. F., Webb G. I. (2021). MiniRocket: a very fast (almost) deterministic transform for time
       series classification. KDD.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any, NamedTuple

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
_SAMPLES_TOGETHER = 5_000
# Kernels are filled up to a multiple of what the convolution takes at once.
_KERNELS_TOGETHER = 48
# Rows into which time is folded for pooling; a byte has to hold their number.
_MOST_ROWS = 64


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
    """Compute the logarithm of the power in each band, by Welch's periodograms of halfway overlapping segments."""
    from scipy.fft import rfft, rfftfreq
    from scipy.signal.windows import hann

    n_samples = min(signals.shape[-1], round(_SPECTRUM_SECONDS * sampling_rate))
    every = n_samples - n_samples // 2
    segments = np.lib.stride_tricks.sliding_window_view(signals, n_samples, axis=-1)[:, :, ::every]
    window = hann(n_samples, sym=False).astype(np.float32)
    spectrum = rfft((segments - segments.mean(axis=-1, keepdims=True)) * window)
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=2)
    frequencies = rfftfreq(n_samples, 1 / sampling_rate)
    # Each frequency stands for its negative, too, other than the highest of all.
    power *= np.where(frequencies < sampling_rate / 2, 2, 1) / (sampling_rate * (window**2).sum())
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
    n_leads, n_samples = signals.shape[1:]
    kernels = _random_kernels(n_kernels, n_leads, seed)
    n_together = max(1, _SAMPLES_TOGETHER // n_samples)
    starts = range(0, max(1, len(signals)), n_together)
    return np.concatenate([_convolved(signals[start : start + n_together], kernels) for start in starts])


class _Kernels(NamedTuple):
    """Kernels of one dilation: weights (K, n_leads, 1, 9), channels last, and what is added to the result of each."""

    dilation: int
    weights: torch.Tensor
    bias_K: NDArray[np.float32]


@lru_cache(maxsize=32)
def _random_kernels(n_kernels: int, n_leads: int, seed: int) -> list[_Kernels]:
    # A generator of its own: torch's global one belongs to the user.
    generator = torch.Generator().manual_seed(seed)
    kernels = []
    for dilation in _DILATIONS:
        weights = torch.randn(n_kernels, n_leads, _KERNEL_SAMPLES, generator=generator)
        weights *= torch.rand(n_kernels, n_leads, 1, generator=generator) < _SHARE_OF_LEADS
        # Sums of zero: a kernel sees shapes and not the level of a lead.
        weights -= weights.mean(-1, keepdim=True)
        bias_K = torch.randn(n_kernels, generator=generator).numpy()
        filled_up = torch.nn.functional.pad(weights[:, :, None], (0, 0) * 3 + (0, -n_kernels % _KERNELS_TOGETHER))
        kernels.append(_Kernels(dilation, filled_up.contiguous(memory_format=torch.channels_last), bias_K))
    return kernels


def _convolved(signals: NDArray[np.float32], kernels: list[_Kernels]) -> NDArray[np.float32]:
    """Convolve a few windows with the kernels of all dilations, and pool: (n_windows, 3 n_dilations n_kernels).

    Channels last, since with time last the convolution copies its result and, where there is a dilation, its input.
    """
    x_NLT = torch.from_numpy(_standardized(signals)).permute(0, 2, 1)
    pooled = []
    with torch.inference_mode():
        for dilation, weights, bias_K in kernels:
            padding = (0, _KERNEL_SAMPLES // 2 * dilation)
            y_NK1T = torch.conv2d(x_NLT[:, :, None], weights, padding=padding, dilation=(1, dilation))
            pooled.append(_pool(y_NK1T[:, :, 0].permute(0, 2, 1).contiguous().numpy(), bias_K))
    return np.concatenate(pooled, axis=1)


def _standardized(signals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return leads of mean 0 and deviation 1, (n_windows, n_samples, n_leads)."""
    centred = np.asarray(signals, dtype=np.float32)
    centred = centred - centred.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.einsum("nlt,nlt->nl", centred, centred) / np.float32(signals.shape[-1] - 1))[..., None]
    return np.ascontiguousarray((centred / (deviation + np.float32(1e-6))).swapaxes(1, 2))


def _pool(y_NTK: NDArray[np.float32], bias_K: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the greatest value, the share of positive ones and the deviation of ``y + bias``, (N, 3 K).

    Time is folded into some long rows, since a pass over many short ones spends most of its time between them. Rows
    are added in float32, their sums in float64. The bias is added last, so that the deviation is 0 for kernels that
    see no lead.
    """
    n_windows, n_samples, n_filled_up = y_NTK.shape
    n_rows = next(n for n in range(_MOST_ROWS, 0, -1) if n_samples % n == 0)
    n_kernels, n_columns = len(bias_K), n_samples // n_rows
    rows = y_NTK.reshape(n_windows, n_rows, n_columns * n_filled_up)

    def of_kernels(columns: NDArray[Any]) -> NDArray[Any]:
        return columns.reshape(n_windows, n_columns, n_filled_up)[..., :n_kernels]

    threshold = np.pad(-bias_K, (0, n_filled_up - n_kernels))
    is_positive = rows > np.tile(threshold, n_columns)
    n_positive = of_kernels(np.add.reduce(is_positive.view(np.uint8), axis=1, dtype=np.uint8)).sum(axis=1)
    total = of_kernels(rows.sum(axis=1)).sum(axis=1, dtype=np.float64)
    squares = of_kernels(np.einsum("nrc,nrc->nc", rows, rows)).sum(axis=1, dtype=np.float64)
    deviation = np.sqrt(np.maximum(squares - total**2 / n_samples, 0) / (n_samples - 1))
    greatest = of_kernels(rows.max(axis=1)).max(axis=1) + bias_K
    return np.concatenate([greatest, n_positive / n_samples, deviation], axis=1).astype(np.float32)
