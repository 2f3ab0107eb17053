"""The tree keeps its shape: imports point down, third parties have one door each, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skecg

ROOT = Path(skecg.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# From the ground up: a room may import from rooms on lower floors and from its own package.
FLOORS = [
    {"errors", "callers"},
    {"leads", "whitening", "targets"},
    {"newton", "records", "spec", "blas"},
    {"probe", "products", "resampling", "embedding_cache", "devices", "pooling", "progress", "threads"},
    {"digitized", "signals", "screening", "splits", "attention", "packing"},
    {"io"},
    {"encoders"},
    {"places"},
    {"windows", "datasets"},
    {"gathering"},
    {"preparation_on_device"},
    {"encoding", "inputs", "plotting", "quality"},
    {"weights", "receiving"},
    {"backends", "recipe"},
    {"portions"},
    {"embedding", "convert", "hub"},
    {"tokens", "collecting", "versions"},
    {"embedder", "finetuning"},
    {"archives", "evaluation"},
    {"segmenting"},
    {"cli"},
    {"__main__"},
]

# Each third party comes in by these rooms only.
DOORS = {
    "wfdb": {"io"},
    "safetensors": {"weights", "convert"},
    "huggingface_hub": {"weights", "hub"},
    "skops": {"hub"},
    "yaml": {"hub"},
    "sqlite3": {"embedding_cache"},
    "matplotlib": {"plotting"},
    "threadpoolctl": {"blas"},
    "edfio": {"io"},
    "pydicom": {"io"},
    "ecgdatakit": {"io"},
    "pyarrow": {"cli"},
    "distributed": {"archives"},
    "dask": set(),
    "onnx": {"backends"},
    "onnxscript": {"backends"},
    "onnxruntime": {"backends"},
    "openvino": {"backends"},
    "tqdm": {"progress", "cli"},
    "pandas": set(),
    "http": {"datasets"},
    "urllib": {"datasets"},
    "pickle": {"convert"},  # its error class, not its loaders
    "pretraining": set(),
}


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names if node.module == "skecg"}
    return found


def floor_of(room: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    pytest.fail(f"skecg/{room} stands on no floor: give it one in FLOORS")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "skecg" or len(parts) < 2:
            continue
        other = parts[1]
        if not (ROOT / other).exists() and not (ROOT / f"{other}.py").exists():
            continue
        assert other == room or floor_of(other) < floor_of(room), f"{room} imports {other}, which does not lie below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_third_parties_come_in_by_their_door(path: Path) -> None:
    for name in imports_of(path):
        package = name.split(".")[0]
        assert package not in DOORS or room_of(path) in DOORS[package], f"{path.name} imports {package}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    # The estimators' pages of parameters and attributes are a third of their files.
    limit = 400 if path.name in {"embedder.py", "classifier.py", "segmenter.py"} else 300
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit
    assert path.stem not in {"utils", "helpers", "common", "misc", "util"}


def test_only_convert_opens_pickles_and_only_safely() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "pickle.load", "pickle.loads"}:
                assert room_of(path) == "convert"
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


def test_importing_skecg_loads_nothing_heavy() -> None:
    heavy = ["torch", "sklearn", "wfdb", "scipy", "pandas", "matplotlib", "huggingface_hub"]
    code = f"import sys, skecg; print([m for m in {heavy} if m in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    assert found == "[]"


def test_every_public_name_exists_and_nothing_else_is_promised() -> None:
    for name in skecg.__all__:
        assert getattr(skecg, name) is not None
    assert dir(skecg) == sorted(skecg.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'JEPAEmbeder'"):
        skecg.JEPAEmbeder  # noqa: B018
