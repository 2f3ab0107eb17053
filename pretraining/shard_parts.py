"""One shard: read some items, prepare them, write their int16 segments and an index of them.

A shard is three files of one number: ``00000.npy`` (n, 12, segment_samples), ``00000.npz`` with the index, and, written
last and in one stroke, ``00000.json`` with the sums, the checksums and what was left out. A shard that has the third is
complete.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.corpora.corpus import Item, LeftOut, Reader
from pretraining.shard_files import digest_of, quantize, replacing, write_segments
from skecg.errors import BadSignalError, HeaderRepairWarning, InputError, ShortRecordError, SkecgError
from skecg.records import ECGRecord
from skecg.screening import Policies, Screening, screen
from skecg.spec import InputSpec
from skecg.windows import Windows, prepare_screened

__all__ = ["INDEX_COLUMNS", "REFUSABLE", "Part", "Preparation", "is_complete", "pack_part", "parts_of", "read_summary"]

#: Columns of the index, each with one row a segment.
INDEX_COLUMNS = (
    "corpus",
    "source",
    "patient",
    "fold",
    "start_samples",
    "rate",
    "valid_samples",
    "scale_uv",
    "lead_mask",
)

#: What :func:`skecg.screening.screen` notes about records, and what they may be refused for.
REFUSABLE = ("flat", "railed", "gaps", "microvolts", "volts")
# Records of one rate are prepared some at a time, which is faster than one by one and holds few in memory.
_RECORDS_AT_ONCE = 16
_POLICIES = Policies(missing_leads="raise", short_records="pad")


@dataclass(frozen=True)
class Part:
    """What one shard is made of.

    Parameters
    ----------
    number : int
    items : tuple of Item
    reader : callable
        Of their corpus.
    """

    number: int
    items: tuple[Item, ...]
    reader: Reader


@dataclass(frozen=True)
class Preparation:
    """How records become segments.

    Parameters
    ----------
    spec : InputSpec
        Leads, rate, filter and window of the segments, without normalization.
    shortest_seconds : float
        Records below it are left out.
    refused : tuple of str
        Of :data:`REFUSABLE`: records of which one is true are left out.
    """

    spec: InputSpec
    shortest_seconds: float
    refused: tuple[str, ...] = ()


@dataclass
class _Sums:
    """Sums over the valid samples of leads that are there and not flat, for means and standard deviations."""

    n_segments: int = 0
    n_records: int = 0
    n_samples: NDArray[np.int64] = field(default_factory=lambda: np.zeros(12, np.int64))
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(12))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(12))

    def add_(self, values: NDArray[np.float32], valid: int) -> None:
        """Add a segment (12, segment_samples) in mV."""
        signal = values[:, :valid].astype(np.float64)
        counted = signal.max(axis=1) > signal.min(axis=1)  # absent leads are flat, too
        self.n_segments += 1
        self.n_samples += np.where(counted, valid, 0)
        self.total += np.where(counted, signal.sum(axis=1), 0.0)
        self.squares += np.where(counted, np.square(signal).sum(axis=1), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, which JSON keeps to the last bit."""
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(self).items()}


@dataclass
class _Findings:
    """What gathers while a shard is written."""

    index: dict[str, list[Any]] = field(default_factory=lambda: {column: [] for column in INDEX_COLUMNS})
    sums: dict[str, _Sums] = field(default_factory=dict)
    notes: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


def parts_of(items: Sequence[Item], reader: Reader, first: int, size: int) -> list[Part]:
    """Share out the items of a corpus into parts of so many, numbered from `first`."""
    return [
        Part(first + number, tuple(items[start : start + size]), reader)
        for number, start in enumerate(range(0, len(items), size))
    ]


def pack_part(part: Part, folder: Path, how: Preparation) -> int:
    """Write one shard into a folder; give the number of items seen."""
    from threadpoolctl import threadpool_limits

    stem = folder / f"{part.number:05d}"
    findings = _Findings()
    segments = _segments(part, how, findings)
    # One thread a part: sums are then taken in one order whatever machine packs.
    with threadpool_limits(1), _repairs_counted() as repaired, replacing(stem.with_suffix(".npy")) as file:
        digest = write_segments(file, segments, (how.spec.n_leads, how.spec.window_samples))
    index = _index_arrays(findings.index)
    with replacing(stem.with_suffix(".npz")) as file:
        np.savez(file, allow_pickle=False, **index)
    summary = {
        "n_segments": len(index["corpus"]),
        "signals_sha256": digest,
        "index_sha256": digest_of(index),
        "sums": {corpus: sums.to_dict() for corpus, sums in sorted(findings.sums.items())},
        "notes": {corpus: dict(sorted(notes.items())) for corpus, notes in sorted(findings.notes.items())},
        "repaired_headers": len(repaired),
        "left_out": [list(row) for row in findings.left_out],
    }
    with replacing(stem.with_suffix(".json")) as file:
        file.write(json.dumps(summary).encode())
    return len(part.items)


def is_complete(folder: Path, number: int) -> bool:
    """Whether a shard is there with all its files."""
    return all((folder / f"{number:05d}{suffix}").is_file() for suffix in (".npy", ".npz", ".json"))


def read_summary(folder: Path, number: int) -> dict[str, Any]:
    """Read what a shard says about itself."""
    summary: dict[str, Any] = json.loads((folder / f"{number:05d}.json").read_bytes())
    return summary


def _segments(part: Part, how: Preparation, findings: _Findings) -> Iterator[NDArray[np.int16]]:
    """Read, prepare and quantize the items of a part, noting what is found on the way."""
    usable = _usable(part, how, findings)
    while group := list(islice(usable, _RECORDS_AT_ONCE)):
        items, records, screenings = zip(*group, strict=True)
        windows = prepare_screened(records, screenings, how.spec, stride=None, policies=_POLICIES)
        for item in items:
            findings.sums.setdefault(item.corpus, _Sums()).n_records += 1
        for row in range(len(windows)):
            owner = int(windows.owner[row])
            yield _note_segment(windows, row, items[owner], records[owner].sampling_rate, findings)


def _note_segment(windows: Windows, row: int, item: Item, rate: float, findings: _Findings) -> NDArray[np.int16]:
    """Quantize one segment and enter it into the index and the sums."""
    lead_mask, valid = windows.lead_mask[row], int(windows.valid_samples[row])
    findings.sums[item.corpus].add_(windows.values[row], valid)
    steps, scale = quantize(windows.values[row])
    entry = (*item, int(windows.start_samples[row]), rate, valid, scale, lead_mask)
    # The fields of an Item are the index' first columns.
    for column, value in zip(INDEX_COLUMNS, entry, strict=True):
        findings.index[column].append(value)
    return steps


def _usable(part: Part, how: Preparation, findings: _Findings) -> Iterator[tuple[Item, ECGRecord, Screening]]:
    """Read the items of a part, passing on what can be prepared and noting why the rest cannot."""
    for item, record in zip(part.items, part.reader(part.items), strict=True):
        if isinstance(record, SkecgError):
            findings.left_out.append(LeftOut(item.corpus, item.source, _reason(record), str(record)))
            continue
        try:
            screening = _screen(record, how, item.source)
        except InputError as error:
            findings.left_out.append(LeftOut(item.corpus, item.source, _reason(error), str(error)))
            continue
        counts = findings.notes.setdefault(item.corpus, {})
        for note in screening.notes:
            counts[note] = counts.get(note, 0) + 1
        yield item, record, screening


@contextlib.contextmanager
def _repairs_counted() -> Iterator[list[warnings.WarningMessage]]:
    """Gather the warnings about headers that were repaired, of which there may be one a file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", HeaderRepairWarning)
        yield caught


def _screen(record: ECGRecord, how: Preparation, source: str) -> Screening:
    """Find how to make the leads of a record, or raise what stands in the way of packing it."""
    if record.duration_seconds < how.shortest_seconds:
        raise ShortRecordError(f"Lasts {record.duration_seconds:.2f} s, expected at least {how.shortest_seconds:g} s.")
    screening = screen(record, how.spec, _POLICIES, source)
    refused = [note for note in screening.notes if note in how.refused]
    if refused:
        raise BadSignalError(f"Found to be {', '.join(refused)}, which was to be left out.")
    return screening


def _reason(error: SkecgError) -> str:
    """Put an error into two or three words."""
    if isinstance(error, ShortRecordError):
        return "too short"
    words = {"BadSignalError": "no usable signal", "LeadError": "leads", "SamplingRateError": "sampling rate"}
    return words.get(type(error).__name__, "unusable" if isinstance(error, InputError) else "unreadable")


def _index_arrays(index: dict[str, list[Any]]) -> dict[str, NDArray[Any]]:
    """Turn the columns of an index into arrays that need no pickle."""
    kinds: dict[str, type] = {"fold": np.int16, "start_samples": np.int64, "rate": np.float64}
    kinds |= {"valid_samples": np.int32, "scale_uv": np.float32, "lead_mask": np.bool_}
    arrays: dict[str, NDArray[Any]] = {
        column: np.array(values, dtype=kinds.get(column, np.str_)) for column, values in index.items()
    }
    arrays["lead_mask"] = arrays["lead_mask"].reshape(-1, 12)
    return arrays
