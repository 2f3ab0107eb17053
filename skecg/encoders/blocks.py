"""Transformer parts shared by the architectures.

Shapes: B windows, N tokens, D width of a token, H attention heads, d = D / H, C leads, P slices of time.

Attention as products of many small matrices, by the faster of the libraries at hand.

Torch multiplies small float32 matrices with Intel's MKL too, which on AMD's processors with AVX-512 leaves more than
half of the arithmetic unused: 24 products of 100 x 64 by 64 x 100 reach 105 GFLOP/s there, and 250 with the OpenBLAS
that NumPy brings. The processor, NumPy's library and the number of threads decide, never the clock and never the batch.

Shapes: B windows, H heads, N tokens, d width of a head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.compute.devices import find_openblas
from skecg.encoders.linear import Linear, has_faster_products, is_computed_now, needs_grad

__all__ = [
    "Attention",
    "Block",
    "CropaAttention",
    "Mlp",
    "attend",
    "init_linear_",
    "init_xavier_",
    "sincos_positions",
    "small_products",
]


# Logits of so many bytes stay near the processor; those of other windows, or other heads, are made after them.
_LOGITS_BYTES = 2**20


# Between these, neither a sum, nor what counts in it, nor its values' mixture is near float32's limits.
_LEAST_SUM, _LARGEST_SUM = 2.0**-60, 2.0**60


def attend(qkv_BN3Hd: Tensor) -> Tensor:
    """Give softmax(q kᵀ / √d) v (Vaswani et al., 2017), which is torch's scaled_dot_product_attention to rounding.

    Parameters
    ----------
    qkv_BN3Hd : Tensor of shape (B, N, 3, H, d)
        Queries, keys and values.

    Returns
    -------
    Tensor of shape (B, N, H · d)
        The heads side by side. Where NumPy multiplies, all of it is computed in float32.
    """
    if not _is_for_numpy(qkv_BN3Hd):
        q, k, v = qkv_BN3Hd.permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    q, k, v = qkv_BN3Hd.float().permute(2, 0, 3, 1, 4).unbind(0)
    B, H, N, d = q.shape
    # Powers of two are the cheaper exponentials, in NumPy twice as fast as powers of e and four times as torch's.
    q, k_BHdN = q * (math.log2(math.e) / math.sqrt(d)), k.mT.contiguous()
    mixed_BNHd = q.new_empty(B, N, H, d)
    for some in _parts(B, H, 4 * N * N):
        terms, sums = _powers_of_two(q[some], k_BHdN[some])
        mixed_BHNd = mixed_BNHd.transpose(1, 2)[some]
        np.matmul(terms.numpy(), v[some].numpy(), out=mixed_BHNd.numpy())
        mixed_BHNd /= sums
    return mixed_BNHd.flatten(2)


def _powers_of_two(q: Tensor, k_T: Tensor) -> tuple[Tensor, Tensor]:
    """Give 2 to the power of each logit, and their sums over keys; each row has a factor of its own in both, mostly 1.

    A row's largest logit is taken off only where the sum would leave the middle of float32's range: looking for it in
    every row, and taking it off, is a tenth of attention. Each row's own sum decides.
    """
    with np.errstate(over="ignore"):
        logits = q.numpy() @ k_T.numpy()
        terms = torch.from_numpy(np.exp2(logits, out=logits))
    sums = terms.sum(dim=-1, keepdim=True)
    fits = (sums > _LEAST_SUM) & (sums < _LARGEST_SUM)
    if not fits.all():
        logits = q.numpy() @ k_T.numpy()
        shifted = torch.from_numpy(logits)
        shifted -= shifted.amax(dim=-1, keepdim=True).masked_fill_(fits, 0.0)
        terms = torch.from_numpy(np.exp2(logits, out=logits))
        sums = terms.sum(dim=-1, keepdim=True)
    return terms, sums


def _parts(n_windows: int, n_heads: int, head_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Divide windows, and the heads of a window that is large by itself, by what their logits take."""
    windows = max(1, _LOGITS_BYTES // (n_heads * head_bytes))
    heads = min(n_heads, max(1, _LOGITS_BYTES // head_bytes))
    for window, head in itertools.product(range(0, n_windows, windows), range(0, n_heads, heads)):
        yield slice(window, window + windows), slice(head, head + heads)


def small_products(a: Tensor, b: Tensor) -> Tensor:
    """Give ``a @ b`` for stacks of small matrices, which is ``torch.matmul`` to rounding.

    Parameters
    ----------
    a : Tensor of shape (..., n, k)
    b : Tensor of shape (..., k, m)

    Returns
    -------
    Tensor of shape (..., n, m)
    """
    if a.dtype == b.dtype == torch.float32 and _is_for_numpy(a, b):
        return torch.from_numpy(a.numpy() @ b.numpy())
    return a @ b


def _is_for_numpy(*tensors: Tensor) -> bool:
    """Say whether NumPy multiplies: on this CPU, now, on one thread, without a gradient, and with a better library."""
    return (
        all(is_computed_now(tensor) and tensor.is_cpu and tensor.numel() > 0 for tensor in tensors)
        and has_faster_products()
        and not needs_grad(*tensors)
        and torch.get_num_threads() == 1
        and _has_faster_small_products()
    )


def _has_faster_small_products() -> bool:
    """Say whether NumPy has a fast OpenBLAS that keeps to one thread."""
    openblas = find_openblas()
    return openblas is not None and openblas.is_fast and openblas.n_threads == 1


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
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.proj = Linear(dim, dim, bias=proj_bias)

    def heads(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give queries, keys and values, each (B, H, N, d)."""
        q, k, v = self._together(x_BND).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _together(self, x_BND: Tensor) -> Tensor:
        """Give queries, keys and values, (B, N, 3, H, d)."""
        B, N, D = x_BND.shape
        return self.qkv(x_BND).view(B, N, 3, self.num_heads, D // self.num_heads)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Mix tokens (B, N, D) by attention."""
        return self.proj(attend(self._together(x_BND)))


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
        q = q * (1.0 / math.sqrt(q.shape[-1]))
        along_lead = small_products(q, k.transpose(-1, -2))  # (B, H, C, P, P)
        q_t, k_t, v_t = (part.transpose(2, 3) for part in (q, k, v))  # (B, H, P, C, d)
        at_instant = small_products(q_t, k_t.transpose(-1, -2))  # (B, H, P, C, C)
        itself = torch.eye(n_leads, dtype=torch.bool, device=q.device)
        at_instant = at_instant.masked_fill(itself, -math.inf)  # counted once already, along the lead
        logits = torch.cat([along_lead, at_instant.transpose(2, 3)], dim=-1)
        weights = logits.softmax(dim=-1).to(v.dtype)
        by_lead, by_instant = weights.split([grid[1], n_leads], dim=-1)
        mixed = small_products(by_lead, v) + small_products(by_instant.transpose(2, 3), v_t).transpose(2, 3)
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
    """Give the sines and cosines of integer positions (Vaswani et al., 2017).

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
