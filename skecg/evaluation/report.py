"""The result of an evaluation, for people (text, Markdown, a figure) and for machines (JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skecg.errors import ParameterError
from skecg.evaluation.intervals import Interval
from skecg.evaluation.report_tables import (
    calibration_table,
    fraction_table,
    is_few,
    label_table,
    notes_of,
    score_table,
)
from skecg.evaluation.tables import aligned, markdown

__all__ = ["FractionScores", "LabelScores", "Report", "Row"]


@dataclass(frozen=True)
class FractionScores:
    """Scores of one row with one share of the training patients.

    Parameters
    ----------
    fraction : float
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
        """Scores with the largest share of the training patients."""
        return self.by_fraction[-1]


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
    run : dict
        The command, versions and whatever else belongs to the run.
    """

    dataset: dict[str, Any]
    task: dict[str, Any]
    split: dict[str, Any]
    protocol: dict[str, Any]
    intervals: dict[str, Any]
    draws: list[dict[str, Any]]
    rows: list[Row]
    differences: list[dict[str, Any]]
    run: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain JSON values; numbers that are not there are null."""
        return dict(_plain(asdict(self)))

    def difference(self, of: str, minus: str, fraction: float) -> Interval:
        """Give by how much one row's macro area is above another's."""
        for entry in self.differences:
            if entry["fraction"] == fraction and {entry["of"], entry["minus"]} == {of, minus}:
                found: Interval = entry["macro_auroc"]
                same = entry["of"] == of
                return found if same else Interval(-found.estimate, -found.high, -found.low)
        names = ", ".join(row.name for row in self.rows)
        raise ParameterError(
            f"Got {of!r} and {minus!r} at a share of {fraction:g}, of which there is no difference; the reference "
            f"{self.reference.name!r} is compared with the others of {names}."
        )

    @property
    def reference(self) -> Row:
        """The row that the others are compared with: the first model, else the last row."""
        return next((row for row in self.rows if row.kind == "model"), self.rows[-1])

    def to_text(self) -> str:
        """Write the tables for a terminal."""
        return self._written(aligned, heading="{}")

    def to_markdown(self) -> str:
        """Write the tables in Markdown, with what was done and the command."""
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
        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        files = [where / "report.json", where / "report.md"]
        files[0].write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        files[1].write_text(self.to_markdown(), encoding="utf-8")
        if figure:
            files.append(where / "report.png")
            self.plot().figure.savefig(files[-1])
        return files

    def plot(self) -> Any:
        """Draw the macro areas with their intervals at every share of the labels; gives matplotlib Axes."""
        from skecg.plotting import plot_scores

        scores = {
            row.name: {
                f"{part.fraction * 100:g} % of patients": (
                    part.macro_auroc.estimate,
                    part.macro_auroc.low,
                    part.macro_auroc.high,
                )
                for part in row.by_fraction
            }
            for row in self.rows
        }
        title = f"{self.dataset['name']}, {self.task['name']}: {self.split['n_test']} test records"
        level = f"{self.intervals['level']:.0%}".replace("%", " %")
        return plot_scores(
            scores,
            title=title,
            label=f"Macro AUROC, {level} intervals over test patients, by share of training patients",
        )

    def _written(self, table: Any, heading: str) -> str:
        """Put headings, sentences and tables below each other."""
        parts = [heading.format(f"{self.dataset['name']}: {self.task['name']}"), *self._sentences()]
        parts += [heading.format("Scores"), table(score_table(self)), *notes_of(self)]
        if len(self.rows[0].by_fraction) > 1:
            parts += [heading.format("Macro AUROC by share of the training patients"), table(fraction_table(self))]
        parts += [heading.format("AUROC by label"), table(label_table(self, few=False))]
        if any(is_few(self, label) for label in self.rows[0].labels):
            few = f"fewer than {self.split['few_positives']} test positives or negatives"
            parts += [heading.format(f"Labels with {few}, not in any mean above"), table(label_table(self, few=True))]
        parts += [heading.format("Calibration, mean over labels"), table(calibration_table(self))]
        parts += [heading.format("Rows"), *[f"- {row.name}: {row.note}" for row in self.rows]]
        if command := self.run.get("command"):
            parts += [heading.format("Command"), f"    {command}"]
        return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"

    def _sentences(self) -> Iterator[str]:
        """Say what was done."""
        data, split = self.dataset, self.split
        part = " (a part of those that train)" if split["refit"] else ""
        yield (
            f"{data['n_of_task']} of {data['n_records']} records; {split['n_train']} train, {split['n_selection']} "
            f"select{part}, {split['n_test']} test ({split['n_test_patients']} patients). "
            f"Split: {split['description']}."
        )
        yield f"Labels: {self.task['rule']}."
        yield f"Protocol: {self.protocol['name']}."
        if data["licence"]:
            yield f"Data: {data['licence']}. {data['citation']}".strip()


def _plain(value: Any) -> Any:
    """Turn NaN, which JSON does not know, into null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
