"""The common WFDB storage formats decoded straight into millivolts, bit for bit as wfdb would give them.

Bit for bit means: what wfdb computes in float64, ``(steps - baseline) / gain``, times the factor from its unit to
millivolts, rounded once to float32; NaN where the digitizer stored its code for "no value".

Legend: k signals of one file, T samples, L leads of the record.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skecg.records import millivolts_per_unit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from skecg.io.wfdb_header import SignalLine, WFDBHeader

__all__ = ["Steps", "can_read_fast", "read_fast", "read_with_steps"]

#: The step that means "no value", by storage format.
_NO_VALUE = {16: -(2**15), 212: -(2**11)}

# So many samples of twelve leads stay in the processor's cache in float64 too.
_STRETCH_SAMPLES = 2**13

# Beyond these, float32 could not hold every step less its baseline, and quotients would leave its normal range.
_LARGEST_BASELINE, _LARGEST_GAIN = 2**23, 1e30


def can_read_fast(header: WFDBHeader) -> bool:
    """Whether a record is simple: formats 16 or 212, one sample a frame, no skew, the signals of a file together."""
    layouts = [(s.file_name, s.storage_format, s.byte_offset) for s in header.signals]
    files = [layout for layout, _ in groupby(layouts)]
    return len({file_name for file_name, _, _ in files}) == len(files) and all(
        s.storage_format in _NO_VALUE and s.samples_per_frame == 1 and s.skew_frames == 0 for s in header.signals
    )


class Steps(NamedTuple):
    """What a digitizer wrote into a file whose millivolts are ``(values - baselines) / gains`` in float32.

    Shapes: values (T, k), int16, no lead's of which means "no value"; baselines and gains (k,), float32.
    """

    values: NDArray[np.int16]
    baselines: NDArray[np.float32]
    gains: NDArray[np.float32]


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
    return read_with_steps(header, paths, rows)[0]


def read_with_steps(
    header: WFDBHeader, paths: Sequence[Path], rows: Sequence[int]
) -> tuple[NDArray[np.float32], Steps | None]:
    """Read as :func:`read_fast` does, and keep the steps where one file has them whole and they are leads mostly."""
    signal_LT = np.empty((len(rows), header.n_frames), dtype=np.float32)
    steps = None
    first = 0
    while first < len(header.signals):
        count = sum(s.file_name == header.signals[first].file_name for s in header.signals)
        wanted = [row for row in rows if first <= row < first + count]
        if wanted:
            steps_Tk = _read_steps(paths[first], header.signals[first], header.n_frames, count)
            into = slice(rows.index(wanted[0]), rows.index(wanted[0]) + len(wanted))
            chosen = steps_Tk if len(wanted) == count else steps_Tk[:, [row - first for row in wanted]]
            is_whole = _to_millivolts(chosen, [header.signals[row] for row in wanted], out=signal_LT[into])
            if is_whole and count == len(header.signals) < 2 * len(rows):
                steps = _with_scale(steps_Tk, header.signals)
        first += count
    return signal_LT, steps


def _with_scale(steps_Tk: NDArray[np.int16], signals: Sequence[SignalLine]) -> Steps | None:
    """Put steps together with what makes millivolts of them, if float32 can."""
    scale = _scale_of(tuple([(s.baseline, s.gain, s.units) for s in signals]))
    return Steps(steps_Tk, scale.baselines[:, 0], scale.gains[:, 0]) if scale.fits_float32 else None


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


def _to_millivolts(steps_Tk: NDArray[np.int16], signals: Sequence[SignalLine], out: NDArray[np.float32]) -> bool:
    """Scale steps into rows of `out`, shape (k, T), in wfdb's order of operations; say whether all have a value."""
    scale = _scale_of(tuple([(s.baseline, s.gain, s.units) for s in signals]))
    for start in range(0, len(steps_Tk), _STRETCH_SAMPLES):
        stretch = slice(start, start + _STRETCH_SAMPLES)
        _scale_steps(steps_Tk[stretch].T, scale, out[:, stretch])
    no_value = _NO_VALUE[signals[0].storage_format]
    is_whole = bool(steps_Tk.min() != no_value)
    if not is_whole:
        np.copyto(out, np.float32(np.nan), where=(steps_Tk == no_value).T)
    return is_whole


def _scale_steps(steps_kT: NDArray[np.int16], scale: _Scale, out: NDArray[np.float32]) -> None:
    """Scale a stretch of steps."""
    values_kT = out if scale.fits_float32 else np.empty(out.shape)
    values_kT[...] = steps_kT
    values_kT -= scale.baselines
    values_kT /= scale.gains
    if scale.factors is not None:
        values_kT *= scale.factors
    if not scale.fits_float32:
        out[...] = values_kT


class _Scale(NamedTuple):
    """What takes the steps of signals to millivolts, each of shape (k, 1); no factors where all units are mV."""

    baselines: NDArray[np.floating]
    gains: NDArray[np.floating]
    factors: NDArray[np.float64] | None
    fits_float32: bool


@lru_cache(maxsize=256)
def _scale_of(signals: tuple[tuple[int, float, str], ...]) -> _Scale:
    """Put baselines, gains and units into columns; the records of an archive mostly share them.

    Where float32 holds the gain and every step less the baseline, their quotient rounded to float32 at once is that
    rounded to float64 first, which has more than twice the digits [1]_. Whole numbers are so, and most archives' gains
    are.

    References
    ----------
    .. [1] Figueroa S. A. (1995). When is double rounding innocuous? ACM SIGNUM Newsletter 30(3).
    """
    baselines, gains, units = zip(*signals, strict=True)
    factors = [millivolts_per_unit(unit) for unit in units]
    baseline_k1, gain_k1, factor_k1 = (np.array([x], dtype=np.float64).T for x in (baselines, gains, factors))
    if (factor_k1 != 1.0).any():
        return _Scale(baseline_k1, gain_k1, factor_k1, False)
    with np.errstate(over="ignore"):  # a gain beyond float32 is none of its numbers
        short_k1 = gain_k1.astype(np.float32)
    held = (short_k1 == gain_k1) & (np.abs(gain_k1) < _LARGEST_GAIN) & (np.abs(baseline_k1) <= _LARGEST_BASELINE)
    if held.all():
        return _Scale(baseline_k1.astype(np.float32), short_k1, None, True)
    return _Scale(baseline_k1, gain_k1, None, False)
