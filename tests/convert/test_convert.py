from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import skecg
from skecg.convert import STATISTICS, convert_kim, convert_weimann
from skecg.convert import kim as kim_module
from skecg.encoders import Encoder, build_encoder
from skecg.encoders.leadwise import grid_positions
from skecg.errors import ForeignCheckpointError, ParameterError, WeightsNotFoundError
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS
from skecg.spec import LeadwiseConfig, TemporalConfig
from skecg.weights import find_weights, read_info, verify_weights

KIM = LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=6, dim=48, depth=2, num_heads=1)
CHANNELS = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
MIMIC_STD = [0.155, 0.158, 0.166, 0.133, 0.141, 0.143, 0.207, 0.282, 0.284, 0.253, 0.222, 0.197]
MIMIC_MEAN = [0.023, 0.015, -0.007, -0.019, 0.014, 0.004, -0.018, -0.004, 0.002, 0.017, 0.022, 0.022]


def drawn(config: LeadwiseConfig | TemporalConfig, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    encoder = build_encoder(config).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def assert_same_encoder(found: Encoder, wanted: Encoder) -> None:
    """The same shape, the same tensors bit for bit, and so the same tokens."""
    assert found.config == wanted.config
    state = wanted.state_dict()
    assert found.state_dict().keys() == state.keys()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, state[name])
    windows = torch.randn(2, found.config.n_leads, found.config.window_samples)
    assert torch.allclose(found(windows), wanted(windows), atol=1e-6)


# What the published systems write, built from encoders of ours.


def kim_state(encoder: Encoder) -> OrderedDict[str, torch.Tensor]:
    config = encoder.config
    state = OrderedDict(pos_embed=grid_positions(8, config.n_patches, config.dim).flatten(0, 1).float())
    for name, tensor in encoder.state_dict().items():
        theirs = name.replace("blocks.", "encoder_blocks.blocks.").replace("patch_embed.", "W_P.")
        state[theirs] = tensor.clone()
    return state


def weimann_config(config: TemporalConfig) -> dict[str, object]:
    return {
        "sampling_frequency": 500,
        "channels": CHANNELS,
        "channel_size": config.window_samples,
        "patch_size": config.patch_samples,
        "datasets": {"mimic-iv-ecg": 0.7, "code-15": 0.3},
        "dim": config.dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": False,
        "dropout": 0.0,
        "num_registers": config.num_registers,
        "bias": config.bias,
        "norm_eps": config.norm_eps,
        "layer_scale_eps": 0.0,
        "steps": 100000,
    }


def weimann_state(encoder: Encoder, prefix: str) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in encoder.state_dict().items():
        theirs = name.replace("patch_embed.", "patch_embed.proj.")
        if name == "patch_embed.weight":
            tensor = tensor.unflatten(1, (12, encoder.config.patch_samples))
        state[prefix + theirs] = (tensor[None] if name == "registers" else tensor).clone()
    return state


def temporal(**changes: object) -> TemporalConfig:
    shape = {"n_leads": 12, "patch_samples": 25, "n_patches": 8, "dim": 32, "depth": 2, "num_heads": 2} | changes
    return TemporalConfig(**shape)  # type: ignore[arg-type]


@pytest.fixture
def kim_file(tmp_path: Path) -> Path:
    path = tmp_path / "epoch100.pth"
    torch.save({"encoder": kim_state(drawn(KIM)), "epoch": 99}, path)
    return path


@pytest.fixture
def weimann_file(tmp_path: Path) -> Path:
    path = tmp_path / "chkpt_10000.min.pt"
    encoder = drawn(temporal())
    torch.save({"model": weimann_state(encoder, "target_encoder."), "config": weimann_config(encoder.config)}, path)
    return path


def assert_nothing_was_written(folder: Path) -> None:
    assert not folder.exists()
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


# Kim


def test_a_kim_checkpoint_becomes_the_encoder_that_it_was(tmp_path, kim_file):
    report = convert_kim(kim_file, tmp_path / "out")
    encoder, spec = skecg.load_encoder(tmp_path / "out")
    assert encoder.config == KIM
    assert_same_encoder(encoder, drawn(KIM))
    assert (spec.leads, spec.sampling_rate, spec.window_samples) == (EIGHT_LEADS, 250.0, 300)
    assert (spec.resampling, spec.normalization, spec.clip, spec.any_leads) == ("fourier", "none", None, False)
    assert (spec.highpass_hz, spec.lowpass_hz) == (None, None)
    assert report.encoder == KIM
    assert report.recognised is None
    assert "not one of the known files" in str(report)


def test_a_converted_folder_verifies_and_says_where_it_comes_from(tmp_path, kim_file):
    report = convert_kim(kim_file, tmp_path / "out")
    info = read_info(tmp_path / "out")
    assert verify_weights(info).passed
    assert info.pooling == "mean"
    assert info.provenance["trained"] is True
    assert info.provenance["licence"] == "mit"
    assert info.provenance["epoch"] == 99
    assert info.provenance["source_sha256"] == report.sha256
    assert info.provenance["converted_by"] == f"skecg {skecg.__version__}"
    assert "2410.08559" in (tmp_path / "out" / "README.md").read_text()


def test_of_a_whole_kim_model_the_student_is_taken(tmp_path):
    student, teacher = kim_state(drawn(KIM, 0)), kim_state(drawn(KIM, 1))
    model = {f"encoder.{k}": v for k, v in student.items()} | {f"target_encoder.{k}": v for k, v in teacher.items()}
    model |= {"predictor.mask_token": torch.zeros(1, 1, 24), "predictor.pos_embed": torch.zeros(6, 24)}
    torch.save(model, tmp_path / "whole.pth")
    save_file(model, tmp_path / "whole.safetensors")
    for name in ("whole.pth", "whole.safetensors"):
        report = convert_kim(tmp_path / name, tmp_path / "out")
        assert_same_encoder(skecg.load_encoder(tmp_path / "out")[0], drawn(KIM, 0))
        assert sorted(report.dropped) == ["predictor (2 tensors)", f"target_encoder ({len(teacher)} tensors)"]


def test_the_published_file_is_recognised_by_its_digest(tmp_path, kim_file, monkeypatch):
    known = kim_module._KNOWN
    assert list(known) == ["61334869f905a7d6de32bc573c60024eaf6efba7c35c0e45fc2ea7d52b6ff66e"]
    assert next(iter(known.values())).n_bytes == 341_551_405
    digest = convert_kim(kim_file, tmp_path / "out").sha256
    monkeypatch.setitem(known, digest, next(iter(known.values())))
    report = convert_kim(kim_file, tmp_path / "out")
    assert report.recognised == "multiblock_epoch100.pth"
    assert "the published file multiblock_epoch100.pth" in str(report)
    provenance = read_info(tmp_path / "out").provenance
    assert provenance["name"] == "kim-ecg-jepa-multiblock"
    assert "recognised" in provenance["source"]
    assert "CODE-15%" in provenance["data"]


def test_a_file_of_a_published_size_with_another_digest_needs_its_digest_named(tmp_path, kim_file, monkeypatch):
    published = kim_module._Published("multiblock_epoch100.pth", kim_file.stat().st_size, "")
    monkeypatch.setattr(kim_module, "_KNOWN", {"0" * 64: published})
    with pytest.raises(ForeignCheckpointError, match=r"size of multiblock_epoch100.pth") as refusal:
        convert_kim(kim_file, tmp_path / "out")
    assert_nothing_was_written(tmp_path / "out")
    digest = str(refusal.value).split("sha256 ")[1].split(",")[0]
    assert convert_kim(kim_file, tmp_path / "out", sha256=digest).recognised is None


def test_a_file_of_another_digest_than_named_is_refused(tmp_path, kim_file):
    with pytest.raises(ForeignCheckpointError, match=f"expected {'a' * 64}"):
        convert_kim(kim_file, tmp_path / "out", sha256="a" * 64)
    assert_nothing_was_written(tmp_path / "out")


def test_heads_are_48_wide_unless_told_otherwise(tmp_path):
    config = LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=2, dim=96, depth=1, num_heads=2)
    torch.save({"encoder": kim_state(drawn(config)), "epoch": 1}, tmp_path / "a.pth")
    assert convert_kim(tmp_path / "a.pth", tmp_path / "out").encoder.num_heads == 2
    assert convert_kim(tmp_path / "a.pth", tmp_path / "out", num_heads=6).encoder.num_heads == 6
    for wrong in (0, 7, True, 1.5):
        with pytest.raises(ParameterError, match="expected a divisor"):
            convert_kim(tmp_path / "a.pth", tmp_path / "out", num_heads=wrong)


def test_a_width_that_48_does_not_divide_needs_the_number_of_heads(tmp_path):
    config = LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=2, dim=32, depth=1, num_heads=2)
    torch.save({"encoder": kim_state(drawn(config)), "epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(ParameterError, match="num_heads="):
        convert_kim(tmp_path / "a.pth", tmp_path / "out")
    assert_nothing_was_written(tmp_path / "out")
    assert convert_kim(tmp_path / "a.pth", tmp_path / "out", num_heads=2).encoder == config


def test_learned_positions_are_refused_by_name(tmp_path):
    state = kim_state(drawn(KIM))
    state["pos_embed"] = state["pos_embed"] + 0.01
    torch.save({"encoder": state, "epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(ForeignCheckpointError, match="learned positions"):
        convert_kim(tmp_path / "a.pth", tmp_path / "out")
    assert_nothing_was_written(tmp_path / "out")


def without(name):
    return lambda state: state.pop(name)


def with_value(name, value):
    return lambda state: state.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("norm.bias"), "no tensor 'norm.bias'"),
        (without("W_P.weight"), "no matrix 'W_P.weight'"),
        (with_value("W_P.weight", torch.zeros(0, 50)), "no matrix 'W_P.weight'"),
        (without("encoder_blocks.blocks.0.mlp.fc2.bias"), "no tensor 'encoder_blocks.blocks.0.mlp.fc2.bias'"),
        (with_value("head.weight", torch.zeros(5, 48)), "unexpected tensor 'head.weight'"),
        (with_value("encoder_blocks.blocks.0.attn.qkv.bias", torch.zeros(144)), "unexpected tensor .*qkv.bias"),
        (with_value("norm.weight", torch.zeros(47)), r"'norm.weight' of shape \(47,\).*expected shape \(48,\)"),
        (with_value("norm.weight", torch.zeros(48, dtype=torch.int64)), "'norm.weight' of type torch.int64"),
        (with_value("norm.weight", "text"), "'norm.weight' of type str"),
        (with_value("norm.weight", torch.full((48,), torch.nan)), "values in 'norm.weight' that are not finite"),
        (with_value("norm.weight", torch.full((48,), torch.inf)), "values in 'norm.weight' that are not finite"),
        (with_value("pos_embed", torch.zeros(45, 48)), "'pos_embed' of shape"),
        (with_value("encoder_blocks.blocks.9.norm1.weight", torch.zeros(48)), "'encoder_blocks.blocks.9.norm1.weight'"),
    ],
)
def test_a_kim_file_that_is_not_exactly_the_encoder_is_refused_by_the_tensors_name(tmp_path, change, words):
    state = kim_state(drawn(KIM))
    change(state)
    torch.save({"encoder": state, "epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(ForeignCheckpointError, match=words):
        convert_kim(tmp_path / "a.pth", tmp_path / "out")
    assert_nothing_was_written(tmp_path / "out")


def test_half_precision_tensors_are_taken_as_float32(tmp_path):
    state = {k: v.half() for k, v in kim_state(drawn(KIM)).items()}
    torch.save({"encoder": state, "epoch": 1}, tmp_path / "a.pth")
    convert_kim(tmp_path / "a.pth", tmp_path / "out")
    encoder, _ = skecg.load_encoder(tmp_path / "out")
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}


# Weimann and Conrad


def test_a_stripped_weimann_checkpoint_becomes_the_encoder_that_it_was(tmp_path, weimann_file):
    report = convert_weimann(weimann_file, tmp_path / "out", statistics="mimic")
    encoder, spec = skecg.load_encoder(tmp_path / "out")
    assert_same_encoder(encoder, drawn(temporal()))
    assert (spec.leads, spec.sampling_rate, spec.window_samples) == (CANONICAL_LEADS, 500.0, 200)
    assert (spec.resampling, spec.normalization, spec.clip, spec.any_leads) == ("fourier", "statistics", 5.0, False)
    assert report.taken == "the target encoder"
    info = read_info(tmp_path / "out")
    assert info.provenance["statistics"] == "mimic"
    assert info.provenance["data"] == ["code-15", "mimic-iv-ecg"]
    assert verify_weights(info).passed


def test_the_matrix_of_a_patch_is_the_convolution_that_it_came_from(tmp_path, weimann_file):
    convert_weimann(weimann_file, tmp_path / "out", statistics="mimic")
    encoder, _ = skecg.load_encoder(tmp_path / "out")
    weight = torch.load(weimann_file, weights_only=True)["model"]["target_encoder.patch_embed.proj.weight"]
    windows = torch.randn(2, 12, 200)
    convolved = torch.nn.functional.conv1d(windows, weight, stride=25).transpose(1, 2)
    assert torch.allclose(encoder.embed(windows), convolved, atol=1e-5)


def test_of_a_whole_weimann_checkpoint_the_target_encoder_is_taken(tmp_path):
    student, target = drawn(temporal(), 0), drawn(temporal(), 1)
    model = weimann_state(student, "encoder.") | weimann_state(target, "target_encoder.")
    model["predictor.mask_token"] = torch.zeros(1, 1, 16)
    content = {"model": model, "optimizer": {"state": {}, "param_groups": []}, "step": 10000}
    torch.save(content | {"config": weimann_config(student.config)}, tmp_path / "chkpt_10000.pt")
    report = convert_weimann(tmp_path / "chkpt_10000.pt", tmp_path / "out", statistics="ptb-xl")
    assert_same_encoder(skecg.load_encoder(tmp_path / "out")[0], target)
    assert sorted(report.dropped) == ["encoder (15 tensors)", "optimizer", "predictor (1 tensor)"]
    assert read_info(tmp_path / "out").provenance["step"] == 10000


def test_a_fine_tuned_checkpoint_keeps_its_own_statistics_and_loses_its_head(tmp_path):
    encoder = drawn(temporal())
    model = weimann_state(encoder, "encoder.")
    model |= {"fc.weight": torch.zeros(5, 32), "attn_pool.query_token": torch.zeros(1, 1, 32)}
    own = {"mean": torch.linspace(-0.1, 0.1, 12), "std": torch.linspace(0.1, 0.3, 12)}
    content = {"model": model, "config": weimann_config(encoder.config), "eval_config": {"task": "all"}}
    torch.save(content | {"preprocess": own, "task": "all"}, tmp_path / "all_best_chkpt.pt")
    report = convert_weimann(tmp_path / "all_best_chkpt.pt", tmp_path / "out", statistics="mimic")
    _, spec = skecg.load_encoder(tmp_path / "out")
    assert np.allclose(spec.mean, own["mean"])
    assert np.allclose(spec.std, own["std"])
    assert report.taken == "the fine-tuned encoder"
    assert report.dropped == ("fc (1 tensor)", "attn_pool (1 tensor)")
    assert "'mimic' was not used" in str(report)
    assert read_info(tmp_path / "out").provenance["task"] == "all"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (None, "'preprocess' of type"),
        ({"mean": torch.zeros(12)}, "no tensor 'std'"),
        ({"mean": torch.zeros(12), "std": torch.zeros(12)}, "deviation in 'preprocess' that is not positive"),
        ({"mean": torch.zeros(12), "std": torch.full((12,), 155.0)}, "'preprocess' of .* microvolts"),
    ],
)
def test_a_fine_tuned_checkpoint_without_usable_statistics_is_refused(tmp_path, own, words):
    encoder = drawn(temporal())
    content = {"model": weimann_state(encoder, "encoder."), "config": weimann_config(encoder.config), "eval_config": {}}
    torch.save(content | {"preprocess": own}, tmp_path / "a.pt")
    with pytest.raises(ForeignCheckpointError, match=words):
        convert_weimann(tmp_path / "a.pt", tmp_path / "out", statistics="mimic")
    assert_nothing_was_written(tmp_path / "out")


def test_old_files_with_norm_biases_keep_them(tmp_path):
    encoder = drawn(temporal(norm_bias=True))
    content = {"model": weimann_state(encoder, "target_encoder."), "config": weimann_config(encoder.config)}
    torch.save(content, tmp_path / "old.pt")
    report = convert_weimann(tmp_path / "old.pt", tmp_path / "out", statistics="mimic")
    assert report.encoder.norm_bias
    assert_same_encoder(skecg.load_encoder(tmp_path / "out")[0], encoder)


@pytest.mark.parametrize("changes", [{"bias": True, "norm_bias": True}, {"num_registers": 0}, {"num_registers": 3}])
def test_other_published_options_convert_too(tmp_path, changes):
    encoder = drawn(temporal(**changes))
    model = weimann_state(encoder, "target_encoder.")
    if not encoder.config.num_registers:
        del model["target_encoder.registers"]
    torch.save({"model": model, "config": weimann_config(encoder.config)}, tmp_path / "a.pt")
    convert_weimann(tmp_path / "a.pt", tmp_path / "out", statistics="mimic")
    assert_same_encoder(skecg.load_encoder(tmp_path / "out")[0], encoder)


def test_without_a_target_encoder_the_student_is_taken_and_the_report_says_so(tmp_path):
    encoder = drawn(temporal())
    metadata = {"config": json.dumps(weimann_config(encoder.config))}
    save_file(weimann_state(encoder, "encoder."), tmp_path / "a.safetensors", metadata=metadata)
    report = convert_weimann(tmp_path / "a.safetensors", tmp_path / "out", statistics="mimic")
    assert report.taken == "the student encoder"
    assert "no target encoder" in str(report)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_value("target_encoder.blocks.0.attn_ls.weight", torch.zeros(32)), "layer scale"),
        (
            with_value("target_encoder.blocks.0.attn.qkv.bias", torch.zeros(96)),
            "unexpected tensor 'blocks.0.attn.qkv.b",
        ),
        (without("target_encoder.norm.weight"), "no tensor 'norm.weight'"),
        (without("target_encoder.patch_embed.proj.weight"), "without target_encoder.patch_embed.proj.weight"),
        (with_value("target_encoder.registers", torch.zeros(1, 2, 32)), r"'registers' of shape \(1, 2, 32\)"),
        (with_value("target_encoder.norm.weight", torch.full((32,), torch.nan)), "not finite"),
        (lambda state: state.clear(), "its first tensor is None"),
    ],
)
def test_a_weimann_file_that_is_not_exactly_the_encoder_is_refused_by_the_tensors_name(tmp_path, change, words):
    encoder = drawn(temporal())
    state = weimann_state(encoder, "target_encoder.")
    change(state)
    torch.save({"model": state, "config": weimann_config(encoder.config)}, tmp_path / "a.pt")
    with pytest.raises(ForeignCheckpointError, match=words):
        convert_weimann(tmp_path / "a.pt", tmp_path / "out", statistics="mimic")
    assert_nothing_was_written(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer_scale_eps": 1e-5}, "layer scale"),
        ({"qkv_bias": True}, "qkv_bias"),
        ({"dim": None}, "dim=None"),
        ({"dim": 31}, "multiple of num_heads"),
        ({"depth": 0}, "depth=0"),
        ({"depth": 3}, "blocks.2"),
        ({"patch_size": 7}, "whole number of patches"),
        ({"norm_eps": float("nan")}, "norm_eps=nan"),
        ({"channels": 12}, "channels=12"),
        ({"channels": ["I", "i"]}, "names of leads"),
        ({"sampling_frequency": 0}, "sampling_frequency=0"),
    ],
)
def test_a_config_that_does_not_describe_the_encoder_is_refused_by_the_fields_name(tmp_path, change, words):
    encoder = drawn(temporal())
    config = weimann_config(encoder.config) | change
    torch.save({"model": weimann_state(encoder, "target_encoder."), "config": config}, tmp_path / "a.pt")
    with pytest.raises(ForeignCheckpointError, match=words):
        convert_weimann(tmp_path / "a.pt", tmp_path / "out", statistics="mimic")
    assert_nothing_was_written(tmp_path / "out")


def test_a_config_that_lacks_a_field_is_refused_by_its_name(tmp_path):
    encoder = drawn(temporal())
    config = weimann_config(encoder.config)
    del config["num_heads"]
    torch.save({"model": weimann_state(encoder, "target_encoder."), "config": config}, tmp_path / "a.pt")
    with pytest.raises(ForeignCheckpointError, match="without 'num_heads'"):
        convert_weimann(tmp_path / "a.pt", tmp_path / "out", statistics="mimic")


# Statistics


def test_mimic_statistics_are_reordered_by_name_because_its_files_carry_avf_before_avl(tmp_path, weimann_file):
    convert_weimann(weimann_file, tmp_path / "out", statistics="mimic")
    spec = read_info(tmp_path / "out").spec
    assert list(spec.mean) == MIMIC_MEAN
    assert list(spec.std) == MIMIC_STD
    assert spec.std[spec.leads.index("aVF")] == 0.143


def test_every_corpus_has_statistics_of_all_twelve_leads():
    assert len(STATISTICS) == 10
    for table in STATISTICS.values():
        assert sorted(table) == sorted(CANONICAL_LEADS)
        assert all(std > 0 for _, std in table.values())


def test_channels_in_another_order_take_their_own_statistics(tmp_path):
    encoder = drawn(temporal())
    config = weimann_config(encoder.config) | {"channels": CHANNELS[::-1]}
    torch.save({"model": weimann_state(encoder, "target_encoder."), "config": config}, tmp_path / "a.pt")
    convert_weimann(tmp_path / "a.pt", tmp_path / "out", statistics="mimic")
    spec = read_info(tmp_path / "out").spec
    assert spec.leads == CANONICAL_LEADS[::-1]
    assert list(spec.std) == MIMIC_STD[::-1]


def test_statistics_of_a_file_go_by_order_or_by_name(tmp_path, weimann_file):
    mean, std = list(np.linspace(-0.1, 0.1, 12)), list(np.linspace(0.1, 0.2, 12))
    by_order, by_name = tmp_path / "order.json", tmp_path / "name.json"
    by_order.write_text(json.dumps({"mean": mean, "std": std}))
    names = [lead.lower() for lead in CANONICAL_LEADS]
    named = {"mean": dict(zip(names, mean, strict=True)), "std": dict(reversed(list(zip(names, std, strict=True))))}
    by_name.write_text(json.dumps(named))
    for path in (by_order, by_name):
        convert_weimann(weimann_file, tmp_path / "out", statistics=path)
        spec = read_info(tmp_path / "out").spec
        assert list(spec.mean) == mean
        assert list(spec.std) == std


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[1, 2]", "'mean' and 'std'"),
        ('{"mean": [0]}', "'mean' and 'std'"),
        (json.dumps({"mean": [0] * 12, "std": [1] * 11}), "'std'.*expected 12 numbers"),
        (json.dumps({"mean": [0] * 12, "std": [1] * 11 + ["x"]}), "'std'.*expected 12 numbers"),
        (json.dumps({"mean": [0] * 12, "std": [1] * 11 + [0]}), "expected positive"),
        (json.dumps({"mean": [0] * 12, "std": [155.0] * 12}), "deviations of 155 to 155 mV .* microvolts, divide"),
        (json.dumps({"mean": [0] * 12, "std": [0.2] * 11 + [2e-4]}), "of 0.0002 to 0.2 mV .* volts, multiply"),
        (json.dumps({"mean": {"I": 0}, "std": [1] * 12}), "name every lead once"),
        (json.dumps({"mean": [float("nan")] * 12, "std": [1] * 12}), "'mean'.*expected 12 numbers"),
    ],
)
def test_a_file_without_usable_statistics_is_refused(tmp_path, weimann_file, text, words):
    path = tmp_path / "statistics.json"
    path.write_text(text)
    with pytest.raises(ParameterError, match=words):
        convert_weimann(weimann_file, tmp_path / "out", statistics=path)
    assert_nothing_was_written(tmp_path / "out")


def test_statistics_have_to_be_chosen(tmp_path, weimann_file):
    with pytest.raises(ParameterError, match="mimic, code-15, ptb-xl"):
        convert_weimann(weimann_file, tmp_path / "out")
    with pytest.raises(ParameterError, match="statistics='mimmic', expected one of mimic"):
        convert_weimann(weimann_file, tmp_path / "out", statistics="mimmic")
    assert_nothing_was_written(tmp_path / "out")


# Files that are not what they were said to be


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("code-was-run"),))


@pytest.fixture(params=["kim", "weimann"])
def convert(request):
    return convert_kim if request.param == "kim" else lambda f, o: convert_weimann(f, o, statistics="mimic")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, convert, kim_file, share):
    content = kim_file.read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ForeignCheckpointError, match=r"cut.pth"):
        convert(tmp_path / "cut.pth", tmp_path / "out")
    assert_nothing_was_written(tmp_path / "out")


def test_a_single_flipped_bit_in_a_tensor_is_refused(tmp_path, kim_file):
    content = bytearray(kim_file.read_bytes())
    weights = kim_state(drawn(KIM))["encoder_blocks.blocks.1.mlp.fc1.weight"].numpy().tobytes()
    content[content.index(weights) + 100] ^= 1
    (tmp_path / "flipped.pth").write_bytes(content)
    torch.load(tmp_path / "flipped.pth", weights_only=True)  # which torch does not notice
    with pytest.raises(ForeignCheckpointError, match="checksum"):
        convert_kim(tmp_path / "flipped.pth", tmp_path / "out")
    assert_nothing_was_written(tmp_path / "out")


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, convert, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"encoder": Bomb(), "epoch": 1}, tmp_path / "bomb.pth")
    with pytest.raises(ForeignCheckpointError, match="could run code"):
        convert(tmp_path / "bomb.pth", tmp_path / "out")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ForeignCheckpointError, match="pickle outside an archive"):
        convert(tmp_path / "bomb.pkl", tmp_path / "out")
    assert not (tmp_path / "code-was-run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>too many downloads</html>", "a web page"),
        (b"PK\x03\x04 and no more", "truncated zip"),
        (b"\x89HDF\r\n\x1a\n", "unknown kind"),
    ],
)
def test_a_file_that_is_no_archive_is_refused_by_what_it_looks_like(tmp_path, convert, content, words):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ForeignCheckpointError, match=words):
        convert(tmp_path / "a.pth", tmp_path / "out")


def test_an_archive_that_is_no_checkpoint_is_refused(tmp_path, convert):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/data.pkl", b"not a pickle")
        archive.writestr("a/version", b"3")
    with pytest.raises(ForeignCheckpointError, match=r"a.zip"):
        convert(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("content", [[1, 2], {}, {1: 2}, torch.zeros(3), {"epoch": 3}, {"encoder": 3}, {"model": {}}])
def test_other_contents_are_refused(tmp_path, convert, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ForeignCheckpointError, match=r"a.pth: got"):
        convert(tmp_path / "a.pth", tmp_path / "out")
    assert_nothing_was_written(tmp_path / "out")


def test_another_models_state_dict_is_refused_by_its_first_tensor(tmp_path):
    torch.save(torch.nn.TransformerEncoderLayer(8, 2).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ForeignCheckpointError, match=r"self_attn.in_proj_weight"):
        convert_kim(tmp_path / "a.pth", tmp_path / "out")


def test_each_origin_points_to_the_other(tmp_path, kim_file, weimann_file):
    with pytest.raises(ForeignCheckpointError, match="`skecg convert weimann`"):
        convert_kim(weimann_file, tmp_path / "out")
    with pytest.raises(ForeignCheckpointError, match="`skecg convert kim`"):
        convert_weimann(kim_file, tmp_path / "out", statistics="mimic")


@pytest.mark.parametrize("cut", [5, 200, -40])
def test_a_damaged_safetensors_file_is_refused(tmp_path, convert, cut):
    save_file({"encoder.W_P.weight": torch.zeros(48, 50)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:cut])
    with pytest.raises(ForeignCheckpointError, match="safetensors"):
        convert(tmp_path / "a.safetensors", tmp_path / "out")


def test_safetensors_with_a_damaged_configuration_are_refused(tmp_path):
    save_file({"encoder.norm.weight": torch.zeros(48)}, tmp_path / "a.safetensors", metadata={"config": "{"})
    with pytest.raises(ForeignCheckpointError, match="not JSON"):
        convert_weimann(tmp_path / "a.safetensors", tmp_path / "out", statistics="mimic")


def test_a_file_that_is_not_there_is_named(tmp_path, convert):
    with pytest.raises(WeightsNotFoundError, match=r"nowhere\.pth"):
        convert(tmp_path / "nowhere.pth", tmp_path / "out")


def test_an_output_that_is_a_file_is_refused_and_left_alone(tmp_path, convert, kim_file):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ParameterError, match="which is a file"):
        convert(kim_file, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_conversion_that_breaks_while_writing_leaves_nothing_behind(tmp_path, kim_file, monkeypatch):
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("skecg.weights.loading.write_golden", full_disk)
    with pytest.raises(OSError, match="No space"):
        convert_kim(kim_file, tmp_path / "out")
    assert_nothing_was_written(tmp_path / "out")


def test_a_second_conversion_replaces_the_first_and_touches_nothing_else(tmp_path, kim_file, weimann_file):
    convert_kim(kim_file, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    convert_weimann(weimann_file, tmp_path / "out", statistics="mimic")
    assert find_weights(tmp_path / "out").encoder.architecture == "temporal"
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["README.md", "config.json", "golden.safetensors", "model.safetensors", "notes.txt"]


@pytest.mark.parametrize("name", ["kim_small", "weimann_vitxs", "weimann_vitxs_target"])
def test_golden_checkpoints_convert_load_and_verify(shared: Path, tmp_path, name):
    file = shared / "golden" / f"{name}.safetensors"
    if name.startswith("kim"):
        convert_kim(file, tmp_path / "out")
    else:
        convert_weimann(file, tmp_path / "out", statistics="mimic")
    assert verify_weights(read_info(tmp_path / "out")).passed
