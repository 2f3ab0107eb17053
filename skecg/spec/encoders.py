"""What every architecture says of an encoder's shape, and the configurations of those that are pre-trained here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from skecg.validation import Value, is_integer

__all__ = [
    "EncoderConfig",
    "LeadwiseConfig",
    "MultiscaleConfig",
    "PatchEncoderConfig",
    "Stage",
    "TemporalConfig",
    "WindowEncoderConfig",
    "block_flops",
]


class Stage(NamedTuple):
    """A part of an encoder after which its tokens can be had.

    Parameters
    ----------
    name : str
        Of the submodule: ``"blocks.3"``. What lies below all stages belongs to the embedding of the signal.
    width : int
        Of a token.
    token_samples : int
        Samples of the window from one token to the next.
    """

    name: str
    width: int
    token_samples: int


@dataclass(frozen=True)
class EncoderConfig(Value):
    """The shape of an encoder: all that embedding asks of an architecture, whatever is inside.

    Parameters
    ----------
    n_leads : int
        Rows of the input.
    """

    kind: ClassVar[str] = "encoder configuration"
    architecture: ClassVar[str]

    n_leads: int

    def __post_init__(self) -> None:
        self._require_integers("n_leads")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Parts after which tokens can be had, the first one first."""
        raise NotImplementedError(f"{type(self).__name__} has no stages")

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Names of submodules from the last one down, those side by side together; all others come before them."""
        # The last norm is at the end: what it scales is what a head sees.
        return (("norm",), *((stage.name,) for stage in reversed(self.stages)))

    def holds(self, other: EncoderConfig) -> bool:
        """Return whether an encoder is this one or a part of it, whose weights this one may begin with."""
        return self == other

    @property
    def token_parts(self) -> tuple[int, ...]:
        """Widths of the networks that stand side by side in a token of the last stage; most encoders are one.

        What a token has beyond them is not learned.
        """
        return (self.stages[-1].width,)

    @property
    def window_samples(self) -> int:
        """Samples of the longest window."""
        raise NotImplementedError(f"{type(self).__name__} has no window_samples")

    @property
    def size(self) -> dict[str, int]:
        """What cards and reports say of an encoder's size: first the width of its tokens, then counts."""
        return {"width": self.stages[-1].width, "stages": len(self.stages)}

    @property
    def length_step(self) -> int:
        """What the length of a window is a multiple of: the last stage's slice of time, unless any length will do."""
        return self.stages[-1].token_samples

    @property
    def n_heads(self) -> int:
        """Heads of an attention that looks at the last tokens: one for about 64 of their width."""
        width = self.stages[-1].width
        return next(n for n in range(max(1, width // 64), 0, -1) if width % n == 0)

    @property
    def fewest_parameters(self) -> int:
        """Parameters that such an encoder has at least; weights with fewer are refused before it is built."""
        return 0

    @property
    def token_per_lead(self) -> bool:
        """Whether each lead has tokens of its own, lead after lead; else a token is a slice of time of all leads."""
        return False

    def flops(self, slices: float) -> float:
        """Count the floating-point operations of a forward pass over so many slices of time; NaN if nobody counts.

        What the mathematics needs, 2 for a multiplication with its addition, however it is computed.
        """
        return math.nan

    @property
    def widest_values(self) -> int:
        """Values of the largest array that a window becomes on its way, roughly."""
        return max(4 * stage.width * (self.window_samples // stage.token_samples) for stage in self.stages)


@dataclass(frozen=True)
class WindowEncoderConfig(EncoderConfig):
    """The shape of an encoder that sees windows as they are, of any length up to its longest.

    Parameters
    ----------
    n_leads, input_samples : int
        Rows of the input, and samples of the longest window.
    """

    input_samples: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("input_samples")

    @property
    def window_samples(self) -> int:
        """Samples of the longest window."""
        return self.input_samples

    @property
    def length_step(self) -> int:
        """Any length will do."""
        return 1

    def _require_counts(self, *names: str) -> None:
        """Check fields of one positive integer for each stage."""
        for name in names:
            values = getattr(self, name)
            counts = isinstance(values, tuple) and all(is_integer(value, 1) for value in values)
            self._require(counts and 0 < len(values) <= 16, name, "positive integers, one for each of 1 to 16 stages")


@dataclass(frozen=True)
class PatchEncoderConfig(EncoderConfig):
    """The shape of an encoder that cuts windows into slices of time, all of one length, for a row of equal blocks.

    Parameters
    ----------
    n_leads : int
        Rows of the input.
    patch_samples : int
        Samples of one token's slice of time.
    n_patches : int
        Slices of time in the longest window.
    dim, depth, num_heads : int
        Width of a token, number of blocks, heads of each.
    mlp_ratio : float, default=4.0
        Width of a block's hidden layer over `dim`.
    norm_eps : float
        What LayerNorm adds to the variance.
    """

    patch_samples: int
    n_patches: int
    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6  # Weimann and Conrad's; Kim's is 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("patch_samples", "n_patches", "dim", "depth", "num_heads")
        self._require_numbers("mlp_ratio", "norm_eps")
        self._require(self.dim % self.num_heads == 0, "dim", f"a multiple of num_heads={self.num_heads}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The blocks."""
        return tuple(Stage(f"blocks.{number}", self.dim, self.patch_samples) for number in range(self.depth))

    @property
    def size(self) -> dict[str, int]:
        """What cards and reports say of an encoder's size."""
        return {"width": self.dim, "blocks": self.depth, "heads": self.num_heads}

    @property
    def n_tokens(self) -> int:
        """Tokens of the longest window."""
        return self.n_patches

    @property
    def n_heads(self) -> int:
        """Heads of an attention that looks at the last tokens: as many as the blocks have."""
        return self.num_heads

    @property
    def widest_values(self) -> int:
        """Values of the largest array that a window becomes on its way: a block's hidden layer, or its q, k and v."""
        return self.n_tokens * max(self.hidden_dim, 3 * self.dim)

    @property
    def hidden_dim(self) -> int:
        """Width of a block's hidden layer."""
        return int(self.dim * self.mlp_ratio)

    @property
    def window_samples(self) -> int:
        """Samples of the longest window."""
        return self.n_patches * self.patch_samples

    def _block_parameters(self) -> int:
        """Count the entries of the matrices in the transformer blocks."""
        # q, k, v and the projection are four D x D, the hidden layer two D x hidden; a lower bound leaves vectors out.
        return self.depth * (4 * self.dim**2 + 2 * self.dim * self.hidden_dim)

    def _block_flops(self, tokens: float, keys: float) -> float:
        """Count what the transformer blocks do for so many tokens, each of which sees so many keys."""
        return tokens * self.depth * block_flops(self.dim, self.hidden_dim, keys)


def block_flops(dim: int, hidden_dim: int, keys: float) -> float:
    """Count what a transformer block does for one token that sees so many keys."""
    # Two for each entry of the matrices, and 2 D a key for the logit, as much again for its value.
    return 8 * dim**2 + 4 * dim * hidden_dim + 4 * keys * dim


@dataclass(frozen=True)
class TemporalConfig(PatchEncoderConfig):
    """A token is one slice of time of all leads (Weimann and Conrad, 2025).

    Parameters
    ----------
    num_registers : int, default=1
        Learned tokens without position that take part in attention.
    bias : bool, default=False
        Whether linear layers other than the queries', keys' and values' have biases.
    norm_bias : bool, default=False
        Whether LayerNorm has biases (weights written before October 2025 do).
    """

    architecture: ClassVar[str] = "temporal"

    num_registers: int = 1
    bias: bool = False  # as published; norms have one in their older files alone
    norm_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("num_registers", minimum=0)
        for name in ("bias", "norm_bias"):
            self._require(isinstance(getattr(self, name), bool), name, "true or false")
        # Sines and cosines take turns in its positions.
        self._require(self.dim % 2 == 0, "dim", "an even number")

    @property
    def n_tokens(self) -> int:
        """Tokens of the longest window, registers too."""
        return self.num_registers + self.n_patches

    @property
    def fewest_parameters(self) -> int:
        """Parameters that such an encoder has at least."""
        return self._block_parameters()

    def flops(self, slices: float) -> float:
        """Count a forward pass over so many slices; registers are embedded by no product."""
        tokens = slices + self.num_registers
        return 2 * self.n_leads * self.patch_samples * slices * self.dim + self._block_flops(tokens, tokens)


@dataclass(frozen=True)
class LeadwiseConfig(PatchEncoderConfig):
    """A token is one slice of time of one lead; attention is cross-pattern, CroPA (Kim, 2024)."""

    architecture: ClassVar[str] = "leadwise"

    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        # Time and lead have half of the positions' width each, and sine and cosine half of that.
        self._require(self.dim % 4 == 0, "dim", "a multiple of 4")

    @property
    def n_tokens(self) -> int:
        """Tokens of the longest window."""
        return self.n_leads * self.n_patches

    @property
    def token_per_lead(self) -> bool:
        """Whether each lead has tokens of its own: it has."""
        return True

    @property
    def fewest_parameters(self) -> int:
        """Parameters that such an encoder has at least."""
        return self._block_parameters()

    def flops(self, slices: float) -> float:
        """Count a forward pass over so many slices: a token sees its lead and its instant."""
        tokens = self.n_leads * slices
        return tokens * 2 * self.patch_samples * self.dim + self._block_flops(tokens, slices + self.n_leads)


@dataclass(frozen=True)
class MultiscaleConfig(PatchEncoderConfig):
    """Convolutions of several widths make the tokens, one for a slice of time of all leads or of each lead.

    Parameters
    ----------
    lead_groups : int, default=1
        1 makes one token of all leads; as many as leads make one of each, by convolutions that leads share.
    kernel_samples : tuple of int, default=(5, 11, 25, 51)
        Widths of the convolutions, which stand side by side.
    stride_samples : int, default=5
        Step of them all.
    stem_dim : int, default=32
        Channels of each.
    num_registers : int, default=1
        Learned tokens without position that take part in attention.
    scale_floor : float or None, default=None
        Where given, each lead is divided by its own root mean square before the convolutions, and the logarithm of that
        joins every token as a number: shape and amplitude apart. This is what is added to the root mean square (as
        squares, in the input's unit), so that a lead that holds nothing but noise far below it becomes an absent one.
        For ``lead_groups=1``.
    """

    architecture: ClassVar[str] = "multiscale"

    lead_groups: int = 1
    kernel_samples: tuple[int, ...] = (5, 11, 25, 51)
    stride_samples: int = 5
    stem_dim: int = 32
    num_registers: int = 1
    scale_floor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("lead_groups", "stride_samples", "stem_dim")
        self._require_integers("num_registers", minimum=0)
        self._require(self.lead_groups in (1, self.n_leads), "lead_groups", f"1 or n_leads={self.n_leads}")
        stride = self.stride_samples
        self._require(self.patch_samples % stride == 0, "stride_samples", f"a divisor of {self.patch_samples}")
        widths = self.kernel_samples if isinstance(self.kernel_samples, tuple) else ()
        # An even surplus is padded alike on both sides, so that all kernels are centred on the same places.
        fit = [isinstance(width, int) and width >= stride and (width - stride) % 2 == 0 for width in widths]
        self._require(bool(fit) and all(fit), "kernel_samples", f"widths of {stride} or more by an even number")
        self._require(self.dim % 4 == 0, "dim", "a multiple of 4")
        if self.scale_floor is not None:
            self._require_numbers("scale_floor")
            self._require(self.lead_groups == 1, "lead_groups", "1 with scale_floor")

    @property
    def n_tokens(self) -> int:
        """Tokens of the longest window, registers too."""
        return self.num_registers + self.lead_groups * self.n_patches

    @property
    def token_per_lead(self) -> bool:
        """Whether each lead has tokens of its own."""
        return self.lead_groups > 1

    @property
    def fewest_parameters(self) -> int:
        """Parameters that such an encoder has at least."""
        return self._block_parameters()

    def flops(self, slices: float) -> float:
        """Count convolutions, at all places of the slices that are seen, what joins them, and the blocks."""
        embedded = self.lead_groups * slices
        tokens, places = embedded + self.num_registers, self.patch_samples // self.stride_samples
        convolved = slices * places * self.n_leads * sum(self.kernel_samples) * self.stem_dim
        joined = embedded * places * len(self.kernel_samples) * self.stem_dim * self.dim
        return 2 * (convolved + joined) + self._block_flops(tokens, tokens)
