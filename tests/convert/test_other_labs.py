"""Encoders of other labs: what their published code computed is what their converted weights compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import procedural
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from skecg import ECGRecord, JEPAEmbedder, load_encoder, prepare
from skecg.convert import convert_ecg_fm, convert_merl, convert_xecg
from skecg.errors import LeadError
from skecg.leads import CANONICAL_LEADS
from skecg.weights import read_info, verify_weights

# The recordings are synthetic, with offsets, wander and hum.
pytestmark = pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning")

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "foreign_encoders.npz"
Numbers = dict[str, NDArray[Any]]
State = dict[str, torch.Tensor]


class Origin(NamedTuple):
    """How weights of one origin are drawn, filed and converted."""

    rule: procedural.Rule
    file_name: str
    write: Callable[[State, Path], None]
    convert: Callable[..., Any]


def training_checkpoint(state: State, path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"args": None, "cfg": {"model": {"depth": 2}}, "model": state, "last_optimizer_state": optimizer}, path)


ORIGINS = {
    "xecg": Origin(procedural.xecg, "model.safetensors", save_file, convert_xecg),
    "ecg_fm": Origin(procedural.ecg_fm, "pretrained.pt", training_checkpoint, convert_ecg_fm),
    "merl": Origin(procedural.convolutional, "resnet_encoder.pth", torch.save, convert_merl),
}


def numbers_of(name: str) -> Numbers:
    with np.load(FIXTURE) as stored:
        return {key.removeprefix(f"{name}_"): stored[key] for key in stored.files if key.startswith(f"{name}_")}


def millivolts(numbers: Numbers) -> NDArray[np.float32]:
    return (numbers["microvolts"] / 1000).astype(np.float32)


def state_of(name: str) -> State:
    return procedural.draw(procedural.shapes_of(numbers_of(name)), ORIGINS[name].rule)


def converted(name: str, folder: Path, state: State | None = None) -> Path:
    origin = ORIGINS[name]
    folder.mkdir(exist_ok=True)
    file = folder / origin.file_name
    origin.write(state_of(name) if state is None else state, file)
    origin.convert(file, folder / "weights")
    return folder / "weights"


@pytest.fixture(scope="module", params=sorted(ORIGINS))
def origin(request, tmp_path_factory) -> tuple[str, Path]:
    """Each origin, converted once."""
    return request.param, converted(request.param, tmp_path_factory.mktemp(request.param))


def test_xecg_computes_what_its_authors_code_computed(tmp_path):
    numbers, folder = numbers_of("xecg"), converted("xecg", tmp_path)
    embedder = JEPAEmbedder(folder, sampling_rate=100, cache=None)
    found = embedder.fit_transform(millivolts(numbers))
    np.testing.assert_allclose(found, numbers["features"], atol=5e-5)
    embedder.set_params(pooling="max")
    np.testing.assert_allclose(embedder.transform(millivolts(numbers)), numbers["features_max"], atol=5e-4)


def test_the_mean_of_xecg_leaves_out_slices_that_begin_with_zeros_in_all_leads(tmp_path):
    numbers = numbers_of("xecg")
    signal = millivolts(numbers)
    signal[1, :, 450:] = 0.0
    found = JEPAEmbedder(converted("xecg", tmp_path), sampling_rate=100, cache=None).fit_transform(signal)
    np.testing.assert_allclose(found, numbers["features_rec1_zero_from_450"], atol=5e-5)


def test_ecg_fm_computes_what_its_authors_code_computed(tmp_path):
    numbers = numbers_of("ecg_fm")
    encoder, spec = load_encoder(converted("ecg_fm", tmp_path))
    shorter = type(spec).from_dict(spec.to_dict() | {"window_samples": 640})
    records = [ECGRecord(signal, 500, CANONICAL_LEADS) for signal in millivolts(numbers)]
    windows = prepare(records, shorter)  # 1,300 samples hold two of them, and 20 that the authors drop
    with torch.inference_mode():
        found = encoder(torch.from_numpy(windows.values)).mean(dim=1)
    np.testing.assert_allclose(found, numbers["features"], atol=1e-5)


def test_merl_computes_what_its_authors_code_computed(tmp_path):
    numbers = numbers_of("merl")
    found = JEPAEmbedder(converted("merl", tmp_path), sampling_rate=500, cache=None).fit_transform(millivolts(numbers))
    np.testing.assert_allclose(found, numbers["features"], atol=2e-6)


def test_committed_numbers_are_those_of_the_golden_files(shared):
    for name, file in (("xecg", "xecg"), ("ecg_fm", "ecgfm"), ("merl", "merl"), ("clef", "clef")):
        numbers, golden = numbers_of(name), np.load(shared / "golden" / f"foreign_{file}.npz")
        for key in numbers.keys() - {"microvolts"}:
            assert np.array_equal(numbers[key], golden[key])
        raw = next(golden[key] for key in golden.files if key.startswith("raw_mV"))
        assert np.array_equal(millivolts(numbers), raw)


def test_converted_weights_verify_and_say_what_is_ours(origin):
    _, folder = origin
    info = read_info(folder)
    assert verify_weights(info).passed
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "- ours: Theirs" in card
    assert "- contradictions: " in card


def test_every_stage_of_an_encoder_can_be_pooled(origin):
    _, folder = origin
    info = read_info(folder)
    signal = np.random.default_rng(0).normal(0, 0.3, (2, 12, 2400))
    layers = list(range(len(info.encoder.stages)))
    features = JEPAEmbedder(folder, sampling_rate=500, layer=layers, cache=None).fit_transform(signal)
    assert features.shape == (2, sum(stage.width for stage in info.encoder.stages))
    last = JEPAEmbedder(folder, sampling_rate=500, cache=None).fit_transform(signal)
    np.testing.assert_allclose(features[:, -last.shape[1] :], last, atol=1e-6)


def test_records_of_any_length_are_encoded(origin):
    _, folder = origin
    generator = np.random.default_rng(0)
    lengths = (500, 1111, 2500, 5001, 7777)
    records = [ECGRecord(generator.normal(0, 0.3, (12, n)), 500, CANONICAL_LEADS) for n in (*lengths, 3)]
    embedder = JEPAEmbedder(folder, cache=None, short_records="pad")
    assert np.isfinite(embedder.fit_transform(records)).all()


def test_the_order_of_leads_in_a_record_does_not_matter(origin):
    _, folder = origin
    signal = np.random.default_rng(0).normal(0, 0.3, (12, 5000)).astype(np.float32)
    order = np.random.default_rng(1).permutation(12)
    shuffled = ECGRecord(signal[order], 500, [CANONICAL_LEADS[row] for row in order])
    embedder = JEPAEmbedder(folder, cache=None).fit([shuffled])
    wanted = embedder.transform([ECGRecord(signal, 500, CANONICAL_LEADS)])
    assert np.array_equal(embedder.transform([shuffled]), wanted)


def test_absent_leads_are_zeros_for_xecg_and_refused_by_name_for_the_others(origin):
    name, folder = origin
    signal = np.random.default_rng(0).normal(0, 0.3, (11, 5000)).astype(np.float32)
    record = ECGRecord(signal, 500, CANONICAL_LEADS[:-1])
    embedder = JEPAEmbedder(folder, cache=None)
    if name != "xecg":
        with pytest.raises(LeadError, match="expected also V6"):
            embedder.fit_transform([record])
        return
    zeros = ECGRecord(np.concatenate([signal, np.zeros((1, 5000), np.float32)]), 500, CANONICAL_LEADS)
    zeroed = JEPAEmbedder(folder, cache=None).fit_transform([zeros])
    np.testing.assert_allclose(embedder.fit_transform([record]), zeroed, atol=1e-5)
