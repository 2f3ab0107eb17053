"""Small WFDB records, written by hand so that every byte of them is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.io.wfdb import import_wfdb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def random_steps(n_samples: int, n_signals: int, bits: int = 12, seed: int = 0) -> np.ndarray:
    """Steps of a digitizer over its whole range, its code for "no value" among them; shape (n_samples, n_signals)."""
    return np.random.default_rng(seed).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n_samples, n_signals))


def pack(steps: np.ndarray, storage: str) -> bytes:
    """The bytes of a signal file: formats 16, 16+24 (a MATLAB file) and 212."""
    flat = steps.ravel()
    if storage == "16":
        return flat.astype("<i2").tobytes()
    if storage == "16+24":
        head = np.array([0x1E, steps.shape[1], steps.shape[0], 0, 4], dtype="<i4").tobytes() + b"val\0"
        return head + flat.astype("<i2").tobytes()
    pairs = np.append(flat, np.zeros(len(flat) % 2, dtype=int)).reshape(-1, 2) & 0xFFF
    triplets = np.stack([pairs[:, 0] & 0xFF, pairs[:, 0] >> 8 | pairs[:, 1] >> 8 << 4, pairs[:, 1] & 0xFF], axis=1)
    return triplets.astype(np.uint8).tobytes()[: -(-len(flat) * 3 // 2)]


def write_wfdb(
    folder: Path,
    name: str = "rec",
    steps: np.ndarray | None = None,
    storage: str = "16",
    scales: Sequence[str] = ("1000/mV",),
    leads: Sequence[str] = LEADS,
    first_line: str | None = None,
) -> Path:
    """Write a header and its signal file; `scales` are gains, baselines and units as headers write them."""
    steps = random_steps(100, 2) if steps is None else steps
    n_samples, n_signals = steps.shape
    file_name = f"{name}.mat" if storage == "16+24" else f"{name}.dat"
    (folder / file_name).write_bytes(pack(steps, storage))
    lines = [first_line or f"{name} {n_signals} 500 {n_samples}"]
    for column in range(n_signals):
        scale = scales[column % len(scales)]
        lines.append(f"{file_name} {storage} {scale} 16 0 {steps[0, column]} 0 0 {leads[column]}")
    (folder / f"{name}.hea").write_text("\n".join([*lines, "# a comment"]) + "\n", encoding="utf-8")
    return folder / f"{name}.hea"


def edit(header: Path, old: str, new: str) -> Path:
    """Replace text in a header that must be there."""
    text = header.read_text(encoding="utf-8")
    assert old in text
    header.write_text(text.replace(old, new), encoding="utf-8", newline="")
    return header


def wfdb_millivolts(header: Path, **how: Any) -> np.ndarray:
    """The answer of wfdb, all signals, shape (n_signals, n_samples): float64, scaled to mV, rounded once to float32."""
    record = import_wfdb().rdrecord(str(header.with_suffix("")), **how)
    factors = [{"v": 1e3, "uv": 1e-3, "nv": 1e-6}.get(unit.lower(), 1.0) for unit in record.units]
    with np.errstate(invalid="ignore"):
        return np.float32(record.p_signal * factors).T


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal to the bit, NaN beside NaN."""
    return ours.dtype == theirs.dtype == np.float32 and np.array_equal(ours, theirs, equal_nan=True)
