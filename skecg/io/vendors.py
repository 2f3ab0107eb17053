"""HL7 aECG, GE MUSE, Philips Sierra, Mortara, SCP-ECG, ISHNE, MFER and Kardia files by ecgdatakit."""

from __future__ import annotations

import math
import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from skecg.errors import DamagedRecordError, SignalWarning, UnsupportedFormatError
from skecg.io.channels import Channel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_vendor_channels"]

# The parsers of ecgdatakit that are used here. Those it calls experimental (EDAN, XLE) guess rate, scale or leads.
_PARSERS = frozenset(
    {
        "HL7aECGParser",
        "GEMuseXMLParser",
        "SierraXMLParser",
        "MortaraEL250Parser",
        "SCPECGParser",
        "ISHNEHolterParser",
        "MFERParser",
        "AliveCorKardiaParser",
    }
)
_WANTED = "HL7 aECG, GE MUSE, Philips Sierra or Mortara XML, SCP-ECG, ISHNE, MFER, Kardia JSON, EDF, BDF or DICOM"

_ISHNE_FAULT = -32768  # a sample at which the lead was off

# What ecgdatakit warns of and users must know, in words of ours: its own may quote the file.
_TRUNCATED = re.compile(
    r"file may be truncated|waveform data shorter than the frame|with no waveform data", re.IGNORECASE
)
_NOTES = {
    r"CRC|[Cc]hecksum": "its checksum does not match its content",
    r"only the first is read|ignored in|not loaded": "it holds more than one recording, and only the first was read",
    r"without a gap": "its pieces, between which time passed, were joined",
    r"not applied \(undocumented\)": "it states an offset of its samples that is undocumented and was not applied",
    r"no sampling interval": "it states no sampling rate, and the format's default of 1000 Hz was taken",
}


def read_vendor_channels(path: Path) -> list[Channel]:
    """List the rhythm leads of a file."""
    from ecgdatakit import FileParser
    from ecgdatakit.exceptions import UnsupportedFormatError as Unknown

    found = FileParser.detect_format(path)
    if found is None or found["parser"] not in _PARSERS:
        raise UnsupportedFormatError(f"Got {path}, whose content is none of the formats known. Expected {_WANTED}.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            parsed = found["parser_class"]().parse(path)
        except Unknown as error:
            raise UnsupportedFormatError(
                f"Got {path}, a {found['name']} file of a kind that ecgdatakit does not read. Export it in another "
                "form."
            ) from error
    if found["parser"] == "HL7aECGParser":
        _check_scaling(path)
    _repeat([str(warning.message) for warning in caught], path)
    _check_starts(parsed.leads, path)
    rates = _exact_rates(parsed)
    return [
        Channel(_label(lead.label), _unit(lead), rate, partial(_physical, lead, found["parser"]))
        for lead, rate in zip(parsed.leads, rates, strict=True)
    ]


def _check_scaling(path: Path) -> None:
    """Raise where an aECG's scale or origin is no number: ecgdatakit takes 1 and 0 in its place, and says nothing."""
    for _, element in ElementTree.iterparse(path):
        name, value = element.tag.rpartition("}")[2], element.get("value")
        if name not in ("scale", "origin") or value is None:
            continue
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or (name == "scale" and number == 0):
            raise DamagedRecordError(
                f"Got {name} value={value!r} in {path}, expected a number with a decimal point"
                f"{' other than 0' if name == 'scale' else ''}: what its samples are in is not known. Export it again, "
                "or correct the file."
            )


def _repeat(messages: Sequence[str], path: Path) -> None:
    """Raise for a truncated file, and say in our own words what else concerns the signal."""
    if any(_TRUNCATED.search(message) for message in messages):
        raise DamagedRecordError(f"{path} ends in the middle of its samples: it is truncated. Copy or export it again.")
    for pattern, note in _NOTES.items():
        if any(re.search(pattern, message) for message in messages):
            warnings.warn(f"Read {path}, but {note}.", SignalWarning, stacklevel=3)


def _check_starts(leads: Sequence[Any], path: Path) -> None:
    """Raise for leads recorded one after the other (SCP-ECG): they cannot stand side by side."""
    if len({lead.annotations.get("start_sample", "1") for lead in leads}) > 1:
        raise UnsupportedFormatError(
            f"Got leads that start at different times in {path}, expected leads recorded at once. Export all of them."
        )


def _exact_rates(parsed: Any) -> list[float]:
    """Return each lead's rate, of which ecgdatakit keeps whole Hz in its leads and the exact value elsewhere."""
    rates = [float(lead.sampling_rate) for lead in parsed.leads]
    exact = parsed.raw_metadata.get("sampling_rates")
    if exact is None:
        only = parsed.raw_metadata.get("rhythm_time", {}).get("sampling_rate_exact")
        exact = rates if only is None else [only] * len(rates)
    # An increment is written with few digits (0.003906 s at 256 Hz): a whole number this near is what was meant.
    return [rate if abs(rate - e) < 1e-4 * rate else float(e) for rate, e in zip(rates, exact, strict=True)]


def _label(label: str) -> str:
    """Keep ISHNE's "Lead 1", a lead of unknown name stored first, from being taken for lead I; drop "_2" of repeats."""
    numbered = re.fullmatch(r"Lead (\d+)", label)
    return f"CH{numbered[1]}" if numbered else re.sub(r"_\d+$", "", label)


def _unit(lead: Any) -> str:
    """Return the unit in which :func:`_physical` gives a lead."""
    return str(lead.resolution_unit if lead.is_raw else lead.units)


def _physical(lead: Any, parser: str) -> NDArray[np.float64]:
    """Scale the stored samples, shape (n_samples,)."""
    samples = np.asarray(lead.samples, dtype=np.float64)
    if parser == "ISHNEHolterParser":
        samples = np.where(samples == _ISHNE_FAULT, np.nan, samples)
    return samples * lead.resolution + lead.offset if lead.is_raw else samples
