"""How much memory a recording of a day takes at most, in multiples of its own size: its two leads in float32.

Run ``python examples/benchmarks/long_record.py [--hours 24] [--model default]``. A WFDB file of two
leads at 250 Hz is read, screened, prepared and embedded. What is reported is how far the memory of the process (VmHWM
of /proc, so this needs Linux) grows beyond what it has after a recording of ten minutes, with libraries and weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.errors import SkecgWarning

LEADS, RATE, MINUTES = ("II", "V1"), 250, 10


def write_record(folder: Path, n_pieces: int) -> tuple[Path, float]:
    """Write ten minutes of a heart so many times; return the header and the size in MiB."""
    heart = make_ecg(1, duration_seconds=60 * MINUTES, sampling_rate=RATE, random_state=0).records[0]
    steps = np.round(heart.signal[[heart.leads.index(lead) for lead in LEADS]].T * 1000).astype("<i2")
    name = f"r{n_pieces}"
    with (folder / f"{name}.dat").open("wb") as file:
        for _ in range(n_pieces):
            file.write(steps.tobytes())
    lines = [f"{name} {len(LEADS)} {RATE} {n_pieces * len(steps)}"]
    lines += [f"{name}.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return folder / f"{name}.hea", n_pieces * steps.size * 4 / 2**20


def memory_mib(field: str) -> float:
    """Return what the process holds (VmRSS), or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--model", default="default")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore", SkecgWarning)
    with tempfile.TemporaryDirectory() as folder:
        path, size_mib = write_record(Path(folder), max(1, round(given.hours * 60 / MINUTES)))
        embedder = JEPAEmbedder(given.model, missing_leads="subset", n_jobs=1)
        embedder.fit_transform([write_record(Path(folder), 1)[0]])
        before, started = memory_mib("VmRSS"), time.perf_counter()
        embedder.transform([path])
        seconds, growth = time.perf_counter() - started, memory_mib("VmHWM") - before
    times = growth / size_mib
    print(f"{given.hours:g} h: {size_mib:.0f} MiB, grew by {growth:.0f} MiB ({times:.2f} times), {seconds:.0f} s")


if __name__ == "__main__":
    main()
