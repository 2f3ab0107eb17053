"""Tokens to window vectors, window vectors to record vectors.

Shapes: B windows, R registers, N tokens, D width of a token, F features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ParameterError
from skecg.validation import is_integer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["POOLINGS", "as_layers", "check_pooling", "n_pooled_features", "pool_tokens", "pool_windows"]

#: What a window's tokens may be pooled to.
POOLINGS = ("mean", "max", "mean+std", "mean+std+max", "cls")


def check_pooling(pooling: object, num_registers: int) -> str:
    """Return `pooling` if an encoder with so many registers offers it."""
    if pooling not in POOLINGS:
        raise ParameterError(f"Got pooling={pooling!r}, expected one of {', '.join(map(repr, POOLINGS))}.")
    if pooling == "cls" and num_registers == 0:
        raise ParameterError(
            "Got pooling='cls', but this encoder has no register token. Use 'mean', 'max', 'mean+std' or "
            "'mean+std+max'."
        )
    return str(pooling)


def as_layers(layer: object) -> tuple[int, ...]:
    """Read a choice of layers.

    Parameters
    ----------
    layer : int, sequence of int or str
        One block, several (their features are concatenated in this order), or ``"last4"`` for the last four.

    Examples
    --------
    >>> as_layers(-1), as_layers([2, 5]), as_layers("last3")
    ((-1,), (2, 5), (-3, -2, -1))
    """
    if isinstance(layer, str) and (match := re.fullmatch(r"last-?([1-9]\d*)", layer)):
        return tuple(range(-int(match[1]), 0))
    layers: Any = (layer,) if isinstance(layer, int | np.integer) else layer
    several = isinstance(layers, Sequence) and not isinstance(layers, str) and len(layers) > 0
    if not several or not all(map(is_integer, layers)):
        raise ParameterError(f"Got layer={layer!r}, expected an integer, a list of integers, or 'last4' and the like.")
    return tuple(int(n) for n in layers)


def n_pooled_features(pooling: str, dim: int, n_layers: int, num_registers: int) -> int:
    """Count the features of a record."""
    return n_layers * dim * {"mean+std": 2, "mean+std+max": 3, "cls": num_registers}.get(pooling, 1)


def pool_tokens(states_BND: Sequence[Tensor], num_registers: int, pooling: str) -> Tensor:
    """Pool each window's tokens to one vector.

    Parameters
    ----------
    states_BND : sequence of Tensor of shape (B, R + N, D)
        Tokens of one or several layers, registers first.
    num_registers : int
        R.
    pooling : {"mean", "max", "mean+std", "mean+std+max", "cls"}
        Mean, maximum, mean and standard deviation (uncorrected), or all three over the patches' tokens; or the
        registers.

    Returns
    -------
    Tensor of shape (B, F)
        Layer after layer.
    """
    pooled = []
    for tokens in states_BND:
        patches = tokens[:, num_registers:]
        if pooling == "cls":
            pooled.append(tokens[:, :num_registers].flatten(1))
        elif pooling == "max":
            pooled.append(patches.amax(dim=1))
        else:
            pooled.append(patches.mean(dim=1))
        if pooling in ("mean+std", "mean+std+max"):
            pooled.append(_deviation(patches, pooled[-1]))
        if pooling == "mean+std+max":
            pooled.append(patches.amax(dim=1))
    return pooled[0] if len(pooled) == 1 else _concatenate(pooled)


def _deviation(patches_BND: Tensor, mean_BD: Tensor) -> Tensor:
    """Return the standard deviation over tokens, a twentieth of the time that torch's takes along a middle axis."""
    variance = (patches_BND - mean_BD[:, None]).square().mean(dim=1)
    # Where nothing varies the root has no slope; what is filled in takes no gradient.
    return variance.masked_fill(variance == 0, 0.0).sqrt()


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat(list(parts), dim=1)


def pool_windows(vectors: NDArray[np.float32], owner: NDArray[np.int64], n_records: int) -> NDArray[np.float32]:
    """Average each record's window vectors.

    Parameters
    ----------
    vectors : ndarray of shape (n_windows, n_features)
    owner : ndarray of shape (n_windows,)
        Number of the record that each window belongs to, ascending.
    n_records : int

    Returns
    -------
    ndarray of shape (n_records, n_features), float32
        NaN for a record without a window.
    """
    counts = np.bincount(owner, minlength=n_records)
    if np.array_equal(counts, np.ones(n_records)):
        return vectors
    pooled = np.full((n_records, vectors.shape[1]), np.nan, dtype=np.float32)
    present = np.flatnonzero(counts)
    starts = np.concatenate([[0], np.cumsum(counts[present])[:-1]])
    if len(present):
        sums = np.add.reduceat(vectors, starts, axis=0, dtype=np.float64)
        pooled[present] = sums / counts[present, None]
    return pooled
