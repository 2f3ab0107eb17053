"""Weimann and Conrad's largest encoder, ViT-B: 85.2 million parameters, 768 wide, 12 blocks.

A batch is 1024 records in two parts, as in their configuration (their text says 2048). What it shares with the other
sizes, and the departures, stand in :mod:`pretraining.recipes.weimann_vit`.
"""

from __future__ import annotations

from pretraining.config import PretrainConfig
from pretraining.recipes.weimann_vit import weimann_vit


def config() -> PretrainConfig:
    """Give the run as published."""
    return weimann_vit("weimann_vit_b", dim=768, depth=12, num_heads=12, batch_size=1024, accumulation=2)
