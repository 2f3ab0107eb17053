"""What the label-free descriptions of recordings cost, that pre-training predicts, and whether a change moved them.

Run ``python examples/benchmarks/descriptions.py [ARCHIVE.npz ...] [--against CHECKOUT] [--n-jobs 2]``. The twelve-lead
recordings of the archives, or as many made-up ones as ``--records`` asks for, are packed at 250 Hz; then
``write_descriptors`` describes them, with the code of this checkout and, in turn, with that of another. Each works in a
process of its own, and each process has one thread. Wall time counts, with the start of further processes in it, but
says little on a loaded machine; processor time of all processes together stands beside it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def pack_records(folder: Path, archives: list[str], n_records: int) -> int:
    """Pack what is described; return how many rows there are."""
    from pretraining.data.corpora import open_corpus
    from pretraining.data.pack import pack
    from skecg.datasets import make_ecg
    from skecg.leads import CANONICAL_LEADS

    if not archives:
        records, _ = make_ecg(n_records, duration_seconds=10.0, sampling_rate=250.0, random_state=0)
        steps = np.rint(np.stack([record.signal for record in records]) * 1e3).astype(np.int16)
        archives = [str(folder.with_suffix(".npz"))]
        what = {"lsb": 1e-3, "units": "mV", "fs": 250.0, "leads": list(CANONICAL_LEADS)}
        np.savez(archives[0], signals=steps, **what)  # type: ignore[arg-type]
    corpora = [open_corpus(f"archive{number}", Path(path)) for number, path in enumerate(archives)]
    return pack(corpora, folder, sampling_rate=250.0, segment_seconds=10.0, progress=False).n_records


def describe(folder: Path, n_jobs: int) -> dict[str, float]:
    """Describe shards with the code that is on the path, and say how long it took."""
    from pretraining.data.feature_tables import write_descriptors
    from pretraining.data.shards import open_shards

    options: dict[str, Any] = {"progress": False}
    if "n_jobs" in inspect.signature(write_descriptors).parameters:
        options["n_jobs"] = n_jobs
    shards, before, begun = open_shards(folder), processor_seconds(), time.perf_counter()
    write_descriptors(shards, **options)
    wall = time.perf_counter() - begun
    if "n_jobs" in options:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()  # the time of processes counts when they have ended
    return {"wall": wall, "processor": processor_seconds() - before}


def processor_seconds() -> float:
    """Return the processor time of this process and of those that it started."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def describe_elsewhere(checkout: Path, folder: Path, n_jobs: int) -> tuple[dict[str, float], np.ndarray]:
    """Describe shards with the code of a checkout; return the times and the values."""
    for old in folder.glob("descriptors-*"):
        old.unlink()
    command = [sys.executable, str(Path(__file__).resolve()), "--describe", str(folder), "--n-jobs", str(n_jobs)]
    path = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=checkout, env=os.environ | path, check=True, stdout=subprocess.PIPE, text=True)
    (table,) = folder.glob("descriptors-*.npz")
    with np.load(table) as columns:
        return json.loads(done.stdout), columns["values"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archives", nargs="*", metavar="ARCHIVE.npz")
    parser.add_argument("--records", type=int, default=1024, help="made-up ones, where no archive is given")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="root of a checkout of another commit")
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="the fastest counts")
    parser.add_argument("--tiny", action="store_true", help="few records, to see that it runs")
    parser.add_argument("--describe", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.describe:
        print(json.dumps(describe(given.describe, given.n_jobs)))
        return
    scratch = Path(tempfile.mkdtemp(prefix="descriptions-"))
    try:
        compare(scratch / "shards", given)
    finally:
        shutil.rmtree(scratch)


def compare(folder: Path, given: argparse.Namespace) -> None:
    """Describe with each of the checkouts in turn, and print a line for each."""
    n_records = pack_records(folder, given.archives, 16 if given.tiny else given.records)
    checkouts = {"this checkout": ROOT} | ({str(given.against): given.against.resolve()} if given.against else {})
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    values: dict[str, np.ndarray] = {}
    for _ in range(given.repeats):
        for name, checkout in checkouts.items():
            times, values[name] = describe_elsewhere(checkout, folder, given.n_jobs)
            taken[name].append(times)
    print(f"{n_records} rows of 12 x 2500, {given.n_jobs} processes, {os.cpu_count()} cores")
    fastest = {name: min(times, key=lambda time: time["wall"]) for name, times in taken.items()}
    for name, times in fastest.items():
        each = {kind: 1e3 * seconds / n_records for kind, seconds in times.items()}
        ratio = times["wall"] / fastest["this checkout"]["wall"]
        print(f"{each['wall']:8.2f} ms a row, {each['processor']:.2f} of one core, ratio {ratio:.1f}: {name}")
    if given.against:
        ours, theirs = values.values()
        print(f"largest difference {np.abs(ours - theirs).max():.1e}, of deviations of 1")


if __name__ == "__main__":
    main()
