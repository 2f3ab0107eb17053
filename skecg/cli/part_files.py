"""Part files of an archive: one Parquet file a chunk, written whole or not at all.

Each holds the number of every record among all, its path, why it failed where it did, and the features. Features and
failures are one file, so that no crash comes between them.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg.errors import MissingDependencyError, ParameterError

if TYPE_CHECKING:
    from skecg.archives import ChunkResult, Failure

__all__ = ["PartFormat", "check_parquet", "move_into_place"]

_METADATA = b"skecg"


def check_parquet() -> None:
    """Refuse to begin what could not be written.

    Raises
    ------
    MissingDependencyError
        When pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "Archives are Parquet files and need pyarrow, which is not installed. Run `pip install 'skecg[parquet]'`."
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
        draft = draft_of(path)
        parquet.write_table(pyarrow.table(columns, schema=self._schema()), draft)
        move_into_place(draft, path)

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

        from skecg.archives import Failure

        try:
            with parquet.ParquetFile(path) as file:
                belongs = file.schema_arrow.equals(self._schema()) and _run_of(file.schema_arrow.metadata) == self.run
                columns = file.read(columns=["row", "error", "message"]).to_pydict() if belongs else {"row": []}
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise _not_usable(path, f"is damaged ({type(error).__name__})") from error
        if columns["row"] != list(rows):
            raise _not_usable(path, f"does not hold records {rows.start} to {rows.stop - 1} of this run")
        found = zip(columns["row"], columns["error"], columns["message"], strict=True)
        return [Failure(row, error, message) for row, error, message in found if error is not None]

    def _schema(self) -> Any:
        """Give the columns; the metadata is the same in all parts, so that readers take them for one table."""
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


def draft_of(path: Path) -> Path:
    """Name a file beside `path` that no other process writes, and that readers of the folder pass over."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.draft")


def move_into_place(draft: Path, path: Path) -> None:
    """Put a finished file in its place for good: whoever looks sees none, the old one or the new one, whole."""
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.replace(path)
