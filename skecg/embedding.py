"""Records to features: read, look up, prepare, encode, pool, remember; chunk by chunk, in flat memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from skecg.backends import encoder_on
from skecg.embedding_cache import EmbeddingCache, record_key, salt_of
from skecg.encoding import Encoding, encode_windows
from skecg.errors import BadSignalError, InputError, SkecgError
from skecg.inputs import RecordSource
from skecg.pooling import n_pooled_features, pool_windows
from skecg.records import ECGRecord
from skecg.screening import Policies, Screening, record_label, screen
from skecg.weights import WeightsInfo
from skecg.windows import prepare_screened

__all__ = ["CHUNK_RECORDS", "Chunk", "Recipe", "embed_chunks"]

#: Records read, prepared and encoded together.
CHUNK_RECORDS = 64

# But no more than this of signal is held at once: a chunk of day-long recordings would not fit into memory.
_HELD_BYTES = 2**28
_READ_TOGETHER = 8


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes an embedding.

    Parameters
    ----------
    info : WeightsInfo
        The weights.
    encoding : Encoding
        Pooling, layers, precision (these count) and batch size, workers (these do not).
    devices : tuple of torch.device
        Where encoders run, one on each.
    stride_seconds : float or None
    missing_leads, short_records : str
        Policies of :func:`skecg.prepare`.
    backend : {"torch", "onnx", "openvino"}
        What runs the encoder; it counts, for the last digits are its own.
    """

    info: WeightsInfo
    encoding: Encoding
    devices: tuple[torch.device, ...]
    stride_seconds: float | None = None
    missing_leads: str = "raise"
    short_records: str = "raise"
    backend: str = "torch"

    @property
    def n_features(self) -> int:
        """Number of features of a record."""
        registers = int(getattr(self.info.encoder, "num_registers", 0))
        return n_pooled_features(self.encoding.pooling, self.info.encoder.dim, len(self.encoding.layers), registers)

    @property
    def salt(self) -> bytes:
        """What sets embeddings of this recipe apart from those of any other."""
        depth = self.info.encoder.depth
        return salt_of(
            weights=self.info.digest,
            pooling=self.encoding.pooling,
            layers=[layer % depth for layer in self.encoding.layers],
            precision=self.encoding.precision,
            stride_seconds=self.stride_seconds,
            missing_leads=self.missing_leads,
            short_records=self.short_records,
            backend=self.backend,
        )


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
) -> Iterator[Chunk]:
    """Embed records, :data:`CHUNK_RECORDS` at a time.

    Parameters
    ----------
    source : RecordSource
    recipe : Recipe
    cache : EmbeddingCache, optional
        Where embeddings are looked up and remembered, record by record.
    first : int, default=0
        Number of the first record to embed.
    n_jobs : int, optional
        Files read at once.

    Yields
    ------
    Chunk
    """
    salt = recipe.salt
    for start in range(first, len(source), CHUNK_RECORDS):
        rows = range(start, min(start + CHUNK_RECORDS, len(source)))
        parts = [_embed(some, records, recipe, cache, salt) for some, records in _portions(source, rows, n_jobs)]
        yield parts[0] if len(parts) == 1 else _joined(rows, parts)


def _portions(
    source: RecordSource, rows: Sequence[int], n_jobs: int | None
) -> Iterator[tuple[Sequence[int], list[ECGRecord | SkecgError]]]:
    """Read the records of a chunk, in as many portions as keep each within bounds: one, unless records are long.

    The portions depend on the records alone, so that a run that is continued computes what one in one go does.
    """
    held: list[ECGRecord | SkecgError] = []
    first = 0
    for start in range(0, len(rows), _READ_TOGETHER):
        held += source.read(rows[start : start + _READ_TOGETHER], n_jobs)
        stop = first + len(held)
        n_bytes = sum(record.signal.nbytes for record in held if isinstance(record, ECGRecord))
        if n_bytes > _HELD_BYTES or stop == len(rows):
            yield rows[first:stop], held
            held, first = [], stop


def _joined(rows: Sequence[int], parts: Sequence[Chunk]) -> Chunk:
    """Put the portions of a chunk together again."""
    return Chunk(
        rows,
        np.concatenate([part.features for part in parts]),
        {row: error for part in parts for row, error in part.failures.items()},
        {row: note for part in parts for row, note in part.notes.items()},
    )


def _embed(
    rows: Sequence[int],
    records: Sequence[ECGRecord | SkecgError],
    recipe: Recipe,
    cache: EmbeddingCache | None,
    salt: bytes,
) -> Chunk:
    failures = {row: record for row, record in zip(rows, records, strict=True) if isinstance(record, SkecgError)}
    keys = {row: record_key(r, salt) for row, r in zip(rows, records, strict=True) if isinstance(r, ECGRecord)}
    known = {} if cache is None else cache.get(list(keys.values()))
    # Equal records have equal keys: each is embedded once however often it comes.
    fresh: dict[bytes, ECGRecord] = {}
    for row, record in zip(rows, records, strict=True):
        if isinstance(record, ECGRecord) and keys[row] not in known and keys[row] not in fresh:
            fresh[keys[row]] = record
    found, refused, notes = _encode_fresh(fresh, recipe)
    if cache is not None and found:
        cache.put(found)
    known = {**known, **found}
    features = np.full((len(rows), recipe.n_features), np.nan, dtype=np.float32)
    for position, (row, record) in enumerate(zip(rows, records, strict=True)):
        if row in keys and keys[row] in known:
            features[position] = known[keys[row]]
        elif isinstance(record, ECGRecord):
            failures[row] = refused[keys[row]]
    odd = {row: notes[key] for row, key in keys.items() if key in notes}
    return Chunk(rows, features, failures, odd)


def _encode_fresh(
    fresh: dict[bytes, ECGRecord], recipe: Recipe
) -> tuple[dict[bytes, NDArray[np.float32]], dict[bytes, SkecgError], dict[bytes, tuple[str, ...]]]:
    """Embed records: features of those that can be, reasons of those that cannot, and what is odd about them."""
    refused: dict[bytes, SkecgError] = {}
    good: dict[bytes, ECGRecord] = {}
    screenings: dict[bytes, Screening] = {}
    spec, policies = recipe.info.spec, Policies(recipe.missing_leads, recipe.short_records)
    for key, record in fresh.items():
        try:
            screenings[key] = screen(record, spec, policies, record_label(record))
            good[key] = record
        except InputError as error:
            refused[key] = error
    notes = {key: screening.notes for key, screening in screenings.items()}
    if not good:
        return {}, refused, notes
    windows = prepare_screened(
        list(good.values()), list(screenings.values()), spec, stride=recipe.stride_seconds, policies=policies
    )
    encoders = [encoder_on(recipe.backend, recipe.info, device) for device in recipe.devices]
    vectors = pool_windows(encode_windows(encoders, windows, recipe.encoding), windows.owner, len(good))
    found = {}
    for key, record, vector in zip(good, good.values(), vectors, strict=True):
        if np.isfinite(vector).all():
            found[key] = vector
        else:
            refused[key] = BadSignalError(
                f"The features of record {record.name!r} are not finite; its values are too large to embed "
                f"(up to {np.nanmax(np.abs(record.signal)):.3g} mV). Check its units."
            )
    return found, refused, notes
