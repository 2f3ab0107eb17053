"""Objective: what every objective offers to the loop, so that the loop need not know which one it is.

Shapes: B windows, L leads, T samples.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from skecg.encoders import Encoder, build_encoder

if TYPE_CHECKING:
    from pretraining.config import PretrainConfig
    from pretraining.data.batches import Batch
    from pretraining.data.shards import ShardSet

__all__ = ["Drawn", "Loss", "Objective", "WithoutTarget", "exported_encoder"]


class Drawn:
    """What goes with the windows of a batch (masks, views, what is known of the recordings): a dataclass.

    Its tensors have a row for each window; so have those of its own parts.
    """

    def to(self, device: torch.device | str) -> Self:
        """Move all."""
        moved: Self = _mapped(self, lambda tensor: tensor.to(device, non_blocking=True))
        return moved

    def take(self, rows: slice) -> Self:
        """Take what belongs to some of the windows."""
        taken: Self = _mapped(self, lambda tensor: tensor[rows])
        return taken


def _mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensors in lists, tuples and dataclasses; all else stays."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, list | tuple):
        parts = [_mapped(part, function) for part in tree]
        # A named tuple takes its parts one by one.
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if not dataclasses.is_dataclass(tree) or isinstance(tree, type):
        return tree
    changed = {field.name: _mapped(getattr(tree, field.name), function) for field in dataclasses.fields(tree)}
    return dataclasses.replace(tree, **changed)


class Loss(Protocol):
    """A named tuple of scalars: first ``total``, which a step minimizes, then its parts before they are weighted."""

    _fields: tuple[str, ...]

    @property
    def total(self) -> Tensor:
        """What a step minimizes."""

    def __getitem__(self, index: int) -> Tensor: ...

    def __len__(self) -> int: ...


class Objective(nn.Module, ABC):
    """An encoder that is trained, and all that training it takes.

    Parameters
    ----------
    config : PretrainConfig
        Weights are drawn from torch's global generator.

    Attributes
    ----------
    context_encoder : Encoder
        The one that gradients train.
    target_encoder : Encoder
        The one whose features are watched: its average over the run, or itself (:class:`WithoutTarget`).
    loss_names : tuple of str
        Fields of the loss.
    """

    context_encoder: Encoder
    target_encoder: Encoder
    loss_names: tuple[str, ...]

    @abstractmethod
    def forward(self, values_BLT: Tensor, drawn: Any) -> Any:
        """Compute the loss of prepared windows (B, L, T) and of what was drawn for them."""

    @abstractmethod
    def update_target_(self, momentum: float) -> None:
        """Move the target encoder towards the context encoder, where there is one."""

    def start_from_(self, encoder: Encoder) -> None:
        """Begin with the weights of an encoder or of a part of it, in both encoders where there are two."""
        # A set: without a target both names are one encoder.
        for own in {self.context_encoder, self.target_encoder}:
            own.load_state_dict(encoder.state_dict(), strict=own.config == encoder.config)

    def deep_parts(self) -> list[nn.Module]:
        """Return the modules with ``blocks`` that stochastic depth acts on."""
        return [self.context_encoder]

    def noted(self) -> tuple[str, ...]:
        """Return the names of the parts of the loss that the journal notes; none where there is but one."""
        # With a total and one part the two are the same number.
        return self.loss_names[1:] if len(self.loss_names) > 2 else ()

    def watched(self) -> str:
        """Return the name of the part of the loss that is measured on a fixed batch during the run."""
        return self.loss_names[1]

    def gauged(self) -> tuple[str, ...]:
        """Return the names of the parts of the loss that gauges measure on the fixed batch beside it."""
        return ()

    @classmethod
    def write_tables(cls, config: PretrainConfig, shards: ShardSet) -> None:
        """Work out, once for a set of shards, what the objective asks of recordings; the first process does."""

    @classmethod
    def read_tables(cls, config: PretrainConfig, shards: ShardSet) -> Any:
        """Read what :meth:`write_tables` wrote; None for an objective that needs nothing."""
        return None

    @classmethod
    @abstractmethod
    def draw(cls, config: PretrainConfig, tables: Any, batch: Batch, step: int, positions: range) -> Any:
        """Draw what goes with the records at some places of a step's batch.

        The same for a place whatever other places are drawn with it.
        """

    @classmethod
    @abstractmethod
    def flops(cls, config: PretrainConfig, drawn: Any) -> float:
        """Count what one record of the batch costs in a training step, in floating-point operations.

        What the mathematics needs, 2 for a multiplication with its addition; a backward pass is two forward ones.
        """

    @classmethod
    @abstractmethod
    def summary(cls, config: PretrainConfig) -> str:
        """Describe what is minimized."""


class WithoutTarget(Objective):
    """An objective with one encoder only."""

    @property
    def target_encoder(self) -> Encoder:  # type: ignore[override]
        """The encoder that is trained."""
        return self.context_encoder

    def update_target_(self, momentum: float) -> None:
        """Do nothing: there is no second encoder."""


def exported_encoder(tensors: Mapping[str, Tensor], config: PretrainConfig) -> Encoder:
    """Build the encoder that a run exports.

    Parameters
    ----------
    tensors : mapping
        State of the whole encoder.
    config : PretrainConfig
        Its ``export_blocks`` says how many blocks are kept; the final norm follows the last of them.

    Returns
    -------
    Encoder
        Without gradients, in evaluation mode; it gives what layer ``export_blocks - 1`` of the whole one gives.
    """
    depth = config.exported_depth
    dropped = tuple(f"blocks.{number}." for number in range(depth, config.encoder.depth))
    # What is drawn is overwritten; the generator is the user's.
    with torch.random.fork_rng(devices=[]):
        built = build_encoder(dataclasses.replace(config.encoder, depth=depth))
    built.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(dropped)})
    return built.eval().requires_grad_(False)
