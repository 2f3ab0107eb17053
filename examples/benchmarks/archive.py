"""What embedding a million records costs, projected from `skecg embed` on files generated here.

Run ``python examples/benchmarks/archive.py [--records N] [--model M] [--scheduler ADDRESS]``; M may be ``vit-xs`` (12
blocks of 192, 100 tokens) or ``vit-s`` (8 of 384), with random weights. It writes 12-lead, 10 s, 500 Hz WFDB files to a
temporary folder, lists and embeds them by the real command, in a process of its own, once with an eighth of the files
and once with all, and takes the cost of a record from the difference, so that starting up is not counted a million
times. It prints records/s by the clock and by the processor's time (which other programs on the machine do not change
much), into one file and into an archive of part files, the peak of memory, the size of the parts, and what a million
records cost in core-hours and on several processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from encoder_shapes import find_model

from skecg.datasets import make_ecg
from skecg.io import find_records
from skecg.leads import CANONICAL_LEADS

MILLION = 1_000_000
N_SAMPLES, RATE = 5000, 500
# So many hearts; every record is another mixture of two of them, so that no two files are equal.
N_HEARTS = 32

# Runs the command and says what time of the processor it took, and how much memory it had at most, in KiB.
_RUN = """
import sys
from skecg.cli import main
code = main(sys.argv[1:])
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""


class Cost(NamedTuple):
    """Of one command: seconds it took by the clock and of the processor, and MiB it had at most."""

    seconds: float
    core_seconds: float
    memory_mib: float


def write_files(folder: Path, n_records: int) -> None:
    """Write WFDB files of format 16 in folders of a thousand, as large archives have them."""
    hearts = [record.signal for record in make_ecg(N_HEARTS, sampling_rate=RATE, random_state=0).records]
    draw = np.random.default_rng(0)
    for number in range(n_records):
        home = folder / f"{number // 1000:04d}"
        home.mkdir(exist_ok=True)
        share = draw.uniform(0.1, 0.9)
        one, other = (hearts[i] for i in draw.choice(N_HEARTS, 2, replace=False))
        steps = np.round((share * one + (1 - share) * other).T * 1000).astype("<i2")
        name = f"r{number:07d}"
        (home / f"{name}.dat").write_bytes(steps.tobytes())
        lines = [f"{name}.dat 16 1000/mV 16 0 {steps[0, i]} 0 0 {lead}" for i, lead in enumerate(CANONICAL_LEADS)]
        (home / f"{name}.hea").write_text("\n".join([f"{name} 12 {RATE} {len(steps)}", *lines]) + "\n")


def embed(*arguments: object) -> Cost:
    """Run ``skecg embed`` in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-c", _RUN, "embed", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    core_seconds, kib = done.stdout.split()[-2:]
    return Cost(time.perf_counter() - start, float(core_seconds), float(kib) / 1024)


def listing_seconds_per_record(folder: Path, n_records: int) -> float:
    """Measure what is done once with ``--paths-from``, and by every process of an array of jobs without."""
    start = time.perf_counter()
    found = find_records(folder)
    assert len(found) == n_records
    return (time.perf_counter() - start) / n_records


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def measure(folder: Path, options: argparse.Namespace) -> None:
    few, n_few = folder / "few", max(options.records // 8, 1)
    everything, n_all = folder / "all", options.records
    for home, count in ((few, n_few), (everything, n_all)):
        home.mkdir()
        write_files(home, count)
    listing = listing_seconds_per_record(everything, n_all)
    cores = len(os.sched_getaffinity(0))
    print(f"{n_all} records of 12 leads x {N_SAMPLES} samples, model {Path(options.model).name!r}, {cores} core(s)")
    print(f"listing a folder: {listing * 1e6:.0f} us a record, {hours(listing * MILLION)} for a million, once\n")
    print(f"{'way':<21}{'records/s':>10}{'per core-s':>12}{'ratio':>8}{'start':>9}{'peak':>10}{'a million':>14}")
    costs = {}
    for number, (way, arguments, suffix) in enumerate(ways(options)):
        small = embed(few, "--out", folder / f"few{number}{suffix}", *arguments)
        large = embed(everything, "--out", folder / f"all{number}{suffix}", *arguments)
        clock, core = ((large[i] - small[i]) / (n_all - n_few) for i in range(2))
        if "--scheduler" in arguments:
            print(f"{way:<21}{1 / clock:>10.1f}{'-':>12}{'-':>8}{'-':>9}{'-':>10}{'-':>14}")
            continue
        costs[way] = core
        start, ratio = small.core_seconds - n_few * core, next(iter(costs.values())) / core
        numbers = f"{1 / clock:>10.1f}{1 / core:>12.1f}{ratio:>7.2f}x{start:>7.1f} s{large.memory_mib:>6.0f} MiB"
        print(f"{way:<21}{numbers}{core * MILLION / 3600:>7.2f} core-h")
    parts = list((folder / "all1").glob("part-*.parquet"))
    kib = sum(path.stat().st_size for path in parts) / n_all / 1024
    print(f"\n{len(parts)} part file(s), {kib:.2f} KiB a record, {kib * MILLION / 2**20:.2f} GiB for a million")
    split = [f"{n}: {hours(costs['archive, --part'] / n * MILLION)}" for n in (1, 16, 100)]
    print(f"a million that are listed, over N processes with a core each: {', '.join(split)}")


def ways(options: argparse.Namespace) -> list[tuple[str, list[str], str]]:
    """Name the ways to embed, with their arguments and the suffix of what they write.

    What the workers of a cluster take of their processors and memory is not seen from here: the clock alone counts.
    """
    model = ["--model", options.model]
    chunk = ["--chunk-records", str(options.chunk_records), *model]
    found = [("one file (.npz)", model, ".npz"), ("archive, --part", ["--part", "1/1", *chunk], "")]
    if options.scheduler:
        found.append(("archive, --scheduler", ["--scheduler", options.scheduler, *chunk], ""))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2048)
    parser.add_argument("--model", default="default")
    parser.add_argument("--chunk-records", type=int, default=1024)
    parser.add_argument("--scheduler")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as home:
        given.model = find_model(given.model, home)
        measure(Path(home), given)


if __name__ == "__main__":
    main()
