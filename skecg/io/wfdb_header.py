"""WFDB header files: their text read into values, and the files beside them that they name.

The grammar is the one of the WFDB Applications Guide, header(5) [1]_. A line that does not follow it is an error here,
where other readers take what they understand and fill in the rest: a gain that is text must not become the default
gain. Dates, times and comments are passed over; they do not change the signal, and some of them are personal.

References
----------
.. [1] Moody G. et al., WFDB Applications Guide, header(5), https://www.physionet.org/physiotools/wag/header-5.htm
"""

from __future__ import annotations

import math
import re
import struct
import warnings
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from skecg.errors import DamagedRecordError, RecordNotFoundError, SignalWarning, user_stacklevel
from skecg.io.files import MANY_FILES, beginning_of, similar_names

__all__ = [
    "DEFAULT_GAIN",
    "SIGNAL_SUFFIXES",
    "Segment",
    "SignalLine",
    "WFDBHeader",
    "check_sizes",
    "find_header",
    "is_gain",
    "known_length",
    "locate_signals",
    "parse_header",
    "plain_header",
]

# The format's own defaults, for fields that a header leaves out.
_DEFAULT_SAMPLING_RATE = 250.0
#: Steps a unit of a signal whose gain is not given, or is 0.
DEFAULT_GAIN = 200.0
_LEAST_GAIN = 1e-12
_NUMBERS_AFTER_GAIN = 5  # resolution, zero, initial value, checksum, block size

_RECORD_LINE = re.compile(
    r"(?P<name>(?:[^\s/]+/)*?[^\s/]+)(?:/(?P<n_segments>\d{1,18}))?"
    r"[ \t]+(?P<n_signals>\d{1,18})"
    r"(?:[ \t]+(?P<rate>\d+\.?\d*|\.\d+)(?:/-?\d*\.?\d*)?(?:\(-?\d*\.?\d*\))?"
    r"(?:[ \t]+(?P<n_frames>\d{1,18})(?:[ \t].*)?)?)?"
)

# Of a gain with a capital E wfdb takes what stands before it, and the rest for a unit: such a line is refused.
_SIGNAL_LINE = re.compile(
    r"(?P<file>\S+)[ \t]+(?P<format>\d{1,18})"
    r"(?:x(?P<samples_per_frame>\d{1,18}))?(?::(?P<skew>\d{1,18}))?(?:\+(?P<offset>\d{1,18}))?"
    r"(?:[ \t]+(?P<gain>-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
    r"(?:\((?P<baseline>-?\d{1,18})(?:\.0*)?\))?(?:/(?P<units>\S+))?"
    r"(?P<numbers>(?:[ \t]+[+-]?\d{1,18}(?![^ \t])){0,5})"
    r"(?:[ \t]+(?P<lead>[^\t\f\v]*).*)?)?"
)

# A line as most archives have it, with a whole gain, about what differs between records: file, first value, checksum.
_USUAL_SIGNAL_LINE = re.compile(
    r"(\S+)[ \t]+(\S+[ \t]+\d+(?:\.0*)?[(/]\S+[ \t]+\d\S*[ \t]+\S+)[ \t]+([+-]?\d{1,18})[ \t]+([+-]?\d{1,18})[ \t]+(.*)"
)

_SEGMENT_LINE = re.compile(r"(?P<name>[^\s/\\]+)[ \t]+(?P<n_frames>\d{1,18})")
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")

#: Suffixes of signal files whose name may stand for their record.
SIGNAL_SUFFIXES = frozenset({".dat", ".mat"})

#: Bytes a sample takes, by storage format, as (bytes, samples): 212 packs two samples into three bytes.
_BYTES_PER_SAMPLES = {8: (1, 1), 16: (2, 1), 24: (3, 1), 32: (4, 1), 61: (2, 1), 80: (1, 1), 160: (2, 1)}
_BYTES_PER_SAMPLES |= {212: (3, 2), 310: (4, 3), 311: (4, 3)}

_COMPRESSED = frozenset({508, 516, 524})
# What a matrix of MATLAB 4 calls the numbers of a format.
_MATLAB_KINDS = {16: 30, 32: 20, 80: 50}


class SignalLine(NamedTuple):
    """What a header says of one signal."""

    file_name: str
    storage_format: int
    samples_per_frame: int
    skew_frames: int
    byte_offset: int
    gain: float  # steps a unit
    baseline: int  # the step that means zero
    units: str
    initial_value: int
    name: str
    checksum: int | None = None  # the sum of all steps, modulo 65536


class Segment(NamedTuple):
    """What the header of a record in several parts says of one of them; ``"~"`` names a gap."""

    name: str
    n_frames: int


class WFDBHeader(NamedTuple):
    """What a header says; `n_frames` is 0 where it does not say how long the record is."""

    record_name: str
    sampling_rate: float
    n_frames: int
    n_signals: int
    signals: tuple[SignalLine, ...]
    segments: tuple[Segment, ...]
    states_rate: bool = True  # else the rate is the format's default


def parse_header(content: bytes, where: str) -> WFDBHeader:
    """Read the bytes of a header.

    Parameters
    ----------
    content : bytes
        The whole file. Byte order marks, any line ends, blank lines and comments are taken as they come.
    where : str
        The file's name for messages. The lines themselves are never quoted: they may tell of a patient.

    Raises
    ------
    DamagedRecordError
        When the file is empty, not text, or breaks the grammar; the message names the line.
    """
    lines = _content_lines(content, where)
    number, text = lines[0]
    match = _RECORD_LINE.fullmatch(text)
    if match is None:
        raise DamagedRecordError(
            f"Line {number} of {where} is no WFDB record line; expected 'NAME N_SIGNALS SAMPLING_RATE N_SAMPLES'. "
            "Restore the header, or read the signal as an array with its rate and leads."
        )
    name, n_segments, n_signals, rate, n_frames = match.group("name", "n_segments", "n_signals", "rate", "n_frames")
    stated = float(rate or _DEFAULT_SAMPLING_RATE)
    header = WFDBHeader(name, stated, int(n_frames or 0), int(n_signals), (), (), rate is not None)
    _check_record_line(header, where)
    if n_segments is not None and _are_signals_of(name, n_segments, lines[1:], header):
        header, n_segments = header._replace(record_name=f"{name}/{n_segments}"), None
    if n_segments is not None:
        return header._replace(segments=_parse_segments(lines[1:], int(n_segments), where))
    _check_count(len(lines) - 1, header.n_signals, "signal", where)
    return header._replace(signals=tuple([_parse_signal(line, row, where) for row, line in lines[1:]]))


def plain_header(name: str, header: WFDBHeader, file_names: list[str]) -> str:
    """Write a header of one segment so that any reader understands it: every field there, nothing optional.

    Rate, skews, gains and baselines are those of bare steps: whoever asks for this text has the true ones already.
    """
    lines = [f"{name} {len(header.signals)} 1 {header.n_frames}"]
    for row, (signal, file_name) in enumerate(zip(header.signals, file_names, strict=True)):
        storage = f"{signal.storage_format}x{signal.samples_per_frame}:0+{signal.byte_offset}"
        lines.append(f"{file_name} {storage} 1(0)/mV 0 0 {signal.initial_value} 0 0 signal{row}")
    return "\n".join(lines) + "\n"


def _content_lines(content: bytes, where: str) -> list[tuple[int, str]]:
    """Return the lines that are neither blank nor comments, with their numbers."""
    if not content.strip():
        raise DamagedRecordError(
            f"{where} is empty ({len(content)} bytes), expected a WFDB header. Copy the file again."
        )
    if _NOT_TEXT.search(content):
        raise DamagedRecordError(f"{where} holds binary data, expected the text of a WFDB header. Copy the file again.")
    text = _decode(content)
    stripped = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    lines = [(number, line) for number, line in enumerate(stripped, start=1) if line and line[0] != "#"]
    if not lines:
        raise DamagedRecordError(f"{where} holds nothing but comments, expected a WFDB header. Copy the file again.")
    return lines


def _decode(content: bytes) -> str:
    """Decode a header: ASCII by the standard, UTF-8 or Latin-1 where a micro sign or a name needs more."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # It decodes every byte.
        return content.decode("latin-1")


def _check_record_line(header: WFDBHeader, where: str) -> None:
    """Raise for a record without signals and a rate at which time stands still."""
    if header.n_signals == 0:
        raise DamagedRecordError(
            f"{where} describes a record of 0 signals, expected at least one lead. It may belong to annotations only."
        )
    if not (math.isfinite(header.sampling_rate) and header.sampling_rate > 0):
        raise DamagedRecordError(
            f"{where} gives a sampling rate of {header.sampling_rate:g} Hz, expected a positive number. "
            "Correct the header."
        )


def _check_count(found: int, wanted: int, kind: str, where: str) -> None:
    """Raise for a header that promises another number of lines than it has."""
    if found != wanted:
        raise DamagedRecordError(
            f"{where} promises {wanted} {kind}s but has {found} {kind} line(s); expected one line for each {kind}. "
            "Restore the header: which line is missing or surplus cannot be told."
        )


def _are_signals_of(folder: str, name: str, lines: list[tuple[int, str]], header: WFDBHeader) -> bool:
    """Whether what looks like a number of segments is the name of a record with its folder (``mitdb/100``)."""
    return len(lines) == header.n_signals and all(line.startswith(f"{folder}/{name}.") for _, line in lines)


def _parse_segments(lines: list[tuple[int, str]], n_segments: int, where: str) -> tuple[Segment, ...]:
    """Read the lines of a record in several parts."""
    _check_count(len(lines), n_segments, "segment", where)
    segments = []
    for number, line in lines:
        match = _SEGMENT_LINE.fullmatch(line)
        if match is None:
            raise DamagedRecordError(
                f"Line {number} of {where} is no segment line; expected 'RECORD_NAME N_SAMPLES'. Restore the header."
            )
        segments.append(Segment(match["name"], int(match["n_frames"])))
    if not segments:
        raise DamagedRecordError(
            f"{where} describes a record of 0 segments, expected at least one. Restore the header."
        )
    return tuple(segments)


def _parse_signal(line: str, number: int, where: str) -> SignalLine:
    """Read the line of one signal."""
    usual = _USUAL_SIGNAL_LINE.fullmatch(line)
    signal = _parse_fields(line) if usual is None else _parse_shared_fields(usual[2], usual[5])
    if signal is None:
        raise DamagedRecordError(
            f"Line {number} of {where} is no WFDB signal line; expected "
            "'FILE FORMAT GAIN(BASELINE)/UNITS RESOLUTION ZERO FIRST CHECKSUM BLOCK LEAD', numbers where numbers "
            "belong. Restore the header."
        )
    if usual is None:
        return signal
    return SignalLine(usual[1], *signal[1:8], int(usual[3]), signal.name, int(usual[4]))


@lru_cache(maxsize=1024)
def _parse_shared_fields(before: str, after: str) -> SignalLine | None:
    """Read what the lines of a lead share in all records of an archive, only once."""
    return _parse_fields(f"file {before} 0 0 {after}")


def _parse_fields(line: str) -> SignalLine | None:
    """Read a line with the standard's defaults for what it leaves out; None where it breaks the grammar."""
    match = _SIGNAL_LINE.fullmatch(line)
    if match is None:
        return None
    file, storage, per_frame, skew, offset, gain, baseline, units, numbers, lead = match.groups()
    values = (numbers or "").split()
    if values and values[0].startswith("-"):
        values.insert(0, "")  # a resolution is a count of bits: wfdb takes a number below 0 for the zero that follows
    # Of a resolution or a zero with a plus other readers make a baseline, of a signed block size a name.
    signed = [value for value in values[:1] + values[4:5] if value[:1] in ("+", "-")]
    if _hides_a_number(lead, len(values)) or signed or (not baseline and values[1:2] and values[1].startswith("+")):
        return None
    steps_per_unit = float(gain) if gain else DEFAULT_GAIN
    adc_zero = int(values[1]) if len(values) > 1 else 0
    if not is_gain(steps_per_unit) or (per_frame is not None and int(per_frame) == 0):
        return None
    return SignalLine(
        file,
        int(storage),
        int(per_frame) if per_frame else 1,
        int(skew) if skew else 0,
        int(offset) if offset else 0,
        steps_per_unit or DEFAULT_GAIN,
        int(baseline) if baseline else adc_zero,
        units or "mV",
        int(values[2]) if len(values) > 2 else 0,
        lead or "",
        int(values[3]) if len(values) > 3 else None,
    )


def _hides_a_number(lead: str | None, n_numbers: int) -> bool:
    """Return whether a description after too few numbers is, or begins with, a number that has become text."""
    if not lead or n_numbers == _NUMBERS_AFTER_GAIN:
        return False
    return len(lead.split()) > 1 or not lead[0].isalpha()


def is_gain(steps_per_unit: float) -> bool:
    """Return whether a gain is one: finite, and not so small that float32 could not hold the voltages (0: default)."""
    return steps_per_unit == 0 or (math.isfinite(steps_per_unit) and abs(steps_per_unit) >= _LEAST_GAIN)


def find_header(path: Path) -> Path | None:
    """Return the header of the record that a path names, with or without a suffix; None where there is none."""
    if path.suffix.lower() == ".hea" and path.is_file():
        return path
    if not path.name:  # "." and "/" are folders
        return None
    beside = path.with_name(path.name + ".hea")
    if beside.is_file():
        return beside
    if path.suffix.lower() in SIGNAL_SUFFIXES and path.with_suffix(".hea").is_file():
        return path.with_suffix(".hea")
    return None


def locate_signals(header: WFDBHeader, header_path: Path, repairs: list[str]) -> dict[str, Path]:
    """Find the signal files that a header names.

    A file that was renamed is found again when nothing else can be meant: the same name in another case, or the only
    signal file that bears the header's name and is exactly as long as the header says.

    Parameters
    ----------
    header : WFDBHeader
    header_path : Path
    repairs : list of str
        Gets a line for every file found under another name.

    Raises
    ------
    RecordNotFoundError
        When a signal file is not there.
    DamagedRecordError
        When a header points outside its own folder.
    """
    paths = {}
    for file_name in dict.fromkeys(signal.file_name for signal in header.signals):
        path = header_path.with_name(_bare_name(file_name, header_path))
        if path.name != file_name:
            repairs.append(
                f"signal file {file_name!r} is named with a folder, {path.name!r} beside the header was read"
            )
        if not path.is_file():
            path = _renamed(header, header_path, file_name)
            repairs.append(f"signal file {file_name!r} is absent, {path.name!r} was read")
        paths[file_name] = path
    return paths


def _bare_name(file_name: str, header_path: Path) -> str:
    """Return the name of a file beside its header; folders before it are left out where only that file can be meant."""
    *folders, bare = re.split(r"[/\\]", file_name)
    is_beside = not folders or (
        set(folders).isdisjoint({"", ".", "..", "~"})
        and header_path.with_name(bare).is_file()
        and not (header_path.parent / file_name).exists()
    )
    if bare in ("", ".", "..", "~", "-") or not is_beside:
        raise DamagedRecordError(
            f"{header_path} names a signal file that is no file beside it, expected a bare file name. "
            "Put the signal file beside its header and correct the name."
        )
    return bare


def known_length(header: WFDBHeader, paths: dict[str, Path], where: str) -> WFDBHeader:
    """Complete a header that does not say how long its record is, from the size of the first signal file."""
    if header.n_frames:
        return header
    file_name, size = header.signals[0].file_name, paths[header.signals[0].file_name].stat().st_size
    first, per_frame = _layout(header, file_name)
    if first.storage_format not in _BYTES_PER_SAMPLES:
        raise DamagedRecordError(
            f"{where} gives no number of samples, and the length of format {first.storage_format} cannot be told from "
            "its size. Write the number of samples into the first line of the header."
        )
    n_bytes, n_samples = _BYTES_PER_SAMPLES[first.storage_format]
    n_frames = (size - first.byte_offset) * n_samples // (n_bytes * per_frame)
    if n_frames <= 0:
        raise DamagedRecordError(
            f"Signal file {paths[file_name]} has {size} bytes and not one sample of {per_frame}, expected a signal. "
            "Copy the file again."
        )
    return header._replace(n_frames=n_frames)


def check_sizes(header: WFDBHeader, paths: dict[str, Path], *, is_part: bool = False) -> None:
    """Raise for signal files that are not what their header says and skews beyond the record; warn of longer files.

    Those of a part of a record may hold other parts.

    Raises
    ------
    DamagedRecordError
        Naming what was expected and found.
    """
    longest_skew = max(signal.skew_frames for signal in header.signals)
    for file_name, path in paths.items():
        first, per_frame = _layout(header, file_name)
        if is_matlab := path.suffix.lower() == ".mat":
            _check_matlab(first, per_frame, path)
        found, expected = path.stat().st_size, _expected_bytes(header, file_name)
        if found < expected:
            what = "is empty" if found == 0 else f"is truncated: {found} bytes found"
            raise DamagedRecordError(
                f"Signal file {path} {what}, {expected} expected for {header.n_frames} samples. Copy the file again."
            )
        # Behind an offset lies a piece of a longer file, unless it is a matrix. Fewer samples may fill the last bytes.
        longer = _expected_bytes(header._replace(n_frames=header.n_frames + longest_skew + 4), file_name)
        if expected < longer <= found and (is_matlab or not first.byte_offset) and not is_part:
            warnings.warn(
                f"Signal file {path} has {found} bytes, {expected} expected for {header.n_frames} samples: the rest is "
                "not read. If the header lacks a signal, all are wrong. Restore the header.",
                SignalWarning,
                stacklevel=user_stacklevel(),
            )
    if longest_skew >= header.n_frames:
        raise DamagedRecordError(
            f"The header of {next(iter(paths.values()))} shifts a signal by {longest_skew} of "
            f"{header.n_frames} samples, expected a shift shorter than the record. Restore the header."
        )


def _check_matlab(first: SignalLine, per_frame: int, path: Path) -> None:
    """Raise for a MATLAB file that is another than its header describes, as one that was saved again may be."""
    head = beginning_of(path, 128)
    kind, n_rows, n_columns, is_complex, n_letters = struct.unpack("<5i", head[:20].ljust(20, b"\0"))
    found = ""
    if head.startswith((b"MATLAB ", b"\x89HDF")) and first.byte_offset < len(head):
        found = "in a newer format"
    elif n_rows > 0 and n_columns > 0 and re.fullmatch(rb"\w+\0*", head[20 : 20 + max(n_letters, 0)]):
        wanted = (_MATLAB_KINDS.get(first.storage_format, kind), per_frame, 0, first.byte_offset - 20)
        if (kind, n_rows, is_complex, n_letters) != wanted:
            found = f"a matrix of {n_rows} rows, type {kind}, from byte {20 + n_letters} on"
    if found:
        raise DamagedRecordError(
            f"{path} is {found}, expected what its header says: {per_frame} rows in format {first.storage_format} from "
            f"byte {first.byte_offset} on, as MATLAB 4 wrote them. Restore the file that came with the header."
        )


def _layout(header: WFDBHeader, file_name: str) -> tuple[SignalLine, int]:
    """Return the first signal of a file, whose format and offset are the file's, and the samples in a frame of it."""
    signals = [signal for signal in header.signals if signal.file_name == file_name]
    return signals[0], sum(signal.samples_per_frame for signal in signals)


def _expected_bytes(header: WFDBHeader, file_name: str) -> int:
    """Least size of a signal file: exact for plain formats, one byte for compressed ones."""
    first, per_frame = _layout(header, file_name)
    if first.storage_format in _COMPRESSED:
        return 1
    if first.storage_format not in _BYTES_PER_SAMPLES:
        return 0  # wfdb may know it, or will say that it does not
    n_bytes, n_samples = _BYTES_PER_SAMPLES[first.storage_format]
    wanted = header.n_frames * per_frame
    # The second of the three samples that 310 packs into four bytes lies in the last two of them.
    last_byte = 1 if first.storage_format == 310 and wanted % 3 == 2 else 0
    return first.byte_offset - (-wanted * n_bytes // n_samples) + last_byte


def _renamed(header: WFDBHeader, header_path: Path, file_name: str) -> Path:
    """Find a signal file under another name, when only one can be meant."""
    folder = list(islice(header_path.parent.iterdir(), MANY_FILES))
    other_case = [path for path in folder if path.name.lower() == file_name.lower() and path.is_file()]
    if len(other_case) == 1:
        return other_case[0]
    beside = [p for p in folder if p.stem == header_path.stem and p.suffix.lower() in SIGNAL_SUFFIXES and p.is_file()]
    only_file = len({signal.file_name for signal in header.signals}) == 1
    if only_file and len(beside) == 1 and header.n_frames:
        expected = _expected_bytes(header, file_name)
        if expected > 1 and beside[0].stat().st_size == expected:
            return beside[0]
    raise RecordNotFoundError(
        f"Signal file {file_name!r}, which {header_path} names, is not there. "
        f"{similar_names(header_path.with_name(file_name), {Path(file_name).suffix.lower() or '.dat'})} "
        "Put it beside its header."
    )
