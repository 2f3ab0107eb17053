"""One learned query that looks at all tokens of a crop: the head of protocol (b).

Shapes: B crops, N tokens, D width of a token, H heads, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AttentionHead", "decayed_groups"]


class AttentionHead(nn.Module):
    """Cross-attention of one learned query over tokens, and a linear layer (Weimann and Conrad, 2025).

    Neither normalization nor hidden layer: the query, its projection, keys and values without biases, and the map from
    what the query gathered to the classes (with a bias, which the published head lacks: the shares of rare labels are
    then known from the first steps on).

    Parameters
    ----------
    dim : int
        Width of a token, a multiple of `num_heads`.
    n_classes, num_heads : int
    generator : torch.Generator
        Draws the first weights.
    """

    def __init__(self, dim: int, n_classes: int, num_heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.empty(dim))
        # Left empty: what torch would fill them with comes from a generator that belongs to the user.
        empty = nn.utils.skip_init
        self.to_query = empty(nn.Linear, dim, dim, bias=False)
        self.to_keys_values = empty(nn.Linear, dim, 2 * dim, bias=False)
        self.to_classes = empty(nn.Linear, dim, n_classes)
        # A small query attends evenly at first: training starts from the mean over tokens.
        nn.init.normal_(self.query, std=0.02, generator=generator)
        for layer in (self.to_query, self.to_keys_values, self.to_classes):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(self.to_classes.bias)

    def forward(self, tokens_BND: Tensor, absent_BN: Tensor | None = None) -> Tensor:
        """Give the logits (B, C) of crops; tokens that are absent (padding) get no attention."""
        B, N, D = tokens_BND.shape
        H = self.num_heads
        query_HD = self.to_query(self.query).view(H, D // H)
        keys_BNHD, values_BNHD = self.to_keys_values(tokens_BND).view(B, N, 2, H, D // H).unbind(2)
        logits_BHN = torch.einsum("hd,bnhd->bhn", query_HD, keys_BNHD) * (D // H) ** -0.5
        if absent_BN is not None:
            logits_BHN = logits_BHN.masked_fill(absent_BN[:, None], float("-inf"))
        gathered_BHD = torch.einsum("bhn,bnhd->bhd", logits_BHN.softmax(dim=-1), values_BNHD)
        return self.to_classes(gathered_BHD.reshape(B, D))


def decayed_groups(head: AttentionHead, weight_decay: float) -> list[dict[str, object]]:
    """Give the optimizer's groups: matrices are decayed, the query and the bias are not."""
    matrices = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim == 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
