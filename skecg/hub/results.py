"""Scores in the Hub's own forms: the model index of a card, and entries of ``.eval_results``.

Beside them the entry of ``registry.json`` that freezes published weights for a release of skecg.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg.encoders.pooling import n_encoder_features
from skecg.errors import ParameterError
from skecg.hub.licences import data_licences
from skecg.validation import suggestion
from skecg.weights.card import Score
from skecg.weights.folder import MODEL_NAME, read_info

if TYPE_CHECKING:
    from skecg.weights import WeightsInfo

__all__ = ["MEASURES", "EvaluatedScore", "model_index", "read_scores", "registry_entry", "result_files"]

#: Field of a report, what people call it, and what the Hub does.
MEASURES = (("macro_auroc", "macro AUROC", "roc_auc"), ("macro_auprc", "macro AUPRC", "average_precision"))


@dataclass(frozen=True)
class EvaluatedScore:
    """One number of an evaluation, and what it is of."""

    dataset: str
    task: str
    protocol: str
    measure: str
    kind: str
    value: float
    low: float | None
    high: float | None
    level: float
    n_test: int

    @property
    def interval(self) -> str:
        """The interval in words; nothing when there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.level:.0%} interval {self.low:.3f} to {self.high:.3f}".replace("%", " %")

    def for_card(self) -> Score:
        """Return the line that a card shows."""
        return Score(
            f"{self.dataset}, {self.task}", self.protocol, self.measure, self.value, self.interval, self.n_test
        )


def read_scores(reports: Iterable[str | Path], info: WeightsInfo) -> list[EvaluatedScore]:
    """Read what ``skecg evaluate`` wrote of some weights.

    Parameters
    ----------
    reports : iterable of path-like
        Files ``report.json``, or folders with one.
    info : WeightsInfo
        The weights whose scores are wanted; a report names weights by their digest.

    Raises
    ------
    ParameterError
        When a file is no report, or has no row of these weights.
    """
    scores: list[EvaluatedScore] = []
    # One path is a list of one, not of its letters.
    for report in [reports] if isinstance(reports, str | os.PathLike) else reports:
        path = Path(report)
        path = path / "report.json" if path.is_dir() else path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            scores += _scores(values, _row_of(values["rows"], info, path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, ParameterError):
                raise
            raise ParameterError(
                f"Got {str(path)!r} as an evaluation, expected a report.json of `skecg evaluate` ({error!r})."
            ) from error
    return scores


def _row_of(rows: Sequence[Mapping[str, Any]], info: WeightsInfo, path: Path) -> Mapping[str, Any]:
    for row in rows:
        # By digest and not by name: the same name may have been evaluated with other weights.
        if row["kind"] == "model" and f"weights {info.sha256[:12]}" in row["note"]:
            return row
    raise ParameterError(
        f"{path} has no scores of the weights {info.sha256[:12]}… in {info.folder}. Evaluate these weights: "
        f"`skecg evaluate --model {info.folder}`."
    )


def _scores(report: Mapping[str, Any], row: Mapping[str, Any]) -> list[EvaluatedScore]:
    """Take the means over labels, with the largest share of the training patients."""
    # The last is all labels, unless the evaluation was of few alone.
    largest = row["by_fraction"][-1]
    found = []
    for field, measure, kind in MEASURES:
        value = largest[field]
        interval = value if isinstance(value, Mapping) else {"estimate": value, "low": None, "high": None}
        # Where no label had enough positives there is no mean, and nothing to publish.
        if interval["estimate"] is None:
            continue
        found.append(
            EvaluatedScore(
                dataset=str(report["dataset"]["name"]),
                task=str(report["task"]["name"]),
                protocol=str(report["protocol"]["name"]),
                measure=measure,
                kind=kind,
                value=float(interval["estimate"]),
                low=interval["low"],
                high=interval["high"],
                level=float(report["intervals"]["level"]),
                n_test=int(report["split"]["n_test"]),
            )
        )
    return found


def model_index(name: str, scores: Sequence[EvaluatedScore]) -> list[dict[str, Any]]:
    """Return the model index of a card, as the Hub wants it; nothing for no scores."""
    if not scores:
        return []
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type="feature-extraction",
            task_name=f"{score.task}, {score.protocol}",
            dataset_type=_slug(score.dataset),
            dataset_name=score.dataset,
            dataset_split="test",
            metric_type=score.kind,
            metric_name=f"{score.measure} ({score.interval})" if score.interval else score.measure,
            metric_value=round(score.value, 4),
        )
        for score in scores
    ]
    return list(eval_results_to_model_index(name, results))


def result_files(scores: Sequence[EvaluatedScore], hub_datasets: Mapping[str, str]) -> dict[str, bytes]:
    """Write ``.eval_results/*.yaml``, one file for each data set that the Hub has.

    Parameters
    ----------
    scores : sequence of EvaluatedScore
    hub_datasets : mapping
        Name of a data set in the reports to its repository on the Hub. Entries without one would be refused there, and
        are in the model index alone.

    Raises
    ------
    ParameterError
        When no score is of such a data set.
    """
    names = list(dict.fromkeys(score.dataset for score in scores))
    for name in hub_datasets:
        if name not in names:
            raise ParameterError(
                f"Got {name!r} for the repository of a data set, expected one that a report has scores of: "
                f"{', '.join(map(repr, names)) or 'none, for no report was passed'}.{suggestion(name, names)}"
            )
    if not hub_datasets:
        return {}
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries: dict[str, list[EvalResultEntry]] = {}
    for score in scores:
        if score.dataset in hub_datasets:
            notes = f"{score.measure}; {score.protocol}; {score.n_test} test records; {score.interval}".rstrip("; ")
            entry = EvalResultEntry(
                dataset_id=hub_datasets[score.dataset],
                task_id=f"{_slug(score.task)}_{score.kind}",
                value=round(score.value, 4),
                notes=notes,
            )
            entries.setdefault(_slug(score.dataset), []).append(entry)
    return {
        f".eval_results/skecg_{name}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(found), sort_keys=False, allow_unicode=True
        ).encode()
        for name, found in entries.items()
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "unnamed"


def registry_entry(
    folder: str | Path, repository: str, commit: str, *, evaluations: Iterable[str | Path] = ()
) -> dict[str, Any]:
    """Describe published weights as ``registry.json`` does.

    Parameters
    ----------
    folder : path-like
        The weights that were published.
    repository, commit : str
        Where they lie, and the commit in full.
    evaluations : iterable of path-like, optional
        Reports of ``skecg evaluate`` on them.

    Returns
    -------
    dict
        Plain JSON values.
    """
    info = read_info(folder)
    known = info.provenance
    scores = {
        f"{score.dataset} {score.task}, {score.measure}": [score.value, score.low, score.high]
        for score in read_scores(evaluations, info)
    }
    return {
        "repository": repository,
        "commit": commit,
        "sha256": info.sha256,
        "trained": known.get("trained") is True,
        "architecture": info.encoder.architecture,
        "n_features": n_encoder_features(info.pooling, info.encoder),
        "leads": list(info.spec.leads),
        "any_leads": info.spec.any_leads,
        "sampling_rate": info.spec.sampling_rate,
        "window_seconds": info.spec.window_seconds,
        "licence": known.get("licence"),
        "data": known.get("data"),
        "data_licences": data_licences(known),
        "megabytes": round((info.folder / MODEL_NAME).stat().st_size / 1e6, 1),
        **({"scores": scores} if scores else {}),
    }
