"""Files of features: CSV, NPZ and Parquet, the list of records that failed, and the part files of an archive.

Every file is written block by block from a memory map, whole or not at all, and the same features give the same bytes.
A part file is Parquet, one a chunk. It holds the number of every record among all, its path, why it failed where it
did, and the features: both are one file, so that no crash comes between them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from skecg.errors import InputError, MissingDependencyError, ParameterError
from skecg.io.files import replacing, resolved, takes_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from skecg.preprocessing.units import Amplitude

__all__ = [
    "ChunkResult",
    "Failure",
    "FeatureTable",
    "PartFormat",
    "as_text",
    "check_feature_file",
    "check_output",
    "check_output_folder",
    "check_parquet",
    "read_features",
    "spreadsheet_cell",
    "visible",
    "write_columns",
    "write_failures",
    "write_features",
]

_BLOCK_ROWS = 2048

# Of 255 that systems take, so that .failures.csv may stand behind it.
_MOST_NAME_BYTES = 240

_METADATA = b"skecg"

# By which spreadsheets know a formula.
_SIGNS = "=+-@"


class Failure(NamedTuple):
    """A record that could not be embedded: its number, the class of the error, what it says."""

    row: int
    error: str
    message: str


@dataclass(frozen=True, eq=False)
class ChunkResult:
    """What became of a chunk.

    Parameters
    ----------
    number : int
        That of the chunk.
    first : int
        Number of its first record.
    features : ndarray of shape (n_records, n_features), float32
        NaN where a record failed.
    failures : list of Failure
        Sorted by row.
    notes : dict of int to tuple of str
        What is odd about the others, by row, as :class:`skecg.inference.pipeline.Chunk` has it.
    amplitudes : list of Amplitude
        What the records tell of the unit of their archive.
    """

    number: int
    first: int
    features: NDArray[np.float32]
    failures: list[Failure]
    notes: dict[int, tuple[str, ...]]
    amplitudes: list[Amplitude] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features and what they are of.

    Parameters
    ----------
    paths : sequence of str of length n_records
    features : ndarray of shape (n_records, n_features), float32
        Rows of NaN for records that failed.
    feature_names : sequence of str of length n_features
    provenance : dict
        How they came about, as plain JSON values.
    """

    paths: Sequence[str]
    features: NDArray[np.float32]
    feature_names: Sequence[str]
    provenance: dict[str, Any]

    def blocks(self) -> Iterator[tuple[Sequence[str], NDArray[np.float32]]]:
        """Yield paths and features, some rows at a time."""
        for start in range(0, len(self.paths), _BLOCK_ROWS):
            yield self.paths[start : start + _BLOCK_ROWS], self.features[start : start + _BLOCK_ROWS]


def check_output(option: str, path: Path, suffixes: Collection[str]) -> None:
    """Raise for a file that could not be written in the end, before any work is done.

    Raises
    ------
    ParameterError
        When the suffix is another, the folder is not there or takes no files, or it is no file that is there.
    """
    if path.suffix.lower() not in suffixes:
        raise ParameterError(f"Got {option} {str(path)!r}, expected a name that ends in {', '.join(suffixes)}.")
    if (n_bytes := len(os.fsencode(path.name))) > _MOST_NAME_BYTES:
        raise ParameterError(
            f"Got {option} {str(path)!r}, a name of {n_bytes} bytes, expected {_MOST_NAME_BYTES} at most: files beside "
            "it have longer ones."
        )
    target = resolved(path)
    for folder in (path.parent, target.parent):
        if not folder.is_dir():
            raise ParameterError(f"Got {option} {str(path)!r}, but {str(folder)!r} is no folder. Make it first.")
    if target.is_dir():
        raise ParameterError(f"Got {option} {str(path)!r}, which is a folder; expected the name of a file.")
    if target.exists() and not target.is_file():
        raise ParameterError(f"Got {option} {str(path)!r}, which is a device or a pipe; expected the name of a file.")
    _check_takes_files(option, path, target.parent)


def check_output_folder(option: str, folder: Path) -> Path:
    """Return what a folder is in truth, refusing one that could not be written in the end, before any work is done.

    Raises
    ------
    ParameterError
        When it is a file, or takes no files.
    """
    target = resolved(folder)
    if target.exists() and not target.is_dir():
        raise ParameterError(f"Got {option} {str(folder)!r}, which is a file; expected the name of a folder.")
    _check_takes_files(option, folder, folder)  # and not the target, which may be above a link that leads nowhere
    return target


def _check_takes_files(option: str, path: Path, folder: Path) -> None:
    if not takes_files(folder):
        raise ParameterError(
            f"Got {option} {str(path)!r}, but no file can be made there: a file or a link that leads nowhere, "
            "permissions, the file system or a full disk forbid it. Name another place."
        )


def check_feature_file(path: Path) -> None:
    """Raise for a file that :func:`write_features` could not write in the end, before any work is done.

    Raises
    ------
    ParameterError
        See :func:`check_output`.
    MissingDependencyError
        When the package that writes the format is not installed.
    """
    check_output("--out", path, _WRITERS)
    if path.suffix.lower() == ".parquet":
        check_parquet("Parquet files need pyarrow", ", or name a .csv or .npz file")


def write_features(table: FeatureTable, path: Path) -> None:
    """Write a table in the format that the name of `path` says, whole or not at all.

    Only the user may read it: features of patients, and what their files are called, are personal.
    """
    with replacing(path, private=True) as file:
        _WRITERS[path.suffix.lower()](table, file)


def _write_csv(table: FeatureTable, file: IO[bytes]) -> None:
    """Write one row a record; every number in the fewest digits that give it back, nothing for NaN."""
    with as_text(file) as text:
        # The same line ends on every system: the same features are the same file.
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", *table.feature_names])
        for paths, features in table.blocks():
            texts = features.astype(str)
            texts[features != features] = ""
            writer.writerows([spreadsheet_cell(name), *row] for name, row in zip(paths, texts, strict=True))


def spreadsheet_cell(text: str) -> str:
    """Return a text that a spreadsheet shows and does not run."""
    shown = visible(text)
    # An apostrophe makes text of a formula. Signs alone are none, and may be classes: "+" and "-".
    return f"'{shown}" if shown.startswith(tuple(_SIGNS)) and shown.strip(_SIGNS) else shown


def visible(text: str) -> str:
    """Return a text with control characters written out, as names of files may hold what commands a terminal."""
    return "".join(c if c >= " " and not "\x7f" <= c <= "\x9f" else f"\\x{ord(c):02x}" for c in text)


def _write_npz(table: FeatureTable, file: IO[bytes]) -> None:
    """Write the arrays ``features``, ``paths``, ``feature_names`` and ``provenance`` (a JSON text)."""
    import numpy as np

    np.savez(
        file,
        features=table.features,
        # Text of fixed width, so that the file opens without pickle.
        paths=np.array(table.paths, dtype=np.str_),
        feature_names=np.array(table.feature_names, dtype=np.str_),
        provenance=np.array(_as_json(table.provenance)),
    )


def _write_parquet(table: FeatureTable, file: IO[bytes]) -> None:
    """Write the columns of the CSV file, with the provenance in the schema's metadata under ``skecg``."""
    import pyarrow
    from pyarrow import parquet

    columns = [("path", pyarrow.string()), *((name, pyarrow.float32()) for name in table.feature_names)]
    schema = pyarrow.schema(columns, metadata={"skecg": _as_json(table.provenance)})
    with parquet.ParquetWriter(file, schema) as writer:
        for paths, features in table.blocks():
            names = [_valid(name) for name in paths]
            writer.write_table(pyarrow.table([names, *features.T.copy()], schema=schema))


def write_columns(columns: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Write a Parquet file of columns, whole or not at all; only the user may read it."""
    import pyarrow
    from pyarrow import parquet

    texts = {name: [_valid(cell) for cell in cells] for name, cells in columns.items()}
    with replacing(path, private=True) as file:
        parquet.write_table(pyarrow.table(texts), file)


def _valid(cell: Any) -> Any:
    """Return a cell as Parquet can hold it: names of files may be no valid Unicode."""
    return os.fsencode(cell).decode("utf-8", "replace") if isinstance(cell, str) else cell


_WRITERS = {".csv": _write_csv, ".npz": _write_npz, ".parquet": _write_parquet}


def write_failures(failures: Iterable[tuple[str, str, str]], path: Path) -> None:
    """Write path, class of error and message of the records that failed; without any, remove what an older run left."""
    rows = list(failures)
    if not rows:
        path.unlink(missing_ok=True)
        return
    with replacing(path, private=True) as file, as_text(file) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "error", "message"])
        writer.writerows([spreadsheet_cell(cell) for cell in row] for row in rows)


def read_features(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    """Read features and paths from a file that ``skecg embed`` wrote: NPZ, CSV or Parquet.

    Returns
    -------
    features : ndarray of shape (n_records, n_features), float32
    paths : list of str

    Raises
    ------
    ParameterError
        When the file is not there or is no such file.
    MissingDependencyError
        When it is a Parquet file and pyarrow is not installed.
    """
    import zipfile

    suffix = path.suffix.lower()
    if suffix == ".parquet":
        check_parquet("Parquet files need pyarrow", ", or save the features as .npz")
    try:
        features, paths = _FEATURE_READERS.get(suffix, _read_npz)(path)
        if features.ndim != 2 or len(features) != len(paths) or features.dtype.kind != "f":
            raise InputError(f"features {features.shape} of {len(paths)} paths")
    # What a damaged Parquet file raises is one of these, too.
    except (
        *(OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError),
        *(csv.Error, zipfile.BadZipFile),
    ) as error:
        raise ParameterError(
            f"Got {str(path)!r}, which is no file of features ({type(error).__name__}: {error}); expected an .npz, "
            ".csv or .parquet file that `skecg embed` wrote."
        ) from error
    return features, paths


def _read_npz(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        return stored["features"], [str(name) for name in stored["paths"]]


def _read_csv(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    """Read what :func:`_write_csv` wrote."""
    import numpy as np

    # utf-8-sig: spreadsheets put a byte order mark in front of what they save.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = filter(None, csv.reader(file))
        first, *names = next(rows, [""])
        # Or a table with numbers before the paths would be read with those for names.
        if first != "path" or not names:
            raise InputError(f"the first column is {first!r}, not 'path', or there is no other")
        paths, features = [], []
        for name, *cells in rows:
            # Names that a spreadsheet would run were quoted.
            paths.append(name[1:] if name.startswith("'") and spreadsheet_cell(name[1:]) == name else name)
            features.append(np.array([cell or "nan" for cell in cells], dtype=np.float32))
    return np.array(features, dtype=np.float32).reshape(len(paths), len(names)), paths


def _read_parquet(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    import numpy as np
    from pyarrow import parquet

    table = parquet.read_table(path)
    columns = [table.column(field.name).to_numpy() for field in table.schema if str(field.type) == "float"]
    return np.stack(columns, axis=1).astype(np.float32, copy=False), table.column("path").to_pylist()


_FEATURE_READERS = {".csv": _read_csv, ".parquet": _read_parquet}


@contextlib.contextmanager
def as_text(file: IO[bytes]) -> Iterator[IO[str]]:
    """Write text into a file of bytes; names of files that are no valid Unicode come out as the bytes they are."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    yield text
    text.detach()  # else the file, which is not ours to close, would be closed with it


def _as_json(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def check_parquet(what: str = "Archives are Parquet files and need pyarrow", instead: str = "") -> None:
    """Raise before any work is done whose result could not be written.

    Parameters
    ----------
    what : str
        The beginning of the message.
    instead : str
        What else can be done.

    Raises
    ------
    MissingDependencyError
        When pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"{what}, which is not installed. Run `pip install 'skecg[parquet]'`{instead}."
        ) from error


@dataclass(frozen=True)
class PartFormat:
    """What all part files of an archive have in common.

    Parameters
    ----------
    feature_names : sequence of str
    run : str
        Digest of what the run is about; parts of another one are told by it.
    provenance : dict
        How the features come about, as plain JSON values.
    """

    feature_names: Sequence[str]
    run: str
    provenance: dict[str, Any]

    def write(self, result: ChunkResult, paths: Sequence[str], path: Path) -> None:
        """Write the part file of a chunk, in one step.

        Parameters
        ----------
        result : ChunkResult
        paths : sequence of str
            Those of the chunk's records.
        path : Path
        """
        import pyarrow
        from pyarrow import parquet

        failed = {failure.row: failure for failure in result.failures}
        rows = range(result.first, result.first + len(paths))
        columns = [
            list(rows),
            # Names of files may be no valid Unicode; Parquet's strings must be.
            [os.fsencode(name).decode("utf-8", "replace") for name in paths],
            [failed[row].error if row in failed else None for row in rows],
            [failed[row].message.encode("utf-8", "replace").decode() if row in failed else None for row in rows],
            *result.features.T.copy(),
        ]
        with replacing(path, private=True) as file:
            parquet.write_table(pyarrow.table(columns, schema=self._schema()), file)

    def read_failures(self, path: Path, rows: range) -> list[Failure]:
        """Read from a part file which of its records failed, and see on the way that it is whole and belongs here.

        Parameters
        ----------
        path : Path
        rows : range
            Numbers of the records that must be in it, each once.

        Raises
        ------
        ParameterError
            When the file is damaged, or holds something else.
        """
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(path) as file:
                belongs = file.schema_arrow.equals(self._schema()) and _run_of(file.schema_arrow.metadata) == self.run
                columns = file.read(columns=["row", "error", "message"]).to_pydict() if belongs else {"row": []}
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise _not_usable(path, f"is damaged ({type(error).__name__})") from error
        # The numbers of the rows tell a part that was copied here from another run, or under another name.
        if columns["row"] != list(rows):
            raise _not_usable(path, f"does not hold records {rows.start} to {rows.stop - 1} of this run")
        found = zip(columns["row"], columns["error"], columns["message"], strict=True)
        return [Failure(row, error, message) for row, error, message in found if error is not None]

    def _schema(self) -> Any:
        """Return the columns; the metadata is the same in all parts, so that readers take them for one table."""
        import pyarrow

        texts = [(name, pyarrow.string()) for name in ("path", "error", "message")]
        numbers = [(name, pyarrow.float32()) for name in self.feature_names]
        metadata = json.dumps({**self.provenance, "run": self.run}, sort_keys=True, ensure_ascii=False)
        return pyarrow.schema([("row", pyarrow.int64()), *texts, *numbers], metadata={_METADATA: metadata.encode()})


def _run_of(metadata: dict[bytes, bytes] | None) -> Any:
    try:
        return json.loads((metadata or {})[_METADATA])["run"]
    except (KeyError, ValueError, TypeError):
        return None


def _not_usable(path: Path, why: str) -> ParameterError:
    return ParameterError(f"The file {str(path)!r} {why}. Remove it, and give the same command again.")
