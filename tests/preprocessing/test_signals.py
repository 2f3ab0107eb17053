from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from skecg.errors import ParameterError, SamplingRateError
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.resampling import METHODS, resampled_rate
from skecg.preprocessing.signals import (
    butterworth,
    fill_gaps,
    filter_leads,
    normalize,
    notch,
    resample,
    resampled_samples,
    running_median,
)
from skecg.spec import InputSpec

if TYPE_CHECKING:
    from pathlib import Path

RATES = [(500, 250), (250, 500), (100, 250), (360, 250), (257, 250), (977, 250), (400, 500), (999.56, 250), (128, 500)]
# Standard deviations of CODE-15 after baseline removal, as published with the temporal encoder; means are zero.
CODE15_STD = (0.488, 0.450, 0.437, 0.416, 0.405, 0.370, 0.548, 0.639, 0.719, 0.695, 0.676, 0.639)
MIMIC_MEAN = (0.023, 0.015, -0.007, -0.019, 0.014, 0.004, -0.018, -0.004, 0.002, 0.017, 0.022, 0.022)
MIMIC_STD = (0.155, 0.158, 0.166, 0.133, 0.141, 0.143, 0.207, 0.282, 0.284, 0.253, 0.222, 0.197)
TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tone(rate: float, seconds: float, frequency: float, phase: float = 0.3) -> np.ndarray:
    """A sine of 1 mV, as one lead."""
    times = np.arange(round(rate * seconds)) / rate
    return np.sin(2 * np.pi * frequency * times + phase)[None].astype(np.float32)


def spec(normalization: str = "none", leads: tuple[str, ...] = TWELVE, **fields: object) -> InputSpec:
    return InputSpec(leads, 250, 2500, normalization=normalization, **fields)


# Gaps


def test_a_signal_without_gaps_is_handed_back_itself() -> None:
    signal = noise(3, 100)
    assert fill_gaps(signal) is signal


def test_gaps_lie_on_the_line_between_their_neighbours_and_edges_are_held() -> None:
    signal = np.array([[np.nan, 1, np.nan, np.nan, 4, np.nan], [1, 2, 3, 4, 5, 6]], dtype=np.float32)
    filled = fill_gaps(signal)
    np.testing.assert_array_equal(filled, [[1, 1, 2, 3, 4, 4], [1, 2, 3, 4, 5, 6]])
    assert filled.dtype == np.float32
    assert np.isnan(signal[0, 0]), "the input must not be modified"


def test_a_lead_without_a_single_sample_stays_missing() -> None:
    signal = noise(2, 2, 50)
    signal[1, 0] = np.nan
    signal[0, 1, 10:20] = np.nan
    filled = fill_gaps(signal)
    assert np.isnan(filled[1, 0]).all()
    assert np.isfinite(filled[0]).all()


# Resampling


@pytest.mark.parametrize("method", ["polyphase", "fourier"])
@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_a_resampled_sine_stays_that_sine(rate_in: float, rate_out: float, method: str) -> None:
    resampled = resample(tone(rate_in, 10, 7.0), rate_in, rate_out, method)[0]
    n_samples = round(rate_in * 10)
    # Fourier spreads n_out samples evenly over the record, whatever the rate they were rounded from.
    step = n_samples / rate_in / len(resampled) if method == "fourier" else 1 / rate_out
    expected = np.sin(2 * np.pi * 7.0 * np.arange(len(resampled)) * step + 0.3)
    # The window's ripple is 0.3 %; a spectrum cut short leaks from the record's ends.
    np.testing.assert_allclose(resampled[300:-300], expected[300:-300], atol=4e-3 if method == "polyphase" else 2e-2)


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_polyphase_agrees_with_scipy_given_the_edges_held(rate_in: float, rate_out: float) -> None:
    signal = np.cumsum(noise(2, 1500), axis=1) * np.float32(0.1)
    ours = resample(signal, rate_in, rate_out)
    up, down = Fraction(rate_out / rate_in).limit_denominator(10_000).as_integer_ratio()
    centred = (signal - signal[:, :1]).astype(np.float64)
    theirs = scipy.signal.resample_poly(centred, up, down, axis=-1, padtype="edge") + signal[:, :1]
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
@pytest.mark.parametrize("n_samples", [1500, 1501])
def test_fourier_agrees_with_scipy(rate_in: float, rate_out: float, n_samples: int) -> None:
    signal = noise(2, n_samples)
    ours = resample(signal, rate_in, rate_out, "fourier")
    theirs = scipy.signal.resample(signal.astype(np.float64), int(rate_out / rate_in * n_samples), axis=-1)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_a_constant_stays_exactly_constant(rate_in: float, rate_out: float, method: str) -> None:
    resampled = resample(np.full((1, 777), 5.1, np.float32), rate_in, rate_out, method)
    assert (resampled == np.float32(5.1)).all()


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_an_offset_does_not_ring_at_the_edges(rate_in: float, rate_out: float) -> None:
    signal = tone(rate_in, 4, 3.0)
    difference = resample(signal + 5, rate_in, rate_out) - resample(signal, rate_in, rate_out)
    np.testing.assert_allclose(difference, 5.0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_a_record_alone_and_among_others_is_bit_identical(rate_in: float, rate_out: float, method: str) -> None:
    signal = noise(7, 12, 600)
    together = resample(signal, rate_in, rate_out, method)
    for i in (0, 3, 6):
        np.testing.assert_array_equal(together[i], resample(signal[i], rate_in, rate_out, method))


@given(
    n_samples=st.integers(1, 400),
    rates=st.sampled_from(RATES),
    method=st.sampled_from(METHODS),
)
@settings(max_examples=60, deadline=None)
def test_the_length_announced_is_the_length_made(n_samples: int, rates: tuple[float, float], method: str) -> None:
    resampled = resample(noise(1, n_samples), *rates, method)
    assert resampled.shape[-1] == resampled_samples(n_samples, *rates, method)
    assert abs(resampled.shape[-1] - n_samples * rates[1] / rates[0]) <= 1
    assert np.isfinite(resampled).all()


@pytest.mark.parametrize("rate_in", [100, 121, 128, 200, 240, 250, 257, 300, 360, 400, 500, 970, 977, 1000])
def test_whole_seconds_stay_whole_seconds(rate_in: int) -> None:
    for method in METHODS:
        assert resampled_samples(10 * rate_in, rate_in, 250, method) == 2500


@pytest.mark.parametrize("method", ["polyphase", "fourier"])
@pytest.mark.parametrize(("rate_in", "rate_out"), [(499.98, 100), (500.01, 100), (360.05, 250), (977, 250)])
def test_times_follow_from_the_rate_that_resampling_came_to(rate_in: float, rate_out: float, method: str) -> None:
    n_samples = int(3600 * rate_in) + 3
    slow = 2 * np.pi * np.arange(n_samples) / rate_in / 60
    made = resample(np.sin(slow)[None].astype(np.float32), rate_in, rate_out, method)[0]
    rate = resampled_rate(n_samples, rate_in, rate_out, method)
    seconds = np.arange(len(made)) / rate
    inside = (seconds > 60) & (seconds < 3540)  # Fourier takes the end to be the beginning
    # A hundredth of a second too late would be 1e-3.
    np.testing.assert_allclose(made[inside], np.sin(2 * np.pi * seconds / 60)[inside], atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate_in", [100, 128, 257, 360, 500, 1000])
def test_whole_seconds_come_to_the_rate_itself(rate_in: int, method: str) -> None:
    rate = resampled_rate(10 * rate_in, rate_in, 250, method)
    assert rate == (250 if method != "linear" or rate_in == 250 else pytest.approx(250, rel=1e-3))
    assert resampled_rate(1, rate_in, rate_in, method) == rate_in
    assert resampled_rate(1, rate_in, 250, method) > 0


def test_frequencies_beyond_the_new_nyquist_are_removed() -> None:
    for method, left in (("polyphase", 2e-3), ("fourier", 2e-3)):
        assert np.abs(resample(tone(1000, 10, 180.0), 1000, 250, method)[0, 100:-100]).max() < left


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_lines_are_those_of_numpy_between_ends_put_onto_ends(rate_in: float, rate_out: float) -> None:
    signal = noise(1, 777)
    n_out = resampled_samples(777, rate_in, rate_out, "linear")
    wanted = np.interp(np.arange(n_out), np.linspace(0, n_out - 1, 777), signal[0])
    np.testing.assert_allclose(resample(signal, rate_in, rate_out, "linear")[0], wanted, atol=1e-5)


def test_equal_rates_hand_the_signal_back_itself() -> None:
    signal = noise(2, 100)
    assert resample(signal, 250, 250.0, "fourier") is signal
    assert resample(signal, 250, 250.0) is signal


def test_a_missing_lead_does_not_spoil_the_others() -> None:
    signal = noise(3, 500)
    signal[1] = np.nan
    for method in ("polyphase", "fourier"):
        resampled = resample(signal, 500, 250, method)
        assert np.isnan(resampled[1]).all()
        assert np.isfinite(resampled[[0, 2]]).all()


@pytest.mark.parametrize("rate_in", [1e-9, 0.01, 1e9, float("nan"), float("inf"), 0, -5])
def test_impossible_rates_are_refused(rate_in: float) -> None:
    with pytest.raises(SamplingRateError, match="Hz"):
        resample(noise(1, 100), rate_in, 250)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ParameterError, match="method='cubic'"):
        resample(noise(1, 100), 500, 250, "cubic")


# Filtering


@pytest.mark.parametrize(("highpass_hz", "lowpass_hz"), [(0.5, None), (None, 40.0), (0.67, 40.0)])
@pytest.mark.parametrize("order", [1, 2, 4, 5])
def test_filters_attenuate_as_butterworth_says_and_delay_nothing(
    highpass_hz: float | None, lowpass_hz: float | None, order: int
) -> None:
    for frequency in (0.2, 5.0, 40.0, 80.0):
        signal = tone(250, 60, frequency)
        gain = 1.0
        if highpass_hz:
            gain /= 1 + (np.tan(np.pi * highpass_hz / 250) / np.tan(np.pi * frequency / 250)) ** (2 * order)
        if lowpass_hz:
            gain /= 1 + (np.tan(np.pi * frequency / 250) / np.tan(np.pi * lowpass_hz / 250)) ** (2 * order)
        filtered = butterworth(signal, 250, highpass_hz=highpass_hz, lowpass_hz=lowpass_hz, order=order)
        assert filtered.dtype == np.float32
        np.testing.assert_allclose(filtered[0, 3000:-3000], gain * signal[0, 3000:-3000], atol=2e-3)


@pytest.mark.parametrize("order", [1, 3, 4, 5])
def test_one_filter_agrees_with_scipy(order: int) -> None:
    signal = np.cumsum(noise(3, 2, 1000), axis=-1)
    sections = scipy.signal.butter(order, 40, "lowpass", fs=250, output="sos")
    expected = scipy.signal.sosfiltfilt(sections, signal.astype(np.float64), axis=-1)
    np.testing.assert_allclose(butterworth(signal, 250, lowpass_hz=40, order=order), expected, atol=1e-5)


@pytest.mark.parametrize("n_samples", [1, 2, 5, 15, 16, 27, 28])
def test_signals_shorter_than_the_usual_padding_are_filtered_too(n_samples: int) -> None:
    filtered = butterworth(noise(2, n_samples), 250, highpass_hz=0.5, lowpass_hz=40)
    assert filtered.shape == (2, n_samples)
    assert np.isfinite(filtered).all()


def test_a_band_is_the_one_that_scipy_passes() -> None:
    signal = noise(3, 1250)
    b, a = scipy.signal.butter(4, [0.67, 40], "bandpass", fs=500)
    wanted = scipy.signal.filtfilt(b, a, signal.astype(np.float64))
    found = butterworth(signal, 500, highpass_hz=0.67, lowpass_hz=40, design="bandpass")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    # It is not a high-pass and a low-pass after each other.
    assert np.abs(butterworth(signal, 500, highpass_hz=0.67, lowpass_hz=40) - wanted).max() > 1e-3


def test_a_notch_takes_out_its_frequency_and_leaves_its_neighbours_in_their_place() -> None:
    for hertz, left in ((50.0, 0.0), (40.0, 1.0), (60.0, 1.0)):
        signal = tone(500, 10, hertz)
        filtered = notch(signal, 500, 50.0)
        np.testing.assert_allclose(filtered[..., 1000:-1000], left * signal[..., 1000:-1000], atol=0.02)


@pytest.mark.parametrize("n_samples", [1, 2, 150, 201, 1250])
def test_a_running_median_is_that_of_scipy_with_zeros_beyond_the_ends(n_samples: int) -> None:
    signal = noise(2, n_samples) + 3
    padded = np.pad(signal, ((0, 0), (100, 100)))
    wanted = np.median(np.lib.stride_tricks.sliding_window_view(padded, 201, axis=-1), axis=-1)
    np.testing.assert_array_equal(running_median(signal, 201), wanted)


def test_filters_follow_each_other_notch_band_baseline() -> None:
    wanted = InputSpec(
        CANONICAL_LEADS,
        500,
        2500,
        notch_hz=50,
        highpass_hz=0.67,
        lowpass_hz=40,
        filter_design="bandpass",
        baseline_samples=201,
    )
    signal = noise(12, 1250)
    banded = butterworth(notch(signal, 500, 50), 500, highpass_hz=0.67, lowpass_hz=40, design="bandpass")
    np.testing.assert_array_equal(filter_leads(signal, wanted), banded - running_median(banded, 201))


def test_no_filter_hands_the_signal_back_itself() -> None:
    signal = noise(2, 100)
    assert butterworth(signal, 250) is signal


@pytest.mark.parametrize("wrong", [{"highpass_hz": 0.0}, {"lowpass_hz": 125.0}, {"lowpass_hz": 40.0, "order": 0}])
def test_impossible_filters_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match="expected"):
        butterworth(noise(1, 100), 250, **wrong)


# Normalization


def test_zscore_gives_every_lead_mean_zero_and_deviation_one() -> None:
    scaled = normalize(noise(4, 12, 800) * 3 + 2, spec("zscore"))
    np.testing.assert_allclose(scaled.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(-1), 1, atol=1e-4)


def test_record_keeps_the_leads_relative_sizes() -> None:
    signal = noise(12, 800) * np.linspace(0.1, 3, 12, dtype=np.float32)[:, None] + 2
    scaled = normalize(signal, spec("record"))
    np.testing.assert_allclose(scaled.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(np.sqrt(np.square(scaled).mean()), 1, rtol=1e-4)
    np.testing.assert_allclose(scaled.std(-1) / scaled.std(-1)[0], signal.std(-1) / signal.std(-1)[0], rtol=1e-4)


def test_absent_leads_do_not_weigh_in_the_pooled_deviation() -> None:
    signal = noise(12, 800)
    signal[5:] *= 100
    mask = np.arange(12) < 5
    scaled = normalize(signal, spec("record"), lead_mask=mask)
    np.testing.assert_allclose(np.sqrt(np.square(scaled[:5]).mean()), 1, rtol=1e-4)


def test_whole_has_one_mean_and_one_deviation_of_all_leads() -> None:
    signal = noise(2, 12, 900) * np.linspace(0.1, 2, 12, dtype=np.float32)[:, None] + 0.4
    scaled = normalize(signal, spec("whole"))
    wanted = [(record - record.mean()) / record.std() for record in signal.astype(np.float64)]
    np.testing.assert_allclose(scaled, wanted, atol=1e-5)


def test_minmax_takes_the_records_limits_to_0_and_1() -> None:
    signal = noise(2, 12, 900) - 7
    scaled = normalize(signal, spec("minmax"))
    assert scaled.dtype == np.float32
    for record, found in zip(signal, scaled, strict=True):
        np.testing.assert_allclose(found, (record - record.min()) / (record.max() - record.min()), atol=1e-6)


@pytest.mark.parametrize("normalization", ["whole", "minmax"])
def test_absent_leads_share_nothing(normalization: str) -> None:
    signal = noise(12, 800)
    loud = signal.copy()
    loud[5:] *= 100
    mask = np.arange(12) < 5
    scaled, wanted = (normalize(x, spec(normalization), lead_mask=mask)[:5] for x in (loud, signal))
    np.testing.assert_array_equal(scaled, wanted)


@pytest.mark.parametrize("normalization", ["whole", "minmax"])
@pytest.mark.parametrize("level", [0.0, 0.7, -32.768, 300.0])
def test_records_all_flat_become_zero(normalization: str, level: float) -> None:
    assert (normalize(np.full((12, 100), level, np.float32), spec(normalization)) == 0).all()


@pytest.mark.parametrize("normalization", ["zscore", "record"])
@pytest.mark.parametrize("level", [0.0, 0.7, -32.768, 300.0])
def test_flat_leads_become_zero(normalization: str, level: float) -> None:
    signal = noise(12, 2000)
    signal[3] = level
    signal = butterworth(resample(signal, 500, 250), 250, highpass_hz=0.5, lowpass_hz=40)
    scaled = normalize(signal, spec(normalization))
    assert (np.abs(scaled[3]) < (1e-6 if normalization == "zscore" else 1e-4)).all()
    assert scaled[4].std() > 0.5
    assert (normalize(np.full((12, 100), level, np.float32), spec(normalization)) == 0).all()


def test_statistics_take_away_the_mean_and_divide_lead_by_lead() -> None:
    mean, std = tuple(np.linspace(-1, 1, 12)), tuple(np.linspace(0.5, 2, 12))
    signal = noise(3, 12, 100)
    scaled = normalize(signal, spec("statistics", mean=mean, std=std))
    np.testing.assert_allclose(scaled, (signal - np.array(mean)[:, None]) / np.array(std)[:, None], atol=1e-6)
    assert scaled.dtype == np.float32


@pytest.mark.parametrize(
    "wanted",
    [
        spec(clip=0.5),
        spec("zscore", clip=0.5),
        spec("record", clip=0.5),
        spec("whole", clip=0.5),
        spec("minmax", clip=0.5),
        spec("statistics", mean=(0.0,) * 12, std=CODE15_STD, clip=0.5),
        spec("statistics", mean=MIMIC_MEAN, std=MIMIC_STD, clip=0.5),
    ],
)
def test_what_is_passed_in_is_never_modified(wanted: InputSpec) -> None:
    signal = noise(2, 12, 300)
    before = signal.copy()
    normalize(signal, wanted)
    resample(signal, 500, 250)
    resample(signal, 977, 250)
    np.testing.assert_array_equal(signal, before)


def test_clip_comes_last_and_nothing_asked_changes_nothing() -> None:
    signal = noise(12, 100) * 10
    assert normalize(signal, spec()) is signal
    assert np.abs(normalize(signal, spec(clip=5.0))).max() == 5
    assert np.abs(normalize(signal, spec("zscore", clip=1.5))).max() == 1.5


# The published systems' own numbers


def test_the_temporal_systems_preparation_is_reproduced(shared: Path) -> None:
    golden = np.load(shared / "golden" / "weimann_preproc_sched.npz")
    rounding = 2**-11

    def leads_first(name: str) -> np.ndarray:
        return np.ascontiguousarray(golden[name].astype(np.float32).T)

    filled = fill_gaps(leads_first("in_400hz_f16_with_nan"))
    np.testing.assert_allclose(filled, leads_first("interpolated"), rtol=rounding, atol=1e-6)

    highpassed = butterworth(leads_first("interpolated"), 400, highpass_hz=0.5)
    expected = leads_first("highpass_05hz_order4_filtfilt_on_interpolated")
    # They continue the signal past its ends in float16; float64 scipy is as far from them as this is.
    np.testing.assert_allclose(highpassed, expected, rtol=rounding, atol=5e-5)

    resampled = resample(leads_first("interpolated"), 400, 500, "fourier")
    np.testing.assert_allclose(resampled, leads_first("resampled_500hz"), rtol=rounding, atol=1e-6)

    code15 = spec("statistics", mean=(0.0,) * 12, std=CODE15_STD, clip=5.0)
    scaled = normalize(leads_first("resampled_500hz"), code15)
    np.testing.assert_allclose(scaled, leads_first("norm_clip_code15"), rtol=4 * rounding, atol=1e-6)

    mimic = spec("statistics", mean=MIMIC_MEAN, std=MIMIC_STD, clip=5.0)
    reordered = leads_first("in_500hz_f16_mimic_native_order")[golden["mimic_channel_order"]]
    # Their subtraction and division are in float16 steps: each rounds, the first relative to the millivolts.
    np.testing.assert_allclose(
        normalize(reordered, mimic), leads_first("mimic_norm_clip_reordered"), rtol=4 * rounding, atol=2e-3
    )


def test_the_leadwise_systems_preparation_is_reproduced(shared: Path) -> None:
    golden = np.load(shared / "golden" / "kim_small.npz")
    raw = np.ascontiguousarray(golden["raw_500hz_12lead_mV"][0].T[[0, 1, 6, 7, 8, 9, 10, 11]])
    np.testing.assert_allclose(resample(raw, 500, 250, "fourier"), golden["x"][0], atol=1e-5)


def test_a_cut_off_too_low_to_be_computed_is_an_error_of_the_parameter() -> None:
    with pytest.raises(ParameterError, match="too small a part of the sampling rate"):
        butterworth(np.ones((1, 100), dtype=np.float32), 500, highpass_hz=1e-13)
