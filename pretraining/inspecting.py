"""A run's curves as a picture, beside its story in words: read from its folder alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pretraining.checkpoints import latest
from pretraining.journal import read_events, read_journal
from pretraining.objective_configs import MaeConfig
from pretraining.reconstructions import draw_reconstructions
from pretraining.run_folder import checkpoints_of
from pretraining.story import Entries, read_config, tell_story, values_of
from skecg.plotting.canvas import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["inspect_run"]


class _Panel(NamedTuple):
    """A picture's part: what is drawn in it, by name and label."""

    title: str
    curves: tuple[tuple[str, str], ...]
    log: bool = False
    #: Whether curves are noisy, so that their mean is what one looks for.
    noisy: bool = False
    #: Where the scale begins, for what means little without its size.
    floor: float | None = None
    #: A line to compare with, and what it means.
    mark: tuple[float, str] | None = None


_PANELS = (
    _Panel("Loss", (("loss", "training"), ("fixed_loss", "fixed batch")), noisy=True, floor=0.0),
    _Panel("Learning rate", (("lr", "learning rate"),)),
    _Panel("Gradient norm", (("gradient_norm", "gradient norm"),), log=True, noisy=True),
    _Panel("Effective rank", (("rank", "centred"), ("rank_uncentred", "uncentred")), floor=0.0),
    _Panel(
        "Spread, as a share of the norm",
        (("record_spread", "between records"), ("token_spread", "within records")),
        log=True,
        mark=(0.01, "collapsed, if it was higher"),
    ),
    _Panel(
        "Contrast, nats better than a guess",
        (("fixed_rhythm_gain", "of recordings"), ("fixed_beat_gain", "of beats")),
        mark=(0.0, "a guess"),
    ),
    _Panel("Variance due to position alone", (("position_share", "share"),), floor=0.0),
    _Panel("Records told apart (F ratio)", (("identity", "F ratio"),), log=True, mark=(1.0, "chance")),
    _Panel("LiDAR", (("lidar", "of records"), ("lidar_shuffled", "of shuffled records")), floor=0.0),
    _Panel("Drift of the two encoders", (("drift", "context from target"), ("target_change", "target since last"))),
    _Panel("Momentum of the target", (("momentum", "momentum"),)),
    _Panel("Probe, AUROC", (), mark=(0.5, "chance")),
    _Panel("Records a second", (("records_per_second", "records a second"),), noisy=True, floor=0.0),
)

# Wong (2011), Nature Methods 8:441: colours that remain apart for colour-blind eyes.
_COLOURS = ("#0072B2", "#E69F00")
_CLASS_COLOURS = ("#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#E69F00", "#8C7A00")
_COLLAPSE_COLOUR, _QUIET = "#D55E00", "0.55"
_SMALL_AND_QUIET: dict[str, Any] = {"fontsize": 7, "color": _QUIET}
_COLUMNS = 3
# Below it points are few enough to be seen one by one; above it a running mean is drawn over a pale curve.
_MANY_POINTS, _AVERAGED_SHARE = 100, 0.03


def inspect_run(folder: str | Path, out: str | Path | None = None, *, data: str | Path | None = None) -> Path:
    """Draw a run's curves and print its story; of a masked autoencoder draw reconstructions, too.

    Parameters
    ----------
    folder : path-like
        The run's.
    out : path-like, optional
        The picture; ``curves.png`` in the run's folder when not given. Its ending decides the format. Reconstructions
        are drawn beside it, their name ends in ``_reconstructions`` (or is ``reconstructions.png``).
    data : path-like, optional
        Shards of recordings to reconstruct; those of the run when not given.

    Returns
    -------
    Path
        Where the picture of the curves is.

    Raises
    ------
    ParameterError
        When the folder holds no run, or nothing was written down yet.
    MissingDependencyError
        When matplotlib is not installed.
    """
    folder = Path(folder)
    print(tell_story(folder))
    entries, events = read_journal(folder), read_events(folder)
    panels = [panel for panel in _PANELS if _has_curves(panel, entries)]
    rows = -(-len(panels) // _COLUMNS)
    size = (4.2 * _COLUMNS, 2.7 * rows + 0.5)
    figure = import_matplotlib("figure").Figure(figsize=size, dpi=110, layout="constrained")
    figure.supxlabel("step", fontsize=8)
    figure.suptitle(_title(folder, entries), x=0.01, ha="left", fontweight="bold", fontsize=12)
    for number, panel in enumerate(panels, start=1):
        ax = figure.add_subplot(rows, _COLUMNS, number)
        _draw_panel(ax, panel, entries)
        _draw_events(ax, events)
    path = Path(out) if out is not None else folder / "curves.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    if read_config(folder).objective.kind == MaeConfig.kind and latest(checkpoints_of(folder)) is not None:
        beside = path.with_name("reconstructions.png" if out is None else f"{path.stem}_reconstructions{path.suffix}")
        print(draw_reconstructions(folder, beside, data=data))
    return path


def _title(folder: Path, entries: Entries) -> str:
    config = read_config(folder)
    return f"{config.name}: step {entries[-1]['step']:,} of {config.run.steps:,}"


def _curves(panel: _Panel, entries: Entries) -> list[tuple[str, list[tuple[int, float]]]]:
    """Give the curves of a panel that have points, by label; the probe's are one for each class."""
    if panel.curves:
        found = [(label, values_of(entries, name)) for name, label in panel.curves]
    else:
        names = sorted({name for e in entries for name in e if name.startswith("probe_") and name != "probe_seconds"})
        found = [(name.removeprefix("probe_"), values_of(entries, name)) for name in names]
        found.append(("macro", values_of(entries, "probe")))
    return [(label, points) for label, points in found if points]


def _has_curves(panel: _Panel, entries: Entries) -> bool:
    return bool(_curves(panel, entries))


def _draw_panel(ax: Axes, panel: _Panel, entries: Entries) -> None:
    """Draw curves, with their names where there are several."""
    curves = _curves(panel, entries)
    if panel.mark is not None:
        ax.axhline(panel.mark[0], color=_QUIET, linewidth=0.8, linestyle="--", zorder=1)
        at_right = ax.get_yaxis_transform()
        ax.text(0.99, panel.mark[0], panel.mark[1], transform=at_right, ha="right", va="bottom", **_SMALL_AND_QUIET)
    for number, (label, points) in enumerate(curves):
        _draw_curve(ax, label, points, number, panel)
    if not panel.curves:
        _mark_best(ax, curves[-1][1])
    if panel.log and all(value > 0 for _, points in curves for _, value in points):
        _set_log_scale(ax)
    elif panel.floor is not None:
        ax.set_ylim(bottom=panel.floor)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=7, loc="best", ncols=2 if len(curves) > 3 else 1, handlelength=1.4)
    ax.set_title(panel.title, loc="left", fontsize=9)
    ax.tick_params(which="both", labelsize=7, width=0.6)
    ax.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    ax.grid(color="0.92", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _set_log_scale(ax: Axes) -> None:
    """Make the scale logarithmic, with plain numbers; between decades too where there is no more than one."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if high < 12 * low else "")


def _draw_curve(ax: Axes, label: str, points: Sequence[tuple[int, float]], number: int, panel: _Panel) -> None:
    """Draw a curve; of many points a running mean over a pale one."""
    steps, values = zip(*points, strict=True)
    if not panel.curves:
        bold = label == "macro"
        colour = "black" if bold else _CLASS_COLOURS[number % len(_CLASS_COLOURS)]
        look: dict[str, Any] = {"color": colour, "linewidth": 1.8 if bold else 1.0, "alpha": 1.0 if bold else 0.8}
        ax.plot(steps, values, label=label, marker="." if len(points) < _MANY_POINTS else "", markersize=4, **look)
        return
    colour = _COLOURS[number % len(_COLOURS)]
    if not panel.noisy or len(points) < _MANY_POINTS:
        marker = "." if len(points) < _MANY_POINTS else ""
        ax.plot(steps, values, label=label, color=colour, linewidth=1.2, marker=marker, markersize=3)
        return
    ax.plot(steps, values, color=colour, linewidth=0.6, alpha=0.35)
    ax.plot(steps, _running_mean(values), label=label, color=colour, linewidth=1.4)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Give the mean of the values around each."""
    reach = max(1, round(_AVERAGED_SHARE * len(values) / 2))
    around = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [math.fsum(part) / len(part) for part in around]


def _mark_best(ax: Axes, points: Sequence[tuple[int, float]]) -> None:
    step, best = max(points, key=lambda point: point[1])
    ax.plot([step], [best], "o", color="black", markersize=4)
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8}
    text = ax.annotate(f"{best:.3f}", (step, best), (0, 5), textcoords="offset points", ha="center", bbox=behind)
    text.set(fontsize=8, fontweight="bold")


def _draw_events(ax: Axes, events: Entries) -> None:
    """Mark where the run was resumed and where collapse was announced first."""
    for event in events:
        if event["event"] == "resume":
            ax.axvline(event["step"], color=_QUIET, linewidth=0.7, linestyle=":")
    collapsed = next((event for event in events if event["event"] == "collapse"), None)
    if collapsed is not None:
        ax.axvline(collapsed["step"], color=_COLLAPSE_COLOUR, linewidth=1.0)
        at_top = ax.get_xaxis_transform()
        text = ax.text(collapsed["step"], 0.98, "collapse", transform=at_top, rotation=90, ha="right", va="top")
        text.set(fontsize=7, color=_COLLAPSE_COLOUR)
