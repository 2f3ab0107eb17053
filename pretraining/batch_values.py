"""Int16 rows to what the encoder takes, on the device, for a batch at once.

Normalization is that of :func:`skecg.prepare`, applied to the valid part of a row as to a record of its own.

Shapes: B rows of a batch, L leads of the encoder, S samples of a row, T samples of a window.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.errors import LeadError
from skecg.leads import CANONICAL_LEADS
from skecg.signals import FLAT

if TYPE_CHECKING:
    from pretraining.config import PretrainConfig
    from pretraining.sampling import Batch

__all__ = ["lead_columns", "to_values"]

# So many rows stay in a CPU's cache from step to step, which is about twice as fast as whole batches.
_ROWS_ON_CPU = 32


def to_values(batch: Batch, config: PretrainConfig, device: torch.device | str) -> Tensor:
    """Turn a batch into what the encoder takes.

    The leads of ``config.input`` are taken, absent ones and those not kept becoming 0; the row is normalized as
    :func:`skecg.prepare` normalizes a record of these leads; then cropped, rolled, multiplied by its gain (which would
    be divided out again by normalization), and clipped.

    Parameters
    ----------
    batch : Batch
    config : PretrainConfig
    device : torch.device or str
        Where everything is computed; int16 is what travels.

    Returns
    -------
    Tensor of shape (B, L, T), float32
    """
    if torch.device(device).type != "cpu":
        return _values(batch, config, device)
    values = torch.empty(len(batch), config.input.n_leads, config.input.window_samples)
    for start in range(0, len(batch), _ROWS_ON_CPU):
        values[start : start + _ROWS_ON_CPU] = _values(batch[start : start + _ROWS_ON_CPU], config, device)
    return values


def _values(batch: Batch, config: PretrainConfig, device: torch.device | str) -> Tensor:
    """Do all steps for some rows."""
    spec = config.input
    columns = list(lead_columns(spec.leads))
    shown = (batch.lead_mask & batch.kept_leads)[:, columns]
    steps_BLS = torch.from_numpy(batch.signals).to(device, non_blocking=True)
    if columns != list(range(steps_BLS.shape[1])):
        steps_BLS = steps_BLS[:, columns]
    scale_B = torch.from_numpy(batch.scale_uv * np.float32(1e-3)).to(device)
    by_row = spec.normalization in ("zscore", "record")
    if not by_row:
        steps_BLS = _window(steps_BLS, batch, spec.window_samples)
    values = steps_BLS * scale_B[:, None, None]
    if by_row:
        _standardize_(values, spec.normalization == "record", torch.from_numpy(shown).to(device), batch.valid_samples)
        values = _window(values, batch, spec.window_samples)
    elif spec.normalization == "statistics":
        mean, std = (values.new_tensor(value)[:, None] for value in (spec.mean, spec.std))
        values.sub_(mean).div_(std)
    return _finish_(values, shown, batch.gain, spec.clip)


def _finish_(values_BLT: Tensor, shown: NDArray[np.bool_], gain: NDArray[np.float32], clip: float | None) -> Tensor:
    """Multiply by the gain, put 0 where no lead is shown, and clip, all in place."""
    factor = gain[:, None] * shown
    if not np.all(factor == 1):
        values_BLT.mul_(torch.from_numpy(factor).to(values_BLT.device)[:, :, None])
    return values_BLT if clip is None else values_BLT.clamp_(-clip, clip)


@lru_cache(maxsize=16)
def lead_columns(leads: tuple[str, ...]) -> tuple[int, ...]:
    """Say where an encoder's leads lie among the twelve of shards."""
    strange = [lead for lead in leads if lead not in CANONICAL_LEADS]
    if strange:
        raise LeadError(f"Got an encoder for lead(s) {', '.join(strange)}, expected some of the twelve.")
    return tuple(CANONICAL_LEADS.index(lead) for lead in leads)


def _standardize_(values_BLS: Tensor, pooled: bool, shown_BL: Tensor, valid_samples: NDArray[np.int64]) -> None:
    """Take away each lead's mean and divide by its own, or by the shown leads' pooled, standard deviation."""
    mean_BL = _mean(values_BLS, valid_samples)
    values_BLS.sub_(mean_BL[:, :, None])
    variance_BL = _mean(values_BLS.square(), valid_samples)
    flat_BL = variance_BL.sqrt() <= FLAT * (mean_BL.abs() + 1.0)
    if pooled:
        total = (variance_BL * (shown_BL & ~flat_BL)).sum(dim=1, keepdim=True)
        variance_BL = (total / shown_BL.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(variance_BL)
    flat_BL = flat_BL | (variance_BL == 0)
    scale_BL = variance_BL.masked_fill(flat_BL, 1.0).rsqrt().masked_fill(flat_BL, 0.0)
    values_BLS.mul_(scale_BL[:, :, None])


def _mean(values_BLS: Tensor, valid_samples: NDArray[np.int64]) -> Tensor:
    """Average over the valid part of each row.

    Rows with padding are taken apart, so that no row's rounding depends on its neighbours. These are sums, never matrix
    products: those lose digits under autocast and TF32.
    """
    mean_BL = values_BLS.mean(dim=-1)
    n_samples = values_BLS.shape[-1]
    padded = np.flatnonzero(valid_samples < n_samples)
    if padded.size:
        rows_P = torch.from_numpy(padded).to(values_BLS.device)
        valid_P = torch.from_numpy(valid_samples[padded]).to(values_BLS.device)
        inside_PS = torch.arange(n_samples, device=values_BLS.device) < valid_P[:, None]
        mean_BL[rows_P] = (values_BLS[rows_P] * inside_PS[:, None]).sum(dim=-1) / valid_P[:, None]
    return mean_BL


def _window(values_BLS: Tensor, batch: Batch, window: int) -> Tensor:
    """Cut each row's window, rolled where it was drawn so."""
    n_samples = values_BLS.shape[-1]
    if window > n_samples:
        held = values_BLS[:, :, -1:].expand(-1, -1, window - n_samples)
        return torch.cat([values_BLS, held], dim=-1)
    if batch.roll.any():
        # Only rows of exactly one window are rolled: twice that window holds all its rotations.
        doubled = torch.cat([values_BLS[:, :, :window], values_BLS], dim=-1)
        starts = np.where(batch.roll > 0, window - batch.roll, window + batch.crop_start)
        return _cut(doubled, starts, window)
    if window == n_samples:
        return values_BLS
    return _cut(values_BLS, batch.crop_start, window)


def _cut(values_BLS: Tensor, starts: NDArray[np.int64], window: int) -> Tensor:
    """Take `window` samples of each row from its start."""
    views_BLNT = values_BLS.unfold(-1, window, 1)
    rows = torch.arange(len(starts), device=values_BLS.device)
    return views_BLNT[rows, :, torch.from_numpy(starts).to(values_BLS.device)]
