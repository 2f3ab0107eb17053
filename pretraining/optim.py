"""AdamW, which parameters decay, and the schedules' values put in."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from pretraining.config import PretrainConfig
from pretraining.schedules import learning_rate, weight_decay

__all__ = ["build_optimizer", "set_schedule_"]


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
    return AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)


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
