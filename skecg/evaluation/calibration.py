"""Whether probabilities mean what they say.

Labels are (n_records, n_labels) zeros and ones, probabilities of the same shape.

References
----------
.. [1] Van Calster B. et al. (2019). Calibration: the Achilles heel of predictive analytics. BMC Medicine 17:230.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.errors import InputError
from skecg.evaluation.metrics import as_labels_and_scores

__all__ = ["Calibration", "calibration"]

FloatArray = NDArray[np.float64]

N_BINS = 10
_LEAST_PROBABILITY = 1e-7
_STEPS = 50


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
    """Measure the calibration of each label.

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
    """Weigh the distance of each bin by its records; records of one probability are in one bin."""
    edges = np.quantile(probabilities, np.arange(1, N_BINS) / N_BINS)
    bins = np.searchsorted(edges, probabilities, side="right")
    gaps = np.bincount(bins, weights=probabilities - labels, minlength=N_BINS)
    return float(np.abs(gaps).sum() / len(probabilities))


def _slope(labels: NDArray[np.bool_], logits: FloatArray) -> float:
    """Fit the intercept and the slope, and give the slope."""
    if labels.all() or not labels.any() or np.ptp(logits) == 0:
        return float("nan")
    # Without overlap the likelihood has no maximum.
    if logits[labels].min() > logits[~labels].max() or logits[labels].max() < logits[~labels].min():
        return float("nan")
    scale = logits.std()
    design = np.stack([np.ones(len(logits)), (logits - logits.mean()) / scale], axis=1)
    weights = _fit(labels, design, np.zeros(len(logits)))
    return float(weights[1] / scale)


def _intercept(labels: NDArray[np.bool_], logits: FloatArray) -> float:
    """Fit the intercept alone, beside the logits as they are."""
    if labels.all() or not labels.any():
        return float("nan")
    return float(_fit(labels, np.ones((len(logits), 1)), logits)[0])


def _fit(labels: NDArray[np.bool_], design: FloatArray, offset: FloatArray) -> FloatArray:
    """Fit a logistic regression without penalty by Newton's method, halving steps that do not help."""
    weights = np.zeros(design.shape[1])
    loss = _log_loss(labels, offset)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(design @ weights + offset)))
        gradient = design.T @ (p - labels)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-12 * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        new_loss = _log_loss(labels, design @ (weights - step) + offset)
        while new_loss > loss + 1e-12 * abs(loss) and np.abs(step).max() > 1e-12:
            step = step / 2
            new_loss = _log_loss(labels, design @ (weights - step) + offset)
        weights, loss = weights - step, new_loss
        if np.abs(step).max() < 1e-10:
            return weights
    return np.full_like(weights, np.nan)


def _log_loss(labels: NDArray[np.bool_], logits: FloatArray) -> float:
    return float(np.sum(np.logaddexp(0, logits) - labels * logits))
