"""Labels of records, at their rates, to those of their windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.records import ECGRecord
from skecg.segmenting.stitching import window_labels
from skecg.segmenting.tracks import read_track
from skecg.windows import Windows

__all__ = ["label_windows"]


def label_windows(
    records: Sequence[ECGRecord], windows: Windows, items: Sequence[Any], target: str, first_row: int
) -> NDArray[np.int8]:
    """Label the samples of windows.

    Parameters
    ----------
    records : sequence of ECGRecord
    windows : Windows
        Of these records.
    items : sequence
        What is known of each record, see :func:`skecg.segmenting.tracks.read_track`.
    target : str
    first_row : int
        Number of the first of these records in all.

    Returns
    -------
    ndarray of shape (n_windows, window_samples), int8
    """
    spec = windows.spec
    tracks = [read_track(item, records[i], target, first_row + i) for i, item in enumerate(items)]
    return np.stack(
        [
            window_labels(
                tracks[owner], records[owner].sampling_rate, spec.sampling_rate, start, n_valid, spec.window_samples
            )
            for owner, start, n_valid in zip(
                windows.owner.tolist(), windows.start_samples.tolist(), windows.valid_samples.tolist(), strict=True
            )
        ]
    )
