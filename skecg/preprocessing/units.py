"""Whether the amplitudes of a batch of records are millivolts, and what restores them where they are not.

One record's amplitude says little: those of healthy people differ ninefold. The middle of a batch says much, and so do
limits of exactly 0 and 1, or leads that all have a standard deviation of 1.

Shapes: R leads of a record, K pieces of a second, M samples of a piece.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skecg.errors import UnitsError, UnitsWarning, user_stacklevel
from skecg.records import ECGRecord

if TYPE_CHECKING:
    from skecg.spec import InputSpec

__all__ = [
    "MOST_JUDGED",
    "STANDARDIZED",
    "TYPICAL_MV",
    "Amplitude",
    "Levels",
    "describe_amplitude",
    "judge_units",
    "median",
    "warn_about_units",
    "with_typical_amplitudes",
]

#: The unit of recordings whose leads were each divided by their own standard deviation.
STANDARDIZED = "per-lead standard deviation"
#: Standard deviations (mV) that such leads are given back: medians over 81 PTB-XL recordings, filtered to 0.5-40 Hz;
#: for the limb leads that of the root mean square over the six.
TYPICAL_MV = {"limb": 0.118, "V1": 0.147, "V2": 0.262, "V3": 0.262, "V4": 0.228, "V5": 0.212, "V6": 0.173}

#: So many records of an archive are enough to tell its unit; all of them would not fit into memory.
MOST_JUDGED = 10_000

# Amplitudes over typical ones in the middle of a batch: of batches of true millivolts, drawn from sixteen sets of
# recordings, fewer than one in 1,000 lies outside. Smaller batches than these are not judged by it.
_GAINS = 0.42, 3.4
_FEWEST_RECORDS, _FEWEST_LEADS = 5, 24
# A standard deviation that was 1 over the whole recording, estimated from some hundred samples.
_NEAR_ONE = 0.15
_FEWEST_STANDARDIZED = 6
# Scaling to limits, in float16 at worst.
_AT_LIMIT = 1e-3
_FEWEST_SCALED = 3
# A part of a standardized record may be quieter or louder than the whole, but not by this.
_NO_STANDARD, _SAMPLES_LOOKED_AT = 0.05, 5000
# Of records, or leads, that have to show the same sign of scaling.
_MOST = 0.9


def median(values: NDArray[Any]) -> float:
    """Return the median of a few numbers, five times as fast as numpy's."""
    ordered = np.sort(values)
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


class Levels(NamedTuple):
    """What the leads of a record are like, each in mV of shape (R,).

    Parameters
    ----------
    middle : ndarray
        The middle of the means of the pieces.
    wander : ndarray
        Half of the distance that those means span, the lowest and the highest left out: one artefact is no wander.
    local : ndarray
        The middle of the standard deviations from a straight line within the pieces, which neither offsets nor slow
        wander enter.
    total : ndarray
        The standard deviation of all samples.
    """

    middle: NDArray[np.float64]
    wander: NDArray[np.float64]
    local: NDArray[np.float64]
    total: NDArray[np.float64]

    @classmethod
    def of(cls, pieces_RKM: NDArray[np.float32]) -> Levels:
        """Measure the pieces of leads; missing samples are NaN."""
        # Offsets of volts would leave float32 no digits for a heart.
        pieces = pieces_RKM.astype(np.float64)
        missing = np.isnan(pieces)
        if missing.any():
            # A lead whose every sample here is missing stands still at 0, and so is no evidence of anything.
            counts = np.maximum((~missing).sum(axis=(1, 2)), 1)
            means = np.where(missing, 0.0, pieces).sum(axis=(1, 2)) / counts
            pieces = np.where(missing, means[:, None, None], pieces)
        whole = pieces.mean(axis=(1, 2))
        pieces -= whole[:, None, None]
        means_RK = pieces.mean(axis=2)
        squares_RK = np.square(pieces).mean(axis=2)
        times_M = np.linspace(-1.0, 1.0, pieces.shape[2])
        slopes_RK = pieces @ times_M / np.square(times_M).sum()
        # A straight line through each second is the baseline's; what is left is the heart's.
        explained_RK = np.square(means_RK) + np.square(slopes_RK) * np.square(times_M).mean()
        within = np.sort(np.maximum(squares_RK - explained_RK, 0.0), axis=1)
        means_RK.sort(axis=1)
        # The middle second of the ten: neither a moment of artefact nor a pause decides.
        half = means_RK.shape[1] // 2
        return cls(
            whole + means_RK[:, half],
            (means_RK[:, -min(2, half + 1)] - means_RK[:, min(1, half)]) / 2,
            np.sqrt(within[:, half]),
            np.sqrt(squares_RK.mean(axis=1)),
        )


class Amplitude(NamedTuple):
    """What a record adds to the judgement of its batch.

    Parameters
    ----------
    gain : float
        How many times as large as typical of its leads it is, in the middle of them.
    n_leads, n_standardized : int
        Leads that change, and those of them whose standard deviation is about 1.
    scaled_to : str
        ``"0 to 1"`` or ``"-1 to 1"`` where these are the limits of the record or of all its leads; ``"+-1"`` where
        only one of the two limits is reached.
    is_named : bool
        Whether a note on the record already says that its unit is another.
    """

    gain: float
    n_leads: int
    n_standardized: int
    scaled_to: str
    is_named: bool = False


def describe_amplitude(
    leads: Sequence[str],
    levels: Levels,
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    *,
    is_named: bool = False,
) -> Amplitude | None:
    """Return what a record says about the unit of its batch, None where nothing in it changes.

    Parameters
    ----------
    leads : sequence of str of length R
    levels : Levels
    lowest, highest : ndarray of shape (R,)
        The limits of each lead.
    is_named : bool, default=False
        See :class:`Amplitude`.
    """
    changing = (highest > lowest) & (levels.total > 0)
    if not changing.any():
        return None
    typical = np.array([TYPICAL_MV.get(lead, TYPICAL_MV["limb"]) for lead in leads])
    gains = (levels.local / typical)[changing]
    # Whole leads, with their wander: that is what somebody divided by.
    standardized = np.abs(levels.total[changing] - 1.0) < _NEAR_ONE
    scaled_to = _scaled_to(lowest[changing], highest[changing])
    return Amplitude(median(gains), len(gains), int(standardized.sum()), scaled_to, is_named)


def _scaled_to(lowest: NDArray[np.float32], highest: NDArray[np.float32]) -> str:
    """Return which limits each lead has, or the record as a whole; nothing where they are none in particular."""
    for name, low in (("0 to 1", 0.0), ("-1 to 1", -1.0)):
        # Scaled lead by lead, or the record as a whole.
        for lows, highs in ((lowest, highest), (lowest.min(), highest.max())):
            if np.all(np.abs(lows - low) < _AT_LIMIT) and np.all(np.abs(highs - 1.0) < _AT_LIMIT):
                return name
    return "+-1" if abs(max(-float(lowest.min()), float(highest.max())) - 1.0) < _AT_LIMIT else ""


def with_typical_amplitudes(record: ECGRecord) -> ECGRecord:
    """Return a record whose leads were divided by their own standard deviations in typical millivolts.

    Parameters
    ----------
    record : ECGRecord
        Its values are standard deviations.

    Raises
    ------
    UnitsError
        When its leads are not of about that size: a file may say that its numbers are microvolts, and be believed.
    """
    deviations = np.nanstd(record.signal[:, :: max(1, record.n_samples // _SAMPLES_LOOKED_AT)], axis=1)
    size = float(np.median(deviations[deviations > 0])) if (deviations > 0).any() else 1.0
    if not _NO_STANDARD < size < 1 / _NO_STANDARD:
        raise UnitsError(
            f"Got {record.name or 'a record'} with standard deviations of {size:.2g} and units={STANDARDIZED!r}, "
            "expected about 1. If its file names a unit of voltage, take that out, or leave out units=."
        )
    typical = np.array([TYPICAL_MV.get(lead, TYPICAL_MV["limb"]) for lead in record.leads], dtype=np.float32)
    return ECGRecord(record.signal * typical[:, None], record.sampling_rate, record.leads, record.name)


def warn_about_units(amplitudes: Iterable[Amplitude | None], spec: InputSpec) -> None:
    """Emit a UnitsWarning where the records of a call are not in millivolts."""
    message = judge_units([amplitude for amplitude in amplitudes if amplitude is not None], spec)
    if message is not None:
        warnings.warn(message, UnitsWarning, stacklevel=user_stacklevel())


def judge_units(amplitudes: Sequence[Amplitude], spec: InputSpec) -> str | None:
    """Return what shows that a batch of records is not in millivolts, and what to do; None where nothing does.

    Parameters
    ----------
    amplitudes : sequence of Amplitude
        Of the records of a call.
    spec : InputSpec
        Encoders that are fed leads of standard deviation 1 in any case are not wronged by any scale.
    """
    # An encoder that divides each lead by its own deviation does not mind the unit.
    if not amplitudes or spec.normalization == "zscore":
        return None
    # The surest sign first: a wrong gain is what is left when neither scaling explains the amplitudes.
    return _standardized(amplitudes) or _scaled(amplitudes) or _gained(amplitudes, spec)


def _standardized(amplitudes: Sequence[Amplitude]) -> str | None:
    """Judge whether leads were divided by their own standard deviations."""
    n_leads, found = (sum(values) for values in zip(*[(a.n_leads, a.n_standardized) for a in amplitudes], strict=True))
    if n_leads < _FEWEST_STANDARDIZED or found < _MOST * n_leads:
        return None
    return (
        f"Got {_records(amplitudes)} with a standard deviation of about 1 in {found} of {n_leads} leads, expected "
        f"millivolts (0.05 to 0.5): each lead was divided by its own. Pass units={STANDARDIZED!r}, which gives each "
        "lead its typical amplitude back, or better the millivolts themselves."
    )


def _scaled(amplitudes: Sequence[Amplitude]) -> str | None:
    """Judge whether records, or leads, were scaled to limits."""
    for name in ("0 to 1", "-1 to 1"):
        whole = sum(amplitude.scaled_to == name for amplitude in amplitudes)
        half = sum(amplitude.scaled_to == "+-1" for amplitude in amplitudes) if name == "-1 to 1" else 0
        if whole >= _MOST * len(amplitudes) or whole + half >= max(_FEWEST_SCALED, _MOST * len(amplitudes)):
            return (
                f"Got {_records(amplitudes)} whose limits are those of a scale from {name}, expected millivolts. Pass "
                "the millivolts, or X = (X - X.mean(axis=-1, keepdims=True)) / X.std(axis=-1, keepdims=True) with "
                f"units={STANDARDIZED!r}, which gives each lead its typical amplitude back."
            )
    return None


def _gained(amplitudes: Sequence[Amplitude], spec: InputSpec) -> str | None:
    """Judge whether records are too large or too small, where the encoder does not bring them to one size itself."""
    few = len(amplitudes) < _FEWEST_RECORDS or sum(amplitude.n_leads for amplitude in amplitudes) < _FEWEST_LEADS
    named = 2 * sum(amplitude.is_named for amplitude in amplitudes) >= len(amplitudes)
    gain = float(np.median([amplitude.gain for amplitude in amplitudes]))
    if few or named or spec.normalization in ("record", "whole", "minmax") or _GAINS[0] <= gain <= _GAINS[1]:
        return None
    return (
        f"Got {_records(amplitudes)} with amplitudes {gain:.2g} times those typical of an ECG in mV, in the middle of "
        f"the batch; expected {_GAINS[0]:g} to {_GAINS[1]:g} times. Divide by the gain of the recorder (steps a mV), "
        f"pass the unit (units=...), or units={STANDARDIZED!r} where each lead was divided by its own."
    )


def _records(amplitudes: Sequence[Amplitude]) -> str:
    return f"{len(amplitudes)} records" if len(amplitudes) > 1 else "a record"
