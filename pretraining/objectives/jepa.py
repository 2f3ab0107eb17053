"""The joint-embedding predictive objective: from what is visible, predict what the target encoder makes of the rest.

Shapes: B windows, L leads, T samples, N tokens, K visible and M masked slices of time, R registers, D width.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.config import PretrainConfig
from pretraining.masks import Masks
from pretraining.objectives.sigreg import sigreg
from pretraining.predictor import build_predictor
from skecg.encoders import Encoder, build_encoder
from skecg.encoders.interface import gather_tokens

__all__ = ["Jepa", "Loss"]


class Loss(NamedTuple):
    """What a step minimizes, and its parts; each a scalar."""

    total: Tensor
    prediction: Tensor
    sigreg: Tensor


class Jepa(nn.Module):
    """Context encoder, target encoder and predictor.

    Parameters
    ----------
    config : PretrainConfig
        Weights are drawn from torch's global generator; the target encoder begins as a copy of the context encoder.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.context_encoder: Encoder = build_encoder(config.encoder)
        self.predictor = build_predictor(config)
        self.target_encoder: Encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)

    def forward(self, values_BLT: Tensor, masks: list[Masks], generator: torch.Generator | None = None) -> Loss:
        """Compare predictions with targets.

        Parameters
        ----------
        values_BLT : Tensor of shape (B, L, T)
            Prepared windows.
        masks : list of Masks
            One or several masks of the same windows; one pass of the target encoder serves them all.
        generator : torch.Generator, optional
            Of SIGReg's directions; needed when its weight is not 0.

        Returns
        -------
        Loss
        """
        targets_BND = self.targets(values_BLT)
        losses, pooled = [], []
        for mask in masks:
            context = self.context_encoder(values_BLT, visible_BK=mask.context)
            context = context[:, self.context_encoder.num_registers :]
            predicted = self.predictor(context, mask)
            wanted = gather_tokens(targets_BND, self._token_numbers(mask.target))
            losses.append(self._distance(predicted, wanted))
            pooled.append(context.mean(dim=1))
        prediction = torch.stack(losses).mean()
        penalty = self._sigreg(pooled, generator, prediction)
        return Loss(prediction + self.config.objective.sigreg_weight * penalty, prediction, penalty)

    @torch.no_grad()
    def targets(self, values_BLT: Tensor) -> Tensor:
        """Give the target encoder's tokens (B, N, D) of whole windows, normalized as the objective says."""
        tokens = self.target_encoder(values_BLT)[:, self.target_encoder.num_registers :]
        kind = self.config.objective.target_norm
        if kind == "layer":
            return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-5)
        if kind == "centre":
            return tokens - tokens.mean(dim=0, keepdim=True)
        return tokens

    @torch.no_grad()
    def update_target_(self, momentum: float) -> None:
        """Move the target encoder towards the context encoder: momentum times itself and the rest of the other."""
        torch._foreach_lerp_(
            list(self.target_encoder.parameters()), list(self.context_encoder.parameters()), 1.0 - momentum
        )

    def _distance(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        if self.config.objective.loss == "l1":
            return F.l1_loss(predicted.float(), wanted.float())
        return F.smooth_l1_loss(predicted.float(), wanted.float(), beta=1.0)

    def _token_numbers(self, slices_BM: Tensor) -> Tensor:
        """Give the numbers of the tokens of slices of time: themselves, or once for every lead."""
        if not self.target_encoder.token_per_lead:
            return slices_BM
        leads = torch.arange(self.config.encoder.n_leads, device=slices_BM.device)
        return (leads[None, :, None] * self.config.encoder.n_patches + slices_BM[:, None]).flatten(1)

    def _sigreg(self, pooled: list[Tensor], generator: torch.Generator | None, like: Tensor) -> Tensor:
        if self.config.objective.sigreg_weight == 0:
            return torch.zeros_like(like)
        assert generator is not None, "SIGReg draws its directions from a generator"
        return torch.stack([sigreg(vectors, generator=generator) for vectors in pooled]).mean()
