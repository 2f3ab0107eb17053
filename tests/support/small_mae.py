"""Masked autoencoders small enough to compute by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from small_runs import small_config

from pretraining.config import PretrainConfig
from pretraining.config.objectives import MaeConfig
from pretraining.objectives import build_model
from pretraining.objectives.mae import Mae, parts_of
from pretraining.objectives.masks import TokenMasks, draw_token_masks
from skecg.spec import MultiscaleConfig

KINDS = ["time", "leads", "both"]
LEADS, SLICES, PATCH = 3, 20, 10


def small(masks: str = "time", **changes: Any) -> PretrainConfig:
    """Six steps of eight records, as small_config."""
    groups = 1 if masks == "time" else LEADS
    parts: dict[str, Any] = {
        "encoder": MultiscaleConfig(
            LEADS, PATCH, SLICES, 16, 2, 2, lead_groups=groups, kernel_samples=(5, 15), stem_dim=3
        ),
        "objective": MaeConfig(masks),
        "masks": None,
        "export_encoder": "context",
    }
    return dataclasses.replace(small_config(), **(parts | changes))


def a_model(config: PretrainConfig, n: int = 4) -> tuple[Mae, torch.Tensor, TokenMasks]:
    model = build_model(config)
    assert isinstance(model, Mae)
    values = torch.randn(n, LEADS, SLICES * PATCH, generator=torch.Generator().manual_seed(1))
    return model, values, masks_for(config, np.ones((n, LEADS, SLICES), dtype=bool))


def masks_for(config: PretrainConfig, there: np.ndarray, start: int = 0) -> TokenMasks:
    objective, shape, _ = parts_of(config)
    places = range(start, start + len(there))
    return draw_token_masks(objective.masks, objective.ratio, there, shape.lead_groups, places, seed=0, step=0)
