"""The bootstrap against simulated scores of which the truth is known."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from skecg.errors import ParameterError, ShapeError
from skecg.evaluation.bootstrap import Interval, bootstrap_auroc, bootstrap_mean, patient_draws
from skecg.evaluation.regression import score_regression
from skecg.metrics import area_under_roc, weighted_area_under_roc

N_SIMULATIONS = 250
# 95 % plus and minus three standard errors of a share of 250 simulations.
LOWEST, HIGHEST = 0.908, 0.992


def true_area(shift: float) -> float:
    """Of scores that are normal with deviation 1 and `shift` higher for positives."""
    return NormalDist().cdf(shift / 2**0.5)


def simulated(
    seed: int, n_records: int, shares: list[float], shifts: list[float], least: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    while True:
        labels = (rng.random((n_records, len(shares))) < shares).astype(int)
        if labels.sum(axis=0).min() >= least:
            return labels, rng.normal(size=labels.shape) + labels * shifts


def share_of(hits: list[bool]) -> float:
    return float(np.mean(hits))


@pytest.mark.parametrize("shares", [[0.3, 0.2, 0.1], [0.1]], ids=["three labels", "one label of 15 positives"])
def test_intervals_hold_the_truth_as_often_as_they_say(shares: list[float]) -> None:
    shifts = [0.8, 1.2, 1.6][: len(shares)]
    truth = float(np.mean([true_area(shift) for shift in shifts]))
    hits = []
    for seed in range(N_SIMULATIONS):
        labels, scores = simulated(seed, 150, shares, shifts, least=10)
        interval = bootstrap_auroc(labels, {"a": scores}, np.arange(150), n_draws=150, seed=seed).macro("a")
        hits.append(interval.low <= truth <= interval.high)

    assert LOWEST <= share_of(hits) <= HIGHEST


def test_a_rare_label_that_vanishes_from_draws_does_not_spoil_the_interval() -> None:
    # Three positives on average: the label is absent from one draw in twenty, and scores far below the other.
    shifts = [2.5, 0.3]
    truth = float(np.mean([true_area(shift) for shift in shifts]))
    hits, vanished, off_centre = [], [], []
    for seed in range(N_SIMULATIONS):
        labels, scores = simulated(seed, 150, [0.3, 0.025], shifts)
        boot = bootstrap_auroc(labels, {"a": scores}, np.arange(150), n_draws=150, seed=seed)
        interval = boot.macro("a")
        hits.append(interval.low <= truth <= interval.high)
        vanished.append(boot.vanished[1])
        off_centre.append(boot.draws["a"].mean() - interval.estimate)

    assert 0.02 < np.mean(vanished) < 0.15
    assert LOWEST <= share_of(hits) <= 1
    # The mean of the draws is the score: no draw is a mean over fewer labels.
    assert abs(np.mean(off_centre)) < 0.003


def test_differences_hold_the_truth_and_are_sharper_than_the_scores_they_are_of() -> None:
    hits, widths, unpaired = [], [], []
    for seed in range(N_SIMULATIONS):
        labels, common = simulated(seed, 200, [0.2, 0.15], [1.0, 1.4], least=5)
        rng = np.random.default_rng([seed, 7])
        # Two readers of the same records: most of what they see is common to both.
        a, b = (common + 0.4 * rng.normal(size=labels.shape) for _ in range(2))
        boot = bootstrap_auroc(labels, {"a": a, "b": b}, np.arange(200), n_draws=150, seed=seed)
        difference, score = boot.difference("a", "b"), boot.macro("a")
        hits.append(not difference.excludes_zero)
        widths.append(difference.high - difference.low)
        unpaired.append(score.high - score.low)

    assert LOWEST <= share_of(hits) <= HIGHEST
    assert np.mean(widths) < 0.6 * np.mean(unpaired)


def test_a_real_difference_is_found() -> None:
    labels, scores = simulated(0, 400, [0.3], [1.5])
    worse = scores + np.random.default_rng(1).normal(size=scores.shape) * 2

    boot = bootstrap_auroc(labels, {"better": scores, "worse": worse}, np.arange(400))

    difference = boot.difference("better", "worse")
    assert difference.excludes_zero
    assert difference.low > 0
    assert difference.estimate == pytest.approx(boot.macro("better").estimate - boot.macro("worse").estimate)
    mirrored = boot.difference("worse", "better")
    assert mirrored.low == pytest.approx(-difference.high)


def test_patients_with_many_records_widen_the_interval() -> None:
    labels, scores = simulated(2, 60, [0.4], [1.0])
    labels, scores = np.repeat(labels, 6, axis=0), np.repeat(scores, 6, axis=0)
    patients = np.repeat(np.arange(60), 6)

    by_patient = bootstrap_auroc(labels, {"a": scores}, patients).macro("a")
    by_record = bootstrap_auroc(labels, {"a": scores}, np.arange(360)).macro("a")

    assert by_patient.estimate == by_record.estimate
    # Six copies of a record say no more than one: the root of six is 2.4.
    assert by_patient.high - by_patient.low > 2 * (by_record.high - by_record.low)


def test_a_patient_is_drawn_whole() -> None:
    patients = np.array(["b", "a", "b", "c"])

    draws = patient_draws(patients, 4, 50)

    np.testing.assert_array_equal(draws[:, 0], draws[:, 2])
    assert (draws[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_all_that_is_compared_sees_the_same_draws_and_the_same_donors() -> None:
    labels, scores = simulated(5, 80, [0.3, 0.02], [1.0, 1.0], least=1)

    boot = bootstrap_auroc(labels, {"a": scores, "b": scores * 2 + 1}, np.arange(80))

    assert boot.vanished[1] > 0
    np.testing.assert_array_equal(boot.draws["a"], boot.draws["b"])
    assert boot.difference("a", "b") == Interval(0.0, 0.0, 0.0)


def test_a_label_without_positives_is_left_out_of_every_mean() -> None:
    labels, scores = simulated(5, 80, [0.3, 0.3], [1.0, 1.0])
    with_empty = np.column_stack([labels, np.zeros(80, dtype=int)])

    boot = bootstrap_auroc(with_empty, {"a": np.column_stack([scores, scores[:, 0]])}, np.arange(80))
    without = bootstrap_auroc(labels, {"a": scores}, np.arange(80))

    assert boot.macro("a") == without.macro("a")
    assert np.isnan(boot.label("a", 2).estimate)
    assert np.isnan(boot.macro("a", [False, False, True]).low)


def test_several_fits_are_averaged_in_every_draw() -> None:
    labels, scores = simulated(5, 80, [0.3, 0.3], [1.0, 1.0])
    other = scores[::-1].copy()

    boot = bootstrap_auroc(labels, {"both": np.stack([scores, other])}, np.arange(80))

    expected = (area_under_roc(labels, scores) + area_under_roc(labels, other)) / 2
    np.testing.assert_allclose(boot.point["both"], expected)


def test_the_same_seed_gives_the_same_interval() -> None:
    labels, scores = simulated(5, 80, [0.3], [1.0])
    one, same, other = (
        bootstrap_auroc(labels, {"a": scores}, np.arange(80), n_draws=50, seed=seed).macro("a") for seed in (0, 0, 1)
    )

    assert one == same
    assert one != other


def test_an_interval_is_the_score_and_a_quantile_of_student_times_the_widened_deviation() -> None:
    labels, scores = simulated(3, 90, [0.1], [1.0], least=5)
    n_positive = int(labels.sum())
    raw = weighted_area_under_roc(labels, scores, patient_draws(np.arange(90), 90, 400, seed=2))[:, 0]
    area = float(area_under_roc(labels, scores)[0])

    boot = bootstrap_auroc(labels, {"a": scores, "none": 0 * scores}, np.arange(90), n_draws=400, seed=2)

    half_width = stats.t.ppf(0.975, n_positive - 1) * raw.std(ddof=1) * (n_positive / (n_positive - 1)) ** 0.5
    difference = boot.difference("a", "none")
    assert boot.vanished[0] == 0
    assert difference.high - difference.estimate == pytest.approx(half_width, rel=1e-9)
    logit, on_logits = np.log(area / (1 - area)), half_width / (area * (1 - area))
    assert boot.macro("a").low == pytest.approx(1 / (1 + np.exp(on_logits - logit)), rel=1e-9)


def test_limits_stay_between_zero_and_one_and_a_perfect_score_has_none() -> None:
    labels = np.array([0] * 20 + [1] * 4)
    nearly = np.r_[np.arange(20.0), 19.5, 21, 22, 23]

    high = bootstrap_auroc(labels, {"a": np.r_[np.arange(20.0), 18.5, 21, 22, 23]}, np.arange(24)).macro("a")
    perfect = bootstrap_auroc(labels, {"a": nearly}, np.arange(24)).macro("a")

    assert 0 < high.low < high.estimate < high.high < 1
    assert perfect.estimate == 1
    assert np.isnan(perfect.low)


@pytest.mark.parametrize("nobody", [np.nan, None])
def test_records_without_a_patient_are_not_all_of_one(nobody: object) -> None:
    patients = np.array(["a", "b", nobody, nobody], dtype=object)
    with pytest.raises(ParameterError, match=r"Got patients without a patient for 2 of 4 records \(record 2 first\)"):
        bootstrap_auroc([0, 1, 0, 1], {"x": [0.1, 0.2, 0.3, 0.4]}, patients)


def test_one_patient_says_nothing_of_others() -> None:
    found = bootstrap_auroc([0, 1, 0, 1], {"x": [0.1, 0.2, 0.3, 0.2]}, ["a"] * 4, n_draws=50).macro("x")
    assert found.estimate == 0.5
    assert np.isnan([found.low, found.high]).all()
    mean = bootstrap_mean({"x": [0.1, 0.2, 0.6]}, ["a"] * 3, n_draws=50).macro("x")
    assert mean.estimate == pytest.approx(0.3)
    assert np.isnan([mean.low, mean.high]).all()
    error = score_regression([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], ["a"] * 3, n_draws=50).mean_absolute_error
    assert error.estimate == pytest.approx(1 / 3)
    assert np.isnan([error.low, error.high]).all()


def test_what_does_not_belong_together_is_refused() -> None:
    labels, scores = simulated(5, 80, [0.3], [1.0])

    with pytest.raises(ShapeError, match="patients of shape"):
        bootstrap_auroc(labels, {"a": scores}, np.arange(79))
    with pytest.raises(ShapeError, match="expected the same"):
        bootstrap_auroc(labels, {"a": scores[:7]}, np.arange(80))
    with pytest.raises(ParameterError, match="n_draws=0"):
        bootstrap_auroc(labels, {"a": scores}, np.arange(80), n_draws=0)


def test_scores_of_other_names_labels_and_lengths_are_refused() -> None:
    labels, scores = simulated(5, 80, [0.3, 0.4], [1.0, 1.0])
    boot = bootstrap_auroc(labels, {"a": scores}, np.arange(80), n_draws=20)

    for ask in (lambda: boot.macro("b"), lambda: boot.difference("a", "b"), lambda: boot.label("b", 0)):
        with pytest.raises(ParameterError, match="'b', of which there are no scores; those are of a"):
            ask()
    for label in (-1, 2):
        with pytest.raises(ParameterError, match=f"label {label}, expected the number of one of 2 labels"):
            boot.label("a", label)
    with pytest.raises(ParameterError, match=r"shape \(3,\), expected a truth value for each of 2"):
        boot.macro("a", [True, False, True])


def test_differences_of_few_patients_stay_possible_and_are_shown_without_what_they_lack() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([[1], [1], [0], [0], [0]])
    boot = bootstrap_auroc(labels, {"a": labels + 0.0, "b": rng.random((5, 1))}, np.arange(5), n_draws=50)
    found = boot.difference("a", "b")
    assert -1 <= found.low <= found.estimate <= found.high <= 1
    assert str(boot.macro("a")) == "1.000 (- to -)"
    assert str(-Interval(0.0, 0.0, 0.0)) == "0.000 (0.000 to 0.000)"
