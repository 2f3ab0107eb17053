"""Corpus: a list of recordings, what was kept out of it and why, and how to read it."""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from skecg.errors import MissingDependencyError, ParameterError, SkecgError, SkecgWarning, user_stacklevel
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
    whose = (prefix + item.patient for prefix in _prefixes(corpus, item) if item.patient)
    return listed.intersection(_names(corpus, item)), listed.intersection(whose)


def _names(corpus: Corpus, item: Item | LeftOut) -> set[str]:
    """Return what a recording may be called in a list or a table."""
    return {prefix + name for prefix in _prefixes(corpus, item) for name in _spellings(item.source) if name}


def _prefixes(corpus: Corpus, item: Item | LeftOut) -> tuple[str, ...]:
    return "", f"{item.corpus}:", f"{corpus.name}:"


def _refuse_both(name: str, recording: Item | LeftOut, patient: Item | LeftOut, origin: str) -> None:
    """Raise for a name that a recording and another one's patient have."""
    whose = f"patient {recording.patient!r}" if recording.patient else "a patient that nobody says"
    raise ParameterError(
        f"Got {name!r} in {origin}, which is the recording {recording.source!r} of {recording.corpus!r} ({whose}) and "
        f"the patient of {patient.source!r} of {patient.corpus!r}; expected one of the two. Write the whole sources of "
        f"the recordings that are meant (e.g. {recording.source!r}), or CORPUS:NAME for one corpus alone."
    )


def name_patients(corpora: Sequence[Corpus], tables: Mapping[str, Mapping[str, str]]) -> list[Corpus]:
    """Name the patients of recordings.

    Parameters
    ----------
    corpora : sequence of Corpus
    tables : mapping of str to mapping of str to str
        Of each table, by its name for the messages, the patients by the sources of their recordings: with or without
        their ending, or behind the name of a corpus and a colon (``mine:15709``). Of what a corpus leaves out, too.

    Raises
    ------
    ParameterError
        When none of a table is a source of these corpora, one is that of several corpora, or a recording is given
        two patients.
    """
    patients = {name: patient for table in tables.values() for name, patient in table.items()}
    seen: dict[str, str] = {}
    found = []
    for corpus in corpora:
        items = tuple(_with_patient(corpus, item, patients, seen) for item in corpus.items)
        left_out = tuple(_with_patient(corpus, item, patients, seen) for item in corpus.left_out)
        found.append(replace(corpus, items=items, left_out=left_out))
    n_nobodys = sum(not item.patient for corpus in found for item in corpus.items)
    for origin, table in tables.items():
        _check_seen(origin, table.keys(), seen.keys(), n_nobodys, _an_example(corpora))
    return found


_Row = TypeVar("_Row", Item, LeftOut)


def _with_patient(corpus: Corpus, item: _Row, patients: Mapping[str, str], seen: dict[str, str]) -> _Row:
    """Name a recording's patient; `seen` keeps the corpus that each name was found in."""
    names = sorted(patients.keys() & _names(corpus, item))
    for name in names:
        if seen.setdefault(name, corpus.name) != corpus.name:
            raise ParameterError(
                f"Got the patient of {name!r}, which both {seen[name]!r} and {corpus.name!r} have; expected one "
                f"recording. Write {f'{corpus.name}:{name}'!r} for that of {corpus.name!r}."
            )
    whose = sorted({patients[name] for name in names})
    if len(whose) > 1:
        raise ParameterError(
            f"Got two patients of the recording {item.source!r} of {corpus.name!r}, {whose[0]!r} and {whose[1]!r}, by "
            f"the names {', '.join(map(repr, names))}. A recording is of one; mend the table."
        )
    return item._replace(patient=whose[0]) if whose else item


def _check_seen(origin: str, listed: Collection[str], seen: Collection[str], n_nobodys: int, example: str) -> None:
    """Raise for a table that names no recording; warn where rows of it may be those that recordings lack."""
    unseen = [name for name in listed if name not in seen]
    if len(unseen) == len(listed):
        raise ParameterError(
            f"Got no recording of these corpora in the column 'path' of {origin}, expected sources such as {example!r}."
        )
    # No error, and nothing to be said where all have one: the table may be that of a larger archive.
    if unseen and n_nobodys:
        some = ", ".join(map(repr, unseen[:3]))
        message = (
            f"Got {len(unseen)} of {len(listed)} paths in {origin} that are of no recording ({some}), and {n_nobodys} "
            f"recordings have no patient; expected sources such as {example!r}. Recordings without one are not left "
            "out with their patient: mend the paths, if they are those of these recordings."
        )
        warnings.warn(message, SkecgWarning, stacklevel=user_stacklevel())


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
