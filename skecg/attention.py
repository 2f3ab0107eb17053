"""Attention as products of many small matrices, by the faster of the libraries at hand.

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
from torch import Tensor
from torch.nn import functional as F

from skecg.blas import find_openblas
from skecg.products import has_faster_products, is_computed_now, needs_grad

__all__ = ["attend", "small_products"]

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
