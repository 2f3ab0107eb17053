"""Embeddings as rows of the store: written, read, checked, counted, removed."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skecg.embedding_cache.contract import blob_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Row", "array_of", "count", "is_sound", "note_uses", "read", "remove", "row_of", "shrink", "tidy", "write"]

# SQLite before 3.32 took no more than 999 parameters in a statement.
_KEYS_PER_QUERY = 500
_CHECKSUM_BYTES = 16


class Row(NamedTuple):
    """One stored embedding. What comes out of a damaged file may be of other types than these."""

    key: bytes
    shape: bytes
    value: bytes
    checksum: bytes

    @property
    def size(self) -> int:
        """Bytes that the row counts for; the key is counted so that empty arrays are bounded too."""
        return len(self.key) + len(self.value)


def row_of(key: bytes, array: NDArray[np.float32]) -> Row:
    """Write an array as a row: its shape as text, its values as little-endian float32."""
    value = blob_of(key, array)
    shape = ",".join(map(str, array.shape)).encode()
    return Row(key, shape, value, _checksum(key, shape, value))


def array_of(row: Row) -> NDArray[np.float32]:
    """Give the array of a sound row, read-only."""
    shape = tuple(map(int, row.shape.split(b","))) if row.shape else ()
    array = np.frombuffer(row.value, "<f4").astype(np.float32, copy=False).reshape(shape)
    array.setflags(write=False)
    return array


def is_sound(row: Row) -> bool:
    """Tell whether a row is what was written."""
    return all(isinstance(part, bytes) for part in row) and _checksum(row.key, row.shape, row.value) == row.checksum


def _checksum(key: bytes, shape: bytes, value: bytes) -> bytes:
    """Digest a row; the key is part of it, so that no value can answer for another."""
    head = b"%d,%d," % (len(key), len(shape)) + key + shape
    digest = hashlib.sha256(head)
    digest.update(value)
    return digest.digest()[:_CHECKSUM_BYTES]


def read(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[Row]:
    """Fetch the rows of some keys, unchecked."""
    rows: list[Any] = []
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        some = keys[start : start + _KEYS_PER_QUERY]
        marks = ",".join("?" * len(some))
        query = f"SELECT key, shape, value, checksum FROM embeddings WHERE key IN ({marks})"
        rows += connection.execute(query, some).fetchall()
    return [Row(*row) for row in rows]


def write(connection: sqlite3.Connection, rows: Iterable[Row], now_ns: int) -> None:
    """Store rows, in place of what their keys had."""
    connection.executemany(
        "INSERT OR REPLACE INTO embeddings (key, shape, value, checksum, bytes, last_used) VALUES (?, ?, ?, ?, ?, ?)",
        ((*row, row.size, now_ns) for row in rows),
    )


def note_uses(connection: sqlite3.Connection, uses_ns: Mapping[bytes, int]) -> None:
    """Write down when keys were last used."""
    connection.executemany(
        "UPDATE embeddings SET last_used = ? WHERE key = ? AND last_used < ?",
        ((used, key, used) for key, used in uses_ns.items()),
    )


def count(connection: sqlite3.Connection) -> tuple[int, int]:
    """Give the number of rows and of their bytes."""
    entries, total = connection.execute("SELECT count(*), total(bytes) FROM embeddings").fetchone()
    return int(entries), int(total)


def remove(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Delete rows, unless somebody has meanwhile written other ones under their keys."""
    keys = [(row.key, row.checksum) for row in rows]
    connection.executemany("DELETE FROM embeddings WHERE key IS ? AND checksum IS ?", keys)


def shrink(connection: sqlite3.Connection, max_bytes: int) -> int:
    """Delete what was used least recently until the rest fits, and say how many rows that were."""
    excess = count(connection)[1] - max_bytes
    doomed = []
    if excess > 0:
        oldest_first = "SELECT rowid, CAST(bytes AS INTEGER) FROM embeddings ORDER BY last_used, rowid"
        with contextlib.closing(connection.execute(oldest_first)) as rows:
            for rowid, size in rows:
                doomed.append((rowid,))
                excess -= size or 0
                if excess <= 0:
                    break
        connection.executemany("DELETE FROM embeddings WHERE rowid = ?", doomed)
    return len(doomed)


def tidy(connection: sqlite3.Connection) -> None:
    """Give deleted rows' space back to the disk and wipe what they held, unless others keep the file busy."""
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
