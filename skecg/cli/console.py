"""What the command line says to people: one line a message, on standard error."""

from __future__ import annotations

import contextlib
import errno
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

from skecg.errors import SkecgWarning

__all__ = ["in_words", "say", "short_warnings"]

# Enough to see what a warning is about; the rest are counted.
_SHOWN_OF_EACH = 3


def say(message: object) -> None:
    """Print a message in one line, above a progress bar if there is one."""
    line = "skecg: " + " ".join(str(message).split())
    bars = sys.modules.get("tqdm")
    if bars is None:
        print(line, file=sys.stderr, flush=True)
    else:
        bars.tqdm.write(line, file=sys.stderr)


def in_words(error: Exception) -> str:
    """Say what went wrong; what the system says of a full disk leaves open what to do about it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}. Make room and run the same command again: what was finished is kept."
    return str(error)


@contextlib.contextmanager
def short_warnings() -> Iterator[None]:
    """Show the first few warnings of each kind as lines without source code, and count the others.

    Each is shown when it comes, the counts at the end. Filters that the user has set go first.
    """
    seen: Counter[str] = Counter()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        seen[category.__name__] += 1
        if seen[category.__name__] <= _SHOWN_OF_EACH:
            say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", SkecgWarning, append=True)
        warnings.showwarning = show
        try:
            yield
        finally:
            for name, count in seen.items():
                if count > _SHOWN_OF_EACH:
                    say(f"warning: and {count - _SHOWN_OF_EACH} more of the kind {name}")
