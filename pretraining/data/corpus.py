"""Corpus: a list of recordings, what was kept out of it and why, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from skecg.errors import MissingDependencyError, SkecgError
from skecg.io import read_record
from skecg.records import ECGRecord

__all__ = ["KEPT_OUT_FOLDS", "UNKNOWN_FOLD", "Corpus", "FileReader", "Item", "LeftOut", "Reader", "keep_folds_out"]

#: Folds of PTB-XL that encoders are evaluated on.
KEPT_OUT_FOLDS = (9, 10)
#: The fold of a recording that has none.
UNKNOWN_FOLD = -1


class Item(NamedTuple):
    """A recording that has not been read.

    Parameters
    ----------
    corpus : str
        Corpus or sub-set that it counts towards.
    source : str
        What it is called within the corpus, the same on every machine.
    patient : str
        Empty where nobody says.
    fold : int
        Of the corpus' own cross-validation, -1 where it has none.
    """

    corpus: str
    source: str
    patient: str = ""
    fold: int = UNKNOWN_FOLD


class LeftOut(NamedTuple):
    """A recording that is not packed: why in two or three words, and in a sentence."""

    corpus: str
    source: str
    reason: str
    message: str


#: Reads items in their order, giving an error where a recording should be; can be sent to another process.
Reader = Callable[[Sequence[Item]], Iterator[ECGRecord | SkecgError]]


@dataclass(frozen=True)
class Corpus:
    """Recordings of one origin.

    Parameters
    ----------
    name : str
    items : tuple of Item
        The recordings to take, in an order that does not depend on the machine.
    reader : callable
        Reads items (see :data:`Reader`).
    left_out : tuple of LeftOut
        Recordings that a split keeps out.
    notes : tuple of str
        Sentences on choices that were made in reading, for the report.
    """

    name: str
    items: tuple[Item, ...]
    reader: Reader
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def read(self, items: Sequence[Item] | None = None) -> Iterator[ECGRecord | SkecgError]:
        """Read items (all by default) one after the other; an error stands where a recording cannot be read."""
        return self.reader(self.items if items is None else items)


@dataclass(frozen=True)
class FileReader:
    """Reads files that lie where their items' sources say, in a folder."""

    folder: Path

    def __call__(self, items: Sequence[Item]) -> Iterator[ECGRecord | SkecgError]:
        """Read one file an item."""
        for item in items:
            try:
                yield read_record(self.folder / item.source)
            except MissingDependencyError:
                raise  # as good as all files would fail, and installing a package is the cure
            except SkecgError as error:
                yield error


def keep_folds_out(items: Iterable[Item], folds: Sequence[int]) -> tuple[tuple[Item, ...], tuple[LeftOut, ...]]:
    """Part the items of some folds from the others."""
    kept, left_out = [], []
    for item in items:
        if item.fold in folds:
            reason = f"fold {item.fold}"
            message = f"Fold {item.fold} is kept out of training, encoders are evaluated on it."
            left_out.append(LeftOut(item.corpus, item.source, reason, message))
        else:
            kept.append(item)
    return tuple(kept), tuple(left_out)
