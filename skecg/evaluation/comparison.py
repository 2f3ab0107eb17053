"""The comparison of features: one task, one split, one protocol, all rows on the same draws of patients.

Each row also has what it took: time, and memory where the system reports it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skecg.compute.progress import count_progress
from skecg.datasets.base import LabelledECGs
from skecg.embedding_cache import open_cache
from skecg.errors import ParameterError
from skecg.evaluation.bootstrap import Bootstrap, bootstrap_auroc
from skecg.evaluation.features import FeatureSource
from skecg.evaluation.geometry import Geometry, geometry_of, score_geometry
from skecg.evaluation.protocols import LabelDraw, PooledProtocol, ProbeFit, label_draws
from skecg.evaluation.report import FractionScores, LabelScores, Report, Row
from skecg.evaluation.splitting import Split, split_by_folds
from skecg.evaluation.tasks import Task, task_labels
from skecg.metrics import FEW_POSITIVES, area_under_precision_recall, area_under_roc, calibration, f1_scores, macro
from skecg.splits import FRACTIONS, N_DRAWS

__all__ = ["Cost", "FittingProtocol", "compare", "measured"]


Counted = NDArray[np.bool_]

# Fewer resamples say nothing of how much they differ.
_FEWEST_RESAMPLES = 10

# Where Linux keeps the most memory that this process has held, and takes the order to begin anew.
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_KIB_PER_MIB = 1024


@dataclass
class Cost:
    """Time and memory of a piece of work; filled in when it ends.

    Parameters
    ----------
    seconds : float
    peak_megabytes : float
        The most memory that the whole process held meanwhile (MiB); NaN but on Linux, which keeps count.
    """

    seconds: float = float("nan")
    peak_megabytes: float = float("nan")


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """Measure what is done inside."""
    cost = Cost()
    resettable = _reset_peak()
    start = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - start
    if resettable:
        cost.peak_megabytes = _peak_megabytes()


def _reset_peak() -> bool:
    """Begin a new count of the greatest size, or return False where there is none."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return _STATUS.exists()


def _peak_megabytes() -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / _KIB_PER_MIB
    return float("nan")


class FittingProtocol(Protocol):
    """A protocol: from features, or whatever else a source computes, to one fitted probe for each draw."""

    def describe(self) -> dict[str, Any]:
        """Return what is done, as plain values."""

    def fits(
        self, features: Any, labels: NDArray[np.int8], split: Split, draws: Iterable[LabelDraw]
    ) -> Iterator[ProbeFit]:
        """Fit a probe for each draw."""


@dataclass(frozen=True, eq=False)
class _Work:
    """What has been computed for one row, before anything is compared."""

    kind: str
    source: FeatureSource
    fits: list[ProbeFit]
    geometry: Geometry | None
    costs: dict[str, float]


def compare(
    dataset: LabelledECGs,
    task: str,
    sources: Sequence[tuple[str, FeatureSource]],
    *,
    protocol: FittingProtocol | None = None,
    fractions: Sequence[float] = FRACTIONS,
    n_draws: int = N_DRAWS,
    n_resamples: int = 1000,
    seed: int = 0,
    test_fold: int | None = None,
    selection_fold: int | None = None,
    cache: Any = None,
    verbose: int = 0,
    say: Callable[[str], None] = lambda message: None,
) -> Report:
    """Evaluate several sources of features on the same records, draws and resamples.

    Parameters
    ----------
    dataset : LabelledECGs
    task : str
        One of :data:`skecg.evaluation.TASKS`.
    sources : sequence of (str, FeatureSource)
        From :func:`skecg.evaluation.standard_sources`.
    protocol : PooledProtocol, optional
        How features become scores.
    fractions, n_draws
        Shares of the training patients, and draws of each.
    n_resamples : int, default=1000
        Draws of test patients for the intervals.
    seed : int, default=0
        Of these.
    test_fold, selection_fold : int, optional
        As for :func:`skecg.evaluation.split_by_folds`.
    cache : as for :class:`skecg.JEPAEmbedder`
    verbose : int, default=0
    say : callable, optional
        Called with a sentence on what is being done.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        When task, folds or records cannot be used.
    """
    if not sources:
        raise ParameterError("Got nothing to evaluate, expected one source of features or more.")
    names = [source.name for _, source in sources]
    if len(set(names)) < len(names):
        raise ParameterError(f"Got rows named {', '.join(names)}, expected each name once. Rename a weights folder.")
    if n_resamples < _FEWEST_RESAMPLES:
        raise ParameterError(f"Got {n_resamples} resamples, expected {_FEWEST_RESAMPLES} or more (1000 is usual).")
    labelled = task_labels(dataset, task)
    split = split_by_folds(dataset, labelled, test_fold=test_fold, selection_fold=selection_fold)
    draws = label_draws(dataset.patients, labelled.labels, split, fractions, n_draws)
    chosen = PooledProtocol() if protocol is None else protocol
    # Only the recordings that are used are read: never those of a fold that is left alone.
    used = np.unique(np.concatenate([split.train, split.selection, split.test]))
    part, place = dataset.select(used), np.full(len(dataset), -1)
    place[used] = np.arange(len(used))
    inner = Split(place[split.train], place[split.selection], place[split.test], split.refit, split.description)
    inner_draws = [LabelDraw(d.fraction, d.draw, d.patients, place[d.rows]) for d in draws]
    inner_task = replace(labelled, labels=labelled.labels[used], keep=labelled.keep[used])
    works = []
    for number, (kind, source) in enumerate(sources, start=1):
        say(f"[{number}/{len(sources)}] {source.name}: {source.note}")
        works.append(_work(kind, source, part, inner_task, inner, inner_draws, chosen, cache, verbose))
    say(f"resampling {len(np.unique(dataset.patients[split.test]))} test patients {n_resamples} times")
    return _report(dataset, labelled, split, draws, chosen, works, n_resamples, seed)


def _work(
    kind: str,
    source: FeatureSource,
    dataset: LabelledECGs,
    task: Task,
    split: Split,
    draws: list[LabelDraw],
    protocol: FittingProtocol,
    cache: Any,
    verbose: int,
) -> _Work:
    """Compute features and fit all probes of one row, measuring what that takes."""
    store = open_cache(cache)
    hits = store.info().hits if store is not None and hasattr(store, "info") else 0
    with measured() as embedding:
        features = source.features(dataset, cache=store, verbose=verbose)
    n_from_cache = store.info().hits - hits if store is not None and hasattr(store, "info") else 0
    # Where chance has a part in the features, each draw of them is fitted by itself.
    seeds = features if getattr(features, "ndim", 0) == 3 else [features]
    fits = []
    with measured() as probing, count_progress(len(seeds) * len(draws), "fitting", "fit", verbose=verbose) as progress:
        for fit in (fit for table in seeds for fit in protocol.fits(table, task.labels, split, draws)):
            fits.append(fit)
            progress.update(1)
    costs = {
        "n_features": float(features.shape[-1]) if hasattr(features, "shape") else float("nan"),
        "n_from_cache": float(n_from_cache),
        "feature_seconds": embedding.seconds,
        "probe_seconds": probing.seconds,
        "peak_megabytes": float(np.fmax(embedding.peak_megabytes, probing.peak_megabytes)),
    }
    return _Work(kind, source, fits, geometry_of(features, task, split), costs)


def _report(
    dataset: LabelledECGs,
    task: Task,
    split: Split,
    draws: list[LabelDraw],
    protocol: FittingProtocol,
    works: list[_Work],
    n_resamples: int,
    seed: int,
) -> Report:
    """Score everything on the same resamples of the test patients."""
    test, patients = task.labels[split.test], dataset.patients[split.test]
    positives = test.sum(axis=0)
    counted = (positives >= FEW_POSITIVES) & (len(test) - positives >= FEW_POSITIVES)
    fractions = list(dict.fromkeys(draw.fraction for draw in draws))
    boots = {
        fraction: bootstrap_auroc(
            test,
            {w.source.name: np.stack([f.probabilities for f in w.fits if f.fraction == fraction]) for w in works},
            patients,
            n_draws=n_resamples,
            seed=seed,
        )
        for fraction in fractions
    }
    rows = [_row(work, task, test, counted, boots) for work in works]
    return Report(
        dataset={"name": dataset.name, "folder": str(dataset.folder), "licence": dataset.licence}
        | {"citation": dataset.citation, "n_records": len(dataset), "n_of_task": int(task.keep.sum())},
        task={"name": task.name, "rule": task.rule, "classes": list(task.classes)},
        split={"description": split.description, "n_train": len(split.train), "n_selection": len(split.selection)}
        | {"n_test": len(split.test), "n_test_patients": len(np.unique(patients)), "refit": split.refit}
        | {"test_positives": positives.tolist(), "few_positives": FEW_POSITIVES},
        protocol=protocol.describe(),
        intervals={"method": "bootstrap over test patients, paired", "n_resamples": n_resamples, "seed": seed}
        | {"level": boots[fractions[-1]].level, "vanished": boots[fractions[-1]].vanished.tolist()},
        draws=[draw.to_dict() for draw in draws],
        rows=rows,
        differences=_differences(works, counted, boots),
        geometry=score_geometry(
            {work.source.name: work.geometry for work in works if work.geometry is not None},
            task,
            split,
            patients,
            n_draws=n_resamples,
            seed=seed,
        ),
    )


def _row(work: _Work, task: Task, test: NDArray[np.int8], counted: Counted, boots: dict[float, Bootstrap]) -> Row:
    """Score one row at every share of the labels, and label by label at the largest."""
    name = work.source.name
    by_fraction = [
        _fraction_scores(fraction, [f for f in work.fits if f.fraction == fraction], name, test, counted, boot)
        for fraction, boot in boots.items()
    ]
    largest = list(boots)[-1]
    last = [fit for fit in work.fits if fit.fraction == largest]
    labels = _labels(task, test, last, name, boots[largest])
    return Row(name, work.kind, work.source.note, work.costs, by_fraction, labels)


def _fraction_scores(
    fraction: float, fits: list[ProbeFit], name: str, test: NDArray[np.int8], counted: Counted, boot: Bootstrap
) -> FractionScores:
    """Average the scores of the draws of one share of the labels."""
    return FractionScores(
        fraction=fraction,
        macro_auroc=boot.macro(name, counted),
        macro_auroc_all_labels=boot.macro(name),
        draws=[macro(area_under_roc(test, fit.probabilities), counted) for fit in fits],
        macro_auprc=float(np.mean([macro(area_under_precision_recall(test, f.probabilities), counted) for f in fits])),
        macro_f1=float(np.mean([macro(f1_scores(test, f.probabilities, f.thresholds), counted) for f in fits])),
        Cs=[fit.C for fit in fits],
    )


def _labels(task: Task, test: NDArray[np.int8], fits: list[ProbeFit], name: str, boot: Bootstrap) -> list[LabelScores]:
    """Score each label by all measures, averaged over fits."""
    precision = _mean([area_under_precision_recall(test, fit.probabilities) for fit in fits])
    f1 = _mean([f1_scores(test, fit.probabilities, fit.thresholds) for fit in fits])
    thresholds = _mean([fit.thresholds for fit in fits])
    calibrations = [calibration(test, fit.probabilities) for fit in fits]
    brier, error, slope, intercept = (
        _mean([getattr(one, measure) for one in calibrations])
        for measure in ("brier", "expected_error", "slope", "intercept")
    )
    return [
        LabelScores(
            label=label,
            test_positives=int(test[:, k].sum()),
            auroc=boot.label(name, k),
            auprc=float(precision[k]),
            f1=float(f1[k]),
            threshold=float(thresholds[k]),
            brier=float(brier[k]),
            calibration_error=float(error[k]),
            calibration_slope=float(slope[k]),
            calibration_intercept=float(intercept[k]),
        )
        for k, label in enumerate(task.classes)
    ]


def _mean(tables: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Average over fits, label by label; NaN where one has no value."""
    return np.asarray(np.mean(tables, axis=0))


def _differences(works: list[_Work], counted: Counted, boots: dict[float, Bootstrap]) -> list[dict[str, Any]]:
    """Compare each pair of rows at each share of the labels."""
    names = [work.source.name for work in works]
    return [
        {"fraction": fraction, "of": a, "minus": b, "macro_auroc": boot.difference(a, b, counted)}
        for fraction, boot in boots.items()
        for number, a in enumerate(names)
        for b in names[:number]
    ]
