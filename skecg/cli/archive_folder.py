"""The folder of an archive: a part file for every chunk that is done, and what the run is about.

A chunk is done when its part file is there, which holds for one process as for a hundred that share the folder: there
is no lock and no list that they would have to keep together. ``_run.json`` comes before the first part;
``_failures.csv`` and ``_provenance.json`` come after the last. Readers of Parquet pass over names with an underscore.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg.cli.feature_files import write_failures
from skecg.cli.part_files import PartFormat, draft_of, move_into_place
from skecg.errors import ParameterError

if TYPE_CHECKING:
    from skecg.archives import ChunkPlan, ChunkResult, Failure

__all__ = ["ArchiveFolder"]

_RUN, _FAILURES, _PROVENANCE = "_run.json", "_failures.csv", "_provenance.json"
_PART = re.compile(r"part-([0-9]{6,})\.parquet")


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
        """Give the numbers of the chunks that are done."""
        found = (_PART.fullmatch(name) for name in self._names())
        return {number for match in found if match and (number := int(match[1])) < len(self._plan)}

    def add(self, result: ChunkResult) -> None:
        """Keep a chunk; when this returns it survives a loss of power."""
        rows = self._plan.rows(result.number)
        self._format.write(result, self._paths[rows.start : rows.stop], self.path_of(result.number))

    def failures(self, chunk: int) -> list[Failure]:
        """Give the records of a chunk that failed; an error when its file is damaged or another run's."""
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
        listed = self.folder / _FAILURES
        write_failures([(self._paths[f.row], f.error, f.message) for f in failures], listed, draft_of(listed))
        said = {**self._provenance, "n_failed": len(failures), "n_parts": len(self._plan)}
        self._write(_PROVENANCE, json.dumps(said, indent=2, ensure_ascii=False) + "\n")
        for draft in self.folder.glob(".part-*.draft"):  # of processes that were killed
            draft.unlink(missing_ok=True)
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
        path = self.folder / name
        draft = draft_of(path)
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")
        move_into_place(draft, path)
