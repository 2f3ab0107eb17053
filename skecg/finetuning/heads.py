"""What turns the tokens of a window into logits.

Shapes: B windows, R registers, N tokens, D width of a token, F pooled features, H heads, d = D / H, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skecg.encoders import Encoder
from skecg.errors import ParameterError
from skecg.finetuning.network import Head
from skecg.pooling import n_pooled_features, pool_tokens

__all__ = ["HEADS", "AttentionHead", "LinearHead", "build_head"]

#: What the name of a head stands for.
HEADS = ("linear", "attention")


class LinearHead(Head):
    """Pooled tokens, standardized by constants, and a linear layer that begins at zero.

    Parameters
    ----------
    dim, num_registers : int
        Of the encoder.
    n_outputs : int
    pooling : str
        See :func:`skecg.pooling.pool_tokens`.
    """

    kind = "linear"
    center: Tensor
    scale: Tensor

    def __init__(self, *, dim: int, num_registers: int, n_outputs: int, pooling: str) -> None:
        super().__init__(dim=dim, num_registers=num_registers, n_outputs=n_outputs, pooling=pooling)
        self.num_registers, self.pooling = num_registers, pooling
        n_features = n_pooled_features(pooling, dim, 1, num_registers)
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.linear = nn.utils.skip_init(nn.Linear, n_features, n_outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Give the logits (B, C) of windows."""
        pooled_BF = pool_tokens([tokens_BND], self.num_registers, self.pooling)
        logits: Tensor = self.linear((pooled_BF - self.center) / self.scale)
        return logits


class AttentionHead(Head):
    """One learned query that looks at all tokens, registers too, and a linear layer (Weimann and Conrad, 2025).

    Parameters
    ----------
    dim : int
        Of the encoder, a multiple of `num_heads`.
    num_heads : int
    n_outputs : int
    seed : int
        Draws the first weights.
    """

    kind = "attention"

    def __init__(self, *, dim: int, num_heads: int, n_outputs: int, seed: int = 0) -> None:
        super().__init__(dim=dim, num_heads=num_heads, n_outputs=n_outputs, seed=seed)
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.empty(dim))
        # Left empty: what torch would fill them with comes from a generator that belongs to the user.
        empty = nn.utils.skip_init
        self.to_query = empty(nn.Linear, dim, dim, bias=False)
        self.to_keys_values = empty(nn.Linear, dim, 2 * dim, bias=False)
        self.linear = empty(nn.Linear, dim, n_outputs)
        generator = torch.Generator().manual_seed(seed)
        # A small query attends evenly at first: training starts from the mean over tokens.
        nn.init.normal_(self.query, std=0.02, generator=generator)
        for layer in (self.to_query, self.to_keys_values, self.linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Give the logits (B, C) of windows."""
        B, N, D = tokens_BND.shape
        H = self.num_heads
        query_BHd = self.to_query(self.query).view(1, H, 1, D // H).expand(B, -1, -1, -1)
        keys_BHNd, values_BHNd = self.to_keys_values(tokens_BND).view(B, N, 2, H, D // H).permute(2, 0, 3, 1, 4)
        gathered_BHd = nn.functional.scaled_dot_product_attention(query_BHd, keys_BHNd, values_BHNd)
        logits: Tensor = self.linear(gathered_BHd.flatten(1))
        return logits


def build_head(kind: str, encoder: Encoder, n_outputs: int, pooling: str, seed: int) -> Head:
    """Build the head of that name for an encoder."""
    dim = encoder.config.dim
    if kind == "linear":
        return LinearHead(dim=dim, num_registers=encoder.num_registers, n_outputs=n_outputs, pooling=pooling)
    if kind == "attention":
        return AttentionHead(dim=dim, num_heads=encoder.config.num_heads, n_outputs=n_outputs, seed=seed)
    raise ParameterError(f"Got head={kind!r}, expected one of {', '.join(map(repr, HEADS))}.")
