"""Weights that a rule draws, so that published networks can be compared without anybody's checkpoint.

Every tensor is drawn by a generator of its own, seeded by its place among the sorted names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
Rule = Callable[[str, NDArray[np.float64]], NDArray[Any]]

_SMALL_MAPS = tuple(f"{name}.weight" for name in ("igate", "fgate", "zgate", "ogate", "q_proj", "k_proj", "v_proj"))


def convolutional(name: str, drawn: NDArray[np.float64]) -> NDArray[Any]:
    """Scale what was drawn for a network of convolutions and batch normalization."""
    if name.endswith("num_batches_tracked"):
        return np.array(100)
    if name.endswith("running_var"):
        return 1 + 0.2 * np.abs(drawn)
    return 0.1 * drawn if name.endswith("running_mean") else _plain(name, drawn)


def ecg_fm(name: str, drawn: NDArray[np.float64]) -> NDArray[Any]:
    """Scale what was drawn for ECG-FM."""
    return 1 + 0.1 * np.abs(drawn) if name.endswith("weight.original0") else _plain(name, drawn)


def xecg(name: str, drawn: NDArray[np.float64]) -> NDArray[Any]:
    """Scale what was drawn for xECG, whose norms hold differences from 1."""
    if name.endswith("_recurrent_kernel_"):
        return 0.5 * drawn / np.sqrt(drawn.shape[1])
    if name.endswith("_bias_"):
        return 0.5 * drawn
    if name.endswith("learnable_skip"):
        return 1 + 0.1 * drawn
    if name.endswith("mlstm_cell.fgate.bias"):
        return 3 + drawn
    if drawn.ndim == 1:
        return 0.1 * drawn
    fan_in = drawn.shape[2] if drawn.ndim == 3 and name.endswith(_SMALL_MAPS) else np.prod(drawn.shape[1:])
    return drawn / np.sqrt(fan_in)


def _plain(name: str, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    if drawn.ndim >= 2:
        return drawn / np.sqrt(np.prod(drawn.shape[1:]))
    return 1 + 0.1 * drawn if name.endswith(".weight") else 0.1 * drawn


def draw(shapes: Shapes, rule: Rule) -> dict[str, Tensor]:
    """Draw a state dict; counters are integers, all else float32."""
    state = {}
    for number, name in enumerate(sorted(shapes)):
        values = rule(name, np.random.RandomState(1000 + number).standard_normal(shapes[name]))
        state[name] = torch.as_tensor(values, dtype=torch.int64 if values.dtype.kind == "i" else torch.float32)
    return state


def shapes_of(golden: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Read names and shapes off a golden file."""
    pairs = zip(golden["keys"], golden["shapes"], strict=True)
    return {str(name): tuple(json.loads(str(shape))) for name, shape in pairs}
