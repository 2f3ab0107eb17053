"""The bytes of a shard: microvolts as int16, arrays that grow while they are written, files that appear whole."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["digest_of", "quantize", "replacing", "write_segments"]

_LARGEST = 32767


def quantize(values: NDArray[np.float32]) -> tuple[NDArray[np.int16], float]:
    """Write a segment in whole steps of a microvolt, or of as much more as it takes not to clip.

    Parameters
    ----------
    values : ndarray of shape (n_leads, n_samples), float32
        Millivolts.

    Returns
    -------
    steps : ndarray of the same shape, int16
    scale_uv : float
        Microvolts a step, a float32 value.
    """
    largest = float(np.abs(values).max(initial=0.0)) * 1e3
    scale = np.float32(max(1.0, largest / _LARGEST))
    steps = np.rint(values * (np.float64(1e3) / np.float64(scale)))
    return np.clip(steps, -_LARGEST, _LARGEST).astype(np.int16), float(scale)


def write_segments(file: IO[bytes], segments: Iterable[NDArray[np.int16]], shape: tuple[int, int]) -> str:
    """Write an ``.npy`` array of segments of one shape, their number unknown beforehand; give its values' SHA-256."""
    header = _npy_header((0, *shape))
    file.write(header)
    digest, n_segments = hashlib.sha256(), 0
    for steps in segments:
        content = np.ascontiguousarray(steps, dtype="<i2").tobytes()
        digest.update(content)
        file.write(content)
        n_segments += 1
    final = _npy_header((n_segments, *shape))
    assert len(final) == len(header), "the header of an .npy file grew with its length"
    file.seek(0)
    file.write(final)
    return digest.hexdigest()


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Write the header of an int16 ``.npy`` file; numpy leaves room in it for the first axis to grow."""
    stream = io.BytesIO()
    header = {"descr": "<i2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def digest_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over the values of several arrays."""
    digest = hashlib.sha256()
    for name, values in arrays.items():
        digest.update(f"{name} {values.dtype.str} {values.shape};".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file that appears under its name only once it has been written whole."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
