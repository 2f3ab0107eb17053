"""The residual encoder: a ResNet of basic blocks along time.

After He et al., "Deep Residual Learning" (CVPR 2016, arXiv:1512.03385), in one dimension and without the early pooling,
as MERL (Liu et al., ICML 2024, arXiv:2403.06659) puts it to the ECG. Batch normalization is no layer here: outside of
training it is a factor and a shift a channel, which convolutions carry.

Shapes: B windows, L leads, T samples, C channels, N tokens, D width of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from skecg.encoders.base import WindowEncoder
from skecg.encoders.convolution import CentredConvolution
from skecg.spec import Stage, WindowEncoderConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ResnetConfig", "ResnetEncoder"]

# Samples that the first convolution spans.
_STEM_KERNEL = 7


@dataclass(frozen=True)
class ResnetConfig(WindowEncoderConfig):
    """A residual network along time; the steps of its last stage are the tokens (MERL).

    Parameters
    ----------
    n_leads, input_samples : int
        Rows of the input, and samples of the longest window.
    widths : tuple of int, default=(64, 128, 256, 512)
        Channels of each stage; the convolution before them and all but the first halve the signal.
    blocks_per_stage : int, default=2
    """

    architecture: ClassVar[str] = "resnet"

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks_per_stage: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("blocks_per_stage")
        self._require_counts("widths")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages."""
        return tuple(Stage(f"levels.{number}", width, 2 ** (number + 1)) for number, width in enumerate(self.widths))

    @property
    def fewest_parameters(self) -> int:
        """Entries of the convolutions that keep their stage's width."""
        return sum(3 * width**2 * (2 * self.blocks_per_stage - 1) for width in self.widths)

    @property
    def widest_values(self) -> int:
        """Values of a stage's output."""
        return max(stage.width * (self.window_samples // stage.token_samples) for stage in self.stages)


class ResnetEncoder(WindowEncoder):
    """Tokens of all leads: what the last stage sees at each of its steps.

    Parameters
    ----------
    config : ResnetConfig
        Shape of the encoder.
    """

    config: ResnetConfig

    def __init__(self, config: ResnetConfig) -> None:
        super().__init__(config)
        self.stem = CentredConvolution(config.n_leads, config.widths[0], _STEM_KERNEL, stride=2)
        widths = [config.widths[0], *config.widths]
        self.levels = nn.ModuleList(
            nn.Sequential(
                BasicBlock(before, after, stride=1 if number == 0 else 2),
                *(BasicBlock(after, after) for _ in range(config.blocks_per_stage - 1)),
            )
            for number, (before, after) in enumerate(pairwise(widths))
        )

    def stages(self, values_BLT: Tensor) -> Iterator[Tensor]:
        """Yield the tokens (B, N, D) after each stage, fewer and wider from one to the next."""
        tokens = self.stem.relu(values_BLT.mT)
        for level in self.levels:
            tokens = level(tokens)
            yield tokens


class BasicBlock(nn.Module):
    """Two convolutions of three samples, added to their input."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = CentredConvolution(n_in, n_out, 3, stride)
        self.conv2 = CentredConvolution(n_out, n_out, 3)
        same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same else CentredConvolution(n_in, n_out, 1, stride)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Transform (B, T, C)."""
        return self.conv2.add_relu(self.conv1.relu(x_BTC), self.shortcut(x_BTC))
