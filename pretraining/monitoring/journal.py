"""What happened in a run: a line for people, a JSON line for machines.

A resumed run drops the lines written after the step it resumes from, so that no step is written twice.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from pretraining.monitoring.callbacks import Callback
from skecg.io.files import replacing

__all__ = ["ASKED", "JOURNAL", "Journal", "duration", "read_events", "read_journal"]

#: Name of the file in the run's folder.
JOURNAL = "journal.jsonl"

#: What a probe says of its scores: a digest of what it asks, and what they measure (``"macro_auroc"``, ``"r2"``).
ASKED = ("key", "measure")

# Of the last so many lines the speed is taken that the time left is guessed from.
_RECENT = 20

_SHOWN = {
    "loss": ("loss", ".4f"),
    "lr": ("lr", ".1e"),
    "momentum": ("momentum", ".4f"),
    "records_per_second": ("records/s", ".0f"),
    "rank": ("rank", ".1f"),
    "record_spread": ("spread", ".3f"),
    "probe": ("probe", ".3f"),
}


class Journal(Callback):
    """Writes down a run.

    Parameters
    ----------
    folder : path-like
        The run's.
    total_steps : int, optional
        Where the run ends; needed to say how much time is left.
    resume_step : int, optional
        The step resumed from: what was written after it is dropped. Without it the journal begins anew.
    print_every : int, default=1
        A line for people at multiples of so many steps, and at the last; 0 for none.
    stream : file-like, optional
        Where lines for people go; standard output when not given.
    asked : mapping of str to str, optional
        Some of :data:`ASKED`, written beside each score.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        total_steps: int | None = None,
        resume_step: int | None = None,
        print_every: int = 1,
        stream: TextIO | None = None,
        asked: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(folder) / JOURNAL
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.total_steps = total_steps
        self.print_every = print_every
        self._stream = stream
        self._asked = dict(asked or {})
        kept = [] if resume_step is None else _keep_until(self.path, resume_step)
        self._elapsed_before = max((line.get("elapsed_seconds", 0.0) for line in kept), default=0.0)
        self._latest = {k: (v, line["step"]) for line in kept for k, v in line.items() if isinstance(v, int | float)}
        # Not the time of day, which a machine may set back.
        self._begun = time.monotonic()
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self._file = self.path.open("w" if resume_step is None else "a", encoding="utf-8")

    @property
    def elapsed_seconds(self) -> float:
        """Time that the run took so far, over all its resumptions."""
        return self._elapsed_before + time.monotonic() - self._begun

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write down values of a step.

        Parameters
        ----------
        step : int
            Optimizer steps done.
        values : mapping of str to float
            Whatever was measured; a step may be written in several goes. A line for people is printed when ``loss`` is
            among them.
        """
        plain = {name: float(value) for name, value in values.items()}
        self._latest |= {name: (value, step) for name, value in plain.items()}
        asked = {"asked": self._asked} if "probe" in plain and self._asked else {}
        self._append({"step": step, "elapsed_seconds": round(self.elapsed_seconds, 3)} | plain | asked)
        if "loss" in plain:
            self._recent.append((step, time.monotonic()))
            if self.print_every and (step % self.print_every == 0 or step == self.total_steps):
                self._print(self._line(step))

    def note(self, step: int, event: str, text: str) -> None:
        """Write down an event (``"start"``, ``"resume"``, ``"stop"``, ``"collapse"``, ``"end"``) and print it."""
        self._append({"step": step, "elapsed_seconds": round(self.elapsed_seconds, 3), "event": event, "text": text})
        self._print(f"step {step}: {event}: {text}")

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Write down values of a step."""
        self.write(step, values)

    gauge = probe = step

    def end(self, step: int) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: dict[str, Any]) -> None:
        """Add a JSON line and hand it to the system, so that a killed process leaves it behind."""
        # JSON knows no NaN, and readers in other languages refuse it.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self._file.write(json.dumps(plain, ensure_ascii=False) + "\n")
        # To the system and not to the disk: waiting for the disk at each line would slow the run.
        self._file.flush()

    def _print(self, line: str) -> None:
        print(line, file=self._stream or sys.stdout, flush=True)

    def _line(self, step: int) -> str:
        """Describe the latest values in a line, those of an earlier step with its number."""
        total = str(self.total_steps) if self.total_steps else ""
        parts = [f"step {step:>{max(len(total), 6)}}" + (f"/{total}" if total else "")]
        for name, (label, form) in _SHOWN.items():
            if name in self._latest:
                value, measured = self._latest[name]
                parts.append(f"{label} {value:{form}}" + (f" (step {measured})" if measured != step else ""))
        left = self._seconds_left(step)
        return "  ".join([*parts, f"{duration(left)} left"] if left is not None else parts)

    def _seconds_left(self, step: int) -> float | None:
        """Guess from the last lines how long the rest takes."""
        first_step, since = self._recent[0]
        if self.total_steps is None or step <= first_step or step >= self.total_steps:
            return None
        return (time.monotonic() - since) / (step - first_step) * (self.total_steps - step)


def read_journal(folder: str | Path) -> list[dict[str, Any]]:
    """Read the values of a run, one dict a step, in order; values that were not finite are NaN.

    Parameters
    ----------
    folder : path-like
        The run's.

    Returns
    -------
    list of dict
        With ``step``, ``elapsed_seconds`` and whatever was measured; empty when nothing was written yet.
    """
    merged: dict[int, dict[str, Any]] = {}
    for line in _read_lines(Path(folder) / JOURNAL):
        if "event" not in line:
            values = {name: math.nan if value is None else value for name, value in line.items()}
            merged.setdefault(line["step"], {}).update(values)
    return [merged[step] for step in sorted(merged)]


def read_events(folder: str | Path) -> list[dict[str, Any]]:
    """Read the events of a run, in order: dicts with ``step``, ``elapsed_seconds``, ``event`` and ``text``."""
    return [line for line in _read_lines(Path(folder) / JOURNAL) if "event" in line]


def duration(seconds: float) -> str:
    """Return a duration in words.

    Examples
    --------
    >>> duration(42), duration(380), duration(7500), duration(200000)
    ('42 s', '6 min 20 s', '2 h 5 min', '2 d 7 h')
    """
    whole = round(seconds)
    for unit, large, small, part in ((86400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit} {large} {rest} {small}" if rest else f"{whole // unit} {large}"
    return f"{whole} s"


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines up to the first that is torn, which a killed process may leave behind."""
    lines: list[dict[str, Any]] = []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines


def _keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop what was written after a step, and a torn last line; the file is replaced in one go."""
    kept = [line for line in _read_lines(path) if line["step"] <= step]
    if path.is_file():
        with replacing(path) as file:
            file.writelines((json.dumps(line, ensure_ascii=False) + "\n").encode() for line in kept)
    return kept
