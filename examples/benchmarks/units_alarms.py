"""How often true millivolts are taken for another unit: batches of several sizes, drawn from packed files.

    python examples/benchmarks/units_alarms.py FOLDER

For each file and size the share of batches that are warned of, whatever the reason; and, of the same batches five times
too large, five times too small, standardized lead by lead, and scaled to 0..1, the share that is found.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skecg import ECGRecord
from skecg.datasets import read_packed
from skecg.errors import InputError
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.quality import Policies, Screening, screen
from skecg.preprocessing.units import STANDARDIZED, judge_units
from skecg.spec import InputSpec

SPEC = InputSpec(CANONICAL_LEADS, 250, 2500, any_leads=True, normalization="none")
SIZES = (1, 2, 4, 8, 16, 32, 64, 256)
NOTES = {"microvolts", "volts"}


def standardized(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each lead by its standard deviation."""
    return (x - x.mean(axis=1, keepdims=True)) / np.maximum(x.std(axis=1, keepdims=True), 1e-9)


def to_one(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each lead to its own limits."""
    low = x.min(axis=1, keepdims=True)
    return (x - low) / np.maximum(x.max(axis=1, keepdims=True) - low, 1e-9)


CHANGES: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "true mV": lambda x: x,
    "x 5": lambda x: x * 5,
    "/ 5": lambda x: x / 5,
    "standardized": standardized,
    "0..1": to_one,
}


def records_of(path: Path, most: int) -> list[ECGRecord]:
    """Read up to so many records of a packed file, spread over it."""
    packed = read_packed(path)
    rows = np.unique(np.linspace(0, len(packed) - 1, most).astype(int))
    if isinstance(packed.records, np.ndarray):
        assert packed.sampling_rate is not None
        assert packed.leads is not None
        return [ECGRecord(packed.records[row], packed.sampling_rate, packed.leads) for row in rows]
    return [packed.records[row] for row in rows]


def look(records: Sequence[ECGRecord], change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> list[Screening]:
    """Screen records, leaving out those that are refused."""
    found = []
    for record in records:
        try:
            changed = ECGRecord(change(record.signal), record.sampling_rate, record.leads)
            found.append(screen(changed, SPEC, Policies(), "it"))
        except InputError:
            continue
    return found


def is_alarmed(batch: Sequence[Screening]) -> bool:
    """Return whether a call with these records emits a UnitsWarning."""
    if any(not NOTES.isdisjoint(screening.notes) for screening in batch):
        return True
    return judge_units([s.amplitude for s in batch if s.amplitude is not None], SPEC) is not None


def main() -> None:
    """Print the share of batches that are warned of, by file, size and change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batches", type=int, default=300, help="of each size")
    parser.add_argument("--records", type=int, default=1000, help="of each file")
    given = parser.parse_args()
    total: dict[tuple[str, int], list[bool]] = {}
    for path in sorted(given.folder.glob("*.npz")):
        if str(np.load(path)["units"]) == STANDARDIZED:
            continue
        records = records_of(path, given.records)
        for name, change in CHANGES.items():
            screenings, random = look(records, change), np.random.default_rng(0)
            shares = []
            for size in SIZES:
                n_batches = given.batches if len(screenings) > size else 1
                draws = [random.permutation(len(screenings))[:size] for _ in range(n_batches)]
                alarms = [is_alarmed([screenings[row] for row in rows]) for rows in draws]
                total.setdefault((name, size), []).extend(alarms)
                shares.append(f"{np.mean(alarms):.4f}" if len(screenings) >= size else "     -")
            print(f"{path.stem:32} {name:13}", *shares, flush=True)
    for name in CHANGES:
        print(f"{'all':32} {name:13}", *[f"{np.mean(total[name, size]):.4f}" for size in SIZES])
        every = [alarm for size in SIZES for alarm in total[name, size]]
        print(f"{'':32} {name:13} {sum(every)} of {len(every)} batches")


if __name__ == "__main__":
    main()
