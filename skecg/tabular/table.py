"""A table of recordings: a column of paths, and what is known of each of them.

Every cell is read as text, from CSV, Parquet and data frames alike, so that the same table means the same wherever it
comes from.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.base import LabelledECGs
from skecg.datasets.tables import (
    LABEL_SEPARATOR,
    MISSING_IN_PYTHON,
    Columns,
    as_patient,
    is_patient_column,
    read_columns,
    warn_of_doubtful,
)
from skecg.errors import ParameterError, SkecgWarning, user_stacklevel
from skecg.tabular.targets import CLASSES, LABELS, NUMBERS, Target, read_target
from skecg.validation import suggestion

__all__ = ["RecordTable", "columns_of", "read_record_table"]

# Of rows that are left out, so many are named.
_NAMED = 5


@dataclass(frozen=True, eq=False)
class RecordTable:
    """Recordings of a table, and what is known of them.

    Parameters
    ----------
    name : str
        Of the table.
    paths : list of str
        Where the recordings lie; relative ones were resolved against the table's folder.
    rows : ndarray of shape (n_records,), int64
        Their rows in the table, from 0.
    groups : ndarray of shape (n_records,), str
        Whose recording each is; its own where the table does not say.
    target : Target or None
    columns : dict of str to list
        All columns, of these rows.
    left_out : dict of str to list of str
        By reason, what the rows are called that are not used.
    grouped : bool
        Whether the table says whose recordings they are.
    """

    name: str
    paths: list[str]
    rows: NDArray[np.int64]
    groups: NDArray[np.str_]
    target: Target | None
    columns: Columns
    left_out: dict[str, list[str]] = field(default_factory=dict)
    grouped: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def notes(self) -> Iterator[str]:
        """Yield sentences on what is used and what is not."""
        n_left_out = sum(map(len, self.left_out.values()))
        for reason, names in self.left_out.items():
            some = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
            yield f"{len(names)} of {len(self) + n_left_out} rows are left out, for they have {reason}: {some}"
        if self.target is not None:
            what = {CLASSES: f"{len(self.target.classes)} classes", LABELS: f"{len(self.target.classes)} labels"}
            of = f" ({', '.join(self.target.classes[:8])}{', …' if len(self.target.classes) > 8 else ''})"
            yield f"{self.target.name}: {what.get(self.target.kind, 'a quantity')}{of if self.target.classes else ''}"
            if lonely := self.of_one_patient():
                yield f"of one patient only, so that no score can be made by patients: {', '.join(lonely[:_NAMED])}"
        if not self.grouped:
            whose = filter(is_patient_column, self.columns)
            hint = next((f"; if {name!r} does, pass --group-column {name}" for name in whose), "")
            yield f"no column says whose recordings these are: each is taken for one of a patient of its own{hint}"

    def of_one_patient(self) -> list[str]:
        """Return the classes or labels that one patient has and no other."""
        target = self.target
        if target is None or target.kind == NUMBERS:
            return []
        has = target.y[:, None] == np.arange(len(target.classes)) if target.kind == CLASSES else target.y == 1
        return [name for name, of in zip(target.classes, has.T, strict=True) if len(set(self.groups[of].tolist())) == 1]

    def check_learnable(self) -> None:
        """Raise where no two classes have two patients each: nothing could be learned of some and told of others."""
        target = self.target
        if target is None or target.kind != CLASSES:
            return
        lonely = self.of_one_patient()
        n_shared = len(np.unique(target.y)) - len(lonely)
        if n_shared < 2:
            raise ParameterError(
                f"Got the column {target.name!r} with {n_shared} classes that more than one patient has, expected two "
                f"or more. Of one patient only: {', '.join(lonely[:_NAMED]) or 'none'}. Add patients, or leave the "
                "group column out if it is wrong."
            )

    def select(self, keep: NDArray[np.bool_], reason: str) -> RecordTable:
        """Return the records that are kept, and count the others as left out for a reason."""
        kept = np.flatnonzero(keep)
        gone = [self.paths[row] for row in np.flatnonzero(~keep)]
        return RecordTable(
            self.name,
            [self.paths[row] for row in kept],
            self.rows[kept],
            self.groups[kept],
            None if self.target is None else self.target.take(kept),
            {name: [cells[row] for row in kept] for name, cells in self.columns.items()},
            self.left_out | ({reason: gone} if gone else {}),
            self.grouped,
        )

    def dataset(
        self, sampling_rate: float | None = None, leads: tuple[str, ...] | None = None, units: str | None = None
    ) -> LabelledECGs:
        """Return the recordings as evaluations take them."""
        n = len(self)
        return LabelledECGs(
            name=self.name,
            records=self.paths,
            sampling_rate=sampling_rate,
            leads=leads,
            codes=({},) * n,
            patients=self.groups,
            folds=np.zeros(n, dtype=np.int64),
            sexes=np.full(n, ""),
            ages=np.full(n, np.nan),
            licence="",
            citation="",
            folder=Path(),
            record_ids=self.rows.astype(str),
            units=units or "mV",
        )


def read_record_table(
    table: Any,
    path_column: str = "path",
    label_columns: Sequence[str] = (),
    group_column: str | None = None,
    *,
    kind: str | None = None,
    check_files: bool = True,
) -> RecordTable:
    """Read a table of recordings.

    Parameters
    ----------
    table : str, Path, data frame or mapping of str to sequence
        A ``.csv``, ``.tsv`` or ``.parquet`` file, against whose folder relative paths are resolved; or a data frame.
    path_column : str, default="path"
    label_columns : sequence of str, optional
        One column of classes, of numbers, or of labels with semicolons between them; or several columns of 0 and 1.
    group_column : str, optional
        Whose recording each is.
    kind : {"classes", "labels", "numbers"}, optional
        What the labels are, where the cells leave it open.
    check_files : bool, default=True
        Whether rows without a file are left out; otherwise only those without labels or group are.

    Returns
    -------
    RecordTable
        Rows without a label, a group or a file are left out and named.

    Warns
    -----
    SkecgWarning
        When a cell of labels may or may not mean that there is none.

    Raises
    ------
    ParameterError
        When there is no such table or column, labels cannot be read, or no row is left.
    MissingDependencyError
        When a Parquet file is to be read and pyarrow is not installed.
    """
    columns, folder, name = read_columns(table)
    # Recordings as their own groups are the rule without a column of groups, so that column may be named as both.
    _check_names([path_column, *label_columns, *([] if group_column in (None, path_column) else [str(group_column)])])
    written = _column(columns, path_column, "--path-column")
    cells = [_without_missing(_column(columns, label, "--label-column")) for label in label_columns]
    who = None if group_column is None else _without_missing(_column(columns, group_column, "--group-column"))
    paths = [_resolved(path, folder) for path in written]
    whole = RecordTable(
        name,
        paths,
        np.arange(len(paths)),
        # Names of rows that no group can have.
        np.array([f"row {k}" for k in range(len(paths))] if who is None else [as_patient(cell or "") for cell in who]),
        None,
        columns,
        grouped=who is not None,
    )
    has_label = np.array([all(row) for row in zip(*cells, strict=True)] if cells else [True] * len(paths), dtype=bool)
    keep, used = has_label.copy(), whole.select(has_label, "no label")
    if who is not None:
        grouped = np.array([bool(group) for group in used.groups], dtype=bool)
        keep, used = _narrowed(keep, grouped), used.select(grouped, f"no {group_column}")
    if check_files:
        there = np.array([_is_there(path) for path in used.paths], dtype=bool)
        keep, used = _narrowed(keep, there), used.select(there, "no file")
    if not len(used):
        why = "; ".join(used.notes()) if len(paths) else "There is nothing below the names of its columns"
        raise ParameterError(f"Got {name!r} with {len(paths)} rows, of which none can be used. {why}.")
    if group_column is not None:
        warn_of_doubtful(group_column, used.columns[group_column], patients=True)
    if not cells:
        return used
    of_used = [[cell for cell, kept in zip(column, keep, strict=True) if kept] for column in cells]
    target = read_target(list(label_columns), of_used, kind)
    for label in label_columns:
        _warn_of_none(label, columns[label])
        warn_of_doubtful(label, columns[label])
    return RecordTable(used.name, used.paths, used.rows, used.groups, target, used.columns, used.left_out, used.grouped)


def _join_rows(others: Columns, first: int, row: int, name: str) -> None:
    """Fill the first row of a recording from a second, and raise where that says something else: it would be lost."""
    for column, cells in others.items():
        if cells[first] and cells[row] and cells[first] != cells[row]:
            raise ParameterError(
                f"Got rows {first + 1} and {row + 1} of {name!r} about one recording with other cells in {column!r}; "
                f"expected one row for each. Several labels go into one cell, with {LABEL_SEPARATOR!r} between them."
            )
        cells[first] = cells[first] or cells[row]


def columns_of(
    paths: Sequence[str], table: Any, path_column: str = "path", *, named: Sequence[str] = ()
) -> tuple[Columns, NDArray[np.bool_]]:
    """Return what a table knows of recordings that were named elsewhere.

    Parameters
    ----------
    paths : sequence of str of length n_records
        As they were named; found as the same file, or by that name unless the table's is another file, with or
        without the suffix of a WFDB record.
    table : str, Path, data frame or mapping of str to sequence
    path_column : str, default="path"
    named : sequence of str, optional
        The columns wanted, which have to be there; all by default.

    Returns
    -------
    columns : dict of str to list of length n_records
        Those wanted, without that of paths; None of recordings that the table does not name.
    known : ndarray of shape (n_records,), bool
        Which ones it names.

    Raises
    ------
    ParameterError
        When there is no such table or column, it names none of the recordings, or one of them twice with other cells.
    """
    columns, folder, name = read_columns(table)
    written = _column(columns, path_column, "--path-column")
    for label in named:
        _column(columns, label, "--label-column")
    wanted = named or [column for column in columns if column != path_column]
    others = {column: list(_without_missing(columns[column])) for column in wanted}
    by_file: dict[str, int] = {}
    by_name: dict[str, int] = {}
    for row, cell in enumerate(written):
        if cell is not None:
            first = by_file.setdefault(_place_of(_resolved(cell, folder)), row)
            _join_rows(others, first, row, name)
            by_name.setdefault(_bare(cell), first)

    def row_of(path: str) -> int | None:
        named = by_name.get(_bare(path))
        if (row := by_file.get(_place_of(path))) is not None or named is None:
            return row
        return None if _are_two(path, _resolved(written[named], folder)) else named

    found = [row_of(path) for path in paths]
    known = np.array([row is not None for row in found], dtype=np.bool_)
    if not known.any():
        raise ParameterError(
            f"Got the table {name!r}, whose column {path_column!r} names none of the {len(paths)} recordings (the "
            f"first is {paths[0] if paths else ''!r}). Paths have to be relative to the table, or, where no other file "
            "of that name lies beside it, written as in the file of features."
        )
    return {c: [None if row is None else cells[row] for row in found] for c, cells in others.items()}, known


def _bare(path: str) -> str:
    """Return a path without the suffix that a WFDB record may be named with."""
    return path.removesuffix(".hea").removesuffix(".dat").removesuffix(".mat")


def _place_of(path: str) -> str:
    """Return where a recording lies, to be compared; links stay links."""
    return _bare(os.path.abspath(path))  # noqa: PTH100


def _are_two(path: str, other: str) -> bool:
    """Report two recordings, both of them there, that may well have one name: hospitals number alike."""
    file, another = _file_of(path), _file_of(other)
    if not file or not another or os.path.samefile(file, another):  # noqa: PTH121
        return False
    # Header and signals of one recording, behind a link.
    return _bare(os.path.realpath(file)) != _bare(os.path.realpath(another))


def _narrowed(keep: NDArray[np.bool_], of_kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    narrowed = keep.copy()
    narrowed[keep] = of_kept
    return narrowed


def _check_names(names: Sequence[str]) -> None:
    """Raise for a column that is asked for as two things: a label that is known from the path is none."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ParameterError(
            f"Got {twice[0]!r} as two of --path-column, --label-column and --group-column, expected a column for each."
        )


def _without_missing(cells: list[str | None]) -> list[str | None]:
    return [None if cell == MISSING_IN_PYTHON else cell for cell in cells]


def _warn_of_none(name: str, cells: list[str | None]) -> None:
    """Warn of the None of Python, which may be a class."""
    if n_none := cells.count(MISSING_IN_PYTHON):
        what = f"{n_none} cells {MISSING_IN_PYTHON!r}, taken for no label. If it is a class, write 'none'."
        warnings.warn(f"Got the column {name!r} with {what}", SkecgWarning, stacklevel=user_stacklevel())


def _column(columns: Columns, name: str, option: str) -> list[str | None]:
    if name not in columns:
        hint = suggestion(name, columns) or " Name one of these."
        raise ParameterError(f"Got {option} {name!r}, expected one of {', '.join(map(repr, columns))}.{hint}")
    return columns[name]


def _resolved(path: str | None, folder: Path) -> str:
    if path is None:
        return ""
    # Relative to the table, which is moved together with the recordings, not to where the command is run.
    found = str(folder / Path(path).expanduser())
    # Tables are written on Windows, too; a name that holds a backslash here stays what it is.
    if os.sep == "/" and "\\" in path and not _is_there(found):
        there = _resolved(path.replace("\\", "/"), folder)
        return there if _is_there(there) else found
    return found


def _is_there(path: str) -> bool:
    return _file_of(path) is not None


def _file_of(path: str) -> str | None:
    """Return the file that a path names, or the header of a WFDB record without its suffix, if it is there."""
    names = (path, f"{path}.hea") if path else ()
    return next(filter(os.path.isfile, names), None)
