"""The probe finds scikit-learn's optimum, for every label at once, and says so when it cannot."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from skecg import LogisticProbe
from skecg.errors import InputError, ParameterError
from skecg.linear_model import newton
from skecg.linear_model import newton as whitening

Matrix = NDArray[Any]


@parametrize_with_checks([LogisticProbe()])
def test_scikit_learns_estimator_checks(estimator: LogisticProbe, check: Any) -> None:
    check(estimator)


def test_scikit_learns_checks_really_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(LogisticProbe(), on_fail=None)
    statuses = [result["status"] for result in results]
    assert statuses.count("passed") >= 60
    assert set(statuses) <= {"passed", "skipped"}
    assert statuses.count("skipped") <= 1  # the array API, which needs an environment variable


def embeddings(n_records: int, n_features: int, n_labels: int, seed: int = 0) -> tuple[Matrix, Matrix]:
    """Draw standardized features of condition number 1e4 and more, and labels of which the last has 3 positives."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n_records, n_features))
    axes = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
    X = (latent / np.arange(1, n_features + 1) ** 2) @ axes
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    scores = latent[:, :n_labels] + rng.logistic(size=(n_records, n_labels))
    n_positive = np.geomspace(0.4 * n_records, 3, n_labels).astype(int)
    thresholds = [np.sort(column)[-count] for column, count in zip(scores.T, n_positive, strict=True)]
    return X.astype(np.float32), (scores >= thresholds).astype(int)


def objective(X: Matrix, Y: Matrix, coef: Matrix, intercept: Matrix, C: Any = 1.0, weight: Any = 1.0) -> Matrix:
    logits = X.astype(np.float64) @ coef.T + intercept
    return C * (weight * np.logaddexp(0, np.where(Y, -logits, logits))).sum(axis=0) + 0.5 * np.square(coef).sum(axis=1)


def by_scikit_learn(X: Matrix, Y: Matrix, C: float = 1.0, **options: Any) -> tuple[Matrix, Matrix]:
    solver = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=300, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not find that it has converged when nothing is left to gain
        fitted = [clone(solver).fit(X.astype(np.float64), y) for y in Y.T]
    return np.concatenate([one.coef_ for one in fitted]), np.concatenate([one.intercept_ for one in fitted])


def separable() -> tuple[Matrix, Matrix]:
    X = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    return X, np.stack([X[:, 0] > 0, X @ np.arange(6) > 3, X[:, 1] > 1.5], axis=1).astype(int)


def of_other_scales() -> tuple[Matrix, Matrix]:
    X, Y = embeddings(600, 8, 3)
    return (X * 10.0 ** np.arange(-4, 4) + 100).astype(np.float32), Y


CASES = {
    "ill-conditioned": lambda: embeddings(1500, 60, 5),
    "fewer records than features": lambda: embeddings(80, 200, 3),
    "separable": separable,
    "other scales and means": of_other_scales,
    "a constant feature": lambda: (np.c_[separable()[0], np.ones(200, np.float32)], separable()[1]),
    "only constant features": lambda: (np.ones((200, 2), np.float32), separable()[1]),
}


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_the_objective_is_scikit_learns_to_nine_digits(case: str, dtype: type, C: float) -> None:
    X, Y = CASES[case]()
    probe = LogisticProbe(C=C).fit(X.astype(dtype), Y)

    expected = objective(X, Y, *by_scikit_learn(X, Y, C), C)
    found = objective(X, Y, probe.coef_, probe.intercept_, C)

    assert (found <= expected * (1 + 1e-9)).all()
    assert (probe.n_iter_ < 30).all()


@pytest.mark.parametrize("intercept", [True, False])
def test_weights_and_constants_are_scikit_learns(intercept: bool) -> None:
    X, Y = embeddings(400, 12, 3)
    probe = LogisticProbe(fit_intercept=intercept).fit(X.astype(float) + 2, Y)
    coef, constant = by_scikit_learn(X.astype(float) + 2, Y, fit_intercept=intercept)
    np.testing.assert_allclose(probe.coef_, coef, atol=1e-6)
    np.testing.assert_allclose(probe.intercept_, constant, atol=1e-5)
    assert intercept or not probe.intercept_.any()


def test_float32_features_give_the_weights_of_float64_ones() -> None:
    X, Y = embeddings(800, 40, 4)
    narrow, wide = LogisticProbe().fit(X, Y), LogisticProbe().fit(X.astype(float), Y)
    np.testing.assert_allclose(narrow.coef_, wide.coef_, atol=1e-5)


def test_features_too_many_to_rotate_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = embeddings(300, 30, 3)
    rotated = LogisticProbe().fit(X, Y)
    monkeypatch.setattr(whitening, "LARGEST_ROTATION", 5)
    np.testing.assert_allclose(LogisticProbe().fit(X, Y).coef_, rotated.coef_, atol=1e-5)


def test_labels_solved_in_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = embeddings(300, 10, 5)
    together = LogisticProbe(class_weight="balanced").fit(X, Y)
    monkeypatch.setattr(newton, "LARGEST_BLOCK", 2 * 300)
    np.testing.assert_allclose(LogisticProbe(class_weight="balanced").fit(X, Y).coef_, together.coef_, atol=1e-6)


def test_a_label_does_not_depend_on_its_neighbours() -> None:
    X, Y = embeddings(300, 10, 4)
    together = LogisticProbe().fit(X, Y)
    for column in range(4):
        alone = LogisticProbe().fit(X, Y[:, column])
        np.testing.assert_allclose(together.coef_[column], alone.coef_[0], atol=1e-6)
        np.testing.assert_allclose(together.predict_proba(X)[:, column], alone.predict_proba(X)[:, 1], atol=1e-6)


def test_each_label_may_have_its_own_c() -> None:
    X, Y = embeddings(300, 10, 3)
    each = LogisticProbe(C=[0.01, 1, 100]).fit(X, Y)
    for column, C in enumerate([0.01, 1, 100]):
        np.testing.assert_allclose(each.coef_[column], LogisticProbe(C=C).fit(X, Y).coef_[column], atol=1e-5)


def test_more_than_two_classes_are_scikit_learns_softmax() -> None:
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    probe = LogisticProbe().fit(X, names)
    other = LogisticRegression(tol=1e-10, max_iter=5000).fit(X, names)
    np.testing.assert_allclose(probe.coef_, other.coef_, atol=1e-5)
    np.testing.assert_allclose(probe.predict_proba(X), other.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(probe.predict_log_proba(X), other.predict_log_proba(X), rtol=1e-5)
    assert abs(probe.intercept_.sum()) < 1e-9
    assert list(probe.predict(X)) == list(other.predict(X))
    assert probe.n_iter_.shape == (1,)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 7.0}])
def test_class_weights_are_scikit_learns(class_weight: Any) -> None:
    X, Y = embeddings(400, 8, 3)
    coef, _ = by_scikit_learn(X, Y, class_weight=class_weight)
    np.testing.assert_allclose(LogisticProbe(class_weight=class_weight).fit(X, Y).coef_, coef, atol=1e-5)


def test_class_weights_may_differ_by_label() -> None:
    X, Y = embeddings(400, 8, 2)
    probe = LogisticProbe(class_weight=[{1: 5.0}, {0: 2.0, 1: 1.0}]).fit(X, Y)
    first, second = by_scikit_learn(X, Y, class_weight={1: 5.0}), by_scikit_learn(X, Y, class_weight={0: 2.0})
    np.testing.assert_allclose(probe.coef_, [first[0][0], second[0][1]], atol=1e-5)


@pytest.mark.parametrize("y_of", [lambda Y: Y, lambda Y: Y[:, 0], lambda Y: Y.sum(axis=1)])
def test_a_weight_is_a_number_of_copies(y_of: Any) -> None:
    X, Y = embeddings(200, 5, 2)
    y, weight = y_of(Y), np.random.default_rng(0).integers(0, 4, 200)
    weighted = LogisticProbe(class_weight="balanced").fit(X, y, sample_weight=weight)
    copied = LogisticProbe(class_weight="balanced").fit(np.repeat(X, weight, axis=0), np.repeat(y, weight, axis=0))
    np.testing.assert_allclose(weighted.coef_, copied.coef_, atol=1e-5)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array, np.float64, np.bool_, list])
def test_an_indicator_may_be_of_any_kind(kind: Any) -> None:
    X, Y = embeddings(200, 5, 3)
    other = Y.tolist() if kind is list else kind(Y)
    expected = LogisticProbe().fit(X, Y)
    found = LogisticProbe().fit(X, other, sample_weight=np.r_[0, np.ones(199)])
    np.testing.assert_allclose(found.coef_, LogisticProbe().fit(X[1:], Y[1:]).coef_, atol=1e-6)
    assert found.predict(X).shape == expected.predict(X).shape == (200, 3)
    assert found.predict_proba(X).shape == (200, 3)


def test_a_path_is_the_separate_fits_in_the_order_asked_for_and_takes_fewer_steps() -> None:
    X, Y = embeddings(500, 20, 3)
    Cs = [10.0, 0.1, 1.0, [0.1, 1.0, 10.0]]
    before = LogisticProbe(class_weight="balanced", C=3.0)
    probes = before.path(X, Y, Cs)
    assert vars(before) == vars(LogisticProbe(class_weight="balanced", C=3.0))
    apart = [clone(before).set_params(C=C).fit(X, Y) for C in Cs]
    for probe, alone, C in zip(probes, apart, Cs, strict=True):
        assert probe.C == C
        np.testing.assert_allclose(probe.coef_, alone.coef_, atol=1e-5)
        assert probe.predict_proba(X).shape == (500, 3)
    assert sum(p.n_iter_.sum() for p in probes) < sum(p.n_iter_.sum() for p in apart)


def test_a_path_whitens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        "skecg.linear_model.logistic.whiten", lambda *arguments: calls.append(1) or whitening.whiten(*arguments)
    )
    X, y = load_iris(return_X_y=True)
    assert len(LogisticProbe().path(X, y, [0.1, 1, 10])) == 3
    assert len(calls) == 1
    assert LogisticProbe().path(X, y, []) == []


def test_labels_that_all_records_or_none_have_are_constant_and_warned_of() -> None:
    X, Y = embeddings(100, 5, 2)
    Y = np.c_[np.zeros(100, int), Y, np.ones(100, int)]
    with pytest.warns(UserWarning, match=r"2 of 4 labels are the same for all records \(columns 0, 3\)"):
        probe = LogisticProbe().fit(X, Y)
    assert probe.predict(X)[:, [0, 3]].tolist() == [[0, 1]] * 100
    np.testing.assert_allclose(probe.predict_proba(X)[:, [0, 3]], [[0, 1]] * 100, atol=1e-20)
    assert np.isfinite(probe.decision_function(X)).all()
    np.testing.assert_allclose(probe.coef_[1:3], LogisticProbe().fit(X, Y[:, 1:3]).coef_, atol=1e-6)
    assert probe.n_iter_[[0, 3]].tolist() == [0, 0]
    with pytest.warns(UserWarning, match="3 of 3 labels"):
        assert not LogisticProbe().fit(X, np.zeros((100, 3), int)).predict(X).any()


def test_without_an_intercept_a_constant_label_has_a_best_regression() -> None:
    X, _ = separable()
    probe = LogisticProbe(fit_intercept=False).fit(X + 1, np.ones((200, 2), int))
    assert probe.coef_.any()
    assert (probe.predict_proba(X + 1) < 1).all()


def test_probabilities_of_two_classes_are_the_sigmoid_of_the_decision() -> None:
    X, Y = embeddings(100, 5, 1)
    probe = LogisticProbe().fit(X, np.where(Y[:, 0], "sick", "well"))
    assert list(probe.classes_) == ["sick", "well"]
    assert probe.decision_function(X).shape == (100,)
    np.testing.assert_allclose(probe.predict_proba(X)[:, 1], expit(probe.decision_function(X)))
    np.testing.assert_allclose(np.exp(probe.predict_log_proba(X)), probe.predict_proba(X))


def test_a_regression_cut_short_warns() -> None:
    X, Y = embeddings(300, 20, 3)
    with pytest.warns(ConvergenceWarning, match="3 of 3 regressions did not converge in max_iter=1 steps"):
        LogisticProbe(max_iter=1).fit(X, Y)


@pytest.mark.parametrize("scoring", ["roc_auc", "average_precision", "f1_macro", "accuracy"])
@pytest.mark.parametrize("n_labels", [2, 3])
def test_scikit_learn_scores_indicators(n_labels: int, scoring: str) -> None:
    X, Y = embeddings(300, 10, 4)
    pipe = make_pipeline(StandardScaler(), LogisticProbe())
    scores = cross_val_score(pipe, X, Y[:, :n_labels], cv=3, scoring=scoring)
    assert np.isfinite(scores).all()


def test_scikit_learn_scores_and_searches_classes() -> None:
    X, y = load_iris(return_X_y=True)
    assert cross_val_score(LogisticProbe(), X, y, cv=5).mean() > 0.95
    assert cross_val_score(LogisticProbe(), X, y, cv=5, scoring="roc_auc_ovr").mean() > 0.99
    assert GridSearchCV(LogisticProbe(), {"C": [0.001, 1.0]}).fit(X, y).best_params_ == {"C": 1.0}


def test_a_pickled_probe_predicts_the_same() -> None:
    X, Y = embeddings(100, 5, 2)
    probe = LogisticProbe(C=[1.0, 2.0]).fit(X, Y)
    assert (pickle.loads(pickle.dumps(probe)).predict_proba(X) == probe.predict_proba(X)).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"C": 0}, "Got C=0, expected a positive number"),
        ({"C": [1, np.nan]}, "expected a positive number"),
        ({"C": "much"}, "Got C='much', expected a number"),
        ({"C": [1.0, 2.0, 3.0]}, r"Got C of shape \(3,\), expected one for each of 2 labels"),
        ({"tol": 0}, "Got tol=0"),
        ({"max_iter": 0}, "Got max_iter=0"),
        ({"class_weight": "equal"}, "Got class_weight='equal'"),
        ({"class_weight": [None]}, "Got class_weight for 1 labels and y of 2"),
        ({"class_weight": {2: 1.0, 1: 3.0}}, r"Got class_weight for \[2\]"),
        ({"class_weight": {0: -1.0}}, "expected positive numbers"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, Any], message: str) -> None:
    X, Y = embeddings(50, 4, 2)
    with pytest.raises(ParameterError, match=message):
        LogisticProbe(**parameters).fit(X, Y)


def test_a_wrong_target_is_named() -> None:
    X, Y = embeddings(50, 4, 2)
    with pytest.raises(InputError, match="one class only"):
        LogisticProbe().fit(X, np.zeros(50))
    with pytest.raises(InputError, match="values besides 0 and 1"):
        LogisticProbe().fit(X, Y + 1)
    with pytest.raises(ParameterError, match="expected one number for all classes"):
        LogisticProbe(C=[1.0, 2.0]).fit(X, Y[:, 0])
    with pytest.raises(InputError, match="negative"):
        LogisticProbe().fit(X, Y, sample_weight=-np.ones(50))
    with pytest.warns(DataConversionWarning) as warned:
        LogisticProbe().fit(X, Y[:, :1])
    assert warned[0].filename == __file__


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-45, 1e-42, 1e-38, 1e-20, 1e20, 1e37])
@pytest.mark.parametrize("columns", [[3], range(16)])
def test_probabilities_are_finite_however_small_or_large_columns_are(
    dtype: type, size: float, columns: Sequence[int]
) -> None:
    """The inverse of a denormal deviation leaves float32; a column of another size comes to predictions, too."""
    ordinary = np.random.default_rng(0).normal(size=(40, 16)).astype(dtype)
    X = ordinary.copy()
    X[:, columns] *= dtype(size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe = LogisticProbe().fit(X, np.arange(40) % 2)
    assert np.isfinite(probe.coef_).all()
    for features in (X, ordinary):
        assert np.isfinite(probe.predict_proba(features)).all()


def test_features_whose_squares_or_log_odds_are_infinite_are_refused() -> None:
    X = np.random.default_rng(0).normal(size=(40, 4))
    y = np.arange(40) % 2
    huge = X.copy()
    huge[:, 2] *= 1e200
    with pytest.raises(InputError, match=r"column 2.*Standardize"):
        LogisticProbe().fit(huge, y)
    with pytest.raises(InputError, match=r"log-odds are not finite"):
        LogisticProbe().fit(X / 1e5, y, sample_weight=np.full(40, 1e30)).predict_proba(X * 1e307)


@pytest.mark.parametrize("missing", [None, pd.NA, 3])
def test_classes_that_cannot_be_compared_are_named(missing: Any) -> None:
    y = np.array(["a", "b"] * 5, dtype=object)
    y[3] = missing
    with pytest.raises(InputError, match=r"among the classes|classes cannot be compared|label type"):
        LogisticProbe().fit(np.eye(10), y)


def test_numbers_are_no_weights_of_classes() -> None:
    with pytest.raises(ParameterError, match="class_weight=2, expected"):
        LogisticProbe(class_weight=2).fit(np.eye(4), [[0, 1], [1, 0], [1, 1], [0, 0]])


def test_a_message_ends_where_a_line_does() -> None:
    with pytest.raises(InputError, match=r"contains NaN\. A recording that could not be embedded has a row of NaN\.$"):
        LogisticProbe().fit([[np.nan], [1.0]], [0, 1])
