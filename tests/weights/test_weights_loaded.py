from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from skecg import JEPAEmbedder
from skecg.encoders.linear import PackedLinear, can_multiply_bfloat16, has_faster_products
from skecg.errors import DamagedWeightsError, ParameterError
from skecg.io.files import sha256_of
from skecg.weights import find_weights, forget_encoders, loaded_encoder, read_attention, read_info
from skecg.weights import folder as loaded
from skecg.weights.card import join_data
from skecg.weights.folder import save_tensors

FIXTURES = Path(__file__).parents[1] / "fixtures"
CPU = torch.device("cpu")


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """The folders that were read, in order, beginning with an empty cache."""
    forget_encoders()
    seen: list[Path] = []
    read = loaded.read_state

    def counting(info):
        seen.append(info.folder)
        return read(info)

    monkeypatch.setattr(loaded, "read_state", counting)
    yield seen
    forget_encoders()


def test_weights_are_read_once_and_shared(reads):
    info = read_info(FIXTURES / "tiny-temporal")
    assert loaded_encoder(info, CPU) is loaded_encoder(read_info(FIXTURES / "tiny-temporal"), CPU)
    assert len(reads) == 1


def test_threads_that_ask_at_once_share_one_read(reads):
    info = read_info(FIXTURES / "tiny-temporal")
    start = threading.Barrier(8)

    def ask(_: int) -> int:
        start.wait()
        return id(loaded_encoder(info, CPU))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    assert len(reads) == 1


def test_a_copy_of_the_folder_is_the_same_encoder(reads, tmp_path):
    copy = read_info(shutil.copytree(FIXTURES / "tiny-temporal", tmp_path / "copy"))
    assert loaded_encoder(copy, CPU) is loaded_encoder(read_info(FIXTURES / "tiny-temporal"), CPU)


def test_other_weights_are_another_encoder(reads):
    first = loaded_encoder(read_info(FIXTURES / "tiny-temporal"), CPU)
    assert loaded_encoder(read_info(FIXTURES / "tiny-leadwise"), CPU) is not first
    assert len(reads) == 2


def test_forgetting_reads_again(reads):
    info = read_info(FIXTURES / "tiny-temporal")
    first = loaded_encoder(info, CPU)
    forget_encoders()
    assert loaded_encoder(info, CPU) is not first
    assert len(reads) == 2


def test_only_the_last_few_are_kept(reads, monkeypatch):
    monkeypatch.setattr(loaded, "_KEPT", 1)
    temporal, leadwise = read_info(FIXTURES / "tiny-temporal"), read_info(FIXTURES / "tiny-leadwise")
    for info in (temporal, leadwise, leadwise, temporal):
        loaded_encoder(info, CPU)
    assert [folder.name for folder in reads] == ["tiny-temporal", "tiny-leadwise", "tiny-temporal"]


def test_a_read_that_fails_is_tried_again(reads, monkeypatch):
    info = read_info(FIXTURES / "tiny-temporal")
    read = loaded.read_state
    monkeypatch.setattr(loaded, "read_state", lambda _: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        loaded_encoder(info, CPU)
    monkeypatch.setattr(loaded, "read_state", read)
    assert loaded_encoder(info, CPU) is loaded_encoder(info, CPU)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_that_is_packed_is_another_one(reads, precision, monkeypatch):
    monkeypatch.setattr(loaded, "_KEPT", 1)  # folder: all its encoders stay together
    info = find_weights("untrained-temporal")
    plain, packed = loaded_encoder(info, CPU), loaded_encoder(info, CPU, packed_for=precision)
    assert packed is not plain
    assert loaded_encoder(info, CPU, packed_for=precision) is packed
    assert loaded_encoder(info, CPU) is plain
    assert len(reads) == 2
    able = has_faster_products() if precision == "fp32" else can_multiply_bfloat16()
    assert any(isinstance(module, PackedLinear) for module in packed.modules()) == able
    assert not any(isinstance(module, PackedLinear) for module in plain.modules())


def damage(folder: Path) -> None:
    """Flip one bit of the last tensor."""
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def test_a_damaged_copy_is_refused_though_its_digest_names_an_encoder_that_is_loaded(tmp_path):
    sound = find_weights(FIXTURES / "tiny-temporal")
    loaded_encoder(sound, CPU)
    damage(shutil.copytree(FIXTURES / "tiny-temporal", tmp_path / "copy"))
    with pytest.raises(DamagedWeightsError, match="truncated or altered"):
        loaded_encoder(read_info(tmp_path / "copy"), CPU)
    with pytest.raises(DamagedWeightsError, match="truncated or altered"):
        JEPAEmbedder(tmp_path / "copy", sampling_rate=250).fit(np.ones((1, 12, 500)))


def test_a_folder_that_is_damaged_after_it_was_believed_is_refused(tmp_path):
    folder = shutil.copytree(FIXTURES / "tiny-temporal", tmp_path / "copy")
    find_weights(folder)
    damage(folder)
    with pytest.raises(DamagedWeightsError, match="truncated or altered"):
        find_weights(folder)


def test_the_bytes_of_a_folder_are_read_once_while_they_stay_the_same(tmp_path, monkeypatch):
    folder = shutil.copytree(FIXTURES / "tiny-temporal", tmp_path / "copy")
    find_weights(folder)
    monkeypatch.setattr("skecg.weights.folder.sha256_of", lambda path: pytest.fail("read again"))
    find_weights(folder)


# --- attention that pools -----------------------------------------------------------------------------------------


@pytest.fixture
def attentive(tmp_path) -> Path:
    """Weights beside the head of a regressor, as fine-tuning saves them."""
    folder = Path(shutil.copytree(FIXTURES / "tiny-temporal", tmp_path / "attentive"))
    write_head(folder, head_of(16))
    return folder


def head_of(width: int) -> dict[str, torch.Tensor]:
    shapes = {"query": (width,), "to_query.weight": (width, width), "to_keys_values.weight": (2 * width, width)}
    return {name: torch.ones(shape) for name, shape in shapes.items()}


def write_head(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_tensors(folder / "head.safetensors", tensors, {"format": "pt"})
    described = {"head": "attention", "head_sha256": sha256_of(folder / "head.safetensors")}
    (folder / "regressor.json").write_text(json.dumps({**described, "weights_sha256": read_info(folder).sha256}))


def test_attention_is_that_of_the_head_in_the_folder(attentive):
    attention = read_attention(read_info(attentive))
    assert torch.equal(attention.query_D, torch.full((16,), 16.0))
    tokens = torch.randn(2, 5, 16)
    # Keys are equal, and so every token counts alike.
    assert torch.allclose(attention.pool(torch.ones(2, 5, 16), 1, None), torch.full((2, 16), 16.0))
    assert attention.pool(tokens, 1, torch.ones(2, 4, dtype=torch.bool)).shape == (2, 16)


@pytest.mark.parametrize("described", [None, "[]", '{"head": "linear"}'])
def test_weights_without_an_attention_head_bring_none(attentive, described):
    (attentive / "regressor.json").unlink()
    if described is not None:
        (attentive / "classifier.json").write_text(described)
    with pytest.raises(ParameterError, match="do not bring; they have 'mean'"):
        read_attention(read_info(attentive))


@pytest.mark.parametrize("damage", ["missing", "altered", "other weights"])
def test_attention_that_was_not_saved_with_these_weights_is_refused(attentive, damage):
    path = attentive / "head.safetensors"
    if damage == "missing":
        path.unlink()
    elif damage == "altered":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        text = (attentive / "regressor.json").read_text()
        (attentive / "regressor.json").write_text(text.replace(read_info(attentive).sha256, "0" * 64))
    with pytest.raises(DamagedWeightsError, match="missing, altered, or of other weights"):
        read_attention(read_info(attentive))


@pytest.mark.parametrize("wrong", [{"query": torch.ones(3)}, {"query": torch.full((16,), torch.inf)}, "lacking"])
def test_attention_of_another_shape_is_refused_though_its_checksum_is_right(attentive, wrong):
    tensors = head_of(16)
    write_head(attentive, {"to_query.weight": tensors["to_query.weight"]} if wrong == "lacking" else tensors | wrong)
    with pytest.raises(DamagedWeightsError, match=r"no finite 'query' of shape \(16,\)"):
        read_attention(read_info(attentive))


@pytest.mark.parametrize(
    ("base", "own", "data", "licences"),
    [
        ({}, {}, "recordings that were not named", {}),
        ({"data": "none"}, {"data": "mine (4 records)"}, "mine (4 records); none", {}),
        ({"data": ["b", "a"]}, {"data": ["c", "d"]}, "c, d; b, a", {}),
        ({"data": "mine (4 records); none"}, {"data": "mine (4 records)"}, "mine (4 records); none", {}),
        (
            {"data": "a: title", "data_licences": {"a": "MIT", "c": "MIT"}},
            {"data": "c", "data_licences": {"c": "CC0-1.0"}},
            "c; a: title",
            {"a": "MIT", "c": "CC0-1.0"},
        ),
    ],
)
def test_data_of_the_weights_before_stay_with_those_that_come_of_them(base, own, data, licences) -> None:
    assert join_data(base, own) == {"data": data} | ({"data_licences": licences} if licences else {})


@pytest.mark.parametrize("own", [{"data": 4}, {"data": ["a", 4]}, {"data_licences": "CC0-1.0"}])
def test_data_that_are_named_by_no_text_are_refused(own) -> None:
    with pytest.raises(ParameterError, match=r"Got data(_licences)?="):
        join_data({}, own)
