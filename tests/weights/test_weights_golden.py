from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import skecg
from skecg.encoders import build_encoder
from skecg.errors import DamagedWeightsError
from skecg.spec import InputSpec, LeadwiseConfig, TemporalConfig
from skecg.weights import Verification, read_info, save_encoder, verify_weights

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(params=["tiny-temporal", "tiny-leadwise"])
def folder(request, tmp_path) -> Path:
    return Path(shutil.copytree(FIXTURES / request.param, tmp_path / "weights"))


def alter(path: Path, name: str, factor: float) -> None:
    tensors = load_file(path)
    tensors[name] = tensors[name] * factor
    save_file(tensors, path)


def test_committed_weights_agree_with_their_golden_features_on_this_machine(folder):
    found = verify_weights(read_info(folder))
    assert found.passed
    assert found.largest_error < 1e-5
    assert "agrees with" in str(found)


def test_altered_weights_fail_even_when_their_checksum_is_made_right_again(folder):
    path = folder / "model.safetensors"
    alter(path, "blocks.1.mlp.fc2.weight", 1.5)
    config = json.loads((folder / "config.json").read_text())
    config["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    found = verify_weights(read_info(folder))
    assert not found.passed
    assert "DIFFERS" in str(found)


def test_another_preparation_fails(folder):
    config = json.loads((folder / "config.json").read_text())
    config["input"]["clip"] = 0.3
    (folder / "config.json").write_text(json.dumps(config))
    assert not verify_weights(read_info(folder)).passed


@pytest.mark.parametrize("change", [{"any_leads": False}, {"remainder": "drop"}, {"clip": 1e6}])
def test_another_preparation_that_golden_records_do_not_show_fails_too(tmp_path, change):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    save_encoder(tmp_path / "w", encoder, spec, trained=False)
    path = tmp_path / "w" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"input": config["input"] | change}))
    ((name, value),) = change.items()
    with pytest.raises(DamagedWeightsError, match=f"{name}=.*, its config.json says {value!r}"):
        verify_weights(read_info(tmp_path / "w"))


@pytest.mark.parametrize("said", ["{", "[]", '{"leads": ["I"]}'])
def test_golden_vectors_whose_input_cannot_be_read_are_refused(folder, said):
    tensors = load_file(folder / "golden.safetensors")
    save_file(tensors, folder / "golden.safetensors", metadata={"input": said})
    with pytest.raises(DamagedWeightsError, match="damaged input"):
        verify_weights(read_info(folder))


def test_features_a_little_off_pass_and_more_fail():
    assert Verification("x", 0.9e-4).passed
    assert not Verification("x", 1.1e-4).passed
    assert not Verification("x", float("nan")).passed


def test_missing_golden_vectors_are_named(folder):
    (folder / "golden.safetensors").unlink()
    with pytest.raises(DamagedWeightsError, match=r"golden\.safetensors is missing"):
        verify_weights(read_info(folder))


def test_golden_vectors_of_another_kind_are_refused(folder):
    golden = folder / "golden.safetensors"
    tensors = load_file(golden)
    save_file(tensors | {"features": tensors["features"][:, :3].contiguous()}, golden)
    with pytest.raises(DamagedWeightsError, match="features of shape"):
        verify_weights(read_info(folder))
    save_file({"features": tensors["features"]}, golden)
    with pytest.raises(DamagedWeightsError, match="no golden vectors"):
        verify_weights(read_info(folder))


SPECS = [
    InputSpec(("I", "II"), 250.0, 500, normalization="zscore"),
    InputSpec(("II", "V5"), 100.0, 500, normalization="record", highpass_hz=0.5, lowpass_hz=40.0, clip=5.0),
    InputSpec(("V1", "I"), 500.0, 500, resampling="fourier"),
    InputSpec(("I", "II"), 128.0, 500, normalization="statistics", mean=(0.0, 0.1), std=(0.2, 0.3)),
    InputSpec(("I", "vx"), 250.0, 50, any_leads=True),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.sampling_rate:g} Hz {spec.normalization}")
@pytest.mark.parametrize("architecture", ["temporal", "leadwise"])
@pytest.mark.parametrize("pooling", ["mean", "max", "mean+std"])
def test_any_weights_written_verify(tmp_path, spec, architecture, pooling):
    shape = {"n_leads": 2, "patch_samples": 25, "n_patches": spec.window_samples // 25, "dim": 8, "depth": 1}
    kind = TemporalConfig if architecture == "temporal" else LeadwiseConfig
    save_encoder(tmp_path / "w", build_encoder(kind(**shape, num_heads=1)), spec, pooling=pooling, trained=False)
    assert verify_weights(read_info(tmp_path / "w")).passed


def test_the_card_of_an_untrained_encoder_says_so_and_calls_it_nothing_else(folder):
    card = (folder / "README.md").read_text()
    assert "**This encoder is untrained.**" in card
    assert "pretrained" not in card.lower().replace("-", "")
    assert read_info(folder).sha256 in card


def test_the_card_of_trained_weights_does_not_say_untrained(tmp_path):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    save_encoder(tmp_path / "w", encoder, spec, trained=True, name="mine", licence="MIT", data="PTB-XL", n=3)
    card = (tmp_path / "w" / "README.md").read_text()
    assert "untrained" not in card
    assert "license: mit" in card
    assert "# mine" in card
    assert "Data: PTB-XL." in card
    assert "Research use only" in card


@pytest.mark.parametrize("shape", [(0,), (12, 0), (3, 500), (12, 10**6)])
def test_golden_records_of_another_shape_are_refused(tmp_path, shape):
    folder = Path(shutil.copytree(FIXTURES / "tiny-temporal", tmp_path / "w"))
    tensors = load_file(folder / "golden.safetensors")
    save_file(tensors | {"microvolts_0": torch.zeros(shape, dtype=torch.int16)}, folder / "golden.safetensors")
    with pytest.raises(DamagedWeightsError, match=r"microvolts_0 of int16 .*, expected int16 \(12, 500\)"):
        verify_weights(read_info(folder))
