"""The stages of a fine-tuning: first the head on the frozen encoder, then both (Weimann and Conrad, 2025).

A linear head on the frozen encoder is not trained by steps: a record's logit is the mean over its windows, and the head
is linear in what a window is pooled to, so that the head is a logistic (or ridge) regression on the record's embedding,
and its solver finds the optimum.

Shapes: N records, L labels, F pooled features, T samples of a window.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge

from skecg.compute.progress import count_progress
from skecg.encoders.encode import Encoding, encode_windows
from skecg.encoders.pooling import pool_windows
from skecg.finetuning.data import (
    Inputs,
    LabelledWindows,
    PreparedWindows,
    RecordBatches,
    TokenInputs,
    WindowBatches,
    WindowInputs,
    record_logits,
    validation_f1,
)
from skecg.finetuning.heads import LinearHead, Network
from skecg.finetuning.loop import Batches, History, TrainingConfig, layered_groups, train_network
from skecg.finetuning.losses import ClassLabels, Numbers, RecordLabels, Score
from skecg.linear_model.logistic import LogisticProbe, Targets
from skecg.linear_model.ridge import ALPHAS

__all__ = [
    "STAGES",
    "ClassifierHistory",
    "ClassifierTraining",
    "LinearTraining",
    "RecordTraining",
    "RegressorTraining",
    "SegmenterTraining",
    "Training",
]

#: What may be trained: the head and then all, the head alone, or all from the start.
STAGES = ("two", "head", "all")

# Features that vary less, relative to their size, are rounding.
_ROUNDING = 1e-6

Rows = NDArray[np.intp]
Features = NDArray[np.float32]
Weights = NDArray[np.float64]


@dataclass(kw_only=True, eq=False)
class Training(ABC):
    """A fine-tuning as a value: which windows, which labels, which stages.

    Parameters
    ----------
    windows : PreparedWindows
        Of all N records.
    train, held : ndarray of int
        Records to learn from, and to choose by.
    stages : {"two", "head", "all"}
    head_config, config : TrainingConfig
        Of the stage that trains the head alone, and of the one that trains all.
    device : torch.device
    verbose : int
    histories : dict of str to History
        Filled with what happens, by stage: ``"head"``, ``"all"``.
    """

    windows: PreparedWindows
    train: Rows
    held: Rows
    stages: str
    head_config: TrainingConfig
    config: TrainingConfig
    device: torch.device
    verbose: int = 0
    histories: dict[str, History] = field(default_factory=dict)

    @property
    def has_learned(self) -> bool:
        """Whether an epoch of any stage was completed."""
        return any(history.losses for history in self.histories.values())

    @property
    def last_history(self) -> History:
        """What happened in the last stage that goes step by step; nothing where none did."""
        return next(reversed(self.histories.values()), History())

    def run(self, network: Network) -> None:
        """Train a network in place, which is on the training's device and in evaluation mode."""
        if self.stages != "all":
            self.fit_head(network)
        if self.stages != "head":
            self.fit_all(network)

    def fit_head(self, network: Network) -> None:
        """Train the head alone."""
        network.encoder.requires_grad_(False)
        self._train(network, self.head_inputs(network), self.head_config, "head", "training the head")
        network.encoder.requires_grad_(True)

    def head_inputs(self, network: Network) -> Inputs:
        """Return what the head is trained on while the encoder is frozen."""
        return WindowInputs(self.windows, self.device)

    def fit_all(self, network: Network) -> None:
        """Train encoder and head together, each block a little slower than the one above."""
        self._train(network, WindowInputs(self.windows, self.device), self.config, "all", "fine-tuning")

    def _train(self, network: Network, inputs: Inputs, config: TrainingConfig, stage: str, title: str) -> None:
        self.histories[stage] = History()
        groups = layered_groups(
            network,
            learning_rate=config.learning_rate,
            layer_decay=config.layer_decay,
            weight_decay=config.weight_decay,
        )
        train_network(
            network,
            self.batches(inputs, config.batch_size),
            config,
            groups,
            self.validation(network, inputs),
            history=self.histories[stage],
            title=title,
            verbose=self.verbose,
        )

    @abstractmethod
    def batches(self, inputs: Inputs, batch_size: int) -> Batches[Any]:
        """Return what is learned from."""

    @abstractmethod
    def validation(self, network: Network, inputs: Inputs) -> Callable[[], Score] | None:
        """Return what scores the network on the records held out; None where nothing is known of any."""


@dataclass(kw_only=True, eq=False)
class RecordTraining(Training):
    """A fine-tuning to labels of records, of whatever kind.

    Parameters
    ----------
    labels : RecordLabels
        Of all N records.
    """

    labels: RecordLabels

    def head_inputs(self, network: Network) -> Inputs:
        """Return the tokens of the frozen encoder, computed once."""
        return TokenInputs(self.windows, network.encoder, self.device, self.config.n_jobs)

    def batches(self, inputs: Inputs, batch_size: int) -> RecordBatches:
        """Return what is learned from."""
        return RecordBatches(inputs, self.train, self.labels, batch_size)

    def validation(self, network: Network, inputs: Inputs) -> Callable[[], Score] | None:
        """Return what scores the network on the records held out; None where there are none."""
        if not len(self.held):
            return None
        precision, n_jobs = self.config.precision, self.config.n_jobs
        return lambda: self.labels.score(
            record_logits(network, inputs, self.held, precision=precision, n_jobs=n_jobs), self.held
        )


@dataclass(kw_only=True, eq=False)
class LinearTraining(RecordTraining, ABC):
    """A fine-tuning to labels of records in which a linear head is solved for, not stepped towards.

    Parameters
    ----------
    strength : float or None
        Of a linear head's penalty, in the terms of its solver; None chooses it on the records held out.

    Attributes
    ----------
    fitted_strength : float or None
        The one that a linear head was fitted with.
    """

    strength: float | None
    fitted_strength: float | None = field(default=None, init=False)

    #: Strengths that are tried on the records held out, and the one used where none are.
    strengths: ClassVar[tuple[float, ...]]
    usual_strength: ClassVar[float]

    @abstractmethod
    def solve(self, features: Features, rows: Rows, strengths: Sequence[float]) -> list[tuple[Weights, Weights]]:
        """Fit weights (L, F) and biases (L,) to the labels of some records, for each strength of the penalty."""

    def run(self, network: Network) -> None:
        """Train a network in place, which is on the training's device and in evaluation mode."""
        if self.stages == "all" and isinstance(network.head, LinearHead):
            # Its weights stay at zero, but what it gets is standardized, as rates are chosen for.
            _standardize_(network.head, *_moments(self._embed(network, network.head)[self.train]))
        super().run(network)

    def fit_head(self, network: Network) -> None:
        """Fit a linear head to its optimum, and train any other."""
        if isinstance(network.head, LinearHead):
            self._fit_linear(network, network.head, to_all=self.stages == "head")
        else:
            super().fit_head(network)

    def fit_all(self, network: Network) -> None:
        """Train encoder and head together."""
        super().fit_all(network)
        if self.histories["all"].best_epoch == 0 and self.fitted_strength is not None:
            # The encoder is the one that training started from, so that nothing has to be chosen any more.
            assert isinstance(network.head, LinearHead)
            self._fit_linear(network, network.head, to_all=True)

    def _fit_linear(self, network: Network, head: LinearHead, *, to_all: bool) -> None:
        """Set a linear head to its optimum on the encoder as it is, over all records or those to train on."""
        features = self._embed(network, head)
        if self.fitted_strength is None:
            # Chosen once: the last fit, on more records, keeps the penalty that was judged.
            self.fitted_strength = self._choose_strength(features) if self.strength is None else self.strength
        rows = np.sort(np.concatenate([self.train, self.held])) if to_all else self.train
        center, scale = _moments(features[rows])
        _standardize_(head, center, scale)
        weights, biases = self.solve((features[rows] - center) / scale, rows, (self.fitted_strength,))[0]
        with torch.no_grad():
            head.linear.weight.copy_(torch.from_numpy(weights))
            head.linear.bias.copy_(torch.from_numpy(biases))

    def _embed(self, network: Network, head: LinearHead) -> Features:
        """Embed all records (N, F) with the encoder as it is."""
        encoding = Encoding(head.pooling, precision=self.config.precision, n_jobs=self.config.n_jobs)
        vectors = []
        with count_progress(len(self.windows), "embedding", "window", verbose=self.verbose) as bar:
            for chunk in self.windows.chunks:
                vectors.append(encode_windows(network.encoder, chunk, encoding))
                bar.update(len(chunk))
        return pool_windows(np.concatenate(vectors), self.windows.owner, self.windows.n_records)

    def _choose_strength(self, features: Features) -> float:
        """Return the strength that is best on the records held out, the first of several that are equal."""
        if not len(self.held):
            return self.usual_strength
        center, scale = _moments(features[self.train])
        features = (features - center) / scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of penalties not chosen; the chosen one may warn
            solved = self.solve(features[self.train], self.train, self.strengths)
        scores = [self.labels.score(features[self.held] @ w.T + b, self.held) for w, b in solved]
        # index finds the first, which is the strongest penalty.
        return self.strengths[scores.index(max(scores))]


@dataclass
class ClassifierHistory(History):
    """What happened in the fine-tuning of a classifier: losses and scores of its last stage that goes step by step.

    Parameters
    ----------
    losses, scores, best_epoch
        As in :class:`skecg.finetuning.loop.History`.
    C : float or None
        Inverse strength of the penalty that the linear head was fitted with, if it was.
    """

    C: float | None = None


@dataclass(kw_only=True, eq=False)
class ClassifierTraining(LinearTraining):
    """A fine-tuning to classes or labels of records.

    Parameters
    ----------
    targets : Targets
    class_weight : None, "balanced", dict or list of dict
    strength : float or None
        Inverse strength C of a linear head's penalty; None chooses it on the records held out.
    """

    targets: Targets
    class_weight: Any
    labels: RecordLabels = field(init=False)

    strengths: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    usual_strength: ClassVar[float] = 1e-2

    def __post_init__(self) -> None:
        weight = np.zeros((len(self.targets.has), 1))
        # Classes are weighed by the records that train; those held out are counted by no one.
        weight[self.train] = 1.0
        weight = self.targets.weigh(weight, self.class_weight)
        # However classes weigh, the loss keeps its size, and the learning rate its meaning.
        weight = weight * (len(self.train) / weight.sum(axis=0).mean())
        self.labels = ClassLabels(self.targets.has, weight, self.targets.joint)

    @property
    def history(self) -> ClassifierHistory:
        """What happened in the last stage that goes step by step."""
        last = self.last_history
        return ClassifierHistory(last.losses, last.scores, last.best_epoch, self.fitted_strength)

    def solve(self, features: Features, rows: Rows, strengths: Sequence[float]) -> list[tuple[Weights, Weights]]:
        """Fit a logistic regression for each inverse strength of its penalty."""
        targets = self.targets
        has = targets.has[rows]
        if targets.multilabel:
            y = has.astype(np.int64)
        else:
            y = targets.classes[has.argmax(axis=1) if targets.joint else has[:, 0].astype(np.int64)]
        with warnings.catch_warnings():
            # The user has heard of them already, for all records.
            warnings.filterwarnings("ignore", message=".*labels are the same for all records", category=UserWarning)
            probes = LogisticProbe(class_weight=self.class_weight).path(features, y, strengths)
        return [(probe.coef_, probe.intercept_) for probe in probes]


@dataclass(kw_only=True, eq=False)
class RegressorTraining(LinearTraining):
    """A fine-tuning to numbers of records, standardized.

    Parameters
    ----------
    strength : float or None
        Penalty alpha of a linear head's ridge regression; None chooses it on the records held out.
    """

    labels: Numbers

    strengths: ClassVar[tuple[float, ...]] = ALPHAS
    usual_strength: ClassVar[float] = 1e3

    def solve(self, features: Features, rows: Rows, strengths: Sequence[float]) -> list[tuple[Weights, Weights]]:
        """Fit a ridge regression for each penalty."""
        # In float64: products of hundreds of correlated features lose float32's digits.
        x, y = features.astype(np.float64), self.labels.values[rows]
        fitted = [Ridge(alpha).fit(x, y) for alpha in strengths]
        return [(np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_)) for ridge in fitted]


def _moments(features: Features) -> tuple[Features, Features]:
    """Compute mean and standard deviation of each feature; 1 for those that do not vary."""
    center, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale[scale <= _ROUNDING * np.abs(features).max(axis=0)] = 1.0
    return center.astype(np.float32), scale.astype(np.float32)


def _standardize_(head: LinearHead, center: Features, scale: Features) -> None:
    head.center.copy_(torch.from_numpy(center))
    head.scale.copy_(torch.from_numpy(scale))


@dataclass(kw_only=True, eq=False)
class SegmenterTraining(Training):
    """A fine-tuning to labels of samples.

    Parameters
    ----------
    labels : ndarray of shape (n_windows, T), int8
        Negative where nothing is known.
    augment : bool
        Whether windows are altered each time.
    """

    labels: NDArray[np.int8]
    augment: bool

    @property
    def labelled(self) -> LabelledWindows:
        """All windows with their labels."""
        rate = self.windows.chunks[0].spec.sampling_rate
        return LabelledWindows(WindowInputs(self.windows, self.device), self.labels, rate)

    def batches(self, inputs: Inputs, batch_size: int) -> WindowBatches:
        """Return what is learned from."""
        windows = self.labelled
        return WindowBatches(windows, windows.of_records(self.train), batch_size, self.augment)

    def validation(self, network: Network, inputs: Inputs) -> Callable[[], float] | None:
        """Return what scores the network on the records held out; None where nothing is known of any."""
        windows = self.labelled
        rows = windows.of_records(self.held)
        if not len(rows):
            return None
        precision, n_jobs = self.config.precision, self.config.n_jobs
        return lambda: validation_f1(network, windows, rows, precision=precision, n_jobs=n_jobs)
