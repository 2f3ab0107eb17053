"""Text tables of numbers: CSV, TSV and their relatives, one row a sample.

The common case goes through numpy's parser in C. Whatever that refuses is read again cell by cell, slowly, to accept
missing values and to say exactly where a table is broken. Lines above the samples that say what they are, as wearables
write them in their user's language, are read in :mod:`skecg.io.statements`.
"""

from __future__ import annotations

import contextlib
import csv
import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from skecg.errors import DamagedRecordError, ShapeError, UnsupportedFormatError
from skecg.io.files import decoded_text
from skecg.io.statements import NOTHING_STATED, Statements, are_grouped, count_lines_above, read_statements
from skecg.io.times import clock_seconds
from skecg.leads import CANONICAL_LEADS, canonical_lead
from skecg.records import millivolts_per_unit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["TextTable", "check_about_samples", "parse_text_table"]

_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})
_SNIFFED_LINES = 20
_SNIFFED_BYTES = 2**14
_MANY_COLUMNS = 64
_MANY_NUMBERS = 8
_CHEST_LEADS = 6
_SHOWN = 30  # characters of a cell quoted in a message
_MANY_TEXTS = 5  # rows that are looked at to tell a table about recordings from samples with a slip
_DAY = 86_400.0  # seconds
_SECONDS_PER = {"": 1.0, "m": 1e-3, "u": 1e-6, "µ": 1e-6}
# What columns of a table about recordings are called.
_ABOUT_RECORDINGS = frozenset(
    {"age", "sex", "gender", "label", "labels", "class", "target", "diagnosis", "diagnoses", "scp_codes", "fold"}
    | {"path", "strat_fold", "split", "file", "filename", "file_name", "filename_lr", "filename_hr", "record"}
    | {"record_name", "record_id", "ecg_id", "exam_id", "study_id", "subject_id", "patient", "patient_id"}
    | {"height", "weight"}
)
_LIST = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)
_TIME_UNIT = re.compile(r"(?:[\d.]+ )?(?:s|sec|seconds?|ms|us|ns|min)|samples?|hh:mm:ss\S*|", re.IGNORECASE)


@dataclass(frozen=True)
class TextTable:
    """The numbers of a table and the names above them.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns), float64
        NaN where a cell is empty or says so.
    header : tuple of str or None
        The cells of the first row, where that holds names.
    stated : Statements
        What lines above say of the samples.
    times : ndarray of shape (n_rows,) or None
        Seconds, where a column holds dates or clock times; that column is not among the values.
    """

    values: NDArray[np.float64]
    header: tuple[str, ...] | None
    stated: Statements = NOTHING_STATED
    times: NDArray[np.float64] | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """The header where it has a name for each column."""
        return self.header if self.header is not None and len(self.header) == self.values.shape[1] else None

    @property
    def first_name(self) -> str:
        """The name of the first column, empty where there is none."""
        return "" if self.names is None else self.names[0]


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
    """Read a table whose cells are separated by commas, semicolons, tabs, blanks or upright bars.

    Parameters
    ----------
    path : Path
        A text file in UTF-8 or UTF-16, with or without a byte-order mark, or in Latin-1.

    Returns
    -------
    TextTable

    Raises
    ------
    DamagedRecordError
        When the file is empty, binary, has no row of numbers, rows of different lengths or text among its numbers.
    UnsupportedFormatError
        When it is a table about recordings, or one with a recording in each row.
    ShapeError
        When it lies on its side: few rows of very many columns.
    """
    table, header, stated = _rows_and_names(path.read_bytes(), path)
    values, times = _parse_fast(table), None
    if values is None:
        _check_samples(table, header)
        values, header, times = _parse_cells(table, header)
    _check_not_grouped(values, table)
    _check_first_row(table)
    if header is not None and (_is_numbering(header) or _is_numbering_of_r(header, values)):
        header = None
    return TextTable(values, header, stated, times)


def check_about_samples(path: Path) -> None:
    """Raise for a table about recordings by its first rows, before anything is made of it.

    Raises
    ------
    UnsupportedFormatError
    """
    with path.open("rb") as file:
        head = file.read(_SNIFFED_BYTES)
    whole_lines = head if len(head) < _SNIFFED_BYTES else head[: head.rfind(b"\n") + 1]
    with contextlib.suppress(DamagedRecordError, ShapeError):  # reading it will say so
        table, header, _ = _rows_and_names(whole_lines, path)
        _check_samples(table, header)


def _rows_and_names(content: bytes, path: Path) -> tuple[_Lines, tuple[str, ...] | None, Statements]:
    """Split a text into its rows of samples, the names above them, and what lines above those state."""
    table, stated = _without_preamble(_split_lines(decoded_text(content, path), path))
    _check_upright(table)
    header = _header(table)
    _check_names(header, path)
    header = _bracketed_units(header)
    if header is not None:
        table = _Lines(path, table.lines[1:], table.first_number + 1, table.delimiter, table.is_quoted)
        if not table.lines:
            raise DamagedRecordError(f"{path} holds a header and no samples. Export it again.")
    return table, header, stated


def _without_preamble(table: _Lines) -> tuple[_Lines, Statements]:
    """Split off lines above the samples, but for a row of names, and return what they say."""
    n_above = count_lines_above(table.lines)
    if n_above == 0:
        return table, NOTHING_STATED
    above, rows = table.lines[:n_above], table.lines[n_above:]
    below = _Lines(table.path, rows, table.first_number + n_above, _delimiter(rows), table.is_quoted)
    by_column = _stated_by_column(above, below)
    if by_column is not None:
        columns, rate = by_column
        named = _Lines(table.path, ["\t".join(columns), *rows], below.first_number - 1, "\t", table.is_quoted)
        return named, NOTHING_STATED._replace(sampling_rate=rate)
    _check_no_samples_above(above, below)
    names, n_names = _names_above(above, below)
    stated = read_statements(above[: len(above) - n_names])
    if names is not None:
        first_number = below.first_number - 1
        return _Lines(table.path, [names, *rows], first_number, below.delimiter, table.is_quoted), stated
    if below.delimiter == "," and _are_decimal_commas(rows):
        below = _Lines(table.path, rows, below.first_number, None, table.is_quoted)
    return below, stated


def _stated_by_column(above: Sequence[str], below: _Lines) -> tuple[list[str], float | None] | None:
    """Return the names, with units, of columns that LabChart describes in rows (``ChannelTitle=``), and their rate."""
    rows = [[cell.strip() for cell in line.rstrip().split("\t")] for line in above]
    stated = {cells[0].rstrip("= ").lower(): cells[1:] for cells in rows if cells[0].endswith("=")}
    titles = [title or f"CH {place}" for place, title in enumerate(stated.get("channeltitle", []), start=1)]
    ranges = [cell.rpartition(" ")[2] for cell in stated.get("range", [])]
    units = (stated.get("unitname") or stated.get("units") or ranges)[: len(titles)]
    last, n_others = below.cells(0)[-1], len(below.cells(0)) - len(titles)
    if not titles:
        return None
    if not 0 <= n_others <= 2 or (n_others == 2 and last):
        raise DamagedRecordError(
            f"Got {len(titles)} channel titles in {below.path}, expected one for each column beside the time, of "
            f"{len(below.cells(0))}. Export it again."
        )
    names = [f"{title} [{unit}]" if unit else title for title, unit in zip_longest(titles, units, fillvalue="")]
    names = [*["time [s]"] * (n_others - (not last)), *names, *[""] * (not last)]
    interval = re.fullmatch(r"([\d.e-]+) *(m|u|µ|)s", " ".join(stated.get("interval", [])).strip())
    seconds = (_number(interval[1]) or 0) * _SECONDS_PER[interval[2]] if interval else 0
    return names, 1 / seconds if seconds else None


def _check_no_samples_above(above: Sequence[str], below: _Lines) -> None:
    """Raise for rows of samples above a line of text: what seems to be a preamble stands in the midst of a table."""
    lines = _Lines(below.path, list(above), below.first_number - len(above), below.delimiter, below.is_quoted)
    n_columns = len(below.cells(0))
    for i in range(len(above) - 1):
        cells = lines.cells(i)
        if len(cells) == n_columns > 1 and all(_number(cell) is not None for cell in cells) and any(cells):
            raise _not_understood(above[i + 1], "a row of numbers as in the line above it", i + 1, 0, lines)


def _names_above(above: list[str], below: _Lines) -> tuple[str | None, int]:
    """Return the names right above the samples, with the units of a row between them, and how many rows that was."""
    names = [line.strip("# ") for line in above[-2:]]
    if not names[-1]:
        return None, 0
    rows = _Lines(below.path, names, below.first_number - len(names), below.delimiter, below.is_quoted)
    n_columns = len(below.cells(0))
    last = _name_cells(rows, n_columns, -1)
    units = [unit.strip("()[]") for unit in last]
    is_units = all(_TIME_UNIT.fullmatch(unit) or millivolts_per_unit(unit) is not None for unit in units)
    if below.delimiter is not None and is_units and len(rows.cells(0)) == len(units) == n_columns:
        cells = zip(_name_cells(rows, n_columns), units, strict=True)
        return below.delimiter.join(f"{name} [{unit}]" for name, unit in cells), 2
    stated = read_statements(names[-1:])
    is_statement = stated.lead is not None and canonical_lead(last[0]) not in CANONICAL_LEADS
    if stated.sampling_rate or stated.units or is_statement or len(last) != n_columns:
        return None, 0
    return names[-1], 1


def _are_decimal_commas(rows: Sequence[str]) -> bool:
    """Report rows of one number with a decimal comma each: no points, at most one comma, and no count before it."""
    if any("." in row or row.count(",") > 1 for row in rows):
        return False
    whole = [row.partition(",")[0] for row in rows]
    return not (all("," in row for row in rows) and whole == [str(i + int(whole[0] == "1")) for i in range(len(rows))])


def _split_lines(text: str, path: Path) -> _Lines:
    """Split a text into lines and find out what separates their cells."""
    lines = text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1].strip(" "):  # tabs alone are a row of empty cells
        lines.pop()
    first = next((i for i, line in enumerate(lines) if line.strip(" ")), len(lines))
    lines = lines[first:]
    if not lines:
        raise DamagedRecordError(f"{path} holds only blank lines, expected a table of samples.")
    if len(lines) > 1 and re.fullmatch(r"sep=.\s*", lines[0]):  # a note to spreadsheets
        first, lines = first + 1, lines[1:]
    lines[0] = lines[0].removeprefix("#")
    return _Lines(path, lines, first + 1, _delimiter(lines), '"' in text)


def _delimiter(lines: Sequence[str]) -> str | None:
    """Return what separates the cells of most lines, None for blanks."""
    sample = [re.sub(r'"[^"]*"', '""', line) for line in lines[:_SNIFFED_LINES] if line.strip()]
    return next((d for d in "|\t;," if 2 * sum(d in line for line in sample) > len(sample)), None)


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
    cells = _name_cells(table, len(table.cells(min(1, len(table.lines) - 1))))
    if _is_numbering(cells):
        return cells
    named = [cell for cell in cells if cell.lower() not in _MISSING]
    if not named or any(_number(cell.replace(",", ".")) is not None for cell in named):
        return None
    return cells


def _bracketed_units(header: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Write a row of units alone, mV or uV, as what they are, so that they are no leads' names; V may be one."""
    cells = header or ()
    units = cells[1:] if cells and _TIME_UNIT.fullmatch(cells[0]) else cells
    is_units = {*units} - {"V", "v"} and all(millivolts_per_unit(unit) is not None for unit in units)
    return tuple([f"[{cell}]" for cell in cells]) if is_units else header


def _name_cells(table: _Lines, n_columns: int, line: int = 0) -> tuple[str, ...]:
    """Split a row of names; above a single column the blanks in it separate nothing (``ECG (uV)``)."""
    if table.delimiter is None and n_columns == 1 and "," not in table.lines[line]:
        return (table.lines[line].strip(" \t\"'"),)
    return tuple([re.sub(r"^'(.*)'$", r"\1", cell) for cell in table.cells(line)])


def _is_numbering(cells: Sequence[str]) -> bool:
    """Report 0, 1, 2, ... (1, 2, 3, ...) after an empty corner, or more of them than voltages of an instant."""
    numbers = list(cells[1:] if cells[0] == "" else cells)
    runs = [[str(i + first) for i in range(len(numbers))] for first in (0, 1)]
    return len(numbers) >= (2 if cells[0] == "" else _MANY_NUMBERS) and numbers in runs


def _is_numbering_of_r(header: Sequence[str], values: NDArray[np.float64]) -> bool:
    """Report V1, V2, ... as R names the columns of a matrix: beyond V6, or after a corner above rows from 1."""
    has_corner = header[0] == "" and values[0, 0] == 1
    names = list(header[1:] if header[0] == "" else header)
    numbered = names == [f"V{i}" for i in range(1, len(names) + 1)]
    return numbered and (len(names) > _CHEST_LEADS or has_corner)


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


def _check_not_grouped(values: NDArray[np.float64], table: _Lines) -> None:
    """Raise for a column whose separators group thousands: 1,153 would be 1.153 beside 753."""
    largest = np.fmax.reduce(np.abs(values), axis=0)
    some = values[:, (largest >= 100) & (largest < 1000)]
    has_fraction = some != np.rint(some)
    # Milliseconds may have three digits, or none; they only grow.
    doubtful = np.any(has_fraction & np.isfinite(some), 0) & np.any(np.diff(some, axis=0) <= 0, 0)
    # Their texts are looked at only where there are such numbers, and none below one.
    if not np.any(doubtful & ~np.any(has_fraction & (np.abs(some) < 1), 0)):
        return
    for j, column in enumerate(zip(*map(table.cells, range(len(table.lines))), strict=True)):
        if are_grouped(column):
            grouped = next(cell for cell in column if "," in cell or "." in cell)
            raise DamagedRecordError(
                f"Got numbers such as {grouped!r} and whole ones below 1000 in column {j + 1} of {table.path}, whose "
                "separator seems to group thousands; expected none but decimal ones. Save the table without it."
            )


def _check_first_row(table: _Lines) -> None:
    """Raise for a row of sample counts, gains or column numbers above samples with fractions."""
    first, *following = [table.cells(i) for i in range(min(len(table.lines), 1 + _MANY_TEXTS))]
    numbers = [cell for cell in first if cell]
    is_numbering = len(numbers) > 2 and numbers in [[str(i + k) for i in range(len(numbers))] for k in (0, 1)]
    is_count = numbers == [str(len(table.lines) - 1)]
    is_same = len(numbers) > 1 and len(set(numbers)) == 1 and numbers[0].isdigit() and int(numbers[0]) > 0
    if not (is_numbering or is_count or is_same) or not following:
        return
    if all("." in cell or "," in cell for row in following for cell, above in zip(row, first, strict=False) if above):
        raise DamagedRecordError(
            f"Got {', '.join(numbers[:3])} in line {table.first_number} of {table.path}, above numbers with "
            "fractions, expected a sample. Delete the line, or write 1.0 for 1 if it is one."
        )


def _check_names(header: tuple[str, ...] | None, path: Path) -> None:
    """Raise for a first row that tells of patients, labels or files and of no lead, even above numbers alone."""
    about = [name for name in header or () if name.lower() in _ABOUT_RECORDINGS]
    if about and not _names_a_lead(header):
        raise _not_samples(path, about)


def _names_a_lead(header: tuple[str, ...] | None) -> bool:
    """Whether a first row names any of the twelve leads."""
    return header is not None and any(canonical_lead(name) in CANONICAL_LEADS for name in header)


def _check_samples(table: _Lines, header: tuple[str, ...] | None) -> None:
    """Raise for a table whose rows are about recordings, or recordings themselves, and no samples."""
    rows = [table.cells(i) for i in range(min(len(table.lines), _MANY_TEXTS)) if table.lines[i].strip()]
    is_named = header is not None and not _names_a_lead(header)
    columns = [
        (header[j] if header is not None and j < len(header) else f"column {j + 1}", [row[j] for row in rows])
        for j in range(min(map(len, rows), default=0))
    ]
    for name, cells in columns:
        if all(map(_LIST.fullmatch, cells)):
            raise UnsupportedFormatError(
                f"Got {table.path} with a list of values in each row ({name}), expected one row a sample. Each row is "
                "a recording: pass each as skecg.ECGRecord([values], sampling_rate, ['I']), with "
                "values = numpy.array(json.loads(cell)) in millivolts (Withings writes microvolts from a watch, "
                "millivolts from a blood pressure monitor)."
            )
    for name, cells in columns:
        if (len(rows) > 1 or is_named) and not any(map(_is_value, cells)):
            raise _not_samples(table.path, [name])


def _is_value(cell: str) -> bool:
    """Report a number, in either way of writing it, a time, or a mark for neither."""
    return _number(cell.replace(",", ".")) is not None or clock_seconds(cell) is not None


def _not_samples(path: Path, columns: Sequence[str]) -> UnsupportedFormatError:
    """Return the error for a table about recordings."""
    return UnsupportedFormatError(
        f"Got {path} with {', '.join(columns)}, which looks like a table about recordings (labels, paths), expected "
        "the samples of one, a row each. To embed the recordings that it lists, pass its column of paths as X; on the "
        "command line write them into a file, one a line, for `skecg embed --paths-from FILE`, or predict them by "
        "`skecg predict MODEL --table TABLE`."
    )


def _parse_cells(
    table: _Lines, header: tuple[str, ...] | None
) -> tuple[NDArray[np.float64], tuple[str, ...] | None, NDArray[np.float64] | None]:
    """Parse cell by cell, naming the first that cannot be understood; the first column of clock times is set apart."""
    rows = [table.cells(i) for i in range(len(table.lines))]
    _check_lengths(rows, table)
    kept = [j for j in range(len(rows[0])) if _number(rows[0][j]) is not None or clock_seconds(rows[0][j]) is None]
    if not kept:
        raise DamagedRecordError(f"{table.path} holds times alone, expected a column of samples too. Export it again.")
    decimal_commas = _has_decimal_commas(table, "".join(row[j] for row in rows for j in kept))
    values = np.empty((len(rows), len(kept)), dtype=np.float64)
    for i, row in enumerate(rows):
        for place, j in enumerate(kept):
            number = _number(row[j].replace(",", ".") if decimal_commas else row[j])
            if number is None:
                raise _not_understood(row[j], "a number", i, j, table)
            values[i, place] = number
    of_time = next((j for j in range(len(rows[0])) if j not in kept), None)
    times = None if of_time is None else _seconds(rows, of_time, table)
    if header is not None and len(header) == len(rows[0]):
        header = tuple([header[j] for j in kept])
    return values, header, times


def _not_understood(cell: str, wanted: str, row: int, column: int, table: _Lines) -> DamagedRecordError:
    """Return the error for a cell among the samples that is something else."""
    shown = cell if len(cell) <= _SHOWN else cell[:_SHOWN] + "…"
    return DamagedRecordError(
        f"Got the text {shown!r} in line {table.first_number + row}, column {column + 1} of {table.path}, expected "
        f"{wanted}. Correct the cell, or leave it empty if the sample is missing."
    )


def _seconds(rows: Sequence[Sequence[str]], column: int, table: _Lines) -> NDArray[np.float64]:
    """Read a column of dates or clock times, which begin again at midnight; NaN where a cell is empty."""
    times = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        seconds = clock_seconds(row[column])
        if seconds is None and row[column].lower() not in _MISSING:
            raise _not_understood(row[column], "a time", i, column, table)
        times[i] = np.nan if seconds is None else seconds
    steps = np.diff(times, prepend=times[:1])
    midnights: NDArray[np.float64] = times + _DAY * np.cumsum(steps < -_DAY / 2)
    return midnights


def _check_lengths(rows: Sequence[Sequence[str]], table: _Lines) -> None:
    """Raise for rows of different lengths, naming the first that differs; only a last one that is short is cut off."""
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            cut = i == len(rows) - 1 and len(row) < len(rows[0]) and all(map(_is_value, row))
            why = (
                "the file ends in the middle of a row. Export it again."
                if cut
                else "a table of samples has as many cells in every row. Delete what else is in the file, or pass the "
                "samples as an array."
            )
            raise DamagedRecordError(
                f"Got {len(row)} column(s) in line {table.first_number + i} of {table.path}, expected {len(rows[0])} "
                f"as in line {table.first_number}: {why}"
            )
