"""Any supported file to an ECGRecord; many files to many, in parallel and in a flat amount of memory."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from skecg.errors import (
    DamagedRecordError,
    InputError,
    ParameterError,
    RecordNotFoundError,
    RecordReadError,
    UnsupportedFormatError,
)
from skecg.io.files import similar_names
from skecg.io.wfdb import read_wfdb, read_wfdb_header
from skecg.io.wfdb_header import SIGNAL_SUFFIXES, find_header
from skecg.validation import check_jobs, is_integer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skecg.records import ECGRecord

__all__ = ["iter_records", "read_digitized", "read_record", "read_records"]

PathLike = str | os.PathLike[str]

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # one letter before the colon is a drive

# Files that hold samples in a form that needs another package, hold them packed, or hold a picture of them.
_UNPACK = "Unpack it, and read what is in it."
_OTHER_PACKAGE = "Read it with {}, and pass the samples as skecg.ECGRecord(signal, sampling_rate, leads)."
_PICTURE = "A page or picture holds no samples: export the recording from the system that it is in."
_ADVICE = (
    dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z", ".rar"), _UNPACK)
    | dict.fromkeys((".parquet", ".feather", ".xlsx", ".xls", ".ods", ".pkl"), _OTHER_PACKAGE.format("pandas"))
    | dict.fromkeys((".h5", ".hdf5", ".nc"), _OTHER_PACKAGE.format("h5py"))
    | dict.fromkeys((".pdf", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".svg", ".docx"), _PICTURE)
)


def read_record(
    path: PathLike,
    *,
    sampling_rate: float | None = None,
    leads: Sequence[str] | None = None,
    units: str | None = None,
    verify_checksums: bool = False,
) -> ECGRecord:
    """Read one recording.

    Parameters
    ----------
    path : str or Path
        A WFDB record, named with or without the suffix of its header or of one of its signal files; or a file in one
        of the other formats (:data:`skecg.io.FORMAT_SUFFIXES`); or a table or array (:data:`skecg.io.TABLE_SUFFIXES`).
    sampling_rate : float, optional
        Samples a second (Hz), for tables and arrays, which do not say.
    leads : sequence of str, optional
        Names of the leads, for tables and arrays that do not name them.
    units : str, optional
        Unit of the values, for tables and arrays; what the file says, or else millivolts, by default.
    verify_checksums : bool, default=False
        Whether to compare the signals of WFDB records with the checksums in their headers, for which all of them are
        read twice. A header may state none.

    Returns
    -------
    ECGRecord
        The leads in mV, named after the file. Signals that are no voltage of the heart are left out.

    Raises
    ------
    ParameterError
        When `path` is no path, or the rate, leads or units are given for a file that carries its own.
    RecordNotFoundError
        When nothing answers to the name; the message lists similar names.
    DamagedRecordError
        When a file is empty, truncated or contradicts itself.
    UnsupportedFormatError
        When no reader knows the file, or it holds no ECG.

    Warns
    -----
    HeaderRepairWarning
        When a malformed header was read by a repair that admits no doubt.
    """
    given = {"sampling_rate": sampling_rate, "leads": leads, "units": units}
    with _system_errors_as_ours(path):
        return _read(
            as_path(path), {name: value for name, value in given.items() if value is not None}, verify_checksums
        )


def read_digitized(path: PathLike, *, verify_checksums: bool = False) -> ECGRecord:
    """Read as :func:`read_record` does, with the same errors, keeping the steps where a file has them whole.

    Parameters
    ----------
    path, verify_checksums
        As for :func:`read_record`.

    Returns
    -------
    DigitizedRecord or ECGRecord
    """
    with _system_errors_as_ours(path):
        return _read(as_path(path), {}, verify_checksums, keep_steps=True)


@contextlib.contextmanager
def _system_errors_as_ours(path: PathLike) -> Iterator[None]:
    """Return which path the system, or Python, could not make sense of."""
    try:
        yield
    except MemoryError as error:
        raise RecordReadError(
            f"{str(path)!r} needs more memory than there is. Cut it into shorter records, or use another machine."
        ) from error
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        # Ours are ValueErrors as well, and say more already.
        if isinstance(error, (RecordReadError, InputError)):
            raise
        what = "its permissions" if isinstance(error, PermissionError) else "the path"
        raise RecordReadError(f"{str(path)!r} cannot be read ({type(error).__name__}). Check {what}.") from error


@overload
def read_records(
    paths: Iterable[PathLike],
    *,
    n_jobs: int | None = None,
    errors: Literal["raise"] = "raise",
    verify_checksums: bool = False,
) -> list[ECGRecord]: ...


@overload
def read_records(
    paths: Iterable[PathLike], *, n_jobs: int | None = None, errors: Literal["return"], verify_checksums: bool = False
) -> list[ECGRecord | RecordReadError]: ...


def read_records(
    paths: Iterable[PathLike],
    *,
    n_jobs: int | None = None,
    errors: Literal["raise", "return"] = "raise",
    verify_checksums: bool = False,
) -> list[ECGRecord] | list[ECGRecord | RecordReadError]:
    """Read many recordings.

    Parameters
    ----------
    paths : iterable of str or Path
        As for :func:`read_record`.
    n_jobs : int, optional
        Threads to read with, as joblib counts them: None is one (or what ``joblib.parallel_config`` says), -1 all.
    errors : {"raise", "return"}, default="raise"
        What becomes of a file that cannot be read: its error is raised, or stands in the list where the record would,
        so that rows stay aligned with `paths`.
    verify_checksums : bool, default=False
        As for :func:`read_record`.

    Returns
    -------
    list of ECGRecord
        In the order of `paths`.

    See Also
    --------
    iter_records : The same, without holding all records in memory.
    """
    return list(iter_records(paths, n_jobs=n_jobs, errors=errors, verify_checksums=verify_checksums))


def iter_records(
    paths: Iterable[PathLike],
    *,
    n_jobs: int | None = None,
    errors: Literal["raise", "return"] = "raise",
    chunk: int = 64,
    verify_checksums: bool = False,
) -> Iterator[ECGRecord | RecordReadError]:
    """Read recordings one after the other, holding no more than a chunk of them.

    Parameters
    ----------
    paths : iterable of str or Path
        As for :func:`read_record`; a generator is drawn from as it goes.
    n_jobs, errors
        As for :func:`read_records`.
    chunk : int, default=64
        How many records are read in parallel before the first of them is given out.
    verify_checksums : bool, default=False
        As for :func:`read_record`.

    Yields
    ------
    ECGRecord or RecordReadError
        In the order of `paths`; errors only with ``errors="return"``.
    """
    if isinstance(paths, (str, bytes, os.PathLike)) or not isinstance(paths, Iterable):
        raise ParameterError(f"Got paths={paths!r}, expected a list of paths. For one file use read_record.")
    if errors not in ("raise", "return"):
        raise ParameterError(f"Got errors={errors!r}, expected 'raise' or 'return'.")
    if not is_integer(chunk, 1):
        raise ParameterError(f"Got chunk={chunk!r}, expected a positive number of records.")
    read = partial(read_record if errors == "raise" else _read_or_error, verify_checksums=verify_checksums)
    n_threads = _n_threads(n_jobs)
    return map(read, paths) if n_threads == 1 else _read_in_chunks(read, paths, n_threads, chunk)


def _read_in_chunks(
    read: Callable[[PathLike], ECGRecord | RecordReadError], paths: Iterable[PathLike], n_threads: int, chunk: int
) -> Iterator[ECGRecord | RecordReadError]:
    """Read a chunk of paths in threads, give its records out, and go on to the next."""
    from joblib import Parallel, delayed

    def read_share(share: list[PathLike]) -> list[ECGRecord | RecordReadError]:
        return [read(path) for path in share]

    remaining = iter(paths)
    with Parallel(n_jobs=n_threads, prefer="threads") as parallel:
        while batch := list(islice(remaining, chunk)):
            # A task for each thread, not for each file: handing over a task takes as long as reading a record.
            share_size = -(-len(batch) // n_threads)
            shares = [batch[start : start + share_size] for start in range(0, len(batch), share_size)]
            for records in parallel(delayed(read_share)(share) for share in shares):
                yield from records


def _n_threads(n_jobs: int | None) -> int:
    """Resolve a number of jobs as joblib does."""
    from joblib import effective_n_jobs

    check_jobs(n_jobs)
    return int(effective_n_jobs(n_jobs))


def _read_or_error(path: PathLike, *, verify_checksums: bool) -> ECGRecord | RecordReadError:
    """Read a record, giving an error of the file instead of raising it; mistakes of the caller are raised."""
    try:
        return read_record(path, verify_checksums=verify_checksums)
    except RecordReadError as error:
        return error
    # The caller's mistake, the same for every file: collecting it as a file's would hide it.
    except ParameterError:
        raise
    except InputError as error:  # a table that does not say its rate, or names a lead twice
        unread = RecordReadError(f"{path} is no recording by itself: {error}")
        unread.__cause__ = error
        return unread


def as_path(path: Any) -> Path:
    """Check what was passed as a path on this machine, and return it."""
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise ParameterError(f"Got a path of type {type(path).__name__}, expected str or Path.")
    if not name.strip() or "\0" in name:
        raise ParameterError(f"Got path={name!r}, expected the name of a file or folder.")
    # Also an address that a Path has taken a slash from.
    if _ADDRESS.match(name) and not os.path.lexists(name):
        raise RecordNotFoundError(
            f"Got {name!r}, an address, expected a file on this machine. Download the record first, all of its files "
            "(header and signals), and pass where it lies."
        )
    return Path(name)


def _read(path: Path, given: dict[str, Any], verify_checksums: bool, *, keep_steps: bool = False) -> ECGRecord:
    """Choose the reader by what lies at the path."""
    header = find_header(path)
    if header is None and not path.is_file():
        raise _not_found(path)
    # WFDB first: a header beside a file says more of it than its suffix.
    if header is None and _is_table(path):
        return _read_table(path, given)
    if header is None and _is_signal_file(path):
        header = path.with_suffix(".hea")
    if header is None:
        _check_suffix(path)
    if given:
        raise ParameterError(
            f"Got {', '.join(given)} for {str(path)!r}, expected them only for tables and arrays. "
            "Leave them out: other files carry their own."
        )
    if header is None:
        return _read_format(path)
    return read_wfdb(header, keep_steps=keep_steps, verify_checksums=verify_checksums)


def _check_suffix(path: Path) -> None:
    """Raise for a signal file without a header, and for a file that is to be unpacked or read by another package."""
    if path.suffix.lower() in SIGNAL_SUFFIXES:
        raise _not_found(path)
    advice = _ADVICE.get(path.suffix.lower())
    if advice is not None and not _is_of_format(path):
        raise UnsupportedFormatError(f"Got {path}, expected a recording in one of the formats that are read. {advice}")


def _is_table(path: Path) -> bool:
    """Whether a file's suffix is that of a table or an array."""
    from skecg.io.tables import TABLE_SUFFIXES

    return path.suffix.lower() in TABLE_SUFFIXES


def _read_table(path: Path, given: dict[str, Any]) -> ECGRecord:
    """Read a table or an array with what was said about it."""
    from skecg.io.tables import read_table

    return read_table(path, **{"sampling_rate": None, "leads": None, **given})


def _read_format(path: Path) -> ECGRecord:
    """Read a file of another world, whose faults are the file's and not the caller's."""
    from skecg.io.formats import read_format

    try:
        return read_format(path)
    except InputError as error:
        raise DamagedRecordError(f"{path} does not hold a usable recording: {error}") from error


def _is_signal_file(path: Path) -> bool:
    """Whether the header of the same stem names this file, whatever its suffix (``s0010_re.xyz``)."""
    header_path = path.with_suffix(".hea")
    if not header_path.is_file():
        return False
    is_format = _is_of_format(path)
    try:
        names = {signal.file_name for signal in read_wfdb_header(header_path).signals}
    except RecordReadError:
        if is_format:  # intact beside a damaged header
            return False
        raise
    # A suffix such as .dat belongs to several formats; what the header names is its signal file.
    if path.name in names or is_format:
        return path.name in names
    raise UnsupportedFormatError(
        f"{path} lies beside {header_path.name} but is no signal file of it (annotations are none). "
        f"To read the record, pass {str(header_path)!r}."
    )


def _is_of_format(path: Path) -> bool:
    """Whether a file's suffix, or what it begins with, is that of a format other than WFDB's."""
    from skecg.io.dicom import is_dicom
    from skecg.io.formats import FORMAT_SUFFIXES

    return path.suffix.lower() in FORMAT_SUFFIXES or is_dicom(path)


def _not_found(path: Path) -> RecordReadError:
    """Report that nothing is there, and what is."""
    if path.is_dir():
        return RecordNotFoundError(
            f"{str(path)!r} is a directory, expected a file or a WFDB record. "
            "List its records with skecg.io.find_records(...) and pass those to read_records."
        )
    if path.is_symlink():
        return RecordNotFoundError(f"{str(path)!r} is a link to {os.readlink(path)!r}, which is not there.")  # noqa: PTH115
    suffix = path.suffix.lower()
    if suffix in {"", ".hea"} | SIGNAL_SUFFIXES:
        header = path.with_suffix(".hea")
        way_out = (
            " For MATLAB's files without one use scipy.io.loadmat, or h5py, and pass the samples as an ECGRecord."
            if suffix == ".mat" and path.is_file()
            else ""
        )
        return RecordNotFoundError(f"There is no WFDB header {str(header)!r}. {similar_names(header)}{way_out}")
    return RecordNotFoundError(f"There is no file {str(path)!r}. {similar_names(path, {suffix, '.hea'})}")
