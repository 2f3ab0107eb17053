"""FineTunedRegressor learns numbers, keeps scikit-learn's contract, and is saved and loaded without a pickle."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skecg import FineTunedClassifier, FineTunedRegressor, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.errors import InputError, ParameterError, WeightsFormatError, WeightsNotFoundError

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"
ONE_LEAD = {"leads": ["II"], "sampling_rate": 100, "short_records": "pad", "epochs": 1}
RECORDS, FACTS = make_ecg(24, duration_seconds=5, sampling_rate=100, random_state=2)
RATES = np.asarray(FACTS["heart_rate"])
PATIENTS = np.arange(24) // 2


def regressor(**parameters) -> FineTunedRegressor:
    defaults = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "warmup_epochs": 0, "validation_fraction": 0.25}
    return FineTunedRegressor(TINY, **{**defaults, **parameters})


@pytest.fixture(scope="module")
def fitted() -> FineTunedRegressor:
    return regressor().fit(RECORDS, RATES, groups=PATIENTS)


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
@parametrize_with_checks([FineTunedRegressor(TINY, **ONE_LEAD)])
def test_scikit_learns_whole_check_passes(estimator, check) -> None:
    check(estimator)


def test_training_never_ends_worse_than_the_best_epoch_and_holds_patients_out(fitted: FineTunedRegressor) -> None:
    history = fitted.history_
    assert history.scores[history.best_epoch] == max(history.scores)
    held = fitted.validation_rows_
    assert set(PATIENTS[held]).isdisjoint(PATIENTS[np.delete(np.arange(24), held)])
    assert np.corrcoef(fitted.predict(RECORDS), RATES)[0, 1] > 0.5


@pytest.mark.parametrize("y", [RATES, np.column_stack([RATES, -3e5 * RATES])])
def test_a_linear_head_on_a_frozen_encoder_is_ridge_regression_on_embeddings(y: np.ndarray) -> None:
    found = regressor(stages="head", alpha=10.0).fit(RECORDS, y)
    features = StandardScaler().fit_transform(JEPAEmbedder(TINY, cache=None).fit_transform(RECORDS))
    train = np.delete(np.arange(24), found.validation_rows_)
    mean, scale = y[train].mean(axis=0), y[train].std(axis=0)
    expected = Ridge(10.0).fit(features, (y - mean) / scale).predict(features) * scale + mean
    np.testing.assert_allclose(found.predict(RECORDS), expected, rtol=1e-4)


def test_the_unit_of_a_target_decides_nothing(fitted: FineTunedRegressor) -> None:
    scaled = regressor().fit(RECORDS, 1e6 * RATES + 5e8, groups=PATIENTS)
    np.testing.assert_allclose((scaled.predict(RECORDS) - 5e8) / 1e6, fitted.predict(RECORDS), rtol=1e-3)


def test_a_target_that_does_not_vary_is_predicted_as_it_is() -> None:
    found = regressor(epochs=1).fit(RECORDS, np.full(24, 7.0))
    np.testing.assert_allclose(found.predict(RECORDS), 7.0, atol=0.1)


@pytest.mark.parametrize("head", ["linear", "attention"])
def test_what_is_saved_is_loaded(head: str, tmp_path: Path) -> None:
    found = regressor(head=head, epochs=1).fit(RECORDS, np.column_stack([RATES, RATES**2]))
    found.save(tmp_path)
    again = FineTunedRegressor.load(tmp_path)
    np.testing.assert_array_equal(again.predict(RECORDS), found.predict(RECORDS))
    assert clone(again).get_params() == {**found.get_params(), "model": str(TINY)}
    with pytest.raises(WeightsNotFoundError, match=r"use FineTunedRegressor\.load"):
        FineTunedClassifier.load(tmp_path)


def test_what_is_saved_over_another_kind_takes_its_place(tmp_path: Path) -> None:
    """Both call their heads by one name: of the two descriptions one would be of a head that is no more."""
    options = {"head": "attention", "stages": "head", "epochs": 1, "random_state": 0}
    FineTunedClassifier(TINY, **options).fit(RECORDS, RATES > 70).save(tmp_path)
    FineTunedRegressor(TINY, **options).fit(RECORDS, RATES).save(tmp_path)
    assert np.isfinite(JEPAEmbedder(tmp_path, pooling="attention", cache=None).fit_transform(RECORDS[:2])).all()
    with pytest.raises(WeightsNotFoundError, match=r"use FineTunedRegressor\.load"):
        FineTunedClassifier.load(tmp_path)


def test_a_description_of_other_targets_is_refused(fitted: FineTunedRegressor, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    values = json.loads((tmp_path / "regressor.json").read_text())
    (tmp_path / "regressor.json").write_text(json.dumps({**values, "mean": [1.0, 2.0]}))
    with pytest.raises(WeightsFormatError, match="2 targets for a head of 1 outputs"):
        FineTunedRegressor.load(tmp_path)


@pytest.mark.parametrize(
    ("parameters", "y", "error", "named"),
    [
        ({"alpha": 0}, RATES, ParameterError, "alpha"),
        ({"head": "deep"}, RATES, ParameterError, "head"),
        ({}, None, InputError, "requires y"),
        ({}, RATES[:3], InputError, "3 rows for 24 records"),
        ({}, np.full(24, np.nan), InputError, "NaN"),
        ({}, ["fast"] * 24, InputError, "finite numbers"),
        ({}, RATES.astype("m8[s]"), InputError, "dates or durations"),
        ({}, list(RATES.astype("M8[s]")), InputError, "dates or durations"),
        ({}, pd.Series(pd.date_range("2020", periods=24, tz="UTC")), InputError, "dates or durations"),
        ({}, pd.DataFrame({"age": RATES.astype("m8[s]"), "rate": RATES}), InputError, "dates or durations"),
        ({}, [datetime.date(2020, 1, 1)] * 24, InputError, "dates or durations"),
    ],
)
def test_what_cannot_be_learned_is_named(parameters, y, error, named) -> None:
    with pytest.raises(error, match=named):
        regressor(**parameters).fit(RECORDS, y)


@pytest.mark.parametrize("estimator", [FineTunedClassifier, FineTunedRegressor])
def test_scores_take_a_rate_for_each_record_and_pass_it_on(estimator: type) -> None:
    X, rates = np.stack([record.signal for record in RECORDS]), np.full(24, 100.0)
    y = np.arange(24) % 2 if estimator is FineTunedClassifier else RATES
    model = estimator(TINY, stages="head", epochs=1, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        asked = model.set_fit_request(sampling_rate=True).set_score_request(sampling_rate=True)
        found = cross_val_score(asked, X, y, cv=2, params={"sampling_rate": rates})
    model = clone(model).fit(X, y, sampling_rate=rates)
    assert np.isfinite(found).all()
    weight = np.arange(24.0)
    metric = accuracy_score if estimator is FineTunedClassifier else r2_score
    predicted = model.predict(X, sampling_rate=rates)
    assert model.score(X, y, weight, sampling_rate=rates) == metric(y, predicted, sample_weight=weight)
