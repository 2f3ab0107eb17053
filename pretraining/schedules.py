"""Hyperparameters as functions of the optimizer step, counted from 0."""

from __future__ import annotations

import math

from pretraining.config import PretrainConfig

__all__ = ["learning_rate", "momentum", "weight_decay"]


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Give the learning rate: linear warm-up, then a cosine.

    With ``cosine_from="warmup"`` the cosine runs from the end of warm-up to the last step but one (Weimann); with
    ``"zero"`` it is read at the absolute step, so that the rate drops a little where warm-up ends (Kim, through timm's
    scheduler).
    """
    optim, steps = config.optim, config.run.steps
    if step < optim.warmup_steps:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * step / optim.warmup_steps
    if optim.cosine_from == "zero":
        return _cosine(optim.lr, optim.final_lr, step / steps)
    return _cosine(optim.lr, optim.final_lr, (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps - 1))


def weight_decay(config: PretrainConfig, step: int) -> float:
    """Give the weight decay: a cosine between its two ends."""
    return _cosine(config.optim.weight_decay, config.optim.final_weight_decay, step / max(1, config.run.steps - 1))


def momentum(config: PretrainConfig, step: int) -> float:
    """Give the target encoder's momentum: linear from the start towards the end, which is reached after the run."""
    return config.ema.start + (config.ema.end - config.ema.start) * step / config.run.steps


def _cosine(first: float, last: float, progress: float) -> float:
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(1.0, progress)))
