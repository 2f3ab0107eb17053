"""Ridge regression whose penalty is chosen by patients."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skecg import LogisticProbe, NoveltyScore, RidgeProbe
from skecg.errors import InputError, ParameterError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8)) * 10.0 ** np.arange(-4, 4)
Y = X @ (RNG.normal(size=(8, 2)) / X.std(axis=0)[:, None]) + RNG.normal(size=(60, 2))


@parametrize_with_checks([RidgeProbe()])
def test_scikit_learns_whole_check_passes(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize("y", [Y, Y[:, 0]])
def test_it_is_scikit_learns_ridge_on_standardized_features(y: np.ndarray) -> None:
    probe = RidgeProbe().fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(probe.predict(X), Ridge(probe.alpha_).fit(scaled, y).predict(scaled), rtol=1e-9)
    assert probe.predict(X).shape == y.shape


def test_without_standardizing_all_features_are_divided_by_one_number() -> None:
    probe = RidgeProbe(standardize=False).fit(X, Y)
    scaled = (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0).mean())
    np.testing.assert_allclose(probe.predict(X), Ridge(probe.alpha_).fit(scaled, Y).predict(scaled), rtol=1e-9)
    # Only the largest feature is left of a target that all have a part in.
    assert np.square(probe.predict(X) - Y).mean() > 2 * np.square(RidgeProbe().fit(X, Y).predict(X) - Y).mean()


def test_the_penalty_is_the_one_that_other_patients_need() -> None:
    # Recordings of a patient are the same: only a choice between patients sees that their features are noise.
    noise, target = RNG.normal(size=(10, 30)), RNG.normal(size=10)
    patients = np.repeat(np.arange(10), 6)
    features, y = noise[patients] + 1e-3 * RNG.normal(size=(60, 30)), target[patients]
    assert RidgeProbe().fit(features, y, groups=patients).alpha_ > 100 * RidgeProbe().fit(features, y).alpha_


@pytest.mark.parametrize("kind", ["U", "datetime64[D]", "timedelta64[D]"])
def test_targets_that_are_no_numbers_are_refused(kind: str) -> None:
    with pytest.raises(ParameterError, match=r"Got y of dtype .*, expected numbers"):
        RidgeProbe().fit(X, np.arange(60).astype(kind))


@pytest.mark.parametrize(
    ("parameters", "groups", "named"),
    [
        ({"alphas": ()}, None, r"alphas=\(\), expected a list"),
        ({"alphas": 1.0}, None, "alphas=1.0, expected a list"),
        ({"random_state": -1}, None, "random_state=-1"),
        ({"alphas": (-1.0,)}, None, "alphas"),
        ({"n_folds": 1}, None, "n_folds"),
        ({"standardize": None}, None, "standardize=None"),
        ({}, np.zeros(3), r"groups of shape \(3,\) for 60 records"),
        ({}, np.zeros(60), "at least two"),
        (
            {},
            np.where(np.arange(60) < 30, np.nan, 1),
            "groups without a patient for 30 of 60 records",
        ),
        ({}, np.array([None, *range(59)]), "groups without a patient for 1 of 60 records"),
    ],
)
def test_what_is_not_allowed_is_named(parameters, groups, named) -> None:
    with pytest.raises(ParameterError, match=named):
        RidgeProbe(**parameters).fit(X, Y, groups=groups)


HOLE = np.where(np.arange(60)[:, None] == 3, np.nan, X)
MASKED = np.ma.masked_array(X, mask=np.isnan(HOLE))


@pytest.mark.parametrize(
    ("features", "y", "weight", "message"),
    [
        (HOLE, Y[:, 0] > 0, None, "X contains NaN.* A recording that could not be embedded has a row of NaN"),
        (MASKED, Y[:, 0] > 0, None, "Got X with values that are masked"),
        (X, np.where(np.arange(60) == 3, np.nan, 1.0), None, "y contains NaN"),
        (X, np.ma.masked_array(Y[:, 0] > 0, mask=HOLE[:, 0] != HOLE[:, 0]), None, "Got y with values that are masked"),
        (X, Y[:, 0] > 0, "a", "Got sample_weight of type str with values that are no numbers"),
        (
            X,
            Y[:, 0] > 0,
            np.ma.masked_array(np.ones(60), mask=np.arange(60) == 3),
            "Got sample_weight with values that",
        ),
    ],
)
@pytest.mark.parametrize("probe", [RidgeProbe(), LogisticProbe(), NoveltyScore()])
def test_what_is_not_known_is_an_error_of_ours(probe, features, y, weight, message) -> None:
    is_of_labels = features is X
    if (is_of_labels and isinstance(probe, NoveltyScore)) or (
        weight is not None and not isinstance(probe, LogisticProbe)
    ):
        pytest.skip("it takes none")
    with pytest.raises(InputError, match=f"(?s){message}"):
        probe.fit(features, y, **({} if weight is None else {"sample_weight": weight}))


def test_the_unit_of_a_target_decides_nothing() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 20))
    first, second = rng.normal(size=60), features @ rng.normal(size=20)
    chosen = [RidgeProbe().fit(features, np.stack([first, unit * second], axis=1)).alpha_ for unit in (1e-4, 1, 1e4)]
    assert len(set(chosen)) == 1
    assert RidgeProbe().fit(features, np.stack([second, np.ones(60)], axis=1)).alpha_ > 0


def test_features_whose_squares_are_no_numbers_are_refused() -> None:
    huge = X.copy()
    huge[:, 1] *= 1e200
    with pytest.raises(InputError, match=r"Got features of up to .*, in column 1, expected between 1e-150"):
        RidgeProbe().fit(huge, Y)
