"""Visible tokens to the samples of all patches: the light decoder of masked autoencoders.

Shapes: B windows, N tokens of whole windows, K visible ones, D width of the encoder, E width of the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pretraining.config import PredictorConfig
from skecg.encoders.blocks import Attention, Block, init_xavier_
from skecg.encoders.multiscale import token_positions
from skecg.spec import MultiscaleConfig

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """Put visible tokens at their places and a learned one everywhere else, and let them talk.

    Parameters
    ----------
    config : PredictorConfig
        Its shape.
    encoder : MultiscaleConfig
        Whose tokens it reads.
    """

    positions_NE: Tensor

    def __init__(self, config: PredictorConfig, encoder: MultiscaleConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder.dim, config.dim)
        self.mask_token = nn.Parameter(torch.empty(config.dim))
        self.blocks = nn.ModuleList(
            Block(
                Attention(config.dim, config.num_heads, proj_bias=True),
                int(config.dim * config.mlp_ratio),
                bias=True,
                norm_bias=True,
                norm_eps=encoder.norm_eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=encoder.norm_eps)
        self.proj = nn.Linear(config.dim, encoder.n_leads // encoder.lead_groups * encoder.patch_samples)
        table = token_positions(encoder.lead_groups, encoder.n_patches, config.dim).flatten(0, 1)
        self.register_buffer("positions_NE", table, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights."""
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for linear in self.modules():
            if isinstance(linear, nn.Linear):
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
