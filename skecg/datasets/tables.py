"""Tables of one's own labels: which recordings, what they are, whose.

A line a recording, comma- or tab-separated, with names in the first line:

- ``path``: a file that :func:`skecg.read_record` reads, as seen from the table's folder;
- ``label``: what it is, several with bars between them; or ``label_NAME`` columns of 0 and 1; or, for what is a number,
  ``target`` or ``target_NAME``. Lines where all of them are empty are left out;
- ``patient`` (or ``group``): whose it is, so that nobody is on two sides of a split;
- ``fold``: 1 to 10. Without it patients are spread over ten folds by their names, the same everywhere.
"""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.base import LabelledECGs, number
from skecg.errors import DamagedRecordError, ParameterError, RecordNotFoundError

__all__ = ["LabelTable", "is_table", "read_label_table"]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_N_FOLDS = 10
_YES, _NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no", ""})


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The lines of a table that say something.

    Parameters
    ----------
    path : Path
        Of the table.
    sources : tuple of str
        What the column that names recordings holds.
    by_row : bool
        Whether that column is ``row``, numbers of rows of somebody's shards, instead of ``path``.
    classes : tuple of str
    labels : ndarray of shape (n, n_classes), int64
        Zeros and ones; without columns where the table holds targets.
    target_names : tuple of str
    targets : ndarray of shape (n, n_targets), float64
    patients : ndarray of shape (n,), str
    folds : ndarray of shape (n,), int64
    """

    path: Path
    sources: tuple[str, ...]
    by_row: bool
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    target_names: tuple[str, ...]
    targets: NDArray[np.float64]
    patients: NDArray[np.str_]
    folds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def files(self) -> list[Path]:
        """The recordings' files, which are not opened."""
        return [self.path.parent / source for source in self.sources]

    def to_dataset(self) -> LabelledECGs:
        """Return a data set of the table's recordings and labels; raise where there are none."""
        if self.by_row or not self.classes:
            found = "'row'" if self.by_row else "targets"
            raise ParameterError(f"Got the table {self.path} with {found}, expected the columns 'path' and 'label'.")
        n = len(self)
        return LabelledECGs(
            name=self.path.stem,
            records=self.files,
            sampling_rate=None,
            leads=None,
            codes=tuple({self.classes[column]: 100.0 for column in np.flatnonzero(row)} for row in self.labels),
            patients=self.patients,
            folds=self.folds,
            sexes=np.full(n, "", dtype=str),
            ages=np.full(n, np.nan),
            licence="",
            citation="",
            folder=self.path.parent,
            record_ids=np.array(self.sources, dtype=str),
        )


def is_table(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is that of a table, by its ending."""
    return Path(path).suffix.lower() in _DELIMITERS


def read_label_table(path: str | os.PathLike[str]) -> LabelTable:
    """Read a table of labels or targets.

    Raises
    ------
    RecordNotFoundError
        When there is no such table.
    DamagedRecordError
        When it lacks columns, or a cell is not what its column says, with its line.
    """
    path = Path(path)
    rows = _read(path)
    names = tuple(rows[0])
    by_row = "row" in names and "path" not in names
    label_columns = [name for name in names if name == "label" or name.startswith("label_")]
    target_columns = [name for name in names if name == "target" or name.startswith("target_")]
    if not by_row and "path" not in names:
        raise DamagedRecordError(f"Got the table {path} with the columns {_listed(names)}, expected 'path' among them.")
    if not label_columns and not target_columns:
        raise DamagedRecordError(
            f"Got the table {path} with the columns {_listed(names)}, expected 'label' or 'target'."
        )
    said = [row for row in rows if any(row[name].strip() for name in (*label_columns, *target_columns))]
    if not said:
        raise DamagedRecordError(f"Got the table {path} without a single label or target, expected some.")
    sources = tuple(row["row" if by_row else "path"].strip() for row in said)
    classes, labels = _labels(path, said, label_columns)
    targets = np.array([[number(row[name]) for name in target_columns] for row in said]).reshape(len(said), -1)
    known = np.isfinite(targets).all(axis=1)
    if not known.all():
        line = said[int(np.flatnonzero(~known)[0])][_LINE]
        raise DamagedRecordError(f"Got line {line} of {path} without a number for each target, expected one.")
    who = next((name for name in ("patient", "group") if name in names), None)
    patients = np.array([row[who].strip() if who else "" for row in said], dtype=str)
    patients = np.where(patients == "", np.array(sources, dtype=str), patients)
    folds = _folds(path, said, patients)
    shorter = tuple(name.removeprefix("target_") for name in target_columns)
    return LabelTable(path, sources, by_row, classes, labels, shorter, targets, patients, folds)


_LINE = "\0line"


def _read(path: Path) -> list[dict[str, str]]:
    """Read the lines of a table by the names of their columns."""
    if not path.is_file():
        raise RecordNotFoundError(f"There is no table {str(path)!r}. Check the path.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="", delimiter=_DELIMITERS.get(path.suffix.lower(), ","))
        names = [_column(name) for name in reader.fieldnames or ()]
        reader.fieldnames = names
        rows = [{name: row[name] for name in names} | {_LINE: str(reader.line_num)} for row in reader]
    if not rows:
        raise DamagedRecordError(f"Got the table {path} without a line below its names, expected one a recording.")
    return rows


def _column(name: str) -> str:
    """Return a column's name as it is known here; what stands behind ``label_`` and ``target_`` is left as it is."""
    kind, underscore, rest = name.strip().partition("_")
    return f"{kind.lower()}_{rest}" if underscore else kind.lower()


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in names if name != _LINE)


def _labels(path: Path, rows: list[dict[str, str]], columns: list[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Turn the columns of labels into zeros and ones."""
    given = [_labels_of(path, row, columns) for row in rows]
    classes = tuple(sorted({label for labels in given for label in labels}))
    table = np.array([[name in labels for name in classes] for labels in given], dtype=np.int64)
    return classes, table.reshape(len(rows), len(classes))


def _labels_of(path: Path, row: dict[str, str], columns: list[str]) -> set[str]:
    """Return the labels of a line."""
    found = {part.strip() for part in row.get("label", "").split("|") if part.strip()}
    for column in columns:
        if column == "label":
            continue
        cell = row[column].strip().lower()
        if cell not in _YES | _NO:
            raise DamagedRecordError(f"Got {column}={row[column]!r} in line {row[_LINE]} of {path}, expected 0 or 1.")
        if cell in _YES:
            found.add(column.removeprefix("label_"))
    return found


def _folds(path: Path, rows: list[dict[str, str]], patients: NDArray[np.str_]) -> NDArray[np.int64]:
    """Read the folds, or spread patients over ten by their names."""
    if "fold" in rows[0]:
        for row in rows:
            if not row["fold"].strip().isdigit():
                raise DamagedRecordError(f"Got fold={row['fold']!r} in line {row[_LINE]} of {path}, expected a number.")
        return np.array([int(row["fold"]) for row in rows], dtype=np.int64)
    digests = [hashlib.sha256(patient.encode()).digest() for patient in patients.tolist()]
    return np.array([int.from_bytes(digest[:8], "big") % _N_FOLDS + 1 for digest in digests], dtype=np.int64)
