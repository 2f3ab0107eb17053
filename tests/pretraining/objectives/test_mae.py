from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_mae import KINDS, LEADS, PATCH, SLICES, a_model, masks_for, small
from small_runs import assert_same_bits, small_config, small_shards
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import skecg
from pretraining.config import DataConfig, PretrainConfig
from pretraining.config.objectives import MaeConfig, ObjectiveConfig
from pretraining.data.batches import draw_batch
from pretraining.data.shards import ShardSet
from pretraining.export import export
from pretraining.monitoring.gauges import Gauges
from pretraining.monitoring.journal import read_journal
from pretraining.monitoring.report import describe_run
from pretraining.objectives import build_model, objective_class
from pretraining.objectives.mae import Mae, mae_flops, parts_of, patch_targets
from pretraining.objectives.masks import TokenMasks, draw_token_masks
from pretraining.recipes import load_recipe
from pretraining.runs import load_checkpoint
from pretraining.trainer import Trainer
from skecg.datasets import make_ecg
from skecg.errors import ParameterError
from skecg.evaluation.token_probe import raw_tokens
from skecg.spec import TemporalConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return small_shards(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums to the last bit depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def changed(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Add noise to some patches (B, L, P)."""
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(2))
    return values + noise * where.repeat_interleave(PATCH, dim=2)


# --- laws of the objective ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_reconstructed_does_not_depend_on_what_was_hidden(kind: str) -> None:
    model, values, masks = a_model(small(kind))
    assert torch.equal(model.reconstruct(changed(values, masks.asked), masks), model.reconstruct(values, masks))


@pytest.mark.parametrize("kind", KINDS)
def test_only_hidden_patches_are_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, values, masks = a_model(small(kind))
    loss = model(values, masks).total
    made = model.reconstruct(values, masks)
    monkeypatch.setattr(model, "reconstruct", lambda *_: made)
    assert torch.equal(model(changed(values, ~masks.asked), masks).total, loss)
    assert not torch.equal(model(changed(values, masks.asked), masks).total, loss)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_mean_over_recordings_however_they_are_put_together(kind: str) -> None:
    config = small(kind)
    there = np.ones((4, LEADS, SLICES), dtype=bool)
    there[1, 1:], there[2, :, 7:] = False, False
    model, values, _ = a_model(config)
    masks = masks_for(config, there)
    alone = [model(values[[row]], masks.take(slice(row, row + 1))).total for row in range(4)]
    torch.testing.assert_close(model(values, masks).total, torch.stack(alone).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_absent_leads_and_padding_do_not_count(kind: str) -> None:
    config = small(kind)
    there = np.ones((4, LEADS, SLICES), dtype=bool)
    there[:2, 1], there[2:, :, 8:] = False, False
    model, values, _ = a_model(config)
    masks = masks_for(config, there)
    silent = values * torch.from_numpy(there).repeat_interleave(PATCH, dim=2)
    if kind != "time":  # a token of all leads sees what stands in an absent one, which is 0
        loud = changed(silent, ~torch.from_numpy(there))
        torch.testing.assert_close(model(loud, masks).total, model(silent, masks).total)
    assert not (masks.asked & ~torch.from_numpy(there)).any()
    assert (masks.asked.sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight(kind: str) -> None:
    model, values, masks = a_model(small(kind))
    model(values, masks).total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_targets_have_no_mean_and_a_deviation_of_one_or_less() -> None:
    values = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0)) * 5 + 3
    values[0, 0, :10] = 7.0  # flat
    targets = patch_targets(values, 10, 1e-6)
    assert targets.mean(dim=-1).abs().max() < 1e-5
    deviation = targets.std(dim=-1, correction=0)
    assert deviation[0, 0, 0] == 0
    assert (deviation.flatten()[1:] - 1).abs().max() < 1e-4
    variance = values[1].unflatten(1, (-1, 10)).var(dim=-1, correction=0)
    shrunk = patch_targets(values, 10, 9.0).std(dim=-1, correction=0)[1]
    torch.testing.assert_close(shrunk, (variance / (variance + 9.0)).sqrt())
    quiet = patch_targets(values * 0.01, 10, 1.0).std(dim=-1)
    assert quiet.max() < 0.1, "patches that vary less than the root of eps count for less"


def test_a_model_that_gives_the_hidden_patches_back_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        model, values, masks = a_model(small(kind))
        monkeypatch.setattr(model, "reconstruct", lambda v, _: patch_targets(v, PATCH, 1e-6))
        assert model(values, masks).total.item() == 0
        monkeypatch.setattr(model, "reconstruct", lambda v, _: torch.zeros(1))
        assert model(values, masks).total.item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_put_where_their_tokens_are(kind: str) -> None:
    model, values, masks = a_model(small(kind))
    samples = torch.arange(LEADS * SLICES * PATCH).float().expand(4, -1).view(4, LEADS, SLICES, PATCH)
    tokens = samples.flatten(1, 2) if kind != "time" else samples.transpose(1, 2).flatten(2)
    model.decoder.forward = lambda *_: tokens  # type: ignore[method-assign]
    assert torch.equal(model.reconstruct(values, masks), samples)


@pytest.mark.parametrize("kind", KINDS)
def test_places_without_a_token_leave_the_reconstruction_alone(kind: str) -> None:
    config = small(kind)
    there = np.ones((2, LEADS, SLICES), dtype=bool)
    there[1, 1:], there[1, :, 10:] = False, False
    model, values, _ = a_model(config, 2)
    masks = masks_for(config, there)
    one = masks.visible[1]
    assert (one < 0).any()
    closer = TokenMasks(one[one >= 0][None], masks.asked[1:])
    torch.testing.assert_close(model.reconstruct(values, masks)[1:], model.reconstruct(values[1:], closer))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_patches_are_told_apart_by_their_place(kind: str) -> None:
    model, values, masks = a_model(small(kind), 1)
    made = model.reconstruct(values, masks)[masks.asked]  # (patches, samples)
    distances = (made[:, None] - made).abs().amax(dim=-1)
    assert distances[~torch.eye(len(made), dtype=torch.bool)].min() > 1e-4


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_leads_that_a_recording_is_not_shown_with_and_its_padding_are_neither_seen_nor_asked(shards: ShardSet) -> None:
    config = small("both", data=DataConfig(lead_dropout=0.9), input=dataclasses.replace(INPUT, any_leads=True))
    batch = draw_batch(shards, config, 0, range(16))
    batch = dataclasses.replace(batch, valid_samples=np.where(np.arange(16) < 8, 200, 75))
    masks = Mae.draw(config, None, batch, 0, range(16))
    columns = [0, 1, 6]  # I, II and V1 among the twelve
    shown = (batch.kept_leads & batch.lead_mask)[:, columns]
    assert 0 < shown.mean() < 1
    asked = masks.asked.numpy()
    assert not asked[~shown].any()
    assert not asked[8:, :, 7:].any(), "a slice that is not filled is padding"
    halves = [Mae.draw(config, None, batch[part], 0, range(part.start, part.stop)) for part in (HALF, REST)]
    assert torch.equal(masks.visible, torch.cat([half.visible for half in halves]))


INPUT = small_config().input
HALF, REST = slice(0, 8), slice(8, 16)


# --- runs ---------------------------------------------------------------------------------------------------------


def train(config: PretrainConfig, shards: ShardSet, out: Path, **options: Any) -> dict[str, Any]:
    Trainer(config, shards, out, device="cpu", **options).train()
    return load_checkpoint(out / "checkpoints")


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_journal(out) if "loss" in line]


class StopAt:
    """A probe that has the run stopped at its n-th score."""

    def __init__(self, at: int) -> None:
        self.left = at

    def score(self, encoder: Any, spec: Any, pooling: str) -> dict[str, float]:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return {"probe": 0.5}


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_are_the_same_and_so_is_one_that_was_stopped_and_resumed(
    shards: ShardSet, tmp_path: Path, kind: str
) -> None:
    config = small(kind)
    config = dataclasses.replace(config, watch=dataclasses.replace(config.watch, probe_every=2))
    whole = train(config, shards, tmp_path / "whole", probe=StopAt(99))
    stopped = train(config, shards, tmp_path / "run", probe=StopAt(2))
    assert stopped["step"] == 3, "asked to stop after step 2, it finished and saved the one under way"
    assert_same_bits(train(config, shards, tmp_path / "run", probe=StopAt(99), resume=True), whole)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    if kind == "both":
        assert_same_bits(train(config, shards, tmp_path / "again", probe=StopAt(99)), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_taken_in_parts_is_the_same_step(shards: ShardSet, tmp_path: Path, kind: str) -> None:
    config = small(kind)
    parts = dataclasses.replace(config, run=dataclasses.replace(config.run, accumulation=4))
    whole = train(config, shards, tmp_path / "whole")
    apart = train(parts, shards, tmp_path / "parts")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    for name, weight in whole["model"].items():
        torch.testing.assert_close(apart["model"][name], weight, rtol=0, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_and_becomes_weights_that_embed_any_leads_and_lengths(
    shards: ShardSet, tmp_path: Path, kind: str
) -> None:
    config = small(kind, input=dataclasses.replace(INPUT, any_leads=True))
    run = dataclasses.replace(config.run, steps=40)
    train(dataclasses.replace(config, run=run), shards, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert np.mean(found[-5:]) < 0.95 * found[0]

    export(tmp_path / "run", tmp_path / "weights")
    encoder, _ = skecg.load_encoder(str(tmp_path / "weights"))
    assert json.loads((tmp_path / "weights" / "config.json").read_text())["architecture"] == "multiscale"
    trained = build_model(config, load_checkpoint(tmp_path / "run" / "checkpoints")["model"]).target_encoder
    assert_same_bits(dict(encoder.state_dict()), dict(trained.state_dict()))
    embedder = skecg.JEPAEmbedder(str(tmp_path / "weights"))
    records = make_ecg(3, duration_seconds=4.0, sampling_rate=100.0, random_state=5).records
    fewer = make_ecg(2, duration_seconds=1.0, sampling_rate=100.0, leads=("II", "V1"), random_state=5).records
    features = embedder.fit_transform([*records, *fewer])
    embedder.verify()
    assert features.shape == (5, 16)
    assert np.isfinite(features).all()
    (tokens,) = embedder.transform_tokens(fewer[:1])
    assert set(tokens.leads) == ({"all"} if kind == "time" else {"II", "V1"})
    (whole,), (samples,) = embedder.transform_tokens(records[:1]), raw_tokens(embedder, records[:1])
    places = [sorted(zip(found.leads, found.start_seconds, strict=True)) for found in (samples, whole)]
    assert places[0] == places[1]


@pytest.mark.parametrize("kind", KINDS)
def test_gauges_measure_an_encoder_without_a_second_one(kind: str) -> None:
    config = small(kind)
    model, values, masks = a_model(config, 8)
    found = Gauges().measure(model, values, masks)
    assert found["fixed_loss"] == pytest.approx(model(values, masks).total.item(), rel=1e-5)
    assert {"rank", "record_spread", "token_spread", "lidar"} <= set(found)
    assert "drift" not in found


def test_the_story_says_what_is_hidden(shards: ShardSet, tmp_path: Path) -> None:
    train(small("both"), shards, tmp_path / "run")
    assert not any("momentum" in line for line in read_journal(tmp_path / "run")), "there is nothing to average"
    assert "75 % of the patches hidden; decoder of width 8, 2 blocks" in describe_run(tmp_path / "run")


# --- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_reads_itself_back(kind: str) -> None:
    config = small(kind)
    values = json.loads(json.dumps(config.to_dict()))
    assert values["objective"] == {"kind": "mae", "masks": kind, "ratio": 0.75, "target_eps": 1e-6}
    assert PretrainConfig.from_dict(values) == config
    assert objective_class(config) is Mae


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": TemporalConfig(3, 10, 20, 16, 2, 2)}, "'temporal', expected 'multiscale'"),
        ({"objective": MaeConfig("leads")}, "encoder.lead_groups=1, expected n_leads=3"),
        ({"objective": MaeConfig("both")}, "encoder.lead_groups=1, expected n_leads=3"),
        ({"predictor": None}, "predictor=None, expected the shape of the decoder"),
        ({"export_encoder": "target"}, "'context' with 'mae'"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        small(**changes)


@pytest.mark.parametrize("wrong", [{"masks": "space"}, {"ratio": 0.0}, {"ratio": 1.0}, {"target_eps": 0.0}])
def test_a_wrong_objective_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="objective"):
        MaeConfig(**wrong)


def test_jepa_refuses_a_multiscale_encoder_with_a_token_for_each_lead() -> None:
    several = dataclasses.replace(small().encoder, lead_groups=3)
    config = dataclasses.replace(small_config(), encoder=several, objective=ObjectiveConfig())
    with pytest.raises(ParameterError, match=r"encoder.lead_groups=3 for JEPA, expected 1.*recipes mae_leads"):
        build_model(config)


# --- arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mae_time", "mae_leads", "mae_both"])
def test_arithmetic_is_counted_as_torch_counts_it(name: str) -> None:
    config = load_recipe(name)
    objective, shape, decoder = parts_of(config)
    there = np.ones((1, 12, shape.n_patches), dtype=bool)
    masks = draw_token_masks(objective.masks, objective.ratio, there, shape.lead_groups, range(1), seed=0, step=0)
    with torch.device("meta"):
        model, values = Mae(config), torch.empty(1, 12, 2500)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        model.context_encoder(values)
    assert shape.flops(shape.n_patches) == pytest.approx(counted.get_total_flops(), rel=0.01)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        model(values, masks.to(torch.device("meta")))
    # Convolutions run over what is hidden, too, which the mathematics does not need.
    needless = 0.75 * 2 * 12 * (2500 // 5) * sum(shape.kernel_samples) * shape.stem_dim
    found = mae_flops(shape, decoder, masks.visible.shape[1]) / 3 + needless
    assert found == pytest.approx(counted.get_total_flops(), rel=0.01)


def test_convolutions_cost_less_than_a_tenth_of_the_temporal_encoder() -> None:
    plain = load_recipe("skecg_temporal").encoder
    assert parts_of(load_recipe("mae_time"))[1].flops(100) < 1.1 * plain.flops(100)
