"""Memory does not grow with the number of recordings, beyond what is asked for: a row of features each."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "fixtures" / "tiny-temporal"
N_RECORDS = 5_000
# Their signals at once would take 57 MiB; features, cache and reasons take a few. What is left is the allocator's.
API_BOUND_MIB = 24
COMMAND_BOUND_MIB = 12

# VmHWM is the peak of the process itself; getrusage also counts what its parent had when it was started.
PEAK = """
import sys
from pathlib import Path

def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

paths = Path(sys.argv[1]).read_text().splitlines()
"""
EMBEDDER = """
from skecg import JEPAEmbedder
embedder = JEPAEmbedder(sys.argv[2], device="cpu", n_jobs=1).fit(paths)
embedder.transform(paths[:512])
before = peak()
features = embedder.transform(paths)
assert features.shape == (len(paths), 16)
print(peak() - before)
"""
COMMAND = """
from skecg.cli import main

def embed(n_paths):
    Path(sys.argv[3] + ".txt").write_text("\\n".join(paths[:n_paths]))
    options = ["--quiet", "--force", "--n-jobs", "1", "--device", "cpu", "--model", sys.argv[2], "--out", sys.argv[3]]
    assert main(["embed", "--paths-from", sys.argv[3] + ".txt", *options]) == 0
    return peak()

few = embed(200)
print(embed(2000) - few)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of thousands of recordings of which no two are equal."""
    spec = importlib.util.spec_from_file_location("benchmark_memory", ROOT / "examples" / "benchmarks" / "memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("recordings")
    paths = module.write_files(folder, N_RECORDS, n_seconds=2.5, sampling_rate=100)
    (folder / "listing").write_text("\n".join(map(str, paths)))
    return folder / "listing"


def growth_mib(code: str, listing: Path, out: Path) -> float:
    command = [sys.executable, "-c", PEAK + code, str(listing), str(TINY), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


@pytest.mark.slow
def test_thousands_of_records_through_python_stay_within_a_bound(listing: Path, tmp_path: Path) -> None:
    assert growth_mib(EMBEDDER, listing, tmp_path / "none") < API_BOUND_MIB


def test_memory_of_the_command_line_is_flat_in_the_number_of_files(listing: Path, tmp_path: Path) -> None:
    assert growth_mib(COMMAND, listing, tmp_path / "features.npz") < COMMAND_BOUND_MIB
