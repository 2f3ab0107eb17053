"""The convolve-then-attend encoder: strided convolutions shorten the signal, a post-norm transformer reads it.

After Baevski et al., "wav2vec 2.0" (NeurIPS 2020, arXiv:2006.11477), as ECG-FM (McKeen et al., arXiv:2408.05178) puts
it to the ECG.

Shapes: B windows, L leads, T samples, C channels of the convolutions, N tokens, D width of a token, H heads, d = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders.base import WindowEncoder, hold_last
from skecg.encoders.blocks import Mlp, attend, init_linear_
from skecg.encoders.linear import Linear
from skecg.spec import Stage, WindowEncoderConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Wav2vecConfig", "Wav2vecEncoder"]

# Each convolution halves the signal: it joins two neighbours and steps over two.
_STEP = 2


@dataclass(frozen=True)
class Wav2vecConfig(WindowEncoderConfig):
    """Convolutions that halve the signal make tokens of all leads; post-norm attention mixes them (ECG-FM).

    Parameters
    ----------
    n_leads, input_samples : int
        Rows of the input, and samples of the longest window.
    dim, depth, num_heads : int
        Width of a token, number of blocks, attention heads of each.
    hidden_dim : int
        Width of a block's hidden layer.
    stem_dim, n_halvings : int, default=256, 4
        Channels of the convolutions, and how many there are.
    position_kernel, position_groups : int, default=128, 16
        Tokens that the convolution for positions spans, and its groups of channels.
    norm_eps : float, default=1e-5
        What norms add to the variance.
    """

    architecture: ClassVar[str] = "wav2vec"

    dim: int
    depth: int
    num_heads: int
    hidden_dim: int
    stem_dim: int = 256
    n_halvings: int = 4
    position_kernel: int = 128
    position_groups: int = 16
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("dim", "depth", "num_heads", "hidden_dim", "stem_dim", "n_halvings")
        self._require_integers("position_kernel", "position_groups")
        self._require_numbers("norm_eps")
        self._require(self.dim % self.num_heads == 0, "dim", f"a multiple of num_heads={self.num_heads}")
        self._require(self.dim % self.position_groups == 0, "position_groups", f"a divisor of dim={self.dim}")
        self._require(self.position_kernel % 2 == 0, "position_kernel", "an even number")
        # Bounded first: 2 to the power of a hostile number would be computed to its last digit.
        fits = 2**self.n_halvings <= self.input_samples if self.n_halvings < 64 else False
        self._require(fits, "n_halvings", f"so few that input_samples={self.input_samples} leave a token")

    @property
    def token_samples(self) -> int:
        """Samples from one token to the next."""
        return int(2**self.n_halvings)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The blocks."""
        return tuple(Stage(f"blocks.{number}", self.dim, self.token_samples) for number in range(self.depth))

    @property
    def fewest_parameters(self) -> int:
        """Entries of the matrices in the blocks, and of the convolutions before them."""
        convolutions = (self.n_halvings - 1) * 2 * self.stem_dim**2
        convolutions += self.dim**2 // self.position_groups * self.position_kernel
        return convolutions + self.depth * (4 * self.dim**2 + 2 * self.dim * self.hidden_dim)

    @property
    def widest_values(self) -> int:
        """Values of the first convolution's output, or of a block's hidden layer."""
        n_tokens = self.window_samples // self.token_samples
        return max(self.window_samples // 2 * self.stem_dim, n_tokens * max(self.hidden_dim, 3 * self.dim))


class Wav2vecEncoder(WindowEncoder):
    """Tokens of all leads, full attention; a wide convolution tells them where they are.

    Parameters
    ----------
    config : Wav2vecConfig
        Shape of the encoder.
    """

    config: Wav2vecConfig

    def __init__(self, config: Wav2vecConfig) -> None:
        super().__init__(config)
        self.stem = Halvings(config.n_leads, config.stem_dim, config.n_halvings, config.norm_eps)
        self.stem_norm = nn.LayerNorm(config.stem_dim, eps=config.norm_eps)
        self.patch_embed = Linear(config.stem_dim, config.dim)
        self.positions = nn.Conv1d(
            config.dim,
            config.dim,
            config.position_kernel,
            padding=config.position_kernel // 2,
            groups=config.position_groups,
        )
        self.input_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.blocks = nn.ModuleList(PostNormBlock(config) for _ in range(config.depth))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights: matrices from a narrow normal distribution, positions near zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear_(module)
        nn.init.normal_(self.positions.weight, std=(4 / (self.config.position_kernel * self.config.dim)) ** 0.5)
        nn.init.zeros_(self.positions.bias)  # type: ignore[arg-type]

    def stages(self, values_BLT: Tensor) -> Iterator[Tensor]:
        """Yield the tokens (B, N, D) after each block."""
        values_BLT = hold_last(values_BLT, self.config.token_samples)
        tokens = self.patch_embed(self.stem_norm(self.stem(values_BLT)))
        # The kernel is even: of the one output too many the authors drop the last.
        places_BND = self.positions(tokens.mT)[:, :, : tokens.shape[1]].mT
        tokens = self.input_norm(tokens + F.gelu(places_BND))
        for block in self.blocks:
            tokens = block(tokens)
            yield tokens


class Halvings(nn.Module):
    """Convolutions of two samples, two apart: products of pairs of neighbours, as what they are computed.

    Each channel is normed over time after the first of them, and nowhere else.
    """

    def __init__(self, n_leads: int, dim: int, depth: int, eps: float) -> None:
        super().__init__()
        widths = [n_leads] + [dim] * (depth - 1)
        self.layers = nn.ModuleList(Linear(_STEP * width, dim, bias=False) for width in widths)
        # As many groups as channels: with one group names and shapes agree, too, and features are wrong.
        self.norm = nn.GroupNorm(dim, dim, eps=eps)

    def forward(self, values_BLT: Tensor) -> Tensor:
        """Return tokens (B, N, C); a sample without a neighbour at the end of a layer's input is dropped."""
        x_BTC = values_BLT.mT
        for number, layer in enumerate(self.layers):
            n_pairs = x_BTC.shape[1] // _STEP
            x_BTC = layer(x_BTC[:, : n_pairs * _STEP].unflatten(1, (n_pairs, _STEP)).flatten(2))
            x_BTC = F.gelu(self.norm(x_BTC.mT).mT if number == 0 else x_BTC)
        return x_BTC


class PostNormBlock(nn.Module):
    """Attention, then an MLP; each is added to its input and the sum is normed, not the input."""

    def __init__(self, config: Wav2vecConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = Linear(config.dim, 3 * config.dim)
        self.proj = Linear(config.dim, config.dim)
        self.norm1 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = Mlp(config.dim, config.hidden_dim, bias=True)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Transform tokens (B, N, D)."""
        q, k, v = self.qkv(x_BND).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        # Post-norm: with norms before, the same weights load, and features are wrong.
        x_BND = self.norm1(x_BND + self.proj(attend(q, k, v)))
        return self.norm2(x_BND + self.mlp(x_BND))
