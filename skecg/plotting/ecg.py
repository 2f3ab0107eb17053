"""An electrocardiogram on paper: which strip goes where, in seconds and millivolts, and the drawing of it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ParameterError
from skecg.leads import CANONICAL_LEADS
from skecg.plotting.axes import import_matplotlib, new_boxes
from skecg.records import ECGRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Paper", "Strip", "arrange_strips", "lay_paper", "plot_ecg", "plot_ecgs", "plot_explanation"]

_LEFT_OF_ZERO_MM = 10.0

_SQUARE_MM = 5.0

_AIR_MM = 3.0

# Behind a strip, what it is worth.
_HALF_BAND_MM, _FOR, _AGAINST = 8.0, "#d62728", "#1f77b4"

_SECONDS_SHOWN = 10.0

_MARGINS_MM = {"left": 4.0, "right": 4.0, "bottom": 8.0, "top": 11.0}

_PAPER, _THIN, _THICK, _INK = "#fffaf8", "#f8d9d2", "#eeb0a5", "#14181f"


@dataclass(frozen=True)
class Strip:
    """A lead and the time (s) for which it is drawn."""

    lead: str
    start_seconds: float
    stop_seconds: float

    def overlaps(self, other: Strip) -> bool:
        """Return whether two strips of different rows stand one above the other."""
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
    """Return which strips each row holds.

    Raises
    ------
    ParameterError
        When the layout is unknown.
    """
    if layout not in ("auto", "3x4+1", "stacked"):
        raise ParameterError(f"Got layout={layout!r}, expected 'auto', '3x4+1' or 'stacked'.")
    if layout == "stacked" or (layout == "auto" and not set(CANONICAL_LEADS) <= set(leads)):
        return [[Strip(lead, 0.0, seconds)] for lead in leads]
    # Four columns of 2.5 s and a rhythm strip below: how a printed ECG of ten seconds is read.
    edges = np.linspace(0.0, seconds, 5).tolist()
    rows = [
        [
            Strip(CANONICAL_LEADS[3 * q + r], edges[q], edges[q + 1])
            for q in range(4)
            if CANONICAL_LEADS[3 * q + r] in leads
        ]
        for r in range(3)
    ]
    # II, as on printed ECGs, and V1 where it is absent.
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
        # Clipped: one artefact must not push the rows off the page.
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


def plot_ecg(
    record: ECGRecord,
    *,
    layout: str = "auto",
    speed_mm_per_second: float = 25.0,
    gain_mm_per_mv: float = 10.0,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a recording on ECG paper.

    The axes are in seconds and millivolts with the aspect of the paper, so that the squares of 1 and 5 mm are squares.
    On a figure of its own a millimetre is a millimetre. Each lead is drawn about its own median, gaps (NaN) are left
    open, and a pulse of 1 mV stands before each row. Of a recording longer than 10 s the first 10 s are shown, and the
    title says so.

    Parameters
    ----------
    record : ECGRecord
    layout : {"auto", "3x4+1", "stacked"}, default="auto"
        ``"3x4+1"``: three rows of four leads, each for a quarter of the time and running on from one another, above a
        strip of lead II (without it V1, or the first there is). Absent leads leave their places empty, leads that are
        none of the twelve get strips of their own. ``"stacked"``: a row a lead. ``"auto"``: the first of these when all
        twelve leads are there, else the second.
    speed_mm_per_second, gain_mm_per_mv : float, default=25.0, 10.0
        Speed of the paper and height of a millivolt.
    ax : matplotlib Axes or None, default=None
        Where to draw; None makes a figure, ``axes.figure``.
    title : str or None, default=None
        None takes the record's name.

    Returns
    -------
    matplotlib Axes
        Its lines bear the leads' names as labels; x is the time in the recording, y the row's baseline plus the
        voltage.

    Raises
    ------
    ParameterError
        When the layout is unknown, or speed or gain is not positive.
    MissingDependencyError
        When matplotlib is not installed.

    Examples
    --------
    >>> from skecg.datasets import make_ecg
    >>> from skecg.plotting import plot_ecg
    >>> axes = plot_ecg(make_ecg(random_state=0).records[0])
    >>> axes.figure.savefig("ecg.png")  # doctest: +SKIP
    """
    rows, drawn, paper = _laid(record, layout, speed_mm_per_second, gain_mm_per_mv)
    if ax is None:
        (ax,) = new_boxes([(paper.width_mm, paper.height_mm)], **_MARGINS_MM)
    _draw_grid(ax, paper)
    for row, row_values, baseline in zip(rows, drawn, paper.baselines, strict=True):
        _draw_calibration(ax, paper, baseline)
        for strip, values in zip(row, row_values, strict=True):
            _draw_strip(ax, paper, strip, values, record.sampling_rate, baseline)
            _write_name(ax, paper, strip, values[: int(12 * paper.mm_x * record.sampling_rate)], baseline)
    _finish_paper(ax, paper, record, title)
    return ax


def plot_explanation(
    record: ECGRecord,
    pieces: NDArray[np.float64],
    edges: NDArray[np.float64],
    *,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw a recording with what each piece of each lead is worth behind it.

    Parameters
    ----------
    record : ECGRecord
    pieces : ndarray of shape (n_leads, n_pieces)
        See :func:`skecg.explain`. Red speaks for the class, blue against it; the paler, the less.
    edges : ndarray of shape (n_pieces + 1,)
        Where pieces begin and end (s).
    ax, **options
        As of :func:`plot_ecg`.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ParameterError
        When there is not a row for each lead or not an edge more than pieces.
    MissingDependencyError
        When matplotlib is not installed.
    """
    if np.shape(pieces) != (len(record.leads), len(edges) - 1):
        raise ParameterError(
            f"Got pieces of shape {np.shape(pieces)} for {len(record.leads)} leads and {len(edges)} edges, expected a "
            "row for each lead and an edge more than pieces."
        )
    ax = plot_ecg(record, ax=ax, **options)
    paper = [options.get(name, usual) for name, usual in (("speed_mm_per_second", 25.0), ("gain_mm_per_mv", 10.0))]
    rows, _, laid = _laid(record, options.get("layout", "auto"), *paper)
    most = float(np.abs(pieces).max()) or 1.0
    for row, baseline in zip(rows, laid.baselines, strict=True):
        for strip in row:
            for piece, worth in enumerate(pieces[record.leads.index(strip.lead)]):
                left, right = np.clip(edges[piece : piece + 2], strip.start_seconds, strip.stop_seconds)
                if left < right:
                    place = (left, baseline - _HALF_BAND_MM * laid.mm_y), right - left, 2 * _HALF_BAND_MM * laid.mm_y
                    color, alpha = _FOR if worth > 0 else _AGAINST, 0.6 * abs(worth) / most
                    ax.add_patch(
                        import_matplotlib("patches").Rectangle(*place, color=color, alpha=alpha, lw=0, gid="worth")
                    )
    return ax


def plot_ecgs(
    records: Sequence[ECGRecord],
    *,
    titles: Sequence[str] | None = None,
    layout: str = "auto",
    speed_mm_per_second: float = 25.0,
    gain_mm_per_mv: float = 10.0,
    figure: Figure | None = None,
) -> Figure:
    """Draw recordings one below the other, each on paper of the height that its waves need.

    Parameters
    ----------
    records : sequence of ECGRecord
    titles : sequence of str of length n_records, optional
        The records' names when not given.
    layout, speed_mm_per_second, gain_mm_per_mv
        As of :func:`plot_ecg`.
    figure : matplotlib Figure, optional
        Where to draw, ``plt.figure()`` say; it gets the size of the papers. None makes one.

    Returns
    -------
    matplotlib Figure
        A millimetre on it is a millimetre. It has axes for each recording, ``figure.axes``.

    Raises
    ------
    ParameterError
        When there is no recording, or there are not as many titles.
    """
    if isinstance(records, ECGRecord):
        raise ParameterError("Got a single record, expected a list of them. Draw one with plot_ecg.")
    if not records or (titles is not None and len(titles) != len(records)):
        n_titles = "no" if titles is None else len(titles)
        raise ParameterError(f"Got {len(records)} records and {n_titles} titles, expected some and a title for each.")
    papers = [_laid(record, layout, speed_mm_per_second, gain_mm_per_mv)[2] for record in records]
    boxes = new_boxes([(paper.width_mm, paper.height_mm) for paper in papers], figure=figure, **_MARGINS_MM)
    for ax, record, title in zip(boxes, records, titles or [record.name for record in records], strict=True):
        plot_ecg(
            record,
            layout=layout,
            speed_mm_per_second=speed_mm_per_second,
            gain_mm_per_mv=gain_mm_per_mv,
            ax=ax,
            title=title,
        )
    drawn_on = boxes[0].get_figure(root=True)
    assert drawn_on is not None, "axes are on a figure"
    return drawn_on


def _laid(
    record: ECGRecord, layout: str, speed_mm_per_second: float, gain_mm_per_mv: float
) -> tuple[list[list[Strip]], list[list[NDArray[np.float32]]], Paper]:
    """Return the strips of a recording, their voltages, and the paper that they are drawn on."""
    if not isinstance(record, ECGRecord):
        raise ParameterError(
            f"Got a record of type {type(record).__name__}, expected an ECGRecord. skecg.io.read_record(path) reads "
            "one from a file, ECGRecord(signal, sampling_rate, leads) makes one of an array."
        )
    for name, value in (("speed_mm_per_second", speed_mm_per_second), ("gain_mm_per_mv", gain_mm_per_mv)):
        if not 0 < value < np.inf:
            raise ParameterError(f"Got {name}={value!r}, expected a positive number of millimetres.")
    seconds = min(_SECONDS_SHOWN, record.duration_seconds)
    signal = _centred(record.signal[:, : max(1, round(seconds * record.sampling_rate))])
    rows = arrange_strips(record.leads, layout, seconds)
    drawn = [[signal[record.leads.index(strip.lead), _samples_of(strip, record)] for strip in row] for row in rows]
    paper = lay_paper(
        rows,
        [[_extent(values) for values in row] for row in drawn],
        seconds,
        speed_mm_per_second=speed_mm_per_second,
        gain_mm_per_mv=gain_mm_per_mv,
    )
    return rows, drawn, paper


def _centred(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring each lead's median to zero; what is not finite becomes a gap."""
    finite = np.where(np.isfinite(signal), signal, np.float32(np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the median of a lead that is all gap is a gap, and may be
        # The median, which lies on the isoelectric line; a mean is lifted by tall R waves.
        return np.asarray(finite - np.nanmedian(finite, axis=1, keepdims=True), dtype=np.float32)


def _extent(strip: NDArray[np.float32]) -> tuple[float, float]:
    """Return the lowest and the highest voltage of a strip."""
    values = strip[np.isfinite(strip)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _samples_of(strip: Strip, record: ECGRecord) -> slice:
    """Find the samples whose times lie in a strip."""
    # Less a little, or a product like 2500.0000000001 would leave its own sample out.
    first, last = (int(np.ceil(t * record.sampling_rate - 1e-6)) for t in (strip.start_seconds, strip.stop_seconds))
    return slice(first, max(last, first + 1))


def _draw_grid(ax: Axes, paper: Paper) -> None:
    """Draw the lines of 1 mm, and over them those of 5 mm."""
    for every_mm, color, width in ((1, _THIN, 0.4), (5, _THICK, 0.7)):
        columns = paper.mm_x * every_mm * _multiples(paper.left, paper.right, paper.mm_x * every_mm)
        rows = paper.mm_y * every_mm * _multiples(paper.bottom, paper.top, paper.mm_y * every_mm)
        upright = [((x, paper.bottom), (x, paper.top)) for x in columns]
        level = [((paper.left, y), (paper.right, y)) for y in rows]
        lines = import_matplotlib("collections").LineCollection(
            upright + level, colors=color, linewidths=width, zorder=0.5, gid=f"grid-{every_mm}mm"
        )
        # One collection: hundreds of lines of their own are slow to draw.
        ax.add_collection(lines, autolim=False)


def _multiples(low: float, high: float, step: float) -> NDArray[np.int64]:
    return np.arange(round(low / step), round(high / step) + 1)


def _draw_calibration(ax: Axes, paper: Paper, baseline: float) -> None:
    """Draw the pulse of 1 mV and 5 mm before a row."""
    x = paper.mm_x * np.array([-8.5, -7.5, -7.5, -2.5, -2.5, -1.5])
    y = baseline + np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    ax.plot(x, y, color=_INK, linewidth=0.8, solid_joinstyle="miter", label="_calibration")


def _draw_strip(
    ax: Axes, paper: Paper, strip: Strip, values: NDArray[np.float32], sampling_rate: float, baseline: float
) -> None:
    """Draw a piece of a lead, and a bar where it takes over from the lead before."""
    first = int(np.ceil(strip.start_seconds * sampling_rate - 1e-6))
    seconds = np.arange(first, first + len(values)) / sampling_rate
    ax.plot(seconds, baseline + values, color=_INK, linewidth=0.9, solid_joinstyle="round", label=strip.lead, zorder=3)
    if strip.start_seconds > 0:
        bar = baseline + paper.mm_y * np.array([-3.0, 3.0])
        ax.plot([strip.start_seconds] * 2, bar, color=_INK, linewidth=0.6, label="_bar")


def _write_name(ax: Axes, paper: Paper, strip: Strip, beneath: NDArray[np.float32], baseline: float) -> None:
    """Write a lead's name above the beginning of its strip."""
    height_mm = float(np.clip(_extent(beneath)[1] / paper.mm_y + 1.5, 4.5, 15.0))
    place = (strip.start_seconds + 1.2 * paper.mm_x, baseline + height_mm * paper.mm_y)
    name = ax.text(*place, strip.lead, color=_INK, fontsize=9, fontweight="bold", va="bottom", zorder=4, clip_on=True)
    name.set_parse_math(False)
    # A rim in the paper's colour, so that a lead's name is read over grid and trace.
    name.set_path_effects([import_matplotlib("patheffects").withStroke(linewidth=2.5, foreground=_PAPER)])


def _finish_paper(ax: Axes, paper: Paper, record: ECGRecord, title: str | None) -> None:
    """Set limits, aspect and writing."""
    ax.set(xlim=(paper.left, paper.right), ylim=(paper.bottom, paper.top), xticks=[], yticks=[], facecolor=_PAPER)
    # Squares stay squares however the window is pulled: intervals and heights are read off them.
    ax.set_aspect(paper.mm_x / paper.mm_y)
    for spine in ax.spines.values():
        spine.set(color=_THICK, linewidth=0.8)
    heading = [title if title is not None else record.name]
    if record.duration_seconds > _SECONDS_SHOWN:
        heading.append(f"(first {_SECONDS_SHOWN:g} s of {record.duration_seconds:.4g} s)")
    # Names of files need not be Unicode.
    words = " ".join(heading).strip().encode(errors="backslashreplace").decode()
    heading_text = ax.set_title(words, loc="left", fontsize=11, fontweight="bold", color=_INK)
    heading_text.set_parse_math(False)  # a name with dollars is no formula
    note = f"{1 / paper.mm_x:g} mm/s    {1 / paper.mm_y:g} mm/mV    {record.sampling_rate:g} Hz"
    ax.annotate(note, (0, 0), (0, -5), "axes fraction", "offset points", va="top", fontsize=8, color=_INK)
