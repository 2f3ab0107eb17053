"""Contrast: things are told apart by two views of each, as far as they are unlike.

The contrast is InfoNCE with soft targets: each view of each thing is told apart from all others by a softmax over
cosines. The plain loss (NT-Xent) wants all probability on the other view of the same thing; here it may be shared with
what is like it: targets are similarities in [0, 1], raised to a power that sharpens them, made a distribution.

Shapes: N things, 2N views of them, first one of each and then the other; D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["build_projector", "guess", "same_class", "similarity", "soft_contrast", "targets"]

# With (1 + cosine) / 2 a power of 50 leaves nothing to any two recordings: such targets are hard ones (docs/log.md).
_COSINE_SHARE = 0.1


def build_projector(n_inputs: int, hidden: int, n_outputs: int) -> nn.Module:
    """Build the two layers between features and what is contrasted."""
    return nn.Sequential(nn.Linear(n_inputs, hidden), nn.GELU(), nn.Linear(hidden, n_outputs))


def similarity(features_ND: Tensor, kind: str, scale: float = 1.0) -> Tensor:
    """Compute how alike things are by their features.

    Parameters
    ----------
    features_ND : Tensor of shape (N, D)
    kind : {"soft_1", "soft_2"}
        0.9 + 0.1 cosine, or exp(-squared distance / `scale`).
    scale : float
        Mean squared distance of two things.

    Returns
    -------
    Tensor of shape (N, N), float32
        From 0 to 1.
    """
    # Differences of squares would lose their digits; on the CPU where a device (MPS) has no float64.
    place = "cpu" if features_ND.device.type == "mps" else features_ND.device
    features = features_ND.to(place, torch.float64)
    if kind == "soft_1":
        unit = F.normalize(features, dim=1)
        likeness = (1 - _COSINE_SHARE * (1 - unit @ unit.T)).clamp(0, 1)
    else:
        assert kind == "soft_2", "checked by the configuration"
        squares = features.square().sum(dim=1)
        distance = (squares[:, None] + squares - 2 * features @ features.T).clamp_min(0)
        likeness = torch.exp(-distance / scale)
    return likeness.float().to(features_ND.device)


def same_class(classes_N: Tensor) -> Tensor:
    """Return 1 for two things of one class, 0 for others, (N, N)."""
    return (classes_N[:, None] == classes_N).float()


def targets(likeness_NN: Tensor, exponent: float) -> Tensor:
    """Compute the distribution that each view is compared with.

    Parameters
    ----------
    likeness_NN : Tensor of shape (N, N)
        From 0 to 1; its diagonal counts as 1. The plain targets are those of the unit matrix.
    exponent : float
        Power that likeness is raised to.

    Returns
    -------
    Tensor of shape (2N, 2N)
        0 for a view and itself; rows add up to 1.
    """
    # Both views of a thing are alike, whatever rounding makes of its likeness to itself.
    sharp = likeness_NN.float().pow(exponent).fill_diagonal_(1.0)
    weights = sharp.repeat(2, 2).fill_diagonal_(0.0)
    return weights / weights.sum(dim=1, keepdim=True)


def guess(n_things: int) -> float:
    """Compute the cross-entropy (nats) of any targets and an answer that is the same for all others: log(2N - 1)."""
    # The entropy of guessing evenly among all other views.
    return math.log(max(2 * n_things - 1, 1))


def soft_contrast(views_VND: Tensor, targets_MM: Tensor, temperature: float) -> Tensor:
    """Compute the cross-entropy of targets and what cosines say, in nats.

    Parameters
    ----------
    views_VND : Tensor of shape (2, N, D)
        Projected features of the two views, of any length.
    targets_MM : Tensor of shape (2N, 2N)
        See :func:`targets`.
    temperature : float
        What cosines are divided by.

    Returns
    -------
    Tensor, scalar, float32
        The mean over views. 0, with a gradient of 0, where there are no things.

    Notes
    -----
    With plain targets this is NT-Xent (Chen et al., 2020, arXiv:2002.05709). Its least value is the entropy of the
    targets, which is near a :func:`guess` where they say little.
    """
    with torch.autocast(views_VND.device.type, enabled=False):
        unit = F.normalize(views_VND.float().flatten(0, 1), dim=1)
        itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        # Finite, so that a target of 0 times it is 0.
        logits = (unit @ unit.T / temperature).masked_fill(itself, -1e9)
        entropies = -(targets_MM * logits.log_softmax(dim=1)).sum(dim=1)
        # A batch without beats is no reason to divide by zero: its sum is 0, and so are its gradients.
        return entropies.sum() / max(len(unit), 1)
