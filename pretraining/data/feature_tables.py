"""The descriptors of all rows of shards: computed once, kept beside them.

Random convolutions hold most of what classical methods know of a recording's waveforms, amplitudes and spectra are what
a person would compute, and the median beat is what a cardiologist looks at. None needs a label. They are whitened, each
kind by itself, so that a prediction can be compared with them by its squared distance.

The beats of all rows of shards: found once, kept beside them.

It takes about 20 ms for ten seconds of a recording, on one core. All cores of the machine are used; what is written
does not depend on how many, since each sum is made by one thread.

Numbers that describe a whole recording without any label, for encoders to predict beside the masked tokens.

Where the beats of recordings are and what they are like, without any label; what the recordings are like as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.data.features import (
    BEAT_KINDS,
    RECORD_KINDS,
    beat_features,
    describe_beats,
    describe_record,
    find_beats,
)
from pretraining.data.scaling import Likeness, Whitening, fit_likeness, fit_whitening
from pretraining.data.shards import ShardSet, open_shards, replacing
from skecg.errors import ParameterError
from skecg.evaluation.baselines import hand_crafted_features, random_convolution_features

if TYPE_CHECKING:
    from sklearn.cluster import KMeans
    from tqdm import tqdm

    from pretraining.data.pack import ShardSet

__all__ = [
    "BeatTable",
    "Descriptors",
    "N_DESCRIPTORS",
    "read_beats",
    "read_descriptors",
    "write_beats",
    "write_descriptors",
]


FloatArray = NDArray[np.float32]


#: Raised whenever the numbers change, so that stored ones are not taken for them.
DESCRIPTORS_VERSION = 1


# Kernels other than those of the baseline that encoders are compared with.
_KERNEL_SEED = 20_260


_MOST_DESCRIPTORS_TO_FIT = 20_000


_DESCRIBED_AT_ONCE = 64


_N_RHYTHM = 4


class Descriptors(NamedTuple):
    """What describes the rows of shards.

    Attributes
    ----------
    values : ndarray of shape (n_rows, N_DESCRIPTORS), float32
        Of mean 0 and variance 1 over the rows; zeros where nothing is known.
    importance : ndarray of shape (N_DESCRIPTORS,), float32
        Weights with mean 1.
    is_known : ndarray of shape (n_rows,), bool
        False for rows that lack a lead.
    """

    values: FloatArray
    importance: FloatArray
    is_known: NDArray[np.bool_]


class _Kind(NamedTuple):
    """One kind of numbers, how many components of it are kept, and its share of the loss."""

    compute: Callable[[FloatArray, float], FloatArray]
    n_components: int
    share: float


def _kernels(signals: FloatArray, sampling_rate: float) -> FloatArray:
    return random_convolution_features(signals, seed=_KERNEL_SEED)


def _median_beats(signals: FloatArray, sampling_rate: float) -> FloatArray:
    return beat_features(signals, sampling_rate)[:, :-_N_RHYTHM]


def _rhythm(signals: FloatArray, sampling_rate: float) -> FloatArray:
    return beat_features(signals, sampling_rate)[:, -_N_RHYTHM:]


_KINDS = {
    "convolutions": _Kind(_kernels, 256, 1.0),
    "hand-crafted": _Kind(hand_crafted_features, 100, 1.0),
    "median beat": _Kind(_median_beats, 60, 0.7),
    "rhythm": _Kind(_rhythm, 4, 0.15),
}


#: Length of a description; where there are fewer components than asked for the rest is 0, without importance.
N_DESCRIPTORS = sum(kind.n_components for kind in _KINDS.values())


def write_descriptors(shards: ShardSet, *, progress: bool = True) -> None:
    """Describe all rows of shards and keep it beside them, where that has not been done before.

    Parameters
    ----------
    shards : ShardSet
        Rows that have all twelve leads are described, each by its valid part.
    progress : bool, default=True

    Raises
    ------
    ParameterError
        When no row has all leads, or the shards' folder cannot be written to.
    """
    path = _descriptors_path(shards)
    if not path.is_file():
        _write(path, _compute_descriptors(shards, progress))


def read_descriptors(shards: ShardSet) -> Descriptors:
    """Read what :func:`write_descriptors` wrote."""
    with np.load(_descriptors_path(shards), allow_pickle=False) as data:
        return Descriptors(data["values"], data["importance"], data["is_known"])


def _descriptors_path(shards: ShardSet) -> Path:
    """Return the path of the file, named after what it was computed from."""
    key = hashlib.sha256(f"{DESCRIPTORS_VERSION} {shards.fingerprint}".encode()).hexdigest()[:16]
    return shards.folder / f"descriptors-{key}.npz"


def _compute_descriptors(shards: ShardSet, progress: bool) -> Descriptors:
    is_known: NDArray[np.bool_] = np.asarray(shards.lead_mask.all(axis=1))
    rows = np.flatnonzero(is_known)
    if len(rows) < 2:
        raise ParameterError(
            f"Got {len(rows)} rows with all twelve leads, expected some to describe. Set objective.describe_weight=0."
        )
    fitted_on = np.sort(np.random.default_rng(0).permutation(rows)[:_MOST_DESCRIPTORS_TO_FIT])
    raw = _raw(shards, fitted_on, progress)
    whitenings = {name: fit_whitening(raw[name], kind.n_components) for name, kind in _KINDS.items()}
    importance = np.concatenate([_filled(whitenings[name].importance, kind) for name, kind in _KINDS.items()])
    importance *= np.concatenate([np.full(kind.n_components, kind.share) for kind in _KINDS.values()])
    values = np.zeros((shards.n_records, len(importance)), np.float32)
    if len(fitted_on) == len(rows):
        values[rows] = _whitened(raw, whitenings)
    else:
        for part in _parts(rows, progress):
            values[part] = _whitened(_raw(shards, part, progress=False), whitenings)
    return Descriptors(values, (importance / importance.mean()).astype(np.float32), is_known)


def _whitened(raw: dict[str, FloatArray], whitenings: dict[str, Whitening]) -> FloatArray:
    return np.concatenate([_filled(whitenings[name](raw[name]), kind) for name, kind in _KINDS.items()], axis=1)


def _filled(values: NDArray[Any], kind: _Kind) -> NDArray[Any]:
    """Fill up components (..., n) that are fewer than asked for."""
    lacking = kind.n_components - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, lacking)])


def _raw(shards: ShardSet, rows: NDArray[np.int64], progress: bool) -> dict[str, FloatArray]:
    """Compute each kind of numbers for some rows."""
    found: dict[str, list[FloatArray]] = {name: [] for name in _KINDS}
    for part in _parts(rows, progress):
        for name, kind in _KINDS.items():
            found[name].append(_described(shards, part, kind))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _described(shards: ShardSet, rows: NDArray[np.int64], kind: _Kind) -> FloatArray:
    """Compute one kind; rows with padding are taken by themselves."""
    signals = shards.gather(rows) * (shards.scale_uv[rows] * np.float32(1e-3))[:, None, None]
    valid = shards.valid_samples[rows]
    parts = [(valid == length, int(length)) for length in np.unique(valid)]
    computed = [(chosen, kind.compute(signals[chosen, :, :length], shards.sampling_rate)) for chosen, length in parts]
    whole = np.empty((len(rows), computed[0][1].shape[1]), np.float32)
    for chosen, values in computed:
        whole[chosen] = values
    return whole


def _parts(rows: NDArray[np.int64], progress: bool) -> Iterator[NDArray[np.int64]]:
    """Yield the rows in parts."""
    from tqdm import tqdm

    with tqdm(total=len(rows), unit="record", desc="describing", disable=not progress) as bar:
        for start in range(0, len(rows), _DESCRIBED_AT_ONCE):
            part = rows[start : start + _DESCRIBED_AT_ONCE]
            yield part
            bar.update(len(part))


def _write(path: Path, found: Descriptors) -> None:
    """Write atomically: a process that is killed leaves no half of it."""
    try:
        with replacing(path) as file:
            np.savez(file, **found._asdict())
    except OSError as error:
        raise ParameterError(
            f"Got {error} when writing {path}; the descriptors of shards are kept beside them. Copy the shards to a "
            "folder that can be written to, or set objective.describe_weight=0."
        ) from error


Rows = NDArray[np.int64]


#: Raised whenever the numbers change, so that stored ones are not taken for them.
BEATS_VERSION = 1


_N_CLASSES = 24


_MOST_BEATS_TO_FIT = 2_000


_MOST_BEATS_TO_FIT = 20_000


_BEATS_AT_ONCE = 64


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
        What it is like, see :class:`pretraining.data.scaling.Likeness`.
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
    path = _beats_path(shards)
    if path.is_file():
        return
    found = _compute_beats(shards, n_jobs, progress)
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
    with np.load(_beats_path(shards), allow_pickle=False) as data:
        found = {name: data[name] for name in BeatTable._fields}
    scales = {name: float(found[name]) for name in ("record_scale", "beat_scale")}
    return BeatTable(**(found | scales))


def _beats_path(shards: ShardSet) -> Path:
    """Return the path of the file, named after what it was computed from."""
    key = hashlib.sha256(f"{BEATS_VERSION} {shards.fingerprint}".encode()).hexdigest()[:16]
    return shards.folder / f"beats-{key}.npz"


class _Fitted(NamedTuple):
    """What numbers of recordings and of beats are made into; None where there are hardly any beats."""

    records: Likeness
    beats: Likeness | None
    clusters: KMeans | None


def _compute_beats(shards: ShardSet, n_jobs: int | None, progress: bool) -> BeatTable:
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
    chosen = np.sort(rng.permutation(rows)[:_MOST_BEATS_TO_FIT])
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
    """Compute the mean squared distance of two of some vectors (n, d)."""
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
    """Yield the result of each row, in order, computed in as many processes as asked for."""
    from joblib import Parallel, delayed

    parts = [items[start : start + _BEATS_AT_ONCE] for start in range(0, len(items), _BEATS_AT_ONCE)]
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
