"""Linear layers whose weights are laid out once, the way oneDNN multiplies them.

oneDNN lays out a weight anew for every product, in blocks of its own; in bfloat16 it is rounded anew, too. For eight
windows of the default encoder that takes some 4 % of the time in float32 and 6 % in bfloat16, for one window 5 to
20 %. Layers that are not trained can do it once, and compute the same bits. (A lone row of float32 is multiplied by
another kernel where weights are plain.)
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from skecg.products import Linear, can_multiply_bfloat16, goes_to_onednn, multiply_with_onednn

__all__ = ["PackedLinear", "pack_linear_layers_"]

# The layout is chosen for so many rows; any number of them can be multiplied.
_ROWS = 800


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
        self._packed_OI = torch.ops.mkldnn._reorder_linear_weight(source.weight.detach().to(dtype), _ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """Transform the last dimension."""
        return multiply_with_onednn(x.to(self._dtype), self._packed_OI, self._bias_O)

    def gelu(self, x: Tensor) -> Tensor:
        """Give the exact (erf) GELU of :meth:`forward`."""
        return multiply_with_onednn(x.to(self._dtype), self._packed_OI, self._bias_O, gelu=True)


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
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, Linear) and _gains(layer, dtype):
                setattr(parent, name, PackedLinear(layer, dtype))


def _gains(layer: Linear, dtype: torch.dtype) -> bool:
    """Say whether oneDNN would multiply a layer's weights in any case, and can pack them."""
    if layer.weight.dtype != torch.float32:
        return False
    multiplies = can_multiply_bfloat16() if dtype == torch.bfloat16 else goes_to_onednn(layer.weight)
    return multiplies and _can_pack(dtype)


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Say whether this torch packs weights of a type for this processor, by doing it."""
    try:
        # Not initialized: that would take random numbers which are the user's.
        PackedLinear(nn.utils.skip_init(Linear, 16, 16), dtype)(torch.zeros(2, 16))
    except (AttributeError, RuntimeError):  # it has no such operation; it has, and not for this
        return False
    return True
