"""The stages of a training: the decoder on the frozen encoder, then both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from skecg.finetuning.groups import layered_groups
from skecg.finetuning.lessons import WindowInputs
from skecg.finetuning.loop import History, train_network
from skecg.finetuning.plan import Plan
from skecg.finetuning.prepared import PreparedWindows
from skecg.segmenting.decoder import SegmentingNetwork
from skecg.segmenting.lessons import LabelledWindows, WaveLessons, validation_f1

__all__ = ["STAGES", "Training", "run_stages"]

#: What may be trained: the decoder and then all, the decoder alone, or all from the start.
STAGES = ("two", "head", "all")

Rows = NDArray[np.intp]


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


def run_stages(network: SegmentingNetwork, training: Training) -> None:
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
