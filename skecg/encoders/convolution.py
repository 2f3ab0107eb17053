"""Convolutions along time, channels last, that are laid out once for a CPU where they are not trained.

Torch's ``nn.Conv1d`` takes up to five times as long on a CPU as the same convolution of an image of one row with
channels last, which goes to oneDNN as it is. That library can also add another array and cut off what is negative while
a result is still in the processor's registers (:class:`PackedConvolution`): the arrays between a residual network's
convolutions are large and its kernels short, so that passes over memory are a quarter of its time.

Shapes: B windows, T samples or steps, C channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders.linear import can_multiply_bfloat16, replace_layers_

__all__ = ["CentredConvolution", "PackedConvolution", "pack_convolutions_"]

# The layout is chosen for so much; any number of windows of any length can be convolved.
_WINDOWS, _STEPS = 8, 1250


class CentredConvolution(nn.Module):
    """A convolution of (B, T, C) along time; half a kernel of zeros lies beyond both ends.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    kernel : int
        Steps that it spans, an odd number.
    stride : int, default=1
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(n_out, n_in, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Convolve."""
        padding = (0, self.weight.shape[-1] // 2)
        return _steps(F.conv2d(_image(x_BTC), self.weight[:, :, None], self.bias, (1, self.stride), padding))

    def relu(self, x_BTC: Tensor) -> Tensor:
        """Convolve, and cut off what is negative."""
        return F.relu(self(x_BTC))

    def add_relu(self, x_BTC: Tensor, shortcut_BTC: Tensor) -> Tensor:
        """Convolve, add an array, and cut off what is negative."""
        return F.relu(self(x_BTC) + shortcut_BTC)


class PackedConvolution(nn.Module):
    """A convolution for inference on this CPU, of float32 tensors, in the precision that it was packed for.

    It has no parameters: it is neither trained nor saved, moved or copied.

    Parameters
    ----------
    source : CentredConvolution
        On the CPU.
    dtype : torch.dtype
        Of the weights, and of what the layer gives; what it is given is rounded to it.
    """

    bias: Tensor

    def __init__(self, source: CentredConvolution, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        # A buffer, by which an encoder of nothing but packed layers still tells where it is.
        self.register_buffer("bias", source.bias.detach().to(dtype), persistent=False)
        self._geometry = _geometry(source.weight.shape[-1], source.stride)
        self._weight = _pack(source.weight.detach().to(dtype), self._geometry)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Convolve."""
        return self._convolve(x_BTC, "none")

    def relu(self, x_BTC: Tensor) -> Tensor:
        """Convolve, and cut off what is negative."""
        return self._convolve(x_BTC, "relu")

    def add_relu(self, x_BTC: Tensor, shortcut_BTC: Tensor) -> Tensor:
        """Convolve, add an array, and cut off what is negative."""
        image, shortcut = _image(x_BTC.to(self._dtype)), _image(shortcut_BTC.to(self._dtype))
        convolved = _onednn().binary(
            image, shortcut, self._weight, self.bias, *self._geometry, "add", None, "relu", [], None
        )
        return _steps(convolved)

    def _convolve(self, x_BTC: Tensor, activation: str) -> Tensor:
        image = _image(x_BTC.to(self._dtype))
        return _steps(_onednn()(image, self._weight, self.bias, *self._geometry, activation, [], ""))


def pack_convolutions_(module: nn.Module, precision: str) -> None:
    """Pack the convolutions inside a module that is never trained again, where torch can on this CPU.

    Parameters
    ----------
    module : nn.Module
        On the CPU.
    precision : {"fp32", "bf16"}
        What the layers will be asked to compute in, ever.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def packed(layer: nn.Module) -> nn.Module | None:
        if isinstance(layer, CentredConvolution) and layer.weight.dtype == torch.float32 and _can_pack(dtype):
            return PackedConvolution(layer, dtype)
        return None

    replace_layers_(module, packed)


@functools.cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Check whether this torch packs convolutions of a type for this processor, by doing it."""
    if dtype == torch.bfloat16 and not can_multiply_bfloat16():
        return False
    geometry, x_BTC = _geometry(3, 1), torch.zeros(1, 8, 16, dtype=dtype)
    try:
        packed, image = _pack(torch.zeros(16, 16, 3, dtype=dtype), geometry), _image(x_BTC)
        _onednn().binary(image, image, packed, x_BTC[0, 0], *geometry, "add", None, "relu", [], None)
    except (AttributeError, RuntimeError):  # it has no such operation; it has, and not for this
        return False
    return True


def _geometry(kernel: int, stride: int) -> tuple[list[int], list[int], list[int], int]:
    """Return padding, stride and dilation of an image of one row, and the number of groups."""
    return [0, kernel // 2], [1, stride], [1, 1], 1


def _pack(weight_OIK: Tensor, geometry: tuple[list[int], list[int], list[int], int]) -> Tensor:
    """Lay weights out as oneDNN wants them on this processor."""
    image = weight_OIK[:, :, None].contiguous(memory_format=torch.channels_last)
    reorder: Callable[..., Tensor] = torch.ops.mkldnn._reorder_convolution_weight
    return reorder(image, *geometry, [_WINDOWS, image.shape[1], 1, _STEPS])


def _onednn() -> Any:
    """Return oneDNN's convolution, to which torch gives no name of its own."""
    return torch.ops.mkldnn._convolution_pointwise


def _image(x_BTC: Tensor) -> Tensor:
    """Return steps as an image of one row: memory in the order of channels last is what (B, T, C) is already."""
    return x_BTC.mT[:, :, None]


def _steps(image_BC1T: Tensor) -> Tensor:
    return image_BC1T[:, :, 0].mT
