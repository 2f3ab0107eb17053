"""How good scores are: one number a label, and their means over labels.

Labels are (n_records, n_labels) zeros and ones, scores of the same shape. A label of which the records hold no positive
or no negative has no value (NaN), and means over labels say over which they are taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.errors import InputError, ShapeError

__all__ = [
    "FEW_POSITIVES",
    "area_under_precision_recall",
    "area_under_roc",
    "best_thresholds",
    "f1_scores",
    "macro",
    "weighted_area_under_roc",
]

#: Labels with fewer test positives than this are reported apart: their scores say more of chance than of features.
FEW_POSITIVES = 10

FloatArray = NDArray[np.float64]

# So many weights are worked on together, to stay in the processor's cache.
_BLOCK_WEIGHTS = 64


def area_under_roc(labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Give the area under the receiver operating characteristic of each label.

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
    """Give the area under the curve of each label for many weightings of the same records, as the bootstrap needs it.

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
        for first in range(0, len(w), _BLOCK_WEIGHTS):
            rows = slice(first, first + _BLOCK_WEIGHTS)
            areas[rows, label] = _areas(positive, np.asarray(w[rows][:, order], dtype=np.float64), starts)
    return areas


def _areas(positive: NDArray[np.bool_], weights: FloatArray, starts: NDArray[np.int64]) -> FloatArray:
    """Give the areas of one label from records in the order of their scores; `starts` is where new scores begin."""
    positives = np.where(positive, weights, 0.0)
    negatives = weights - positives
    if len(starts) < len(positive):  # records of equal score are one step of the curve
        positives, negatives = (np.add.reduceat(part, starts, axis=1) for part in (positives, negatives))
    below = np.cumsum(negatives, axis=1)
    won = np.einsum("ij,ij->i", positives, below - 0.5 * negatives)
    pairs = positives.sum(axis=1) * below[:, -1]
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def area_under_precision_recall(labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Give the average precision of each label: the area under the steps of precision against recall.

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
        found, called = _counts_from_the_top(y[:, label], s[:, label])
        areas[label] = np.sum(found / called * np.diff(found, prepend=0)) / found[-1]
    return areas


def _counts_from_the_top(positive: NDArray[np.bool_], scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Count positives, and records, with at least each of the distinct scores, from the highest score down."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    return np.cumsum(positive[order])[ends].astype(np.float64), np.asarray(ends + 1.0, dtype=np.float64)


def best_thresholds(labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Find for each label the threshold with the highest F1, on records that are not those of the test.

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
        found, called = _counts_from_the_top(y[:, label], s[:, label])
        best = int(np.argmax(2 * found / (called + found[-1])))
        distinct = np.unique(s[:, label])[::-1]
        below = distinct[best + 1] if best + 1 < len(distinct) else distinct[best]
        thresholds[label] = (distinct[best] + below) / 2
    return thresholds


def f1_scores(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike) -> FloatArray:
    """Give each label's F1 at its threshold.

    Parameters
    ----------
    labels, scores
        As for :func:`area_under_roc`.
    thresholds : array-like of shape (n_labels,)
        As :func:`best_thresholds` found them on validation records.

    Returns
    -------
    ndarray of shape (n_labels,), float64
        NaN for a label without positives or without a threshold.
    """
    y, s = as_labels_and_scores(labels, scores)
    limits = np.asarray(thresholds, dtype=np.float64)
    called = s >= limits
    values = 2 * (called & y).sum(axis=0) / np.maximum(called.sum(axis=0) + y.sum(axis=0), 1)
    return np.where(y.any(axis=0) & np.isfinite(limits), values, np.nan)


def macro(values: ArrayLike, counted: ArrayLike | None = None) -> float:
    """Give the mean over the labels that count and have a value; NaN when none does.

    Parameters
    ----------
    values : array-like of shape (n_labels,)
    counted : array-like of shape (n_labels,), bool, optional
        Labels that count; all when not given.
    """
    each = np.asarray(values, dtype=np.float64)
    used = np.isfinite(each) if counted is None else np.isfinite(each) & np.asarray(counted)
    return float(each[used].mean()) if used.any() else float("nan")


def as_labels_and_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], FloatArray]:
    """Check labels and scores, and give both as tables with one column a label."""
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
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
