"""DiskCache: embeddings that outlive the process, shared by all processes of a machine.

Beneath it is the one connection of this process to a store: opened when needed, reopened when moved, begun anew when
damaged.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sqlite3
import threading
import time
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skecg.embedding_cache import sqlite
from skecg.embedding_cache.base import CacheInfo, as_max_bytes, check_prune, guard_across_fork
from skecg.errors import CacheError, CacheWarning, ParameterError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DiskCache", "Store", "shared_disk_cache"]

Answer = TypeVar("Answer")

_ATTEMPTS = 3

_NS_PER_DAY = 86_400 * 10**9

# Uses are remembered, and written this often and with every put: reading then costs no writing.
_NOTE_EVERY_NS = 60 * 10**9

_living: weakref.WeakSet[DiskCache] = weakref.WeakSet()

# Clones and unpickled copies share a connection, and so its lock and counts.
_shared: dict[tuple[str, int | None], DiskCache] = {}


class Store:
    """A database file that operations can be run on, whatever happens to the file.

    One connection serves all threads, under a lock: statements are short, and threads that end leave nothing open.

    Parameters
    ----------
    path : Path
        The file; it and its folder are made when first needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        guard_across_fork(self)

    def run(self, operation: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Run an operation; when the file proves damaged, set it aside and run the operation on a new one.

        Raises
        ------
        CacheError
            When the store cannot be used.
        """
        with self.lock:
            for _ in range(_ATTEMPTS):
                try:
                    return operation(self._connected())
                except CacheError:
                    self._disconnect()
                    raise
                except (sqlite3.Error, OSError, UnicodeDecodeError) as caught:
                    self._disconnect()
                    error = caught
                except BaseException:  # an interrupt, after which the connection may be in the middle of anything
                    self._disconnect()
                    raise
                # Only damage is worth another attempt, on a new file; a full disk would be full again.
                if not sqlite.is_damage(error, self.path):
                    break
                self._set_aside(error)
            raise sqlite.worded(error, self.path) from error

    def close(self) -> None:
        """Close the file; the next operation opens it again."""
        with self.lock:
            self._disconnect()

    def before_fork(self) -> None:
        """Keep other threads out and the file closed while the process forks: SQLite must not be inherited."""
        self.lock.acquire()
        self._disconnect()

    def after_fork(self) -> None:
        """Unlock what was locked before the fork."""
        self.lock.release()

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._connection is not None

    def _connected(self) -> sqlite3.Connection:
        """Return the open connection, opening the file anew when another one has taken its place."""
        identity = sqlite.identity_of(self.path)
        # Another process may have set the file aside: a connection would go on writing to the renamed one.
        if self._connection is None or identity != self._identity:
            self._disconnect()
            self._identity = identity
            self._connection = sqlite.open_database(self.path)
            self._identity = sqlite.identity_of(self.path)
        return self._connection

    def _disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _set_aside(self, error: sqlite.Trouble) -> None:
        """Rename the damaged file, unless another process has done so and begun a new one."""
        # Another process was faster, and what lies there now is its new store.
        if sqlite.identity_of(self.path) != self._identity:
            return
        try:
            aside = sqlite.set_aside(self.path)
        except OSError as denied:
            raise sqlite.worded(denied, self.path) from error
        warnings.warn(
            f"The embedding store {self.path} was damaged ({error}); it was renamed to {aside.name} and begun anew. "
            "Nothing is lost but time: embeddings are computed again. Delete the renamed file, or call clear().",
            CacheWarning,
            stacklevel=4,
        )


class DiskCache:
    """Embeddings in an SQLite file, for any number of threads and processes of one machine.

    Embeddings of patients are personal data: the folder is made for its owner only (0700), the files too (0600).
    Every row carries a checksum; rows that fail it are dropped and count as misses, a file that is damaged is renamed
    ``*.damaged-<n>`` and begun anew, each with one :class:`~skecg.errors.CacheWarning`. Nothing is ever unpickled.
    The folder should lie on a local disk: SQLite's write-ahead log does not work over a network.

    Copies and scikit-learn clones of a cache are the cache itself; it pickles as its folder and bound. Nothing is
    opened or made before the first use.

    Parameters
    ----------
    folder : str or path
        Where the store lies; made when absent.
    max_bytes : int, optional
        Bound on the bytes of keys and values together; the least recently used make room. None for no bound.

    Raises
    ------
    ParameterError
        When `folder` is not a path or `max_bytes` not a whole number of bytes.
    CacheError
        On use: when the folder is not one, or others may write to it.
    CacheUnavailableError
        On use: when it cannot be written, or its disk is full. What embeds goes on without the store then.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self.folder = _as_folder(folder)
        self.max_bytes = as_max_bytes(max_bytes)
        self._store = Store(self.folder / sqlite.DATABASE_NAME)
        self._uses_ns: dict[bytes, int] = {}
        self._noted_ns = time.time_ns()
        self._hits = self._misses = 0
        _living.add(self)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the arrays that are there.

        Parameters
        ----------
        keys : sequence of bytes

        Returns
        -------
        dict of bytes to ndarray of float32
            Read-only arrays; absent keys are absent, and so are rows that fail their checksum.

        Raises
        ------
        CacheError
            When the store cannot be used.
        """
        if not keys:
            return {}
        found = self._store.run(lambda connection: sqlite.read(connection, list(dict.fromkeys(keys))))
        sound = {row.key: sqlite.array_of(row) for row in found if sqlite.is_sound(row)}
        self._count(sum(key in sound for key in keys), len(keys))
        self._note(sound)
        if len(sound) < len(found):
            self._drop([row for row in found if not sqlite.is_sound(row)])
        return sound

    def put(self, items: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Store arrays; an array larger than the whole cache is not kept.

        Parameters
        ----------
        items : mapping of bytes to ndarray of float32

        Raises
        ------
        ParameterError
            When a key is not bytes or a value not a float32 array.
        CacheError
            When the store cannot be used.
        """
        new = [sqlite.row_of(key, array) for key, array in items.items()]
        if self.max_bytes is not None:
            # One that can never fit would push all others out before it goes itself.
            new = [row for row in new if row.size <= self.max_bytes]
        if new:
            self._store.run(lambda connection: self._write(connection, new))

    def info(self) -> CacheInfo:
        """Return what is held, by all processes together, and how often this object found it."""
        entries, n_bytes = self._store.run(sqlite.count)
        return CacheInfo(str(self.folder), entries, n_bytes, self.max_bytes, self._hits, self._misses)

    def clear(self) -> None:
        """Forget everything, damaged files that were set aside included; the counts of hits and misses stay."""
        try:
            self._remove("DELETE FROM embeddings")
        except CacheError as error:
            if not sqlite.is_full(error.__cause__):
                raise
            # Deleting rows takes room. The file goes whole, as a damaged one does, which other processes notice.
            self._store.close()
            sqlite.set_aside(self._store.path)
        for path in self.folder.glob(f"{sqlite.DATABASE_NAME}.damaged-*"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    def prune(self, *, max_bytes: int | None = None, older_than_days: float | None = None) -> int:
        """Forget what was used least recently, and give the space back to the disk.

        Parameters
        ----------
        max_bytes : int, optional
            Forget the oldest until the rest takes no more than this.
        older_than_days : float, optional
            Forget what was last used longer ago than this.

        Returns
        -------
        int
            Number of arrays forgotten.

        Raises
        ------
        ParameterError
            When neither is given, or one is not a number of zero or more.
        CacheError
            When the store cannot be used.
        """
        bound, age_days = check_prune(max_bytes, older_than_days)
        self._write_uses()
        removed = 0
        if age_days is not None:
            now_ns = time.time_ns()
            # Nothing is older than the clock, and the database holds no larger number.
            oldest_ns = now_ns - int(min(age_days * _NS_PER_DAY, now_ns))
            removed += self._remove("DELETE FROM embeddings WHERE last_used < ?", oldest_ns)
        if bound is not None:
            removed += self._store.run(lambda connection: _shrink(connection, bound))
        return removed

    def close(self) -> None:
        """Write down the latest uses and close the file; the next use opens it again."""
        with self._store.lock:
            if self._store.is_open:
                with contextlib.suppress(CacheError, CacheWarning):
                    self._write_uses()
                self._store.close()

    def _write(self, connection: sqlite3.Connection, new: Sequence[sqlite.Row]) -> None:
        """Store rows and what was used since the last time, and make room."""
        with sqlite.transaction(connection):
            sqlite.note_uses(connection, self._uses_ns)
            sqlite.write(connection, new, time.time_ns())
            if self.max_bytes is not None:
                sqlite.shrink(connection, self.max_bytes)
        self._uses_noted()

    def _count(self, hits: int, asked: int) -> None:
        """Count hits and misses."""
        with self._store.lock:
            self._hits += hits
            self._misses += asked - hits

    def _note(self, keys: Mapping[bytes, object]) -> None:
        """Remember that keys were used, and write it down when that has not been done for a while."""
        now_ns = time.time_ns()
        with self._store.lock:
            self._uses_ns.update(dict.fromkeys(keys, now_ns))
            if now_ns - self._noted_ns > _NOTE_EVERY_NS:
                with contextlib.suppress(CacheError):  # the answer is there; when it was used is worth no failure
                    self._write_uses()

    def _write_uses(self) -> None:
        """Write down when keys were last used."""
        with self._store.lock:
            if self._uses_ns:
                self._store.run(lambda connection: _note_uses(connection, self._uses_ns))
                self._uses_noted()

    def _uses_noted(self) -> None:
        """Start a new list of uses."""
        self._uses_ns.clear()
        self._noted_ns = time.time_ns()

    def _drop(self, damaged: Sequence[sqlite.Row]) -> None:
        """Delete damaged rows and say so; where rows are damaged, the rest of the file is looked at too."""
        self._store.run(lambda connection: _drop(connection, damaged))
        warnings.warn(
            f"{len(damaged)} embeddings in {self._store.path} failed their checksum and were dropped; they are "
            "computed again. If this comes back, check the disk.",
            CacheWarning,
            stacklevel=3,
        )

    def _remove(self, statement: str, *parameters: int) -> int:
        """Delete rows by a statement, wipe them from the disk, and say how many they were."""

        def remove(connection: sqlite3.Connection) -> int:
            removed = connection.execute(statement, parameters).rowcount
            sqlite.tidy(connection)
            return removed

        return self._store.run(remove)

    def __copy__(self) -> DiskCache:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> DiskCache:
        return self

    def __reduce__(self) -> tuple[Callable[..., DiskCache], tuple[str, int | None]]:
        return shared_disk_cache, (str(self.folder), self.max_bytes)

    def __repr__(self) -> str:
        return f"DiskCache({str(self.folder)!r}, max_bytes={self.max_bytes})"

    def __del__(self) -> None:
        # Absent where the constructor raised.
        if hasattr(self, "_uses_ns"):
            self.close()


def shared_disk_cache(folder: str | os.PathLike[str], max_bytes: int | None = None) -> DiskCache:
    """Return the one DiskCache of this process for a folder and a bound."""
    cache = DiskCache(folder, max_bytes)
    # Atomic, where a look-up and a later assignment would let two threads make one each.
    return _shared.setdefault((str(cache.folder), cache.max_bytes), cache)


def _as_folder(folder: Any) -> Path:
    """Check a path and make it absolute, so that it stays the same when the working directory changes."""
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise ParameterError(f"Got folder={folder!r}, expected the path of a folder.")
    path = Path(folder).expanduser().absolute()
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # whoever uses it says so
    except (OSError, ValueError) as error:  # too long a name, or one with a zero
        raise ParameterError(
            f"Got {str(folder)[:80]!r} as the folder of a cache, which no folder can be called ({error})."
        ) from error
    return path


def _note_uses(connection: sqlite3.Connection, uses_ns: Mapping[bytes, int]) -> None:
    """Write down uses in one transaction."""
    with sqlite.transaction(connection):
        sqlite.note_uses(connection, uses_ns)


def _drop(connection: sqlite3.Connection, damaged: Sequence[sqlite.Row]) -> None:
    """Delete damaged rows, and raise when more than they is wrong."""
    sqlite.remove(connection, damaged)
    sqlite.check_structure(connection)


def _shrink(connection: sqlite3.Connection, max_bytes: int) -> int:
    """Delete the oldest rows beyond a bound and wipe them from the disk."""
    with sqlite.transaction(connection):
        removed = sqlite.shrink(connection, max_bytes)
    sqlite.tidy(connection)
    return removed


@atexit.register
def _close_all() -> None:
    """Leave no log behind when the process ends."""
    for cache in list(_living):
        cache.close()
