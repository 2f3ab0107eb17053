"""Work in threads: many things at once in their order, or the next thing while this one is in use.

What is worked on has to let go of Python's lock, as NumPy, torch, hashing and reading do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

__all__ = ["in_order", "one_ahead"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(
    work: Callable[[_Item], _Result], items: Sequence[_Item], n_threads: int
) -> Generator[_Result, None, None]:
    """Work on items with several threads.

    Parameters
    ----------
    work : callable
    items : sequence
    n_threads : int
        One, or one item, is done by the caller's thread. Otherwise threads live until the last item or an error; what
        was not begun by then is left.

    Yields
    ------
    object
        What comes of each item, in the items' order; the first error in that order is raised in its place.

    Notes
    -----
    joblib looks for results every 10 ms, which is as long as a chunk of records takes on many cores.
    """
    if min(n_threads, len(items)) <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(min(n_threads, len(items))) as pool:
        yield from pool.map(work, items)


def one_ahead(items: Generator[_Item, None, None]) -> Generator[_Item, None, None]:
    """Make the next item in another thread while the caller works on this one.

    Each item has a thread of its own, which ends with it: a generator that is forgotten leaves no thread that waits.
    One that is closed, or interrupted, first waits for the item being made, and closes `items`.

    Parameters
    ----------
    items : generator

    Yields
    ------
    object
        The items in their order; what making one raises is raised in its place.
    """
    underway = _begin(items)
    try:
        while found := underway.result():
            underway = _begin(items)
            yield found[0]
    finally:
        wait([underway])
        items.close()


def _begin(items: Generator[_Item, None, None]) -> Future[list[_Item]]:
    """Start a thread that makes the next item: a list of it, or of none at the end."""
    thread = ThreadPoolExecutor(1)
    underway = thread.submit(lambda: list(islice(items, 1)))
    thread.shutdown(wait=False)
    return underway
