"""Where the files of a WFDB record lie: its header, its signal files, and what to say when they do not."""

from __future__ import annotations

import difflib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.errors import DamagedRecordError, RecordNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skecg.io.wfdb_header import SignalLine, WFDBHeader

__all__ = ["SIGNAL_SUFFIXES", "check_sizes", "find_header", "known_length", "locate_signals", "similar_names"]

#: Suffixes of signal files whose name may stand for their record.
SIGNAL_SUFFIXES = frozenset({".dat", ".mat"})

#: Bytes a sample takes, by storage format, as (bytes, samples): 212 packs two samples into three bytes.
_BYTES_PER_SAMPLES = {8: (1, 1), 16: (2, 1), 24: (3, 1), 32: (4, 1), 61: (2, 1), 80: (1, 1), 160: (2, 1)}
_BYTES_PER_SAMPLES |= {212: (3, 2), 310: (4, 3), 311: (4, 3)}
_COMPRESSED = frozenset({508, 516, 524})
_MANY_FILES = 2000


def find_header(path: Path) -> Path | None:
    """Give the header of the record that a path names, with or without a suffix; None where there is none."""
    if path.suffix.lower() == ".hea" and path.is_file():
        return path
    beside = path.with_name(path.name + ".hea")
    if beside.is_file():
        return beside
    if path.suffix.lower() in SIGNAL_SUFFIXES and path.with_suffix(".hea").is_file():
        return path.with_suffix(".hea")
    return None


def similar_names(path: Path, suffixes: Iterable[str] = (".hea",)) -> str:
    """Say which files of the folder bear similar names, as a sentence to end a message with."""
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {str(folder)!r}."
    wanted = set(suffixes)
    names = [p.name for p in islice(folder.iterdir(), _MANY_FILES) if p.suffix.lower() in wanted]
    by_lower_case = {name.lower(): name for name in names}
    close = difflib.get_close_matches(f"{path.stem}{min(wanted)}".lower(), by_lower_case, n=3, cutoff=0.6)
    if close:
        return f"Similar names there: {', '.join(by_lower_case[name] for name in close)}."
    return f"The folder holds {len(names)} file(s) of that kind, none with a similar name. Check the path."


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
        if "/" in file_name or "\\" in file_name or file_name in (".", "..", "~", "-"):
            raise DamagedRecordError(
                f"{header_path} names a signal file that is no file beside it, expected a bare file name. "
                "Put the signal file beside its header and correct the name."
            )
        path = header_path.with_name(file_name)
        if not path.is_file():
            path = _renamed(header, header_path, file_name)
            repairs.append(f"signal file {file_name!r} is absent, {path.name!r} was read")
        paths[file_name] = path
    return paths


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


def check_sizes(header: WFDBHeader, paths: dict[str, Path]) -> None:
    """Refuse signal files shorter than their header says, and skews longer than the record.

    Raises
    ------
    DamagedRecordError
        Naming the bytes expected and found.
    """
    for file_name, path in paths.items():
        found, expected = path.stat().st_size, _expected_bytes(header, file_name)
        if found < expected:
            what = "is empty" if found == 0 else f"is truncated: {found} bytes found"
            raise DamagedRecordError(
                f"Signal file {path} {what}, {expected} expected for {header.n_frames} samples. Copy the file again."
            )
    longest_skew = max(signal.skew_frames for signal in header.signals)
    if longest_skew >= header.n_frames:
        raise DamagedRecordError(
            f"The header of {next(iter(paths.values()))} shifts a signal by {longest_skew} of "
            f"{header.n_frames} samples, expected a shift shorter than the record. Restore the header."
        )


def _layout(header: WFDBHeader, file_name: str) -> tuple[SignalLine, int]:
    """Give the first signal of a file, whose format and offset are the file's, and the samples in a frame of it."""
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
    folder = list(islice(header_path.parent.iterdir(), _MANY_FILES))
    other_case = [path for path in folder if path.name.lower() == file_name.lower()]
    if len(other_case) == 1:
        return other_case[0]
    same_stem = [p for p in folder if p.stem == header_path.stem and p.suffix.lower() in SIGNAL_SUFFIXES]
    only_file = len({signal.file_name for signal in header.signals}) == 1
    if only_file and len(same_stem) == 1 and header.n_frames:
        expected = _expected_bytes(header, file_name)
        if expected > 1 and same_stem[0].stat().st_size == expected:
            return same_stem[0]
    raise RecordNotFoundError(
        f"Signal file {file_name!r}, which {header_path} names, is not there. "
        f"{similar_names(header_path.with_name(file_name), {Path(file_name).suffix.lower() or '.dat'})} "
        "Put it beside its header."
    )
