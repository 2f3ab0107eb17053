"""Scores of a classifier, label by label: areas under curves, F1 at a threshold, calibration; and their means.

Labels are (n_records, n_labels) zeros and ones, scores or probabilities of the same shape. A label of which the records
hold no positive or no negative has no value (NaN), and a mean over labels (:func:`macro`) is over those with a value:
``macro(area_under_roc(labels, scores))`` is the macro AUROC everywhere in skecg.

References
----------
.. [1] Van Calster B. et al. (2019). Calibration: the Achilles heel of predictive analytics. BMC Medicine 17:230.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from skecg.errors import InputError, ShapeError
from skecg.linear_model.newton import Sigmoid, minimize, whiten
from skecg.validation import as_numbers, check_unmasked

__all__ = [
    "FEW_POSITIVES",
    "Calibration",
    "area_under_precision_recall",
    "area_under_roc",
    "best_thresholds",
    "calibration",
    "class_f1",
    "f1_scores",
    "macro",
    "weighted_area_under_roc",
]

#: Labels with fewer test positives than this are reported apart: their scores say more of chance than of features.
FEW_POSITIVES = 10

FloatArray = NDArray[np.float64]

# So many weights are worked on together, to stay in the processor's cache.
_BLOCK_WEIGHTS = 64

# Bins of the expected calibration error.
_N_BINS = 10

# Probabilities nearer to 0 or 1 are taken for this, so that their logits are finite.
_LEAST_PROBABILITY = 1e-7


def area_under_roc(labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Compute the area under the receiver operating characteristic of each label.

    It is the share of pairs of a positive and a negative record in which the positive has the higher score, ties
    counting half (the Mann-Whitney statistic).

    Parameters
    ----------
    labels : array-like of shape (n_records, n_labels) or (n_records,)
        Zeros and ones.
    scores : array-like of the same shape
        Higher for what is more likely positive.

    Returns
    -------
    ndarray of shape (n_labels,), float64
        NaN for a label without positives or without negatives.

    Raises
    ------
    ShapeError
        When the shapes differ.
    InputError
        When labels are not zeros and ones, or scores are not finite.

    Examples
    --------
    >>> area_under_roc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    array([0.875])
    """
    y, s = as_labels_and_scores(labels, scores)
    return weighted_area_under_roc(y, s, np.ones((1, len(y))))[0]


def weighted_area_under_roc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> FloatArray:
    """Compute the area under the ROC curve of each label for many weightings of the same records, as a bootstrap needs.

    Scores are sorted once a label; what is left for each weighting are sums over records.

    Parameters
    ----------
    labels, scores : array-like of shape (n_records, n_labels) or (n_records,)
        As for :func:`area_under_roc`.
    weights : array-like of shape (n_weightings, n_records)
        How often each record counts.

    Returns
    -------
    ndarray of shape (n_weightings, n_labels), float64
        NaN where a weighting leaves a label no positives or no negatives.
    """
    y, s = as_labels_and_scores(labels, scores)
    w = np.asarray(weights)
    if w.ndim != 2 or w.shape[1] != len(y):
        raise ShapeError(f"Got weights of shape {w.shape}, expected (n_weightings, {len(y)}).")
    areas = np.empty((len(w), y.shape[1]))
    for label in range(y.shape[1]):
        order = np.argsort(s[:, label], kind="stable")
        sorted_scores = s[order, label]
        starts = np.flatnonzero(np.r_[True, sorted_scores[1:] != sorted_scores[:-1]])
        positive = y[order, label]
        # Some weightings at a time: each is as long as the data set, and there are thousands.
        for first in range(0, len(w), _BLOCK_WEIGHTS):
            rows = slice(first, first + _BLOCK_WEIGHTS)
            areas[rows, label] = _areas(positive, np.asarray(w[rows][:, order], dtype=np.float64), starts)
    return areas


def _areas(positive: NDArray[np.bool_], weights: FloatArray, starts: NDArray[np.int64]) -> FloatArray:
    """Compute the areas of one label from records in the order of their scores; `starts` is where new scores begin."""
    positives = np.where(positive, weights, 0.0)
    negatives = weights - positives
    if len(starts) < len(positive):  # records of equal score are one step of the curve
        positives, negatives = (np.add.reduceat(part, starts, axis=1) for part in (positives, negatives))
    # Negatives that score lower or the same, of which those that score the same count half.
    below = np.cumsum(negatives, axis=1)
    won = np.einsum("ij,ij->i", positives, below - 0.5 * negatives)
    pairs = positives.sum(axis=1) * below[:, -1]
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def area_under_precision_recall(labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Compute the average precision of each label: the area under the steps of precision against recall.

    Parameters
    ----------
    labels, scores
        As for :func:`area_under_roc`.

    Returns
    -------
    ndarray of shape (n_labels,), float64
        NaN for a label without positives. A score that says nothing has the share of positives, not one half.
    """
    y, s = as_labels_and_scores(labels, scores)
    areas = np.full(y.shape[1], np.nan)
    for label in np.flatnonzero(y.any(axis=0)):
        hits, called = _counts_from_the_top(y[:, label], s[:, label])
        areas[label] = np.sum(hits / called * np.diff(hits, prepend=0)) / hits[-1]
    return areas


def _counts_from_the_top(positive: NDArray[np.bool_], scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Count positives, and records, with at least each of the distinct scores, from the highest score down."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    return np.cumsum(positive[order])[ends].astype(np.float64), np.asarray(ends + 1.0, dtype=np.float64)


def best_thresholds(labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Compute for each label the threshold with the highest F1, on records that are not those of the test.

    Parameters
    ----------
    labels, scores
        Of validation records, as for :func:`area_under_roc`.

    Returns
    -------
    ndarray of shape (n_labels,), float64
        A record is called positive from the threshold upwards. Halfway between two scores, so that it does not hang on
        one record; the highest where several are equally good; NaN for a label without positives.
    """
    y, s = as_labels_and_scores(labels, scores)
    thresholds = np.full(y.shape[1], np.nan)
    for label in np.flatnonzero(y.any(axis=0)):
        hits, called = _counts_from_the_top(y[:, label], s[:, label])
        best = int(np.argmax(2 * hits / (called + hits[-1])))
        distinct = np.unique(s[:, label])[::-1]
        below = distinct[best + 1] if best + 1 < len(distinct) else distinct[best]
        # Half way to the next lower score: a threshold on a score itself turns with the last bit.
        thresholds[label] = (distinct[best] + below) / 2
    return thresholds


def f1_scores(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike) -> FloatArray:
    """Compute each label's F1 at its threshold.

    Parameters
    ----------
    labels, scores
        As for :func:`area_under_roc`.
    thresholds : array-like of shape (n_labels,) or (n_records, n_labels)
        As :func:`best_thresholds` found them on validation records; each record's own where several fits were tested.

    Returns
    -------
    ndarray of shape (n_labels,), float64
        NaN for a label without positives or without a threshold.
    """
    y, s = as_labels_and_scores(labels, scores)
    limits = as_numbers("thresholds", thresholds)
    called = s >= limits
    values = 2 * (called & y).sum(axis=0) / np.maximum(called.sum(axis=0) + y.sum(axis=0), 1)
    return np.where(y.any(axis=0) & np.isfinite(np.atleast_2d(limits)).any(axis=0), values, np.nan)


def macro(values: ArrayLike, counted: ArrayLike | None = None) -> float:
    """Return the mean over the labels that count and have a value; NaN when none does.

    Parameters
    ----------
    values : array-like of shape (n_labels,)
    counted : array-like of shape (n_labels,), bool, optional
        Labels that count; all when not given.
    """
    each = np.asarray(values, dtype=np.float64)
    used = np.isfinite(each) if counted is None else np.isfinite(each) & np.asarray(counted, dtype=np.bool_)
    return float(each[used].mean()) if used.any() else float("nan")


def class_f1(confusion: NDArray[Any]) -> FloatArray:
    """Compute each class's F1 from matrices of confusion (..., n_classes, n_classes), true classes in rows.

    Returns
    -------
    ndarray of shape (..., n_classes), float64
        NaN for a class that is neither there nor predicted: atrial fibrillation has no P wave, and to find none is no
        error.
    """
    either = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.where(either > 0, 2 * right / np.maximum(either, 1), np.nan)


def as_labels_and_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], FloatArray]:
    """Check labels and scores, and return both as tables with one column a label."""
    check_unmasked("labels", labels)
    y, s = np.asarray(labels), as_numbers("scores", scores)
    if y.shape != s.shape or y.ndim not in (1, 2) or len(y) == 0:
        raise ShapeError(
            f"Got labels of shape {y.shape} and scores of shape {s.shape}, expected the same: (n_records, n_labels)."
        )
    if not np.isin(y, (0, 1)).all():
        raise InputError("Got labels other than 0 and 1. Pass one column of zeros and ones for each label.")
    if not np.isfinite(s).all():
        raise InputError(
            f"Got {int((~np.isfinite(s)).sum())} scores that are not finite, expected a number for every record and "
            "label. Leave out records that could not be embedded."
        )
    return (y == 1).reshape(len(y), -1), s.reshape(len(s), -1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of each label.

    Parameters
    ----------
    brier : ndarray of shape (n_labels,), float64
        Mean squared difference between probability and label.
    expected_error : ndarray of shape (n_labels,), float64
        Mean distance between probability and share of positives over ten bins of as many records each, but for ties
        (ECE). Never zero in a finite sample, and the larger the fewer the records.
    slope : ndarray of shape (n_labels,), float64
        Of a logistic regression of the label on the logit of the probability: 1 is perfect, below 1 probabilities are
        too extreme. NaN without positives or negatives, or when the probabilities separate them.
    intercept : ndarray of shape (n_labels,), float64
        Of the same regression with the slope held at 1 ("in the large"): 0 is perfect, below 0 probabilities are too
        high on the whole.
    """

    brier: FloatArray
    expected_error: FloatArray
    slope: FloatArray
    intercept: FloatArray


def calibration(labels: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """Compute the calibration of each label.

    Parameters
    ----------
    labels : array-like of shape (n_records, n_labels) or (n_records,)
        Zeros and ones.
    probabilities : array-like of the same shape
        From 0 to 1.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        When probabilities are not between 0 and 1.
    """
    y, p = as_labels_and_scores(labels, probabilities)
    if p.min() < 0 or p.max() > 1:
        raise InputError(f"Got probabilities from {p.min():.3g} to {p.max():.3g}, expected 0 to 1. Pass predict_proba.")
    clipped = np.clip(p, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    logits = np.log(clipped / (1 - clipped))
    columns = range(y.shape[1])
    return Calibration(
        brier=((p - y) ** 2).mean(axis=0),
        expected_error=np.array([_expected_error(y[:, k], p[:, k]) for k in columns]),
        slope=np.array([_slope(y[:, k], logits[:, k]) for k in columns]),
        intercept=np.array([_intercept(y[:, k], logits[:, k]) for k in columns]),
    )


def _expected_error(labels: NDArray[np.bool_], probabilities: FloatArray) -> float:
    """Average the distance of each bin, weighted by its records; records of one probability are in one bin."""
    # Bins of equally many records: of equal width, most would be empty where a label is rare.
    edges = np.quantile(probabilities, np.arange(1, _N_BINS) / _N_BINS)
    bins = np.searchsorted(edges, probabilities, side="right")
    gaps = np.bincount(bins, weights=probabilities - labels, minlength=_N_BINS)
    return float(np.abs(gaps).sum() / len(probabilities))


def _slope(labels: NDArray[np.bool_], logits: FloatArray) -> float:
    """Compute the slope of an unpenalized logistic regression of the labels on the logits."""
    if labels.all() or not labels.any() or np.ptp(logits) == 0:
        return float("nan")
    # Without overlap the likelihood has no maximum; where both classes touch in one value, neither.
    if logits[labels].min() >= logits[~labels].max() or logits[labels].max() <= logits[~labels].min():
        return float("nan")
    design = whiten(logits[:, None], intercept=True)
    loss = Sigmoid(labels[:, None], np.ones((1, 1)))
    solution = minimize(design, loss, np.array([np.inf]), tol=1e-8, max_iter=100)
    return float(design.weights(solution.u)[0][0, 0])


def _intercept(labels: NDArray[np.bool_], logits: FloatArray) -> float:
    """Compute the shift of all logits after which their probabilities add up to the number of positives."""
    share = labels.mean()
    if share in (0, 1):
        return float("nan")
    # Where all shifted logits are on one side of the share's own, their mean probability is on that side, too.
    target = special.logit(share)
    low, high = target - logits.max() - 1, target - logits.min() + 1
    return float(optimize.brentq(lambda shift: special.expit(logits + shift).mean() - share, low, high, xtol=1e-12))
