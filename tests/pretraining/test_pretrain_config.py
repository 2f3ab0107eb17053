"""The configuration is a value: read strictly, checked at birth, changed by typed overrides."""

from __future__ import annotations

import dataclasses
import json
import re
from decimal import Decimal

import pytest

from pretraining.config import DataConfig, MaskConfig, OptimConfig, PretrainConfig, RunConfig
from pretraining.recipes import RECIPES, load_recipe
from skecg.encoders.net1d import Net1dConfig
from skecg.errors import ParameterError, WeightsFormatError


@pytest.fixture
def config() -> PretrainConfig:
    return load_recipe("tiny")


@pytest.mark.parametrize("name", RECIPES)
def test_a_configuration_survives_json(name: str) -> None:
    config = load_recipe(name)
    again = PretrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.to_dict() == config.to_dict()


def test_every_field_is_written_down(config: PretrainConfig) -> None:
    written = config.to_dict()
    assert {field.name for field in dataclasses.fields(config)} <= set(written)
    for part in ("masks", "objective", "optim", "ema", "data", "run", "watch", "predictor"):
        kind = {"kind"} if part == "objective" else set()
        assert set(written[part]) == kind | {field.name for field in dataclasses.fields(getattr(config, part))}


def test_fields_that_have_to_fit_each_other_are_changed_together(config: PretrainConfig) -> None:
    shorter = config.encoder.patch_samples // 5
    changed = config.override(
        [f"encoder.patch_samples={shorter}", f"encoder.n_patches={config.encoder.window_samples // shorter}"]
    )
    assert changed.encoder.patch_samples == shorter
    assert changed.encoder.window_samples == config.encoder.window_samples


def test_configurations_written_before_there_were_several_objectives_are_of_jepa(config: PretrainConfig) -> None:
    written = config.to_dict()
    del written["objective"]["kind"]
    assert PretrainConfig.from_dict(written) == config


def test_an_unknown_objective_is_refused(config: PretrainConfig) -> None:
    written = config.to_dict()
    written["objective"] = {"kind": "jepo"}
    with pytest.raises(ParameterError, match="Did you mean 'jepa'"):
        PretrainConfig.from_dict(written)


@pytest.mark.parametrize("part", ["masks", "predictor"])
def test_jepa_needs_its_parts(config: PretrainConfig, part: str) -> None:
    with pytest.raises(ParameterError, match=f"Got {part}=None"):
        dataclasses.replace(config, **{part: None})


@pytest.mark.parametrize(
    ("assignment", "part", "field", "value"),
    [
        ("optim.lr=5e-4", "optim", "lr", 5e-4),
        ("run.steps=7", "run", "steps", 7),
        ("run.compile=true", "run", "compile", True),
        ("run.precision=bf16", "run", "precision", "bf16"),
        ("optim.betas=0.8,0.95", "optim", "betas", (0.8, 0.95)),
        ("data.gain=(0.5,2)", "data", "gain", (0.5, 2.0)),
        ("data.window_seconds=()", "data", "window_seconds", ()),
        ('data.weights={"a": 0.5}', "data", "weights", {"a": 0.5}),
        ("input.highpass_hz=0.5", "input", "highpass_hz", 0.5),
        ("encoder.depth=1", "encoder", "depth", 1),
    ],
)
def test_an_override_is_typed_as_the_field_is(
    config: PretrainConfig, assignment: str, part: str, field: str, value: object
) -> None:
    changed = config.override([assignment])
    found = getattr(getattr(changed, part), field)
    assert found == value
    assert type(found) is type(value)
    assert PretrainConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


@pytest.mark.parametrize(
    ("recipe", "assignment"),
    [
        ("mae_time", "ema.start=0.9"),
        ("mae_time", "masks.low=0.5"),
        ("beat_ssl_hard_none_1", "ema.end=1.0"),
        ("beat_ssl_hard_none_1", "predictor.dim=96"),
    ],
)
def test_a_part_that_the_objective_does_not_use_cannot_be_changed(recipe: str, assignment: str) -> None:
    with pytest.raises(ParameterError, match=f"uses no '{assignment.partition('.')[0]}'"):
        load_recipe(recipe).override([assignment])


def test_an_override_leaves_everything_else_and_the_original(config: PretrainConfig) -> None:
    before = config.to_dict()
    changed = config.override(["optim.lr=0.5", "run.seed=3"])
    assert config.to_dict() == before
    assert changed.override([f"optim.lr={config.optim.lr}", "run.seed=0"]) == config


def test_what_is_exported_is_changed_without_naming_a_part(config: PretrainConfig) -> None:
    changed = config.override(["pooling=max", "export_encoder=context", "export_blocks=1", "optim.lr=0.5"])
    assert (changed.pooling, changed.export_encoder, changed.export_blocks) == ("max", "context", 1)
    assert changed.optim.lr == 0.5


def test_the_last_of_two_overrides_counts(config: PretrainConfig) -> None:
    assert config.override(["run.steps=1", "run.steps=2"]).run.steps == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.lrr=1", "Did you mean 'lr'"),
        ("optimm.lr=1", "Did you mean 'optim'"),
        ("optim.lr", "part.field=value"),
        ("lr=1", "part.field=value"),
        ("pooling", "pooling=value"),
        ("pooling=median", "'median'"),
        ("pooling=", "pooling=''"),
        ("export_blocks=99", "export_blocks=99"),
        ("export_blocks=few", "export_blocks='few'"),
        ("export_encoder=both", "export_encoder"),
        ("name=mine", "part.field=value"),
        ("run.steps=1.5", "run.steps='1.5'"),
        ("run.steps=many", "run.steps='many'"),
        ("run.compile=yes", "run.compile='yes'"),
        ("run.steps=0", "an integer of at least 1"),
        ("masks.kind=diagonal", "masks.kind"),
        ("data.gain=2,1", "data.gain"),
        ("data.gain=1", "data.gain=(1.0,), expected two numbers"),
        ("optim.gradient_clip=-1", "optim.gradient_clip=-1.0"),
        ("optim.weight_decay=-0.1", "optim.weight_decay=-0.1"),
        ("optim.final_lr=-1e-6", "optim.final_lr=-1e-06"),
        ("optim.eps=nan", "optim.eps=nan"),
        ("optim.betas=2,3", "optim.betas=(2.0, 3.0), expected two numbers from 0"),
        ("optim.betas=0.9", "optim.betas=(0.9,), expected two numbers"),
        ("watch.log_every=-1", "watch.log_every=-1"),
        ("run.seed=-1", "run.seed=-1"),
        ("ema.start=0.9999", "ema.start"),
        ("data.weights=half", "data.weights"),
        ('data.weights={"raw":"x"}', "data.weights={'raw': 'x'}, expected finite numbers by name"),
        ('data.weights={"raw":null}', "data.weights={'raw': None}, expected finite numbers by name"),
        ('data.weights={"raw":Infinity}', "data.weights={'raw': inf}, expected finite numbers by name"),
        ("data.weights=5", "data.weights=5, expected finite numbers by name"),
        ('data.weights={"a":0.7,"b":0.2,"a":0.1}', "which names 'a' more than once, expected each name once"),
        ("data.weights=null", "data.weights=None, expected finite numbers by name"),
        ("data.window_seconds=null", "data.window_seconds=(None,), expected finite numbers"),
        ('data.window_seconds="5"', "data.window_seconds=('5',), expected finite numbers"),
        ("data.window_seconds=NaN", "data.window_seconds=(nan,), expected finite numbers"),
        ("data.window_seconds=Infinity", "data.window_seconds=(inf,), expected finite numbers"),
        ("data.window_seconds=2.25", "data.window_seconds=(2.25,), expected multiples of 0.1 s"),
        ("data.gain=1,inf", "data.gain=(1.0, inf), expected two numbers"),
        ("run.seed=18446744073709551616", "run.seed=18446744073709551616, expected 0 to below 2**64"),
        ("predictor.mlp_ratio=-1", "predictor.mlp_ratio=-1.0, expected a number of at least 0"),
        ("predictor.mlp_ratio=nan", "predictor.mlp_ratio=nan, expected a finite number"),
        ("predictor.dim=27", "predictor.dim=27"),
        ("optim.warmup_steps=1.0", "optim.warmup_steps=1.0, expected a number of steps, or a share"),
        ("optim.cooldown_steps=1e0", "optim.cooldown_steps=1.0, expected a number of steps, or a share"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(config: PretrainConfig, assignment: str, message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)):
        config.override([assignment])


@pytest.mark.parametrize("scale", ["1", "1,1.5,2", "1,inf"])
def test_a_range_is_two_finite_numbers(scale: str) -> None:
    with pytest.raises(ParameterError, match=r"Got objective\.scale=.*, expected two numbers, both finite"):
        load_recipe("beat_ssl_hard_none_1").override([f"objective.scale={scale}"])


@pytest.mark.parametrize(
    ("recipe", "dim", "wanted"), [("tiny", 27, "an even number"), ("kim_leadwise_b_random", 378, "a multiple of 4")]
)
def test_positions_need_a_width_that_they_divide(recipe: str, dim: int, wanted: str) -> None:
    with pytest.raises(ParameterError, match=f"Got predictor.dim={dim}, expected {wanted}"):
        load_recipe(recipe).override([f"predictor.dim={dim}", "predictor.num_heads=1"])


@pytest.mark.parametrize("text", ["1", "10000", "1e4", "0.1", "0"])
def test_counts_of_steps_and_shares_of_the_run_are_told_apart(config: PretrainConfig, text: str) -> None:
    found = config.override([f"optim.warmup_steps={text}"]).optim.warmup_steps

    assert found == float(text)
    assert isinstance(found, float) is (text == "0.1")


@pytest.mark.parametrize("recipe", ["tiny", "skecg_default", "weimann_vit_xs"])
def test_windows_may_be_any_number_of_whole_slices(recipe: str) -> None:
    config = load_recipe(recipe)
    patch = Decimal(config.encoder.patch_samples) / Decimal(config.input.sampling_rate)
    for n_patches in range(config.masks.min_block if config.masks else 2, config.encoder.n_patches + 1):
        seconds = float(patch * n_patches)
        changed = config.override([f"data.window_seconds={seconds}"]).with_window(seconds)
        assert changed.encoder.n_patches == n_patches
        assert changed.encoder.window_samples == changed.input.window_samples


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("data", "weights", 5),
        ("data", "roll", "false"),
        ("data", "gain", "loud"),
        ("masks", "low", "0.2"),
        ("ema", "start", None),
        ("optim", "warmup_steps", "half"),
        ("optim", "betas", 0.9),
        ("objective", "loss", 1),
        ("watch", "stop_on_collapse", 1),
        ("predictor", "mlp_ratio", "4"),
    ],
)
def test_a_file_with_a_value_of_another_kind_is_refused_by_name(
    config: PretrainConfig, part: str, field: str, value: object
) -> None:
    written = config.to_dict()
    written[part][field] = value
    with pytest.raises(ParameterError, match=re.escape(f"Got {part}.{field}={value!r}, expected ")):
        PretrainConfig.from_dict(written)


@pytest.mark.parametrize("part", ["name", "architecture", "input", "encoder", "optim", "run"])
def test_a_file_that_lacks_a_part_is_refused_by_name(config: PretrainConfig, part: str) -> None:
    written = config.to_dict()
    del written[part]
    with pytest.raises(ParameterError, match=f"without {part}, expected"):
        PretrainConfig.from_dict(written)


@pytest.mark.parametrize("part", [None, "masks", "optim", "run", "encoder", "input"])
def test_an_unknown_key_is_refused_with_a_suggestion(config: PretrainConfig, part: str | None) -> None:
    written = config.to_dict()
    target = written if part is None else written[part]
    known = next(iter(target)) if part is not None else "pooling"
    target[known + "s"] = 1
    with pytest.raises((ParameterError, WeightsFormatError), match=r"Did you mean|unknown"):
        PretrainConfig.from_dict(written)


def test_encoder_and_input_have_to_agree(config: PretrainConfig) -> None:
    with pytest.raises(ParameterError, match="2400 samples"):
        dataclasses.replace(config, input=dataclasses.replace(config.input, window_samples=2400))
    with pytest.raises(ParameterError, match="12 leads"):
        dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, n_leads=8))


def test_blocks_longer_than_the_window_are_refused(config: PretrainConfig) -> None:
    with pytest.raises(ParameterError, match=r"masks\.min_block"):
        config.override(["masks.min_block=101"])


@pytest.mark.parametrize("wrong", [{"low": 0.0}, {"high": 1.0}, {"low": 0.5, "high": 0.4}, {"masks_per_target": 0}])
def test_masks_that_cannot_be_drawn_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match="masks"):
        MaskConfig(**{"kind": "blocks", "low": 0.2, "high": 0.3, **wrong})  # type: ignore[arg-type]


def test_a_contrast_needs_two_masks_of_a_recording(config: PretrainConfig) -> None:
    with pytest.raises(ParameterError, match=r"Got masks\.masks_per_target=1, expected 2 or more"):
        config.override(["objective.contrast_weight=0.1"])
    both = config.override(["masks.masks_per_target=2", "objective.contrast_weight=0.1"])
    assert PretrainConfig.from_dict(both.to_dict()) == both


def test_masks_hide_leads_only_of_encoders_that_do_without(config: PretrainConfig) -> None:
    with pytest.raises(ParameterError, match=r"Got input\.any_leads=False, expected True with masks\.lead_dropout"):
        config.override(["input.any_leads=false", "masks.lead_dropout=0.5"])
    with pytest.raises(ParameterError, match=r"masks\.lead_dropout"):
        MaskConfig("crop", 0.2, 0.3, lead_dropout=1.0)


def test_a_part_is_checked_at_birth() -> None:
    with pytest.raises(ParameterError, match=r"optim\.lr"):
        OptimConfig(lr=0.0)
    with pytest.raises(ParameterError, match=r"run\.parallel"):
        RunConfig(1, 1, parallel="pipeline")
    with pytest.raises(ParameterError, match=r"data\.lead_dropout"):
        DataConfig(lead_dropout=1.0)


def test_a_configuration_is_frozen(config: PretrainConfig) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run.steps = 3  # type: ignore[misc]


def test_what_may_be_absent_can_be_taken_away_and_given_back() -> None:
    clipped = load_recipe("skecg_default").override(["input.clip=none"])

    assert clipped.input.clip is None
    assert clipped.override(["input.clip=5.0"]).input.clip == 5.0


def test_an_encoder_that_sees_no_patches_is_refused() -> None:
    encoder = Net1dConfig(12, 2500, 8, (8,), (1,), group_dim=8)
    with pytest.raises(ParameterError, match="architecture='net1d', expected one that sees patches"):
        dataclasses.replace(load_recipe("tiny"), encoder=encoder)
