"""When to ask a server again: after which pause, how often, and that nobody asks while it wants its rest."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["Pace", "Patience", "StoppedError", "asked_seconds"]


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
