"""Recorders' and hospitals' formats to records: one adapter over the packages of the ``formats`` extra.

EDF and BDF are read by edfio, here; DICOM waveforms by pydicom (:mod:`skecg.io.dicom`), HL7 aECG, GE MUSE, Philips
Sierra, Mortara, SCP-ECG, ISHNE, MFER and Kardia files by ecgdatakit (:mod:`skecg.io.vendors`), and CardioSoft's XML by
Python itself (:mod:`skecg.io.cardiosoft`). A file's first bytes say which it is, its suffix only that it is one of
these. Of what files say about patients nothing is kept, and nothing gets into messages.
"""

from __future__ import annotations

import math
import re
import warnings
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.errors import (
    DamagedRecordError,
    MissingDependencyError,
    RecordNotFoundError,
    RecordReadError,
    SignalWarning,
    SkecgError,
    SkecgWarning,
    UnsupportedFormatError,
)
from skecg.io.cardiosoft import is_cardiosoft, read_cardiosoft_channels
from skecg.io.channels import Channel, assemble, caught_warnings, strict_number
from skecg.io.dicom import read_dicom_channels
from skecg.io.vendors import read_vendor_channels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from skecg.records import ECGRecord

__all__ = ["FORMAT_SUFFIXES", "read_edf_channels", "read_format"]

_HEAD_BYTES = 2**14  # where the root of XML stands, comments before it

_RECORD_COUNT = slice(236, 244)  # where the header says how many data records follow

_DURATION, _SIGNAL_COUNT = slice(244, 252), slice(252, 256)

# Of each signal's part of the header, where the least and greatest physical and digital value lie, and a unit ends.
_NUMBERS_FROM, _NUMBERS_UNTIL = 104, 136

_LABELS, _COUNTS = (0, 16), (216, 8)  # … and where labels and numbers of samples a data record begin, and their width

_TIMEKEEPING, _ONSET = {b"EDF Annotations", b"BDF Annotations"}, re.compile(rb"([+-]\d+(?:\.\d*)?)\x14\x14")

_UNKNOWN_COUNT = -1  # written while a recording goes on, and left there when it is broken off

#: Suffixes of the files that :func:`read_format` may be able to read, in lower case.
FORMAT_SUFFIXES: frozenset[str] = frozenset(
    {".edf", ".bdf", ".dcm", ".dicom", ".xml", ".scp", ".ecg", ".mwf", ".mfer", ".mfr", ".json"}
)


def read_edf_channels(path: Path) -> list[Channel]:
    """List the signals of a file, annotations left out."""
    from edfio import read_bdf, read_edf

    head = _first_bytes(path, 256)
    n_signals = int(head[_SIGNAL_COUNT])
    numbers = _first_bytes(path, 256 + _NUMBERS_UNTIL * n_signals)[256 + _NUMBERS_FROM * n_signals :]
    if b"_" in head[_RECORD_COUNT.start :] + numbers:  # Python, and so edfio, takes 1_0 for ten
        raise DamagedRecordError(f"Got '_' in a number of the header of {path}. Export or copy it again.")
    _check_duration(head, path)
    # Headers should be ASCII, but recorders write names and µV in Latin-1.
    read = read_bdf if head[:1] == b"\xff" else read_edf
    file = read(path, header_encoding="latin-1")
    declared = int(head[_RECORD_COUNT])
    if declared not in (_UNKNOWN_COUNT, file.num_data_records):
        is_short = file.num_data_records < declared
        raise DamagedRecordError(
            f"Got {file.num_data_records} data records in {path}, expected {declared} as its header says: "
            f"{'the file is truncated. Copy' if is_short else 'which are of the recording is not known. Export'} it "
            "again."
        )
    says_interrupted = file.reserved.strip().startswith(("EDF+D", "BDF+D"))
    if says_interrupted and _TIMEKEEPING.isdisjoint(_fields(path, n_signals, *_LABELS)):
        warnings.warn(
            f"Read {path} as one piece, which says that it is interrupted (EDF+D) and has no annotations of time, "
            "expected those to tell where. Look for gaps, or export it again.",
            SignalWarning,
            stacklevel=2,
        )
    if not file.is_continuous if says_interrupted else _tells_gap(file, n_signals, path):
        raise UnsupportedFormatError(
            f"Got an interrupted recording in {path} (its annotations of time tell of gaps or go back), expected a "
            "continuous one. Read its pieces with edfio and pass each as an ECGRecord."
        )
    _warn_of_end(head, file, path)
    stated = head[_DURATION].decode("ascii").strip()
    return [_channel(signal, _rate_meant(signal, stated), path) for signal in file.signals]


def _warn_of_end(head: bytes, file: Any, path: Path) -> None:
    """Warn of a recording that was broken off, and of what is no whole data record behind the last one."""
    n_signals = int(head[_SIGNAL_COUNT])
    width = 3 if head[:1] == b"\xff" else 2
    n_bytes = sum(int(count) for count in _fields(path, n_signals, *_COUNTS)) * width
    rest = path.stat().st_size - 256 * (n_signals + 1) - file.num_data_records * n_bytes
    is_open = int(head[_RECORD_COUNT]) == _UNKNOWN_COUNT
    if is_open or rest:
        why = "says that its recording was not ended" if is_open else "goes on behind its last data record"
        left_out = f"; {rest:,} bytes that are no whole one were left out" if rest else ""
        warnings.warn(
            f"Read {file.num_data_records} data records of {path}, which {why}{left_out}. Copy it again, if there is "
            "more of it.",
            SignalWarning,
            stacklevel=2,
        )


def _rate_meant(signal: Any, stated: str) -> float:
    """Return a signal's rate (Hz): a whole number where the field of a data record's seconds was too short for it."""
    rate = float(signal.sampling_frequency)
    _, point, decimals = stated.partition(".")
    is_cut = point and len(stated) == _DURATION.stop - _DURATION.start
    is_meant = (
        is_cut and rate >= 1 and round(signal.samples_per_data_record / round(rate), len(decimals)) == float(stated)
    )
    return float(round(rate)) if is_meant else rate


def _check_duration(head: bytes, path: Path) -> None:
    """Raise for data records that last no time; in files of annotations alone they do not."""
    stated = head[_DURATION].decode("latin-1").strip()
    duration = strict_number(stated)
    is_sampled = not set(_fields(path, int(head[_SIGNAL_COUNT]), *_LABELS)) <= _TIMEKEEPING
    if duration is None or duration < 0 or (duration == 0 and is_sampled):
        raise DamagedRecordError(
            f"Got {stated!r} as the seconds of a data record in {path}, expected a number above 0: its sampling rate "
            "is not known. Export it again."
        )


def _fields(path: Path, n_signals: int, before: int, width: int) -> list[bytes]:
    """Return a field of each signal from the header, where so many bytes a signal stand before it."""
    text = _first_bytes(path, 256 + (before + width) * n_signals)[256 + before * n_signals :]
    return [text[start : start + width].strip() for start in range(0, width * n_signals, width)]


def _tells_gap(file: Any, n_signals: int, path: Path) -> bool:
    """Whether a file that does not say so (EDF+D) has data records that do not begin where the one before ends."""
    labels = _fields(path, n_signals, *_LABELS)
    kept = next((number for number, label in enumerate(labels) if label in _TIMEKEEPING), None)
    if kept is None or not file.signals:
        return False
    width = 3 if _first_bytes(path, 1) == b"\xff" else 2
    n_bytes = [int(count) * width for count in _fields(path, n_signals, *_COUNTS)]
    records = np.memmap(path, np.uint8, "r", 256 * (n_signals + 1), (file.num_data_records, sum(n_bytes)))
    first = sum(n_bytes[:kept])
    found = [_ONSET.match(record.tobytes()) for record in records[:, first : first + n_bytes[kept]]]
    onsets = [Decimal(onset[1].decode()) for onset in found if onset]
    # Where all are equal, nobody kept the time.
    return len(onsets) == len(found) and len(set(onsets)) > 1 and not _are_regular(onsets, file)


def _are_regular(onsets: list[Decimal], file: Any) -> bool:
    """Whether each data record begins where the one before ends, but for a sample and the rounding of onsets."""
    digit = Decimal(1).scaleb(min(int(onset.as_tuple().exponent) for onset in onsets))
    duration = Decimal(str(file.data_record_duration))
    fastest = max(signal.sampling_frequency for signal in file.signals)
    near = float(digit if duration % digit else 0) + 1 / fastest
    return all(abs(float(later - earlier - duration)) <= near for earlier, later in pairwise(onsets))


def _first_bytes(path: Path, count: int) -> bytes:
    """Read the beginning of a file."""
    with path.open("rb") as file:
        return file.read(count)


def _channel(signal: Any, rate: float, path: Path) -> Channel:
    """Describe one signal; its samples are calibrated when they are asked for."""

    def values() -> NDArray[np.float64]:
        limits = signal.physical_min, signal.physical_max
        if signal.digital_min >= signal.digital_max or not 0 < abs(limits[1] - limits[0]) < math.inf:
            raise DamagedRecordError(
                f"Got a digital range of {signal.digital_min} to {signal.digital_max} and a physical one of "
                f"{limits[0]:g} to {limits[1]:g} for {signal.label!r} in {path}, expected the first to ascend and the "
                "second to be two numbers that differ: its samples have no scale. Export it again."
            )
        return np.asarray(signal.data, dtype=np.float64)

    return Channel(_as_utf8(signal.label), _as_utf8(signal.physical_dimension), rate, values)


def _as_utf8(text: str) -> str:
    """Return text that was read as Latin-1 as it was meant, if it is UTF-8: the µ of µV has two bytes there."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return text


_PACKAGES: dict[Callable[[Path], list[Channel]], str] = {
    read_edf_channels: "edfio",
    read_dicom_channels: "pydicom",
    read_cardiosoft_channels: "Python's XML parser",
    read_vendor_channels: "ecgdatakit",
}


def read_format(path: str | Path) -> ECGRecord:
    """Read an EDF, BDF, DICOM, XML, SCP, ISHNE, MFER or Kardia file.

    Channels that are no ECG lead or no voltage are left out; where leads have several rates, those at the most common
    one are taken. Leads are given as they are stored (GE MUSE stores eight), -aVR as aVR.

    Parameters
    ----------
    path : str or Path
        The file. What it is shows in its content; its suffix does not matter.

    Returns
    -------
    ECGRecord
        In mV, float32, NaN where the file marks samples as missing; named after the file.

    Raises
    ------
    RecordNotFoundError
        When there is no such file.
    MissingDependencyError
        When the package that reads the format is not installed.
    UnsupportedFormatError
        When the file is of another format, or holds no ECG.
    DamagedRecordError
        When the file is empty, truncated or inconsistent.
    """
    path = Path(path)
    read_channels = _reader_of(path)
    with caught_warnings() as caught:
        record = _read(read_channels, path)
    for warning in caught:
        # The packages' own warnings may quote what the file says about the patient.
        if issubclass(warning.category, SkecgWarning):
            warnings.warn(str(warning.message), warning.category, stacklevel=2)
    return record


def _read(read_channels: Callable[[Path], list[Channel]], path: Path) -> ECGRecord:
    """Read with one of the packages, turning whatever it raises into an error of ours."""
    package = _PACKAGES[read_channels]
    try:
        return assemble(read_channels(path), path)
    except SkecgError:
        raise
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Reading {path} needs {error.name or package}, which is not installed. Run: pip install 'skecg[formats]'"
        ) from error
    except MemoryError as error:
        raise RecordReadError(
            f"{path} asks for more memory than there is: it is damaged, or larger than this machine can hold. Check "
            "its size, or read a part of it with the format's own package."
        ) from error
    except Exception as error:  # a damaged file makes these packages raise nearly anything
        raise DamagedRecordError(
            f"{path} could not be read by {package} ({type(error).__name__}): it is truncated, inconsistent or not "
            "what it says it is. Export or copy it again."
        ) from error


def _reader_of(path: Path) -> Callable[[Path], list[Channel]]:
    """Choose the reader by the first bytes of the file."""
    if not path.is_file():
        raise RecordNotFoundError(f"Got {path}, expected a file; there is none of this name.")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise DamagedRecordError(f"{path} is empty (0 bytes), expected a recording. Copy or export it again.")
    if head[128:132] == b"DICM":
        return read_dicom_channels
    if head[:8] in (b"0       ", b"\xffBIOSEMI"):
        return read_edf_channels
    if is_cardiosoft(head):
        return read_cardiosoft_channels
    if path.suffix.lower() in (".edf", ".bdf", ".dcm", ".dicom"):
        raise UnsupportedFormatError(
            f"Got {path}, which does not begin as {path.suffix.lower()[1:].upper()} files do. Check what it is, or "
            "copy or export it again."
        )
    return read_vendor_channels
