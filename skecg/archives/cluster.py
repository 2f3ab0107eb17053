"""Chunks on a Dask cluster; the only door to Dask.

Dask's own futures and not joblib's Dask backend: that one takes exceptions for results, so that Dask's retries never
see any, and waits for ever for a chunk that Dask has given up because its workers died.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

from skecg.archives.jobs import ChunkJob, ChunkResult
from skecg.errors import ClusterError, MissingDependencyError, ParameterError

__all__ = ["Cluster", "LostChunk", "check_scheduler"]

_CONNECT_SECONDS = 10.0
# Chunks that the scheduler holds for each thread of a worker: one under way, one waiting; a million would fill it.
_CHUNKS_A_THREAD = 2
_FEWEST_AT_ONCE = 4


class LostChunk(NamedTuple):
    """A chunk that failed each time it was tried, and why the last time."""

    number: int
    reason: BaseException


def check_scheduler(address: str) -> None:
    """Refuse an address at which no scheduler can be, before any work is done.

    Parameters
    ----------
    address : str
        ``tcp://host:port`` or ``host:port``, or a scheduler file (``.json``).

    Raises
    ------
    MissingDependencyError
        When Dask is not installed.
    ParameterError
        When it is no file.
    ClusterError
        When nothing answers there.
    """
    comm = _import_distributed().comm
    if address.endswith(".json"):
        if not Path(address).is_file():
            raise ParameterError(f"Got --scheduler {address!r}, which is no file. Start the scheduler first.")
        return
    try:
        location = comm.normalize_address(address)
        if location.startswith("inproc"):
            return
        host, port = comm.get_address_host_port(location)
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS):
            pass
    except (ValueError, OSError) as error:
        raise _unreachable(address, error) from error


class Cluster:
    """A Dask cluster that embeds chunks; a context manager that lets go of it.

    Parameters
    ----------
    address : str
        Where its scheduler is, after :func:`check_scheduler` has found it.
    retries : int, default=3
        How often a chunk that raised an error is tried again. A chunk whose worker died is given to others as often as
        the scheduler allows (``distributed.scheduler.allowed-failures``, 3 unless it is told otherwise).

    Raises
    ------
    MissingDependencyError
        When Dask is not installed.
    ClusterError
        When what answers there is no scheduler.
    """

    def __init__(self, address: str, *, retries: int = 3) -> None:
        distributed = _import_distributed()
        where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        try:
            self._client = distributed.Client(**where, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (ValueError, OSError) as error:
            raise _unreachable(address, error) from error
        self._as_completed = distributed.as_completed
        self._address = address
        self._retries = retries

    @property
    def n_threads(self) -> int:
        """Number of chunks that its workers, as many as there are now, embed at once."""
        return sum(self._client.nthreads().values())

    def map(
        self, function: Callable[[Any, ChunkJob], ChunkResult], shared: Any, jobs: Iterator[ChunkJob]
    ) -> Iterator[ChunkResult | LostChunk]:
        """Call ``function(shared, job)`` for every job on some worker.

        Jobs are taken from the iterator as workers get free.

        Yields
        ------
        ChunkResult or LostChunk
            As they come.

        Raises
        ------
        OSError
            When the scheduler is gone.
        """
        under_way = self._as_completed(loop=self._client.loop)
        numbers: dict[Any, int] = {}

        def submit(n_jobs: int) -> None:
            for job in islice(jobs, n_jobs):
                # Not pure: results of an earlier run with the same arguments may be of files that were other ones then.
                future = self._client.submit(function, shared, job, retries=self._retries, pure=False)
                numbers[future] = job.number
                under_way.add(future)

        try:
            with self._losing_the_scheduler():
                submit(self._n_at_once())
            for future in under_way:
                with self._losing_the_scheduler():
                    outcome = self._outcome(future, numbers.pop(future))
                yield outcome
                with self._losing_the_scheduler():
                    future.release()
                    # Fewer than none when workers have gone.
                    submit(max(0, self._n_at_once() - len(numbers)))
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                self._client.cancel(list(numbers))

    def _n_at_once(self) -> int:
        return max(_FEWEST_AT_ONCE, _CHUNKS_A_THREAD * self.n_threads)

    def _outcome(self, future: Any, number: int) -> ChunkResult | LostChunk:
        if future.status == "cancelled":
            raise CancelledError
        reason = future.exception()
        return future.result() if reason is None else LostChunk(number, reason)

    @contextlib.contextmanager
    def _losing_the_scheduler(self) -> Iterator[None]:
        try:
            yield
        except (OSError, CancelledError) as error:
            raise ClusterError(
                f"The scheduler at {self._address!r} is gone, or has cancelled the chunks "
                f"({type(error).__name__}). What is done is kept: give the same command again to continue."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()


def _unreachable(address: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"Got --scheduler {address!r}, where no Dask scheduler answers ({error}). Expected one like "
        "tcp://host:8786; start it with `dask scheduler` and see that it can be reached from here."
    )


def _import_distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingDependencyError(
            "--scheduler needs dask.distributed, which is not installed. Run `pip install 'skecg[distributed]'`, or "
            "split the work without it by --part."
        ) from error
    return distributed
