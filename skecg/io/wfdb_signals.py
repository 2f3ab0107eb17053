"""Signals of WFDB records in millivolts: common storage formats decoded here, and records that wfdb holds in memory.

Decoding is bit for bit what wfdb computes in float64: ``(steps - baseline) / gain``, times the factor from its unit to
millivolts, rounded once to float32; NaN where the digitizer stored its code for "no value". The steps can be kept: they
are half the bytes of millivolts, for who sends recordings to a device.

A record may hold breathing, pressures and light beside the ECG. What is not a voltage is left out, and so is a signal
that names another organ (``RESP``, ``EEG``), even where its header states no unit and millivolts are implied.

Legend: k signals of one file, T samples, L leads of the record.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skecg.errors import LeadError, ParameterError, ShapeError
from skecg.io.channels import Layout, Part, ecg_rows, join_parts, lead_names, shared_rate
from skecg.io.wfdb_header import DEFAULT_GAIN, is_gain
from skecg.records import ECGRecord, as_millivolts, as_sampling_rate, millivolts_per_unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from skecg.io.wfdb_header import SignalLine, WFDBHeader

__all__ = [
    "DigitizedRecord",
    "Steps",
    "can_read_fast",
    "from_wfdb",
    "one_rate",
    "read_fast",
    "read_with_steps",
    "record_of_signals",
    "sums_of_steps",
]

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
    header: WFDBHeader, paths: Sequence[Path], rows: Sequence[int], *, keep_steps: bool = False
) -> tuple[NDArray[np.float32], Steps | None]:
    """Read as :func:`read_fast` does; keep the steps, if asked to, of one file that has them whole and leads mostly."""
    signal_LT = np.empty((len(rows), header.n_frames), dtype=np.float32)
    steps = None
    first = 0
    while first < len(header.signals):
        count = sum(s.file_name == header.signals[first].file_name for s in header.signals)
        wanted = [row for row in rows if first <= row < first + count]
        if wanted:
            into = signal_LT[rows.index(wanted[0]) : rows.index(wanted[0]) + len(wanted)]
            columns = [row - first for row in wanted]
            keep = keep_steps and count == len(header.signals) < 2 * len(rows)
            kept = _read_file(header, paths[first], range(first, first + count), columns, into, keep)
            steps = None if kept is None else _with_scale(kept, header.signals)
        first += count
    return signal_LT, steps


def sums_of_steps(header: WFDBHeader, paths: Sequence[Path]) -> list[int]:
    """Sum all steps of each signal of a simple record, as the checksums in its header do but for their modulus."""
    sums: list[int] = []
    while len(sums) < len(header.signals):
        first = header.signals[len(sums)]
        count = sum(signal.file_name == first.file_name for signal in header.signals)
        totals = np.zeros(count, dtype=np.int64)
        for stretch in _read_steps(paths[len(sums)], first, header.n_frames, count):
            totals += stretch.sum(axis=0, dtype=np.int64)
        sums += totals.tolist()
    return sums


def _with_scale(steps_Tk: NDArray[np.int16], signals: Sequence[SignalLine]) -> Steps | None:
    """Put steps together with what makes millivolts of them, if float32 can."""
    scale = _scale_of(tuple([(s.baseline, s.gain, s.units) for s in signals]))
    return Steps(steps_Tk, scale.baselines[:, 0], scale.gains[:, 0]) if scale.fits_float32 else None


def _read_file(
    header: WFDBHeader, path: Path, numbers: range, columns: list[int], out: NDArray[np.float32], keep_steps: bool
) -> NDArray[np.int16] | None:
    """Read columns of one file, shape (len(columns), T); return all its steps if they are to be kept and are whole."""
    signals = [header.signals[number] for number in numbers]
    is_whole, kept, start = True, [], 0
    for steps_Tk in _read_steps(path, signals[0], header.n_frames, len(signals)):
        chosen = steps_Tk if len(columns) == len(signals) else steps_Tk[:, columns]
        stretch = slice(start, start := start + len(steps_Tk))
        is_whole &= _to_millivolts(chosen, [signals[column] for column in columns], out=out[:, stretch])
        if keep_steps:
            kept.append(steps_Tk)
    if not keep_steps or not is_whole:
        return None
    return kept[0] if len(kept) == 1 else np.concatenate(kept)


def _read_steps(path: Path, signal: SignalLine, n_frames: int, n_signals: int) -> Iterator[NDArray[np.int16]]:
    """Yield the digitizer's steps of one file, stretch by stretch, each of shape (n_some_frames, n_signals)."""
    with path.open("rb") as file:
        file.seek(signal.byte_offset)
        for start in range(0, n_frames, _STRETCH_SAMPLES):
            n_steps = min(_STRETCH_SAMPLES, n_frames - start) * n_signals
            if signal.storage_format == 16:
                steps = np.fromfile(file, dtype="<i2", count=n_steps)
            else:  # a stretch has an even number of frames, and so ends with a byte
                steps = unpack_212(np.fromfile(file, np.uint8, -(-n_steps * 3 // 2)), n_steps)
            yield steps.reshape(-1, n_signals)


def unpack_212(packed: NDArray[np.uint8], n_steps: int) -> NDArray[np.int16]:
    """Unpack pairs of 12-bit two's complement numbers from triplets of bytes.

    The middle byte holds the high halves of both: of the first in its low four bits, of the second in its high four.
    Shifted to the top of 16 bits and back, a number brings its sign along.
    """
    n_pairs = -(-n_steps // 2)
    # An odd number of steps may end with two bytes of the three.
    if len(packed) < 3 * n_pairs:
        packed = np.append(packed, np.zeros(3 * n_pairs - len(packed), dtype=np.uint8))
    low, middle, high = packed[0::3].astype(np.int16), packed[1::3].astype(np.int16), packed[2::3].astype(np.int16)
    steps = np.empty(2 * n_pairs, dtype=np.int16)
    # Shifted up and down again: the arithmetic shift carries the sign of 12 bits into 16.
    steps[0::2] = (low << 4 | middle << 12) >> 4
    steps[1::2] = (high << 4 | (middle & 0xF0) << 8) >> 4
    return steps[:n_steps]


def _to_millivolts(steps_Tk: NDArray[np.int16], signals: Sequence[SignalLine], out: NDArray[np.float32]) -> bool:
    """Scale steps into rows of `out`, shape (k, T), in wfdb's order of operations; say whether all have a value."""
    _scale_steps(steps_Tk.T, _scale_of(tuple([(s.baseline, s.gain, s.units) for s in signals])), out)
    no_value = _NO_VALUE[signals[0].storage_format]
    is_whole = bool(steps_Tk.min() != no_value)
    if not is_whole:
        np.copyto(out, np.float32(np.nan), where=(steps_Tk == no_value).T)
    return is_whole


def _scale_steps(steps_kT: NDArray[np.int16], scale: _Scale, out: NDArray[np.float32]) -> None:
    """Scale a stretch of steps."""
    # float32 where it gives the bits of float64.
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


def record_of_signals(
    signals: Sequence[NDArray[Any]], sampling_rate: float, names: Sequence[str], units: Sequence[str], name: str
) -> ECGRecord:
    """Make a record of signals of one length, each (n_samples,) in its unit, leaving out what is no ECG."""
    rows = ecg_rows(tuple(names), tuple(units))
    chosen = as_millivolts(np.stack([signals[row] for row in rows]), [units[row] for row in rows])
    return ECGRecord(chosen, sampling_rate, lead_names(tuple(names[row] for row in rows)), name)


def one_rate(per_frame: Sequence[int], names: Sequence[str], units: Sequence[str]) -> int:
    """Return the number of samples a frame that all leads of the ECG share, refusing several."""
    rates = sorted({per_frame[row] for row in ecg_rows(tuple(names), tuple(units))})
    if len(rates) > 1:
        raise LeadError(
            f"Got leads of {rates[0]} to {rates[-1]} samples a frame, expected one rate for all. "
            "Read the record with smooth_frames=True."
        )
    return rates[0]


def from_wfdb(record: Any) -> ECGRecord:
    """Convert a record that wfdb has read.

    Parameters
    ----------
    record : wfdb.Record or wfdb.MultiRecord
        With physical or digital signals, in one array (``p_signal``, ``d_signal``, time before leads) or one array a
        signal (``e_p_signal``, ``e_d_signal``, where signals differ in their samples a frame).

    Returns
    -------
    ECGRecord
        The voltages of the heart in mV. Where the signals were read one by one and all leads of the ECG have the same
        number of samples a frame, that is their full rate (``fs * samps_per_frame``).

    Raises
    ------
    ParameterError
        When `record` is no record of wfdb, or holds no signals.
    UnitsError
        When no signal is a voltage of the heart.
    LeadError
        When a standard lead is named twice, leads of several rates were read one by one, or segments have different
        signals.
    SamplingRateError
        When the record gives no rate, or another than its segments.
    ShapeError
        When a segment is longer or shorter than its record says.

    Examples
    --------
    >>> import wfdb  # doctest: +SKIP
    >>> from_wfdb(wfdb.rdrecord("00001_hr"))  # doctest: +SKIP
    ECGRecord('00001_hr': 12 leads (I, II, III, aVR, ...), 5000 samples, 500 Hz, 10.0 s)
    """
    if hasattr(record, "multi_to_single") and getattr(record, "segments", None):
        return _joined(record)
    _check_fields(record)
    signals, per_frame = _physical_signals(record)
    names, units = _names_and_units(record, len(signals))
    rate = as_sampling_rate(record.fs, f" in a {type(record).__name__}")
    return record_of_signals(
        signals, rate * one_rate(per_frame, names, units), names, units, str(record.record_name or "")
    )


def _check_fields(record: Any) -> None:
    """Raise for what is no record of wfdb."""
    missing = [field for field in ("fs", "sig_name", "units") if not hasattr(record, field)]
    if missing:
        raise ParameterError(
            f"Got a {type(record).__name__}, expected a wfdb.Record with signals. Pass what wfdb.rdrecord(...) gives."
        )


def _names_and_units(record: Any, n_signals: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names and the units of a record's signals, millivolts where it gives none, as headers mean it."""
    names = tuple([str(name or "") for name in record.sig_name or [""] * n_signals])
    units = tuple([str(unit or "mV") for unit in record.units or ["mV"] * n_signals])
    if not n_signals == len(names) == len(units):
        raise ParameterError(
            f"Got a wfdb.Record of {n_signals} signals with {len(names)} names and {len(units)} units, expected one "
            "of each for every signal."
        )
    return names, units


def _joined(record: Any) -> ECGRecord:
    """Join the segments of a record; None stands for a gap."""
    layout, parts, start = None, [], 0
    stated = [("the record", record.fs)]
    for number, (segment, length) in enumerate(zip(record.segments, _lengths(record), strict=True)):
        if segment is None:
            start += length or 0
            continue
        _check_fields(segment)
        where = str(segment.record_name or f"number {number + 1}")
        stated.append((f"segment {where}", segment.fs))
        if number == 0 and length == 0:
            layout = Layout(*_names_and_units(segment, len(segment.sig_name or ())))
        elif length != 0:
            parts.append(_part(segment, length, where, start))
            start += parts[-1].n_frames
    rates = [(where, as_sampling_rate(rate, f" in {where}")) for where, rate in stated if rate is not None]
    return join_parts(
        parts,
        layout,
        n_signals=record.n_sig,
        n_frames=start,
        sampling_rate=as_sampling_rate(shared_rate(rates), " in a wfdb.MultiRecord"),
        name=str(record.record_name or ""),
    )


def _lengths(record: Any) -> list[int | None]:
    """Return the frames of each segment, which only a gap has to be told."""
    stated = record.seg_len
    lengths = [getattr(segment, "sig_len", None) for segment in record.segments] if stated is None else list(stated)
    is_short = len(lengths) != len(record.segments)
    if is_short or any(segment is None and n is None for segment, n in zip(record.segments, lengths, strict=True)):
        raise ParameterError(
            f"Got a wfdb.MultiRecord of {len(record.segments)} segments with seg_len={lengths}, expected a length for "
            "each. Pass what wfdb.rdrecord(..., m2s=False) gives."
        )
    return lengths


def _part(segment: Any, length: int | None, where: str, start: int) -> Part:
    """Describe a segment, whose length its record need not state."""
    signals, per_frame = _physical_signals(segment)
    names, units = _names_and_units(segment, len(signals))
    n_frames = len(signals[0]) // per_frame[0] if length is None else length
    if [len(signal) for signal in signals] != [n_frames * count for count in per_frame]:
        raise ShapeError(
            f"Got signals of {len(signals[0])} samples in segment {where}, expected {n_frames} frames as the record "
            "says. Pass what wfdb.rdrecord(..., m2s=False) gives."
        )
    return Part(where, start, n_frames, names, units, tuple(per_frame), partial(_millivolts, signals, units))


def _millivolts(
    signals: Sequence[NDArray[Any]], units: Sequence[str], columns: Sequence[int], is_mixed: bool
) -> NDArray[np.float32]:
    """Return some signals of a segment in mV; they cannot be averaged any more."""
    if is_mixed:
        raise LeadError(
            "Got leads of several numbers of samples a frame in the segments, expected one for all. Read the record "
            "with smooth_frames=True."
        )
    return as_millivolts(np.stack([signals[column] for column in columns]), [units[column] for column in columns])


def _physical_signals(record: Any) -> tuple[list[NDArray[Any]], list[int]]:
    """Return the signals of an in-memory record, each (n_samples,) in its unit, and their samples a frame."""
    expanded = getattr(record, "e_p_signal", None)
    if expanded is None and getattr(record, "e_d_signal", None) is not None:
        expanded = _to_physical(record, expanded=True)
    if expanded is not None:
        return list(expanded), [int(count or 1) for count in record.samps_per_frame or [1] * len(expanded)]
    together = getattr(record, "p_signal", None)
    if together is None and getattr(record, "d_signal", None) is not None:
        together = _to_physical(record, expanded=False)
    if together is None or np.ndim(together) != 2:
        raise ParameterError(
            "Got a wfdb.Record without signals, expected p_signal or d_signal of shape (n_samples, n_leads). "
            "Read it with wfdb.rdrecord, not wfdb.rdheader."
        )
    return list(np.asarray(together).T), [1] * together.shape[1]


def _to_physical(record: Any, *, expanded: bool) -> Any:
    """Convert steps of the digitizer to units, with wfdb's own code."""
    steps = record.e_d_signal if expanded else record.d_signal
    n_signals = len(steps) if expanded else np.shape(steps)[-1]
    absent = [field for field in ("fmt", "adc_gain", "baseline") if _n_given(record, field) != n_signals]
    if absent:
        raise ParameterError(
            f"Got a wfdb.Record with {n_signals} digital signals but no {', '.join(absent)} for each, which their "
            "conversion to millivolts needs. Set them, or pass physical signals."
        )
    gains = [float(gain or DEFAULT_GAIN) for gain in record.adc_gain]  # 0: not calibrated, by the standard
    if not all(map(is_gain, gains)):
        raise ParameterError(
            f"Got adc_gain={gains} in a wfdb.Record, expected the steps of a unit for each signal, or 0 where they are "
            "not known. Correct them, or pass physical signals."
        )
    calibrated = copy.copy(record)
    calibrated.adc_gain, calibrated.n_sig = gains, n_signals
    return calibrated.dac(expanded=expanded)


def _n_given(record: Any, field: str) -> int:
    """Count the signals for which a record gives a field."""
    values = getattr(record, field, None)
    return 0 if values is None else sum(value is not None for value in values)


@dataclass(frozen=True, eq=False, repr=False)
class DigitizedRecord(ECGRecord):
    """A recording whose signal is ``(steps - baselines) / gains`` in float32, to the last bit, without a gap.

    Nobody sees to it that the steps follow when the signal is changed: such records are for those who read them, use
    them and forget them.

    Parameters
    ----------
    steps : ndarray of shape (n_samples, n_columns), int16
        As the file has them, signals that are no leads included.
    columns : tuple of int of length n_leads
        Which column each lead is.
    baselines, gains : ndarray of shape (n_columns,), float32
        The step of 0 mV, and the steps of a millivolt.
    """

    steps: NDArray[np.int16] = field(kw_only=True)
    columns: tuple[int, ...] = field(kw_only=True)
    baselines: NDArray[np.float32] = field(kw_only=True)
    gains: NDArray[np.float32] = field(kw_only=True)
