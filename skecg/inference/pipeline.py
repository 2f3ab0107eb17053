"""What comes before the encoder: records read, named, looked up, screened and prepared, a portion at a time.

Records to features: make ready, encode, pool, remember; chunk by chunk, in flat memory.

Everything that shapes an embedding, as one value.

Features token by token, each with its lead and its place in time.

Chunks of embeddings to one table, with what a user should hear about on the way.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import NDArray

from skecg.backends import encoder_on
from skecg.compute.devices import in_order, one_ahead
from skecg.compute.progress import count_progress
from skecg.embedding_cache import EmbeddingCache, key_function, salt_of
from skecg.encoders import Encoder
from skecg.encoders.encode import Encoding, encode_tokens, encode_windows, token_grid, workers
from skecg.encoders.pooling import n_pooled_features, pool_windows
from skecg.errors import BadSignalError, InputError, SignalWarning, SkecgError, user_stacklevel
from skecg.inference.inputs import RecordSource
from skecg.io.wfdb_signals import held_bytes
from skecg.preprocessing.on_device import GatheredLeads, WindowsOnDevice, can_prepare_on_device, gather, prepares
from skecg.preprocessing.quality import Policies, Screening, record_label, screen, warn_once_a_kind
from skecg.preprocessing.windows import Windows, prepare_screened
from skecg.records import ECGRecord
from skecg.spec import InputSpec
from skecg.weights import WeightsInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from skecg.compute.progress import Progress

__all__ = [
    "CHUNK_RECORDS",
    "Chunk",
    "ON_BAD_RECORD",
    "Portion",
    "Recipe",
    "RecordTokens",
    "chunk_rows",
    "embed_chunks",
    "embed_tokens",
    "fill_features",
    "prepare_chunks",
    "ready_portions",
]


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
    def policies(self) -> Policies:
        """What to do about absent leads and short records."""
        return Policies(self.missing_leads, self.short_records)

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


_Key = TypeVar("_Key")

# No more than this of signal is held at once: a chunk of day-long recordings would not fit into memory.
_HELD_BYTES = 2**28


_READ_TOGETHER = 8


_NAMED_TOGETHER = 8


@dataclass(frozen=True, eq=False)
class Portion:
    """Some consecutive records, ready for the encoder.

    Parameters
    ----------
    chunk : range
        Numbers of the records of the chunk that these belong to.
    rows : sequence of int
        Their own numbers.
    records : sequence of ECGRecord or SkecgError
        What was read, or why nothing was.
    names : dict of int to bytes
        What each record goes by, by its number. Equal records have equal names where there is a cache to look them up
        in. Without one nothing is digested: each goes by its number, and equal ones are embedded each.
    known : dict of bytes to ndarray of shape (n_features,)
        What the cache had.
    fresh : dict of bytes to ECGRecord
        What is to be embedded: the first of each name.
    refused : dict of bytes to SkecgError
        What cannot be, and why.
    notes : dict of bytes to tuple of str
        What is odd about the fresh ones.
    windows : Windows, GatheredLeads or None
        The windows of the fresh ones, or what a device makes them of; None where there are none.
    """

    chunk: range
    rows: Sequence[int]
    records: Sequence[ECGRecord | SkecgError]
    names: dict[int, bytes]
    known: dict[bytes, NDArray[np.float32]]
    fresh: dict[bytes, ECGRecord]
    refused: dict[bytes, SkecgError]
    notes: dict[bytes, tuple[str, ...]]
    windows: Windows | GatheredLeads | None

    def windows_on(self, device: torch.device) -> Windows | WindowsOnDevice | None:
        """Give the windows of the fresh ones, once, prepared on a device if they are to be."""
        return self.windows.prepare(device) if isinstance(self.windows, GatheredLeads) else self.windows

    @property
    def ends_chunk(self) -> bool:
        """Whether no more portions of the chunk follow."""
        return self.rows[-1] == self.chunk[-1]


def ready_portions(
    source: RecordSource,
    chunks: Iterable[range],
    recipe: Recipe,
    cache: EmbeddingCache | None,
    n_jobs: int | None,
) -> Generator[Portion, None, None]:
    """Make portions ready: each when it is asked for or, where an accelerator encodes, while the last one is in use.

    Parameters
    ----------
    source : RecordSource
    chunks : iterable of range
        Numbers of the records, chunk by chunk.
    recipe : Recipe
    cache : EmbeddingCache or None
    n_jobs : int or None
        Files read at once.

    Yields
    ------
    Portion
    """
    salt, keep_steps, overlaps = recipe.salt, prepares(recipe.devices[0]), _overlaps(recipe)
    if overlaps:
        # A thread takes over torch's number of threads when it first asks: this one before another works with its own.
        torch.get_num_threads()
        # What joblib's parallel_config says holds in the caller's thread alone.
        n_jobs = effective_n_jobs(n_jobs)
    portions = (
        _ready(chunk, *some, recipe, cache, salt)
        for chunk in chunks
        for some in _read(source, chunk, n_jobs, keep_steps)
    )
    return one_ahead(portions) if overlaps else portions


def _overlaps(recipe: Recipe) -> bool:
    """Say whether the next portion is made ready while this one is encoded: an accelerator leaves the CPU to it."""
    return any(device.type != "cpu" for device in recipe.devices)


def _read(
    source: RecordSource, rows: Sequence[int], n_jobs: int | None, keep_steps: bool
) -> Iterator[tuple[Sequence[int], list[ECGRecord | SkecgError]]]:
    """Read the records of a chunk, in as many portions as keep each within bounds: one, unless records are long.

    The portions depend on what records take alone, so that a run that is continued computes what one in one go does.
    """
    held: list[ECGRecord | SkecgError] = []
    first = 0
    for start in range(0, len(rows), _READ_TOGETHER):
        held += source.read(rows[start : start + _READ_TOGETHER], n_jobs, keep_steps=keep_steps)
        stop = first + len(held)
        n_bytes = sum(held_bytes(record) for record in held if isinstance(record, ECGRecord))
        if n_bytes > _HELD_BYTES or stop == len(rows):
            yield rows[first:stop], held
            held, first = [], stop


def _ready(
    chunk: range,
    rows: Sequence[int],
    records: Sequence[ECGRecord | SkecgError],
    recipe: Recipe,
    cache: EmbeddingCache | None,
    salt: bytes,
) -> Portion:
    """Name records, look them up, and screen and prepare those that are not known."""
    read = {row: record for row, record in zip(rows, records, strict=True) if isinstance(record, ECGRecord)}
    with workers(recipe.encoding.n_jobs) as n_threads:
        names = _numbered(read) if cache is None else _named(read, cache, salt, n_threads)
        known = {} if cache is None else cache.get(list(names.values()))
        fresh: dict[bytes, ECGRecord] = {}
        for row, record in read.items():
            if names[row] not in known:
                fresh.setdefault(names[row], record)
        screenings, refused = _screened(fresh, recipe.info.spec, recipe.policies)
        fresh = {name: fresh[name] for name in screenings}
        windows = _prepared(list(fresh.values()), list(screenings.values()), recipe, n_threads) if fresh else None
    notes = {name: screening.notes for name, screening in screenings.items()}
    return Portion(chunk, rows, records, names, known, fresh, refused, notes, windows)


def _numbered(records: dict[int, ECGRecord]) -> dict[int, bytes]:
    """Name records by their numbers."""
    return {row: row.to_bytes(8, "little") for row in records}


def _named(records: dict[int, ECGRecord], cache: EmbeddingCache, salt: bytes, n_threads: int) -> dict[int, bytes]:
    """Name records by digests of what they hold."""
    rows, name_of = list(records), key_function(cache)
    groups = [rows[i : i + _NAMED_TOGETHER] for i in range(0, len(rows), _NAMED_TOGETHER)]
    names = in_order(lambda group: [name_of(records[row], salt) for row in group], groups, n_threads)
    return dict(zip(rows, chain.from_iterable(names), strict=True))


def _screened(
    records: Mapping[_Key, ECGRecord], spec: InputSpec, policies: Policies
) -> tuple[dict[_Key, Screening], dict[_Key, SkecgError]]:
    """Screen records: many small steps that hold on to Python's lock, so that more threads would not be faster."""
    screenings: dict[_Key, Screening] = {}
    refused: dict[_Key, SkecgError] = {}
    for name, record in records.items():
        try:
            screenings[name] = screen(record, spec, policies, record_label(record))
        except InputError as error:
            refused[name] = error
    return screenings, refused


def _prepared(
    records: Sequence[ECGRecord], screenings: Sequence[Screening], recipe: Recipe, n_threads: int
) -> Windows | GatheredLeads:
    """Prepare records, or gather what the device where they are encoded prepares."""
    spec, stride, device = recipe.info.spec, recipe.stride_seconds, recipe.devices[0]
    if prepares(device) and can_prepare_on_device(records, spec, stride=stride):
        pinned = device.type == "cuda"
        gathered = gather(records, screenings, spec, stride=stride, policies=recipe.policies, pinned=pinned)
        return gathered.send(device)
    return prepare_screened(records, screenings, spec, stride=stride, policies=recipe.policies, n_threads=n_threads)


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
        What is odd about the records that were encoded, in the words of :mod:`skecg.preprocessing.quality`.
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
    itself where it can (:mod:`skecg.preprocessing.on_device`). Neither changes errors, their order or, but for
    rounding, results.
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
    with count_progress(len(source), title, "record", verbose=verbose) as bar:
        for chunk in chunk_rows(len(source)):
            for rows, read in _read(source, chunk, n_jobs, keep_steps=False):
                records = {row: record for row, record in zip(rows, read, strict=True) if isinstance(record, ECGRecord)}
                screenings, refused = _screened(records, spec, policies)
                _raise_first(rows, read, refused)
                notes += [screening.notes for screening in screenings.values()]
                usable, screened = list(records.values()), list(screenings.values())
                yield usable, prepare_screened(usable, screened, spec, stride=stride_seconds, policies=policies)
                bar.update(len(rows))
    warn_once_a_kind(notes, [f"record {row}" for row in range(len(notes))], stacklevel=user_stacklevel())


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
            _raise_first(
                portion.rows,
                portion.records,
                {row: portion.refused[name] for row, name in portion.names.items() if name in portion.refused},
            )
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


def _raise_first(
    rows: Sequence[int], records: Sequence[ECGRecord | SkecgError], refused: Mapping[int, SkecgError]
) -> None:
    """Raise the error of the first record that has one, from reading or from screening."""
    for row, record in zip(rows, records, strict=True):
        error = record if isinstance(record, SkecgError) else refused.get(row)
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
