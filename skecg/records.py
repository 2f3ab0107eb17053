"""ECGRecord: a signal, its rate, its leads."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.compute.notebook import html_facts
from skecg.errors import LeadError, SamplingRateError, ShapeError, UnitsError
from skecg.leads import CANONICAL_LEADS, canonical_lead, canonical_leads, unit_in_name

__all__ = [
    "MILLIVOLTS_PER_UNIT",
    "ECGRecord",
    "as_millivolts",
    "as_sampling_rate",
    "check_not_transposed",
    "masked_to_nan",
    "millivolts_per_unit",
    "named_unit",
]

#: Factors from the units of voltage that skecg knows (compared without case) to millivolts.
# Both signs for micro: the micro sign and the Greek letter look alike and are two characters.
_PREFIXES = {"": 1e3, "m": 1.0, "milli": 1.0, "u": 1e-3, "µ": 1e-3, "μ": 1e-3, "micro": 1e-3, "n": 1e-6, "nano": 1e-6}
MILLIVOLTS_PER_UNIT = {f"{prefix}{name}": k for prefix, k in _PREFIXES.items() for name in ("v", "volt", "volts")}
MILLIVOLTS_PER_UNIT |= {"мкв": 1e-3, "мв": 1.0, "微伏": 1e-3, "毫伏": 1.0}  # as exports in Russian and Chinese write

# A recording has fewer leads than this and more samples than this; the other way round it lies transposed.
_MANY_LEADS = 16
_FEW_SAMPLES = 64

# Of the picture in notebooks.
_WIDTH, _STRIP, _SECONDS = 720, 36, 10.0


@dataclass(frozen=True, eq=False)
class ECGRecord:
    """One recording.

    Parameters
    ----------
    signal : array-like of shape (n_leads, n_samples)
        Voltages in millivolts, NaN where the recording has gaps. Stored as C-contiguous float32; the array passed in
        is never modified.
    sampling_rate : float
        Samples a second (Hz).
    leads : sequence of str of length n_leads
        Names of the rows, in any common spelling (see :func:`skecg.leads.canonical_lead`).
    name : str, default=""
        What to call the record in messages and tables.

    Raises
    ------
    ShapeError
        When `signal` is not numeric, not two-dimensional, empty or transposed.
    SamplingRateError
        When `sampling_rate` is not a positive, finite number.
    LeadError
        When the number of names is not the number of rows, or a name comes twice.
    UnitsError
        When the name of one of the twelve leads states another unit, as ``"I (uV)"`` does.

    Examples
    --------
    >>> import numpy as np
    >>> ECGRecord(np.zeros((2, 2500)), 250, ["I", "ii"])
    ECGRecord(2 leads (I, II), 2500 samples, 250 Hz, 10.0 s)
    """

    signal: NDArray[np.float32]
    sampling_rate: float
    leads: tuple[str, ...]
    name: str = ""

    def __post_init__(self) -> None:
        where = f" in record {self.name!r}" if self.name else ""
        signal = _as_signal(self.signal, where)
        # leads="II" for one lead is what everybody writes; for several it would be read letter by letter.
        if isinstance(self.leads, str) and signal.shape[0] == 1:
            object.__setattr__(self, "leads", (self.leads,))
        leads = canonical_leads(self.leads)
        if len(leads) != signal.shape[0]:
            raise LeadError(
                f"Got {signal.shape[0]} rows of signal and {len(leads)} lead names ({', '.join(leads)}){where}; "
                "expected one name for every row. A signal is (n_leads, n_samples)."
            )
        if leads != tuple(self.leads):  # in their standard spelling they state no unit
            named_unit(self.leads, "mV")
        # Frozen, and yet made canonical here: whoever has a record need not check it again.
        object.__setattr__(self, "signal", signal)
        object.__setattr__(self, "leads", leads)
        object.__setattr__(self, "sampling_rate", as_sampling_rate(self.sampling_rate, where))

    @property
    def n_leads(self) -> int:
        """Number of leads."""
        return self.signal.shape[0]

    @property
    def n_samples(self) -> int:
        """Number of samples in every lead."""
        return self.signal.shape[1]

    @property
    def duration_seconds(self) -> float:
        """Length of the recording in seconds."""
        return self.n_samples / self.sampling_rate

    def __repr__(self) -> str:
        title = f"{self.name!r}: " if self.name else ""
        return (
            f"ECGRecord({title}{self.n_leads} leads ({', '.join(self.leads)}), {self.n_samples} samples, "
            f"{self.sampling_rate:g} Hz, {self.duration_seconds:.1f} s)"
        )

    def _repr_html_(self) -> str:
        """Show a notebook what the record is, and its picture."""
        facts = {
            "leads": ", ".join(self.leads),
            "sampling rate": f"{self.sampling_rate:g} Hz",
            "length": f"{self.duration_seconds:.1f} s, {self.n_samples} samples",
        }
        missing = float(np.isnan(self.signal).mean())
        known = self.signal[np.isfinite(self.signal)]
        if known.size:
            facts["range"] = f"{known.min():.2f} to {known.max():.2f} mV"
        if missing:
            facts["missing"] = f"{missing:.1%}".replace("%", " %")
        return html_facts(self.name or "ECG", facts, _picture(self))


def _picture(record: ECGRecord) -> str:
    """Draw the first ten seconds, lead below lead, two strips high for each two millivolts.

    Every column of pixels spans the least and the greatest of its samples, so that no tip of a wave is lost.
    """
    signal = record.signal[:, : max(1, int(_SECONDS * record.sampling_rate))]
    columns = np.unique(np.linspace(0, signal.shape[1], min(_WIDTH, signal.shape[1]), endpoint=False).astype(int))
    xs = columns * (_WIDTH / max(signal.shape[1], int(_SECONDS * record.sampling_rate)))
    strips = []
    for row, (lead, values) in enumerate(zip(record.leads, signal, strict=True)):
        middle = _STRIP * (row + 0.5)
        path = _path(values, columns, xs, middle)
        strips.append(f'<path d="{path}" fill="none" stroke="currentColor" stroke-width=".8"/>')
        strips.append(f'<text x="0" y="{middle - 8:.0f}" font-size="10" fill="currentColor">{html.escape(lead)}</text>')
    size = f'viewBox="0 0 {_WIDTH} {_STRIP * record.n_leads}" width="{_WIDTH}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="max-width:100%" role="img">{"".join(strips)}</svg>'


def _path(values: NDArray[np.float32], columns: NDArray[np.int64], xs: NDArray[np.float64], middle: float) -> str:
    """Return the line of a lead about its median; it begins anew after a gap, and so leaves it open."""
    known = np.where(np.isfinite(values), values, np.float32(np.nan))
    if np.isnan(known).all():
        return ""
    centred = np.clip(known - np.nanmedian(known), -3, 3)
    highest, lowest = (edge.reduceat(centred, columns) for edge in (np.fmax, np.fmin))
    path, command = "", "M"
    for x, high, low in zip(xs, highest, lowest, strict=True):
        if np.isnan(high):
            command = "M"
            continue
        path += f"{command}{x:.1f} {middle - high * _STRIP / 2:.1f}V{middle - low * _STRIP / 2:.1f}"
        command = "L"
    return path


def as_sampling_rate(value: Any, where: str = "") -> float:
    """Check a sampling rate (Hz) and give it as a float."""
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = float("nan")
    is_odd = isinstance(value, bool | np.bool_) or (isinstance(value, str) and "_" in value)  # Python takes 5_0 for 50
    if is_odd or not np.isfinite(rate) or rate <= 0:
        raise SamplingRateError(
            f"Got sampling_rate={_shown(value)}{where}, expected a positive number of samples a second (Hz)."
        )
    return rate


def _shown(value: Any) -> str:
    """Write a value for a message, which a number of a thousand digits would fill."""
    if isinstance(value, int) and abs(value) > 10**20:
        return "an integer of more than 20 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def millivolts_per_unit(unit: Any) -> float | None:
    """Return how many millivolts a unit of voltage is, None for anything else; case and outer blanks are free."""
    return MILLIVOLTS_PER_UNIT.get(str(unit).strip().lower())


def named_unit(leads: Sequence[str], units: str | None = None) -> str | None:
    """Return the unit that names of the twelve leads state, as ``"I (uV)"`` does, `units` where none does.

    Raises
    ------
    UnitsError
        When they state another one than `units`, or several: in the standard spelling of the names it would be lost.
    """
    stated = {lead: unit_in_name(lead) for lead in leads if canonical_lead(lead) != lead}
    if not any(stated.values()):
        return units
    found = [stated.get(lead) or units or "mV" for lead in leads] + ([units] if units else [])
    if len({millivolts_per_unit(unit) for unit in found}) > 1:
        named = ", ".join(lead for lead in stated if stated[lead])
        raise UnitsError(
            f"Got lead(s) named {named} and values in {units or 'mV'}, expected one unit. Scale the values or say "
            "their unit (units=), and leave it out of the names."
        )
    return found[0]


def as_millivolts(signal: NDArray[Any], units: str | Sequence[str]) -> NDArray[np.float32]:
    """Scale a signal to millivolts.

    Parameters
    ----------
    signal : ndarray of shape (..., n_leads, n_samples)
    units : str or sequence of str of length n_leads
        One of ``"V"``, ``"mV"``, ``"uV"`` (or ``"µV"``), ``"nV"``, for all leads or for each.

    Returns
    -------
    ndarray of the same shape, float32
        The input itself when it already is float32 in millivolts.

    Raises
    ------
    UnitsError
        When a unit is not one of voltage, or there are not as many as leads.
    """
    # A set is refused with whatever else has no order: its units would go to the leads by chance.
    names = list(units) if isinstance(units, list | tuple) else [units]
    unknown = [unit for unit in names if millivolts_per_unit(unit) is None]
    if unknown or not names:
        raise UnitsError(f"Got units={(unknown or [units])[0]!r}, expected one of 'V', 'mV', 'uV', 'nV'.")
    if len(names) > 1 and (np.ndim(signal) < 2 or len(names) != np.shape(signal)[-2]):
        raise UnitsError(
            f"Got {len(names)} units for a signal of shape {np.shape(signal)}, expected one unit, or one for each lead."
        )
    factors = np.array([millivolts_per_unit(unit) for unit in names], dtype=np.float64)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        # Untouched where there is nothing to scale: float32 through float64 and back is the same, and slower.
        if np.all(factors == 1.0):
            return np.asarray(signal, dtype=np.float32)
        scale = factors[0] if len(factors) == 1 else factors[:, None]
        return np.asarray(np.asarray(signal, dtype=np.float64) * scale, dtype=np.float32)


def masked_to_nan(signal: Any) -> Any:
    """Return a masked array with NaN, the mark of a gap, for what it masks; anything else as it is.

    NumPy's own conversion drops the mask and shows what lies beneath, often a filler such as -32768.
    """
    if not isinstance(signal, np.ma.MaskedArray):
        return signal
    if not np.ma.is_masked(signal) or signal.dtype.kind not in "fiub":
        return signal.data
    unmasked: NDArray[Any] = np.ma.filled(signal.astype(np.result_type(signal.dtype, np.float32)), np.nan)
    return unmasked


def _as_signal(signal: Any, where: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(masked_to_nan(signal))
    except ValueError as error:
        raise ShapeError(
            f"Got a ragged signal{where}, expected (n_leads, n_samples) with leads of one length."
        ) from error
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"Got a signal of dtype {array.dtype}{where}, expected real numbers (millivolts).")
    if array.ndim != 2:
        raise ShapeError(
            f"Got a signal of shape {array.shape}{where}, expected (n_leads, n_samples). "
            "For a single lead pass signal[np.newaxis]."
        )
    if array.size == 0:
        raise ShapeError(
            f"Got an empty signal of shape {array.shape}{where}, expected at least one lead and one sample."
        )
    check_not_transposed(array.shape, where)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        return np.ascontiguousarray(array, dtype=np.float32)


def check_not_transposed(shape: tuple[int, ...], where: str = "") -> None:
    """Raise for (..., n_samples, n_leads): more rows than leads exist, in few columns."""
    n_leads, n_samples = shape[-2:]
    if n_leads > max(_MANY_LEADS, n_samples) and (n_leads > _FEW_SAMPLES or n_samples in (len(CANONICAL_LEADS), 8)):
        raise ShapeError(
            f"Got a signal of shape {shape}{where}: {n_leads} leads of {n_samples} samples looks transposed. "
            "Expected leads before samples; pass np.swapaxes(signal, -1, -2)."
        )
