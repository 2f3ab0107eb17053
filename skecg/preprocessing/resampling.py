"""Resampling: polyphase filtering, truncation of the spectrum, or straight lines.

Every record is treated by itself, in an order of operations that depends on its own shape alone, so that it comes out
bit for bit the same whether it is resampled alone or among others.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from skecg.errors import ParameterError, SamplingRateError

__all__ = [
    "METHODS",
    "frame_layout",
    "frame_matrix",
    "line_places",
    "rate_ratio",
    "resample",
    "resampled_rate",
    "resampled_samples",
]

FloatArray = NDArray[np.float32]

#: How a rate may be changed.
METHODS = ("polyphase", "fourier", "fourier-nearest", "linear")

# Rates are expressed as a fraction of numbers up to this, within 1/20,000 of the true ratio.
_LARGEST_FACTOR = 10_000
# Half the length of the anti-aliasing filter, in samples of the slower of the two rates.
_HALF_FILTER = 10
# Filters whose frames are longer than this many samples are cheaper applied tap by tap than as a matrix.
_LONGEST_FRAME = 512


def resampled_samples(n_samples: int, rate_in: float, rate_out: float, method: str = "polyphase") -> int:
    """Return how long :func:`resample` makes a signal.

    Parameters
    ----------
    n_samples : int
    rate_in, rate_out : float
        Rates in Hz.
    method : {"polyphase", "fourier", "fourier-nearest", "linear"}, default="polyphase"

    Returns
    -------
    int
        ``ceil(n_samples * rate_out / rate_in)`` for polyphase, the nearest integer to it for fourier-nearest, its floor
        for the others, at least 1; `n_samples` when the rates are equal.
    """
    ratio = rate_ratio(rate_in, rate_out)
    if rate_in == rate_out:
        return n_samples
    if method == "polyphase":
        return -(-n_samples * ratio.numerator // ratio.denominator)
    if method == "fourier-nearest":
        return max(1, round(n_samples * rate_out / rate_in))
    # The small addition undoes the rounding of quotients such as 250 / 970, which would otherwise cost a sample.
    return max(1, int(rate_out / rate_in * n_samples * (1 + 1e-12)))


def resampled_rate(n_samples: int, rate_in: float, rate_out: float, method: str = "polyphase") -> float:
    """Return the rate in Hz of what :func:`resample` makes of a signal; the arguments are those of its length.

    It is near `rate_out`, and not always equal: ratios are fractions of small numbers, and lengths whole ones. Hours
    of a recorder at 499.98 Hz are resampled as if it had 500, so that times have to be told by the rate they came to.
    """
    n_out = resampled_samples(n_samples, rate_in, rate_out, method)
    if method == "polyphase":
        ratio = float(rate_ratio(rate_in, rate_out))
    elif method == "linear":  # the last sample is put onto the last
        ratio = (n_out - 1) / (n_samples - 1) if min(n_samples, n_out) > 1 else rate_out / rate_in
    else:
        ratio = n_out / n_samples
    return rate_out if math.isclose(rate_in * ratio, rate_out, rel_tol=1e-12) else rate_in * ratio


def resample(
    signal: FloatArray,
    rate_in: float,
    rate_out: float,
    method: str = "polyphase",
    *,
    origin: FloatArray | None = None,
) -> FloatArray:
    """Change the sampling rate.

    Parameters
    ----------
    signal : ndarray of shape (..., n_leads, n_samples), float32
    rate_in, rate_out : float
        Rates in Hz. Polyphase takes their ratio as a fraction of integers up to 10,000.
    method : {"polyphase", "fourier", "fourier-nearest", "linear"}, default="polyphase"
        ``"polyphase"`` filters with a Kaiser-windowed sinc (beta 5, ten samples of the slower rate to either side) and
        passes 0.8 of the slower Nyquist frequency within 0.3 %. Before its beginning and after its end the signal is
        taken to hold its edge values.
        ``"fourier"`` truncates or extends the spectrum of the whole record, which takes it to be periodic;
        ``"fourier-nearest"`` does so to the nearest whole number of samples.
        ``"linear"`` reads off straight lines between samples, the first and last sample put onto the first and last;
        what is faster than the new rate can hold is folded back into the signal.
    origin : ndarray of shape (..., n_leads, 1), float32, optional
        Polyphase filters differences from this, by default from the first sample: a part of a record is resampled as
        the whole is only with the whole's.

    Returns
    -------
    ndarray of shape (..., n_leads, :func:`resampled_samples`), float32
        The input itself when the rates are equal. A constant lead stays exactly that constant.

    Raises
    ------
    ParameterError
        When `method` is unknown.
    SamplingRateError
        When the rates differ by more than a factor of 1,000.

    Notes
    -----
    Polyphase follows :func:`scipy.signal.resample_poly` with ``padtype="edge"`` (within 1e-6 of it) and fourier
    :func:`scipy.signal.resample`.

    Of the ways to continue a record beyond its ends, holding the edge value disturbs its beginning and end least; zeros
    ring where there is an offset, and a periodic continuation where the ends differ.
    """
    if method not in METHODS:
        raise ParameterError(f"Got method={method!r}, expected one of {', '.join(map(repr, METHODS))}.")
    ratio = rate_ratio(rate_in, rate_out)
    if rate_in == rate_out or (method == "polyphase" and ratio == 1):
        return signal
    n_out = resampled_samples(signal.shape[-1], rate_in, rate_out, method)
    if method == "polyphase":
        first = signal[..., :1] if origin is None else origin
        return _polyphase(signal, ratio.numerator, ratio.denominator, n_out, first)
    return _linear(signal, n_out) if method == "linear" else _fourier(signal, n_out)


@lru_cache(maxsize=256)
def rate_ratio(rate_in: float, rate_out: float) -> Fraction:
    """Return rate_out / rate_in as a fraction, refusing what no recorder does."""
    if not (0 < rate_in < math.inf and 0 < rate_out < math.inf and 1e-3 <= rate_out / rate_in <= 1e3):
        raise SamplingRateError(
            f"Got a sampling rate of {rate_in:g} Hz to be taken to {rate_out:g} Hz, expected positive rates that "
            "differ by less than a factor of 1,000. Check that sampling_rate is in samples a second (Hz)."
        )
    # A quotient of floats is no small fraction by itself: 1000 / 257 has a power of two below the line.
    return Fraction(rate_out / rate_in).limit_denominator(_LARGEST_FACTOR)


def _polyphase(signal: FloatArray, up: int, down: int, n_out: int, origin: FloatArray) -> FloatArray:
    """Resample by up / down with a finite filter, as a matrix on frames where frames are short."""
    margin, repeats = frame_layout(up, down)
    if repeats == 0:
        from scipy.signal import upfirdn

        delay = _HALF_FILTER * max(up, down) + margin * up
        # Zeros before the taps make the delay a multiple of the step, so that the output begins on a sample.
        lead_in = -delay % down
        taps = np.concatenate([np.zeros(lead_in, np.float32), _lowpass_taps(up, down)])
        padded = _pad_with_edges(signal, margin, signal.shape[-1] + 2 * margin, origin)
        first = (delay + lead_in) // down
        resampled = upfirdn(taps, padded, up, down, axis=-1)[..., first : first + n_out]
    else:
        n_frames = -(-n_out // (up * repeats))
        # Every `up` outputs see the inputs in the same way: one small matrix serves all frames, and BLAS multiplies it.
        padded = _pad_with_edges(signal, margin, n_frames * down * repeats + 2 * margin, origin)
        frames = sliding_window_view(padded, down * repeats + 2 * margin, axis=-1)[..., :: down * repeats, :]
        # One product a record, of one shape whatever stands beside it: its rounding cannot depend on its neighbours.
        rows = np.ascontiguousarray(frames).reshape(*signal.shape[:-2], -1, frames.shape[-1])
        resampled = (rows @ frame_matrix(up, down, repeats)).reshape(*signal.shape[:-1], -1)[..., :n_out]
    # Filtered around the first sample, a constant lead comes back exactly, although the taps do not add up to 1
    # exactly.
    resampled += origin
    return np.asarray(resampled, dtype=np.float32)


def _pad_with_edges(signal: FloatArray, margin: int, length: int, origin: FloatArray) -> FloatArray:
    """Take the origin from each row and hold the row's edges, `margin` before it and up to `length` in all."""
    n_samples = min(signal.shape[-1], length - margin)
    padded = np.empty((*signal.shape[:-1], length), dtype=np.float32)
    padded[..., :margin] = signal[..., :1] - origin
    np.subtract(signal[..., :n_samples], origin, out=padded[..., margin : margin + n_samples])
    padded[..., margin + n_samples :] = signal[..., -1:] - origin
    return padded


@lru_cache(maxsize=16)
def _lowpass_taps(up: int, down: int) -> FloatArray:
    """Design the anti-aliasing filter at `up` times the input rate: a sinc under a Kaiser window."""
    half = _HALF_FILTER * max(up, down)
    taps = np.sinc(np.arange(-half, half + 1) / max(up, down)) * np.kaiser(2 * half + 1, 5.0)
    # Divided by their sum, so that an offset passes unchanged; times `up` for the zeros between samples.
    return np.asarray(taps * (up / taps.sum()), dtype=np.float32)


def frame_layout(up: int, down: int) -> tuple[int, int]:
    """Return the samples a frame takes before and after, and how many times `up` it makes: 0 if that is too long."""
    margin, repeats = -(-_HALF_FILTER * max(up, down) // up), -(-16 // up)
    return margin, repeats if down * repeats + 2 * margin <= _LONGEST_FRAME else 0


@lru_cache(maxsize=16)
def frame_matrix(up: int, down: int, repeats: int) -> FloatArray:
    """Write the filter as the matrix that takes a frame of the input to `up * repeats` samples of the output."""
    half, (margin, _) = _HALF_FILTER * max(up, down), frame_layout(up, down)
    source = np.arange(down * repeats + 2 * margin)[:, None] - margin
    # Which tap meets which sample; outside the filter there is none.
    tap = np.arange(up * repeats) * down - source * up + half
    inside = (tap >= 0) & (tap <= 2 * half)
    return np.where(inside, _lowpass_taps(up, down)[np.clip(tap, 0, 2 * half)], np.float32(0.0))


def _fourier(signal: FloatArray, n_out: int) -> FloatArray:
    """Resample to `n_out` samples by cutting or extending the spectrum."""
    n_samples = signal.shape[-1]
    resampled = np.empty((*signal.shape[:-1], n_out), dtype=np.float32)
    # One transform a record, so that its rounding cannot depend on its neighbours (5 % slower than all at once).
    shape = signal.shape[-2:]
    for record, out in zip(signal.reshape(-1, *shape), resampled.reshape(-1, shape[0], n_out), strict=True):
        out[:] = _fourier_record(record, n_samples, n_out)
    return resampled


def _fourier_record(signal: FloatArray, n_samples: int, n_out: int) -> FloatArray:
    """Resample one (n_leads, n_samples) by its spectrum; the first sample is set aside to keep constants exact."""
    from scipy.fft import irfft, rfft

    n_shared = min(n_samples, n_out)
    spectrum = rfft(signal - signal[:, :1], axis=-1)[:, : n_shared // 2 + 1]
    if n_shared % 2 == 0 and n_samples != n_out:
        # The bin at the lower Nyquist frequency stands for its mirror image too.
        spectrum[:, -1] *= 2.0 if n_out < n_samples else 0.5
    resampled = irfft(spectrum, n_out, axis=-1, overwrite_x=True)
    resampled *= np.float32(n_out / n_samples)
    return np.add(resampled, signal[:, :1], dtype=np.float32)


def line_places(n_samples: int, n_out: int) -> tuple[NDArray[np.int64], FloatArray]:
    """Return where each of `n_out` samples lies among `n_samples`: the one before it, and how far beyond that."""
    position = np.arange(n_out) * ((n_samples - 1) / max(1, n_out - 1))
    # The last position is the last sample itself, which has no neighbour beyond.
    before = np.clip(position.astype(np.int64), 0, max(0, n_samples - 2))
    return before, (position - before).astype(np.float32)


def _linear(signal: FloatArray, n_out: int) -> FloatArray:
    """Resample to `n_out` samples on the lines between neighbours."""
    before, beyond = line_places(signal.shape[-1], n_out)
    first = signal[..., before]
    after = signal[..., np.minimum(before + 1, signal.shape[-1] - 1)]
    return np.asarray(first + beyond * (after - first), dtype=np.float32)
