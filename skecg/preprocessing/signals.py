"""Gaps, resampling, filtering and normalization: pure functions on (..., n_leads, n_samples), float32 in and out.

Every row is treated by itself, in an order of operations that depends on its own length alone. A record therefore
comes out bit for bit the same whether it is prepared alone or among others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ParameterError
from skecg.preprocessing.resampling import resample, resampled_samples

if TYPE_CHECKING:
    from skecg.spec import InputSpec

__all__ = [
    "FLAT",
    "butterworth",
    "fill_gaps",
    "GapFiller",
    "filter_leads",
    "filter_memory_samples",
    "limits_of",
    "mix_leads",
    "moments_of",
    "normalize",
    "resample",
    "resampled_samples",
]

FloatArray = NDArray[np.float32]

#: A lead whose standard deviation is below this share of its mean (or below this many mV) is rounding noise.
FLAT = 1e-6

# A gap ends soon as a rule: a search through a day's recording stops after the first piece that holds a sample.
_LOOKED_AT = 2**16

# A filter has forgotten what it still remembers this much of.
_FORGOTTEN = 1e-11


def fill_gaps(signal: FloatArray) -> FloatArray:
    """Interpolate missing samples linearly along time.

    Parameters
    ----------
    signal : ndarray of shape (..., n_leads, n_samples), float32
        NaN where samples are missing.

    Returns
    -------
    ndarray of the same shape, float32
        Gaps at either end take the nearest sample. Rows without a single sample stay NaN. The input itself when
        nothing is missing.
    """
    missing = np.isnan(signal)
    if not missing.any():
        return signal
    filled = np.array(signal, dtype=np.float32)
    rows, gaps = filled.reshape(-1, filled.shape[-1]), missing.reshape(-1, filled.shape[-1])
    for row in np.flatnonzero(gaps.any(axis=1) & ~gaps.all(axis=1)):
        lost, kept = np.flatnonzero(gaps[row]), np.flatnonzero(~gaps[row])
        rows[row, lost] = np.interp(lost, kept, rows[row, kept])
    return filled


class GapFiller:
    """Fills gaps of stretches of a signal as :func:`fill_gaps` does of the whole, looking no further than it must.

    Parameters
    ----------
    signal : ndarray of shape (n_leads, n_samples), float32
    rows : sequence of int
        The leads whose gaps are to be filled.
    """

    def __init__(self, signal: FloatArray, rows: Sequence[int]) -> None:
        self._signal = signal
        # By lead, where nothing was found so far: a lead that is off for hours is searched through once.
        self._empty = dict.fromkeys(rows, (0, 0))

    def fill(self, start: int, stop: int) -> FloatArray:
        """Return samples `start` to `stop`; a view of the signal where nothing is missing."""
        piece = self._signal[:, start:stop]
        missing = np.isnan(piece)
        if not missing.any():
            return piece
        filled = np.array(piece)
        for row in self._empty:
            if not missing[row].any():
                continue
            if missing[row].all():
                self._note(row, start, stop)  # which joins what is known before and behind
            lost, kept = np.flatnonzero(missing[row]), np.flatnonzero(~missing[row]) + start
            kept = np.concatenate([self._last_kept(row, start), kept, self._first_kept(row, stop)])
            if len(kept):
                filled[row, lost] = np.interp(lost + start, kept, self._signal[row, kept])
        return filled

    def _first_kept(self, row: int, start: int) -> NDArray[np.intp]:
        """Return the place of the first sample from `start` on that is not missing, none where all are."""
        lead, place = self._signal[row], start
        while place < len(lead):
            low, high = self._empty[row]
            if low <= place < high:
                place = high
                continue
            kept = np.flatnonzero(~np.isnan(lead[place : place + _LOOKED_AT]))
            if len(kept):
                place += int(kept[0])
                break
            place = min(place + _LOOKED_AT, len(lead))
        self._note(row, start, place)
        return np.arange(place, min(place + 1, len(lead)))

    def _last_kept(self, row: int, stop: int) -> NDArray[np.intp]:
        """Return the place of the last sample before `stop` that is not missing, none where all are."""
        lead, place = self._signal[row], stop
        while place > 0:
            low, high = self._empty[row]
            if low < place <= high:
                place = low
                continue
            first = max(0, place - _LOOKED_AT)
            kept = np.flatnonzero(~np.isnan(lead[first:place]))
            if len(kept):
                place = first + int(kept[-1]) + 1
                break
            place = first
        self._note(row, place, stop)
        return np.arange(max(place - 1, 0), place)

    def _note(self, row: int, start: int, stop: int) -> None:
        """Remember that nothing is there, together with what is known of the samples beside."""
        low, high = self._empty[row]
        touches = start <= high and low <= stop
        self._empty[row] = (min(low, start), max(high, stop)) if touches else (start, stop)


def filter_leads(signal: FloatArray, spec: InputSpec) -> FloatArray:
    """Take away what an encoder does not want to see: notch, slow and fast, baseline.

    Parameters
    ----------
    signal : ndarray of shape (..., n_leads, n_samples), float32
        At the encoder's rate.
    spec : InputSpec

    Returns
    -------
    ndarray of the same shape, float32
        The input itself where nothing is filtered.
    """
    if spec.notch_hz is not None:
        signal = notch(signal, spec.sampling_rate, spec.notch_hz, spec.notch_quality)
    signal = butterworth(
        signal,
        spec.sampling_rate,
        highpass_hz=spec.highpass_hz,
        lowpass_hz=spec.lowpass_hz,
        order=spec.filter_order,
        design=spec.filter_design,
    )
    if spec.baseline_samples is not None:
        signal = signal - running_median(signal, spec.baseline_samples)
    return signal


def notch(signal: FloatArray, sampling_rate: float, frequency_hz: float, quality: float = 30.0) -> FloatArray:
    """Take out one frequency, forwards and backwards, with a notch of second order.

    Parameters
    ----------
    signal : ndarray of shape (..., n_leads, n_samples), float32
    sampling_rate, frequency_hz : float
        Hz.
    quality : float, default=30.0
        The frequency over the width of the notch at -3 dB, in one pass.

    Returns
    -------
    ndarray of the same shape, float32
    """
    return _run_both_ways(signal, *_notch_sections(sampling_rate, frequency_hz, quality))


@lru_cache(maxsize=16)
def _notch_sections(sampling_rate: float, frequency_hz: float, quality: float) -> tuple[NDArray[np.float64], int]:
    """Design the notch as a second-order section, and say how far to continue the signal."""
    from scipy.signal import iirnotch

    return np.concatenate(iirnotch(frequency_hz, quality, fs=sampling_rate))[None], 9


def running_median(signal: FloatArray, n_samples: int) -> FloatArray:
    """Return the median of the samples around each, zeros beyond the ends.

    Parameters
    ----------
    signal : ndarray of shape (..., n_leads, n_samples), float32
    n_samples : int
        Odd length of the surroundings.

    Returns
    -------
    ndarray of the same shape, float32
    """
    from scipy.ndimage import median_filter

    # Row by row: scipy's filter for one dimension takes a sixtieth of the time of the one for several.
    rows = [median_filter(row, n_samples, mode="constant") for row in signal.reshape(-1, signal.shape[-1])]
    return np.stack(rows).reshape(signal.shape)


def butterworth(
    signal: FloatArray,
    sampling_rate: float,
    *,
    highpass_hz: float | None = None,
    lowpass_hz: float | None = None,
    order: int = 4,
    design: str = "cascade",
) -> FloatArray:
    """Filter forwards and backwards with Butterworth filters, so that no wave is delayed.

    Parameters
    ----------
    signal : ndarray of shape (..., n_leads, n_samples), float32
    sampling_rate : float
        Hz.
    highpass_hz, lowpass_hz : float or None, default=None
        Cut-off frequencies. The two passes together attenuate by 6 dB there.
    order : int, default=4
        Order of each of the two filters in one pass.
    design : {"cascade", "bandpass"}, default="cascade"
        Two filters, or one band-pass between the two frequencies.

    Returns
    -------
    ndarray of the same shape, float32
        The input itself when no cut-off is given.

    Raises
    ------
    ParameterError
        When a cut-off is not between 0 and half the sampling rate, or `order` is not positive.

    Notes
    -----
    Second-order sections, continued at either end by an odd reflection of scipy's usual length, or of the whole signal
    less one sample where that is shorter. Inside it is float64, which takes no longer: the poles of a high-pass lie so
    close to 1 that float32 sections miss the float64 result by 0.8 µV for 0.5 Hz at 500 Hz, by 5 µV for 0.05 Hz.
    """
    if highpass_hz is None and lowpass_hz is None:
        return signal
    return _run_both_ways(signal, *_butterworth_sections(sampling_rate, highpass_hz, lowpass_hz, order, design))


def _run_both_ways(signal: FloatArray, sections: NDArray[np.float64], padding: int) -> FloatArray:
    """Run second-order sections forwards and backwards."""
    from scipy.signal import sosfiltfilt

    try:
        filtered = sosfiltfilt(sections, signal, axis=-1, padlen=min(padding, signal.shape[-1] - 1))
    except np.linalg.LinAlgError as error:  # a cut-off so near to 0 that its poles are 1 in float64
        raise ParameterError(
            "Got a filter whose cut-off is too small a part of the sampling rate to be computed, expected at least a "
            "millionth of it. Leave the filter out (None), or take a lower order."
        ) from error
    return np.asarray(filtered, dtype=np.float32)


@lru_cache(maxsize=16)
def filter_memory_samples(spec: InputSpec) -> int:
    """Return how far away a sample no longer changes what :func:`filter_leads` gives, 0 without a filter."""
    rate, designs = spec.sampling_rate, []
    if spec.notch_hz is not None:
        designs.append(_notch_sections(rate, spec.notch_hz, spec.notch_quality))
    if spec.highpass_hz is not None or spec.lowpass_hz is not None:
        passes = spec.highpass_hz, spec.lowpass_hz
        designs.append(_butterworth_sections(rate, *passes, spec.filter_order, spec.filter_design))
    memory = (spec.baseline_samples or 0) // 2
    for sections, padding in designs:
        slowest = max(float(np.abs(np.roots(section[3:])).max()) for section in sections)
        memory += padding + math.ceil(math.log(_FORGOTTEN) / math.log(slowest))
    return memory


@lru_cache(maxsize=16)
def _butterworth_sections(
    sampling_rate: float, highpass_hz: float | None, lowpass_hz: float | None, order: int, design: str
) -> tuple[NDArray[np.float64], int]:
    """Design the filters as one cascade of second-order sections, and say how far to continue the signal."""
    from scipy.signal import butter

    if order < 1:
        raise ParameterError(f"Got order={order!r}, expected a positive integer.")
    sections = []
    cutoffs: list[tuple[Literal["highpass", "lowpass"], float | None]] = [
        ("highpass", highpass_hz),
        ("lowpass", lowpass_hz),
    ]
    for kind, cutoff in cutoffs:
        if cutoff is not None and not 0 < cutoff < sampling_rate / 2:
            raise ParameterError(
                f"Got {kind}_hz={cutoff!r}, expected a frequency between 0 and {sampling_rate / 2:g} Hz."
            )
        if cutoff is not None:
            sections.append(butter(order, cutoff, kind, fs=sampling_rate, output="sos"))
    if design == "bandpass":
        sections = [butter(order, [highpass_hz, lowpass_hz], "bandpass", fs=sampling_rate, output="sos")]
    cascade = np.concatenate(sections)
    # scipy counts a section of first order as one tap less when it chooses its padding.
    first_order = min(int((cascade[:, 2] == 0).sum()), int((cascade[:, 5] == 0).sum()))
    return cascade, 3 * (2 * len(cascade) + 1 - first_order)


def mix_leads(signal: FloatArray, sources: Sequence[Sequence[tuple[int, float]]], out: FloatArray) -> None:
    """Add to each row of `out` (n_leads, n_samples), of zeros, its source: rows of the signal times their weights."""
    for lead, source in zip(out, sources, strict=True):
        for position, (row, weight) in enumerate(source):
            if position == 0 and weight == 1.0:
                lead[:] = signal[row]
            else:
                lead += np.float32(weight) * signal[row]


def normalize(
    signal: FloatArray,
    spec: InputSpec,
    *,
    lead_mask: NDArray[np.bool_] | None = None,
    moments: tuple[FloatArray, FloatArray] | None = None,
) -> FloatArray:
    """Bring amplitudes to the scale that an encoder expects, and clip them.

    Parameters
    ----------
    signal : ndarray of shape (..., n_leads, n_samples), float32
        Whole records in millivolts, leads in the order of ``spec.leads``.
    spec : InputSpec
        Its `normalization`, `mean`, `std` and `clip` are used.
    lead_mask : ndarray of shape (..., n_leads), bool, or None
        False where a lead is absent: such leads take no part in what leads share, the deviation of ``"record"``, mean
        and deviation of ``"whole"``, limits of ``"minmax"``.
    moments : tuple of two ndarrays of shape (..., n_leads), optional
        Mean and variance of each lead, or its limits for ``"minmax"``, where the signal is but a part of the record.

    Returns
    -------
    ndarray of the same shape, float32
        Flat leads under ``"zscore"``, and records all flat under what leads share, become 0. The input itself when
        there is nothing to do.
    """
    if spec.normalization == "statistics":
        mean, std = (np.array(value, dtype=np.float32)[:, None] for value in (spec.mean, spec.std))
        scaled = (signal - mean if mean.any() else signal) / std
    elif spec.normalization == "none":
        scaled = signal
    else:
        counted = np.ones(signal.shape[:-1], bool) if lead_mask is None else lead_mask
        counted = np.broadcast_to(counted, signal.shape[:-1])
        if spec.normalization == "minmax":
            scaled = _to_unit_interval(signal, counted, moments)
        else:
            scaled = _standardize(signal, spec.normalization, counted, moments)
    if spec.clip is None:
        return scaled
    clipped = None if scaled is signal else scaled  # the array passed in is never modified
    return np.clip(scaled, np.float32(-spec.clip), np.float32(spec.clip), out=clipped)


def moments_of(stretches: Iterable[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Compute mean and variance of leads that come in stretches (n_leads, n_samples), each of shape (n_leads,)."""
    stretches = iter(stretches)
    signal = next(stretches)
    # Differences from the first sample: what they lie around may be a thousand times as large.
    first = signal[:, :1].copy()
    n_samples, sums, squares = 0, np.zeros(len(first)), np.zeros(len(first))
    for stretch in chain([signal], stretches):
        difference = stretch - first
        n_samples += difference.shape[1]
        sums += difference.sum(axis=1, dtype=np.float64)
        # Sums in float64: a day at 500 Hz has 4e7 samples, too many terms for the 24 bits of float32.
        squares += np.square(difference).sum(axis=1, dtype=np.float64)
    mean = sums / n_samples
    # The difference of two nearly equal numbers may round to less than 0.
    variance = np.maximum(squares / n_samples - np.square(mean), 0.0)
    return (mean + first[:, 0]).astype(np.float32), variance.astype(np.float32)


def limits_of(stretches: Iterable[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Find the smallest and the largest value of leads that come in stretches, each of shape (n_leads,)."""
    limits = [(stretch.min(axis=1), stretch.max(axis=1)) for stretch in stretches]
    lowest, highest = zip(*limits, strict=True)
    return np.min(lowest, axis=0), np.max(highest, axis=0)


def _standardize(
    signal: FloatArray,
    normalization: str,
    counted: NDArray[np.bool_],
    moments: tuple[FloatArray, FloatArray] | None,
) -> FloatArray:
    """Take away each lead's mean, or that of all leads, and divide by its own or by all leads' pooled deviation."""
    mean = signal.mean(axis=-1) if moments is None else moments[0]
    centred: FloatArray = signal - mean[..., None]
    variance = np.square(centred).mean(axis=-1) if moments is None else moments[1]
    if normalization == "whole":
        of_all = _over_leads(mean, counted)
        variance = _over_leads(variance + np.square(mean - of_all), counted)
        centred += (mean - of_all)[..., None]
        mean = of_all
    # Relative to the mean: beside an offset, rounding alone leaves a lead that stands still some deviation.
    flat = np.sqrt(variance) <= FLAT * (np.abs(mean) + 1.0)
    if normalization == "record":
        # Flat leads count as silent and not as absent: the pooled deviation is of all leads there are.
        variance = _over_leads(np.where(flat, np.float32(0.0), variance), counted)
    flat = flat | (variance == 0)
    scale = np.where(flat, np.float32(0.0), 1 / np.sqrt(np.where(flat, np.float32(1.0), variance)))
    centred *= scale[..., None]
    return centred


def _over_leads(values: FloatArray, counted: NDArray[np.bool_]) -> FloatArray:
    """Average values (..., n_leads) over the leads that count, for each of the leads."""
    total = np.where(counted, values, np.float32(0.0)).sum(axis=-1, keepdims=True)
    return np.broadcast_to(total / np.maximum(counted.sum(axis=-1, keepdims=True), 1), values.shape)


def _to_unit_interval(
    signal: FloatArray, counted: NDArray[np.bool_], limits: tuple[FloatArray, FloatArray] | None
) -> FloatArray:
    """Take the smallest and the largest value of all leads to 0 and 1."""
    lows, highs = limits or (signal.min(axis=-1), signal.max(axis=-1))
    lowest = np.where(counted, lows, np.inf).min(axis=-1)[..., None, None]
    highest = np.where(counted, highs, -np.inf).max(axis=-1)[..., None, None]
    span = highest - lowest
    flat = ~(span > FLAT * (np.abs(lowest) + 1.0))
    scaled = (signal - lowest) / np.where(flat, 1.0, span)
    return np.where(flat, 0.0, scaled).astype(np.float32)
