"""A run in words and as a picture of its curves, read from its folder alone, while it trains or afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pretraining.config import PretrainConfig
from pretraining.config.objectives import MaeConfig
from pretraining.monitoring.gauges import collapse_reason
from pretraining.monitoring.journal import duration, read_events, read_journal
from pretraining.monitoring.reconstructions import draw_reconstructions
from pretraining.objectives import objective_class
from pretraining.optim import cooldown_steps, warmup_steps
from pretraining.runs import checkpoints_of, latest, read_config, read_data
from skecg.errors import ParameterError
from skecg.plotting.axes import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Entries", "inspect_run", "describe_run", "values_of"]

_GAINS = (("fixed_rhythm_gain", "recordings better than guessed by "), ("fixed_beat_gain", "beats by "))

#: What :func:`pretraining.monitoring.journal.read_journal` and ``read_events`` give.
Entries = Sequence[Mapping[str, Any]]

_MEASURES = {"macro_auroc": "macro AUROC", "r2": "R²"}

# Wong (2011), Nature Methods 8:441: colours that remain apart for colour-blind eyes.
_COLOURS = ("#0072B2", "#E69F00")

_CLASS_COLOURS = ("#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#E69F00", "#8C7A00")

_COLLAPSE_COLOUR, _QUIET = "#D55E00", "0.55"

_SMALL_AND_QUIET: dict[str, Any] = {"fontsize": 7, "color": _QUIET}

_COLUMNS = 3

# Below it points are few enough to be seen one by one; above it a running mean is drawn over a pale curve.
_MANY_POINTS, _AVERAGED_SHARE = 100, 0.03


def describe_run(folder: str | Path) -> str:
    """Describe a run: what it is, what it saw, how far it came, how good it got, whether it collapsed.

    Parameters
    ----------
    folder : path-like
        The run's.

    Returns
    -------
    str

    Raises
    ------
    ParameterError
        When the folder holds no run, or nothing was written down yet.
    """
    folder = Path(folder)
    config, entries = read_config(folder), read_journal(folder)
    if not entries:
        raise ParameterError(f"The journal of {str(folder)!r} holds nothing yet. Wait for the run's first line.")
    told = [*_describe_config(config), *_describe_data(folder, config, entries), *_describe_progress(config, entries)]
    told += [
        *_describe_probe(entries),
        *_describe_collapse(entries, read_events(folder)),
        *_describe_events(read_events(folder)),
    ]
    return "\n".join(f"{label:<10} {text}".rstrip() for label, text in told)


def _describe_config(config: PretrainConfig) -> list[tuple[str, str]]:
    """Describe the configuration in five lines."""
    spec, shape, optim, run = config.input, config.encoder, config.optim, config.run
    slice_ms = 1000 * shape.patch_samples / spec.sampling_rate
    average = f", momentum {config.ema.start:g} to {config.ema.end:g}" if config.objective.has_target else ""
    return [
        (
            "Recipe",
            f"{config.name}: {shape.architecture} encoder of width {shape.dim}, {shape.depth} blocks, "
            f"{shape.num_heads} heads",
        ),
        (
            "Input",
            f"{spec.n_leads} leads at {spec.sampling_rate:g} Hz, windows of {spec.window_seconds:g} s, "
            f"{shape.n_patches} slices of {slice_ms:g} ms; normalization: {spec.normalization}",
        ),
        ("Objective", objective_class(config).summary(config)),
        (
            "Optimizer",
            f"learning rate {_describe_rate(config)}, weight decay {optim.weight_decay:g} to "
            f"{optim.final_weight_decay:g}{average}",
        ),
        ("Run", f"{run.steps:,} steps of {run.batch_size:,} records, seed {run.seed}, precision {run.precision}"),
    ]


def _describe_rate(config: PretrainConfig) -> str:
    """Describe how the learning rate rises and falls, in steps of the run."""
    optim, warmup, cooldown = config.optim, warmup_steps(config), cooldown_steps(config)
    rises = f"{optim.lr:g} after {warmup:,} steps of warm-up" if warmup else f"{optim.lr:g}"
    if optim.schedule == "cosine":
        return f"{rises} to {optim.final_lr:g}"
    return f"{rises}, constant" + (f", to {optim.final_lr:g} in the last {cooldown:,} steps" if cooldown else "")


def _describe_data(folder: Path, config: PretrainConfig, entries: Entries) -> list[tuple[str, str]]:
    corpora = read_data(folder, config).get("corpora", {})
    if not corpora:
        return []
    n_records, seen = sum(corpora.values()), entries[-1]["step"] * config.run.batch_size
    names = ", ".join(f"{name} {count:,}" for name, count in corpora.items())
    return [("Data", f"{n_records:,} records ({names}); {seen:,} seen, {seen / n_records:.1f} times each")]


def _describe_progress(config: PretrainConfig, entries: Entries) -> list[tuple[str, str]]:
    step, elapsed = entries[-1]["step"], entries[-1].get("elapsed_seconds", 0.0)
    speed = values_of(entries, "records_per_second")
    pace = f", {speed[-1][1]:,.0f} records a second" if speed else ""
    told = [("Progress", f"step {step:,} of {config.run.steps:,} in {duration(elapsed)}{pace}")]
    for label, names in (
        ("Loss", (("loss", ""), ("fixed_loss", "on the fixed batch "), *_GAINS)),
        ("Features", (("rank", "rank "), ("record_spread", "spread of records "), ("drift", "drift "))),
    ):
        parts = []
        for name, words in names:
            curve = values_of(entries, name)
            if curve:
                parts.append(f"{words}{curve[0][1]:.3g} to {curve[-1][1]:.3g}")
        if parts:
            told.append((label, "; ".join(parts)))
    return told


def _describe_probe(entries: Entries) -> list[tuple[str, str]]:
    scored, measure = _scored(entries)
    curve = values_of(scored, "probe")
    if not curve:
        return [("Probe", "none")]
    step, best = max(curve, key=lambda point: point[1])
    ends = f"first {curve[0][1]:.3f}, last {curve[-1][1]:.3f}"
    when = f"at step {step:,}" if step else "before training"
    return [("Probe", f"best {_MEASURES.get(measure, measure)} {best:.3f} {when} ({ends})")]


def _scored(entries: Entries) -> tuple[Entries, str]:
    """Return the entries that the last probe scored, and what its scores measure."""
    scored = [entry for entry in entries if "probe" in entry]
    # A run may be resumed with another table. Journals did not say from the beginning which one a score is of.
    asked = scored[-1].get("asked", {}) if scored else {}
    same = [entry for entry in scored if entry.get("asked", asked) == asked]
    return same, asked.get("measure", "macro_auroc")


def _describe_collapse(entries: Entries, events: Entries) -> list[tuple[str, str]]:
    """Describe the collapse that was announced, or that the gauges show now."""
    announced = [event for event in events if event["event"] == "collapse"]
    if announced:
        return [("Collapse", f"announced at step {announced[0]['step']:,}: {announced[0]['text']}")]
    gauged = [entry for entry in entries if "record_spread" in entry]
    if not gauged:
        return [("Collapse", "not watched (watch.gauge_every is 0, or no step was gauged yet)")]
    # As the run itself would have judged at each step, for a journal of a run that did not.
    reasons = (collapse_reason(gauged[:end]) for end in range(1, len(gauged) + 1))
    return [("Collapse", next((reason for reason in reasons if reason), "no sign of it"))]


def _describe_events(events: Entries) -> list[tuple[str, str]]:
    told = [event for event in events if event["event"] != "collapse"]
    return [("", f"step {event['step']:,}: {event['event']}: {event['text']}") for event in told]


def values_of(entries: Entries, name: str) -> list[tuple[int, float]]:
    """Return the steps and values of one quantity, finite ones only, of a journal's entries."""
    return [(e["step"], float(e[name])) for e in entries if name in e and math.isfinite(e[name])]


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
    #: For a probe's scores, one curve a class: what they measure.
    measure: str = ""


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
    _Panel("Probe, AUROC", (), mark=(0.5, "chance"), measure="macro_auroc"),
    _Panel("Probe, R²", (), mark=(0.0, "the mean alone"), measure="r2"),
    _Panel("Records a second", (("records_per_second", "records a second"),), noisy=True, floor=0.0),
)


def inspect_run(folder: str | Path, out: str | Path | None = None, *, data: str | Path | None = None) -> Path:
    """Draw a run's curves and print its description; of a masked autoencoder draw reconstructions, too.

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
    print(describe_run(folder))
    entries, events = read_journal(folder), read_events(folder)
    panels = [panel for panel in _PANELS if _has_curves(panel, entries)]
    rows = -(-len(panels) // _COLUMNS)
    size = (4.2 * _COLUMNS, 2.7 * rows + 0.5)
    # Not pyplot, which keeps figures alive and asks for a display.
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
    """Return the curves of a panel that have points, by label; the probe's are one for each class."""
    found = [(label, values_of(entries, name)) for name, label in panel.curves]
    scored, measure = _scored(entries)
    if panel.measure == measure:
        names = sorted({name for e in scored for name in e if name.startswith("probe_") and name != "probe_seconds"})
        found += [(name.removeprefix("probe_"), values_of(scored, name)) for name in names]
        found.append(("macro", values_of(scored, "probe")))
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
    # A logarithmic scale drops zeros without a word.
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
    """Compute the mean of the values around each."""
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
