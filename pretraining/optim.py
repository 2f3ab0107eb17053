"""AdamW, which parameters decay, and the schedules: hyperparameters as functions of the step, counted from 0."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.optim import AdamW

from pretraining.config import PretrainConfig

__all__ = [
    "build_optimizer",
    "cooldown_steps",
    "encoder_level",
    "learning_rate",
    "momentum",
    "schedule_trouble",
    "set_schedule_",
    "skip_unless_finite_",
    "warmup_steps",
    "weight_decay",
]

# Of a run's steps; published runs warm up for a twentieth to a tenth.
_LONG_WARMUP = 1 / 3


def warmup_steps(config: PretrainConfig) -> int:
    """Return for how many steps the learning rate rises."""
    return _steps(config.optim.warmup_steps, config)


def cooldown_steps(config: PretrainConfig) -> int:
    """Return for how many steps, the last ones, a constant learning rate falls."""
    return _steps(config.optim.cooldown_steps, config)


def _steps(given: int | float, config: PretrainConfig) -> int:
    """Return a number of steps that may be given as a share of all."""
    return round(given * config.run.steps) if isinstance(given, float) else given


def schedule_trouble(config: PretrainConfig) -> str | None:
    """Return what is odd about the schedules of a run of its length, in a sentence or two; None for nothing."""
    steps, warmup, cooldown = config.run.steps, warmup_steps(config), cooldown_steps(config)
    if warmup + cooldown > steps:
        highest = max(learning_rate(config, step) for step in {0, min(warmup, steps - 1), max(0, steps - cooldown - 1)})
        return (
            f"Warm-up ({warmup:,} steps) and cooldown ({cooldown:,}) do not fit into run.steps={steps:,}: the learning "
            f"rate reaches {highest:.2g} of optim.lr={config.optim.lr:g}. Give them as shares, e.g. "
            "optim.warmup_steps=0.1."
        )
    if config.optim.warmup_steps > (_LONG_WARMUP if isinstance(config.optim.warmup_steps, float) else steps / 3):
        return (
            f"Warm-up takes {warmup:,} of {steps:,} steps, more than a third. Give it as a share, e.g. "
            "optim.warmup_steps=0.1, unless that is meant."
        )
    return None


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Compute the learning rate: linear warm-up, then a cosine, or a constant that cools down in a straight line.

    With ``cosine_from="warmup"`` the cosine runs from the end of warm-up to the last step but one (Weimann); with
    ``"zero"`` it is read at the absolute step, so that the rate drops a little where warm-up ends (Kim, through timm's
    scheduler). Constant rates with a cooldown: Hägele et al. (2024, arXiv:2405.18392).
    """
    optim, steps, warmup = config.optim, config.run.steps, warmup_steps(config)
    if step < warmup:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * step / warmup
    if optim.schedule == "constant":
        return optim.lr + (optim.final_lr - optim.lr) * _cooled(config, step)
    if optim.cosine_from == "zero":
        # timm's scheduler, as Kim's code uses it: at the end of warm-up the rate drops to 0.994 of its peak.
        return _cosine(optim.lr, optim.final_lr, step / steps)
    return _cosine(optim.lr, optim.final_lr, (step - warmup) / max(1, steps - warmup - 1))


def weight_decay(config: PretrainConfig, step: int) -> float:
    """Compute the weight decay: a cosine between its two ends, or with a constant rate the first until the cooldown."""
    optim = config.optim
    if optim.schedule == "constant":
        return optim.weight_decay + (optim.final_weight_decay - optim.weight_decay) * _cooled(config, step)
    return _cosine(optim.weight_decay, optim.final_weight_decay, step / max(1, config.run.steps - 1))


def momentum(config: PretrainConfig, step: int) -> float:
    """Compute the target encoder's momentum: linear from the start towards the end, which is reached after the run.

    With a constant rate it stays at the start until the cooldown.
    """
    span = config.ema.end - config.ema.start
    if config.optim.schedule == "constant":
        return config.ema.start + span * _cooled(config, step)
    return config.ema.start + span * step / config.run.steps


def _cooled(config: PretrainConfig, step: int) -> float:
    """Return how far a step is in the cooldown: 0 before it, 1 in the last step of the run."""
    cooldown = cooldown_steps(config)
    done = step + 1 - (config.run.steps - cooldown)
    return min(1.0, done / cooldown) if cooldown and done > 0 else 0.0


def _cosine(first: float, last: float, progress: float) -> float:
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(1.0, progress)))


def encoder_level(name: str, depth: int) -> int:
    """Return how high in the encoder a model's parameter stands: 0 for the embedding, 1 for the first block, and so on.

    The last norm stands beside the last block. Above it stands all that is no part of the trained encoder, and what
    stands beside its blocks: it can be trained while they are frozen.
    """
    part, _, rest = name.partition(".")
    if rest.startswith("residual."):
        return depth + 1
    if part != "context_encoder" or rest.startswith("norm."):
        return depth if part == "context_encoder" else depth + 1
    return int(rest.split(".")[1]) + 1 if rest.startswith("blocks.") else 0


def build_optimizer(model: nn.Module, config: PretrainConfig) -> AdamW:
    """Build AdamW over what is trained: the weights of linear layers decay; norms, biases and lone tokens do not.

    The published systems differ in one point that is kept: Kim's mask token decays, Weimann and Conrad's does not.
    """
    # By whether they decay, and by what their rate is multiplied by: two groups, or two for each level of the encoder.
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    depth, optim = config.encoder.depth, config.optim
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = optim.layer_decay ** max(0, depth - encoder_level(name, depth))
            groups.setdefault((_decays(name, parameter.ndim, config), scale), []).append(parameter)
    described = [
        {"params": found, "decays": decays, "scale": scale} | ({} if decays else {"weight_decay": 0.0})
        for (decays, scale), found in sorted(groups.items(), key=lambda entry: (not entry[0][0], -entry[0][1]))
    ]
    # One kernel for all weights instead of several for each; on CPUs it would round otherwise than before.
    fused = any(parameter.is_cuda for found in groups.values() for parameter in found) or None
    return AdamW(described, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay, fused=fused)


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
        group["lr"] = learning_rate(config, step) * group.get("scale", 1.0)
        group["weight_decay"] = weight_decay(config, step) if group["decays"] else 0.0
