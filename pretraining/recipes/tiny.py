"""Seconds on a CPU: skecg_default in small, for tests, examples and a first try of a new archive.

The encoder is 48 wide and 2 blocks deep, and predicts tokens only; what comes out has learned little.
"""

from __future__ import annotations

import dataclasses

from pretraining.config import EmaConfig, ObjectiveConfig, PredictorConfig, PretrainConfig, RunConfig, WatchConfig
from pretraining.recipes import skecg_default
from skecg.spec import TemporalConfig


def config() -> PretrainConfig:
    """Give a run of 60 steps of 16 records."""
    whole = skecg_default.config()
    return dataclasses.replace(
        whole,
        name="tiny",
        encoder=TemporalConfig(n_leads=12, patch_samples=25, n_patches=100, dim=48, depth=2, num_heads=4),
        predictor=PredictorConfig(24, 2, 4),
        objective=ObjectiveConfig(),
        optim=dataclasses.replace(whole.optim, lr=2e-3, warmup_steps=6, weight_decay=0.01, final_weight_decay=0.1),
        ema=EmaConfig(0.99, 0.999),
        run=RunConfig(60, 16),
        export_blocks=0,
        watch=WatchConfig(log_every=5, gauge_every=20, checkpoint_every=20),
    )
