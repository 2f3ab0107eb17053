"""What a worker is given and what it gives back: some paths of an archive, and their features.

Both sides may be different machines. All that travels is a fitted embedder (a name and a digest, no weights), paths
that mean the same everywhere, and plain arrays; the weights are found anew, by digest, where the work is done.
"""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skecg import __version__
from skecg.embedder import JEPAEmbedder
from skecg.errors import ParameterError
from skecg.versions import installed_version

__all__ = ["Assignment", "ChunkJob", "ChunkResult", "Failure", "embed_chunk"]


class Failure(NamedTuple):
    """A record that could not be embedded: its number, the class of the error, what it says."""

    row: int
    error: str
    message: str


@dataclass(frozen=True)
class ChunkJob:
    """Records to embed: the number of the chunk, that of its first record, and absolute paths."""

    number: int
    first: int
    paths: Sequence[str]


@dataclass(frozen=True, eq=False)
class ChunkResult:
    """What became of a chunk.

    Parameters
    ----------
    number : int
        That of the chunk.
    first : int
        Number of its first record.
    features : ndarray of shape (n_records, n_features), float32
        NaN where a record failed.
    failures : list of Failure
        Sorted by row.
    notes : dict of int to tuple of str
        What is odd about the others, by row, as :class:`skecg.embedding.Chunk` has it.
    """

    number: int
    first: int
    features: NDArray[np.float32]
    failures: list[Failure]
    notes: dict[int, tuple[str, ...]]


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
        return cls(portable, embedder.recipe().salt, _versions())


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
    return ChunkResult(job.number, job.first, np.concatenate([chunk.features for chunk in chunks]), failures, notes)


def _versions() -> tuple[str, str | None]:
    return __version__, installed_version("torch")


def _check(assignment: Assignment) -> None:
    """Refuse to add features of another making to the archive."""
    here, there = _versions(), assignment.versions
    if here != there:
        raise ParameterError(
            f"Got a worker on {socket.gethostname()} with skecg {here[0]} and torch {here[1]}, expected skecg "
            f"{there[0]} and torch {there[1]} as where the command was given. Install the same on both."
        )
    if assignment.embedder.recipe().salt != assignment.salt:
        raise ParameterError(
            f"Got a worker on {socket.gethostname()} whose weights or options make other features than those where "
            "the command was given. Give both the same weights folder."
        )
