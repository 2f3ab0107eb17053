"""The batch of a step: a pure function of (seed, step, positions in the global batch).

Which rows, which crop, which leads are drawn as numbers (:func:`draw_batch`), by address: what is drawn for a position
of a step depends on nothing drawn before. The int16 rows then go to the device, where all else is done for the batch at
once (:func:`to_values`). Normalization is that of :func:`skecg.prepare`, applied to the valid part of a row as to a
record of its own.

Shapes: B rows of a batch, L leads of the encoder, S samples of a row, T samples of a window.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.errors import LeadError, LeadWarning, ParameterError, SignalWarning
from skecg.leads import CANONICAL_LEADS, LIMB_COEFFICIENTS
from skecg.preprocessing.on_device import scale_leads
from skecg.validation import check_choice

if TYPE_CHECKING:
    from pretraining.config import DataConfig, PretrainConfig
    from pretraining.data.shards import ShardSet
    from skecg.spec import InputSpec

__all__ = ["Batch", "below", "check_shards", "draw_batch", "lead_columns", "to_values", "uniforms"]

_WORDS_A_COUNT = 4  # 64-bit words that Philox makes of one value of its counter

_MASK = 2**64 - 1

_STREAM = 0xBA7C4  # each use of uniforms has a stream of its own
_LOOK_STREAM = 0x1EAD5000

# What `pack` has an option for; whatever else a preparation holds comes with a recipe or with weights.
_PACK_OPTIONS = ("sampling_rate", "highpass_hz", "lowpass_hz")

# So many rows stay in a CPU's cache from step to step, which is about twice as fast as whole batches.
_ROWS_ON_CPU = 32


def uniforms(seed: int, step: int, positions: range, n_draws: int, *, stream: int) -> NDArray[np.float64]:
    """Draw numbers for some positions of the batch of a step.

    Parameters
    ----------
    seed, step : int
        The key of a Philox generator.
    positions : range
        Contiguous positions in the global batch; those of all processes and of all parts of a batch together give what
        one process would have drawn.
    n_draws : int
        Numbers for each position.
    stream : int
        Keeps draws for different purposes apart.

    Returns
    -------
    ndarray of shape (len(positions), n_draws), float64
        Uniform in [0, 1).

    References
    ----------
    .. [1] Salmon J. K. et al. (2011). Parallel random numbers: as easy as 1, 2, 3. SC '11.
    """
    assert positions.step == 1, "positions are contiguous"
    # Whole counts for each position, so that a position's numbers begin at an address of their own.
    counts = -(-n_draws // _WORDS_A_COUNT)
    key = np.array([seed & _MASK, step & _MASK], dtype=np.uint64)
    counter = np.array([positions.start * counts, 0, 0, stream], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(len(positions) * counts * _WORDS_A_COUNT)
    # The upper 53 bits: what a float64 from 0 to below 1 can hold.
    drawn = (words.reshape(len(positions), counts * _WORDS_A_COUNT)[:, :n_draws] >> np.uint64(11)) * 2.0**-53
    return np.asarray(drawn, dtype=np.float64)


class _Draw(IntEnum):
    """What the numbers of a position are for; the last stands for one number a lead."""

    CORPUS = 0
    ROW = 1
    CROP = 2
    ROLL = 3
    GAIN = 4
    DROPOUT = 5
    N_KEPT = 6
    LEADS = 8


_N_DRAWS = _Draw.LEADS + len(CANONICAL_LEADS)
_OF_LEADS = [_Draw.DROPOUT, _Draw.N_KEPT, *range(_Draw.LEADS, _N_DRAWS)]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of shards and what was drawn for each.

    Parameters
    ----------
    rows : ndarray of shape (B,), int64
    signals : ndarray of shape (B, 12, S), int16
    scale_uv : ndarray of shape (B,), float32
        Microvolts a step.
    lead_mask : ndarray of shape (B, 12), bool
        Leads that the recording has.
    kept_leads : ndarray of shape (B, 12), bool
        Those that it is shown with.
    valid_samples : ndarray of shape (B,), int64
    crop_start, roll : ndarray of shape (B,), int64
        Samples. A window begins at `crop_start`; sample t of a rolled one is sample t - roll of the row.
    gain : ndarray of shape (B,), float32
    """

    rows: NDArray[np.int64]
    signals: NDArray[np.int16]
    scale_uv: NDArray[np.float32]
    lead_mask: NDArray[np.bool_]
    kept_leads: NDArray[np.bool_]
    valid_samples: NDArray[np.int64]
    crop_start: NDArray[np.int64]
    roll: NDArray[np.int64]
    gain: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Batch:
        return Batch(**{field.name: getattr(self, field.name)[part] for field in fields(self)})


def check_shards(shards: ShardSet, config: PretrainConfig) -> None:
    """Check, before a run, that shards and configuration fit each other.

    Raises
    ------
    ParameterError
        When the rate or the filter of the shards is not the encoder's, or corpora with weights are not there.
    LeadError
        When the encoder has leads other than the twelve, or no recording has its leads.

    Warns
    -----
    SignalWarning
        When records were resampled by the other method, or rows are shorter than windows.
    LeadWarning
        When recordings are never drawn for want of leads, or corpora for want of a weight.
    """
    rows, _ = _pools(shards, config.input, tuple(config.data.weights.items()))
    if shards.spec.resampling != config.input.resampling:
        warnings.warn(
            f"Got shards resampled by {shards.spec.resampling!r} for an encoder that will be fed by "
            f"{config.input.resampling!r}: amplitudes differ by some microvolts. Pack with resampling= to be exact.",
            SignalWarning,
            stacklevel=2,
        )
    n_drawn = sum(map(len, rows))
    if n_drawn < shards.n_records:
        warnings.warn(
            f"{shards.n_records - n_drawn} of {shards.n_records} rows are never drawn: they lack leads of the encoder "
            "(input.any_leads=true takes them, unless the objective mixes leads), or data.weights names other corpora.",
            LeadWarning,
            stacklevel=2,
        )
    if shards.segment_samples < config.input.window_samples:
        row, window = shards.segment_samples / shards.sampling_rate, config.input.window_seconds
        warnings.warn(
            f"Got shards with rows of {row:g} s for windows of {window:g} s: each is held at its last value for the "
            f"rest of the window. Pack with --segment-seconds {window:g}, if recordings are as long, or train on "
            "shorter windows.",
            SignalWarning,
            stacklevel=2,
        )


def draw_batch(
    shards: ShardSet,
    config: PretrainConfig,
    step: int,
    positions: range,
    *,
    gather: Callable[[NDArray[np.int64]], NDArray[np.int16]] | None = None,
) -> Batch:
    """Draw the rows at some positions of a step's global batch.

    Parameters
    ----------
    shards : ShardSet
    config : PretrainConfig
        Its `input`, `data` and ``run.seed`` are used.
    step : int
        Optimizer step.
    positions : range
        Positions in the global batch of ``run.batch_size``, contiguous.
    gather : callable, optional
        Reads rows; ``shards.gather`` when not given.

    Returns
    -------
    Batch
        The same for a position whatever other positions are drawn with it.

    Raises
    ------
    ParameterError, LeadError
        As :func:`check_shards` does.

    Notes
    -----
    Corpora are drawn by ``data.weights`` (those without one never), rows uniformly, both with replacement. Rows without
    all leads of the encoder are not drawn; where ``input.any_leads`` says that any subset will do, those without a
    single one. Only a row of exactly one window is rolled. A record shown with fewer leads keeps a number of them drawn
    uniformly from one to all; where two limb leads are kept all are, because :func:`skecg.prepare` derives them: the
    encoder is shown what it will be shown in use.
    """
    drawn = uniforms(config.run.seed, step, positions, _N_DRAWS, stream=_STREAM)
    rows = _draw_rows(drawn, *_pools(shards, config.input, tuple(config.data.weights.items())))
    valid = shards.valid_samples[rows].astype(np.int64)
    lead_mask = shards.lead_mask[rows]
    window = config.input.window_samples
    return Batch(
        rows=rows,
        signals=(gather or shards.gather)(rows),
        scale_uv=shards.scale_uv[rows],
        lead_mask=lead_mask,
        kept_leads=_draw_leads(drawn, lead_mask & _lead_row(config.input), config.data),
        valid_samples=valid,
        crop_start=below(drawn[:, _Draw.CROP], np.maximum(valid - window, 0) + 1),
        roll=below(drawn[:, _Draw.ROLL], np.where((valid == window) & config.data.roll, window, 1)),
        gain=_draw_gain(drawn, config.data),
    )


# Looking for leads and corpora takes longer than drawing, and comes out the same for each step.
@lru_cache(maxsize=8)
def _pools(
    shards: ShardSet, spec: InputSpec, weights: tuple[tuple[str, float], ...]
) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
    """Return the rows to draw from, pool by pool, and where on [0, 1) each pool ends."""
    _check_preparation(shards, spec)
    present = shards.lead_mask[:, list(lead_columns(spec.leads))]
    usable = np.any(present, axis=1) if spec.any_leads else np.all(present, axis=1)
    if not usable.any():
        raise LeadError(
            f"Got shards in which no recording has the encoder's leads ({', '.join(spec.leads)}). Pack others, or set "
            "input.any_leads=true, unless the objective mixes leads, as 'beat_ssl' does."
        )
    if not weights:
        return [np.flatnonzero(usable)], np.ones(1)
    for corpus, _ in weights:
        check_choice("data.weights", corpus, shards.corpora)
    pools = [rows[usable[rows]] for rows in (shards.rows_of(corpus) for corpus, _ in weights)]
    for (corpus, _), rows in zip(weights, pools, strict=True):
        if not len(rows):
            raise LeadError(f"Got a weight for {corpus!r}, of which no recording has the encoder's leads.")
    ends = np.cumsum([weight for _, weight in weights])
    # Shares need not add up to 1: they may be numbers of anything.
    return pools, ends / ends[-1]


def _check_preparation(shards: ShardSet, spec: InputSpec) -> None:
    """Check that shards were prepared for this encoder."""
    for name in (
        "sampling_rate",
        "highpass_hz",
        "lowpass_hz",
        "filter_order",
        "filter_design",
        "notch_hz",
        "baseline_samples",
    ):
        found, wanted = getattr(shards.spec, name), getattr(spec, name)
        unused = name == "filter_order" and spec.highpass_hz is None and spec.lowpass_hz is None
        if found != wanted and not unused:
            raise ParameterError(
                f"Got shards with {name}={found!r}, expected {wanted!r}, as the run's input.{name} says. "
                f"{_pack_again(name, wanted)}"
            )


def _pack_again(name: str, wanted: object) -> str:
    """Return what to do about shards that were prepared otherwise, as the command line spells it."""
    whole = "--recipe or --from, as this run is given them"
    if name not in _PACK_OPTIONS:
        return f"Pack them again with {whole}, or train a recipe that takes them as they are."
    option = f"--{name.replace('_', '-')}"
    how = f"without {option}" if wanted is None else f"with {option} {wanted:g}"
    return f"Pack them again {how}, or with {whole}; or train a recipe that takes them as they are."


def _lead_row(spec: InputSpec) -> NDArray[np.bool_]:
    """Mark the encoder's leads among the twelve."""
    return np.isin(np.arange(len(CANONICAL_LEADS)), lead_columns(spec.leads))


def below(uniform: NDArray[np.float64], limit: NDArray[np.integer]) -> NDArray[np.int64]:
    """Turn uniform numbers into integers from 0 to below a limit."""
    # The product may round up to the limit itself, though the number is below 1.
    return np.minimum((uniform * limit).astype(np.int64), limit - 1)


def _draw_rows(
    drawn: NDArray[np.float64], pools: list[NDArray[np.int64]], ends: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Draw a pool, then a row of it, for each position."""
    chosen = np.searchsorted(ends[:-1], drawn[:, _Draw.CORPUS], side="right")
    place = below(drawn[:, _Draw.ROW], np.array([len(pool) for pool in pools])[chosen])
    rows = np.empty(len(drawn), dtype=np.int64)
    for number, pool in enumerate(pools):
        rows[chosen == number] = pool[place[chosen == number]]
    return rows


def _draw_gain(drawn: NDArray[np.float64], data: DataConfig) -> NDArray[np.float32]:
    """Draw factors whose logarithm is uniform, so that halving is as likely as doubling."""
    low, high = np.log(data.gain)
    return np.exp(low + drawn[:, _Draw.GAIN] * (high - low)).astype(np.float32)


def _draw_leads(drawn: NDArray[np.float64], available: NDArray[np.bool_], data: DataConfig) -> NDArray[np.bool_]:
    """Choose the leads (B, 12) that each record is shown with."""
    if not data.lead_dropout:
        return available
    return _keep_leads(drawn[:, _OF_LEADS], available, data.lead_dropout)


def draw_shown_leads(
    batch: Batch, spec: InputSpec, share: float, positions: range, *, seed: int, step: int, n_looks: int
) -> NDArray[np.bool_]:
    """Choose, for several looks at the same records, which of their leads each leaves.

    Parameters
    ----------
    batch : Batch
    spec : InputSpec
    share : float
        Of the records of which a look hides leads.
    positions : range
        Places of the records in the batch of the whole step.
    seed, step : int
    n_looks : int

    Returns
    -------
    ndarray of shape (n_looks, B, L)
        True for leads of the encoder that stay, one at least of those that there are; the same for a place whatever
        other places are drawn with it.
    """
    available = batch.lead_mask & batch.kept_leads & _lead_row(spec)
    columns = list(lead_columns(spec.leads))
    drawn = (uniforms(seed, step, positions, len(_OF_LEADS), stream=_LOOK_STREAM + number) for number in range(n_looks))
    return np.stack([_keep_leads(numbers, available, share)[:, columns] for numbers in drawn])


def _keep_leads(drawn: NDArray[np.float64], available: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Choose a random subset of the leads of a share of the records: by a number for that, one for how many, and 12."""
    n_kept = 1 + below(drawn[:, 1], available.sum(axis=1))
    # Absent leads go last.
    keys = np.where(available, drawn[:, 2:], 2.0)
    rank = keys.argsort(axis=1).argsort(axis=1)
    kept = available & (rank < n_kept[:, None])
    n_limb = len(LIMB_COEFFICIENTS)
    # Two limb leads give the four others by arithmetic, so hiding those would hide nothing.
    kept[:, :n_limb] |= available[:, :n_limb] & (kept[:, :n_limb].sum(axis=1, keepdims=True) >= 2)
    return np.where(drawn[:, :1] < share, kept, available)


def to_values(batch: Batch, config: PretrainConfig, device: torch.device | str) -> Tensor:
    """Turn a batch into what the encoder takes.

    The leads of ``config.input`` are taken, absent ones and those not kept becoming 0; the row is normalized as
    :func:`skecg.prepare` normalizes a record of these leads; then cropped, rolled, multiplied by its gain (which would
    be divided out again by normalization), and clipped.

    Parameters
    ----------
    batch : Batch
    config : PretrainConfig
    device : torch.device or str
        Where everything is computed; int16 is what travels.

    Returns
    -------
    Tensor of shape (B, L, T), float32
    """
    if torch.device(device).type != "cpu":
        return _values(batch, config, device)
    values = torch.empty(len(batch), config.input.n_leads, config.input.window_samples)
    for start in range(0, len(batch), _ROWS_ON_CPU):
        values[start : start + _ROWS_ON_CPU] = _values(batch[start : start + _ROWS_ON_CPU], config, device)
    return values


def _values(batch: Batch, config: PretrainConfig, device: torch.device | str) -> Tensor:
    """Take all steps for a chunk of rows."""
    spec = config.input
    columns = list(lead_columns(spec.leads))
    shown = (batch.lead_mask & batch.kept_leads)[:, columns]
    # As int16: half of what float32 would take on the way to the device.
    steps_BLS = torch.from_numpy(batch.signals).to(device, non_blocking=True)
    if columns != list(range(steps_BLS.shape[1])):
        steps_BLS = steps_BLS[:, columns]
    scale_B = torch.from_numpy(batch.scale_uv * np.float32(1e-3)).to(device)
    shown_BL = torch.from_numpy(shown).to(device)
    # A record's own mean and deviation are those of all of it; what is the same for all is cheaper for a window.
    whole = spec.normalization not in ("none", "statistics")
    if not whole:
        steps_BLS = _window(steps_BLS, batch, spec.window_samples)
    values = scale_leads(steps_BLS * scale_B[:, None, None], shown_BL, spec, batch.valid_samples)
    if whole:
        values = _window(values, batch, spec.window_samples)
    return _finish_(values, shown, batch.gain, spec.clip)


def _finish_(values_BLT: Tensor, shown: NDArray[np.bool_], gain: NDArray[np.float32], clip: float | None) -> Tensor:
    """Multiply by the gain, put 0 where no lead is shown, and clip, all in place."""
    factor = gain[:, None] * shown
    if not np.all(factor == 1):
        values_BLT.mul_(torch.from_numpy(factor).to(values_BLT.device)[:, :, None])
    return values_BLT if clip is None else values_BLT.clamp_(-clip, clip)


@lru_cache(maxsize=16)
def lead_columns(leads: tuple[str, ...]) -> tuple[int, ...]:
    """Return the places of an encoder's leads among the twelve of shards."""
    strange = [lead for lead in leads if lead not in CANONICAL_LEADS]
    if strange:
        raise LeadError(f"Got an encoder for lead(s) {', '.join(strange)}, expected some of the twelve.")
    return tuple(CANONICAL_LEADS.index(lead) for lead in leads)


def _window(values_BLS: Tensor, batch: Batch, window: int) -> Tensor:
    """Cut each row's window, rolled where it was drawn so."""
    n_samples = values_BLS.shape[-1]
    if window > n_samples:
        # A row shorter than a window is held at its last value, as windows of short records are.
        held = values_BLS[:, :, -1:].expand(-1, -1, window - n_samples)
        return torch.cat([values_BLS, held], dim=-1)
    if batch.roll.any():
        # Only rows of exactly one window are rolled: twice that window holds all its rotations.
        doubled = torch.cat([values_BLS[:, :, :window], values_BLS], dim=-1)
        starts = np.where(batch.roll > 0, window - batch.roll, window + batch.crop_start)
        return _cut(doubled, starts, window)
    if window == n_samples:
        return values_BLS
    return _cut(values_BLS, batch.crop_start, window)


def _cut(values_BLS: Tensor, starts: NDArray[np.int64], window: int) -> Tensor:
    """Take `window` samples of each row from its start."""
    # A view of all windows that there are, of which only the chosen ones are copied.
    views_BLNT = values_BLS.unfold(-1, window, 1)
    rows = torch.arange(len(starts), device=values_BLS.device)
    return views_BLNT[rows, :, torch.from_numpy(starts).to(values_BLS.device)]
