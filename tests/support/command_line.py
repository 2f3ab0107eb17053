"""How the tests call ``skecg``, and with which weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

TINY = str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")

#: Takes the words of a command and gives its exit code.
Run = Callable[..., int]
