"""Weimann and Conrad's ViT-S, their best on PTB-XL: 14.3 million parameters, 384 wide, 8 blocks.

What it shares with the other sizes, and the departures, stand in :mod:`pretraining.recipes.weimann_vit`.
"""

from __future__ import annotations

from pretraining.config import PretrainConfig
from pretraining.recipes.weimann_vit import weimann_vit


def config() -> PretrainConfig:
    """Give the run as published."""
    return weimann_vit("weimann_vit_s", dim=384, depth=8, num_heads=6, batch_size=2048)
