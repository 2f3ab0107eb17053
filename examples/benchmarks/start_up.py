"""How long a fresh process takes until skecg is imported, its command line answers, and one record is embedded.

Run ``python examples/benchmarks/start_up.py [--processes 7] [--model default] [--tiny]``. Every line is a new process,
started several times over, in turns: seconds by the clock (minimum and median) and of the processor (minimum), the
start of Python included. Files are in the page cache after a first round that does not count. The floors are what
Python and the packages underneath take by themselves.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

EMBED = """
from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
assert JEPAEmbedder({model!r}).fit_transform(make_ecg(1, random_state=0).records).shape[0] == 1
"""


class Taken(NamedTuple):
    """Seconds by the clock and of the processor."""

    wall: float
    core: float


def commands(model: str) -> dict[str, tuple[list[str], str]]:
    """Name what is started: arguments of Python, and the aim."""
    return {
        "Python": (["-c", "pass"], "floor"),
        "import numpy": (["-c", "import numpy"], "floor"),
        "import skecg": (["-c", "import sys, skecg; assert 'torch' not in sys.modules"], "0.3"),
        "skecg --help": (["-m", "skecg", "--help"], "0.5"),
        "import torch, sklearn.base": (["-c", "import torch, sklearn.base"], "floor"),
        "one record embedded": (["-c", EMBED.format(model=model)], "3"),
    }


def start(arguments: list[str]) -> Taken:
    """Run Python in a new process."""
    before, begun = core_seconds_of_children(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return Taken(time.perf_counter() - begun, core_seconds_of_children() - before)


def core_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=7)
    parser.add_argument("--model", default="default")
    parser.add_argument("--tiny", action="store_true", help="one process each, to see that it runs")
    given = parser.parse_args(arguments)
    wanted = commands(given.model)
    if given.tiny:
        wanted = {name: command for name, command in wanted.items() if command[1] != "floor"}
    taken: dict[str, list[Taken]] = {name: [] for name in wanted}
    for number in range(1 if given.tiny else given.processes + 1):
        for name, (command, _) in wanted.items():
            found = start(command)
            taken[name] += [found] if number or given.tiny else []
    print(f"{'seconds':<28}{'minimum':>9}{'median':>9}{'processor':>11}{'aim':>8}")
    for name, runs in taken.items():
        walls = [run.wall for run in runs]
        core = min(run.core for run in runs)
        print(f"{name:<28}{min(walls):>9.3f}{statistics.median(walls):>9.3f}{core:>11.3f}{wanted[name][1]:>8}")


if __name__ == "__main__":
    main()
