"""CSV files and NumPy arrays to records.

Such files carry samples and seldom anything else: the rate, the leads and the unit are the reader's to give, and never
guessed.
"""

from __future__ import annotations

import io
import lzma
import math
import re
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import numpy as np

from skecg.errors import (
    DamagedRecordError,
    LeadError,
    RecordNotFoundError,
    SamplingRateError,
    ShapeError,
    UnitsError,
    UnsupportedFormatError,
)
from skecg.io.channels import ecg_rows
from skecg.io.files import check_inflated
from skecg.io.statements import (
    agreed_rate,
    agreed_unit,
    check_no_steps,
    check_same_leads,
    check_units_heard,
    known_rate,
    read_members,
)
from skecg.io.text_tables import TextTable, parse_text_table
from skecg.io.times import INDEX_NAMES, check_times, is_index, is_ramp, rate_of_times
from skecg.leads import CANONICAL_LEADS, canonical_lead, canonical_leads
from skecg.records import ECGRecord, as_millivolts, as_sampling_rate, millivolts_per_unit, named_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["TABLE_SUFFIXES", "TEXT_SUFFIXES", "read_table"]

#: Suffixes of tables that are text.
TEXT_SUFFIXES: frozenset[str] = frozenset({".csv", ".tsv", ".txt"})

#: Suffixes of the files that :func:`read_table` reads, in lower case.
TABLE_SUFFIXES: frozenset[str] = TEXT_SUFFIXES | {".npy", ".npz"}

# What numpy raises for files that are damaged, or made to harm.
_NUMPY_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    SyntaxError,
    tokenize.TokenError,
    MemoryError,
    OverflowError,
    TypeError,
    RuntimeError,
)

_NPY_MAGIC = b"\x93NUMPY"
# More than numpy takes for a header of an array.
_LARGEST_HEADER = 2**16

_NOMINAL = 0.02  # by which a recorder's true rate may differ from what it is called
_SECONDS_PER_UNIT = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_SECONDS_PER_UNIT |= {"min": 60.0, "minutes": 60.0}
# "ecg [uV]", "I_mV", "time_ms", and what R and MATLAB make of "I (uV)": "I..uV.", "I_uV_".
_UNIT_IN_NAME = re.compile(
    r"(?:\s*[\[(]\s*(?=[^\])]*[\])]\s*$)|[\s_/.-]+(?=(?:[mnuµμ]v|(?:milli|micro|nano)volts?)[._]?$)"
    r"|(?:(?<=time)|(?<=stamp)|(?<=\bt))[\s_/.-]+(?=(?:[mnuµμ]?s|sec|seconds|min|minutes)[._]?$))"
    r"([^\])]*?)\s*[\])._]?\s*$",
    re.IGNORECASE,
)


def read_table(
    path: str | Path,
    *,
    sampling_rate: float | None = None,
    leads: Sequence[str] | None = None,
    units: str | None = None,
) -> ECGRecord:
    r"""Read a text table or a NumPy file.

    Text (``.csv``, ``.tsv``, ``.txt``) has one row a sample and one column a lead, separated by commas, semicolons,
    tabs, blanks or bars; decimal commas are taken where they separate nothing. A first row of names gives the leads
    unless `leads` does, and may state units (``ecg [uV]``, ``II_mV``), as may a second row. Lines above it may state
    the rate, the unit and the lead, as exports of watches do in any language. Times with a unit (``timestamp [ns]``),
    clock times and dates tell the rate where nothing else does, and must not contradict it. One column more than leads
    is taken for sample numbers or times, and dropped, when it comes first and increases strictly. Empty cells, ``nan``
    and ``NA`` are gaps.

    A ``.npy`` file holds (n_leads, n_samples). A ``.npz`` file holds one such array, which is called ``signal`` where
    there are others that mean nothing here, and, if it likes, ``sampling_rate``, ``leads`` and ``units``, also by other
    usual names (``fs``, ``sfreq``; ``ch_names``, ``sig_name``; ``unit``). A gain or an offset is refused unless `units`
    says that the samples are voltages already.

    Parameters
    ----------
    path : str or Path
    sampling_rate : float or None, default=None
        Samples a second (Hz). Needed unless the file says it.
    leads : sequence of str or None, default=None
        Names of the leads in the file's order. Needed unless the file says them.
    units : str or None, default=None
        Unit of the values, one of ``"V"``, ``"mV"``, ``"uV"``, ``"nV"``; that of the file, or else millivolts, when
        not given.

    Returns
    -------
    ECGRecord
        Named after the file.

    Raises
    ------
    RecordNotFoundError, UnsupportedFormatError
        When there is no such file, or its suffix is none of these, or its samples may be something else than voltages.
    SamplingRateError, LeadError, UnitsError
        When rate or leads are missing, contradict the file, or contradict each other in it.
    DamagedRecordError
        When the file is empty, binary where it should be text, ragged, or has text among its numbers.
    ShapeError
        When leads lie in rows of a text table or in columns of an array.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("I,II\n0.1,0.2\n0.3,0.4\n")
    >>> read_table(path, sampling_rate=500)
    ECGRecord('a': 2 leads (I, II), 2 samples, 500 Hz, 0.0 s)
    """
    path = Path(path)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        listed = ", ".join(sorted(TABLE_SUFFIXES))
        raise UnsupportedFormatError(f"Got {path}, expected a table with one of the suffixes {listed}.")
    if not path.is_file():
        raise RecordNotFoundError(f"Got {path}, expected a file; there is none of this name.")
    if leads is not None:
        given = [leads] if isinstance(leads, str) else leads
        leads = canonical_leads(given)
        units = named_unit(given, units)
    if path.suffix.lower() in (".npy", ".npz"):
        return _read_arrays(path, sampling_rate, leads, units)
    return _read_text(path, sampling_rate, leads, units)


def _read_text(path: Path, sampling_rate: Any, leads: tuple[str, ...] | None, units: str | None) -> ECGRecord:
    """Read a text table."""
    table = parse_text_table(path)
    rate = _rate_of(table, sampling_rate, path)
    if table.times is not None and _seconds_in(table.first_name) is None:
        check_times(table.times, rate, path, 1.0)
    table, of_columns = _voltages(_named_columns(table, rate, path), units, path)
    n_rows, n_columns = table.values.shape
    if leads is not None and n_rows == len(leads) and n_columns > n_rows + 1:
        raise ShapeError(
            f"Got {n_rows} rows of {n_columns} columns in {path} for {len(leads)} leads, which looks transposed. "
            "Expected one row a sample and one column a lead. Transpose the file."
        )
    named = _leads_of_header(table.header, path)
    if named is None and table.stated.lead is not None and n_columns == 1:
        named = (table.stated.lead,)
    check_same_leads(leads, named, path)
    leads = leads or named
    if leads is None:
        raise LeadError(
            f"Got {n_columns} columns without names in {path}, expected to be told which leads they are. Pass leads=, "
            "in the columns' order, for example leads=['I', 'II', 'III', 'aVR', 'aVL', 'aVF', 'V1', 'V2', 'V3', 'V4', "
            "'V5', 'V6']."
        )
    values = _lead_columns(table.values, leads, rate, path)
    return ECGRecord(_millivolts(values.T, of_columns, path), rate, leads, path.stem)


def _rate_of(table: TextTable, given: Any, path: Path) -> float:
    """Return the rate that lines above the samples state, times with a unit tell, or else the caller names."""
    stated = table.stated.sampling_rate
    if stated is not None and (given is None or abs(as_sampling_rate(given) / stated - 1) <= _NOMINAL):
        return stated
    if stated is not None:
        raise SamplingRateError(
            f"Got sampling_rate={given!r} for {path}, which says {stated:g} Hz. Leave the argument out."
        )
    return known_rate(_told_rate(table, path) if given is None else given, path)


def _told_rate(table: TextTable, path: Path) -> float | None:
    """Return the rate that times of a known unit tell, None where there are none."""
    seconds, times = _seconds_in(table.first_name), table.values[:, 0]
    if seconds is None and table.times is not None:
        seconds, times = 1.0, table.times
    if seconds is None:
        return None
    rate = rate_of_times(times, seconds)
    if rate is None:
        raise SamplingRateError(
            f"Got no sampling rate for {path}, whose times are too few, too coarse or too uneven to tell one. Pass "
            "sampling_rate=, for example 500."
        )
    return rate


def _seconds_in(name: str) -> float | None:
    """Return the unit of time that a column's name ends in, in seconds: of a recorder's own times."""
    unit = _UNIT_IN_NAME.search(name)
    return _SECONDS_PER_UNIT.get(unit[1].lower()) if unit is not None else None


def _named_columns(table: TextTable, rate: float, path: Path) -> TextTable:
    """Drop the columns that a first row marks as no leads: times, and the nothing after a last delimiter."""
    values, header = table.values, table.names
    if header is None:
        return table
    # Rows that end with a separator have one more column, of nothing.
    if len(header) > 1 and header[-1] == "" and _is_empty(values[:, -1]):
        values, header = values[:, :-1], header[:-1]
    names = [_UNIT_IN_NAME.sub("", name).lower() for name in header]
    units = [_seconds_in(name) for name in header]
    indices = [j for j, name in enumerate(names) if is_index(name, j, values[:, j], units[j] is not None)]
    if len(indices) == len(header):
        return TextTable(values, header, table.stated)
    for j in indices:
        check_times(values[:, j], rate, path, units[j])
    kept = [j for j in range(len(header)) if j not in indices]
    return TextTable(values[:, kept], tuple([header[j] for j in kept]), table.stated)


def _voltages(table: TextTable, units: str | None, path: Path) -> tuple[TextTable, str | list[str]]:
    """Keep the columns that are voltages of the heart where a first row states units; return them and their units."""
    header = table.names
    by_itself = agreed_unit(units, table.stated.units, path)
    stated = [_UNIT_IN_NAME.search(name) for name in header or ()]
    if units is None and not table.stated.units:
        _check_units_heard(table, any(stated), path)
    if header is None or not any(stated):
        return table, by_itself
    names = tuple([_UNIT_IN_NAME.sub("", name) if unit else name for name, unit in zip(header, stated, strict=True)])
    of_columns = tuple([unit[1] if unit and unit[1] else by_itself for unit in stated])
    try:
        rows = list(ecg_rows(names, of_columns))
    except UnitsError as error:
        raise UnitsError(f"{path}: {error} Leave units out of the first row to pass them as units=.") from error
    kept = [of_columns[row] for row in rows]
    if units is not None:
        agreed_unit(units, kept, path)
    bare = [names[row] for row in rows if not stated[row] and canonical_lead(names[row]) in CANONICAL_LEADS]
    if units is None and not table.stated.units and bare and any(millivolts_per_unit(unit) != 1 for unit in kept):
        raise UnitsError(
            f"Got no unit for {', '.join(bare)} in {path} and one for other leads; expected one for all or none. Pass "
            "units=, or write it behind each name."
        )
    return TextTable(table.values[:, rows], tuple([names[row] for row in rows]), table.stated), kept


def _check_units_heard(table: TextTable, has_units: bool, path: Path) -> None:
    """Raise for units, or steps of a digitizer, in names or lines above that would not be obeyed."""
    if not has_units:
        check_no_steps(table.stated, path)
        check_units_heard([table.stated.unheard or ""], path)
    obeyed = [name for name in table.names or () if _UNIT_IN_NAME.search(name)]
    check_units_heard([name for name in table.header or () if name not in obeyed], path)


def _lead_columns(values: NDArray[np.float64], leads: Sequence[str], rate: float, path: Path) -> NDArray[np.float64]:
    """Drop what is no lead, shape (n_samples, n_columns) to (n_samples, n_leads).

    That is a first column of sample numbers or times, and a last one that is empty since every line ends with a
    delimiter. Where one column is too many and could be either, the caller must say more.
    """
    extra = values.shape[1] - len(leads)
    increases = is_ramp(values[:, 0])
    ends_empty = len(values) > 1 and _is_empty(values[:, -1])
    # A column too many is left out only where one explanation fits, not where two do.
    if extra == 0 or (extra == 1 and increases != ends_empty) or (extra == 2 and increases and ends_empty):
        if increases and extra > 0:
            check_times(values[:, 0], rate, path)
        return values[:, int(increases and extra > 0) :][:, : len(leads)]
    hint = ""
    if extra == 1:
        either = "and the last is empty: either could be no lead." if increases else "so it is no time."
        hint = f" The first {'increases' if increases else 'does not increase'} all along, {either}"
    raise LeadError(
        f"Got {values.shape[1]} columns in {path} and {len(leads)} leads ({', '.join(leads)}), expected one column a "
        f"lead.{hint} Pass leads= with a name for every column, or write them into the first row."
    )


def _is_empty(column: NDArray[np.float64]) -> bool:
    """Whether no cell of a column holds a number."""
    return bool(np.all(np.isnan(column)))


def _leads_of_header(header: tuple[str, ...] | None, path: Path) -> tuple[str, ...] | None:
    """Return the leads that a first row names, without the name of a time column and without units."""
    if header is None:
        return None
    names = [_UNIT_IN_NAME.sub("", name) for name in header]
    if len(names) > 1 and names[0].lower() in INDEX_NAMES:
        names = names[1:]
    if not any(names):  # of units alone
        return None
    try:
        return canonical_leads(names)
    except LeadError as error:
        raise LeadError(f"The first row of {path} does not name leads: {error} Pass leads=.") from error


def _read_arrays(path: Path, sampling_rate: Any, leads: tuple[str, ...] | None, units: str | None) -> ECGRecord:
    """Read a ``.npy`` or ``.npz`` file."""
    members = read_members(_load_arrays(path), path, are_voltages=units is not None)
    signal, rate = members.signal, agreed_rate(sampling_rate, members.sampling_rate, path)
    check_same_leads(leads, members.leads, path)
    leads = leads or members.leads
    if leads is None:
        raise LeadError(
            f"Got an array of shape {signal.shape} in {path} and no lead names. Pass leads=, in the rows' order, for "
            "example leads=['I', 'II']."
        )
    if signal.dtype.kind not in "fiub" or signal.ndim != 2:
        ECGRecord(signal, rate, leads, path.stem)  # says what is wrong
    if members.times is not None and len(members.times) == signal.shape[1]:
        check_times(members.times.astype(np.float64), rate, path)
    return ECGRecord(_millivolts(signal, _stated_units(members.units, units, path), path), rate, leads, path.stem)


def _stated_units(stated: str | list[str] | None, given: str | None, path: Path) -> str | list[str]:
    """Return the unit, or that of each lead, that a file of arrays states, or else the caller, or else millivolts."""
    if stated is None:
        return "mV" if given is None else given
    known = [
        unit for unit in ([stated] if isinstance(stated, str) else stated) if millivolts_per_unit(unit) is not None
    ]
    if given is not None and any(millivolts_per_unit(unit) != millivolts_per_unit(given) for unit in known):
        raise UnitsError(
            f"Got values in {', '.join(known)} in {path} and units={given!r}. Leave units out, or correct the file."
        )
    # Counts and arbitrary units say nothing that would contradict a caller who knows.
    return stated if given is None or known else given


def _millivolts(signal: NDArray[Any], units: str | list[str], path: Path) -> NDArray[np.float32]:
    """Scale to mV, refusing numbers too large for any voltage in float32."""
    if not isinstance(units, str) and len(units) != len(signal):
        raise UnitsError(f"Got {len(units)} units and {len(signal)} leads in {path}, expected one unit, or one a lead.")
    # Numbers too large for float32 become infinite, which is looked for next.
    with np.errstate(over="ignore"):
        scaled = as_millivolts(signal, units)
    if np.isinf(scaled).any() and not np.isinf(signal).any():
        raise DamagedRecordError(f"Got a number of {np.nanmax(np.abs(signal)):g} in {path}, expected voltages.")
    return scaled


def _load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Load all arrays of a file by name, never unpickling anything."""
    try:
        with path.open("rb") as file:  # numpy leaves a damaged file open when it opens it itself
            _check_declared_size(file, path)
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            with loaded:
                return {key: _array(key, loaded[key], path) for key in loaded.files}
    except (DamagedRecordError, PermissionError):
        raise
    except _NUMPY_ERRORS as error:
        raise DamagedRecordError(
            f"{path} could not be read as a NumPy file of numbers ({type(error).__name__}): it is empty, truncated, or "
            "holds Python objects, which are never unpickled. Save it again with np.save or np.savez."
        ) from error


def _array(name: str, value: Any, path: Path) -> NDArray[Any]:
    """Return a member of an archive, or raise where it is no array: numpy hands the bytes of other files over."""
    if not isinstance(value, np.ndarray):
        raise DamagedRecordError(
            f"Got {name!r} in {path}, which is no NumPy array; expected arrays alone. Save it again with np.savez."
        )
    return value


def _check_declared_size(file: BinaryIO, path: Path) -> None:
    """Raise when an array is said to be larger than what is there, before room is made for it."""
    # Before numpy allocates anything: a file of kilobytes may declare terabytes.
    if file.read(4) == b"PK\x03\x04":
        with zipfile.ZipFile(file) as archive:
            inflated = sum(entry.file_size for entry in archive.infolist())
            check_inflated(inflated, path.stat().st_size, path)
            for entry in archive.infolist():
                with archive.open(entry) as member:
                    is_array = member.read(len(_NPY_MAGIC)) == _NPY_MAGIC
                if is_array:
                    with archive.open(entry) as member:
                        _check_header(member, entry.file_size, path)
    else:
        file.seek(0)
        # Numpy would make room for whatever length a header says it has.
        _check_header(io.BytesIO(file.read(_LARGEST_HEADER)), path.stat().st_size, path)
    file.seek(0)


def _check_header(file: IO[bytes], n_bytes: int, path: Path) -> None:
    """Compare the size in the header of an array with the bytes that there are."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    declared = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and declared > n_bytes:
        raise DamagedRecordError(
            f"Got an array of {declared:,} bytes in {path}, where {n_bytes:,} are there; the file is damaged. "
            "Save it again with np.save or np.savez."
        )
