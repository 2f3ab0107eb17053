from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from skecg.errors import InputError
from skecg.metrics import calibration


def drawn(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Labels that are positive as often as the logits say."""
    return (np.random.default_rng(seed).random(logits.shape) < expit(logits)).astype(int)


def expit(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


LOGITS = np.random.default_rng(1).normal(-1, 1.5, (20_000, 1))


def test_true_probabilities_are_well_calibrated() -> None:
    found = calibration(drawn(LOGITS), expit(LOGITS))

    assert found.slope[0] == pytest.approx(1, abs=0.05)
    assert found.intercept[0] == pytest.approx(0, abs=0.05)
    assert found.expected_error[0] < 0.01


def test_the_slope_says_by_how_much_probabilities_are_too_extreme() -> None:
    found = calibration(drawn(LOGITS), expit(2 * LOGITS))

    assert found.slope[0] == pytest.approx(0.5, abs=0.03)
    assert found.expected_error[0] > 0.05


def test_the_intercept_says_by_how_much_they_are_too_high() -> None:
    found = calibration(drawn(LOGITS), expit(LOGITS + 0.7))

    assert found.intercept[0] == pytest.approx(-0.7, abs=0.05)
    assert found.slope[0] == pytest.approx(1, abs=0.05)


def test_slope_and_brier_are_those_of_scikit_learn() -> None:
    logits = LOGITS[:300]
    labels = drawn(logits)
    model = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(logits, labels[:, 0])

    found = calibration(labels, expit(logits))

    assert found.slope[0] == pytest.approx(model.coef_[0, 0], abs=1e-4)
    assert found.brier[0] == pytest.approx(brier_score_loss(labels[:, 0], expit(logits)[:, 0]))


def test_records_of_one_probability_are_one_bin_whatever_their_order() -> None:
    labels = np.repeat([0, 1], 50)[:, None]

    assert calibration(labels, np.full((100, 1), 0.5)).expected_error[0] == 0


def test_what_has_no_slope_has_none_and_warns_of_nothing() -> None:
    separated = calibration([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    constant = calibration([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5])
    one_sided = calibration([0, 0, 0, 0], [0.1, 0.2, 0.0, 0.0])

    assert np.isnan([separated.slope[0], constant.slope[0], one_sided.slope[0], one_sided.intercept[0]]).all()
    assert constant.intercept[0] == pytest.approx(0)


def test_probabilities_of_zero_and_one_have_a_calibration() -> None:
    labels, certain = drawn(LOGITS[:500]), (LOGITS[:500] > 0).astype(float)

    assert np.isfinite(calibration(labels, certain).slope).all()


def test_logits_are_refused() -> None:
    with pytest.raises(InputError, match="predict_proba"):
        calibration([0, 1], [-2.0, 3.0])
