"""Held-out patients are held out whole, with their share of every label, and training keeps what it needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skecg.errors import ParameterError
from skecg.splits import hold_out


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
