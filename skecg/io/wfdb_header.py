"""WFDB header files: their text read into values, and values written back in the plainest words.

The grammar is the one of the WFDB Applications Guide, header(5). A line that does not follow it is an error here, where
other readers take what they understand and fill in the rest: a gain that is text must not become the default gain.
Dates, times, checksums and comments are passed over; they do not change the signal, and some of them are personal.

References
----------
.. [1] Moody G. et al., WFDB Applications Guide, header(5), https://www.physionet.org/physiotools/wag/header-5.htm
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

from skecg.errors import DamagedRecordError

__all__ = ["Segment", "SignalLine", "WFDBHeader", "parse_header", "plain_header"]

_DEFAULT_SAMPLING_RATE = 250.0
_DEFAULT_GAIN = 200.0
_LEAST_GAIN = 1e-12
_NUMBERS_AFTER_GAIN = 5  # resolution, zero, initial value, checksum, block size

_RECORD_LINE = re.compile(
    r"(?P<name>[^\s/]+)(?:/(?P<n_segments>\d{1,18}))?"
    r"[ \t]+(?P<n_signals>\d{1,18})"
    r"(?:[ \t]+(?P<rate>\d+\.?\d*|\.\d+)(?:/\S*|\(\S*)?"
    r"(?:[ \t]+(?P<n_frames>\d{1,18})(?:[ \t].*)?)?)?"
)
_SIGNAL_LINE = re.compile(
    r"(?P<file>\S+)[ \t]+(?P<format>\d{1,18})"
    r"(?:x(?P<samples_per_frame>\d{1,18}))?(?::(?P<skew>\d{1,18}))?(?:\+(?P<offset>\d{1,18}))?"
    r"(?:[ \t]+(?P<gain>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"(?:\((?P<baseline>[+-]?\d{1,18})(?:\.0*)?\))?(?:/(?P<units>\S+))?"
    r"(?P<numbers>(?:[ \t]+[+-]?\d{1,18}(?![^ \t])){0,5})"
    r"(?:[ \t]+(?P<lead>.*))?)?"
)
# A line as most archives have it, with a whole gain, about what differs between records: file, first value, checksum.
_USUAL_SIGNAL_LINE = re.compile(
    r"(\S+)[ \t]+(\S+[ \t]+\d+(?:\.0*)?[(/]\S+[ \t]+\S+[ \t]+\S+)[ \t]+([+-]?\d{1,18})[ \t]+[+-]?\d{1,18}[ \t]+(.*)"
)
_SEGMENT_LINE = re.compile(r"(?P<name>[^\s/\\]+)[ \t]+(?P<n_frames>\d{1,18})")
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")


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
    header = WFDBHeader(name, float(rate or _DEFAULT_SAMPLING_RATE), int(n_frames or 0), int(n_signals), (), ())
    _check_record_line(header, where)
    if n_segments is not None:
        return header._replace(segments=_parse_segments(lines[1:], int(n_segments), where))
    _check_count(len(lines) - 1, header.n_signals, "signal", where)
    return header._replace(signals=tuple([_parse_signal(line, row, where) for row, line in lines[1:]]))


def plain_header(name: str, header: WFDBHeader, file_names: list[str]) -> str:
    """Write a header of one segment so that any reader understands it: every field there, nothing optional.

    Units and rate are those of a bare number, since whoever asks for this text has the true ones already.
    """
    lines = [f"{name} {len(header.signals)} 1 {header.n_frames}"]
    for row, (signal, file_name) in enumerate(zip(header.signals, file_names, strict=True)):
        storage = f"{signal.storage_format}x{signal.samples_per_frame}:{signal.skew_frames}+{signal.byte_offset}"
        scale = f"{signal.gain!r}({signal.baseline})/mV"
        lines.append(f"{file_name} {storage} {scale} 0 0 {signal.initial_value} 0 0 signal{row}")
    return "\n".join(lines) + "\n"


def _content_lines(content: bytes, where: str) -> list[tuple[int, str]]:
    """Give the lines that are neither blank nor comments, with their numbers."""
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
        return content.decode("latin-1")


def _check_record_line(header: WFDBHeader, where: str) -> None:
    """Refuse a record without signals and a rate at which time stands still."""
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
    """Refuse a header that promises another number of lines than it has."""
    if found != wanted:
        raise DamagedRecordError(
            f"{where} promises {wanted} {kind}s but has {found} {kind} line(s); expected one line for each {kind}. "
            "Restore the header: which line is missing or surplus cannot be told."
        )


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
    signal = _parse_fields(line) if usual is None else _parse_shared_fields(usual[2], usual[4])
    if signal is None:
        raise DamagedRecordError(
            f"Line {number} of {where} is no WFDB signal line; expected "
            "'FILE FORMAT GAIN(BASELINE)/UNITS RESOLUTION ZERO FIRST CHECKSUM BLOCK LEAD', numbers where numbers "
            "belong. Restore the header."
        )
    return signal if usual is None else SignalLine(usual[1], *signal[1:8], int(usual[3]), signal.name)


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
    # A description of several words after too few numbers is a number that has become text.
    if lead and len(values) < _NUMBERS_AFTER_GAIN and len(lead.split()) > 1:
        return None
    steps_per_unit = float(gain) if gain else _DEFAULT_GAIN
    adc_zero = int(values[1]) if len(values) > 1 else 0
    if not _is_gain(steps_per_unit) or (per_frame is not None and int(per_frame) == 0):
        return None
    return SignalLine(
        file,
        int(storage),
        int(per_frame) if per_frame else 1,
        int(skew) if skew else 0,
        int(offset) if offset else 0,
        steps_per_unit or _DEFAULT_GAIN,
        int(baseline) if baseline else adc_zero,
        units or "mV",
        int(values[2]) if len(values) > 2 else 0,
        lead or "",
    )


def _is_gain(steps_per_unit: float) -> bool:
    """Tell a gain from a slip: finite, and not so small that float32 could not hold the voltages (0 is the default)."""
    return steps_per_unit == 0 or (math.isfinite(steps_per_unit) and abs(steps_per_unit) >= _LEAST_GAIN)
