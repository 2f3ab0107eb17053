"""Requests to a server of data: who asks, and where redirects may lead.

`requests` keeps connections open, which tens of thousands of small files need, and knows the proxies of the
environment.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader

from skecg._version import __version__
from skecg.errors import DownloadError, ParameterError

__all__ = ["MOST_REDIRECTS", "Session", "check_redirect", "check_url", "retry_after_seconds"]

#: Redirects in a row that are followed.
MOST_REDIRECTS = 5


def check_url(url: str) -> str:
    """Return a web address with a slash at its end, or raise."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ParameterError(f"Got base_url={url!r}, expected an address that begins with https:// or http://.")
    return url.rstrip("/") + "/"


class Session(requests.Session):
    """A session that goes where it was sent, and not where a redirect should not lead.

    A redirect from https to http would let anyone on the way change the file; one to this machine or to the local
    network would let a server on the internet reach what only we can reach.

    Parameters
    ----------
    n_connections : int
        Kept open at a time.
    """

    def __init__(self, n_connections: int) -> None:
        super().__init__()
        self.max_redirects = MOST_REDIRECTS
        agent = f"skecg/{__version__} (Python package for self-supervised ECG encoders; skecg.datasets)"
        # Bytes as they lie on the server: their number and their digest are what the lists say.
        self.headers.update({"User-Agent": agent, "Accept-Encoding": "identity"})
        # One for each thread: with fewer, connections are opened and thrown away.
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=n_connections)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where a response leads, or raise when it should not lead there."""
        target = super().get_redirect_target(resp)
        if target is not None:
            try:
                check_redirect(str(resp.url), target)
            except DownloadError:
                resp.close()
                raise
        return target


def check_redirect(origin: str, target: str) -> None:
    """Raise when a redirect leaves the web, gives up encryption or leads into a local network."""
    start, end = urlsplit(origin), _split(target, origin)
    problem = ""
    if end is None or end.scheme not in ("http", "https") or not end.hostname:
        problem = "which is no web address"
    elif start.scheme == "https" and end.scheme == "http":
        problem = "which gives up encryption"
    elif _is_local(str(end.hostname)) and not _is_local(str(start.hostname)):
        problem = "which lies in a local network"
    if problem:
        raise DownloadError(
            f"Got a redirect from {origin} to {target}, {problem}; expected a file. Check base_url= and the connection."
        )


def _split(url: str, origin: str = "") -> SplitResult | None:
    """Return the parts of an address, seen from where it was found; None where it has none (``http://[``)."""
    try:
        return urlsplit(urljoin(origin, url))
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    """Return whether a host is this machine or one that the internet cannot reach."""
    try:
        addresses = [ipaddress.ip_address(host)]
    except ValueError:
        try:
            addresses = [
                ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in socket.getaddrinfo(host, None)
            ]
        except (OSError, UnicodeError):  # nothing by that name, here at least: connecting to it will say so
            return False
    # Any of its addresses: a name may resolve to a public and a local one.
    return any(not address.is_global for address in addresses)


def retry_after_seconds(value: str | None) -> float:
    """Read ``Retry-After``: seconds, or a date."""
    if value is None:
        return 0.0
    try:
        return Retry().parse_retry_after(value)
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0
