"""What weights are and what they expect: InputSpec, and the configuration of each encoder architecture.

These values travel in ``config.json`` beside the weights. Their defaults are part of every file already written and are
never edited; a new behaviour gets a new field whose default is the old behaviour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from skecg.errors import LeadError, WeightsFormatError
from skecg.leads import canonical_leads
from skecg.validation import PlainFields

__all__ = ["EncoderConfig", "InputSpec", "LeadwiseConfig", "MultiscaleConfig", "TemporalConfig", "block_flops"]


def _is_finite(value: object) -> bool:
    """Return whether a value is a finite number, as a float: integers may be too large for one."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**1023


@dataclass(frozen=True)
class _Value(PlainFields):
    """Fields that read themselves from JSON strictly."""

    kind: ClassVar[str]

    _error: ClassVar[type[Exception]] = WeightsFormatError

    @classmethod
    def _title(cls) -> str:
        """Return what messages call such a value."""
        return f"the {cls.kind}"

    def _require(self, condition: bool, field: str, wanted: str) -> None:
        if not condition:
            raise WeightsFormatError(f"Got {field}={getattr(self, field)!r} in the {self.kind}, expected {wanted}.")

    def _require_integers(self, *names: str, minimum: int = 1) -> None:
        for name in names:
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
            self._require(whole, name, f"an integer of at least {minimum}")

    def _require_numbers(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(_is_finite(value) and value > 0, name, "a positive number")


@dataclass(frozen=True)
class InputSpec(_Value):
    """What an encoder expects to be fed: the one description of a record's way to it.

    The steps of :func:`skecg.prepare` follow the order of the fields: leads are chosen by name, gaps filled, the signal
    resampled, filtered, normalized and cut into windows.

    Parameters
    ----------
    leads : tuple of str
        Leads in the order of the encoder's input.
    sampling_rate : float
        Samples a second (Hz) of the encoder's input.
    window_samples : int
        Length of a window at that rate.
    any_leads : bool, default=False
        Whether the encoder is made for any subset of `leads`, so that absent ones are no error.
    resampling : {"polyphase", "fourier"}, default="polyphase"
        Polyphase filtering, or truncation of the spectrum of the whole record (what both published systems do).
    highpass_hz, lowpass_hz : float or None, default=None
        Cut-off frequencies of a zero-phase Butterworth filter, applied at the encoder's rate.
    filter_order : int, default=4
        Order of each of the two filters, before it is run forwards and backwards.
    normalization : {"none", "statistics", "zscore", "record"}, default="none"
        ``"none"`` leaves millivolts. ``"statistics"`` subtracts `mean` and divides by `std`, one value a lead.
        ``"zscore"`` does so with each lead's own mean and standard deviation in the record. ``"record"`` takes away
        each lead's own mean and divides all leads by one standard deviation, pooled over the leads of the record.
    mean, std : tuple of float or None, default=None
        Millivolts, one value a lead, for ``normalization="statistics"``.
    clip : float or None, default=None
        Values beyond plus or minus `clip` are set to it, after normalization.

    Raises
    ------
    WeightsFormatError
        When a field is not what it has to be.
    """

    kind: ClassVar[str] = "input specification"

    leads: tuple[str, ...]
    sampling_rate: float
    window_samples: int
    any_leads: bool = False
    resampling: str = "polyphase"
    highpass_hz: float | None = None
    lowpass_hz: float | None = None
    filter_order: int = 4
    normalization: str = "none"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "leads", canonical_leads(self.leads))
        except (LeadError, TypeError) as error:
            raise WeightsFormatError(f"Got leads={self.leads!r} in the input specification: {error}") from error
        self._require_numbers("sampling_rate")
        self._require_integers("window_samples", "filter_order")
        self._require(isinstance(self.any_leads, bool), "any_leads", "true or false")
        self._require(self.resampling in ("polyphase", "fourier"), "resampling", "'polyphase' or 'fourier'")
        for name in ("highpass_hz", "lowpass_hz", "clip"):
            if getattr(self, name) is not None:
                self._require_numbers(name)
        nyquist = self.sampling_rate / 2
        for name in ("highpass_hz", "lowpass_hz"):
            value = getattr(self, name)
            self._require(value is None or value < nyquist, name, f"below half the sampling rate ({nyquist:g} Hz)")
        kinds = ("none", "statistics", "zscore", "record")
        self._require(self.normalization in kinds, "normalization", f"one of {', '.join(map(repr, kinds))}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if self.normalization == "statistics":
                fits = isinstance(value, tuple) and len(value) == len(self.leads) and all(map(_is_finite, value))
                self._require(fits, name, f"{len(self.leads)} numbers, one a lead")
            else:
                self._require(value is None, name, "none unless normalization is 'statistics'")
        if self.std is not None:
            self._require(all(s > 0 for s in self.std), "std", "positive numbers")

    @property
    def n_leads(self) -> int:
        """Number of leads of the encoder's input."""
        return len(self.leads)

    @property
    def window_seconds(self) -> float:
        """Length of a window in seconds."""
        return self.window_samples / self.sampling_rate


@dataclass(frozen=True)
class EncoderConfig(_Value):
    """The shape of an encoder: what all architectures share.

    Parameters
    ----------
    n_leads : int
        Rows of the input.
    patch_samples : int
        Samples of one token's slice of time.
    n_patches : int
        Slices of time in the longest window.
    dim, depth, num_heads : int
        Width of a token, number of transformer blocks, attention heads of each.
    mlp_ratio : float, default=4.0
        Width of a block's hidden layer over `dim`.
    norm_eps : float
        What LayerNorm adds to the variance.
    """

    kind: ClassVar[str] = "encoder configuration"
    architecture: ClassVar[str]

    n_leads: int
    patch_samples: int
    n_patches: int
    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        self._require_integers("n_leads", "patch_samples", "n_patches", "dim", "depth", "num_heads")
        self._require_numbers("mlp_ratio", "norm_eps")
        self._require(self.dim % self.num_heads == 0, "dim", f"a multiple of num_heads={self.num_heads}")

    @property
    def hidden_dim(self) -> int:
        """Width of a block's hidden layer."""
        return int(self.dim * self.mlp_ratio)

    @property
    def window_samples(self) -> int:
        """Samples of the longest window."""
        return self.n_patches * self.patch_samples

    @property
    def token_per_lead(self) -> bool:
        """Whether each lead has tokens of its own, lead after lead; else a token is a slice of time of all leads."""
        return False

    @property
    def fewest_parameters(self) -> int:
        """Parameters that such an encoder has at least; weights with fewer are refused before it is built."""
        return 0

    def flops(self, slices: float) -> float:
        """Count the floating-point operations of a forward pass over so many slices of time; NaN if nobody counts.

        What the mathematics needs, 2 for a multiplication with its addition, however it is computed.
        """
        return math.nan

    def _block_parameters(self) -> int:
        """Count the entries of the matrices in the transformer blocks."""
        return self.depth * (4 * self.dim**2 + 2 * self.dim * self.hidden_dim)

    def _block_flops(self, tokens: float, keys: float) -> float:
        """Count what the transformer blocks do for so many tokens, each of which sees so many keys."""
        return tokens * self.depth * block_flops(self.dim, self.hidden_dim, keys)


def block_flops(dim: int, hidden_dim: int, keys: float) -> float:
    """Count what a transformer block does for one token that sees so many keys."""
    return 8 * dim**2 + 4 * dim * hidden_dim + 4 * keys * dim


@dataclass(frozen=True)
class TemporalConfig(EncoderConfig):
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
    bias: bool = False
    norm_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("num_registers", minimum=0)
        for name in ("bias", "norm_bias"):
            self._require(isinstance(getattr(self, name), bool), name, "true or false")
        self._require(self.dim % 2 == 0, "dim", "an even number")

    @property
    def fewest_parameters(self) -> int:
        """Parameters that such an encoder has at least."""
        return self._block_parameters()

    def flops(self, slices: float) -> float:
        """Count a forward pass over so many slices; registers are embedded by no product."""
        tokens = slices + self.num_registers
        return 2 * self.n_leads * self.patch_samples * slices * self.dim + self._block_flops(tokens, tokens)


@dataclass(frozen=True)
class LeadwiseConfig(EncoderConfig):
    """A token is one slice of time of one lead; attention is cross-pattern, CroPA (Kim, 2024)."""

    architecture: ClassVar[str] = "leadwise"

    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.dim % 4 == 0, "dim", "a multiple of 4")

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
class MultiscaleConfig(EncoderConfig):
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
        fit = [isinstance(width, int) and width >= stride and (width - stride) % 2 == 0 for width in widths]
        self._require(bool(fit) and all(fit), "kernel_samples", f"widths of {stride} or more by an even number")
        self._require(self.dim % 4 == 0, "dim", "a multiple of 4")
        if self.scale_floor is not None:
            self._require_numbers("scale_floor")
            self._require(self.lead_groups == 1, "lead_groups", "1 with scale_floor")

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
