"""Pictures: an electrocardiogram on paper, and a map of embeddings.

Both functions draw on the axes given or on a figure of their own, made without pyplot: no window, no display and no
global state is needed, and nothing has to be closed. ``axes.figure.savefig("ecg.png")`` writes the picture.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.errors import MissingDependencyError, ParameterError, ShapeError
from skecg.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from skecg.records import ECGRecord

__all__ = ["plot_ecg", "plot_embedding_map"]

_MM_PER_INCH = 25.4
_MARGIN_MM = {"left": 4.0, "right": 4.0, "bottom": 8.0, "top": 11.0}
_MARGIN_LEFT_OF_ZERO_MM = 10.0
_SECONDS_SHOWN = 10.0
_PAPER, _THIN, _THICK, _INK = "#fffaf8", "#f8d9d2", "#eeb0a5", "#14181f"
# Wong (2011), Nature Methods 8:441: colours that remain apart for colour-blind eyes, the yellow darkened to be seen.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C7A00", "#000000")
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")


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

    The axes are in seconds and millivolts with the aspect of the paper, so that the squares of 1 and 5 mm are squares. On
    a figure of its own a millimetre is a millimetre. Each lead is drawn about its own median, gaps (NaN) are left open,
    and a pulse of 1 mV stands before each row. Of a recording longer than 10 s the first 10 s are shown; the title says so.

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
        Its lines bear the leads' names as labels; x is the time in the recording, y the row's baseline plus the voltage.

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
    for name, value in (("speed_mm_per_second", speed_mm_per_second), ("gain_mm_per_mv", gain_mm_per_mv)):
        if not 0 < value < np.inf:
            raise ParameterError(f"Got {name}={value!r}, expected a positive number of millimetres.")
    seconds = min(_SECONDS_SHOWN, record.duration_seconds)
    signal = _centred(record.signal[:, : max(1, round(seconds * record.sampling_rate))])
    rows = _arranged(record.leads, layout, seconds)
    paper = _lay_paper([_extent(signal, record.leads, row) for row in rows], seconds, speed_mm_per_second, gain_mm_per_mv)
    ax = _paper_axes(paper) if ax is None else ax
    _draw_grid(ax, paper)
    for row, baseline in zip(rows, paper.baselines, strict=True):
        _draw_calibration(ax, paper, baseline)
        for strip in row:
            _draw_strip(ax, paper, record, signal, strip, baseline)
    _finish_paper(ax, paper, record, title)
    return ax


def plot_embedding_map(
    features: ArrayLike, labels: ArrayLike | None = None, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw embeddings on the plane of their two first principal components.

    Each feature is standardized first; a feature without spread is left out. Rows with missing values (records that
    could not be embedded) are not drawn, and the map says how many.

    Parameters
    ----------
    features : array-like of shape (n_records, n_features)
    labels : array-like of shape (n_records,) or None, default=None
        Floating-point labels colour the points along a scale, all others by category, with a legend.
    ax : matplotlib Axes or None, default=None
        Where to draw; None makes a figure, ``axes.figure``.
    title : str or None, default=None

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ShapeError
        When `features` is not a table with at least two complete rows, or `labels` has another length.
    MissingDependencyError
        When matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> axes = plot_embedding_map(np.eye(4), ["a", "a", "b", "b"])
    >>> axes.get_xlabel()
    'Component 1 (33 % of variance)'
    """
    table = np.asarray(features, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ShapeError(f"Got features of shape {table.shape}, expected (n_records, n_features).")
    values = None if labels is None else np.asarray(labels)
    if values is not None and values.shape != table.shape[:1]:
        raise ShapeError(f"Got labels of shape {values.shape}, expected ({len(table)},), one for every row of features.")
    complete = np.isfinite(table).all(axis=1)
    if complete.sum() < 2:
        raise ShapeError(f"Got {complete.sum()} rows of features without missing values, expected at least 2.")
    points, shares = _principal_plane(table[complete])
    ax = _own_axes(6.0, 5.0) if ax is None else ax
    _scatter(ax, points, None if values is None else values[complete])
    for axis, number, share in ((ax.xaxis, 1, shares[0]), (ax.yaxis, 2, shares[1])):
        axis.set_label_text(f"Component {number} ({share:.0%} of variance)".replace("%", " %"))
    if not complete.all():
        note = f"{(~complete).sum()} of {len(table)} rows without values"
        ax.text(0.99, 0.01, note, transform=ax.transAxes, ha="right", va="bottom", fontsize=8, color="0.4")
    ax.set_title(title or "", loc="left", fontweight="bold")
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(0.06)
    return ax


@dataclass(frozen=True)
class _Strip:
    """A lead and the time (s) for which it is drawn."""

    lead: str
    start_seconds: float
    stop_seconds: float


@dataclass(frozen=True)
class _Paper:
    """Where everything lies, in seconds and millivolts."""

    mm_x: float
    mm_y: float
    left: float
    right: float
    bottom: float
    top: float
    baselines: tuple[float, ...]


def _arranged(leads: Sequence[str], layout: str, seconds: float) -> list[list[_Strip]]:
    """Say which strips each row holds."""
    if layout not in ("auto", "3x4+1", "stacked"):
        raise ParameterError(f"Got layout={layout!r}, expected 'auto', '3x4+1' or 'stacked'.")
    if layout == "stacked" or (layout == "auto" and not set(CANONICAL_LEADS) <= set(leads)):
        return [[_Strip(lead, 0.0, seconds)] for lead in leads]
    quarters = np.linspace(0.0, seconds, 5).tolist()
    grid = [
        [_Strip(CANONICAL_LEADS[3 * q + r], quarters[q], quarters[q + 1]) for q in range(4)]
        for r in range(3)
    ]  # fmt: skip
    rhythm = next((lead for lead in ("II", "V1") if lead in leads), leads[0])
    others = [lead for lead in leads if lead not in CANONICAL_LEADS and lead != rhythm]
    rows = [[strip for strip in row if strip.lead in leads] for row in grid]
    return rows + [[_Strip(lead, 0.0, seconds)] for lead in (rhythm, *others)]


def _centred(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring each lead's median to zero; what is not finite becomes a gap."""
    finite = np.where(np.isfinite(signal), signal, np.float32(np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the median of a lead that is all gap is a gap, and may be
        return np.asarray(finite - np.nanmedian(finite, axis=1, keepdims=True), dtype=np.float32)


def _extent(signal: NDArray[np.float32], leads: Sequence[str], row: Sequence[_Strip]) -> tuple[float, float]:
    """Give the lowest and the highest voltage of the leads of a row."""
    values = signal[[leads.index(strip.lead) for strip in row]]
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _lay_paper(extents: Sequence[tuple[float, float]], seconds: float, speed: float, gain: float) -> _Paper:
    """Put each row on a 5 mm line, far enough from the next for their waves, within reason."""
    mm_x, mm_y = 1.0 / speed, 1.0 / gain

    def steps(millivolts: float, least: int, most: int) -> int:
        """Count 5 mm squares that hold a voltage and 3 mm of air."""
        return int(np.clip(np.ceil((millivolts / mm_y + 3.0) / 5.0), least, most))

    depths = [steps(extents[0][1], 3, 7)]
    depths += [steps(above[0] * -1 + below[1], 4, 9) for above, below in zip(extents[:-1], extents[1:], strict=True)]
    below_last = steps(-extents[-1][0], 2, 7)
    top = 5.0 * mm_y * (sum(depths[1:]) + depths[0])
    baselines = top - 5.0 * mm_y * np.cumsum(depths)
    return _Paper(
        mm_x=mm_x,
        mm_y=mm_y,
        left=-_MARGIN_LEFT_OF_ZERO_MM * mm_x,
        right=5.0 * mm_x * max(1.0, np.ceil(seconds / (5.0 * mm_x) - 1e-6)),
        bottom=-5.0 * mm_y * below_last,
        top=top,
        baselines=tuple(baselines.tolist()),
    )


def _paper_axes(paper: _Paper) -> Axes:
    """Make a figure on which a millimetre of paper is a millimetre."""
    width = (paper.right - paper.left) / paper.mm_x
    height = (paper.top - paper.bottom) / paper.mm_y
    full_width = width + _MARGIN_MM["left"] + _MARGIN_MM["right"]
    full_height = height + _MARGIN_MM["bottom"] + _MARGIN_MM["top"]
    figure = _matplotlib("figure").Figure(figsize=(full_width / _MM_PER_INCH, full_height / _MM_PER_INCH), dpi=150)
    box = (_MARGIN_MM["left"] / full_width, _MARGIN_MM["bottom"] / full_height, width / full_width, height / full_height)
    return figure.add_axes(box)


def _draw_grid(ax: Axes, paper: _Paper) -> None:
    """Draw the lines of 1 mm, and over them those of 5 mm."""
    for every_mm, color, width in ((1, _THIN, 0.4), (5, _THICK, 0.7)):
        columns = paper.mm_x * every_mm * _multiples(paper.left, paper.right, paper.mm_x * every_mm)
        rows = paper.mm_y * every_mm * _multiples(paper.bottom, paper.top, paper.mm_y * every_mm)
        upright = [((x, paper.bottom), (x, paper.top)) for x in columns]
        level = [((paper.left, y), (paper.right, y)) for y in rows]
        lines = _matplotlib("collections").LineCollection(
            upright + level, colors=color, linewidths=width, zorder=0.5, gid=f"grid-{every_mm}mm"
        )
        ax.add_collection(lines, autolim=False)


def _multiples(low: float, high: float, step: float) -> NDArray[np.int64]:
    return np.arange(round(low / step), round(high / step) + 1)


def _draw_calibration(ax: Axes, paper: _Paper, baseline: float) -> None:
    """Draw the pulse of 1 mV and 5 mm before a row."""
    x = paper.mm_x * np.array([-8.5, -7.5, -7.5, -2.5, -2.5, -1.5])
    y = baseline + np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    ax.plot(x, y, color=_INK, linewidth=0.8, solid_joinstyle="miter", label="_calibration")


def _draw_strip(
    ax: Axes, paper: _Paper, record: ECGRecord, signal: NDArray[np.float32], strip: _Strip, baseline: float
) -> None:
    """Draw a piece of a lead with its name, and a bar where it takes over from the lead before."""
    first, last = (int(np.ceil(t * record.sampling_rate - 1e-6)) for t in (strip.start_seconds, strip.stop_seconds))
    values = signal[record.leads.index(strip.lead), first:last]
    seconds = np.arange(first, first + len(values)) / record.sampling_rate
    ax.plot(seconds, baseline + values, color=_INK, linewidth=0.9, solid_joinstyle="round", label=strip.lead, zorder=3)
    if strip.start_seconds > 0:
        bar = baseline + paper.mm_y * np.array([-3.0, 3.0])
        ax.plot([strip.start_seconds] * 2, bar, color=_INK, linewidth=0.6, label="_bar")
    beneath = values[: max(1, int(12 * paper.mm_x * record.sampling_rate))]
    beneath = beneath[np.isfinite(beneath)]
    height = np.clip((beneath.max() / paper.mm_y if beneath.size else 0.0) + 1.5, 4.5, 15.0)
    halo = _matplotlib("patheffects").withStroke(linewidth=2.5, foreground=_PAPER)
    place = (strip.start_seconds + 1.2 * paper.mm_x, baseline + height * paper.mm_y)
    name = ax.text(*place, strip.lead, color=_INK, fontsize=9, fontweight="bold", va="bottom", zorder=4, clip_on=True)
    name.set_path_effects([halo])


def _finish_paper(ax: Axes, paper: _Paper, record: ECGRecord, title: str | None) -> None:
    """Set limits, aspect and writing."""
    ax.set(xlim=(paper.left, paper.right), ylim=(paper.bottom, paper.top), xticks=[], yticks=[], facecolor=_PAPER)
    ax.set_aspect(paper.mm_x / paper.mm_y)
    for spine in ax.spines.values():
        spine.set(color=_THICK, linewidth=0.8)
    heading = [title if title is not None else record.name]
    if record.duration_seconds > _SECONDS_SHOWN:
        heading.append(f"(first {_SECONDS_SHOWN:g} s of {record.duration_seconds:.4g} s)")
    ax.set_title(" ".join(heading).strip(), loc="left", fontsize=11, fontweight="bold", color=_INK)
    note = f"{1 / paper.mm_x:g} mm/s    {1 / paper.mm_y:g} mm/mV    {record.sampling_rate:g} Hz"
    ax.annotate(note, (0, 0), (0, -5), "axes fraction", "offset points", va="top", fontsize=8, color=_INK)


def _own_axes(width_inches: float, height_inches: float) -> Axes:
    figure = _matplotlib("figure").Figure(figsize=(width_inches, height_inches), dpi=150, layout="constrained")
    return figure.add_subplot()


def _principal_plane(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Project standardized rows on their two first components, and give the components' shares of the variance."""
    spread = table.std(axis=0)
    kept = spread > 1e-12 * np.abs(table).max(axis=0, initial=0.0)
    standard = (table[:, kept] - table[:, kept].mean(axis=0)) / spread[kept]
    # Two columns of zeros give a second component to tables that have only one, or none.
    standard = np.pad(standard, ((0, 0), (0, 2)))
    left, scales, directions = np.linalg.svd(standard, full_matrices=False)
    # The sign of a component is arbitrary: the greatest loading is made positive, so that a map is the same each time.
    strongest = directions[np.arange(2), np.abs(directions[:2]).argmax(axis=1)]
    points = left[:, :2] * scales[:2] * np.where(strongest < 0, -1.0, 1.0)
    shares = scales[:2] ** 2 / max(float(np.sum(scales**2)), 1e-300)
    return points, (float(shares[0]), float(shares[1]))


def _scatter(ax: Axes, points: NDArray[np.float64], labels: NDArray[Any] | None) -> None:
    """Draw the points, by category or along a scale."""
    size = float(np.clip(4000.0 / len(points), 6.0, 40.0))
    style = {"s": size, "alpha": 0.8, "linewidths": 0.3, "edgecolors": "white"}
    if labels is None:
        ax.scatter(*points.T, color=_PALETTE[0], **style)
    elif labels.dtype.kind == "f":
        ax.figure.colorbar(ax.scatter(*points.T, c=labels, cmap="cividis", **style), ax=ax)
    else:
        names = labels.astype(str)
        for i, name in enumerate(dict.fromkeys(sorted(names.tolist()))):
            look = {"color": _PALETTE[i % len(_PALETTE)], "marker": _MARKERS[(i // len(_PALETTE) + i) % len(_MARKERS)]}
            ax.scatter(*points[names == name].T, label=f"{name} ({(names == name).sum()})", **look, **style)
        ax.legend(frameon=False, fontsize=9, loc="best", markerscale=max(1.0, (30.0 / size) ** 0.5))


def _matplotlib(module: str) -> Any:
    """Import a part of matplotlib, or say how to install it."""
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise MissingDependencyError(
            "Plotting needs matplotlib, which is not installed. Run: pip install 'skecg[plot]'"
        ) from error
