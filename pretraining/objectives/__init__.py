"""What the encoders are trained for: one file per objective, found by the kind of its configuration."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretraining.config import PretrainConfig
    from pretraining.objectives.objective import Objective

__all__ = ["objective_class"]

_CLASSES = {
    "jepa": ("pretraining.objectives.jepa", "Jepa"),
    "mae": ("pretraining.objectives.mae", "Mae"),
    "beat_ssl": ("pretraining.objectives.beat_ssl", "BeatSsl"),
}


def objective_class(config: PretrainConfig) -> type[Objective]:
    """Give the class of a run's objective."""
    module, name = _CLASSES[config.objective.kind]
    found: type[Objective] = getattr(import_module(module), name)
    return found
