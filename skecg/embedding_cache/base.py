"""What every embedding cache can do, the arguments that all of them check alike, and what they do around ``fork``.

A child of ``fork`` must find no lock that nobody will open and no database connection of its parent.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from skecg.errors import CacheUnavailableError, CacheWarning, ParameterError, user_stacklevel
from skecg.validation import is_integer, is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "CacheInfo",
    "EmbeddingCache",
    "WhilePossible",
    "as_age_days",
    "as_max_bytes",
    "blob_of",
    "check_prune",
    "guard_across_fork",
]

_Answer = TypeVar("_Answer")

_lock = threading.Lock()

_guarded: weakref.WeakSet[Forkable] = weakref.WeakSet()

_locked: list[Forkable] = []


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds and how it did.

    Parameters
    ----------
    where : str
        ``"memory"``, or the folder.
    entries : int
        Number of embeddings held.
    bytes : int
        Size of their keys and values: what `max_bytes` bounds. Files on disk are 10 to 25 % larger.
    max_bytes : int or None
        The bound, None for no bound.
    hits, misses : int
        Keys found and not found by this object, in this process, since it was made.
    """

    where: str
    entries: int
    bytes: int
    max_bytes: int | None
    hits: int
    misses: int


class EmbeddingCache(Protocol):
    """A store of float32 arrays under digests. Every method may be called from several threads at once."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the arrays that are there (read-only), by key; absent keys are absent from the answer."""

    def put(self, items: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Store arrays; what was used least recently makes room."""

    def info(self) -> CacheInfo:
        """Return what is held and how often it was found."""

    def clear(self) -> None:
        """Forget everything."""

    def prune(self, *, max_bytes: int | None = None, older_than_days: float | None = None) -> int:
        """Forget what was used least recently, and say how many arrays that were."""


class WhilePossible:
    """A store that is used as long as it can be: one that is full, read-only or out of reach costs a warning.

    Parameters
    ----------
    cache : EmbeddingCache
    """

    def __init__(self, cache: EmbeddingCache) -> None:
        self.cache = cache
        self._is_usable = True

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the arrays that are there, none where the store cannot be used."""
        return self._try(partial(self.cache.get, keys)) or {}

    def put(self, items: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Store arrays, if that is possible."""
        self._try(partial(self.cache.put, items))

    def _try(self, operation: Callable[[], _Answer]) -> _Answer | None:
        """Use the store, unless it could not be used before."""
        if not self._is_usable:
            return None
        try:
            return operation()
        except CacheUnavailableError as error:
            self._is_usable = False
            message = f"{error} Embedding goes on; what is computed from here on is not kept."
            warnings.warn(message, CacheWarning, stacklevel=user_stacklevel())
            return None


def as_max_bytes(value: Any) -> int | None:
    """Check a bound in bytes; None means no bound."""
    if value is None:
        return None
    if not is_integer(value, 0):
        raise ParameterError(f"Got max_bytes={value!r}, expected None or a whole number of bytes, zero or more.")
    return int(value)


def as_age_days(value: Any) -> float | None:
    """Check an age in days; None means any age."""
    if value is None:
        return None
    if not is_number(value) or value < 0:
        raise ParameterError(f"Got older_than_days={value!r}, expected None or a number of days, zero or more.")
    return float(value)


def check_prune(max_bytes: Any, older_than_days: Any) -> tuple[int | None, float | None]:
    """Check the two arguments of ``prune``, of which at least one is needed."""
    if max_bytes is None and older_than_days is None:
        raise ParameterError(
            "Got nothing to prune by, expected max_bytes= or older_than_days=. Use clear() to drop all."
        )
    return as_max_bytes(max_bytes), as_age_days(older_than_days)


def blob_of(key: Any, value: Any) -> bytes:
    """Return the little-endian bytes of a float32 array that is to be stored under a key."""
    if not isinstance(key, bytes) or not isinstance(value, np.ndarray) or value.dtype != np.float32:
        got = f"{type(value).__name__} of dtype {getattr(value, 'dtype', None)} under a {type(key).__name__} key"
        raise ParameterError(f"Got {got}, expected float32 arrays under bytes. Make keys with record_key().")
    # Little-endian everywhere, so that a folder may be shared between machines.
    return value.astype("<f4", copy=False).tobytes()


class Forkable(Protocol):
    """What is made quiet before a fork and wakes up after it, in the parent and in the child."""

    def before_fork(self) -> None:
        """Take the lock and close what must not be inherited."""

    def after_fork(self) -> None:
        """Open the lock."""


def guard_across_fork(cache: Forkable) -> None:
    """Call the cache's ``before_fork`` and ``after_fork`` around every fork, as long as it lives."""
    with _lock:
        _guarded.add(cache)


def _before() -> None:
    """Lock every living cache, and remember which, since caches may come and go before the fork is over."""
    # A child has one thread: a lock that another thread held at the fork would never be released in it.
    _lock.acquire()
    # A list of its own: caches may be collected, or made, between the two hooks.
    _locked.extend(_guarded)
    for cache in _locked:
        cache.before_fork()


def _after() -> None:
    """Unlock the caches that were locked before the fork."""
    while _locked:
        _locked.pop().after_fork()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
