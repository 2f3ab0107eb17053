"""The SQLite file under a DiskCache: made, checked, set aside when damaged, its rows written and read.

What goes wrong is put into words here, too.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import sqlite3
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skecg.embedding_cache.base import blob_of
from skecg.errors import CacheError, CacheUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "DamagedStoreError",
    "Row",
    "Trouble",
    "array_of",
    "check_structure",
    "count",
    "identity_of",
    "is_damage",
    "is_sound",
    "note_uses",
    "open_database",
    "read",
    "remove",
    "row_of",
    "set_aside",
    "shrink",
    "tidy",
    "transaction",
    "worded",
    "write",
]

#: Written into the file's header, with which a file of somebody else's is told from ours.
APPLICATION_ID = 0x534B4543  # "SKEC"

#: Raise it, and the number in DATABASE_NAME with it, when the schema changes: old and new then live side by side.
SCHEMA_VERSION = 1

DATABASE_NAME = f"embeddings-v{SCHEMA_VERSION}.sqlite"

# Blobs only, no text: a damaged row must reach our checksum and not fail in a decoder. last_used is in nanoseconds.
_SCHEMA = (
    "CREATE TABLE embeddings (key BLOB PRIMARY KEY, shape BLOB NOT NULL, value BLOB NOT NULL, checksum BLOB NOT NULL, "
    "bytes INTEGER NOT NULL, last_used INTEGER NOT NULL)",
    # Holds all that bounding by size or age needs, so that neither has to read the values.
    "CREATE INDEX by_age ON embeddings (last_used, bytes)",
)

_SIDECARS = ("-wal", "-shm")

_PAGE_BYTES = 16_384

_BUSY_SECONDS = 60.0

_DAMAGE = {
    sqlite3.SQLITE_ERROR,  # a table or column is missing
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FORMAT,
}

#: What using a file of unknown state may raise; SQLite quotes damaged names in messages that Python cannot decode.
Trouble = sqlite3.Error | OSError | UnicodeDecodeError

_EMPTY = (0, 0, frozenset[bytes]())

_OURS = (APPLICATION_ID, SCHEMA_VERSION, frozenset(statement.encode() for statement in _SCHEMA))

# SQLite before 3.32 took no more than 999 parameters in a statement.
_KEYS_PER_QUERY = 500

_CHECKSUM_BYTES = 16


class DamagedStoreError(sqlite3.DatabaseError):
    """The file is a sound database, but not one of ours, or not of this version."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the store, making folder and file where absent, for this user's eyes only.

    The connection may be handed from thread to thread under a lock. Damage shows as an ``sqlite3.Error`` for which
    :func:`is_damage` is true.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(path.parent)
    # SQLite gives its side files the mode of the database, so making that one first settles all of them.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    _check_private(path)
    # Transactions are begun by hand, and the store's lock, not SQLite's check, keeps threads apart.
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = bytes
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_private(path: Path) -> None:
    """Raise for a folder or a file that others may write to: what they put there would be taken for embeddings."""
    # Elsewhere the bits of the mode say nothing of who may write.
    if os.name != "posix":
        return
    status = path.stat()
    others = "others" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""
    if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        others = "its owner, another user,"
    if others:
        raise CacheError(
            f"Got {path}, which {others} may write to, expected a place of your own: embeddings found there would be "
            f"believed. Run `chmod go-w {shlex.quote(str(path))}` if nobody else has, or pass cache= (or set "
            "SKECG_CACHE to) another folder."
        )


def _prepare(connection: sqlite3.Connection) -> None:
    """Create the schema in an empty file, or check that it is there, and switch to a write-ahead log."""
    # Before the first table, or it has no effect.
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    if _fingerprint(connection) == _EMPTY:
        with transaction(connection):
            if _fingerprint(connection) == _EMPTY:  # no other process was faster
                _create(connection)
    if _fingerprint(connection) != _OURS:
        raise DamagedStoreError("it has another schema or version")
    # Losing the last transactions in a power cut costs some embeddings, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    with contextlib.suppress(sqlite3.OperationalError):  # in use by others just now: they, or a later opening, switch
        connection.execute("PRAGMA journal_mode = WAL")


def _create(connection: sqlite3.Connection) -> None:
    """Write schema and marks into an empty file."""
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _fingerprint(connection: sqlite3.Connection) -> tuple[int, int, frozenset[bytes]]:
    """Whose database this is, which version, and what its tables look like."""
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return application_id, version, frozenset(sql for (sql,) in tables)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, with the right to write from the start."""
    try:
        # The lock to write is taken at once: a transaction that begins by reading cannot always get it later. An
        # interrupt that came while it was waited for shows when it has been got.
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors (disk full), and answers a second rollback with an error.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def identity_of(path: Path) -> tuple[int, int] | None:
    """Report whether a path still names the same file: device and inode, None when there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    # By number and not by name: a name stays when the file behind it is another.
    return status.st_dev, status.st_ino


def _is_folder(path: Path) -> bool:
    """Check for a folder; one that lies where this user may not look is none, where ``Path.is_dir`` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def is_damage(error: Trouble, path: Path) -> bool:
    """Report a file that cannot be trusted from one that cannot be reached."""
    if isinstance(error, OSError):
        return _is_folder(path)
    if isinstance(error, DamagedStoreError | UnicodeDecodeError):
        return True
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    if extended & 0xFF == sqlite3.SQLITE_READONLY:
        # A header that asks for a newer SQLite makes a file read-only that its permissions do not.
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return extended == sqlite3.SQLITE_IOERR_SHORT_READ or extended & 0xFF in _DAMAGE


def check_structure(connection: sqlite3.Connection) -> None:
    """Read the whole file, and raise when its tables and indexes do not agree."""
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != b"ok":
        raise DamagedStoreError("its tables and indexes do not agree")


def set_aside(path: Path) -> Path:
    """Rename a database and its side files to the first free ``*.damaged-<n>`` and give that name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    # The log goes first: beside a new database it would be taken for that one's.
    for ending in (*_SIDECARS, ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    return aside


def is_full(error: BaseException | None) -> bool:
    """Report that the disk had no room left."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC


def worded(error: Trouble, path: Path) -> CacheError:
    """Return what is the matter with the store and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind: type[CacheError] = CacheUnavailableError
    if is_full(error):
        advice = "The disk is full: free some space, run clear() (skecg cache clear), or use cache='memory'."
    elif code == sqlite3.SQLITE_BUSY:
        advice = f"Another process kept it busy for {_BUSY_SECONDS:.0f} s: let it finish, or name another folder."
    elif any(os.path.exists(folder) and not _is_folder(folder) for folder in path.parents):  # noqa: PTH110
        kind = CacheError
        advice = "There is a file where the folder should be: pass cache= (or set SKECG_CACHE to) another folder."
    else:
        advice = (
            "Check that you may write there and that the disk works, pass cache= (or set SKECG_CACHE to) another "
            "folder, or use cache='memory'."
        )
    return kind(f"Got {error} at {path}, expected an embedding store that can be read and written. {advice}")


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
    """Return the array of a sound row, read-only."""
    shape = tuple(map(int, row.shape.split(b","))) if row.shape else ()
    array = np.frombuffer(row.value, "<f4").astype(np.float32, copy=False).reshape(shape)
    array.setflags(write=False)
    return array


def is_sound(row: Row) -> bool:
    """Report whether a row is what was written."""
    # SQLite's columns hold any type, whatever they were declared as.
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
    """Return the number of rows and of their bytes."""
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
    """Return deleted rows' space back to the disk and wipe what they held, unless others keep the file busy."""
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
