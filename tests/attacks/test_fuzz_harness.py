"""Spoilt inputs of every kind, for as many seconds as the environment allows; more of them by hand (fuzz.py)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from random import Random

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "io"))  # the tests of readers write sound files

from fuzz import make, numbers, record
from fuzz_targets import targets

SECONDS = float(os.environ.get("SKECG_FUZZ_SECONDS", "5"))
SEED = int(os.environ.get("SKECG_FUZZ_SEED", "0"))


def test_no_spoilt_input_is_anything_but_refused_or_read_as_wfdb_reads_it(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    kinds, random, seen = targets(tmp_path / "work"), Random(), set()
    deadline = time.monotonic() + SECONDS
    for name, number in numbers(kinds, SEED, 0):
        if time.monotonic() > deadline:
            break
        content = make(kinds[name], SEED, number, random)
        try:
            seen.add((name, kinds[name].check(content)))
        except Exception as error:
            record(tmp_path / "failures", name, SEED, number, content, str(error))
            raise AssertionError(f"python tests/attacks/fuzz.py --seed {SEED} --replay '{name}:{number}'") from error
    assert ("header", "compared") in seen


@pytest.mark.parametrize("name", ["header", "npy", "config", "safetensors", "wfdb"])
def test_an_input_is_a_function_of_its_seed_and_number(tmp_path: Path, name: str) -> None:
    target = targets(tmp_path)[name]
    made = [make(target, 3, number, Random(number)) for number in range(50)]
    assert made == [make(target, 3, number, Random()) for number in range(50)]
    assert made != [make(target, 4, number, Random()) for number in range(50)]
    assert len(set(made)) > 40
