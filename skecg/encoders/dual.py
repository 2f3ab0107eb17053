"""The dual encoder: residual convolutions beside the multiscale encoder's transformer, one token of both.

A convolutional network and a transformer of like size, taught the same, make different mistakes; side by side their
features tell more than those of either (docs/log.md). The convolutions are a residual network (He et al., "Identity
Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027: what is normalized is the input of a block, and what
is added to is left alone) whose last steps lie where the transformer's slices of time are. Beside both may stand what
norms take away and nobody has to learn: how much of each lead's energy lies in the slice.

Shapes: B windows, L leads, T samples or steps, C channels, P slices of time, K visible ones, R registers, N tokens, D
width of a token.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders.base import silence_others
from skecg.encoders.convolution import CentredConvolution
from skecg.encoders.multiscale import MultiscaleEncoder, shapes_and_amplitudes
from skecg.spec import EncoderConfig, MultiscaleConfig, Stage
from skecg.validation import is_integer, is_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DualConfig", "DualEncoder"]


@dataclass(frozen=True)
class DualConfig(MultiscaleConfig):
    """The multiscale encoder and residual convolutions, whose tokens stand side by side.

    All of :class:`skecg.spec.MultiscaleConfig`, with one token for all leads and a `scale_floor`, and:

    Parameters
    ----------
    residual_widths : tuple of int, default=(64, 128, 192)
        Channels of each level of the residual convolutions. The last one stands beside the transformer's in a token.
    residual_blocks : tuple of int, default=(1, 2, 1)
        Blocks of each level.
    residual_kernel : int, default=7
        Steps that a convolution of a block spans.
    residual_stem : int, default=15
        Samples that the first convolution spans.
    residual_stride : int, default=2
        Samples from one of its steps to the next; the second level makes slices of time of these.
    lead_energies : float or None, default=None
        With a number, tokens end with the share of each lead's energy that lies in the slice of time: the logarithm of
        one and the mean square of the lead's shape there. A flat lead has nothing of its own; it gets this part, 0 to
        1, of the mean of the others.
    """

    architecture: ClassVar[str] = "dual"

    residual_widths: tuple[int, ...] = (64, 128, 192)
    residual_blocks: tuple[int, ...] = (1, 2, 1)
    residual_kernel: int = 7
    residual_stem: int = 15
    residual_stride: int = 2
    lead_energies: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("residual_kernel", "residual_stem", "residual_stride")
        self._require(self.lead_groups == 1, "lead_groups", "1: convolutions see all leads at once")
        self._require(self.scale_floor is not None, "scale_floor", "a number: shapes and amplitudes come apart")
        for name in ("residual_kernel", "residual_stem"):
            self._require(getattr(self, name) % 2 == 1, name, "an odd number")
        stride = self.residual_stride
        self._require(self.patch_samples % stride == 0, "residual_stride", f"a divisor of {self.patch_samples}")
        for name in ("residual_widths", "residual_blocks"):
            values = getattr(self, name)
            counts = isinstance(values, tuple) and all(is_integer(value, 1) for value in values)
            self._require(counts and 2 <= len(values) <= 8, name, "positive integers, one for each of 2 to 8 levels")
        levels = len(self.residual_widths)
        self._require(len(self.residual_blocks) == levels, "residual_blocks", f"{levels} numbers, one a level")
        energies = self.lead_energies
        part = energies is None or (is_number(energies) and 0 <= energies <= 1)
        self._require(part, "lead_energies", "None, or a number from 0 to 1")
        heads = self.num_heads
        self._require(self.residual_widths[-1] % heads == 0, "residual_widths", f"the last a multiple of {heads} heads")

    @property
    def transformer(self) -> MultiscaleConfig:
        """The encoder without its residual convolutions."""
        return MultiscaleConfig(**{field.name: getattr(self, field.name) for field in fields(MultiscaleConfig)})

    def holds(self, other: EncoderConfig) -> bool:
        """Return whether an encoder is this one or its transformer."""
        return other in (self, self.transformer)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The blocks of the transformer; what the convolutions see joins the tokens after the last."""
        *earlier, last = super().stages
        n_energies = 0 if self.lead_energies is None else self.n_leads
        return (*earlier, last._replace(width=sum(self.token_parts) + n_energies))

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Names of submodules from the last one down, blocks of the transformer and of the convolutions together."""
        beside = ("residual.norm", *(f"residual.levels.{n}" for n in reversed(range(sum(self.residual_blocks)))))
        together = zip_longest((name for (name,) in super().levels), beside)
        return tuple(tuple(filter(None, level)) for level in together)

    @property
    def token_parts(self) -> tuple[int, ...]:
        """Widths of what the transformer and the convolutions make of a slice of time."""
        return self.dim, self.residual_widths[-1]

    @property
    def size(self) -> dict[str, int]:
        """What cards and reports say of an encoder's size."""
        return super().size | {"width": self.stages[-1].width, "residual blocks": sum(self.residual_blocks)}

    @property
    def residual_strides(self) -> tuple[int, ...]:
        """Steps of a level's input for one of its own: the second makes slices of time."""
        return (1, self.patch_samples // self.residual_stride, *(1 for _ in self.residual_widths[2:]))

    @property
    def fewest_parameters(self) -> int:
        """Parameters that such an encoder has at least."""
        return super().fewest_parameters + sum(n_in * n_out * kernel for n_in, n_out, kernel, _ in self._convolutions())

    def flops(self, slices: float) -> float:
        """Count both: what the multiscale encoder does, and the residual convolutions at all of their steps."""
        counted = (n_in * n_out * kernel * steps for n_in, n_out, kernel, steps in self._convolutions())
        return super().flops(slices) + 2 * slices * sum(counted)

    @property
    def widest_values(self) -> int:
        """Values of the largest array that a window becomes on its way."""
        return max(super().widest_values, self.residual_widths[0] * self.window_samples // self.residual_stride)

    def _convolutions(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield channels in, channels out, kernel and steps in a slice of time of all residual convolutions."""
        width, steps = self.residual_widths[0], self.patch_samples // self.residual_stride
        yield self.n_leads, width, self.residual_stem, steps
        for n_out, n_blocks, stride in zip(
            self.residual_widths, self.residual_blocks, self.residual_strides, strict=True
        ):
            steps //= stride
            if changes := width != n_out or stride > 1:
                yield width, n_out, 1, steps
            yield width if changes else n_out, n_out, self.residual_kernel, steps
            yield from [(n_out, n_out, self.residual_kernel, steps)] * (2 * n_blocks - 1)
            width = n_out


class DualEncoder(MultiscaleEncoder):
    """Tokens of all leads: what the transformer says of a slice of time, what the convolutions say, and energies.

    Parameters
    ----------
    config : DualConfig
        Shape of the encoder.
    """

    config: DualConfig

    def __init__(self, config: DualConfig) -> None:
        super().__init__(config)
        self.residual = ResidualConvolutions(config)

    @property
    def packed_part(self) -> nn.Module:
        """The blocks of both: of the embeddings' weights those of absent leads are left out."""
        return nn.ModuleList([self.blocks, self.residual.levels])

    def hidden_states(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens (B, R + N, D) after each block, before the final norm; the last ones with convolutions."""
        for number, tokens in enumerate(super().hidden_states(values_BLT, leads, visible_BK), start=1):
            if number < self.config.depth:
                yield tokens
                continue
            seen = values_BLT if visible_BK is None else self._visible(values_BLT, visible_BK)
            shapes_BLT, amplitudes_BL = self._shapes(seen if leads is None else silence_others(seen, leads))
            beside = [self.residual(shapes_BLT, amplitudes_BL)]
            if self.config.lead_energies is not None:
                beside.append(_lead_energies(shapes_BLT, self.config.patch_samples, self.config.lead_energies))
            yield torch.cat([tokens, *(self._with_registers(part).to(tokens.dtype) for part in beside)], dim=-1)

    def read_out(self, tokens_BND: Tensor) -> Tensor:
        """Return tokens through the final norm, the transformer's and the convolutions' each through their own."""
        dim, end = self.config.dim, sum(self.config.token_parts)
        normed: Tensor = self.norm(tokens_BND[..., :dim])
        if tokens_BND.shape[-1] == dim:
            return normed
        convolved = self.residual.norm(tokens_BND[..., dim:end])
        return torch.cat([normed, convolved, tokens_BND[..., end:].to(convolved.dtype)], dim=-1)

    def _shapes(self, seen_BLT: Tensor) -> tuple[Tensor, Tensor]:
        """Return each lead's shape and amplitude; an absent lead is zeros."""
        assert self.config.scale_floor is not None, "checked at birth"
        return shapes_and_amplitudes(seen_BLT, 1.0, self.config.scale_floor)

    def _visible(self, values_BLT: Tensor, visible_BK: Tensor) -> Tensor:
        """Put visible slices side by side: one stretch of the signal where they are neighbours."""
        slices_BLPt = values_BLT.unflatten(2, (-1, self.config.patch_samples))
        index = visible_BK.clamp(min=0)[:, None, :, None].expand(-1, slices_BLPt.shape[1], -1, slices_BLPt.shape[3])
        return (slices_BLPt.gather(2, index) * (visible_BK >= 0)[:, None, :, None]).flatten(2)

    def _with_registers(self, convolved_BNC: Tensor) -> Tensor:
        """Put the mean of the tokens where the transformer has its registers."""
        mean_B1C = convolved_BNC.mean(dim=1, keepdim=True)
        return torch.cat([mean_B1C.expand(-1, self.num_registers, -1), convolved_BNC], dim=1)


def _lead_energies(shapes_BLT: Tensor, patch_samples: int, flat_part: float) -> Tensor:
    """Return log(1 + mean square) of each lead's shape in each slice of time, (B, P, L).

    What a flat lead lacks is filled with a part of the other leads' mean.
    """
    squares_BLP = shapes_BLT.unflatten(2, (-1, patch_samples)).square().mean(dim=-1)
    # Beside what norms left, a few beats' energies would be all that counts: hence the logarithm.
    energies_BLP = squares_BLP.log1p()
    # A lead's shape has a mean square of 1, less where the lead is near the floor of scales, and 0 where it is flat.
    # Zeros of its energies would lie so far from all other recordings that a classifier is thrown off.
    presence_BL1 = squares_BLP.mean(dim=2, keepdim=True)
    weights_BL1 = presence_BL1 / presence_BL1.sum(dim=1, keepdim=True).clamp(min=0.1)
    mean_B1P = (energies_BLP * weights_BL1).sum(dim=1, keepdim=True)
    return (energies_BLP + flat_part * (1 - presence_BL1) * mean_B1P).mT


class ResidualConvolutions(nn.Module):
    """A residual network along time, of each lead's shape and amplitude, with one step for a slice of time.

    Parameters
    ----------
    config : DualConfig
    """

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        first = config.residual_widths[0]
        self.stem = CentredConvolution(config.n_leads, first, config.residual_stem, config.residual_stride)
        self.amplitude_embed = nn.Linear(config.n_leads, first, bias=False)
        widths = [first, *config.residual_widths]
        levels = zip(pairwise(widths), config.residual_blocks, config.residual_strides, strict=True)
        self.levels = nn.Sequential(
            *(
                ResidualBlock(before if number == 0 else after, after, config, stride if number == 0 else 1)
                for (before, after), n_blocks, stride in levels
                for number in range(n_blocks)
            )
        )
        self.norm = nn.LayerNorm(widths[-1], eps=config.norm_eps)

    def forward(self, shapes_BLT: Tensor, amplitudes_BL: Tensor) -> Tensor:
        """Return what is seen in each slice of time, (B, P, C), not normalized."""
        seen_BTC = F.relu(self.stem(shapes_BLT.mT) + self.amplitude_embed(amplitudes_BL)[:, None])
        convolved: Tensor = self.levels(seen_BTC)
        return convolved


class ResidualBlock(nn.Module):
    """Norm, convolution, ReLU, convolution, and the input added."""

    def __init__(self, n_in: int, n_out: int, config: DualConfig, stride: int = 1) -> None:
        super().__init__()
        kernel = config.residual_kernel
        self.norm = nn.LayerNorm(n_in, eps=config.norm_eps)
        self.conv1 = CentredConvolution(n_in, n_out, kernel, stride)
        self.conv2 = CentredConvolution(n_out, n_out, kernel)
        # Blocks begin close to doing nothing, so that many of them do not add up.
        nn.init.normal_(self.conv2.weight, std=0.3 * (n_out * kernel) ** -0.5)
        same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same else CentredConvolution(n_in, n_out, 1, stride)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Transform (B, T, C)."""
        shortcut: Tensor = self.shortcut(x_BTC)
        changed: Tensor = self.conv2(self.conv1.relu(self.norm(x_BTC)))
        return shortcut + changed
