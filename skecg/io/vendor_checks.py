"""What vendors' files state of themselves, compared with what they hold: ecgdatakit reads on where both disagree."""

from __future__ import annotations

import base64
import json
import re
import struct
import warnings
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from skecg.errors import DamagedRecordError, LeadWarning, SignalWarning, UnsupportedFormatError
from skecg.io.channels import strict_number
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS, LIMB_COEFFICIENTS, canonical_lead
from skecg.records import millivolts_per_unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["FIELDS", "check_file", "rhythms_of_muse", "text_of_child"]

#: Elements and attributes that say what a sample is worth, and what each has to be.
FIELDS = {
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

# By how much of a recording its duration may be another than is stated.
_MOST_ODD = 0.05

# Of SCP-ECG: the number of the standard's own table of codes, and a code by it.
_SCP_STANDARD_TABLE = 19999
_SCP_CODE = re.compile(r"0|1{1,8}0[01]|1{9}0[01]{8}|1{10}[01]{16}")

# Tags of MFER, and below the bytes that a sample takes by its type.
_MFER_TYPE, _MFER_WAVES, _MFER_CHANNEL, _MFER_GROUP = 0x0A, 0x1E, 0x3F, 0x67
_MFER_PREAMBLE, _MFER_TIME = 0x40, 0x85
_MFER_WHOSE = {_MFER_PREAMBLE: "a preamble", 0x82: "another patient", 0x87: "another identifier"}
_MFER_SIZES = frozenset({0x04, 0x06, _MFER_TYPE})
_MFER_LEVELS = {0x0D: "an offset", 0x12: "a value that stands for none"}
# Zeros, a tag or the channel that fields are of, and a length; 0x80 is the end.
_MFER_HEAD = re.compile(rb"\0*(?:\x3f([\x80-\xff]*[\0-\x7f])|([^\0\x3f\x80]))(.)", re.DOTALL)
_MFER_WIDTHS = {0: 2, 1: 2, 2: 4, 3: 1, 4: 2, 5: 1, 6: 4, 7: 4, 8: 8}


def check_file(root: ElementTree.Element, parser: str, parsed: Any, path: Path) -> None:
    """Raise where a file contradicts itself or a field of it is no number, and warn where it may be cut.

    Parameters
    ----------
    root : Element
        The root of an XML file, an empty element for others.
    parser : str
        Name of the class of ecgdatakit that read it.
    parsed : ecgdatakit.models.ECGRecord
        What it read.
    path : Path
        The file.

    Raises
    ------
    DamagedRecordError
        When a number is none, or samples are more than stated: which of both is wrong is not known.
    UnsupportedFormatError
        When leads or pieces of the file were not recorded at once.
    """
    _check_numbers(root, parser, path)
    match parser:
        case "AliveCorKardiaParser":
            _check_kardia(path)
        case "GEMuseXMLParser":
            _check_muse_leads(root, path)
        case "SCPECGParser":
            _check_scp_sizes(path, parsed.raw_metadata["sections_found"])
        case "ISHNEHolterParser":
            _check_ishne_size(parsed, path)
        case "MFERParser":
            _check_mfer(path, parsed.raw_metadata["frames"])
        case "SierraXMLParser":
            _check_sierra_size(root, parsed.leads, path)
    _check_sets(root, path)


def _check_numbers(root: ElementTree.Element, parser: str, path: Path) -> None:
    """Raise where a field that scales the signal is no number: ecgdatakit takes 1 or 0 in its place, and says nothing.

    Also for a number that it understands by a rule of its own (a decimal comma, 1_000) and for one that cannot be: a
    step below zero.
    """
    fields = FIELDS.get(parser, {})
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
    ] + [_standard_leads(text_of_child(lead, "LeadID") for lead in wave) for wave in rhythms_of_muse(root)]


def rhythms_of_muse(root: ElementTree.Element) -> list[ElementTree.Element]:
    """List the rhythms of a MUSE file."""
    waves = root.findall("{*}Waveform")
    return [wave for wave in waves if text_of_child(wave, "WaveformType").lower() in ("", "rhythm")]


def _standard_leads(names: Iterable[str]) -> set[str]:
    """Return those of the twelve leads that are named."""
    return set(CANONICAL_LEADS).intersection(map(canonical_lead, names))


def _check_kardia(path: Path) -> None:
    """Raise where a Kardia file has text of which ecgdatakit makes a number by Python's rules (1_0)."""
    recording = json.loads(path.read_bytes())
    block = recording["data"]["raw"]
    for field in ("frequency", "amplitudeResolution"):
        _check_field(field, str(block.get(field, "")), "step", path)
    if not {type(sample) for samples in block["samples"].values() for sample in samples} <= {int, float, type(None)}:
        raise DamagedRecordError(f"Got samples in {path} that are no numbers, expected numbers. Export it again.")
    stated = strict_number(str(recording.get("duration", "")))  # ms
    found = max(map(len, block["samples"].values())) / float(block["frequency"])
    if stated is not None and abs(found - stated / 1000) > max(1.0, _MOST_ODD * found):
        warnings.warn(
            f"Read {found:g} s at {float(block['frequency']):g} Hz from {path}, which states a duration of "
            f"{stated / 1000:g} s: it may be cut, or its rate be wrong. Export it again.",
            SignalWarning,
            stacklevel=2,
        )


def _check_muse_leads(root: ElementTree.Element, path: Path) -> None:
    """Warn of fewer leads than stated; the four limb leads that follow from I and II need not be stored."""
    for rhythm in rhythms_of_muse(root)[:1]:
        stated = strict_number(text_of_child(rhythm, "NumberofLeads"))
        named = [text_of_child(lead, "LeadID") for lead in rhythm if _bare_tag(lead) == "LeadData"]
        limb = _standard_leads(named) & set(LIMB_COEFFICIENTS)
        n_known = len(named) + (len(LIMB_COEFFICIENTS) - len(limb) if {"I", "II"} <= limb else 0)
        if stated is not None and n_known < stated:
            warnings.warn(
                f"Read {len(named)} lead(s) from {path}, which states {stated:g}: some are lacking. Export it again.",
                LeadWarning,
                stacklevel=2,
            )


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
    n_declared = sum(len(lead.samples) for lead in leads)
    if waves.get("dataencoding") == "Plain":
        n_found = len((waves.text or "").split())
    elif "XLI" in (waves.get("compression", "") + waves.get("compressmethod", "")).upper():
        _check_packed_sierra(waves.text or "", leads, path)
        return
    else:
        n_found = len("".join((waves.text or "").split()).rstrip("=")) * 3 // 4 // 2
    if n_found >= n_declared + len(leads):  # fewer fill the last block
        raise _surplus(f"{n_found} samples", f"{n_declared}, of {len(leads)} leads of the duration stated", path)


def _check_packed_sierra(text: str, leads: Sequence[Any], path: Path) -> None:
    """Raise for packed leads that are more or longer than declared, and for residuals whose leads are not known."""
    from ecgdatakit.parsing.codecs import xli_decode

    packed = [len(samples) for samples in xli_decode(base64.b64decode(text))]
    if len(packed) > len(leads):
        raise _surplus(f"{len(packed)} packed leads", f"{len(leads)} as its number of leads says", path)
    # What fills the last block is less than a second.
    n_samples, rate = len(leads[0].samples), leads[0].sampling_rate
    if max(packed) >= n_samples + rate:
        raise _surplus(f"leads of {max(packed)} samples", f"{n_samples} as its duration and rate say", path)
    labels = [canonical_lead(lead.label) for lead in leads[:6]]
    if labels != list(LIMB_COEFFICIENTS) and not set(labels) <= set(EIGHT_LEADS):
        raise UnsupportedFormatError(
            f"Got packed leads {', '.join(labels)} in {path}, expected {', '.join(LIMB_COEFFICIENTS)} first: the last "
            "four of them are stored as what the first two do not tell. Export it with the names of its leads."
        )


def _check_mfer(path: Path, frames: Sequence[dict[str, Any]]) -> None:
    """Raise for more samples than declared, and for levels of other widths than samples: ecgdatakit leaves both out.

    Also for channels beyond those counted, whose samples would be taken for those of others.
    """
    fields = list(_mfer_fields(path.read_bytes()))
    _check_mfer_pieces(fields, path)
    described = [_whole(channel) for channel, _, _ in fields if channel is not None]
    counted = max(frame["channels"] for frame in frames)
    if max(described, default=0) >= counted:
        raise _surplus(f"a description of channel {max(described) + 1}", f"{counted} channel(s) as it counts", path)
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
    n_declared = sum(frame["channels"] * frame["samples"] for frame in frames)
    if n_found >= n_declared + counted:
        raise _surplus(f"{n_found} samples", f"{n_declared} as its blocks and sequences say", path)


def _check_mfer_pieces(fields: Sequence[tuple[bytes | None, int, bytes]], path: Path) -> None:
    """Raise for pieces of several recordings in one file, and warn of pieces with times of their own."""
    waves = [place for place, (_, tag, _) in enumerate(fields) if tag == _MFER_WAVES] or [0]
    before = {tag: value for _, tag, value in fields[: waves[0]] if tag != _MFER_PREAMBLE}
    between = fields[waves[0] : waves[-1]]
    for _, tag, value in between:
        if tag in _MFER_WHOSE and before.get(tag) != value:
            raise UnsupportedFormatError(
                f"Got {_MFER_WHOSE[tag]} between two pieces of samples in {path}, expected one recording. Split it "
                "into a file each."
            )
    if any(tag == _MFER_TIME and before.get(tag) != value for _, tag, value in between):
        warnings.warn(
            f"Joined pieces of {path} that state times of their own: whether time passed between them is not known.",
            SignalWarning,
            stacklevel=2,
        )


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


def _whole(digits: bytes) -> int:
    """Return a number of seven bits a byte, the highest first."""
    number = 0
    for digit in digits:
        number = number << 7 | digit & 0x7F
    return number


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


def text_of_child(element: ElementTree.Element, name: str) -> str:
    """Return what stands in a child of an element, an empty text where there is none; case is free, as in MUSE's."""
    texts = (child.text or "" for child in element if _bare_tag(child).lower() == name.lower())
    return next(texts, "").strip()
