"""What comes before the encoder: records read, named, looked up, screened and prepared, a portion at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import NDArray

from skecg.digitized import held_bytes
from skecg.embedding_cache import EmbeddingCache, key_function
from skecg.encoding import workers
from skecg.errors import InputError, SkecgError
from skecg.inputs import RecordSource
from skecg.preparation_on_device import GatheredLeads, WindowsOnDevice, can_prepare_on_device, gather, prepares
from skecg.recipe import Recipe
from skecg.records import ECGRecord
from skecg.screening import Screening, record_label, screen
from skecg.threads import in_order, one_ahead
from skecg.windows import Windows, prepare_screened

__all__ = ["Portion", "ready_portions"]

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
        screenings, refused = _screened(fresh, recipe)
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
    records: dict[bytes, ECGRecord], recipe: Recipe
) -> tuple[dict[bytes, Screening], dict[bytes, SkecgError]]:
    """Screen records: many small steps that hold on to Python's lock, so that more threads would not be faster."""
    screenings: dict[bytes, Screening] = {}
    refused: dict[bytes, SkecgError] = {}
    for name, record in records.items():
        try:
            screenings[name] = screen(record, recipe.info.spec, recipe.policies, record_label(record))
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
