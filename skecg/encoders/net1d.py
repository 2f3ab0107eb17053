"""The Net1D encoder: grouped convolutions that weigh their channels, stage after stage half as many steps.

The network of ECGFounder (Li et al., arXiv:2410.04133) and CLEF: residual blocks of a narrow, a grouped and a wide
convolution (Xie et al., CVPR 2017, arXiv:1611.05431) with squeeze and excitation (Hu et al., CVPR 2018,
arXiv:1709.01507). Zeros lie beyond the ends of a signal, so that a convolution of stride s makes ceil(T / s) of T
steps; where their number is odd, there is one more of them behind than before.

Shapes: B windows, L leads, T samples or steps, C channels, N tokens, D width of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders.base import WindowEncoder
from skecg.encoders.linear import Linear
from skecg.spec import Stage, WindowEncoderConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Net1dConfig", "Net1dEncoder"]


@dataclass(frozen=True)
class Net1dConfig(WindowEncoderConfig):
    """A Net1D; the steps of its last stage are the tokens.

    Parameters
    ----------
    n_leads, input_samples : int
        Rows of the input, and samples of the longest window.
    stem_dim : int
        Channels of the first convolution.
    widths, blocks : tuple of int
        Channels and blocks of each stage.
    group_dim : int, default=16
        A stage has one group of channels for so many of its width.
    expansion : float, default=1.0
        Channels between the narrow and the wide convolution of a block over the stage's width.
    kernel_samples : int, default=16
        Steps that convolutions span.
    """

    architecture: ClassVar[str] = "net1d"

    stem_dim: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    group_dim: int = 16
    expansion: float = 1.0
    kernel_samples: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("stem_dim", "group_dim", "kernel_samples")
        self._require_numbers("expansion")
        self._require_counts("widths", "blocks")
        self._require(len(self.blocks) == len(self.widths), "blocks", f"{len(self.widths)} numbers, one a stage")
        grows = all(before <= after for before, after in pairwise([self.stem_dim, *self.widths]))
        # Shortcuts have no weights: channels can be added to them as zeros, not taken away.
        self._require(grows, "widths", f"none below the one before, the first at least stem_dim={self.stem_dim}")
        whole = all(w % self.group_dim == 0 and self.middle(w) % (w // self.group_dim) == 0 for w in self.widths)
        self._require(whole, "group_dim", "a divisor of the widths, with as many channels in each group")

    def middle(self, width: int) -> int:
        """Return the channels of the grouped convolution in a stage of that width."""
        return int(width * self.expansion)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages; the convolution before them and each of them halve the signal."""
        return tuple(Stage(f"levels.{number}", width, 2 ** (number + 2)) for number, width in enumerate(self.widths))

    @property
    def fewest_parameters(self) -> int:
        """Entries of the convolutions that keep their stage's width, and of squeeze and excitation."""
        in_a_block = (
            2 * self.middle(w) * w + self.middle(w) ** 2 * self.kernel_samples * self.group_dim // w + w * w
            for w in self.widths
        )
        return sum(count * (n_blocks - 1) for count, n_blocks in zip(in_a_block, self.blocks, strict=True))


class Net1dEncoder(WindowEncoder):
    """Tokens of all leads: what the last stage sees at each of its steps.

    Parameters
    ----------
    config : Net1dConfig
        Shape of the encoder.
    """

    config: Net1dConfig

    def __init__(self, config: Net1dConfig) -> None:
        super().__init__(config)
        self.stem = TimeConvolution(config.n_leads, config.stem_dim, config.kernel_samples, stride=2)
        widths = [config.stem_dim, *config.widths]
        self.levels = nn.ModuleList(
            nn.Sequential(
                # The very first block gets what the stem has activated already.
                Net1dBlock(config, before, after, halves=True, wakes=number > 0),
                *(Net1dBlock(config, after, after) for _ in range(config.blocks[number] - 1)),
            )
            for number, (before, after) in enumerate(pairwise(widths))
        )

    def stages(self, values_BLT: Tensor) -> Iterator[Tensor]:
        """Yield the tokens (B, N, D) after each stage, fewer and wider from one to the next."""
        tokens = F.silu(self.stem(values_BLT.mT))
        for level in self.levels:
            tokens = level(tokens)
            yield tokens


class TimeConvolution(nn.Module):
    """A convolution along time of (B, T, C), channels last, as many steps as strides begin within the signal."""

    def __init__(self, n_in: int, n_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.weight = nn.Parameter(torch.empty(n_out, n_in // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Convolve; zeros lie beyond the ends."""
        n_steps, kernel = x_BTC.shape[1], self.weight.shape[-1]
        beyond = max(0, kernel - self.stride) + -n_steps % self.stride
        # As an image of one row: memory in the order of channels last is what (B, T, C) is already.
        image = F.pad(x_BTC, (0, 0, beyond // 2, beyond - beyond // 2)).mT[:, :, None]
        convolved = F.conv2d(image, self.weight[:, :, None], self.bias, (1, self.stride), groups=self.groups)
        return convolved[:, :, 0].mT


class Net1dBlock(nn.Module):
    """Narrow, grouped, wide; channels weighed; added to the input.

    Parameters
    ----------
    config : Net1dConfig
    n_in, n_out : int
        Channels.
    halves : bool, default=False
        Whether the signal is halved, as in the first block of every stage.
    wakes : bool, default=True
        Whether a SiLU comes before the first convolution, as in all blocks but the very first.
    """

    def __init__(self, config: Net1dConfig, n_in: int, n_out: int, *, halves: bool = False, wakes: bool = True) -> None:
        super().__init__()
        middle, groups = config.middle(n_out), n_out // config.group_dim
        self.halves, self.wakes, self.n_more = halves, wakes, n_out - n_in
        self.narrow = Linear(n_in, middle)
        self.grouped = TimeConvolution(middle, middle, config.kernel_samples, stride=1 + halves, groups=groups)
        self.wide = Linear(middle, n_out)
        self.squeeze = Linear(n_out, n_out // 2)
        self.excite = Linear(n_out // 2, n_out)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Transform (B, T, C)."""
        narrow = self.narrow(F.silu(x_BTC) if self.wakes else x_BTC)
        wide = self.wide(F.silu(self.grouped(F.silu(narrow))))
        weight_BC = torch.sigmoid(self.excite(F.silu(self.squeeze(wide.mean(dim=1)))))
        return wide * weight_BC[:, None] + self._shortcut(x_BTC)

    def _shortcut(self, x_BTC: Tensor) -> Tensor:
        """Take the larger of two steps where the signal is halved, and put zeros around the channels there were."""
        if self.halves:
            # Of an odd number of steps the last one stands beside a zero.
            x_BTC = F.pad(x_BTC, (0, 0, 0, x_BTC.shape[1] % 2)).unflatten(1, (-1, 2)).amax(dim=2)
        return F.pad(x_BTC, (self.n_more // 2, self.n_more - self.n_more // 2))
