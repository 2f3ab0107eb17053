"""The stages of a fine-tuning: first the head on the frozen encoder, then both (Weimann and Conrad, 2025).

The linear head on the frozen encoder: its optimum, found by Newton's method instead of by steps.

A record's logit is the mean over its windows, and the head is linear in what a window is pooled to: the head is a
logistic regression on the record's embedding.

A fine-tuning as a value: which records, which labels, which stages.

The stages of a training: the decoder on the frozen encoder, then both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from skecg.compute.progress import count_progress
from skecg.encoders.encode import Encoding, encode_windows
from skecg.encoders.pooling import pool_windows
from skecg.finetuning.data import (
    Inputs,
    LabelledWindows,
    PreparedWindows,
    RecordLessons,
    TokenInputs,
    WaveLessons,
    WindowInputs,
    record_logits,
    validation_f1,
)
from skecg.finetuning.heads import LinearHead, Network, SegmentingNetwork
from skecg.finetuning.loop import History, Plan, Score, layered_groups, train_network
from skecg.finetuning.losses import validation_score
from skecg.linear_model.logistic import LogisticProbe, Targets

__all__ = [
    "Course",
    "CourseHistory",
    "SEGMENTER_STAGES",
    "STAGES",
    "STRENGTHS",
    "Training",
    "USUAL_STRENGTH",
    "fit_linear_head",
    "run_segmenter_stages",
    "run_stages",
    "standardize_linear_head",
]


#: What may be trained: the head and then all, the head alone, or all from the start.
STAGES = ("two", "head", "all")


Rows = NDArray[np.intp]


@dataclass
class CourseHistory(History):
    """What happened in a fine-tuning: losses and scores of its last stage that goes step by step.

    Parameters
    ----------
    losses, scores, best_epoch
        As in :class:`skecg.finetuning.loop.History`.
    C : float or None
        Inverse strength of the penalty that the linear head was fitted with, if it was.
    """

    C: float | None = None


@dataclass(frozen=True)
class Course:
    """A fine-tuning. N records, L labels.

    Parameters
    ----------
    windows : PreparedWindows
        Of all N records.
    targets : Targets
    class_weight : None, "balanced", dict or list of dict
    train, held : ndarray of int
        Records to learn from, and to choose by.
    stages : {"two", "head", "all"}
    C : float or None
        Inverse strength of the linear head's penalty; None chooses it on the records held out.
    plan : Plan
    device : torch.device
    verbose : int
    history : CourseHistory
        Filled with what happens.
    """

    windows: PreparedWindows
    targets: Targets
    class_weight: Any
    train: Rows
    held: Rows
    stages: str
    C: float | None
    plan: Plan
    device: torch.device
    verbose: int = 0
    history: CourseHistory = field(default_factory=CourseHistory)

    def lessons(self, inputs: Inputs) -> RecordLessons:
        """Say what is learned from; the weights of the records are 1 on average."""
        weight = np.zeros((len(self.targets.has), 1))
        weight[self.train] = 1.0
        weight = self.targets.weigh(weight, self.class_weight)
        weight = weight * (len(self.train) / weight.sum(axis=0).mean())
        return RecordLessons(inputs, self.train, self.targets.has, weight, self.targets.joint, self.plan.batch_size)

    def validation(self, network: Network, inputs: Inputs) -> Callable[[], Score] | None:
        """Say how a network is scored on the records held out; None where there are none."""
        if not len(self.held):
            return None
        plan = self.plan

        def score() -> Score:
            logits = record_logits(network, inputs, self.held, precision=plan.precision, n_jobs=plan.n_jobs)
            return validation_score(self.targets.has[self.held], logits, joint=self.targets.joint)

        return score


#: Inverse strengths of the penalty that are tried on the records held out.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


#: The one used where nothing is held out.
USUAL_STRENGTH = 1e-2


# Features that vary less, relative to their size, are rounding.
_ROUNDING = 1e-6


Features = NDArray[np.float32]


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


# What is published for a head that is trained on a frozen encoder.
_HEAD_EPOCHS, _HEAD_RATE, _HEAD_DECAY = 30, 1e-3, 0.1


def run_stages(network: Network, course: Course) -> None:
    """Train a network in place; what happened is in the course's history.

    Parameters
    ----------
    network : Network
        On the device of the course, in evaluation mode.
    course : Course
    """
    head, history = network.head, course.history
    linear = head if isinstance(head, LinearHead) else None
    if course.stages == "all":
        if linear is not None:
            standardize_linear_head(network, linear, course)
    elif linear is not None:
        history.C = fit_linear_head(network, linear, course, course.C, to_all=course.stages == "head")
    else:
        _train_head(network, course)
    if course.stages != "head":
        _train_all(network, course)
        if history.best_epoch == 0 and history.C is not None and linear is not None:
            # The encoder is the one that training started from, so that nothing has to be chosen any more.
            fit_linear_head(network, linear, course, history.C, to_all=True)


def _train_head(network: Network, course: Course) -> None:
    """Train a head that has no closed optimum, on tokens that are computed once."""
    plan = course.plan
    plan = replace(plan, learning_rate=_HEAD_RATE, weight_decay=_HEAD_DECAY, epochs=_HEAD_EPOCHS, warmup_epochs=0)
    network.encoder.requires_grad_(False)
    groups = layered_groups(network, learning_rate=plan.learning_rate, weight_decay=plan.weight_decay)
    inputs = TokenInputs(course.windows, network.encoder, course.device, plan.n_jobs)
    train_network(
        network,
        course.lessons(inputs),
        plan,
        groups,
        course.validation(network, inputs),
        history=course.history if course.stages == "head" else None,
        title="training the head",
        verbose=course.verbose,
    )
    network.encoder.requires_grad_(True)


def _train_all(network: Network, course: Course) -> None:
    """Train encoder and head together, each block a little slower than the one above."""
    plan, inputs = course.plan, WindowInputs(course.windows, course.device)
    groups = layered_groups(
        network, learning_rate=plan.learning_rate, layer_decay=plan.layer_decay, weight_decay=plan.weight_decay
    )
    train_network(
        network,
        course.lessons(inputs),
        plan,
        groups,
        course.validation(network, inputs),
        history=course.history,
        verbose=course.verbose,
    )


#: What may be trained: the decoder and then all, the decoder alone, or all from the start.
SEGMENTER_STAGES = ("two", "head", "all")


@dataclass(frozen=True)
class Training:
    """A training.

    Parameters
    ----------
    windows : PreparedWindows
    labels : ndarray of shape (n_windows, T), int8
    train, held : ndarray of int
        Records to learn from, and to choose by.
    stages : {"two", "head", "all"}
    head_plan, plan : Plan
        Of the stage that trains the decoder alone, and of the one that trains all.
    augment : bool
        Whether windows are seen otherwise each time.
    device : torch.device
    verbose : int
    history : dict of str to History
        Filled with what happens, by stage: ``"head"``, ``"all"``.
    """

    windows: PreparedWindows
    labels: NDArray[np.int8]
    train: Rows
    held: Rows
    stages: str
    head_plan: Plan
    plan: Plan
    augment: bool
    device: torch.device
    verbose: int = 0
    history: dict[str, History] = field(default_factory=dict)

    @property
    def has_begun(self) -> bool:
        """Whether an epoch of any stage was completed."""
        return any(history.losses for history in self.history.values())

    @property
    def labelled(self) -> LabelledWindows:
        """All windows with their labels."""
        rate = self.windows.chunks[0].spec.sampling_rate
        return LabelledWindows(WindowInputs(self.windows, self.device), self.labels, rate)

    def lessons(self, plan: Plan) -> WaveLessons:
        """Say what is learned from."""
        windows = self.labelled
        return WaveLessons(windows, windows.of_records(self.train), plan.batch_size, self.augment)

    def validation(self, network: SegmentingNetwork) -> Callable[[], float] | None:
        """Say how a network is scored on the records held out; None where nothing is known of any."""
        windows, plan = self.labelled, self.plan
        rows = windows.of_records(self.held)
        if not len(rows):
            return None
        return lambda: validation_f1(network, windows, rows, precision=plan.precision, n_jobs=plan.n_jobs)


def run_segmenter_stages(network: SegmentingNetwork, training: Training) -> None:
    """Train a network in place; what happened is in the training's history.

    Parameters
    ----------
    network : SegmentingNetwork
        On the device of the training, in evaluation mode.
    training : Training
    """
    if training.stages != "all":
        network.encoder.requires_grad_(False)
        _run(network, training, training.head_plan, "head", "training the head")
        network.encoder.requires_grad_(True)
    if training.stages != "head":
        _run(network, training, training.plan, "all", "fine-tuning")


def _run(network: SegmentingNetwork, training: Training, plan: Plan, stage: str, title: str) -> None:
    training.history[stage] = History()
    groups = layered_groups(
        network, learning_rate=plan.learning_rate, layer_decay=plan.layer_decay, weight_decay=plan.weight_decay
    )
    train_network(
        network,
        training.lessons(plan),
        plan,
        groups,
        training.validation(network),
        history=training.history[stage],
        title=title,
        verbose=training.verbose,
    )
