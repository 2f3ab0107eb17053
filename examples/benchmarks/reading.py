"""How long a 10-second, 12-lead WFDB record takes to read: wfdb against skecg, as a table with ratios.

Run ``python examples/benchmarks/reading.py [N_RECORDS] [--tiny]``. Files are written to a temporary folder first, and
read once before the clock starts, so that both readers find them in the page cache. The best of several passes counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import wfdb

from skecg.io import read_record, read_records
from skecg.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from skecg.records import ECGRecord

N_SAMPLES = 5000
PASSES = 3


def write_record(folder: Path, name: str, steps: np.ndarray, storage: str) -> Path:
    """Write steps of shape (n_samples, 12) as format "16", "212" or "16+24" (a challenge's ``.mat``)."""
    if storage == "16+24":
        dimensions = np.array([0x1E, steps.shape[1], steps.shape[0], 0, 4], dtype="<i4")
        (folder / f"{name}.mat").write_bytes(dimensions.tobytes() + b"val\0" + steps.astype("<i2").tobytes())
        lines = [f"{name}.mat 16+24 1000/mV 16 0 {steps[0, i]} 0 0 {lead}" for i, lead in enumerate(CANONICAL_LEADS)]
        (folder / f"{name}.hea").write_text("\n".join([f"{name} 12 500 {len(steps)}", *lines, "#Dx: 426783006"]) + "\n")
    else:
        wfdb.wrsamp(
            name, fs=500, units=["mV"] * 12, sig_name=list(CANONICAL_LEADS), d_signal=steps.astype(np.int64),
            fmt=[storage] * 12, adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(folder),
        )  # fmt: skip
    return folder / f"{name}.hea"


def seconds_per_record(read: Callable[[list[Path]], object], paths: list[Path], passes: int) -> float:
    """Best time of several passes over all files, divided by their number."""
    read(paths)
    times = []
    for _ in range(passes):
        start = time.perf_counter()
        read(paths)
        times.append(time.perf_counter() - start)
    return min(times) / len(paths)


def read_with_wfdb(paths: list[Path]) -> list[wfdb.Record]:
    return [wfdb.rdrecord(str(path.with_suffix(""))) for path in paths]


def read_with_skecg(paths: list[Path]) -> list[ECGRecord]:
    return [read_record(path) for path in paths]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("n_records", nargs="?", type=int, default=100)
    parser.add_argument("--tiny", action="store_true", help="two records, one pass, to see that it runs")
    given = parser.parse_args(arguments)
    n_records, passes = (2, 1) if given.tiny else (given.n_records, PASSES)
    rng = np.random.default_rng(0)
    print(f"{n_records} records of 12 leads x {N_SAMPLES} samples; microseconds a record\n")
    print(f"{'format':<12}{'wfdb':>10}{'skecg':>10}{'ratio':>9}{'2 threads':>12}{'ratio':>9}")
    for storage in ("16", "212", "16+24"):
        with tempfile.TemporaryDirectory() as folder:
            steps = rng.normal(0, 300, (n_records, N_SAMPLES, 12)).clip(-2000, 2000).astype(np.int16)
            paths = [write_record(Path(folder), f"r{i:04d}", steps[i], storage) for i in range(n_records)]
            theirs = seconds_per_record(read_with_wfdb, paths, passes)
            ours = seconds_per_record(read_with_skecg, paths, passes)
            threads = seconds_per_record(lambda files: read_records(files, n_jobs=2), paths, passes)
        label = f"{storage} (.mat)" if "+" in storage else storage
        ratios = f"{theirs / ours:>8.1f}x{threads * 1e6:>12.0f}{theirs / threads:>8.1f}x"
        print(f"{label:<12}{theirs * 1e6:>10.0f}{ours * 1e6:>10.0f}{ratios}")


if __name__ == "__main__":
    main()
