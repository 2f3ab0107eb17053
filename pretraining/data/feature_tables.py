"""Tables beside shards: what describes their rows, and where the rows' beats are and what they are like.

Nothing here needs a label. A table is computed once for a set of shards and kept in their folder. Descriptors are
targets to predict: random convolutions hold most of what classical methods know of a recording's waveforms, amplitudes
and spectra are what a person would compute, and the median beat is what a cardiologist looks at. Each kind is whitened
by itself, so that a prediction can be compared with them by its squared distance. Beats, and recordings as a whole, are
described for contrasts that ask how alike two of them are.

Descriptors take some 5 ms for ten seconds of a recording at 250 Hz on one core, beats somewhat less
(``examples/benchmarks/descriptions.py``). What is written does not depend on the number of processes, since each sum is
made by one thread. Tables are mapped into memory, so that the processes of a machine share one copy of them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pretraining.data.features import (
    BEAT_KINDS,
    DESCRIPTOR_KINDS,
    RECORD_KINDS,
    describe_beats,
    describe_record,
    describe_recordings,
)
from pretraining.data.scaling import KindWhitening, fit_kinds
from pretraining.data.shards import ShardSet, open_shards
from skecg.errors import DamagedRecordError, ParameterError
from skecg.io.files import replacing
from skecg.preprocessing.r_peaks import find_r_peaks

if TYPE_CHECKING:
    from sklearn.cluster import KMeans
    from tqdm import tqdm

__all__ = [
    "N_DESCRIPTORS",
    "BeatTable",
    "Descriptors",
    "FeatureTable",
    "read_beats",
    "read_descriptors",
    "write_beats",
    "write_descriptors",
]

FloatArray = NDArray[np.float32]
Rows = NDArray[np.int64]
T = TypeVar("T", bound=NamedTuple)

# Whitened numbers are of the order of one, and those of an artefact of some hundreds; beats are numbered by rows.
_LARGEST = 1e12

# Rows that are read and described together, or that one process takes at a time.
_CHUNK = 64


@dataclass(frozen=True)
class FeatureTable(Generic[T]):
    """A table of all rows of shards that is kept beside them.

    Parameters
    ----------
    name : str
        Of its files.
    version : int
        Raised whenever the numbers change, so that stored ones are not taken for them.
    content : type of NamedTuple
        What it holds.
    way_out : str
        What to do where the shards' folder cannot be written to, beside copying them.
    """

    name: str
    version: int
    content: type[T]
    way_out: str = ""

    def path(self, shards: ShardSet) -> Path:
        """Return the file's path, named after what it is computed from."""
        key = hashlib.sha256(f"{self.version} {shards.fingerprint}".encode()).hexdigest()[:16]
        return shards.folder / f"{self.name}-{key}.npz"

    def write(self, shards: ShardSet, compute: Callable[[], T]) -> None:
        """Compute and write the table, where that has not been done before."""
        path = self.path(shards)
        if path.is_file():
            return
        try:
            # The file is opened first: a folder that cannot be written to shows before the work, not after it.
            with replacing(path) as file:
                table: Any = compute()
                # Not compressed: only then can read() map it.
                np.savez(file, **table._asdict())
        except OSError as error:
            raise ParameterError(
                f"Got {error} when writing {path}; the {self.name} of shards are kept beside them. Copy the shards to "
                f"a folder that can be written to{self.way_out}."
            ) from error

    def read(self, shards: ShardSet) -> T:
        """Map what was written into memory.

        Raises
        ------
        DamagedRecordError
            When the file was cut short or changed, or holds what is no number.
        """
        content: Any = self.content
        path = self.path(shards)
        try:
            columns = _map_members(path, content._fields)
            strange = [name for name, values in columns.items() if not _are_numbers(values)]
            if strange:
                raise ValueError(f"{', '.join(strange)} with values that are no numbers, or far too large")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DamagedRecordError(
                f"Got {path}, the {self.name} of shards, which is damaged ({error}). Delete the file: what it holds is "
                "computed again."
            ) from error
        table: T = content(**{name: values if values.ndim else values.item() for name, values in columns.items()})
        return table


def _map_members(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Map arrays of an ``.npz`` file, which lie in it as they are, uncompressed."""
    columns: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        if changed := archive.testzip():
            raise zipfile.BadZipFile(f"{changed} is not as it was written")
        for name in names:
            # A member's values begin behind its header, whose last two lengths are at bytes 26 and 28.
            file.seek(archive.getinfo(f"{name}.npy").header_offset + 26)
            file.seek(sum(np.frombuffer(file.read(4), "<u2").tolist()), os.SEEK_CUR)
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            mapped = np.memmap(path, dtype, "r", file.tell(), shape) if np.prod(shape) else np.zeros(shape, dtype)
            columns[name] = mapped.view(np.ndarray)
    return columns


def _are_numbers(values: NDArray[Any]) -> bool:
    """Return whether values are finite and of a size that whitened numbers have."""
    # By the ends, which are NaN where one value is: a mask of all would be as large as a quarter of the table.
    return not values.size or bool(values.min() > -_LARGEST and values.max() < _LARGEST)


def _complete_rows(shards: ShardSet, way_out: str) -> Rows:
    """Return the rows that have all twelve leads."""
    rows = np.flatnonzero(shards.lead_mask.all(axis=1))
    if len(rows) < 2:
        raise ParameterError(f"Got {len(rows)} rows with all twelve leads, expected two or more. {way_out}")
    return rows


# --- descriptors ------------------------------------------------------------------------------------------------------


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


# Both, for one of the two has to be left.
_WITHOUT = "Pack others, or set objective.describe_weight=0 objective.predict_weight=1."

_DESCRIPTORS = FeatureTable(
    "descriptors", 3, Descriptors, ", or set objective.describe_weight=0 objective.predict_weight=1"
)

_MOST_ROWS_DESCRIBED = 20_000  # raw numbers of so many rows are held at once while components are fitted

#: Length of a description; where there are fewer components than asked for the rest is 0, without importance.
N_DESCRIPTORS = sum(kind.n_components for kind in DESCRIPTOR_KINDS)


def write_descriptors(shards: ShardSet, *, n_jobs: int | None = -1, progress: bool = True) -> None:
    """Describe all rows of shards and keep it beside them, where that has not been done before.

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
        When fewer than two rows have all leads, or none differs from another, or the shards' folder cannot be written
        to.
    """
    _DESCRIPTORS.write(shards, lambda: _compute_descriptors(shards, n_jobs, progress))


def read_descriptors(shards: ShardSet) -> Descriptors:
    """Read what :func:`write_descriptors` wrote."""
    return _DESCRIPTORS.read(shards)


def _compute_descriptors(shards: ShardSet, n_jobs: int | None, progress: bool) -> Descriptors:
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    rows = _complete_rows(shards, _WITHOUT)
    # A fixed seed, not the run's: the table belongs to the shards, and all runs on them share it.
    fitted_on = np.sort(np.random.default_rng(0).permutation(rows)[:_MOST_ROWS_DESCRIBED])
    others = np.setdiff1d(rows, fitted_on)
    with tqdm(total=len(rows), unit="record", desc="describing", disable=not progress) as bar:
        raw = np.concatenate(list(_map_chunks(_raw, shards, _chunks(fitted_on), n_jobs, bar)))
        values = _rows_on_disk(shards, N_DESCRIPTORS)
        with threadpool_limits(1):
            whitening = fit_kinds(raw, DESCRIPTOR_KINDS, n_jobs=n_jobs)
            if not whitening.importance().any():
                raise ParameterError(
                    f"Got {len(fitted_on)} rows with all twelve leads that do not differ in any description, expected "
                    f"recordings that do. {_WITHOUT}"
                )
            fitted = Parallel(n_jobs, prefer="threads", return_as="generator")(
                delayed(whitening.components)(numbers) for numbers in _chunks(raw)
            )
            _fill(values, fitted_on, fitted)
        _fill(values, others, _map_chunks(partial(_components, whitening), shards, _chunks(others), n_jobs, bar))
    importance, is_known = whitening.importance(), np.asarray(shards.lead_mask.all(axis=1), dtype=np.bool_)
    return Descriptors(values, (importance / importance.mean()).astype(np.float32), is_known)


def _rows_on_disk(shards: ShardSet, n_columns: int) -> FloatArray:
    """Make zeros for all rows in a file without a name: of a large archive they are gigabytes."""
    with tempfile.TemporaryFile(dir=shards.folder) as file:
        # A full disk is an error here; in a map of a file with holes it would be a signal that kills.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, shards.n_records * n_columns * np.dtype(np.float32).itemsize)
        # The map keeps the file alive after its name is gone.
        return np.memmap(file, np.float32, "w+", shape=(shards.n_records, n_columns))


def _fill(values: FloatArray, rows: Rows, described: Iterable[FloatArray]) -> None:
    """Write the descriptions of rows, which come chunk by chunk."""
    for chunk, components in zip(_chunks(rows), described, strict=True):
        values[chunk] = components


def _chunks(items: Any) -> list[Any]:
    """Cut a sequence into what is read and described together."""
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]


def _components(whitening: KindWhitening, shards: ShardSet, rows: Rows) -> FloatArray:
    """Describe rows by components that have been fitted."""
    return whitening.components(_raw(shards, rows))


def _raw(shards: ShardSet, rows: Rows) -> FloatArray:
    """Compute all kinds, side by side; rows of different valid lengths are taken apart."""
    signals = shards.gather(rows) * (shards.scale_uv[rows] * np.float32(1e-3))[:, None, None]
    valid = shards.valid_samples[rows]
    chosen = [np.flatnonzero(valid == length) for length in np.unique(valid)]
    computed = [describe_recordings(signals[part, :, : valid[part[0]]], shards.sampling_rate) for part in chosen]
    return np.concatenate(computed)[np.argsort(np.concatenate(chosen))]


# --- beats ------------------------------------------------------------------------------------------------------------


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
        What it is like, see :class:`pretraining.data.scaling.KindWhitening`.
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


_BEATS = FeatureTable("beats", 2, BeatTable)

_N_CLASSES = 24
_MOST_ROWS_COMPARED, _MOST_BEATS_COMPARED = 2_000, 20_000


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
    _BEATS.write(shards, lambda: _compute_beats(shards, n_jobs, progress))


def read_beats(shards: ShardSet) -> BeatTable:
    """Read what :func:`write_beats` wrote."""
    return _BEATS.read(shards)


class _Likeness(NamedTuple):
    """What raw numbers of recordings and of beats become; None where there are hardly any beats."""

    records: KindWhitening
    beats: KindWhitening | None
    clusters: KMeans | None


def _compute_beats(shards: ShardSet, n_jobs: int | None, progress: bool) -> BeatTable:
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    rows = _complete_rows(shards, "Pack others.")
    beats = [np.zeros(0, np.int64) for _ in range(shards.n_records)]
    with tqdm(total=2 * len(rows), unit="record", desc="beats", disable=not progress) as bar:
        for row, peaks in zip(rows, _map_rows(_find, shards, [(row,) for row in rows], n_jobs, bar), strict=True):
            beats[row] = peaks
        with threadpool_limits(1):
            likeness, scales = _fit_likeness(shards, rows, beats)
        items = [(row, beats[row]) for row in rows]
        described = list(_map_rows(partial(_describe, likeness), shards, items, n_jobs, bar))
    records, features, classes = zip(*described, strict=True)
    known = np.zeros((len(beats), records[0].shape[-1]), np.float32)
    known[rows] = np.stack(records)
    shapes = np.concatenate(features)
    return BeatTable(
        np.concatenate([[0], np.cumsum([len(peaks) for peaks in beats])]),
        np.append(np.concatenate(beats), 0),
        np.concatenate([shapes, np.zeros((1, shapes.shape[1]), np.float32)]),
        np.append(np.concatenate(classes), 0),
        known,
        *scales,
    )


def _fit_likeness(shards: ShardSet, rows: Rows, beats: list[Rows]) -> tuple[_Likeness, tuple[float, float]]:
    """Fit on a sample of the rows; return it with the mean squared distances of two recordings and of two beats."""
    from sklearn.cluster import KMeans

    rng, rate = np.random.default_rng(0), shards.sampling_rate
    chosen = np.sort(rng.permutation(rows)[:_MOST_ROWS_COMPARED])
    signals = [_read(shards, row) for row in chosen]
    raw = np.stack([describe_record(x, rate, beats[row]) for x, row in zip(signals, chosen, strict=True)])
    records = fit_kinds(raw, RECORD_KINDS)
    record_scale = _mean_distance(records(raw))
    shapes = np.concatenate([describe_beats(x, beats[row], rate) for x, row in zip(signals, chosen, strict=True)])
    shapes = shapes[rng.permutation(len(shapes))[:_MOST_BEATS_COMPARED]]
    if len(shapes) < 2:
        return _Likeness(records, None, None), (record_scale, 1.0)
    likeness = fit_kinds(shapes, BEAT_KINDS)
    vectors = likeness(shapes)
    clusters = KMeans(min(_N_CLASSES, len(vectors)), n_init=1, random_state=0).fit(vectors)
    return _Likeness(records, likeness, clusters), (record_scale, _mean_distance(vectors))


def _mean_distance(vectors_nd: FloatArray) -> float:
    """Compute the mean squared distance of two of the vectors."""
    # Twice the variance is the mean squared distance of two independent draws.
    return float(2 * vectors_nd.var(axis=0).sum(dtype=np.float64)) or 1.0


def _find(shards: ShardSet, row: int) -> Rows:
    return find_r_peaks(_read(shards, row), shards.sampling_rate)


def _describe(likeness: _Likeness, shards: ShardSet, row: int, beats: Rows) -> tuple[FloatArray, FloatArray, Rows]:
    """Describe a row: the recording, its beats and their classes."""
    signal, rate = _read(shards, row), shards.sampling_rate
    record = likeness.records(describe_record(signal, rate, beats)[None])[0]
    if likeness.beats is None or likeness.clusters is None:
        return record, np.zeros((len(beats), 1), np.float32), np.zeros(len(beats), np.int64)
    vectors = likeness.beats(describe_beats(signal, beats, rate))
    centres = likeness.clusters.cluster_centers_
    classes = ((vectors[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1).astype(np.int64)
    return record, vectors, classes


def _map_rows(
    work: Callable[..., Any], shards: ShardSet, items: list[tuple[Any, ...]], n_jobs: int | None, bar: tqdm[Any]
) -> Iterator[Any]:
    """Yield the result of each row, in order; see :func:`_map_chunks`."""
    for results in _map_chunks(partial(_each, work), shards, _chunks(items), n_jobs, bar):
        yield from results


def _each(work: Callable[..., Any], shards: ShardSet, items: list[tuple[Any, ...]]) -> list[Any]:
    return [work(shards, *item) for item in items]


def _map_chunks(
    work: Callable[..., Any], shards: ShardSet, chunks: list[Any], n_jobs: int | None, bar: tqdm[Any]
) -> Iterator[Any]:
    """Yield the result of each chunk, in order, computed in as many processes as asked for."""
    from joblib import Parallel, delayed

    # Starting processes takes longer than two chunks.
    processes = n_jobs if len(chunks) > 2 else 1
    tasks = (delayed(_work_on)(work, shards.folder, shards.fingerprint, chunk) for chunk in chunks)
    for chunk, result in zip(chunks, Parallel(n_jobs=processes, return_as="generator")(tasks), strict=True):
        bar.update(len(chunk))
        yield result


def _work_on(work: Callable[..., Any], folder: Path, fingerprint: str, chunk: Any) -> Any:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return work(_open_once(folder, fingerprint), chunk)


@lru_cache(maxsize=1)
def _open_once(folder: Path, fingerprint: str) -> ShardSet:
    """Open shards once in a process: the index of a large archive takes longer to read than a chunk to describe."""
    return open_shards(folder)


def _read(shards: ShardSet, row: int) -> FloatArray:
    """Read the valid part of a row, in millivolts."""
    millivolts = shards.gather([row])[0] * (shards.scale_uv[row] * np.float32(1e-3))
    return np.asarray(millivolts[:, : shards.valid_samples[row]], dtype=np.float32)
