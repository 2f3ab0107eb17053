"""Corpora of a few recordings, laid out as the published ones are."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS, derivation_matrix

TO_TWELVE = derivation_matrix(EIGHT_LEADS, CANONICAL_LEADS)[0]


def heart(seed: int, seconds: float = 10.0, rate: float = 500.0) -> NDArray[np.float32]:
    """Twelve leads (12, n_samples) in mV that obey Einthoven's law, in whole even microvolts."""
    times = np.arange(round(seconds * rate)) / rate
    random = np.random.default_rng(seed)
    frequencies, phases = random.uniform(0.7, 9, (8, 3)), random.uniform(0, 6, (8, 3))
    eight = np.sin(2 * np.pi * frequencies[..., None] * times + phases[..., None]).sum(axis=1) * 0.3
    return np.asarray(TO_TWELVE @ (np.rint(eight * 250) * 4e-3), dtype=np.float32)


def write_wfdb(path: Path, signal: NDArray[np.float32], rate: float, leads: Sequence[str] = CANONICAL_LEADS) -> None:
    """Write a record of format 16 with steps of a microvolt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.rint(signal * 1000).astype("<i2").T.tofile(path.with_suffix(".dat"))
    lines = [f"{path.name} {len(signal)} {rate:g} {signal.shape[1]}"]
    lines += [f"{path.name}.dat 16 1000(0)/mV 16 0 0 0 0 {lead}" for lead in leads]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_arrays(path: Path, n_records: int = 6, *, rate: float = 250.0, seconds: float = 10.0, **more: Any) -> Path:
    """Write a packed array with steps of a microvolt, and further keys."""
    signals = np.stack([heart(seed, seconds, rate) for seed in range(n_records)])
    content: dict[str, Any] = {
        "signals": np.rint(signals * 1000).astype(np.int16),
        "lsb": 0.001,
        "units": "mV",
        "fs": rate,
        "leads": np.array(CANONICAL_LEADS),
        "record_ids": np.array([f"r{seed}" for seed in range(n_records)]),
    }
    np.savez(path, allow_pickle=False, **(content | more))
    return path
