"""FineTunedClassifier learns, says what it learned from, and leaves everybody else's encoder alone."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, cross_val_score

from skecg import ECGRecord, FineTunedClassifier, JEPAEmbedder, LogisticProbe
from skecg.datasets import make_ecg
from skecg.errors import (
    BadSignalError,
    InputError,
    LeadError,
    ParameterError,
    SamplingRateError,
    ShapeError,
    SkecgWarning,
    WeightsNotFoundError,
)
from skecg.finetuning import base as module
from skecg.finetuning.data import PreparedWindows
from skecg.finetuning.loop import TrainingConfig
from skecg.finetuning.stages import ClassifierTraining
from skecg.leads import CANONICAL_LEADS
from skecg.linear_model.logistic import Targets, read_targets
from skecg.preprocessing.windows import prepare
from skecg.weights import find_weights, loaded_encoder

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TINY = FIXTURES / "tiny-temporal"
RECORDS, LABELS = make_ecg(
    36, duration_seconds=5, sampling_rate=100, rhythm=["sinus", "af", "pvc"], noise=0.02, random_state=2
)
X = np.stack([record.signal for record in RECORDS])
RHYTHM = np.array(LABELS["rhythm"])
BINARY = RHYTHM == "af"
INDICATOR = np.stack([RHYTHM == "af", RHYTHM == "pvc", np.arange(36) % 2 == 0], axis=1).astype(int)


def classifier(**parameters) -> FineTunedClassifier:
    return FineTunedClassifier(**{"model": TINY, "epochs": 2, "batch_size": 8, "learning_rate": 1e-2} | parameters)


@pytest.fixture(scope="module")
def fitted() -> FineTunedClassifier:
    return classifier().fit(RECORDS, RHYTHM)


def training_of(targets: Targets, class_weight: object, train: np.ndarray) -> ClassifierTraining:
    windows = PreparedWindows([prepare(RECORDS, find_weights(TINY).spec)], 25)
    config = TrainingConfig()
    return ClassifierTraining(
        windows=windows,
        train=train,
        held=np.arange(5),
        stages="two",
        head_config=config,
        config=config,
        device=torch.device("cpu"),
        targets=targets,
        class_weight=class_weight,
        strength=None,
    )


def state_of(network: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


# --- what is trained ----------------------------------------------------------------------------------------------


def test_the_encoder_that_the_process_shares_stays_as_it_is() -> None:
    shared = loaded_encoder(find_weights(TINY), torch.device("cpu"))
    before = state_of(shared)
    trained = classifier(validation_fraction=0, learning_rate=0.05).fit(RECORDS, RHYTHM).network_.encoder

    for name, values in state_of(shared).items():
        np.testing.assert_array_equal(values, before[name])
        assert not np.array_equal(state_of(trained)[name], values), f"{name} was not trained"
    assert loaded_encoder(find_weights(TINY), torch.device("cpu")) is shared
    assert not any(parameter.requires_grad for parameter in shared.parameters())


@pytest.mark.parametrize("y", [BINARY, RHYTHM, INDICATOR], ids=["binary", "classes", "labels"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_the_head_alone_is_a_logistic_regression_on_the_embeddings(y: np.ndarray, class_weight: str | None) -> None:
    found = classifier(stages="head", C=0.1, class_weight=class_weight).fit(RECORDS, y)
    features = JEPAEmbedder(TINY, cache=None).fit_transform(RECORDS)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = LogisticProbe(C=0.1, class_weight=class_weight).fit(features, y)

    np.testing.assert_allclose(found.predict_proba(RECORDS), expected.predict_proba(features), atol=1e-4)
    assert found.C_ == 0.1
    assert found.history_.losses == []


def test_a_head_alone_leaves_the_encoder_as_it_was() -> None:
    for head in ("linear", "attention"):
        found = classifier(stages="head", head=head).fit(RECORDS, RHYTHM)
        before = state_of(loaded_encoder(find_weights(TINY), torch.device("cpu")))
        for name, values in state_of(found.network_.encoder).items():
            np.testing.assert_array_equal(values, before[name])


def test_the_strength_of_the_penalty_is_chosen_on_records_held_out() -> None:
    by_hand = classifier(stages="head").fit(RECORDS, RHYTHM)
    assert by_hand.C_ in {1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0}
    assert classifier(stages="head", validation_fraction=0).fit(RECORDS, RHYTHM).C_ == 0.01
    assert classifier(stages="all").fit(RECORDS, RHYTHM).C_ is None


def test_a_second_stage_begins_where_the_first_ended() -> None:
    still = classifier(learning_rate=1e-12, C=0.1, validation_fraction=0).fit(RECORDS, RHYTHM)
    first = classifier(stages="head", C=0.1, validation_fraction=0).fit(RECORDS, RHYTHM)

    np.testing.assert_allclose(still.predict_proba(RECORDS), first.predict_proba(RECORDS), atol=1e-6)


def test_an_encoder_that_gains_nothing_stays_and_its_head_is_fitted_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first = classifier(stages="head").fit(RECORDS, RHYTHM)
    scores = iter([0.9, 0.8, 0.7])
    monkeypatch.setattr(ClassifierTraining, "validation", lambda *_: lambda: next(scores))
    found = classifier().fit(RECORDS, RHYTHM)

    assert found.history_.best_epoch == 0
    assert found.C_ == first.C_
    np.testing.assert_array_equal(found.predict_proba(RECORDS), first.predict_proba(RECORDS))


@pytest.mark.parametrize("head", ["linear", "attention"])
@pytest.mark.parametrize("stages", ["two", "all"])
@pytest.mark.parametrize("weights", ["tiny-temporal", "tiny-leadwise"])
def test_training_lowers_the_loss(head: str, stages: str, weights: str) -> None:
    parameters = {"head": head, "stages": stages, "validation_fraction": 0, "epochs": 8, "learning_rate": 3e-3}
    found = classifier(model=FIXTURES / weights, **parameters).fit(RECORDS, BINARY)

    assert found.history_.losses[-1] < found.history_.losses[0]
    assert found.history_.best_epoch == 8
    assert found.history_.scores == []


@pytest.mark.filterwarnings("ignore::skecg.errors.UnitsWarning")  # a sine is larger than a heart
def test_what_a_head_cannot_learn_the_encoder_learns() -> None:
    # Whether the two halves of a record are the same way up: nothing that is linear in pooled tokens of one lead shows.
    rng = np.random.default_rng(0)
    time = np.arange(250) / 100
    signs = rng.choice([-1.0, 1.0], size=(96, 2))
    waves = np.sin(2 * np.pi * 4 * time) * np.repeat(signs, 125, axis=1)
    y = (signs[:, 0] == signs[:, 1]).astype(int)
    parameters = {"leads": ["II"], "sampling_rate": 100, "model": TINY, "validation_fraction": 0}
    alone = FineTunedClassifier(stages="head", **parameters).fit(waves, y)
    both = FineTunedClassifier(learning_rate=1e-2, layer_decay=1.0, epochs=20, **parameters).fit(waves, y)

    assert both.score(waves, y) > 0.95
    assert alone.score(waves, y) < 0.8


def test_a_layer_decay_near_zero_trains_the_head_alone() -> None:
    found = classifier(stages="all", layer_decay=1e-9, validation_fraction=0).fit(RECORDS, RHYTHM)
    before = state_of(loaded_encoder(find_weights(TINY), torch.device("cpu")))

    assert found.network_.head.linear.weight.any()
    for name, values in state_of(found.network_.encoder).items():
        if not name.startswith("norm."):  # which learns with the head
            np.testing.assert_allclose(values, before[name], atol=1e-6)


@pytest.mark.parametrize("y", [BINARY, RHYTHM, INDICATOR], ids=["binary", "classes", "labels"])
def test_balanced_classes_weigh_the_same_among_those_learned_from(y: np.ndarray) -> None:
    targets, train = read_targets(y), np.arange(5, 36)

    weight, has = training_of(targets, "balanced", train).labels.weight[train], targets.has[train]

    np.testing.assert_allclose(weight.mean(axis=0), 1)
    totals = (weight * has).sum(axis=0)
    np.testing.assert_allclose(totals, totals[0] if targets.joint else (weight * ~has).sum(axis=0))


@pytest.mark.parametrize(
    ("y", "class_weight"),
    [(BINARY, {True: 30.0}), (RHYTHM, {"af": 5.0}), (INDICATOR, {0: 1, 1: 9})],
    ids=["binary", "classes", "labels"],
)
def test_however_classes_weigh_the_loss_keeps_its_size(y: np.ndarray, class_weight: dict) -> None:
    train = np.arange(5, 36)
    weight = training_of(read_targets(y), class_weight, train).labels.weight

    assert weight[train].mean() == pytest.approx(1)
    assert not weight[:5].any()


def test_constant_labels_are_warned_of_and_predicted_as_they_are() -> None:
    y = np.column_stack([INDICATOR, np.zeros(36, int), np.ones(36, int)])
    with pytest.warns(UserWarning, match="2 of 5 labels are the same for all records"):
        found = classifier().fit(RECORDS, y)

    np.testing.assert_array_equal(found.predict(RECORDS)[:, 3:], y[:, 3:])


def test_classes_weigh_what_they_are_said_to() -> None:
    rare = np.arange(36) < 6
    plain = classifier(validation_fraction=0, epochs=1).fit(RECORDS, rare)
    weighed = classifier(validation_fraction=0, epochs=1, class_weight={True: 30.0}).fit(RECORDS, rare)

    assert (weighed.predict_proba(RECORDS)[:, 1] > plain.predict_proba(RECORDS)[:, 1]).all()


# --- patients and early stopping ----------------------------------------------------------------------------------


def test_no_patient_is_trained_on_and_held_out() -> None:
    patients = np.repeat(np.arange(12), 3)[np.random.default_rng(0).permutation(36)]
    held = classifier(validation_fraction=0.3).fit(RECORDS, BINARY, groups=patients).validation_rows_

    assert 6 <= len(held) <= 15
    assert not set(patients[held]) & set(np.delete(patients, held))


def test_held_out_records_are_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    from skecg.finetuning.data import RecordBatches

    seen: set[int] = set()
    loss = RecordBatches.loss

    def noted(self, network, part):
        seen.update(self.inputs.windows.owner[part.rows].tolist())
        return loss(self, network, part)

    monkeypatch.setattr(RecordBatches, "loss", noted)
    found = classifier().fit(RECORDS, RHYTHM)

    assert seen == set(range(36)) - set(found.validation_rows_.tolist())


def test_the_epoch_that_is_best_on_the_held_out_is_kept() -> None:
    found = classifier(epochs=6, learning_rate=0.3, warmup_epochs=0, patience=2).fit(RECORDS, RHYTHM)
    history = found.history_

    assert len(history.scores) == len(history.losses) + 1
    assert history.scores[history.best_epoch] == max(history.scores)
    assert len(history.losses) <= history.best_epoch + 2


def test_too_few_patients_to_spare_any_are_warned_of() -> None:
    with pytest.warns(SkecgWarning, match="too few patients to hold any out"):
        found = classifier().fit(RECORDS[:2], ["a", "b"])

    assert len(found.validation_rows_) == 0
    assert len(found.history_.losses) == 2


def test_an_interruption_leaves_the_best_so_far_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from skecg.finetuning.data import RecordBatches

    loss, epochs = RecordBatches.loss, []
    epoch = RecordBatches.epoch
    monkeypatch.setattr(RecordBatches, "epoch", lambda self, rng: epochs.append(1) or epoch(self, rng))

    def interrupted(self, network, part):
        if len(epochs) in (2, 3):
            raise KeyboardInterrupt
        return loss(self, network, part)

    monkeypatch.setattr(RecordBatches, "loss", interrupted)
    found = classifier(epochs=5)
    with pytest.raises(KeyboardInterrupt):
        found.fit(RECORDS, RHYTHM)

    assert len(found.history_.losses) == 1
    assert found.predict_proba(RECORDS).shape == (36, 3)
    with pytest.raises(KeyboardInterrupt):
        found.fit(RECORDS, RHYTHM)
    with pytest.raises(NotFittedError):
        found.predict(RECORDS)


# --- one answer for one record ------------------------------------------------------------------------------------


def test_one_seed_is_one_result_bit_for_bit() -> None:
    expected = classifier().fit(RECORDS, RHYTHM).predict_proba(RECORDS)

    for same in ({}, {"n_jobs": 1}, {"n_jobs": 2}, {"random_state": np.random.RandomState(0)}):
        np.testing.assert_array_equal(expected, classifier(**same).fit(RECORDS, RHYTHM).predict_proba(RECORDS))
    other = classifier(random_state=1).fit(RECORDS, RHYTHM)
    assert not np.array_equal(expected, other.predict_proba(RECORDS))


def test_arrays_records_and_files_give_the_same_answer(tmp_path: Path, fitted: FineTunedClassifier) -> None:
    grid = np.round(X * 1000)
    for number, signal in enumerate(grid):
        wfdb.wrsamp(
            f"r{number}",
            fs=100,
            units=["mV"] * 12,
            sig_name=list(CANONICAL_LEADS),
            d_signal=signal.T.astype(np.int64),
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            write_dir=str(tmp_path),
        )
    signals = (grid / 1000).astype(np.float32)
    records = [ECGRecord(signal, 100, CANONICAL_LEADS) for signal in signals]
    paths = [tmp_path / f"r{number}.hea" for number in range(36)]
    expected = classifier().fit(records, RHYTHM).predict_proba(records)

    for data, parameters in (
        (signals, {"sampling_rate": 100}),
        (list(signals), {"sampling_rate": 100}),
        (torch.from_numpy(signals), {"sampling_rate": 100}),
        (pd.Series(records), {}),
        (paths, {"n_jobs": 2}),
    ):
        found = classifier(**parameters).fit(data, RHYTHM).predict_proba(data)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(fitted.predict_proba(RECORDS[:5]), fitted.predict_proba(RECORDS)[:5])


def test_a_record_does_not_see_its_neighbours(fitted: FineTunedClassifier) -> None:
    whole = fitted.decision_function(RECORDS)

    np.testing.assert_array_equal(whole[::-1], fitted.decision_function(RECORDS[::-1]))
    np.testing.assert_array_equal(whole[7], fitted.decision_function(RECORDS[7:8])[0])


def test_a_long_records_logit_is_the_mean_over_its_windows(fitted: FineTunedClassifier) -> None:
    long = np.concatenate([record.signal for record in RECORDS[:3]], axis=1)
    pieces = [ECGRecord(piece, 100, CANONICAL_LEADS) for piece in np.split(long, 6, axis=1)]

    found = fitted.decision_function([ECGRecord(long, 100, CANONICAL_LEADS)])

    np.testing.assert_allclose(found[0], fitted.decision_function(pieces).mean(axis=0), atol=1e-5)


def test_any_leads_and_lengths_are_learned_from_and_asked_about() -> None:
    some = [
        ECGRecord(record.signal[: 3 + i % 9, : 130 + 10 * i], 100, CANONICAL_LEADS[: 3 + i % 9])
        for i, record in enumerate(RECORDS)
    ]
    found = classifier(missing_leads="subset").fit(some, RHYTHM)
    proba = found.predict_proba(some)

    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(found.predict_proba(some[3:4])[0], proba[3])


def test_each_record_may_have_a_rate_of_its_own(fitted: FineTunedClassifier) -> None:
    slow = ECGRecord(RECORDS[1].signal[:, ::2], 50, CANONICAL_LEADS)

    found = fitted.predict_proba([X[0], slow.signal], sampling_rate=[100, 50])

    np.testing.assert_array_equal(found, fitted.predict_proba([RECORDS[0], slow]))


# --- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "shape"), [(BINARY, (36, 2)), (RHYTHM, (36, 3)), (INDICATOR, (36, 3)), (INDICATOR[:, :2], (36, 2))]
)
def test_every_kind_of_label_is_predicted_in_its_own_form(y: np.ndarray, shape: tuple) -> None:
    found = classifier().fit(RECORDS, y)
    proba, decision, predicted = (getattr(found, name)(RECORDS) for name in METHODS)

    assert proba.shape == shape
    assert decision.shape == ((36,) if y is BINARY else shape)
    assert predicted.shape == y.shape
    if y.ndim == 2:
        np.testing.assert_array_equal(predicted, proba > 0.5)
        assert all(classes.tolist() == [0, 1] for classes in found.classes_)
    else:
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        np.testing.assert_array_equal(predicted, found.classes_[proba.argmax(axis=1)])
        assert predicted.dtype == y.dtype


METHODS = ("predict_proba", "decision_function", "predict")


def test_a_sparse_indicator_is_an_indicator() -> None:
    dense = classifier().fit(RECORDS, INDICATOR).predict_proba(RECORDS)

    np.testing.assert_array_equal(dense, classifier().fit(RECORDS, sparse.csr_matrix(INDICATOR)).predict_proba(RECORDS))


# --- pickles, clones, processes -----------------------------------------------------------------------------------


def test_a_pickle_gives_the_same_answers_and_holds_no_tensor(fitted: FineTunedClassifier) -> None:
    data = pickle.dumps(fitted)
    again = pickle.loads(data)

    np.testing.assert_array_equal(again.predict_proba(RECORDS), fitted.predict_proba(RECORDS))
    assert again.history_ == fitted.history_
    assert b"torch" not in data


def test_a_clone_knows_nothing_of_what_was_learned(fitted: FineTunedClassifier) -> None:
    again = clone(fitted)

    assert again.get_params() == fitted.get_params()
    assert [name for name in vars(again) if name.endswith("_")] == []
    with pytest.raises(NotFittedError):
        again.predict(RECORDS)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_parallel_cross_validation_gives_the_same_scores(backend: str) -> None:
    from joblib import parallel_config

    patients = np.arange(36) // 2
    cv = StratifiedGroupKFold(2)
    alone = cross_val_score(classifier(epochs=1), RECORDS, RHYTHM, groups=patients, cv=cv, scoring="roc_auc_ovr")
    with parallel_config(backend=backend, n_jobs=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loky's own notes on its workers
        together = cross_val_score(classifier(epochs=1), RECORDS, RHYTHM, groups=patients, cv=cv, scoring="roc_auc_ovr")

    np.testing.assert_array_equal(alone, together)


def test_a_grid_search_finds_its_way_around() -> None:
    search = GridSearchCV(classifier(epochs=1), {"stages": ["head", "two"]}, cv=2).fit(RECORDS, RHYTHM)

    assert search.best_estimator_.predict(RECORDS).shape == (36,)


# --- what it refuses, and how -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"stages": "three"}, ParameterError, r"stages='three', expected one of 'two', 'head', 'all'"),
        ({"head": "mlp"}, ParameterError, r"head='mlp', expected one of 'linear', 'attention'"),
        ({"pooling": "avg"}, ParameterError, r"pooling='avg', expected one of"),
        ({"C": 0}, ParameterError, r"C=0, expected a positive number, or None"),
        ({"epochs": 0}, ParameterError, r"epochs=0, expected an integer of at least 1"),
        ({"patience": -1}, ParameterError, r"patience=-1, expected an integer of at least 1 or None"),
        ({"validation_fraction": 1.0}, ParameterError, r"validation_fraction=1\.0, expected a share"),
        ({"validation_fraction": None}, ParameterError, r"validation_fraction=None, expected a share"),
        ({"class_weight": "even"}, ParameterError, r"class_weight='even', expected None, 'balanced' or dicts"),
        ({"missing_leads": "drop"}, ParameterError, r"missing_leads='drop', expected one of"),
        ({"stride": 0}, ParameterError, r"stride=0"),
        ({"device": "gpu"}, ParameterError, r"device='gpu'.*Use 'auto' or 'cpu'"),
        ({"model": "defalt"}, WeightsNotFoundError, r"Did you mean 'default'"),
    ],
)
def test_wrong_parameters_are_named_with_what_is_allowed(parameters: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        classifier(**parameters).fit(RECORDS, RHYTHM)


@pytest.mark.parametrize(
    ("data", "y", "options", "error", "message"),
    [
        (RECORDS, None, {}, InputError, "requires y to be passed, but the target y is None"),
        (RECORDS, RHYTHM[:5], {}, InputError, "y of 5 rows for 36 records, expected one for each"),
        (RECORDS, np.zeros(36), {}, InputError, "one class only.*expected at least two classes"),
        (RECORDS, np.where(BINARY, np.nan, 1.0), {}, InputError, "Input y contains NaN"),
        (RECORDS, np.arange(36) / 7, {}, InputError, "Unknown label type: continuous"),
        (RECORDS, np.array(["a", None] * 18, dtype=object), {}, InputError, "cannot be compared.*none missing"),
        (RECORDS, pd.Series(["a", pd.NA] * 18, dtype="string"), {}, InputError, "cannot be compared.*none missing"),
        (RECORDS, np.array(["a", 1] * 18, dtype=object), {}, InputError, "cannot be compared.*of one kind"),
        (RECORDS, INDICATOR * 2, {}, InputError, "values besides 0 and 1"),
        (RECORDS, RHYTHM, {"groups": np.arange(7)}, ParameterError, r"groups of shape \(7,\) for 36 records"),
        (RECORDS, RHYTHM, {"groups": ["a", None] * 18}, ParameterError, r"without a patient for 18 of 36 records"),
        (RECORDS[0], RHYTHM, {}, ShapeError, r"a single record; expected a sequence. Pass \[X\]"),
        (X, RHYTHM, {}, SamplingRateError, "without a sampling rate"),
        (X[:, :8], RHYTHM, {"sampling_rate": 100}, LeadError, r"arrays of 8 lead\(s\).*Pass leads="),
    ],
    ids=[
        "no y",
        "short y",
        "one class",
        "NaN",
        "numbers",
        "None",
        "NA",
        "mixed",
        "no indicator",
        "groups",
        "nobody",
        "one record",
        "rate",
        "leads",
    ],
)
def test_wrong_input_is_named_with_the_way_out(data, y, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        classifier().fit(data, y, **options)


def test_a_record_that_cannot_be_used_is_named() -> None:
    flat = ECGRecord(np.zeros((12, 500)), 100, CANONICAL_LEADS, "flatline")

    with pytest.raises(BadSignalError, match="flatline") as caught:
        classifier().fit([*RECORDS[:35], flat], RHYTHM)

    assert "record 35 of X" in caught.value.__notes__[0]


def test_an_answer_for_other_leads_than_were_learned_is_refused() -> None:
    found = classifier(sampling_rate=100).fit(X, RHYTHM)

    assert found.n_features_in_ == 12
    with pytest.raises(ValueError, match="11"):
        found.predict(X[:, :11])


def test_progress_is_shown_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    shown_one = classifier(verbose=1).fit(RECORDS, RHYTHM)
    shown = capfd.readouterr().err
    assert all(f"{what}: 100%" in shown for what in ("reading", "embedding", "fine-tuning"))
    assert "validation" in shown
    shown_one.predict(RECORDS)
    assert "predicting: 100%" in capfd.readouterr().err

    classifier().fit(RECORDS, RHYTHM).predict(RECORDS)
    assert capfd.readouterr() == ("", "")


def test_other_weights_in_the_same_place_change_nothing_that_was_learned(fitted: FineTunedClassifier) -> None:
    expected = fitted.predict_proba(RECORDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "find_weights", lambda *a, **k: pytest.fail("asked for the weights"))
        np.testing.assert_array_equal(fitted.predict_proba(RECORDS), expected)
