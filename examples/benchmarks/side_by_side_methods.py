"""The ways of pre-training that side_by_side.py compares: one function each, all with the same input, size and budget.

Windows are 5 s at 100 Hz, encoders 128 wide with 4 blocks of 4 heads, in bfloat16. A token is 100 ms of all leads, or
200 to 250 ms of one lead where the method wants a token for each lead. So small, because each method is to see 300,000
records, and most of them on one CPU core within the hour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pretraining.config import DataConfig, EmaConfig, MaskConfig, ObjectiveConfig, PredictorConfig, PretrainConfig
from pretraining.recipes import load_recipe
from skecg.spec import EncoderConfig, LeadwiseConfig, MultiscaleConfig, TemporalConfig

__all__ = ["BATCH", "INPUT", "METHODS", "STUDIES", "UNTRAINED", "method_config"]

BATCH = 64
#: The input of the default weights, half as long.
INPUT = dataclasses.replace(load_recipe("skecg_default").input, window_samples=500)
SIZE = {"n_leads": 12, "dim": 128, "depth": 4, "num_heads": 4}


def method_config(name: str, seed: int, views: int) -> PretrainConfig:
    """Give the run of a method: `views` records seen, in batches of 64, with a tenth of the steps to warm up."""
    config = (METHODS | STUDIES)[name]()
    steps = max(1, views // BATCH)
    return dataclasses.replace(
        config,
        name=name,
        run=dataclasses.replace(config.run, steps=steps, batch_size=BATCH, accumulation=1, precision="bf16", seed=seed),
        optim=dataclasses.replace(config.optim, lr=1e-3, warmup_steps=steps // 10, gradient_clip=1.0),
        data=DataConfig(gain=(0.9, 1.11)),
        watch=dataclasses.replace(config.watch, checkpoint_every=100, gauge_every=max(1, steps // 4), keep_last=1),
    )


def _sized(
    recipe: str, encoder: EncoderConfig, predictor: PredictorConfig | None = None, **changes: Any
) -> PretrainConfig:
    """A recipe with an encoder of this size, the input of all, and other changes."""
    base = load_recipe(recipe)
    spec = dataclasses.replace(INPUT, any_leads=base.input.any_leads)
    return dataclasses.replace(
        base, input=spec, encoder=encoder, predictor=predictor, export_blocks=0, pooling="mean+std", **changes
    )


#: Weimann and Conrad's encoder, one with the stem of the default weights, and one with a token for each lead.
TEMPORAL = TemporalConfig(patch_samples=10, n_patches=50, **SIZE)
MULTISCALE = dataclasses.replace(load_recipe("skecg_default").encoder, n_patches=50, **SIZE)
BY_LEAD = MultiscaleConfig(patch_samples=25, n_patches=20, lead_groups=12, **SIZE)


def _jepa(encoder: EncoderConfig, **objective: Any) -> PretrainConfig:
    """Weimann and Conrad's masks, predictor and loss."""
    return _sized("skecg_temporal", encoder, PredictorConfig(64, 4, 4), objective=ObjectiveConfig(**objective))


def _kim() -> PretrainConfig:
    """Kim's encoder, masks, loss and schedules of the average."""
    return dataclasses.replace(
        _jepa(LeadwiseConfig(patch_samples=20, n_patches=25, **SIZE), loss="smooth_l1", target_norm="layer"),
        masks=MaskConfig("random", 0.6, 0.7),
        ema=EmaConfig(0.996, 1.0),
    )


def _mae(recipe: str, encoder: EncoderConfig) -> PretrainConfig:
    return _sized(recipe, encoder, PredictorConfig(64, 2, 4))


#: By name, in the order of the table.
METHODS: dict[str, Callable[[], PretrainConfig]] = {
    "jepa-temporal": lambda: _jepa(TEMPORAL),
    "jepa-temporal-described": lambda: _jepa(TEMPORAL, describe_weight=1.0),
    "jepa-multiscale-described": lambda: _jepa(MULTISCALE, describe_weight=1.0),
    "jepa-leadwise": _kim,
    "mae-time": lambda: _mae("mae_time", MULTISCALE),
    "mae-leads": lambda: _mae("mae_leads", BY_LEAD),
    "mae-both": lambda: _mae("mae_both", BY_LEAD),
    "beat-ssl": lambda: _sized("beat_ssl_soft_1_hard_50", TEMPORAL),
}


def _mae_hiding(share: float) -> PretrainConfig:
    base = METHODS["mae-time"]()
    return dataclasses.replace(base, objective=dataclasses.replace(base.objective, ratio=share))


#: Asked for by name only: how much an autoencoder should hide, and Beat-SSL's targets.
STUDIES: dict[str, Callable[[], PretrainConfig]] = {
    "mae-time-hiding-50": lambda: _mae_hiding(0.5),
    "mae-time-hiding-60": lambda: _mae_hiding(0.6),
    "mae-time-hiding-80": lambda: _mae_hiding(0.8),
    "beat-ssl-hard": lambda: _sized("beat_ssl_hard_none_1", TEMPORAL),
    "beat-ssl-blunt": lambda: _sized("beat_ssl_soft_1_hard_1", TEMPORAL),
    "beat-ssl-blunt-beats": lambda: _sized("beat_ssl_soft_1_soft_1_1", TEMPORAL),
}

#: Encoders that are left as they were drawn, and the method whose shape they have.
UNTRAINED = {
    "untrained-temporal": "jepa-temporal",
    "untrained-leadwise": "jepa-leadwise",
    "untrained-multiscale": "mae-time",
}
