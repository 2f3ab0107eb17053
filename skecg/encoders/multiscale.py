"""The multiscale encoder: convolutions of several widths look at the signal, a transformer at what they saw.

After Yang, Lian and Zeng, "Masked Autoencoder for ECG Representation Learning" (ICIST 2022,
doi:10.1109/ICIST55546.2022.9926900), of which only the plan is public: convolutions at several scales for local shape,
then a transformer for what belongs together. Widths, strides, sizes and positions are this package's own.

Shapes: B windows, L leads, T samples, G lead groups (1, or one a lead), P slices of time, N = G P tokens, K visible
tokens, R registers, C channels of all convolutions, S places of a slice at which they stand, D width of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders.base import PatchEncoder, gather_tokens
from skecg.encoders.blocks import Attention, Block, init_xavier_, sincos_positions
from skecg.encoders.leadwise import grid_positions
from skecg.encoders.linear import Linear, linear
from skecg.spec import MultiscaleConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["MultiscaleEncoder", "shapes_and_amplitudes", "token_positions"]


class PartialAttention(Attention):
    """Attention in which every token sees every token, and nobody the places that hold none."""

    def forward(self, x_BND: Tensor, there_BN: Tensor | None = None) -> Tensor:
        """Mix tokens (B, N, D); `there_BN` is False where there is none."""
        if there_BN is None:
            return super().forward(x_BND)
        q, k, v = self.heads(x_BND)
        mixed_BHNd = F.scaled_dot_product_attention(q, k, v, attn_mask=there_BN[:, None, None])
        return self.proj(mixed_BHNd.transpose(1, 2).flatten(2))


class MultiscaleEncoder(PatchEncoder):
    """Tokens of all leads, or of single ones, from parallel convolutions; full attention, learned registers.

    What is hidden is silenced before the convolutions, which are wider than a slice, so that no visible token knows of
    it. Beyond the ends of a window they see zeros, too: a short window is the whole one with its other slices hidden.

    Parameters
    ----------
    config : MultiscaleConfig
        Shape of the encoder.
    """

    config: MultiscaleConfig
    positions_GPD: Tensor

    def __init__(self, config: MultiscaleConfig) -> None:
        super().__init__(config)
        n_rows, stride = config.n_leads // config.lead_groups, config.stride_samples
        self.scales = nn.ModuleList(
            nn.Conv1d(n_rows, config.stem_dim, width, stride=stride) for width in config.kernel_samples
        )
        n_features = len(self.scales) * config.stem_dim * (config.patch_samples // stride)
        self.patch_embed = Linear(n_features, config.dim)
        self.amplitude_embed = None if config.scale_floor is None else Linear(config.n_leads, config.dim, bias=False)
        self.registers = nn.Parameter(torch.empty(config.num_registers, config.dim))
        self.blocks = nn.ModuleList(
            Block(
                PartialAttention(config.dim, config.num_heads, proj_bias=True),
                config.hidden_dim,
                bias=True,
                norm_bias=True,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        table = token_positions(config.lead_groups, config.n_patches, config.dim)
        self.register_buffer("positions_GPD", table, persistent=False)
        self.reset_parameters()

    @property
    def num_registers(self) -> int:
        """Number of tokens without position that precede the others."""
        return self.config.num_registers

    def reset_parameters(self) -> None:
        """Draw initial weights: convolutions that keep the signal's scale, all else by Xavier's rule.

        The transformer's usual small normal numbers make all attention of a narrow encoder alike, so that masked
        autoencoders are slow to begin with (He et al. draw theirs by Xavier's rule, too).
        """
        for scale in self.scales:
            assert isinstance(scale, nn.Conv1d)
            nn.init.trunc_normal_(scale.weight, std=scale.weight[0].numel() ** -0.5)
            assert scale.bias is not None
            nn.init.zeros_(scale.bias)
        nn.init.trunc_normal_(self.registers, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_xavier_(module)

    def stem(self, values_BLT: Tensor, leads: Sequence[int] | None = None) -> Tensor:
        """See the signal at every scale: (B, N, C S), without position, not yet brought to the width of a token.

        With one token for all leads `leads` are the present ones: the weights of others are left out, which equals
        feeding zeros for them. With a token for each lead all rows that come in are present.
        """
        n_windows, n_patches = values_BLT.shape[0], values_BLT.shape[2] // self.config.patch_samples
        index = None if leads is None else torch.as_tensor(leads, device=values_BLT.device)
        rows = values_BLT if index is None else values_BLT[:, index]
        rows = rows.flatten(0, 1)[:, None] if self.token_per_lead else rows
        seen = []
        for scale in self.scales:
            assert isinstance(scale, nn.Conv1d)
            weight = scale.weight if index is None else scale.weight[:, index]
            # Padded so that every width gives one value a stride.
            padding = (scale.kernel_size[0] - scale.stride[0]) // 2
            seen.append(F.conv1d(rows, weight, scale.bias, stride=scale.stride, padding=padding))
        features = F.gelu(torch.cat(seen, dim=1)).unflatten(2, (n_patches, -1))  # (B G, C, P, S)
        return features.transpose(1, 2).reshape(n_windows, -1, self.patch_embed.in_features)

    def _embed_amplitudes(self, amplitudes_BL: Tensor, leads: Sequence[int] | None) -> Tensor:
        """Turn the leads' amplitudes into one vector (B, D); the weights of absent leads are left out."""
        assert self.amplitude_embed is not None, "asked of an encoder without amplitudes"
        if leads is None:
            embedded: Tensor = self.amplitude_embed(amplitudes_BL)
            return embedded
        index = torch.as_tensor(leads, device=amplitudes_BL.device)
        return linear(amplitudes_BL[:, index], self.amplitude_embed.weight[:, index], None)

    def _places(self, visible_BK: Tensor) -> Tensor | None:
        """Return which places hold a token, registers first; None where all are known to, or seen to on a CPU."""
        if not self.may_lack_tokens:
            return None
        there_BK = visible_BK >= 0
        if there_BK.device.type == "cpu" and bool(there_BK.all()):
            return None
        return F.pad(there_BK, (self.num_registers, 0), value=True)

    def hidden_states(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens (B, R + N, D) after each block, before the final norm.

        `visible_BK` are numbers of tokens among those of the present leads, lead after lead; -1 where there is none.
        """
        positions_GPD = self.positions_GPD[:, : values_BLT.shape[2] // self.config.patch_samples]
        if leads is not None and self.token_per_lead:
            index = torch.as_tensor(leads, device=values_BLT.device)
            values_BLT, positions_GPD, leads = values_BLT[:, index], positions_GPD[index], None
        positions_ND, there_BK = positions_GPD.flatten(0, 1), None
        share_B1: Tensor | float = 1.0
        if visible_BK is not None:
            values_BLT = _silence_hidden(values_BLT, visible_BK, positions_GPD.shape[0], positions_GPD.shape[1])
            # Silenced slices are zeros: without the share, what is hidden would make a lead look smaller.
            share_B1 = (visible_BK >= 0).sum(dim=1, keepdim=True) / positions_GPD.shape[1]
        amplitudes_B1D = None
        if self.config.scale_floor is not None:
            values_BLT, amplitudes_BL = shapes_and_amplitudes(values_BLT, share_B1, self.config.scale_floor)
            amplitudes_B1D = self._embed_amplitudes(amplitudes_BL, leads)[:, None]
        features = self.stem(values_BLT, leads)
        if visible_BK is not None:
            number_BK = visible_BK.clamp(min=0)
            features, positions_ND = gather_tokens(features, number_BK), positions_ND[number_BK]
            there_BK = self._places(visible_BK)
        tokens = self.patch_embed(features)
        tokens = tokens + positions_ND.to(tokens.dtype)
        if amplitudes_B1D is not None:
            tokens = tokens + amplitudes_B1D
        registers = self.registers.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([registers, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens) if there_BK is None else block(tokens, there_BK)
            yield tokens


def token_positions(lead_groups: int, n_patches: int, dim: int) -> Tensor:
    """Return the position table of tokens of all leads, or of single ones.

    Returns
    -------
    Tensor of shape (lead_groups, n_patches, dim), float32
        Of the slice alone, or half of it and half of the lead.
    """
    if lead_groups > 1:
        return grid_positions(lead_groups, n_patches, dim).float()
    return sincos_positions(torch.arange(n_patches), dim).flatten(1).float()[None]


def shapes_and_amplitudes(values_BLT: Tensor, seen_share: Tensor | float, floor: float) -> tuple[Tensor, Tensor]:
    """Divide each lead by its root mean square, and give the logarithm of that over the floor: 0 for an absent lead.

    What is hidden has been silenced; the mean is over the share (B, 1) of the window that is seen.
    """
    # Squares of small voltages vanish in half precision.
    values_BLT = values_BLT.float()
    scale_BL = (values_BLT.square().mean(dim=-1) / seen_share + floor**2).sqrt()
    return values_BLT / scale_BL[..., None], (scale_BL / floor).log()


def _silence_hidden(values_BLT: Tensor, visible_BK: Tensor, n_groups: int, n_patches: int) -> Tensor:
    """Put zeros wherever no visible token looks."""
    # One place more, for those that hold no token.
    number_BK = torch.where(visible_BK < 0, n_groups * n_patches, visible_BK)
    hidden = torch.ones(values_BLT.shape[0], n_groups * n_patches + 1, dtype=torch.bool, device=values_BLT.device)
    hidden = hidden.scatter(1, number_BK, False)[:, :-1].unflatten(1, (n_groups, n_patches))
    return values_BLT.unflatten(2, (n_patches, -1)).masked_fill(hidden[..., None], 0.0).flatten(2)
