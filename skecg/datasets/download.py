"""The files of a data set over HTTP, several at a time and politely.

One file over HTTP: resumed where it broke off, checked by SHA-256.

A file grows under its name with ``.part`` behind it and gets its own name when its checksum is right, so whatever
bears the name of a file is whole. An interrupted transfer leaves its part and continues from it.

What a data set's files must be, and which of those on disk have been looked at.

PhysioNet lists the SHA-256 of every file of a data set in ``SHA256SUMS.txt``. Hashing gigabytes each time a data set
is opened would be waste: files that were found right are remembered by size and time of change.

When to ask a server again: after which pause, how often, and that nobody asks while it wants its rest.

GET over HTTP with connections that stay open: a data set is tens of thousands of small files.

Python's ``urllib.request`` opens a connection for each file, which costs more than the file. Proxies named in the
environment (``HTTPS_PROXY``, ``NO_PROXY``) are used as it would use them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, quote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from skecg.compute.progress import TransferProgress
from skecg.errors import DownloadError, ParameterError

__all__ = [
    "Connections",
    "Downloader",
    "MOST_CONNECTIONS",
    "Pace",
    "Patience",
    "SUMS_FILE",
    "StoppedError",
    "Transfer",
    "Verified",
    "asked_seconds",
    "check_url",
    "disk_errors",
    "read_sums",
    "safe_name",
    "sha256_of",
]


_MOST_REDIRECTS = 5


_REDIRECTS = frozenset({301, 302, 303, 307, 308})


#: What a server that has closed an idle connection looks like when it is written to again.
_GONE = (http.client.RemoteDisconnected, ConnectionError, http.client.CannotSendRequest)


def check_url(url: str) -> str:
    """Refuse what is no web address, and end it with a slash."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ParameterError(f"Got base_url={url!r}, expected an address that begins with https:// or http://.")
    return url.rstrip("/") + "/"


class Connections:
    """Open connections of all threads, one for each thread and server.

    Parameters
    ----------
    timeout_seconds : float
        How long a server may be silent.
    headers : mapping of str to str
        Sent with every request.
    """

    def __init__(self, timeout_seconds: float, headers: Mapping[str, str]) -> None:
        self._timeout_seconds = timeout_seconds
        self._headers = dict(headers)
        self._open: dict[tuple[int, str, str], http.client.HTTPConnection] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
        """Give the answer to a request, following redirects.

        A connection whose answer was read to its end is kept for the next request.

        Raises
        ------
        OSError, http.client.HTTPException
            When there is no connection, or it breaks.
        DownloadError
            When redirects lead nowhere.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            address = urlsplit(url)
            response = self._ask(address, {**self._headers, **(headers or {})})
            location = response.getheader("Location")
            if response.status not in _REDIRECTS or not location:
                try:
                    yield response
                finally:
                    self._finish(address, response)
                return
            self._drop(self._key(address))
            url = urljoin(url, location)
            check_url(url)
        raise DownloadError(f"Got more than {_MOST_REDIRECTS} redirects, the last to {url}. Check base_url=.")

    def abort(self) -> None:
        """Wake the threads that wait for an answer: they read the end of it, now."""
        with self._lock:
            connections = list(self._open.values())
        for connection in connections:
            with contextlib.suppress(OSError):
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections, when no thread uses them any more."""
        with self._lock:
            connections, self._open = list(self._open.values()), {}
        for connection in connections:
            connection.close()

    def _ask(self, address: SplitResult, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send a request, a second time on a new connection when an old one turns out to be gone."""
        key = self._key(address)
        with self._lock:
            is_old = key in self._open
        try:
            return self._send(key, address, headers)
        except _GONE:
            self._drop(key)
            if not is_old:
                raise
        except BaseException:
            self._drop(key)
            raise
        return self._send(key, address, headers)

    def _send(
        self, key: tuple[int, str, str], address: SplitResult, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        with self._lock:
            connection = self._open.get(key)
            if connection is None:
                connection = self._open[key] = self._connection(address)
        target = (address.path or "/") + (f"?{address.query}" if address.query else "")
        if address.scheme == "http" and _proxy(address) is not None:
            target = f"http://{address.netloc}{target}"
        connection.request("GET", target, headers=dict(headers))
        return connection.getresponse()

    def _connection(self, address: SplitResult) -> http.client.HTTPConnection:
        """Make a connection, through the proxy that the environment names."""
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        proxy = _proxy(address)
        if proxy is None:
            return kind(str(address.hostname), address.port, timeout=self._timeout_seconds)
        connection = kind(str(proxy.hostname), proxy.port, timeout=self._timeout_seconds)
        if address.scheme == "https":
            connection.set_tunnel(str(address.hostname), address.port)
        return connection

    def _finish(self, address: SplitResult, response: http.client.HTTPResponse) -> None:
        """Keep a connection that is clean, drop one with bytes left in it."""
        if not response.isclosed() or response.will_close:
            self._drop(self._key(address))

    def _drop(self, key: tuple[int, str, str]) -> None:
        with self._lock:
            connection = self._open.pop(key, None)
        if connection is not None:
            connection.close()

    @staticmethod
    def _key(address: SplitResult) -> tuple[int, str, str]:
        return threading.get_ident(), address.scheme, address.netloc


def _proxy(address: SplitResult) -> SplitResult | None:
    """Give the proxy that leads to an address, None where there is none."""
    named = getproxies().get(address.scheme)
    if not named or proxy_bypass(str(address.hostname)):
        return None
    return urlsplit(named if "://" in named else f"http://{named}")


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

    n_retries: int = 5
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    longest_asked_seconds: float = 600.0
    timeout_seconds: float = 30.0

    def wait_seconds(self, n_failures: int) -> float:
        """Say how long to pause after so many failures in a row."""
        return min(self.first_wait_seconds * 2.0 ** min(n_failures - 1, 30), self.longest_wait_seconds)


class StoppedError(Exception):
    """Another thread failed, or the user interrupted: what this one does is wanted no more."""


class Pace:
    """What the threads of one download share: pauses that the server asked for, and the sign to stop.

    Parameters
    ----------
    patience : Patience
    """

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._stop = threading.Event()
        self._pause_until = 0.0

    @property
    def is_stopped(self) -> bool:
        """Whether all threads are to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Wake the threads and have them end."""
        self._stop.set()

    def pause(self, seconds: float = 0.0) -> None:
        """Sleep, and for as long as the server asked all of us to; a stop ends it.

        Raises
        ------
        StoppedError
            When there is nothing to wait for any more.
        """
        until = max(time.monotonic() + seconds, self._pause_until)
        while (left := until - time.monotonic()) > 0:
            if self._stop.wait(left):
                break
            until = max(until, self._pause_until)
        self.check_stopped()

    def check_stopped(self) -> None:
        """Leave a thread that works for nothing."""
        if self._stop.is_set():
            raise StoppedError

    def pause_all(self, seconds: float) -> None:
        """Let no thread ask the server anything for a while."""
        self._pause_until = max(self._pause_until, time.monotonic() + seconds)


def asked_seconds(retry_after: str | None) -> float:
    """Read ``Retry-After``: seconds, or a date."""
    if retry_after is None:
        return 0.0
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


#: Name of the list of checksums, on the server and on disk.
SUMS_FILE = "SHA256SUMS.txt"


_LINE = re.compile(r"([0-9a-fA-F]{64})\s+\*?(.+)")


_DIGESTED_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Hash a file (as 64 hexadecimal digits)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_DIGESTED_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


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
    """Remembers which files of a folder were found right, in a small file beside them.

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
        with contextlib.suppress(OSError):
            new = path.with_name(f"{path.name}.{os.getpid()}")
            new.write_text(text, encoding="utf-8")
            new.replace(path)

    def _state(self, name: str) -> list[int] | None:
        try:
            status = (self.folder / name).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]


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


#: Connections at a time that one user may open: the servers of public data are everybody's.
MOST_CONNECTIONS = 8


class Downloader:
    """Fetches files of one address into one folder.

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
        if isinstance(n_connections, bool) or n_connections not in range(1, MOST_CONNECTIONS + 1):
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
        names, pace = deque(files), Pace(self.patience)
        progress = TransferProgress(len(files), title=title, verbose=self.verbose)
        connections = Connections(self.patience.timeout_seconds, {"User-Agent": _user_agent()})

        def work() -> None:
            while names and not pace.is_stopped:
                try:
                    name = names.popleft()
                except IndexError:  # another thread took the last one
                    return
                fetch_one(name)

        def fetch_one(name: str) -> None:
            Transfer(
                self.base_url,
                name,
                files[name],
                self.folder,
                connections=connections,
                pace=pace,
                progress=progress,
            ).fetch()
            if when_there is not None:
                when_there(name)
            progress.add_file()

        with contextlib.closing(progress), contextlib.closing(connections):
            _run(work, min(self.n_connections, max(len(files), 1)), connections, pace)


def _run(work: Callable[[], None], n_threads: int, connections: Connections, pace: Pace) -> None:
    """Work in threads; when one fails or the user interrupts, end the others at once."""
    with ThreadPoolExecutor(n_threads, thread_name_prefix="skecg-download") as pool:
        futures = [pool.submit(work) for _ in range(n_threads)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() and future.exception() is None for future in futures):
                pace.stop()
                connections.abort()
    _raise_first(futures)


def _user_agent() -> str:
    """Say who asks."""
    import skecg

    return f"skecg/{skecg.__version__} (Python package for self-supervised ECG encoders; skecg.datasets)"


def _raise_first(futures: Iterable[Future[None]]) -> None:
    """Raise what went wrong, rather than that others were stopped for it."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error
