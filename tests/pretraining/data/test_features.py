"""R peaks are found where hearts beat, whatever the unit, the leads and their order; beats are described by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pretraining.data.features import (
    DESCRIPTOR_KINDS,
    beat_features,
    describe_beats,
    describe_recordings,
    qrs_widths,
    rhythm_features,
    slope_autocorrelations,
)
from skecg.datasets import make_ecg
from skecg.preprocessing.r_peaks import find_r_peaks

RATE = 250.0


@pytest.fixture(scope="module")
def heart() -> np.ndarray:
    """Ten seconds at one beat a second."""
    return make_ecg(1, sampling_rate=RATE, heart_rate=60.0, noise=0.02, random_state=1)[0][0].signal


@pytest.mark.parametrize(
    ("name", "least_sensitivity", "least_precision"), [("ludb", 0.999, 0.999), ("qtdb", 0.999, 0.99)]
)
def test_peaks_are_where_annotators_marked_qrs_complexes(
    shared: Path, benchmark: Callable[[str], ModuleType], name: str, least_sensitivity: float, least_precision: float
) -> None:
    path = shared / "data" / {"ludb": "ludb_500hz.npz", "qtdb": "qtdb_250hz.npz"}[name]
    module = benchmark("r_peaks")
    result = module.score(find_r_peaks, list(getattr(module, f"read_{name}")(path)))
    assert result.complexes > 1000
    assert result.found / result.complexes >= least_sensitivity
    assert result.found / result.peaks >= least_precision


def test_a_peak_is_counted_for_one_complex_only(benchmark: Callable[[str], ModuleType]) -> None:
    has_peak, is_true = benchmark("r_peaks").matched(np.array([100, 110, 300]), np.array([50, 105, 301, 303]), 20)
    assert has_peak.tolist() == [True, False, True]
    assert is_true.tolist() == [False, True, True, False]


def test_peaks_follow_the_heart(heart: np.ndarray) -> None:
    peaks = find_r_peaks(heart, RATE)
    assert 9 <= len(peaks) <= 11
    assert np.abs(np.diff(peaks) / RATE - 1.0).max() < 0.15


def test_neither_unit_nor_order_nor_offset_of_the_leads_matters(heart: np.ndarray) -> None:
    peaks = find_r_peaks(heart, RATE)
    offsets = np.arange(12, dtype=np.float32)[:, None]
    for changed in (1000 * heart, heart[::-1], heart + offsets):
        assert np.abs(find_r_peaks(np.ascontiguousarray(changed), RATE) - peaks).max() <= 1


def test_a_lead_without_a_signal_hides_no_beat(heart: np.ndarray) -> None:
    lacking = heart.copy()
    lacking[:8] = 0
    assert len(find_r_peaks(lacking, RATE)) == len(find_r_peaks(heart, RATE))


@pytest.mark.parametrize("level", [0.0, 1.0, 0.1])
def test_what_does_not_move_or_only_drifts_has_no_beats(level: float) -> None:
    still = np.full((12, 2500), level, np.float32)
    assert not len(find_r_peaks(still, RATE))
    assert not len(find_r_peaks(still + np.arange(2500, dtype=np.float32) * 1e-3, RATE))


def test_the_baseline_of_a_beat_does_not_matter(heart: np.ndarray) -> None:
    peaks = find_r_peaks(heart, RATE)
    lifted = heart + np.float32(0.5)
    np.testing.assert_allclose(describe_beats(lifted, peaks, RATE), describe_beats(heart, peaks, RATE), atol=1e-5)
    of_lifted, of_heart = (beat_features(signal[None], [peaks], RATE) for signal in (lifted, heart))
    np.testing.assert_allclose(of_lifted, of_heart, atol=1e-5)


def test_the_rhythm_is_told_in_seconds_whatever_the_rate() -> None:
    seconds = np.array([0.5, 1.3, 2.1, 3.3, 4.1])
    slow, fast = (
        rhythm_features(np.rint(seconds * rate).astype(int), round(5 * rate), rate) for rate in (100.0, 500.0)
    )
    np.testing.assert_allclose(slow, fast, rtol=1e-5)
    intervals, changes = np.array([0.8, 0.8, 1.2, 0.8]), np.array([0.0, 0.4, 0.4])
    wanted = [1 / 0.8, 0.8, *np.log([intervals.std() + 0.01, changes.mean() + 0.01, intervals.std() / 0.9 + 0.01])]
    np.testing.assert_allclose(slow, [*wanted, 1.0, 2 / 3, 0.8, 1.2, 0.8, 0.9], rtol=1e-5)


@pytest.mark.parametrize("n_peaks", [0, 1, 2])
def test_two_beats_have_no_rhythm(n_peaks: int) -> None:
    assert not rhythm_features(np.arange(n_peaks) * 100, 1000, 100.0).any()


@pytest.mark.parametrize("rate", [100.0, 250.0, 500.0])
def test_a_steady_heart_is_like_itself_a_beat_later(rate: float) -> None:
    heart = make_ecg(1, sampling_rate=rate, heart_rate=75.0, noise=0.0, random_state=2)[0][0].signal
    found = slope_autocorrelations(np.stack([heart, heart[::-1]]), rate)
    lags = 0.2 + 0.02 * np.arange(90)
    assert found.shape == (2, 90)
    assert np.abs(found).max() <= 1
    # After one beat or two: the heart is not as steady as a clock.
    assert min(abs(lags[found[0].argmax()] - beats * 0.8) for beats in (1, 2)) < 0.06
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_short_recording_is_not_compared_with_what_comes_after_it(heart: np.ndarray) -> None:
    found = slope_autocorrelations(heart[None, :, :250], RATE)[0]
    assert found[:30].any()
    assert not found[41:].any()
    assert not slope_autocorrelations(np.ones((1, 12, 500), np.float32), RATE).any()


def test_a_wider_complex_is_wider_whatever_its_size_and_the_rate() -> None:
    def width(scale: float, millivolts: float, rate: float = 500.0) -> np.ndarray:
        seconds = np.arange(0, 4, 1 / rate)
        beats = sum(np.exp(-0.5 * ((seconds - at) / scale) ** 2) for at in (0.9, 1.9, 2.9))
        signal = millivolts * np.tile(beats, (12, 1)).astype(np.float32)
        return qrs_widths(signal, np.rint(np.array([0.9, 1.9, 2.9]) * rate).astype(int), rate)

    narrow, wide = width(0.012, 1.0), width(0.024, 1.0)
    np.testing.assert_allclose(wide[:10], 2 * narrow[:10], rtol=0.12)
    assert np.all(np.diff(narrow[:10:2]) < 0), "the higher the share, the less wide"
    np.testing.assert_allclose(width(0.012, 3.0)[:10], narrow[:10], atol=0.003)
    np.testing.assert_allclose(width(0.024, 1.0, 100.0)[:10], wide[:10], atol=0.01)
    assert wide[11] > narrow[11]


def test_without_a_whole_beat_nothing_is_wide(heart: np.ndarray) -> None:
    assert not qrs_widths(heart, np.array([10, 2495]), RATE).any()


def test_a_description_has_the_numbers_of_its_kinds(heart: np.ndarray) -> None:
    for signals in (heart[None], heart[None, :, :200], np.zeros_like(heart)[None]):
        described = describe_recordings(signals, RATE)
        assert described.shape == (1, sum(kind.n_raw for kind in DESCRIPTOR_KINDS))
        assert np.isfinite(described).all()


@pytest.mark.parametrize(("rate", "n_samples"), [(8.0, 200), (16.0, 200), (20.0, 14), (20.0, 11), (1000.0, 500)])
def test_where_no_complex_could_be_seen_there_are_no_peaks(rate: float, n_samples: int) -> None:
    noise = np.random.default_rng(0).normal(size=(2, n_samples)).astype(np.float32)
    assert len(find_r_peaks(noise, rate)) == 0
