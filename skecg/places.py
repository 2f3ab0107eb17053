"""Where the windows of records lie: their starts, and what of them is signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skecg.errors import ParameterError
from skecg.resampling import resampled_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skecg.records import ECGRecord
    from skecg.screening import Policies, Screening
    from skecg.spec import InputSpec

__all__ = ["Places", "check_stride", "count_windows", "place_windows", "prepared_samples"]


class Places(NamedTuple):
    """Where the windows of R records lie, and what is there: all of W :class:`skecg.windows.Windows` but the values.

    Parameters
    ----------
    owner, start_samples, valid_samples, lead_mask
        As in :class:`skecg.windows.Windows`.
    first : ndarray of shape (R + 1,), int64
        Number of each record's first window, and of all windows.
    present : ndarray of shape (R, n_leads), bool
        False where a lead is absent, whether or not the encoder is told to leave it out.
    """

    owner: NDArray[np.int64]
    start_samples: NDArray[np.int64]
    valid_samples: NDArray[np.int64]
    lead_mask: NDArray[np.bool_]
    first: NDArray[np.int64]
    present: NDArray[np.bool_]


def place_windows(
    records: Sequence[ECGRecord],
    screenings: Sequence[Screening],
    spec: InputSpec,
    *,
    stride: float | None,
    policies: Policies,
) -> Places:
    """Say where the windows of records lie that :func:`skecg.screening.screen` has let through."""
    stride_samples = check_stride(stride, spec)
    lengths = [prepared_samples(record, spec) for record in records]
    starts = [_window_starts(length, spec.window_samples, stride_samples) for length in lengths]
    counts = np.array([len(some) for some in starts], dtype=np.int64)
    present = np.array([[bool(source) for source in screening.sources] for screening in screenings], dtype=np.bool_)
    present = present.reshape(len(records), spec.n_leads)
    leave_out = policies.missing_leads == "subset" or (policies.missing_leads == "raise" and spec.any_leads)
    return Places(
        owner=np.repeat(np.arange(len(records)), counts),
        start_samples=np.array([start for some in starts for start in some], dtype=np.int64),
        valid_samples=np.repeat(np.minimum(np.array(lengths, dtype=np.int64), spec.window_samples), counts),
        lead_mask=np.repeat(present | (not leave_out), counts, axis=0),
        first=np.concatenate([[0], np.cumsum(counts)]),
        present=present,
    )


def check_stride(stride: float | None, spec: InputSpec) -> int:
    """Check a stride in seconds (None for the window's length) and give it in samples of the encoder."""
    if stride is None:
        return spec.window_samples
    number = isinstance(stride, int | float | np.number) and not isinstance(stride, bool)
    if not number or not 0 < stride <= spec.window_seconds * (1 + 1e-9):
        raise ParameterError(
            f"Got stride={stride!r}, expected seconds above 0 and no more than the window's {spec.window_seconds:g} s, "
            "so that the windows cover the record."
        )
    return min(spec.window_samples, max(1, round(float(stride) * spec.sampling_rate)))


def prepared_samples(record: ECGRecord, spec: InputSpec) -> int:
    """Give the length of a record at the encoder's rate."""
    return resampled_samples(record.n_samples, record.sampling_rate, spec.sampling_rate, spec.resampling)


def count_windows(record: ECGRecord, spec: InputSpec, *, stride: float | None) -> int:
    """Say how many windows a record has."""
    last = max(0, prepared_samples(record, spec) - spec.window_samples)
    return -(-last // check_stride(stride, spec)) + 1


def _window_starts(n_samples: int, window_samples: int, stride_samples: int) -> list[int]:
    """Say where windows start: at multiples of the stride, and the last one so that it ends with the record."""
    last = max(0, n_samples - window_samples)
    return [*range(0, last, stride_samples), last]
