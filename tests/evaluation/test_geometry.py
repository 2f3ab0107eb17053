"""What the places of records in feature space show without a classifier."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_set import small_set
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skecg.errors import ShapeError
from skecg.evaluation.bootstrap import bootstrap_mean
from skecg.evaluation.geometry import geometry_of, mahalanobis_distances, neighbour_agreement, score_geometry
from skecg.evaluation.splitting import split_by_folds
from skecg.evaluation.tasks import task_labels

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6)) + 3
OTHERS = RNG.normal(size=(50, 6)) * 3


def test_with_all_components_the_distance_is_that_of_mahalanobis() -> None:
    peer = EmpiricalCovariance().fit(NORMAL)

    # scikit-learn divides by n where this divides by n - 1.
    np.testing.assert_allclose(mahalanobis_distances(NORMAL, OTHERS) ** 2, peer.mahalanobis(OTHERS) * 199 / 200)


def test_scale_and_place_of_features_do_not_matter_and_constant_ones_count_nowhere() -> None:
    moved = [
        np.column_stack([part * [1, 10, 0.1, 5, 2, 1e3] + 7, np.full(len(part), 4.0)]) for part in (NORMAL, OTHERS)
    ]

    np.testing.assert_allclose(mahalanobis_distances(*moved), mahalanobis_distances(NORMAL, OTHERS), rtol=1e-6)


def test_fewer_components_look_along_the_leading_ones_only() -> None:
    along = np.linalg.svd((NORMAL - NORMAL.mean(axis=0)) / NORMAL.std(axis=0))[2]
    aside = NORMAL.mean(axis=0) + 9 * along[-1] * NORMAL.std(axis=0)

    assert mahalanobis_distances(NORMAL, aside[None], 3) == pytest.approx(0, abs=1e-6)
    assert mahalanobis_distances(NORMAL, aside[None], 6) > 5


def test_neighbours_are_the_nearest_and_agree_when_all_classes_are_the_same() -> None:
    labels, asked = RNG.integers(0, 2, (200, 3)), RNG.integers(0, 2, (50, 3))

    found = neighbour_agreement(NORMAL, labels, OTHERS, asked, 7)

    scale = StandardScaler().fit(NORMAL)
    nearest = NearestNeighbors(n_neighbors=7).fit(scale.transform(NORMAL)).kneighbors(scale.transform(OTHERS))[1]
    np.testing.assert_allclose(found, (labels[nearest] == asked[:, None]).all(axis=2).mean(axis=1))


def test_tables_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ShapeError, match="the same columns"):
        mahalanobis_distances(NORMAL, OTHERS[:, :5])


def test_features_that_know_the_labels_win_and_the_difference_is_paired() -> None:
    task = task_labels(small_set(), "superdiagnostic")
    split = split_by_folds(small_set(), task)
    noise = RNG.normal(size=(len(task.labels), 5))
    geometries = {
        "knows": geometry_of(task.labels + 0.05 * noise, task, split),
        "noise": geometry_of(np.stack([noise, noise[:, ::-1]]), task, split),
    }

    scores = score_geometry(geometries, task, split, small_set().patients[split.test], n_draws=200, seed=0)

    assert geometries["noise"].distances.shape == (2, len(split.test))
    for measure in ("one_class", "retrieval"):
        assert scores["rows"]["knows"][measure].estimate > 0.9
        assert scores["rows"]["noise"][measure].estimate < 0.7
    (difference,) = scores["differences"]
    assert (difference["of"], difference["minus"]) == ("noise", "knows")
    assert difference["retrieval"].high < 0


def test_what_is_no_table_of_vectors_has_no_geometry_and_rhythms_have_no_normal_class() -> None:
    task = task_labels(small_set(), "rhythm")
    split = split_by_folds(small_set(), task)

    assert geometry_of([NORMAL], task, split) is None
    assert geometry_of(np.empty((len(task.labels), 0)), task, split) is None
    only = {"noise": geometry_of(RNG.normal(size=(len(task.labels), 4)), task, split)}
    scores = score_geometry(only, task, split, small_set().patients[split.test], n_draws=20, seed=0)
    assert set(scores["rows"]["noise"]) == {"retrieval"}
    assert scores["normal_class"] is None


def test_the_interval_of_a_mean_holds_the_spread_of_patients() -> None:
    values = RNG.random(400)

    apart = bootstrap_mean({"a": values}, np.arange(400)).macro("a")
    together = bootstrap_mean({"a": np.repeat(values[:100], 4)}, np.repeat(np.arange(100), 4)).macro("a")

    assert apart.estimate == values.mean()
    assert (apart.high - apart.low) / 2 == pytest.approx(1.97 * values.std() / 20, rel=0.1)
    assert together.high - together.low > 1.7 * (apart.high - apart.low)
