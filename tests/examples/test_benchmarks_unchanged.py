"""What moved is found, by name and with the size of the step; what did not is equal to the last bit."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("threads_as_before")]


@pytest.fixture
def unchanged(benchmark) -> ModuleType:
    """The benchmark as a module."""
    return benchmark("unchanged")


def shift(folder: Path, key: str, by: float) -> None:
    """Change one recorded number."""
    with np.load(folder / "unchanged.npz") as recorded:
        arrays = dict(recorded)
    arrays[key].flat[0] += by
    np.savez(folder / "unchanged.npz", **arrays)


def test_what_was_recorded_is_found_again_and_a_number_that_moved_is_named(unchanged, tmp_path, capsys):
    probes = [str(tmp_path), "--part", "probes"]
    assert unchanged.main(["record", *probes]) == 0
    assert unchanged.main(["compare", *probes]) == 0
    assert "bit-equal, largest difference 0" in capsys.readouterr().out
    shift(tmp_path, "probes/probe several", 1e-7)
    assert unchanged.main(["compare", *probes, "--tolerance", "1e-3"]) == 1  # the tolerance is for features alone
    printed = capsys.readouterr().out
    assert re.search(r"^    probe several: off by 1e-07$", printed, re.M)
    assert "probe joint" not in printed


def test_features_of_every_bundled_model_may_differ_by_the_tolerance_and_no_more(unchanged, tmp_path, capsys):
    features = [str(tmp_path), "--part", "features"]
    assert unchanged.main(["record", *features, "--records", "3"]) == 0
    for model in ("skecg-xs", "untrained-temporal"):
        shift(tmp_path, f"features/{model} records", 1e-5)
    capsys.readouterr()
    assert unchanged.main(["compare", *features]) == 1
    assert len(re.findall(r"^    \S+ records: off by ", capsys.readouterr().out, re.M)) == 2
    assert unchanged.main(["compare", *features, "--tolerance", "1e-4"]) == 0
    assert unchanged.main(["compare", *features, "--tolerance", "1e-6"]) == 1


def test_a_name_that_is_gone_is_a_fault_and_a_new_one_is_not(unchanged, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(unchanged, "find", cache(unchanged.find))  # it starts processes to find names
    names = [str(tmp_path), "--part", "names"]
    assert unchanged.main(["record", *names]) == 0
    path = tmp_path / "unchanged.json"
    about = json.loads(path.read_text())
    assert {"evaluate", "embed"} <= set(about["names"]["names/skecg verbs"])
    assert "train" in about["names"]["names/pretraining verbs"]
    assert "skecg.JEPAEmbedder.transform(sampling_rate)" in about["names"]["names/skecg"]
    about["names"]["names/recipes"].remove("tiny")
    about["names"]["names/recipes"].append("huge")
    path.write_text(json.dumps(about))
    capsys.readouterr()
    assert unchanged.main(["compare", *names]) == 1
    printed = capsys.readouterr().out
    assert "    huge: missing" in printed
    assert "    tiny: new" in printed
    assert unchanged.differences({"recipes": ["tiny"]}, {"recipes": ["tiny", "huge"]}, 0.0)[0] == []


def test_only_the_same_bits_differ_by_nothing(unchanged):
    here = np.array([0.0, 1.0, np.nan], dtype=np.float32)
    assert unchanged.largest_gap(here, here.copy()) == 0
    assert unchanged.largest_gap(here, np.array([-0.0, 1.0, np.nan], dtype=np.float32)) > 0
    assert unchanged.largest_gap(here, np.array([0.0, 1.5, np.nan], dtype=np.float32)) == 0.5
    for other in (here[:2], here.astype(np.float64), np.nan_to_num(here), here.astype(str)):
        assert unchanged.largest_gap(here, other) == np.inf


def test_a_part_that_was_not_recorded_cannot_be_compared(unchanged, tmp_path):
    assert unchanged.main(["record", str(tmp_path), "--part", "probes"]) == 0
    with pytest.raises(SystemExit, match="--part fitted"):
        unchanged.main(["compare", str(tmp_path), "--part", "fitted"])


def test_files_passed_are_counted_for_every_call(benchmark, capsys):
    benchmark("files_passed").main(["--names", "--model", "untrained-temporal"])
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\w[^\n]*?)  +(\d+) +(\d+) +(\d+) +(\d+)$", printed, re.M)
    assert [row[0].split(",")[0] for row in rows] == ["transform", "transform", "fit", "training step"]
    named = [len(re.findall(r"^    ", block, re.M)) for block in re.split(r"^\w.*$", printed, flags=re.M)[2:]]
    assert [int(row[1]) for row in rows] == named
    assert all(0 < int(files) <= int(functions) and int(depth) > 1 for _, files, functions, depth, _ in rows)
    cached, plain = rows[:2]
    assert int(cached[1]) > int(plain[1])
    assert "    skecg/embedder.py" in printed
    assert "    pretraining/trainer.py" in printed


def test_files_depth_and_moves_are_those_of_the_calls_that_were_made(benchmark):
    files_passed = benchmark("files_passed")
    here, there = (str(Path(root, "made.py")) for root in files_passed.OWN)
    spaces = [{}, {}]
    for space, path, source in (
        (spaces[0], here, "def outer(inner): inner(); return inner()"),
        (spaces[1], there, "def inner(): return 1"),
    ):
        exec(compile(source, path, "exec"), space)
    with files_passed.Passed() as passed:
        spaces[0]["outer"](spaces[1]["inner"])
    assert passed.files == {here, there}
    assert (len(passed.functions), passed.depth, passed.moves) == (2, 2, 1)
