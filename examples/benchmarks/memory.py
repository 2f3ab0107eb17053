"""How much memory embedding takes at most, by the number of recordings, through Python and by the command line.

Run ``python examples/benchmarks/memory.py [--records 100 1000 10000] [--model default]``. Every number is the peak of a
process of its own (VmHWM of /proc, so this needs Linux; the memory that a process once had at the same time, libraries
included). Through Python a list of paths goes into one table of features, with the cache in memory as it is by default;
``skecg embed`` writes an .npz file. The recordings have 12 leads, 10 s at 500 Hz; no two are equal: many headers, each
with a gain of its own, share few signal files, so that ten thousand take no room on the disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from skecg.datasets import make_ecg

N_SIGNAL_FILES = 64

_PEAK = """
def peak():
    with open("/proc/self/status") as lines:
        print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""
_WAYS = {
    "Python": """
import sys
from pathlib import Path
from skecg import JEPAEmbedder
paths = Path(sys.argv[1]).read_text().splitlines()
features = JEPAEmbedder(sys.argv[2]).fit_transform(paths)
assert len(features) == len(paths)
peak()
""",
    "skecg embed": """
import sys
from skecg.cli import main
assert main(["embed", "--quiet", "--paths-from", sys.argv[1], "--model", sys.argv[2], "--out", sys.argv[3]]) == 0
peak()
""",
}


def write_files(folder: Path, n_records: int, n_seconds: float = 10.0, sampling_rate: float = 500.0) -> list[Path]:
    """Write WFDB headers over few signal files of format 16, each with its own gain: no two records are equal."""
    hearts = make_ecg(
        min(N_SIGNAL_FILES, n_records), duration_seconds=n_seconds, sampling_rate=sampling_rate, random_state=0
    ).records
    for number, heart in enumerate(hearts):
        (folder / f"s{number:02}.dat").write_bytes(np.round(heart.signal.T * 1000).astype("<i2").tobytes())
    paths = []
    for number in range(n_records):
        heart = hearts[number % len(hearts)]
        signal = f"s{number % len(hearts):02}.dat 16 {1000 + number / 1000:.3f}/mV 16 0 0 0 0"
        lines = [f"r{number:06} {heart.n_leads} {sampling_rate:g} {heart.n_samples}"]
        paths.append(folder / f"r{number:06}.hea")
        paths[-1].write_text("\n".join([*lines, *(f"{signal} {lead}" for lead in heart.leads)]) + "\n")
    return paths


def peak_mib(way: str, listing: Path, model: str) -> float:
    """Embed the recordings of a list in a process of its own and give the memory that it had at most."""
    out = listing.with_suffix(".npz")
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, "-c", _PEAK + _WAYS[way], str(listing), model, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    out.unlink(missing_ok=True)
    if done.returncode:
        sys.exit(done.stderr)
    return int(done.stdout.split()[-1]) / 1024


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--model", default="default")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), max(given.records))
        signals_mib = len(paths) * 12 * 5000 * 4 / 2**20
        print(f"{'records':>8}" + "".join(f"{way + ', MiB':>18}" for way in _WAYS))
        for n_records in given.records:
            listing = Path(folder, "listing")
            listing.write_text("\n".join(map(str, paths[:n_records])))
            peaks = [peak_mib(way, listing, given.model) for way in _WAYS]
            print(f"{n_records:>8}" + "".join(f"{peak:>18.0f}" for peak in peaks), flush=True)
    print(f"the signals of {len(paths)} records at once would be {signals_mib:.0f} MiB")


if __name__ == "__main__":
    main()
