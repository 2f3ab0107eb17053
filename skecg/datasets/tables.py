"""Tables of recordings: their cells as text, and tables of one's own labels with columns of fixed names.

Every cell is read as text, from CSV, Parquet and data frames alike, so that the same table means the same wherever it
comes from. A table of labels has a line a recording:

- ``path``: a file that :func:`skecg.read_record` reads, as seen from the table's folder;
- ``label``: what it is, several with semicolons between them; or ``label_NAME`` columns of 0 and 1; or, for what is a
  number, ``target`` or ``target_NAME``. Lines where all of them are empty are left out;
- ``patient`` (or ``group``, ``patient_id``, ``subject_id``): whose it is, so that nobody is on two sides of a split;
- ``fold``: 1 to 10. Without it patients are spread over ten folds by their names, the same everywhere.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import math
import numbers
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.base import LabelledECGs
from skecg.errors import (
    DamagedRecordError,
    MissingDependencyError,
    ParameterError,
    RecordNotFoundError,
    SkecgWarning,
    user_stacklevel,
)
from skecg.io.statements import are_grouped

__all__ = [
    "LABEL_SEPARATOR",
    "MISSING_IN_PYTHON",
    "Columns",
    "LabelTable",
    "as_patient",
    "is_number",
    "is_patient_column",
    "is_table",
    "read_columns",
    "read_label_table",
    "warn_of_doubtful",
]

#: Columns by name; None where a cell is empty.
Columns = dict[str, list[str | None]]

#: Between several labels in one cell.
LABEL_SEPARATOR = ";"

# What columns of patients are called, in lower case and without what separates words.
_PATIENTS = frozenset({"patient", "patientid", "subject", "subjectid", "personid"})

#: Missing as Python writes it; "none" may be an answer.
MISSING_IN_PYTHON = "None"

_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
# As pandas, R, spreadsheets and databases write it.
_MISSING = frozenset({"", "nan", "na", "n/a", "<na>", "nat", "null"})
# As spreadsheets and other programs write it.
_MISSING |= {"#n/a", "#n/a n/a", "#na", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "-nan"}
# As spreadsheets in other languages write #N/A.
_MISSING |= {"#nv", "#n/d", "#n/d!", "#n/b", "#i/t", "#saknas!", "#puuttuu!", "#yok", "#hiányzik", "#н/д"}
# What may be an answer, and may be missing; what begins with # is a spreadsheet's error, in whatever language.
_DOUBTFUL = re.compile(r"[-?.]|--|#+|#\S+[!?]")
# The last is what is left of a long number.
_DOUBTFUL_PATIENT = re.compile(rf"{_DOUBTFUL.pattern}|unknown|\d(?:[.,]\d+)?e\+\d+", re.IGNORECASE)
# What a whole number becomes beside cells that are missing: "1.0", which means the same as "1".
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(|\.0+)")
_SEPARATOR_SAID = re.compile(r"sep=([,;\t])\r?\n")
_N_FOLDS = 10
_MEANS_SOMETHING = re.compile(r"path|row|fold|group|(label|target)(_.*)?")
_YES, _NO = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})

_LINE = "\0line"


def read_columns(table: Any) -> tuple[Columns, Path, str]:
    """Read the columns of a table as text, None where a cell is empty.

    Parameters
    ----------
    table : str, Path, data frame or mapping of str to sequence

    Returns
    -------
    columns : dict of str to list
    folder : Path
        What relative paths are relative to.
    name : str
    """
    if isinstance(table, str | os.PathLike):
        path = Path(table).expanduser()
        if not path.is_file():
            raise ParameterError(f"Got the table {str(path)!r}, which is no file. Check the path.")
        suffix = path.suffix.lower()
        if suffix not in _SUFFIXES:
            raise ParameterError(
                f"Got the table {str(path)!r}, expected a name that ends in {', '.join(_SUFFIXES)}. Save it as CSV."
            )
        return _read_parquet(path) if suffix == ".parquet" else _read_text(path), path.parent, path.stem
    if not (hasattr(table, "columns") or isinstance(table, Mapping)):
        raise ParameterError(f"Got a table of type {type(table).__name__}, expected a path or a data frame.")
    names = list(table.columns) if hasattr(table, "columns") else list(table)
    return {str(name): _texts(table[name]) for name in names}, Path(), "table"


def _read_text(path: Path) -> Columns:
    """Read a text table; its first line says what separates cells."""
    content = path.read_bytes()
    # What Excel calls Unicode text is UTF-16 with a mark in front, and what it calls CSV may begin with a line sep=;
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
        if said := _SEPARATOR_SAID.match(text):
            text = text[said.end() :]
        # By counting: Excel writes semicolons where the comma is the decimal mark.
        delimiter = said[1] if said else max(",\t;", key=text.partition("\n")[0].count)
        lines = _cells(text, delimiter)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ParameterError(
            f"Got the table {str(path)!r}, which is no text table in UTF-8 ({error}). Mend it, or save it as CSV UTF-8."
        ) from error
    if not lines:
        raise ParameterError(f"Got the table {str(path)!r}, which is empty; expected a line of names and rows.")
    header, *rows = lines
    names = [name.strip() for name in header]
    for place, row in enumerate(rows, start=1):
        # A label with a comma in it, unquoted, would shift the cells after it in silence.
        if len(row) > len(names):
            raise ParameterError(
                f"Got the table {str(path)!r} with {len(row)} cells in row {place}, below {len(names)} names; "
                "expected one for each. Cells that hold the delimiter have to be in quotes."
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ParameterError(f"Got the table {str(path)!r} with several columns {twice!r}, expected each name once.")
    return {name: _texts(row[k] if k < len(row) else None for row in rows) for k, name in enumerate(names)}


def _cells(text: str, delimiter: str) -> list[list[str]]:
    """Split a text into lines and cells, refusing a quote that would swallow the lines after it."""
    stray = 0
    for strict in (True, False):
        lines, reader, begun = [], csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict), 1
        try:
            for line in reader:
                # What stands behind a closing quote harms nothing, but in a cell of several lines.
                if not strict and reader.line_num > begun:
                    raise csv.Error(f"line {stray} has text behind a quote, and other cells have several lines")
                lines.append(line)
                begun = reader.line_num + 1
            break
        except csv.Error as error:
            if not strict:
                raise
            if reader.line_num > begun or "end of data" in str(error):
                raise csv.Error(f"line {begun} opens a quote that does not end there") from error
            stray = begun
    return [line for line in lines if line]


def _read_parquet(path: Path) -> Columns:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet files need pyarrow, which is not installed. Run `pip install 'skecg[parquet]'`, or save the table "
            "as CSV."
        ) from error
    try:
        columns = parquet.read_table(path).to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise ParameterError(f"Got the table {str(path)!r}, which is no Parquet file ({error}).") from error
    return {name: _texts(cells) for name, cells in columns.items()}


def _texts(cells: Iterable[Any]) -> list[str | None]:
    """Return the cells of a column as text, whole numbers without the fraction that empty cells beside them gave."""
    texts = [_text(cell) for cell in cells]
    found = [_WHOLE.fullmatch(text) for text in texts if text is not None and text != MISSING_IN_PYTHON]
    # Of all cells or of none: beside 427.31, or 250.00, the 427.0 is a code.
    fractions = {match and match[2] for match in found} - {""}
    fraction = fractions.pop() if len(fractions) == 1 else None
    return texts if fraction is None else [text and text.removesuffix(fraction) for text in texts]


def _text(cell: Any) -> str | None:
    """Return a cell as text; None for what is missing in any of the ways that tables have."""
    if isinstance(cell, list | tuple | np.ndarray):  # a list of labels, as Parquet and data frames can hold
        cell = LABEL_SEPARATOR.join(map(str, cell)) + (LABEL_SEPARATOR if len(cell) < 2 else "")
    if isinstance(cell, bool | np.bool_):
        return str(cell).lower()
    if isinstance(cell, numbers.Real) and not isinstance(cell, numbers.Integral):
        cell = float(cell)
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "surrogateescape")
    text = "" if cell is None else str(cell).strip()
    if LABEL_SEPARATOR in text:
        return _without_missing(text)
    return None if text.lower() in _MISSING else text


def _without_missing(text: str) -> str | None:
    """Return a list of labels without those that are missing; nothing where others are not there."""
    parts = [part for part in map(str.strip, text.split(LABEL_SEPARATOR)) if part]
    known = [part for part in parts if part != MISSING_IN_PYTHON and part.lower() not in _MISSING]
    if len(known) == len(parts):
        return text
    if not known:
        return MISSING_IN_PYTHON if MISSING_IN_PYTHON in parts else None
    return LABEL_SEPARATOR.join(known) + (LABEL_SEPARATOR if len(known) == 1 else "")


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
    return Path(path).suffix.lower() in _SUFFIXES


def read_label_table(
    path: str | os.PathLike[str], *, whose: Callable[[Sequence[str]], Sequence[str]] | None = None
) -> LabelTable:
    """Read a table of labels or targets.

    Parameters
    ----------
    path : path-like
    whose : callable, optional
        Names whose the rows of shards are that a column ``row`` lists, for those of which the table does not say it.

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
    targets = _targets(path, said, target_columns)
    who = _patient_column(path, names)
    warn_of_doubtful("label", [row.get("label") for row in said])
    if who is not None:
        warn_of_doubtful(who, [row[who] for row in said], patients=True)
    patients = np.array([as_patient(row[who].strip()) if who else "" for row in said], dtype=str)
    # A recording of nobody is a patient of its own.
    nobodys = sources if whose is None or not by_row else whose(sources)
    patients = np.where(patients == "", np.array(nobodys, dtype=str), patients)
    folds = _folds(path, said, patients)
    shorter = tuple(name.removeprefix("target_") for name in target_columns)
    return LabelTable(path, sources, by_row, classes, labels, shorter, targets, patients, folds)


def _read(path: Path) -> list[dict[str, str]]:
    """Read the lines of a table by the names of their columns."""
    if not path.is_file():
        raise RecordNotFoundError(f"There is no table {str(path)!r}. Check the path.")
    read = read_columns(path)[0]
    columns = {_column(name): cells for name, cells in read.items()}
    known = [_column(name) for name in read]
    for name in read:
        if known.count(_column(name)) > 1 and _means_something(_column(name)):
            raise DamagedRecordError(
                f"Got the table {path} with columns that differ from {name!r} in case alone, expected each name once."
            )
    n_rows = len(next(iter(columns.values()), ()))
    if not n_rows:
        raise DamagedRecordError(f"Got the table {path} without a line below its names, expected one a recording.")
    n_none = sum(cells.count(MISSING_IN_PYTHON) for cells in columns.values())
    if n_none:
        what = f"{n_none} cells {MISSING_IN_PYTHON!r}, taken for missing. If it is a class, write 'none'."
        warnings.warn(f"Got the table {path} with {what}", SkecgWarning, stacklevel=user_stacklevel())
    # The first line holds the names.
    return [{name: _said(c[row]) for name, c in columns.items()} | {_LINE: str(row + 2)} for row in range(n_rows)]


def _means_something(name: str) -> bool:
    """Report a column that is read here."""
    return _MEANS_SOMETHING.fullmatch(name) is not None or is_patient_column(name)


def _said(cell: str | None) -> str:
    """Return a cell, empty where it is missing or as Python writes what is missing."""
    return "" if cell is None or cell == MISSING_IN_PYTHON else cell


def is_number(text: str) -> bool:
    """Return whether a cell is a finite number; 1_0, which Python takes for one, is a name."""
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def as_patient(cell: str) -> str:
    """Return whose a recording is: 15709.0 is 15709, in whatever column, and has to stay one patient."""
    whole = _WHOLE.fullmatch(cell)
    return cell if whole is None else whole[1]


def warn_of_doubtful(name: str, cells: Iterable[str | None], *, patients: bool = False) -> None:
    """Warn of labels that may mean that there is none, and of such patients where one has several recordings."""
    found = Counter(part.strip() for cell in cells if cell for part in cell.split(LABEL_SEPARATOR))
    doubtful, least = (_DOUBTFUL_PATIENT, 2) if patients else (_DOUBTFUL, 1)
    marks = sorted(mark for mark, n in found.items() if n >= least and doubtful.fullmatch(mark))
    if marks:
        what = "a patient each. If they are nobody's, correct or" if patients else "a class. If they say nothing,"
        said = f"Got the column {name!r} with the cells {', '.join(map(repr, marks))}, taken for {what} empty them."
        warnings.warn(said, SkecgWarning, stacklevel=user_stacklevel())


def is_patient_column(name: str) -> bool:
    """Report a usual name of the column that says whose recordings are."""
    return re.sub(r"[\s_-]", "", name).lower() in _PATIENTS


def _patient_column(path: Path, names: tuple[str, ...]) -> str | None:
    """Return the column that says whose a recording is, by one of the usual names."""
    usual = [name for name in names if name.lower() == "group" or is_patient_column(name)]
    if len(usual) > 1 and "patient" not in usual:
        raise DamagedRecordError(
            f"Got the table {path} with the columns {' and '.join(map(repr, usual))}, expected one that says whose a "
            "recording is. Call it 'patient'."
        )
    return "patient" if "patient" in usual else next(iter(usual), None)


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
    found = {part.strip() for part in row.get("label", "").split(LABEL_SEPARATOR) if part.strip()}
    for column in columns:
        if column == "label":
            continue
        cell = row[column].strip().lower()
        if cell not in _YES | _NO:
            hint = "" if cell else " Write 0 where it is known to be absent, or leave the line out."
            raise DamagedRecordError(
                f"Got {column}={row[column]!r} in line {row[_LINE]} of {path}, expected 0 or 1.{hint}"
            )
        if cell in _YES:
            found.add(column.removeprefix("label_"))
    return found


def _targets(path: Path, rows: list[dict[str, str]], columns: list[str]) -> NDArray[np.float64]:
    """Read the columns of targets, shape (n, n_targets)."""
    grouped = next((name for name in columns if are_grouped(row[name] for row in rows)), None)
    if grouped is not None:
        raise DamagedRecordError(
            f"Got the column {grouped!r} of {path} with points that seem to group thousands, expected numbers such as "
            "60.5 or 1500. Save the table without separators of thousands."
        )
    targets = np.array([[_target(row[name]) for name in columns] for row in rows]).reshape(len(rows), -1)
    known = np.isfinite(targets).all(axis=1)
    if not known.all():
        row = rows[int(np.flatnonzero(~known)[0])]
        cell = next(row[name] for name in columns if not is_number(row[name]))
        raise DamagedRecordError(
            f"Got line {row[_LINE]} of {path} without a number for each target but {cell!r}, expected one. Mend it, or "
            "leave the line out."
        )
    return targets


def _target(cell: str) -> float:
    return float(cell) if is_number(cell) else math.nan


def _folds(path: Path, rows: list[dict[str, str]], patients: NDArray[np.str_]) -> NDArray[np.int64]:
    """Read the folds, or spread patients over ten by their names."""
    if "fold" in rows[0]:
        for row in rows:
            if not row["fold"].strip().isdigit() or int(row["fold"]) == 0:
                # 0 says "no fold" everywhere else, and such rows would be on no side of a split.
                raise DamagedRecordError(
                    f"Got fold={row['fold']!r} in line {row[_LINE]} of {path}, expected a number from 1 on."
                )
        return np.array([int(row["fold"]) for row in rows], dtype=np.int64)
    # Not Python's hash(), which differs from process to process.
    digests = [hashlib.sha256(patient.encode()).digest() for patient in patients.tolist()]
    return np.array([int.from_bytes(digest[:8], "big") % _N_FOLDS + 1 for digest in digests], dtype=np.int64)
