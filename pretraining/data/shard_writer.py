"""One shard: read records, prepare them, write their int16 segments and an index of them.

A shard is three files of one number: ``00000.npy`` (n, 12, segment_samples), ``00000.npz`` with the index, and, written
last and in one stroke, ``00000.json`` with the sums, the checksums and what was left out. A shard that has the third is
complete. Segments are written in microvolts as int16, since no recorder resolves less.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pretraining.data.corpus import Item, LeftOut, Reader
from pretraining.data.shards import digest_of, is_whole
from skecg.errors import (
    BadSignalError,
    DamagedRecordError,
    HeaderRepairWarning,
    InputError,
    ShortRecordError,
    SkecgError,
)
from skecg.io.files import replacing
from skecg.preprocessing.quality import Policies, Screening, screen
from skecg.preprocessing.windows import Windows, prepare_screened
from skecg.records import ECGRecord
from skecg.spec import InputSpec

__all__ = [
    "INDEX_COLUMNS",
    "REFUSABLE",
    "Preparation",
    "ShardPlan",
    "is_complete",
    "plan_shards",
    "quantize",
    "read_summary",
    "write_segments",
    "write_shard",
]

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

#: What :func:`skecg.preprocessing.quality.screen` notes about records, and what they may be refused for.
REFUSABLE = ("flat", "railed", "gaps", "microvolts", "volts")

# Records of one rate are prepared some at a time, which is faster than one by one and holds few in memory.
_CHUNK = 16

_POLICIES = Policies(missing_leads="raise", short_records="pad")

# What those who embed may pass, where the message says so; packing has no such option.
_LEADS_PASSED = re.compile(r" (?:Say|Name)\b.*\bleads=.*", re.DOTALL)

_LARGEST = 32767  # and not -32768, so that steps are symmetric


@dataclass(frozen=True)
class ShardPlan:
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
    highpass_of : mapping of str to float
        Cut-off frequencies (Hz) of single corpora, instead of the specification's.
    """

    spec: InputSpec
    shortest_seconds: float
    refused: tuple[str, ...] = ()
    highpass_of: Mapping[str, float] = field(default_factory=dict)

    def spec_of(self, corpus: str) -> InputSpec:
        """Return how records of a corpus are prepared."""
        return replace(self.spec, highpass_hz=self.highpass_of.get(corpus, self.spec.highpass_hz))


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
        """Return plain values, which JSON keeps to the last bit."""
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(self).items()}


@dataclass
class _Findings:
    """What gathers while a shard is written."""

    index: dict[str, list[Any]] = field(default_factory=lambda: {column: [] for column in INDEX_COLUMNS})
    sums: dict[str, _Sums] = field(default_factory=dict)
    notes: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def note_(self, corpus: str, what: str) -> None:
        """Count one more recording of which this is true."""
        counts = self.notes.setdefault(corpus, {})
        counts[what] = counts.get(what, 0) + 1


def plan_shards(items: Sequence[Item], reader: Reader, first: int, size: int) -> list[ShardPlan]:
    """Share out the items of a corpus into plans of so many, numbered from `first`."""
    return [
        ShardPlan(first + number, tuple(items[start : start + size]), reader)
        for number, start in enumerate(range(0, len(items), size))
    ]


def write_shard(plan: ShardPlan, folder: Path, preparation: Preparation) -> int:
    """Write one shard into a folder; give the number of items seen."""
    from threadpoolctl import threadpool_limits

    stem = folder / f"{plan.number:05d}"
    findings = _Findings()
    segments = _segments(plan, preparation, findings)
    # One thread a plan: sums are then taken in one order whatever machine packs.
    with threadpool_limits(1), _repairs_counted() as repaired, replacing(stem.with_suffix(".npy")) as file:
        digest = write_segments(file, segments, (preparation.spec.n_leads, preparation.spec.window_samples))
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
    # Last: its presence says that the two others are whole.
    with replacing(stem.with_suffix(".json")) as file:
        file.write(json.dumps(summary).encode())
    return len(plan.items)


def is_complete(folder: Path, number: int, spec: InputSpec) -> bool:
    """Return whether a shard is there with all its files, whole as far as can be told without reading its signals."""
    try:
        stated = read_summary(folder, number)
    except DamagedRecordError:
        return False
    # A shard without segments has signals, too, of which only the header is there.
    has_signals = (folder / f"{number:05d}.npy").is_file()
    return has_signals and is_whole(folder, number, stated, (spec.n_leads, spec.window_samples))


def read_summary(folder: Path, number: int) -> dict[str, Any]:
    """Read what a shard says about itself."""
    path = folder / f"{number:05d}.json"
    try:
        summary: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedRecordError(f"{path} cannot be read ({error}). Pack again: the shard is written anew.") from error
    return summary


def _segments(plan: ShardPlan, preparation: Preparation, findings: _Findings) -> Iterator[NDArray[np.int16]]:
    """Read, prepare and quantize the items of a plan, noting what is found on the way."""
    usable = _usable(plan, preparation, findings)
    while chunk := list(islice(usable, _CHUNK)):
        for corpus, part in groupby(chunk, key=lambda entry: entry[0].corpus):
            items, records, screenings = zip(*part, strict=True)
            spec = preparation.spec_of(corpus)
            windows = prepare_screened(records, screenings, spec, stride=None, policies=_POLICIES)
            findings.sums.setdefault(corpus, _Sums()).n_records += len(items)
            for row in range(len(windows)):
                owner = int(windows.owner[row])
                yield _note_segment(windows, row, items[owner], records[owner].sampling_rate, findings)


def _note_segment(windows: Windows, row: int, item: Item, rate: float, findings: _Findings) -> NDArray[np.int16]:
    """Quantize one segment and enter it into the index and the sums."""
    lead_mask, valid = windows.lead_mask[row], int(windows.valid_samples[row])
    # A recording that is padded has no other row: those of longer ones are full.
    if valid < windows.values.shape[-1]:
        findings.note_(item.corpus, "padded")
    findings.sums[item.corpus].add_(windows.values[row], valid)
    steps, scale = quantize(windows.values[row])
    entry = (*item, int(windows.start_samples[row]), rate, valid, scale, lead_mask)
    # The fields of an Item are the index' first columns.
    for column, value in zip(INDEX_COLUMNS, entry, strict=True):
        findings.index[column].append(value)
    return steps


def _usable(
    plan: ShardPlan, preparation: Preparation, findings: _Findings
) -> Iterator[tuple[Item, ECGRecord, Screening]]:
    """Read the items of a plan, passing on what can be prepared and noting why the rest cannot."""
    for item, record in zip(plan.items, plan.reader(plan.items), strict=True):
        if isinstance(record, SkecgError):
            findings.left_out.append(_left_out(item, record))
            continue
        try:
            screening = _screen(record, preparation, item.source)
        except InputError as error:
            findings.left_out.append(_left_out(item, error))
            continue
        # Nothing is put above half of a recording's own rate, so whoever packs should know.
        upsampled = ("upsampled",) if record.sampling_rate < preparation.spec.sampling_rate else ()
        for note in (*screening.notes, *upsampled):
            findings.note_(item.corpus, note)
        yield item, record, screening


@contextlib.contextmanager
def _repairs_counted() -> Iterator[list[warnings.WarningMessage]]:
    """Gather the warnings about headers that were repaired, of which there may be one a file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", HeaderRepairWarning)
        yield caught


def _screen(record: ECGRecord, preparation: Preparation, source: str) -> Screening:
    """Find how to make the leads of a record, or raise what stands in the way of packing it."""
    if record.duration_seconds < preparation.shortest_seconds:
        raise ShortRecordError(
            f"Lasts {record.duration_seconds:.2f} s, expected at least {preparation.shortest_seconds:g} s."
        )
    screening = screen(record, preparation.spec, _POLICIES, source)
    refused = [note for note in screening.notes if note in preparation.refused]
    if refused:
        raise BadSignalError(f"Found to be {', '.join(refused)}, which was to be left out.")
    return screening


def _left_out(item: Item, error: SkecgError) -> LeftOut:
    """Describe a recording that an error stands in the way of."""
    message = _LEADS_PASSED.sub(" Name its leads so in its file, and pack again.", str(error))
    return LeftOut(item.corpus, item.source, _reason(error), message, item.patient)


def _reason(error: SkecgError) -> str:
    """Describe an error in two or three words."""
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


def quantize(values: NDArray[np.float32]) -> tuple[NDArray[np.int16], float]:
    """Write a segment in whole steps of a microvolt, or of as much more as it takes not to clip.

    Parameters
    ----------
    values : ndarray of shape (n_leads, n_samples), float32
        Millivolts.

    Returns
    -------
    steps : ndarray of the same shape, int16
    scale_uv : float
        Microvolts a step, a float32 value.
    """
    largest = float(np.abs(values).max(initial=0.0)) * 1e3
    scale = np.float32(max(1.0, largest / _LARGEST))
    # In float64: float32 would round some amplitudes to the neighbouring step.
    steps = np.rint(values * (np.float64(1e3) / np.float64(scale)))
    return np.clip(steps, -_LARGEST, _LARGEST).astype(np.int16), float(scale)


def write_segments(file: IO[bytes], segments: Iterable[NDArray[np.int16]], shape: tuple[int, int]) -> str:
    """Write an ``.npy`` array of segments of one shape, their number unknown beforehand; give its values' SHA-256."""
    # How many segments there will be is known only when all records are read: the length is written over at the end.
    header = _npy_header((0, *shape))
    file.write(header)
    digest, n_segments = hashlib.sha256(), 0
    for steps in segments:
        content = np.ascontiguousarray(steps, dtype="<i2").tobytes()
        digest.update(content)
        file.write(content)
        n_segments += 1
    final = _npy_header((n_segments, *shape))
    assert len(final) == len(header), "the header of an .npy file grew with its length"
    file.seek(0)
    file.write(final)
    return digest.hexdigest()


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Write the header of an int16 ``.npy`` file; numpy leaves room in it for the first axis to grow."""
    stream = io.BytesIO()
    header = {"descr": "<i2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()
