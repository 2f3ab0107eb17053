"""Batches of crops for the attention head: drawn for training, padded where crops differ in length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Tokens", "collate_crops", "draw_batch"]

#: Tokens of records: for each an array (n_crops, n_tokens, D).
Tokens = Sequence[NDArray[np.floating]] | NDArray[np.floating]


def draw_batch(
    X: Tokens, y: NDArray[np.int64], batch_size: int, rng: np.random.Generator, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Draw records without replacement within the batch, and one crop of each."""
    rows = rng.permutation(len(X))[:batch_size]
    crops = [X[row][int(rng.integers(len(X[row])))] for row in rows]
    return *collate_crops(crops, device), torch.from_numpy(y[rows]).to(device)


def collate_crops(crops: Sequence[NDArray[np.floating]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Stack crops (n_tokens, D); shorter ones are padded, and the second tensor says where."""
    lengths = np.array([len(crop) for crop in crops])
    if (lengths == lengths[0]).all():
        return torch.from_numpy(np.stack(crops).astype(np.float32)).to(device), None
    padded = np.zeros((len(crops), int(lengths.max()), crops[0].shape[1]), dtype=np.float32)
    for row, crop in enumerate(crops):
        padded[row, : len(crop)] = crop
    absent = np.arange(padded.shape[1]) >= lengths[:, None]
    return torch.from_numpy(padded).to(device), torch.from_numpy(absent).to(device)
