"""From tokens, each a tenth of a second or so, back to samples.

A token is unfolded by a linear layer into as many instants as its slice of time has; convolutions then look at these
and at the signal itself, which knows better than any token at which instant a wave begins.

Shapes: B windows, L leads, T samples, R registers, N tokens, P slices of time, p samples of a slice, D width of a
token, W width of the decoder, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders import Encoder, build_encoder
from skecg.finetuning.network import Head, Network
from skecg.spec import EncoderConfig

__all__ = ["SegmentingNetwork", "WaveDecoder", "build_decoder"]

# Of the convolution that sees the signal (60 ms at 250 Hz), and of those that follow.
_SIGNAL_KERNEL, _KERNEL = 15, 9
_DILATIONS = (1, 2, 4)


class WaveDecoder(Head):
    """Tokens and signal to the logits of every sample.

    Parameters
    ----------
    dim, n_leads, patch_samples, num_registers : int
        Of the encoder.
    token_per_lead : bool
        Whether the encoder has a token for each lead; those of one slice of time are averaged, however many leads
        there are.
    n_classes : int
    width : int
        Channels between tokens and logits.
    seed : int
        Draws the first weights.
    """

    def __init__(
        self,
        *,
        dim: int,
        n_leads: int,
        patch_samples: int,
        num_registers: int,
        token_per_lead: bool,
        n_classes: int,
        width: int,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dim=dim,
            n_leads=n_leads,
            patch_samples=patch_samples,
            num_registers=num_registers,
            token_per_lead=token_per_lead,
            n_classes=n_classes,
            width=width,
            seed=seed,
        )
        self.patch_samples, self.num_registers, self.token_per_lead = patch_samples, num_registers, token_per_lead
        # Left empty: what torch would fill them with comes from a generator that belongs to the user.
        empty = nn.utils.skip_init
        self.unfold = empty(nn.Linear, dim, patch_samples * width)
        self.look = empty(nn.Conv1d, n_leads, width, _SIGNAL_KERNEL, padding=_SIGNAL_KERNEL // 2)
        self.refine = nn.ModuleList(
            empty(nn.Conv1d, width, width, _KERNEL, padding=_KERNEL // 2 * dilation, dilation=dilation)
            for dilation in _DILATIONS
        )
        self.classify = empty(nn.Conv1d, width, n_classes, 1)
        self._draw(torch.Generator().manual_seed(seed))

    def _draw(self, generator: torch.Generator) -> None:
        """Draw weights that keep the size of what they are applied to, and clear biases."""
        for layer in (self.unfold, self.look, *self.refine, self.classify):
            assert isinstance(layer, nn.Linear | nn.Conv1d)
            assert layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear", generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens_BND: Tensor, values_BLT: Tensor | None = None) -> Tensor:
        """Give the logits (B, C, T) of every sample of windows; absent leads of `values_BLT` are zeros."""
        assert values_BLT is not None
        tokens_BPD = self._by_slice(tokens_BND[:, self.num_registers :], values_BLT.shape[2] // self.patch_samples)
        unfolded_BPWp = self.unfold(tokens_BPD).unflatten(2, (-1, self.patch_samples))
        x_BWT = unfolded_BPWp.transpose(1, 2).flatten(2) + self.look(values_BLT)
        for layer in self.refine:
            x_BWT = x_BWT + layer(F.gelu(x_BWT))
        logits: Tensor = self.classify(F.gelu(x_BWT))
        return logits

    def _by_slice(self, tokens_BND: Tensor, n_slices: int) -> Tensor:
        """Average the tokens of each slice of time over the leads that are there."""
        return tokens_BND.unflatten(1, (-1, n_slices)).mean(dim=1) if self.token_per_lead else tokens_BND


class SegmentingNetwork(Network):
    """An encoder and a decoder that sees the signal as well.

    Parameters
    ----------
    encoder : Encoder
        One of its own, see :func:`skecg.finetuning.network.copied_encoder`.
    head : WaveDecoder
    """

    head: WaveDecoder

    def forward(self, values_BLT: Tensor, leads: Sequence[int] | None = None) -> Tensor:
        """Give the logits (B, C, T) of windows that have these leads (all when not given)."""
        logits: Tensor = self.head(self.encoder(values_BLT, leads), values_BLT)
        return logits

    def __reduce__(self) -> Any:
        return _rebuild, (self.encoder.config, self.head.arguments, self.arrays())


def build_decoder(encoder: Encoder, n_classes: int, width: int, seed: int) -> WaveDecoder:
    """Build the decoder of an encoder."""
    config = encoder.config
    return WaveDecoder(
        dim=config.dim,
        n_leads=config.n_leads,
        patch_samples=config.patch_samples,
        num_registers=encoder.num_registers,
        token_per_lead=encoder.token_per_lead,
        n_classes=n_classes,
        width=width,
        seed=seed,
    )


def _rebuild(
    config: EncoderConfig, arguments: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> SegmentingNetwork:
    """Build a network of the arrays of another."""
    with torch.random.fork_rng(devices=[]):
        network = SegmentingNetwork(build_encoder(config), WaveDecoder(**arguments))
    # Copied: what a memory map holds must not be written to.
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, strict=True)
    return network.float().eval().requires_grad_(False)
