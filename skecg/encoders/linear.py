"""Linear layers by the faster of torch's two libraries for products of float32 matrices on a CPU.

Torch multiplies float32 matrices with Intel's MKL. On AMD's processors with AVX-512 that library leaves half of the
arithmetic unused: on one core of family 26 (Zen 5) it reaches 110 GFLOP/s where oneDNN, which torch brings too, reaches
250. Which of the two multiplies is decided by the processor and by the layer's shape, never by the clock and never by
the batch, so that the same machine always computes the same.

oneDNN lays out a weight anew for every product, in blocks of its own; in bfloat16 it is rounded anew, too. Layers that
are not trained do it once (:class:`PackedLinear`), and compute the same bits; a lone row of float32 is the exception,
which plain weights multiply by another kernel.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = [
    "Linear",
    "PackedLinear",
    "can_multiply_bfloat16",
    "goes_to_onednn",
    "has_faster_products",
    "linear",
    "pack_linear_layers_",
    "replace_layers_",
]

# Below this many weights oneDNN's few microseconds of preparation are more than it saves.
_FEWEST_WEIGHTS = 2**14

# The layout is chosen for so many rows; any number of them can be multiplied.
_ROWS = 800


class Linear(nn.Linear):
    """``torch.nn.Linear``, same weights and same results to rounding, through :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform the last dimension."""
        return linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """Compute the exact (erf) GELU of :meth:`forward`."""
        return F.gelu(self(x))


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.T + bias``, which is ``torch.nn.functional.linear`` to rounding.

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


@functools.cache
def has_faster_products() -> bool:
    """Check whether this machine's linear layers in float32 go to oneDNN: AMD's processors with AVX-512."""
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        # Where MKL falls behind: docs/decisions/0010-linear-layers.md.
        and "AuthenticAMD" in _processor()
    )


def _processor() -> str:
    """Return what the system says of the processor; its vendor is in it."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")[:4096]
    except OSError:
        return platform.processor()


def _is_for_onednn(x: Tensor, weight_OI: Tensor) -> bool:
    return (
        _is_computed_now(x)  # first: a compiler could not look further
        and not torch.is_autocast_enabled("cpu")
        and goes_to_onednn(weight_OI)
        and x.is_cpu
        and x.dtype == weight_OI.dtype == torch.float32
        and x.ndim > 1
        and x.numel() > 0
    )


def goes_to_onednn(weight_OI: Tensor) -> bool:
    """Check whether this machine multiplies by a weight of float32 with oneDNN, rather than with MKL."""
    return has_faster_products() and weight_OI.numel() >= _FEWEST_WEIGHTS


@functools.cache
def can_multiply_bfloat16() -> bool:
    """Check whether oneDNN multiplies in bfloat16 on this machine."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _is_computed_now(x: Tensor) -> bool:
    """Check whether torch runs operations as they come, instead of watching, rewriting or lowering them."""
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
    if not _is_computed_now(x):
        return F.linear(x, weight_OI, bias_O)  # a gradient whose derivative somebody takes in a way of their own
    if _needs_grad(x, weight_OI, bias_O):
        differentiable: Tensor = _Product.apply(x, weight_OI, bias_O)
        return differentiable
    return _multiply_with_onednn(x, weight_OI, bias_O)


def _needs_grad(*tensors: Tensor | None) -> bool:
    """Check whether torch has to remember what becomes of tensors, for a gradient."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _multiply_with_onednn(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, *, gelu: bool = False) -> Tensor:
    """Compute ``x @ weight.T + bias``, or its GELU; this operation of torch's has no gradient of its own.

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
        # Without the bias, whose gradient does not depend on its value.
        ctx.save_for_backward(x, weight_OI)
        return _multiply_with_onednn(x, weight_OI, bias_O)

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


def _pack(weight_OI: Tensor) -> Tensor:
    """Lay weights out as oneDNN wants them on this processor."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI, _ROWS)
    return packed


class PackedLinear(nn.Module):
    """A linear layer for inference on this CPU, of float32 tensors, in the precision that it was packed for.

    It has no parameters: it is neither trained nor saved, moved or copied.

    Parameters
    ----------
    source : Linear
        On the CPU.
    dtype : torch.dtype
        Of the weights, and of what the layer gives; what it is given is rounded to it.
    """

    def __init__(self, source: Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._bias_O = None if source.bias is None else source.bias.detach().to(dtype)
        self._packed_OI = _pack(source.weight.detach().to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Transform the last dimension."""
        return _multiply_with_onednn(x.to(self._dtype), self._packed_OI, self._bias_O)

    def gelu(self, x: Tensor) -> Tensor:
        """Compute the exact (erf) GELU of :meth:`forward`."""
        return _multiply_with_onednn(x.to(self._dtype), self._packed_OI, self._bias_O, gelu=True)


def pack_linear_layers_(module: nn.Module, precision: str) -> None:
    """Pack the linear layers inside a module that is never trained again, where this CPU gains by it.

    Parameters
    ----------
    module : nn.Module
        On the CPU.
    precision : {"fp32", "bf16"}
        What the layers will be asked to compute in, ever.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    replace_layers_(
        module, lambda layer: PackedLinear(layer, dtype) if isinstance(layer, Linear) and _gains(layer, dtype) else None
    )


def replace_layers_(module: nn.Module, substitute: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put what `substitute` makes of a layer in its place, at any depth; where it returns None, the layer stays."""
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if (other := substitute(layer)) is not None:
                setattr(parent, name, other)


def _gains(layer: Linear, dtype: torch.dtype) -> bool:
    """Check whether oneDNN would multiply a layer's weights in any case, and can pack them."""
    if layer.weight.dtype != torch.float32:
        return False
    multiplies = can_multiply_bfloat16() if dtype == torch.bfloat16 else goes_to_onednn(layer.weight)
    return multiplies and _can_pack(dtype)


@functools.cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Check whether this torch packs weights of a type for this processor, by doing it."""
    try:
        # Not a layer: its weights would be drawn from the user's random numbers, or skipped by way of sympy.
        packed = _pack(torch.zeros(16, 16, dtype=dtype))
        _multiply_with_onednn(torch.zeros(2, 16, dtype=dtype), packed, torch.zeros(16, dtype=dtype))
    except (AttributeError, RuntimeError):  # it has no such operation; it has, and not for this
        return False
    return True
