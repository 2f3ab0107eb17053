"""Corpora to a folder of shards: what is packed, what is left out and why, and a manifest of all of it.

Records go the one road of :mod:`skecg.preprocessing.windows` up to normalization, which is done when a batch is drawn.
What cannot be packed is listed in ``left_out.csv``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.data.corpus import Corpus, LeftOut
from pretraining.data.shard_writer import (
    REFUSABLE,
    Preparation,
    ShardPlan,
    is_complete,
    plan_shards,
    read_summary,
    write_shard,
)
from pretraining.data.shards import FORMAT_VERSION, MANIFEST, ShardSet, open_shards
from skecg.errors import BadSignalError, DamagedRecordError, ParameterError, SkecgWarning
from skecg.io.files import alone_in, replacing
from skecg.leads import CANONICAL_LEADS
from skecg.spec import InputSpec
from skecg.validation import check_choice, check_integer, check_number

__all__ = ["LEFT_OUT", "PLAN", "pack"]

PLAN = "plan.json"  # written before the first shard, the manifest after the last

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
    corpus_highpass_hz: Mapping[str, float] | None = None,
    records_per_shard: int = 4096,
    n_jobs: int | None = None,
    progress: bool = True,
) -> ShardSet:
    """Pack corpora into a folder of shards.

    What is done is known by what lies in the folder: a pack that was killed goes on with the shards that are lacking,
    and a finished one is only opened, with a warning. A shard of another size than it should have, or with another
    index, is written anew. Recordings are known by their names: one that has changed since it was packed is not read
    again. The files are the same, byte for byte, however often it was interrupted and
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
    corpus_highpass_hz : mapping of str to float, optional
        High-pass of single corpora or sub-sets, by name, instead of `highpass_hz`.
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
        When an argument is not allowed, another pack into the folder is under way, or it holds shards that were packed
        otherwise.
    BadSignalError
        When nothing was left to pack.
    DamagedRecordError
        When the folder does not say how it was begun.

    Warns
    -----
    SkecgWarning
        When all is packed already, so that no recording is read.
    """
    folder = Path(out)
    spec = _segment_spec(sampling_rate, segment_seconds, resampling, highpass_hz, lowpass_hz)
    shortest = segment_seconds / 2 if shortest_seconds is None else float(shortest_seconds)
    preparation = Preparation(spec, shortest, tuple(sorted(set(refuse))), dict(corpus_highpass_hz or {}))
    _check(corpora, preparation, records_per_shard)
    planned = _plan_all(corpora, records_per_shard)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        _agree_on_plan(folder, _plan(corpora, planned, preparation, records_per_shard))
        _write_shards(planned, folder, preparation, n_jobs, progress)
        return _finish(folder, corpora, planned, preparation)


def _segment_spec(
    sampling_rate: float, segment_seconds: float, resampling: str, highpass_hz: float | None, lowpass_hz: float | None
) -> InputSpec:
    """Describe a row as an encoder for any leads without normalization would."""
    check_number("segment_seconds", segment_seconds, 1, closed="left")
    check_number("sampling_rate", sampling_rate, 0)
    return InputSpec(
        leads=CANONICAL_LEADS,
        sampling_rate=float(sampling_rate),
        window_samples=round(segment_seconds * sampling_rate),
        any_leads=True,
        resampling=resampling,
        highpass_hz=highpass_hz,
        lowpass_hz=lowpass_hz,
    )


def _check(corpora: Sequence[Corpus], preparation: Preparation, records_per_shard: int) -> None:
    """Check that there is something to pack, and preparation."""
    names = [corpus.name for corpus in corpora]
    if not names or len(set(names)) < len(names):
        raise ParameterError(f"Got corpora named {names}, expected one or more, each with a name of its own.")
    longest = preparation.spec.window_seconds
    if not 1 <= preparation.shortest_seconds <= longest:
        raise ParameterError(
            f"Got shortest_seconds={preparation.shortest_seconds!r}, expected 1 to a segment's {longest:g}."
        )
    for note in preparation.refused:
        check_choice("refuse", note, REFUSABLE)
    check_integer("records_per_shard", records_per_shard, 1)
    there = {item.corpus for corpus in corpora for item in corpus.items}
    for name in preparation.highpass_of:
        check_choice("a corpus of corpus_highpass_hz", name, sorted(there))
        preparation.spec_of(name)


def _plan_all(corpora: Sequence[Corpus], records_per_shard: int) -> list[ShardPlan]:
    """Plan the shards of all corpora, numbered."""
    planned: list[ShardPlan] = []
    for corpus in corpora:
        planned += plan_shards(corpus.items, corpus.reader, len(planned), records_per_shard)
    return planned


def _plan(
    corpora: Sequence[Corpus], planned: Sequence[ShardPlan], preparation: Preparation, records_per_shard: int
) -> dict[str, Any]:
    """Write down everything that decides the bytes of the shards."""
    listing = hashlib.sha256()
    for shard in planned:
        for item in shard.items:
            listing.update("\0".join(map(str, item)).encode() + b"\n")
    return {
        "format": FORMAT_VERSION,
        "corpora": {corpus.name: len(corpus.items) for corpus in corpora},
        "items_sha256": listing.hexdigest(),
        "input": preparation.spec.to_dict(),
        "shortest_seconds": preparation.shortest_seconds,
        "refused": list(preparation.refused),
        "records_per_shard": records_per_shard,
    } | _own_highpass(preparation)


def _own_highpass(preparation: Preparation) -> dict[str, Any]:
    """Return what single corpora are filtered by, if any are, to be written down."""
    return {"corpus_highpass_hz": dict(sorted(preparation.highpass_of.items()))} if preparation.highpass_of else {}


def _agree_on_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Raise for a folder whose shards were begun by another plan, naming what differs."""
    path = folder / PLAN
    if not path.is_file():
        foreign = next(folder.glob("[0-9]*.npy"), None)
        if foreign is not None:
            raise ParameterError(f"Got {folder}, which holds {foreign.name} and no {PLAN}. Name an empty folder.")
        _write_json(path, plan)
        return
    try:
        begun = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedRecordError(
            f"Got {path}, which is damaged ({error}): how the shards beside it were begun cannot be told. Delete the "
            "folder, or name another."
        ) from error
    # Through JSON, which has no tuples, as the other one went.
    plan = json.loads(json.dumps(plan))
    differing = sorted(key for key in plan.keys() | begun.keys() if plan.get(key) != begun.get(key))
    if differing:
        changes = "; ".join(f"{key} was {begun.get(key)!r}, now {plan.get(key)!r}" for key in differing)
        raise ParameterError(f"Got {folder}, which holds shards packed otherwise: {changes}. Name another folder.")


def _write_shards(
    planned: Sequence[ShardPlan], folder: Path, preparation: Preparation, n_jobs: int | None, progress: bool
) -> None:
    """Write the shards that are lacking, in as many processes as asked for."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    for torn in folder.glob(".[0-9]*"):  # what a killed pack left: no other is under way
        torn.unlink()
    lacking = [shard for shard in planned if not is_complete(folder, shard.number, preparation.spec)]
    if not lacking and (folder / MANIFEST).is_file():
        warnings.warn(
            f"{folder} is packed already: no recording was read. If recordings have changed since then, delete the "
            "folder or name another, and pack again.",
            SkecgWarning,
            stacklevel=3,
        )
    total = sum(len(shard.items) for shard in planned)
    done = total - sum(len(shard.items) for shard in lacking)
    with tqdm(total=total, initial=done, unit="record", desc="packing", disable=not progress) as bar:
        bar.set_postfix_str(_projected_size(folder, done, total, preparation))
        tasks = (delayed(write_shard)(shard, folder, preparation) for shard in lacking)
        # Unordered: each shard is a file of its own, and a slow one should not hold the count up.
        for n_items in Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks):
            bar.update(n_items)
            bar.set_postfix_str(_projected_size(folder, int(bar.n), total, preparation))


def _projected_size(folder: Path, n_done: int, n_records: int, preparation: Preparation) -> str:
    """Report how large all shards will be, from those that there are, or at first by one segment a record."""
    written = sum(path.stat().st_size for path in folder.glob("[0-9]*.npy")) if n_done else 0
    spec = preparation.spec
    each = written / n_done if n_done else 2 * spec.n_leads * spec.window_samples  # two bytes a sample, int16
    return f"{each * n_records / 1e9:.3g} GB in all"


def _finish(
    folder: Path, corpora: Sequence[Corpus], planned: Sequence[ShardPlan], preparation: Preparation
) -> ShardSet:
    """Write the manifest and the list of what was left out."""
    summaries = [read_summary(folder, shard.number) for shard in planned]
    left_out = [row for corpus in corpora for row in corpus.left_out]
    left_out += [LeftOut(*row) for summary in summaries for row in summary["left_out"]]
    _write_left_out(folder / LEFT_OUT, left_out)
    statistics = _statistics(summaries)
    summary = _summarize(statistics, left_out, corpora, summaries)
    if not statistics:
        raise BadSignalError(f"Nothing was left to pack; {folder / LEFT_OUT} says why.\n{summary}")
    manifest = {
        "format": FORMAT_VERSION,
        "input": preparation.spec.to_dict(),
        "corpora": statistics,
        "shards": [
            {key: summary[key] for key in ("n_segments", "signals_sha256", "index_sha256")} for summary in summaries
        ],
        "left_out": dict(sorted(Counter(f"{row.corpus}: {row.reason}" for row in left_out).items())),
        "summary": summary,
    } | _own_highpass(preparation)
    # Last of all: a folder with a manifest is one that is packed.
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
        # From sums in float64, so that shards add up in any number; rounding may go below zero.
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
