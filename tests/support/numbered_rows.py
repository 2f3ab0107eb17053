"""Rows that are known by their number, for the tests of the caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skecg.embedding_cache import (
    DiskCache,
    MemoryCache,
)
from skecg.embedding_cache.sqlite import DATABASE_NAME

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES = 32
ROW_BYTES = KEY_BYTES + 4 * 8


def key(number: int) -> bytes:
    return number.to_bytes(KEY_BYTES, "big")


def row(number: int) -> np.ndarray:
    return np.full(8, number, dtype=np.float32)


def rows(*numbers: int) -> dict[bytes, np.ndarray]:
    return {key(number): row(number) for number in numbers}


def held(cache: MemoryCache | DiskCache, among: int = 100) -> list[int]:
    """Which numbers a cache holds, each with the right row; asks a fresh object, so that nothing counts as used."""
    probe = DiskCache(cache.folder) if isinstance(cache, DiskCache) else cache
    found = probe.get([key(number) for number in range(among)])
    for name, array in found.items():
        np.testing.assert_array_equal(array, row(int.from_bytes(name, "big")))
    if probe is not cache:
        probe._uses_ns.clear()
    return sorted(int.from_bytes(name, "big") for name in found)


def database_of(cache: DiskCache) -> Path:
    return cache.folder / DATABASE_NAME


def set_aside_files(cache: DiskCache) -> list[Path]:
    return sorted(cache.folder.glob("*.damaged-*"))
