"""MemoryCache: embeddings of this process, bounded in bytes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.embedding_cache.base import CacheInfo, as_max_bytes, blob_of, check_prune, guard_across_fork
from skecg.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["MemoryCache"]

_SECONDS_PER_DAY = 86_400.0


class MemoryCache:
    """Embeddings in memory; the least recently used make room for new ones.

    Copies and scikit-learn clones of a cache are the cache itself. A pickle of it carries its bound, not its contents.

    Parameters
    ----------
    max_bytes : int, default=268435456
        Bound on the bytes of keys and values together (256 MiB: some 86,000 embeddings of 768 numbers).

    Raises
    ------
    ParameterError
        When `max_bytes` is not a whole number of bytes.

    Examples
    --------
    >>> cache = MemoryCache()
    >>> cache.put({b"key": np.ones(3, dtype=np.float32)})
    >>> cache.get([b"key", b"other"])
    {b'key': array([1., 1., 1.], dtype=float32)}
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        bound = as_max_bytes(max_bytes)
        if bound is None:
            raise ParameterError("Got max_bytes=None, expected a whole number of bytes: memory needs a bound.")
        self.max_bytes = bound
        # Arrays lie over immutable bytes, so that nobody can make them writable; the oldest come first.
        self._entries: OrderedDict[bytes, tuple[NDArray[np.float32], float]] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.RLock()
        guard_across_fork(self)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the arrays that are there.

        Parameters
        ----------
        keys : sequence of bytes

        Returns
        -------
        dict of bytes to ndarray of float32
            Read-only arrays; absent keys are absent.
        """
        found = {}
        now = time.time()
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is None:
                    self._misses += 1
                    continue
                self._hits += 1
                self._entries[key] = (entry[0], now)
                self._entries.move_to_end(key)
                # A view: setting its shape or strides would otherwise change the entry.
                found[key] = entry[0].view()
        return found

    def put(self, items: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Store arrays; an array larger than the whole cache is not kept.

        Parameters
        ----------
        items : mapping of bytes to ndarray of float32

        Raises
        ------
        ParameterError
            When a key is not bytes or a value not a float32 array.
        """
        arrays = {key: np.frombuffer(blob_of(key, value), "<f4").reshape(value.shape) for key, value in items.items()}
        now = time.time()
        with self._lock:
            for key, array in arrays.items():
                self._drop(key)
                # One that can never fit would push all others out before it goes itself.
                if _size(key, array) <= self.max_bytes:
                    self._entries[key] = (array.astype(np.float32, copy=False), now)
                    self._bytes += _size(key, array)
                    self._shrink(self.max_bytes)

    def info(self) -> CacheInfo:
        """Return what is held and how often it was found."""
        with self._lock:
            return CacheInfo("memory", len(self._entries), self._bytes, self.max_bytes, self._hits, self._misses)

    def clear(self) -> None:
        """Forget everything; the counts of hits and misses stay."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def prune(self, *, max_bytes: int | None = None, older_than_days: float | None = None) -> int:
        """Forget what was used least recently.

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
        """
        bound, age_days = check_prune(max_bytes, older_than_days)
        with self._lock:
            before = len(self._entries)
            if age_days is not None:
                oldest = time.time() - age_days * _SECONDS_PER_DAY
                for key in [key for key, (_, used) in self._entries.items() if used < oldest]:
                    self._drop(key)
            if bound is not None:
                self._shrink(bound)
            return before - len(self._entries)

    def before_fork(self) -> None:
        """Keep other threads out while the process forks."""
        self._lock.acquire()

    def after_fork(self) -> None:
        """Unlock what was locked before the fork."""
        self._lock.release()

    def _drop(self, key: bytes) -> None:
        """Forget one array, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(key, entry[0])

    def _shrink(self, max_bytes: int) -> None:
        """Forget the oldest arrays until the rest fits."""
        while self._bytes > max_bytes:
            self._drop(next(iter(self._entries)))

    def __copy__(self) -> MemoryCache:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryCache:
        # scikit-learn's clone deep-copies parameters; a clone that started empty would embed everything again.
        return self

    def __reduce__(self) -> tuple[type[MemoryCache], tuple[int]]:
        return MemoryCache, (self.max_bytes,)

    def __repr__(self) -> str:
        return f"MemoryCache(max_bytes={self.max_bytes})"


def _size(key: bytes, array: NDArray[np.float32]) -> int:
    """Bytes that an entry counts for; the key is counted so that empty arrays are bounded too."""
    return len(key) + array.nbytes
