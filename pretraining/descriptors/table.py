"""The descriptors of all rows of shards: computed once, kept beside them.

Random convolutions hold most of what classical methods know of a recording's waveforms, amplitudes and spectra are what
a person would compute, and the median beat is what a cardiologist looks at. None needs a label. They are whitened, each
kind by itself, so that a prediction can be compared with them by its squared distance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.descriptors.beats import beat_features
from pretraining.descriptors.whitening import Whitening, fit_whitening
from pretraining.shard_files import replacing
from skecg.errors import ParameterError
from skecg.evaluation.baselines import hand_crafted_features, random_convolution_features

if TYPE_CHECKING:
    from pretraining.shards import ShardSet

__all__ = ["N_DESCRIPTORS", "Descriptors", "read_descriptors", "write_descriptors"]

FloatArray = NDArray[np.float32]

#: Raised whenever the numbers change, so that stored ones are not taken for them.
VERSION = 1
# Kernels other than those of the baseline that encoders are compared with.
_KERNEL_SEED = 20_260
_MOST_ROWS_TO_FIT = 20_000
_ROWS_AT_ONCE = 64
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
    path = _path(shards)
    if not path.is_file():
        _write(path, _compute(shards, progress))


def read_descriptors(shards: ShardSet) -> Descriptors:
    """Read what :func:`write_descriptors` wrote."""
    with np.load(_path(shards), allow_pickle=False) as data:
        return Descriptors(data["values"], data["importance"], data["is_known"])


def _path(shards: ShardSet) -> Path:
    """Name the file after what it was computed from."""
    key = hashlib.sha256(f"{VERSION} {shards.fingerprint}".encode()).hexdigest()[:16]
    return shards.folder / f"descriptors-{key}.npz"


def _compute(shards: ShardSet, progress: bool) -> Descriptors:
    is_known: NDArray[np.bool_] = np.asarray(shards.lead_mask.all(axis=1))
    rows = np.flatnonzero(is_known)
    if len(rows) < 2:
        raise ParameterError(
            f"Got {len(rows)} rows with all twelve leads, expected some to describe. Set objective.describe_weight=0."
        )
    fitted_on = np.sort(np.random.default_rng(0).permutation(rows)[:_MOST_ROWS_TO_FIT])
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
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
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
