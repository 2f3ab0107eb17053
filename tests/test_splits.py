"""Patients stay whole in hold-outs, draws and folds, which have their share of every label."""

from __future__ import annotations

import ast
import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold

import skecg.evaluation
from skecg.errors import LeakageWarning, ParameterError, ShapeError
from skecg.evaluation.tasks import make_task
from skecg.splits import digest_of_patients, draw_patients, hold_out, stratified_patient_folds, warn_of_shared_patients

PATIENTS = np.repeat(["ann", "bob", "cat", "dan"], 3)
LABELS = np.tile([0, 1], 6)


def test_a_patient_on_both_sides_is_warned_of_with_the_way_out() -> None:
    with pytest.warns(LeakageWarning, match=r"StratifiedKFold .* StratifiedGroupKFold, and pass groups"):
        shared = warn_of_shared_patients(3, range(12), LABELS, PATIENTS)

    assert shared == 2  # four records to a fold, three to a patient


def test_splits_by_patient_pass_in_silence() -> None:
    assert warn_of_shared_patients(GroupKFold(2), range(12), LABELS, PATIENTS) == 0


def test_a_plain_split_that_happens_to_keep_patients_together_passes() -> None:
    assert warn_of_shared_patients(KFold(4), range(12), None, PATIENTS) == 0


def test_one_name_is_wanted_for_every_record() -> None:
    with pytest.raises(ParameterError, match=r"\(12,\) for 11 records"):
        warn_of_shared_patients(3, range(11), LABELS[:11], PATIENTS)


def drawn(seed: int, n_records: int, n_labels: int, n_patients: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((n_records, n_labels)) < rng.random(n_labels), rng.integers(n_patients, size=n_records)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(0, 4), st.integers(1, 40), st.floats(0.05, 0.9))
def test_no_patient_is_on_both_sides_and_no_record_is_lost(
    seed: int, n_records: int, n_labels: int, n_patients: int, fraction: float
) -> None:
    has, who = drawn(seed, n_records, n_labels, n_patients)

    train, held = hold_out(has, who, fraction, np.random.default_rng(seed))

    assert not set(who[train]) & set(who[held])
    assert sorted([*train, *held]) == list(range(n_records))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held) > 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 4), st.integers(1, 40), st.floats(0.05, 0.9))
def test_training_keeps_records_with_and_without_every_label(
    seed: int, n_records: int, n_labels: int, n_patients: int, fraction: float
) -> None:
    has, who = drawn(seed, n_records, n_labels, n_patients)

    train, _ = hold_out(has, who, fraction, np.random.default_rng(seed))

    np.testing.assert_array_equal(has[train].any(axis=0), has.any(axis=0))
    np.testing.assert_array_equal((~has[train]).any(axis=0), (~has).any(axis=0))


def test_labels_keep_their_shares() -> None:
    has = np.random.default_rng(0).random((2000, 3)) < [0.02, 0.1, 0.5]

    train, held = hold_out(has, None, 0.2, np.random.default_rng(1))

    assert len(held) == 400
    assert np.abs(has[held].sum(axis=0) - 0.2 * has.sum(axis=0)).max() <= 2
    assert len(train) == 1600


def test_each_record_is_a_patient_where_none_are_named() -> None:
    has = np.arange(40)[:, None] % 2 == 0

    for groups in (None, np.arange(40), [f"p{number:02d}" for number in range(40)]):
        _, held = hold_out(has, groups, 0.25, np.random.default_rng(3))
        assert len(held) == 10
        assert has[held].sum() == 5


def test_nothing_is_held_out_when_nothing_can_be_spared_or_is_wanted() -> None:
    pairs = np.array([[True], [False]])

    assert len(hold_out(pairs, None, 0.5, np.random.default_rng(0))[1]) == 0
    assert len(hold_out(np.ones((9, 0), bool), None, 0.0, np.random.default_rng(0))[1]) == 0
    assert len(hold_out(np.ones((9, 0), bool), None, 0.4, np.random.default_rng(0))[1]) == 4


def test_wrong_groups_and_shares_are_named() -> None:
    with pytest.raises(ParameterError, match=r"groups of shape \(3,\) for 4 records.*Pass groups=patients"):
        hold_out(np.ones((4, 1), bool), [1, 2, 3], 0.5, np.random.default_rng(0))
    with pytest.raises(ParameterError, match=r"validation_fraction=1, expected a share"):
        hold_out(np.ones((4, 1), bool), None, 1, np.random.default_rng(0))


def test_labels_that_are_no_table_are_named() -> None:
    for labels in ([1, 0, 1, 0], np.zeros((4, 2, 1))):
        with pytest.raises(ShapeError, match=r"labels\[:, None\]"):
            hold_out(labels, None, 0.5, np.random.default_rng(0))
        with pytest.raises(ShapeError, match=r"expected \(4, n_labels\)"):
            stratified_patient_folds(list("aabb"), labels, 2)
    with pytest.raises(ShapeError, match=r"labels of shape \(3, 1\), expected \(4, n_labels\)"):
        stratified_patient_folds(list("aabb"), np.ones((3, 1)), 2)


def test_splits_that_can_be_read_but_once_are_left_unread() -> None:
    splits = iter([([0, 1], [2, 3]), ([2, 3], [0, 1])])
    with pytest.raises(ParameterError, match=r"Pass list\(cv\)"):
        warn_of_shared_patients(splits, range(4), None, list("aabb"))
    assert warn_of_shared_patients(list(splits), range(4), None, list("aabb")) == 0
    with pytest.raises(ParameterError, match="patients that cannot be compared"):
        warn_of_shared_patients(2, range(4), [0, 1, 0, 1], np.array(["a", 1, "b", 2], dtype=object))


def cohort(n_patients: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One to three records a patient; labels from common to rare."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{number}" for number in range(n_patients)], rng.integers(1, 4, n_patients))
    labels = (rng.random((len(patients), 4)) < [0.5, 0.2, 0.1, 0.01]).astype(int)
    return patients, labels


def shares(patients: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Share of each label's patients that are among those chosen."""
    has = {name: labels[patients == name].any(axis=0) for name in np.unique(patients)}
    return sum(has[name].astype(int) for name in chosen) / sum(x.astype(int) for x in has.values())


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_a_draw_has_its_size_and_the_labels_keep_their_shares(fraction: float) -> None:
    patients, labels = cohort()

    chosen = draw_patients(patients, labels, fraction, 0)

    assert len(chosen) == len(set(chosen)) == round(fraction * 400)
    np.testing.assert_allclose(shares(patients, labels, chosen)[:3], fraction, atol=0.03)


def test_over_many_draws_a_rare_label_has_its_share() -> None:
    patients, labels = cohort()

    drawn = np.mean([shares(patients, labels, draw_patients(patients, labels, 0.05, d))[3] for d in range(60)])

    assert drawn == pytest.approx(0.05, abs=0.025)


def test_draws_differ_and_repeat() -> None:
    patients, labels = cohort()
    digests = [digest_of_patients(draw_patients(patients, labels, 0.1, draw)) for draw in (0, 1, 2, 0)]

    assert digests[0] == digests[3]
    assert len(set(digests)) == 3


def test_the_order_of_the_records_does_not_matter() -> None:
    patients, labels = cohort()
    order = np.random.default_rng(1).permutation(len(patients))

    np.testing.assert_array_equal(
        draw_patients(patients, labels, 0.1, 0), draw_patients(patients[order], labels[order], 0.1, 0)
    )


def test_a_draw_is_the_same_on_every_machine() -> None:
    patients, labels = [f"p{i}" for i in range(20)], np.eye(4, dtype=int)[np.arange(20) % 4]

    assert draw_patients(patients, labels, 0.2, 0).tolist() == ["p10", "p16", "p19", "p5"]


def test_all_is_everybody_and_a_small_share_is_somebody() -> None:
    patients, labels = cohort(30)

    assert len(draw_patients(patients, labels, 1.0, 0)) == 30
    assert len(draw_patients(patients, labels, 0.001, 0)) == 1


def test_patients_without_a_label_are_drawn_too() -> None:
    patients, labels = np.arange(100), np.zeros((100, 2), dtype=int)

    assert len(draw_patients(patients, labels, 0.1, 0)) == 10


def test_nobody_is_no_patient_to_draw() -> None:
    patients = np.array(["a", "b", np.nan, "c"], dtype=object)
    with pytest.raises(ParameterError, match="Got patients without a patient for 1 of 4"):
        draw_patients(patients, np.ones((4, 1)), 0.5, 0)
    with pytest.raises(ParameterError, match="Got patients without a patient for 1 of 4"):
        warn_of_shared_patients(3, range(4), None, patients)


def test_what_is_no_share_is_refused() -> None:
    patients, labels = cohort(10)

    with pytest.raises(ParameterError, match=r"fraction=1\.5"):
        draw_patients(patients, labels, 1.5, 0)
    with pytest.raises(ShapeError, match="expected"):
        draw_patients(patients[:-1], labels, 0.5, 0)


PUBLISHED = json.loads((Path(skecg.evaluation.__file__).parent / "draws_sha256.json").read_text())["ptbxl"]


@pytest.fixture(scope="module")
def ptbxl(shared: Path) -> tuple[list[dict[str, float]], np.ndarray]:
    """Statements and patients of PTB-XL's folds 1 to 8."""
    kinds = {"super_class": "super", "sub_class": "sub", "form": "form", "rhythm": "rhythm"}
    with (shared / "data" / "ptbxl_labels.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if int(row["strat_fold"]) <= 8]
    codes = [
        {f"{kind}:{x}": 100.0 for key, kind in kinds.items() for x in (ast.literal_eval(row[key]) if row[key] else [])}
        for row in rows
    ]
    return codes, np.array([row["patient_id"] for row in rows])


@pytest.mark.parametrize("name", PUBLISHED)
def test_draws_of_ptbxl_are_those_published(name: str, ptbxl: tuple[list[dict[str, float]], np.ndarray]) -> None:
    codes, patients = ptbxl
    task = make_task(codes, name)

    for fraction, digests in PUBLISHED[name].items():
        found = [draw_patients(patients[task.keep], task.labels[task.keep], float(fraction), d) for d in range(5)]
        assert [digest_of_patients(chosen) for chosen in found] == digests
