"""Records prepared chunk by chunk, with the records themselves at hand: labels and answers are at their rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import SkecgError
from skecg.finetuning.prepared import prepare_in_chunks
from skecg.inputs import RecordSource
from skecg.records import ECGRecord
from skecg.screening import Policies
from skecg.segmenting.stitching import window_labels
from skecg.segmenting.tracks import read_track
from skecg.spec import InputSpec
from skecg.windows import Windows

__all__ = ["label_windows", "prepared_records"]


class _Remembering(RecordSource):
    """A source of records that keeps those it gave last."""

    def __init__(self, source: RecordSource) -> None:
        vars(self).update(vars(source))
        self.last: list[ECGRecord] = []

    def read(self, rows: Sequence[int], n_jobs: int | None = None) -> list[ECGRecord | SkecgError]:
        """Make several records; what cannot be made gives its error in its place."""
        found = super().read(rows, n_jobs)
        self.last = [record for record in found if isinstance(record, ECGRecord)]
        return found


def prepared_records(
    source: RecordSource, spec: InputSpec, policies: Policies, *, stride_seconds: float | None, n_jobs: int | None
) -> Iterator[tuple[list[ECGRecord], Windows]]:
    """Read and prepare records, some at a time, and give them with their windows.

    Raises
    ------
    InputError, RecordReadError
        For the first record that cannot be used; a note says which it is.
    """
    remembering = _Remembering(source)
    for windows in prepare_in_chunks(remembering, spec, policies, stride_seconds=stride_seconds, n_jobs=n_jobs):
        yield remembering.last, windows


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
