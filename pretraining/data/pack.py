"""Pack records into int16 memory-mapped shards; open them.

Records go the one road, :mod:`skecg.preprocessing.windows`, up to normalization, which is done when a batch is drawn. What cannot be
packed is listed in ``left_out.csv``.

One shard: read some items, prepare them, write their int16 segments and an index of them.

A shard is three files of one number: ``00000.npy`` (n, 12, segment_samples), ``00000.npz`` with the index, and, written
last and in one stroke, ``00000.json`` with the sums, the checksums and what was left out. A shard that has the third is
complete.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.data.corpus import Corpus, Item, LeftOut, Reader
from pretraining.data.shards import (
    FORMAT_VERSION,
    MANIFEST,
    ShardSet,
    digest_of,
    open_shards,
    quantize,
    replacing,
    write_segments,
)
from skecg.errors import BadSignalError, HeaderRepairWarning, InputError, ParameterError, ShortRecordError, SkecgError
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.quality import Policies, Screening, screen
from skecg.preprocessing.windows import Windows, prepare_screened
from skecg.records import ECGRecord
from skecg.spec import InputSpec
from skecg.validation import check_choice

__all__ = [
    "INDEX_COLUMNS",
    "Part",
    "Preparation",
    "REFUSABLE",
    "ShardSet",
    "is_complete",
    "open_shards",
    "pack",
    "pack_part",
    "parts_of",
    "read_summary",
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
        """Return plain values, which JSON keeps to the last bit."""
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
    """Return whether a shard is there with all its files."""
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


PLAN = "plan.json"


LEFT_OUT = "left_out.csv"


def pack(
    corpora: Sequence[Corpus],
    out: str | Path,
    *,
    sampling_rate: float = 500.0,
    segment_seconds: float = 10.0,
    resampling: str = "polyphase",
    highpass_hz: float | None = None,
    lowpass_hz: float | None = None,
    shortest_seconds: float | None = None,
    refuse: Sequence[str] = (),
    records_per_shard: int = 4096,
    n_jobs: int | None = None,
    progress: bool = True,
) -> ShardSet:
    """Pack corpora into a folder of shards.

    What is done is known by what lies in the folder: a pack that was killed goes on with the shards that are lacking,
    and a finished one is only opened. The files are the same, byte for byte, however often it was interrupted and
    whatever `n_jobs` is.

    Parameters
    ----------
    corpora : sequence of Corpus
        See :func:`pretraining.data.corpora.open_corpus`.
    out : str or Path
        Folder to write to.
    sampling_rate : float, default=500.0
        Hz.
    segment_seconds : float, default=10.0
        Length of a row. Longer records become several rows, of which the last ends where the record ends; shorter ones
        are padded with their last value.
    resampling, highpass_hz, lowpass_hz
        As in :class:`skecg.spec.InputSpec`; an encoder that is filtered needs shards that are.
    shortest_seconds : float, optional
        Records below it are left out; half a segment by default.
    refuse : sequence of {"flat", "railed", "gaps", "microvolts", "volts"}, default=()
        Leave out records of which this is true, too: a flat lead, one at its limit for a fifth of the time, missing
        samples, amplitudes that look like another unit. By default they are packed, and counted.
    records_per_shard : int, default=4096
        Recordings that one process packs at a time, and that are packed again when it is killed.
    n_jobs : int, optional
        Processes, as joblib counts them.
    progress : bool, default=True
        Whether to show a bar.

    Returns
    -------
    ShardSet

    Raises
    ------
    ParameterError
        When an argument is not allowed, or the folder holds shards that were packed otherwise.
    BadSignalError
        When nothing was left to pack.
    """
    folder = Path(out)
    spec = _segment_spec(sampling_rate, segment_seconds, resampling, highpass_hz, lowpass_hz)
    shortest = segment_seconds / 2 if shortest_seconds is None else float(shortest_seconds)
    how = Preparation(spec, shortest, tuple(sorted(set(refuse))))
    _check(corpora, how, records_per_shard)
    parts = _share_out(corpora, records_per_shard)
    folder.mkdir(parents=True, exist_ok=True)
    _agree_on_plan(folder, _plan(corpora, parts, how, records_per_shard))
    _pack_parts(parts, folder, how, n_jobs, progress)
    return _finish(folder, corpora, parts, spec)


def _segment_spec(
    sampling_rate: float, segment_seconds: float, resampling: str, highpass_hz: float | None, lowpass_hz: float | None
) -> InputSpec:
    """Describe a row as an encoder for any leads without normalization would."""
    if not segment_seconds >= 1:
        raise ParameterError(f"Got segment_seconds={segment_seconds!r}, expected 1 or more.")
    return InputSpec(
        leads=CANONICAL_LEADS,
        sampling_rate=float(sampling_rate),
        window_samples=round(segment_seconds * sampling_rate),
        any_leads=True,
        resampling=resampling,
        highpass_hz=highpass_hz,
        lowpass_hz=lowpass_hz,
    )


def _check(corpora: Sequence[Corpus], how: Preparation, records_per_shard: int) -> None:
    """Check that there is something to pack, and how."""
    names = [corpus.name for corpus in corpora]
    if not names or len(set(names)) < len(names):
        raise ParameterError(f"Got corpora named {names}, expected one or more, each with a name of its own.")
    longest = how.spec.window_seconds
    if not 1 <= how.shortest_seconds <= longest:
        raise ParameterError(f"Got shortest_seconds={how.shortest_seconds!r}, expected 1 to a segment's {longest:g}.")
    for note in how.refused:
        check_choice("refuse", note, REFUSABLE)
    if records_per_shard < 1:
        raise ParameterError(f"Got records_per_shard={records_per_shard!r}, expected a positive integer.")


def _share_out(corpora: Sequence[Corpus], records_per_shard: int) -> list[Part]:
    """Cut all corpora into parts with numbers."""
    parts: list[Part] = []
    for corpus in corpora:
        parts += parts_of(corpus.items, corpus.reader, len(parts), records_per_shard)
    return parts


def _plan(corpora: Sequence[Corpus], parts: Sequence[Part], how: Preparation, records_per_shard: int) -> dict[str, Any]:
    """Write down everything that decides the bytes of the shards."""
    listing = hashlib.sha256()
    for part in parts:
        for item in part.items:
            listing.update("\0".join(map(str, item)).encode() + b"\n")
    return {
        "format": FORMAT_VERSION,
        "corpora": {corpus.name: len(corpus.items) for corpus in corpora},
        "items_sha256": listing.hexdigest(),
        "input": how.spec.to_dict(),
        "shortest_seconds": how.shortest_seconds,
        "refused": list(how.refused),
        "records_per_shard": records_per_shard,
    }


def _agree_on_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Raise for a folder whose shards were begun by another plan, naming what differs."""
    path = folder / PLAN
    if not path.is_file():
        foreign = next(folder.glob("[0-9]*.npy"), None)
        if foreign is not None:
            raise ParameterError(f"Got {folder}, which holds {foreign.name} and no {PLAN}. Name an empty folder.")
        _write_json(path, plan)
        return
    begun = json.loads(path.read_bytes())
    plan = json.loads(json.dumps(plan))
    differing = sorted(key for key in plan.keys() | begun.keys() if plan.get(key) != begun.get(key))
    if differing:
        changes = "; ".join(f"{key} was {begun.get(key)!r}, now {plan.get(key)!r}" for key in differing)
        raise ParameterError(f"Got {folder}, which holds shards packed otherwise: {changes}. Name another folder.")


def _pack_parts(parts: Sequence[Part], folder: Path, how: Preparation, n_jobs: int | None, progress: bool) -> None:
    """Write the shards that are lacking, in as many processes as asked for."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    lacking = [part for part in parts if not is_complete(folder, part.number)]
    total = sum(len(part.items) for part in parts)
    done = total - sum(len(part.items) for part in lacking)
    with tqdm(total=total, initial=done, unit="record", desc="packing", disable=not progress) as bar:
        tasks = (delayed(pack_part)(part, folder, how) for part in lacking)
        for n_items in Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks):
            bar.update(n_items)


def _finish(folder: Path, corpora: Sequence[Corpus], parts: Sequence[Part], spec: InputSpec) -> ShardSet:
    """Write the manifest and the list of what was left out."""
    summaries = [read_summary(folder, part.number) for part in parts]
    left_out = [row for corpus in corpora for row in corpus.left_out]
    left_out += [LeftOut(*row) for summary in summaries for row in summary["left_out"]]
    _write_left_out(folder / LEFT_OUT, left_out)
    statistics = _statistics(summaries)
    summary = _summarize(statistics, left_out, corpora, summaries)
    if not statistics:
        raise BadSignalError(f"Nothing was left to pack; {folder / LEFT_OUT} says why.\n{summary}")
    manifest = {
        "format": FORMAT_VERSION,
        "input": spec.to_dict(),
        "corpora": statistics,
        "shards": [
            {key: summary[key] for key in ("n_segments", "signals_sha256", "index_sha256")} for summary in summaries
        ],
        "left_out": dict(sorted(Counter(f"{row.corpus}: {row.reason}" for row in left_out).items())),
        "summary": summary,
    }
    _write_json(folder / MANIFEST, manifest)
    return open_shards(folder)


def _statistics(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up the shards' sums into counts and, for each lead, mean and standard deviation in mV, by corpus."""
    found: dict[str, Any] = {}
    for corpus in sorted({corpus for summary in summaries for corpus in summary["sums"]}):
        sums = [summary["sums"][corpus] for summary in summaries if corpus in summary["sums"]]
        added = {key: np.sum([part[key] for part in sums], axis=0) for key in sums[0]}
        counted = np.maximum(added["n_samples"], 1)
        mean = added["total"] / counted
        variance = np.maximum(added["squares"] / counted - mean**2, 0.0)
        notes: Counter[str] = Counter()
        for summary in summaries:
            notes.update(summary["notes"].get(corpus, {}))
        found[corpus] = {
            "n_records": int(added["n_records"]),
            "n_segments": int(added["n_segments"]),
            "n_samples": added["n_samples"].tolist(),
            "mean": mean.tolist(),
            "std": np.sqrt(variance).tolist(),
            "notes": dict(sorted(notes.items())),
        }
    return found


def _summarize(
    statistics: dict[str, Any],
    left_out: Sequence[LeftOut],
    corpora: Sequence[Corpus],
    summaries: Sequence[dict[str, Any]],
) -> str:
    """Describe in a few lines what was packed, what was left out and what was noticed."""
    n_records = sum(found["n_records"] for found in statistics.values())
    n_segments = sum(found["n_segments"] for found in statistics.values())
    reasons = Counter(row.reason for row in left_out)
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    lines = [
        f"{n_records} records packed as {n_segments} segments; {len(left_out)} left out{f' ({why})' if why else ''}."
    ]
    for name, found in statistics.items():
        odd = ", ".join(f"{count} {note}" for note, count in found["notes"].items())
        lines.append(
            f"{name}: {found['n_records']} records, {found['n_segments']} segments{f'; {odd}' if odd else ''}."
        )
    repaired = sum(summary["repaired_headers"] for summary in summaries)
    lines += [f"{repaired} malformed headers were read by a repair."] * bool(repaired)
    return "\n".join([*lines, *(note for corpus in corpora for note in corpus.notes)])


def _write_left_out(path: Path, rows: Sequence[LeftOut]) -> None:
    """Write one line for each recording that was left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LeftOut._fields)
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def _write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a value whose bytes depend on nothing else."""
    with replacing(path) as file:
        file.write(json.dumps(values, indent=1).encode())
