"""What a recording and its beats are like, in raw numbers that need no label: shapes and intervals.

R peaks are found by :mod:`skecg.preprocessing.r_peaks`; there is one cutter of windows around them.

Shapes: n recordings, L leads, T samples, K beats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.data.scaling import Kind
from skecg.evaluation.baselines import hand_crafted_features, random_convolution_features
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS
from skecg.preprocessing.r_peaks import find_r_peaks, r_peaks_of_each

__all__ = [
    "BEAT_KINDS",
    "DESCRIPTOR_KINDS",
    "RECORD_KINDS",
    "beat_features",
    "describe_beats",
    "describe_record",
    "describe_recordings",
    "qrs_widths",
    "rhythm_features",
    "slope_autocorrelations",
]

FloatArray = NDArray[np.float32]

# Beats are sampled every 16 ms: finer than any wave, whatever the rate of the shards is. Their baseline is the mean of
# the first 80 ms.
_STEP_SECONDS, _N_BASELINE = 0.016, 5
_MEDIAN_BEFORE_SECONDS, _MEDIAN_AFTER_SECONDS = 0.3, 0.5  # P wave to T wave at usual rates
_BEFORE_SECONDS, _AFTER_SECONDS = 0.24, 0.448

_N_LEADS = len(CANONICAL_LEADS)
_EIGHT = [CANONICAL_LEADS.index(lead) for lead in EIGHT_LEADS]
_N_POINTS = round((_BEFORE_SECONDS + _AFTER_SECONDS) / _STEP_SECONDS)
_N_INTERVALS = 3

# Numbers of the rhythm that beat_features ends with.
_N_RHYTHM = 4
#: Of a beat: shape in eight leads, and intervals.
BEAT_KINDS = (Kind(len(_EIGHT) * _N_POINTS, 40, 1.0), Kind(_N_INTERVALS, _N_INTERVALS, 0.3))
#: Of a recording: amplitudes, spectra and correlations; the median beat and the rhythm.
RECORD_KINDS = (
    Kind(21 * _N_LEADS + _N_LEADS * (_N_LEADS - 1) // 2, 100, 1.0),
    Kind(50 * _N_LEADS + _N_RHYTHM, 64, 1.0),
)

# Differences of successive intervals are counted above this: pNN50 in the literature of heart rate variability.
_NOTABLE_SECONDS = 0.05
# The slope is smoothed over so much, and compared with itself so much later.
_SLOPE_SECONDS, _LEAST_LAG_SECONDS, _LAG_STEP_SECONDS = 0.05, 0.2, 0.02
_N_RHYTHM_INTERVALS, _N_LAGS, _N_WIDTHS = 11, 90, 12 + _N_LEADS
# Shares of a QRS complex's steepest slope at which its width is taken, on a grid so fine.
_SLOPE_SHARES, _WIDTH_STEP_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5), 0.0025
# What is looked at about the R peak: more of it would hold P and T waves.
_QRS_BEFORE_SECONDS, _QRS_AFTER_SECONDS = 0.1, 0.12


def _offsets(before_seconds: float, after_seconds: float, sampling_rate: float) -> NDArray[np.int64]:
    """Return the samples of a beat's window, from its R peak on, every 16 ms."""
    n_points = round((before_seconds + after_seconds) / _STEP_SECONDS)
    return np.rint((np.arange(n_points) * _STEP_SECONDS - before_seconds) * sampling_rate).astype(np.int64)


def _baseline_removed(beats: FloatArray) -> FloatArray:
    """Take each beat's (..., n_points) first 80 ms from it."""
    return np.asarray(beats - beats[..., :_N_BASELINE].mean(axis=-1, keepdims=True))


def beat_features(signals_nLT: FloatArray, peaks: Sequence[NDArray[np.int64]], sampling_rate: float) -> FloatArray:
    """Describe the median beat and the rhythm of each recording.

    Parameters
    ----------
    signals_nLT : ndarray of shape (n_records, n_leads, n_samples)
        In millivolts.
    peaks : sequence of ndarray of int64
        Samples of each recording's R peaks, ascending.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (n_records, 50 * n_leads + 4), float32
        The median beat of each lead from 0.3 s before the R peak to 0.5 s after it, every 16 ms, less the mean of its
        first 80 ms; then the number of beats, the mean and the standard deviation of the intervals between them, and
        the mean size of the difference of successive ones (s). Zeros where no beat was found.
    """
    found = zip(signals_nLT, peaks, strict=True)
    return np.stack([_median_beat_and_rhythm(signal, peaks_K, sampling_rate) for signal, peaks_K in found])


def _median_beat_and_rhythm(signal_LT: FloatArray, peaks_K: NDArray[np.int64], sampling_rate: float) -> FloatArray:
    intervals = np.diff(peaks_K) / sampling_rate
    rhythm = [len(peaks_K), 0.0, 0.0, 0.0]
    if len(intervals):
        rhythm[1:3] = [intervals.mean(), intervals.std()]
    if len(intervals) > 1:
        rhythm[3] = np.abs(np.diff(intervals)).mean()
    return np.concatenate([_median_beat(signal_LT, peaks_K, sampling_rate), rhythm]).astype(np.float32)


def _median_beat(signal_LT: FloatArray, peaks_K: NDArray[np.int64], sampling_rate: float) -> FloatArray:
    """Compute the median of the beats that lie wholly inside, flattened lead after lead; zeros where none does."""
    offsets = _offsets(_MEDIAN_BEFORE_SECONDS, _MEDIAN_AFTER_SECONDS, sampling_rate)
    beat = _median_of_beats(signal_LT, peaks_K, offsets)
    if beat is None:
        return np.zeros(len(signal_LT) * len(offsets), np.float32)
    return np.asarray(_baseline_removed(beat).ravel(), dtype=np.float32)


def _median_of_beats(
    signal_LT: FloatArray, peaks_K: NDArray[np.int64], offsets: NDArray[np.int64]
) -> NDArray[np.floating] | None:
    """Return the median of what lies at some offsets from the R peaks, (L, offsets); None where no beat is whole."""
    inside = peaks_K[(peaks_K + offsets[0] >= 0) & (peaks_K + offsets[-1] < signal_LT.shape[-1])]
    # The median of beats drops extrasystoles and artefacts, which a mean would smear into all of it.
    return np.median(signal_LT[:, inside[:, None] + offsets], axis=1) if len(inside) else None


def describe_beats(signal_LT: FloatArray, peaks_K: NDArray[np.int64], sampling_rate: float) -> FloatArray:
    """Describe each beat of a recording by the numbers of :data:`BEAT_KINDS`, side by side.

    Parameters
    ----------
    signal_LT : ndarray of shape (12, n_samples)
        In millivolts.
    peaks_K : ndarray of shape (n_beats,), int64
        Samples of the R peaks, ascending.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (n_beats, 347), float32
        I, II, V1 to V6 from 0.24 s before to 0.43 s after, every 16 ms, less the mean of the first 80 ms; then the
        intervals (s) to the beats before and after, and the former over the recording's median. The first and the last
        sample are held beyond the ends; intervals that are not known are the median, which is 1 s for a single beat.
    """
    offsets = _offsets(_BEFORE_SECONDS, _AFTER_SECONDS, sampling_rate)
    places = np.clip(peaks_K[:, None] + offsets, 0, signal_LT.shape[-1] - 1)
    shapes = _baseline_removed(signal_LT[_EIGHT][:, places].transpose(1, 0, 2))
    flat = shapes.reshape(len(peaks_K), len(_EIGHT) * _N_POINTS)
    return np.asarray(np.concatenate([flat, _intervals(peaks_K, sampling_rate)], axis=1), dtype=np.float32)


def _intervals(peaks_K: NDArray[np.int64], sampling_rate: float) -> NDArray[np.float64]:
    """Compute the intervals (s) around each beat, (K, 3): before, after, and before over the usual one."""
    intervals = np.diff(peaks_K) / sampling_rate
    # The median, which an extrasystole and its pause leave alone.
    usual = np.median(intervals) if len(intervals) else 1.0
    known = np.concatenate([[usual], intervals, [usual]])
    before, after = known[: len(peaks_K)], known[1 : len(peaks_K) + 1]
    return np.stack([before, after, before / usual], axis=1)


def describe_record(
    signal_LT: FloatArray, sampling_rate: float, peaks_K: NDArray[np.int64] | None = None
) -> FloatArray:
    """Describe a recording (12, n_samples) in millivolts by the numbers of :data:`RECORD_KINDS`, side by side.

    Its R peaks are found, unless they are given.
    """
    peaks_K = find_r_peaks(signal_LT, sampling_rate) if peaks_K is None else peaks_K
    beat_and_rhythm = _median_beat_and_rhythm(signal_LT, peaks_K, sampling_rate)
    return np.concatenate([hand_crafted_features(signal_LT[None], sampling_rate)[0], beat_and_rhythm])


# --- rhythm and widths ------------------------------------------------------------------------------------------------


def rhythm_features(peaks_K: NDArray[np.int64], n_samples: int, sampling_rate: float) -> FloatArray:
    """Describe the intervals between a recording's beats.

    Parameters
    ----------
    peaks_K : ndarray of shape (n_beats,), int64
        Samples of the R peaks, ascending.
    n_samples : int
        Of the recording.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (11,), float32
        One over the median interval, and that (s); logarithms of the deviation, of the mean difference of successive
        ones, and of the deviation over the mean; beats a second; share of differences above 50 ms; least and greatest
        interval; the quarters (s). Zeros where fewer than three beats were found.
    """
    intervals = np.diff(peaks_K) / sampling_rate
    if len(intervals) < 2:
        return np.zeros(_N_RHYTHM_INTERVALS, np.float32)
    middle, changes = float(np.median(intervals)), np.abs(np.diff(intervals))
    deviations = np.log(np.array([intervals.std(), changes.mean(), intervals.std() / intervals.mean()]) + 0.01)
    beats_a_second, notable = len(peaks_K) * sampling_rate / n_samples, (changes > _NOTABLE_SECONDS).mean()
    spread = [intervals.min(), intervals.max(), *np.quantile(intervals, [0.25, 0.75])]
    return np.array([1 / middle, middle, *deviations, beats_a_second, notable, *spread], np.float32)


def slope_autocorrelations(signals_nLT: FloatArray, sampling_rate: float) -> FloatArray:
    """Compute how alike the slope of all leads is to itself 0.2 to 1.98 s later, every 20 ms.

    Parameters
    ----------
    signals_nLT : ndarray of shape (n_records, n_leads, n_samples)
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (n_records, 90), float32
        From -1 to 1; 0 beyond the end of a short recording, and of one that does not move. The rhythm, whether or not
        somebody finds its beats.
    """
    slope_nT = np.linalg.norm(np.diff(signals_nLT, axis=-1), axis=1)
    n_smooth = max(1, round(_SLOPE_SECONDS * sampling_rate))
    sums_nT = np.pad(slope_nT, ((0, 0), (n_smooth, 0))).cumsum(axis=1, dtype=np.float64)
    smooth_nT = sums_nT[:, n_smooth:] - sums_nT[:, :-n_smooth]
    smooth_nT -= smooth_nT.mean(axis=1, keepdims=True)
    lags = np.rint((_LEAST_LAG_SECONDS + _LAG_STEP_SECONDS * np.arange(_N_LAGS)) * sampling_rate).astype(int)
    n_samples = smooth_nT.shape[1]
    power_nF = np.abs(np.fft.rfft(smooth_nT, 2 * n_samples)) ** 2
    products_nT = np.pad(np.fft.irfft(power_nF)[:, :n_samples], ((0, 0), (0, max(0, lags[-1] + 1 - n_samples))))
    return np.asarray(products_nT[:, lags] / (products_nT[:, :1] + 1e-9), dtype=np.float32)


def qrs_widths(signal_LT: FloatArray, peaks_K: NDArray[np.int64], sampling_rate: float) -> FloatArray:
    """Describe how wide the median beat's QRS complex is, and when each lead is steepest.

    Parameters
    ----------
    signal_LT : ndarray of shape (12, n_samples)
        In millivolts.
    peaks_K : ndarray of shape (n_beats,), int64
        Samples of the R peaks, ascending.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (24,), float32
        From the first to the last place where the slope of all leads together is 5, 10, 20, 30 and 50 % of its
        greatest value, and how long before the R peak the first is (s); the logarithm of the energy about the R peak
        (mV^2), and its mean distance from it (s); the time from the R peak to each lead's steepest slope (s). Zeros
        where no beat lies wholly inside.
    """
    before, after = (round(seconds * sampling_rate) for seconds in (_MEDIAN_BEFORE_SECONDS, _MEDIAN_AFTER_SECONDS))
    # At the recording's own rate: the grid of median beats is coarser than a difference of widths.
    beat_LT = _median_of_beats(signal_LT, peaks_K, np.arange(-before, after + 1))
    if beat_LT is None:
        return np.zeros(_N_WIDTHS, np.float32)
    qrs_before, qrs_after = (round(seconds * sampling_rate) for seconds in (_QRS_BEFORE_SECONDS, _QRS_AFTER_SECONDS))
    qrs_LT = beat_LT[:, before - qrs_before : before + qrs_after + 1] - np.median(beat_LT, axis=1, keepdims=True)
    seconds_T = np.arange(-qrs_before, qrs_after + 1) / sampling_rate
    energy_T, slopes_LT = np.square(qrs_LT).sum(axis=0), np.diff(qrs_LT, axis=1)
    spread = (energy_T * np.abs(seconds_T)).sum() / (energy_T.sum() + 1e-9)
    # The slope from one sample to the next lies between them.
    between_T = seconds_T[:-1] + 0.5 / sampling_rate
    widths = _steep_stretches(np.linalg.norm(slopes_LT, axis=0), between_T)
    steepest_L = between_T[np.abs(slopes_LT).argmax(axis=1)]
    return np.concatenate([widths, [np.log(energy_T.mean() + 1e-3), spread], steepest_L]).astype(np.float32)


def _steep_stretches(slope_T: NDArray[np.floating], seconds_T: NDArray[np.float64]) -> list[float]:
    """Measure from where to where a slope is above shares of its greatest value: how long, and how long before 0."""
    fine_T = np.arange(seconds_T[0], seconds_T[-1], _WIDTH_STEP_SECONDS)
    steep_T, widths = np.interp(fine_T, seconds_T, slope_T), []
    for share in _SLOPE_SHARES:
        steep = np.flatnonzero(steep_T >= share * steep_T.max())
        widths += [fine_T[steep[-1]] - fine_T[steep[0]], -fine_T[steep[0]]]
    return widths


# --- what pre-training predicts ---------------------------------------------------------------------------------------

# Kernels other than those of the baseline that encoders are compared with.
_KERNEL_SEED = 20_260


class _Recordings(NamedTuple):
    """Recordings of one length, where their R peaks are, and what :func:`beat_features` says of them."""

    signals_nLT: FloatArray
    sampling_rate: float
    peaks: Sequence[NDArray[np.int64]]
    beats_nd: FloatArray

    @property
    def median_beats(self) -> FloatArray:
        """The median beat of each, lead after lead."""
        return self.beats_nd[:, :-_N_RHYTHM]


class _Descriptor(NamedTuple):
    """One kind of numbers, and how they are computed."""

    compute: Callable[[_Recordings], FloatArray]
    kind: Kind


# Waves below this are compared by their difference, those above by their ratio.
_SMALL_WAVE_MV = 0.1


def _convolutions(of: _Recordings) -> FloatArray:
    return random_convolution_features(of.signals_nLT, seed=_KERNEL_SEED)


def _hand_crafted(of: _Recordings) -> FloatArray:
    return hand_crafted_features(of.signals_nLT, of.sampling_rate)


def _median_beats(of: _Recordings) -> FloatArray:
    """Return the median beats, large waves compressed so that small ones count."""
    median = of.median_beats
    return np.asarray(np.sign(median) * np.log1p(np.abs(median) / _SMALL_WAVE_MV), dtype=np.float32)


def _beat_convolutions(of: _Recordings) -> FloatArray:
    """Return what convolutions see in the median beats: a wave's shape, whatever the rhythm."""
    median_nLT = of.median_beats.reshape(*of.signals_nLT.shape[:2], -1)
    return random_convolution_features(median_nLT, seed=_KERNEL_SEED + 1)


def _rhythm(of: _Recordings) -> FloatArray:
    n_samples = of.signals_nLT.shape[-1]
    return np.stack([rhythm_features(peaks_K, n_samples, of.sampling_rate) for peaks_K in of.peaks])


def _autocorrelations(of: _Recordings) -> FloatArray:
    return slope_autocorrelations(of.signals_nLT, of.sampling_rate)


def _widths(of: _Recordings) -> FloatArray:
    found = zip(of.signals_nLT, of.peaks, strict=True)
    return np.stack([qrs_widths(signal_LT, peaks_K, of.sampling_rate) for signal_LT, peaks_K in found])


# Kernels of random convolutions: 84 for each of six dilations, three numbers of each.
_N_CONVOLUTIONS = 3 * 6 * 84
_N_HAND_CRAFTED, _N_BEAT = RECORD_KINDS[0].n_raw, RECORD_KINDS[1].n_raw

_DESCRIBED = (
    # More components made descriptions worse: 384 scored lower than 256 (docs/log.md).
    _Descriptor(_convolutions, Kind(_N_CONVOLUTIONS, 256, 1.0)),
    _Descriptor(_hand_crafted, Kind(_N_HAND_CRAFTED, 100, 1.0)),
    _Descriptor(_median_beats, Kind(_N_BEAT - _N_RHYTHM, 60, 0.7)),
    _Descriptor(_beat_convolutions, Kind(_N_CONVOLUTIONS, 200, 0.7)),
    # What rate and width are is a few numbers among hundreds; at less weight features hardly held them (docs/log.md).
    _Descriptor(_rhythm, Kind(_N_RHYTHM_INTERVALS, 11, 0.8)),
    _Descriptor(_autocorrelations, Kind(_N_LAGS, 20, 0.8)),
    _Descriptor(_widths, Kind(_N_WIDTHS, 24, 0.9)),
)

#: Of a recording: what pre-training predicts, side by side.
DESCRIPTOR_KINDS = tuple(described.kind for described in _DESCRIBED)


def describe_recordings(signals_nLT: FloatArray, sampling_rate: float) -> FloatArray:
    """Describe recordings (n, 12, n_samples) in millivolts by the numbers of :data:`DESCRIPTOR_KINDS`, side by side."""
    peaks = r_peaks_of_each(signals_nLT, sampling_rate)
    recordings = _Recordings(signals_nLT, sampling_rate, peaks, beat_features(signals_nLT, peaks, sampling_rate))
    return np.concatenate([described.compute(recordings) for described in _DESCRIBED], axis=1).astype(np.float32)
