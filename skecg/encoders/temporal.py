"""The temporal encoder: a token is one slice of time of all leads.

A vision transformer over time, as in Weimann and Conrad (Comput. Biol. Med. 196:110809, 2025; arXiv:2410.13867).
Shapes: B windows, L leads, T samples, N slices of time, R registers, D width of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skecg.encoders.base import PatchEncoder, gather_tokens
from skecg.encoders.blocks import Attention, Block, init_linear_, sincos_positions
from skecg.encoders.linear import Linear, linear
from skecg.spec import TemporalConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["TemporalEncoder"]


class TemporalEncoder(PatchEncoder):
    """Tokens of all leads, full attention, learned registers.

    Parameters
    ----------
    config : TemporalConfig
        Shape of the encoder.
    """

    config: TemporalConfig
    positions_ND: Tensor

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__(config)
        self.patch_embed = Linear(config.n_leads * config.patch_samples, config.dim, bias=config.bias)
        self.registers = nn.Parameter(torch.empty(config.num_registers, config.dim))
        self.blocks = nn.ModuleList(
            Block(
                Attention(config.dim, config.num_heads, proj_bias=config.bias),
                config.hidden_dim,
                bias=config.bias,
                norm_bias=config.norm_bias,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps, bias=config.norm_bias)
        # Sine and cosine alternate, from angles in float32 as published; a window always begins at position 0.
        table = sincos_positions(torch.arange(config.n_patches), config.dim, torch.float32).flatten(1)
        self.register_buffer("positions_ND", table, persistent=False)
        self.reset_parameters()

    @property
    def num_registers(self) -> int:
        """Number of tokens without position that precede the others."""
        return self.config.num_registers

    def reset_parameters(self) -> None:
        """Draw initial weights as the published system does."""
        init_linear_(self.patch_embed)
        nn.init.trunc_normal_(self.registers, std=0.02)
        for block in self.typed_blocks():
            for layer in (block.attn.qkv, block.mlp.fc1):
                init_linear_(layer)
            for layer in (block.attn.proj, block.mlp.fc2):
                # What is added to the residual stream, twice a block, then keeps its variance whatever the depth.
                init_linear_(layer, std=0.02 / (2 * self.config.depth) ** 0.5)

    def embed(self, values_BLT: Tensor, leads: Sequence[int] | None = None) -> Tensor:
        """Turn slices of time into tokens (B, N, D) without position.

        The weights of absent leads are left out, which equals feeding zeros for them.
        """
        T = values_BLT.shape[2]
        patch = self.config.patch_samples
        weight = self.patch_embed.weight
        if leads is not None:
            index = torch.as_tensor(leads, device=values_BLT.device)
            values_BLT = values_BLT[:, index]
            # Absent leads take their columns of the embedding with them, which is the same as zeros and costs less.
            weight = weight.unflatten(1, (self.config.n_leads, patch))[:, index].flatten(1)
        slices = values_BLT.unflatten(2, (T // patch, patch)).transpose(1, 2).flatten(2)
        return linear(slices, weight, self.patch_embed.bias)

    def hidden_states(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens (B, R + N, D) after each block, before the final norm."""
        tokens = self.embed(values_BLT, leads)
        tokens = tokens + self.positions_ND[: tokens.shape[1]].to(tokens.dtype)
        if visible_BK is not None:
            tokens = gather_tokens(tokens, visible_BK)
        # After the positions: registers stand for no place.
        registers = self.registers.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([registers, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
            yield tokens
