"""The linear head on the frozen encoder: its optimum, found by Newton's method instead of by steps.

A record's logit is the mean over its windows, and the head is linear in what a window is pooled to: the head is a
logistic regression on the record's embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from skecg.encoding import Encoding, encode_windows
from skecg.finetuning.course import Course
from skecg.finetuning.criterion import validation_score
from skecg.finetuning.heads import LinearHead
from skecg.finetuning.network import Network
from skecg.pooling import pool_windows
from skecg.probe import LogisticProbe
from skecg.progress import count_progress

__all__ = ["STRENGTHS", "USUAL_STRENGTH", "fit_linear_head", "standardize_linear_head"]

#: Inverse strengths of the penalty that are tried on the records held out.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)

#: The one used where nothing is held out.
USUAL_STRENGTH = 1e-2

# Features that vary less, relative to their size, are rounding.
_ROUNDING = 1e-6

Features = NDArray[np.float32]
Rows = NDArray[np.intp]


def standardize_linear_head(network: Network, head: LinearHead, course: Course) -> None:
    """Set the constants that standardize what a linear head gets, and leave its weights at zero."""
    _standardize_(head, *_moments(_embed(network, head, course)[course.train]))


def fit_linear_head(
    network: Network, head: LinearHead, course: Course, C: float | None, *, to_all: bool = False
) -> float:
    """Give a linear head the weights that are best on the frozen encoder, and give the C of their penalty.

    Parameters
    ----------
    network, head, course
        Whose encoder is used as it is.
    C : float or None
        Inverse strength of the penalty; None chooses it on the records held out.
    to_all : bool
        Whether the head is then fitted to the records held out too, which nothing else is going to be chosen by.
    """
    features = _embed(network, head, course)
    if C is None:
        C = _choose_strength(features, course) if len(course.held) else USUAL_STRENGTH
    rows = np.sort(np.concatenate([course.train, course.held])) if to_all else course.train
    center, scale = _moments(features[rows])
    _standardize_(head, center, scale)
    probe = _probes((features[rows] - center) / scale, rows, (C,), course)[0]
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(probe.coef_))
        head.linear.bias.copy_(torch.from_numpy(probe.intercept_))
    return C


def _embed(network: Network, head: LinearHead, course: Course) -> Features:
    """Embed all records (N, F) with the encoder as it is."""
    how = Encoding(head.pooling, precision=course.plan.precision, n_jobs=course.plan.n_jobs)
    vectors = []
    with count_progress(len(course.windows), "embedding", "window", verbose=course.verbose) as shown:
        for chunk in course.windows.chunks:
            vectors.append(encode_windows(network.encoder, chunk, how))
            shown.update(len(chunk))
    return pool_windows(np.concatenate(vectors), course.windows.owner, course.windows.n_records)


def _choose_strength(features: Features, course: Course) -> float:
    """Find the C that is best on the records held out, the smallest of several that are equal."""
    center, scale = _moments(features[course.train])
    features = (features - center) / scale
    held, targets = course.held, course.targets
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of penalties that are not chosen; the chosen one may warn
        probes = _probes(features[course.train], course.train, STRENGTHS, course)
    scores = []
    for probe in probes:
        logits = np.asarray(probe.decision_function(features[held])).reshape(len(held), -1)
        scores.append(validation_score(targets.has[held], logits, joint=targets.joint))
    return STRENGTHS[scores.index(max(scores))]


def _probes(features: Features, rows: Rows, strengths: Sequence[float], course: Course) -> list[LogisticProbe]:
    """Fit the head for each strength."""
    targets = course.targets
    has = targets.has[rows]
    if targets.multilabel:
        y = has.astype(np.int64)
    else:
        y = targets.classes[has.argmax(axis=1) if targets.joint else has[:, 0].astype(np.int64)]
    with warnings.catch_warnings():
        # Said once, of all records, before.
        warnings.filterwarnings("ignore", message=".*labels are the same for all records", category=UserWarning)
        return LogisticProbe(class_weight=course.class_weight).path(features, y, strengths)


def _moments(features: Features) -> tuple[Features, Features]:
    """Give mean and standard deviation of each feature; 1 for those that do not vary."""
    center, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale[scale <= _ROUNDING * np.abs(features).max(axis=0)] = 1.0
    return center.astype(np.float32), scale.astype(np.float32)


def _standardize_(head: LinearHead, center: Features, scale: Features) -> None:
    head.center.copy_(torch.from_numpy(center))
    head.scale.copy_(torch.from_numpy(scale))
