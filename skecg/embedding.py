"""Records to features: make ready, encode, pool, remember; chunk by chunk, in flat memory."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skecg.backends import encoder_on
from skecg.embedding_cache import EmbeddingCache
from skecg.encoding import encode_windows
from skecg.errors import BadSignalError, SkecgError
from skecg.inputs import RecordSource
from skecg.pooling import pool_windows
from skecg.portions import Portion, ready_portions
from skecg.recipe import Recipe
from skecg.records import ECGRecord

__all__ = ["CHUNK_RECORDS", "Chunk", "Recipe", "chunk_rows", "embed_chunks"]

#: Records read, prepared and encoded together.
CHUNK_RECORDS = 64


@dataclass(frozen=True)
class Chunk:
    """What became of some consecutive records.

    Parameters
    ----------
    rows : sequence of int
        Their numbers.
    features : ndarray of shape (n_rows, n_features), float32
        NaN where a record failed.
    failures : dict of int to SkecgError
        Why, by the record's number.
    notes : dict of int to tuple of str
        What is odd about the records that were encoded; :func:`skecg.screening.warn_once_a_kind` puts it in words.
    """

    rows: Sequence[int]
    features: NDArray[np.float32]
    failures: dict[int, SkecgError] = field(default_factory=dict)
    notes: dict[int, tuple[str, ...]] = field(default_factory=dict)


def embed_chunks(
    source: RecordSource,
    recipe: Recipe,
    cache: EmbeddingCache | None = None,
    *,
    first: int = 0,
    n_jobs: int | None = None,
) -> Generator[Chunk, None, None]:
    """Embed records, :data:`CHUNK_RECORDS` at a time.

    Parameters
    ----------
    source : RecordSource
    recipe : Recipe
    cache : EmbeddingCache, optional
        Where embeddings are looked up and remembered, record by record. Equal records are embedded once with it, and
        each by itself without: that they are equal would cost a digest of every record to know.
    first : int, default=0
        Number of the first record to embed.
    n_jobs : int, optional
        Files read at once.

    Yields
    ------
    Chunk

    Notes
    -----
    Cores share the work on a CPU: they name and prepare a portion of records, then encode it. Where an accelerator
    encodes, the next portion is read and made ready meanwhile, so that two are held at a time; and it prepares records
    itself where it can (:mod:`skecg.preparation_on_device`). Neither changes errors, their order or, but for rounding,
    results.
    """
    chunks = chunk_rows(len(source), first)
    parts: list[Chunk] = []
    lately: dict[bytes, NDArray[np.float32]] = {}
    with contextlib.closing(ready_portions(source, chunks, recipe, cache, n_jobs)) as portions:
        for portion in portions:
            part, lately = _embed(portion, recipe, cache, lately)
            parts.append(part)
            chunk, ends = portion.chunk, portion.ends_chunk
            del portion  # its records would stay in memory while others are read
            if ends:
                yield part if len(parts) == 1 else _joined(chunk, parts)
                parts = []


def chunk_rows(n_records: int, first: int = 0) -> list[range]:
    """Divide the numbers of records, from the first one on, into chunks."""
    return [range(i, min(i + CHUNK_RECORDS, n_records)) for i in range(first, n_records, CHUNK_RECORDS)]


def _joined(rows: Sequence[int], parts: Sequence[Chunk]) -> Chunk:
    """Put the portions of a chunk together again."""
    return Chunk(
        rows,
        np.concatenate([part.features for part in parts]),
        {row: error for part in parts for row, error in part.failures.items()},
        {row: note for part in parts for row, note in part.notes.items()},
    )


def _embed(
    portion: Portion, recipe: Recipe, cache: EmbeddingCache | None, lately: Mapping[bytes, NDArray[np.float32]]
) -> tuple[Chunk, dict[bytes, NDArray[np.float32]]]:
    """Embed a portion, and give what is new with it.

    A portion may have been looked up before the last one was embedded: `lately` is what the cache could not know yet.
    """
    vectors, not_finite = _encode_fresh(portion, recipe)
    news = {name: vector for name, vector in vectors.items() if name not in lately}
    if cache is not None and news:
        cache.put(news)
    found = {**news, **lately, **portion.known}
    refused = {**portion.refused, **not_finite}
    failures = {row: r for row, r in zip(portion.rows, portion.records, strict=True) if isinstance(r, SkecgError)}
    features = np.full((len(portion.rows), recipe.n_features), np.nan, dtype=np.float32)
    for row, name in portion.names.items():
        if name in found:
            features[row - portion.rows[0]] = found[name]
        else:
            failures[row] = refused[name]
    odd = {row: portion.notes[n] for row, n in portion.names.items() if n in portion.notes and n not in lately}
    return Chunk(portion.rows, features, failures, odd), news


def _encode_fresh(portion: Portion, recipe: Recipe) -> tuple[dict[bytes, NDArray[np.float32]], dict[bytes, SkecgError]]:
    """Encode what is fresh: features of the records that have any, and reasons of those that do not."""
    windows, fresh = portion.windows_on(recipe.devices[0]), portion.fresh
    if windows is None:
        return {}, {}
    encoders = [encoder_on(recipe.backend, recipe.info, device, recipe.encoding.precision) for device in recipe.devices]
    pooled = pool_windows(encode_windows(encoders, windows, recipe.encoding), windows.owner, len(fresh))
    vectors, refused = {}, {}
    for (name, record), vector in zip(fresh.items(), pooled, strict=True):
        if np.isfinite(vector).all():
            vectors[name] = vector
        else:
            refused[name] = _not_finite(record)
    return vectors, refused


def _not_finite(record: ECGRecord) -> SkecgError:
    return BadSignalError(
        f"The features of record {record.name!r} are not finite; its values are too large to embed "
        f"(up to {np.nanmax(np.abs(record.signal)):.3g} mV). Check its units."
    )
