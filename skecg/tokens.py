"""Features token by token, each with its lead and its place in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skecg.backends import encoder_on
from skecg.embedding import CHUNK_RECORDS
from skecg.encoders import Encoder
from skecg.encoding import encode_tokens, token_grid, workers
from skecg.errors import SkecgError
from skecg.inputs import RecordSource
from skecg.recipe import Recipe
from skecg.records import ECGRecord
from skecg.windows import Windows, prepare

__all__ = ["RecordTokens", "embed_tokens"]


@dataclass(frozen=True, eq=False)
class RecordTokens:
    """The tokens of one record.

    Parameters
    ----------
    values : ndarray of shape (n_tokens, dim), float32
        Several layers are concatenated along the last axis.
    start_seconds, stop_seconds : ndarray of shape (n_tokens,), float64
        What each token sees, from the record's beginning. Windows of a long record may overlap at its end.
    leads : ndarray of shape (n_tokens,), str
        The lead that each token sees, or ``"all"``.
    """

    values: NDArray[np.float32]
    start_seconds: NDArray[np.float64]
    stop_seconds: NDArray[np.float64]
    leads: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.values)


def embed_tokens(source: RecordSource, recipe: Recipe) -> list[RecordTokens]:
    """Embed records without pooling, raising the first error there is."""
    encoders = [encoder_on(recipe.backend, recipe.info, device, recipe.encoding.precision) for device in recipe.devices]
    found: list[RecordTokens] = []
    for start in range(0, len(source), CHUNK_RECORDS):
        records = source.read(range(start, min(start + CHUNK_RECORDS, len(source))), recipe.encoding.n_jobs)
        good = [_or_raise(record) for record in records]
        with workers(recipe.encoding.n_jobs):  # so that NumPy's threads do not stand in the way of the encoder's
            windows = prepare(
                good,
                recipe.info.spec,
                stride=recipe.stride_seconds,
                missing_leads=recipe.missing_leads,
                short_records=recipe.short_records,
            )
        tokens = encode_tokens(encoders, windows, recipe.encoding)
        found += [_join(encoders[0], windows, tokens, np.flatnonzero(windows.owner == i)) for i in range(len(good))]
    return found


def _or_raise(record: ECGRecord | SkecgError) -> ECGRecord:
    if isinstance(record, SkecgError):
        raise record
    return record


def _join(
    encoder: Encoder, windows: Windows, tokens: list[NDArray[np.float32]], rows: NDArray[np.intp]
) -> RecordTokens:
    """Put the tokens of a record's windows together, with their places."""
    rate, patch = windows.spec.sampling_rate, encoder.config.patch_samples
    leads: list[str] = []
    starts: list[NDArray[np.float64]] = []
    for row in rows:
        names, slices = token_grid(encoder, windows, int(row))
        leads += names
        starts.append((windows.start_samples[row] + slices * patch) / rate)
    start_seconds = np.concatenate(starts)
    return RecordTokens(
        np.concatenate([tokens[row] for row in rows]), start_seconds, start_seconds + patch / rate, np.array(leads)
    )
