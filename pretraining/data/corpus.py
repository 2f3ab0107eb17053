"""Corpus: a list of recordings, what was kept out of it and why, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from skecg.errors import MissingDependencyError, ParameterError, SkecgError
from skecg.io import read_record
from skecg.records import ECGRecord

__all__ = [
    "KEPT_OUT_FOLDS",
    "UNKNOWN_FOLD",
    "Corpus",
    "FileReader",
    "Item",
    "LeftOut",
    "Reader",
    "keep_folds_out",
    "leave_out",
    "name_patients",
]

#: Folds of PTB-XL that encoders are evaluated on.
KEPT_OUT_FOLDS = (9, 10)  # their authors' validation and test
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


def leave_out(corpora: Sequence[Corpus], listed: Collection[str], origin: str) -> list[Corpus]:
    """Leave out recordings, or all of a patient.

    Parameters
    ----------
    corpora : sequence of Corpus
    listed : collection of str
        Sources, with or without their ending, or patients.
    origin : str
        Where they are listed, for the messages.

    Raises
    ------
    ParameterError
        When one of them is of no recording: what should have been kept apart would be trained on.
    """
    listed, found = frozenset(listed), []
    # A name that matches nothing is an error below: a list that is out of date would leave in what it should keep out.
    unseen = set(listed)
    for corpus in corpora:
        named = [{*_spellings(item.source), item.patient} - {""} for item in corpus.items]
        wanted = [not names.isdisjoint(listed) for names in named]
        unseen -= set().union(*named)
        why = f"Listed in {origin}."
        kept = tuple(item for item, out in zip(corpus.items, wanted, strict=True) if not out)
        gone = tuple(
            LeftOut(item.corpus, item.source, "left out by list", why)
            for item, out in zip(corpus.items, wanted, strict=True)
            if out
        )
        found.append(replace(corpus, items=kept, left_out=(*corpus.left_out, *gone)))
    unseen -= {name for corpus in corpora for row in corpus.left_out for name in _spellings(row.source)}
    if unseen:
        some = ", ".join(map(repr, sorted(unseen)[:3]))
        raise ParameterError(
            f"Got {len(unseen)} of {len(listed)} names in {origin} that are of no recording and no patient "
            f"({some}), expected sources as left_out.csv writes them, e.g. {_an_example(corpora)!r}."
        )
    return found


def name_patients(corpora: Sequence[Corpus], patients: Mapping[str, str], origin: str) -> list[Corpus]:
    """Name the patients of recordings by their sources, with or without their ending.

    Raises
    ------
    ParameterError
        When none of them is a source of these corpora.
    """
    found, n_named = [], 0
    for corpus in corpora:
        spelt = [_spellings(item.source) for item in corpus.items]
        whose = [next((patients[name] for name in names if name in patients), "") for names in spelt]
        n_named += sum(map(bool, whose))
        items = tuple(
            item._replace(patient=patient or item.patient) for item, patient in zip(corpus.items, whose, strict=True)
        )
        found.append(replace(corpus, items=items))
    if not n_named:
        raise ParameterError(
            f"Got no recording of these corpora in the column 'path' of {origin}, expected sources such as "
            f"{_an_example(corpora)!r}."
        )
    return found


def _spellings(source: str) -> tuple[str, ...]:
    """Return what a recording may be called: as it is, without its ending, and without its row in a packed file."""
    return source, source.rpartition(".")[0], source.partition("#")[0]


def _an_example(corpora: Sequence[Corpus]) -> str:
    """Return the source of some recording."""
    return next((item.source for corpus in corpora for item in corpus.items), "")


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
