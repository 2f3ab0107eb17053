"""A segmenter's folder holds no code, and nothing in it is taken on trust."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from skecg import FineTunedClassifier, Segmenter
from skecg.errors import DamagedWeightsError, ParameterError, WeightsFormatError, WeightsNotFoundError


@pytest.fixture
def saved(segmenter: Segmenter, tmp_path: Path) -> Path:
    segmenter.save(tmp_path / "saved", data=["synthetic"], licence="CC0-1.0")
    return tmp_path / "saved"


def rewrite(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / "segmenter.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def test_the_folder_says_where_its_encoder_comes_from(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))

    assert config["provenance"]["fine_tuned_stages"] == "two"
    assert config["provenance"]["licence"] == "CC0-1.0"
    assert len(config["provenance"]["fine_tuned_from_sha256"]) == 64
    parameters = json.loads((saved / "segmenter.json").read_text(encoding="utf-8"))["parameters"]
    assert parameters["random_state"] == 0
    assert {"device", "n_jobs", "verbose"}.isdisjoint(parameters)


def test_a_folder_of_weights_alone_is_no_segmenter(tiny: Path) -> None:
    with pytest.raises(
        WeightsNotFoundError, match=r"holds no segmenter\.json.*Weights alone are loaded by JEPAEmbedder"
    ):
        Segmenter.load(tiny)


def test_one_who_loads_it_as_a_classifier_is_told_what_it_is(saved: Path) -> None:
    with pytest.raises(
        WeightsNotFoundError, match=r"holds no classifier\.json.*holds a segmenter: use Segmenter\.load"
    ):
        FineTunedClassifier.load(saved)


def test_a_decoder_that_was_altered_is_refused(saved: Path) -> None:
    path = saved / "decoder.safetensors"
    tensors = load_file(path)
    tensors["classify.bias"] += 1
    save_file(tensors, path)

    with pytest.raises(DamagedWeightsError, match=r"not the one that segmenter\.json describes"):
        Segmenter.load(saved)


def test_a_decoder_beside_another_encoder_is_refused(saved: Path, tiny: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny / name, saved / name)

    with pytest.raises(DamagedWeightsError, match="not the one that its segmenter was trained with"):
        Segmenter.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(skecg_segmenter=2), "has format 2"),
        (lambda values: values.pop("skecg_segmenter"), "describes no segmenter"),
        (lambda values: values.update(more=1), "lacks or adds the field 'more'"),
        (lambda values: values.update(classes=["a", "b", "c", "d"]), "has other classes than this skecg"),
        (lambda values: values["parameters"].update(depth=3), "is malformed"),
        (lambda values: values["parameters"].update(width=7), "the decoder is not 7 wide"),
    ],
)
def test_a_description_that_is_not_ours_is_refused(
    saved: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    rewrite(saved, change)

    with pytest.raises(WeightsFormatError, match=message):
        Segmenter.load(saved)


def test_a_file_in_the_folders_place_is_left_alone(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "saved").write_text("mine", encoding="utf-8")

    with pytest.raises(ParameterError, match="which is a file"):
        segmenter.save(tmp_path / "saved")

    assert (tmp_path / "saved").read_text(encoding="utf-8") == "mine"
