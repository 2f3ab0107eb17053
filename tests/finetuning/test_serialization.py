"""A classifier on disk is the classifier, its encoder is anybody's, and what was altered is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from skecg import FineTunedClassifier, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.encoders.encode import Encoding, encode_windows
from skecg.errors import DamagedWeightsError, ParameterError, WeightsFormatError, WeightsNotFoundError
from skecg.finetuning import serialization as fitted_folders
from skecg.hub.licences import data_licences, licence_problems
from skecg.preprocessing.windows import prepare
from skecg.weights import find_weights, read_info, verify_weights

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"
RECORDS, LABELS = make_ecg(24, duration_seconds=5, sampling_rate=100, rhythm=["sinus", "af", "pvc"], random_state=2)
X = np.stack([record.signal for record in RECORDS])
RHYTHM = np.array(LABELS["rhythm"])
TARGETS = {
    "text": RHYTHM,
    "objects": RHYTHM.astype(object),
    "booleans": RHYTHM == "af",
    "integers": np.unique(RHYTHM, return_inverse=True)[1] - 7,
    "floats": np.where(RHYTHM == "af", 1.0, 2.0),
    "indicator": np.stack([RHYTHM == "af", RHYTHM == "pvc", np.arange(24) % 2 == 0], axis=1).astype(int),
}


def fit(y: np.ndarray = RHYTHM, **parameters) -> FineTunedClassifier:
    options = {"sampling_rate": 100, "epochs": 2, "learning_rate": 0.02, "batch_size": 8} | parameters
    return FineTunedClassifier(TINY, **options).fit(X, y)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifiers") / "rhythms"
    fit(validation_fraction=0).save(folder)
    return folder


@pytest.mark.parametrize("head", ["linear", "attention"])
@pytest.mark.parametrize("kind", list(TARGETS))
def test_what_is_loaded_answers_as_what_was_saved(tmp_path: Path, kind: str, head: str) -> None:
    classifier = fit(TARGETS[kind], head=head)
    classifier.save(tmp_path)
    again = FineTunedClassifier.load(tmp_path)

    np.testing.assert_array_equal(again.decision_function(X), classifier.decision_function(X))
    np.testing.assert_array_equal(again.predict(X), classifier.predict(X))
    assert again.predict(X).dtype == classifier.predict(X).dtype
    for found, expected in zip(np.atleast_1d(again.classes_), np.atleast_1d(classifier.classes_), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (again.n_features_in_, again.C_, again.origin_) == (12, classifier.C_, classifier.origin_)


def test_parameters_come_back_but_for_those_of_the_machine(tmp_path: Path) -> None:
    weights = {"af": 2.0, "pvc": 1.0, "sinus": 3}
    classifier = fit(class_weight=weights, n_jobs=2, random_state=5, units=np.str_("mV"), patience=np.int64(2))
    classifier.save(tmp_path)
    again = FineTunedClassifier.load(str(tmp_path)).get_params()

    kept = classifier.get_params() | {"model": str(TINY), "n_jobs": None}
    assert again == kept
    classifier.set_params(random_state=np.random.RandomState(5), layer_decay=np.float32(0.5)).save(tmp_path)
    again = FineTunedClassifier.load(str(tmp_path))
    assert (again.random_state, again.layer_decay) == (0, 0.5)


def test_class_weights_of_numbers_come_back_as_numbers(tmp_path: Path) -> None:
    fit(TARGETS["integers"], class_weight={np.int64(-7): 2.0, -6: np.float32(1), -5: 0.5}).save(tmp_path / "a")
    fit(TARGETS["indicator"], class_weight=[{0: 1, 1: 2.0}] * 3).save(tmp_path / "b")

    assert FineTunedClassifier.load(tmp_path / "a").class_weight == {-7: 2.0, -6: 1.0, -5: 0.5}
    assert FineTunedClassifier.load(tmp_path / "b").class_weight == [{0: 1, 1: 2.0}] * 3


def test_the_folder_serves_an_embedder_with_the_trained_encoder(tmp_path: Path) -> None:
    classifier = fit(validation_fraction=0)
    classifier.save(tmp_path)
    features = JEPAEmbedder(tmp_path, sampling_rate=100, cache=None).fit_transform(X[:3])
    windows = prepare(RECORDS[:1], classifier.spec_)
    expected = encode_windows(classifier.network_.encoder, windows, Encoding("mean", n_jobs=1)).mean(axis=0)

    np.testing.assert_allclose(features[0], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(features - JEPAEmbedder(TINY, sampling_rate=100, cache=None).fit_transform(X[:3])).max() > 1e-3
    assert verify_weights(find_weights(tmp_path)).passed


def test_the_folder_says_where_its_weights_come_from(saved: Path) -> None:
    known = read_info(saved).provenance

    assert known["fine_tuned_from"] == "tiny-temporal"
    assert known["fine_tuned_from_sha256"] == read_info(TINY).sha256
    assert known["licence"] == read_info(TINY).provenance["licence"]
    assert known["data"].startswith("recordings that were not named")
    assert "fine-tuned from tiny-temporal" in (saved / "README.md").read_text(encoding="utf-8")


def test_a_folder_is_written_over_and_says_what_it_is_told(tmp_path: Path) -> None:
    fit().save(tmp_path)
    fit(TARGETS["booleans"]).save(tmp_path, name="of mine", licence="CC-BY-4.0")

    assert FineTunedClassifier.load(tmp_path).classes_.tolist() == [False, True]
    assert read_info(tmp_path).provenance["name"] == "of mine"


def test_data_of_the_start_and_of_the_training_are_both_named(tmp_path: Path) -> None:
    def known() -> dict:
        return read_info(tmp_path / "tuned").provenance

    base = FineTunedClassifier(TINY, stages="head", epochs=1, random_state=0).fit(RECORDS, TARGETS["booleans"])
    base.save(tmp_path / "base", data="closed: the archive (9 records)", data_licences={"closed": "CC-BY-NC-4.0"})
    model = FineTunedClassifier(tmp_path / "base", stages="head", epochs=1).fit(RECORDS, TARGETS["booleans"])

    model.save(tmp_path / "tuned")
    assert known()["data"].startswith("recordings that were not named; closed: the archive (9 records)")
    assert set(data_licences(known())) >= {"recordings that were not named", "closed"}

    told = {"data": "clinic: its title (40 records)", "data_licences": {"clinic": "CC0-1.0"}, "licence": "CC-BY-NC-4.0"}
    model.save(tmp_path / "tuned", **told, site="here")
    first = known()
    assert first["data"].startswith("clinic: its title (40 records); closed: ")
    FineTunedClassifier.load(tmp_path / "tuned").save(tmp_path / "tuned")
    assert known() == first
    found = data_licences(known())
    assert (found["clinic"], found["closed"]) == ("CC0-1.0", "CC-BY-NC-4.0")
    assert any("closed is under CC-BY-NC-4.0" in line for line in licence_problems({"licence": "CC0-1.0"}, found))


def test_there_is_no_pickle_in_the_folder(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md",
        "classifier.json",
        "config.json",
        "golden.safetensors",
        "head.safetensors",
        "model.safetensors",
    ]


def altered(saved: Path, folder: Path, **fields) -> Path:
    shutil.copytree(saved, folder)
    values = json.loads((folder / "classifier.json").read_text(encoding="utf-8")) | fields
    (folder / "classifier.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"skecg_classifier": 2}, "has format 2, this skecg reads up to 1. Run `pip install --upgrade skecg`"),
        ({"skecg_classifier": "1"}, "describes no classifier"),
        ({"more": 1}, "lacks or adds the field 'more'"),
        ({"head": "mlp"}, "classifier.json is malformed, or not of head.safetensors"),
        ({"head": ["linear"]}, "classifier.json is malformed, or not of head.safetensors"),
        ({"head": "attention"}, "classifier.json is malformed, or not of head.safetensors"),
        ({"classes": {"dtype": "<U3", "values": ["a", "b"]}}, "2 classes or labels for a head of 3 outputs"),
        ({"classes": {"dtype": "<M8[s]", "values": ["a", "b", "c"]}}, "classes of dtype"),
        ({"classes": {"values": ["a", "b", "c"]}}, "malformed"),
        ({"multilabel": True}, "malformed"),
        ({"parameters": {"epoch": 3}}, "malformed.*epoch"),
        ({"fitted": {}}, "malformed"),
        ({"origin": []}, "malformed"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(saved: Path, tmp_path: Path, fields: dict, message: str) -> None:
    with pytest.raises(WeightsFormatError, match=message):
        FineTunedClassifier.load(altered(saved, tmp_path / "c", **fields))


def test_a_damaged_head_or_another_encoder_is_refused(saved: Path, tmp_path: Path) -> None:
    damaged = altered(saved, tmp_path / "damaged")
    content = bytearray((damaged / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "head.safetensors").write_bytes(content)
    with pytest.raises(DamagedWeightsError, match=r"not the one that classifier\.json describes"):
        FineTunedClassifier.load(damaged)

    other = altered(saved, tmp_path / "other")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, other / name)
    with pytest.raises(DamagedWeightsError, match="not the one that its classifier was trained with"):
        FineTunedClassifier.load(other)

    (other / "head.safetensors").unlink()
    with pytest.raises(DamagedWeightsError, match="is missing"):
        FineTunedClassifier.load(other)


def test_weights_without_a_classifier_and_no_folder_at_all_are_told_apart_from_one(tmp_path: Path) -> None:
    for folder in (TINY, tmp_path / "nowhere"):
        with pytest.raises(
            WeightsNotFoundError, match=r"holds no classifier\.json.*Weights alone are loaded by JEPAEmbedder"
        ):
            FineTunedClassifier.load(folder)


def test_what_json_cannot_say_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    days = np.where(RHYTHM == "af", np.datetime64("2020-01-01"), np.datetime64("2021-01-01"))
    with pytest.raises(ParameterError, match=r"classes of dtype datetime64.*Fit with classes that are text"):
        fit(days).save(tmp_path / "days")
    with pytest.raises(ParameterError, match="cannot be written as JSON"):
        fit().set_params(leads=object()).save(tmp_path / "object")
    with pytest.raises(NotFittedError):
        FineTunedClassifier(TINY).save(tmp_path / "none")

    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folders_place_is_left_alone(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").write_text("mine", encoding="utf-8")

    with pytest.raises(ParameterError, match="which is a file"):
        FineTunedClassifier.load(saved).save(tmp_path / "saved")

    assert (tmp_path / "saved").read_text(encoding="utf-8") == "mine"


def test_what_is_refused_leaves_the_classifier_that_was_there(saved: Path, tmp_path: Path) -> None:
    classifier = FineTunedClassifier.load(saved)
    classifier.save(tmp_path)

    with pytest.raises(ParameterError, match="cannot be written as JSON"):
        classifier.save(tmp_path, site=object())
    with pytest.raises(ParameterError, match="expected text that names the recordings"):
        classifier.save(tmp_path, data={"clinic": 40})
    with pytest.raises(ParameterError, match="expected each archive with its licence"):
        classifier.save(tmp_path, data="clinic", data_licences="CC0-1.0")

    np.testing.assert_array_equal(FineTunedClassifier.load(tmp_path).predict(X), classifier.predict(X))


def test_a_save_that_breaks_off_is_never_read_as_whole(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FineTunedClassifier.load(saved).save(tmp_path)
    other = fit(TARGETS["booleans"], validation_fraction=0)
    monkeypatch.setattr(fitted_folders, "save_tensors", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        other.save(tmp_path)

    with pytest.raises(DamagedWeightsError, match="not the one that its classifier was trained with"):
        FineTunedClassifier.load(tmp_path)
