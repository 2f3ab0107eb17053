from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from small_sets import ludb_files, ptbxl_files, write

from skecg.datasets import LabelledECGs, fetch_ludb, fetch_ptbxl
from skecg.errors import ParameterError


@pytest.fixture
def data() -> LabelledECGs:
    return LabelledECGs(
        name="three",
        records=np.arange(3 * 2 * 5, dtype=np.float32).reshape(3, 2, 5),
        sampling_rate=250.0,
        leads=("I", "II"),
        codes=({"A": 100.0}, {}, {"A": 0.0, "B": 50.0}),
        patients=np.array(["p", "q", "p"]),
        folds=np.array([1, 2, 1]),
        sexes=np.array(["F", "", "M"]),
        ages=np.array([40.0, np.nan, 41.0]),
        licence="none",
        citation="nobody",
        folder=Path(),
    )


@pytest.mark.parametrize(
    "indices",
    [[2, 0], np.array([2, 0]), np.array([2, 0], dtype=np.uint8), (2, 0), slice(2, None, -2), [-1, -3]],
    ids=lambda indices: type(indices).__name__,
)
def test_recordings_are_chosen_as_numpy_chooses(data: LabelledECGs, indices: object) -> None:
    some = data.select(indices)

    assert len(some) == 2
    np.testing.assert_array_equal(some.records, data.records[[2, 0]])
    assert some.codes == ({"A": 0.0, "B": 50.0}, {"A": 100.0})
    assert some.patients.tolist() == ["p", "p"]
    assert some.folds.tolist() == [1, 1]
    assert some.sexes.tolist() == ["M", "F"]
    assert some.ages.tolist() == [41.0, 40.0]
    assert some.record_ids.tolist() == ["2", "0"]
    assert (some.name, some.leads, some.sampling_rate) == ("three", ("I", "II"), 250.0)


def test_recordings_are_chosen_by_a_mask(data: LabelledECGs) -> None:
    assert data.select(data.folds == 1).record_ids.tolist() == ["0", "2"]
    assert data.select(data.folds == 5).record_ids.tolist() == []
    assert len(data.select([])) == 0


def test_choosing_twice_is_choosing_once(data: LabelledECGs) -> None:
    assert data.select([2, 1, 0]).select([0, 1]).record_ids.tolist() == ["2", "1"]


@pytest.mark.parametrize("indices", [[3], [True], [0.5], 1, [[0, 1]], ["0"]])
def test_indices_that_do_not_fit_are_refused(data: LabelledECGs, indices: object) -> None:
    with pytest.raises(ParameterError, match="Got indices"):
        data.select(indices)


@pytest.mark.parametrize("name", ["codes", "patients", "folds", "sexes", "ages", "record_ids"])
def test_a_column_of_another_length_is_refused(data: LabelledECGs, name: str) -> None:
    with pytest.raises(ParameterError, match=f"Got 2 {name} for 3 records of 'three'"):
        dataclasses.replace(data, **{name: data.patients[:2]})


def test_waves_follow_their_recordings(tmp_path: Path) -> None:
    data = fetch_ludb(write(ludb_files(), tmp_path))

    chosen = data.select([0, 2]).select([1])

    assert chosen.record_ids.tolist() == ["10"]
    np.testing.assert_array_equal(chosen.waves(0).tables[3], data.waves(2).tables[3])
    assert not np.array_equal(chosen.waves(0).tables[3], data.waves(0).tables[3])


def test_data_sets_travel_to_other_processes(data: LabelledECGs, tmp_path: Path) -> None:
    ludb = fetch_ludb(write(ludb_files(), tmp_path / "ludb")).select([1])
    ptbxl = fetch_ptbxl(write(ptbxl_files(), tmp_path / "ptbxl"))

    for one in (data, ludb, ptbxl):
        other = pickle.loads(pickle.dumps(one))
        assert other.record_ids.tolist() == one.record_ids.tolist()
    assert pickle.loads(pickle.dumps(ludb)).waves(0).leads == ludb.waves(0).leads


def test_a_data_set_says_how_much_it_is(data: LabelledECGs) -> None:
    assert repr(data) == "LabelledECGs('three': 3 records of 2 patients, 2 statements)"
