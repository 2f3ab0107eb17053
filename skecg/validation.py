"""Check parameters one way: what was found, what was expected.

Booleans are no numbers here, and neither are NaN and infinity. NumPy's scalars are as good as Python's. Values that are
written to JSON and read back strictly are dataclasses of :class:`PlainFields`; those that travel with weights, in their
``config.json``, are of :class:`Value`.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeGuard

from skecg.errors import InputError, ParameterError, WeightsFormatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "PlainFields",
    "Value",
    "as_numbers",
    "check_choice",
    "check_flag",
    "check_integer",
    "check_jobs",
    "check_number",
    "check_squares",
    "check_unmasked",
    "is_finite",
    "is_integer",
    "is_number",
    "suggestion",
]

# Numbers below it have squares that are hardly told from 0, and those above its reciprocal squares that are none.
_LEAST_SIZE = 1e-150


def is_integer(value: object, minimum: int | None = None) -> TypeGuard[int]:
    """Return whether a value is a whole number, of at least `minimum` if that is given."""
    # True is an integer to Python, and batch_size=True a mistake to everybody.
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and (minimum is None or int(value) >= minimum)  # type: ignore[call-overload]


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite real number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer beyond the range of floats
        return False


def is_finite(value: object) -> bool:
    """Return whether a value is a finite number as JSON has them, and no scalar of NumPy."""
    return isinstance(value, int | float) and is_number(value)


def check_integer(
    name: str, value: Any, minimum: int, *, or_: str = "", error: type[Exception] = ParameterError
) -> int:
    """Return a whole number of at least `minimum`, or raise.

    Parameters
    ----------
    name : str
        Of the parameter, as users write it.
    value : object
        What was given.
    minimum : int
        The least that is allowed.
    or_ : str, default=""
        What else the caller allows, for the message: ``"None"``.
    error : type, default=ParameterError
        What is raised.
    """
    if not is_integer(value, minimum):
        other = f" or {or_}" if or_ else ""
        raise error(f"Got {name}={value!r}, expected an integer of at least {minimum}{other}.")
    return int(value)


def check_jobs(n_jobs: object) -> None:
    """Raise unless this is a number of jobs as joblib counts them: from the last core backwards below zero."""
    if n_jobs is not None and (not is_integer(n_jobs) or n_jobs == 0):
        raise ParameterError(f"Got n_jobs={n_jobs!r}, expected None, a positive integer, or -1 for all cores.")


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    closed: str = "neither",
    error: type[Exception] = ParameterError,
) -> float:
    """Return a finite number between `low` and `high`, or raise.

    Parameters
    ----------
    name : str
        Of the parameter, as users write it.
    value : object
        What was given.
    low, high : float
        Ends of the interval.
    closed : {"neither", "left", "right", "both"}, default="neither"
        Which ends belong to it, as in scikit-learn's ``Interval``.
    error : type, default=ParameterError
        What is raised.
    """
    fits = is_number(value)
    if fits:
        above = low <= value if closed in ("left", "both") else low < value
        below = value <= high if closed in ("right", "both") else value < high
        fits = above and below
    if not fits:
        raise error(f"Got {name}={value!r}, expected a {_numbers(low, high, closed)}.")
    return float(value)


def _numbers(low: float, high: float, closed: str) -> str:
    """Return what numbers of an interval are called."""
    least = "of at least" if closed in ("left", "both") else "above"
    most = "of at most" if closed in ("right", "both") else "below"
    ends = [f"{least} {low:g}"] if low > -math.inf else []
    ends += [f"{most} {high:g}"] if high < math.inf else []
    return f"number {' and '.join(ends)}" if ends else "finite number"


def check_flag(name: str, value: object) -> bool:
    """Return a parameter that is True or False.

    Raises
    ------
    ParameterError
        When it is neither: the text "false", say, counts as true.
    """
    # NumPy's own, without NumPy: the command line's questions are answered before it is imported.
    if not isinstance(value, bool) and (getattr(value, "dtype", None), getattr(value, "shape", None)) != (bool, ()):
        raise ParameterError(f"Got {name}={value!r}, expected True or False.")
    return bool(value)


def check_choice(name: str, value: Any, allowed: Iterable[str], *, error: type[Exception] = ParameterError) -> str:
    """Return one of the allowed words, or raise with the nearest of them."""
    words = list(allowed)
    if not isinstance(value, str) or value not in words:
        raise error(f"Got {name}={value!r}, expected one of {', '.join(map(repr, words))}.{suggestion(value, words)}")
    return value


def as_numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Return values as an array of float64, or raise InputError where they are masked, or no array of numbers.

    The message quotes no value: a table may hold what concerns nobody but its patients.
    """
    import numpy as np

    check_unmasked(name, values)
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Got {name} of type {type(values).__name__} with values that are no numbers, or rows of several lengths; "
            "expected numbers alone, and rows of one length. Leave out columns of text."
        ) from error


def check_unmasked(name: str, values: object) -> None:
    """Raise InputError for a masked array with something under its mask: others take that for known."""
    from numpy import ma

    if ma.is_masked(values):
        raise InputError(
            f"Got {name} with values that are masked, expected values that are all known. Leave their rows out, or "
            "fill them."
        )


def check_squares(features: NDArray[Any]) -> None:
    """Raise InputError for finite features, (n_records, n_features), so large or small that their squares are lost."""
    import numpy as np

    of_columns = np.abs(features).max(axis=0, initial=0)
    largest = float(of_columns.max(initial=0))
    if largest and not _LEAST_SIZE < largest < 1 / _LEAST_SIZE:
        raise InputError(
            f"Got features of up to {largest:.3g}, in column {int(of_columns.argmax())}, expected between "
            f"{_LEAST_SIZE:g} and {1 / _LEAST_SIZE:g}: their squares are no numbers. Standardize them."
        )


def suggestion(value: object, words: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" where a word is near what was given, and nothing otherwise."""
    close = difflib.get_close_matches(value, list(words), n=1) if isinstance(value, str) else []
    return f" Did you mean {close[0]!r}?" if close else ""


class PlainFields:
    """The fields of a frozen dataclass as plain JSON values, and back, strictly."""

    _error: ClassVar[type[Exception]] = ParameterError

    @classmethod
    def _title(cls) -> str:
        """Return what messages call such a value."""
        return cls.__name__

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the fields from plain values; raise for unknown ones, with the nearest, and for those that lack."""
        title = cls._title()
        if not isinstance(values, Mapping):
            raise cls._error(f"Got {type(values).__name__} for {title}, expected an object of named fields.")
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for key in values:
            if key not in known:
                hint = suggestion(key, known) or f" Known fields: {', '.join(known)}."
                raise cls._error(f"Got an unknown field {key!r} in {title}.{hint}")
        try:
            # JSON has lists where the frozen values have tuples.
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        except TypeError as error:
            raise cls._error(f"{title[0].upper()}{title[1:]} lacks a field: {error}.") from error


@dataclass(frozen=True)
class Value(PlainFields):
    """Fields that travel with weights: checked by name, and malformed weights are what is wrong with them."""

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
