"""Values that travel in ``config.json``: frozen, checked by name, read strictly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from skecg.errors import WeightsFormatError
from skecg.validation import PlainFields

__all__ = ["Value", "is_finite"]


def is_finite(value: object) -> bool:
    """Return whether a value is a finite number, as a float: integers may be too large for one."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**1023


@dataclass(frozen=True)
class Value(PlainFields):
    """Fields that read themselves from JSON strictly."""

    kind: ClassVar[str]

    _error: ClassVar[type[Exception]] = WeightsFormatError

    @classmethod
    def _title(cls) -> str:
        """Return what messages call such a value."""
        return f"the {cls.kind}"

    def _require(self, condition: bool, field: str, wanted: str) -> None:
        if not condition:
            raise WeightsFormatError(f"Got {field}={getattr(self, field)!r} in the {self.kind}, expected {wanted}.")

    def _require_integers(self, *names: str, minimum: int = 1) -> None:
        for name in names:
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
            self._require(whole, name, f"an integer of at least {minimum}")

    def _require_one_of(self, name: str, *allowed: str) -> None:
        self._require(getattr(self, name) in allowed, name, f"one of {', '.join(map(repr, allowed))}")

    def _require_numbers(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(is_finite(value) and value > 0, name, "a positive number")
