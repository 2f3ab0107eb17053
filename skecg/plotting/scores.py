"""Scores with their intervals, line below line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.errors import ShapeError
from skecg.plotting.canvas import new_axes
from skecg.plotting.embeddings import MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_scores"]

_MM_PER_LINE = 4.5
_SPREAD = 0.7  # of the height between two rows, taken by the series of one

Estimate = tuple[float, float, float]


def plot_scores(
    scores: Mapping[str, Mapping[str, Estimate]],
    *,
    ax: Axes | None = None,
    title: str | None = None,
    label: str | None = None,
) -> Axes:
    """Draw estimates and their intervals, one row for each thing that is scored.

    Parameters
    ----------
    scores : mapping of str to mapping of str to (float, float, float)
        By row and series (a share of the labels, for example): estimate, low and high limit. An estimate that is NaN is
        left out, and limits that are NaN are not drawn.
    ax : matplotlib Axes or None, default=None
        Where to draw; None makes a figure, ``axes.figure``.
    title, label : str or None, default=None
        Above, and below the scale.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ShapeError
        When there is nothing to draw.
    MissingDependencyError
        When matplotlib is not installed.

    Examples
    --------
    >>> axes = plot_scores({"one": {"all": (0.8, 0.7, 0.9)}, "two": {"all": (0.6, 0.5, 0.7)}})
    >>> [text.get_text() for text in axes.get_yticklabels()]
    ['one', 'two']
    """
    series = list(dict.fromkeys(name for row in scores.values() for name in row))
    if not series:
        raise ShapeError("Got no scores to draw, expected at least one row with one estimate.")
    height = 30.0 + _MM_PER_LINE * len(scores) * max(len(series), 1.5)
    ax = new_axes(180.0, height) if ax is None else ax
    offsets = np.linspace(-_SPREAD / 2, _SPREAD / 2, len(series)) if len(series) > 1 else np.zeros(1)
    for number, name in enumerate(series):
        points = [(y, row[name]) for y, row in enumerate(scores.values()) if name in row]
        _draw(ax, points, float(offsets[number]), number, name if len(series) > 1 else None)
    ax.set_yticks(range(len(scores)), list(scores))
    ax.set_ylim(len(scores) - 0.4, -0.6)
    ax.set_xlabel(label or "")
    ax.set_title(title or "", loc="right", fontweight="bold", fontsize=10)  # the names of rows leave no room at left
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if len(series) > 1:
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)
    return ax


def _draw(ax: Axes, points: list[tuple[int, Estimate]], offset: float, number: int, name: str | None) -> None:
    """Draw one series."""
    places = np.array([y + offset for y, _ in points])
    values = np.array([estimate for _, estimate in points], dtype=np.float64).reshape(-1, 3)
    widths = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1])).T
    style: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}
    ax.errorbar(values[:, 0], places, xerr=widths, linestyle="", markersize=5, elinewidth=1.2, label=name, **style)
