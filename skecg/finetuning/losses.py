"""What a classifier is trained to lower, and what it is chosen by.

Shapes: B windows or records, L labels (one column for two classes, one for each of more).

How well samples were labelled: F1 of P, QRS and T over all samples whose label is known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

from skecg.annotations import WAVE_CLASSES

__all__ = ["confusion_of", "f1_of_waves", "loss_of", "probabilities", "validation_score"]


def loss_of(logits_BL: Tensor, has_BL: Tensor, weight: Tensor, *, joint: bool) -> Tensor:
    """Add the weighted log-losses of windows; of several labels each counts its share.

    Parameters
    ----------
    logits_BL : Tensor
    has_BL : Tensor of float
        1 where a window's record has a label.
    weight : Tensor of shape (B, 1) or (B, L)
    joint : bool
        Whether the columns are classes of which each record has one.
    """
    if joint:
        return -(functional.log_softmax(logits_BL, dim=1) * has_BL * weight).sum()
    losses_BL = functional.binary_cross_entropy_with_logits(logits_BL, has_BL, reduction="none")
    return (losses_BL * weight).sum() / has_BL.shape[1]


def probabilities(logits: NDArray[np.float64], *, joint: bool) -> NDArray[np.float64]:
    """Give the probability of each column."""
    found: NDArray[np.float64] = special.softmax(logits, axis=1) if joint else special.expit(logits)
    return found


def validation_score(has: NDArray[np.bool_], logits: NDArray[np.float64], *, joint: bool) -> tuple[float, float]:
    """Score logits on records that were not learned from; higher is better.

    Returns
    -------
    score : float
        Mean over labels of the area under the ROC curve; minus the log-loss where no label has one, because all records
        have it, or none.
    minus_log_loss : float
        What decides where few records make many scores the same.
    """
    if not np.isfinite(logits).all():
        return -float("inf"), -float("inf")
    minus_log_loss = -log_loss(has, logits, joint=joint)
    n_positive = has.sum(axis=0)
    both = (n_positive > 0) & (n_positive < len(has))
    if not both.any():
        return minus_log_loss, minus_log_loss
    scores = probabilities(logits, joint=joint) if joint else logits
    ranks = rankdata(scores[:, both], axis=0)
    positive, n = has[:, both], n_positive[both]
    areas = ((ranks * positive).sum(axis=0) - n * (n + 1) / 2) / (n * (len(has) - n))
    return float(areas.mean()), minus_log_loss


def log_loss(has: NDArray[np.bool_], logits: NDArray[np.float64], *, joint: bool) -> float:
    """Give the mean log-loss."""
    if joint:
        return float(-(special.log_softmax(logits, axis=1) * has).sum(axis=1).mean())
    return float(-special.log_expit(np.where(has, logits, -logits)).mean())


def confusion_of(truth: NDArray[np.int8], predicted: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count samples by annotated (rows) and predicted class; where the label is negative, nothing is known."""
    n, known = len(WAVE_CLASSES), truth >= 0
    return np.bincount(truth[known].astype(np.int64) * n + predicted[known], minlength=n * n).reshape(n, n)


def f1_of_waves(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give F1 of P, QRS and T, 0 where a wave is neither annotated nor predicted."""
    either = confusion.sum(axis=0) + confusion.sum(axis=1)
    found: NDArray[np.float64] = 2 * np.diagonal(confusion)[1:] / np.maximum(either[1:], 1)
    return found
