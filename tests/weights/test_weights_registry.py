from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import skecg
from skecg.errors import DamagedWeightsError, ParameterError, WeightsNotFoundError
from skecg.weights import find_weights, list_models, read_info
from skecg.weights import registry as names

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def registry(monkeypatch):
    """A registry of two names, one of them bundled."""
    entry = {"bundled": str(FIXTURES / "tiny-temporal"), "sha256": read_info(FIXTURES / "tiny-temporal").sha256}
    entries = {"tiny-temporal": entry | {"default": True, "trained": False}, "tiny-other": entry}
    monkeypatch.setattr(names, "_registry", lambda: entries)
    return entries


def test_default_and_its_name_are_the_same_weights(registry):
    assert find_weights("default") == find_weights("tiny-temporal")


def test_the_registered_models_lie_where_the_registry_says_and_are_what_it_says():
    models = list_models()
    assert sum(bool(entry.get("default")) for entry in models.values()) == 1
    for name, entry in models.items():
        info = find_weights(name)
        assert info.sha256 == entry["sha256"]
        assert info.provenance.get("trained") is entry["trained"]
        assert list(info.spec.leads) == entry["leads"]


def test_what_list_models_gives_may_be_changed_without_harm():
    list_models()["default-like"] = {}
    next(iter(list_models().values())).clear()
    assert "default-like" not in list_models()
    assert all(list_models().values())


def test_bundled_weights_of_another_digest_are_refused(registry):
    registry["tiny-other"]["sha256"] = "0" * 64
    registry["tiny-other"] = registry["tiny-other"] | {"sha256": "0" * 64}
    with pytest.raises(DamagedWeightsError, match="Reinstall skecg"):
        find_weights("tiny-other")


def test_a_folder_is_found_by_text_and_by_path(tmp_path):
    folder = Path(shutil.copytree(FIXTURES / "tiny-leadwise", tmp_path / "mine"))
    assert find_weights(folder) == find_weights(str(folder))


def test_a_name_close_to_a_known_one_is_suggested(registry):
    with pytest.raises(WeightsNotFoundError, match="Did you mean 'tiny-temporal'"):
        find_weights("tiny-tempral")
    with pytest.raises(WeightsNotFoundError, match="Did you mean 'default'"):
        skecg.load_encoder("defalt")


def test_a_name_that_another_has_replaced_is_told_which():
    with pytest.raises(WeightsNotFoundError, match=r"'skecg-xs-3', which 'skecg-xs-5' has replaced.* fit again"):
        find_weights("skecg-xs-3")
    for old, new in names._registry_file()["replaced"].items():
        assert old not in list_models()
        assert new in list_models()


def test_a_name_like_none_known_gets_the_list(registry):
    with pytest.raises(WeightsNotFoundError, match="Known names: default, tiny-temporal, tiny-other"):
        find_weights("zzzzzz")


@pytest.mark.parametrize("path", ["./nowhere/weights", "/nowhere/weights", "../nowhere", "a/b/c"])
def test_a_path_without_folder_is_not_looked_for_on_the_hub(path, registry, monkeypatch):
    monkeypatch.setattr("skecg.weights.fetching.fetch_weights", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(WeightsNotFoundError, match="no folder"):
        find_weights(path)


@pytest.mark.parametrize("name", ["mine/encoder.onnx", "mine/config.json", "./mine/encoder.pth"])
def test_a_file_is_not_asked_of_the_hub_but_told_from_a_folder(name, registry, tmp_path, monkeypatch):
    monkeypatch.setattr("skecg.weights.fetching.fetch_weights", lambda *_, **__: pytest.fail("asked the Hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(WeightsNotFoundError, match=r"a file, expected the folder .*Pass 'mine', or .*skecg convert"):
        find_weights(name)


@pytest.mark.parametrize("model", ["", None, 3, ["default"]])
def test_something_that_is_no_name_is_refused(model):
    with pytest.raises(ParameterError, match=r"expected a model.s name"):
        find_weights(model)


@pytest.mark.parametrize("revision", [5, "", "  "])
def test_a_revision_is_a_name(revision):
    with pytest.raises(ParameterError, match="expected the name of a branch or tag, a commit, or None"):
        find_weights("someone/weights", revision=revision)


@pytest.mark.slow
def test_offline_mode_of_the_hub_is_respected(tmp_path):
    code = (
        "import skecg\n"
        "try:\n"
        "    skecg.load_encoder('someone/some-ecg-model')\n"
        "except skecg.errors.WeightsNotFoundError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert "skecg download someone/some-ecg-model --to FOLDER" in done.stdout


def test_what_the_room_does_not_have_is_said_as_python_says_it() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        skecg.weights.nothing  # noqa: B018
