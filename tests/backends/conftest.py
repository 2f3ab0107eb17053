from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skecg import backends
from skecg.backends import onnx as graphs
from skecg.encoders import Encoder
from skecg.io.files import replacing


@pytest.fixture(scope="session")
def graph_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for graphs that all workers of pytest-xdist share, which have folders side by side."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "graphs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def traced(graph_folder: Path) -> Iterator[list[tuple[object, ...]]]:
    """What was exported, in order; the engines share graphs here, because a trace takes seconds."""
    seen: list[tuple[object, ...]] = []
    trace = graphs.states_graph

    def once(encoder: Encoder, layers: tuple[int, ...], *, some_leads: bool) -> bytes:
        seen.append((id(encoder), layers, some_leads))
        path = graph_folder / f"{digest_of(encoder)}-{'-'.join(map(str, layers))}-{some_leads}"
        if not path.exists():
            with replacing(path) as file:
                file.write(trace(encoder, layers, some_leads=some_leads))
        return path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "states_graph", once)
        yield seen


def digest_of(encoder: Encoder) -> str:
    digest = hashlib.sha256(repr(encoder.config).encode())
    for tensor in encoder.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
