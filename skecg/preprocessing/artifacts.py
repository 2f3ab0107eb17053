"""What in a record would not be its heart: offsets, wander, clipping, saturation, flat segments, pacing spikes.

Each finding is a note with the numbers that show it. What an encoder's own filter and normalization take away is no
finding: an offset does not matter behind a high-pass.

Shapes: R leads that are used, G samples of a glance at them, E leads of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skecg.preprocessing.signals import butterworth, fill_gaps, mix_leads, normalize
from skecg.preprocessing.units import median

if TYPE_CHECKING:
    from skecg.preprocessing.units import Levels
    from skecg.spec import InputSpec

__all__ = ["Note", "Used", "find_artifacts"]

FloatArray = NDArray[np.float32]

# An offset of 0.3 mV in all leads leaves a fifth of what the first default's features say (centred cosine 0.2); of a
# thousand PTB-XL recordings, nine hundred and ninety have less in any lead. Half of it counts in half of the leads.
_OFFSET_MV, _OFFSET_SHARE = 0.3, 1.5
# At volts of offset, the steps of float32 are no longer small beside a heart's deviation of this share of a millivolt.
_COARSE_MV = 1e4
_WANDER_MV, _WANDER_SHARE = 0.5, 2.5
# Share of a lead. High peaks of sound leads lie beyond the limits of encoders that divide by each lead's own deviation,
# and of those that were made to clip below 2 mV: there a larger share is not the heart's any more.
_CLIPPED_SHARE, _CLIPPED_SHARE_OF_STANDARDIZED, _CLIPPED_SHARE_OF_TIGHT = 0.01, 0.03, 0.1
_TIGHT_MV = 2.0
# A filter may overshoot a step by so much.
_OVERSHOOT = 1.5
# Longer recordings are looked at in pieces.
_WHOLE_SECONDS, _PIECE_SECONDS, _N_PIECES = 60.0, 10.0, 6
# Peaks of the heart touch their limit for a sample or two; a converter at its end stays there, again and again or long.
_SATURATED_SHARE, _PLATEAU_SECONDS, _PLATEAU_SAMPLES, _FEWEST_PLATEAUS = 0.01, 0.01, 3, 3
_STUCK_SHARE = 0.05
_RAILED_SHARE = 0.2
_FLAT_SECONDS, _FLAT_SAMPLES = 1.0, 5
# A pacing spike rises and falls within this time, an R wave does not.
_SPIKE_SECONDS, _SPIKE_MV, _SPIKE_SHARE, _FEWEST_SPIKES, _SLOWEST_SPIKES_HZ = 0.006, 1.5, 5.0, 5, 240.0


class Note(str):
    """A kind of finding about a record, with the numbers that show it."""

    detail: str

    def __new__(cls, kind: str, detail: str = "") -> Note:
        """Make a note that is equal to its kind."""
        note = super().__new__(cls, kind)
        note.detail = detail
        return note

    def __reduce__(self) -> tuple[type[Note], tuple[str, str]]:
        """Return what makes the same note, for those that travel between processes."""
        return Note, (str(self), self.detail)


class Used(NamedTuple):
    """The rows of a record that an encoder uses.

    Parameters
    ----------
    signal : ndarray of shape (n_leads, n_samples)
        The whole record, with all its rows.
    sampling_rate : float
    leads : tuple of str
        Names of all its rows.
    rows : ndarray of int of shape (R,)
        Those that are used.
    sources : tuple of tuples of (int, float)
        Each lead of the encoder as a weighted sum of rows of the record.
    glance : ndarray of shape (R, G)
        Samples spread evenly over the rows used.
    lowest, highest : ndarray of shape (R,)
        Their limits.
    """

    signal: FloatArray
    sampling_rate: float
    leads: tuple[str, ...]
    rows: NDArray[np.intp]
    sources: tuple[tuple[tuple[int, float], ...], ...]
    glance: FloatArray
    lowest: FloatArray
    highest: FloatArray

    def name(self, position: int | np.integer) -> str:
        """Return the name of the lead at a place among the rows used."""
        return self.leads[int(self.rows[position])]

    @property
    def step_seconds(self) -> float:
        """Time from one sample of the glance to the next."""
        return float(self.signal.shape[1] / self.sampling_rate / self.glance.shape[1])


def find_artifacts(used: Used, levels: Levels, spec: InputSpec) -> list[Note]:
    """Return notes on what is no heart in the rows used, each with its numbers.

    Parameters
    ----------
    used : Used
    levels : Levels
        Of the rows used.
    spec : InputSpec
        What it filters away or normalizes is not noted.
    """
    found = _offset(used, levels, spec), _wander(used, levels, spec), _clipped(used, levels, spec)
    return [note for note in (*found, _railed(used), _flat_segments(used), _spikes(used, levels)) if note is not None]


def _offset(used: Used, levels: Levels, spec: InputSpec) -> Note | None:
    """Note offsets that reach the encoder, and those at which float32 has coarse steps."""
    sizes = np.where(used.highest > used.lowest, np.abs(levels.middle), 0.0)  # flat leads are noted as flat
    # Encoders that take each lead's mean away, or filter it out, never see an offset.
    reaches = not spec.is_recentred and spec.normalization not in ("zscore", "record")
    limits = np.maximum(_OFFSET_MV, _OFFSET_SHARE * levels.local) if reaches else np.full(len(sizes), _COARSE_MV)
    worst = int((sizes / limits).argmax())
    if sizes[worst] <= limits[worst] and median(sizes) <= median(limits) / 2:
        return None
    return Note("offset", f"{levels.middle[worst]:.3g} mV in {used.name(worst)}")


def _wander(used: Used, levels: Levels, spec: InputSpec) -> Note | None:
    """Note a baseline that moves more than the heart does, where no filter takes it away."""
    wander = np.where(levels.wander > np.maximum(_WANDER_MV, _WANDER_SHARE * levels.local), levels.wander, 0.0)
    worst = int(wander.argmax())
    if spec.is_recentred or wander[worst] == 0:
        return None
    return Note("wander", f"{wander[worst]:.2g} mV in {used.name(worst)}, {levels.local[worst]:.2g} mV within a second")


def _clipped(used: Used, levels: Levels, spec: InputSpec) -> Note | None:
    """Note what the encoder's clipping takes away, after its own filter and normalization."""
    # A bound from levels that are known already spares most records the filter.
    if spec.clip is None or not _may_clip(used, levels, spec):
        return None
    beyond, n_samples = np.zeros(spec.n_leads), 0
    unclipped, present = replace(spec, clip=None), np.array([bool(source) for source in used.sources])
    for leads in _filtered_pieces(used, spec):
        beyond += (np.abs(normalize(leads, unclipped, lead_mask=present)) > spec.clip).sum(axis=1)
        n_samples += leads.shape[1]
    shares = beyond / n_samples
    worst = int(shares.argmax())
    others = int((shares >= _clipped_share(spec)).sum()) - 1
    if others < 0:
        return None
    more = f" and {others} more leads" if others else ""
    return Note("clipped", f"{shares[worst]:.0%} of {spec.leads[worst]}{more}")


def _clipped_share(spec: InputSpec) -> float:
    """Return the share of a lead beyond the limits from which it matters."""
    if spec.normalization in ("zscore", "record", "whole"):
        return _CLIPPED_SHARE_OF_STANDARDIZED
    limit_mv = float(spec.clip or 0) * min(spec.std or (1.0,))
    return _CLIPPED_SHARE_OF_TIGHT if limit_mv < _TIGHT_MV else _CLIPPED_SHARE


def _may_clip(used: Used, levels: Levels, spec: InputSpec) -> bool:
    """Return whether anything could lie beyond the limits, from the limits of the rows alone."""
    assert spec.clip is not None
    if spec.normalization in ("zscore", "record", "whole"):
        changing = used.highest > used.lowest
        # The pooled deviation of leads is no smaller than the smallest.
        smallest = levels.total[changing].min(initial=np.inf)
        return bool((used.highest - used.lowest).max() * _OVERSHOOT > spec.clip * smallest)
    # A derived lead is a sum of others.
    most = max((sum(abs(weight) for _, weight in source) for source in used.sources), default=0.0)
    largest = float(
        (used.highest - used.lowest).max() if spec.is_recentred else np.abs([used.lowest, used.highest]).max()
    )
    smallest = min(spec.std) if spec.std is not None else 1.0
    furthest = max(map(abs, spec.mean)) if spec.mean is not None else 0.0
    return most * _OVERSHOOT * largest + furthest > spec.clip * smallest


def _filtered_pieces(used: Used, spec: InputSpec) -> Iterator[FloatArray]:
    """Yield the encoder's leads (E, n_samples), filtered as it has them: of the glance, or of pieces at full rate."""
    if spec.highpass_hz is None and spec.lowpass_hz is None:
        position = {int(row): i for i, row in enumerate(used.rows)}
        sources = [tuple((position[row], weight) for row, weight in source) for source in used.sources]
        yield _mixed(fill_gaps(used.glance), sources)
        return
    rate = used.sampling_rate
    passes = {name: _below_nyquist(getattr(spec, name), rate) for name in ("highpass_hz", "lowpass_hz")}
    # A band-pass needs both of its ends; at a slow rate one may lie beyond Nyquist.
    design = "cascade" if None in passes.values() else spec.filter_design
    for piece in _pieces(used):
        yield butterworth(
            # A piece may be one long gap, which leaves nothing to interpolate between.
            _mixed(np.nan_to_num(fill_gaps(piece)), used.sources),
            rate,
            **passes,
            order=spec.filter_order,
            design=design,
        )


def _pieces(used: Used) -> Iterator[FloatArray]:
    """Yield all rows of a record, or some pieces of a long one."""
    rate, n_samples = used.sampling_rate, used.signal.shape[1]
    length = n_samples if n_samples <= _WHOLE_SECONDS * rate else int(_PIECE_SECONDS * rate)
    for start in np.unique(np.linspace(0, n_samples - length, _N_PIECES).astype(int)):
        yield used.signal[:, start : start + length]


def _below_nyquist(cutoff: float | None, rate: float) -> float | None:
    """Return a cut-off frequency, None where a slow record has nothing up there."""
    return cutoff if cutoff is not None and cutoff < rate / 2 else None


def _mixed(signal: FloatArray, sources: Sequence[Sequence[tuple[int, float]]]) -> FloatArray:
    """Return the encoder's leads (E, n_samples), zeros where one is absent."""
    leads = np.zeros((len(sources), signal.shape[1]), dtype=np.float32)
    mix_leads(signal, sources, leads)
    return leads


def _railed(used: Used) -> Note | None:
    """Note leads that a converter or an amplifier held at its limit."""
    changing = used.highest > used.lowest
    worst, where = 0.0, ""
    # A converter rails at either end, often at one alone.
    for limits in (used.lowest, used.highest):
        at_limit = used.glance == limits[:, None]
        # Nearly no sound lead meets its limit more than twice in a glance.
        for position in np.flatnonzero((at_limit.sum(axis=1) > 2) & changing):
            share = _plateau_share(used.signal[used.rows[position]], limits[position], used.sampling_rate)
            share = max(share, float(at_limit[position].mean()) if at_limit[position].mean() > _RAILED_SHARE else 0.0)
            if share > worst:
                worst, where = share, f"{share:.0%} of {used.name(position)} at {limits[position]:.3g} mV"
    return Note("railed", where) if worst >= _SATURATED_SHARE else None


def _plateau_share(lead: FloatArray, limit: np.floating, rate: float) -> float:
    """Return how much of a lead lies at a limit, 0 where it only touches it."""
    at_limit = lead == limit
    n_runs = int(at_limit[0]) + int(np.count_nonzero(at_limit[1:] & ~at_limit[:-1]))
    n_at_limit = int(np.count_nonzero(at_limit))
    share = n_at_limit / len(lead)
    # The mean length of a run, not the longest: one plateau may be chance, each being long is not.
    long_enough = n_at_limit >= n_runs * max(_PLATEAU_SAMPLES, _PLATEAU_SECONDS * rate)
    # One or two plateaus may be chance, unless the lead hangs there for a large part of the time.
    return share if long_enough and (n_runs >= _FEWEST_PLATEAUS or share > _STUCK_SHARE) else 0.0


def _flat_segments(used: Used) -> Note | None:
    """Note leads that stand still for a second or more, and change before or after."""
    # Seen at a glance's rate, a second of a long recording may be less than a sample.
    needed = max(_FLAT_SAMPLES, math.ceil(_FLAT_SECONDS / used.step_seconds))
    equal = used.glance[:, 1:] == used.glance[:, :-1]
    candidates = np.flatnonzero((equal.sum(axis=1) >= needed) & (used.highest > used.lowest))
    longest = [(_longest_run(equal[position]), position) for position in candidates]
    n_samples, position = max(longest, default=(0, 0))
    if n_samples < needed:
        return None
    return Note("flat_segments", f"{n_samples * used.step_seconds:.3g} s of {used.name(position)}")


def _longest_run(values: NDArray[np.bool_]) -> int:
    """Return the length of the longest run of true values."""
    ends = np.flatnonzero(~np.concatenate([[False], values, [False]]))
    return int(np.diff(ends).max()) - 1


def _spikes(used: Used, levels: Levels) -> Note | None:
    """Note pacing spikes: deflections that rise and fall faster than a heart's."""
    # Below this 6 ms are hardly more than a sample.
    if used.sampling_rate < _SLOWEST_SPIKES_HZ:
        return None
    step = max(1, round(_SPIKE_SECONDS * used.sampling_rate))
    tall = {int(row): max(_SPIKE_MV, _SPIKE_SHARE * size) for row, size in zip(used.rows, levels.local, strict=True)}
    found = [
        _count_spikes(piece, row, step, tall[row])
        for piece in _pieces(used)
        for row in _steep_rows(piece, used.rows, step)
    ]
    n_spikes, height, row = max(found, default=(0, 0.0, 0))
    return Note("spikes", f"{n_spikes} of up to {height:.2g} mV in {used.leads[row]}") if n_spikes else None


def _steep_rows(piece: FloatArray, rows: NDArray[np.intp], step: int) -> list[int]:
    """Return those rows that rise as far as a spike within its time."""
    with np.errstate(invalid="ignore"):  # rows that are not used may be infinite
        rises = piece[:, step:] - piece[:, :-step]
    steep = np.fmax(np.fmax.reduce(rises, axis=1), -np.fmin.reduce(rises, axis=1)) > _SPIKE_MV
    return [int(row) for row in rows if steep[row]]


def _count_spikes(piece: FloatArray, row: int, step: int, least_mv: float) -> tuple[int, float, int]:
    """Return how many spikes a row of a record has, the height of the highest, and the row; no spikes where too few."""
    lead = piece[row]
    # Higher than both neighbours 6 ms away: an R wave rises as fast, but does not fall back in that time.
    here, before, after = lead[step:-step], lead[: -2 * step], lead[2 * step :]
    heights = np.maximum(here - np.fmax(before, after), np.fmin(before, after) - here)
    tall = heights > least_mv
    n_spikes = int(np.count_nonzero(tall[1:] & ~tall[:-1]))
    return (n_spikes, float(np.nanmax(heights)), row) if n_spikes >= _FEWEST_SPIKES else (0, 0.0, row)
