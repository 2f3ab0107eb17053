from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from skecg.errors import ParameterError
from skecg.evaluation.protocols import OWN_LABELS, PooledProtocol, ProbeFit, label_draws
from skecg.evaluation.splitting import Split
from skecg.metrics import area_under_roc

N = 300
PATIENTS = np.arange(N).astype(str)
FIXED = Split(np.arange(180), np.arange(180, 240), np.arange(240, N), False, "folds")
PART = Split(np.arange(240), np.arange(0, 240, 5), np.arange(240, N), True, "a part")


def table(seed: int = 0, n_labels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Features of different scales, of which the first few carry the labels."""
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(N, 12)) * np.geomspace(0.01, 100, 12) + 5).astype(np.float32)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    labels = (standard[:, :n_labels] + 0.7 * rng.normal(size=(N, n_labels)) > 0.3).astype(np.int8)
    return features, labels


def fit(features: np.ndarray, labels: np.ndarray, split: Split, fraction: float = 1.0, **options: object) -> ProbeFit:
    draws = label_draws(PATIENTS, labels, split, [fraction], 1)
    return next(PooledProtocol(**options).fits(features, labels, split, draws))  # type: ignore[arg-type]


def by_scikit_learn(features: np.ndarray, labels: np.ndarray, rows: np.ndarray, C: float) -> np.ndarray:
    scaler = StandardScaler().fit(features[rows])
    X, test = scaler.transform(features[rows]), scaler.transform(features[240:])
    columns = [
        LogisticRegression(C=C, tol=1e-8, max_iter=2000).fit(X, labels[rows, k]).predict_proba(test)[:, 1]
        for k in range(labels.shape[1])
    ]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(("split", "rows"), [(FIXED, np.arange(180)), (PART, np.arange(240))], ids=["fold", "part"])
def test_what_is_tested_is_a_logistic_regression_on_the_training_records(split: Split, rows: np.ndarray) -> None:
    features, labels = table()

    found = fit(features, labels, split)

    expected = by_scikit_learn(features, labels, rows, found.C)
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-4)


def test_where_features_are_not_standardized_all_are_divided_by_one_number() -> None:
    features, labels = table()
    features[:, 3] = 7.0  # never varies, and has no part in the number

    found = fit(features, labels, FIXED, standardize=False)

    varying = np.delete(np.arange(12), 3)
    one = np.sqrt(features[:180, varying].var(axis=0, dtype=np.float64).mean())
    X = (features[:, varying] - features[:180, varying].mean(axis=0)) / one
    model = LogisticRegression(C=found.C, tol=1e-8, max_iter=2000).fit(X[:180], labels[:180, 0])
    np.testing.assert_allclose(found.probabilities[:, 0], model.predict_proba(X[240:])[:, 1], atol=2e-4)
    assert not np.allclose(found.probabilities, fit(features, labels, FIXED).probabilities, atol=1e-2)


def test_the_scales_of_features_do_not_matter() -> None:
    features, labels = table()

    same = fit(features * np.float32(1000) - 3, labels, FIXED)

    np.testing.assert_allclose(same.probabilities, fit(features, labels, FIXED).probabilities, atol=1e-4)


@pytest.mark.parametrize("split", [FIXED, PART])
def test_nothing_is_learned_from_the_test_records(split: Split) -> None:
    features, labels = table()
    changed, wrong = features.copy(), labels.copy()
    wrong[split.test] = 1 - wrong[split.test]
    changed[split.test[1:]] *= -7

    found, other = fit(features, labels, split), fit(changed, wrong, split)

    assert (found.C, found.selection_auroc) == (other.C, other.selection_auroc)
    np.testing.assert_array_equal(found.thresholds, other.thresholds)
    np.testing.assert_array_equal(found.probabilities[0], other.probabilities[0])


def test_the_penalty_is_the_best_on_the_selection_records() -> None:
    features, labels = table()
    one_by_one = {C: fit(features, labels, FIXED, Cs=(C,)).selection_auroc for C in PooledProtocol().Cs}

    found = fit(features, labels, FIXED)

    assert found.selection_auroc == pytest.approx(max(one_by_one.values()), abs=1e-9)
    assert one_by_one[found.C] == pytest.approx(found.selection_auroc, abs=1e-9)


def test_weaker_penalties_are_tried_only_where_the_weakest_is_the_best() -> None:
    # What tells the labels is a small difference between two columns of noise: weights have to be great to see it.
    rng = np.random.default_rng(0)
    noise, signal = rng.normal(size=(2, N, 1))
    features, labels = np.hstack([noise, noise + 0.05 * signal]).astype(np.float32), (signal > 0).astype(np.int8)

    found = fit(features, labels, FIXED, Cs=(1e-3, 1e-2), further_Cs=(1e2, 1e4))
    without = fit(features, labels, FIXED, Cs=(1e4, 1e-2), further_Cs=(-1.0,))  # which would be refused

    assert found.C >= 1e2
    assert found.selection_auroc > 0.95
    assert without.C == 1e4


def test_the_penalty_is_not_chosen_on_records_that_were_fitted() -> None:
    # A feature that names each record is worth nothing on others; on what was fitted it is all there is to know.
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (N, 1)).astype(np.int8)
    features = rng.normal(size=(N, 400)).astype(np.float32)

    assert abs(fit(features, labels, PART).selection_auroc - 0.5) < 0.25


def test_fewer_labels_are_all_that_is_used() -> None:
    features, labels = table()
    (draw,) = label_draws(PATIENTS, labels, FIXED, [0.2], 1)
    hidden = labels.copy()
    unused = np.setdiff1d(FIXED.train, draw.rows)
    hidden[unused] = 1 - hidden[unused]

    found = next(PooledProtocol().fits(features, labels, FIXED, [draw]))
    same = next(PooledProtocol().fits(features, hidden, FIXED, [draw]))

    assert len(draw.rows) == 36
    np.testing.assert_array_equal(found.probabilities, same.probabilities)


def test_a_label_that_no_training_record_has_is_given_its_share_and_one_half() -> None:
    features, labels = table()
    labels[FIXED.train, 1] = 0

    found = fit(features, labels, FIXED)

    assert (found.probabilities[:, 1] == 0).all()
    assert area_under_roc(labels[FIXED.test], found.probabilities)[1] == 0.5
    assert area_under_roc(labels[FIXED.test], found.probabilities)[0] > 0.8


def test_without_features_everybody_has_the_share_of_the_training_records() -> None:
    _, labels = table()

    found = fit(np.empty((N, 0), dtype=np.float32), labels, PART)

    np.testing.assert_allclose(found.probabilities, np.tile(labels[:240].mean(axis=0), (60, 1)))
    assert np.isnan(found.C)


def test_a_constant_feature_is_worth_nothing() -> None:
    features, labels = table()
    constant = np.full((N, 1), 3.7, dtype=np.float32)

    found = fit(np.hstack([features, constant]), labels, FIXED)

    np.testing.assert_allclose(found.probabilities, fit(features, labels, FIXED).probabilities, atol=1e-6)


def test_draws_are_of_patients_and_listed_by_share() -> None:
    _, labels = table()
    pairs = (np.arange(N) // 2).astype(str)

    draws = label_draws(pairs, labels, PART, [1.0, 0.1], 3)

    assert [(draw.fraction, draw.draw) for draw in draws] == [(0.1, 0), (0.1, 1), (0.1, 2), (1.0, 0)]
    assert all(len(draw.rows) == 2 * len(draw.patients) for draw in draws)
    assert draws[0].to_dict()["patients"] == draws[0].patients.tolist()
    with pytest.raises(ParameterError, match="0 draws"):
        label_draws(pairs, labels, PART, [0.1], 0)


def test_a_number_of_records_is_drawn_exactly_before_the_shares_and_otherwise_each_time() -> None:
    _, labels = table()
    groups = (np.arange(N) // 3).astype(str)

    draws = label_draws(groups, labels, PART, [1.0, 50, 0.5, 20], 2)

    assert [draw.fraction for draw in draws] == [20, 20, 50, 50, 0.5, 0.5, 1.0]
    assert [len(draw.rows) for draw in draws[:4]] == [20, 20, 50, 50]
    assert set(draws[2].rows) <= set(PART.train)
    assert set(draws[2].rows) != set(draws[3].rows)
    assert draws[2].patients.tolist() == np.unique(groups[draws[2].rows]).tolist()
    again = label_draws(groups, labels, PART, [50], 2)
    assert [draw.rows.tolist() for draw in again] == [draw.rows.tolist() for draw in draws[2:4]]


@pytest.mark.parametrize("amount", [241, 20.5])
def test_a_number_of_records_is_whole_and_there(amount: float) -> None:
    _, labels = table()

    with pytest.raises(ParameterError, match=f"{amount:g} training records"):
        label_draws(PATIENTS, labels, PART, [amount], 1)


def test_labels_of_ones_own_are_given_probabilities_that_say_something() -> None:
    features, labels = table()
    labels[:, 0] = features[:, 3] > features[:, 3].mean()  # a label that is easy to tell
    few = Split(np.arange(60), np.arange(0, 60, 4), np.arange(240, N), True, "few records")
    (draw,) = label_draws(PATIENTS, labels, few, [1.0], 1)
    ordered, likely = (
        next(protocol.fits(features[:, 3:4], labels[:, :1], few, [draw])) for protocol in (PooledProtocol(), OWN_LABELS)
    )
    true = labels[240:, 0] == 1
    assert likely.probabilities[true, 0].mean() > 0.85 > 0.15 > likely.probabilities[~true, 0].mean()
    assert np.ptp(ordered.probabilities) < 0.1
