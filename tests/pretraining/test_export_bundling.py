"""Trained weights on their way into the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import small_config, small_shards

import skecg
from pretraining.__main__ import main
from pretraining.export import bundle, export
from pretraining.trainer import Trainer
from skecg.encoders.pooling import n_encoder_features
from skecg.weights import read_directions, read_info, verify_weights, write_directions


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and its weights."""
    folder = tmp_path_factory.mktemp("trained")
    Trainer(small_config(), small_shards(folder / "data"), folder / "run", device="cpu").train()
    export(folder / "run", folder / "weights", name="small-one", licence="CC-BY-4.0")
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A library's folder with its registry."""
    shutil.copyfile(Path(skecg.__file__).parent / "registry.json", tmp_path / "registry.json")
    return tmp_path


def test_bundled_weights_are_whole_and_the_default_from_then_on(trained: Path, package: Path) -> None:
    before = json.loads((package / "registry.json").read_text())["models"]
    notes = package / "notes.md"
    notes.write_text("## Where it is weak\n\nEverywhere.\n")

    folder = bundle(trained / "weights", trained / "run", [], notes=notes, package=package)

    models = json.loads((package / "registry.json").read_text())["models"]
    assert [name for name, entry in models.items() if entry["default"]] == ["small-one"]
    assert set(models) == {"small-one", *before}
    assert package / models["small-one"]["bundled"] == folder
    assert models["small-one"]["sha256"] == read_info(folder).sha256 == read_info(trained / "weights").sha256
    assert verify_weights(read_info(folder)).passed
    card = (folder / "README.md").read_text()
    assert 'JEPAEmbedder("small-one")' in card
    assert "skecg verify small-one" in card
    assert card.endswith("Everywhere.\n")
    assert not (folder / "directions.safetensors").exists()
    assert (folder / "curves.png").stat().st_size > 5_000
    assert json.loads((folder / "training_config.json").read_text())["name"] == "small"


def test_principal_directions_are_bundled_where_there_are_any(trained: Path, package: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(trained / "weights", tmp_path / "weights"))
    info = read_info(weights)
    n_features = n_encoder_features(info.pooling, info.encoder)
    write_directions(weights, np.random.default_rng(0).normal(size=(2 * n_features, n_features)))

    folder = bundle(weights, trained / "run", [], package=package)

    assert len(read_directions(read_info(folder))) == n_features
    assert "fewer with truncate_dim" in (folder / "README.md").read_text()


def test_weights_that_were_bundled_before_are_replaced(trained: Path, package: Path) -> None:
    for _ in range(2):
        bundle(trained / "weights", trained / "run", [], package=package)
    models = json.loads((package / "registry.json").read_text())["models"]
    assert list(models).count("small-one") == 1


def test_the_command_wants_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bundle", "weights"])
    assert "--run" in capsys.readouterr().err
