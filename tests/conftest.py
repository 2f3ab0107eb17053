from __future__ import annotations

import gc
import hashlib
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import coverage
import pytest
from browser import Browser, open_browser
from hypothesis import settings

if TYPE_CHECKING:
    from skecg.encoders import Encoder

# Every run draws the same examples: a test, or the coverage that its examples reach, is never green by luck.
settings.register_profile("deterministic", derandomize=True, database=None)
settings.load_profile("deterministic")

# No test asks the real Hub, whatever it names; those in tests/hub have one of their own. Read when the Hub's client is
# imported, and handed on to processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"

# There is a worker of pytest-xdist for each core. Their threads would wait for each other's cores.
# Read when torch is imported, and handed on.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Asserts that were rewritten, and modules that processes import, are compiled once, wherever the tests run: beside the
# sources or, for those who want nothing there, in the folder of what is built.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
    bytecode = Path(__file__).resolve().parents[1] / "build" / "bytecode"
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(bytecode))

SHARED = Path(__file__).resolve().parents[2] / "shared"
BENCHMARKS = Path(__file__).resolve().parents[1] / "examples" / "benchmarks"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep modules and tests, which stay to the end, from being walked for garbage, now and in each test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)  # exporting a graph makes and forgets objects by the million
        gc.enable()


def pytest_sessionfinish() -> None:
    """Write down the branches taken, if they are counted: a worker that is slow to end is killed before it does."""
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.save()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and golden numbers that may lie beside the checkout."""
    if not (SHARED / "data" / "raw").is_dir():
        pytest.skip("the shared recordings are not here")
    return SHARED


@pytest.fixture
def benchmark(monkeypatch) -> Callable[[str], ModuleType]:
    """Import a benchmark, which may import its neighbours, by name."""

    def load(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def no_thread_is_left() -> Generator[None, None, None]:
    """Whatever happens, the threads that were there before are those that are there after."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not left


@pytest.fixture
def threads_as_before() -> Generator[None, None, None]:
    """Torch's number of threads is set back afterwards."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(threads_as_before: None) -> None:
    """Torch computes in one thread, as each worker of an embedder does; small matrices are faster so."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser without a window; one for all pages that are looked at."""
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


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
    from skecg import backends
    from skecg.backends import onnx as graphs
    from skecg.io.files import replacing

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
