"""What a data set's files must be, and which of those on disk have been looked at.

PhysioNet lists the SHA-256 of every file of a data set in ``SHA256SUMS.txt``. Hashing gigabytes each time a data set
is opened would be waste: files that were found right are remembered by size and time of change.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from pathlib import Path

from skecg.errors import DownloadError
from skecg.io.files import replacing

__all__ = ["SUMS_FILE", "Verified", "read_sums"]

#: Name of the list of checksums, on the server and on disk.
SUMS_FILE = "SHA256SUMS.txt"

_LINE = re.compile(r"([0-9a-fA-F]{64})\s+\*?(.+)")


def read_sums(path: Path) -> dict[str, str]:
    """Read a list of checksums: the SHA-256 of each file, by name.

    Raises
    ------
    DownloadError
        When the file is anything but such a list, such as the page of a login.
    """
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise DownloadError(
                f"Line {number} of {path} is no checksum and name, expected a list of SHA-256 sums. A login page or "
                "proxy may have answered in its place: delete the file, check base_url= and try again."
            )
        found[match[2].removeprefix("./")] = match[1].lower()
    if not found:
        raise DownloadError(f"Got {path} without a line, expected a list of SHA-256 sums. Delete it and try again.")
    return found


class Verified:
    """Remember which files of a folder were found right, in a small file beside them.

    Parameters
    ----------
    folder : Path
        Nothing is written before :meth:`save`.
    """

    FILE = ".skecg-verified.json"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, list[int]] = {}
        # Where the note is damaged, files are digested again; nothing else depends on it.
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
            known = json.loads((folder / self.FILE).read_text(encoding="utf-8"))
            self._known = {str(name): list(state) for name, state in known["files"].items()}

    def __contains__(self, name: str) -> bool:
        """Whether a file was found right and has not changed since, by its size and time of change."""
        return name in self._known and self._known[name] == self._state(name)

    def add(self, name: str) -> None:
        """Remember a file that was just found right."""
        state = self._state(name)
        if state is not None:
            with self._lock:
                self._known[name] = state

    def save(self) -> None:
        """Write down what is known, whole or not at all; a folder that cannot be written to is hashed again."""
        with self._lock:
            text = json.dumps({"about": "files found right: bytes, nanoseconds of change", "files": self._known})
        path = self.folder / self.FILE
        with contextlib.suppress(OSError), replacing(path) as file:
            file.write(text.encode())

    def _state(self, name: str) -> list[int] | None:
        try:
            status = (self.folder / name).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]
