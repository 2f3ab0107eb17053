"""Parts of a batch on all cores that there are, their results in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from joblib import Parallel, delayed, effective_n_jobs

from skecg.devices import keep_to_one_thread, one_thread_per_worker

__all__ = ["OverParts", "over_parts"]

#: Calls a function with each of some parts and gives what it gave, in their order.
OverParts = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


@contextlib.contextmanager
def over_parts(device: torch.device, n_jobs: int | None) -> Iterator[OverParts]:
    """Give what works on parts: threads on a CPU, of one core each, and one after the other on anything else.

    Parameters
    ----------
    device : torch.device
        Where the work is done.
    n_jobs : int or None
        Threads at once; None takes the cores that torch may use.
    """
    if device.type != "cpu":
        yield _one_by_one
        return
    with one_thread_per_worker() as cores:
        workers = cores if n_jobs is None else effective_n_jobs(n_jobs)
        if workers <= 1:
            yield _one_by_one
            return
        with Parallel(n_jobs=workers, backend="threading") as pool:
            yield lambda work, parts: list(pool(delayed(_alone)(work, part) for part in parts))


def _alone(work: Callable[[Any], Any], part: Any) -> Any:
    keep_to_one_thread()
    return work(part)


def _one_by_one(work: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    return [work(part) for part in parts]
