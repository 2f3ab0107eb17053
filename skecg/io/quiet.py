"""Other packages' warnings, caught: they may quote what a file says of a patient, or concern nobody who reads one."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

__all__ = ["caught_warnings"]

# The filters of the warnings module belong to the whole process; two threads that set and restore them at once could
# leave them wrong for good.
_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def caught_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Catch every warning, one thread at a time, and give the list that they go into; not to be nested."""
    with _ONE_AT_A_TIME, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
