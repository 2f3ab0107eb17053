"""What a piece of work takes: time, and memory where the system tells."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cost", "measured"]

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_KIB_PER_MIB = 1024


@dataclass
class Cost:
    """Time and memory of a piece of work; filled in when it ends.

    Parameters
    ----------
    seconds : float
    peak_megabytes : float
        The most memory that the whole process held meanwhile (MiB), NaN where the system does not tell (it does on
        Linux).
    """

    seconds: float = float("nan")
    peak_megabytes: float = float("nan")


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """Measure what is done inside."""
    cost = Cost()
    resettable = _reset_peak()
    start = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - start
    if resettable:
        cost.peak_megabytes = _peak_megabytes()


def _reset_peak() -> bool:
    """Let the kernel forget the greatest size so far."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return _STATUS.exists()


def _peak_megabytes() -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / _KIB_PER_MIB
    return float("nan")
