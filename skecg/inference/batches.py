"""Records read, looked up in the cache, screened and prepared: batches that are ready for the encoder."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import NDArray

from skecg.compute.devices import in_order, one_ahead
from skecg.embedding_cache import EmbeddingCache, WhilePossible, key_function, salt_of
from skecg.encoders.encode import Encoding, workers
from skecg.encoders.pooling import n_encoder_features
from skecg.errors import InputError, ParameterError, SkecgError
from skecg.inference.inputs import RecordSource
from skecg.io.wfdb_signals import DigitizedRecord
from skecg.preprocessing.on_device import GatheredLeads, WindowsOnDevice, can_prepare_on_device, gather
from skecg.preprocessing.quality import Policies, Screening, record_label, screen
from skecg.preprocessing.units import Amplitude
from skecg.preprocessing.windows import Windows, WindowStream
from skecg.records import ECGRecord
from skecg.spec import InputSpec
from skecg.validation import check_integer
from skecg.weights import WeightsInfo, read_directions

__all__ = [
    "EmbeddingConfig",
    "PreparedBatch",
    "held_bytes",
    "prepare_batches",
    "prepares",
    "read_batches",
    "screen_records",
]

_Key = TypeVar("_Key")

# What NumPy, SciPy and Python raise for a record that no check of ours foresaw: it costs its row, not the batch.
_NOT_OURS = (MemoryError, ArithmeticError, np.linalg.LinAlgError)

#: What records said about their unit, by the keys of caches; some 300 bytes each.
_AMPLITUDES: dict[bytes, Amplitude | None] = {}
_MOST_AMPLITUDES = 20_000

# No more than this of signal is held at once: a chunk of day-long recordings would not fit into memory.
_HELD_BYTES = 2**28  # 268 MB

_READ_TOGETHER = 8  # the bound is overshot by so many records at most

_KEYS_TOGETHER = 8  # a digest takes 0.1 ms: one alone is not worth handing to a thread


@dataclass(frozen=True)
class EmbeddingConfig:
    """Everything that shapes an embedding: weights, encoding, where and how.

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
    truncate_dim : int or None
        How many coordinates along the weights' principal directions features are cut down to, after the cache.
    """

    info: WeightsInfo
    encoding: Encoding
    devices: tuple[torch.device, ...]
    stride_seconds: float | None = None
    missing_leads: str = "raise"
    short_records: str = "raise"
    backend: str = "torch"
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        depth = len(self.info.encoder.stages)
        is_last = [layer % depth for layer in self.encoding.layers] == [depth - 1]
        if self.encoding.attention is not None and not is_last:
            raise ParameterError(
                f"Got layers {self.encoding.layers} with pooling='attention', which was trained on the last. Leave "
                "layer=None."
            )
        if self.truncate_dim is None:
            return
        check_integer("truncate_dim", self.truncate_dim, 1)
        if self.encoding.pooling != self.info.pooling or not is_last:
            raise ParameterError(
                f"Got truncate_dim={self.truncate_dim} with pooling={self.encoding.pooling!r} and layers "
                f"{self.encoding.layers}, but the weights' directions are of pooling={self.info.pooling!r} and the "
                "last layer. Leave both None."
            )
        n = len(read_directions(self.info))
        if self.truncate_dim > n:
            raise ParameterError(
                f"Got truncate_dim={self.truncate_dim}, but the weights bring {n} directions. Choose 1 to {n}, or None."
            )

    @property
    def whole(self) -> EmbeddingConfig:
        """The same with whole features, as the cache keeps them whatever they are cut down to."""
        return replace(self, truncate_dim=None)

    @property
    def policies(self) -> Policies:
        """What to do about absent leads and short records."""
        return Policies(self.missing_leads, self.short_records)

    @property
    def n_features(self) -> int:
        """Number of features of a record."""
        if self.truncate_dim is not None:
            return self.truncate_dim
        return n_encoder_features(self.encoding.pooling, self.info.encoder, self.encoding.layers)

    @property
    def fingerprint(self) -> bytes:
        """What sets embeddings of this config apart from those of any other."""
        depth = len(self.info.encoder.stages)
        more: dict[str, Any] = {}
        if self.truncate_dim is not None:
            more = {"truncate_dim": self.truncate_dim, "directions": self.info.directions_sha256}
        if self.encoding.attention is not None:
            more["attention"] = self.encoding.attention.sha256
        return salt_of(
            # By content: weights under another name or in another folder are the same weights.
            weights=self.info.digest,
            pooling=self.encoding.pooling,
            # -1 and the last block's number are one layer, and share their embeddings.
            layers=[layer % depth for layer in self.encoding.layers],
            precision=self.encoding.precision,
            stride_seconds=self.stride_seconds,
            missing_leads=self.missing_leads,
            short_records=self.short_records,
            backend=self.backend,
            **more,
        )


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """Consecutive records of a chunk, ready for the encoder: all of them, unless records are long.

    Parameters
    ----------
    chunk : range
        Numbers of the records of the chunk that these belong to.
    rows : sequence of int
        Their own numbers.
    records : sequence of ECGRecord or SkecgError
        What was read, or why nothing was.
    keys : dict of int to bytes
        The key of each record, by its number. Equal records have equal keys where there is a cache to look them up
        in. Without one nothing is digested: each record's key is its number, and equal ones are embedded each.
    known : dict of bytes to ndarray of shape (n_features,)
        What the cache had.
    fresh : dict of bytes to ECGRecord
        What is to be embedded: the first of each key.
    refused : dict of bytes to SkecgError
        What cannot be, and why.
    notes : dict of bytes to tuple of str
        What is odd about the fresh ones.
    amplitudes : dict of bytes to Amplitude or None
        What tells of the unit of the batch: of the fresh ones and, in the first chunk, of those that were known.
    windows : Windows, WindowStream, GatheredLeads or None
        The windows of the fresh ones, or what makes them, some at a time or on a device; None where there are none.
    """

    chunk: range
    rows: Sequence[int]
    records: Sequence[ECGRecord | SkecgError]
    keys: dict[int, bytes]
    known: dict[bytes, NDArray[np.float32]]
    fresh: dict[bytes, ECGRecord]
    refused: dict[bytes, SkecgError]
    notes: dict[bytes, tuple[str, ...]]
    amplitudes: dict[bytes, Amplitude | None]
    windows: Windows | WindowStream | GatheredLeads | None

    @property
    def n_windows(self) -> int:
        """How many windows the fresh ones have."""
        if self.windows is None:
            return 0
        return len(self.windows.layout.owner if isinstance(self.windows, GatheredLeads) else self.windows)

    def windows_on(self, device: torch.device) -> Iterator[Windows | WindowsOnDevice]:
        """Yield the windows of the fresh ones, once, some at a time, prepared on a device if they are to be."""
        if isinstance(self.windows, GatheredLeads):
            yield self.windows.prepare(device)
        elif isinstance(self.windows, WindowStream):
            yield from self.windows
        elif self.windows is not None:
            yield self.windows

    @property
    def ends_chunk(self) -> bool:
        """Whether no more batches of the chunk follow."""
        return self.rows[-1] == self.chunk[-1]


def prepare_batches(
    source: RecordSource,
    chunks: Iterable[range],
    config: EmbeddingConfig,
    cache: EmbeddingCache | WhilePossible | None,
    n_jobs: int | None,
) -> Generator[PreparedBatch, None, None]:
    """Prepare batches: each when it is asked for or, where an accelerator encodes, while the last one is in use.

    Parameters
    ----------
    source : RecordSource
    chunks : iterable of range
        Numbers of the records, chunk by chunk.
    config : EmbeddingConfig
    cache : EmbeddingCache, WhilePossible or None
    n_jobs : int or None
        Files read at once.

    Yields
    ------
    PreparedBatch
    """
    # Without a cache nothing is digested: neither the records nor what shapes their embeddings.
    fingerprint = b"" if cache is None else config.fingerprint
    keep_steps, overlaps = prepares(config.devices[0]), _overlaps(config)
    if overlaps:
        # A thread takes over torch's number of threads when it first asks: this one before another works with its own.
        torch.get_num_threads()
        # What joblib's parallel_config says holds in the caller's thread alone.
        n_jobs = effective_n_jobs(n_jobs)
    batches = (
        _prepare_batch(chunk, *records, config, cache, fingerprint)
        for chunk in chunks
        for records in read_batches(source, chunk, n_jobs, keep_steps)
    )
    return one_ahead(batches) if overlaps else batches


def prepares(device: torch.device) -> bool:
    """Return whether records are prepared on a device: those with memory of their own are worth the transfer."""
    return device.type in ("cuda", "xpu")


def _overlaps(config: EmbeddingConfig) -> bool:
    """Return whether the next batch is made ready while this one is encoded: an accelerator leaves the CPU to it."""
    return any(device.type != "cpu" for device in config.devices)


def read_batches(
    source: RecordSource, rows: Sequence[int], n_jobs: int | None, keep_steps: bool
) -> Iterator[tuple[Sequence[int], list[ECGRecord | SkecgError]]]:
    """Read the records of a chunk, in as many batches as keep each within bounds: one, unless records are long.

    The batches depend on what records take alone, so that a run that is continued computes what one in one go does.
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


def held_bytes(record: ECGRecord) -> int:
    """Count the bytes of a record's signal, and of its steps if it has them."""
    return record.signal.nbytes + (record.steps.nbytes if isinstance(record, DigitizedRecord) else 0)


def _prepare_batch(
    chunk: range,
    rows: Sequence[int],
    records: Sequence[ECGRecord | SkecgError],
    config: EmbeddingConfig,
    cache: EmbeddingCache | WhilePossible | None,
    fingerprint: bytes,
) -> PreparedBatch:
    """Compute keys of records, look them up, and screen and prepare those that are not known."""
    read = {row: record for row, record in zip(rows, records, strict=True) if isinstance(record, ECGRecord)}
    with workers(config.encoding.n_jobs) as n_threads:
        keys = _row_keys(read) if cache is None else _content_keys(read, cache, fingerprint, n_threads)
        known = {} if cache is None else cache.get(list(keys.values()))
        fresh: dict[bytes, ECGRecord] = {}
        for row, record in read.items():
            if keys[row] not in known:
                # Records of the same content are embedded once, also within a batch.
                fresh.setdefault(keys[row], record)
        screenings, refused = screen_records(fresh, config.info.spec, config.policies)
        judged = {name: screening.amplitude for name, screening in screenings.items()}
        if cache is not None and chunk.start == 0:
            # What a cache knows is judged, too, or a wrong unit would be named once only; a chunk is enough for that.
            again = {keys[row]: record for row, record in read.items() if keys[row] in known}
            judged |= _amplitudes_by_content(again, judged, config)
        fresh = {name: fresh[name] for name in screenings}
        windows, unprepared = _prepare_each_or_all(fresh, screenings, config, n_threads)
    refused |= unprepared
    fresh = {name: record for name, record in fresh.items() if name not in unprepared}
    screenings = {name: screenings[name] for name in fresh}
    notes = {name: screening.notes for name, screening in screenings.items()}
    return PreparedBatch(chunk, rows, records, keys, known, fresh, refused, notes, judged, windows)


def _amplitudes_by_content(
    records: dict[bytes, ECGRecord], screened: dict[bytes, Amplitude | None], config: EmbeddingConfig
) -> dict[bytes, Amplitude | None]:
    """Return what records of a cache say about their unit: each is looked at once a process, not once a fold."""
    found = {key: _AMPLITUDES[key] for key in records if key in _AMPLITUDES} | screened
    unseen = {key: record for key, record in records.items() if key not in found}
    screenings, _ = screen_records(unseen, config.info.spec, config.policies)
    found |= {key: screening.amplitude for key, screening in screenings.items()}
    if len(_AMPLITUDES) < _MOST_AMPLITUDES:
        _AMPLITUDES.update(found)
    return found


def _row_keys(records: dict[int, ECGRecord]) -> dict[int, bytes]:
    """Return the numbers of records as their keys."""
    return {row: row.to_bytes(8, "little") for row in records}


def _content_keys(
    records: dict[int, ECGRecord], cache: EmbeddingCache | WhilePossible, fingerprint: bytes, n_threads: int
) -> dict[int, bytes]:
    """Return digests of what records hold as their keys."""
    rows, key_of = list(records), key_function(cache)
    groups = [rows[i : i + _KEYS_TOGETHER] for i in range(0, len(rows), _KEYS_TOGETHER)]
    keys = in_order(lambda group: [key_of(records[row], fingerprint) for row in group], groups, n_threads)
    return dict(zip(rows, chain.from_iterable(keys), strict=True))


def screen_records(
    records: Mapping[_Key, ECGRecord], spec: InputSpec, policies: Policies
) -> tuple[dict[_Key, Screening], dict[_Key, SkecgError]]:
    """Screen records: many small steps that hold on to Python's lock, so that more threads would not be faster."""
    screenings: dict[_Key, Screening] = {}
    refused: dict[_Key, SkecgError] = {}
    for key, record in records.items():
        try:
            screenings[key] = screen(record, spec, policies, record_label(record))
        except InputError as error:
            refused[key] = error
        except _NOT_OURS as error:
            refused[key] = _unprepared(record, error)
    return screenings, refused


def _unprepared(record: ECGRecord, error: BaseException) -> InputError:
    """Build the error of a record for which there is no room, or whose numbers lead to none."""
    ours = InputError(
        f"Got {record_label(record)} of {record.n_samples} samples at {record.sampling_rate:g} Hz, which could not be "
        f"prepared ({type(error).__name__}). Check its length and rate, or cut it into shorter records."
    )
    # By hand, for the error is returned in the record's place, not raised here.
    ours.__cause__ = error
    return ours


def _prepare_each_or_all(
    records: Mapping[bytes, ECGRecord], screenings: Mapping[bytes, Screening], config: EmbeddingConfig, n_threads: int
) -> tuple[Windows | WindowStream | GatheredLeads | None, dict[bytes, SkecgError]]:
    """Prepare records; where that fails, find those that fail by themselves, and prepare the rest."""
    if not records:
        return None, {}
    try:
        return _prepare(list(records.values()), [screenings[key] for key in records], config, n_threads), {}
    except _NOT_OURS as error:
        if len(records) == 1:
            return None, {key: _unprepared(record, error) for key, record in records.items()}
        # One by one only now: the usual batch should not pay for the rare record.
        alone = [_prepare_each_or_all({key: records[key]}, screenings, config, n_threads)[1] for key in records]
        refused = {key: reason for one in alone for key, reason in one.items()}
        if not refused:  # each fits by itself, all at once do not
            raise InputError(
                f"Got {len(records)} records for which together there is no room ({type(error).__name__}). Pass fewer "
                "at once (transform_chunks)."
            ) from error
        rest = {key: record for key, record in records.items() if key not in refused}
        return _prepare_each_or_all(rest, screenings, config, n_threads)[0], refused


def _prepare(
    records: Sequence[ECGRecord], screenings: Sequence[Screening], config: EmbeddingConfig, n_threads: int
) -> Windows | WindowStream | GatheredLeads:
    """Prepare records, or gather what the device where they are encoded prepares, or what is too large at once."""
    spec, stride, device = config.info.spec, config.stride_seconds, config.devices[0]
    if prepares(device) and can_prepare_on_device(records, spec, stride=stride):
        # Page-locked memory is what CUDA copies while it computes; no other device knows it.
        pinned = device.type == "cuda"
        gathered = gather(records, screenings, spec, stride=stride, policies=config.policies, pinned=pinned)
        return gathered.send(device)
    stream = WindowStream(records, screenings, spec, stride=stride, policies=config.policies, n_threads=n_threads)
    return stream.whole() if stream.is_small else stream
