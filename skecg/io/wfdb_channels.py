"""From the signals of a WFDB record to leads: which are voltages of the heart, what they are called, at which rate.

A WFDB record may hold breathing, pressures and light beside the ECG. What is not a voltage is left out, and so is a
signal that names another organ (``RESP``, ``EEG``), even where its header states no unit and millivolts are implied.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.errors import LeadError, ParameterError, UnitsError
from skecg.leads import CANONICAL_LEADS, canonical_lead
from skecg.records import ECGRecord, as_millivolts, millivolts_per_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ecg_rows", "from_wfdb", "lead_names", "record_of_signals"]

# Signals of other organs, perhaps numbered or with a place after the name: "RESP", "EEG Fpz-Cz", "EMG1", "PLETH L".
_ANOTHER_ORGAN = re.compile(
    r"\s*(abp|art|bp|co2|cvp|eeg|emg|eog|icp|nibp|pap|pleth|ppg|resp|respiration|scg|spo2|temp)(\d+|(?![a-z0-9]).*)?",
    re.IGNORECASE,
)
# "ECG 1" is a recorder's first channel, not lead I.
_NUMBERED = re.compile(r"(?:(?:ECG|EKG)[ _.-]*)?(\d+)", re.IGNORECASE)


@lru_cache(maxsize=1024)
def ecg_rows(names: tuple[str, ...], units: tuple[str, ...]) -> tuple[int, ...]:
    """Say which signals are voltages of the heart.

    Parameters
    ----------
    names, units : tuple of str of length n_signals
        As the header gives them; a signal without a unit is in millivolts, by the standard.

    Raises
    ------
    UnitsError
        When none is.
    """
    rows = tuple(
        row
        for row, (name, unit) in enumerate(zip(names, units, strict=True))
        if millivolts_per_unit(unit) is not None and _ANOTHER_ORGAN.fullmatch(name) is None
    )
    if not rows:
        found = ", ".join(f"{name or '?'} [{unit}]" for name, unit in zip(names, units, strict=True)) or "none"
        raise UnitsError(
            f"Got no signal that is a voltage of the heart (found: {found}), expected leads in V, mV, uV or nV. "
            "Choose another record, or correct the units in its header."
        )
    return rows


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


def record_of_signals(
    signals: Sequence[NDArray[Any]], sampling_rate: float, names: Sequence[str], units: Sequence[str], name: str
) -> ECGRecord:
    """Make a record of signals of one length, each (n_samples,) in its unit, leaving out what is no ECG."""
    rows = ecg_rows(tuple(names), tuple(units))
    chosen = as_millivolts(np.stack([signals[row] for row in rows]), [units[row] for row in rows])
    return ECGRecord(chosen, sampling_rate, lead_names(tuple(names[row] for row in rows)), name)


def from_wfdb(record: Any) -> ECGRecord:
    """Convert a record that wfdb has read.

    Parameters
    ----------
    record : wfdb.Record or wfdb.MultiRecord
        With physical or digital signals, in one array (``p_signal``, ``d_signal``, time before leads) or one array a
        signal (``e_p_signal``, ``e_d_signal``, where signals differ in their samples a frame).

    Returns
    -------
    ECGRecord
        The voltages of the heart in mV. Where the signals were read one by one and all leads of the ECG have the same
        number of samples a frame, that is their full rate (``fs * samps_per_frame``).

    Raises
    ------
    ParameterError
        When `record` is no record of wfdb, or holds no signals.
    UnitsError
        When no signal is a voltage of the heart.
    LeadError
        When a standard lead is named twice, or leads of several rates were read one by one.

    Examples
    --------
    >>> import wfdb  # doctest: +SKIP
    >>> from_wfdb(wfdb.rdrecord("00001_hr"))  # doctest: +SKIP
    ECGRecord('00001_hr': 12 leads (I, II, III, aVR, ...), 5000 samples, 500 Hz, 10.0 s)
    """
    if hasattr(record, "multi_to_single") and getattr(record, "segments", None):
        expanded = any(getattr(segment, "e_p_signal", None) is not None for segment in record.segments)
        record = record.multi_to_single(physical=True, expanded=expanded)
    missing = [field for field in ("fs", "sig_name", "units") if not hasattr(record, field)]
    if missing:
        raise ParameterError(
            f"Got a {type(record).__name__}, expected a wfdb.Record with signals. Pass what wfdb.rdrecord(...) gives."
        )
    signals, per_frame = _physical_signals(record)
    names = [str(name or "") for name in record.sig_name or [""] * len(signals)]
    units = [str(unit or "mV") for unit in record.units or ["mV"] * len(signals)]
    if not len(signals) == len(names) == len(units):
        raise ParameterError(
            f"Got a wfdb.Record of {len(signals)} signals with {len(names)} names and {len(units)} units, expected one "
            "of each for every signal."
        )
    samples_per_frame = one_rate(per_frame, names, units)
    return record_of_signals(signals, record.fs * samples_per_frame, names, units, str(record.record_name or ""))


def one_rate(per_frame: Sequence[int], names: Sequence[str], units: Sequence[str]) -> int:
    """Give the number of samples a frame that all leads of the ECG share, refusing several."""
    rates = sorted({per_frame[row] for row in ecg_rows(tuple(names), tuple(units))})
    if len(rates) > 1:
        raise LeadError(
            f"Got leads of {rates[0]} to {rates[-1]} samples a frame, expected one rate for all. "
            "Read the record with smooth_frames=True."
        )
    return rates[0]


def _physical_signals(record: Any) -> tuple[list[NDArray[Any]], list[int]]:
    """Give the signals of an in-memory record, each (n_samples,) in its unit, and their samples a frame."""
    expanded = getattr(record, "e_p_signal", None)
    if expanded is None and getattr(record, "e_d_signal", None) is not None:
        expanded = _to_physical(record, expanded=True)
    if expanded is not None:
        return list(expanded), [int(count or 1) for count in record.samps_per_frame or [1] * len(expanded)]
    together = getattr(record, "p_signal", None)
    if together is None and getattr(record, "d_signal", None) is not None:
        together = _to_physical(record, expanded=False)
    if together is None or np.ndim(together) != 2:
        raise ParameterError(
            "Got a wfdb.Record without signals, expected p_signal or d_signal of shape (n_samples, n_leads). "
            "Read it with wfdb.rdrecord, not wfdb.rdheader."
        )
    return list(np.asarray(together).T), [1] * together.shape[1]


def _to_physical(record: Any, *, expanded: bool) -> Any:
    """Convert steps of the digitizer to units, with wfdb's own code."""
    absent = [field for field in ("fmt", "adc_gain", "baseline") if getattr(record, field, None) is None]
    if absent:
        raise ParameterError(
            f"Got a wfdb.Record with digital signals but no {', '.join(absent)}, which their conversion to millivolts "
            "needs. Set them, or pass physical signals."
        )
    return record.dac(expanded=expanded)


def _numbered_twin(lead: str, taken: Sequence[str]) -> str:
    """Find a free name for a signal that bears the name of another."""
    number = 2
    while f"{lead}#{number}" in taken:
        number += 1
    return f"{lead}#{number}"
