"""Corpus: a list of recordings, what was kept out of it and why, and how to read it."""

from __future__ import annotations

import codecs
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
    "read_list",
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
    """A recording that is not packed: why in two or three words, and in a sentence; and whose it is."""

    corpus: str
    source: str
    reason: str
    message: str
    patient: str = ""


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


def read_list(path: Path) -> list[str]:
    """Read a list of names, one a line, in UTF-8 or in what Windows calls Unicode.

    Raises
    ------
    ParameterError
        When there is no such file, or it is no text.
    """
    try:
        content = path.read_bytes()
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        # utf-8-sig: lists saved by a spreadsheet begin with a byte order mark.
        lines = content.decode("utf-16" if marked else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(
            f"Got the list {str(path)!r}, which cannot be read ({error}); expected a text in UTF-8, a name a line."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def leave_out(corpora: Sequence[Corpus], listed: Collection[str], origin: str) -> list[Corpus]:
    """Leave out recordings, or all of a patient.

    Parameters
    ----------
    corpora : sequence of Corpus
    listed : collection of str
        Sources, with or without their ending, or patients: of all corpora, or of the one that stands before a colon
        (``mine:15709``). What is left out already may be among them.
    origin : str
        Where they are listed, for the messages.

    Raises
    ------
    ParameterError
        When one of them is of no recording: what should have been kept apart would be trained on. Or when one names a
        recording and somebody else: only one of the two may be meant.
    """
    listed, found = frozenset(listed), []
    recordings: dict[str, Item | LeftOut] = {}
    patients: dict[str, Item | LeftOut] = {}
    for corpus in corpora:
        kept, gone = [], list(corpus.left_out)
        rows: list[Item | LeftOut] = [*corpus.items, *corpus.left_out]
        for item in rows:
            named, whose = _named(corpus, item, listed)
            recordings |= dict.fromkeys(named - whose, item)
            patients |= dict.fromkeys(whose, item)
            if isinstance(item, Item) and (named or whose):
                gone.append(LeftOut(item.corpus, item.source, "left out by list", f"Listed in {origin}.", item.patient))
            elif isinstance(item, Item):
                kept.append(item)
        found.append(replace(corpus, items=tuple(kept), left_out=tuple(gone)))
    for name in sorted(recordings.keys() & patients.keys()):
        _refuse_both(name, recordings[name], patients[name], origin)
    # A name that matches nothing: a list that is out of date would leave in what it should keep out.
    unseen = listed - recordings.keys() - patients.keys()
    if unseen:
        some = ", ".join(map(repr, sorted(unseen)[:3]))
        raise ParameterError(
            f"Got {len(unseen)} of {len(listed)} names in {origin} that are of no recording and no patient "
            f"({some}), expected sources as left_out.csv writes them, e.g. {_an_example(corpora)!r}."
        )
    return found


def _named(corpus: Corpus, item: Item | LeftOut, listed: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return which of the listed names are those of a recording, and which are those of its patient."""
    prefixes = ("", f"{item.corpus}:", f"{corpus.name}:")
    named = (prefix + name for prefix in prefixes for name in _spellings(item.source) if name)
    whose = (prefix + item.patient for prefix in prefixes if item.patient)
    return listed.intersection(named), listed.intersection(whose)


def _refuse_both(name: str, recording: Item | LeftOut, patient: Item | LeftOut, origin: str) -> None:
    """Raise for a name that a recording and another one's patient have."""
    whose = f"patient {recording.patient!r}" if recording.patient else "a patient that nobody says"
    raise ParameterError(
        f"Got {name!r} in {origin}, which is the recording {recording.source!r} of {recording.corpus!r} ({whose}) and "
        f"the patient of {patient.source!r} of {patient.corpus!r}; expected one of the two. Write the whole sources of "
        f"the recordings that are meant (e.g. {recording.source!r}), or CORPUS:NAME for one corpus alone."
    )


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
            left_out.append(LeftOut(item.corpus, item.source, reason, message, item.patient))
        else:
            kept.append(item)
    return tuple(kept), tuple(left_out)
