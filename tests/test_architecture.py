"""The house keeps its shape: imports point down and never round, third parties have one door, a file is one idea."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import skecg

ROOT = Path(skecg.__file__).parents[1]
PACKAGES = ("skecg", "pretraining")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# From the ground up: a room imports from rooms on lower floors and from itself.
FLOORS = {
    "skecg": [
        {"_version", "errors"},
        {"leads", "validation", "compute"},
        {"splits"},
        {"linear_model"},
        {"metrics", "records", "spec"},
        {"embedding_cache", "plotting"},
        {"io", "versions"},
        {"preprocessing", "annotations"},
        {"encoders", "datasets"},
        {"weights"},
        {"backends", "hub", "convert"},
        {"inference"},
        {"embedder", "finetuning"},
        {"archives", "evaluation", "segmenting"},
        {"tabular"},
        {"cli"},
        {"__main__"},
    ],
    "pretraining": [
        {"config"},
        {"distributed", "optim", "recipes"},
        {"data"},
        {"runs", "objectives"},
        {"loader"},
        {"monitoring", "safeguards"},
        {"trainer", "export"},
        {"__main__"},
    ],
}

# Each third party comes in by these rooms only.
DOORS = {
    "wfdb": {"io"},
    "safetensors": {"weights", "convert"},
    "huggingface_hub": {"weights", "hub"},
    "skops": {"hub"},
    "yaml": {"hub"},
    "sqlite3": {"embedding_cache"},
    "matplotlib": {"plotting"},
    "threadpoolctl": {"compute"},
    "edfio": {"io"},
    "pydicom": {"io"},
    "ecgdatakit": {"io"},
    "pyarrow": {"archives", "cli", "datasets"},
    "distributed": {"archives"},
    "dask": set(),
    "onnx": {"backends", "encoders", "convert"},
    "onnxscript": {"backends"},
    "onnxruntime": {"backends", "encoders"},
    "openvino": {"backends"},
    "umap": {"tabular"},
    "tqdm": {"compute", "cli"},
    "pandas": set(),
    "http": {"datasets"},
    "urllib": {"datasets"},
    "requests": {"datasets"},
    "urllib3": {"datasets"},
    "pickle": {"convert"},  # its error class, not its loaders
    "pretraining": set(),
}

# Registered by name rather than imported: verbs, data sets, architectures, engines, objectives, corpora, recipes.
PLUG_INS = {
    "skecg/cli",
    "skecg/datasets",
    "skecg/encoders",
    "skecg/backends",
    "skecg/convert",
    "pretraining/objectives",
    "pretraining/data",
    "pretraining/recipes",
}
ROOFS = {"skecg/_version.py", "skecg/segmenting.py"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path): path for path in FILES}


def room_of(name: str) -> tuple[str, str]:
    package, _, rest = name.partition(".")
    return package, rest.partition(".")[0] or "__init__"


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module and every name of a module that a file imports anywhere, for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def neighbours_of(name: str) -> frozenset[str]:
    """Our own files that a file imports; a package's lazy front door is none."""
    modules = {full if full in NAMES else full.rpartition(".")[0] for full in imports_of(NAMES[name])}
    return frozenset((modules & NAMES.keys()) - {name, *PACKAGES})


def circle_from(edges: dict[str, frozenset[str]]) -> list[str]:
    """Return one circle of a directed graph, or nothing."""
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = [(start, iter(sorted(edges[start])))]
        path.append(start)
        while stack:
            _, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(path.pop())
                stack.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                path.append(following)
                stack.append((following, iter(sorted(edges[following]))))
    return []


def floor_of(package: str, room: str) -> int:
    for number, rooms in enumerate(FLOORS[package]):
        if room in rooms:
            return number
    pytest.fail(f"{package}/{room} stands on no floor: give it one in FLOORS")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_stands_on_one_floor_and_every_floor_has_its_rooms(package: str) -> None:
    rooms = [room for floor in FLOORS[package] for room in floor]
    there = {room_of(name)[1] for name in NAMES if name.startswith(f"{package}.")}
    assert len(rooms) == len(set(rooms))
    assert set(rooms) == there


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_down(name: str) -> None:
    package, room = room_of(name)
    if room == "__init__":
        return
    for other in neighbours_of(name):
        its_package, its_room = room_of(other)
        if its_package != package:
            assert package == "pretraining", f"{name} imports {other}"
        elif its_room != room:
            assert floor_of(package, its_room) < floor_of(package, room), f"{name} imports {other}, not below it"


def test_no_file_imports_itself_round_a_circle() -> None:
    assert circle_from({name: neighbours_of(name) for name in NAMES}) == []


def test_no_package_imports_itself_round_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for name in NAMES:
        rooms.setdefault("/".join(room_of(name)), set()).update("/".join(room_of(n)) for n in neighbours_of(name))
    assert circle_from({room: frozenset(others - {room}) for room, others in rooms.items()}) == []


def test_a_circle_would_be_found() -> None:
    edges = {"a": frozenset("b"), "b": frozenset("cd"), "c": frozenset(), "d": frozenset("a")}
    assert circle_from(edges) == ["a", "b", "d", "a"]
    assert circle_from(edges | {"d": frozenset("c")}) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_third_parties_come_in_by_their_door(path: Path) -> None:
    package, room = room_of(name_of(path))
    if package != "skecg":
        return
    for name in imports_of(path):
        party = name.split(".")[0]
        assert party not in DOORS or room in DOORS[party], f"{path.name} imports {party}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
    assert path.stem not in {"utils", "helpers", "common", "misc", "util"}
    assert len(path.relative_to(ROOT).parts) <= 3


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_worth_opening(name: str) -> None:
    path = NAMES[name]
    relative = str(path.relative_to(ROOT))
    if path.stem in {"__init__", "__main__"} or relative in ROOFS or str(path.parent.relative_to(ROOT)) in PLUG_INS:
        return
    importers = [other for other in NAMES if name in neighbours_of(other)]
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert len(importers) >= 2 or n_lines >= 120, f"{relative}: {n_lines} lines, imported by {importers}"


def test_the_house_stays_small() -> None:
    # Plug-ins may be added one file each; what they are plugged into may not sprawl (decision 11).
    others = [path for path in FILES if str(path.parent.relative_to(ROOT)) not in PLUG_INS]
    assert len(others) <= 144
    assert len(list((ROOT / "skecg").glob("*.py"))) <= 14


def test_only_convert_opens_pickles_and_only_safely() -> None:
    for path in (path for path in FILES if path.is_relative_to(ROOT / "skecg")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "pickle.load", "pickle.loads"}:
                assert room_of(name_of(path))[1] == "convert"
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
