"""The masked autoencoder: from the patches that are seen, reconstruct the samples of those that are not.

What is known of "Masked Autoencoder for ECG Representation Learning" (Yang, Lian and Zeng, ICIST 2022,
doi:10.1109/ICIST55546.2022.9926900) is its plan: reconstruct the raw signal from a heavily masked one with an encoder
of convolutions at several scales and a transformer. Neither code nor its numbers are public. What it does not say is
decided here, mostly as He et al. (2022, arXiv:2111.06377) decided it for images:

- only visible tokens are encoded, a light decoder gets mask tokens for the others;
- the convolutions are wider than a patch, so hidden samples are silenced before them (see
  :mod:`skecg.encoders.multiscale`);
- targets are each patch's samples less their mean over their deviation, the error is squared and counts on hidden
  patches only. To the variance a constant is added (``target_eps``) which, unlike in He et al., may be as large as that
  of noise: otherwise half of the loss asks for the noise between two beats.

Masks are random over time, over leads, or over both, which are the ideas of the controls MTAE, MLAE (Zhang et al.,
2022) and ST-MEM (Na et al., 2024, arXiv:2402.09450). Departures from those: the encoder is the multiscale one; a token
of single leads is one slice of time also when whole leads are hidden; leads are told apart by fixed positions, not by
learned embeddings, and by no separators; the decoder sees all leads together, where ST-MEM's sees one at a time. Of the
twelve leads four follow from two others, so that with whole leads hidden a part of the answer is arithmetic.

Shapes: B windows, L leads, T samples, P slices of time, S samples of a patch, N tokens, K visible ones, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from pretraining.config import PredictorConfig, PretrainConfig
from pretraining.config.objectives import MaeConfig
from pretraining.data.batches import lead_columns
from pretraining.objectives.base import WithoutTarget
from pretraining.objectives.masks import TokenMasks, draw_token_masks
from pretraining.objectives.predictors import Decoder
from skecg.encoders import build_encoder
from skecg.spec import MultiscaleConfig, block_flops

if TYPE_CHECKING:
    from pretraining.data.batches import Batch

__all__ = ["Mae", "MaeLoss", "mae_flops", "parts_of", "patch_moments", "patch_targets"]


class MaeLoss(NamedTuple):
    """What a step minimizes, twice: it has no other part."""

    total: Tensor
    reconstruction: Tensor


class Mae(WithoutTarget):
    """Encoder and light decoder.

    Parameters
    ----------
    config : PretrainConfig
        Weights are drawn from torch's global generator.
    """

    loss_names = MaeLoss._fields

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.objective, shape, decoder = parts_of(config)
        self.context_encoder = build_encoder(shape)
        self.decoder = Decoder(decoder, shape)
        self.patch_samples = shape.patch_samples

    def forward(self, values_BLT: Tensor, drawn: TokenMasks) -> MaeLoss:
        """Compare what is reconstructed with what was hidden.

        Parameters
        ----------
        values_BLT : Tensor of shape (B, L, T)
            Prepared windows.
        drawn : TokenMasks

        Returns
        -------
        MaeLoss
            The mean over a recording's hidden patches, then over recordings.
        """
        wanted_BLPS = patch_targets(values_BLT, self.patch_samples, self.objective.target_eps)
        error_BLP = (self.reconstruct(values_BLT, drawn).float() - wanted_BLPS).square().mean(dim=-1)
        # A mean for each recording first: one with few leads counts as much as one with twelve.
        hidden = error_BLP.masked_fill(~drawn.asked, 0.0).sum(dim=(1, 2))
        loss = (hidden / drawn.asked.sum(dim=(1, 2)).clamp(min=1)).mean()
        return MaeLoss(loss, loss.detach().clone())

    def reconstruct(self, values_BLT: Tensor, drawn: TokenMasks) -> Tensor:
        """Return all patches (B, L, P, S), as normalized targets, from those that are seen."""
        n_leads, n_samples = values_BLT.shape[1:]
        tokens = self.context_encoder(values_BLT, visible_BK=drawn.visible)[:, self.context_encoder.num_registers :]
        samples_BNX = self.decoder(tokens, drawn.visible)
        n_patches = n_samples // self.patch_samples
        if self.context_encoder.token_per_lead:
            return samples_BNX.unflatten(1, (n_leads, n_patches))
        return samples_BNX.unflatten(2, (n_leads, self.patch_samples)).transpose(1, 2)

    @classmethod
    def draw(cls, config: PretrainConfig, tables: Any, batch: Batch, step: int, positions: range) -> TokenMasks:
        """Draw what is hidden of what each recording has."""
        objective, shape, _ = parts_of(config)
        leads_BL = (batch.lead_mask & batch.kept_leads)[:, list(lead_columns(config.input.leads))]
        # A slice that is partly padding would ask for zeros that nobody recorded.
        whole_B = np.clip(batch.valid_samples // shape.patch_samples, 1, shape.n_patches)
        slices_BP = np.arange(shape.n_patches) < whole_B[:, None]
        there = leads_BL[:, :, None] & slices_BP[:, None, :]
        key = {"seed": config.run.seed, "step": step}
        return draw_token_masks(objective.masks, objective.ratio, there, shape.lead_groups, positions, **key)

    @classmethod
    def flops(cls, config: PretrainConfig, drawn: TokenMasks) -> float:
        """Count what a record costs, by the number of tokens that are visible."""
        return mae_flops(*parts_of(config)[1:], drawn.visible.shape[1])

    @classmethod
    def summary(cls, config: PretrainConfig) -> str:
        """Describe what is hidden and what is reconstructed."""
        objective, _, decoder = parts_of(config)
        over = {"time": "of the slices", "leads": "of the leads", "both": "of the patches"}[objective.masks]
        return (
            f"squared error of normalized hidden patches; {100 * objective.ratio:g} % {over} hidden; decoder of width "
            f"{decoder.dim}, {decoder.depth} blocks"
        )


def parts_of(config: PretrainConfig) -> tuple[MaeConfig, MultiscaleConfig, PredictorConfig]:
    """Return what only autoencoders have: the objective, the shapes of encoder and decoder."""
    assert isinstance(config.objective, MaeConfig), "asked of another objective"
    assert isinstance(config.encoder, MultiscaleConfig), "checked at birth"
    assert config.predictor is not None, "checked at birth"
    return config.objective, config.encoder, config.predictor


def patch_targets(values_BLT: Tensor, patch_samples: int, eps: float) -> Tensor:
    """Cut windows into patches (B, L, P, S), each less its mean and over its deviation."""
    mean, deviation = patch_moments(values_BLT, patch_samples, eps)
    return (values_BLT.unflatten(2, (-1, patch_samples)).float() - mean) / deviation


def patch_moments(values_BLT: Tensor, patch_samples: int, eps: float) -> tuple[Tensor, Tensor]:
    """Compute each patch's mean and the root of its variance and `eps`, both (B, L, P, 1)."""
    patches = values_BLT.unflatten(2, (-1, patch_samples)).float()
    # In float32, whatever precision the model runs in: it is a difference of near numbers.
    variance = patches.var(dim=-1, keepdim=True, correction=0)
    return patches.mean(dim=-1, keepdim=True), (variance + eps).sqrt()


def mae_flops(encoder: MultiscaleConfig, decoder: PredictorConfig, visible_tokens: float) -> float:
    """Count what one record costs in a training step of a masked autoencoder: all of it forward and backward.

    Parameters
    ----------
    encoder : MultiscaleConfig
    decoder : PredictorConfig
    visible_tokens : float
        Tokens that the encoder sees.
    """
    n_tokens = encoder.lead_groups * encoder.n_patches
    samples = encoder.n_leads // encoder.lead_groups * encoder.patch_samples
    edges = 2 * decoder.dim * (encoder.stages[-1].width * visible_tokens + samples * n_tokens)
    block = block_flops(decoder.dim, int(decoder.dim * decoder.mlp_ratio), n_tokens)
    decoded = edges + n_tokens * decoder.depth * block
    return 3 * (encoder.flops(visible_tokens / encoder.lead_groups) + decoded)
