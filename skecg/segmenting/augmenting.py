"""The same windows, seen otherwise: their waves stay where they are, but nothing else is to be relied on.

Shapes: B windows, L leads, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["View", "draw_view"]

# Spread of the logarithm of the gain; wandering in units of the input (0.2 mV each, where it is in such) and in Hz.
_GAIN_SPREAD = 0.2
_WANDER, _WANDER_HZ = 0.3, (0.1, 0.5)


@dataclass(frozen=True)
class View:
    """How some windows are seen.

    Parameters
    ----------
    shift : int
        Samples by which the first slice of time begins later, less than a slice.
    seed : int
        Decides the rest.
    """

    shift: int
    seed: int

    def show(self, values_BLT: Tensor, patch_samples: int, sampling_rate: float) -> Tensor:
        """Give windows one slice of time shorter, larger or smaller, and wandering; absent leads stay zeros."""
        rng = np.random.default_rng(self.seed)
        values_BLT = values_BLT[:, :, self.span(values_BLT.shape[2], patch_samples)]
        n_windows, n_leads, n_samples = values_BLT.shape
        gain = np.exp(rng.normal(0.0, _GAIN_SPREAD, (n_windows, 1, 1)))
        hertz, phase = rng.uniform(*_WANDER_HZ, (n_windows, 1, 1)), rng.uniform(0, 2 * np.pi, (n_windows, n_leads, 1))
        size = rng.exponential(_WANDER, (n_windows, n_leads, 1))
        wander = size * np.sin(2 * np.pi * hertz * np.arange(n_samples) / sampling_rate + phase)
        present = (values_BLT != 0).any(dim=2, keepdim=True)
        return (values_BLT * _like(gain, values_BLT) + _like(wander, values_BLT) * present).contiguous()

    def span(self, n_samples: int, patch_samples: int) -> slice:
        """Say which samples of a window are seen: whole slices of time, all where there is only one."""
        if n_samples <= patch_samples:
            return slice(0, n_samples)
        return slice(self.shift, self.shift + n_samples - patch_samples)


def _like(array: NDArray[np.float64], values: Tensor) -> Tensor:
    return torch.from_numpy(array.astype(np.float32)).to(values.device)


def draw_view(rng: np.random.Generator, patch_samples: int) -> View:
    """Draw how some windows are seen."""
    return View(int(rng.integers(patch_samples)), int(rng.integers(2**63)))
