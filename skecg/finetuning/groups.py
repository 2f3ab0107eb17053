"""Which parameters learn how fast: learning rates that fall from the head down to the patches.

Early layers hold what serves every task and need to move least (Howard and Ruder, 2018; Bao, Dong and Wei, 2022).
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from skecg.finetuning.network import Network

__all__ = ["layered_groups", "levels_of"]

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
