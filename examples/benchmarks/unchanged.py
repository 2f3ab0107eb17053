"""Whether a change left every number and every public name where it was.

Run ``python examples/benchmarks/unchanged.py record FOLDER`` before a change and ``compare FOLDER`` after it, from the
root of the checkout with ``PYTHONPATH=.``; ``--part NAME`` (again) does a part of it, and records only that part anew.
Numbers have to be equal bit for bit on one machine. ``--tolerance 2e-6`` is for changes of arithmetic: it lets features
and tokens differ by so much. What moved is named, and the exit code is then 1; names that are new are no harm.

The parts are ``features`` (bundled models), ``encoders`` (the other architectures, with seeded weights), one
``losses-RECIPE`` for each of five recipes (the first steps), ``evaluate`` (the report of the command), ``fitted`` (the
estimators that train), ``probes`` (LogisticProbe alone), ``formats`` (files that were written when recorded are read
again, and a run goes on), and ``names``. What they hold stands in ``unchanged_parts.py``.

Only public names and the two command lines are used, so that the script outlives files that move. All is computed in
one thread. Subprocesses run the code of this checkout.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from unchanged_parts import FORMATS, PARTS, Found, Place

import skecg

#: Parts that may differ by the tolerance.
TOLERANT = ("features", "encoders")


def find(part: str, out: Path, n_records: int) -> tuple[Found, float]:
    """Compute a part in one thread, and say how many seconds it took."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        found = PARTS[part](Place(out, Path(scratch), n_records))
    return found, time.perf_counter() - begun


def load(out: Path) -> tuple[Found, dict[str, Any]]:
    """Read what was recorded, by ``part/key``, and what is known of the recording."""
    about = json.loads((out / "unchanged.json").read_text(encoding="utf-8"))
    with np.load(out / "unchanged.npz") as arrays:
        return {**arrays, **about["names"]}, about


def save(out: Path, found: Found, about: dict[str, Any]) -> None:
    """Write arrays as .npz and everything else as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {key: value for key, value in found.items() if isinstance(value, np.ndarray)}
    np.savez_compressed(out / "unchanged.npz", **arrays)
    about["names"] = {key: value for key, value in found.items() if not isinstance(value, np.ndarray)}
    (out / "unchanged.json").write_text(json.dumps(about, indent=1, sort_keys=True), encoding="utf-8")


def record(out: Path, parts: list[str], n_records: int | None) -> int:
    """Write down parts, in place of what was recorded of them before."""
    known, about = load(out) if (out / "unchanged.json").is_file() else ({}, {"seconds": {}})
    about |= {"n_records": n_records or about.get("n_records", 64), "versions": versions()}
    if FORMATS in parts:
        shutil.rmtree(out / FORMATS, ignore_errors=True)  # where they lie, they are read instead of written
    for part in parts:
        found, seconds = find(part, out, about["n_records"])
        known = {key: value for key, value in known.items() if not key.startswith(f"{part}/")}
        known |= {f"{part}/{key}": value for key, value in found.items()}
        about["seconds"][part] = round(seconds, 1)
        save(out, known, about)
        print(f"{part:<32}{len(found):>6} entries {seconds:>7.1f} s", flush=True)
    return 0


def versions() -> dict[str, str]:
    packages = {"numpy": np.__version__, "torch": torch.__version__, "skecg": skecg.__version__}
    return packages | {"python": platform.python_version(), "machine": platform.machine()}


def compare(out: Path, parts: list[str], tolerance: float) -> int:
    """Compute parts anew, print what moved, and return 1 when something did."""
    known, about = load(out)
    if about["versions"] != versions():
        print(f"recorded with {about['versions']}, now {versions()}: the last digits may differ for that")
    moved = 0
    for part in parts:
        before = {key.partition("/")[2]: value for key, value in known.items() if key.startswith(f"{part}/")}
        if not before:
            sys.exit(f"{out} holds nothing of {part!r}. Run: record {out} --part {part}")
        found, seconds = find(part, out, about["n_records"])
        faults, notes, largest = differences(before, found, tolerance if part in TOLERANT else 0.0)
        verdict = "moved" if faults else "bit-equal" if largest == 0 else f"within {tolerance:g}"
        print(f"{part:<32}{len(before):>6} entries {seconds:>7.1f} s  {verdict}, largest difference {largest:.3g}")
        for line in [*faults, *notes]:
            print(f"    {line}")
        sys.stdout.flush()
        moved += bool(faults)
    return int(moved > 0)


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], tolerance: float
) -> tuple[list[str], list[str], float]:
    """List what moved and what is new, with the largest difference of numbers."""
    faults = [f"{key}: missing" for key in before if key not in now]
    notes = [f"{key}: new" for key in now if key not in before]
    largest = 0.0
    for key in before.keys() & now.keys():
        if isinstance(before[key], np.ndarray):
            gap = largest_gap(before[key], np.asarray(now[key]))
            largest = max(largest, gap)
            faults += [f"{key}: off by {gap:.3g}"] if gap > tolerance else []
        else:
            lost, gained = set(before[key]) - set(now[key]), set(now[key]) - set(before[key])
            faults += [f"{name}: missing" for name in sorted(lost)]
            notes += [f"{name}: new" for name in sorted(gained)]
    return sorted(faults), sorted(notes), largest


def largest_gap(before: NDArray[Any], now: NDArray[Any]) -> float:
    """Return the largest difference: 0 only for the same bits, infinity for another shape, type or word."""
    if before.dtype.kind != now.dtype.kind or before.shape != now.shape:
        return float("inf")
    if before.dtype.kind not in "fiu":
        return 0.0 if np.array_equal(before, now) else float("inf")
    if before.dtype == now.dtype and before.tobytes() == now.tobytes():
        return 0.0
    if before.dtype != now.dtype or not np.array_equal(np.isnan(before), np.isnan(now)):
        return float("inf")
    gap = float(np.nanmax(np.abs(before.astype(np.float64) - now.astype(np.float64)), initial=0.0))
    return gap or float(np.finfo(np.float32).tiny)  # zeros of the other sign


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=("record", "compare"))
    parser.add_argument("out", type=Path, help="folder of what was recorded")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="one of the parts; again (default: all)")
    parser.add_argument("--tolerance", type=float, default=0.0, help="that features and tokens may differ by")
    parser.add_argument("--records", type=int, help="that are embedded, when recording (default: 64, or as before)")
    given = parser.parse_args(arguments)
    out = given.out.resolve()
    parts = given.part or list(PARTS)
    print(f"skecg of {Path(skecg.__file__).parent}")
    if given.verb == "record":
        return record(out, parts, given.records)
    return compare(out, parts, given.tolerance)


if __name__ == "__main__":
    sys.exit(main())
