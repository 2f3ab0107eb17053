"""Windows become a record again as if there had been none, and labels go the other way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skecg.finetuning.sample_labels import at_own_rate, stitch, window_labels


@settings(deadline=None, max_examples=50)
@given(n_samples=st.integers(20, 200), window=st.integers(5, 60), stride=st.integers(1, 60), seed=st.integers(0, 9))
def test_windows_that_agree_are_stitched_into_what_they_were_cut_from(
    n_samples: int, window: int, stride: int, seed: int
) -> None:
    whole = np.random.default_rng(seed).normal(size=(4, n_samples)).astype(np.float32)
    last = max(0, n_samples - window)
    starts = [*range(0, last, min(stride, window)), last]

    stitched = stitch([whole[:, start : start + window] for start in starts], starts)

    np.testing.assert_allclose(stitched, whole, rtol=1e-5, atol=1e-6)


def test_one_window_takes_over_from_the_other_without_a_step() -> None:
    ones, zeros = np.ones((1, 100), dtype=np.float32), np.zeros((1, 100), dtype=np.float32)

    stitched = stitch([ones, zeros], [0, 50])[0]

    assert (stitched[:50] == 1).all()
    assert (stitched[100:] == 0).all()
    steps = np.diff(stitched)
    assert (steps <= 0).all()
    assert np.abs(steps).max() < 0.05


def test_a_single_window_is_left_as_it_is() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)

    assert stitch([logits], [0]) is logits


def test_at_the_rate_of_the_encoder_nothing_is_interpolated() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)

    assert at_own_rate(logits, 250.0, 250.0, 30) is logits


@pytest.mark.parametrize(("rate", "n_samples"), [(500.0, 2000), (360.0, 1440), (128.0, 512), (1000.0, 4001)])
def test_logits_at_the_records_rate_lie_where_they_lay_in_time(rate: float, n_samples: int) -> None:
    encoder_rate = 250.0
    at_encoder = np.sin(2 * np.pi * np.arange(1001) / encoder_rate)[None].astype(np.float32)

    found = at_own_rate(at_encoder, encoder_rate, rate, n_samples)

    assert found.shape == (1, n_samples)
    np.testing.assert_allclose(found[0], np.sin(2 * np.pi * np.arange(n_samples) / rate), atol=2e-3)


@pytest.mark.parametrize(("rate", "step"), [(250.0, 1), (500.0, 2), (1000.0, 4)])
def test_a_windows_labels_are_those_of_the_samples_it_was_made_of(rate: float, step: int) -> None:
    labels = np.arange(100, dtype=np.int8)

    found = window_labels(labels, rate, 250.0, 5, 10, 12)

    assert found.tolist() == [*range(5 * step, 15 * step, step), -1, -1]


@pytest.mark.parametrize("rate", [125.0, 250.0, 360.0, 500.0, 1000.0])
def test_a_window_has_the_labels_of_its_own_seconds(rate: float) -> None:
    seconds = np.arange(int(8 * rate)) / rate
    labels = np.floor(seconds).astype(np.int8) % 4

    found = window_labels(labels, rate, 250.0, 500, 900, 1000)

    inside = np.abs((2 + np.arange(900) / 250.0) % 1 - 0.5) < 0.49  # seconds whose edge rounding cannot reach
    assert (found[:900][inside] == (np.floor(2 + np.arange(900) / 250.0) % 4)[inside]).all()
    assert (found[900:] == -1).all()
