"""The loop of fine-tuning: draw, compute, step, validate, and keep the best.

A batch is computed in parts, on as many cores as there are; gradients are added in the parts' order, so that the result
depends neither on the number of cores nor on who finishes first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from skecg.callers import user_stacklevel
from skecg.devices import autocast
from skecg.errors import SkecgWarning
from skecg.finetuning.plan import Plan
from skecg.finetuning.workers import OverParts, over_parts
from skecg.progress import count_progress

__all__ = ["History", "Lessons", "Score", "train_network"]

Part = TypeVar("Part")

#: What validation gives: a number, higher is better, and others that decide where it is the same.
Score = float | tuple[float, ...]


class Lessons(Protocol[Part]):
    """What a network learns from."""

    def epoch(self, rng: np.random.Generator) -> Sequence[Sequence[Part]]:
        """Draw the batches of an epoch, each in parts that go through the network at once.

        Parts are small, such as the numbers of windows.
        """
        ...

    def loss(self, network: Any, part: Part) -> Tensor:
        """Compute a part's loss. The losses of a batch's parts add up to the batch's."""
        ...


@dataclass
class History:
    """What happened in training.

    Parameters
    ----------
    losses : list of float
        Mean loss of each epoch.
    scores : list of float
        Validation score before training and after each epoch, as far as there was validation.
    best_epoch : int
        The epoch whose weights were kept, counted from 1; 0 for those from before training.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_epoch: int = 0


def train_network(
    network: nn.Module,
    lessons: Lessons[Part],
    plan: Plan,
    groups: list[dict[str, Any]],
    validate: Callable[[], Score] | None = None,
    *,
    history: History | None = None,
    title: str = "fine-tuning",
    verbose: int = 0,
) -> History:
    """Train a network in place.

    AdamW, a rate that rises linearly and falls along half a cosine, gradients clipped by their norm. Training ends
    after ``plan.epochs``, or ``plan.patience`` epochs after the best validation; what is left are the weights of the
    best epoch, or of the last one where nothing validates. That holds for a training that is interrupted (Ctrl-C) too;
    the KeyboardInterrupt then goes on to the caller.

    Parameters
    ----------
    network : torch.nn.Module
        On its device; left in evaluation mode.
    lessons : Lessons
        Batches and their losses.
    plan : Plan
        How to train. One plan and one seed give one result, bit for bit on a CPU, whatever ``plan.n_jobs`` is.
    groups : list of dict
        Parameters and their peak learning rates, see :func:`skecg.finetuning.groups.layered_groups`.
    validate : callable, optional
        Scores the network as it is, in evaluation mode: a number, higher is better, or several of which each decides
        where those before it are the same. The first is put down in the history.
    history : History, optional
        Filled as training goes on, for callers that want it after an interruption.
    title : str, default="fine-tuning"
        What the progress bar is called.
    verbose : int, default=0
        Whether to show it.

    Returns
    -------
    History

    Warns
    -----
    SkecgWarning
        When the loss is no number any more; the best weights until then are kept.
    """
    run = _Run(network, lessons, plan, groups, validate, History() if history is None else history)
    # The loop draws nothing from torch's own generators; heads with dropout do, and the user's must not notice.
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(plan.random_state)
        try:
            run.epochs(title, verbose)
        finally:
            run.restore()
    return run.history


class _Run:
    """One training: the network, its optimizer, and the best weights so far."""

    def __init__(
        self,
        network: nn.Module,
        lessons: Lessons[Any],
        plan: Plan,
        groups: list[dict[str, Any]],
        validate: Callable[[], Score] | None,
        history: History,
    ) -> None:
        self.network, self.lessons, self.plan, self.history = network, lessons, plan, history
        self.validate = validate
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self.device = self.parameters[0].device
        self.optimizer = torch.optim.AdamW([{**group, "peak": group["lr"]} for group in groups], betas=plan.betas)
        self.best_score: tuple[float, ...] = (-math.inf,)
        self.best = _copy(network)

    def epochs(self, title: str, verbose: int) -> None:
        """Train until the epochs or the patience are used up."""
        rng = np.random.default_rng(self.plan.random_state)
        self.keep_if_better(0)
        with count_progress(self.plan.epochs, title, "epoch", verbose=verbose) as shown:
            for number in range(self.plan.epochs):
                loss = self.epoch(number, self.lessons.epoch(rng))
                if not math.isfinite(loss):
                    self.warn_of_divergence(number)
                    return
                self.history.losses.append(loss)
                self.keep_if_better(number + 1)
                shown.update(1)
                shown.set_postfix_str(self.describe())
                if self.plan.patience is not None and number + 1 - self.history.best_epoch >= self.plan.patience:
                    return

    def epoch(self, number: int, batches: Sequence[Sequence[Any]]) -> float:
        """Take one step for each batch and give the mean loss."""
        self.network.train()
        losses: list[float] = []
        with over_parts(self.device, self.plan.n_jobs) as over:
            for i, parts in enumerate(batches):
                self.set_rates(number + (i + 1) / len(batches))
                losses.append(self.step(parts, over))
                if not math.isfinite(losses[-1]):
                    break
        return float(np.mean(losses))

    def step(self, parts: Sequence[Any], over: OverParts) -> float:
        """Compute the gradients of a batch's parts, add them, and step."""
        computed = over(self.gradients, parts)
        loss = sum(loss for loss, _ in computed)
        if math.isfinite(loss):
            for parameter, *gradients in zip(self.parameters, *(found for _, found in computed), strict=True):
                parameter.grad = _sum(gradients)
            if self.plan.gradient_clip:
                nn.utils.clip_grad_norm_(self.parameters, self.plan.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(loss)

    def gradients(self, part: Any) -> tuple[float, Sequence[Tensor | None]]:
        """Compute the loss of a part and its gradients; nothing is written, so that parts may be worked on at once."""
        with torch.enable_grad():
            with autocast(self.device, self.plan.precision):
                loss = self.lessons.loss(self.network, part)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return loss.item(), gradients

    def set_rates(self, progress: float) -> None:
        """Set the learning rates for what has been done after so many epochs."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.plan.factor(progress)

    def keep_if_better(self, number: int) -> None:
        """Validate after an epoch and keep the weights when no others were better; always when nothing validates."""
        if self.validate is not None:
            self.network.eval()
            found = self.validate()
            score = found if isinstance(found, tuple) else (found,)
            self.history.scores.append(score[0])
            if not score > self.best_score:
                return
            self.best_score = score
        self.best, self.history.best_epoch = _copy(self.network), number

    def restore(self) -> None:
        """Go back to the best weights."""
        self.network.load_state_dict(self.best)
        self.network.eval()

    def describe(self) -> str:
        """Say where training stands, for the progress bar."""
        validated = f", validation {self.history.scores[-1]:.4f}" if self.history.scores else ""
        return f"loss {self.history.losses[-1]:.4f}{validated}"

    def warn_of_divergence(self, number: int) -> None:
        """Say that training went astray."""
        warnings.warn(
            f"Got a loss that is no number in epoch {number + 1} of training, so the weights of epoch "
            f"{self.history.best_epoch} were kept. Lower learning_rate={self.plan.learning_rate:g}.",
            SkecgWarning,
            stacklevel=user_stacklevel(),
        )


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """Add gradients in their order; a part that a parameter had no part in gives none."""
    found = [gradient for gradient in gradients if gradient is not None]
    return sum(found[1:], start=found[0]) if found else None
