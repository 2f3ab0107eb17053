"""Masked autoencoder over leads (as MLAE): nine of twelve leads hidden, or three quarters of those there are.

As mae_both otherwise. Four of the twelve leads are sums of two others, so that what is asked is in part arithmetic.
"""

from __future__ import annotations

import dataclasses

from pretraining.config import PretrainConfig
from pretraining.objective_configs import MaeConfig
from pretraining.recipes import mae_both


def config() -> PretrainConfig:
    """Give the run: 4,800 steps of 64 recordings."""
    return dataclasses.replace(mae_both.config(), name="mae_leads", objective=MaeConfig("leads", 0.75, target_eps=0.01))
