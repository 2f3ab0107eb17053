"""Transformer parts shared by the architectures.

Shapes: B windows, N tokens, D width of a token, H attention heads, d = D / H, C leads, P slices of time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders.linear import Linear

__all__ = ["Attention", "Block", "CropaAttention", "Mlp", "attend", "init_linear_", "init_xavier_", "sincos_positions"]

# So many tokens' logits are 6 MB a head with their softmax, no more than an encoder's other arrays of so long a window;
# a gradient keeps those of every block.
_MOST_TOKENS, _MOST_TOKENS_WITH_GRADIENT = 1024, 512


def attend(q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor) -> Tensor:
    """Compute softmax(q kᵀ / √d) v (Vaswani et al., 2017), which is torch's scaled_dot_product_attention to rounding.

    Parameters
    ----------
    q_BHNd, k_BHNd, v_BHNd : Tensor of shape (B, H, N, d)
        Queries, keys and values.

    Returns
    -------
    Tensor of shape (B, N, H · d)
        The heads side by side.
    """
    # With torch's fused kernel for the CPU an encoder in bfloat16 takes 10 to 20 % more time than with two products of
    # oneDNN's, and with its gradient five times as much for a hundred tokens. The products hold all logits at once.
    most = _MOST_TOKENS_WITH_GRADIENT if torch.is_grad_enabled() else _MOST_TOKENS
    if q_BHNd.shape[2] <= most and q_BHNd.is_cpu and q_BHNd.dtype == torch.bfloat16:
        logits = (q_BHNd * (1.0 / math.sqrt(q_BHNd.shape[-1]))) @ k_BHNd.mT
        mixed = logits.softmax(dim=-1).to(v_BHNd.dtype) @ v_BHNd
    else:
        mixed = F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd)
    return mixed.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention in which every token sees every token.

    Parameters
    ----------
    dim, num_heads : int
        Width of a token and number of heads.
    proj_bias : bool
        Whether the output projection has a bias; queries, keys and values have none.
    """

    def __init__(self, dim: int, num_heads: int, *, proj_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        # One product for all three.
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.proj = Linear(dim, dim, bias=proj_bias)

    def heads(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values, each (B, H, N, d)."""
        B, N, D = x_BND.shape
        qkv_BN3Hd = self.qkv(x_BND).view(B, N, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv_BN3Hd.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, x_BND: Tensor) -> Tensor:
        """Mix tokens (B, N, D) by attention."""
        return self.proj(attend(*self.heads(x_BND)))


class CropaAttention(Attention):
    """Cross-pattern attention: a token sees its own lead and its own instant, nothing else.

    The published system masks a dense (C P)² matrix of logits. Here each token's P + C - 1 admissible logits are
    computed alone (its lead's P, and its instant's C less itself), normalized together, and applied in two
    products; the result is the same to rounding (Kim, arXiv:2410.08559, section 3.2).
    """

    def forward(self, x_BND: Tensor, n_leads: int = 1) -> Tensor:
        """Mix tokens (B, C P, D), lead after lead, of `n_leads` = C leads."""
        grid = (n_leads, x_BND.shape[1] // n_leads)
        q, k, v = (part.unflatten(2, grid) for part in self.heads(x_BND))  # (B, H, C, P, d)
        # Before the products: the query has fewer numbers than the logits.
        q = q * (1.0 / math.sqrt(q.shape[-1]))
        along_lead = q @ k.mT  # (B, H, C, P, P)
        q_t, k_t, v_t = (part.transpose(2, 3) for part in (q, k, v))  # (B, H, P, C, d)
        at_instant = q_t @ k_t.mT  # (B, H, P, C, C)
        itself = torch.eye(n_leads, dtype=torch.bool, device=q.device)
        at_instant = at_instant.masked_fill(itself, -math.inf)  # counted once already, along the lead
        # One softmax over both, as if a token attended to its row and its column of the grid at once.
        logits = torch.cat([along_lead, at_instant.transpose(2, 3)], dim=-1)
        weights = logits.softmax(dim=-1).to(v.dtype)
        by_lead, by_instant = weights.split([grid[1], n_leads], dim=-1)
        mixed = by_lead @ v + (by_instant.transpose(2, 3) @ v_t).transpose(2, 3)
        return self.proj(mixed.flatten(2, 3).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim, bias=bias)
        self.fc2 = Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform the last dimension."""
        return self.fc2(self.fc1.gelu(x))


class Block(nn.Module):
    """A pre-norm transformer block: attention, then an MLP, each added to its input.

    Parameters
    ----------
    attention : Attention
        How tokens are mixed; further arguments of :meth:`forward` are its own.
    hidden_dim : int
        Width of the MLP's hidden layer.
    bias, norm_bias : bool
        Whether the MLP and the norms have biases.
    norm_eps : float
        What LayerNorm adds to the variance.
    """

    def __init__(self, attention: Attention, hidden_dim: int, *, bias: bool, norm_bias: bool, norm_eps: float) -> None:
        super().__init__()
        dim = attention.proj.out_features
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps, bias=norm_bias)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps, bias=norm_bias)
        self.mlp = Mlp(dim, hidden_dim, bias=bias)

    def forward(self, x_BND: Tensor, *args: int | Tensor) -> Tensor:
        """Transform tokens (B, N, D)."""
        x_BND = x_BND + self.attn(self.norm1(x_BND), *args)
        return x_BND + self.mlp(self.norm2(x_BND))


def sincos_positions(positions: Tensor, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the sines and cosines of integer positions (Vaswani et al., 2017).

    Parameters
    ----------
    positions : Tensor of shape (N,)
        Positions, counted from 0.
    dim : int
        Even number of columns.
    dtype : torch.dtype
        Precision of the angles. It shows: a table computed in float32 differs by 2e-5 from one rounded to it.

    Returns
    -------
    Tensor of shape (N, dim / 2, 2)
        Last axis: sine and cosine of ``position * 10000 ** (-k / (dim / 2))`` for k = 0, 1, … The architectures lay
        the two out differently.
    """
    omega = torch.exp(torch.arange(dim // 2, dtype=dtype) * (-math.log(10000.0) / (dim // 2)))
    angles = positions.to(dtype)[:, None] * omega
    return torch.stack([angles.sin(), angles.cos()], dim=-1)


def init_linear_(linear: nn.Linear, std: float = 0.02) -> None:
    """Draw a linear layer's weights from a normal distribution cut at ±2 and clear its bias."""
    nn.init.trunc_normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def init_xavier_(linear: nn.Linear) -> None:
    """Draw a linear layer's weights from the uniform distribution of Glorot and Bengio (2010) and clear its bias."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
