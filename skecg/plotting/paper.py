"""ECG paper before anything is drawn: which strip goes where, in seconds and millivolts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skecg.errors import ParameterError
from skecg.leads import CANONICAL_LEADS

__all__ = ["Paper", "Strip", "arrange_strips", "lay_paper"]

_LEFT_OF_ZERO_MM = 10.0
_SQUARE_MM = 5.0
_AIR_MM = 3.0


@dataclass(frozen=True)
class Strip:
    """A lead and the time (s) for which it is drawn."""

    lead: str
    start_seconds: float
    stop_seconds: float

    def overlaps(self, other: Strip) -> bool:
        """Say whether two strips of different rows stand one above the other."""
        return self.start_seconds < other.stop_seconds and other.start_seconds < self.stop_seconds


@dataclass(frozen=True)
class Paper:
    """The limits of the paper and the baseline of each row (s, mV); `mm_x` s and `mm_y` mV are a millimetre."""

    mm_x: float
    mm_y: float
    left: float
    right: float
    bottom: float
    top: float
    baselines: tuple[float, ...]

    @property
    def width_mm(self) -> float:
        """Width of the paper."""
        return (self.right - self.left) / self.mm_x

    @property
    def height_mm(self) -> float:
        """Height of the paper."""
        return (self.top - self.bottom) / self.mm_y


def arrange_strips(leads: Sequence[str], layout: str, seconds: float) -> list[list[Strip]]:
    """Say which strips each row holds.

    Raises
    ------
    ParameterError
        When the layout is unknown.
    """
    if layout not in ("auto", "3x4+1", "stacked"):
        raise ParameterError(f"Got layout={layout!r}, expected 'auto', '3x4+1' or 'stacked'.")
    if layout == "stacked" or (layout == "auto" and not set(CANONICAL_LEADS) <= set(leads)):
        return [[Strip(lead, 0.0, seconds)] for lead in leads]
    edges = np.linspace(0.0, seconds, 5).tolist()
    rows = [
        [
            Strip(CANONICAL_LEADS[3 * q + r], edges[q], edges[q + 1])
            for q in range(4)
            if CANONICAL_LEADS[3 * q + r] in leads
        ]
        for r in range(3)
    ]
    rhythm = next((lead for lead in ("II", "V1") if lead in leads), leads[0])
    others = [lead for lead in leads if lead not in CANONICAL_LEADS and lead != rhythm]
    return rows + [[Strip(lead, 0.0, seconds)] for lead in (rhythm, *others)]


def lay_paper(
    rows: Sequence[Sequence[Strip]],
    extents: Sequence[Sequence[tuple[float, float]]],
    seconds: float,
    *,
    speed_mm_per_second: float,
    gain_mm_per_mv: float,
) -> Paper:
    """Put each row on a 5 mm line, far enough from the next for their waves, within reason.

    Parameters
    ----------
    rows : sequence of sequence of Strip
    extents : as `rows`, of (float, float)
        Lowest and highest voltage of each strip (mV).
    seconds : float
        Length of the longest strip.
    speed_mm_per_second, gain_mm_per_mv : float
    """
    mm_x, mm_y = 1.0 / speed_mm_per_second, 1.0 / gain_mm_per_mv

    def squares(millivolts: float, least: int, most: int) -> int:
        """Count the 5 mm squares that hold a voltage and some air."""
        return int(np.clip(np.ceil((millivolts / mm_y + _AIR_MM) / _SQUARE_MM), least, most))

    drops = [squares(max((high for _, high in extents[0]), default=0.0), 3, 7)]
    for (upper, upper_extents), (lower, lower_extents) in itertools.pairwise(zip(rows, extents, strict=True)):
        meetings = [
            high - low
            for above, (low, _) in zip(upper, upper_extents, strict=True)
            for below, (_, high) in zip(lower, lower_extents, strict=True)
            if above.overlaps(below)
        ]
        drops.append(squares(max(meetings, default=0.0), 4, 9))
    last = squares(max((-low for low, _ in extents[-1]), default=0.0), 2, 7)
    depths = np.cumsum(drops)
    return Paper(
        mm_x=mm_x,
        mm_y=mm_y,
        left=-_LEFT_OF_ZERO_MM * mm_x,
        right=_SQUARE_MM * mm_x * max(1.0, float(np.ceil(seconds / (_SQUARE_MM * mm_x) - 1e-6))),
        bottom=-_SQUARE_MM * mm_y * last,
        top=_SQUARE_MM * mm_y * float(depths[-1]),
        baselines=tuple((_SQUARE_MM * mm_y * (depths[-1] - depths)).tolist()),
    )
