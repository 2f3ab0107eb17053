"""Records to features: batches made ready, encoded, pooled and kept; chunk by chunk, in flat memory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from skecg.backends import encoder_on
from skecg.compute.notebook import html_facts
from skecg.compute.progress import Progress, count_progress
from skecg.embedding_cache import EmbeddingCache, WhilePossible
from skecg.encoders import Encoder
from skecg.encoders.encode import counted_tokens, encode_tokens, encode_windows, token_distance, token_grid
from skecg.encoders.pooling import pool_windows
from skecg.errors import BadSignalError, SignalWarning, SkecgError, user_stacklevel
from skecg.inference.batches import EmbeddingConfig, PreparedBatch, prepare_batches, read_batches, screen_records
from skecg.inference.inputs import RecordSource
from skecg.preprocessing.on_device import WindowsOnDevice
from skecg.preprocessing.quality import Policies, leads_used, warn_once_a_kind
from skecg.preprocessing.units import Amplitude, warn_about_units
from skecg.preprocessing.windows import Windows, prepare_screened, prepared_rate
from skecg.records import ECGRecord
from skecg.spec import InputSpec
from skecg.weights import read_directions

__all__ = [
    "CHUNK_RECORDS",
    "Chunk",
    "ON_BAD_RECORD",
    "RecordTokens",
    "chunk_rows",
    "embed_chunks",
    "embed_tokens",
    "fill_features",
    "prepare_chunks",
]

#: Records read, prepared and encoded together.
CHUNK_RECORDS = 64  # 15 MB of ten seconds of twelve leads at 500 Hz

#: What to do about records that cannot be embedded.
ON_BAD_RECORD = ("raise", "warn", "nan")

_SHOWN = 3


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
        What is odd about the records that were encoded, in the words of :mod:`skecg.preprocessing.quality`.
    amplitudes : dict of int to Amplitude or None
        What the records tell of the unit of their batch; :func:`skecg.preprocessing.units.warn_about_units` judges it.
    leads : dict of int to tuple of str
        Leads of the encoder that each record has, or has others to derive them from; none where a record failed.
    """

    rows: Sequence[int]
    features: NDArray[np.float32]
    failures: dict[int, SkecgError] = field(default_factory=dict)
    notes: dict[int, tuple[str, ...]] = field(default_factory=dict)
    amplitudes: dict[int, Amplitude | None] = field(default_factory=dict)
    leads: dict[int, tuple[str, ...]] = field(default_factory=dict)


def embed_chunks(
    source: RecordSource,
    config: EmbeddingConfig,
    cache: EmbeddingCache | None = None,
    *,
    first: int = 0,
    n_jobs: int | None = None,
) -> Generator[Chunk, None, None]:
    """Embed records, :data:`CHUNK_RECORDS` at a time.

    Parameters
    ----------
    source : RecordSource
    config : EmbeddingConfig
    cache : EmbeddingCache, optional
        Where embeddings are looked up and remembered, record by record. Equal records are embedded once with it, and
        each by itself without: that they are equal would cost a digest of every record to know. One that is full,
        read-only or out of reach costs a CacheWarning, and embedding goes on.
    first : int, default=0
        Number of the first record to embed.
    n_jobs : int, optional
        Files read at once.

    Yields
    ------
    Chunk

    Notes
    -----
    Cores share the work on a CPU: they digest and prepare a batch of records, then encode it. Where an accelerator
    encodes, the next batch is read and made ready meanwhile, so that two are held at a time; and it prepares records
    itself where it can (:mod:`skecg.preprocessing.on_device`). Neither changes errors, their order or, but for
    rounding, results.
    """
    if config.truncate_dim is not None:
        directions, n = read_directions(config.info), config.truncate_dim
        for whole in embed_chunks(source, config.whole, cache, first=first, n_jobs=n_jobs):
            yield replace(whole, features=directions.project(whole.features, n))
        return
    chunks = chunk_rows(len(source), first)
    parts: list[Chunk] = []
    previous: dict[bytes, NDArray[np.float32]] = {}
    store = None if cache is None else WhilePossible(cache)
    # Closed at once, also when the caller stops halfway: a thread may be reading ahead.
    with contextlib.closing(prepare_batches(source, chunks, config, store, n_jobs)) as batches:
        for batch in batches:
            part, previous = _embed(batch, config, store, previous)
            parts.append(part)
            chunk, ends = batch.chunk, batch.ends_chunk
            del batch  # its records would stay in memory while others are read
            if ends:
                yield part if len(parts) == 1 else _joined(chunk, parts)
                parts = []


def chunk_rows(n_records: int, first: int = 0) -> list[range]:
    """Divide the numbers of records, from the first one on, into chunks."""
    return [range(i, min(i + CHUNK_RECORDS, n_records)) for i in range(first, n_records, CHUNK_RECORDS)]


def prepare_chunks(
    source: RecordSource,
    spec: InputSpec,
    policies: Policies,
    *,
    stride_seconds: float | None = None,
    n_jobs: int | None = None,
    title: str = "reading",
    verbose: int = 0,
) -> Iterator[tuple[list[ECGRecord], Windows]]:
    """Read, screen and prepare records on the CPU, chunk by chunk; warn once a kind at the end.

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
    amplitudes: list[Amplitude | None] = []
    with count_progress(len(source), title, "record", verbose=verbose) as bar:
        for chunk in chunk_rows(len(source)):
            for rows, read in read_batches(source, chunk, n_jobs, keep_steps=False):
                records = {row: record for row, record in zip(rows, read, strict=True) if isinstance(record, ECGRecord)}
                screenings, refused = screen_records(records, spec, policies)
                _raise_first(rows, read, refused)
                notes += [screening.notes for screening in screenings.values()]
                amplitudes += [screening.amplitude for screening in screenings.values()]
                usable, screened = list(records.values()), list(screenings.values())
                yield usable, prepare_screened(usable, screened, spec, stride=stride_seconds, policies=policies)
                bar.update(len(rows))
    # At the end and by kinds: a thousand flat leads are one line, not a thousand.
    warn_once_a_kind(notes, list(map(source.label, range(len(notes)))))
    warn_about_units(amplitudes, spec)
    source.warn_of_unmet_leads()


def _joined(rows: Sequence[int], parts: Sequence[Chunk]) -> Chunk:
    """Put the batches of a chunk together again."""
    return Chunk(
        rows,
        np.concatenate([part.features for part in parts]),
        {row: error for part in parts for row, error in part.failures.items()},
        {row: note for part in parts for row, note in part.notes.items()},
        {row: amplitude for part in parts for row, amplitude in part.amplitudes.items()},
        {row: leads for part in parts for row, leads in part.leads.items()},
    )


def _embed(
    batch: PreparedBatch,
    config: EmbeddingConfig,
    cache: WhilePossible | None,
    previous: Mapping[bytes, NDArray[np.float32]],
) -> tuple[Chunk, dict[bytes, NDArray[np.float32]]]:
    """Embed a batch; return its chunk and the features that are new.

    A batch may have been looked up before the last one was embedded: `previous` is what the cache could not know yet.
    """
    vectors, not_finite = _encode_fresh(batch, config)
    new = {name: vector for name, vector in vectors.items() if name not in previous}
    if cache is not None and new:
        cache.put(new)
    found = {**new, **previous, **batch.known}
    refused = {**batch.refused, **not_finite}
    failures = {row: r for row, r in zip(batch.rows, batch.records, strict=True) if isinstance(r, SkecgError)}
    # NaN from the start: a row that nobody fills must not hold what was in memory.
    features = np.full((len(batch.rows), config.n_features), np.nan, dtype=np.float32)
    for row, name in batch.keys.items():
        if name in found:
            features[row - batch.rows[0]] = found[name]
        else:
            failures[row] = refused[name]
    notes = {row: batch.notes[n] for row, n in batch.keys.items() if n in batch.notes and n not in previous}
    amplitudes = {row: batch.amplitudes[n] for row, n in batch.keys.items() if n in batch.amplitudes}
    leads = {
        row: leads_used(record, config.info.spec)
        for row, record in zip(batch.rows, batch.records, strict=True)
        if isinstance(record, ECGRecord) and row not in failures
    }
    return Chunk(batch.rows, features, failures, notes, amplitudes, leads), new


def _encode_fresh(
    batch: PreparedBatch, config: EmbeddingConfig
) -> tuple[dict[bytes, NDArray[np.float32]], dict[bytes, SkecgError]]:
    """Encode what is fresh: features of the records that have any, and reasons of those that do not."""
    if not batch.n_windows:
        return {}, {}
    encoders = [encoder_on(config.backend, config.info, device, config.encoding.precision) for device in config.devices]
    vectors_of_windows = np.empty((batch.n_windows, config.n_features), dtype=np.float32)
    owner, n_encoded = np.empty(batch.n_windows, dtype=np.int64), 0
    for windows in batch.windows_on(config.devices[0]):
        rows = slice(n_encoded, n_encoded := n_encoded + len(windows))
        vectors_of_windows[rows] = encode_windows(encoders, windows, config.encoding)
        owner[rows] = windows.owner
        del windows  # they would stay in memory while others are made
    pooled = pool_windows(vectors_of_windows, owner, len(batch.fresh))
    vectors, refused = {}, {}
    for (name, record), vector in zip(batch.fresh.items(), pooled, strict=True):
        # Before it is kept: a cache would hand NaN on for ever.
        if np.isfinite(vector).all():
            vectors[name] = vector
        else:
            refused[name] = _not_finite(record)
    return vectors, refused


def _not_finite(record: ECGRecord) -> SkecgError:
    return BadSignalError(
        f"The features of record {record.name!r} are not finite; its values are too large to embed "
        f"(up to {max(np.fmax.reduce(record.signal, axis=None), -np.fmin.reduce(record.signal, axis=None)):.3g} mV). "
        "Check its units."
    )


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
    counted : ndarray of shape (n_tokens,), bool, optional
        Which tokens the encoder's own mean counts: xECG leaves out those of slices that begin with zeros in all leads,
        which are padding to it. All of them when not given.
    """

    values: NDArray[np.float32]
    start_seconds: NDArray[np.float64]
    stop_seconds: NDArray[np.float64]
    leads: NDArray[np.str_]
    counted: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {fact}" for name, fact in self._facts().items())
        return f"RecordTokens({len(self)} of dimension {self.values.shape[1]}: {facts})"

    def _repr_html_(self) -> str:
        return html_facts(f"{len(self)} tokens of dimension {self.values.shape[1]}", self._facts())

    def _facts(self) -> dict[str, str]:
        leads = ", ".join(dict.fromkeys(self.leads.tolist()))
        if not len(self):
            return {"leads": leads}
        each = float(np.median(self.stop_seconds - self.start_seconds))
        return {
            "leads": leads,
            "from": f"{self.start_seconds.min():g} to {self.stop_seconds.max():g} s",
            "each": f"{each:g} s",
        }


def embed_tokens(source: RecordSource, config: EmbeddingConfig) -> list[RecordTokens]:
    """Embed records without pooling, raising the first error there is."""
    token_samples = token_distance(config.info.encoder, config.encoding.layers)
    encoders = [encoder_on(config.backend, config.info, device, config.encoding.precision) for device in config.devices]
    chunks, n_jobs = chunk_rows(len(source)), config.encoding.n_jobs
    found: list[RecordTokens] = []
    notes: dict[int, tuple[str, ...]] = {}
    amplitudes: list[Amplitude | None] = []
    with contextlib.closing(prepare_batches(source, chunks, config, None, n_jobs)) as batches:
        for batch in batches:
            refused = {row: batch.refused[key] for row, key in batch.keys.items() if key in batch.refused}
            _raise_first(batch.rows, batch.records, refused)
            parts: dict[int, list[RecordTokens]] = {}
            for windows in batch.windows_on(config.devices[0]):
                tokens = encode_tokens(encoders, windows, config.encoding)
                for i in np.unique(windows.owner).tolist():
                    record = batch.records[i]
                    assert not isinstance(record, SkecgError), "raised above"
                    rate = prepared_rate(record, windows.spec)
                    part = _join(encoders[0], windows, tokens, np.flatnonzero(windows.owner == i), token_samples, rate)
                    parts.setdefault(i, []).append(part)
            found += [_one_after_the_other(parts[i]) for i in range(len(batch.rows))]
            notes |= {row: batch.notes[name] for row, name in batch.keys.items()}
            amplitudes += batch.amplitudes.values()
            del batch, windows, tokens, parts  # they would stay in memory while others are read
    warn_once_a_kind(list(notes.values()), list(map(source.label, notes)))
    warn_about_units(amplitudes, config.info.spec)
    source.warn_of_unmet_leads()
    return found


def _raise_first(
    rows: Sequence[int], records: Sequence[ECGRecord | SkecgError], refused: Mapping[int, SkecgError]
) -> None:
    """Raise the error of the first record that has one, from reading or from screening."""
    for row, record in zip(rows, records, strict=True):
        error = record if isinstance(record, SkecgError) else refused.get(row)
        if error is not None:
            # A note and not another error, so that its class and its text stay what they were.
            error.add_note(f"This is record {row} of X.")
            raise error


def _join(
    encoder: Encoder,
    windows: Windows | WindowsOnDevice,
    tokens: list[NDArray[np.float32]],
    rows: NDArray[np.intp],
    token_samples: int,
    rate: float,
) -> RecordTokens:
    """Put the tokens of a record's windows together, with their places in time, at the rate of the windows."""
    leads = list[str]()
    starts: list[NDArray[np.float64]] = []
    for row in rows:
        names, slices = token_grid(encoder, windows, int(row), len(tokens[row]))
        leads += names
        starts.append((windows.start_samples[row] + slices * token_samples) / rate)
    start_seconds = np.concatenate(starts)
    values = np.concatenate([tokens[row] for row in rows])
    counted = np.concatenate([counted_tokens(encoder, windows, int(row), len(tokens[row])) for row in rows])
    return RecordTokens(values, start_seconds, start_seconds + token_samples / rate, np.array(leads), counted)


def _one_after_the_other(parts: list[RecordTokens]) -> RecordTokens:
    """Put parts of a record together that were encoded one after the other."""
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in fields(RecordTokens)]
    return RecordTokens(*[np.concatenate([getattr(part, name) for part in parts]) for name in names])


def fill_features(
    chunks: Iterable[Chunk],
    features: NDArray[np.float32],
    progress: Progress,
    spec: InputSpec,
    label: Callable[[int], str],
    *,
    on_bad_record: str,
) -> tuple[dict[int, str], list[tuple[str, ...]]]:
    """Write the features of chunks into a table; return the reasons of its rows of NaN, and the leads of each record.

    The table is of shape (n_records, n_features); `label` names a record in messages.

    Warnings come at the end, one a kind; errors at once, unless `on_bad_record` makes rows of NaN of them.
    """
    bad_records: dict[int, str] = {}
    notes: dict[int, tuple[str, ...]] = {}
    amplitudes: list[Amplitude | None] = []
    leads: list[tuple[str, ...]] = []
    with progress.whole():
        for chunk in chunks:
            with progress.chunk(len(chunk.rows)):
                bad_records |= _reasons(chunk, on_bad_record)
                notes |= chunk.notes
                amplitudes += chunk.amplitudes.values()
                leads += [chunk.leads.get(row, ()) for row in chunk.rows]
                features[chunk.rows[0] : chunk.rows[-1] + 1] = chunk.features
    warn_once_a_kind(list(notes.values()), list(map(label, notes)))
    warn_about_units(amplitudes, spec)
    if bad_records and on_bad_record == "warn":
        shown = "; ".join(f"{row}: {reason}" for row, reason in list(bad_records.items())[:_SHOWN])
        warnings.warn(
            f"{len(bad_records)} of {len(features)} records could not be embedded and have rows of NaN ({shown}"
            f"{'; …' if len(bad_records) > _SHOWN else ''}). All reasons are in bad_records_.",
            SignalWarning,
            stacklevel=user_stacklevel(),
        )
    return bad_records, leads


def _reasons(chunk: Chunk, on_bad_record: str) -> dict[int, str]:
    """Return why records failed, or raise the first failure with a hint at what else can be done."""
    for row, error in chunk.failures.items():
        if on_bad_record == "raise":
            error.add_note(f"This is record {row} of X. on_bad_record='warn' gives such records a row of NaN instead.")
            raise error
    return {row: f"{type(error).__name__}: {error}" for row, error in chunk.failures.items()}
