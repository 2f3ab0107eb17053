"""The recurrent encoder: extended LSTMs, of scalar and of matrix memory, look along the tokens in turns.

After Beck et al., "xLSTM: Extended Long Short-Term Memory" (NeurIPS 2024, arXiv:2405.04517), as xECG puts it to the
ECG: a token is one slice of time of all leads, and every other block reads the slices from the last to the first.

Shapes: B windows, L leads, T samples, N tokens, D width of a token, H heads, d width of a head, G = 4 gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skecg.encoders.base import WindowEncoder, hold_last
from skecg.encoders.blocks import init_linear_
from skecg.encoders.linear import Linear
from skecg.spec import EncoderConfig, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["XlstmConfig", "XlstmEncoder"]

# What scalar memory holds between two tokens, each (H, B, d).
Memory: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]

# Samples before and at the present that the convolutions in front of the gates see.
_KERNEL = 4


@dataclass(frozen=True)
class XlstmConfig(EncoderConfig):
    """A token is one slice of time of all leads; recurrent memories, not attention, mix them (xECG).

    Parameters
    ----------
    n_leads : int
        Rows of the input.
    patch_samples, n_patches : int
        Samples of a slice of time, and slices in the longest window.
    dim, num_heads : int
        Width of a token, heads of each block.
    hidden_dim : int
        Width of the hidden layer of a scalar block's MLP.
    block_kinds : str, default="ssmmssmms"
        One letter a block: ``"s"`` for scalar memory, ``"m"`` for matrix memory.
    inner_ratio : int, default=2
        Width inside a block of matrix memory over `dim`.
    norm_eps : float, default=1e-5
        What norms add to the variance.
    """

    architecture: ClassVar[str] = "xlstm"

    patch_samples: int
    n_patches: int
    dim: int
    num_heads: int
    hidden_dim: int
    block_kinds: str = "ssmmssmms"
    inner_ratio: int = 2
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("patch_samples", "n_patches", "dim", "num_heads", "hidden_dim", "inner_ratio")
        self._require_numbers("norm_eps")
        kinds = set(self.block_kinds) if isinstance(self.block_kinds, str) else set()
        self._require(bool(kinds) and kinds <= {"s", "m"}, "block_kinds", "'s' or 'm' for each block")
        self._require(self.dim % self.num_heads == 0, "dim", f"a multiple of num_heads={self.num_heads}")
        self._require(self.inner_dim % 4 == 0, "dim", "a multiple of 4")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.block_kinds)

    @property
    def inner_dim(self) -> int:
        """Width inside a block of matrix memory."""
        return self.dim * self.inner_ratio

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The blocks."""
        return tuple(Stage(f"blocks.{number}", self.dim, self.patch_samples) for number in range(self.depth))

    @property
    def window_samples(self) -> int:
        """Samples of the longest window."""
        return self.n_patches * self.patch_samples

    @property
    def length_step(self) -> int:
        """Any length will do: what remains of a slice is cut off."""
        return 1

    @property
    def fewest_parameters(self) -> int:
        """Entries of the embedding's matrix, and of the large ones in the blocks."""
        scalar = 8 * self.dim**2 // self.num_heads + 3 * self.dim * self.hidden_dim
        matrix = 3 * self.dim * self.inner_dim
        blocks = sum(scalar if kind == "s" else matrix for kind in self.block_kinds)
        return self.n_leads * self.patch_samples * self.dim + blocks


class XlstmEncoder(WindowEncoder):
    """Tokens of all leads through blocks of recurrent memory, every second one backwards in time.

    Parameters
    ----------
    config : XlstmConfig
        Shape of the encoder.
    """

    config: XlstmConfig

    def __init__(self, config: XlstmConfig) -> None:
        super().__init__(config)
        self.patch_embed = Linear(config.n_leads * config.patch_samples, config.dim, bias=False)
        kinds = {"s": ScalarMemoryBlock, "m": MatrixMemoryBlock}
        self.blocks = nn.ModuleList(kinds[kind](config) for kind in config.block_kinds)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights: matrices from a narrow normal distribution, forget gates open."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear_(module)
            elif isinstance(module, ScalarMemory | MatrixMemory):
                module.reset_gates()

    def stages(self, values_BLT: Tensor) -> Iterator[Tensor]:
        """Yield the tokens (B, N, D) after each block, in the order that the last one reads.

        That is the order of time where the number of blocks is odd, as in the released encoder.
        """
        slices_BLNt = self._slices(values_BLT)
        tokens = self.patch_embed(slices_BLNt.transpose(1, 2).flatten(2))
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            yield tokens if (len(self.blocks) - number) % 2 == 0 else tokens.flip(1)
            tokens = tokens.flip(1)

    def counted(self, values_BLT: Tensor) -> Tensor | None:
        """Return which tokens (B, N) the mean counts: all but those of slices that begin with zeros in every lead."""
        return (self._slices(values_BLT)[..., 0] != 0).any(dim=1)

    def _slices(self, values_BLT: Tensor) -> Tensor:
        """Cut windows into slices of time, without what remains at the end; less than one slice is held to be one."""
        patch = self.config.patch_samples
        values_BLT = hold_last(values_BLT, patch)
        return values_BLT.unfold(2, patch, patch)


class CausalConvolution(nn.Module):
    """Each channel's weighted sum of the present and three past tokens; zeros precede the first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim, _KERNEL), 1 / _KERNEL))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x_BND: Tensor) -> Tensor:
        """Mix tokens (B, N, D) along time."""
        padded = F.pad(x_BND, (0, 0, _KERNEL - 1, 0))
        past = [padded[:, k : k + x_BND.shape[1]] * self.weight[:, k] for k in range(_KERNEL)]
        return past[0] + past[1] + past[2] + past[3] + self.bias


class HeadNorm(nn.Module):
    """A norm of each head's values by themselves, without bias."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads, self.eps = num_heads, eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x_BND: Tensor) -> Tensor:
        """Normalize tokens (B, N, D), heads side by side."""
        heads = x_BND.unflatten(-1, (self.num_heads, -1))
        return F.layer_norm(heads, heads.shape[-1:], eps=self.eps).flatten(-2) * self.weight


class ScalarMemory(nn.Module):
    """An LSTM of heads with exponential gates and one number of memory a channel; what it emits is fed back (sLSTM)."""

    def __init__(self, config: XlstmConfig) -> None:
        super().__init__()
        H, d = config.num_heads, config.dim // config.num_heads
        self.convolution = CausalConvolution(config.dim)
        # Input and forget gate see the convolved tokens, memory's content and the output gate the tokens themselves.
        self.convolved_gates = nn.Parameter(torch.empty(H, d, 2 * d))
        self.direct_gates = nn.Parameter(torch.empty(H, d, 2 * d))
        self.recurrence = nn.Parameter(torch.empty(H, d, 4 * d))
        self.gate_bias = nn.Parameter(torch.zeros(H, 4 * d))
        self.norm = HeadNorm(config.dim, H, config.norm_eps)
        self.reset_gates()

    def reset_gates(self) -> None:
        """Draw the gates' maps; a forget gate's bias of 3 keeps 95 % of a memory for the next token."""
        d = self.recurrence.shape[1]
        for weight in (self.convolved_gates, self.direct_gates):
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.zeros_(self.recurrence)
        with torch.no_grad():
            self.gate_bias.zero_()[:, d : 2 * d] = 3.0

    def forward(self, x_BND: Tensor) -> Tensor:
        """Mix tokens (B, N, D), from the first to the last."""
        convolved = F.silu(self.convolution(x_BND))
        gates = torch.cat([self._by_head(convolved, self.convolved_gates), self._by_head(x_BND, self.direct_gates)], -1)
        # In float32 whatever the precision: errors of exponential gates add up along the tokens.
        gates_NHBG = (gates + self.gate_bias[:, None]).float()
        return self.norm(self._remember(gates_NHBG).permute(2, 0, 1, 3).flatten(2))

    def _by_head(self, x_BND: Tensor, weight_HdG: Tensor) -> Tensor:
        """Multiply each head's values by its own matrix: (N, H, B, G)."""
        B, N, _ = x_BND.shape
        heads_HRd = x_BND.transpose(0, 1).reshape(N * B, weight_HdG.shape[0], -1).transpose(0, 1)
        return (heads_HRd @ weight_HdG).unflatten(1, (N, B)).transpose(0, 1)

    def _remember(self, gates_NHBG: Tensor) -> Tensor:
        """Go through time; gates grow as exponentials do, so that memory is kept divided by exp(`scale`)."""
        nothing = gates_NHBG.new_zeros(*gates_NHBG.shape[1:3], self.recurrence.shape[1])
        memory: Memory = nothing, nothing, nothing, torch.full_like(nothing, -torch.inf)
        if getattr(torch.compiler, "is_exporting", bool)():  # what older versions of torch do not know
            return self._scan(memory, gates_NHBG)
        outputs = []
        for gates_HBG in gates_NHBG:
            memory = self._next(memory, gates_HBG)
            outputs.append(memory[0])
        return torch.stack(outputs)

    def _scan(self, memory: Memory, gates_NHBG: Tensor) -> Tensor:
        """Go through time in a loop of a graph's own; written out, steps would be of one number only."""
        from torch._higher_order_ops.scan import scan

        def step(memory: list[Tensor], gates_HBG: Tensor) -> tuple[list[Tensor], Tensor]:
            emitted, content, total, scale = memory
            after = self._next((emitted, content, total, scale), gates_HBG)
            return list(after), after[0].clone()

        # Copied, here as above: no array may go by two names.
        outputs: Tensor = scan(step, [part.clone() for part in memory], gates_NHBG)[1]
        return outputs

    def _next(self, memory: Memory, gates_HBG: Tensor) -> Memory:
        """Return memory after one more step: what it emits, content, total, and the scale of both."""
        emitted, content, total, scale = memory
        entry, forget, value, output = (gates_HBG + emitted @ self.recurrence).float().chunk(4, dim=-1)
        kept = scale + F.logsigmoid(forget)
        # The larger exponent is taken out of both, so that neither overflows.
        scale = torch.maximum(entry, kept)
        entry, kept = (entry - scale).exp(), (kept - scale).exp()
        content = kept * content + entry * value.tanh()
        total = kept * total + entry
        return output.sigmoid() * content / total, content, total, scale


class ScalarMemoryBlock(nn.Module):
    """Scalar memory, then a gated MLP, each normed before and added to its input."""

    def __init__(self, config: XlstmConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps, bias=False)
        self.memory = ScalarMemory(config)
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps, bias=False)
        self.up = Linear(config.dim, 2 * config.hidden_dim, bias=False)
        self.down = Linear(config.hidden_dim, config.dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Transform tokens (B, N, D)."""
        x_BND = x_BND + self.memory(self.norm(x_BND))
        gate, value = self.up(self.mlp_norm(x_BND)).chunk(2, dim=-1)
        return x_BND + self.down(F.gelu(gate) * value)


class MatrixMemory(nn.Module):
    """Linear attention with exponential gates: what a memory of one matrix a head would recall (mLSTM)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # Three maps of four channels to four each, for queries, keys and values.
        self.qkv = nn.Parameter(torch.empty(3, dim // 4, 4, 4))
        self.gates = Linear(3 * dim, 2 * num_heads)
        self.reset_gates()

    def reset_gates(self) -> None:
        """Draw the maps; forget gates' biases of 3 to 6 keep 95 % and more of a memory for the next token."""
        nn.init.trunc_normal_(self.qkv, std=0.5)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias.zero_()[self.num_heads :] = torch.linspace(3.0, 6.0, self.num_heads)

    def forward(self, keys_from_BND: Tensor, values_from_BND: Tensor) -> Tensor:
        """Recall (B, N, D) for each token what the tokens up to it hold."""
        q, k = _small_maps(keys_from_BND, self.qkv[0]), _small_maps(keys_from_BND, self.qkv[1])
        v = _small_maps(values_from_BND, self.qkv[2])
        gates_B2HN = self.gates(torch.cat([q, k, v], dim=-1)).float().mT.unflatten(1, (2, self.num_heads))
        entry_BHN, forget_BHN = gates_B2HN[:, 0], gates_B2HN[:, 1]
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        # Logarithms of products of gates: the products themselves vanish after some tokens.
        kept_BHN = F.logsigmoid(forget_BHN).cumsum(-1)
        later = torch.ones(k.shape[2], k.shape[2], dtype=torch.bool, device=k.device).triu(1)
        decay = (kept_BHN[..., None] + (entry_BHN - kept_BHN)[..., None, :]).masked_fill(later, -torch.inf)
        largest = decay.amax(-1, keepdim=True)
        weights = (q @ k.mT).float() * (q.shape[-1] ** -0.5) * (decay - largest).exp()
        # At least exp(-largest), as published: a token that recalls nothing must not be blown up.
        total = torch.maximum(weights.sum(-1, keepdim=True).abs(), (-largest).exp()) + 1e-6
        return ((weights / total).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def _small_maps(x_BND: Tensor, weight_C44: Tensor) -> Tensor:
    """Multiply every four channels by their own matrix (output, input)."""
    groups = x_BND.unflatten(-1, (-1, 4))
    parts = [groups[..., i, None] * weight_C44[:, :, i] for i in range(4)]
    return (parts[0] + parts[1] + parts[2] + parts[3]).flatten(-2)


class MatrixMemoryBlock(nn.Module):
    """Matrix memory between a map up and a map down, gated, normed before and added to its input."""

    def __init__(self, config: XlstmConfig) -> None:
        super().__init__()
        inner = config.inner_dim
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps, bias=False)
        self.up = Linear(config.dim, 2 * inner, bias=False)
        self.convolution = CausalConvolution(inner)
        self.memory = MatrixMemory(inner, config.num_heads)
        self.memory_norm = HeadNorm(inner, config.num_heads, config.norm_eps)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = Linear(inner, config.dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Transform tokens (B, N, D)."""
        inner, gate = self.up(self.norm(x_BND)).chunk(2, dim=-1)
        convolved = F.silu(self.convolution(inner))
        recalled = self.memory_norm(self.memory(convolved, inner)) + self.skip * convolved
        return x_BND + self.down(recalled * F.silu(gate))
