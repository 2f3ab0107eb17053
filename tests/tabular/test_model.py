"""A fitted model names the encoder that it was fitted with, not what is the default on some other day."""

from __future__ import annotations

from pathlib import Path

import pytest

from skecg import JEPAEmbedder, list_models
from skecg.datasets import make_ecg
from skecg.tabular.model import encoder_of, is_unfinished

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"


def test_the_default_is_kept_by_its_own_name_and_a_folder_by_its_whole_path(monkeypatch) -> None:
    records = make_ecg(1, random_state=0).records
    kept = encoder_of(JEPAEmbedder(cache=None).fit(records))
    name = kept["parameters"]["model"]
    assert list_models()[name]["default"]
    assert JEPAEmbedder(**kept["parameters"]).fit(records).weights_sha256_ == kept["weights_sha256"]

    monkeypatch.chdir(TINY.parent)
    assert encoder_of(JEPAEmbedder(TINY.name, cache=None).fit(records))["parameters"]["model"] == str(TINY)


_TUNED = "config.json model.safetensors golden.safetensors README.md head.safetensors classifier.json"


@pytest.mark.parametrize(
    ("names", "unfinished"),
    [
        ("probe.safetensors", True),
        (".probe.safetensors.0123abcd", True),
        ("probe.safetensors .model.json.0123abcd", True),
        (f"probe.safetensors {_TUNED}", True),
        ("probe.safetensors config.json .model.safetensors.0123abcd", True),
        ("probe.safetensors model.json", False),
        ("probe.safetensors thesis.txt", False),
        ("probe.safetensors .probe.safetensors.swp", False),
        (_TUNED, False),
        ("", False),
    ],
)
def test_only_what_a_save_begins_with_is_an_unfinished_save(tmp_path, names: str, unfinished: bool) -> None:
    for name in names.split():
        (tmp_path / name).touch()
    assert is_unfinished(tmp_path) is unfinished
