"""How well samples were labelled: F1 of P, QRS and T over all samples whose label is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skecg.evaluation.wave_labels import WAVE_CLASSES

__all__ = ["confusion_of", "f1_of_waves"]


def confusion_of(truth: NDArray[np.int8], predicted: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count samples by annotated (rows) and predicted class; where the label is negative, nothing is known."""
    n, known = len(WAVE_CLASSES), truth >= 0
    return np.bincount(truth[known].astype(np.int64) * n + predicted[known], minlength=n * n).reshape(n, n)


def f1_of_waves(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give F1 of P, QRS and T, 0 where a wave is neither annotated nor predicted."""
    either = confusion.sum(axis=0) + confusion.sum(axis=1)
    found: NDArray[np.float64] = 2 * np.diagonal(confusion)[1:] / np.maximum(either[1:], 1)
    return found
