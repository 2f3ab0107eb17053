from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluation_set import small_set

from skecg.errors import ParameterError
from skecg.evaluation.splitting import Split, split_by_folds
from skecg.evaluation.tasks import Task, task_labels


def task_of(n_folds: int) -> Task:
    return task_labels(small_set(n_folds=n_folds), "superdiagnostic")


def folds_of(rows: np.ndarray, n_folds: int) -> set[int]:
    return set(small_set(n_folds=n_folds).folds[rows].tolist())


def no_patient_is_on_two_sides(split: Split, n_folds: int) -> bool:
    who = small_set(n_folds=n_folds).patients
    learned = np.setdiff1d(split.train, split.selection)
    sides = [set(who[rows]) for rows in (learned, split.selection, split.test)]
    return not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_ten_folds_are_split_as_ptbxl_recommends() -> None:
    split = split_by_folds(small_set(n_folds=10), task_of(10))

    assert folds_of(split.train, 10) == set(range(1, 9))
    assert folds_of(split.selection, 10) == {9}
    assert folds_of(split.test, 10) == {10}
    assert not split.refit
    assert "training folds 1-8, test fold 10" in split.description


def test_nine_folds_test_the_last_and_select_on_a_part_of_the_training_patients() -> None:
    split = split_by_folds(small_set(n_folds=9), task_of(9))

    assert folds_of(split.train, 9) == set(range(1, 9))
    assert folds_of(split.test, 9) == {9}
    assert split.refit
    assert set(split.selection) < set(split.train)
    assert 0.15 < len(split.selection) / len(split.train) < 0.25


@pytest.mark.parametrize("n_folds", [9, 10])
def test_no_patient_is_on_two_sides_of_a_split(n_folds: int) -> None:
    assert no_patient_is_on_two_sides(split_by_folds(small_set(n_folds=n_folds), task_of(n_folds)), n_folds)


def test_fold_ten_is_left_alone_when_another_is_tested() -> None:
    split = split_by_folds(small_set(n_folds=10), task_of(10), test_fold=9)

    assert folds_of(split.train, 10) == set(range(1, 9))
    assert folds_of(split.test, 10) == {9}


def test_only_the_tenth_of_ten_is_left_alone() -> None:
    later = small_set(n_folds=5)
    later = replace(later, folds=later.folds + 8)  # 9 to 13

    split = split_by_folds(later, task_of(5))

    assert set(later.folds[split.train].tolist()) == {9, 10, 11, 12}
    assert set(later.folds[split.test].tolist()) == {13}


def test_a_fold_may_be_named_to_select() -> None:
    split = split_by_folds(small_set(n_folds=9), task_of(9), selection_fold=8)

    assert folds_of(split.selection, 9) == {8}
    assert folds_of(split.train, 9) == set(range(1, 8))
    assert not split.refit


def test_records_without_a_label_of_the_task_are_on_no_side() -> None:
    task = task_of(9)
    keep = task.keep & (np.arange(len(task.keep)) % 5 > 0)

    split = split_by_folds(small_set(n_folds=9), replace(task, keep=keep))

    assert keep[np.concatenate([split.train, split.test])].all()


def test_the_same_records_are_split_alike_every_time() -> None:
    one, two = (split_by_folds(small_set(n_folds=9), task_of(9)) for _ in range(2))

    np.testing.assert_array_equal(one.selection, two.selection)


def test_folds_that_are_not_there_are_named() -> None:
    with pytest.raises(ParameterError, match=r"test fold 12, which holds no record.*expected one of 1, 2, 3"):
        split_by_folds(small_set(n_folds=9), task_of(9), test_fold=12)
    with pytest.raises(ParameterError, match="two different folds"):
        split_by_folds(small_set(n_folds=9), task_of(9), selection_fold=9)
    without = replace(small_set(n_folds=9), folds=np.zeros(120, dtype=np.int64))
    with pytest.raises(ParameterError, match="'made' with no folds"):
        split_by_folds(without, task_of(9))


def test_folds_that_share_patients_are_refused() -> None:
    shared = replace(small_set(n_folds=9), patients=np.full(120, "the one"))

    with pytest.raises(ParameterError, match="1 patients on two sides"):
        split_by_folds(shared, task_of(9))
