"""Masked autoencoder over time and leads (as ST-MEM): three quarters of the patches of single leads hidden.

As mae_time, with a token for each lead. Its slices are of 400 ms (ST-MEM's are of 300 ms): 300 tokens for 10 s, of
which 75 are seen. A training step is half as much arithmetic again as one of skecg_default, embedding four times as
much: attention sees all tokens of all leads.
"""

from __future__ import annotations

import dataclasses

from pretraining.config import PretrainConfig
from pretraining.objective_configs import MaeConfig
from pretraining.recipes import mae_time
from skecg.spec import MultiscaleConfig


def config() -> PretrainConfig:
    """Give the run: 4,800 steps of 64 recordings."""
    return dataclasses.replace(
        mae_time.config(),
        name="mae_both",
        encoder=MultiscaleConfig(
            n_leads=12, patch_samples=100, n_patches=25, dim=192, depth=6, num_heads=4, lead_groups=12
        ),
        objective=MaeConfig("both", 0.75, target_eps=0.01),
    )
