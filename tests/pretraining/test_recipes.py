"""Recipes are the published runs to the digit, and skecg's own keep their promises."""

from __future__ import annotations

import dataclasses
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
import torch

import pretraining.recipes
from pretraining.config import PretrainConfig
from pretraining.config.objectives import MaeConfig
from pretraining.objectives import build_model
from pretraining.objectives.jepa import Jepa, JepaDraw
from pretraining.objectives.masks import draw_masks
from pretraining.objectives.predictors import build_predictor
from pretraining.optim import learning_rate, momentum, weight_decay
from pretraining.recipes import RECIPES, describe_recipe, load_recipe
from pretraining.recipes.beat_ssl import ABLATION
from pretraining.recipes.kim import N_RECORDS
from pretraining.recipes.weimann import CORPUS_SHARES
from skecg.encoders import build_encoder
from skecg.encoders.pooling import check_pooling
from skecg.errors import ParameterError

WEIMANN = [name for name in RECIPES if name.startswith("weimann")]
KIM = [name for name in RECIPES if name.startswith("kim")]


def n_trained(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_as_its_function_and_described(name: str) -> None:
    assert load_recipe(name).name == name
    assert describe_recipe(name).endswith(".")
    assert len(describe_recipe(name)) < 120


def test_every_function_of_a_recipe_is_listed() -> None:
    folder = Path(pretraining.recipes.__file__).parent
    pattern = re.compile(r"^def (\w+)\(\) -> PretrainConfig:", re.MULTILINE)
    names = [name for path in folder.glob("*.py") for name in pattern.findall(path.read_text())]
    assert sorted(names) == sorted(set(RECIPES) - set(ABLATION))


@pytest.mark.parametrize(
    ("wrong", "hint"), [("weiman_vit_s", "weimann_vit_s"), ("skecg", "skecg_dual"), ("TINY", "skecg_default")]
)
def test_an_unknown_recipe_is_refused_with_the_nearest_or_all(wrong: str, hint: str) -> None:
    with pytest.raises(ParameterError, match=hint):
        load_recipe(wrong)


@pytest.mark.parametrize(
    ("name", "encoder", "predictor"),
    [
        # As counted on the authors' code.
        ("weimann_vit_xs", 3_600_000, 923_328),
        ("weimann_vit_s", 14_277_888, 3_689_856),
        ("weimann_vit_b", 85_185_024, 21_833_472),
        ("kim_leadwise_b_random", 85_067_520, 11_232_000),
        ("kim_leadwise_b_block", 85_067_520, 11_232_000),
    ],
)
def test_models_have_the_published_numbers_of_parameters(
    name: str, encoder: int, predictor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_recipe(name)
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **how: tensor)  # slow without storage
    with torch.device("meta"):
        assert n_trained(build_encoder(config.encoder)) == encoder
        assert n_trained(build_predictor(config.predictor, config.encoder)) == predictor


@pytest.mark.parametrize("name", WEIMANN)
def test_weimanns_schedules_are_those_of_the_published_run(name: str) -> None:
    config = load_recipe(name)
    assert config.run.steps == 100_000
    assert config.run.batch_size == (1024 if name.endswith("_b") else 2048)
    rates = [learning_rate(config, step) for step in (0, 5_000, 10_000, 99_999)]
    assert rates == pytest.approx([1e-6, 5.005e-4, 1e-3, 1e-6])
    assert [weight_decay(config, step) for step in (0, 99_999)] == pytest.approx([0.01, 0.1])
    assert [momentum(config, step) for step in (0, 100_000)] == pytest.approx([0.998, 0.9995])
    assert config.ema.before_step
    assert (config.optim.betas, config.optim.eps, config.optim.gradient_clip) == ((0.9, 0.99), 1e-6, 0.0)


@pytest.mark.parametrize("name", WEIMANN)
def test_weimanns_input_and_objective_are_as_published(name: str) -> None:
    config = load_recipe(name)
    spec = config.input
    assert (spec.sampling_rate, spec.window_samples, spec.n_leads, spec.clip) == (500.0, 5000, 12, 5.0)
    assert (spec.resampling, spec.normalization) == ("fourier", "statistics")
    assert spec.std is not None
    # aVL and aVF in their own places, though MIMIC-IV-ECG's files have them the other way round.
    assert (spec.std[4], spec.std[5]) == (0.141, 0.143)
    assert (config.objective.loss, config.objective.target_norm) == ("l1", "none")
    assert config.predictor.dim * 2 == config.encoder.dim
    assert (config.predictor.depth, config.predictor.num_heads) == (config.encoder.depth, config.encoder.num_heads)
    assert config.export_encoder == "target"


@pytest.mark.parametrize("name", KIM)
def test_kims_schedules_are_those_of_the_published_run(name: str) -> None:
    config = load_recipe(name)
    epoch = -(-N_RECORDS // config.run.batch_size)
    assert epoch in (2721, 1361)
    assert (config.run.steps, config.optim.warmup_steps) == (100 * epoch, 5 * epoch)
    peak = config.optim.lr
    assert (peak, config.run.batch_size) == ((5e-5, 64) if name.endswith("block") else (2.5e-5, 128))
    assert learning_rate(config, 0) == pytest.approx(1e-6)
    # Where warm-up ends the cosine is read at the absolute step, so that the rate falls a little.
    assert learning_rate(config, 5 * epoch) / peak == pytest.approx(0.994, abs=5e-4)
    assert learning_rate(config, 100 * epoch) == pytest.approx(1e-6)
    assert [momentum(config, step) for step in (0, 100 * epoch)] == pytest.approx([0.996, 1.0])
    assert weight_decay(config, 0) == weight_decay(config, 99 * epoch) == 0.05
    assert not config.ema.before_step


@pytest.mark.parametrize("name", KIM)
def test_kims_input_and_objective_are_as_published(name: str) -> None:
    config = load_recipe(name)
    assert config.input.leads == ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    assert (config.input.sampling_rate, config.input.normalization, config.input.clip) == (250.0, "none", None)
    assert (config.objective.loss, config.objective.target_norm) == ("smooth_l1", "layer")
    assert (config.data.drop_path, config.export_encoder, config.pooling) == (0.1, "context", "mean")
    assert not config.data.roll
    assert config.data.gain == (1.0, 1.0)


def test_kims_blocks_never_reach_the_last_slice() -> None:
    config = load_recipe("kim_leadwise_b_block")
    for step in range(200):
        masks = draw_masks(config.masks, 50, range(1), seed=0, step=step)[0]
        assert 49 in masks.context[0]


def test_kims_random_masks_hide_60_to_70_percent() -> None:
    config = load_recipe("kim_leadwise_b_random")
    hidden = {draw_masks(config.masks, 50, range(1), seed=0, step=step)[0].target.shape[1] for step in range(200)}
    assert hidden == set(range(30, 35))


def test_weimanns_masks_keep_15_to_25_percent() -> None:
    config = load_recipe("weimann_vit_s")
    kept = [draw_masks(config.masks, 200, range(2), seed=0, step=step)[0].context.shape[1] for step in range(200)]
    assert (min(kept), max(kept)) in {(low, high) for low in (31, 32) for high in (49, 50)}


def test_no_recipe_names_corpora_that_may_not_be_there() -> None:
    assert [name for name in RECIPES if load_recipe(name).data.weights] == []
    assert sum(CORPUS_SHARES.values()) == pytest.approx(1.0)
    given = load_recipe("weimann_vit_s")
    weighted = dataclasses.replace(given, data=dataclasses.replace(given.data, weights=dict(CORPUS_SHARES)))
    assert PretrainConfig.from_dict(weighted.to_dict()) == weighted


@pytest.mark.parametrize("name", ["skecg_default", "skecg_dual"])
def test_our_own_are_small_and_take_any_leads(name: str) -> None:
    config = load_recipe(name)
    assert n_trained(build_encoder(config.encoder)) * 4 <= 12e6
    assert config.encoder.flops(config.encoder.n_patches) <= 1e9
    assert config.input.any_leads
    assert config.data.lead_dropout + config.masks.lead_dropout > 0
    assert config.masks.last_slice


def test_the_default_scales_all_leads_alike_so_that_einthovens_law_holds() -> None:
    spec = load_recipe("skecg_default").input
    assert spec.std is not None
    assert spec.mean is not None
    assert set(spec.std) == {0.2}
    assert set(spec.mean) == {0.0}


@pytest.mark.parametrize("name", RECIPES)
def test_exported_weights_can_be_pooled_as_the_recipe_says(name: str) -> None:
    config = load_recipe(name)
    assert check_pooling(config.pooling, getattr(config.encoder, "num_registers", 0)) == config.pooling


@pytest.mark.parametrize("name", RECIPES)
def test_checkpoints_that_are_kept_are_ones_that_are_written(name: str) -> None:
    watch = load_recipe(name).watch
    assert watch.checkpoint_every > 0
    assert watch.keep_every % watch.checkpoint_every == 0


def test_a_step_of_the_tiny_recipe_has_a_gradient_everywhere() -> None:
    config = load_recipe("tiny")
    torch.manual_seed(0)
    model = Jepa(config)
    masks = draw_masks(config.masks, config.encoder.n_patches, range(2), seed=0, step=0)
    model(torch.randn(2, 12, 2500), JepaDraw(masks)).total.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", ["mae_time", "mae_leads", "mae_both"])
def test_masked_autoencoders_see_what_the_temporal_encoder_sees_for_as_long(name: str) -> None:
    config, default = load_recipe(name), load_recipe("skecg_temporal")
    assert (config.input, config.data, config.run, config.pooling) == (
        default.input,
        default.data,
        default.run,
        default.pooling,
    )
    ours, theirs = config.encoder, default.encoder
    assert (ours.dim, ours.depth, ours.num_heads) == (theirs.dim, theirs.depth, theirs.num_heads)
    assert isinstance(config.objective, MaeConfig)
    assert (config.objective.masks, config.objective.ratio) == (name.removeprefix("mae_"), 0.75)


@pytest.mark.parametrize(("model", "recipe"), [("skecg-xs-2", "skecg_default"), ("skecg-xs-5", "skecg_dual")])
def test_a_recipe_is_what_the_weights_that_come_with_skecg_were_trained_by(model: str, recipe: str) -> None:
    kept = files("skecg") / "pretrained" / model / "training_config.json"
    trained = PretrainConfig.from_dict(json.loads(kept.read_text(encoding="utf-8")))
    assert dataclasses.replace(trained, start="") == load_recipe(recipe)


def test_the_dual_recipe_trains_beside_the_default_and_leaves_its_features_as_they_are() -> None:
    dual, default = load_recipe("skecg_dual"), load_recipe("skecg_default")
    assert dual.encoder.transformer == default.encoder
    assert (dual.input, dual.pooling) == (default.input, default.pooling)
    encoder = build_model(dual).context_encoder
    trained = {name.split(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {"residual"}


def test_what_is_hidden_of_the_dual_encoder_cannot_be_read_from_what_is_seen() -> None:
    config = load_recipe("skecg_dual")
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder).eval().requires_grad_(False)
    masks, _ = draw_masks(config.masks, config.encoder.n_patches, range(2), seed=0, step=0)
    values = torch.randn(2, 12, 1000)
    hidden = torch.ones(2, 100, dtype=torch.bool).scatter(1, masks.context, False).repeat_interleave(10, dim=1)
    other = torch.where(hidden[:, None], torch.randn_like(values), values)
    assert torch.equal(encoder(values, visible_BK=masks.context), encoder(other, visible_BK=masks.context))


def test_the_multiscale_recipe_is_the_temporal_one_but_for_its_encoder() -> None:
    config, default = load_recipe("skecg_multiscale"), load_recipe("skecg_temporal")
    assert dataclasses.replace(config, name=default.name, encoder=default.encoder) == default
    assert (config.encoder.architecture, config.encoder.dim) == ("multiscale", default.encoder.dim)


def test_what_jepa_hides_of_a_multiscale_encoder_cannot_be_read_from_what_is_seen() -> None:
    config = load_recipe("skecg_multiscale")
    torch.manual_seed(0)
    model = Jepa(config)
    (masks,) = draw_masks(config.masks, config.encoder.n_patches, range(2), seed=0, step=0)
    values = torch.randn(2, 12, 2500)
    hidden = torch.ones(2, 100, dtype=torch.bool).scatter(1, masks.context, False).repeat_interleave(25, dim=1)
    other = torch.where(hidden[:, None], torch.randn_like(values), values)
    with torch.no_grad():
        seen, same = (model.context_encoder(v, visible_BK=masks.context) for v in (values, other))
        wanted, others = model.targets(values), model.targets(other)
    torch.testing.assert_close(seen, same, rtol=0, atol=0)
    assert not torch.allclose(wanted, others)
    assert (masks.context >= 0).all()
    assert not model.context_encoder.may_lack_tokens, "no mask is needed, on any device"
