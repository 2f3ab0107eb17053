"""An encoder under a head: windows to outputs.

Shapes: B windows, L leads, T samples, R registers, N tokens, D width of a token.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skecg.encoders import Encoder, build_encoder
from skecg.spec import EncoderConfig
from skecg.weights import WeightsInfo, loaded_encoder

__all__ = ["Head", "Network", "copied_encoder"]


class Head(nn.Module):
    """What turns the tokens (B, R + N, D) of windows into outputs; registers come first.

    Parameters
    ----------
    **arguments
        What the class has to be called with to build a head of the same shape: plain values, which travel in pickles
        and in JSON.
    """

    #: What it is called in parameters and files.
    kind: ClassVar[str]

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Give the outputs of windows."""
        raise NotImplementedError


class Network(nn.Module):
    """An encoder and a head, trained together.

    Its pickle holds configurations and NumPy arrays only, on no device.

    Parameters
    ----------
    encoder : Encoder
        One of its own, see :func:`copied_encoder`.
    head : Head
        Takes tokens.
    """

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, values_BLT: Tensor, leads: Sequence[int] | None = None) -> Tensor:
        """Give the outputs of windows that have these leads (all when not given)."""
        outputs: Tensor = self.head(self.encoder(values_BLT, leads))
        return outputs

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give copies of all tensors as arrays."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.state_dict().items()}

    def __reduce__(self) -> Any:
        return _rebuild, (self.encoder.config, type(self.head), self.head.arguments, self.arrays())


def _rebuild(
    config: EncoderConfig, head: type[Head], arguments: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Network:
    """Build a network of the arrays of another."""
    with torch.random.fork_rng(devices=[]):
        network = Network(build_encoder(config), head(**arguments))
    # Copied: what a memory map holds must not be written to.
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, strict=True)
    return network.float().eval().requires_grad_(False)


def copied_encoder(info: WeightsInfo) -> Encoder:
    """Give an encoder of one's own on the CPU, to be trained; the one that the process shares is left alone."""
    encoder = copy.deepcopy(loaded_encoder(info, torch.device("cpu")))
    return encoder.requires_grad_(True)
