"""WFDB records to ECGRecords, and WFDB's annotations of waves: common formats here, all others by wfdb.

wfdb, of which this is the only door, spends most of its time on headers, and refuses some whose data are sound. Headers
are therefore always read here; where wfdb has to decode the samples it is handed the same header in the plainest words.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.errors import (
    DamagedRecordError,
    HeaderRepairWarning,
    InputError,
    ParameterError,
    RecordNotFoundError,
    RecordReadError,
    UnitsError,
    UnsupportedFormatError,
)
from skecg.io.channels import Layout, Part, caught_warnings, ecg_rows, join_parts, lead_names, shared_rate
from skecg.io.files import largest_inflated, similar_names
from skecg.io.wfdb_header import (
    WFDBHeader,
    check_sizes,
    known_length,
    locate_signals,
    parse_header,
    plain_header,
)
from skecg.io.wfdb_signals import (
    DigitizedRecord,
    can_read_fast,
    one_rate,
    read_fast,
    read_with_steps,
    record_of_signals,
    sums_of_steps,
)
from skecg.records import ECGRecord, as_millivolts

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["import_wfdb", "make_annotation", "read_annotation", "read_wfdb", "read_wfdb_header", "write_annotation"]

# The step that wfdb gives as NaN, by storage format.
_NO_VALUE = {16: -(2**15), 24: -(2**23), 32: -(2**31), 61: -(2**15), 80: -(2**7), 160: -(2**15), 212: -(2**11)}
_NO_VALUE |= {310: -(2**9), 311: -(2**9), 508: -(2**7), 516: -(2**15), 524: -(2**23)}

_PLAIN_NAME = re.compile(r"[-\w]+")  # letters, digits, - and _: what WFDB allows

# Annotation codes that mark nothing, in what annot(5) of the WFDB Applications Guide describes.
_SKIP, _NUMBER, _SUBTYPE, _CHANNEL, _TEXT = 59, 60, 61, 62, 63
_RATE_SAID = re.compile(rb"## time resolution: (\d+\.?\d*)\0*")

_RECORD_NAME, _ANNOTATOR = re.compile(r"[-\w]+", re.ASCII), re.compile(r"[a-zA-Z]+")


def read_wfdb(header_path: Path, *, keep_steps: bool = False, verify_checksums: bool = False) -> ECGRecord:
    """Read the WFDB record that a header describes.

    Parameters
    ----------
    header_path : Path
        An existing ``.hea`` file.
    keep_steps : bool, default=False
        Whether to give a :class:`skecg.io.wfdb_signals.DigitizedRecord` where the record is simple and without gaps.

    verify_checksums : bool, default=False
        Whether to compare the sums of all signals with those that the header states, if it states any.

    Returns
    -------
    ECGRecord
        The voltages of the heart in mV, float32, NaN where the file has no value, bit for bit what wfdb's float64
        rounds to. Where all leads have several samples a frame, at their full rate; where they have different
        numbers, averaged to the rate of frames, as wfdb does.

    Raises
    ------
    RecordReadError
        One of its children: for files that are absent, damaged, or hold no ECG.

    Warns
    -----
    HeaderRepairWarning
        When the header was malformed, and read by a repair that admits no doubt.
    """
    repairs: list[str] = []
    try:
        header = read_wfdb_header(header_path)
        if not _PLAIN_NAME.fullmatch(header.record_name):
            repairs.append(
                f"record name {header.record_name!r} is none that WFDB allows, {header_path.stem!r} was read"
            )
        if header.segments:
            record = _read_segments(header, header_path, repairs, verify_checksums)
        else:
            record = _read_one(header, header_path, repairs, keep_steps, verify_checksums)
    except UnitsError as error:
        raise UnsupportedFormatError(f"{header_path}: {error}") from error
    except InputError as error:
        raise DamagedRecordError(f"{header_path} does not hold a usable recording: {error}") from error
    if repairs:
        message = f"The header {header_path} is malformed: {'; '.join(repairs)}. Correct it to silence this."
        warnings.warn(message, HeaderRepairWarning, stacklevel=4)
    return record


def read_wfdb_header(header_path: Path) -> WFDBHeader:
    """Read a header file."""
    try:
        content = header_path.read_bytes()
    except FileNotFoundError as error:
        raise RecordNotFoundError(f"There is no header {header_path}. {similar_names(header_path)}") from error
    except OSError as error:
        raise RecordReadError(
            f"{header_path} cannot be read ({type(error).__name__}). Check its permissions."
        ) from error
    return parse_header(content, str(header_path))


def _read_one(
    header: WFDBHeader, header_path: Path, repairs: list[str], keep_steps: bool, verify_checksums: bool
) -> ECGRecord:
    """Read a record of one segment, decoding it here where that is possible."""
    names, units = _names_and_units(header)
    rows = ecg_rows(names, units)
    paths = locate_signals(header, header_path, repairs)
    # A header need not state how long its signals are; the files then say it.
    header = known_length(header, paths, str(header_path))
    check_sizes(header, paths)
    signal_paths = [paths[signal.file_name] for signal in header.signals]
    if verify_checksums:
        _check_checksums(header, signal_paths, header_path)
    if can_read_fast(header):
        signal, steps = read_with_steps(header, signal_paths, rows, keep_steps=keep_steps)
        leads = lead_names(tuple([names[row] for row in rows]))
        what = (signal, header.sampling_rate, leads, header_path.stem)
        if steps is None:
            return ECGRecord(*what)
        return DigitizedRecord(
            *what, steps=steps.values, columns=tuple(rows), baselines=steps.baselines, gains=steps.gains
        )
    per_frame = [signal.samples_per_frame for signal in header.signals]
    # A respiration signal of another rate must not cost the leads their own.
    same_rate = len({per_frame[row] for row in rows}) == 1
    signals = _signals_by_wfdb(header, signal_paths, smooth=not same_rate)
    rate = header.sampling_rate * (one_rate(per_frame, names, units) if same_rate else 1)
    return record_of_signals(signals, rate, names, units, header_path.stem)


def _check_checksums(header: WFDBHeader, paths: list[Path], header_path: Path) -> None:
    """Raise for signals whose sum is not the one that their header states; 16 bits of it are kept there."""
    sums = sums_of_steps(header, paths) if can_read_fast(header) else _sums_by_wfdb(header, paths)
    wrong = [
        signal.name or f"signal {place}"
        for place, (signal, found) in enumerate(zip(header.signals, sums, strict=True), start=1)
        if signal.checksum is not None and (signal.checksum - found) % 2**16
    ]
    if wrong:
        raise DamagedRecordError(
            f"The samples of {', '.join(wrong)} do not have the checksum that {header_path} states: signals or header "
            "were altered or damaged. Copy the record again, or read it without verify_checksums."
        )


def _sums_by_wfdb(header: WFDBHeader, paths: list[Path]) -> list[int]:
    """Sum the steps of each signal as they lie in the file, decoded by wfdb, whose voltages at a gain of 1 they are."""
    return [
        int(np.nansum(steps)) + int(np.isnan(steps).sum()) * _NO_VALUE.get(signal.storage_format, 0)
        for steps, signal in zip(_steps_by_wfdb(header, paths), header.signals, strict=True)
    ]


def _names_and_units(header: WFDBHeader) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names and the units of a header's signals."""
    return tuple([signal.name for signal in header.signals]), tuple([signal.units for signal in header.signals])


def _signals_by_wfdb(header: WFDBHeader, paths: list[Path], *, smooth: bool) -> list[NDArray[np.float64]]:
    """Decode the signals by wfdb, in their units: all samples of each, or their means over frames."""
    signals = []
    for steps, signal in zip(_steps_by_wfdb(header, paths), header.signals, strict=True):
        # Not left to wfdb, which shifts by samples where frames are meant, does not take several skews in a file, and
        # takes the code for "no value" for one when it computes means. Those are cut to whole steps, as by wfdb.
        late = signal.skew_frames * signal.samples_per_frame
        values = np.concatenate([steps[late:], np.full(late, np.nan)])
        if smooth:
            values = np.trunc(values.reshape(-1, signal.samples_per_frame).mean(axis=1))
        signals.append((values - signal.baseline) / signal.gain)
    return signals


def _steps_by_wfdb(header: WFDBHeader, paths: list[Path]) -> list[NDArray[np.float64]]:
    """Decode the steps of each signal by wfdb as they lie in the file, NaN for no value, from a header of our own."""
    # Names of files may hold what wfdb does not read: it is shown plain ones.
    aliases = {path: f"file{number}.dat" for number, path in enumerate(dict.fromkeys(paths))}
    with tempfile.TemporaryDirectory(prefix="skecg-") as folder:
        for path, alias in aliases.items():
            _make_visible(path.resolve(), Path(folder) / alias)
        text = plain_header("record", header, [aliases[path] for path in paths])
        (Path(folder) / "record.hea").write_text(text, encoding="ascii")
        # Voltages at a gain of 1 are steps.
        return list(_rdrecord(Path(folder) / "record", paths[0]).e_p_signal)


def _make_visible(path: Path, alias: Path) -> None:
    """Show a file under another name, without copying where the system allows."""
    try:
        alias.symlink_to(path)
    except (OSError, NotImplementedError):
        try:
            os.link(path, alias)
        except OSError:
            shutil.copyfile(path, alias)


def import_wfdb() -> Any:
    """Import wfdb, whose own deprecation warnings are no concern of whoever reads a record."""
    if "wfdb" not in sys.modules:
        with caught_warnings():
            importlib.import_module("wfdb")
    return importlib.import_module("wfdb")


def _rdrecord(record: Path, where: Path) -> Any:
    """Call wfdb, whose errors are of many kinds, and turn them into one of ours."""
    wfdb = import_wfdb()
    try:
        return wfdb.rdrecord(str(record), smooth_frames=False)
    except Warning:  # raised because somebody asked for warnings as errors
        raise
    except Exception as error:
        raise DamagedRecordError(
            f"wfdb cannot decode {where} ({type(error).__name__}), expected the format and length that its header "
            "states. Copy the record again, or check its header."
        ) from error


def _read_segments(header: WFDBHeader, header_path: Path, repairs: list[str], verify_checksums: bool) -> ECGRecord:
    """Read a record in several parts, all of which are checked before the first is read."""
    n_frames = sum(segment.n_frames for segment in header.segments)
    if header.n_frames not in (0, n_frames):  # 0: not given
        raise DamagedRecordError(
            f"{header_path} promises {header.n_frames} samples, but its segments have {n_frames}. Restore the header."
        )
    layout, parts, start, n_bytes = None, [], 0, 0
    stated = [(header_path.name, header.sampling_rate)] if header.states_rate else []
    for number, segment in enumerate(header.segments):
        if segment.name != "~":
            path = header_path.with_name(f"{segment.name}.hea")
            own = _segment_header(path, segment.n_frames)
            if own.states_rate:
                stated.append((path.name, own.sampling_rate))
            if segment.n_frames:
                paths = locate_signals(own, path, repairs)
                n_bytes += sum(file.stat().st_size for file in set(paths.values()))
                parts.append(_part(own, path, paths, start, verify_checksums))
            elif number == 0:
                layout = Layout(*_names_and_units(own))
        start += segment.n_frames
    # Gaps take a line in a header, and as much memory as samples do.
    if 4 * n_frames * header.n_signals > largest_inflated(n_bytes):
        raise DamagedRecordError(
            f"{header_path} promises {n_frames:,} samples of {header.n_signals} signals, of which its files hold "
            f"{n_bytes:,} bytes; expected fewer gaps. Restore the header, or read the segments one by one."
        )
    return join_parts(
        parts,
        layout,
        n_signals=header.n_signals,
        n_frames=n_frames,
        sampling_rate=shared_rate(stated) or header.sampling_rate,
        name=header_path.stem,
    )


def _segment_header(header_path: Path, n_frames: int) -> WFDBHeader:
    """Read the header of a segment, which is as long as its record says."""
    header = read_wfdb_header(header_path)
    if header.segments:
        raise DamagedRecordError(
            f"{header_path}, a segment of a record, consists of segments itself, expected signals. Restore the header."
        )
    # A layout, and a segment that is left out, has no samples.
    if n_frames and header.n_frames not in (0, n_frames):
        raise DamagedRecordError(
            f"{header_path} has {header.n_frames} samples, its record says {n_frames}. Restore the headers."
        )
    return header._replace(n_frames=n_frames)


def _part(header: WFDBHeader, header_path: Path, paths: dict[str, Path], start: int, verify_checksums: bool) -> Part:
    """Check the files of a segment, and describe it."""
    check_sizes(header, paths, is_part=True)
    signal_paths = [paths[signal.file_name] for signal in header.signals]
    if verify_checksums:
        _check_checksums(header, signal_paths, header_path)
    names, units = _names_and_units(header)
    per_frame = tuple([signal.samples_per_frame for signal in header.signals])
    read = partial(_read_columns, header, signal_paths)
    return Part(header_path.stem, start, header.n_frames, names, units, per_frame, read)


def _read_columns(header: WFDBHeader, paths: list[Path], columns: Sequence[int], smooth: bool) -> NDArray[np.float32]:
    """Read some signals of a segment in mV."""
    if can_read_fast(header):
        return read_fast(header, paths, columns)
    signals = _signals_by_wfdb(header, paths, smooth=smooth)
    units = [header.signals[column].units for column in columns]
    return as_millivolts(np.stack([signals[column] for column in columns]), units)


def read_annotation(path: Path) -> tuple[list[tuple[int, int]], list[int], float | None]:
    """Read the marks of a file as (sample, code), their channels, and the rate (Hz) that it states.

    wfdb's own reader takes ten times as long.

    Raises
    ------
    RecordNotFoundError
        When there is no such file.
    DamagedRecordError
        When it ends in the middle of an annotation.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise RecordNotFoundError(f"There is no file of annotations {str(path)!r}. Download it again.") from error
    marks, channels, rate = list[tuple[int, int]](), list[int](), None
    # A word is a code in the upper six bits and the samples since the last mark in the lower ten.
    sample, place = 0, 0
    while place + 2 <= len(content):
        word = int.from_bytes(content[place : place + 2], "little")
        code, value = word >> 10, word & 0x3FF
        place += 2
        if word == 0:
            return marks, channels, rate
        if code == _SKIP:  # four bytes of distance, the upper half first
            if place + 4 > len(content):
                break
            high, low = (int.from_bytes(content[at : at + 2], "little") for at in (place, place + 2))
            # A signed number whose halves are in PDP-11 order, as the format has it.
            sample += (high << 16 | low) - (1 << 32 if high & 0x8000 else 0)
            place += 4
        elif code == _TEXT:
            if said := _RATE_SAID.fullmatch(content[place : place + value]):
                rate = float(said[1])
            # Texts are padded to whole words.
            place += value + value % 2
        elif code == _CHANNEL and channels:
            channels[-1] = value  # of the mark before it, and of those to come
        elif code not in (_NUMBER, _SUBTYPE, _CHANNEL):
            sample += value
            marks.append((sample, code))
            channels.append(channels[-1] if channels else 0)
    raise DamagedRecordError(
        f"Got {path} without the end of its annotations, expected a whole file. Download the data set again."
    )


def make_annotation(
    name: str, annotator: str, samples: NDArray[np.int64], symbols: Sequence[str], sampling_rate: float
) -> Any:
    """Make a ``wfdb.Annotation``.

    Parameters
    ----------
    name, annotator : str
        The record, and the suffix of the file.
    samples : ndarray of shape (n_annotations,), int64
        Not descending.
    symbols : sequence of str
        One for each.
    sampling_rate : float
        Of the record (Hz).

    Raises
    ------
    ParameterError
        When a sample number is below the one before it.
    """
    _check_order(samples)
    return import_wfdb().Annotation(
        record_name=name, extension=annotator, sample=samples, symbol=list(symbols), fs=_plain_rate(sampling_rate)
    )


def write_annotation(path: Path, samples: NDArray[np.int64], symbols: Sequence[str], sampling_rate: float) -> None:
    """Write annotations as ``wfdb.rdann`` and PhysioNet's tools read them; the folder is created when absent.

    Parameters
    ----------
    path : Path
        The record's name, with the annotator as its suffix.
    samples, symbols, sampling_rate
        As in :func:`make_annotation`, but at least one.

    Raises
    ------
    ParameterError
        When WFDB allows no such name, there is nothing to write, or a sample number is below the one before it.
    """
    annotator = path.suffix[1:]
    if not _RECORD_NAME.fullmatch(path.stem) or not _ANNOTATOR.fullmatch(annotator):
        raise ParameterError(
            f"Got {str(path)!r} as a file of annotations, expected the record's name (letters, digits, - and _), a dot "
            "and the annotator (letters), such as 'rec1.waves'."
        )
    if not len(samples):
        raise ParameterError(f"Got no annotations for {str(path)!r}, expected one or more: WFDB has no empty file.")
    _check_order(samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    import_wfdb().wrann(
        path.stem, annotator, samples, list(symbols), fs=_plain_rate(sampling_rate), write_dir=str(path.parent)
    )


def _check_order(samples: NDArray[np.int64]) -> None:
    """Raise for marks that step back in time, which wfdb writes only in part or not at all."""
    back = np.flatnonzero(np.diff(samples) < 0)
    if len(back):
        raise ParameterError(
            f"Got a mark at sample {samples[back[0] + 1]} after one at {samples[back[0]]}, expected waves in the order "
            "of time that do not overlap. Sort them, or cut one where the other begins."
        )


def _plain_rate(sampling_rate: float) -> float | int:
    """Return a whole rate as an int: wfdb writes it as it prints."""
    return int(sampling_rate) if float(sampling_rate).is_integer() else float(sampling_rate)
