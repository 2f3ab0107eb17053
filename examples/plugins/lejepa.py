"""An objective from outside: LeJEPA, views of a record drawn together and all records spread apart by SIGReg.

After Balestriero and LeCun (arXiv:2511.08544), from the paper's text: no second encoder, no predictor. Here the views
are random subsets of a record's slices of time, ``masks.masks_per_target`` of them::

    python -m pretraining train --recipe examples/plugins/lejepa.py --data shards --out run
    python -m pretraining export --plugin examples/plugins/lejepa.py --run run --out weights

Shapes: B windows, L leads, T samples, V views, D width of a token, P of what is compared.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pretraining.config import AnyObjectiveConfig, MaskConfig, PretrainConfig
from pretraining.data.batches import Batch
from pretraining.objectives import register_objective
from pretraining.objectives.base import WithoutTarget
from pretraining.objectives.jepa import JepaDraw, sigreg
from pretraining.objectives.masks import draw_masks
from pretraining.recipes import load_recipe, register_recipe
from skecg.encoders import build_encoder
from skecg.encoders.pooling import pool_tokens
from skecg.validation import check_integer, check_number


@dataclass(frozen=True)
class LeJepaConfig(AnyObjectiveConfig):
    """How much SIGReg weighs against the views' agreement, and the width of what both are taken of."""

    kind: ClassVar[str] = "lejepa"
    takes_masks: ClassVar[bool] = True

    sigreg_weight: float = 0.05
    projected_dim: int = 64

    def __post_init__(self) -> None:
        check_number("objective.sigreg_weight", self.sigreg_weight, 0, 1)
        check_integer("objective.projected_dim", self.projected_dim, 1)


class LeJepaLoss(NamedTuple):
    """What a step minimizes, and its two parts before they are weighted."""

    total: Tensor
    agreement: Tensor
    sigreg: Tensor


class LeJepa(WithoutTarget):
    """Encoder and a small projector, which is thrown away afterwards."""

    loss_names = LeJepaLoss._fields

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        assert isinstance(config.objective, LeJepaConfig)
        self.objective, width = config.objective, config.objective.projected_dim
        self.context_encoder = build_encoder(config.encoder)
        self.projector = nn.Sequential(nn.Linear(config.encoder.dim, 256), nn.GELU(), nn.Linear(256, width))

    def forward(self, values_BLT: Tensor, drawn: JepaDraw) -> LeJepaLoss:
        """Compare the views of each record with their mean, and all views' distribution with a normal one."""
        registers = self.context_encoder.num_registers
        tokens = [self.context_encoder(values_BLT, visible_BK=mask.context) for mask in drawn.masks]
        views_VBP = torch.stack([self.projector(pool_tokens([seen], registers, "mean")) for seen in tokens]).float()
        agreement = (views_VBP - views_VBP.mean(dim=0)).square().mean()
        assert drawn.directions_seed is not None
        directions = torch.Generator().manual_seed(drawn.directions_seed)
        spread = torch.stack([sigreg(view, generator=directions) for view in views_VBP]).mean()
        weight = self.objective.sigreg_weight
        return LeJepaLoss((1 - weight) * agreement + weight * spread, agreement, spread)

    @classmethod
    def draw(cls, config: PretrainConfig, tables: Any, batch: Batch, step: int, positions: range) -> JepaDraw:
        """Draw the slices of each view, and SIGReg's directions."""
        assert config.masks is not None
        seed = config.run.seed
        masks = draw_masks(config.masks, config.encoder.n_patches, positions, seed=seed, step=step)
        return JepaDraw(masks, directions_seed=int(np.random.default_rng([seed, step]).integers(2**63)))

    @classmethod
    def flops(cls, config: PretrainConfig, drawn: JepaDraw) -> float:
        """Count the encoder's passes, forward and backward; the projector is next to nothing."""
        return 3 * sum(config.encoder.flops(mask.context.shape[1]) for mask in drawn.masks)

    @classmethod
    def summary(cls, config: PretrainConfig) -> str:
        """Describe what is minimized."""
        assert config.masks is not None
        return f"agreement of {config.masks.masks_per_target} views of a record, and SIGReg"


register_objective(LeJepaConfig, LeJepa)


@register_recipe
def lejepa() -> PretrainConfig:
    """skecg_default's encoder and data, trained by LeJEPA on two views of two fifths of a record."""
    return dataclasses.replace(
        load_recipe("skecg_default"),
        name="lejepa",
        objective=LeJepaConfig(),
        masks=MaskConfig("blocks", 0.4, 0.4, min_block=5, masks_per_target=2),
        predictor=None,
        export_encoder="context",
    )
