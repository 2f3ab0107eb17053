"""The files of a data set over HTTP: several at a time, politely, resumed where they broke off, checked by SHA-256.

A file grows under its name with ``.part`` behind it and gets its own name when its checksum is right, so whatever
bears the name of a file is whole. An interrupted transfer leaves its part and continues from it.

When to try again is decided here and not by `urllib3`, because a file that came in half is asked for by its other half,
and because a server's wish for a rest (``Retry-After``) holds for all threads.
"""

from __future__ import annotations

import contextlib
import errno
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import requests
from urllib3.exceptions import HTTPError

from skecg.compute.progress import TransferProgress
from skecg.datasets.checksums import SUMS_FILE
from skecg.datasets.session import MOST_REDIRECTS, Session, check_url, retry_after_seconds
from skecg.errors import DownloadError, ParameterError
from skecg.io.files import sha256_of
from skecg.validation import is_integer

__all__ = ["MOST_CONNECTIONS", "Downloader", "Patience", "disk_errors", "safe_name"]

_CHUNK_BYTES = 1 << 16
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# A server that sends other bytes twice in a row will send them a third time.
_WRONG_BYTES_ALLOWED = 2

#: Connections at a time that one user may open: the servers of public data are everybody's.
MOST_CONNECTIONS = 8


@dataclass(frozen=True)
class Patience:
    """How often and how long to try.

    Parameters
    ----------
    n_retries : int, default=5
        How many times in a row a file may fail without a byte of progress before it is given up.
    first_wait_seconds : float, default=1.0
        Pause after the first failure; doubled after each further one.
    longest_wait_seconds : float, default=60.0
        What these pauses grow to.
    longest_asked_seconds : float, default=600.0
        A server that asks for a longer pause than this (``Retry-After``) is given up.
    timeout_seconds : float, default=30.0
        How long a server may be silent.
    """

    n_retries: int = 5  # in a row, without a byte gained
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    longest_asked_seconds: float = 600.0  # a server that asks for more is given up
    timeout_seconds: float = 30.0

    def wait_seconds(self, n_failures: int) -> float:
        """Return how long to pause after so many failures in a row."""
        # Bounded before the power, which overflows for someone who allows a thousand retries.
        return min(self.first_wait_seconds * 2.0 ** min(n_failures - 1, 30), self.longest_wait_seconds)


class _StoppedError(Exception):
    """Another thread failed, or the user interrupted: what this one does is wanted no more."""


class _Pace:
    """What the threads of one download share: pauses that the server asked for, and the sign to stop.

    Parameters
    ----------
    patience : Patience
    """

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._stop = threading.Event()
        self._pause_until = 0.0
        self._responses: set[requests.Response] = set()
        self._lock = threading.Lock()

    @property
    def is_stopped(self) -> bool:
        """Whether all threads are to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Have all threads end, those that wait for a server too."""
        self._stop.set()
        with self._lock:
            responses = list(self._responses)
        for response in responses:
            # It may have ended meanwhile, and urllib3 before 2.3 cannot.
            with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
                response.raw.shutdown()

    @contextlib.contextmanager
    def watching(self, response: requests.Response) -> Iterator[None]:
        """End the wait for a response's body when all are to stop."""
        with self._lock:
            self._responses.add(response)
        try:
            yield
        finally:
            with self._lock:
                self._responses.discard(response)

    def pause(self, seconds: float = 0.0) -> None:
        """Sleep, and for as long as the server asked all of us to; a stop ends it.

        Raises
        ------
        _StoppedError
            When there is nothing to wait for any more.
        """
        until = max(time.monotonic() + seconds, self._pause_until)
        while (left := until - time.monotonic()) > 0:
            if self._stop.wait(left):
                break
            until = max(until, self._pause_until)
        self.check_stopped()

    def check_stopped(self) -> None:
        """Raise when there is nothing to work for any more."""
        if self._stop.is_set():
            raise _StoppedError

    def pause_all(self, seconds: float) -> None:
        """Send the server no request for a while, from any thread."""
        self._pause_until = max(self._pause_until, time.monotonic() + seconds)


class _BrokenOffError(Exception):
    """A transfer ended early, or the server asks to come again later."""

    def __init__(self, reason: str, asked_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.asked_seconds = asked_seconds


class _Transfer:
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
    session : requests.Session
    pace : _Pace
    progress : TransferProgress
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        sha256: str | None,
        folder: Path,
        *,
        session: requests.Session,
        pace: _Pace,
        progress: TransferProgress,
    ) -> None:
        self.url = base_url + quote(name)
        self.folder, self.sha256 = folder, sha256
        self.path = folder / safe_name(name)
        self.part = self.path.with_name(self.path.name + ".part")
        self._session, self._pace, self._progress = session, pace, progress

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
            except (_BrokenOffError, OSError, HTTPError) as error:  # requests' own errors are OSErrors
                self._pace.check_stopped()
                # What the next try would meet again.
                if isinstance(error, DownloadError | requests.exceptions.SSLError | requests.TooManyRedirects):
                    raise self._given_up(error, 1) from error
                # A transfer that brought anything counts as a fresh start: slow lines get there in many pieces.
                n_failures = 1 if _size(self.part) > before else n_failures + 1
                asked = error.asked_seconds if isinstance(error, _BrokenOffError) else 0.0
                if n_failures > patience.n_retries or asked > patience.longest_asked_seconds:
                    raise self._given_up(error, n_failures) from error
            self._pace.pause_all(asked)
            self._pace.pause(patience.wait_seconds(n_failures))

    def _given_up(self, error: Exception, n_failures: int) -> DownloadError:
        """Return why a file cannot be had, and what to do."""
        if isinstance(error, DownloadError):
            return error
        if isinstance(error, requests.TooManyRedirects):
            return DownloadError(f"Got more than {MOST_REDIRECTS} redirects for {self.url}. Check base_url=.")
        asked = getattr(error, "asked_seconds", 0.0)
        again = f" The server asks to come again in {asked:g} s." if asked else ""
        return DownloadError(
            f"Got nothing from {self.url} in {n_failures} attempt(s) ({type(error).__name__.strip('_')}: {error}), "
            f"expected a file.{again} Check the connection (and HTTPS_PROXY), then run the same again: what came in so "
            "far is kept. Or pass base_url= of a mirror, or data_home= of a copy that you have."
        )

    def _transfer(self, start: int) -> None:
        """Request what is lacking, and append it."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        timeout = self._pace.patience.timeout_seconds
        with self._session.get(self.url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == 416:  # nothing lies behind what is there: the checksum says whether that is all
                return
            # Some proxies answer with another part than was asked for; appended, it would spoil the file.
            if response.status_code == 206 and _first_byte(response) != start:
                with disk_errors(self.folder):
                    self.part.unlink(missing_ok=True)
                raise _BrokenOffError(f"bytes from {_first_byte(response)} on came for those from {start} on")
            if response.status_code not in (200, 206):
                raise self._refused(response)
            with self._pace.watching(response):
                self._save(response, "ab" if response.status_code == 206 else "wb")

    def _save(self, response: requests.Response, mode: str) -> None:
        """Write the body to the part; urllib3 raises when less comes than was announced."""
        with disk_errors(self.folder):
            file = self.part.open(mode)
        with file:
            # read1 hands over what has come, so that what an interrupted transfer has received is on the disk. urllib3
            # has it since 2.1; before, parts are a little shorter than what came.
            read = getattr(response.raw, "read1", response.raw.read)
            while chunk := read(_CHUNK_BYTES, decode_content=False):
                self._pace.check_stopped()
                with disk_errors(self.folder):
                    file.write(chunk)
                    file.flush()
                self._progress.add_bytes(len(chunk))

    def _refused(self, response: requests.Response) -> Exception:
        """Return the error for an answer that may change, or for one that will not."""
        status = f"{response.status_code} {response.reason}"
        if response.status_code in _TRY_AGAIN:
            return _BrokenOffError(status, retry_after_seconds(response.headers.get("Retry-After")))
        return DownloadError(
            f"Got the answer {status} for {self.url}, expected a file. Check base_url= and whether the data set has "
            "moved; a copy that you have is read with data_home=."
        )


def safe_name(name: str) -> PurePosixPath:
    """Return a name as a path within the folder, or raise when it leads out."""
    path = PurePosixPath(name)
    # Names come from a list that a server sent, and must not lead outside the folder, not on Windows either.
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise DownloadError(f"Got the file name {name!r} in a data set's lists, expected one within its folder.")
    return path


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _first_byte(response: requests.Response) -> int | None:
    """Return where the part that a server sends begins."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
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


class Downloader:
    """Fetch files of one address into one folder.

    Parameters
    ----------
    base_url : str
        Address of the folder that the files lie under.
    folder : Path
    n_connections : int, default=4
        1 to :data:`MOST_CONNECTIONS` files at a time.
    patience : Patience, optional
    verbose : int, default=0
        Whether to show a bar.

    Raises
    ------
    ParameterError
        When the address is none, or the number of connections is too large to be polite.
    """

    def __init__(
        self,
        base_url: str,
        folder: Path,
        *,
        n_connections: int = 4,
        patience: Patience | None = None,
        verbose: int = 0,
    ) -> None:
        if not is_integer(n_connections, 1) or n_connections > MOST_CONNECTIONS:
            raise ParameterError(
                f"Got n_connections={n_connections!r}, expected 1 to {MOST_CONNECTIONS}: the servers of public data "
                "are everybody's."
            )
        self.base_url = check_url(base_url)
        self.folder = folder
        self.n_connections = int(n_connections)
        self.patience = patience or Patience()
        self.verbose = verbose

    def fetch(
        self,
        files: Mapping[str, str | None],
        *,
        title: str = "download",
        when_there: Callable[[str], None] | None = None,
    ) -> None:
        """Fetch files that are not there.

        Parameters
        ----------
        files : mapping of str to str or None
            Names below the address, and below the folder, with the SHA-256 that each must have (None for any).
        title : str, default="download"
            What the bar calls it.
        when_there : callable, optional
            Called with the name of each file that has come in whole, from any thread.

        Raises
        ------
        DownloadError
            When a file cannot be had. What came in stays.
        """
        names, pace = deque(files), _Pace(self.patience)
        progress = TransferProgress(len(files), title=title, verbose=self.verbose)
        session = Session(self.n_connections)

        def work() -> None:
            while names and not pace.is_stopped:
                try:
                    name = names.popleft()
                except IndexError:  # another thread took the last one
                    return
                fetch_one(name)

        def fetch_one(name: str) -> None:
            sha256 = files[name]
            _Transfer(self.base_url, name, sha256, self.folder, session=session, pace=pace, progress=progress).fetch()
            if when_there is not None:
                when_there(name)
            progress.add_file()

        with contextlib.closing(progress), session:
            _run(work, min(self.n_connections, max(len(files), 1)), pace)


def _run(work: Callable[[], None], n_threads: int, pace: _Pace) -> None:
    """Work in threads; when one fails or the user interrupts, end the others at once."""
    with ThreadPoolExecutor(n_threads, thread_name_prefix="skecg-download") as pool:
        futures = [pool.submit(work) for _ in range(n_threads)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() and future.exception() is None for future in futures):
                pace.stop()
    _raise_first(futures)


def _raise_first(futures: Iterable[Future[None]]) -> None:
    """Raise what went wrong, rather than that others were stopped for it."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, _StoppedError)):
        raise error
