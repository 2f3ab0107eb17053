"""A run's story in words, read from its folder alone, while it trains or afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretraining.collapse import collapse_reason
from pretraining.config import PretrainConfig
from pretraining.journal import duration, read_events, read_journal
from pretraining.objectives import objective_class
from skecg.errors import ParameterError

__all__ = ["Entries", "read_config", "tell_story", "values_of"]

_GAINS = (("fixed_rhythm_gain", "recordings better than guessed by "), ("fixed_beat_gain", "beats by "))

#: What :func:`pretraining.journal.read_journal` and ``read_events`` give.
Entries = Sequence[Mapping[str, Any]]


def tell_story(folder: str | Path) -> str:
    """Tell a run in words: what it is, what it saw, how far it came, how good it got, whether it collapsed.

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
    told = [*_tell_config(config), *_tell_data(folder, config, entries), *_tell_progress(config, entries)]
    told += [*_tell_probe(entries), *_tell_collapse(entries, read_events(folder)), *_tell_events(read_events(folder))]
    return "\n".join(f"{label:<10} {text}".rstrip() for label, text in told)


def _tell_config(config: PretrainConfig) -> list[tuple[str, str]]:
    """Put the configuration into five lines."""
    spec, shape, optim, run = config.input, config.encoder, config.optim, config.run
    slice_ms = 1000 * shape.patch_samples / spec.sampling_rate
    warmup = f" after {optim.warmup_steps:,} steps of warm-up" if optim.warmup_steps else ""
    average = f", momentum {config.ema.start:g} to {config.ema.end:g}" if config.masks is not None else ""
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
            f"learning rate {optim.lr:g}{warmup} to {optim.final_lr:g}, weight decay {optim.weight_decay:g} to "
            f"{optim.final_weight_decay:g}{average}",
        ),
        ("Run", f"{run.steps:,} steps of {run.batch_size:,} records, seed {run.seed}, precision {run.precision}"),
    ]


def _tell_data(folder: Path, config: PretrainConfig, entries: Entries) -> list[tuple[str, str]]:
    path = folder / "data.json"
    corpora = json.loads(path.read_text(encoding="utf-8")).get("corpora", {}) if path.is_file() else {}
    if not corpora:
        return []
    n_records, seen = sum(corpora.values()), entries[-1]["step"] * config.run.batch_size
    names = ", ".join(f"{name} {count:,}" for name, count in corpora.items())
    return [("Data", f"{n_records:,} records ({names}); {seen:,} seen, {seen / n_records:.1f} times each")]


def _tell_progress(config: PretrainConfig, entries: Entries) -> list[tuple[str, str]]:
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


def _tell_probe(entries: Entries) -> list[tuple[str, str]]:
    curve = values_of(entries, "probe")
    if not curve:
        return [("Probe", "none")]
    step, best = max(curve, key=lambda point: point[1])
    ends = f"first {curve[0][1]:.3f}, last {curve[-1][1]:.3f}"
    when = f"at step {step:,}" if step else "before training"
    return [("Probe", f"best macro AUROC {best:.3f} {when} ({ends})")]


def _tell_collapse(entries: Entries, events: Entries) -> list[tuple[str, str]]:
    """Say what was announced, or what the gauges say now."""
    announced = [event for event in events if event["event"] == "collapse"]
    if announced:
        return [("Collapse", f"announced at step {announced[0]['step']:,}: {announced[0]['text']}")]
    gauged = [entry for entry in entries if "record_spread" in entry]
    if not gauged:
        return [("Collapse", "not watched (watch.gauge_every is 0, or no step was gauged yet)")]
    reasons = (collapse_reason(gauged[:end]) for end in range(1, len(gauged) + 1))
    return [("Collapse", next((reason for reason in reasons if reason), "no sign of it"))]


def _tell_events(events: Entries) -> list[tuple[str, str]]:
    told = [event for event in events if event["event"] != "collapse"]
    return [("", f"step {event['step']:,}: {event['event']}: {event['text']}") for event in told]


def read_config(folder: Path) -> PretrainConfig:
    """Read the configuration that a run's folder holds."""
    path = folder / "config.json"
    if not path.is_file():
        raise ParameterError(f"Got {str(folder)!r}, which holds no config.json, expected the folder of a run.")
    return PretrainConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))


def values_of(entries: Entries, name: str) -> list[tuple[int, float]]:
    """Give the steps and values of one quantity, finite ones only, of a journal's entries."""
    return [(e["step"], float(e[name])) for e in entries if name in e and math.isfinite(e[name])]
