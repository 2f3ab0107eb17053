"""The leadwise encoder: a token is one slice of time of one lead.

A transformer with cross-pattern attention (CroPA), as in Kim, arXiv:2410.08559.
Shapes: B windows, C leads, T samples, P slices of time, K visible slices, D width of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skecg.encoders.base import PatchEncoder
from skecg.encoders.blocks import Block, CropaAttention, init_linear_, sincos_positions
from skecg.encoders.linear import Linear
from skecg.spec import LeadwiseConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["LeadwiseEncoder", "grid_positions"]


class LeadwiseEncoder(PatchEncoder):
    """Tokens of single leads, ordered lead after lead; positions join the stream before every block.

    Parameters
    ----------
    config : LeadwiseConfig
        Shape of the encoder.
    """

    config: LeadwiseConfig
    positions_CPD: Tensor

    def __init__(self, config: LeadwiseConfig) -> None:
        super().__init__(config)
        self.patch_embed = Linear(config.patch_samples, config.dim)
        self.blocks = nn.ModuleList(
            Block(
                CropaAttention(config.dim, config.num_heads, proj_bias=True),
                config.hidden_dim,
                bias=True,
                norm_bias=True,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        table = grid_positions(config.n_leads, config.n_patches, config.dim)
        # Computed in float64 and rounded once, as the published table is.
        self.register_buffer("positions_CPD", table.to(torch.float32), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights as the published system does."""
        init_linear_(self.patch_embed)
        for number, block in enumerate(self.typed_blocks(), start=1):
            for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                init_linear_(linear)
            with torch.no_grad():
                # As published: by the block's number and not by the depth, unlike in the temporal encoder.
                block.attn.proj.weight /= (2 * number) ** 0.5
                block.mlp.fc2.weight /= (2 * number) ** 0.5

    def hidden_states(
        self, values_BCT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens (B, C P, D) after each block, before the final norm.

        `visible_BK` are slices of time, the same for all leads of a window.
        """
        positions_CPD = self.positions_CPD[:, : values_BCT.shape[2] // self.config.patch_samples]
        if leads is not None:
            index = torch.as_tensor(leads, device=values_BCT.device)
            values_BCT, positions_CPD = values_BCT[:, index], positions_CPD[index]
        slices_BCPt = values_BCT.unflatten(2, (-1, self.config.patch_samples))
        positions = positions_CPD[None]
        if visible_BK is not None:
            row = torch.arange(len(visible_BK), device=visible_BK.device)[:, None]
            slices_BCPt = slices_BCPt.transpose(1, 2)[row, visible_BK].transpose(1, 2)
            positions = positions_CPD[:, visible_BK].transpose(0, 1)
        n_leads = slices_BCPt.shape[1]
        tokens = self.patch_embed(slices_BCPt).flatten(1, 2)
        positions = positions.flatten(1, 2).to(tokens.dtype)
        for block in self.blocks:
            # As published: positions are added before every block.
            tokens = block(tokens + positions, n_leads)
            yield tokens


def grid_positions(n_leads: int, n_patches: int, dim: int) -> Tensor:
    """Return the position table of a grid of leads and slices of time.

    Returns
    -------
    Tensor of shape (n_leads, n_patches, dim), float64
        First half: sines, then cosines, of the slice's number; second half: of the lead's number.
    """
    # Half of the width says when, half which lead.
    time_PD = sincos_positions(torch.arange(n_patches), dim // 2).transpose(1, 2).flatten(1)
    lead_CD = sincos_positions(torch.arange(n_leads), dim // 2).transpose(1, 2).flatten(1)
    shape = (n_leads, n_patches, dim // 2)
    return torch.cat([time_PD[None].expand(shape), lead_CD[:, None].expand(shape)], dim=-1)
