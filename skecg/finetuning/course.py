"""A fine-tuning as a value: which records, which labels, which stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skecg.finetuning.criterion import validation_score
from skecg.finetuning.lessons import Inputs, RecordLessons, record_logits
from skecg.finetuning.loop import History, Score
from skecg.finetuning.network import Network
from skecg.finetuning.plan import Plan
from skecg.finetuning.prepared import PreparedWindows
from skecg.targets import Targets

__all__ = ["STAGES", "Course", "CourseHistory"]

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
