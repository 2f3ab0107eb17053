"""Text tables of numbers: CSV, TSV and their relatives, one row a sample.

The common case goes through numpy's parser in C. Whatever that refuses is read again cell by cell, slowly, to accept
missing values and to say exactly where a table is broken.
"""

from __future__ import annotations

import contextlib
import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skecg.errors import DamagedRecordError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["TextTable", "parse_text_table"]

_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})
_SNIFFED_LINES = 20
_MANY_COLUMNS = 64
_MANY_NUMBERS = 8
_SHOWN = 30  # characters of a cell quoted in a message


@dataclass(frozen=True)
class TextTable:
    """The numbers of a table and the names above them.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns), float64
        NaN where a cell is empty or says so.
    header : tuple of str or None
        The cells of the first row, where that holds names.
    """

    values: NDArray[np.float64]
    header: tuple[str, ...] | None


@dataclass(frozen=True)
class _Lines:
    """The lines of a file and what is between and inside their cells."""

    path: Path
    lines: list[str]
    first_number: int  # of lines[0] in the file, counted from 1
    delimiter: str | None  # None: blanks
    is_quoted: bool

    def cells(self, index: int) -> list[str]:
        """Split one line."""
        line = self.lines[index]
        if self.is_quoted:
            try:
                quoted = next(csv.reader([line], delimiter=self.delimiter or " ", skipinitialspace=True))
            except csv.Error as error:
                where = f"line {self.first_number + index} of {self.path}"
                raise DamagedRecordError(f"Got quotes that make no cells in {where}, expected numbers.") from error
            return [cell.strip() for cell in quoted] or [""]
        return [cell.strip() for cell in line.split(self.delimiter)] or [""]


def parse_text_table(path: Path) -> TextTable:
    """Read a table whose cells are separated by commas, semicolons, tabs or blanks.

    Parameters
    ----------
    path : Path
        A text file in UTF-8 (with or without a byte-order mark), UTF-16 with one, or Latin-1.

    Returns
    -------
    TextTable

    Raises
    ------
    DamagedRecordError
        When the file is empty, binary, has no row of numbers, rows of different lengths or text among its numbers.
    ShapeError
        When it lies on its side: few rows of very many columns.
    """
    table = _split_lines(_decoded(path), path)
    _check_upright(table)
    header = _header(table)
    if header is not None:
        table = _Lines(path, table.lines[1:], table.first_number + 1, table.delimiter, table.is_quoted)
        if not table.lines:
            raise DamagedRecordError(f"{path} holds a header and no samples. Export it again.")
    values = _parse_fast(table)
    if values is None:
        values = _parse_cells(table)
    if header is not None and _is_numbering(header):
        header = None
    return TextTable(values, header)


def _decoded(path: Path) -> str:
    """Read a file as text, refusing what is none."""
    content = path.read_bytes()
    if not content.strip():
        raise DamagedRecordError(f"{path} is empty ({len(content)} bytes), expected a table of samples.")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode("utf-16")
    if b"\0" in content:
        raise DamagedRecordError(f"{path} is a binary file, expected a text table with one row a sample.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _split_lines(text: str, path: Path) -> _Lines:
    """Split a text into lines and find out what separates their cells."""
    lines = text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1].strip(" "):  # tabs alone are a row of empty cells
        lines.pop()
    first = next((i for i, line in enumerate(lines) if line.strip(" ")), len(lines))
    lines = lines[first:]
    if not lines:
        raise DamagedRecordError(f"{path} holds only blank lines, expected a table of samples.")
    lines[0] = lines[0].removeprefix("#")
    is_quoted = '"' in text
    sample = [re.sub(r'"[^"]*"', '""', line) for line in lines[:_SNIFFED_LINES] if line.strip()]
    delimiter = next((d for d in "\t;," if 2 * sum(d in line for line in sample) > len(sample)), None)
    return _Lines(path, lines, first + 1, delimiter, is_quoted)


def _check_upright(table: _Lines) -> None:
    """Raise for leads in rows before anything is parsed."""
    n_rows, n_columns = len(table.lines), len(table.cells(0))
    if n_columns > max(n_rows, _MANY_COLUMNS):
        raise ShapeError(
            f"Got {n_rows} rows of {n_columns} columns in {table.path}, which looks transposed. Expected one row a "
            "sample and one column a lead. Transpose the file, or pass np.loadtxt(...) as an ECGRecord."
        )


def _header(table: _Lines) -> tuple[str, ...] | None:
    """Return the first row if it holds names: no numbers, or the columns' own numbers as pandas writes them."""
    cells = tuple(table.cells(0))
    if _is_numbering(cells):
        return cells
    named = [cell for cell in cells if cell.lower() not in _MISSING]
    if not named or any(_number(cell.replace(",", ".")) is not None for cell in named):
        return None
    return cells


def _is_numbering(cells: Sequence[str]) -> bool:
    """Report 0, 1, 2, ... after an empty corner, or so many of them that they cannot be the voltages of an instant."""
    numbers = list(cells[1:] if cells[0] == "" else cells)
    return len(numbers) >= (2 if cells[0] == "" else _MANY_NUMBERS) and numbers == [str(i) for i in range(len(numbers))]


def _number(cell: str) -> float | None:
    """Read one cell, NaN where it says that it is missing, None where it is text."""
    if cell.lower() in _MISSING:
        return float("nan")
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None


def _has_decimal_commas(table: _Lines, text: str) -> bool:
    """Report European numbers: commas that separate nothing, and no points."""
    return (table.delimiter != "," or table.is_quoted) and "," in text and "." not in text


def _parse_fast(table: _Lines) -> NDArray[np.float64] | None:
    """Parse with numpy; None when the table has gaps, flaws or anything else out of the ordinary."""
    if table.is_quoted or not all(map(str.strip, table.lines)):
        return None
    text = "\n".join(table.lines)
    if _has_decimal_commas(table, text):
        text = text.replace(",", ".")
    try:
        return np.loadtxt(text.split("\n"), delimiter=table.delimiter, comments=None, dtype=np.float64, ndmin=2)
    except ValueError:
        return None


def _parse_cells(table: _Lines) -> NDArray[np.float64]:
    """Parse cell by cell, naming the first that cannot be understood."""
    rows = [table.cells(i) for i in range(len(table.lines))]
    _check_lengths(rows, table)
    decimal_commas = _has_decimal_commas(table, "".join(cell for row in rows for cell in row))
    values = np.empty((len(rows), len(rows[0])), dtype=np.float64)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            number = _number(cell.replace(",", ".") if decimal_commas else cell)
            if number is None:
                shown = cell if len(cell) <= _SHOWN else cell[:_SHOWN] + "…"
                raise DamagedRecordError(
                    f"Got the text {shown!r} in line {table.first_number + i}, column {j + 1} of {table.path}, "
                    "expected a number. Correct the cell, or leave it empty if the sample is missing."
                )
            values[i, j] = number
    return values


def _check_lengths(rows: Sequence[Sequence[str]], table: _Lines) -> None:
    """Raise for rows of different lengths, naming the first that differs."""
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise DamagedRecordError(
                f"Got {len(row)} column(s) in line {table.first_number + i} of {table.path}, expected {len(rows[0])} "
                f"as in line {table.first_number}: the file is truncated or damaged. Export it again."
            )
