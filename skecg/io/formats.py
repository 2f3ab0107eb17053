"""Recorders' and hospitals' formats to records: one adapter over the packages of the ``formats`` extra.

EDF and BDF are read by edfio, DICOM waveforms by pydicom, and HL7 aECG, GE MUSE, Philips Sierra, Mortara, SCP-ECG,
ISHNE, MFER and Kardia files by ecgdatakit. A file's first bytes say which it is, its suffix only that it is one of
these. Of what files say about patients nothing is kept, and nothing gets into messages.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.errors import (
    DamagedRecordError,
    MissingDependencyError,
    RecordNotFoundError,
    SkecgError,
    SkecgWarning,
    UnsupportedFormatError,
)
from skecg.io.channels import Channel, assemble
from skecg.io.dicom import read_dicom_channels
from skecg.io.edf import read_edf_channels
from skecg.io.quiet import caught_warnings
from skecg.io.vendors import read_vendor_channels

if TYPE_CHECKING:
    from collections.abc import Callable

    from skecg.records import ECGRecord

__all__ = ["FORMAT_SUFFIXES", "read_format"]

#: Suffixes of the files that :func:`read_format` may be able to read, in lower case.
FORMAT_SUFFIXES: frozenset[str] = frozenset(
    {".edf", ".bdf", ".dcm", ".dicom", ".xml", ".scp", ".ecg", ".mwf", ".mfer", ".mfr", ".json"}
)

_PACKAGES: dict[Callable[[Path], list[Channel]], str] = {
    read_edf_channels: "edfio",
    read_dicom_channels: "pydicom",
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
    except MemoryError:
        raise
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
        head = file.read(256)
    if not head:
        raise DamagedRecordError(f"{path} is empty (0 bytes), expected a recording. Copy or export it again.")
    if head[128:132] == b"DICM":
        return read_dicom_channels
    if head[:8] in (b"0       ", b"\xffBIOSEMI"):
        return read_edf_channels
    if path.suffix.lower() in (".edf", ".bdf", ".dcm", ".dicom"):
        raise UnsupportedFormatError(
            f"Got {path}, which does not begin as {path.suffix.lower()[1:].upper()} files do. Check what it is, or "
            "copy or export it again."
        )
    return read_vendor_channels
