"""HL7 aECG, GE MUSE, Philips Sierra, Mortara, SCP-ECG, ISHNE, MFER and Kardia files by ecgdatakit."""

from __future__ import annotations

import math
import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from skecg.errors import DamagedRecordError, LeadWarning, SignalWarning, UnsupportedFormatError
from skecg.io.channels import Channel
from skecg.io.files import beginning_of
from skecg.io.vendor_checks import FIELDS, check_file, rhythms_of_muse, text_of_child
from skecg.leads import CANONICAL_LEADS, canonical_lead

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
_WANTED = "HL7 aECG, GE MUSE, CardioSoft, Sierra or Mortara XML, SCP-ECG, ISHNE, MFER, Kardia JSON, EDF, BDF or DICOM"

_BEFORE_TEXT = b"\0\xff\xfe\xef\xbb\xbf \t\r\n"  # the zeros of UTF-16, marks of the order of bytes, blanks
_MFER_BEATS = "9"  # the kind of waveform that a dominant beat is
_ISHNE_FAULT = -32768  # a sample at which the lead was off
_ISHNE_OFF = {4: "intermittent disconnection", 5: "frequent disconnection"}  # of the levels of a lead's quality

# What ecgdatakit warns of and users must know, in words of ours: its own may quote the file.
_TRUNCATED = re.compile(
    r"file may be truncated|waveform data shorter than the frame|with no waveform data", re.IGNORECASE
)
_ODD_INCREMENT = re.compile(r"time increment unit (.*) is missing or not supported")
_UNREAD = re.compile(r"sequences ignored in the rhythm series: \[(.*)\]")
_NOTES = {
    r"CRC|[Cc]hecksum": "its checksum does not match its content",
    r"rhythm series found|in the rhythm series; only|Additional rhythm|not loaded": (
        "it holds more than one recording, and only the first was read"
    ),
    r"without a gap": "its pieces, between which time passed, were joined",
    r"not applied \(undocumented\)": "it states an offset of its samples that is undocumented and was not applied",
    r"(ECG block|variable block) offset is": "its samples begin at another place than its header says",
    r"Section \d+ length is": "it states the length of a section twice, and not the same",
    r"zones are truncated": "the places of beats that it stores apart are cut, and they were not put in",
    r"spec code -9": "it says that a lead is not there whose samples it holds",
    r"numLeads is": "it states another number of leads than it holds",
    r"no sampling interval": "it states no sampling rate, and the format's default of 1000 Hz was taken",
}


def read_vendor_channels(path: Path) -> list[Channel]:
    """List the rhythm leads of a file."""
    from ecgdatakit import FileParser
    from ecgdatakit.exceptions import CorruptedFileError as Corrupted
    from ecgdatakit.exceptions import UnsupportedFormatError as Unknown
    from ecgdatakit.parsing.helpers.xml import parse_xml_root

    found = FileParser.detect_format(path)
    reader = _reader_of_text(path) if found is None else found["parser_class"]
    if reader is None or reader.__name__ not in _PARSERS:
        raise UnsupportedFormatError(f"Got {path}, whose content is none of the formats known. Expected {_WANTED}.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            parsed = reader().parse(path)
        except Unknown as error:
            raise UnsupportedFormatError(
                f"Got {path}, a {reader.FORMAT_NAME} file of a kind that ecgdatakit does not read. Export it in "
                "another form."
            ) from error
        except Corrupted as error:
            odd = _ODD_INCREMENT.search(str(error))
            if odd is None:
                raise
            raise DamagedRecordError(
                f"Got {odd[1]} as the unit of the increment of time in {path}, expected s, ms or us: its sampling rate "
                "is not known. Export it again, or write the increment in seconds."
            ) from error
    parser = reader.__name__
    root = parse_xml_root(path.read_bytes()) if parser in FIELDS else ElementTree.Element("none")
    check_file(root, parser, parsed, path)
    _repeat([str(warning.message) for warning in caught], path)
    _check_starts(parsed.leads, path)
    if parsed.leads and all(lead.annotations.get("waveform_type") == _MFER_BEATS for lead in parsed.leads):
        raise UnsupportedFormatError(f"Got averaged beats alone in {path}, expected a recording. Export its rhythm.")
    for lead in parsed.leads:
        _check_scale(lead, path)
    rates = _exact_rates(parsed, parser, root)
    labels = _labels([lead.label for lead in parsed.leads], path)
    _warn_of_marks(labels, parsed.leads, path)
    _check_skew(parsed.raw_metadata, rates, path)
    return [
        Channel(label, _unit(lead), rate, partial(_physical, lead, parser))
        for label, lead, rate in zip(labels, parsed.leads, rates, strict=True)
    ]


def _reader_of_text(path: Path) -> Any:
    """Return ecgdatakit's reader of a text whose marks stand beyond the bytes in which it looks for them, or None.

    They do after a comment or a document's definition, and where a writer of JSON puts the samples first.
    """
    from ecgdatakit.parsing.parsers.alivecor_kardia import AliveCorKardiaParser
    from ecgdatakit.parsing.parsers.ge_muse_xml import GEMuseXMLParser
    from ecgdatakit.parsing.parsers.hl7_aecg import HL7aECGParser
    from ecgdatakit.parsing.parsers.mortara_el250 import MortaraEL250Parser
    from ecgdatakit.parsing.parsers.sierra_xml import SierraXMLParser

    if beginning_of(path, 32).translate(None, _BEFORE_TEXT)[:1] not in (b"<", b"{"):
        return None
    readers = (HL7aECGParser, GEMuseXMLParser, SierraXMLParser, MortaraEL250Parser, AliveCorKardiaParser)
    content = path.read_bytes()
    return next((reader for reader in readers if reader.can_parse(path, content)), None)


def _check_scale(lead: Any, path: Path) -> None:
    """Raise for a lead without a scale: a step that is none, or so small that nothing would be left of the samples.

    Also for samples so large (1e400) that they are none.
    """
    if lead.is_raw and not (0 < lead.resolution < math.inf and math.isfinite(lead.offset)):
        raise DamagedRecordError(
            f"Got a step of {lead.resolution:g} for lead {lead.label} in {path}, expected a number above 0: its "
            "samples have no scale. Export it again."
        )
    if np.isinf(lead.samples).any():
        raise DamagedRecordError(
            f"Got an infinite sample of lead {lead.label} in {path}, expected finite numbers. Export it again."
        )


def _repeat(messages: Sequence[str], path: Path) -> None:
    """Raise for a truncated file, and say in our own words what else concerns the signal."""
    if any(_TRUNCATED.search(message) for message in messages):
        raise DamagedRecordError(f"{path} ends in the middle of its samples: it is truncated. Copy or export it again.")
    for unread in filter(None, map(_UNREAD.search, messages)):
        warnings.warn(
            f"Left out what {path} codes as {unread[1]}, expected codes such as MDC_ECG_LEAD_II. Correct leads' codes.",
            LeadWarning,
            stacklevel=3,
        )
    for pattern, note in _NOTES.items():
        if any(re.search(pattern, message) for message in messages):
            warnings.warn(f"Read {path}, but {note}.", SignalWarning, stacklevel=3)


def _check_starts(leads: Sequence[Any], path: Path) -> None:
    """Raise for leads recorded one after the other (SCP-ECG): they cannot stand side by side."""
    if len({lead.annotations.get("start_sample", "1") for lead in leads}) > 1:
        raise UnsupportedFormatError(
            f"Got leads that start at different times in {path}, expected leads recorded at once. Export all of them."
        )


def _check_skew(facts: dict[str, Any], rates: Sequence[float], path: Path) -> None:
    """Raise for channels that were sampled at different times (MFER), by more than one converter needs for all."""
    skew = max(facts.get("sample_skew_ns", [0])) * 1e-9 * max(rates, default=0.0)
    if skew >= 1:
        raise UnsupportedFormatError(
            f"Got channels that are skewed by up to {skew:g} samples in {path}, expected leads recorded at once. Align "
            "them, and pass them as an ECGRecord."
        )


def _exact_rates(parsed: Any, parser: str, root: ElementTree.Element) -> list[float]:
    """Return each lead's rate in Hz: ecgdatakit keeps whole numbers in its leads, and the exact ones elsewhere or not.

    Sierra's and ISHNE's are whole numbers.
    """
    facts, n_leads = parsed.raw_metadata, len(parsed.leads)
    match parser:
        case "HL7aECGParser":
            return [_rate_meant(facts["rhythm_time"]["sampling_rate_exact"])] * n_leads
        case "SCPECGParser":
            return [_rate_of_microseconds(facts["rhythm_sample_interval_us"])] * n_leads
        case "MFERParser":
            return [_rate_meant(rate) for rate in facts.get("sampling_rates", [])]
        case "AliveCorKardiaParser":
            return [float(facts["raw"]["frequency"])] * n_leads
        case "GEMuseXMLParser":
            rhythm = rhythms_of_muse(root)[0]
            return [
                float(text_of_child(rhythm, "SampleBase")) * 10 ** float(text_of_child(rhythm, "SampleExponent") or 0)
            ] * n_leads
        case "MortaraEL250Parser":
            return [float(channel.get("SAMPLE_FREQ", "")) for channel in root.findall("{*}CHANNEL")]
        case _:
            return [float(lead.sampling_rate) for lead in parsed.leads]


def _rate_meant(rate: float) -> float:
    """Return a rate made of an interval of few digits (0.003906 s at 256 Hz): a whole number this near was meant."""
    return float(round(rate)) if abs(rate - round(rate)) < 1e-4 * rate else rate


def _rate_of_microseconds(interval: int) -> float:
    """Return the rate of an interval in whole microseconds (3333 at 300 Hz): the whole number that may be meant."""
    whole = round(1e6 / interval)
    return float(whole) if whole and abs(1e6 / whole - interval) <= 0.5 else 1e6 / interval


def _warn_of_marks(labels: Sequence[str], leads: Sequence[Any], path: Path) -> None:
    """Warn of leads that the file itself says were off."""
    marked = [
        f"{label} ({mark})"
        for label, lead in zip(labels, leads, strict=True)
        if (mark := "off" if "LeadOff" in lead.annotations else _ISHNE_OFF.get(lead.quality))
    ]
    if marked:
        warnings.warn(
            f"Read {path}, which marks lead(s) {', '.join(marked)}. Leave out what is no signal of the heart.",
            SignalWarning,
            stacklevel=2,
        )


def _labels(labels: Sequence[str], path: Path) -> list[str]:
    """Return the names of leads as the file has them, without the "_2" by which ecgdatakit tells repeated ones apart.

    Also keeps ISHNE's "Lead 1", a lead of unknown name stored first, from being taken for lead I.
    """
    bare = []
    for label in labels:
        numbered, repeated = re.fullmatch(r"Lead (\d+)", label), re.fullmatch(r"(.+)_\d+", label)
        if repeated is None or repeated[1] not in labels:
            bare.append(f"CH{numbered[1]}" if numbered else label)
        elif canonical_lead(label) in CANONICAL_LEADS:
            raise UnsupportedFormatError(
                f"Got leads {repeated[1]} and {label} in {path}: whether the second is {canonical_lead(label)}, or "
                f"{repeated[1]} once more, cannot be told. Export the recording with other names."
            )
        else:
            bare.append(repeated[1])
    return bare


def _unit(lead: Any) -> str:
    """Return the unit in which :func:`_physical` gives a lead."""
    return str(lead.resolution_unit if lead.is_raw else lead.units)


def _physical(lead: Any, parser: str) -> NDArray[np.float64]:
    """Scale the stored samples, shape (n_samples,)."""
    samples = np.asarray(lead.samples, dtype=np.float64)
    if parser == "ISHNEHolterParser":
        samples = np.where(samples == _ISHNE_FAULT, np.nan, samples)
    return samples * lead.resolution + lead.offset if lead.is_raw else samples
