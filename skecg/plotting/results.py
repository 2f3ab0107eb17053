"""A map of embeddings, and scores with their intervals, line below line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.errors import ShapeError
from skecg.linear_model.distances import standardization
from skecg.plotting.axes import new_axes
from skecg.validation import as_numbers, check_flag

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MARKERS", "MOST_CLASSES", "PALETTE", "plot_embedding_map", "plot_scores", "principal_plane"]

# Wong (2011), Nature Methods 8:441: colours that remain apart for colour-blind eyes, the yellow darkened to be seen.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C7A00", "#000000")

MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")

#: Classes that a map tells apart; eyes do not follow more.
MOST_CLASSES = 10

_LEGEND_CHARACTERS = 28

_MM_PER_LINE = 4.5

_SPREAD = 0.7  # of the height between two rows, taken by the series of one

_OF_BASELINES = "0.45"

Estimate = tuple[float, float, float]


def plot_embedding_map(
    features: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    standardize: bool = True,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw embeddings on the plane of their two first principal components.

    A feature without spread is left out. Rows with missing values (records that could not be embedded) are not drawn,
    and the map says how many.

    Parameters
    ----------
    features : array-like of shape (n_records, n_features)
    labels : array-like of shape (n_records,) or None, default=None
        Floating-point labels colour the points along a scale, and those that are not finite are grey. All others are
        categories, with a legend; of more than ten the rarest are one group, in grey and below the others.
    standardize : bool, default=True
        Whether each feature is brought to a deviation of 1 first. False leaves their proportions, for features of
        ``truncate_dim``.
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
    ParameterError
        When `standardize` is neither True nor False.
    MissingDependencyError
        When matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from skecg.plotting import plot_embedding_map
    >>> axes = plot_embedding_map(np.eye(4), ["a", "a", "b", "b"])
    >>> axes.get_xlabel()
    'Component 1 (33 % of variance)'
    """
    table = as_numbers("features", features)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ShapeError(f"Got features of shape {table.shape}, expected (n_records, n_features).")
    values = None if labels is None else np.asarray(labels)
    if values is not None and values.shape != table.shape[:1]:
        raise ShapeError(
            f"Got labels of shape {values.shape}, expected ({len(table)},), one for every row of features."
        )
    complete = np.isfinite(table).all(axis=1)
    if complete.sum() < 2:
        raise ShapeError(f"Got {complete.sum()} rows of features without missing values, expected at least 2.")
    mean, scale = standardization(table[complete], standardize=check_flag("standardize", standardize))
    points, shares = principal_plane((table[complete] - mean) / scale)
    ax = new_axes(150.0, 120.0) if ax is None else ax
    _scatter(ax, points, None if values is None else values[complete])
    for axis, number, share in ((ax.xaxis, 1, shares[0]), (ax.yaxis, 2, shares[1])):
        axis.set_label_text(f"Component {number} ({share:.0%} of variance)".replace("%", " %"))
    if not complete.all():
        note = f"{(~complete).sum()} of {len(table)} rows without values"
        ax.text(0.99, 0.01, note, transform=ax.transAxes, ha="right", va="bottom", fontsize=8, color="0.4")
    ax.set_title(title or "", loc="left", fontweight="bold").set_parse_math(False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(0.06)
    return ax


def principal_plane(centred: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Project rows on their two first components, and give the components' shares of the variance."""
    # Two columns of zeros give a second component to tables that have only one, or none.
    left, scales, directions = np.linalg.svd(np.pad(centred, ((0, 0), (0, 2))), full_matrices=False)
    # The sign of a component is arbitrary: the greatest loading is made positive, so that a map is the same each time.
    strongest = directions[np.arange(2), np.abs(directions[:2]).argmax(axis=1)]
    points = left[:, :2] * scales[:2] * np.where(strongest < 0, -1.0, 1.0)
    shares = scales[:2] ** 2 / max(float(np.sum(scales**2)), 1e-300)
    return points, (float(shares[0]), float(shares[1]))


def _scatter(ax: Axes, points: NDArray[np.float64], labels: NDArray[Any] | None) -> None:
    """Draw the points, by category or along a scale."""
    # Smaller the more there are, so that clouds of thousands do not merge into one.
    size = float(np.clip(7000.0 / len(points), 9.0, 40.0))
    style: dict[str, Any] = {"s": size, "alpha": 0.8, "linewidths": 0.3, "edgecolors": "white"}
    legend = {"fontsize": 9, "loc": "best", "markerscale": (40.0 / size) ** 0.5}
    if labels is None:
        ax.scatter(points[:, 0], points[:, 1], color=PALETTE[0], **style)
    elif labels.dtype.kind == "f":
        known = np.isfinite(labels)
        scale = ax.scatter(points[known, 0], points[known, 1], c=labels[known], cmap="cividis", **style)
        if known.any():
            ax.figure.colorbar(scale, ax=ax)
        if not known.all():
            mark = _scatter_rest(ax, points[~known], style)
            _write_legend(ax, [(f"no number ({(~known).sum()})", mark)], **legend)
    else:
        names = labels.astype(str)
        counts = Counter(names.tolist())
        # The largest classes get colours, in the order of their names, so that two maps agree.
        apart = sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CLASSES])
        series: list[tuple[str, Any]] = []
        for i, name in enumerate(apart):
            chosen = points[names == name]
            look: dict[str, Any] = {
                "color": PALETTE[i % len(PALETTE)],
                # Shapes as well as colours: maps are printed in grey, too.
                "marker": MARKERS[(i // len(PALETTE) + i) % len(MARKERS)],
            }
            mark = ax.scatter(chosen[:, 0], chosen[:, 1], **look, **style)
            series.append((f"{_short(name)} ({len(chosen)})", mark))
        if len(counts) > len(apart):
            rest = points[~np.isin(names, apart)]
            label = f"{len(counts) - len(apart)} others ({len(rest)})"
            series.append((label, _scatter_rest(ax, rest, style)))
        _write_legend(ax, series, **legend)


def _scatter_rest(ax: Axes, points: NDArray[np.float64], style: dict[str, Any]) -> Any:
    """Draw what has no colour of its own, in grey and below the others."""
    return ax.scatter(points[:, 0], points[:, 1], color="0.75", zorder=0.9, **style)


def _write_legend(ax: Axes, series: Sequence[tuple[str, Any]], **options: Any) -> None:
    """Write a legend in which names are text: matplotlib would typeset dollars, and leave out what begins with _."""
    legend = ax.legend([mark for _, mark in series], ["name"] * len(series), frameon=False, **options)
    for text, (name, _) in zip(legend.get_texts(), series, strict=True):
        text.set_text(name)
        text.set_parse_math(False)


def _short(name: str) -> str:
    """Return a name that leaves room for the map beside its legend."""
    return name if len(name) <= _LEGEND_CHARACTERS else f"{name[: _LEGEND_CHARACTERS - 1]}…"


def plot_scores(
    scores: Mapping[str, Mapping[str, Estimate]],
    *,
    ax: Axes | None = None,
    title: str | None = None,
    label: str | None = None,
    baselines: Collection[str] = (),
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
    baselines : collection of str, optional
        Rows that are there to be compared with: their names are grey and their points hollow.

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
    marks: dict[str, Any] = {}
    offsets = np.linspace(-_SPREAD / 2, _SPREAD / 2, len(series)) if len(series) > 1 else np.zeros(1)
    for number, name in enumerate(series):
        # Without points of its own a series would have no mark in the legend; those of baselines have none there.
        for hollow in (False, True):
            rows = [(y, row) for y, (key, row) in enumerate(scores.items()) if (key in baselines) == hollow]
            points = [(y, row[name]) for y, row in rows if name in row]
            named = len(series) > 1 and (not hollow or all(key in baselines for key in scores))
            if points or named:
                drawn = _draw(ax, points, float(offsets[number]), number, hollow=hollow)
                if named:
                    marks[name] = drawn
    ax.set_yticks(range(len(scores)), list(scores))
    for text in ax.get_yticklabels():
        text.set_color(_OF_BASELINES if text.get_text() in baselines else "black")
        text.set_parse_math(False)
    # Upside down, for the first row is to stand on top.
    ax.set_ylim(len(scores) - 0.4, -0.6)
    ax.set_xlabel(label or "").set_parse_math(False)
    # The names of rows leave no room at left.
    ax.set_title(title or "", loc="right", fontweight="bold", fontsize=10).set_parse_math(False)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if len(series) > 1:
        _write_legend(ax, [*marks.items()], fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
    return ax


def _draw(ax: Axes, points: list[tuple[int, Estimate]], offset: float, number: int, *, hollow: bool) -> Any:
    """Draw one series, and return what it is drawn with."""
    places = np.array([y + offset for y, _ in points])
    values = np.array([estimate for _, estimate in points], dtype=np.float64).reshape(-1, 3)
    # A score without an interval is a point: its widths are 0.
    widths = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1])).T
    style: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}
    if hollow:
        style["markerfacecolor"] = "white"
    return ax.errorbar(values[:, 0], places, xerr=widths, linestyle="", markersize=5, elinewidth=1.2, **style)
