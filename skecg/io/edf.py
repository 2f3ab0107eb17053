"""EDF, EDF+, BDF and BDF+ by edfio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.errors import DamagedRecordError, UnsupportedFormatError
from skecg.io.channels import Channel

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_edf_channels"]

_RECORD_COUNT = slice(236, 244)  # where the header says how many data records follow
_UNKNOWN_COUNT = -1  # written while a recording goes on, and left there when it is broken off


def read_edf_channels(path: Path) -> list[Channel]:
    """List the signals of a file, annotations left out."""
    from edfio import read_bdf, read_edf

    head = _first_bytes(path, 256)
    # Headers should be ASCII, but recorders write names and µV in Latin-1.
    read = read_bdf if head[:1] == b"\xff" else read_edf
    file = read(path, header_encoding="latin-1")
    declared = int(head[_RECORD_COUNT])
    if declared not in (_UNKNOWN_COUNT, file.num_data_records):
        raise DamagedRecordError(
            f"Got {file.num_data_records} of {declared} data records in {path}: the file is truncated. Copy it again."
        )
    if file.reserved.startswith(("EDF+D", "BDF+D")) and not file.is_continuous:
        raise UnsupportedFormatError(
            f"Got an interrupted recording in {path} (EDF+D with gaps), expected a continuous one. Read its pieces "
            "with edfio and pass each as an ECGRecord."
        )
    return [_channel(signal, path) for signal in file.signals]


def _first_bytes(path: Path, count: int) -> bytes:
    """Read the beginning of a file."""
    with path.open("rb") as file:
        return file.read(count)


def _channel(signal: Any, path: Path) -> Channel:
    """Describe one signal; its samples are calibrated when they are asked for."""

    def values() -> NDArray[np.float64]:
        if signal.digital_min == signal.digital_max or signal.physical_min == signal.physical_max:
            raise DamagedRecordError(
                f"Got an empty digital or physical range for {signal.label!r} in {path}, expected minimum and maximum "
                "to differ: its samples have no scale."
            )
        return np.asarray(signal.data, dtype=np.float64)

    return Channel(signal.label, signal.physical_dimension, signal.sampling_frequency, values)
