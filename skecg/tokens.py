"""Features token by token, each with its lead and its place in time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skecg.backends import encoder_on
from skecg.callers import user_stacklevel
from skecg.embedding import chunk_rows
from skecg.encoders import Encoder
from skecg.encoding import encode_tokens, token_grid
from skecg.errors import SkecgError
from skecg.inputs import RecordSource
from skecg.portions import Portion, ready_portions
from skecg.preparation_on_device import WindowsOnDevice
from skecg.recipe import Recipe
from skecg.screening import warn_once_a_kind
from skecg.windows import Windows

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
    chunks, n_jobs = chunk_rows(len(source)), recipe.encoding.n_jobs
    found: list[RecordTokens] = []
    notes: dict[int, tuple[str, ...]] = {}
    with contextlib.closing(ready_portions(source, chunks, recipe, None, n_jobs)) as portions:
        for portion in portions:
            _raise_first(portion)
            windows = portion.windows_on(recipe.devices[0])
            assert windows is not None, "every record is fresh where there is no cache"
            tokens = encode_tokens(encoders, windows, recipe.encoding)
            found += [
                _join(encoders[0], windows, tokens, np.flatnonzero(windows.owner == i))
                for i in range(len(portion.rows))
            ]
            notes |= {row: portion.notes[name] for row, name in portion.names.items()}
            del portion, windows, tokens  # they would stay in memory while others are read
    warn_once_a_kind(list(notes.values()), [f"record {row}" for row in notes], stacklevel=user_stacklevel())
    return found


def _raise_first(portion: Portion) -> None:
    """Raise the error of the first record that has one."""
    for row, record in zip(portion.rows, portion.records, strict=True):
        error = record if isinstance(record, SkecgError) else portion.refused.get(portion.names[row])
        if error is not None:
            error.add_note(f"This is record {row} of X.")
            raise error


def _join(
    encoder: Encoder, windows: Windows | WindowsOnDevice, tokens: list[NDArray[np.float32]], rows: NDArray[np.intp]
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
