"""Chunks of embeddings to one table, with what a user should hear about on the way."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from skecg.errors import SignalWarning
from skecg.screening import warn_once_a_kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from skecg.embedding import Chunk
    from skecg.progress import Progress

__all__ = ["ON_BAD_RECORD", "fill_features"]

#: What to do about records that cannot be embedded.
ON_BAD_RECORD = ("raise", "warn", "nan")

_SHOWN = 3


def fill_features(
    chunks: Iterable[Chunk],
    features: NDArray[np.float32],
    progress: Progress,
    *,
    on_bad_record: str,
    stacklevel: int,
) -> dict[int, str]:
    """Write the features of chunks into a table (n_records, n_features) and give the reasons of its rows of NaN.

    Warnings come at the end, one a kind; errors at once, unless `on_bad_record` makes rows of NaN of them.
    """
    bad_records: dict[int, str] = {}
    notes: dict[int, tuple[str, ...]] = {}
    with progress.whole():
        for chunk in chunks:
            with progress.chunk(len(chunk.rows)):
                bad_records |= _reasons(chunk, on_bad_record)
                notes |= chunk.notes
                features[chunk.rows[0] : chunk.rows[-1] + 1] = chunk.features
    warn_once_a_kind(list(notes.values()), [f"record {row}" for row in notes], stacklevel=stacklevel + 1)
    if bad_records and on_bad_record == "warn":
        shown = "; ".join(f"{row}: {reason}" for row, reason in list(bad_records.items())[:_SHOWN])
        warnings.warn(
            f"{len(bad_records)} of {len(features)} records could not be embedded and have rows of NaN ({shown}"
            f"{'; …' if len(bad_records) > _SHOWN else ''}). All reasons are in bad_records_.",
            SignalWarning,
            stacklevel=stacklevel + 1,
        )
    return bad_records


def _reasons(chunk: Chunk, on_bad_record: str) -> dict[int, str]:
    """Say why records failed, or raise the first failure with a hint at what else can be done."""
    for row, error in chunk.failures.items():
        if on_bad_record == "raise":
            error.add_note(f"This is record {row} of X. on_bad_record='warn' gives such records a row of NaN instead.")
            raise error
    return {row: f"{type(error).__name__}: {error}" for row, error in chunk.failures.items()}
