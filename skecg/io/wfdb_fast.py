"""The common WFDB storage formats decoded straight into millivolts, bit for bit as wfdb would give them.

Bit for bit means: what wfdb computes in float64, ``(steps - baseline) / gain``, times the factor from its unit to
millivolts, rounded once to float32; NaN where the digitizer stored its code for "no value".

Legend: k signals of one file, T samples, L leads of the record.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from skecg.records import millivolts_per_unit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from skecg.io.wfdb_header import SignalLine, WFDBHeader

__all__ = ["can_read_fast", "read_fast"]

#: The step that means "no value", by storage format.
_NO_VALUE = {16: -(2**15), 212: -(2**11)}


def can_read_fast(header: WFDBHeader) -> bool:
    """Whether a record is simple: formats 16 or 212, one sample a frame, no skew, the signals of a file together."""
    layouts = [(s.file_name, s.storage_format, s.byte_offset) for s in header.signals]
    files = [layout for layout, _ in groupby(layouts)]
    return len({file_name for file_name, _, _ in files}) == len(files) and all(
        s.storage_format in _NO_VALUE and s.samples_per_frame == 1 and s.skew_frames == 0 for s in header.signals
    )


def read_fast(header: WFDBHeader, paths: Sequence[Path], rows: Sequence[int]) -> NDArray[np.float32]:
    """Read the chosen signals of a simple record.

    Parameters
    ----------
    header : WFDBHeader
        For which :func:`can_read_fast` is true; `n_frames` is known, and the files are as long as it says.
    paths : sequence of Path of length n_signals
        The file of each signal.
    rows : sequence of int of length n_leads
        The signals wanted, ascending.

    Returns
    -------
    ndarray of shape (n_leads, n_samples), float32
        In mV.
    """
    signal_LT = np.empty((len(rows), header.n_frames), dtype=np.float32)
    first = 0
    while first < len(header.signals):
        count = sum(s.file_name == header.signals[first].file_name for s in header.signals)
        wanted = [row for row in rows if first <= row < first + count]
        if wanted:
            steps_Tk = _read_steps(paths[first], header.signals[first], header.n_frames, count)
            into = slice(rows.index(wanted[0]), rows.index(wanted[0]) + len(wanted))
            chosen = steps_Tk if len(wanted) == count else steps_Tk[:, [row - first for row in wanted]]
            _to_millivolts(chosen, [header.signals[row] for row in wanted], out=signal_LT[into])
        first += count
    return signal_LT


def _read_steps(path: Path, signal: SignalLine, n_frames: int, n_signals: int) -> NDArray[np.int16]:
    """Read the digitizer's steps of one file, shape (n_frames, n_signals)."""
    n_steps = n_frames * n_signals
    if signal.storage_format == 16:
        steps = np.fromfile(path, dtype="<i2", count=n_steps, offset=signal.byte_offset)
    else:
        steps = unpack_212(np.fromfile(path, np.uint8, -(-n_steps * 3 // 2), offset=signal.byte_offset), n_steps)
    return steps.reshape(n_frames, n_signals)


def unpack_212(packed: NDArray[np.uint8], n_steps: int) -> NDArray[np.int16]:
    """Unpack pairs of 12-bit two's complement numbers from triplets of bytes.

    The middle byte holds the high halves of both: of the first in its low four bits, of the second in its high four.
    Shifted to the top of 16 bits and back, a number brings its sign along.
    """
    n_pairs = -(-n_steps // 2)
    if len(packed) < 3 * n_pairs:
        packed = np.append(packed, np.zeros(3 * n_pairs - len(packed), dtype=np.uint8))
    low, middle, high = packed[0::3].astype(np.int16), packed[1::3].astype(np.int16), packed[2::3].astype(np.int16)
    steps = np.empty(2 * n_pairs, dtype=np.int16)
    steps[0::2] = (low << 4 | middle << 12) >> 4
    steps[1::2] = (high << 4 | (middle & 0xF0) << 8) >> 4
    return steps[:n_steps]


def _to_millivolts(steps_Tk: NDArray[np.int16], signals: Sequence[SignalLine], out: NDArray[np.float32]) -> None:
    """Scale steps into rows of `out`, shape (k, T), doing wfdb's float64 arithmetic in wfdb's order."""
    gains = np.array([[s.gain] for s in signals])
    baselines = np.array([[s.baseline] for s in signals], dtype=np.float64)
    factors = np.array([[millivolts_per_unit(s.units)] for s in signals], dtype=np.float64)
    steps_kT = np.ascontiguousarray(steps_Tk.T)
    if np.any(factors != 1.0):
        out[...] = (steps_kT - baselines) / gains * factors
    elif np.any(baselines):
        np.divide(steps_kT - baselines, gains, out=out, casting="same_kind", dtype=np.float64)
    else:
        np.divide(steps_kT, gains, out=out, casting="same_kind", dtype=np.float64)
    no_value = _NO_VALUE[signals[0].storage_format]
    if steps_kT.min() == no_value:
        out[steps_kT == no_value] = np.nan
