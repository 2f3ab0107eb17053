"""The tables of a report, as lines of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skecg.evaluation.intervals import Interval
    from skecg.evaluation.report import LabelScores, Report

__all__ = ["calibration_table", "fraction_table", "is_few", "label_table", "notes_of", "score_table"]

Table = list[list[str]]


def score_table(report: Report) -> Table:
    """One line a row, with all labels."""
    reference = report.reference
    level = f"{report.intervals['level']:.0%}".replace("%", " %")
    head = ["features", "n", "macro AUROC", f"{level} interval", f"{reference.name} minus this", "AUPRC", "F1"]
    table = [[*head, "C", "features s", "probe s", "peak MiB"]]
    for row in report.rows:
        scores, costs = row.largest, row.costs
        against = "" if row is reference else _signed(report.difference(reference.name, row.name, scores.fraction))
        cached = " (cache)" if costs["n_from_cache"] else ""
        area = scores.macro_auroc
        numbers = [f"{costs['n_features']:.0f}", _number(area.estimate), _limits(area), against]
        numbers += [_number(scores.macro_auprc), _number(scores.macro_f1), _penalties(scores.Cs)]
        times = [f"{costs['feature_seconds']:.1f}{cached}", f"{costs['probe_seconds']:.1f}"]
        table.append([row.name, *numbers, *times, _whole(costs["peak_megabytes"])])
    return table


def fraction_table(report: Report) -> Table:
    """Means over draws, with the standard deviation between draws of training patients."""
    sizes = {draw["fraction"]: draw["n_patients"] for draw in report.draws}
    shares = [part.fraction for part in report.rows[0].by_fraction]
    head = [f"{share * 100:g} % ({sizes[share]} patients)" for share in shares]
    table = [["features", *head]]
    for row in report.rows:
        cells = []
        for part in row.by_fraction:
            spread = f" ± {_deviation(part.draws):.3f}" if len(part.draws) > 1 else ""
            cells.append(f"{_number(part.macro_auroc.estimate)}{spread} [{_limits(part.macro_auroc)}]")
        table.append([row.name, *cells])
    return table


def label_table(report: Report, *, few: bool) -> Table:
    """One line a label, one column a row of the report."""
    table = [["label", "test positives", *[row.name for row in report.rows]]]
    for k, label in enumerate(report.rows[0].labels):
        if is_few(report, label) == few:
            cells = [f"{_number(row.labels[k].auroc.estimate)} [{_limits(row.labels[k].auroc)}]" for row in report.rows]
            table.append([label.label, str(label.test_positives), *cells])
    return table


def calibration_table(report: Report) -> Table:
    """Means over the labels that count."""
    table = [["features", "Brier", "expected error", "slope", "intercept"]]
    for row in report.rows:
        used = [label for label in row.labels if not is_few(report, label)]
        names = ("brier", "calibration_error", "calibration_slope", "calibration_intercept")
        means = [_mean([getattr(label, name) for label in used]) for name in names]
        table.append([row.name, *map(_number, means)])
    return table


def notes_of(report: Report) -> list[str]:
    """Say what the numbers of a report are."""
    few = report.split["few_positives"]
    largest = report.reference.largest
    n_draws = max(len(part.draws) for part in report.reference.by_fraction)
    notes = [
        f"Means are over labels with at least {few} test positives and negatives. Intervals hold the choice of test "
        "patients only; a difference whose interval has 0 inside may be chance. F1 at thresholds of the selection "
        f"records. All with {largest.fraction * 100:g} % of the training patients."
    ]
    if n_draws > 1:
        notes.append(f"± is the standard deviation between {n_draws} stratified draws of training patients.")
    if any(row.costs["n_from_cache"] for row in report.rows):
        notes.append("(cache): features of some or all records were not computed in this run.")
    return notes


def is_few(report: Report, label: LabelScores) -> bool:
    """Say whether a label has too few test positives, or negatives, to count."""
    few: int = report.split["few_positives"]
    negatives: int = report.split["n_test"] - label.test_positives
    return min(label.test_positives, negatives) < few


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _whole(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "-"


def _limits(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}" if math.isfinite(interval.low) else "-"


def _signed(interval: Interval) -> str:
    return f"{interval.estimate:+.3f} [{interval.low:+.3f} to {interval.high:+.3f}]"


def _penalties(Cs: Sequence[float]) -> str:
    return ", ".join(f"{C:.2g}" for C in sorted(set(Cs)) if math.isfinite(C)) or "-"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else float("nan")


def _deviation(values: Sequence[float]) -> float:
    centre = sum(values) / len(values)
    return math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))
