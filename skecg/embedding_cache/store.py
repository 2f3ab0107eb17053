"""The one connection of this process to a store: opened when needed, reopened when moved, begun anew when damaged."""

from __future__ import annotations

import sqlite3
import threading
import warnings
from typing import TYPE_CHECKING, TypeVar

from skecg.embedding_cache import database
from skecg.embedding_cache.forking import guard_across_fork
from skecg.errors import CacheWarning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Store"]

Answer = TypeVar("Answer")

_ATTEMPTS = 3


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
                except (sqlite3.Error, OSError, UnicodeDecodeError) as caught:
                    self._disconnect()
                    error = caught
                if not database.is_damage(error, self.path):
                    break
                self._set_aside(error)
            raise database.worded(error, self.path) from error

    def close(self) -> None:
        """Close the file; the next operation opens it again."""
        with self.lock:
            self._disconnect()

    def before_fork(self) -> None:
        """Keep other threads out and the file closed while the process forks: SQLite must not be inherited."""
        self.lock.acquire()
        self._disconnect()

    def after_fork(self) -> None:
        """Let them in again."""
        self.lock.release()

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._connection is not None

    def _connected(self) -> sqlite3.Connection:
        """Give the open connection, opening the file anew when another one has taken its place."""
        identity = database.identity_of(self.path)
        if self._connection is None or identity != self._identity:
            self._disconnect()
            self._identity = identity
            self._connection = database.open_database(self.path)
            self._identity = database.identity_of(self.path)
        return self._connection

    def _disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _set_aside(self, error: database.Trouble) -> None:
        """Rename the damaged file, unless another process has done so and begun a new one."""
        if database.identity_of(self.path) != self._identity:
            return
        try:
            aside = database.set_aside(self.path)
        except OSError as denied:
            raise database.worded(denied, self.path) from error
        warnings.warn(
            f"The embedding store {self.path} was damaged ({error}); it was renamed to {aside.name} and begun anew. "
            "Nothing is lost but time: embeddings are computed again. Delete the renamed file, or call clear().",
            CacheWarning,
            stacklevel=4,
        )
