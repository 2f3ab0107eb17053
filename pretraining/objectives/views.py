"""Views of a recording: as if the heart lay otherwise in the chest, and a half of it not seen.

Twelve leads become a vectorcardiogram, which is turned about its three axes and stretched along them, and twelve leads
again; then one stretch of time is silenced. What is drawn are numbers, made on the host for each place of a batch; they
are applied to the batch at once, wherever it is. Since every step before the mask is linear, a view is one matrix of
leads by leads.

Three axes hold less than eight leads: of these a view keeps what a dipole explains
(:mod:`pretraining.data.vectorcardiogram`).

Source: 3KG (Gopal et al., 2021, arXiv:2106.04452), whose views Beat-SSL takes.

Shapes: B windows, V views of each, L leads, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretraining.data.batches import uniforms
from pretraining.data.vectorcardiogram import from_vcg, to_vcg
from pretraining.objectives.base import Drawn

__all__ = ["ViewMaker", "ViewRanges", "Views", "draw_views", "is_seen", "rotation"]

_STREAM = 0x71E35
_AXES = 3

_N_VIEWS = 2


class ViewRanges(NamedTuple):
    """Between what the numbers of views are drawn, uniformly.

    Attributes
    ----------
    degrees : float
        Largest rotation about each axis, to either side.
    scale : tuple of float
        Smallest and largest factor along each axis.
    masked_share : float
        Share of the window that is silenced, in one stretch.
    """

    degrees: float = 45.0
    scale: tuple[float, float] = (1.0, 1.5)
    masked_share: float = 0.5


@dataclass(frozen=True)
class Views(Drawn):
    """What was drawn for views.

    Parameters
    ----------
    radians : Tensor of shape (B, V, 3)
        Rotations about X, then Y, then Z.
    scale : Tensor of shape (B, V, 3)
        Factors along the turned axes.
    mask_start : Tensor of shape (B, V), int64
        First sample that is silenced.
    masked_samples : int
    """

    radians: Tensor
    scale: Tensor
    mask_start: Tensor
    masked_samples: int


def draw_views(ranges: ViewRanges, n_samples: int, positions: range, *, seed: int, step: int) -> Views:
    """Draw two views of windows of so many samples, for some places of a step's batch.

    The same for a place whatever other places are drawn with it.
    """
    drawn = uniforms(seed, step, positions, _N_VIEWS * (2 * _AXES + 1), stream=_STREAM)
    drawn = drawn.reshape(len(positions), _N_VIEWS, 2 * _AXES + 1)
    masked = round(ranges.masked_share * n_samples)
    radians = np.deg2rad(ranges.degrees) * (2 * drawn[:, :, :_AXES] - 1)
    low, high = ranges.scale
    scale = low + (high - low) * drawn[:, :, _AXES:-1]
    # The silenced stretch lies in the window whole, so that every view loses as much.
    start = (drawn[:, :, -1] * (n_samples - masked + 1)).astype(np.int64)
    turn, stretch = (torch.from_numpy(part.astype(np.float32)) for part in (radians, scale))
    return Views(turn, stretch, torch.from_numpy(start), masked)


def is_seen(views: Views, samples_BK: Tensor) -> Tensor:
    """Return whether all views show samples (B, K) of windows."""
    since_BVK = samples_BK[:, None] - views.mask_start[:, :, None]
    return ((since_BVK < 0) | (since_BVK >= views.masked_samples)).all(dim=1)


def rotation(radians: Tensor) -> Tensor:
    """Compute the matrices (..., 3, 3) that turn about X, then Y, then Z by angles (..., 3)."""
    turned = torch.eye(_AXES, device=radians.device, dtype=radians.dtype).expand(*radians.shape[:-1], _AXES, _AXES)
    for axis in range(_AXES):
        turned = _about(axis, radians[..., axis]) @ turned
    return turned


def _about(axis: int, radians: Tensor) -> Tensor:
    """Compute the matrices (..., 3, 3) that turn about one axis."""
    first, second = (axis + 1) % _AXES, (axis + 2) % _AXES
    matrix = torch.zeros(*radians.shape, _AXES, _AXES, device=radians.device, dtype=radians.dtype)
    matrix[..., axis, axis] = 1.0
    matrix[..., first, first] = matrix[..., second, second] = radians.cos()
    matrix[..., second, first] = radians.sin()
    matrix[..., first, second] = -radians.sin()
    return matrix


class ViewMaker(torch.nn.Module):
    """Applies what was drawn to windows.

    Parameters
    ----------
    leads : sequence of str
        Of the windows, in their order; I, II and V1 to V6 have to be among them.
    matrix : {"dower", "kors"}
    clip : float, optional
        Values beyond it are held there, as they are when windows are prepared.
    """

    there: Tensor
    back: Tensor

    def __init__(self, leads: tuple[str, ...], matrix: str = "dower", clip: float | None = None) -> None:
        super().__init__()
        self.clip = clip
        for name, made in (("there", to_vcg(leads, matrix)), ("back", from_vcg(leads, matrix))):
            self.register_buffer(name, torch.from_numpy(made.astype(np.float32)), persistent=False)

    def forward(self, values_BLT: Tensor, views: Views) -> Tensor:
        """Make views of windows.

        Parameters
        ----------
        values_BLT : Tensor of shape (B, L, T)
            All leads in one scale.
        views : Views

        Returns
        -------
        Tensor of shape (V, B, L, T), float32
        """
        # Lower precision would break Einthoven's law, which the views keep.
        with torch.autocast(values_BLT.device.type, enabled=False):
            values = values_BLT.float()
            turned_VBLT = torch.stack([torch.bmm(matrix, values) for matrix in self.matrices(views)])
            if self.clip is not None:
                # Stretched by up to 1.5: without it, views go beyond what a clipped recording ever holds.
                turned_VBLT = turned_VBLT.clamp(-self.clip, self.clip)
            return turned_VBLT.masked_fill(self._hidden(values.shape[-1], views)[:, :, None], 0.0)

    def matrices(self, views: Views) -> Tensor:
        """Return the matrix (V, B, L, L) of each view."""
        turned = rotation(views.radians) * views.scale[..., :, None]
        return (self.back @ turned @ self.there).transpose(0, 1)

    @staticmethod
    def _hidden(n_samples: int, views: Views) -> Tensor:
        """Mark what is silenced, (V, B, T)."""
        samples_T = torch.arange(n_samples, device=views.mask_start.device)
        since_VBT = samples_T - views.mask_start.T[:, :, None]
        return (since_VBT >= 0) & (since_VBT < views.masked_samples)
