"""The rows of all processes, for objectives that compare the recordings of a batch with each other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_rows"]


def gather_rows(rows: Tensor) -> Tensor:
    """Give the rows of all processes, rank after rank; all have to call this, with equally many.

    Parameters
    ----------
    rows : Tensor of shape (B, ...)
        This process's.

    Returns
    -------
    Tensor of shape (world size times B, ...)
        What was given where there is one process only.

    Notes
    -----
    A loss that every process computes alike from these rows has, after gradients were averaged over processes, the
    gradient that one process with all rows would have.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    """Backward, each process takes the gradient of its own rows, for the others take that of theirs."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.own = slice(dist.get_rank() * len(rows), (dist.get_rank() + 1) * len(rows))
        # Not all back ends send truth values.
        sent = (rows.to(torch.uint8) if rows.dtype == torch.bool else rows).contiguous()
        parts = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, sent)
        return torch.cat(parts).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # The average over processes divides by their number what only one of them has added.
        return gradients[0][ctx.own] * dist.get_world_size()
