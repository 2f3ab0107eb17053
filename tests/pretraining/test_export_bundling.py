"""Trained weights on their way into the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_runs import small_config, small_shards

import skecg
from pretraining.__main__ import main
from pretraining.export import bundle, export
from pretraining.trainer import Trainer
from skecg.weights import read_info, verify_weights


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
    assert (folder / "curves.png").stat().st_size > 5_000
    assert json.loads((folder / "training_config.json").read_text())["name"] == "small"


def test_weights_that_were_bundled_before_are_replaced(trained: Path, package: Path) -> None:
    for _ in range(2):
        bundle(trained / "weights", trained / "run", [], package=package)
    models = json.loads((package / "registry.json").read_text())["models"]
    assert list(models).count("small-one") == 1


def test_the_command_wants_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bundle", "weights"])
    assert "--run" in capsys.readouterr().err
