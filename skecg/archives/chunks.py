"""Which records make which chunk, and which chunks are whose: pure functions of numbers.

Every process of an array of jobs finds the same answer by itself, so none has to ask another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from skecg.errors import ParameterError

__all__ = ["ChunkPlan", "Share"]


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
        """Give the numbers of the records of a chunk."""
        first = chunk * self.chunk_records
        return range(first, min(first + self.chunk_records, self.n_records))

    def of(self, share: Share) -> range:
        """Give the numbers of the chunks of a share.

        Neighbours go to different shares: folders often hold one kind of record, and the long ones lie together.
        """
        return range(share.number - 1, len(self), share.of)
