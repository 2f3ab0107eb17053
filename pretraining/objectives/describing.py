"""Predicting, from what is visible of a recording, numbers that describe the whole of it.

What a masked token will be can be told from its neighbours; what the whole recording is like cannot, so that features
are learned in far fewer steps than by prediction of tokens alone (docs/log.md).

Shapes: B windows, K visible tokens, D width, N descriptors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.descriptors import N_DESCRIPTORS, Descriptors

__all__ = ["Described", "Describer", "describe", "description_loss"]


class Described(NamedTuple):
    """Descriptors of the windows of a batch.

    Attributes
    ----------
    values : Tensor of shape (B, N)
    weights : Tensor of shape (B, N)
        Importance of each; rows of zeros where nothing is known.
    seen : Tensor of shape (B, K), int64, or None
        The slices of time that are seen for it; None for those of the prediction.
    """

    values: Tensor
    weights: Tensor
    seen: Tensor | None = None

    def to(self, device: torch.device | str) -> Described:
        """Move all."""
        seen = None if self.seen is None else self.seen.to(device)
        return Described(self.values.to(device), self.weights.to(device), seen)

    def take(self, rows: slice) -> Described:
        """Take some of the windows."""
        return Described(self.values[rows], self.weights[rows], None if self.seen is None else self.seen[rows])


def describe(descriptors: Descriptors, rows: NDArray[np.int64]) -> Described:
    """Look up what is known of some rows of the shards."""
    weights = descriptors.is_known[rows][:, None] * descriptors.importance
    return Described(torch.from_numpy(descriptors.values[rows]), torch.from_numpy(weights))


class Describer(nn.Module):
    """A linear map of the mean and the standard deviation of the visible tokens, normalized."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim, N_DESCRIPTORS)

    def forward(self, context_BKD: Tensor) -> Tensor:
        """Predict descriptors (B, N) from visible tokens."""
        tokens = context_BKD.float()
        pooled = torch.cat([tokens.mean(dim=1), tokens.std(dim=1, correction=0)], dim=1)
        predicted: Tensor = self.linear(F.layer_norm(pooled, pooled.shape[-1:]))
        return predicted


def description_loss(predicted_BN: Tensor, described: Described) -> Tensor:
    """Give the weighted mean squared error; windows of which nothing is known count as none.

    The mean is over all windows, so it does not depend on how a batch is split.
    """
    return ((predicted_BN.float() - described.values) ** 2 * described.weights).mean()
