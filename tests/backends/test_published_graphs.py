"""Other labs' encoders as graphs: what torch computes, for windows of any number and any length."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import numpy as np
import pytest
import torch

from skecg.backends import ExportedEncoder
from skecg.backends.onnx import WINDOWS, features_graph, open_with_onnxruntime
from skecg.backends.openvino import open_with_openvino
from skecg.encoders import Encoder, build_encoder
from skecg.encoders.net1d import Net1dConfig
from skecg.encoders.pooling import pool_tokens
from skecg.encoders.resnet import ResnetConfig
from skecg.encoders.wav2vec import Wav2vecConfig
from skecg.encoders.xlstm import XlstmConfig

ENGINES = {"onnxruntime": open_with_onnxruntime, "openvino": open_with_openvino}
SMALL = {
    "xecg": XlstmConfig(12, 25, 8, 16, 2, 32, block_kinds="sm"),
    "ecg_fm": Wav2vecConfig(12, 200, 32, 1, 2, 64, stem_dim=16, position_kernel=8),
    "merl": ResnetConfig(12, 200, widths=(8, 16), blocks_per_stage=1),
    "clef": Net1dConfig(1, 200, 8, (8, 16), (1, 1), group_dim=8, expansion=0.5),
}

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra onnx is not installed",
)


class Graph(NamedTuple):
    """An encoder and what was made of it."""

    encoder: Encoder
    content: bytes


@pytest.fixture(
    scope="module",
    params=["merl", *[pytest.param(name, marks=pytest.mark.slow) for name in sorted(set(SMALL) - {"merl"})]],
)
def graph(request: pytest.FixtureRequest) -> Graph:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build_encoder(SMALL[request.param]).eval().requires_grad_(False)
    return Graph(encoder, features_graph(encoder, (len(encoder.config.stages) - 1,), "mean").SerializeToString())


def windows_of(encoder: Encoder, n_windows: int, n_samples: int) -> torch.Tensor:
    values = torch.randn(n_windows, encoder.config.n_leads, n_samples, generator=torch.Generator().manual_seed(1))
    values[0, :, n_samples // 2 :] = 0.0  # what xECG takes for padding
    return values


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_graph_gives_the_encoders_features_whatever_the_number_and_length_of_windows(
    graph: Graph, engine: str
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    run, encoder = ENGINES[engine](graph.content), graph.encoder
    for n_windows, n_samples in ((2, 200), (1, 199), (3, 77), (2, 10), (1, 1)):
        windows = windows_of(encoder, n_windows, n_samples)
        states, counted = encoder.layers(windows, (-1,)), encoder.counted(windows)
        wanted = pool_tokens(states, encoder.num_registers, "mean", counted)
        features = run({WINDOWS: windows.numpy()})[0]
        np.testing.assert_allclose(features, wanted.numpy(), atol=1e-5)


def test_an_engine_pools_the_tokens_that_the_encoder_pools() -> None:
    encoder = build_encoder(SMALL["xecg"]).eval()
    counted = ExportedEncoder(encoder, open_with_onnxruntime).counted(windows_of(encoder, 2, 200))
    assert counted is not None
    assert counted.sum(dim=1).tolist() == [4, 8]
