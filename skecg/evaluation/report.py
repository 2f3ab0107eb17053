"""The result of an evaluation, for people (text, Markdown, a figure) and for machines (JSON).

Tables are lists of lines of cells: the first line is the head, the first column is set left, the others right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ParameterError
from skecg.evaluation.bootstrap import Interval
from skecg.evaluation.protocols import amount_in_words
from skecg.io.files import make_folder

__all__ = [
    "FractionScores",
    "LabelScores",
    "Report",
    "Row",
    "Tested",
    "aligned",
    "calibration_table",
    "fraction_table",
    "geometry_table",
    "is_few",
    "label_table",
    "markdown",
    "notes_of",
    "score_table",
]

Table = list[list[str]]

Cells = Sequence[Sequence[str]]


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
        numbers = [_whole(costs["n_features"]), _number(area.estimate), _limits(area), against]
        numbers += [_number(scores.macro_auprc), _number(scores.macro_f1), _penalties(scores.Cs)]
        times = [f"{costs['feature_seconds']:.1f}{cached}", f"{costs['probe_seconds']:.1f}"]
        table.append([row.name, *numbers, *times, _whole(costs["peak_megabytes"])])
    return table


def fraction_table(report: Report) -> Table:
    """Means over draws, with the standard deviation between draws of training patients."""
    sizes = {draw["fraction"]: draw["n_patients"] for draw in report.draws}
    shares = [part.fraction for part in report.rows[0].by_fraction]
    head = [f"{share:g} records" if share > 1 else f"{share * 100:g} % ({sizes[share]} patients)" for share in shares]
    table = [["features", *head]]
    for row in report.rows:
        cells = []
        for part in row.by_fraction:
            deviation = _deviation(part.draws) if len(part.draws) > 1 else math.nan
            spread = f" ± {deviation:.3f}" if math.isfinite(deviation) else ""
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


def geometry_table(report: Report) -> Table:
    """Return one line a row that has vectors: one-class scores and retrieval, each with the reference's lead."""
    rows, reference = report.geometry["rows"], report.reference.name
    measures = {"one_class": "one-class AUROC", "retrieval": "same classes nearby"}
    used = [measure for measure in measures if measure in next(iter(rows.values()))]
    table = [["features", *[cell for m in used for cell in (measures[m], "interval", f"{reference} minus this")]]]
    for name, scores in rows.items():
        cells = []
        for measure in used:
            # A reference that has tokens alone is not in this table.
            known = name != reference and reference in rows
            against = _signed(report.geometry_difference(reference, name, measure)) if known else ""
            cells += [_number(scores[measure].estimate), _limits(scores[measure]), against]
        table.append([name, *cells])
    return table


def notes_of(report: Report) -> list[str]:
    """Return what the numbers of a report are."""
    few = report.split["few_positives"]
    largest = report.reference.largest
    n_draws = max(len(part.draws) for part in report.reference.by_fraction)
    notes = [
        f"Means are over labels with at least {few} test positives and negatives. Intervals hold the choice of test "
        "patients only; a difference whose interval has 0 inside may be chance. F1 at thresholds of the selection "
        f"records. All with {amount_in_words(largest.fraction)}."
    ]
    if all(is_few(report, label) for label in report.reference.labels):
        notes.append(f"No label has {few} test positives and negatives: there is no mean, and nothing to compare.")
    if n_draws > 1:
        notes.append(f"± is the standard deviation between {n_draws} stratified draws of training patients.")
    if any(row.costs["n_from_cache"] for row in report.rows):
        notes.append("(cache): features of some or all records were not computed in this run.")
    return notes


def is_few(report: Report, label: LabelScores) -> bool:
    """Return whether a label has too few test positives, or negatives, to count."""
    # Of few negatives an area knows as little as of few positives.
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
    if not math.isfinite(interval.estimate):
        return "-"
    return f"{interval.estimate:+.3f} [{interval.low:+.3f} to {interval.high:+.3f}]"


def _penalties(Cs: Sequence[float]) -> str:
    return ", ".join(f"{C:.2g}" for C in sorted(set(Cs)) if math.isfinite(C)) or "-"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else float("nan")


def _deviation(values: Sequence[float]) -> float:
    centre = sum(values) / len(values)
    return math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))  # draws are a sample


def aligned(table: Cells) -> str:
    """Return a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        first, *others = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def markdown(table: Cells) -> str:
    """Return a table in Markdown."""
    head, *rows = [[cell.replace("|", "\\|") for cell in cells] for cells in table]
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])


@dataclass(frozen=True)
class FractionScores:
    """Scores of one row with one share of the training patients, or one number of training records.

    Parameters
    ----------
    fraction : float
        As :class:`skecg.evaluation.protocols.LabelDraw` has it.
    macro_auroc : Interval
        Mean over the labels with enough test positives (and negatives), and over draws.
    macro_auroc_all_labels : Interval
        Mean over all labels that have a test positive, as the literature counts.
    draws : list of float
        The first of these for each draw of training patients.
    macro_auprc, macro_f1 : float
        Means over the same labels as `macro_auroc`, and over draws; F1 at thresholds from the selection records.
    Cs : list of float
        The penalty chosen for each draw.
    """

    fraction: float
    macro_auroc: Interval
    macro_auroc_all_labels: Interval
    draws: list[float]
    macro_auprc: float
    macro_f1: float
    Cs: list[float]


@dataclass(frozen=True)
class LabelScores:
    """All measures of one label with the largest share of the training patients."""

    label: str
    test_positives: int
    auroc: Interval
    auprc: float
    f1: float
    threshold: float
    brier: float
    calibration_error: float
    calibration_slope: float
    calibration_intercept: float


@dataclass(frozen=True)
class Row:
    """All that is known of one source of features."""

    name: str
    kind: str
    note: str
    costs: dict[str, float]
    by_fraction: list[FractionScores]
    labels: list[LabelScores]

    @property
    def largest(self) -> FractionScores:
        """Scores with the largest share of the training patients, or without shares the most records."""
        return self.by_fraction[-1]


@dataclass(frozen=True, eq=False)
class Tested:
    """What was predicted of the test records with the largest share of the training patients.

    Parameters
    ----------
    rows : ndarray of shape (n_test,), int64
        Numbers of the records in the data set.
    labels : ndarray of shape (n_test, n_labels), int8
    probabilities, thresholds : dict of str to ndarray of shape (n_test, n_labels), float64
        By row of the report; averaged over fits.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int8]
    probabilities: dict[str, NDArray[np.float64]]
    thresholds: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Report:
    """An evaluation: what was done, and what came out.

    Parameters
    ----------
    dataset, task, split, protocol, intervals : dict
        What was done, as plain values.
    draws : list of dict
        Training patients of each draw, by name.
    rows : list of Row
    differences : list of dict
        Of each pair of rows at each share: ``fraction``, ``of``, ``minus``, ``macro_auroc`` (Interval).
    geometry : dict
        What the places of records show without a classifier, see :func:`skecg.evaluation.geometry.score_geometry`;
        empty where no row has vectors.
    run : dict
        The command, versions and whatever else belongs to the run.
    tested : Tested or None
        Record by record, which is not written to files.
    """

    dataset: dict[str, Any]
    task: dict[str, Any]
    split: dict[str, Any]
    protocol: dict[str, Any]
    intervals: dict[str, Any]
    draws: list[dict[str, Any]]
    rows: list[Row]
    differences: list[dict[str, Any]]
    geometry: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    tested: Tested | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; numbers that are not there are null."""
        # Before asdict, which would copy the predictions for every record.
        values = asdict(replace(self, tested=None))
        del values["tested"]
        return dict(_plain(values))

    def difference(self, of: str, minus: str, fraction: float) -> Interval:
        """Return by how much one row's macro area is above another's."""
        for entry in self.differences:
            if entry["fraction"] == fraction and {entry["of"], entry["minus"]} == {of, minus}:
                interval: Interval = entry["macro_auroc"]
                return interval if entry["of"] == of else -interval
        names = ", ".join(row.name for row in self.rows)
        raise ParameterError(
            f"Got {of!r} and {minus!r} at a share of {fraction:g}, of which there is no difference; the reference "
            f"{self.reference.name!r} is compared with the others of {names}."
        )

    def geometry_difference(self, of: str, minus: str, measure: str) -> Interval:
        """Return by how much one row is above another, in ``"one_class"`` or ``"retrieval"``."""
        for entry in self.geometry["differences"]:
            if {entry["of"], entry["minus"]} == {of, minus}:
                interval: Interval = entry[measure]
                return interval if entry["of"] == of else -interval
        raise ParameterError(f"Got {of!r} and {minus!r}, of which one has no vectors to compare.")

    @property
    def reference(self) -> Row:
        """The row that the others are compared with: the first model, else the last row."""
        return next((row for row in self.rows if row.kind == "model"), self.rows[-1])

    def to_text(self) -> str:
        """Return the tables for a terminal."""
        return self._written(aligned, heading="{}")

    def to_markdown(self) -> str:
        """Return the tables in Markdown, with what was done and the command."""
        return self._written(markdown, heading="## {}")

    def save(self, folder: str | Path, *, figure: bool = True) -> list[Path]:
        """Write ``report.json``, ``report.md`` and, where matplotlib is installed, ``report.png``.

        Parameters
        ----------
        folder : str or Path
            Made when absent; files of these names are replaced.
        figure : bool, default=True
            Whether to draw.

        Returns
        -------
        list of Path
            The files.

        Raises
        ------
        MissingDependencyError
            When a figure is asked for and matplotlib is not installed; the other files are written first.
        """
        where = make_folder(folder)
        files = [where / "report.json", where / "report.md"]
        files[0].write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        files[1].write_text(self.to_markdown(), encoding="utf-8")
        # Last: without matplotlib the numbers are written all the same.
        if figure:
            files.append(where / "report.png")
            self.plot().figure.savefig(files[-1])
        return files

    def plot(self) -> Any:
        """Draw the macro areas with their intervals at every share of the labels, the best row first.

        Returns
        -------
        matplotlib Axes
            Names of baselines are grey, and their points hollow.
        """
        from skecg.plotting import plot_scores

        scores = {
            row.name: {
                amount_in_words(part.fraction): (
                    part.macro_auroc.estimate,
                    part.macro_auroc.low,
                    part.macro_auroc.high,
                )
                for part in row.by_fraction
            }
            for row in sorted(self.rows, key=_last_area, reverse=True)
        }
        title = f"{self.dataset['name']}, {self.task['name']}: {self.split['n_test']} test records"
        level = f"{self.intervals['level']:.0%}".replace("%", " %")
        return plot_scores(
            scores,
            title=title,
            label=f"Macro AUROC, {level} intervals over test patients, by number of labels",
            baselines={row.name for row in self.rows if row.kind != "model"},
        )

    def _written(self, table: Any, heading: str) -> str:
        """Put headings, sentences and tables below each other."""
        parts = [heading.format(f"{self.dataset['name']}: {self.task['name']}"), *self.sentences()]
        parts += [heading.format("Scores"), table(score_table(self)), *notes_of(self)]
        if len(self.rows[0].by_fraction) > 1:
            parts += [heading.format("Macro AUROC by number of labels"), table(fraction_table(self))]
        parts += [heading.format("AUROC by label"), table(label_table(self, few=False))]
        if any(is_few(self, label) for label in self.rows[0].labels):
            few = f"fewer than {self.split['few_positives']} test positives or negatives"
            parts += [heading.format(f"Labels with {few}, not in any mean above"), table(label_table(self, few=True))]
        parts += [heading.format("Calibration, mean over labels"), table(calibration_table(self))]
        if self.geometry:
            parts += [heading.format("Without a classifier"), table(geometry_table(self)), *self._geometry_notes()]
        parts += [heading.format("Rows"), *[f"- {row.name}: {row.note}" for row in self.rows]]
        if command := self.run.get("command"):
            parts += [heading.format("Command"), f"    {command}"]
        return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"

    def _geometry_notes(self) -> Iterator[str]:
        """Yield what the numbers without a classifier are."""
        near, normal = self.geometry["n_neighbours"], self.geometry["normal_class"]
        yield f"Same classes nearby: share of the {near} nearest training records with exactly its classes."
        if normal is not None:
            yield (
                f"One class: abnormal against {normal} by the Mahalanobis distance from the {normal} training records "
                f"on their {self.geometry['n_components']} leading components."
            )

    def sentences(self) -> Iterator[str]:
        """Yield what was done."""
        data, split = self.dataset, self.split
        part = " (a part of those that train)" if split["refit"] else ""
        select = f"{split['n_selection']} select{part}, " if split["n_selection"] else ""
        yield (
            f"{data['n_of_task']} of {data['n_records']} records; {split['n_train']} train, {select}"
            f"{split['n_test']} test ({split['n_test_patients']} patients). Split: {split['description']}."
        )
        yield f"Labels: {self.task['rule']}."
        yield f"Protocol: {self.protocol['name']}."
        if data["licence"]:
            yield f"Data: {data['licence']}. {data['citation']}".strip()


def _last_area(row: Row) -> float:
    """Return the area with all labels, below all others where there is none."""
    area = row.by_fraction[-1].macro_auroc.estimate
    return area if math.isfinite(area) else -math.inf


def _plain(value: Any) -> Any:
    """Turn NaN, which JSON does not know, into null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
