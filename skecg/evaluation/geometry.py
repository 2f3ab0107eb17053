"""The geometry of features: what the places of records show before any classifier is trained.

Two questions, of which pre-training is the better answer the fewer labels there are:

- **One class.** How far is a record from the normal ones? The distance is Mahalanobis' on the leading principal
  components of the normal training records, of features standardized on these; its score is the area under the ROC
  curve of abnormal against normal test records. No abnormal record is learned from.
- **Retrieval.** Are the nearest records alike? Nearest are the training records at the least Euclidean distance from
  the test record, in standardized features; the score is the share of the ten nearest that have exactly the same
  classes, averaged over test records.

Components and the number of neighbours are the same for all features, and so is standardization but for coordinates
along principal directions, which keep their proportions. The 128 components and the
Euclidean distance were chosen by a look at PTB-XL's fold 9, where they were better for encoders and baselines alike.
Features in which chance has a part (random convolutions) have the mean over their draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ShapeError
from skecg.evaluation.bootstrap import Bootstrap, bootstrap_auroc, bootstrap_mean
from skecg.evaluation.splitting import Split
from skecg.evaluation.tasks import Task
from skecg.linear_model.distances import NoveltyScore, nearest_rows, standardization

__all__ = [
    "N_COMPONENTS",
    "N_NEIGHBOURS",
    "Geometry",
    "geometry_of",
    "join_geometries",
    "mahalanobis_distances",
    "neighbour_agreement",
    "score_geometry",
]

#: Leading components of the normal records that count.
N_COMPONENTS = 128

#: Training records that are compared with each test record.
N_NEIGHBOURS = 10

# What the tasks call records without a finding.
_NORMAL_CLASSES = ("NORM", "Normal")

# Fewer normal records have no covariance worth the name.
_FEWEST_NORMAL = 10

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where one source of features puts the test records.

    Parameters
    ----------
    distances : ndarray of shape (n_seeds, n_test), float64, or None
        From the normal training records; None where the task has no normal class, or too few records of it.
    agreement : ndarray of shape (n_test,), float64
        Share of the nearest training records with the same classes, averaged over seeds.
    """

    distances: FloatArray | None
    agreement: FloatArray


def normal_class(task: Task) -> str | None:
    """Return what a task calls records without a finding, or None where it has no such class."""
    return next((name for name in task.classes if name in _NORMAL_CLASSES), None)


def geometry_of(features: Any, task: Task, split: Split, *, standardize: bool = True) -> Geometry | None:
    """Compute distances and agreement of the test records.

    Parameters
    ----------
    features : ndarray of shape (n_records, n_features) or (n_seeds, n_records, n_features)
        Of all records of the task. Anything else (tokens, or a table without columns) has no geometry.
    task : Task
    split : Split
    standardize : bool, default=True
        Whether each feature is divided by its own deviation.

    Returns
    -------
    Geometry or None
    """
    # Tokens are no single place in space, and the majority has none.
    if not isinstance(features, np.ndarray) or features.shape[-1] == 0:
        return None
    draws = features if features.ndim == 3 else features[None]
    labels, name = task.labels, normal_class(task)
    # Of the training side alone: a test record must not say what is normal.
    normal = split.train[labels[split.train, task.classes.index(name)] == 1] if name else split.train[:0]
    enough = len(normal) >= _FEWEST_NORMAL
    agreement = [
        neighbour_agreement(
            draw[split.train], labels[split.train], draw[split.test], labels[split.test], standardize=standardize
        )
        for draw in draws
    ]
    distances = [
        mahalanobis_distances(draw[normal], draw[split.test], standardize=standardize) for draw in draws if enough
    ]
    return Geometry(np.stack(distances) if enough else None, np.mean(agreement, axis=0))


def join_geometries(parts: Sequence[Geometry | None]) -> Geometry | None:
    """Return the test records of several splits one after the other; None where one has no geometry."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    distances = [part.distances for part in known if part.distances is not None]
    return Geometry(
        np.concatenate(distances, axis=1) if len(distances) == len(known) else None,
        np.concatenate([part.agreement for part in known]),
    )


def mahalanobis_distances(
    normal: NDArray[np.floating],
    features: NDArray[np.floating],
    n_components: int = N_COMPONENTS,
    *,
    standardize: bool = True,
) -> FloatArray:
    """Compute how far records are from the normal ones, in deviations along their leading components.

    Parameters
    ----------
    normal : ndarray of shape (n_normal, n_features)
        Features of normal records.
    features : ndarray of shape (n_records, n_features)
    n_components : int, default=128
        At most; components along which the normal records do not vary are left out.
    standardize : bool, default=True
        Whether each feature is divided by its own deviation.

    Returns
    -------
    ndarray of shape (n_records,), float64
    """
    if normal.ndim != 2 or features.ndim != 2 or normal.shape[1] != features.shape[1] or len(normal) < 2:
        raise ShapeError(
            f"Got features of shape {features.shape} and of normal records {normal.shape}, expected two tables with "
            "the same columns, and two normal records or more."
        )
    return NoveltyScore(n_components, standardize=standardize).fit(normal).distances(features)


def neighbour_agreement(
    reference: NDArray[np.floating],
    reference_labels: NDArray[np.integer],
    features: NDArray[np.floating],
    labels: NDArray[np.integer],
    n_neighbours: int = N_NEIGHBOURS,
    *,
    standardize: bool = True,
) -> FloatArray:
    """Compute which share of each record's nearest neighbours has exactly its classes.

    Parameters
    ----------
    reference : ndarray of shape (n_reference, n_features)
        Features of the records among which neighbours are sought.
    reference_labels : ndarray of shape (n_reference, n_classes)
        Zeros and ones.
    features, labels
        The same of the records whose neighbours are sought.
    n_neighbours : int, default=10
    standardize : bool, default=True
        Whether each feature is divided by its own deviation.

    Returns
    -------
    ndarray of shape (n_records,), float64
    """
    mean, scale = standardization(reference, standardize=standardize)
    known, asked = (reference - mean) / scale, (features - mean) / scale
    agreement, start = np.empty(len(asked)), 0
    for nearest in nearest_rows(known, asked, n_neighbours):
        rows = slice(start, start + len(nearest))
        agreement[rows] = (reference_labels[nearest] == labels[rows, None]).all(axis=2).mean(axis=1)
        start += len(nearest)
    return agreement


def score_geometry(
    geometries: Mapping[str, Geometry],
    task: Task,
    split: Split,
    patients: NDArray[np.generic],
    *,
    n_draws: int,
    seed: int,
) -> dict[str, Any]:
    """Score sources of features on the same draws of test patients.

    Parameters
    ----------
    geometries : mapping of str to Geometry
        By name of the source.
    task : Task
    split : Split
    patients : ndarray of shape (n_test,)
        Who each test record is of.
    n_draws, seed : int
        As for :func:`skecg.evaluation.bootstrap_auroc`.

    Returns
    -------
    dict
        ``rows``: by name, the Intervals ``one_class`` and ``retrieval``; ``differences``: the same of each pair,
        ``of`` one ``minus`` the other; and what was done. ``one_class`` is absent where the task has no normal class.
    """
    if not geometries:
        return {}
    options: dict[str, Any] = {"n_draws": n_draws, "seed": seed}
    boots = {"retrieval": bootstrap_mean({name: g.agreement for name, g in geometries.items()}, patients, **options)}
    name = normal_class(task)
    distances = {source: g.distances[..., None] for source, g in geometries.items() if g.distances is not None}
    if name is not None and distances:
        abnormal = 1 - task.labels[split.test, task.classes.index(name)]
        boots["one_class"] = bootstrap_auroc(abnormal, distances, patients, **options)
    names = list(geometries)
    return {
        "normal_class": name if "one_class" in boots else None,
        "n_components": N_COMPONENTS,
        "n_neighbours": N_NEIGHBOURS,
        "rows": {source: _rows(boots, source) for source in names},
        "differences": [
            {"of": a, "minus": b} | {measure: boot.difference(a, b) for measure, boot in boots.items()}
            for number, a in enumerate(names)
            for b in names[:number]
        ],
    }


def _rows(boots: Mapping[str, Bootstrap], source: str) -> dict[str, Any]:
    """Return the scores of one source, with their intervals."""
    return {measure: boot.macro(source) for measure, boot in boots.items()}
