"""Kim's encoder of single leads, single slices hidden: 85.1 million trained parameters, best for fine-tuning.

Between 60 and 70 % of the slices are hidden, the same in all leads of the batch. What it shares with the other run, and
the departures, stand in :mod:`pretraining.recipes.kim_leadwise`.
"""

from __future__ import annotations

from pretraining.config import MaskConfig, PretrainConfig
from pretraining.recipes.kim_leadwise import kim_leadwise


def config() -> PretrainConfig:
    """Give the run as published."""
    return kim_leadwise("kim_leadwise_b_random", MaskConfig("random", 0.6, 0.7), lr=2.5e-5, batch_size=128)
