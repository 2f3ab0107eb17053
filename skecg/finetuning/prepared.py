"""Prepared windows of many records, held in memory and handed out in parts that may travel together.

Windows of the same leads and the same length go through an encoder together, so that nothing is padded and nothing
absent is computed, as in :mod:`skecg.encoding`. Shapes: B windows, L leads, T samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.callers import user_stacklevel
from skecg.embedding import CHUNK_RECORDS
from skecg.errors import SkecgError
from skecg.inputs import RecordSource
from skecg.progress import count_progress
from skecg.records import ECGRecord
from skecg.screening import Policies, Screening, record_label, screen, warn_once_a_kind
from skecg.spec import InputSpec
from skecg.windows import Windows, prepare_screened

__all__ = ["PreparedWindows", "prepare_in_chunks"]

Rows = NDArray[np.intp]


class PreparedWindows:
    """Windows of records, in the order of the records.

    Parameters
    ----------
    chunks : sequence of Windows
        Of consecutive records; their values are not copied.
    patch_samples : int
        Slice of time of a token: lengths are rounded up to whole ones.

    Attributes
    ----------
    owner : ndarray of shape (n_windows,), int64
        Number of the record that each window is of, over all chunks.
    start_samples, valid_samples : ndarray of shape (n_windows,), int64
    lead_mask : ndarray of shape (n_windows, n_leads), bool
        As in :class:`skecg.windows.Windows`.
    """

    def __init__(self, chunks: Sequence[Windows], patch_samples: int) -> None:
        self.chunks = list(chunks)
        self.patch_samples = patch_samples
        self._first = np.cumsum([0, *(len(chunk) for chunk in self.chunks)])
        n_records = np.cumsum([0, *(int(chunk.owner[-1]) + 1 for chunk in self.chunks)])
        self.owner = np.concatenate([w.owner + first for w, first in zip(self.chunks, n_records, strict=False)])
        self.start_samples = np.concatenate([chunk.start_samples for chunk in self.chunks])
        self.valid_samples = np.concatenate([chunk.valid_samples for chunk in self.chunks])
        self.lead_mask = np.concatenate([chunk.lead_mask for chunk in self.chunks])
        self.n_records = int(n_records[-1])
        self._patches = -(-self.valid_samples // patch_samples)
        kinds = np.column_stack([self.lead_mask, self._patches])
        self._kind = np.unique(kinds, axis=0, return_inverse=True)[1].ravel()

    def __len__(self) -> int:
        return len(self.owner)

    def of_record(self, record: int) -> Rows:
        """Give the numbers of a record's windows."""
        return np.arange(*np.searchsorted(self.owner, [record, record + 1]))

    def parts(self, rows: Rows, most: int) -> list[Rows]:
        """Divide windows into parts of one kind, of at most so many."""
        kinds = self._kind[rows]
        found: list[Rows] = []
        for kind in np.unique(kinds):
            same = rows[kinds == kind]
            found += [same[i : i + most] for i in range(0, len(same), most)]
        return found

    def take(self, rows: Rows, device: torch.device | None = None) -> tuple[Tensor, list[int] | None]:
        """Give windows of one kind as an encoder takes them.

        Returns
        -------
        values : Tensor of shape (B, L, T)
            As long as their signal, rounded up to whole patches.
        leads : list of int or None
            Rows that are present; None when all are.
        """
        present = self.lead_mask[rows[0]]
        n_samples = int(self._patches[rows[0]]) * self.patch_samples
        where = np.searchsorted(self._first, rows, side="right") - 1
        values = [
            self.chunks[c].values[row - self._first[c], :, :n_samples] for c, row in zip(where, rows, strict=True)
        ]
        leads = None if present.all() else np.flatnonzero(present).tolist()
        return torch.from_numpy(np.stack(values)).to(device or "cpu"), leads


def prepare_in_chunks(
    source: RecordSource,
    spec: InputSpec,
    policies: Policies,
    *,
    stride_seconds: float | None = None,
    n_jobs: int | None = None,
    title: str = "reading",
    verbose: int = 0,
) -> Iterator[tuple[list[ECGRecord], Windows]]:
    """Read and prepare records, :data:`skecg.embedding.CHUNK_RECORDS` at a time, warning once a kind at the end.

    Parameters
    ----------
    source : RecordSource
    spec : InputSpec
    policies : Policies
    stride_seconds : float, optional
        From one window of a long record to the next; the window's length when not given.
    n_jobs : int, optional
        Files read at once.
    title : str, default="reading"
        What the progress bar is called.
    verbose : int, default=0
        Whether to show it; a chunk is done when the next is asked for.

    Yields
    ------
    records : list of ECGRecord
    windows : Windows
        Of these records.

    Raises
    ------
    InputError, RecordReadError
        For the first record that cannot be used; a note says which it is.
    """
    notes: list[tuple[str, ...]] = []
    with count_progress(len(source), title, "record", verbose=verbose) as shown:
        for start in range(0, len(source), CHUNK_RECORDS):
            rows = range(start, min(start + CHUNK_RECORDS, len(source)))
            records, screenings = _read(source, rows, spec, policies, n_jobs)
            notes += [screening.notes for screening in screenings]
            yield records, prepare_screened(records, screenings, spec, stride=stride_seconds, policies=policies)
            shown.update(len(rows))
    warn_once_a_kind(notes, [f"record {row}" for row in range(len(notes))], stacklevel=user_stacklevel())


def _read(
    source: RecordSource, rows: Sequence[int], spec: InputSpec, policies: Policies, n_jobs: int | None
) -> tuple[list[ECGRecord], list[Screening]]:
    """Read some records and look them over, raising for the first that cannot be used."""
    records, screenings = [], []
    for row, record in zip(rows, source.read(rows, n_jobs), strict=True):
        try:
            if isinstance(record, SkecgError):
                raise record
            screenings.append(screen(record, spec, policies, record_label(record)))
            records.append(record)
        except SkecgError as error:
            error.add_note(f"This is record {row} of X.")
            raise
    return records, screenings
