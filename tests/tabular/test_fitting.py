"""What a fitted model says of its probabilities is said of those that predictions show."""

from __future__ import annotations

import numpy as np
import pytest

from skecg.metrics import calibration
from skecg.tabular.fitting import _calibration_of
from skecg.tabular.targets import CLASSES, LABELS, Target

RNG = np.random.default_rng(0)
ALONE = RNG.uniform(0.05, 0.95, (200, 3))  # as labels have them: a row need not add up to 1
SHARES = ALONE / ALONE.sum(axis=1, keepdims=True)
DRAWN = np.array([RNG.choice(3, p=row) for row in SHARES])
HAS = np.eye(3, dtype=np.int8)[DRAWN]


@pytest.mark.parametrize(
    ("target", "given", "shown"),
    [
        (Target(CLASSES, "beat", ("a", "b", "c"), DRAWN), ALONE, SHARES),
        (Target(CLASSES, "beat", ("a", "b"), (DRAWN > 0).astype(int)), ALONE[:, :1], ALONE[:, :1]),
        (Target(LABELS, "beat", ("a", "b", "c"), HAS), ALONE, ALONE),
    ],
)
def test_the_calibration_is_of_what_predictions_show(target: Target, given: np.ndarray, shown: np.ndarray) -> None:
    found = _calibration_of(target, given)

    expected = calibration(target.indicator, shown)
    assert [row["label"] for row in found] == list(target.labels)
    assert [row["brier"] for row in found] == pytest.approx(expected.brier)
    assert [row["calibration_slope"] for row in found] == pytest.approx(expected.slope)
    assert [row["calibration_error"] for row in found] == pytest.approx(expected.expected_error)
    assert [row["calibration_intercept"] for row in found] == pytest.approx(expected.intercept)


def test_what_has_no_slope_has_none_in_words_of_json() -> None:
    (row,) = _calibration_of(Target(CLASSES, "b", ("a", "b"), np.array([0, 1])), np.array([[0.2], [0.8]]))

    assert row["calibration_slope"] is None
    assert row["brier"] == pytest.approx(0.04)
