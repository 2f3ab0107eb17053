"""The loop of fine-tuning: draw, compute, step, validate, and keep the best.

A batch is computed in parts, on as many cores as there are; gradients are added in the parts' order, so that the result
depends neither on the number of cores nor on who finishes first.

How to train: the numbers of a fine-tuning, checked at birth.

Parts of a batch on all cores that there are, their results in order.

Which parameters learn how fast: learning rates that fall from the head down to the patches.

Early layers hold what serves every task and need to move least (Howard and Ruder, 2018; Bao, Dong and Wei, 2022).
"""

from __future__ import annotations

import contextlib
import math
import numbers
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from torch import Tensor, nn

from skecg.compute.devices import autocast, keep_to_one_thread, one_thread_per_worker, resolve_precision
from skecg.compute.progress import count_progress
from skecg.errors import ParameterError, SkecgWarning, user_stacklevel
from skecg.finetuning.heads import Network

__all__ = [
    "History",
    "Lessons",
    "OverParts",
    "Plan",
    "Score",
    "layered_groups",
    "levels_of",
    "over_parts",
    "train_network",
]


@dataclass(frozen=True)
class Plan:
    """How to train.

    Parameters
    ----------
    epochs : int
        Passes over the training records, at most.
    batch_size : int
        Records in a step.
    learning_rate : float
        Peak rate of the head.
    layer_decay : float
        What the rate is multiplied by from one block to the next below.
    weight_decay : float
        Of matrices.
    warmup_epochs : float
        Epochs in which the rate rises from zero.
    final_share : float
        Share of the peak rate that the last step has.
    gradient_clip : float
        Largest norm of a step's gradient; 0 leaves it.
    betas : tuple of float
        AdamW's memory of gradients and of their squares.
    patience : int or None
        Epochs without a better validation score after which training ends; None never does.
    precision : {"fp32", "bf16"}
        Of matrix products.
    random_state : int
        Seed of the batches.
    n_jobs : int or None
        Parts of a batch in flight at once on a CPU; None takes the cores that torch may use.

    Raises
    ------
    ParameterError
        When a value is not allowed.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 3e-4
    layer_decay: float = 0.75
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    final_share: float = 0.01
    gradient_clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    patience: int | None = None
    precision: str = "fp32"
    random_state: int = 0
    n_jobs: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "n_jobs"):
            self._require_integer(name, may_be_none=name in ("patience", "n_jobs"), may_be_negative=name == "n_jobs")
        self._require(self._number("learning_rate") > 0, "learning_rate", "a positive number")
        self._require(0 < self._number("layer_decay") <= 1, "layer_decay", "a number above 0 and at most 1")
        for name in ("weight_decay", "warmup_epochs", "gradient_clip"):
            self._require(self._number(name) >= 0, name, "a number of at least 0")
        self._require(0 <= self._number("final_share") <= 1, "final_share", "a share from 0 to 1")
        object.__setattr__(self, "precision", resolve_precision(self.precision))

    def factor(self, progress: float) -> float:
        """Give the share of its peak that a learning rate has after so many epochs."""
        if progress < self.warmup_epochs:
            return progress / self.warmup_epochs
        done = (progress - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def _number(self, name: str) -> float:
        value = getattr(self, name)
        whole = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        self._require(whole, name, "a number")
        return float(value)

    def _require_integer(self, name: str, *, may_be_none: bool, may_be_negative: bool) -> None:
        value = getattr(self, name)
        if value is None and may_be_none:
            return
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        wanted = "a positive integer" + (" or None" if may_be_none else "")
        self._require(whole and (value > 0 or (may_be_negative and value != 0)), name, wanted)

    def _require(self, condition: bool, name: str, wanted: str) -> None:
        if not condition:
            raise ParameterError(f"Got {name}={getattr(self, name)!r}, expected {wanted}.")


#: Calls a function with each of some parts and gives what it gave, in their order.
OverParts = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


@contextlib.contextmanager
def over_parts(device: torch.device, n_jobs: int | None) -> Iterator[OverParts]:
    """Give what works on parts: threads on a CPU, of one core each, and one after the other on anything else.

    Parameters
    ----------
    device : torch.device
        Where the work is done.
    n_jobs : int or None
        Threads at once; None takes the cores that torch may use.
    """
    if device.type != "cpu":
        yield _one_by_one
        return
    with one_thread_per_worker() as cores:
        workers = cores if n_jobs is None else effective_n_jobs(n_jobs)
        if workers <= 1:
            yield _one_by_one
            return
        with Parallel(n_jobs=workers, backend="threading") as pool:
            yield lambda work, parts: list(pool(delayed(_alone)(work, part) for part in parts))


def _alone(work: Callable[[Any], Any], part: Any) -> Any:
    keep_to_one_thread()
    return work(part)


def _one_by_one(work: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    return [work(part) for part in parts]


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
        Parameters and their peak learning rates, see :func:`skecg.finetuning.loop.layered_groups`.
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


_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")


def levels_of(network: Network) -> dict[str, int]:
    """Say how far below the head each parameter lies.

    Returns
    -------
    dict of str to int
        Name to 0 for the head and the encoder's final norm, 1 for the last block, and so on down to ``depth`` for the
        first block and ``depth + 1`` for whatever comes before it: the embedding of patches, registers.
    """
    depth = len(network.encoder.blocks)
    return {name: _level(name, depth) for name, _ in network.named_parameters()}


def _level(name: str, depth: int) -> int:
    if not name.startswith("encoder.") or name.startswith("encoder.norm."):
        return 0
    block = _BLOCK.match(name)
    return depth - int(block[1]) if block else depth + 1


def layered_groups(
    network: Network, *, learning_rate: float, layer_decay: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Group the parameters that are to be trained, for an optimizer of torch.

    Parameters
    ----------
    network : Network
        Parameters that require no gradient are in no group.
    learning_rate : float
        That of the head.
    layer_decay : float, default=1.0
        What the rate is multiplied by from one level to the next below, see :func:`levels_of`.
    weight_decay : float, default=0.0
        Of matrices; biases, norms and lone tokens are not decayed.

    Returns
    -------
    list of dict
        ``params``, ``lr``, ``weight_decay``, ``level``, and the ``names`` of the parameters.
    """
    levels = levels_of(network)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        key = levels[name], _decays(name, parameter)
        group = groups.setdefault(key, {"params": [], "names": [], "level": key[0]})
        group["params"].append(parameter)
        group["names"].append(name)
    for (level, decays), group in groups.items():
        group["lr"] = learning_rate * layer_decay**level
        group["weight_decay"] = weight_decay if decays else 0.0
    return [groups[key] for key in sorted(groups)]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith("registers")
