"""Windows and records: labels of a record to those of its windows, and what was said of windows to the record.

Shapes: C classes, T samples of a window, S samples of a record at the encoder's rate, n samples at its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skecg.evaluation.wave_labels import OUTSIDE

__all__ = ["at_own_rate", "stitch", "window_labels"]

Logits = NDArray[np.float32]


def window_labels(
    labels: NDArray[np.int8], sampling_rate: float, encoder_rate: float, start: int, n_valid: int, n_samples: int
) -> NDArray[np.int8]:
    """Give the labels of a window's samples, each that of the nearest sample of the record.

    Parameters
    ----------
    labels : ndarray of shape (n,), int8
        Of the record, at its own rate.
    sampling_rate, encoder_rate : float
        Hz.
    start, n_valid : int
        First sample of the window in the record, and how many are signal, at the encoder's rate.
    n_samples : int
        T, the length of the window; what is no signal has no label.

    Returns
    -------
    ndarray of shape (T,), int8
    """
    found = np.full(n_samples, OUTSIDE, dtype=np.int8)
    nearest = np.rint((start + np.arange(n_valid)) * (sampling_rate / encoder_rate)).astype(np.int64)
    found[:n_valid] = labels[np.minimum(nearest, len(labels) - 1)]
    return found


def stitch(logits: Sequence[Logits], starts: Sequence[int]) -> Logits:
    """Join the windows of a record, averaging where they overlap.

    A sample counts the less the nearer it is to an edge of its window, beyond which the encoder saw nothing: weights
    rise evenly from the edges to the middle, so that one window takes over from the other without a step.

    Parameters
    ----------
    logits : sequence of ndarray of shape (C, T), float32
        Of the signal in each window, without padding. Together they cover the record.
    starts : sequence of int
        First sample of each in the record.

    Returns
    -------
    ndarray of shape (C, S), float32
    """
    if len(logits) == 1:
        return logits[0]
    length = max(start + part.shape[1] for start, part in zip(starts, logits, strict=True))
    total, weights = np.zeros((len(logits[0]), length), dtype=np.float64), np.zeros(length)
    for start, part in zip(starts, logits, strict=True):
        sample = np.arange(part.shape[1])
        weight = np.minimum(sample + 0.5, part.shape[1] - sample - 0.5)
        total[:, start : start + part.shape[1]] += weight * part
        weights[start : start + part.shape[1]] += weight
    return (total / weights).astype(np.float32)


def at_own_rate(logits: Logits, encoder_rate: float, sampling_rate: float, n_samples: int) -> Logits:
    """Give logits (C, n) at the samples of the record itself, between those (C, S) of the encoder on straight lines."""
    if encoder_rate == sampling_rate and logits.shape[1] == n_samples:
        return logits
    wanted = np.arange(n_samples) * (encoder_rate / sampling_rate)
    known = np.arange(logits.shape[1])
    return np.stack([np.interp(wanted, known, row) for row in logits]).astype(np.float32)
