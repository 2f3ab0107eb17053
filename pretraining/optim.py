"""AdamW, which parameters decay, and the schedules: hyperparameters as functions of the step, counted from 0."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.optim import AdamW

from pretraining.config import PretrainConfig

__all__ = ["build_optimizer", "learning_rate", "momentum", "set_schedule_", "skip_unless_finite_", "weight_decay"]


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Compute the learning rate: linear warm-up, then a cosine.

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
    """Compute the weight decay: a cosine between its two ends."""
    return _cosine(config.optim.weight_decay, config.optim.final_weight_decay, step / max(1, config.run.steps - 1))


def momentum(config: PretrainConfig, step: int) -> float:
    """Compute the target encoder's momentum: linear from the start towards the end, which is reached after the run."""
    return config.ema.start + (config.ema.end - config.ema.start) * step / config.run.steps


def _cosine(first: float, last: float, progress: float) -> float:
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(model: nn.Module, config: PretrainConfig) -> AdamW:
    """Build AdamW over what is trained: the weights of linear layers decay; norms, biases and lone tokens do not.

    The published systems differ in one point that is kept: Kim's mask token decays, Weimann and Conrad's does not.
    """
    decays: list[nn.Parameter] = []
    rests: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decays if _decays(name, parameter.ndim, config) else rests).append(parameter)
    optim = config.optim
    groups = [{"params": decays, "decays": True}, {"params": rests, "decays": False, "weight_decay": 0.0}]
    # One kernel for all weights instead of several for each; on CPUs it would round otherwise than before.
    fused = any(parameter.is_cuda for parameter in decays) or None
    return AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay, fused=fused)


def skip_unless_finite_(optimizer: AdamW, values: Tensor) -> None:
    """Let the optimizer's next step do nothing if a value is infinite or NaN, without waiting for the device.

    Only where the optimizer is fused, which reads such a flag.
    """
    if optimizer.param_groups[0].get("fused"):
        optimizer.found_inf = (~values.isfinite().all()).float()  # type: ignore[attr-defined]


def _decays(name: str, n_dimensions: int, config: PretrainConfig) -> bool:
    if name.endswith("registers"):
        return False
    if name.endswith("mask_token"):
        return config.encoder.architecture == "leadwise"
    return n_dimensions > 1


def set_schedule_(optimizer: AdamW, config: PretrainConfig, step: int) -> None:
    """Set the learning rate and the weight decay of a step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
        group["weight_decay"] = weight_decay(config, step) if group["decays"] else 0.0
