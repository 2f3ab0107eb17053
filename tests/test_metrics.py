from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from skecg.errors import InputError, ShapeError
from skecg.metrics import (
    area_under_precision_recall,
    area_under_roc,
    best_thresholds,
    calibration,
    f1_scores,
    macro,
    weighted_area_under_roc,
)


def random_scores(seed: int, n_records: int = 120, n_labels: int = 4, steps: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels with at least one record on each side, and scores; `steps` makes ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n_records, n_labels)) < rng.uniform(0.05, 0.6, n_labels)).astype(int)
    labels[0], labels[1] = 1, 0
    scores = rng.normal(size=labels.shape) + 0.7 * labels
    return labels, np.round(scores * steps) / steps if steps else scores


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 1, 2, 10]))
def test_areas_are_those_of_scikit_learn_ties_and_all(seed: int, steps: int) -> None:
    labels, scores = random_scores(seed, steps=steps)

    np.testing.assert_allclose(area_under_roc(labels, scores), roc_auc_score(labels, scores, average=None), atol=1e-12)
    np.testing.assert_allclose(
        area_under_precision_recall(labels, scores),
        average_precision_score(labels, scores, average=None),
        atol=1e-12,
    )


@pytest.mark.parametrize("steps", [0, 2])
def test_a_weight_is_a_record_that_comes_so_often(steps: int) -> None:
    labels, scores = random_scores(3, steps=steps)
    weights = np.random.default_rng(0).integers(0, 4, (7, len(labels)))

    areas = weighted_area_under_roc(labels, scores, weights)

    for row, counts in zip(areas, weights, strict=True):
        rows = np.repeat(np.arange(len(labels)), counts)
        np.testing.assert_allclose(row, roc_auc_score(labels[rows], scores[rows], average=None), atol=1e-12)


def test_only_the_order_of_scores_counts() -> None:
    labels, scores = random_scores(1)

    np.testing.assert_array_equal(area_under_roc(labels, scores), area_under_roc(labels, np.exp(scores)))
    np.testing.assert_allclose(area_under_roc(labels, -scores), 1 - area_under_roc(labels, scores))


def test_scores_that_say_nothing_have_one_half_and_the_share_of_positives() -> None:
    labels, _ = random_scores(1)
    same = np.full(labels.shape, 0.3)

    np.testing.assert_array_equal(area_under_roc(labels, same), 0.5)
    np.testing.assert_allclose(area_under_precision_recall(labels, same), labels.mean(axis=0))


def test_a_label_without_positives_has_no_value_and_does_not_count_in_the_mean() -> None:
    labels, scores = random_scores(1)
    labels[:, 2] = 0

    areas = area_under_roc(labels, scores)

    assert np.isnan(areas).tolist() == [False, False, True, False]
    assert macro(areas) == pytest.approx(areas[[0, 1, 3]].mean())
    assert macro(areas, [True, False, True, False]) == macro(areas, [1, 0, 1, 0]) == areas[0]
    assert np.isnan(area_under_precision_recall(labels, scores)[2])
    assert np.isnan(best_thresholds(labels, scores)[2])
    assert np.isnan(macro([np.nan]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 2]))
def test_no_threshold_has_a_higher_f1_than_the_best(seed: int, steps: int) -> None:
    labels, scores = random_scores(seed, n_records=40, n_labels=2, steps=steps)

    best = f1_scores(labels, scores, best_thresholds(labels, scores))

    for threshold in np.unique(scores):
        assert (f1_scores(labels, scores, np.full(2, threshold)) <= best + 1e-12).all()


def test_f1_is_that_of_scikit_learn() -> None:
    labels, scores = random_scores(5)
    thresholds = np.array([0.0, 0.2, 0.4, 9.0])

    expected = f1_score(labels, scores >= thresholds, average=None, zero_division=0)

    np.testing.assert_allclose(f1_scores(labels, scores, thresholds), expected)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ShapeError, match="expected the same"):
        area_under_roc(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(InputError, match="zeros and ones"):
        area_under_roc([0, 2], [0.1, 0.2])
    with pytest.raises(InputError, match="1 scores that are not finite"):
        area_under_roc([0, 1], [0.1, np.nan])
    with pytest.raises(InputError, match="scores of type list with values that are no numbers"):
        area_under_roc([0, 1], ["a", "b"])
    with pytest.raises(InputError, match="labels with values that are masked"):
        area_under_roc(np.ma.masked_equal([0, 1, 9], 9), [0.1, 0.2, 0.3])
    with pytest.raises(ShapeError, match="weights"):
        weighted_area_under_roc([0, 1], [0.1, 0.2], np.ones((3, 5)))


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
    touching = calibration([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9])
    constant = calibration([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5])
    one_sided = calibration([0, 0, 0, 0], [0.1, 0.2, 0.0, 0.0])

    assert np.isnan([separated.slope[0], touching.slope[0], constant.slope[0]]).all()
    assert np.isnan([one_sided.slope[0], one_sided.intercept[0]]).all()
    assert constant.intercept[0] == pytest.approx(0)


def test_probabilities_of_zero_and_one_have_a_calibration() -> None:
    labels, certain = drawn(LOGITS[:500]), (LOGITS[:500] > 0).astype(float)

    assert np.isfinite(calibration(labels, certain).slope).all()


def test_logits_are_refused() -> None:
    with pytest.raises(InputError, match="predict_proba"):
        calibration([0, 1], [-2.0, 3.0])
