"""Caches and ``fork``: a child must find no lock that nobody will open and no database connection of its parent."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["guard_across_fork"]


class Forkable(Protocol):
    """What is made quiet before a fork and wakes up after it, in the parent and in the child."""

    def before_fork(self) -> None:
        """Take the lock and let go of what must not be inherited."""

    def after_fork(self) -> None:
        """Open the lock."""


_lock = threading.Lock()
_guarded: weakref.WeakSet[Forkable] = weakref.WeakSet()
_quiet: list[Forkable] = []


def guard_across_fork(cache: Forkable) -> None:
    """Call the cache's ``before_fork`` and ``after_fork`` around every fork, as long as it lives."""
    with _lock:
        _guarded.add(cache)


def _before() -> None:
    """Quiet every living cache, and remember which, since caches may come and go before the fork is over."""
    _lock.acquire()
    _quiet.extend(_guarded)
    for cache in _quiet:
        cache.before_fork()


def _after() -> None:
    """Wake the caches that were quieted."""
    while _quiet:
        _quiet.pop().after_fork()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
