"""What a record is good for: which leads it can feed, what makes it unusable, and what its user should hear about.

Errors are raised for the first thing that stands in the way; what is merely odd is noted, so that a call over many
records can warn once about each kind.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skecg.errors import (
    BadSignalError,
    InputError,
    LeadError,
    LeadWarning,
    ShortRecordError,
    SignalWarning,
    SkecgWarning,
    UnitsWarning,
    user_stacklevel,
)
from skecg.leads import CANONICAL_LEADS, LIMB_COEFFICIENTS, derivation_matrix, limb_lead_orders
from skecg.preprocessing.artifacts import Note, Used, find_artifacts
from skecg.preprocessing.resampling import resampled_samples
from skecg.preprocessing.units import Amplitude, Levels, describe_amplitude, median
from skecg.records import ECGRecord
from skecg.validation import check_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

from skecg.spec import InputSpec

__all__ = [
    "MISSING_LEADS",
    "SHORTEST_SECONDS",
    "SHORT_RECORDS",
    "Policies",
    "Screening",
    "leads_used",
    "record_label",
    "screen",
    "warn_once_a_kind",
]

#: What to do about leads that are absent, and about records of less than a second.
MISSING_LEADS = ("raise", "zero", "subset")
SHORT_RECORDS = ("raise", "pad")

#: Records below it are refused unless padding is asked for, and must be whole.
SHORTEST_SECONDS = 1.0
# Statistics that need no more are taken from about so many samples of each lead.
_GLANCE_SAMPLES = 500
# What is measured second by second is measured in so many of them.
_PIECES = 10
_LARGEST_MV, _SMALLEST_MV = 20.0, 0.02
_LEAST_MICROVOLTS = 3.0  # standard deviation within a second; that of the smallest hearts is 30 µV
_SLOWEST_HZ = 25.0  # nobody records so slowly, but kilohertz are easily passed as hertz
# Beyond this, squares and sums leave the range of float32; no unit of voltage explains it.
_IMPOSSIBLE_MV = 1e12
# The full range that makes the robust one worth computing: artefacts may be this many times the signal.
_ARTEFACT = 10.0

_NOTES: dict[str, tuple[type[SkecgWarning], str]] = {
    "unused_leads": (
        LeadWarning,
        "with leads that the weights do not know by their names and leave out. If one is a lead of the twelve, say so: "
        'leads={"MLII": "II"}.',
    ),
    "empty": (
        LeadWarning,
        "with leads that hold nothing but NaN, and count as absent. Check how they were read, or leave the leads out.",
    ),
    "flat": (SignalWarning, "with flat leads, which carry no signal. Check the electrodes, or leave the leads out."),
    "flat_segments": (
        SignalWarning,
        "with leads that stand still for a second or more. Check the electrodes, and whether the records were padded.",
    ),
    "railed": (
        SignalWarning,
        "with leads held at their limit (railed or saturated). Check the electrodes and the recorder's range, or leave "
        "the leads out.",
    ),
    "offset": (
        SignalWarning,
        "with an offset that changes their features. Take it away: X - np.median(X, axis=-1, keepdims=True).",
    ),
    "wander": (
        SignalWarning,
        "with a baseline that moves more than the heart does. Take it away with a high-pass of 0.5 Hz, or leave the "
        "records out.",
    ),
    "clipped": (
        SignalWarning,
        "beyond the limits at which the encoder clips, so that what lies there is lost. Check the unit, take offsets "
        "away, or leave the records out.",
    ),
    "spikes": (
        SignalWarning,
        "with spikes that rise and fall faster than a heart's, as a pacemaker's do. Remove them, or leave the records "
        "out.",
    ),
    "slow": (SignalWarning, f"at less than {_SLOWEST_HZ:g} Hz, too slow for an ECG. Check that the rate is in Hz."),
    "gaps": (SignalWarning, "with gaps (NaN), filled by linear interpolation. Cut the records where gaps are long."),
    "microvolts": (
        UnitsWarning,
        f'with amplitudes above {_LARGEST_MV:g} mV, which looks like microvolts: pass units="uV", or scale.',
    ),
    "volts": (
        UnitsWarning,
        f'with amplitudes below {_SMALLEST_MV:g} mV, which looks like volts: pass units="V", or scale to millivolts.',
    ),
}

#: A lead of the encoder as a weighted sum of rows of the record: pairs of row and weight, none where it is absent.
Sources = tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class Policies:
    """What to do about absent leads and short records; checked at birth."""

    missing_leads: str = "raise"
    short_records: str = "raise"

    def __post_init__(self) -> None:
        for name, allowed in (("missing_leads", MISSING_LEADS), ("short_records", SHORT_RECORDS)):
            check_choice(name, getattr(self, name), allowed)


@dataclass(frozen=True)
class Screening:
    """What :func:`screen` found: how to make each lead, which notes to pass on, and what tells of a batch's unit."""

    sources: Sources
    notes: tuple[str, ...]
    amplitude: Amplitude | None = None


def record_label(record: Any, position: int | None = None) -> str:
    """Name a record in a message: by its name or, where it has none, by its place."""
    name = getattr(record, "name", "")
    if name:
        return f"record {name!r}"
    return "the record" if position is None else f"the record at position {position}"


def screen(record: ECGRecord, spec: InputSpec, policies: Policies, label: str) -> Screening:
    """Find how to make the encoder's leads from a record, or raise the InputError that says why not.

    Parameters
    ----------
    record : ECGRecord
    spec : InputSpec
    policies : Policies
    label : str
        What to call the record in messages.
    """
    if not isinstance(record, ECGRecord):
        raise InputError(
            f"Got {type(record).__name__} for {label}, expected an ECGRecord. Make one, or use read_record."
        )
    # For its error alone: a rate that cannot be taken to the encoder's is found here, and not in a batch.
    resampled_samples(record.n_samples, record.sampling_rate, spec.sampling_rate, spec.resampling)
    short = record.duration_seconds < SHORTEST_SECONDS
    if short and policies.short_records == "raise":
        raise ShortRecordError(_short_message(record, label))
    # One pass over the whole record; all else looks at a glance of it, so that screening stays cheap beside preparing.
    limits = _limits(record.signal)
    silent = tuple(np.isnan(limits.lowest).tolist())
    sources, missing, rows = _lead_sources(record.leads, silent, spec)
    _check_leads(record, spec, policies, label, missing)
    unused = [lead for lead in record.leads if lead not in CANONICAL_LEADS and lead not in spec.leads]
    unknown: tuple[Note, ...] = (Note("unused_leads", ", ".join(unused)),) if unused and missing else ()
    empty = [lead for lead, is_empty in zip(record.leads, silent, strict=True) if is_empty and lead in spec.leads]
    unknown += (Note("empty", ", ".join(empty)),) if empty else ()
    used = _Limits(limits.lowest[rows], limits.highest[rows], limits.gaps[rows])
    _check_finite(record, rows, used, label)
    if short:
        _check_whole(used.gaps, label)
        return Screening(sources, unknown)
    ranges = np.sort(used.highest - used.lowest)
    _check_changes(ranges, label)
    # A plain stride may alias, which does no harm to levels and ranges.
    glance = record.signal[:, :: max(1, record.n_samples // _GLANCE_SAMPLES)]
    _check_limb_leads(record.leads, glance, rows, limits, label)
    levels = Levels.of(_pieces(record, glance, rows))
    notes = (*unknown, *_observe(glance[rows], used, ranges))
    view = Used(
        record.signal, record.sampling_rate, record.leads, rows, sources, glance[rows], used.lowest, used.highest
    )
    notes += tuple(find_artifacts(view, levels, spec))
    # Loose electrodes swing as far, but not second after second in half of the leads, or they end at a limit.
    if "microvolts" in notes and ("railed" in notes or not _is_large_throughout(levels)):
        notes = tuple([note for note in notes if note != "microvolts"])
    wrong_unit = not {"microvolts", "volts"}.isdisjoint(notes)
    if wrong_unit:  # whatever lies beyond the encoder's limits does so for that reason
        notes = tuple([note for note in notes if note not in ("clipped", "offset", "wander")])
    amplitude = describe_amplitude(
        [record.leads[row] for row in rows],
        levels,
        used.lowest,
        used.highest,
        is_named=wrong_unit,
    )
    return Screening(sources, ("slow", *notes) if record.sampling_rate < _SLOWEST_HZ else notes, amplitude)


def _is_large_throughout(levels: Levels) -> bool:
    """Return whether half of the leads, second after second, are as large as millivolts never are."""
    local = levels.local[levels.total > 0]
    return len(local) > 0 and median(local) >= _LEAST_MICROVOLTS


def _pieces(record: ECGRecord, glance: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return seconds of the rows used, (n_rows, n_pieces, n_samples): of the glance, or of a long record itself."""
    # Of a long record ten seconds spread over it, each whole: a stride would mix wander into what is within a second.
    n_pieces = max(1, int(min(_PIECES, record.duration_seconds, glance.shape[1])))
    if record.duration_seconds > 2 * _PIECES:
        second = math.ceil(record.sampling_rate)
        step = max(1, second * _PIECES // _GLANCE_SAMPLES)
        starts = np.linspace(0, record.n_samples - second, _PIECES).astype(int)
        return np.stack([record.signal[rows, start : start + second : step] for start in starts], axis=1)
    n_samples = glance.shape[1] // n_pieces
    return glance[rows, : n_pieces * n_samples].reshape(len(rows), n_pieces, n_samples)


def leads_used(record: ECGRecord, spec: InputSpec) -> tuple[str, ...]:
    """Return which of the encoder's leads a record has, or has others to derive them from."""
    empty: NDArray[np.bool_] = np.zeros(record.n_leads, np.bool_)
    # An empty lead is missing from its first sample on; the whole record is searched only where that is so.
    if np.isnan(record.signal[:, 0]).any():
        empty = np.asarray(np.isnan(record.signal).all(axis=1))
    sources, _, _ = _lead_sources(record.leads, tuple(empty.tolist()), spec)
    return tuple([lead for lead, source in zip(spec.leads, sources, strict=True) if source])


class _Limits(NamedTuple):
    """The smallest and the largest value of each lead, NaN where it has none, and whether any is missing."""

    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    gaps: NDArray[np.bool_]


def _limits(signal: NDArray[np.float32]) -> _Limits:
    """Find the limits of each lead of a record."""
    # min and max propagate NaN, and so tell of gaps for nothing; fmin and fmax, twice as slow, only where there are
    # some.
    lowest, highest = signal.min(axis=1), signal.max(axis=1)
    gaps = np.isnan(lowest)
    if gaps.any():
        lowest, highest = np.fmin.reduce(signal, axis=1), np.fmax.reduce(signal, axis=1)
    return _Limits(lowest, highest, gaps)


def warn_once_a_kind(notes: Sequence[Sequence[str]], labels: Sequence[str]) -> None:
    """Emit one warning for each kind of note, naming up to three of the records."""
    for kind, (category, what) in _NOTES.items():
        found = [_with_detail(label, kind, of) for label, of in zip(labels, notes, strict=True) if kind in of]
        if found:
            several = f"{len(found)} of {len(labels)} records" if len(labels) > 1 else "a record"
            names = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            warnings.warn(f"Got {several} {what} Found in {names}.", category, stacklevel=user_stacklevel())


def _with_detail(label: str, kind: str, notes: Sequence[str]) -> str:
    """Name a record with the numbers of what was found in it, where the note has any."""
    detail = getattr(notes[list(notes).index(kind)], "detail", "")
    return f"{label} ({detail})" if detail else label


@lru_cache(maxsize=256)
def _lead_sources(
    leads: tuple[str, ...], empty: tuple[bool, ...], spec: InputSpec
) -> tuple[Sources, tuple[str, ...], NDArray[np.intp]]:
    """Return which rows make each lead wanted, which leads cannot be had, and which rows are needed for the others.

    No lead is a sum of more than two rows, so that their order in the record does not change the rounding.
    """
    rows = [row for row, no_samples in enumerate(empty) if not no_samples]
    available = [leads[row] for row in rows]
    matrix, missing = derivation_matrix(available, available if spec.any_name and len(rows) == 1 else spec.leads)
    sources = [tuple((rows[i], float(weights[i])) for i in np.flatnonzero(weights)) for weights in matrix]
    return tuple(sources), tuple(missing), np.unique([row for source in sources for row, _ in source]).astype(np.intp)


def _short_message(record: ECGRecord, label: str) -> str:
    """Report that a record is too short and, where it has more leads than samples, that it may lie transposed."""
    message = (
        f"Got {label} with {record.n_samples} samples ({record.duration_seconds:.3g} s at {record.sampling_rate:g} Hz)"
        f', expected at least {SHORTEST_SECONDS:g} s. Pass short_records="pad" to embed it all the same.'
    )
    if record.n_leads > record.n_samples:
        message += f" It has more leads ({record.n_leads}) than samples; if it lies transposed, pass signal.T."
    return message


def _check_leads(record: ECGRecord, spec: InputSpec, policies: Policies, label: str, missing: tuple[str, ...]) -> None:
    """Raise for leads that are absent unless there is a policy, and always a record without a single lead."""
    if not missing:
        return
    has = f"Got {label} with lead(s) {', '.join(record.leads)}"
    silent = [lead for lead in missing if lead in record.leads]
    if len(missing) == spec.n_leads:
        if silent:
            raise BadSignalError(f"{has}, of which {', '.join(silent)} hold nothing but NaN; expected samples.")
        raise LeadError(
            f"{has}, expected at least one of {', '.join(spec.leads)}. Say what they are, for example "
            f"leads={{{record.leads[0]!r}: {'II' if 'II' in spec.leads else spec.leads[0]!r}}}."
        )
    if policies.missing_leads == "raise" and not spec.any_leads:
        nothing = f" ({', '.join(silent)} hold nothing but NaN)" if silent else ""
        raise LeadError(
            f"{has}, expected also {', '.join(missing)}{nothing}. "
            'Pass missing_leads="zero" to put zeros in their place, or "subset" to leave them out of the encoder.'
        )


def _check_finite(record: ECGRecord, rows: NDArray[np.intp], used: _Limits, label: str) -> None:
    """Raise for infinite values, and those whose squares would be."""
    impossible = (used.lowest < -_IMPOSSIBLE_MV) | (used.highest > _IMPOSSIBLE_MV)
    if impossible.any():
        names = ", ".join(record.leads[row] for row in rows[impossible])
        raise BadSignalError(
            f"Got {label} with infinite values, or values beyond {_IMPOSSIBLE_MV:g} mV, in lead(s) {names}; expected "
            "millivolts. Replace them by NaN, which is taken as a gap."
        )


def _check_whole(gaps: NDArray[np.bool_], label: str) -> None:
    """Raise for gaps where there is too little around them to bridge them."""
    if gaps.any():
        raise BadSignalError(
            f"Got {label} with gaps (NaN) in less than a second, expected every sample. Leave the record out."
        )


def _check_changes(ranges: NDArray[np.float32], label: str) -> None:
    """Raise for records in which nothing changes."""
    if ranges[-1] == 0:
        raise BadSignalError(
            f"Got {label} with every lead flat, expected a signal that changes. Check how it was read."
        )


def _check_limb_leads(
    leads: tuple[str, ...], glance: NDArray[np.float32], rows: NDArray[np.intp], limits: _Limits, label: str
) -> None:
    """Raise for limb leads that are exchanged or upside down, as Einthoven's and Goldberger's laws tell."""
    limb = [row for row, lead in enumerate(leads) if lead in LIMB_COEFFICIENTS]
    # Leads that the encoder does not use were not checked for infinite values, which no law survives.
    unused = set(limb).difference(rows.tolist())
    if len(unused) == len(limb) or not all(np.isfinite([limits.lowest[i], limits.highest[i]]).all() for i in unused):
        return
    # Einthoven's law I + III = II holds sample by sample, whatever the heart does: a glance is enough.
    orders = limb_lead_orders(glance, leads)
    if orders:
        given, *true = [", ".join(names[row] for row in limb) for names in (leads, *orders)]
        turned = any("-" in names for names in true)
        raise LeadError(
            f"Got {label} with limb leads named {given}, but by Einthoven's law they are, in this order, "
            f"{' or '.join(true)}{' (a minus: upside down)' if turned else ''}. Name them so in ECGRecord, or pass "
            f"leads=[...]{'; a lead with a minus is computed from the others' if turned else ''}."
        )


def _observe(glance: NDArray[np.float32], limits: _Limits, ranges: NDArray[np.float32]) -> tuple[str, ...]:
    """List what is odd about the rows used at first sight: flat leads, gaps, amplitudes of another unit."""
    amplitude = _amplitude(glance, limits, ranges[ranges > 0])
    findings = {
        "flat": ranges[0] == 0,
        "gaps": limits.gaps.any(),
        "microvolts": amplitude > _LARGEST_MV,
        "volts": amplitude < _SMALLEST_MV,
    }
    return tuple([kind for kind, found in findings.items() if found])


def _amplitude(glance: NDArray[np.float32], limits: _Limits, ranges: NDArray[np.float32]) -> float:
    """Return the median over leads that change of the range between the 1st and the 99th percentile (mV).

    The full range stands in for it where it is so ordinary that no percentile could make it another unit's.
    """
    largest = float((ranges[(len(ranges) - 1) // 2] + ranges[len(ranges) // 2]) / 2)  # they are in ascending order
    if _ARTEFACT * _SMALLEST_MV < largest < _LARGEST_MV:
        return largest
    # The middle 98 %: one artefact may be a thousand times the heart and must not decide the unit.
    low, high = np.nanpercentile(glance[limits.lowest != limits.highest], (1, 99), axis=1)
    return median(high - low)
