"""What the command line says to people, one line a message on standard error, and arguments that several verbs take."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from skecg.archives.files import visible
from skecg.errors import ParameterError, SkecgWarning
from skecg.io.files import resolved

if TYPE_CHECKING:
    from skecg.preprocessing.units import Amplitude
    from skecg.spec import InputSpec

__all__ = [
    "Terminated",
    "VerbParser",
    "Verbs",
    "add_hub_options",
    "add_plugin_option",
    "add_signal_options",
    "add_table_options",
    "as_batch_size",
    "as_layer",
    "as_seed",
    "check_overwrites_nothing",
    "embedding_progress",
    "ends_when_asked",
    "in_words",
    "load_plugins",
    "readers_may_leave",
    "say",
    "say_interrupted",
    "short_warnings",
]

# Enough to see what a warning is about; the rest are counted.
_SHOWN_OF_EACH = 3

# So long after SIGTERM another is taken for the same.
_MOMENT_SECONDS = 1.0

# What `add_subparsers` gives.
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class VerbParser(argparse.ArgumentParser):
    """The parser of a verb, which refuses options that it does not know itself: argparse shows the program's usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments, all of which have to be known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, 1, 0.8)
            meant = f" (did you mean {near[0]}?)" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return found, unknown


def say(message: object) -> None:
    """Print a message in one line, above a progress bar if there is one."""
    line = "skecg: " + visible(" ".join(str(message).split()))
    # Only if somebody imported it: a message is no reason to load a package.
    bars = sys.modules.get("tqdm")
    if bars is None:
        print(line, file=sys.stderr, flush=True)
    else:
        bars.tqdm.write(line, file=sys.stderr)


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM: what cleans up after Ctrl-C does so here, too."""


@contextlib.contextmanager
def ends_when_asked() -> Iterator[None]:
    """Turn SIGTERM, which ``kill``, ``timeout`` and schedulers send, into an exception, so that nothing is left behind.

    Not where somebody else has a mind of what it does, nor outside the main thread, which alone may handle signals.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    owner = os.getpid()
    asked: float | None = None

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        now, is_worker = time.monotonic(), os.getpid() != owner
        if asked is None and not is_worker:
            asked = now
            raise Terminated
        # timeout sends it twice at once, and the second would come in the middle of the cleaning up. Later it is meant;
        # so it is for a worker that was forked.
        if asked is None or is_worker or now > asked + _MOMENT_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def say_interrupted(error: KeyboardInterrupt, how: str = "") -> int:
    """Report that a command was interrupted, or stopped by SIGTERM, and how it stands; return the exit code."""
    word, number = ("stopped", signal.SIGTERM) if isinstance(error, Terminated) else ("interrupted", signal.SIGINT)
    say(f"{word}{how}")
    # As shells have it.
    return 128 + number


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """Print and report to whoever reads it, and to nobody once they have left (head, less): work goes on to its end.

    What an encoding lacks is escaped: a label in Chinese is no reason to lose a model where standard output is cp1252.
    """
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w") as nobody:  # for daemons, which have neither
        sys.stdout, sys.stderr = (_Patient(stream or nobody) for stream in before)
        try:
            yield
            for stream in (sys.stdout, sys.stderr):
                stream.flush()  # here, and not at exit, where Python would print a traceback of its own
        finally:
            sys.stdout, sys.stderr = before


class _Patient:
    """A text stream that outlives its reader, and escapes what it cannot encode."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, or drop what nobody reads."""
        with self._or_nobody():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, or drop it."""
        with self._or_nobody():
            self._stream.flush()

    @contextlib.contextmanager
    def _or_nobody(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # What is still held back for a reader that has left, and all to come, has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def check_overwrites_nothing(option: str, out: Path | None, *read: Path | None) -> None:
    """Raise where a file would be written over one that the same command reads."""
    if out is not None and any(path is not None and resolved(path) == resolved(out) for path in read):
        raise ParameterError(f"Got {option} {str(out)!r}, which is read by this command. Name another file.")


def in_words(error: Exception, going_on: str = "embed and predict go on where they stopped") -> str:
    """Return what went wrong; what the system says of a full disk leaves open what to do about it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}. Make room and run the same command again; {going_on}."
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
        # "always", for Python shows a repeated warning once a line of code, and all of ours come from a few lines.
        warnings.simplefilter("always", SkecgWarning, append=True)
        warnings.showwarning = show
        try:
            yield
        finally:
            for name, count in seen.items():
                if count > _SHOWN_OF_EACH:
                    say(f"warning: and {count - _SHOWN_OF_EACH} more of the kind {name}")


@contextlib.contextmanager
def embedding_progress(
    paths: Sequence[str], spec: InputSpec, *, total: int, done: int, quiet: bool
) -> Iterator[Callable[[int, Mapping[int, tuple[str, ...]], Sequence[Amplitude]], None]]:
    """Show a bar of records; call what is given with how many came, what is odd about which, and their amplitudes.

    Warnings about single records come as they do, that about the unit of all when the work ends well.
    """
    from tqdm import tqdm

    from skecg.preprocessing.quality import warn_once_a_kind
    from skecg.preprocessing.units import MOST_JUDGED, warn_about_units

    amplitudes: list[Amplitude] = []
    # A log file wants a line now and then, a terminal one that moves.
    seconds = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(total=total, initial=done, unit=" records", desc="embedding", mininterval=seconds, disable=quiet) as bar:

        def came(n_records: int, notes: Mapping[int, tuple[str, ...]], judged: Sequence[Amplitude]) -> None:
            # At once and not at the end: millions of records would be remembered for a handful of warnings.
            warn_once_a_kind(list(notes.values()), [repr(paths[row]) for row in notes])
            amplitudes.extend(judged[: MOST_JUDGED - len(amplitudes)])
            bar.update(n_records)

        yield came
    warn_about_units(amplitudes, spec)


def add_plugin_option(verbs: Verbs) -> None:
    """Add to every verb what is not installed as a plug-in, but should be one."""
    for parser in verbs.choices.values():
        parser.add_argument(
            "--plugin", action="append", metavar="MODULE", help="module or .py file to import first; several times"
        )


def load_plugins(arguments: argparse.Namespace) -> None:
    """Import the plug-ins named."""
    if arguments.plugin:
        from skecg.encoders.plugins import load_plugin

        for name in arguments.plugin:
            load_plugin(name)


def add_signal_options(parser: argparse.ArgumentParser) -> None:
    """Add what files of numbers do not say of themselves."""
    group = parser.add_argument_group("tables and arrays", "what CSV and NumPy files do not say of themselves")
    group.add_argument("--sampling-rate", type=float, metavar="HZ", help="samples a second")
    group.add_argument("--leads", type=_names, metavar="I,II,...", help="names of the leads, in the order of the file")
    group.add_argument("--units", metavar="UNIT", help="mV (default), uV, V or nV")


def add_table_options(parser: argparse.ArgumentParser, *, labels: bool = True) -> None:
    """Add which columns of a table of recordings mean what."""
    group = parser.add_argument_group("columns of the table")
    group.add_argument("--path-column", default="path", metavar="NAME", help="paths of the recordings (default: path)")
    if not labels:
        return
    group.add_argument(
        "--label-column",
        action="append",
        required=True,
        metavar="NAME",
        help="classes, numbers, or labels with semicolons between them; may be repeated, for several labels of 0 and 1",
    )
    group.add_argument("--group-column", metavar="NAME", help="whose recordings they are: patients are kept together")
    group.add_argument("--kind", metavar="K", help="classes, labels or numbers, where the cells leave it open")


def add_hub_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which weights of the Hub are meant."""
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of weights on the Hub")
    parser.add_argument("--local-files-only", action="store_true", help="never ask the network for weights")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names with commas between them")
    return names


def as_layer(text: str) -> int | list[int] | str:
    """Read ``3``, ``2,5`` or ``last4``."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        return text
    return numbers if len(numbers) > 1 else numbers[0]


def as_seed(text: str) -> int:
    """Read a seed: what every generator takes, NumPy's among them."""
    seed = int(text) if text.isdecimal() else -1
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 0 to {2**32 - 1}")
    return seed


def as_batch_size(text: str) -> int | str:
    """Read a number or ``auto``."""
    # Text goes on as it is: the embedder says what a batch size may be, for Python and the command line alike.
    return int(text) if text.lstrip("+-").isdigit() else text
