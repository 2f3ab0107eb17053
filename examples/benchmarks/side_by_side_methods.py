"""The ways of pre-training that side_by_side.py compares: one function each, all with the same input, size and budget.

Encoders are 192 wide with 6 blocks of 4 heads, in bfloat16. A token is 100 ms of all leads, or 200 ms of one lead where
the method wants a token for each lead: with 100 ms there would be 1,200 tokens, and a run of it would take a day here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pretraining.config import DataConfig, EmaConfig, MaskConfig, ObjectiveConfig, PredictorConfig, PretrainConfig
from pretraining.recipes import load_recipe
from skecg.spec import LeadwiseConfig

__all__ = ["BATCH", "METHODS", "STUDIES", "UNTRAINED", "method_config"]

BATCH = 64
#: Shares of the corpora in a batch. LUDB is kept out: its waves are what features are tested on.
SHARES = {
    "ptbxl": 0.55,
    "cinc2020-2021": 0.2,
    "code15-samitrop": 0.15,
    "ptbxl-raw": 0.05,
    "cinc2011": 0.05,
}


def method_config(name: str, seed: int, views: int) -> PretrainConfig:
    """Give the run of a method: `views` records seen, in batches of 64, with a tenth of the steps to warm up."""
    config = dataclasses.replace((METHODS | STUDIES)[name](), name=name)
    steps = max(1, views // BATCH)
    return dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, steps=steps, batch_size=BATCH, accumulation=1, precision="bf16", seed=seed),
        optim=dataclasses.replace(config.optim, lr=1e-3, warmup_steps=steps // 10, gradient_clip=1.0),
        data=DataConfig(weights=SHARES, roll=True, gain=(0.8, 1.25)),
        watch=dataclasses.replace(config.watch, checkpoint_every=50, gauge_every=max(1, steps // 4), keep_last=1),
        pooling="mean+std",
        export_blocks=0,
    )


def _temporal(objective: Any) -> PretrainConfig:
    """Weimann and Conrad's masks, predictor and loss."""
    return dataclasses.replace(load_recipe("skecg_temporal"), objective=objective)


def _leadwise() -> PretrainConfig:
    """Kim's attention, masks, loss and schedules of the average."""
    base = load_recipe("skecg_temporal")
    return dataclasses.replace(
        base,
        encoder=LeadwiseConfig(n_leads=12, patch_samples=50, n_patches=50, dim=192, depth=6, num_heads=4),
        predictor=PredictorConfig(96, 4, 4),
        masks=MaskConfig("random", 0.6, 0.7),
        objective=ObjectiveConfig(loss="smooth_l1", target_norm="layer"),
        ema=EmaConfig(0.996, 1.0),
    )


#: By name, in the order of the table.
METHODS: dict[str, Callable[[], PretrainConfig]] = {
    "jepa-temporal": lambda: _temporal(ObjectiveConfig()),
    "jepa-temporal-described": lambda: _temporal(ObjectiveConfig(describe_weight=1.0)),
    "jepa-multiscale-described": lambda: load_recipe("skecg_multiscale"),
    "jepa-leadwise": _leadwise,
    "mae-time": lambda: load_recipe("mae_time"),
    "mae-leads": lambda: load_recipe("mae_leads"),
    "mae-both": lambda: load_recipe("mae_both"),
    "beat-ssl": lambda: load_recipe("beat_ssl_soft_1_hard_50"),
}


def _mae_hiding(share: float) -> PretrainConfig:
    base = load_recipe("mae_time")
    return dataclasses.replace(base, objective=dataclasses.replace(base.objective, ratio=share))


#: Asked for by name only: how much an autoencoder should hide, and Beat-SSL's targets.
STUDIES: dict[str, Callable[[], PretrainConfig]] = {
    "mae-time-hiding-50": lambda: _mae_hiding(0.5),
    "mae-time-hiding-60": lambda: _mae_hiding(0.6),
    "mae-time-hiding-80": lambda: _mae_hiding(0.8),
    "beat-ssl-hard": lambda: load_recipe("beat_ssl_hard_none_1"),
    "beat-ssl-blunt": lambda: load_recipe("beat_ssl_soft_1_hard_1"),
    "beat-ssl-blunt-beats": lambda: load_recipe("beat_ssl_soft_1_soft_1_1"),
}

#: Encoders that are left as they were drawn, and the method whose shape they have.
UNTRAINED = {
    "untrained-temporal": "jepa-temporal",
    "untrained-leadwise": "jepa-leadwise",
    "untrained-multiscale": "mae-time",
}
