"""What encoders are trained for: one file per objective, found by the kind of its configuration.

Objectives from outside are registered here. A run's model is drawn alike in each process, and gathered where its
weights are sharded.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from pretraining.config import AnyObjectiveConfig, PretrainConfig
from pretraining.config.objectives import OBJECTIVES
from pretraining.distributed import Engine, whole
from pretraining.objectives.base import Objective
from pretraining.optim import encoder_level
from skecg.errors import ParameterError

__all__ = ["build_model", "gather_model", "objective_class", "register_objective"]

_CLASSES: dict[str, tuple[str, str]] = {
    "jepa": ("pretraining.objectives.jepa", "Jepa"),
    "mae": ("pretraining.objectives.mae", "Mae"),
    "beat_ssl": ("pretraining.objectives.beat_ssl", "BeatSsl"),
}


def register_objective(config: type[AnyObjectiveConfig], objective: type[Objective]) -> None:
    """Make an objective known, by the kind that its configuration bears.

    Parameters
    ----------
    config : type
        A frozen dataclass derived from :class:`pretraining.config.AnyObjectiveConfig`, with its own ``kind``.
    objective : type
        What trains with it; made of a whole :class:`pretraining.config.PretrainConfig`.

    Raises
    ------
    ParameterError
        When another objective is of that kind.
    """
    place = (objective.__module__, objective.__qualname__)
    # The same class again is no clash: a plug-in may be imported twice, by --plugin and as an entry point.
    if _CLASSES.setdefault(config.kind, place) != place:
        raise ParameterError(f"Got an objective {config.kind!r} of {place[0]}, which {_CLASSES[config.kind][0]} has.")
    OBJECTIVES[config.kind] = config


def objective_class(config: PretrainConfig) -> type[Objective]:
    """Return the class of a run's objective."""
    # By name, so that a JEPA run does not import what only Beat-SSL needs.
    module, name = _CLASSES[config.objective.kind]
    found: type[Objective] = getattr(import_module(module), name)
    return found


def build_model(config: PretrainConfig, weights: Mapping[str, Tensor] | None = None) -> Objective:
    """Build the model on the CPU, with weights drawn from ``run.seed``, or with those given.

    torch's generators are left as they were. The first blocks are frozen as ``optim.frozen_blocks`` says, and so are
    parameters without elements (an encoder with no registers): spread weights cannot do with them.

    Raises
    ------
    ParameterError
        When a layer keeps running statistics, as batch normalization does, or drops at random.
    """
    # On the CPU, where the same seed gives the same weights whatever the device of the run is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        model = objective_class(config)(config)
    _check_layers(model)
    if weights is not None:
        model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        is_frozen = encoder_level(name, config.encoder.depth) <= config.optim.frozen_blocks > 0
        parameter.requires_grad_(parameter.requires_grad and parameter.numel() > 0 and not is_frozen)
    return model


def _check_layers(model: Objective) -> None:
    """Raise for layers of a plug-in that averages, checkpoints and several processes would leave behind.

    The target encoder follows the parameters alone, frozen blocks are to stay as they are, and a run that is resumed
    has to be the same run: running statistics and random numbers of torch's own keep to none of this.
    """
    for name, layer in model.named_modules():
        is_counting = getattr(layer, "track_running_stats", False)
        if is_counting or (isinstance(layer, _DropoutNd) and layer.p > 0):
            raise ParameterError(
                f"Got the layer {name} = {layer}, which {'gathers statistics' if is_counting else 'drops at random'}, "
                "expected layers whose state is their parameters. Take LayerNorm or GroupNorm, and a dropout of 0."
            )


def gather_model(model: Objective, config: PretrainConfig, engine: Engine) -> Objective | None:
    """Return a model that the first process can use by itself, None elsewhere; all processes have to call this."""
    weights = whole(model.state_dict()) if engine.is_sharded else None
    if not engine.is_first:
        return None
    return model if weights is None else build_model(config, weights).to(engine.device)
