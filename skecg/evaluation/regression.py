"""Heart rate and QRS duration from pooled vectors: two regressions that need no hospital's labels.

Both are read off annotated waves (or known from how a synthetic record was made), both are in every tracing, and an
encoder that lost them lost what every reader looks at first. They ask different things: the heart rate how far apart
beats lie over seconds, the QRS duration some 100 ms within a beat.

The regression is ridge on standardized features. Patients are split in five; the penalty is chosen by cross-validation
among the training patients; every record is predicted by the fit that its patient had no part in.

Kim reports mean absolute errors of 0.40 ± 0.67 bpm and about 1.9 ms on other records, with targets that a segmentation
model made (second-hand; the code is not published): no numbers to compare with line by line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.annotations import WAVE_KINDS, Waves
from skecg.datasets.base import LabelledECGs
from skecg.errors import ShapeError
from skecg.evaluation.bootstrap import Interval, patient_draws
from skecg.evaluation.features import FeatureSource, features_of
from skecg.evaluation.report import aligned
from skecg.linear_model.ridge import ALPHAS, RidgeProbe
from skecg.splits import patient_folds
from skecg.validation import as_numbers

__all__ = [
    "RegressionScores",
    "compare_regressions",
    "heart_rates",
    "predict_by_ridge",
    "qrs_durations",
    "regression_cells",
    "regression_table",
    "score_regression",
]

_QRS = WAVE_KINDS.index("QRS")

# The longest true interval of LUDB is 2.2 times its lead's median; no heart goes on beating below 20 bpm.
_MOST_MEDIANS, _MOST_SECONDS = 2.5, 3.0


@dataclass(frozen=True)
class RegressionScores:
    """How close predictions are.

    Parameters
    ----------
    r2 : Interval
        Share of the variance explained, with the 95 % bootstrap interval over patients; below 0 where the mean of all
        is closer.
    mean_absolute_error : Interval
        In the unit of the target.
    n_records : int
    predicted : ndarray of shape (n_records,), float64, optional
        What was predicted of each record of the data set, NaN where nothing was.
    """

    r2: Interval
    mean_absolute_error: Interval
    n_records: int
    predicted: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)


def heart_rates(waves: Sequence[Waves]) -> NDArray[np.float64]:
    """Compute each record's mean heart rate (bpm) over its annotated beats.

    Parameters
    ----------
    waves : sequence of Waves

    Returns
    -------
    ndarray of shape (n_records,), float64
        From the mean interval between QRS peaks of each lead, of which the median lead counts: a beat that was
        forgotten in one lead does no harm. Intervals of more than 2.5 times the lead's median, or than 3 s, are time
        that nobody annotated, and left out. NaN where no lead has two beats that are nearer to each other.
    """
    return np.array([_heart_rate(of_record) for of_record in waves])


def _heart_rate(waves: Waves) -> float:
    peaks = [np.sort(table[(table[:, 3] == _QRS) & (table[:, 1] >= 0), 1]) for table in waves.tables]
    intervals = [float(kept.mean()) for of_lead in peaks if len(kept := _rr_intervals(of_lead, waves.sampling_rate))]
    # Over leads the median: annotations of one lead may miss a beat, and its mean interval is then too long.
    return 60.0 / float(np.median(intervals)) if intervals else float("nan")


def _rr_intervals(peaks: NDArray[np.int64], sampling_rate: float) -> NDArray[np.float64]:
    """Return the seconds from beat to beat, without what lies between two annotated stretches."""
    seconds: NDArray[np.float64] = np.diff(peaks) / sampling_rate
    return seconds[seconds <= min(_MOST_MEDIANS * np.median(seconds), _MOST_SECONDS)] if len(seconds) else seconds


def qrs_durations(waves: Sequence[Waves]) -> NDArray[np.float64]:
    """Compute each record's QRS duration (ms): the median over beats and leads of offset minus onset.

    Parameters
    ----------
    waves : sequence of Waves

    Returns
    -------
    ndarray of shape (n_records,), float64
        NaN where no complex has both edges. Shorter than the duration that cardiologists give, which is from the first
        onset in any lead to the last offset in any.
    """
    return np.array([_qrs_duration(of_record) for of_record in waves])


def _qrs_duration(waves: Waves) -> float:
    tables = np.concatenate([np.empty((0, 4), dtype=np.int64), *waves.tables])
    # Boundaries that annotators left open are negative.
    whole = tables[(tables[:, 3] == _QRS) & (tables[:, 0] >= 0) & (tables[:, 2] >= 0)]
    return 1000.0 * float(np.median(whole[:, 2] - whole[:, 0])) / waves.sampling_rate if len(whole) else float("nan")


def predict_by_ridge(
    features: ArrayLike,
    target: ArrayLike,
    patients: ArrayLike,
    *,
    n_folds: int = 5,
    penalties: Sequence[float] = ALPHAS,
    seed: int = 0,
    standardize: bool = True,
) -> NDArray[np.float64]:
    """Predict every record by ridge regression on other patients.

    Parameters
    ----------
    features : array-like of shape (n_records, n_features)
        For example what :meth:`skecg.JEPAEmbedder.transform` gives. Without any, the training patients' mean is
        predicted.
    target : array-like of shape (n_records,)
        NaN where it is not known; such records are neither fitted on nor predicted.
    patients : array-like of shape (n_records,)
        Who each record is of.
    n_folds : int, default=5
        Parts of the patients, for testing and again for choosing the penalty.
    penalties : sequence of float
        To choose from, of standardized features, with the smallest squared error.
    seed : int, default=0
        Decides who is in which part.
    standardize : bool, default=True
        As for :class:`skecg.RidgeProbe`.

    Returns
    -------
    ndarray of shape (n_records,), float64
        NaN where the target is.
    """
    X, y, who = np.asarray(features), as_numbers("target", target), np.asarray(patients)
    if X.ndim != 2 or not len(X) == len(y) == len(who):
        raise ShapeError(
            f"Got features {X.shape}, target {y.shape}, patients {who.shape}; expected a row for each record."
        )
    known = np.flatnonzero(np.isfinite(y))
    folds, predicted = patient_folds(who[known], n_folds, seed), np.full(len(y), np.nan)
    for fold in range(n_folds):
        train, test = known[folds != fold], known[folds == fold]
        if X.shape[1] == 0:
            predicted[test] = y[train].mean()
            continue
        # Another seed than that of the outer folds, or inner folds would be cut along the same lines.
        probe = RidgeProbe(penalties, n_folds=n_folds, random_state=seed + 1, standardize=standardize)
        predicted[test] = probe.fit(X[train], y[train], groups=who[train]).predict(X[test])
    return predicted


def score_regression(
    target: ArrayLike, predicted: ArrayLike, patients: ArrayLike, *, n_draws: int = 1000, seed: int = 0
) -> RegressionScores:
    """Score predictions of records whose target is known.

    Parameters
    ----------
    target, predicted : array-like of shape (n_records,)
        Records with a NaN in either are left out.
    patients : array-like of shape (n_records,)
    n_draws : int, default=1000
        Draws of patients.
    seed : int, default=0

    Returns
    -------
    RegressionScores
    """
    y, guess, who = as_numbers("target", target), as_numbers("predicted", predicted), np.asarray(patients)
    known = np.isfinite(y) & np.isfinite(guess)
    if not known.any():
        raise ShapeError(f"Got no record of {len(y)} with a target and a prediction, expected at least one.")
    y, guess, who = y[known], guess[known], who[known]
    weights = np.concatenate([np.ones((1, len(y))), patient_draws(who, len(y), n_draws, seed)])
    counts = weights.sum(axis=1)
    absolute = weights @ np.abs(guess - y) / counts
    centre = weights @ y / counts
    total = np.einsum("dn,dn->d", weights, (y - centre[:, None]) ** 2)
    # A draw of equal targets has no variance to explain.
    unexplained = np.divide(weights @ (guess - y) ** 2, total, out=np.full(len(total), np.nan), where=total > 0)
    # Draws of a single patient say nothing of others.
    shown = slice(None) if len(np.unique(who)) > 1 else slice(1)
    return RegressionScores(_interval((1 - unexplained)[shown]), _interval(absolute[shown]), len(y))


def _interval(values: NDArray[np.float64]) -> Interval:
    """Return the interval of the value on the records (first) and those on the draws that have one."""
    draws = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))


def compare_regressions(
    dataset: LabelledECGs,
    sources: Sequence[tuple[str, FeatureSource]],
    targets: Mapping[str, ArrayLike],
    *,
    n_folds: int = 5,
    n_draws: int = 1000,
    seed: int = 0,
    cache: Any = None,
    verbose: int = 0,
) -> dict[str, dict[str, RegressionScores]]:
    """Probe pooled vectors for numbers such as the heart rate.

    Parameters
    ----------
    dataset : LabelledECGs
    sources : sequence of (kind, FeatureSource)
        From :func:`skecg.evaluation.standard_sources`. ``"majority"``, which has no features, predicts the training
        patients' mean.
    targets : mapping of str to array-like of shape (n_records,)
        By name, NaN where not known.
    n_folds : int, default=5
        Parts of the patients.
    n_draws : int, default=1000
        Draws of patients for the intervals.
    seed : int, default=0
    cache : as for :class:`skecg.JEPAEmbedder`
    verbose : int, default=0

    Returns
    -------
    dict of str to dict of str to RegressionScores
        By target and source.
    """
    scores: dict[str, dict[str, RegressionScores]] = {name: {} for name in targets}
    for _, source in sources:
        features = features_of(source, dataset, cache=cache, verbose=verbose)
        draws = features if features.ndim == 3 else features[None]
        options: dict[str, Any] = {
            "n_folds": n_folds,
            "seed": seed,
            "standardize": getattr(source, "standardize", True),
        }
        for name, target in targets.items():
            # Where chance has a part in the features, the draws' predictions are averaged.
            predicted = np.mean([predict_by_ridge(x, target, dataset.patients, **options) for x in draws], axis=0)
            # The majority has no features; for a number its counterpart is the mean.
            label = source.name if features.shape[-1] else "mean of the training patients"
            scored = score_regression(target, predicted, dataset.patients, n_draws=n_draws, seed=seed)
            scores[name][label] = replace(scored, predicted=predicted)
    return scores


def regression_table(scores: Mapping[str, RegressionScores], unit: str) -> str:
    """Return a table with one row for each set of features."""
    return aligned(regression_cells(scores, unit))


def regression_cells(scores: Mapping[str, RegressionScores], unit: str) -> list[list[str]]:
    """Return that table cell by cell, its head first."""
    table = [["features", "records", "R2 (95 %)", f"mean absolute error ({unit})"]]
    for name, score in scores.items():
        error = score.mean_absolute_error
        shown = f"{error.estimate:.2f} ({error.low:.2f} to {error.high:.2f})"
        table.append([name, str(score.n_records), str(score.r2), shown])
    return table
