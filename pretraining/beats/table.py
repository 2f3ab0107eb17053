"""The beats of all rows of shards: found once, kept beside them.

It takes about 20 ms for ten seconds of a recording, on one core. All cores of the machine are used; what is written
does not depend on how many, since each sum is made by one thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.beats.describing import BEAT_KINDS, RECORD_KINDS, describe_beats, describe_record
from pretraining.beats.detecting import find_beats
from pretraining.beats.likeness import Likeness, fit_likeness
from pretraining.shard_files import replacing
from pretraining.shard_set import ShardSet, open_shards
from skecg.errors import ParameterError

if TYPE_CHECKING:
    from sklearn.cluster import KMeans
    from tqdm import tqdm

__all__ = ["BeatTable", "read_beats", "write_beats"]

FloatArray = NDArray[np.float32]
Rows = NDArray[np.int64]

#: Raised whenever the numbers change, so that stored ones are not taken for them.
VERSION = 1
_N_CLASSES = 24
_MOST_ROWS_TO_FIT = 2_000
_MOST_BEATS_TO_FIT = 20_000
_ROWS_AT_ONCE = 64


class BeatTable(NamedTuple):
    """What is known of the rows of shards and of their beats.

    After the last beat there is one more, of zeros and of no row, which stands where there is none.

    Attributes
    ----------
    first : ndarray of shape (n_rows + 1,), int64
        The beats of row r are those from ``first[r]`` to below ``first[r + 1]``.
    samples : ndarray of shape (n_beats + 1,), int64
        Where in the row each is.
    features : ndarray of shape (n_beats + 1, d), float32
        What it is like, see :class:`pretraining.beats.likeness.Likeness`.
    classes : ndarray of shape (n_beats + 1,), int64
        Which cluster of likeness it falls into.
    records : ndarray of shape (n_rows, D), float32
        What each recording is like; zeros, which are no more like one than another, for rows that lack a lead. These
        have no beats either.
    record_scale, beat_scale : float
        Mean squared distance between two recordings, and between two beats.
    """

    first: NDArray[np.int64]
    samples: NDArray[np.int64]
    features: FloatArray
    classes: NDArray[np.int64]
    records: FloatArray
    record_scale: float
    beat_scale: float


def write_beats(shards: ShardSet, *, n_jobs: int | None = -1, progress: bool = True) -> None:
    """Find and describe the beats of all rows of shards and keep them beside these, where it has not been done before.

    Parameters
    ----------
    shards : ShardSet
        Rows that have all twelve leads are described, each by its valid part.
    n_jobs : int, optional
        Processes, as joblib counts them.
    progress : bool, default=True

    Raises
    ------
    ParameterError
        When fewer than two rows have all leads, or the shards' folder cannot be written to.
    """
    path = _path(shards)
    if path.is_file():
        return
    found = _compute(shards, n_jobs, progress)
    try:
        with replacing(path) as file:
            np.savez(file, **found._asdict())
    except OSError as error:
        raise ParameterError(
            f"Got {error} when writing {path}; the beats of shards are kept beside them. Copy the shards to a folder "
            "that can be written to."
        ) from error


def read_beats(shards: ShardSet) -> BeatTable:
    """Read what :func:`write_beats` wrote."""
    with np.load(_path(shards), allow_pickle=False) as data:
        found = {name: data[name] for name in BeatTable._fields}
    scales = {name: float(found[name]) for name in ("record_scale", "beat_scale")}
    return BeatTable(**(found | scales))


def _path(shards: ShardSet) -> Path:
    """Name the file after what it was computed from."""
    key = hashlib.sha256(f"{VERSION} {shards.fingerprint}".encode()).hexdigest()[:16]
    return shards.folder / f"beats-{key}.npz"


class _Fitted(NamedTuple):
    """What numbers of recordings and of beats are made into; None where there are hardly any beats."""

    records: Likeness
    beats: Likeness | None
    clusters: KMeans | None


def _compute(shards: ShardSet, n_jobs: int | None, progress: bool) -> BeatTable:
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    rows = np.flatnonzero(shards.lead_mask.all(axis=1))
    if len(rows) < 2:
        raise ParameterError(f"Got {len(rows)} rows with all twelve leads, expected some to compare. Pack others.")
    beats = [np.zeros(0, np.int64) for _ in range(shards.n_records)]
    with tqdm(total=2 * len(rows), unit="record", desc="beats", disable=not progress) as bar:
        for row, found in zip(rows, _each(_find, shards, [(row,) for row in rows], n_jobs, bar), strict=True):
            beats[row] = found
        with threadpool_limits(1):
            fitted, scales = _fit(shards, rows, beats)
        items = [(row, beats[row]) for row in rows]
        described = list(_each(partial(_describe, fitted), shards, items, n_jobs, bar))
    records, features, classes = zip(*described, strict=True)
    counts = np.array([len(found) for found in beats])
    known = np.zeros((len(beats), records[0].shape[-1]), np.float32)
    known[rows] = np.stack(records)
    first = np.concatenate([[0], counts.cumsum()])
    samples, shapes = np.concatenate(beats), np.concatenate(features)
    return BeatTable(
        first,
        np.append(samples, 0),
        np.concatenate([shapes, np.zeros((1, shapes.shape[1]), np.float32)]),
        np.append(np.concatenate(classes), 0),
        known,
        *scales,
    )


def _fit(shards: ShardSet, rows: Rows, beats: list[Rows]) -> tuple[_Fitted, tuple[float, float]]:
    """Fit on some rows, and say how far apart they are in the mean."""
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(rows)[:_MOST_ROWS_TO_FIT])
    signals = [_read(shards, row) for row in chosen]
    rate = shards.sampling_rate
    raw = np.stack([describe_record(signal, rate) for signal in signals])
    records = fit_likeness(raw, RECORD_KINDS)
    raw_beats = [describe_beats(x, beats[row], rate) for x, row in zip(signals, chosen, strict=True)]
    shapes = np.concatenate(raw_beats)
    shapes = shapes[rng.permutation(len(shapes))[:_MOST_BEATS_TO_FIT]]
    if len(shapes) < 2:
        return _Fitted(records, None, None), (_mean_distance(records(raw)), 1.0)
    likeness = fit_likeness(shapes, BEAT_KINDS)
    vectors = likeness(shapes)
    clusters = KMeans(min(_N_CLASSES, len(vectors)), n_init=1, random_state=0).fit(vectors)
    return _Fitted(records, likeness, clusters), (_mean_distance(records(raw)), _mean_distance(vectors))


def _mean_distance(vectors: FloatArray) -> float:
    """Give the mean squared distance of two of some vectors (n, d)."""
    return float(2 * vectors.var(axis=0).sum(dtype=np.float64)) or 1.0


def _find(shards: ShardSet, row: int) -> Rows:
    return find_beats(_read(shards, row), shards.sampling_rate)


def _describe(fitted: _Fitted, shards: ShardSet, row: int, beats: Rows) -> tuple[FloatArray, FloatArray, Rows]:
    """Describe a row: the recording, its beats and their classes."""
    signal, rate = _read(shards, row), shards.sampling_rate
    record = fitted.records(describe_record(signal, rate)[None])[0]
    if fitted.beats is None or fitted.clusters is None:
        return record, np.zeros((len(beats), 1), np.float32), np.zeros(len(beats), np.int64)
    vectors = fitted.beats(describe_beats(signal, beats, rate))
    centres = fitted.clusters.cluster_centers_
    classes = ((vectors[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1).astype(np.int64)
    return record, vectors, classes


def _each(
    work: Callable[..., Any], shards: ShardSet, items: list[tuple[Any, ...]], n_jobs: int | None, bar: tqdm[Any]
) -> Iterator[Any]:
    """Do the work of each row, in order, in as many processes as asked for."""
    from joblib import Parallel, delayed

    parts = [items[start : start + _ROWS_AT_ONCE] for start in range(0, len(items), _ROWS_AT_ONCE)]
    # Starting processes takes longer than some parts.
    processes = n_jobs if len(parts) > 2 else 1
    tasks = (delayed(_do)(work, shards.folder, part) for part in parts)
    for results in Parallel(n_jobs=processes, return_as="generator")(tasks):
        yield from results
        bar.update(len(results))


def _do(work: Callable[..., Any], folder: Path, items: list[tuple[Any, ...]]) -> list[Any]:
    from threadpoolctl import threadpool_limits

    shards = open_shards(folder)
    with threadpool_limits(1):
        return [work(shards, *item) for item in items]


def _read(shards: ShardSet, row: int) -> FloatArray:
    """Read the valid part of a row, in millivolts."""
    millivolts = shards.gather([row])[0] * (shards.scale_uv[row] * np.float32(1e-3))
    return np.asarray(millivolts[:, : shards.valid_samples[row]], dtype=np.float32)
