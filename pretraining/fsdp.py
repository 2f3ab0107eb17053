"""Weights spread over processes (FSDP2), and the way back to whole ones.

Checkpoints hold whole tensors, so that a run may go on with another number of processes, spread or not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skecg.encoders.blocks import Block
from skecg.errors import MissingDependencyError

__all__ = ["load_optimizer_", "shard_", "whole"]


def shard_(model: nn.Module, device: torch.device, world_size: int) -> nn.Module:
    """Spread a model's weights over the processes, each transformer block by itself."""
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise MissingDependencyError(
            f"Got run.parallel='fsdp2' with torch {torch.__version__}, expected 2.6 or newer. Use run.parallel=ddp."
        ) from error
    mesh = init_device_mesh(device.type, (world_size,))
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(tree: Any) -> Any:
    """Copy nested dicts and lists with tensors whole and on the CPU; all processes have to call this."""
    if isinstance(tree, dict):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [whole(value) for value in tree]
    if isinstance(tree, Tensor):
        gather = getattr(tree, "full_tensor", None)
        return (tree if gather is None else gather()).detach().cpu().clone()
    return tree


def load_optimizer_(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Put a whole state into an optimizer whose weights may be spread."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread = {
        number: {name: _as_spread(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": spread})


def _as_spread(value: Any, parameter: Tensor) -> Any:
    """Spread a tensor as the parameter that it belongs to is; counts stay as they are."""
    if not hasattr(parameter, "device_mesh") or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
