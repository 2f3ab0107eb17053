"""The loop of fine-tuning: draw, compute, step, validate, and keep the best.

A batch is computed in micro-batches, on as many cores as there are; gradients are added in their order, so that the
result depends neither on the number of cores nor on which finishes first. Learning rates fall from the head down to the
patches: early layers hold what serves every task and need to move least (Howard and Ruder, 2018; Bao, Dong and Wei,
2022).
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from skecg.compute.devices import autocast, in_order, keep_to_one_thread, resolve_precision
from skecg.compute.progress import count_progress
from skecg.encoders.encode import workers
from skecg.errors import SkecgWarning, user_stacklevel
from skecg.finetuning.heads import Network
from skecg.finetuning.losses import Score
from skecg.validation import check_integer, check_jobs, check_number

__all__ = [
    "Batches",
    "History",
    "OrderedMap",
    "TrainingConfig",
    "layered_groups",
    "levels_of",
    "ordered_map",
    "train_network",
]

#: Calls a function with each of some items and returns what came of them, in their order.
OrderedMap = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]

Item = TypeVar("Item")


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Parameters
    ----------
    epochs : int
        Passes over the training records, at most.
    batch_size : int
        Records, or windows, in a step.
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
    averaging : float
        Memory of the running average of the weights, which is what is validated and kept: 0.999 goes back about 1,000
        steps, at the beginning a tenth of the steps done; 0 takes the weights themselves.
    patience : int or None
        Epochs without a better validation score after which training ends; None never does.
    precision : {"fp32", "bf16"}
        Of matrix products.
    random_state : int
        Seed of the batches.
    n_jobs : int or None
        Micro-batches in flight at once on a CPU; None takes the cores that torch may use.

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
    averaging: float = 0.0
    patience: int | None = None
    precision: str = "fp32"
    random_state: int = 0
    n_jobs: int | None = None

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, 1)
        check_integer("batch_size", self.batch_size, 1)
        if self.patience is not None:
            check_integer("patience", self.patience, 1, or_="None")
        check_jobs(self.n_jobs)
        check_number("learning_rate", self.learning_rate, 0)
        check_number("layer_decay", self.layer_decay, 0, 1, closed="right")
        for name in ("weight_decay", "warmup_epochs", "gradient_clip"):
            check_number(name, getattr(self, name), 0, closed="left")
        check_number("final_share", self.final_share, 0, 1, closed="both")
        check_number("averaging", self.averaging, 0, 1, closed="left")
        object.__setattr__(self, "precision", resolve_precision(self.precision))

    def rate_factor(self, progress: float) -> float:
        """Compute the share of its peak that a learning rate has after so many epochs."""
        if progress < self.warmup_epochs:
            return progress / self.warmup_epochs
        # All epochs may be warm-up.
        done = (progress - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@contextlib.contextmanager
def ordered_map(device: torch.device, n_jobs: int | None) -> Iterator[OrderedMap]:
    """Yield a map over micro-batches: threads of one core each on a CPU, one after the other on anything else.

    Parameters
    ----------
    device : torch.device
        Where the work is done.
    n_jobs : int or None
        Threads at once; None takes the cores that torch may use.
    """
    if device.type != "cpu":
        yield lambda work, items: list(map(work, items))
        return
    with workers(n_jobs) as n_threads:

        def single_threaded(work: Callable[[Any], Any], item: Any) -> Any:
            keep_to_one_thread()
            return work(item)

        yield lambda work, items: list(in_order(partial(single_threaded, work), items, n_threads))


class Batches(Protocol[Item]):
    """What a network learns from, in batches of micro-batches."""

    def epoch(self, rng: np.random.Generator) -> Sequence[Sequence[Item]]:
        """Draw the batches of an epoch, each as the micro-batches that go through the network at once.

        A micro-batch is small, such as the numbers of windows.
        """
        ...

    def loss(self, network: Any, micro_batch: Item) -> Tensor:
        """Compute the loss of a micro-batch. Those of a batch add up to the batch's."""
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
    batches: Batches[Item],
    config: TrainingConfig,
    groups: list[dict[str, Any]],
    validate: Callable[[], Score] | None = None,
    *,
    history: History | None = None,
    title: str = "fine-tuning",
    verbose: int = 0,
) -> History:
    """Train a network in place.

    AdamW, a rate that rises linearly and falls along half a cosine, gradients clipped by their norm. What is validated
    and kept is a running average of the weights (Polyak and Juditsky, 1992), where one is asked for. Training ends
    after ``config.epochs``, or ``config.patience`` epochs after the best validation; what is left are the weights of
    the best epoch, or of the last one where nothing validates. That holds for a training that is interrupted (Ctrl-C)
    too; the KeyboardInterrupt then goes on to the caller.

    Parameters
    ----------
    network : torch.nn.Module
        On its device; left in evaluation mode.
    batches : Batches
        Drawn anew in every epoch, with their losses.
    config : TrainingConfig
        One configuration gives one result, bit for bit on a CPU, whatever ``config.n_jobs`` is.
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
    run = _Run(network, batches, config, groups, validate, History() if history is None else history)
    # The loop draws nothing from torch's own generators; heads with dropout do, and the user's must not notice.
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(config.random_state)
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
        batches: Batches[Any],
        config: TrainingConfig,
        groups: list[dict[str, Any]],
        validate: Callable[[], Score] | None,
        history: History,
    ) -> None:
        self.network, self.batches, self.config, self.history = network, batches, config, history
        self.validate = validate
        self.parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self.device = self.parameters[0].device
        # The rate of a group changes with every step; its peak stays beside it.
        self.optimizer = torch.optim.AdamW([{**group, "peak": group["lr"]} for group in groups], betas=config.betas)
        self.average = [parameter.detach().clone() for parameter in self.parameters] if config.averaging else []
        self.n_steps = 0
        self.best_score: tuple[float, ...] = (-math.inf,)
        self.best = _copy(network)

    def epochs(self, title: str, verbose: int) -> None:
        """Train until the epochs or the patience are used up."""
        rng = np.random.default_rng(self.config.random_state)
        # The encoder as it came competes too: training that makes it worse is undone.
        self.keep_if_better(0)
        with count_progress(self.config.epochs, title, "epoch", verbose=verbose) as shown:
            for number in range(self.config.epochs):
                loss = self.epoch(number, self.batches.epoch(rng))
                if not math.isfinite(loss):
                    self.warn_of_divergence(number)
                    return
                self.history.losses.append(loss)
                self.keep_if_better(number + 1)
                shown.update(1)
                shown.set_postfix_str(self.describe())
                if self.config.patience is not None and number + 1 - self.history.best_epoch >= self.config.patience:
                    return

    def epoch(self, number: int, batches: Sequence[Sequence[Any]]) -> float:
        """Take one step for each batch and return the mean loss."""
        # Validation, between epochs, puts all into eval.
        self.network.train()
        losses: list[float] = []
        with ordered_map(self.device, self.config.n_jobs) as over:
            for i, batch in enumerate(batches):
                # By the step after this one: the first step of a warm-up would otherwise have a rate of 0.
                self.set_rates(number + (i + 1) / len(batches))
                losses.append(self.step(batch, over))
                if not math.isfinite(losses[-1]):
                    break
        return float(np.mean(losses))

    def step(self, batch: Sequence[Any], over: OrderedMap) -> float:
        """Compute the gradients of a batch's micro-batches, add them, and step."""
        computed = over(self.gradients, batch)
        loss = sum(loss for loss, _ in computed)
        # A step along NaN would spoil all weights, the running averages of AdamW with them.
        if math.isfinite(loss):
            # Added in the order of the micro-batches, not as they finish: the sum is the same bit for bit with any
            # n_jobs.
            for parameter, *gradients in zip(self.parameters, *(each for _, each in computed), strict=True):
                parameter.grad = _sum(gradients)
            if self.config.gradient_clip:
                nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.update_average()
        return float(loss)

    def gradients(self, micro_batch: Any) -> tuple[float, Sequence[Tensor | None]]:
        """Compute a loss and its gradients; nothing is written, so that several may be worked on at once."""
        with torch.enable_grad():
            with autocast(self.device, self.config.precision):
                loss = self.batches.loss(self.network, micro_batch)
            # Not backward(): threads would add to the same .grad at once.
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return loss.item(), gradients

    def set_rates(self, progress: float) -> None:
        """Set the learning rates for what has been done after so many epochs."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.config.rate_factor(progress)

    def update_average(self) -> None:
        """Move the average towards the weights, the faster the fewer steps it has seen."""
        self.n_steps += 1
        if self.average:
            memory = min(self.config.averaging, (1 + self.n_steps) / (10 + self.n_steps))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - memory)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the average in the network's place."""
        own = [parameter.data for parameter in self.parameters]
        for parameter, average in zip(self.parameters, self.average, strict=False):
            parameter.data = average
        try:
            yield
        finally:
            for parameter, values in zip(self.parameters, own, strict=True):
                parameter.data = values

    def keep_if_better(self, number: int) -> None:
        """Validate after an epoch and keep the weights when no others were better; always when nothing validates."""
        with self.averaged():
            if self.validate is not None:
                self.network.eval()
                validated = self.validate()
                score = validated if isinstance(validated, tuple) else (validated,)
                self.history.scores.append(score[0])
                # Written so that a score that is NaN is not better either.
                if not score > self.best_score:
                    return
                self.best_score = score
            self.best, self.history.best_epoch = _copy(self.network), number

    def restore(self) -> None:
        """Go back to the best weights."""
        self.network.load_state_dict(self.best)
        self.network.eval()

    def describe(self) -> str:
        """Describe where training stands, for the progress bar."""
        validated = f", validation {self.history.scores[-1]:.4f}" if self.history.scores else ""
        return f"loss {self.history.losses[-1]:.4f}{validated}"

    def warn_of_divergence(self, number: int) -> None:
        """Warn that training diverged."""
        warnings.warn(
            f"Got a loss that is no number in epoch {number + 1} of training, so the weights of epoch "
            f"{self.history.best_epoch} were kept. Lower learning_rate={self.config.learning_rate:g}.",
            SkecgWarning,
            stacklevel=user_stacklevel(),
        )


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """Add gradients in their order; there is none where the loss did not depend on the parameter."""
    present = [gradient for gradient in gradients if gradient is not None]
    return sum(present[1:], start=present[0]) if present else None


def levels_of(network: Network) -> dict[str, int]:
    """Return how far below the head each parameter lies.

    Returns
    -------
    dict of str to int
        Name to 0 for the head and the encoder's final norm, 1 for the last stage, and so on down to ``depth`` for the
        first one and ``depth + 1`` for whatever comes before it: the embedding of patches, registers.
    """
    head, *below = network.encoder.config.levels
    prefixes = [("head.", *_submodules(head)), *map(_submodules, below)]
    return {
        name: next((level for level, these in enumerate(prefixes) if name.startswith(these)), len(prefixes))
        for name, _ in network.named_parameters()
    }


def _submodules(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"encoder.{name}." for name in names)


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
    # Registers are a matrix in shape only: each row is a token, as a position is.
    return parameter.ndim > 1 and not name.endswith("registers")
