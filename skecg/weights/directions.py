"""Principal directions of an encoder's features: a shorter vector that keeps most of what they say.

They lie beside the weights in ``directions.safetensors``, whose digest is in ``config.json``. Folders without them are
whole: the features are then as long as they are.

Shapes: R records, D features, K directions.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import StandardScaler

from skecg.encoders.pooling import n_encoder_features
from skecg.errors import DamagedWeightsError, ParameterError
from skecg.io.files import replacing, sha256_of
from skecg.validation import as_numbers
from skecg.weights.folder import (
    CONFIG_NAME,
    DIRECTIONS_NAME,
    WeightsInfo,
    json_bytes,
    load_tensors,
    read_info,
    save_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Directions", "read_directions", "write_directions"]


@dataclass(frozen=True, eq=False)
class Directions:
    """Principal directions of features.

    Parameters
    ----------
    mean : ndarray of shape (D,), float32
    components : ndarray of shape (K, D), float32
        Directions, the one along which features differ most first, over the features' deviations: large features rule
        no direction by their size alone.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.components)

    def project(self, features_RD: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        """Return the coordinates of features along the first `n` directions; rows of NaN stay rows of NaN."""
        return np.asarray((features_RD - self.mean) @ self.components[:n].T, dtype=np.float32)


def read_directions(info: WeightsInfo) -> Directions:
    """Read the directions that lie beside weights.

    Raises
    ------
    ParameterError
        When there are none.
    DamagedWeightsError
        When they are missing, altered, or do not fit the encoder.
    """
    path = info.folder / DIRECTIONS_NAME
    if info.directions_sha256 is None:
        raise ParameterError(
            f"The weights {str(info.provenance.get('name') or info.folder)!r} bring no principal directions. Leave "
            "truncate_dim=None, or write some with skecg.weights.write_directions."
        )
    if not path.is_file() or sha256_of(path) != info.directions_sha256:
        raise DamagedWeightsError(
            f"{path} is missing or not the file that its {CONFIG_NAME} was written for. Fetch the weights again."
        )
    tensors = {name: tensor.float().numpy() for name, tensor in load_tensors(path).items()}
    n_features = n_encoder_features(info.pooling, info.encoder)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    n, finite = shapes.get("components", (0,))[0], all(np.isfinite(tensor).all() for tensor in tensors.values())
    if shapes != {"mean": (n_features,), "components": (n, n_features)} or not finite:
        raise DamagedWeightsError(
            f"{path} holds {shapes}{'' if finite else ', not all finite'}, expected finite 'mean' and 'components' of "
            f"{n_features} features. Fetch the weights again."
        )
    return Directions(tensors["mean"], tensors["components"])


def write_directions(folder: str | Path, features: ArrayLike) -> WeightsInfo:
    """Compute principal directions of features and put them beside the weights that the features are of.

    Parameters
    ----------
    folder : str or Path
        A weights folder.
    features : array-like of shape (n_records, n_features)
        Features of recordings that no score is to be reported on, from ``JEPAEmbedder(folder)`` as it is. More
        recordings than features are needed for as many directions as there are features.

    Returns
    -------
    WeightsInfo
        ``JEPAEmbedder(folder, truncate_dim=K)`` may now be used.

    Raises
    ------
    ParameterError
        When the features are not finite, not those of these weights, or the same for all records.
    InputError
        When they are no numbers.

    Examples
    --------
    >>> from skecg.weights import write_directions
    >>> info = write_directions(folder, JEPAEmbedder(folder).fit_transform(records))  # doctest: +SKIP
    """
    import torch

    info = read_info(folder)
    table = as_numbers("features", features)
    n_features = n_encoder_features(info.pooling, info.encoder)
    if table.ndim != 2 or table.shape[1] != n_features or len(table) < 2 or not np.isfinite(table).all():
        raise ParameterError(
            f"Got features of shape {table.shape}{'' if np.isfinite(table).all() else ', some of them not finite'}; "
            f"expected finite ones (n_records, {n_features}) of at least two records."
        )
    scaler = StandardScaler().fit(table)
    # What never changed has a part of 1e-16 in the directions, by rounding, and would have it of any new value.
    components = torch.from_numpy(_components(scaler.transform(table)) / scaler.scale_ * (scaler.var_ > 0))
    if not len(components):
        raise ParameterError(f"Got {len(table)} rows of the same features, expected those of different recordings.")
    tensors = {"mean": torch.from_numpy(scaler.mean_).float(), "components": _halved(components)}
    save_tensors(info.folder / DIRECTIONS_NAME, tensors, {"records": str(len(table))})
    path = info.folder / CONFIG_NAME
    config = json.loads(path.read_text(encoding="utf-8"))
    config["directions_sha256"] = digest = sha256_of(info.folder / DIRECTIONS_NAME)
    # Last, and whole: should this be interrupted, the former configuration names another digest, and reading says so.
    with replacing(path) as file:
        file.write(json_bytes(config, path))
    return dataclasses.replace(info, directions_sha256=digest)


def _halved(components_KD: Tensor) -> Tensor:
    """Return components in half precision, in half the space, where that keeps each feature's to a thousandth.

    Features that are very large or very small have components that half precision makes 0 or infinite.
    """
    half = components_KD.half()
    error = (half.double() - components_KD).abs().amax(dim=0)
    return half if bool((error <= 1e-3 * components_KD.abs().amax(dim=0)).all()) else components_KD.float()


def _components(scaled_RD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the directions, each with the sign that makes its largest entry positive, as on every machine.

    Directions along which no record differs are anybody's choice, and left out.
    """
    _, deviations, components_KD = np.linalg.svd(scaled_RD, full_matrices=False)
    components_KD = components_KD[deviations > 1e-9 * np.sqrt(scaled_RD.size)]
    largest = np.abs(components_KD).argmax(axis=1)
    return np.asarray(components_KD * np.sign(components_KD[np.arange(len(largest)), largest])[:, None])
