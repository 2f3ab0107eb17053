"""Heads on an encoder: from the tokens of windows to the logits of windows, or of each of their samples.

Shapes: B windows, L leads, T samples, R registers, N tokens, D width of a token, F pooled features, H attention heads,
d = D / H, P slices of time, p samples of a slice, W width of the decoder, C outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders import Encoder, build_encoder
from skecg.encoders.pooling import attend, kept_tokens, n_pooled_features, pool_tokens
from skecg.errors import ParameterError
from skecg.spec import EncoderConfig
from skecg.weights import WeightsInfo, loaded_encoder

__all__ = [
    "AttentionHead",
    "HEADS",
    "Head",
    "LinearHead",
    "Network",
    "WaveDecoder",
    "build_decoder",
    "build_head",
    "copied_encoder",
]

#: Heads of a classifier, by name.
HEADS = ("linear", "attention")

# Of the convolution that sees the signal (60 ms at 250 Hz), and of those that follow.
_SIGNAL_KERNEL, _KERNEL = 15, 9
_DILATIONS = (1, 2, 4)  # together they see 57 samples, 0.23 s at 250 Hz


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
        # Kept to build the head again, from a file or a pickle.
        self.arguments = arguments

    def forward(self, tokens_BND: Tensor, values_BLT: Tensor | None = None, counted_BN: Tensor | None = None) -> Tensor:
        """Compute the outputs of windows from their tokens and, where a head looks at it, their signal.

        Where a head makes one vector of many tokens, it leaves out the patches' that do not count.
        """
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
        """Compute the outputs of windows that have these leads (all when not given)."""
        return self.read_out(self.encoder(values_BLT, leads), values_BLT)

    def read_out(self, tokens_BND: Tensor, values_BLT: Tensor) -> Tensor:
        """Compute the outputs of windows whose tokens are there already."""
        counted_BN = self.encoder.counted(values_BLT)
        if counted_BN is not None:
            counted_BN = kept_tokens(counted_BN, tokens_BND.shape[1] - self.encoder.num_registers)
        outputs: Tensor = self.head(tokens_BND, values_BLT, counted_BN)
        return outputs

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return copies of all tensors as arrays."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.state_dict().items()}

    def __reduce__(self) -> Any:
        return _rebuild, (self.encoder.config, type(self.head), self.head.arguments, self.arrays())


def _rebuild(
    config: EncoderConfig, head: type[Head], arguments: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Network:
    """Build a network of the arrays of another."""
    # Building draws first weights, from generators that belong to the user.
    with torch.random.fork_rng(devices=[]):
        network = Network(build_encoder(config), head(**arguments))
    # Copied: what a memory map holds must not be written to.
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, strict=True)
    return network.float().eval().requires_grad_(False)


def copied_encoder(info: WeightsInfo) -> Encoder:
    """Return an encoder of one's own on the CPU, to be trained; the one that the process shares is left alone."""
    # What is loaded is shared by all that embed in this process; training it would change their features.
    encoder = copy.deepcopy(loaded_encoder(info, torch.device("cpu")))
    return encoder.requires_grad_(True)


class LinearHead(Head):
    """Pooled tokens, standardized by constants, and a linear layer that begins at zero.

    Parameters
    ----------
    dim, num_registers : int
        Of the encoder.
    n_outputs : int
    pooling : str
        See :func:`skecg.encoders.pooling.pool_tokens`.
    """

    kind = "linear"
    center: Tensor
    scale: Tensor

    def __init__(self, *, dim: int, num_registers: int, n_outputs: int, pooling: str) -> None:
        super().__init__(dim=dim, num_registers=num_registers, n_outputs=n_outputs, pooling=pooling)
        self.num_registers, self.pooling = num_registers, pooling
        n_features = n_pooled_features(pooling, dim, num_registers)
        # Buffers, which travel with the weights and are not trained: the head is linear in the encoder's own features.
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        # Zeros are as good a start as any where the loss is convex, and need no generator.
        self.linear = nn.utils.skip_init(nn.Linear, n_features, n_outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BND: Tensor, values_BLT: Tensor | None = None, counted_BN: Tensor | None = None) -> Tensor:
        """Compute the logits (B, C) of windows."""
        pooled_BF = pool_tokens([tokens_BND], self.num_registers, self.pooling, counted_BN)
        logits: Tensor = self.linear((pooled_BF - self.center) / self.scale)
        return logits


class AttentionHead(Head):
    """One learned query that looks at all tokens, registers too, and a linear layer (Weimann and Conrad, 2025).

    Neither normalization nor hidden layer. The last layer has a bias, which the published head lacks: the shares of
    rare labels are then known from the first steps on.

    Parameters
    ----------
    dim : int
        Width of a token, a multiple of `num_heads`.
    num_heads : int
    n_outputs : int
    seed : int
        Draws the first weights.
    """

    kind = "attention"

    def __init__(self, *, dim: int, num_heads: int, n_outputs: int, seed: int = 0) -> None:
        super().__init__(dim=dim, num_heads=num_heads, n_outputs=n_outputs, seed=seed)
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.empty(dim))
        # Left empty: what torch would fill them with comes from a generator that belongs to the user.
        empty = nn.utils.skip_init
        self.to_query = empty(nn.Linear, dim, dim, bias=False)
        self.to_keys_values = empty(nn.Linear, dim, 2 * dim, bias=False)
        self.linear = empty(nn.Linear, dim, n_outputs)
        generator = torch.Generator().manual_seed(seed)
        # A small query attends evenly at first: training starts from the mean over tokens.
        nn.init.normal_(self.query, std=0.02, generator=generator)
        for layer in (self.to_query, self.to_keys_values, self.linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BND: Tensor, values_BLT: Tensor | None = None, counted_BN: Tensor | None = None) -> Tensor:
        """Compute the logits (B, C) of windows; registers and patches that count get attention, padding none."""
        keys_values_BNE = self.to_keys_values(tokens_BND)
        gathered_BD = attend(self.to_query(self.query), keys_values_BNE, self.num_heads, counted_BN)
        logits: Tensor = self.linear(gathered_BD)
        return logits


def build_head(kind: str, encoder: Encoder, n_outputs: int, pooling: str, seed: int) -> Head:
    """Build the head of that name for an encoder."""
    dim = encoder.config.stages[-1].width
    if kind == "linear":
        return LinearHead(dim=dim, num_registers=encoder.num_registers, n_outputs=n_outputs, pooling=pooling)
    if kind == "attention":
        return AttentionHead(dim=dim, num_heads=encoder.config.n_heads, n_outputs=n_outputs, seed=seed)
    raise ParameterError(f"Got head={kind!r}, expected one of {', '.join(map(repr, HEADS))}.")


class WaveDecoder(Head):
    """Tokens and signal to the logits of every sample.

    A token, of a tenth of a second or so, is unfolded by a linear layer into as many instants as its slice of time has;
    convolutions then look at these and at the signal itself, which knows better than any token at which instant a wave
    begins.

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

    def forward(self, tokens_BND: Tensor, values_BLT: Tensor | None = None, counted_BN: Tensor | None = None) -> Tensor:
        """Compute the logits (B, C, T) of every sample of windows; absent leads of `values_BLT` are zeros."""
        assert values_BLT is not None, "a decoder looks at the signal"
        n_samples = values_BLT.shape[2]
        tokens_BPD = self._by_slice(tokens_BND[:, self.num_registers :], n_samples // self.patch_samples)
        unfolded_BPWp = self.unfold(tokens_BPD).unflatten(2, (-1, self.patch_samples))
        unfolded_BWT = unfolded_BPWp.transpose(1, 2).flatten(2)
        # Other labs' tokens may reach beyond a window's end, or leave its last samples out.
        x_BWT = F.pad(unfolded_BWT, (0, n_samples - unfolded_BWT.shape[2])) + self.look(values_BLT)
        for layer in self.refine:  # each adds to what it is given, so that depth does not slow the start
            x_BWT = x_BWT + layer(F.gelu(x_BWT))
        logits: Tensor = self.classify(F.gelu(x_BWT))
        return logits

    def _by_slice(self, tokens_BND: Tensor, n_slices: int) -> Tensor:
        """Average the tokens of each slice of time over the leads that are there."""
        return tokens_BND.unflatten(1, (-1, n_slices)).mean(dim=1) if self.token_per_lead else tokens_BND


def build_decoder(encoder: Encoder, n_classes: int, width: int, seed: int) -> WaveDecoder:
    """Build the decoder of an encoder."""
    config = encoder.config
    return WaveDecoder(
        dim=config.stages[-1].width,
        n_leads=config.n_leads,
        patch_samples=config.stages[-1].token_samples,
        num_registers=encoder.num_registers,
        token_per_lead=encoder.token_per_lead,
        n_classes=n_classes,
        width=width,
        seed=seed,
    )
