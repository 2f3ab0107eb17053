"""What training lowers, and what it is chosen by, for each kind of label.

Shapes: B windows, N records, L labels (one column for two classes, one for each of more), T samples, C classes of
waves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor
from torch.nn import functional as F

from skecg.annotations import OUTSIDE, WAVE_CLASSES
from skecg.metrics import area_under_roc, class_f1, macro

__all__ = [
    "ClassLabels",
    "Numbers",
    "RecordLabels",
    "Score",
    "confusion_of",
    "mean_f1",
    "validation_score",
    "wave_loss",
]

Rows = NDArray[np.intp]

#: What validation gives: a number, higher is better, and others that decide where it is the same.
Score = float | tuple[float, ...]


class RecordLabels(Protocol):
    """What is to be learned of N records, of whatever kind it is."""

    def loss(self, logits_BL: Tensor, records: NDArray[np.integer]) -> Tensor:
        """Add up the losses of windows, each of the record that is named; a record weighs 1 on average."""
        ...

    def score(self, logits: NDArray[np.float64], records: Rows) -> Score:
        """Score the logits (n_records, L) of records that were not learned from."""
        ...


@dataclass(frozen=True, eq=False)
class ClassLabels:
    """Classes or labels of records, and what each record counts.

    Parameters
    ----------
    has : ndarray of shape (N, L), bool
    weight : ndarray of shape (N, 1) or (N, L)
    joint : bool
        Whether the columns are classes of which each record has one.
    """

    has: NDArray[np.bool_]
    weight: NDArray[np.float64]
    joint: bool

    def loss(self, logits_BL: Tensor, records: NDArray[np.integer]) -> Tensor:
        """Add up the weighted log-losses of windows; of several labels each counts its share."""
        has_BL, weight = (
            torch.from_numpy(values[records].astype(np.float32)).to(logits_BL.device)
            for values in (self.has, self.weight)
        )
        if self.joint:
            return -(F.log_softmax(logits_BL, dim=1) * has_BL * weight).sum()
        # Shared among the labels, so that a learning rate fits one label and seventy.
        losses_BL = F.binary_cross_entropy_with_logits(logits_BL, has_BL, reduction="none")
        return (losses_BL * weight).sum() / has_BL.shape[1]

    def score(self, logits: NDArray[np.float64], records: Rows) -> Score:
        """Score the logits of records that were not learned from."""
        return validation_score(self.has[records], logits, joint=self.joint)


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of records, standardized.

    Parameters
    ----------
    values : ndarray of shape (N, L), float64
    """

    values: NDArray[np.float64]

    def loss(self, logits_BL: Tensor, records: NDArray[np.integer]) -> Tensor:
        """Add up the squared errors of windows; of several targets each counts its share."""
        values_BL = torch.from_numpy(self.values[records].astype(np.float32)).to(logits_BL.device)
        return (logits_BL - values_BL).square().mean(dim=1).sum()

    def score(self, logits: NDArray[np.float64], records: Rows) -> Score:
        """Return minus the mean squared error of records that were not learned from; higher is better."""
        error = float(np.square(logits - self.values[records]).mean())
        # Below every other score: NaN would compare as neither better nor worse.
        return -error if np.isfinite(error) else -float("inf")


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
    minus_log_loss = -_log_loss(has, logits, joint=joint)
    # One label's logit ranks records as its probability does; one class's only together with the other classes'.
    area = macro(area_under_roc(has, special.softmax(logits, axis=1) if joint else logits))
    # Areas tie often on few records; the log loss then decides.
    return area if np.isfinite(area) else minus_log_loss, minus_log_loss


def _log_loss(has: NDArray[np.bool_], logits: NDArray[np.float64], *, joint: bool) -> float:
    """Compute the mean log-loss."""
    if joint:
        return float(-(special.log_softmax(logits, axis=1) * has).sum(axis=1).mean())
    return float(-special.log_expit(np.where(has, logits, -logits)).mean())


def wave_loss(logits_BCT: Tensor, labels_BT: Tensor) -> Tensor:
    """Add up the cross entropy of samples with a label; the others, with negative ones, count nothing."""
    # A sum: the caller weighs it by the known samples of the whole batch.
    return F.cross_entropy(logits_BCT, labels_BT.clamp(min=OUTSIDE), ignore_index=OUTSIDE, reduction="sum")


def confusion_of(truth: NDArray[np.int8], predicted: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count samples by annotated (rows) and predicted class; where the label is negative, nothing is known."""
    n, known = len(WAVE_CLASSES), truth >= 0
    return np.bincount(truth[known].astype(np.int64) * n + predicted[known], minlength=n * n).reshape(n, n)


def mean_f1(confusion: NDArray[np.int64]) -> float:
    """Compute the mean F1 of those of P, QRS and T that are annotated or predicted; 1 where none is."""
    found = macro(class_f1(confusion)[1:])
    return 1.0 if np.isnan(found) else found
