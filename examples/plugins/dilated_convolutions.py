"""An encoder from outside: dilated convolutions instead of a transformer, registered for training and for use.

One file holds its configuration, its layers and a recipe. Name it where it is needed, or install it with an entry point
of the group ``skecg.plugins``::

    python -m pretraining train --recipe examples/plugins/dilated_convolutions.py --data shards --out run
    python -m pretraining export --plugin examples/plugins/dilated_convolutions.py --run run --out weights
    skecg embed --plugin examples/plugins/dilated_convolutions.py --model ./weights ...

Shapes: B windows, L leads, T samples, N slices of time, K visible ones, D width of a token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders import PatchEncoder, register_encoder
from skecg.encoders.base import gather_tokens
from skecg.spec import PatchEncoderConfig


@dataclass(frozen=True)
class DilatedConfig(PatchEncoderConfig):
    """A convolution makes a token of each slice of time; residual ones of growing dilation mix the tokens."""

    architecture: ClassVar[str] = "dilated"

    num_heads: int = 1
    kernel_tokens: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("kernel_tokens")
        self._require(self.kernel_tokens % 2 == 1, "kernel_tokens", "an odd number")

    def flops(self, slices: float) -> float:
        """Count a forward pass; hidden slices are computed as zeros, so they cost as much as those that are seen."""
        embedded = 2 * self.n_leads * self.patch_samples * self.dim
        return self.n_patches * (embedded + self.depth * 2 * (self.kernel_tokens + 1) * self.dim**2)


class DilatedBlock(nn.Module):
    """A dilated convolution over tokens and one that mixes their features, added to what came in."""

    def __init__(self, config: DilatedConfig, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.over_time = nn.Conv1d(config.dim, config.dim, config.kernel_tokens, padding="same", dilation=dilation)
        self.over_features = nn.Linear(config.dim, config.dim)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Transform tokens (B, N, D)."""
        mixed = self.over_time(self.norm(tokens_BND).transpose(1, 2)).transpose(1, 2)
        return tokens_BND + self.over_features(F.gelu(mixed))


class DilatedEncoder(PatchEncoder):
    """Tokens of all leads; what is hidden is silenced before the first convolution, and left out after the last."""

    def __init__(self, config: DilatedConfig) -> None:
        super().__init__(config)
        self.patch_embed = nn.Linear(config.n_leads * config.patch_samples, config.dim)
        self.blocks = nn.ModuleList(DilatedBlock(config, 2 ** (number % 6)) for number in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def hidden_states(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens after each block, before the final norm; an absent lead is one of zeros."""
        if leads is not None:
            present = torch.zeros(values_BLT.shape[1], 1, dtype=values_BLT.dtype, device=values_BLT.device)
            present[list(leads)] = 1
            values_BLT = values_BLT * present
        tokens = self.patch_embed(values_BLT.unflatten(2, (-1, self.config.patch_samples)).transpose(1, 2).flatten(2))
        if visible_BK is not None:
            seen = torch.zeros(tokens.shape[:2], dtype=tokens.dtype, device=tokens.device).scatter(1, visible_BK, 1.0)
            tokens = tokens * seen[..., None]
        for block in self.blocks:
            tokens = block(tokens)
            yield tokens if visible_BK is None else gather_tokens(tokens, visible_BK)


register_encoder(DilatedConfig, DilatedEncoder)

# Where only `skecg` is installed, the encoder can be used, and the trainer has no part in it.
try:
    from pretraining.config import PretrainConfig
    from pretraining.recipes import load_recipe, register_recipe
except ModuleNotFoundError:
    pass
else:

    @register_recipe
    def dilated() -> PretrainConfig:
        """skecg_default with dilated convolutions instead of its encoder."""
        default = load_recipe("skecg_default")
        shape = DilatedConfig(n_leads=12, patch_samples=10, n_patches=100, dim=192, depth=6)
        return dataclasses.replace(default, name="dilated", encoder=shape)
