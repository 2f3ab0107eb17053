"""Chunks of an archive on a Dask cluster; the only door to Dask.

Dask's own futures and not joblib's Dask backend: that one takes exceptions for results, so that Dask's retries never
see any, and waits for ever for a chunk that Dask has given up because its workers died.

Client and workers may be different machines. All that travels is a fitted embedder (a name and a digest, no weights),
paths that mean the same everywhere, and plain arrays; the weights are found anew, by digest, where the work is done.
Which records make which chunk, and which chunks are whose, follows from numbers alone: every process of an array of
jobs finds the same answer by itself, so none has to ask another.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from skecg._version import __version__
from skecg.archives.files import ChunkResult, Failure
from skecg.embedder import JEPAEmbedder
from skecg.errors import ClusterError, MissingDependencyError, ParameterError
from skecg.versions import installed_version

__all__ = [
    "Assignment",
    "ChunkJob",
    "ChunkPlan",
    "Cluster",
    "LostChunk",
    "Share",
    "check_scheduler",
    "embed_chunk",
]

_CONNECT_SECONDS = 10.0

# Chunks that the scheduler holds for each thread of a worker: one under way, one waiting; a million would fill it.
_CHUNKS_A_THREAD = 2

_FEWEST_AT_ONCE = 4


@dataclass(frozen=True)
class ChunkJob:
    """Records to embed: the number of the chunk, that of its first record, and absolute paths."""

    number: int
    first: int
    paths: Sequence[str]


@dataclass(frozen=True)
class Assignment:
    """What all chunks of an archive have in common.

    Parameters
    ----------
    embedder : JEPAEmbedder
        Fitted; its folders are absolute.
    salt : bytes
        That of its recipe: features of another one would not belong to this archive.
    versions : tuple of (str, str or None)
        Of skecg and of torch, where the command was given.
    """

    embedder: JEPAEmbedder
    salt: bytes
    versions: tuple[str, str | None]

    @classmethod
    def of(cls, embedder: JEPAEmbedder) -> Assignment:
        """Make the assignment of a fitted embedder."""
        portable = copy.copy(embedder)
        # Other processes stand elsewhere: what is relative to here means nothing there.
        if Path(str(embedder.model)).is_dir():
            portable.model = os.path.abspath(embedder.model)  # noqa: PTH100 (links stay links)
        if isinstance(embedder.cache, str | Path) and str(embedder.cache) != "disk":
            portable.cache = os.path.abspath(embedder.cache)  # noqa: PTH100
        return cls(portable, embedder.embedding_config().fingerprint, _versions())


def embed_chunk(assignment: Assignment, job: ChunkJob) -> ChunkResult:
    """Embed the records of a chunk, on whatever machine this runs.

    Raises
    ------
    ParameterError
        When versions or weights here are not those where the command was given.
    WeightsError
        When the weights are not to be had here, or are damaged.
    """
    _check(assignment)
    chunks = list(assignment.embedder.transform_chunks(list(job.paths)))
    failures = [
        Failure(job.first + row, type(error).__name__, str(error))
        for chunk in chunks
        for row, error in sorted(chunk.failures.items())
    ]
    notes = {job.first + row: note for chunk in chunks for row, note in chunk.notes.items()}
    amplitudes = [amplitude for chunk in chunks for amplitude in chunk.amplitudes.values() if amplitude is not None]
    features = np.concatenate([chunk.features for chunk in chunks])
    return ChunkResult(job.number, job.first, features, failures, notes, amplitudes)


def _versions() -> tuple[str, str | None]:
    return __version__, installed_version("torch")


def _check(assignment: Assignment) -> None:
    """Raise when asked to add features of another making to the archive."""
    here, there = _versions(), assignment.versions
    # Another release may round otherwise, and one archive should hold one kind of features.
    if here != there:
        raise ParameterError(
            f"Got a worker on {socket.gethostname()} with skecg {here[0]} and torch {here[1]}, expected skecg "
            f"{there[0]} and torch {there[1]} as where the command was given. Install the same on both."
        )
    if assignment.embedder.embedding_config().fingerprint != assignment.salt:
        raise ParameterError(
            f"Got a worker on {socket.gethostname()} whose weights or options make other features than those where "
            "the command was given. Give both the same weights folder."
        )


class LostChunk(NamedTuple):
    """A chunk that failed each time it was tried, and why the last time."""

    number: int
    reason: BaseException


def check_scheduler(address: str) -> None:
    """Raise for an address at which no scheduler can be, before any work is done.

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
    """A Dask cluster that embeds chunks; a context manager that closes the connection.

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
            # Not the default client: a program that embeds may have a cluster of its own.
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
                    future.release()  # else the cluster keeps the features of every chunk
                    # Fewer than none when workers have gone.
                    submit(max(0, self._n_at_once() - len(numbers)))
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                self._client.cancel(list(numbers))

    def _n_at_once(self) -> int:
        # Counted anew for each chunk: workers come and go.
        return max(_FEWEST_AT_ONCE, _CHUNKS_A_THREAD * self.n_threads)

    def _outcome(self, future: Any, number: int) -> ChunkResult | LostChunk:
        if future.status == "cancelled":  # which has no exception to ask for
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


@dataclass(frozen=True)
class Share:
    """One of several equal shares of the work.

    Parameters
    ----------
    number : int
        Which one, counted from 1 as arrays of jobs are.
    of : int
        How many there are.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ParameterError(f"Got part {self}, expected I/N with I from 1 to N, as arrays of jobs count.")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``3/100``.

        Raises
        ------
        ParameterError
            When `text` is something else, or names a share that does not exist.
        """
        # Nine digits: int() refuses numbers of thousands of them with an error that is not ours.
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None:
            raise ParameterError(f"Got --part {text!r}, expected I/N with I from 1 to N, for example 3/100.")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class ChunkPlan:
    """How records in a row are cut into chunks, one file each.

    Parameters
    ----------
    n_records : int
    chunk_records : int
        Records of a chunk; the last one may have fewer.
    """

    n_records: int
    chunk_records: int

    def __post_init__(self) -> None:
        if self.chunk_records < 1:
            raise ParameterError(f"Got --chunk-records {self.chunk_records}, expected 1 or more.")

    def __len__(self) -> int:
        return -(-self.n_records // self.chunk_records)

    def rows(self, chunk: int) -> range:
        """Return the numbers of the records of a chunk."""
        first = chunk * self.chunk_records
        return range(first, min(first + self.chunk_records, self.n_records))

    def of(self, share: Share) -> range:
        """Return the numbers of the chunks of a share.

        Neighbours go to different shares: folders often hold one kind of record, and the long ones lie together.
        """
        return range(share.number - 1, len(self), share.of)
