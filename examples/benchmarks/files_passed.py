"""How many files one call passes: what a reader has to open who follows it from the first line to the last.

Run ``python examples/benchmarks/files_passed.py`` with ``PYTHONPATH`` at the root of a checkout. For four calls it
prints how many of the project's own files and functions were entered, how deep own calls were nested, and how many
moves there were: functions that lie in another file than the function entered before. Every call has run before with
other records, so that imports, weights and caches of the process are there. Functions of other packages are passed
over. The training step is what happens between two steps of the optimizer, the second and the third of a run, where
nothing is logged.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
from torch.optim.optimizer import register_optimizer_step_post_hook

from pretraining.__main__ import main as pretrain
from skecg import FineTunedClassifier, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.leads import CANONICAL_LEADS

ROOT = Path(__file__).resolve().parents[2]
OWN = tuple(f"{ROOT / package}{os.sep}" for package in ("skecg", "pretraining"))


class Passed:
    """Watches calls of own functions while it is a context, in the threads that are there or begin."""

    def __init__(self) -> None:
        self.functions: set[CodeType] = set()
        self.depth = 0
        self.moves = 0
        self._last: dict[int, str] = {}  # the file entered last, by thread

    def __enter__(self) -> Passed:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @property
    def files(self) -> set[str]:
        """Own files in which a function was entered."""
        return {code.co_filename for code in self.functions}

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or not _is_own(frame.f_code):
            return
        self.functions.add(frame.f_code)
        self.depth = max(self.depth, _own_depth(frame))
        file, thread = frame.f_code.co_filename, threading.get_ident()
        self.moves += self._last.get(thread, file) != file
        self._last[thread] = file


def _is_own(code: CodeType) -> bool:
    return code.co_filename.startswith(OWN)


def _own_depth(frame: FrameType | None) -> int:
    """Count the own functions from this one up that have not returned."""
    depth = 0
    while frame is not None:
        depth += _is_own(frame.f_code)
        frame = frame.f_back
    return depth


def watch(call: Callable[[int], object]) -> Passed:
    """Run a call with one seed to warm up, then watch it with another."""
    call(0)
    with Passed() as passed:
        call(1)
    return passed


def transform(model: str, cache: str | None) -> Passed:
    embedder = JEPAEmbedder(model, cache=cache).fit(make_ecg(3, random_state=0).records)
    records = [make_ecg(3, random_state=seed).records for seed in (0, 1)]
    return watch(lambda seed: embedder.transform(records[seed]))


def fit(model: str) -> Passed:
    records, labels = make_ecg(16, rhythm=["sinus", "af"], random_state=0)
    return watch(lambda seed: FineTunedClassifier(model, epochs=1).fit(records, labels["rhythm"]))


def training_step() -> Passed:
    """Watch the third step of a run of the smallest recipe, from the optimizer's second step to its third."""
    passed, n_steps = Passed(), 0

    def count_steps(*given: object) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == 2:
            passed.__enter__()
        elif n_steps == 3:
            passed.__exit__()

    hook = register_optimizer_step_post_hook(count_steps)
    try:
        with tempfile.TemporaryDirectory() as folder:
            train(Path(folder), "run.steps=4", "run.batch_size=4", "optim.warmup_steps=1")
    finally:
        hook.remove()
    return passed


def train(folder: Path, *overrides: str) -> None:
    """Pack synthetic records and train on them, as the command line does, in this process."""
    records = make_ecg(8, sampling_rate=250, random_state=0).records
    signals = np.stack([np.rint(record.signal * 1000) for record in records]).astype(np.int16)
    packed, shards, run = folder / "made.npz", folder / "shards", folder / "run"
    np.savez(packed, signals=signals, lsb=0.001, units="mV", fs=250.0, leads=np.array(CANONICAL_LEADS))
    options = ["--recipe", "tiny", "--out", str(run), "--data", str(shards), "--device", "cpu", *overrides]
    with contextlib.redirect_stdout(sys.stderr):
        pack = ["pack", "--corpus", f"made={packed}", "--out", str(shards), "--recipe", "tiny", "--quiet"]
        for words in (pack, ["train", *options]):
            if pretrain(words):
                sys.exit(f"python -m pretraining {' '.join(words)} did not end well")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--names", action="store_true", help="name the files, too")
    given = parser.parse_args(arguments)
    calls: dict[str, Callable[[], Passed]] = {
        "transform, 3 records, memory cache": lambda: transform(given.model, "memory"),
        "transform, 3 records, cache=None": lambda: transform(given.model, None),
        "fit, 16 records, 1 epoch": lambda: fit(given.model),
        "training step, tiny, CPU": training_step,
    }
    print(f"{'call':<36}{'files':>7}{'functions':>11}{'depth':>7}{'moves':>7}")
    for name, call in calls.items():
        passed = call()
        numbers = len(passed.files), len(passed.functions), passed.depth, passed.moves
        print("{:<36}{:>7}{:>11}{:>7}{:>7}".format(name, *numbers), flush=True)
        for file in sorted(passed.files) if given.names else []:
            print(f"    {Path(file).relative_to(ROOT).as_posix()}")


if __name__ == "__main__":
    main()
