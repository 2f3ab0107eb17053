"""DICOM waveforms by pydicom: 12-lead, general and ambulatory ECG objects.

A file holds multiplex groups, each with its channels, rate and length: the rhythm, and beside it often a median beat.

References
----------
.. [1] DICOM PS3.3, C.10.9 (Waveform Module), and PS3.16, CID 3001 (ECG Leads).
"""

from __future__ import annotations

import math
import mmap
import re
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np

from skecg.errors import DamagedRecordError, MissingDependencyError, SignalWarning, UnsupportedFormatError
from skecg.io.channels import Channel, caught_warnings, is_ecg, strict_number, voltage_unit
from skecg.io.files import beginning_of, check_inflated, largest_inflated
from skecg.leads import CANONICAL_LEADS, canonical_lead

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["DICOM_SUFFIXES", "holds_no_waveform", "is_dicom", "list_dicom_directory", "read_dicom_channels"]

#: Suffixes of DICOM files, which often have none.
DICOM_SUFFIXES: frozenset[str] = frozenset({".dcm", ".dicom"})

# What kind of object a file holds: element (0002,0002) of the header, which always lies at its beginning.
_STORED_CLASS = re.compile(rb"\x02\x00\x02\x00UI..([0-9.]+)", re.DOTALL)
_STANDARD, _WAVEFORMS = "1.2.840.10008.", "1.2.840.10008.5.1.4.1.1.9."
_HEADER_BYTES = 2**10

# A directory names files by folders and names of these letters alone; anything else might lead elsewhere.
_FILE_ID = re.compile(r"[A-Z0-9_]{1,16}", re.IGNORECASE)

# What a sample is worth, and what pydicom takes where it is not said.
_SCALING = {"ChannelSensitivity": 1, "ChannelSensitivityCorrectionFactor": 1, "ChannelBaseline": 0}

# CID 3001: an MDC ("2:61") or SCPECG ("5.6.3-9-61") code, whose last number says which lead; some name no scheme.
_LEAD_CODE, _LEAD_SCHEMES = re.compile(r"(?:2:|5\.6\.3-9-)(\d+)", re.ASCII), ("MDC", "SCPECG", "")
_LEAD_OF_CODE = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF", 65: "-aVR"}
_LEAD_OF_CODE |= {n + 2: f"V{n}" for n in range(1, 7)}
# VR, VL and VF, the voltages of single limbs, which are often called as aVR, aVL and aVF are.
_NOT_AUGMENTED = "not augmented"
_LEAD_OF_CODE |= dict.fromkeys((88, 89, 90), _NOT_AUGMENTED)

# Samples that are no steps of a line, which pydicom takes for such.
_COMPANDED = {"MB": "µ-law", "AB": "A-law"}

# A converter that samples channels one after the other skews them by less.
_MOST_SKEW_SAMPLES = 1.0

_SHORTEST_RHYTHM = 2.0  # s; what is derived and shorter may be an averaged beat

_INFLATED_AT_ONCE = 2**20


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    return beginning_of(path, _HEADER_BYTES)[128:132] == b"DICM"


def holds_no_waveform(path: Path) -> bool:
    """Whether a file says that it is something else: an image, a report, a directory. A damaged one says nothing."""
    stored = _STORED_CLASS.search(beginning_of(path, _HEADER_BYTES))
    return stored is not None and _is_other_class(stored[1].decode("ascii"))


def _is_other_class(uid: str) -> bool:
    """Report the standard's own classes of objects without waveforms; vendors' classes may be anything."""
    return uid.startswith(_STANDARD) and not uid.startswith(_WAVEFORMS)


def list_dicom_directory(path: Path) -> list[Path]:
    """List the waveforms that a ``DICOMDIR`` refers to, whether they are there or not.

    Parameters
    ----------
    path : Path
        The directory file of a DICOM file set.

    Raises
    ------
    MissingDependencyError
        When pydicom is not installed.
    DamagedRecordError
        When it cannot be read, or points out of its folder.
    """
    try:
        from pydicom import dcmread
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Reading {path} needs pydicom, which is not installed. Run: pip install 'skecg[formats]'"
        ) from error
    try:
        with caught_warnings():
            entries = list(dcmread(path).get("DirectoryRecordSequence") or ())
            return [file for entry in entries for file in _entry_files(entry, path)]
    except DamagedRecordError:
        raise
    except Exception as error:  # a damaged file makes pydicom raise nearly anything
        raise DamagedRecordError(
            f"{path} could not be read as a DICOM directory ({type(error).__name__}). Name the folder instead."
        ) from error


def _entry_files(entry: Any, path: Path) -> Iterator[Path]:
    """Yield the file of one entry, if it has one and that holds a waveform."""
    identity = entry.get("ReferencedFileID")
    if not identity or _is_other_class(str(entry.get("ReferencedSOPClassUIDInFile", ""))):
        return
    names = [identity] if isinstance(identity, str) else [str(name) for name in identity]
    if not all(map(_FILE_ID.fullmatch, names)):
        raise DamagedRecordError(
            f"{path} names a file by {'/'.join(names)!r}, expected folders and a name of letters, digits and _. "
            "Name the folder instead."
        )
    yield _on_disk(path.parent, names)


def _on_disk(folder: Path, names: list[str]) -> Path:
    """Follow names through folders; copied from a disc they are often in lower case."""
    for name in names:
        exact = folder / name
        others = () if exact.exists() or not folder.is_dir() else folder.iterdir()
        folder = next((other for other in others if other.name.upper() == name.upper()), exact)
    return folder


def read_dicom_channels(path: Path) -> list[Channel]:
    """List the channels of a file's rhythm."""
    from pydicom import dcmread

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        # A file that is mapped gives no more than it has, however long an element says it is.
        _check_inflated(stream, path)
        dataset = dcmread(stream)
    groups = dataset.get("WaveformSequence")
    if dataset.get("DirectoryRecordSequence") is not None:
        raise UnsupportedFormatError(
            f"Got {path}, a DICOM directory, expected a recording. Pass skecg.io.find_records({str(path)!r}), which "
            "lists those in it."
        )
    if not groups:
        raise UnsupportedFormatError(f"Got a DICOM object without waveforms in {path}, expected an ECG.")
    if not dataset.file_meta.TransferSyntaxUID.is_little_endian:
        raise UnsupportedFormatError(
            f"Got big-endian samples in {path}, a retired form of DICOM. Convert it with dcmconv."
        )
    return [channel for index in _rhythm(groups, path) for channel in _channels(dataset, index, path)]


def _check_inflated(stream: mmap.mmap, path: Path) -> None:
    """Raise for a deflated object that is a bomb: pydicom inflates without a limit."""
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(stream, False)
    if _read_file_meta_info(stream).TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        packed = stream.read()
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        n_bytes, rest = 0, packed
        # What follows the stream, the byte that makes its length even, is never consumed.
        while rest and not inflater.eof and n_bytes <= largest_inflated(len(packed)):
            n_bytes += len(inflater.decompress(rest, _INFLATED_AT_ONCE))
            rest = inflater.unconsumed_tail
        check_inflated(n_bytes, len(packed), path)
    stream.seek(0)


def _rhythm(groups: Any, path: Path) -> list[int]:
    """Choose the groups that are the recording itself: an ECG, not beats averaged from it, all at the same time."""
    named = [_named(group) for group in groups]
    neighbours = [channel for channels in named for channel in channels]
    of_heart = [i for i, channels in enumerate(named) if any(_is_lead(channel, neighbours) for channel in channels)]
    candidates = of_heart or list(range(len(groups)))
    for i in candidates:
        _check_times(groups[i], path)
    if all(_is_of_beats(groups[i]) for i in candidates):
        raise UnsupportedFormatError(f"Got averaged beats alone in {path}, expected a recording. Export its rhythm.")
    original = [i for i in candidates if not _is_derived(groups[i])]
    if not original:
        original = [i for i in candidates if not _is_of_beats(groups[i])]
        if all(_seconds(groups[i]) < _SHORTEST_RHYTHM for i in original):
            warn(
                f"Read {path}, whose samples are derived and shorter than {_SHORTEST_RHYTHM:g} s: it may be an "
                "averaged beat, and no recording. Export its rhythm.",
                SignalWarning,
                stacklevel=2,
            )
    spans = {_span(groups[i]) for i in original}
    if len(spans) == 1:
        return original
    seconds = {i: _seconds(groups[i]) for i in original}
    longest = [i for i in original if seconds[i] == max(seconds.values())]
    if len(longest) > 1:
        raise UnsupportedFormatError(
            f"Got {len(original)} groups of channels at different times or rates in {path}, expected one recording. "
            "Read the group wanted with pydicom and pass it as an ECGRecord."
        )
    taken = {channel.lead for channel in named[longest[0]]}
    others = dict.fromkeys(channel.lead for i in original for channel in named[i] if channel.lead not in taken)
    lacking = f" Left out are {', '.join(others)}, which only the others have." if others else ""
    warn(
        f"Took the longest of {len(original)} groups of channels in {path} ({seconds[longest[0]]:g} s).{lacking}",
        SignalWarning,
        stacklevel=2,
    )
    return longest


def _named(group: Any) -> list[Channel]:
    """List the channels of a group by name and unit alone."""
    return [
        Channel(_label(definition, number), _unit(definition), math.nan, partial(np.empty, 0))
        for number, definition in enumerate(group.ChannelDefinitionSequence)
    ]


def _is_lead(channel: Channel, neighbours: list[Channel]) -> bool:
    """Report a lead of the heart; one of the twelve by its name alone, so that a unit left out is told."""
    is_voltage = voltage_unit(channel.unit) is not None
    return is_ecg(channel, neighbours) and (is_voltage or channel.lead in CANONICAL_LEADS)


def _check_times(group: Any, path: Path) -> None:
    """Raise for a group at no rate, or of which it is not known when it starts."""
    rate, start = _number(group, "SamplingFrequency", 0), _number(group, "MultiplexGroupTimeOffset", 0)
    if not rate or rate < 0 or start is None:
        raise DamagedRecordError(
            f"Got SamplingFrequency={str(group.get('SamplingFrequency'))!r} (Hz) and MultiplexGroupTimeOffset="
            f"{str(group.get('MultiplexGroupTimeOffset'))!r} (ms) in {path}, expected a number above 0 and a number: "
            "when its samples were taken is not known. Export it again."
        )


def _is_derived(group: Any) -> bool:
    """Report what was computed from the recording, as median and average beats are."""
    return str(group.get("WaveformOriginality", "")) == "DERIVED" or _is_of_beats(group)


def _is_of_beats(group: Any) -> bool:
    """Report beats averaged from the recording, by their label."""
    label = str(group.get("MultiplexGroupLabel", "")).upper()
    return any(word in label for word in ("MEDIAN", "AVERAGE", "BEAT"))


def _seconds(group: Any) -> float:
    """Return how long a group lasts."""
    return int(group.NumberOfWaveformSamples) / float(group.SamplingFrequency)


def _span(group: Any) -> tuple[float, ...]:
    """Return rate, length and start of a group: what must be equal for its channels to stand side by side."""
    start = float(group.get("MultiplexGroupTimeOffset", 0) or 0)
    return float(group.SamplingFrequency), int(group.NumberOfWaveformSamples), start


def _channels(dataset: Any, index: int, path: Path) -> list[Channel]:
    """Describe the channels of one group."""
    from pydicom.waveforms import multiplex_array

    group = dataset.WaveformSequence[index]
    definitions = group.ChannelDefinitionSequence
    if len(definitions) != int(group.NumberOfWaveformChannels):
        raise DamagedRecordError(
            f"Got {len(definitions)} definitions of {group.NumberOfWaveformChannels} channels in {path}, expected one "
            "each."
        )
    _check_linear(group, path)
    _check_size(group, path)
    _check_skew(definitions, float(group.SamplingFrequency), path)
    physical = multiplex_array(dataset, index, as_raw=False)  # (n_samples, n_channels)
    padding, bits = _padding(group), _narrow_bits(group)
    if padding is not None or bits:
        steps = multiplex_array(dataset, index, as_raw=True)
        is_padding = np.zeros(steps.shape, dtype=bool) if padding is None else steps == padding
        _check_signs(np.where(is_padding, 0, steps), bits, path)
        physical[is_padding] = np.nan
    rate = float(group.SamplingFrequency)
    channels = [
        Channel(
            _label(definition, number), _unit(definition), rate, partial(_column, physical, number, definition, path)
        )
        for number, definition in enumerate(definitions)
    ]
    _warn_of_status(channels, definitions, path)
    return channels


def _warn_of_status(channels: list[Channel], definitions: Any, path: Path) -> None:
    """Warn of leads that the recorder itself did not trust: disconnected, uncalibrated, test data."""
    marked = [
        f"{channel.label} ({', '.join(statuses)})"
        for channel, definition in zip(channels, definitions, strict=True)
        if is_ecg(channel, channels) and (statuses := _statuses(definition))
    ]
    if marked:
        warn(
            f"Read {path}, which marks lead(s) {', '.join(marked)}. Leave out what is no signal of the heart.",
            SignalWarning,
            stacklevel=2,
        )


def _statuses(definition: Any) -> list[str]:
    """List what is said of the state of a channel, but that it is sound."""
    stated = definition.get("ChannelStatus") or ()
    return [
        status for status in ([stated] if isinstance(stated, str) else map(str, stated)) if status not in ("OK", "")
    ]


def _check_linear(group: Any, path: Path) -> None:
    """Raise for samples that are companded, as those of sound are."""
    law = _COMPANDED.get(str(group.WaveformSampleInterpretation))
    if law is not None:
        raise UnsupportedFormatError(
            f"Got samples companded by {law} in {path}, expected linear ones. Expand them, and pass them as an "
            "ECGRecord; or export the recording with 16 bits."
        )


def _check_size(group: Any, path: Path) -> None:
    """Raise for samples that are more or fewer than declared: they would be cut, or read in steps of another width."""
    n_channels, n_samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    bits, found = int(group.WaveformBitsAllocated), len(group.WaveformData)
    n_bytes = n_channels * n_samples * bits // 8
    if found not in (n_bytes, n_bytes + n_bytes % 2):
        raise DamagedRecordError(
            f"Got {found:,} bytes of samples in {path}, expected {n_bytes:,} for {n_channels} channels of {n_samples} "
            f"samples of {bits} bits: which of the numbers is wrong is not known. Export or copy it again."
        )


def _narrow_bits(group: Any) -> dict[int, int]:
    """Return the channels whose signed samples have fewer bits than are allocated to them, and how many."""
    if not str(group.WaveformSampleInterpretation).startswith("S"):
        return {}
    stored = [strict_number(str(channel.get("WaveformBitsStored", ""))) for channel in group.ChannelDefinitionSequence]
    allocated = int(group.WaveformBitsAllocated)
    return {row: int(bits) for row, bits in enumerate(stored) if bits is not None and 0 < bits < allocated}


def _check_signs(steps: NDArray[Any], bits: dict[int, int], path: Path) -> None:
    """Raise for samples, shape (n_samples, n_channels), that lost their sign: what is below 0 would be above."""
    for row, n_bits in bits.items():
        lowest, highest = int(steps[:, row].min()), int(steps[:, row].max())
        if lowest >= 0 and 2 ** (n_bits - 1) <= highest < 2**n_bits:
            raise DamagedRecordError(
                f"Got samples from {lowest} to {highest} in {path}, expected signed ones of {n_bits} bits, which end "
                "below: their signs are not extended to the bits allocated. Export it again."
            )


def _check_skew(definitions: Any, rate: float, path: Path) -> None:
    """Raise for channels that were sampled at different times: side by side they would be another recording."""
    shifts = [
        tuple(_number(channel, keyword, 0) for keyword in ("ChannelSampleSkew", "ChannelTimeSkew", "ChannelOffset"))
        for channel in definitions
    ]
    if any(shift is None for of_channel in shifts for shift in of_channel):
        raise DamagedRecordError(f"Got a skew of a channel that is no number in {path}. Export it again.")
    skews = [(samples or 0) + ((skew or 0) + (offset or 0)) * rate for samples, skew, offset in shifts]
    if not max(skews) - min(skews) < _MOST_SKEW_SAMPLES:
        raise UnsupportedFormatError(
            f"Got channels that are skewed by up to {max(skews) - min(skews):g} samples in {path}, expected leads "
            "recorded at once. Align them with pydicom and pass them as an ECGRecord."
        )


def _column(physical: NDArray[np.float64], number: int, definition: Any, path: Path) -> NDArray[np.float64]:
    """Take one channel out of (n_samples, n_channels), where its fields say what a sample is worth."""
    for keyword, default in _SCALING.items():
        value = _number(definition, keyword, default)
        if value is None or (default != 0 and value <= 0):
            raise DamagedRecordError(
                f"Got {keyword}={str(definition.get(keyword))!r} in {path}, expected a number"
                f"{' above 0' if default else ''}: what its samples are in is not known. Export it again."
            )
    return physical[:, number]


def _number(definition: Any, keyword: str, default: float) -> float | None:
    """Return a number of a channel, the default where it is left out, None where it is none."""
    value = definition.get(keyword)
    return default if value is None else strict_number(str(value))


def _padding(group: Any) -> int | None:
    """Return the sample value that stands for no sample, where the file names one."""
    value = group.get("WaveformPaddingValue")
    if value is None or value in (b"", ""):
        return None
    if not isinstance(value, bytes):
        return int(value)
    width = int(group.WaveformBitsAllocated) // 8
    is_signed = str(group.WaveformSampleInterpretation).startswith("S")
    return int.from_bytes(value[:width], "little", signed=is_signed)


def _unit(definition: Any) -> str:
    """Return the unit of a channel's sensitivity; a channel without sensitivity has no unit."""
    units = definition.get("ChannelSensitivityUnitsSequence")
    if not units or definition.get("ChannelSensitivity") is None:
        return ""
    return str(units[0].get("CodeValue", ""))


def _label(definition: Any, number: int) -> str:
    """Name a channel by its source's code, in words or as a number, else by its label."""
    source = (definition.get("ChannelSourceSequence") or [{}])[0]
    meaning, code = str(source.get("CodeMeaning", "")), str(source.get("CodeValue", ""))
    label = str(definition.get("ChannelLabel", ""))
    said, decoded = f"{meaning} {code}".upper(), _decoded(source)
    if "NEG" in said and decoded in ("", "-aVR") and ("AVR" in said or decoded):
        return code if "NEG" in code.upper() else "-aVR"
    if decoded == _NOT_AUGMENTED:
        return f"{meaning or label or code} ({_NOT_AUGMENTED})"
    for name in (meaning, decoded, code, label):
        if name and canonical_lead(name.removeprefix("-")) in CANONICAL_LEADS:
            # The standard has one lead turned over; of another it is not known what is negative.
            return f"{name} (negative)" if "NEG" in said else name
    return label or meaning or code or f"CH {number + 1}"


def _decoded(source: Any) -> str:
    """Return the lead of a standard's numeric lead code, an empty name for any other code."""
    number = _LEAD_CODE.fullmatch(str(source.get("CodeValue", "")))
    is_standard = str(source.get("CodingSchemeDesignator", "")).strip() in _LEAD_SCHEMES
    return _LEAD_OF_CODE.get(int(number[1]), "") if number and is_standard else ""
