"""The joint-embedding predictive objective: from what is visible, predict what the target encoder makes of the rest.

Shapes: B windows, L leads, T samples, N tokens, K visible and M masked slices of time, R registers, D width.
"""

from __future__ import annotations

import copy
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.config import PretrainConfig
from pretraining.masks import Masks
from pretraining.objectives.describing import Described, Describer, description_loss
from pretraining.objectives.sigreg import sigreg
from pretraining.predictor import build_predictor
from skecg.encoders import Encoder, build_encoder
from skecg.encoders.interface import gather_tokens

__all__ = ["Jepa", "Loss"]

T = TypeVar("T", Tensor, float)


class Loss(NamedTuple, Generic[T]):
    """What a step minimizes, and its parts before they are weighted; each a scalar."""

    total: T
    prediction: T
    sigreg: T
    description: T


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
        # Frozen where nothing is predicted: processes would wait for its gradients.
        self.predictor = build_predictor(config).requires_grad_(config.objective.predict_weight > 0)
        self.describer = Describer(config.encoder.dim) if config.objective.describe_weight else None
        self.target_encoder: Encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)

    def forward(
        self,
        values_BLT: Tensor,
        masks: list[Masks],
        generator: torch.Generator | None = None,
        described: Described | None = None,
    ) -> Loss[Tensor]:
        """Compare predictions with targets.

        Parameters
        ----------
        values_BLT : Tensor of shape (B, L, T)
            Prepared windows.
        masks : list of Masks
            One or several masks of the same windows; one pass of the target encoder serves them all.
        generator : torch.Generator, optional
            Of SIGReg's directions; needed when its weight is not 0.
        described : Described, optional
            What describes the windows; without it descriptions are left out of the loss.

        Returns
        -------
        Loss
        """
        weights = self.config.objective
        targets_BND = self.targets(values_BLT) if weights.predict_weight else None
        contexts = [self._context(values_BLT, mask.context) for mask in masks]
        pairs = zip(contexts, masks, strict=True)
        prediction = torch.stack([self._prediction_loss(context, targets_BND, mask) for context, mask in pairs]).mean()
        penalty = self._sigreg([context.mean(dim=1) for context in contexts], generator, prediction)
        description = self._description_loss(values_BLT, contexts, described, prediction)
        total = weights.predict_weight * prediction + weights.sigreg_weight * penalty
        total = total + weights.describe_weight * description
        return Loss(total, prediction, penalty, description)

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

    def _context(self, values_BLT: Tensor, visible_BK: Tensor) -> Tensor:
        """Encode what is visible, and leave the registers out."""
        tokens: Tensor = self.context_encoder(values_BLT, visible_BK=visible_BK)
        return tokens[:, self.context_encoder.num_registers :]

    def _description_loss(
        self, values_BLT: Tensor, contexts: list[Tensor], described: Described | None, like: Tensor
    ) -> Tensor:
        """Describe the windows from what the predictions see, or from more."""
        if self.describer is None or described is None:
            return torch.zeros_like(like)
        seen = contexts if described.seen is None else [self._context(values_BLT, described.seen)]
        return torch.stack([description_loss(self.describer(tokens), described) for tokens in seen]).mean()

    def _prediction_loss(self, context: Tensor, targets_BND: Tensor | None, mask: Masks) -> Tensor:
        """Compare the predicted tokens with the targets; 0 where the objective does without."""
        if targets_BND is None:
            return context.new_zeros((), dtype=torch.float32)
        return self._distance(
            self.predictor(context, mask), gather_tokens(targets_BND, self._token_numbers(mask.target))
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
