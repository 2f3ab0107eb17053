"""What times in a table say of a recording: that they are no lead, the rate, and where samples are missing.

Times are written in seconds or milliseconds, from zero or from 1970, and mostly rounded: whole milliseconds at 800 Hz
are one or two apart, and five digits hold less of a second the longer a recording lasts. Steps from row to row then
tell little, but their mean over all rows tells the rate, as long as no row is missing. Where some are, the steps beside
the gaps tell it.
"""

from __future__ import annotations

import math
import re
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.errors import DamagedRecordError, InputError, SamplingRateError, SignalWarning, user_stacklevel
from skecg.leads import CANONICAL_LEADS, canonical_lead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "INDEX_NAMES",
    "check_frame_times",
    "check_times",
    "clock_seconds",
    "is_index",
    "is_ramp",
    "rate_of_times",
]

#: What a column of times or sample numbers is called, before its unit.
INDEX_NAMES: frozenset[str] = frozenset(
    {"", "time", "t", "timestamp", "index", "idx", "sample", "samples", "n", "unnamed: 0", "seconds", "ms", "s", "min"}
    | {"sensor timestamp", "phone timestamp", "zeit", "temps", "tiempo", "tempo", "tijd", "tid", "czas", "čas", "zaman"}
)

# Of a date that is written as in Germany, America or Japan, or of a count of days, the clock is enough.
_CLOCK = re.compile(
    r"(?:\d{1,4}[./]\d{1,2}[./]\d{1,4} +|\d+ days? +)?(?:(\d+):)?(\d{1,2}):(\d{2}(?:[.,]\d+)?)", re.IGNORECASE
)

# What a column of numbers may count.
_PER_SECOND = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9, "minutes": 1 / 60}
_FEW_HERTZ, _MANY_HERTZ = 10, 1e5  # beyond which times are in another unit
_FEW_TIMES = 50  # whose mean step could be off by their rounding
_MANY_TIMES = 200  # whose mean step is known to half a percent, were there one row too many
_NEARLY_WHOLE = 2e-3  # a clock's error
# Rates that are taken for each other lie further apart (128 and 130 Hz by 1.5 %, 125 and 128, 250 and 256, 500 and 512
# by 2.4 %), and clocks of recorders, whose 130 Hz may be 129.9, are better.
_SAME_RATE = 0.01
_PERHAPS_SAME_RATE = 0.05  # where rounding and gaps cannot be told apart
_FEW_JUMPS = 0.05  # of all steps; more are rounded
_FEW_LOSSES = 0.01  # of all steps, beside which the others tell the rate
_JUMP = 1.5  # steps that a gap is longer than
_OFTEN = 0.05  # share of steps by which even rounded times advance


def clock_seconds(cell: str) -> float | None:
    """Read a date with a time, or a clock time, as seconds; None for anything else."""
    bare = cell.strip("'[] ")
    clock = _CLOCK.fullmatch(bare)
    if clock is not None:
        return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3].replace(",", "."))
    if ":" not in bare:
        return None
    try:
        moment = datetime.fromisoformat(bare)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def is_index(name: str, place: int, column: NDArray[np.float64], is_time: bool) -> bool:
    """Report a column that is no lead: times, which repeat where they are rounded, or a first one that only increases.

    Parameters
    ----------
    name : str
        In lower case, without its unit.
    place : int
        Of the column, from 0.
    column : ndarray of shape (n_rows,)
    is_time : bool
        Whether its unit is one of time.
    """
    if name and name in INDEX_NAMES:
        # With a unit it is one of times whatever flaw it has; times that go back are told by check_times.
        return is_time or _is_rising(column) or _is_rising(column[::-1])
    if place > 0 or canonical_lead(name) in CANONICAL_LEADS:
        return False
    # No lead goes on increasing, but one that is flat may take a step.
    often = len(column) >= _FEW_TIMES and np.mean(column[1:] > column[:-1]) > _OFTEN
    return is_ramp(column) or (bool(often) and (is_time or _is_rising(column)))


def is_ramp(column: NDArray[np.float64]) -> bool:
    """Report a column that increases all along, as times and sample numbers do."""
    return len(column) > 1 and bool(np.all(column[1:] > column[:-1]))


def _is_rising(column: NDArray[np.float64]) -> bool:
    """Whether a column never decreases and does increase, as times do that are rounded."""
    return len(column) > 1 and bool(np.all(column[1:] >= column[:-1]) and column[-1] > column[0])


def rate_of_times(times: NDArray[np.float64], seconds: float) -> float | None:
    """Return the rate that evenly spaced times tell, whole where it nearly is; None where they tell none for sure.

    Parameters
    ----------
    times : ndarray of shape (n_rows,)
    seconds : float
        Their unit.
    """
    if len(times) < _FEW_TIMES or not is_ramp(times):
        return None
    steps, n_losses = _without_losses(np.diff(times))
    step = float(np.mean(steps))
    rate = 1 / (step * seconds)
    # Whole milliseconds at 800 Hz are one or two apart, and a few of them tell another rate as well.
    is_uneven = np.abs(steps - step).max() > max(step / 2, steps.min())
    if is_uneven or rate * np.ptp(steps) * (1 + n_losses) > steps.sum() / 2:
        return None
    return _nearly_whole(rate)


def _without_losses(steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Leave out a few steps across packets that were lost, and count them; all stay where others are irregular, too."""
    usual = _usual_step(steps)
    regular = steps[steps <= usual]
    # Steps of two may be rounded, those of more than three are not.
    n_losses = int(np.sum(steps > 2 * usual))
    is_clear = len(regular) + n_losses == len(steps) and n_losses <= _FEW_LOSSES * len(steps)
    return (regular, n_losses) if is_clear else (steps, 0)


def _usual_step(steps: NDArray[np.float64]) -> float:
    """Return what steps without a gap are below; rounded times are often not apart at all."""
    # Of five digits, the last grows on the way: the smallest step counts.
    return _JUMP * float(max(np.median(steps), np.min(steps[steps > 0])))


def _nearly_whole(rate: float) -> float:
    """Round a rate that nearly is whole, as recorders' rates are; clocks and rounded times make 499.7 of 500."""
    return float(round(rate)) if abs(round(rate) / rate - 1) < _NEARLY_WHOLE else rate


def check_times(column: NDArray[np.float64], rate: float, path: Path | str, seconds: float | None = None) -> None:
    """Raise for times that contradict the rate, warn where they jump.

    Parameters
    ----------
    column : ndarray of shape (n_rows,)
        NaN where a time is missing.
    rate : float
        Samples a second (Hz).
    path : Path
        For messages.
    seconds : float, optional
        Unit of the times; any of them, or sample numbers, when not given.

    Raises
    ------
    SamplingRateError
    DamagedRecordError
        When rows stand in the opposite order.
    """
    known = np.flatnonzero(np.isfinite(column))
    steps = np.diff(column[known]) / np.diff(known)  # across a blank, which hides no jump
    if not np.any(steps > 0):
        if np.any(steps < 0):
            raise DamagedRecordError(f"Got times that only go back in {path}, expected rows in their order. Sort them.")
        return
    usual = _usual_step(steps)
    regular = steps[(steps >= 0) & (steps <= usual)]
    step, spread, mean = float(np.mean(regular)), float(np.ptp(regular)), float(np.mean(steps[steps > -usual]))
    is_odd = (steps < 0) | (steps > usual + spread)
    odd = np.flatnonzero(is_odd)
    is_rounded = len(odd) >= _FEW_JUMPS * len(steps)
    is_even = spread < step and not is_rounded
    if not is_even:  # the longest belong to the others then
        step = float(np.mean(steps[~is_odd]))
    # The mean is right whatever the rounding, the regular steps whatever is missing.
    likely = (mean,) if is_rounded else (mean, step)
    is_sure = is_even or steps.max() <= _JUMP * usual
    near = _SAME_RATE if is_sure and len(steps) >= _MANY_TIMES else _PERHAPS_SAME_RATE
    units = {
        unit: count
        for unit, count in _PER_SECOND.items()
        if seconds is None or math.isclose(1 / seconds, count, rel_tol=0.01)
    }
    wanted = {unit: count / rate for unit, count in units.items()} | ({"samples": 1.0} if seconds is None else {})
    near += spread / regular.sum()
    period = next((p for found in likely for p in wanted.values() if abs(found / p - 1) <= near), None)
    if period is None:
        raise _contradiction(rate, likely[-1], units, wanted, path)
    # What rounding adds at one place it takes away at others; what is missing stays missing.
    missing = np.sum(steps - period) > np.sum(steps[odd] - period) / 2
    if len(odd) and (missing or np.any(steps < 0)):
        warnings.warn(
            f"The times in {path} jump by {steps[odd[0]]:g} after row {known[odd[0]] + 1}, where steps are {period:g}: "
            "samples are missing there, and were not put in. Cut the table there, or pass its parts as records.",
            SignalWarning,
            stacklevel=user_stacklevel(),
        )


def check_frame_times(
    labels: Any, names: Sequence[str], values: NDArray[Any], rate: float, where: str
) -> tuple[list[str], NDArray[Any]]:
    """Raise for a data frame whose index, or a column of times, contradicts the rate; warn where they jump.

    Parameters
    ----------
    labels : pandas.Index or empty
        Of the samples. Whole numbers without a name of times may be what a selection of rows left.
    names : sequence of str of length n_columns
    values : ndarray of shape (n_columns, n_samples)
    rate : float
        Samples a second (Hz).
    where : str
        For messages.

    Returns
    -------
    names : list of str of length n_leads
    values : ndarray of shape (n_leads, n_samples)
        Without the columns of times.

    Raises
    ------
    SamplingRateError
    InputError
        When rows stand in the opposite order.
    """
    are_numbers = values.dtype.kind in "iuf"
    is_time = [are_numbers and is_index(name.lower(), 1, row, False) for name, row in zip(names, values, strict=True)]
    found: list[tuple[NDArray[Any], float | None]] = [(values[place], None) for place in np.flatnonzero(is_time)]
    kind = getattr(getattr(labels, "dtype", None), "kind", "O")
    if kind in "mM" and len(labels) > 1:
        since = labels.to_numpy(dtype=f"{'timedelta' if kind == 'm' else 'datetime'}64[ns]").astype(np.int64)
        found.append((since - since[0], 1.0))
    elif kind in "iuf" and len(labels) > 1 and not getattr(labels, "step", 0) > 0:  # not as it is by default
        numbers = np.asarray(labels, dtype=np.float64)
        are_times = kind == "f" or str(labels.name).lower() in INDEX_NAMES
        found.append((numbers if are_times else numbers / (np.median(np.abs(np.diff(numbers))) or 1), None))
    for column, seconds in found:
        steps = np.diff(column)
        # Of even times some tell as much as all.
        times = (column[: _MANY_TIMES + 2] if steps.min() == steps.max() else column).astype(np.float64)
        try:
            check_times(times if seconds is None else times / 1e9, rate, where, seconds)
        except DamagedRecordError as error:
            raise InputError(str(error)) from error
    if not any(is_time):
        return list(names), values
    kept = np.flatnonzero(~np.array(is_time)).tolist()
    return [names[place] for place in kept], values[kept]


def _contradiction(
    rate: float, step: float, units: Mapping[str, float], wanted: Mapping[str, float], path: Path | str
) -> SamplingRateError:
    """Return the error for times of another rate."""
    rates = {unit: _nearly_whole(count / step) for unit, count in units.items()}
    told = [f"{told:g} Hz if they are {unit}" for unit, told in rates.items() if _FEW_HERTZ < told < _MANY_HERTZ]
    return SamplingRateError(
        f"Got sampling_rate={rate:g} and times that advance by {step:g} a row in {path}, expected steps of "
        f"{', '.join(f'{length:g} ({unit})' for unit, length in wanted.items())}. Pass the rate that the times tell"
        f"{': ' if told else ''}{', '.join(told)}."
    )
