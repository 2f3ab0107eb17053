"""Distances between embeddings: an outlier detector as scikit-learn has them, and neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import skecg
from skecg import NoveltyScore, similar
from skecg.errors import InputError, ParameterError, ShapeError

RNG = np.random.default_rng(0)
USUAL = RNG.normal(size=(300, 6)) @ RNG.normal(size=(6, 6)) + 3.0


@parametrize_with_checks([NoveltyScore()])
def test_every_check_of_an_estimator_passes(estimator, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)


def test_distances_are_those_of_mahalanobis_when_all_components_count() -> None:
    others = RNG.normal(size=(20, 6)) * 5
    centred = others - USUAL.mean(axis=0)
    expected = np.sqrt(np.einsum("nf,fg,ng->n", centred, np.linalg.inv(np.cov(USUAL.T)), centred))

    np.testing.assert_allclose(NoveltyScore().fit(USUAL).distances(others), expected, rtol=1e-9)


def test_without_standardizing_the_leading_components_are_those_of_the_features_as_they_are() -> None:
    # One direction of large scale, and five small ones that, brought to one scale, would outvote it.
    small = RNG.normal(size=(300, 1)) + 0.1 * RNG.normal(size=(300, 5))
    features = np.hstack([100 * RNG.normal(size=(300, 1)), small])
    aside = (features.mean(axis=0) + np.eye(6)[0] * 1000)[None]

    as_they_are = NoveltyScore(1, standardize=False).fit(features).distances(aside)

    assert as_they_are == pytest.approx(1000 / features[:, 0].std(ddof=1), rel=1e-2)
    assert NoveltyScore(1).fit(features).distances(aside) < 1


def test_scale_shift_and_rotation_of_all_features_do_not_matter() -> None:
    others, turn = RNG.normal(size=(20, 6)), np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    plain = NoveltyScore().fit(USUAL).distances(others)

    np.testing.assert_allclose(NoveltyScore().fit(USUAL * 7 - 2).distances(others * 7 - 2), plain)
    np.testing.assert_allclose(NoveltyScore().fit(USUAL @ turn).distances(others @ turn), plain)


def test_strange_records_are_told_from_usual_ones_and_the_share_asked_for_is_called_so() -> None:
    strange = USUAL[:100] + 6 * USUAL.std(axis=0)
    score = NoveltyScore(contamination=0.1).fit(USUAL)

    assert (score.predict(USUAL) == -1).sum() == 30
    distances = np.r_[score.distances(USUAL), score.distances(strange)]
    assert roc_auc_score([0] * 300 + [1] * 100, distances) > 0.95
    np.testing.assert_allclose(score.decision_function(strange), -score.distances(strange) - score.offset_)


@pytest.mark.parametrize("n_records", [20, 60, 150, 400])
def test_of_few_records_usual_ones_are_not_all_called_strange(n_records: int) -> None:
    rng = np.random.default_rng(0)
    scales = np.exp(-np.arange(500) / 8)
    score = NoveltyScore().fit(rng.normal(size=(n_records, 500)) * scales)
    assert len(score.components_) == min(128, n_records // 3)
    usual, strange = score.predict(rng.normal(size=(500, 500)) * scales), score.predict(np.full((1, 500), 9.0))
    assert (usual == -1).mean() < 0.25
    assert strange.tolist() == [-1]


def test_records_that_are_all_alike_say_nothing_of_others() -> None:
    with pytest.raises(ShapeError, match="5 records with the same features"):
        NoveltyScore().fit(np.ones((5, 3)))


def test_columns_of_a_query_in_another_order_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(np.eye(3), columns=["a", "b", "c"])
    assert similar(table, table, k=1).rows[:, 0].tolist() == [0, 1, 2]
    with pytest.raises(ShapeError, match="the column 'c' where features have 'a'"):
        similar(table[["c", "b", "a"]], table, k=1)


def test_a_row_of_a_frame_is_compared_by_its_names_and_a_list_has_none() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(np.eye(3), columns=["a", "b", "c"])
    for query in (table.iloc[1], [0.0, 1.0, 0.0], pandas.Series([0.0, 1.0, 0.0])):
        assert similar(query, table, k=1).rows.tolist() == [1]
    with pytest.raises(ShapeError, match="the column 'c' where features have 'a'"):
        similar(table.iloc[1][["c", "b", "a"]], table, k=1)


@pytest.mark.parametrize("query", [[["a", "b"]], [[1.0], [1.0, 2.0]]])
def test_a_query_that_holds_no_numbers_is_refused(query: object) -> None:
    with pytest.raises(InputError, match="query of type list with values that are no numbers"):
        similar(query, np.eye(2), k=1)


def test_a_query_of_no_records_is_refused() -> None:
    with pytest.raises(ShapeError, match="no records"):
        similar(np.empty((0, 2)), np.eye(2), k=1)


def test_features_that_do_not_vary_count_nothing() -> None:
    constant = np.hstack([USUAL, np.full((300, 1), 5.0)])
    others = np.hstack([USUAL[:9], np.full((9, 1), 9.0)])

    np.testing.assert_allclose(
        NoveltyScore().fit(constant).distances(others), NoveltyScore().fit(USUAL).distances(USUAL[:9])
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components=0"),
        ({"contamination": 0.6}, "above 0 and of at most 0.5"),
        ({"standardize": "no"}, "standardize='no', expected True or False"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        NoveltyScore(**options).fit(USUAL)  # type: ignore[arg-type]


def test_neighbours_are_those_of_the_whole_table_of_distances() -> None:
    query = RNG.normal(size=(700, 6)) * 3  # more than are held at once
    standard, asked = ((table - USUAL.mean(axis=0)) / USUAL.std(axis=0) for table in (USUAL, query))
    table = np.linalg.norm(asked[:, None] - standard, axis=2)

    found = similar(query, USUAL, k=5)

    np.testing.assert_array_equal(found.rows, np.argsort(table, axis=1)[:, :5])
    np.testing.assert_allclose(found.distances, np.sort(table, axis=1)[:, :5])


def test_neighbours_without_standardizing_are_at_the_least_distance_in_one_unit() -> None:
    query, unit = RNG.normal(size=(40, 6)) * 3, np.sqrt(USUAL.var(axis=0).mean())
    table = np.linalg.norm(query[:, None] - USUAL, axis=2)

    # A column without variation counts nothing, in the unit neither.
    found = similar(np.pad(query, ((0, 0), (0, 1))), np.pad(USUAL, ((0, 0), (0, 1))), k=5, standardize=False)

    np.testing.assert_array_equal(found.rows, np.argsort(table, axis=1)[:, :5])
    np.testing.assert_allclose(found.distances, np.sort(table, axis=1)[:, :5] / unit)
    assert (similar(query, USUAL, k=5).rows != found.rows).any()


def test_a_record_finds_itself_first_and_rows_without_features_are_never_found() -> None:
    features = USUAL.copy()
    features[::2] = np.nan

    found = skecg.similar(features[7], features, k=150)

    assert found.rows[0] == 7
    assert found.distances[0] == 0
    assert set(found.rows.tolist()) == set(range(1, 300, 2))


def test_queries_that_cannot_be_answered_are_refused() -> None:
    with pytest.raises(ShapeError, match="the same columns"):
        similar(USUAL[:, :5], USUAL)
    with pytest.raises(ShapeError, match="finite"):
        similar(np.full(6, np.nan), USUAL)
    with pytest.raises(ParameterError, match="k=301 for 300 records"):
        similar(USUAL, USUAL, k=301)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e154, 1e300])
def test_features_whose_squares_are_no_numbers_are_refused(size: float) -> None:
    features = size * np.random.default_rng(0).normal(size=(20, 3))
    for measure in (lambda: similar(features[0], features, k=1), lambda: NoveltyScore().fit(features)):
        with pytest.raises(InputError, match="expected between 1e-150 and 1e\\+150"):
            measure()
    assert similar(np.zeros(3), np.zeros((2, 3)), k=1).rows.tolist() == [0]
