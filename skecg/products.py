"""Linear layers by the faster of torch's two libraries for products of float32 matrices on a CPU.

Torch multiplies float32 matrices with Intel's MKL. On AMD's processors with AVX-512 that library leaves half of the
arithmetic unused: on one core of family 26 (Zen 5) it reaches 110 GFLOP/s where oneDNN, which torch brings too, reaches
250. Which of the two multiplies is decided by the processor and by the layer's shape, never by the clock and never by
the batch, so that the same machine always computes the same.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = [
    "Linear",
    "can_multiply_bfloat16",
    "gelu_linear",
    "goes_to_onednn",
    "has_faster_products",
    "is_computed_now",
    "linear",
    "multiply_with_onednn",
    "needs_grad",
]

# Below this many weights oneDNN's few microseconds of preparation are more than it saves.
_FEWEST_WEIGHTS = 2**14


class Linear(nn.Linear):
    """``torch.nn.Linear``, same weights and same results to rounding, through :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform the last dimension."""
        return linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """Give the exact (erf) GELU of :meth:`forward`, through :func:`gelu_linear`."""
        return gelu_linear(x, self.weight, self.bias)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Give ``x @ weight.T + bias``, which is ``torch.nn.functional.linear`` to rounding.

    Parameters
    ----------
    x : Tensor of shape (..., n_in)
    weight_OI : Tensor of shape (n_out, n_in)
    bias_O : Tensor of shape (n_out,), optional

    Returns
    -------
    Tensor of shape (..., n_out)
        Differentiable, also twice. Whatever is not a float32 matrix on this CPU, computed now, is left to torch:
        other devices and types, autocast, and passes that are compiled, exported or traced.
    """
    if _is_for_onednn(x, weight_OI):
        return _product(x, weight_OI, bias_O)
    return F.linear(x, weight_OI, bias_O)


def gelu_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Give the exact (erf) GELU of :func:`linear`, without a second array of its size when no gradient is wanted.

    Parameters
    ----------
    x : Tensor of shape (..., n_in)
    weight_OI : Tensor of shape (n_out, n_in)
    bias_O : Tensor of shape (n_out,), optional

    Returns
    -------
    Tensor of shape (..., n_out)
    """
    if not needs_grad(x, weight_OI, bias_O):
        if _is_for_onednn(x, weight_OI):
            return multiply_with_onednn(x, weight_OI, bias_O, gelu=True)
        if _is_cast_to_bfloat16(x):
            bias_O = None if bias_O is None else bias_O.bfloat16()
            return multiply_with_onednn(x.bfloat16(), weight_OI.bfloat16(), bias_O, gelu=True)
    return F.gelu(linear(x, weight_OI, bias_O))


@functools.cache
def has_faster_products() -> bool:
    """Say whether this machine's linear layers in float32 go to oneDNN: AMD's processors with AVX-512."""
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and "AuthenticAMD" in _processor()
    )


def _processor() -> str:
    """Describe the processor; its vendor is in it."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")[:4096]
    except OSError:
        return platform.processor()


def _is_for_onednn(x: Tensor, weight_OI: Tensor) -> bool:
    return (
        is_computed_now(x)  # first: a compiler could not look further
        and not torch.is_autocast_enabled("cpu")
        and goes_to_onednn(weight_OI)
        and x.is_cpu
        and x.dtype == weight_OI.dtype == torch.float32
        and x.ndim > 1
        and x.numel() > 0
    )


def goes_to_onednn(weight_OI: Tensor) -> bool:
    """Say whether this machine multiplies by a weight of float32 with oneDNN, rather than with MKL."""
    return has_faster_products() and weight_OI.numel() >= _FEWEST_WEIGHTS


def _is_cast_to_bfloat16(x: Tensor) -> bool:
    """Say whether autocast lets this CPU multiply in bfloat16, which oneDNN does in any case."""
    return (
        is_computed_now(x)
        and x.is_cpu
        and x.ndim > 1
        and x.numel() > 0
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and can_multiply_bfloat16()
    )


@functools.cache
def can_multiply_bfloat16() -> bool:
    """Say whether oneDNN multiplies in bfloat16 on this machine."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def is_computed_now(x: Tensor) -> bool:
    """Say whether torch runs operations as they come, instead of watching, rewriting or lowering them."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and torch._C._get_tracing_state() is None
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def _product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Multiply with oneDNN, differentiably if need be."""
    if not is_computed_now(x):
        return F.linear(x, weight_OI, bias_O)  # a gradient whose derivative somebody takes in a way of their own
    if needs_grad(x, weight_OI, bias_O):
        differentiable: Tensor = _Product.apply(x, weight_OI, bias_O)
        return differentiable
    return multiply_with_onednn(x, weight_OI, bias_O)


def needs_grad(*tensors: Tensor | None) -> bool:
    """Say whether torch has to remember what becomes of tensors, for a gradient."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def multiply_with_onednn(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, *, gelu: bool = False) -> Tensor:
    """Give ``x @ weight.T + bias``, or its GELU; this operation of torch's has no gradient of its own.

    Parameters
    ----------
    x : Tensor of shape (..., n_in)
        Of float32 or bfloat16, on the CPU, as all of them.
    weight_OI : Tensor of shape (n_out, n_in)
        Also in a layout of oneDNN's own.
    bias_O : Tensor of shape (n_out,) or None
    gelu : bool, default=False
    """
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, activation, [], algorithm)
    return product


class _Product(torch.autograd.Function):
    """A linear layer and its gradients, which are products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        return multiply_with_onednn(x, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight_OI = ctx.saved_tensors
        rows, outs = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(grad, weight_OI.t()) if needs_x else None,
            _product(outs.t(), rows.t()) if needs_weight else None,
            outs.sum(0) if needs_bias else None,
        )
