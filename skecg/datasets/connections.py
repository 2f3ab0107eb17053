"""GET over HTTP with connections that stay open: a data set is tens of thousands of small files.

Python's ``urllib.request`` opens a connection for each file, which costs more than the file. Proxies named in the
environment (``HTTPS_PROXY``, ``NO_PROXY``) are used as it would use them.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from skecg.errors import DownloadError, ParameterError

__all__ = ["Connections", "check_url"]

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
