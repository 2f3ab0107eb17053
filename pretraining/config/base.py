"""What every part of a configuration does: reads itself from plain values, and refuses names it does not know."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Self

from skecg.errors import ParameterError

__all__ = ["Part", "refuse_unknown", "require"]


def require(condition: bool, where: str, value: object, wanted: str) -> None:
    """Raise for a value that is not what it has to be."""
    if not condition:
        raise ParameterError(f"Got {where}={value!r}, expected {wanted}.")


class Part:
    """A part of the configuration: reads itself from plain values and refuses unknown keys."""

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the fields from plain values."""
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for key in values:
            refuse_unknown(key, known, cls.__name__)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def refuse_unknown(key: str, known: Sequence[str], where: str) -> None:
    """Raise for a name that is none of those known, with the nearest one."""
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."
        raise ParameterError(f"Got an unknown name {key!r} in {where}. {hint}")
