"""The comparison of features: one task, one split, one protocol, all rows on the same draws of patients.

Each row also has what it took: time, and memory where the system reports it.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skecg.compute.progress import count_progress
from skecg.datasets.base import LabelledECGs
from skecg.embedding_cache import EmbeddingCache, open_cache
from skecg.errors import CacheUnavailableError, LeakageWarning, ParameterError, user_stacklevel
from skecg.evaluation.bootstrap import Bootstrap, bootstrap_auroc
from skecg.evaluation.features import EncoderFeatures, FeatureSource, features_of
from skecg.evaluation.geometry import Geometry, geometry_of, join_geometries, score_geometry
from skecg.evaluation.protocols import LabelDraw, PooledProtocol, ProbeFit, label_draws
from skecg.evaluation.report import FractionScores, LabelScores, Report, Row, Tested
from skecg.evaluation.splitting import Split, split_by_folds
from skecg.evaluation.tasks import Task, task_labels
from skecg.metrics import FEW_POSITIVES, area_under_precision_recall, area_under_roc, calibration, f1_scores, macro
from skecg.splits import FRACTIONS, N_DRAWS, equal_rows

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
        # The kernel's number for "forget the highest mark".
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
    twins: list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class _Side:
    """A split of the records, and the draws of its training patients."""

    split: Split
    draws: list[LabelDraw]

    def renumbered(self, place: NDArray[np.int64]) -> _Side:
        """Return the same of a part of the records, which have other numbers there."""
        split, draws = self.split, self.draws
        moved = replace(split, train=place[split.train], selection=place[split.selection], test=place[split.test])
        return _Side(moved, [replace(draw, rows=place[draw.rows]) for draw in draws])


def compare(
    dataset: LabelledECGs,
    task: str | Task,
    sources: Sequence[tuple[str, FeatureSource]],
    *,
    protocol: FittingProtocol | None = None,
    fractions: Sequence[float] = FRACTIONS,
    n_draws: int = N_DRAWS,
    n_resamples: int = 1000,
    seed: int = 0,
    test_fold: int | None = None,
    selection_fold: int | None = None,
    splits: Sequence[Split] = (),
    cache: Any = None,
    verbose: int = 0,
    say: Callable[[str], None] = lambda message: None,
) -> Report:
    """Evaluate several sources of features on the same records, draws and resamples.

    Parameters
    ----------
    dataset : LabelledECGs
    task : str or Task
        One of :data:`skecg.evaluation.TASKS`, or labels of one's own.
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
    splits : sequence of Split, optional
        Instead of the data set's folds; all that is tested is scored together, as after a cross-validation.
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
    # Rows are looked up by name from here on.
    if len(set(names)) < len(names):
        raise ParameterError(f"Got rows named {', '.join(names)}, expected each name once. Rename a weights folder.")
    if n_resamples < _FEWEST_RESAMPLES:
        raise ParameterError(f"Got {n_resamples} resamples, expected {_FEWEST_RESAMPLES} or more (1000 is usual).")
    labelled = task if isinstance(task, Task) else task_labels(dataset, task)
    chosen_splits = list(splits) or [
        split_by_folds(dataset, labelled, test_fold=test_fold, selection_fold=selection_fold)
    ]
    _check_scorable(labelled, chosen_splits)
    sides = [
        _Side(split, label_draws(dataset.patients, labelled.labels, split, fractions, n_draws))
        for split in chosen_splits
    ]
    chosen = PooledProtocol() if protocol is None else protocol
    # Only the recordings that are used are read: never those of a fold that is left alone.
    used = np.unique(np.concatenate([part for s in chosen_splits for part in (s.train, s.selection, s.test)]))
    part, place = dataset.select(used), np.full(len(dataset), -1)
    place[used] = np.arange(len(used))
    inner_sides = [side.renumbered(place) for side in sides]
    inner_task = replace(labelled, labels=labelled.labels[used], keep=labelled.keep[used])
    works = []
    for number, (kind, source) in enumerate(sources, start=1):
        say(f"[{number}/{len(sources)}] {source.name}: {source.note}")
        works.append(_work(kind, source, part, inner_task, inner_sides, chosen, cache, verbose))
        # Of splits that somebody else made, that one knows what is in them.
        if not splits:
            _warn_of_copies(part, works[-1].twins, inner_sides[0].split)
    tested = np.concatenate([split.test for split in chosen_splits])
    say(f"resampling {len(np.unique(dataset.patients[tested]))} test patients {n_resamples} times")
    return _report(dataset, labelled, sides, chosen, works, n_resamples, seed)


def _hits(store: EmbeddingCache | None) -> int:
    """Return how often a store knew the answer, 0 where it cannot say."""
    with contextlib.suppress(CacheUnavailableError, AttributeError):
        return store.info().hits if store is not None else 0
    return 0


def _work(
    kind: str,
    source: FeatureSource,
    dataset: LabelledECGs,
    task: Task,
    sides: list[_Side],
    protocol: FittingProtocol,
    cache: Any,
    verbose: int,
) -> _Work:
    """Compute features and fit all probes of one row, measuring what that takes."""
    store = open_cache(cache)
    hits = _hits(store)
    with measured() as embedding:
        features = features_of(source, dataset, cache=store, verbose=verbose)
    n_from_cache = _hits(store) - hits
    standardize = getattr(source, "standardize", True)
    if isinstance(protocol, PooledProtocol):
        protocol = replace(protocol, standardize=protocol.standardize and standardize)
    # Where chance has a part in the features, each draw of them is fitted by itself.
    seeds = features if getattr(features, "ndim", 0) == 3 else [features]
    n_fits = len(seeds) * sum(len(side.draws) for side in sides)
    fits = []
    with measured() as probing, count_progress(n_fits, "fitting", "fit", verbose=verbose) as progress:
        for table in seeds:
            of_sides: list[list[ProbeFit]] = []
            for side in sides:
                of_sides.append([])
                for fit in protocol.fits(table, task.labels, side.split, side.draws):
                    of_sides[-1].append(fit)
                    progress.update(1)
            fits += [_joined_fit(of_draw) for of_draw in zip(*of_sides, strict=True)]
    costs = {
        "n_features": float(features.shape[-1]) if hasattr(features, "shape") else float("nan"),
        "n_from_cache": float(n_from_cache),
        "feature_seconds": embedding.seconds,
        "probe_seconds": probing.seconds,
        "peak_megabytes": float(np.fmax(embedding.peak_megabytes, probing.peak_megabytes)),
    }
    geometries = [geometry_of(features, task, side.split, standardize=standardize) for side in sides]
    # Equal recordings have equal features of an encoder; those of the majority are equal for all.
    twins = equal_rows(features) if isinstance(source, EncoderFeatures) else []
    return _Work(kind, source, fits, join_geometries(geometries), costs, twins)


def _check_scorable(task: Task, splits: Sequence[Split]) -> None:
    """Raise where no label tells any test records apart, as where all have the same one."""
    tested = task.labels[np.concatenate([split.test for split in splits])]
    if not (tested.any(axis=0) & ~tested.all(axis=0)).any():
        raise ParameterError(
            f"Got no label that some of the {len(tested)} test records have and others lack (of "
            f"{', '.join(task.classes[:5])}), expected one or more: nothing could be scored. Correct the labels, or "
            "test another fold."
        )


def _warn_of_copies(dataset: LabelledECGs, twins: Sequence[tuple[int, int]], split: Split) -> None:
    """Warn of test records that equal records learned from, under the name of another patient."""
    is_tested, is_learned = (np.isin(np.arange(len(dataset)), rows) for rows in (split.test, split.train))
    copies = [
        (one, another)
        for one, another in twins
        if (is_tested[one] and is_learned[another]) or (is_learned[one] and is_tested[another])
    ]
    if copies:
        one, another = (dataset.record_ids[row] for row in copies[0])
        warnings.warn(
            f"Got {len(copies)} test records that equal records of other patients that are learned from ({one} and "
            f"{another} are the first), so scores will be too good. Remove copies, or give them the same patient.",
            LeakageWarning,
            stacklevel=user_stacklevel(),
        )


def _joined_fit(fits: Sequence[ProbeFit]) -> ProbeFit:
    """Return the word of several fits of a cross-validation on the records that each tests, one after the other."""
    if len(fits) == 1:
        return fits[0]
    return replace(
        fits[0],
        # The geometric mean, as penalties are tried by factors.
        C=float(np.exp(np.mean(np.log([fit.C for fit in fits])))),
        selection_auroc=float(np.mean([fit.selection_auroc for fit in fits])),
        # Of each record those of its own fold: they were chosen without it.
        thresholds=np.concatenate([np.tile(fit.thresholds, (len(fit.probabilities), 1)) for fit in fits]),
        probabilities=np.concatenate([fit.probabilities for fit in fits]),
        probe=None,
    )


def _report(
    dataset: LabelledECGs,
    task: Task,
    sides: list[_Side],
    protocol: FittingProtocol,
    works: list[_Work],
    n_resamples: int,
    seed: int,
) -> Report:
    """Score everything on the same resamples of the test patients."""
    split = replace(sides[0].split, test=np.concatenate([side.split.test for side in sides]))
    draws = [draw for side in sides for draw in side.draws]
    test, patients = task.labels[split.test], dataset.patients[split.test]
    positives = test.sum(axis=0)
    # A mean over labels must not hang on a label with two patients; they are reported apart.
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
        split={"description": split.description, "n_folds": len(sides)}
        | {"n_train": round(float(np.mean([len(side.split.train) for side in sides])))}
        | {"n_selection": round(float(np.mean([len(side.split.selection) for side in sides])))}
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
        tested=_tested(split.test, test, works, fractions[-1]),
    )


def _tested(rows: NDArray[np.int64], labels: NDArray[np.int8], works: list[_Work], fraction: float) -> Tested:
    """Return what was predicted with the largest share of the labels, averaged over fits."""
    last = {work.source.name: [fit for fit in work.fits if fit.fraction == fraction] for work in works}
    return Tested(
        rows,
        labels,
        {name: _mean([fit.probabilities for fit in fits]) for name, fits in last.items()},
        {name: _mean([np.broadcast_to(fit.thresholds, labels.shape) for fit in fits]) for name, fits in last.items()},
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
    thresholds = _mean([np.atleast_2d(fit.thresholds).mean(axis=0) for fit in fits])
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
