"""What is seen and what is asked for: slices of time for JEPA, tokens and patches for masked autoencoders.

Masks are drawn for the whole batch of a step from (seed, step) and each record's place in it, so they are the same
however the batch is split over processes. A patch is one slice of time of one lead. A recording has the patches of the
leads that it is shown with, as far as it reaches: leads that are absent and padding are neither seen nor asked for.

Shapes: B records, L leads, G lead groups (1, or one a lead), K visible slices or tokens, M masked ones. For JEPA N = K
+ M slices of time; for autoencoders P slices of time and N = G P tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.config import MaskConfig
from pretraining.config.parts import MASK_KINDS
from pretraining.data.batches import below, uniforms
from pretraining.objectives.base import Drawn
from skecg.errors import ParameterError

__all__ = [
    "Masks",
    "TokenMasks",
    "draw_masks",
    "draw_seen",
    "draw_token_masks",
    "kim_multiblock_mask",
    "kim_random_mask",
    "n_visible",
    "register_mask",
    "weimann_keep_mask",
]

BoolArray = NDArray[np.bool_]

_TRIES = 100  # draws of blocks, before they are said to cover every window

_SEEN_STREAM = 0x5EE7  # its own, so that switching descriptions on leaves the masks as they were

#: Draws, of a configuration, the number of slices, places in a batch and a key (seed, step, number of the mask), which
#: slices are kept: (B, n_patches), True where kept, as many in each row; the same for a place whatever comes with it.
MaskDraw: TypeAlias = Callable[[MaskConfig, int, range, tuple[int, int, int]], BoolArray]

_REGISTERED: dict[str, MaskDraw] = {}

_BLOCKS_STREAM = 0xB10C << 32  # room below it for the number of the mask

_CROP_STREAM = 0xC20B << 32

_STREAM = 0x3A5C


@dataclass(frozen=True)
class Masks(Drawn):
    """What is visible and what is to be predicted, as slices of time.

    Parameters
    ----------
    context : Tensor of shape (B, K), int64
        Slices that the context encoder sees, ascending.
    target : Tensor of shape (B, M), int64
        All other slices, ascending.
    leads : Tensor of shape (B, L), bool, optional
        Leads that the context encoder sees; all that the record is shown with where not given.
    """

    context: Tensor
    target: Tensor
    leads: Tensor | None = None


def register_mask(kind: str, draw: MaskDraw) -> None:
    """Make a way to draw masks known, as ``masks.kind``.

    Raises
    ------
    ParameterError
        When another one is of that kind.
    """
    if kind in MASK_KINDS and getattr(_REGISTERED.get(kind), "__module__", None) != draw.__module__:
        raise ParameterError(f"Got a mask {kind!r} of {draw.__module__}, expected a name that no other mask has.")
    _REGISTERED[kind] = draw
    MASK_KINDS[kind] = draw.__module__


def draw_masks(config: MaskConfig, n_patches: int, positions: range, *, seed: int, step: int) -> list[Masks]:
    """Draw the masks of some records of a step's batch.

    Parameters
    ----------
    config : MaskConfig
    n_patches : int
        N.
    positions : range
        Places of the records in the batch of the whole step.
    seed, step : int

    Returns
    -------
    list of Masks, of length ``config.masks_per_target``
    """
    return [_draw(config, n_patches, positions, (seed, step, number)) for number in range(config.masks_per_target)]


def draw_seen(n_patches: int, share: float, positions: range, *, seed: int, step: int) -> torch.Tensor:
    """Draw which slices a description is made from: single ones, for each record.

    Parameters
    ----------
    n_patches : int
    share : float
        Of the slices that are seen.
    positions : range
        Places in the batch of the step.
    seed, step : int

    Returns
    -------
    Tensor of shape (B, K), int64
        Ascending; the same for a place whatever other places are drawn with it.
    """
    drawn = uniforms(seed, step, positions, n_patches, stream=_SEEN_STREAM)
    n_seen = max(1, round(share * n_patches))
    chosen = np.argpartition(drawn, n_seen - 1, axis=1)[:, :n_seen]
    return torch.from_numpy(np.sort(chosen, axis=1))


def _draw(config: MaskConfig, n_patches: int, positions: range, key: tuple[int, int, int]) -> Masks:
    if config.kind in _REGISTERED:
        keep = _REGISTERED[config.kind](config, n_patches, positions, key)
        return _as_masks(_checked(keep, config, (len(positions), n_patches)))
    if config.kind in ("blocks", "crop"):
        shared = np.random.default_rng([*key, 0])
        # Shared by the batch, as published: rows with as many tokens make one tensor without padding.
        num_keep = min(math.ceil(shared.uniform(config.low, config.high) * n_patches), n_patches - 1)
        if config.kind == "crop":
            return _as_masks(_draw_crops(n_patches, num_keep, positions, key))
        return _as_masks(_draw_blocks(n_patches, num_keep, config.min_block, positions, key))
    # torch's numbers, because Kim's masks are tested against his own, which torch drew.
    generator = torch.Generator().manual_seed(int(np.random.default_rng(key).integers(2**63)))
    if config.kind == "random":
        masked = kim_random_mask(generator, n_patches, config.low, config.high)
    else:
        masked = _draw_multiblock(config, n_patches, generator)
    # Kim draws one mask for the whole batch.
    return _as_masks(np.broadcast_to(~masked, (len(positions), n_patches)))


def _checked(keep: Any, config: MaskConfig, shape: tuple[int, int]) -> BoolArray:
    """Return what a plug-in's mask keeps, or raise where it cannot be what it has to be."""
    keep = np.asarray(keep)
    counts = set(keep.sum(axis=1).tolist()) if keep.dtype == bool and keep.shape == shape else set()
    if len(counts) != 1 or counts & {0, shape[1]}:
        raise ParameterError(
            f"Got {keep.dtype} of shape {keep.shape} from the mask {config.kind!r}, expected bool of shape {shape}, "
            "True at equally many slices of each record: at one at least, and not at all of them."
        )
    return keep


def _draw_multiblock(config: MaskConfig, n_patches: int, generator: torch.Generator) -> BoolArray:
    """Draw blocks that leave something to see; those that cover a window the published code has no answer for."""
    for _ in range(_TRIES):
        masked = kim_multiblock_mask(
            generator, n_patches, config.low, config.high, n_blocks=config.n_blocks, last_slice=config.last_slice
        )
        if not masked.all():
            return masked
    raise ParameterError(
        f"Got masks.n_blocks={config.n_blocks}, masks.low={config.low:g} and masks.high={config.high:g}, which cover "
        f"all {n_patches} slices in each of {_TRIES} draws, expected to leave some. Take fewer or shorter blocks."
    )


def _as_masks(keep: BoolArray) -> Masks:
    """Turn rows of equally many kept slices into ascending indices."""
    n_records, n_patches = keep.shape
    before = np.arange(n_records)[:, None] * n_patches
    context, target = (np.flatnonzero(chosen).reshape(n_records, -1) - before for chosen in (keep, ~keep))
    return Masks(torch.from_numpy(context), torch.from_numpy(target))


def kim_random_mask(generator: torch.Generator | None, n_patches: int, low: float, high: float) -> BoolArray:
    """Mask single slices, a share of them drawn between `low` and `high` (Kim, arXiv:2410.08559).

    Parameters
    ----------
    generator : torch.Generator or None
        None is torch's global one, from which the published code draws.
    n_patches : int
    low, high : float

    Returns
    -------
    ndarray of shape (n_patches,), bool
        True where masked.
    """
    ratio = low + (high - low) * torch.rand(1, generator=generator).item()
    masked = np.zeros(n_patches, dtype=np.bool_)
    # Of few slices a small share is none, and nothing would be left to predict.
    n_masked = max(1, int(n_patches * ratio))
    masked[torch.randperm(n_patches, generator=generator)[:n_masked].numpy()] = True
    return masked


def kim_multiblock_mask(
    generator: torch.Generator | None,
    n_patches: int,
    low: float,
    high: float,
    *,
    n_blocks: int = 4,
    last_slice: bool = True,
) -> BoolArray:
    """Mask several blocks that may overlap, each a share of the window between `low` and `high` (Kim).

    Parameters
    ----------
    generator : torch.Generator or None
        None is torch's global one.
    n_patches : int
    low, high : float
    n_blocks : int, default=4
    last_slice : bool, default=True
        False draws as the published code does, whose last admissible start is never taken, so that the last slice is
        never masked.

    Returns
    -------
    ndarray of shape (n_patches,), bool
        True where masked.
    """
    masked = np.zeros(n_patches, dtype=np.bool_)
    for _ in range(n_blocks):
        ratio = low + (high - low) * torch.rand(1, generator=generator).item()
        length = max(1, int(n_patches * ratio))
        n_starts = n_patches - length + (1 if last_slice else 0)
        # A whole permutation for one number, for that is what the published code draws.
        start = int(torch.randperm(max(1, n_starts), generator=generator)[0])
        masked[start : start + length] = True
    return masked


def weimann_keep_mask(
    rng: np.random.Generator | np.random.RandomState, n_patches: int, num_keep: int, min_block: int
) -> BoolArray:
    """Mask contiguous blocks of at least `min_block` slices until `num_keep` are left (Weimann and Conrad, 2025).

    Blocks are taken out of what is left, an interval at a time, each interval with a probability proportional to its
    length; one no longer than the block is taken whole. A remainder shorter than `min_block` is taken beside a block
    that is there already.

    Parameters
    ----------
    rng : numpy Generator or RandomState
        A RandomState draws as the published code does.
    n_patches, num_keep, min_block : int

    Returns
    -------
    ndarray of shape (n_patches,), bool
        True where kept.
    """
    left = [(0, n_patches)]
    n_masked, to_mask = 0, n_patches - num_keep
    while n_masked < to_mask:
        lengths = np.array([end - start for start, end in left], dtype=np.float64)
        start, end = left.pop(int(rng.choice(len(left), p=lengths / lengths.sum())))
        remaining = to_mask - n_masked
        block = _integer(rng, min_block, remaining) if remaining >= min_block else remaining
        if end - start <= block:
            n_masked += end - start
            continue
        if remaining >= min_block:
            first = _integer(rng, start, end - block)
        else:
            edges = ([start] if start > 0 else []) + ([end - block] if end < n_patches else [])
            first = int(rng.choice(edges)) if edges else _integer(rng, start, end - block)
        left += [(start, first), (first + block, end)]
        n_masked += block
    keep = np.zeros(n_patches, dtype=np.bool_)
    for start, end in left:
        keep[start:end] = True
    return keep


def _draw_blocks(
    n_patches: int, num_keep: int, min_block: int, positions: range, key: tuple[int, int, int]
) -> BoolArray:
    """Draw masks as :func:`weimann_keep_mask` does, block by block for all records of a batch at once, (B, N).

    What is left of a record is a list of intervals, some of them empty. An interval with a probability proportional to
    its length is that of a slice drawn from all that are left.
    """
    seed, step, number = key
    to_mask = n_patches - num_keep
    # Each block but the last is min_block long or longer, and each makes one interval more, which may be taken whole.
    n_blocks = 2 * (to_mask // min_block) + 3
    drawn = uniforms(seed, step, positions, 3 * n_blocks, stream=_BLOCKS_STREAM + number)
    start = np.zeros((len(positions), n_blocks + 1), dtype=np.int64)
    length, masked = np.zeros_like(start), np.zeros(len(positions), dtype=np.int64)
    length[:, 0] = n_patches
    rows, turn = np.arange(len(positions)), 0
    while to_mask and len(rows):
        pick, how_long, where = drawn[rows, 3 * turn : 3 * turn + 3].T
        turn += 1
        ends = length[rows, :turn].cumsum(axis=1)
        chosen = (ends <= below(pick, n_patches - masked[rows])[:, None]).sum(axis=1)
        first, n_free = start[rows, chosen], length[rows, chosen]
        wanted = to_mask - masked[rows]
        block = np.where(wanted < min_block, wanted, min_block + below(how_long, np.maximum(wanted - min_block, 0) + 1))
        whole = n_free <= block
        begin = first + _block_starts(where, first, n_free, block, n_patches, wanted < min_block)
        length[rows, chosen] = np.where(whole, 0, begin - first)
        start[rows, turn] = np.where(whole, 0, begin + block)
        length[rows, turn] = np.where(whole, 0, first + n_free - begin - block)
        masked[rows] += np.minimum(n_free, block)
        rows = rows[masked[rows] < to_mask]
    return _kept(start, length, n_patches)


def _draw_crops(n_patches: int, num_keep: int, positions: range, key: tuple[int, int, int]) -> BoolArray:
    """Draw where in each record the one stretch that is kept begins, and mark it, (B, N)."""
    seed, step, number = key
    (drawn,) = uniforms(seed, step, positions, 1, stream=_CROP_STREAM + number).T
    start = below(drawn, np.full(len(positions), n_patches - num_keep + 1))
    return _kept(start[:, None], np.full((len(positions), 1), num_keep), n_patches)


def _block_starts(
    where: NDArray[np.float64],
    first: NDArray[np.int64],
    n_free: NDArray[np.int64],
    block: NDArray[np.int64],
    n_patches: int,
    is_rest: BoolArray,
) -> NDArray[np.int64]:
    """Draw where in its interval each block begins; the rest of a mask lies beside a block that is there already."""
    last = np.maximum(n_free - block, 0)
    after_block, before_block = first > 0, first + n_free < n_patches
    beside = np.where(after_block & (~before_block | (where < 0.5)), 0, last)
    return np.where(is_rest & (after_block | before_block), beside, below(where, last + 1))


def _kept(start_BI: NDArray[np.int64], length_BI: NDArray[np.int64], n_patches: int) -> BoolArray:
    """Mark the slices of intervals, (B, N)."""
    n_records, width = len(start_BI), n_patches + 1
    first = start_BI + np.arange(n_records)[:, None] * width
    opened, closed = (np.bincount(edges.ravel(), minlength=n_records * width) for edges in (first, first + length_BI))
    return np.cumsum(opened - closed).reshape(n_records, width)[:, :n_patches] > 0


def _integer(rng: np.random.Generator | np.random.RandomState, low: int, high: int) -> int:
    """Draw a whole number from `low` to `high`, both included."""
    # The published code draws by NumPy's older generator, against whose masks ours are tested.
    draw = rng.randint if isinstance(rng, np.random.RandomState) else rng.integers
    return int(draw(low, high + 1))


@dataclass(frozen=True)
class TokenMasks(Drawn):
    """What is seen, as tokens, and what is to be reconstructed, as patches.

    Parameters
    ----------
    visible : Tensor of shape (B, K), int64
        Numbers of tokens, lead after lead, ascending; -1 fills the rows of recordings that have fewer.
    asked : Tensor of shape (B, L, P), bool
        Patches that are there and hidden.
    """

    visible: Tensor
    asked: Tensor


def n_visible(n: int | NDArray[np.int64], ratio: float) -> NDArray[np.int64]:
    """Compute how many of `n` things stay visible: at least one, and all but one at most where there are two."""
    n = np.asarray(n, dtype=np.int64)
    return np.clip(np.rint((1.0 - ratio) * n).astype(np.int64), 1, np.maximum(n - 1, 1))


def draw_token_masks(
    over: str, ratio: float, there_BLP: BoolArray, lead_groups: int, positions: range, *, seed: int, step: int
) -> TokenMasks:
    """Draw the masks of some records of a step's batch.

    Parameters
    ----------
    over : {"time", "leads", "both"}
        Whole slices of time, whole leads, or single patches are hidden. A recording with a single lead, of which
        hiding leads would leave nothing to see or nothing to ask, has slices of time hidden.
    ratio : float
        Share of what is there that is hidden; the same number for all recordings that have as much.
    there_BLP : ndarray of shape (B, L, P), bool
        Patches that recordings have.
    lead_groups : int
        1 for tokens of all leads, L for tokens of single ones.
    positions : range
        Places of the records in the batch of the whole step.
    seed, step : int

    Returns
    -------
    TokenMasks
        The same for a place whatever other places are drawn with it.
    """
    n_records, n_leads, n_patches = there_BLP.shape
    assert over == "time" or lead_groups == n_leads, "a token of all leads cannot be without one of them"
    drawn = uniforms(seed, step, positions, n_patches + n_leads + n_leads * n_patches, stream=_STREAM)
    by_slice, by_lead, by_patch = np.split(drawn, [n_patches, n_patches + n_leads], axis=1)
    slices_BP, leads_BL = np.any(there_BLP, axis=1), np.any(there_BLP, axis=2)
    shown_BLP = there_BLP & _choose(by_slice, slices_BP, ratio)[:, None, :]
    if over == "leads":
        # Of a recording with one lead no lead can be hidden: its slices are, instead.
        several_B11 = (leads_BL.sum(axis=1) > 1)[:, None, None]
        shown_BLP = np.where(several_B11, there_BLP & _choose(by_lead, leads_BL, ratio)[:, :, None], shown_BLP)
    elif over == "both":
        shown_BLP = _choose(by_patch, there_BLP.reshape(n_records, -1), ratio).reshape(there_BLP.shape)
    tokens_BGP = shown_BLP if lead_groups > 1 else shown_BLP.any(axis=1, keepdims=True)
    # From the shape alone, not from the batch: the same length in every process and every step.
    most = {"time": lead_groups * n_visible(n_patches, ratio), "leads": n_visible(n_leads, ratio) * n_patches}
    n_most = int(most.get(over, n_visible(n_leads * n_patches, ratio)))
    visible = _numbers(tokens_BGP.reshape(n_records, -1), n_most)
    return TokenMasks(torch.from_numpy(visible), torch.from_numpy(there_BLP & ~shown_BLP))


def _choose(drawn_Bn: NDArray[np.float64], there_Bn: BoolArray, ratio: float) -> BoolArray:
    """Choose what stays visible of what is there."""
    # What is not there goes last, behind all numbers below 1. Ranks and not a threshold: exactly as many stay.
    rank = np.where(there_Bn, drawn_Bn, 2.0).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return there_Bn & (rank < n_visible(there_Bn.sum(axis=1), ratio)[:, None])


def _numbers(chosen_BN: BoolArray, n_most: int) -> NDArray[np.int64]:
    """Return the numbers of what was chosen, ascending, filled with -1 to the same length."""
    # Stable, so that tokens stay in their order.
    order = np.argsort(~chosen_BN, axis=1, kind="stable")[:, :n_most]
    return np.where(np.take_along_axis(chosen_BN, order, axis=1), order, -1)
