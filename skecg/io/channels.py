"""From the channels of a recorder's file to one record: which are ECG leads, at which rate, in which unit.

Files of other worlds than WFDB's hold more than an ECG: electrodes of the head, breathing, pressures, markers, each at
its own rate. A reader lists what it found as :class:`Channel`; :func:`assemble` takes the ECG leads among them.

Other packages' warnings, caught: they may quote what a file says of a patient, or concern nobody who reads one.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np

from skecg.errors import DamagedRecordError, InputError, LeadWarning, UnsupportedFormatError
from skecg.leads import CANONICAL_LEADS, canonical_lead
from skecg.records import ECGRecord, as_millivolts, millivolts_per_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Channel", "assemble", "caught_warnings", "strict_number", "voltage_unit"]


# Leads beyond the twelve: more of the chest, Frank's, Holter recorders', Nehb's; then names of just any ECG channel.
_OTHER_LEADS = re.compile(
    r"V\d{1,2}R?|V?[XYZ]|M(L|CL|C)?(I{1,3}|V?[1-6])|C[MCBS]\d?R?|ES|AS|AI|NASA|[DAJ]"
    r"|(ECG|EKG).*|(CH|CHAN|CHANNEL|LEAD|CODE)[ _.-]*\d+|UNSPECIFIED",
    re.IGNORECASE,
)


# Electrodes of the 10-20 system of the head. Their C3 and C4 are also an old spelling of V3 and V4.
_HEAD_ELECTRODE = re.compile(
    r"EEG.*|(FP|AF|F|FC|FT|T|TP|P|PO|O|CP)(\d{1,2}|Z)([ :-].*)?|[CFP]Z([ :-].*)?|[AM][12]", re.IGNORECASE
)


_CENTRAL_ELECTRODE = re.compile(r"C[1-6]", re.IGNORECASE)


_NUMBERED = re.compile(r"(?:ECG|EKG|)[ _.-]*(\d+)", re.IGNORECASE)


_NEGATED = re.compile(r"(?:(?:ECG|LEAD)[ _]+)?(?:-[ ]?AVR|(?:MDC_ECG_LEAD_)?AVR[ _-]?NEG(?:ATIVE)?)", re.IGNORECASE)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


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
    def is_negated(self) -> bool:
        """Whether the channel is -aVR, the sixth lead of Cabrera's order, which points the other way."""
        return _NEGATED.fullmatch(self.label.strip()) is not None

    @property
    def lead(self) -> str:
        """Canonical name of the lead.

        A bare number says which channel of the recorder this is, not which lead: ``"ECG 1"`` is not lead I.
        """
        if self.is_negated:
            return "aVR"
        label = self.label.strip()
        numbered = _NUMBERED.fullmatch(label)
        return f"ECG{numbered[1]}" if numbered else canonical_lead(re.sub(r"(?i)^EKG\b", "ECG", label))

    def millivolts(self) -> NDArray[np.float32]:
        """Return the values of a channel of voltage, shape (n_samples,), in mV."""
        signal = as_millivolts(np.asarray(self.values()), voltage_unit(self.unit) or self.unit)
        # -aVR is how Cabrera's order shows it; encoders know aVR.
        return -signal if self.is_negated else signal


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
    known = [channel for channel in channels if _is_ecg(channel, channels)]
    unscaled = [c.lead for c in known if c.lead in CANONICAL_LEADS and voltage_unit(c.unit) is None]
    if unscaled:
        raise UnsupportedFormatError(
            f"Got no unit of voltage for lead(s) {', '.join(unscaled)} in {path}, expected V, mV, uV or nV. Export the "
            "recording with its scale, or pass the samples as an array with units=."
        )
    leads = [channel for channel in known if voltage_unit(channel.unit) is not None]
    if not leads:
        found = ", ".join(f"{c.label.strip() or '?'} [{c.unit.strip() or 'no unit'}]" for c in channels) or "none"
        raise UnsupportedFormatError(
            f"Got no ECG lead among the channels of {path}, expected names such as I, aVR, V1 or ECG and a unit of "
            f"voltage. Its channels: {found}."
        )
    return leads


def _is_ecg(channel: Channel, channels: Sequence[Channel]) -> bool:
    """Report an ECG lead by its name, among the names of its neighbours."""
    if _CENTRAL_ELECTRODE.fullmatch(channel.label.strip()):
        # C3 beside other electrodes of the head is the head's, alone among leads the chest's.
        return not any(_HEAD_ELECTRODE.fullmatch(other.label.strip()) for other in channels)
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


# The filters of the warnings module belong to the whole process; two threads that set and restore them at once could
# leave them wrong for good.
_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def caught_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Catch every warning, one thread at a time, and give the list that they go into; not to be nested."""
    with _ONE_AT_A_TIME, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
