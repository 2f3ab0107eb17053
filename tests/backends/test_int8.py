from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from skecg import JEPAEmbedder, backends
from skecg.backends.onnx import quantized
from skecg.datasets import make_ecg
from skecg.embedding_cache import MemoryCache
from skecg.errors import ParameterError
from skecg.weights import loaded_encoder, read_info

FIXTURES = Path(__file__).parents[1] / "fixtures"
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
        reason="the extra onnx is not installed",
    ),
    pytest.mark.usefixtures("traced"),
]


@pytest.fixture(params=["tiny-temporal", "tiny-leadwise"])
def model(request: pytest.FixtureRequest) -> Path:
    return FIXTURES / request.param


def features(model: Path, records: list, **parameters) -> np.ndarray:
    parameters = {"missing_leads": "subset", "short_records": "pad", "layer": [0, -1], "cache": None} | parameters
    return JEPAEmbedder(model, **parameters).fit_transform(records)


def some_records() -> list:
    """Whole ones, a short one, and one of three leads."""
    whole = make_ecg(12, rhythm=["sinus", "af"], noise=(0.02, 0.1), random_state=3).records
    short, few = make_ecg(1, duration_seconds=1.5, random_state=4).records[0], whole[0]
    few = type(few)(few.signal[[1, 6, 7]], few.sampling_rate, ["II", "V1", "V2"])
    return [*whole, short, few]


def test_features_are_those_of_float32_to_eight_bits(model) -> None:
    records = some_records()
    found, wanted = (
        features(model, records, backend=backend, precision=precision)
        for backend, precision in (("onnx", "int8"), ("torch", "fp32"))
    )
    assert found.shape == wanted.shape
    assert not np.allclose(found, wanted, rtol=1e-5, atol=1e-6)  # it did round
    # What all recordings share says nothing about whether they are still told apart.
    found, wanted = found - found.mean(axis=0), wanted - wanted.mean(axis=0)
    cosine = (found * wanted).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.99


def test_a_record_is_the_same_bits_whatever_stands_beside_it(model) -> None:
    quiet, loud = make_ecg(2, noise=0.05, random_state=0).records
    loud = type(loud)(30 * loud.signal, loud.sampling_rate, loud.leads)
    with pytest.warns(UserWarning, match="microvolts"):
        together = features(model, [quiet, loud, quiet], backend="onnx", precision="int8")
    alone = features(model, [quiet], backend="onnx", precision="int8")
    assert np.array_equal(together[[0, 2]], alone[[0, 0]])


def test_linear_layers_and_nothing_else_multiply_in_eight_bits(model) -> None:
    import onnx

    source = loaded_encoder(read_info(model), CPU)
    before = backends.states_graph(source, (0, source.config.depth - 1), some_leads=False)
    kinds, kinds_before = (
        Counter(node.op_type for node in onnx.load_model_from_string(graph).graph.node)
        for graph in (quantized(before), before)
    )
    n_layers = 4 * source.config.depth + 1  # four a block, and the one that makes tokens
    assert kinds["MatMulInteger"] == n_layers
    assert kinds["MatMul"] == kinds_before["MatMul"] + kinds_before["Gemm"] - n_layers > 0


def test_rounding_is_quiet_and_leaves_nothing_behind(model, tmp_path, monkeypatch, caplog) -> None:
    source = loaded_encoder(read_info(model), CPU)
    graph = backends.states_graph(source, (0, source.config.depth - 1), some_leads=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    n_filters = len(logging.getLogger().filters)
    quantized(graph)
    assert list(tmp_path.iterdir()) == []
    assert [record for record in caplog.records if record.name == "root"] == []
    assert len(logging.getLogger().filters) == n_filters


def test_embeddings_are_not_taken_for_those_of_float32(model) -> None:
    records, cache = make_ecg(3, noise=0.05, random_state=0).records, MemoryCache()
    whole = features(model, records, backend="onnx", cache=cache)
    rounded = features(model, records, backend="onnx", precision="int8", cache=cache)
    assert cache.info().entries == 6
    assert not np.array_equal(whole, rounded)
    assert np.array_equal(features(model, records, backend="onnx", precision="int8", cache=cache), rounded)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_other_backends_name_the_one_that_can(backend) -> None:
    with pytest.raises(ParameterError, match=f"precision='int8' with backend='{backend}'.*backend='onnx'"):
        features(FIXTURES / "tiny-temporal", make_ecg(1).records, backend=backend, precision="int8")
