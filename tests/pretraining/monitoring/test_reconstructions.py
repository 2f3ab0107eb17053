from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_mae import KINDS, LEADS, PATCH, SLICES, a_model, small
from small_runs import small_config, small_shards

from pretraining.config import PretrainConfig
from pretraining.data.shards import ShardSet
from pretraining.monitoring import reconstructions
from pretraining.monitoring.reconstructions import Reconstruction, draw_reconstructions, reconstruct
from pretraining.monitoring.report import inspect_run
from pretraining.objectives.mae import patch_moments, patch_targets
from pretraining.trainer import Trainer
from skecg.errors import ParameterError, RecordNotFoundError
from skecg.spec import InputSpec

SPEC = InputSpec(("I", "II", "V1"), 100.0, SLICES * PATCH)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return small_shards(tmp_path_factory.mktemp("data"))


def a_run(shards: ShardSet, out: Path, config: PretrainConfig | None = None) -> Path:
    chosen = small("both") if config is None else config
    Trainer(
        dataclasses.replace(chosen, run=dataclasses.replace(chosen.run, steps=1)), shards, out, device="cpu"
    ).train()
    return out


def drawings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Reconstruction], str]]:
    """Note what is drawn, and under which title."""
    noted: list[tuple[list[Reconstruction], str]] = []
    draw = reconstructions._draw

    def note(found: list[Reconstruction], title: str, config: PretrainConfig) -> Any:
        noted.append((found, title))
        return draw(found, title, config)

    monkeypatch.setattr(reconstructions, "_draw", note)
    return noted


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_hidden_is_drawn_and_nothing_else(kind: str) -> None:
    model, values, masks = a_model(small(kind))
    found = reconstruct(model, values, masks, SPEC)
    hidden = masks.asked.repeat_interleave(PATCH, dim=2).numpy()
    for row, one in enumerate(found):
        assert np.array_equal(one.hidden, hidden[row])
        assert np.array_equal(np.isfinite(one.samples), hidden[row])
        np.testing.assert_array_equal(one.record.signal, values[row].numpy())
    whole = model(values, masks).total.item()
    assert np.mean([one.loss for one in found]) == pytest.approx(whole, rel=1e-5)


def test_a_perfect_model_gives_the_signal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, values, masks = a_model(small())
    monkeypatch.setattr(model, "reconstruct", lambda v, _: patch_targets(v, PATCH, 1e-6))
    for one in reconstruct(model, values, masks, SPEC):
        np.testing.assert_allclose(one.samples[one.hidden], one.record.signal[one.hidden], atol=1e-5)
        assert one.loss == 0


def test_statistics_are_undone_so_that_paper_is_in_millivolts() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    spec = dataclasses.replace(SPEC, normalization="statistics", mean=mean, std=std)
    model, values, masks = a_model(small())
    plain, found = reconstruct(model, values, masks, SPEC), reconstruct(model, values, masks, spec)
    for one, other in zip(plain, found, strict=True):
        scaled = one.record.signal * np.array(std, np.float32)[:, None] + np.array(mean, np.float32)[:, None]
        np.testing.assert_allclose(other.record.signal, scaled, rtol=1e-5, atol=1e-6)


def test_moments_and_targets_make_patches_again() -> None:
    values = torch.randn(2, LEADS, 40)
    mean, deviation = patch_moments(values, PATCH, 1e-6)
    torch.testing.assert_close((patch_targets(values, PATCH, 1e-6) * deviation + mean).flatten(2), values)


def test_inspecting_a_run_draws_reconstructions_of_its_own_data(
    shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(shards, tmp_path / "run")
    drawn = drawings(monkeypatch)
    assert inspect_run(run) == run / "curves.png"
    assert (run / "reconstructions.png").read_bytes().startswith(b"\x89PNG")
    assert str(run / "reconstructions.png") in capsys.readouterr().out
    (found, title) = drawn[0]
    assert "step 1; recordings of its data" in title
    assert len(found) == 3

    inspect_run(run, tmp_path / "deep" / "here.svg", data=shards.folder)
    assert (tmp_path / "deep" / "here_reconstructions.svg").is_file()
    assert str(shards.folder) in drawn[1][1]


def test_where_the_data_is_gone_synthetic_recordings_are_drawn_and_said_to_be(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(shards, tmp_path / "run", small("leads"))
    described = json.loads((run / "data.json").read_text())
    assert Path(described["folder"]) == shards.folder.absolute()
    drawn = drawings(monkeypatch)
    for change in ({"folder": str(tmp_path / "nowhere")}, {"fingerprint": "another"}):
        (run / "data.json").write_text(json.dumps(described | change))
        draw_reconstructions(run, tmp_path / "picture.png", n_records=1)
    assert ["synthetic" in title for _, title in drawn] == [True, True]


def test_what_cannot_be_drawn_is_refused(shards: ShardSet, tmp_path: Path) -> None:
    run = a_run(shards, tmp_path / "jepa", small_config())
    with pytest.raises(ParameterError, match="run of 'jepa', expected a masked autoencoder"):
        draw_reconstructions(run, tmp_path / "picture.png")
    with pytest.raises(RecordNotFoundError, match="no shards"):
        draw_reconstructions(a_run(shards, tmp_path / "mae"), tmp_path / "picture.png", data=tmp_path / "nowhere")
