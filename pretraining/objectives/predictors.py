"""From visible tokens to what is hidden: JEPA's predictors of tokens, the masked autoencoder's decoder of samples.

Shapes: B windows, C leads, N tokens of whole windows, K visible and M masked ones, D width of the encoder, P width of
the predictor, E width of the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pretraining.config import PredictorConfig
from pretraining.objectives.masks import Masks
from skecg.encoders.base import gather_tokens
from skecg.encoders.blocks import Attention, Block, init_linear_, init_xavier_, sincos_positions
from skecg.encoders.leadwise import grid_positions
from skecg.encoders.multiscale import token_positions
from skecg.errors import ParameterError
from skecg.spec import MultiscaleConfig, PatchEncoderConfig, TemporalConfig, block_flops

__all__ = ["Decoder", "LeadwisePredictor", "TemporalPredictor", "build_predictor", "predictor_flops"]


def build_predictor(config: PredictorConfig, encoder: PatchEncoderConfig) -> TemporalPredictor | LeadwisePredictor:
    """Build the predictor that goes with an encoder.

    Raises
    ------
    ParameterError
        For a multiscale encoder with a token for each lead, which is a masked autoencoder's.
    """
    if isinstance(encoder, MultiscaleConfig) and encoder.lead_groups > 1:
        raise ParameterError(
            f"Got encoder.lead_groups={encoder.lead_groups} for JEPA, expected 1: one token of all leads. Train an "
            "encoder with a token for each lead as a masked autoencoder (recipes mae_leads and mae_both)."
        )
    kind = LeadwisePredictor if encoder.token_per_lead else TemporalPredictor
    return kind(config, encoder)


class _Stack(nn.Module):
    """What predictors and the decoder share: tokens embedded, a learned mask token, transformer blocks, a linear map.

    Parameters
    ----------
    config : PredictorConfig
        Shape of the blocks.
    encoder : PatchEncoderConfig
        Whose tokens are read.
    n_outputs : int
        Numbers that each token becomes.
    bias, norm_bias : bool, default=True
        Whether linear layers and norms have biases.
    """

    def __init__(
        self,
        config: PredictorConfig,
        encoder: PatchEncoderConfig,
        n_outputs: int,
        *,
        bias: bool = True,
        norm_bias: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder.dim, config.dim, bias=bias)
        self.mask_token = nn.Parameter(torch.empty(config.dim))
        self.blocks = nn.ModuleList(
            Block(
                Attention(config.dim, config.num_heads, proj_bias=bias),
                int(config.dim * config.mlp_ratio),
                bias=bias,
                norm_bias=norm_bias,
                norm_eps=encoder.norm_eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=encoder.norm_eps, bias=norm_bias)
        self.proj = nn.Linear(config.dim, n_outputs, bias=bias)


class TemporalPredictor(_Stack):
    """All slices of time together; positions are added once (Weimann and Conrad, 2025).

    Parameters
    ----------
    config : PredictorConfig
    encoder : PatchEncoderConfig
        Whose tokens it reads and predicts, one for each slice of time; biases and norms follow it.
    """

    positions_NP: Tensor

    def __init__(self, config: PredictorConfig, encoder: PatchEncoderConfig) -> None:
        bias, norm_bias = (encoder.bias, encoder.norm_bias) if isinstance(encoder, TemporalConfig) else (True, True)
        super().__init__(config, encoder, encoder.dim, bias=bias, norm_bias=norm_bias)
        table = sincos_positions(torch.arange(encoder.n_patches), config.dim, torch.float32).flatten(1)
        # Not in the checkpoint: the published ones store none, and a formula needs no bytes.
        self.register_buffer("positions_NP", table, persistent=False)
        self.reset_parameters(encoder.depth)

    def reset_parameters(self, encoder_depth: int) -> None:
        """Draw initial weights; the published system scales by the encoder's depth, not by the predictor's."""
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for name, linear in self.named_modules():
            if isinstance(linear, nn.Linear):
                last_of_branch = name.endswith(("attn.proj", "mlp.fc2"))
                init_linear_(linear, std=0.02 / (2 * encoder_depth) ** 0.5 if last_of_branch else 0.02)

    def forward(self, context_BKD: Tensor, masks: Masks) -> Tensor:
        """Predict the masked slices' tokens (B, M, D) from the visible ones."""
        context = self.embed(context_BKD)
        places_BNP = self.positions_NP.to(context.dtype).expand(len(context), -1, -1)
        visible = context + gather_tokens(places_BNP, masks.context)
        masked = self.mask_token.to(context.dtype) + gather_tokens(places_BNP, masks.target)
        tokens = torch.cat([visible, masked], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.proj(self.norm(tokens)[:, visible.shape[1] :])


class LeadwisePredictor(_Stack):
    """Every lead by itself; positions join the stream before every block (Kim, arXiv:2410.08559).

    Parameters
    ----------
    config : PredictorConfig
    encoder : PatchEncoderConfig
        Whose tokens it reads and predicts, lead after lead.
    """

    positions_NP: Tensor

    def __init__(self, config: PredictorConfig, encoder: PatchEncoderConfig) -> None:
        super().__init__(config, encoder, encoder.dim)
        table = grid_positions(1, encoder.n_patches, config.dim)[0]
        self.register_buffer("positions_NP", table.to(torch.float32), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights; the last layers of block l's branches are divided by sqrt(2 l)."""
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for linear in self.modules():
            if isinstance(linear, nn.Linear):
                init_linear_(linear)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                assert isinstance(block, Block)
                block.attn.proj.weight /= (2 * number) ** 0.5
                block.mlp.fc2.weight /= (2 * number) ** 0.5

    @staticmethod
    def n_rows(context_BCKD: Tensor, masks: Masks) -> int:
        """Return how many rows the blocks see: one for each lead of each window."""
        return len(context_BCKD) * (context_BCKD.shape[1] // masks.context.shape[1])

    def forward(self, context_BCKD: Tensor, masks: Masks) -> Tensor:
        """Predict the masked slices' tokens (B, C M, D), lead after lead, from the visible ones (B, C K, D)."""
        n_windows, n_visible = masks.context.shape
        n_leads = context_BCKD.shape[1] // n_visible
        # Leads become rows: no lead sees another here, only in the encoder.
        visible = self.embed(context_BCKD).unflatten(1, (n_leads, n_visible)).flatten(0, 1)  # (B C, K, P)
        n_masked = masks.target.shape[1]
        masked = self.mask_token.to(visible.dtype).expand(len(visible), n_masked, -1)
        # Visible ones first, as published: the last ones of each lead are then the predictions.
        order = torch.cat([masks.context, masks.target], dim=1).repeat_interleave(n_leads, dim=0)
        places = self.positions_NP.to(visible.dtype)[order]
        tokens = torch.cat([visible, masked], dim=1)
        for block in self.blocks:
            # Before every block, not once: forgetting it is the likeliest way to miss Kim's numbers in silence.
            tokens = block(tokens + places)
        predicted = self.proj(self.norm(tokens)[:, n_visible:])
        return predicted.unflatten(0, (n_windows, n_leads)).flatten(1, 2)


class Decoder(_Stack):
    """Visible tokens at their places and a learned one everywhere else, through transformer blocks.

    Parameters
    ----------
    config : PredictorConfig
        Its shape.
    encoder : MultiscaleConfig
        Whose tokens it reads.
    """

    positions_NE: Tensor

    def __init__(self, config: PredictorConfig, encoder: MultiscaleConfig) -> None:
        super().__init__(config, encoder, encoder.n_leads // encoder.lead_groups * encoder.patch_samples)
        table = token_positions(encoder.lead_groups, encoder.n_patches, config.dim).flatten(0, 1)
        self.register_buffer("positions_NE", table, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights."""
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for linear in self.modules():
            if isinstance(linear, nn.Linear):
                # Not small normal weights, with which a decoder took more views to the same loss (docs/log.md).
                init_xavier_(linear)

    def forward(self, tokens_BKD: Tensor, visible_BK: Tensor) -> Tensor:
        """Reconstruct what every token stands for (B, N, samples); places with number -1 hold no token."""
        tokens = self.embed(tokens_BKD)
        n_tokens = len(self.positions_NE)
        # One place more for what is no token; it is left out again.
        grid = self.mask_token.to(tokens.dtype).expand(len(tokens), n_tokens + 1, -1)
        place = torch.where(visible_BK < 0, n_tokens, visible_BK)[:, :, None].expand(-1, -1, tokens.shape[-1])
        grid = grid.scatter(1, place, tokens)[:, :-1] + self.positions_NE.to(tokens.dtype)
        for block in self.blocks:
            grid = block(grid)
        return self.proj(self.norm(grid))


def predictor_flops(encoder: PatchEncoderConfig, config: PredictorConfig, visible_slices: float) -> float:
    """Count a predictor's forward pass: each lead by itself where a lead has tokens of its own."""
    rows = encoder.n_leads if encoder.token_per_lead else 1
    masked = encoder.n_patches - visible_slices
    block = block_flops(config.dim, int(config.dim * config.mlp_ratio), encoder.n_patches)
    edges = 2 * encoder.dim * config.dim * (visible_slices + masked)  # in for what is seen, out for what is predicted
    return rows * (edges + encoder.n_patches * config.depth * block)
