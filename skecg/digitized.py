"""Recordings with their digitizer's steps: half the bytes of millivolts, for who sends them to a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skecg.records import ECGRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DigitizedRecord", "held_bytes"]


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


def held_bytes(record: ECGRecord) -> int:
    """Count the bytes of a record's signal, and of its steps if it has them."""
    return record.signal.nbytes + (record.steps.nbytes if isinstance(record, DigitizedRecord) else 0)
