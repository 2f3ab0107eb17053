"""HL7 aECG, GE MUSE, Philips Sierra, Mortara, SCP-ECG, ISHNE, MFER and Kardia files by ecgdatakit."""

from __future__ import annotations

import json
import math
import re
import struct
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from skecg.errors import DamagedRecordError, LeadWarning, SignalWarning, UnsupportedFormatError
from skecg.io.channels import Channel, strict_number
from skecg.leads import CANONICAL_LEADS, canonical_lead
from skecg.records import millivolts_per_unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
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

# Elements and attributes that say what a sample is worth, and what each has to be.
_FIELDS = {
    "HL7aECGParser": {"scale": "step", "origin": "number", "increment": "step"},
    "GEMuseXMLParser": {
        "LeadAmplitudeUnitsPerBit": "step",
        "LeadSampleSize": "whole step",
        "LeadTimeOffset": "number",
        "SampleBase": "step",
        "SampleExponent": "number",
    },
    "SierraXMLParser": {
        "resolution": "step",
        "signalresolution": "step",
        "samplespersecond": "whole step",
        "samplingrate": "whole step",
        "signaloffset": "whole number",
        "signalsigned": "flag",
    },
    "MortaraEL250Parser": {"UNITS_PER_MV": "step", "SAMPLE_FREQ": "step", "OFFSET": "number", "BITS": "step"},
}

_WANTED_OF = {
    "step": "a number above 0 with a decimal point",
    "number": "a number with a decimal point",
    "whole step": "a whole number above 0",  # ecgdatakit rounds it
    "whole number": "a whole number",
    "flag": "true or false",
}

_NO_DIGITS = re.compile(r"[^\d\s.eE+-]+", re.ASCII)

_ISHNE_FAULT = -32768  # a sample at which the lead was off
_ISHNE_OFF = {4: "intermittent disconnection", 5: "frequent disconnection"}  # of the levels of a lead's quality

# Of SCP-ECG: the number of the standard's own table of codes, and a code by it.
_SCP_STANDARD_TABLE = 19999
_SCP_CODE = re.compile(r"0|1{1,8}0[01]|1{9}0[01]{8}|1{10}[01]{16}")

# Tags of MFER, and below the bytes that a sample takes by its type.
_MFER_TYPE, _MFER_WAVES, _MFER_CHANNEL, _MFER_GROUP = 0x0A, 0x1E, 0x3F, 0x67
_MFER_SIZES = frozenset({0x04, 0x06, _MFER_TYPE})
_MFER_LEVELS = {0x0D: "an offset", 0x12: "a value that stands for none"}
# Zeros, a tag or the channel that fields are of, and a length; 0x80 is the end.
_MFER_HEAD = re.compile(rb"\0*(?:\x3f([\x80-\xff]*[\0-\x7f])|([^\0\x3f\x80]))(.)", re.DOTALL)
_MFER_WIDTHS = {0: 2, 1: 2, 2: 4, 3: 1, 4: 2, 5: 1, 6: 4, 7: 4, 8: 8}

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
    r"ECG block offset is": "its samples begin at another place than its header says",
    r"no sampling interval": "it states no sampling rate, and the format's default of 1000 Hz was taken",
}


def read_vendor_channels(path: Path) -> list[Channel]:
    """List the rhythm leads of a file."""
    from ecgdatakit import FileParser
    from ecgdatakit.exceptions import CorruptedFileError as Corrupted
    from ecgdatakit.exceptions import UnsupportedFormatError as Unknown
    from ecgdatakit.parsing.helpers.xml import parse_xml_root

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
        except Corrupted as error:
            odd = _ODD_INCREMENT.search(str(error))
            if odd is None:
                raise
            raise DamagedRecordError(
                f"Got {odd[1]} as the unit of the increment of time in {path}, expected s, ms or us: its sampling rate "
                "is not known. Export it again, or write the increment in seconds."
            ) from error
    parser = found["parser"]
    root = parse_xml_root(path.read_bytes()) if parser in _FIELDS else ElementTree.Element("none")
    _check_numbers(root, parser, path)
    match parser:
        case "AliveCorKardiaParser":
            _check_kardia(path)
        case "SCPECGParser":
            _check_scp_sizes(path, parsed.raw_metadata["sections_found"])
        case "ISHNEHolterParser":
            _check_ishne_size(parsed, path)
        case "MFERParser":
            _check_mfer(path, parsed.raw_metadata["frames"])
        case "SierraXMLParser":
            _check_sierra_size(root, parsed.leads, path)
    _check_sets(root, path)
    _repeat([str(warning.message) for warning in caught], path)
    _check_starts(parsed.leads, path)
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


def _check_numbers(root: ElementTree.Element, parser: str, path: Path) -> None:
    """Raise where a field that scales the signal is no number: ecgdatakit takes 1 or 0 in its place, and says nothing.

    Also for a number that it understands by a rule of its own (a decimal comma, 1_000) and for one that cannot be: a
    step below zero.
    """
    fields = _FIELDS.get(parser, {})
    shifts = set()
    for element in root.iter():
        name = _bare_tag(element)
        own = element.get("value", "") if parser == "HL7aECGParser" else element.text or ""
        stated = {**element.attrib, name: own}
        for field in fields.keys() & stated.keys():
            _check_field(field, stated[field].strip(), fields[field], path)
        if name == "value":
            _check_origin(element, path)
        if name == "digits" or element.get("dataencoding") == "Plain":
            _check_digits(element.text or "", path)
        shifts |= {stated[name]} if name == "LeadTimeOffset" else set()
    if len(shifts) > 1:
        raise UnsupportedFormatError(
            f"Got leads that start at different times in {path}, expected leads recorded at once. Export all of them."
        )


def _check_digits(text: str, path: Path) -> None:
    """Raise for samples that are numbers by Python's rules alone: 1_0, inf."""
    odd = _NO_DIGITS.search(text)
    if odd is not None:
        raise DamagedRecordError(
            f"Got a sample with {odd[0][:20]!r} in {path}, expected numbers with a decimal point. Export it again, or "
            "correct the file."
        )


def _check_sets(root: ElementTree.Element, path: Path) -> None:
    """Raise for leads in several sets, as of a print of four columns: ecgdatakit reads the first set alone."""
    first, *others = _lead_sets(root) or [set()]
    lost = sorted(set().union(*others) - first, key=CANONICAL_LEADS.index)
    if lost:
        raise UnsupportedFormatError(
            f"Got lead(s) {', '.join(lost)} in another set than the first in {path}, expected one set, of leads "
            "recorded at once. Export all of them so."
        )


def _lead_sets(root: ElementTree.Element) -> list[set[str]]:
    """List the sets of standard leads that an aECG or MUSE file holds, averaged beats left out."""
    series = root.findall("{*}component/{*}series")
    codes = [(one.find("{*}code"), one.findall("{*}component/{*}sequenceSet")) for one in series]
    return [
        _standard_leads(code.get("code", "") for code in one.findall("{*}component/{*}sequence/{*}code"))
        for kind, sets in codes
        if kind is None or kind.get("code", "").upper() != "REPRESENTATIVE_BEAT"
        for one in sets
    ] + [_standard_leads(_text(lead, "LeadID") for lead in wave) for wave in _rhythms(root)]


def _rhythms(root: ElementTree.Element) -> list[ElementTree.Element]:
    """List the rhythms of a MUSE file."""
    waves = root.findall("{*}Waveform")
    return [wave for wave in waves if _text(wave, "WaveformType").lower() in ("", "rhythm")]


def _standard_leads(names: Iterable[str]) -> set[str]:
    """Return those of the twelve leads that are named."""
    return set(CANONICAL_LEADS).intersection(map(canonical_lead, names))


def _check_kardia(path: Path) -> None:
    """Raise where a Kardia file has text of which ecgdatakit makes a number by Python's rules (1_0)."""
    block = json.loads(path.read_bytes())["data"]["raw"]
    for field in ("frequency", "amplitudeResolution"):
        _check_field(field, str(block.get(field, "")), "step", path)
    if not {type(sample) for samples in block["samples"].values() for sample in samples} <= {int, float, type(None)}:
        raise DamagedRecordError(f"Got samples in {path} that are no numbers, expected numbers. Export it again.")


def _check_scp_sizes(path: Path, sections: Sequence[int]) -> None:
    """Raise for leads with more samples than declared, which ecgdatakit cuts; codes of the file's own do not tell."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<I", content, 10)  # of section 0, a list of the others: number, length, place
    pointers = struct.iter_unpack("<HII", content[22 : 22 + (length - 16) // 10 * 10])
    places = {number: place - 1 + 16 for number, n_bytes, place in pointers if n_bytes}  # past each section's own head
    coded = 2 in sections
    if coded and struct.unpack_from("<H", content, places[2]) != (_SCP_STANDARD_TABLE,):
        return
    n_leads, ranges, sizes = content[places[3]], places[3] + 2, places[6] + 6
    start = sizes + 2 * n_leads
    for number, (first, last, _) in enumerate(struct.iter_unpack("<IIB", content[ranges : ranges + 9 * n_leads])):
        (n_bytes,) = struct.unpack_from("<H", content, sizes + 2 * number)
        n_declared = last - first + 1
        n_found = _scp_codes(content[start : start + n_bytes]) if coded else n_bytes // 2
        start += n_bytes
        if n_found > n_declared:
            raise _surplus(f"a lead of {n_found} samples", f"{n_declared} as its section 3 says", path)


def _scp_codes(content: bytes) -> int:
    """Count the samples in codes of the standard's own table, but for zeros at the end, which may only fill bytes."""
    codes = _SCP_CODE.findall(f"{int.from_bytes(content, 'big'):0{8 * len(content)}b}")
    return max((number for number, code in enumerate(codes, 1) if code != "0"), default=0)


def _check_sierra_size(root: ElementTree.Element, leads: Sequence[Any], path: Path) -> None:
    """Raise for more samples than declared: leads follow each other, and the second would begin in the first."""
    waves = next(root.iter("parsedwaveforms"))
    if waves.get("dataencoding") == "Plain":
        n_found = len((waves.text or "").split())
    elif "XLI" in (waves.get("compression", "") + waves.get("compressmethod", "")).upper():
        return  # each lead says where it ends
    else:
        n_found = len("".join((waves.text or "").split()).rstrip("=")) * 3 // 4 // 2
    n_declared = sum(len(lead.samples) for lead in leads)
    if n_found >= n_declared + len(leads):  # fewer fill the last block
        raise _surplus(f"{n_found} samples", f"{n_declared}, of {len(leads)} leads of the duration stated", path)


def _check_mfer(path: Path, frames: Sequence[dict[str, Any]]) -> None:
    """Raise for more samples than declared, and for levels of other widths than samples: ecgdatakit leaves both out."""
    fields = list(_mfer_fields(path.read_bytes()))
    kinds = {channel: value[0] if value else 0 for channel, tag, value in fields if tag == _MFER_TYPE}
    for channel, tag, value in fields:
        width = _MFER_WIDTHS.get(kinds.get(channel, kinds.get(None, 0)), len(value))
        if tag in _MFER_LEVELS and value and len(value) != width:
            raise DamagedRecordError(
                f"Got {_MFER_LEVELS[tag]} of {len(value)} byte(s) in {path}, expected {width} as its samples have: its "
                "meaning is not known. Export it again."
            )
    # Of channels that differ in type or length ecgdatakit does not say how many samples they have.
    if len(set(kinds.values())) > 1 or any(channel is not None and tag in _MFER_SIZES for channel, tag, _ in fields):
        return
    n_bytes = sum(len(value) for _, tag, value in fields if tag == _MFER_WAVES)
    n_found = n_bytes // _MFER_WIDTHS.get(kinds.get(None, 0), n_bytes)
    n_channels = max(frame["channels"] for frame in frames)
    n_declared = sum(frame["channels"] * frame["samples"] for frame in frames)
    if n_found >= n_declared + n_channels:
        raise _surplus(f"{n_found} samples", f"{n_declared} as its blocks and sequences say", path)


def _mfer_fields(content: bytes, channel: bytes | None = None) -> Iterator[tuple[bytes | None, int, bytes]]:
    """Yield the fields of an MFER file, those in groups, too: their channel, None for all, their tags and contents."""
    place = 0
    while head := _MFER_HEAD.match(content, place):
        n_bytes, place = head[3][0], head.end()
        if n_bytes >= 0x80:  # 0x80 alone: what follows, up to zeros
            digits = content[place : place + n_bytes - 0x80]
            n_bytes, place = int.from_bytes(digits, "big"), place + len(digits)
        value, place = content[place : place + n_bytes], place + n_bytes
        whose, tag = head[1] or channel, head[2][0] if head[2] else _MFER_CHANNEL
        yield from _mfer_fields(value, whose) if tag in (_MFER_CHANNEL, _MFER_GROUP) else [(whose, tag, value)]


def _surplus(found: str, declared: str, path: Path) -> DamagedRecordError:
    """Return the error for more samples than a file says that it holds."""
    return DamagedRecordError(
        f"Got {found} in {path}, expected {declared}: which is wrong is not known. Export or copy it again."
    )


def _check_ishne_size(parsed: Any, path: Path) -> None:
    """Warn of a length that is not the declared one; some recorders declare nothing, or the samples of all leads."""
    declared, found = parsed.raw_metadata["ecg_size"], parsed.raw_metadata["samples_per_lead"]
    if declared > 0 and declared not in (found, found * len(parsed.leads)):
        warnings.warn(
            f"Read {found:,} samples a lead from {path}, which declares {declared:,}: it may be cut. Copy it again, "
            "unless its recorder declares the same for all files.",
            SignalWarning,
            stacklevel=2,
        )


def _bare_tag(element: ElementTree.Element) -> str:
    """Return the name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def _check_field(field: str, text: str, kind: str, path: Path) -> None:
    """Raise for a field that is not of its kind."""
    number = strict_number(text)
    if kind == "flag":
        is_sound = text.lower() in ("true", "false")
    else:
        is_sound = (
            number is not None and ("step" not in kind or number > 0) and ("whole" not in kind or number % 1 == 0)
        )
    if not is_sound:
        raise DamagedRecordError(
            f"Got {field}={text!r} in {path}, expected {_WANTED_OF[kind]}: what its samples are in is not known. "
            "Export it again, or correct the file."
        )


def _check_origin(element: ElementTree.Element, path: Path) -> None:
    """Raise for an aECG's origin in a unit that nobody knows, which ecgdatakit takes for the unit of the scale."""
    parts = {_bare_tag(child): child for child in element}
    if "origin" not in parts or not strict_number(parts["origin"].get("value", "0")):
        return
    unit = parts["origin"].get("unit", "")
    if millivolts_per_unit(unit) is None and ("scale" not in parts or unit != parts["scale"].get("unit")):
        raise DamagedRecordError(
            f"Got an origin with unit={unit!r} in {path}, expected V, mV, uV or nV: where its samples begin is not "
            "known. Export it again, or correct the file."
        )


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
            return [_rate_meant(1e6 / facts["rhythm_sample_interval_us"])] * n_leads
        case "MFERParser":
            return [_rate_meant(rate) for rate in facts.get("sampling_rates", [])]
        case "AliveCorKardiaParser":
            return [float(facts["raw"]["frequency"])] * n_leads
        case "GEMuseXMLParser":
            rhythm = _rhythms(root)[0]
            return [float(_text(rhythm, "SampleBase")) * 10 ** float(_text(rhythm, "SampleExponent") or 0)] * n_leads
        case "MortaraEL250Parser":
            return [float(channel.get("SAMPLE_FREQ", "")) for channel in root.findall("{*}CHANNEL")]
        case _:
            return [float(lead.sampling_rate) for lead in parsed.leads]


def _rate_meant(rate: float) -> float:
    """Return a rate made of an interval of few digits (0.003906 s at 256 Hz): a whole number this near was meant."""
    return float(round(rate)) if abs(rate - round(rate)) < 1e-4 * rate else rate


def _text(element: ElementTree.Element, name: str) -> str:
    """Return what stands in a child of an element, an empty text where there is none; case is free, as in MUSE's."""
    texts = (child.text or "" for child in element if _bare_tag(child).lower() == name.lower())
    return next(texts, "").strip()


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
