"""From the channels of a recorder's file to one record: which are ECG leads, at which rate, in which unit.

Files of other worlds than WFDB's hold more than an ECG: electrodes of the head, breathing, pressures, markers, each at
its own rate. A reader lists what it found as :class:`Channel`; :func:`assemble` takes the ECG leads among them.

Signals of a WFDB record have rules of their own (:func:`ecg_rows`). Its segments are put one behind the other, each
lead found by its name (:func:`join_parts`). In a record of fixed layout all segments have the same signals. One of
variable layout begins with a layout, a segment without samples that names all signals; each other segment has some of
them, and the rest are gaps there.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple
from warnings import warn

import numpy as np

from skecg.errors import (
    DamagedRecordError,
    InputError,
    LeadError,
    LeadWarning,
    SamplingRateError,
    UnitsError,
    UnsupportedFormatError,
)
from skecg.leads import CANONICAL_LEADS, canonical_lead, head_electrodes
from skecg.records import ECGRecord, as_millivolts, millivolts_per_unit

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "Channel",
    "Layout",
    "Part",
    "assemble",
    "caught_warnings",
    "ecg_rows",
    "is_ecg",
    "join_parts",
    "lead_names",
    "shared_rate",
    "strict_number",
    "voltage_unit",
]

# Leads beyond the twelve: more of the chest, Frank's, Holter recorders', Nehb's; then names of just any ECG channel.
_OTHER_LEADS = re.compile(
    r"V\d{1,2}R?|V?[XYZ]|M(L|CL|C)?(I{1,3}|V?[1-6])|C[MCBS]\d?R?|ES|AS|AI|NASA|[DAJ]"
    r"|(ECG|EKG).*|(CH|CHAN|CHANNEL|LEAD|CODE)[ _.-]*\d+|UNSPECIFIED",
    re.IGNORECASE,
)

# One of the twelve in a longer name: "V1-WCT", "Chest V1".
_NAMES_A_LEAD = re.compile(r"(?<![^\W_])(?:I{1,3}|aV[RLF]|V[1-6])(?![^\W_])", re.IGNORECASE)

# Of channels that may be named as leads are: ECG HR, an acceleration along X, CH 3.
_OTHER_UNITS = re.compile(r"bpm|1?/min|rpm|m?s|hz|%|k?ohm|m?g|m/s\^?2|mmhg|mm\[hg]|cmh2o|l/(s|min)|°c", re.IGNORECASE)

# "ECG 1" is a recorder's first channel, not lead I.
_NUMBERED = re.compile(r"(?:ECG|EKG|)[ _.-]*(\d+)", re.IGNORECASE)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)

# The filters of the warnings module belong to the whole process; two threads that set and restore them at once could
# leave them wrong for good.
_ONE_AT_A_TIME = threading.Lock()

# Signals of other organs, perhaps numbered or with a place after the name: "RESP", "EEG Fpz-Cz", "EMG1", "PLETH L".
_ANOTHER_ORGAN = re.compile(
    r"\s*(abp|art|bp|co2|cvp|eeg|emg|eog|icp|nibp|pap|pleth|ppg|resp|respiration|scg|spo2|temp)(\d+|(?![a-z0-9]).*)?",
    re.IGNORECASE,
)

_ROUNDING = 1e-4  # by which a rate may differ that was written with fewer digits


@dataclass(frozen=True)
class Channel:
    """One channel of a file.

    Parameters
    ----------
    label : str
        Its name in the file.
    unit : str
        The unit of its values, ``""`` where the file states none.
    sampling_rate : float
        Samples a second (Hz).
    values : callable
        Gives the values, shape (n_samples,), when they are wanted: channels that are no ECG are never decoded.
    """

    label: str
    unit: str
    sampling_rate: float
    values: Callable[[], NDArray[Any]]

    @property
    def lead(self) -> str:
        """Canonical name of the lead; a lead turned over, as Cabrera's -aVR is, goes by the lead's own name."""
        bare = self._name.removeprefix("-")
        return bare if bare in CANONICAL_LEADS else self._name

    @property
    def _name(self) -> str:
        """Canonical name: a bare number says which channel this is, not which lead, so that ``ECG 1`` is not lead I."""
        label = self.label.strip()
        numbered = _NUMBERED.fullmatch(label)
        return f"ECG{numbered[1]}" if numbered else canonical_lead(re.sub(r"(?i)^EKG\b", "ECG", label))

    def millivolts(self) -> NDArray[np.float32]:
        """Return the values of a channel of voltage, shape (n_samples,), in mV."""
        signal = as_millivolts(np.asarray(self.values()), voltage_unit(self.unit) or self.unit)
        return signal if self.lead == self._name else -signal


def strict_number(text: str) -> float | None:
    """Return a finite number as files write it, None for anything else, also for 1_000 and nan, which Python takes."""
    number = float(text) if _NUMBER.fullmatch(text.strip()) else math.nan
    return number if math.isfinite(number) else None


def voltage_unit(unit: str) -> str | None:
    """Return a unit of voltage without blanks around it, None for anything else."""
    bare = unit.strip()
    return None if millivolts_per_unit(bare) is None else bare


def assemble(channels: Sequence[Channel], path: Path) -> ECGRecord:
    """Make a record of the ECG leads among a file's channels.

    Leads are known by their names and must be voltages. Where they have several rates, those at the most common one
    are taken, and the others named in a warning: nothing is resampled here.

    Parameters
    ----------
    channels : sequence of Channel
        What the file holds.
    path : Path
        The file; its stem becomes the record's name.

    Returns
    -------
    ECGRecord

    Raises
    ------
    UnsupportedFormatError
        When no channel is an ECG lead, a standard lead has no unit of voltage, two rates are equally common, or one
        lead is there twice with different samples.
    DamagedRecordError
        When leads have different lengths, or the values are no signal.
    """
    leads = _one_rate(_ecg_leads(channels, path), path)
    signals: dict[str, NDArray[np.float32]] = {}
    for channel in leads:
        signal = channel.millivolts()
        twin = signals.setdefault(channel.lead, signal)
        # Some exports hold a channel twice; the same samples twice do no harm.
        if not np.array_equal(twin, signal, equal_nan=True):
            raise UnsupportedFormatError(
                f"Got lead {channel.lead} twice with different samples in {path}, expected every lead once. "
                "Export the recording again with one channel a lead."
            )
    lengths = sorted({signal.shape[-1] for signal in signals.values()})
    if len(lengths) > 1:
        raise DamagedRecordError(
            f"Got leads of {lengths[0]} to {lengths[-1]} samples in {path}, expected leads of one length."
        )
    try:
        return ECGRecord(np.stack(list(signals.values())), leads[0].sampling_rate, tuple(signals), path.stem)
    except InputError as error:
        raise DamagedRecordError(f"{path} does not hold a usable recording: {error}") from error


def _ecg_leads(channels: Sequence[Channel], path: Path) -> list[Channel]:
    """Choose the ECG leads, refusing a file without any and one that hides their unit."""
    known = [channel for channel in channels if is_ecg(channel, channels)]
    unscaled = [c.lead for c in known if c.lead in CANONICAL_LEADS and voltage_unit(c.unit) is None]
    if unscaled:
        raise UnsupportedFormatError(
            f"Got no unit of voltage for lead(s) {', '.join(unscaled)} in {path}, expected V, mV, uV or nV. Export the "
            "recording with its scale, or pass the samples as an array with units=."
        )
    leads = [channel for channel in known if voltage_unit(channel.unit) is not None]
    if not leads:
        raise UnsupportedFormatError(
            f"Got no ECG lead among the channels of {path}, expected names such as I, aVR, V1 or ECG and a unit of "
            f"voltage. Its channels: {_shown(channels) or 'none'}."
        )
    lost = [c for c in known if voltage_unit(c.unit) is None and not _OTHER_UNITS.fullmatch(c.unit.strip())]
    lost += [c for c in channels if c not in known and _may_be_lead(c, {lead.lead for lead in leads})]
    if lost:
        warn(
            f"Left out {_shown(lost)} of {path}, expected a name such as V1, and V, mV, uV or nV. Export all leads "
            "with their name and unit, or pass the samples as an ECGRecord.",
            LeadWarning,
            stacklevel=4,
        )
    return leads


def _may_be_lead(channel: Channel, found: set[str]) -> bool:
    """Report a voltage, not of another organ, whose name holds that of a lead that is not found by itself."""
    label = channel.label.strip()
    named = {canonical_lead(name) for name in _NAMES_A_LEAD.findall(label)}
    is_other = head_electrodes((label,))[0] or _ANOTHER_ORGAN.fullmatch(label)
    return voltage_unit(channel.unit) is not None and not (named <= found or is_other)


def _shown(channels: Sequence[Channel]) -> str:
    """List channels for a message."""
    return ", ".join(f"{c.label.strip() or '?'} [{c.unit.strip() or 'no unit'}]" for c in channels)


def is_ecg(channel: Channel, channels: Sequence[Channel]) -> bool:
    """Report an ECG lead by its name, among the names of its neighbours."""
    voltages = [other.label for other in channels if voltage_unit(other.unit) is not None]  # O2 may be oxygen
    if channel.label in head_electrodes((*voltages, channel.label))[1]:
        return False
    return channel.lead in CANONICAL_LEADS or _OTHER_LEADS.fullmatch(channel.lead) is not None


def _one_rate(leads: Sequence[Channel], path: Path) -> list[Channel]:
    """Keep the leads at the most common rate."""
    counts = Counter(channel.sampling_rate for channel in leads).most_common()
    if len(counts) > 1 and counts[0][1] == counts[1][1]:
        listed = ", ".join(f"{c.lead} at {c.sampling_rate:g} Hz" for c in leads)
        raise UnsupportedFormatError(
            f"Got leads at several rates, none of them the most common, in {path}: {listed}. Expected one rate. "
            "Read the leads wanted with the format's own package and pass them as an ECGRecord."
        )
    rate = counts[0][0]
    others = [f"{c.lead} ({c.sampling_rate:g} Hz)" for c in leads if c.sampling_rate != rate]
    if others:
        warn(
            f"Left out {', '.join(others)} of {path}: the other leads are at {rate:g} Hz, and reading never resamples.",
            LeadWarning,
            stacklevel=3,
        )
    return [channel for channel in leads if channel.sampling_rate == rate]


@contextlib.contextmanager
def caught_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Catch every warning, one thread at a time, and give the list that they go into; not to be nested."""
    with _ONE_AT_A_TIME, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def ecg_rows(names: tuple[str, ...], units: tuple[str, ...]) -> tuple[int, ...]:
    """Return which signals are voltages of the heart, warning of ECG channels that have no unit of voltage.

    Parameters
    ----------
    names, units : tuple of str of length n_signals
        As the header gives them; a signal without a unit is in millivolts, by the standard.

    Raises
    ------
    UnitsError
        When none is, or when a signal with a standard lead's name is no voltage: without it, the lead would vanish in
        silence.
    """
    rows, unscaled = _ecg_rows(names, units)
    if unscaled:
        warn(
            f"Left out {', '.join(unscaled)}, expected V, mV, uV or nV for an ECG channel. Correct the units in the "
            "header, or pass the samples as an array with units=.",
            LeadWarning,
            stacklevel=3,
        )
    return rows


@lru_cache(maxsize=1024)
def _ecg_rows(names: tuple[str, ...], units: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return which signals are voltages of the heart, and those that would be but for their unit."""
    listed = [f"{name or '?'} [{unit}]" for name, unit in zip(names, units, strict=True)]
    scaled = [millivolts_per_unit(unit) is not None for unit in units]
    others = [(row, canonical_lead(name)) for row, name in enumerate(names) if not scaled[row]]
    odd = [listed[row] for row, lead in others if lead in CANONICAL_LEADS]
    if odd:
        raise UnitsError(
            f"Got no unit of voltage for {', '.join(odd)}, expected V, mV, uV or nV for a standard lead. Correct the "
            "units in the header, or pass the samples as an array with units=."
        )
    rows = tuple([row for row, name in enumerate(names) if scaled[row] and _ANOTHER_ORGAN.fullmatch(name) is None])
    heads, central = head_electrodes(tuple([names[row] for row, is_scaled in enumerate(scaled) if is_scaled]))
    rows = tuple([row for row in rows if names[row] not in central])
    rows = tuple([row for row in rows if names[row] not in heads]) or rows  # A1 alone may be a recorder's own lead
    if not rows:
        raise UnitsError(
            f"Got no signal that is a voltage of the heart (found: {', '.join(listed) or 'none'}), expected leads in "
            "V, mV, uV or nV. Choose another record, or correct the units in its header."
        )
    unscaled = [row for row, lead in others if _OTHER_LEADS.fullmatch(lead) or _NUMBERED.fullmatch(lead)]
    return rows, tuple([listed[row] for row in unscaled if _OTHER_UNITS.fullmatch(units[row].strip()) is None])


@lru_cache(maxsize=1024)
def lead_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Name the leads after the signals of a header.

    A signal without a name is called after its place (``"signal 3"``), a recorder's numbered channel ``"ECG1"``, and
    the second of two that bear one name ``"ECG#2"``.

    Raises
    ------
    LeadError
        When one of the twelve standard leads is named twice: which of the two is meant cannot be told.
    """
    leads: list[str] = []
    for place, name in enumerate(names, start=1):
        numbered = _NUMBERED.fullmatch(name.strip())
        lead = f"ECG{numbered[1]}" if numbered else canonical_lead(name) or f"signal {place}"
        if lead in leads and lead in CANONICAL_LEADS:
            raise LeadError(
                f"Lead {lead} is named twice among {', '.join(names)}, expected every standard lead once. "
                "Correct the names in the header."
            )
        leads.append(lead if lead not in leads else _numbered_twin(lead, leads))
    return tuple(leads)


def _numbered_twin(lead: str, taken: Sequence[str]) -> str:
    """Find a free name for a signal that bears the name of another."""
    # Of leads that are none of the twelve several may be named alike.
    return next(name for number in count(2) if (name := f"{lead}#{number}") not in taken)


class Layout(NamedTuple):
    """What the first segment of a record of variable layout says of its signals."""

    names: tuple[str, ...]
    units: tuple[str, ...]


class Part(NamedTuple):
    """A segment with samples.

    Reading takes the numbers of the signals wanted, ascending, and whether to average the samples of a frame; it gives
    millivolts, one row a signal.
    """

    name: str
    start: int  # frames before it
    n_frames: int
    names: tuple[str, ...]
    units: tuple[str, ...]
    per_frame: tuple[int, ...]
    read: Callable[[Sequence[int], bool], NDArray[np.float32]]


def join_parts(
    parts: Sequence[Part],
    layout: Layout | None,
    *,
    n_signals: int | None,
    n_frames: int,
    sampling_rate: float,
    name: str,
) -> ECGRecord:
    """Join the segments of a record.

    Parameters
    ----------
    parts : sequence of Part
        Those with samples, in their order.
    layout : Layout or None
        Of a record of variable layout; None for a fixed one.
    n_signals : int or None
        How many the record says it has, if it does.
    n_frames : int
        Length of the whole record.
    sampling_rate : float
        Frames a second (Hz).
    name : str
        Of the record.

    Returns
    -------
    ECGRecord
        NaN where no segment has a lead. At the full rate where all leads have the same number of samples a frame, else
        averaged to the rate of frames.

    Raises
    ------
    LeadError
        When a segment has other signals than the record, or which is which cannot be told from their names.
    UnitsError
        When no signal is a voltage of the heart, or one is a voltage in some segments alone.
    """
    if layout is None and not parts:
        raise LeadError("Got gaps alone, expected a segment with signals. Restore the header of the record.")
    names = layout.names if layout is not None else _names_of_fixed(parts)
    if n_signals not in (None, len(names)):
        raise LeadError(
            f"Got {len(names)} signals in {'the layout' if layout is not None else 'the segments'} "
            f"({_listed(names)}), expected {n_signals} as the record says. Restore the headers."
        )
    places = [_places(part, names, is_variable=layout is not None) for part in parts]
    rows = ecg_rows(names, _units(parts, places, names, layout))
    # For each segment: its signals that are leads, and which leads they are.
    wanted = [
        [(column, rows.index(place)) for column, place in enumerate(of_part) if place in rows] for of_part in places
    ]
    _check_voltages(parts, wanted)
    per_frame = {part.per_frame[column] for part, pairs in zip(parts, wanted, strict=True) for column, _ in pairs}
    is_mixed = len(per_frame) > 1
    n_samples = 1 if is_mixed else next(iter(per_frame), 1)  # a frame
    signal_LT = np.full((len(rows), n_frames * n_samples), np.nan, dtype=np.float32)
    for part, pairs in zip(parts, wanted, strict=True):
        if pairs:
            stretch = slice(part.start * n_samples, (part.start + part.n_frames) * n_samples)
            signal_LT[[lead for _, lead in pairs], stretch] = part.read([column for column, _ in pairs], is_mixed)
    return ECGRecord(signal_LT, sampling_rate * n_samples, lead_names(tuple([names[row] for row in rows])), name)


def shared_rate(stated: Sequence[tuple[str, float]]) -> float | None:
    """Return the sampling rate that a record and its segments state, each with its name; None where none does."""
    for name, rate in stated[1:]:
        if not math.isclose(rate, stated[0][1], rel_tol=_ROUNDING):
            raise SamplingRateError(
                f"Got {rate:g} Hz as the sampling rate of {name} and {stated[0][1]:g} Hz as that of {stated[0][0]}, "
                "expected one rate for a record and its segments. Correct the one that is wrong."
            )
    return stated[0][1] if stated else None


def _names_of_fixed(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return the names of the first segment that gives any."""
    return next((part.names for part in parts if any(part.names)), parts[0].names)


def _places(part: Part, names: Sequence[str], *, is_variable: bool) -> Sequence[int]:
    """Return which of the record's signals each of a segment's is."""
    found, expected = [canonical_lead(name) for name in part.names], [canonical_lead(name) for name in names]
    # In a fixed layout signals without names are in the record's order, by the standard.
    is_unnamed = not is_variable and not any(found) and len(found) == len(expected)
    if found == expected or is_unnamed:
        return range(len(found))
    is_clear = all(found.count(name) == expected.count(name) == 1 for name in found)
    if not is_clear or not (is_variable or len(found) == len(expected)):
        raise LeadError(
            f"Got {_listed(part.names)} in segment {part.name}, expected {'some' if is_variable else 'all'} of "
            f"{_listed(names)}, each once, as {'the layout' if is_variable else 'another segment'} has them. Restore "
            "the headers."
        )
    return [expected.index(name) for name in found]


def _listed(names: Sequence[str]) -> str:
    """List signals for a message."""
    return ", ".join(name or "?" for name in names)


def _units(
    parts: Sequence[Part], places: Sequence[Sequence[int]], names: Sequence[str], layout: Layout | None
) -> tuple[str, ...]:
    """Return a unit for each signal of the record: one of voltage if any segment has it in one."""
    units: list[list[str]] = [[] for _ in names]
    for part, of_part in zip(parts, places, strict=True):
        for unit, place in zip(part.units, of_part, strict=True):
            units[place].append(unit)
    if layout is not None:  # asked only where no segment has the signal
        units = [of_signal or [unit] for of_signal, unit in zip(units, layout.units, strict=True)]
    return tuple([min(of_signal, key=lambda unit: millivolts_per_unit(unit) is None) for of_signal in units])


def _check_voltages(parts: Sequence[Part], wanted: Sequence[Sequence[tuple[int, int]]]) -> None:
    """Raise for a lead that is a voltage in some segments and something else in others."""
    for part, pairs in zip(parts, wanted, strict=True):
        odd = [column for column, _ in pairs if millivolts_per_unit(part.units[column]) is None]
        if odd:
            found = ", ".join(f"{part.names[column] or '?'} [{part.units[column]}]" for column in odd)
            raise UnitsError(
                f"Got {found} in segment {part.name}, expected a unit of voltage as in other segments. Correct the "
                "units in its header."
            )
