"""Folders of what is not finished: what was done so far, so that a run can be killed and continued.

The folder of a run into one file holds ``features.npy``, whose rows fill up from the first; ``journal.jsonl``, one line
for every chunk whose rows are safely on the disk; and ``manifest.json``, which says what the run is about. A chunk
counts when its line does, so whatever is killed in the middle of one is simply done again.

The folder of an archive holds a part file for every chunk that is done, and what the run is about. A chunk is done when
its part file is there, which holds for one process as for a hundred that share the folder: there is no lock and no list
that they would have to keep together. ``_run.json`` comes before the first part; ``_failures.csv`` and
``_provenance.json`` come after the last. Readers of Parquet pass over names with an underscore.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from skecg.archives.files import ChunkResult, Failure, PartFormat, write_failures
from skecg.errors import ParameterError
from skecg.io.files import keep_others_out, replacing

if TYPE_CHECKING:
    from skecg.archives.cluster import ChunkPlan

__all__ = ["ArchiveFolder", "UnfinishedRun"]

_FEATURES, _JOURNAL, _MANIFEST = "features.npy", "journal.jsonl", "manifest.json"

_RUN, _FAILURES, _PROVENANCE = "_run.json", "_failures.csv", "_provenance.json"

_PART = re.compile(r"part-([0-9]{6,})\.parquet")


class UnfinishedRun:
    """Features that are still being made, in a folder; a context manager that unlocks the folder.

    Parameters
    ----------
    folder : Path
        Made for its owner only when absent: features of patients are personal data.
    manifest : mapping of str to JSON values
        What shapes the result, by names that go into messages. A run is continued only by its like.
    shape : (int, int)
        n_records, n_features.
    anew : bool, default=False
        Whether a run of another kind in the folder is thrown away; it is an error otherwise.

    Attributes
    ----------
    n_done : int
        Records that are done, the first of all.
    failures : list of Failure

    Raises
    ------
    ParameterError
        When the folder belongs to a run of another kind, or to one that is under way.
    OSError
        When the folder cannot be written.
    """

    def __init__(
        self, folder: Path, manifest: Mapping[str, Any], shape: tuple[int, int], *, anew: bool = False
    ) -> None:
        self.folder = folder
        self.n_done = 0
        self.failures: list[Failure] = []
        self._shape = shape
        # For the user alone: embeddings of patients are personal data.
        folder.mkdir(mode=0o700, exist_ok=True)
        # Opened for appending, which neither empties nor replaces what another process may have locked.
        self._journal = (folder / _JOURNAL).open("a+b")
        try:
            keep_others_out(self._journal, folder)
            if self._is_like(manifest, anew):
                self._read_journal()
            else:
                self._begin(manifest)
            self._offset = self.features().offset
        except BaseException:
            self._journal.close()
            raise

    def add(self, features: NDArray[np.float32], failures: Sequence[Failure]) -> None:
        """Keep the features of the records that come next; when this returns they survive a loss of power.

        Parameters
        ----------
        features : ndarray of shape (n_rows, n_features), float32
        failures : sequence of Failure
        """
        stop = self.n_done + len(features)
        # Writing, unlike a memory map, reports a full disk as an error instead of a signal that kills.
        with (self.folder / _FEATURES).open("rb+") as file:
            file.seek(self._offset + self.n_done * features.itemsize * self._shape[1])
            file.write(np.ascontiguousarray(features, dtype="<f4").data)
            # Rows first, then the line that vouches for them: a crash between the two must not promise zeros.
            _to_disk(file)
        entry = {"start": self.n_done, "stop": stop, "failures": failures}
        self._journal.write(json.dumps(entry).encode() + b"\n")
        _to_disk(self._journal)
        self.failures += failures
        self.n_done = stop

    def features(self) -> np.memmap[Any, np.dtype[np.float32]]:
        """Open the features: (n_records, n_features), the rows not done yet being zero."""
        return np.lib.format.open_memmap(self.folder / _FEATURES, mode="r")

    def remove(self) -> None:
        """Remove what the run has put there; the folder too, unless others have put something in it."""
        self._journal.close()
        for name in (_MANIFEST, _FEATURES, _JOURNAL):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()

    def _is_like(self, manifest: Mapping[str, Any], anew: bool) -> bool:
        """Return whether the folder holds a run that this one continues."""
        path = self.folder / _MANIFEST
        if not path.exists():
            return False
        found = _read_manifest(path)
        names = [name for name, value in _plain(manifest).items() if found.get(name) != value]
        if not names and self._has_features():
            return True
        if anew:
            return False
        raise ParameterError(
            f"{self.folder} holds an unfinished run with other {', '.join(names) or 'contents than it says'}. Repeat "
            "its command to continue it, or pass --force to throw it away."
        )

    def _has_features(self) -> bool:
        try:
            found = self.features()
        except (OSError, ValueError):
            return False
        return found.shape == self._shape and found.dtype == np.dtype("<f4")

    def _begin(self, manifest: Mapping[str, Any]) -> None:
        """Set up an empty run; the manifest goes first and comes last, so that a folder with one is whole."""
        (self.folder / _MANIFEST).unlink(missing_ok=True)
        self._journal.truncate(0)
        np.lib.format.open_memmap(self.folder / _FEATURES, mode="w+", dtype="<f4", shape=self._shape)
        with replacing(self.folder / _MANIFEST) as file:
            file.write(json.dumps(_plain(manifest), indent=2).encode() + b"\n")

    def _read_journal(self) -> None:
        """Take up what is done, and cut off a line that was not written to its end."""
        self._journal.seek(0)
        length = 0
        for line in self._journal:  # up to the first that is not whole: what follows it was never promised
            entry = _read_entry(line, self.n_done, self._shape[0])
            if entry is None:
                break
            self.n_done, failures = entry
            self.failures += failures
            length += len(line)
        self._journal.truncate(length)


def _read_entry(line: bytes, start: int, n_records: int) -> tuple[int, list[Failure]] | None:
    """Read a chunk's end and failures from the journal; None when the line is not whole or does not follow the last."""
    try:
        entry = json.loads(line)
        failures = [Failure(*failure) for failure in entry["failures"]]
        follows = entry["start"] == start and start < entry["stop"] <= n_records
    except (ValueError, KeyError, TypeError):
        return None
    return (int(entry["stop"]), failures) if follows and line.endswith(b"\n") else None


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        return {}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they come back from JSON."""
    return dict(json.loads(json.dumps(dict(values))))


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class ArchiveFolder:
    """Features of an archive that are being made, chunk by chunk, by one process or many.

    Parameters
    ----------
    folder : Path
        Made for its owner only when absent: features of patients are personal data.
    paths : sequence of str of length n_records
    plan : ChunkPlan
    manifest : mapping of str to JSON values
        What shapes the result, by names that go into messages. A run is continued only by its like.
    feature_names : sequence of str
    provenance : dict
        How the features come about, as plain JSON values.
    anew : bool, default=False
        Whether a run of another kind in the folder is thrown away; it is an error otherwise.

    Raises
    ------
    ParameterError
        When the folder belongs to a run of another kind, or holds other files.
    OSError
        When the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str],
        plan: ChunkPlan,
        manifest: Mapping[str, Any],
        feature_names: Sequence[str],
        provenance: dict[str, Any],
        *,
        anew: bool = False,
    ) -> None:
        self.folder = folder
        self._paths = paths
        self._plan = plan
        self._provenance = provenance
        text = json.dumps({**manifest, "records per part": plan.chunk_records, "records in all": len(paths)}, indent=2)
        self._format = PartFormat(feature_names, hashlib.sha256(text.encode()).hexdigest(), provenance)
        folder.mkdir(mode=0o700, exist_ok=True)
        # The order matters where others begin at the same time: who sees their parts sees their manifest.
        names = self._names()
        found = self._read_manifest()
        if found != json.loads(text):
            self._make_room(names, found, json.loads(text), anew)
            self._write(_RUN, text + "\n")

    def path_of(self, chunk: int) -> Path:
        """Name the part file of a chunk; the order of names is that of records."""
        return self.folder / f"part-{chunk:06d}.parquet"

    def done(self) -> set[int]:
        """Return the numbers of the chunks that are done."""
        found = (_PART.fullmatch(name) for name in self._names())
        return {number for match in found if match and (number := int(match[1])) < len(self._plan)}

    def add(self, result: ChunkResult) -> None:
        """Keep a chunk; when this returns it survives a loss of power."""
        rows = self._plan.rows(result.number)
        path = self.path_of(result.number)
        try:
            self._format.write(result, self._paths[rows.start : rows.stop], path)
        except FileNotFoundError:
            # Who does the same chunk and was first may have finished the whole, and swept up what others had begun.
            if not path.is_file():
                raise

    def failures(self, chunk: int) -> list[Failure]:
        """Return the records of a chunk that failed; an error when its file is damaged or another run's."""
        return self._format.read_failures(self.path_of(chunk), self._plan.rows(chunk))

    def reopen(self, chunks: Iterable[int] = ()) -> None:
        """Take back what said that all is done, and the files of some chunks."""
        for name in (_FAILURES, _PROVENANCE):
            (self.folder / name).unlink(missing_ok=True)
        for chunk in chunks:
            self.path_of(chunk).unlink(missing_ok=True)

    def finish(self) -> int:
        """Check that every record is there once, list the failures, say how all came about; give how many failed."""
        failures = [failure for chunk in range(len(self._plan)) for failure in self.failures(chunk)]
        write_failures([(self._paths[f.row], f.error, f.message) for f in failures], self.folder / _FAILURES)
        about = {**self._provenance, "n_failed": len(failures), "n_parts": len(self._plan)}
        # Last: an archive that has it is whole.
        self._write(_PROVENANCE, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        for begun in self.folder.glob(".part-*"):  # by processes that were killed
            begun.unlink(missing_ok=True)
        return len(failures)

    def _names(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()]

    def _read_manifest(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / _RUN).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return {}

    def _make_room(self, names: Sequence[str], found: Mapping[str, Any], wanted: Mapping[str, Any], anew: bool) -> None:
        """Throw away what another run left, or refuse to; never touch what no run has written."""
        ours = [name for name in names if _PART.fullmatch(name) or name in (_RUN, _FAILURES, _PROVENANCE)]
        if not ours and not [name for name in names if not name.startswith(".")]:
            return
        if not ours:
            raise ParameterError(
                f"Got --out {str(self.folder)!r}, a folder that holds other files; expected a new or an empty one."
            )
        if not anew:
            other = [name for name, value in wanted.items() if found.get(name) != value] if found else ["contents"]
            raise ParameterError(
                f"{str(self.folder)!r} holds a run with other {', '.join(other)}. Repeat its command to continue it, "
                "name another --out, or pass --force to throw it away."
            )
        # The manifest goes first: without it no part is taken for anybody's.
        for name in sorted(ours, key=lambda name: name != _RUN):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).unlink()

    def _write(self, name: str, text: str) -> None:
        with replacing(self.folder / name, private=True) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
