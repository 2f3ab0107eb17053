"""One file over HTTP: resumed where it broke off, checked by SHA-256.

A file grows under its name with ``.part`` behind it and gets its own name when its checksum is right, so whatever
bears the name of a file is whole. An interrupted transfer leaves its part and continues from it.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import re
import ssl
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from skecg.datasets.checksums import SUMS_FILE, sha256_of
from skecg.datasets.connections import Connections
from skecg.datasets.pace import Pace, asked_seconds
from skecg.errors import DownloadError
from skecg.progress import TransferProgress

__all__ = ["Transfer", "disk_errors", "safe_name"]

_CHUNK_BYTES = 1 << 16
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WRONG_BYTES_ALLOWED = 2


class _BrokenOffError(Exception):
    """A transfer ended early, or the server asks to come again later."""

    def __init__(self, reason: str, asked_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.asked_seconds = asked_seconds


class Transfer:
    """One file on its way.

    Parameters
    ----------
    base_url : str
        Address of the folder that the file lies under, with a slash at its end.
    name : str
        Of the file below that address and below `folder`.
    sha256 : str or None
        What the file must be; None takes any.
    folder : Path
    connections : Connections
    pace : Pace
    progress : TransferProgress
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        sha256: str | None,
        folder: Path,
        *,
        connections: Connections,
        pace: Pace,
        progress: TransferProgress,
    ) -> None:
        self.url = base_url + quote(name)
        self.folder, self.sha256 = folder, sha256
        self.path = folder / safe_name(name)
        self.part = self.path.with_name(self.path.name + ".part")
        self._connections, self._pace, self._progress = connections, pace, progress

    def fetch(self) -> None:
        """Transfer until the file is whole, or patience ends."""
        n_wrong = 0
        with disk_errors(self.folder):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.sha256 is None:  # nothing would tell that an old part is of another version
                self.part.unlink(missing_ok=True)
        while True:
            was_resumed = _size(self.part) > 0
            self._transfer_patiently()
            found = sha256_of(self.part)
            if self.sha256 is None or found == self.sha256:
                with disk_errors(self.folder):
                    self.part.replace(self.path)
                return
            self.part.unlink()
            n_wrong += not was_resumed  # a part may be older than what the server has now
            if n_wrong >= _WRONG_BYTES_ALLOWED:
                raise self._wrong_bytes(found, n_wrong)

    def _wrong_bytes(self, found: str, n_times: int) -> DownloadError:
        return DownloadError(
            f"Got {self.url} with SHA-256 {found[:12]}... {n_times} times, expected {str(self.sha256)[:12]}... as the "
            "data set's list of checksums says. Something on the way changes the file (a proxy, a login page), or the "
            f"list is of another version: delete {self.folder / SUMS_FILE} and try again."
        )

    def _transfer_patiently(self) -> None:
        """Transfer what is lacking, again and again while that brings anything."""
        patience, n_failures = self._pace.patience, 0
        while True:
            self._pace.pause()
            before = _size(self.part)
            try:
                self._transfer(before)
                return
            except (_BrokenOffError, OSError, http.client.HTTPException) as error:
                self._pace.check_stopped()
                if isinstance(error, (DownloadError, ssl.SSLCertVerificationError)):
                    raise self._given_up(error, 1) from error
                n_failures = 1 if _size(self.part) > before else n_failures + 1
                asked = error.asked_seconds if isinstance(error, _BrokenOffError) else 0.0
                if n_failures > patience.n_retries or asked > patience.longest_asked_seconds:
                    raise self._given_up(error, n_failures) from error
            self._pace.pause_all(asked)
            self._pace.pause(patience.wait_seconds(n_failures))

    def _given_up(self, error: Exception, n_failures: int) -> DownloadError:
        """Say why a file cannot be had, and what to do."""
        if isinstance(error, DownloadError):
            return error
        asked = getattr(error, "asked_seconds", 0.0)
        again = f" The server asks to come again in {asked:g} s." if asked else ""
        return DownloadError(
            f"Got nothing from {self.url} in {n_failures} attempt(s) ({type(error).__name__.strip('_')}: {error}), "
            f"expected a file.{again} Check the connection (and HTTPS_PROXY), then run the same again: what came in so "
            "far is kept. Or pass base_url= of a mirror, or data_home= of a copy that you have."
        )

    def _transfer(self, start: int) -> None:
        """Ask for what is lacking, and append it."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._connections.get(self.url, headers) as response:
            if response.status == 416:  # nothing lies behind what is there: the checksum says whether that is all
                response.read()
                return
            if response.status == 206 and _first_byte(response) != start:
                with disk_errors(self.folder):
                    self.part.unlink(missing_ok=True)
                raise _BrokenOffError(f"bytes from {_first_byte(response)} on came for those from {start} on")
            if response.status not in (200, 206):
                raise self._refused(response)
            self._save(response, "ab" if response.status == 206 else "wb")

    def _save(self, response: http.client.HTTPResponse, mode: str) -> None:
        """Write the body to the part."""
        length = response.getheader("Content-Length")
        n_bytes = 0
        with disk_errors(self.folder):
            file = self.part.open(mode)
        with file:
            while chunk := response.read1(_CHUNK_BYTES):
                self._pace.check_stopped()
                with disk_errors(self.folder):
                    file.write(chunk)
                    file.flush()
                n_bytes += len(chunk)
                self._progress.add_bytes(len(chunk))
        if length is not None and n_bytes != int(length):
            raise _BrokenOffError(f"{n_bytes} of {length} bytes came")
        response.read()  # lets the connection see its end

    def _refused(self, response: http.client.HTTPResponse) -> Exception:
        """Tell an answer that may change from one that will not."""
        status = f"{response.status} {response.reason}"
        if response.status in _TRY_AGAIN:
            return _BrokenOffError(status, asked_seconds(response.getheader("Retry-After")))
        return DownloadError(
            f"Got the answer {status} for {self.url}, expected a file. Check base_url= and whether the data set has "
            "moved; a copy that you have is read with data_home=."
        )


def safe_name(name: str) -> PurePosixPath:
    """Refuse a name that leads out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise DownloadError(f"Got the file name {name!r} in a data set's lists, expected one within its folder.")
    return path


def _size(path: Path) -> int:
    """Give the bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    """Say where the part that a server sends begins."""
    match = re.match(r"bytes (\d+)-", response.getheader("Content-Range") or "")
    return int(match[1]) if match else None


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            what = "the disk is full. Make room"
        else:
            what = f"{error.strerror or type(error).__name__}. Check that you may write there"
        raise DownloadError(
            f"Got an error while writing into {folder}, expected room and the right to write: {what}, or pass another "
            "data_home= (or set SKECG_DATA), and run the same again; what came in is kept."
        ) from error
