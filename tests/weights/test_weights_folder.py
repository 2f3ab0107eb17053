from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import skecg
from skecg.encoders import build_encoder
from skecg.errors import DamagedWeightsError, ParameterError, WeightsError, WeightsFormatError, WeightsNotFoundError
from skecg.spec import InputSpec, TemporalConfig
from skecg.weights import FORMAT_VERSION, read_info, save_encoder
from skecg.weights.folder import read_state, save_tensors

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(params=["tiny-temporal", "tiny-leadwise"])
def folder(request, tmp_path) -> Path:
    return Path(shutil.copytree(FIXTURES / request.param, tmp_path / "weights"))


@pytest.fixture
def temporal(tmp_path) -> Path:
    return Path(shutil.copytree(FIXTURES / "tiny-temporal", tmp_path / "weights"))


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def replace_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change tensors and make the checksum right again, as somebody would who means it."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_config(folder, lambda config: config.update(weights_sha256=digest))


def test_what_was_saved_is_what_is_loaded(folder, tmp_path):
    encoder, spec = skecg.load_encoder(folder)
    save_encoder(tmp_path / "again", encoder, spec, name="again", trained=False)
    loaded, loaded_spec = skecg.load_encoder(tmp_path / "again")
    windows = torch.randn(3, spec.n_leads, spec.window_samples)
    assert torch.allclose(loaded(windows), encoder(windows), atol=1e-6)
    assert loaded_spec == spec
    assert loaded.config == encoder.config
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_loaded_encoder_is_ones_own_frozen_and_in_evaluation_mode(folder):
    first, _ = skecg.load_encoder(folder)
    second, _ = skecg.load_encoder(folder)
    assert first is not second
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_a_configuration_reads_back_what_was_written(folder):
    info = read_info(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["skecg_format"] == FORMAT_VERSION
    assert config["input"] == info.spec.to_dict()
    assert config["encoder"] == info.encoder.to_dict()
    assert config["provenance"] == info.provenance
    assert InputSpec.from_dict(info.spec.to_dict()) == info.spec


def test_the_digest_changes_with_tensors_and_input_and_not_with_the_story(folder):
    digest = read_info(folder).digest
    edit_config(folder, lambda config: config["provenance"].update(name="another"))
    assert read_info(folder).digest == digest
    edit_config(folder, lambda config: config["input"].update(clip=5.0))
    changed = read_info(folder).digest
    assert changed != digest
    edit_config(folder, lambda config: config.update(weights_sha256="0" * 64))
    assert read_info(folder).digest not in (digest, changed)


def test_the_same_encoder_is_written_to_the_same_bytes(tmp_path):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    for name in "abcdef":
        save_encoder(tmp_path / name, encoder, spec, trained=False)
    assert len({read_info(tmp_path / name).digest for name in "abcdef"}) == 1


def test_saving_tensors_that_are_slices_of_others_writes_only_themselves(tmp_path):
    config = TemporalConfig(n_leads=1, patch_samples=5, n_patches=2, dim=8, depth=1, num_heads=1)
    encoder = build_encoder(config)
    encoder.norm.weight = torch.nn.Parameter(torch.ones(100, 8)[3])
    encoder.patch_embed.weight = torch.nn.Parameter(torch.randn(5, 8).T)
    save_encoder(tmp_path / "w", encoder, InputSpec(("I",), 50.0, 10), trained=False)
    assert torch.equal(skecg.load_encoder(tmp_path / "w")[0].patch_embed.weight, encoder.patch_embed.weight)


def test_files_are_readable_by_whoever_may_read_the_folder(tmp_path):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    save_encoder(tmp_path / "w", encoder, spec, trained=False)
    (tmp_path / "plain").write_text("")
    modes = {path.stat().st_mode for path in (tmp_path / "w").iterdir()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop("norm.weight"), "lacks norm.weight"),
        (lambda t: t.update(extra=torch.zeros(2)), "has an unknown extra"),
        (lambda t: t.update({"norm.weight": torch.ones(15)}), r"norm.weight of shape \(15,\), not \(16,\)"),
        (lambda t: t.update({"norm.weight": torch.full((16,), torch.nan)}), "norm.weight that are not finite"),
        (lambda t: t.update({"norm.weight": torch.full((16,), -torch.inf)}), "norm.weight that are not finite"),
        (lambda t: t.update({"norm.weight": torch.ones(16, dtype=torch.int32)}), r"of torch.int32, not torch.float32"),
        (lambda t: t.update({"norm.weight": torch.ones(16, dtype=torch.bool)}), "norm.weight of torch.bool"),
        (lambda t: t.clear(), r"lacks .* \(and \d+ more\)"),
    ],
)
def test_anything_but_exactly_the_tensors_is_refused_by_name(folder, edit, words):
    replace_tensors(folder, edit)
    with pytest.raises(DamagedWeightsError, match=words):
        skecg.load_encoder(folder)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_another_precision_are_read(folder, precision):
    replace_tensors(folder, lambda t: t.update({name: tensor.to(precision) for name, tensor in t.items()}))
    assert {tensor.dtype for tensor in skecg.load_encoder(folder)[0].state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda spec: spec["leads"].reverse(), "leads='I,II,.*', its config.json says 'V\\d,V"),
        (lambda spec: spec.update(sampling_rate=50.0), "sampling_rate='100', its config.json says '50'"),
    ],
)
def test_a_configuration_of_other_leads_or_another_rate_than_the_tensors_were_written_for_is_refused(
    folder, edit, words
):
    edit_config(folder, lambda config: edit(config["input"]))
    with pytest.raises(DamagedWeightsError, match=words):
        skecg.load_encoder(folder)
    # Tensors that somebody else wrote do not say what they were written for.
    replace_tensors(folder, lambda tensors: None)
    skecg.load_encoder(folder)


@pytest.mark.parametrize("position", [0, 8, 100, -1])
def test_a_single_flipped_bit_is_refused(folder, position):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[position] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(DamagedWeightsError, match="truncated or altered"):
        skecg.load_encoder(folder)


def test_a_truncated_file_is_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedWeightsError, match="truncated or altered"):
        skecg.load_encoder(folder)


def test_a_file_that_is_no_safetensors_is_refused_even_with_its_checksum(folder):
    (folder / "model.safetensors").write_bytes(b"pickled")
    digest = hashlib.sha256(b"pickled").hexdigest()
    edit_config(folder, lambda config: config.update(weights_sha256=digest))
    with pytest.raises(DamagedWeightsError, match="no readable safetensors"):
        skecg.load_encoder(folder)


def test_missing_tensors_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(DamagedWeightsError, match=r"model\.safetensors is missing"):
        skecg.load_encoder(folder)


def test_a_folder_without_configuration_is_no_weights_folder(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"holds no config\.json"):
        skecg.load_encoder(tmp_path)


def test_a_newer_format_asks_for_a_newer_skecg(folder):
    edit_config(folder, lambda config: config.update(skecg_format=FORMAT_VERSION + 1))
    with pytest.raises(WeightsFormatError, match="pip install --upgrade skecg"):
        skecg.load_encoder(folder)


@pytest.mark.parametrize("text", ["", "{", "\x00", '"text"', "[]", "null", "3"])
def test_a_configuration_that_is_no_json_object_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsFormatError, match=r"config\.json"):
        skecg.load_encoder(folder)


def test_a_configuration_that_is_no_text_is_refused(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(WeightsFormatError, match="not valid JSON"):
        skecg.load_encoder(folder)


def test_the_configuration_of_another_library_is_recognised_as_foreign(folder):
    foreign = {"architectures": ["Wav2Vec2Model"], "model_type": "wav2vec2", "transformers_version": "4.40.0"}
    (folder / "config.json").write_text(json.dumps(foreign))
    with pytest.raises(WeightsFormatError, match=r"no skecg configuration.*skecg convert"):
        skecg.load_encoder(folder)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda c: c["encoder"].update(num_head=2),
            "'num_head' in the encoder configuration. Did you mean 'num_heads'",
        ),
        (
            lambda c: c["input"].update(sampling_rte=2),
            "'sampling_rte' in the input specification. Did you mean 'sampling_r",
        ),
        (lambda c: c["input"].update(zzz=2), "unknown field 'zzz'.*Known fields"),
        (lambda c: c["encoder"].pop("dim"), "encoder configuration lacks a field: .*'dim'"),
        (lambda c: c["encoder"].update(dim="16"), "dim='16'"),
        (lambda c: c["encoder"].update(depth=True), "depth=True"),
        (lambda c: c["encoder"].update(num_heads=3), "a multiple of num_heads=3"),
        (lambda c: c.update(encoder=[1]), "an object of named fields"),
        (lambda c: c["input"].update(leads=["I", "I"]), "more than once"),
        (lambda c: c["input"].update(sampling_rate=-1), "sampling_rate=-1"),
        (lambda c: c["input"].update(normalization="zcore"), "normalization='zcore'"),
        (lambda c: c["input"].update(normalization="statistics"), "mean=None"),
        (lambda c: c["input"].update(window_samples=225), "leads of 225; expected the same"),
        (lambda c: c["input"].update(leads=["I", "II"]), "gives 2 leads"),
        (lambda c: c.pop("encoder"), "lacks the field 'encoder'"),
        (lambda c: c.pop("input"), "lacks the field 'input'"),
        (lambda c: c.pop("pooling"), "lacks the field 'pooling'"),
        (lambda c: c.pop("weights_sha256"), "lacks the field 'weights_sha256'"),
        (lambda c: c.update(architecture="spatial"), "architecture 'spatial'"),
        (lambda c: c.pop("skecg_format"), "no skecg configuration"),
    ],
)
def test_a_malformed_configuration_is_refused_by_the_fields_name(temporal, edit, words):
    edit_config(temporal, edit)
    with pytest.raises(WeightsFormatError, match=words):
        skecg.load_encoder(temporal)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.update(pooling="median"),
        lambda c: c.update(pooling="cls"),
        lambda c: c.update(provenance="text"),
        lambda c: c.update(architecture=["temporal"]),
        lambda c: c.update(skecg_format=True),
        lambda c: c.update(skecg_format=-3),
        lambda c: c["input"].update(mean=["a"] * 8, std=["b"] * 8, normalization="statistics"),
        lambda c: c["input"].update(any_leads="no"),
        lambda c: c["input"].update(sampling_rate=float("nan")),
        lambda c: c["input"].update(leads="I"),
    ],
)
def test_no_malformed_configuration_escapes_as_another_error(tmp_path, edit):
    folder = Path(shutil.copytree(FIXTURES / "tiny-leadwise", tmp_path / "weights"))
    edit_config(folder, edit)
    with pytest.raises(WeightsError):
        skecg.load_encoder(folder)


def test_an_encoder_and_an_input_that_do_not_fit_are_not_written(tmp_path):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    with pytest.raises(WeightsFormatError, match="expected the same"):
        save_encoder(tmp_path / "w", encoder, InputSpec(spec.leads, 100.0, 125), trained=False)
    leadwise, spec = skecg.load_encoder(FIXTURES / "tiny-leadwise")
    with pytest.raises(ParameterError, match="no register token"):
        save_encoder(tmp_path / "w", leadwise, spec, pooling="cls", trained=False)
    assert not (tmp_path / "w").exists()


def test_a_file_is_not_a_folder_to_write_to(tmp_path):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    (tmp_path / "w").write_text("mine")
    with pytest.raises(ParameterError, match="which is a file"):
        save_encoder(tmp_path / "w", encoder, spec, trained=False)


def test_an_encoder_that_has_diverged_is_not_written(tmp_path):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    encoder.norm.weight.fill_(torch.nan)
    with pytest.raises(DamagedWeightsError, match="not finite"):
        save_encoder(tmp_path / "w", encoder, spec, trained=False)
    assert not (tmp_path / "w").exists()


def test_nothing_of_former_weights_stays_beside_new_ones(temporal):
    for name in ("training_config.json", "directions.safetensors", "model.sig", "LICENSE", "notes.txt"):
        (temporal / name).write_text("{}")
    save_encoder(temporal, *skecg.load_encoder(temporal), trained=False)
    ours = {"README.md", "config.json", "golden.safetensors", "model.safetensors"}
    assert {path.name for path in temporal.iterdir()} == {*ours, "LICENSE", "notes.txt"}


@pytest.mark.parametrize("said", [{"when": object()}, {"auroc": float("nan")}])
def test_provenance_that_json_cannot_say_leaves_the_folder_as_it_was(temporal, said):
    encoder, spec = skecg.load_encoder(temporal)
    before = {path.name: path.read_bytes() for path in temporal.iterdir()}
    encoder.norm.weight.fill_(2.0)
    with pytest.raises(ParameterError, match="cannot be written as JSON"):
        save_encoder(temporal, encoder, spec, **said)
    assert {path.name: path.read_bytes() for path in temporal.iterdir()} == before


def test_torchs_default_type_is_not_the_encoders(folder):
    expected = read_state(read_info(folder))
    torch.set_default_dtype(torch.float64)
    try:
        encoder = read_state(read_info(folder))
        windows = torch.randn(2, encoder.config.n_leads, encoder.config.window_samples, dtype=torch.float32)
        found = encoder(windows)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected(windows))


def test_reading_a_folder_twice_gives_equal_encoders(folder):
    first, second = (read_state(read_info(folder)) for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_tiny_weights_are_tiny():
    for name in ("tiny-temporal", "tiny-leadwise"):
        assert sum(path.stat().st_size for path in (FIXTURES / name).iterdir()) < 100_000


@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_no_encoder_is_not_saved(tmp_path: Path, swapped: bool) -> None:
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    given, said = ((spec, encoder), "Got encoder of type InputSpec") if swapped else ((encoder, None), "Got spec of")
    with pytest.raises(ParameterError, match=said):
        save_encoder(tmp_path / "weights", *given)
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("name", ["bloc\u00a0gauche", "clinic\u202fAM", "می\u200cشود", "👩\u200d⚕️"])
def test_blanks_and_marks_of_all_scripts_come_back(tmp_path, name):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    save_encoder(tmp_path / "w", encoder, spec, name=name)
    assert read_info(tmp_path / "w").provenance["name"] == name


@pytest.mark.parametrize("name", ["a\x07b", "a\ud800", "\u202ea", "x" * 1_000_000])
def test_what_could_not_be_read_is_not_written(temporal, name):
    encoder, spec = skecg.load_encoder(temporal)
    before = (temporal / "config.json").read_bytes()
    with pytest.raises(ParameterError, match=r"to be written into .*config\.json, expected"):
        save_encoder(temporal, encoder, spec, name=name)
    assert (temporal / "config.json").read_bytes() == before
    assert read_info(temporal)


def test_the_card_says_how_records_are_prepared(tmp_path):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    prepared = dataclasses.replace(spec, notch_hz=45.0, highpass_hz=0.5, lowpass_hz=40.0, baseline_samples=51)
    save_encoder(tmp_path / "w", encoder, prepared, trained=False)
    card = (tmp_path / "w" / "README.md").read_text()
    for step in ("notch 45 Hz", "high-pass 0.5 Hz", "low-pass 40 Hz", "running median of 51 samples taken away"):
        assert step in card


def test_tensors_that_find_no_room_leave_the_file_as_it_was(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.zeros(3)}, {"format": "pt"})
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"x": torch.ones(3)}, {"format": "pt"})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
