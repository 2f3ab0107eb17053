"""R peaks are found where hearts beat, whatever the unit, the leads and their order; beats are described by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pretraining.data.features import beat_features, describe_beats
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
    np.testing.assert_allclose(beat_features(lifted[None], RATE), beat_features(heart[None], RATE), atol=1e-5)
