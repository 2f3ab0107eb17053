"""What a column of labels is follows from its cells, and what could be two things is refused."""

from __future__ import annotations

import numpy as np
import pytest

from skecg.errors import ParameterError
from skecg.tabular.targets import Target, read_target


def read(cells: list[str], kind: str | None = None) -> Target:
    return read_target(["x"], [list(cells)], kind)


def test_two_classes_are_one_label_and_more_are_one_each() -> None:
    two, named, three = read(["0", "1"] * 3), read(["AF", "SR"] * 3), read(list("abcabc"))

    assert (two.labels, named.labels, three.labels) == (("x",), ("SR",), ("a", "b", "c"))
    assert two.indicator[:, 0].tolist() == [0, 1] * 3
    np.testing.assert_array_equal(three.indicator.argmax(axis=1), three.y)


def test_whole_numbers_are_classes_when_that_is_said() -> None:
    stages = ["1", "2", "3"] * 2

    assert read(stages).kind == "numbers"
    assert read(stages, "classes").classes == ("1", "2", "3")


def test_numbers_that_went_wrong_and_names_of_records_are_no_classes() -> None:
    numbers = [f"{k}.5" for k in range(40)]
    with pytest.raises(ParameterError, match=r"'x' with '0,5' among numbers, expected numbers such as 60\.5"):
        read([number.replace(".", ",") for number in numbers])
    for slip in ("unknown", "inf"):
        with pytest.raises(ParameterError, match=f"'x' with '{slip}' among numbers"):
            read([slip, *numbers])
    with pytest.raises(ParameterError, match=r"'x' with '1\.234', expected numbers such as 60\.5 or 1500"):
        read(["753", "1.234", "80", "12"])
    assert read(["753", "1.234", "80.5", "12"]).y.tolist() == [753, 1.234, 80.5, 12]
    with pytest.raises(ParameterError, match="40 classes of 40 records"):
        read([f"record {k}" for k in range(40)])
    assert len(read([f"record {k}" for k in range(40)], "classes").classes) == 40
    assert read(["1", "2", "3", "unknown"] * 10).classes == ("1", "2", "3", "unknown")
    with pytest.raises(ParameterError, match="'x' with 7 only, expected two values or more"):
        read(["7"] * 5)


@pytest.mark.parametrize("mark", [">89", "unknown", "?", "75+"])
def test_numbers_are_no_classes_however_many_other_cells_stand_among_them(mark: str) -> None:
    ages = [str(age) for age in range(40, 52)] * 2

    with pytest.raises(ParameterError, match=r"among numbers.*pass --kind classes"):
        read([*ages, *[mark] * 20])
    assert mark in read([*ages, *[mark] * 20], "classes").classes


def test_codes_with_letters_may_stand_beside_codes_of_digits() -> None:
    codes = [f"42{k}.1" for k in range(12)] * 5

    assert len(read([*codes, *["V45.01", "E11.9"] * 5]).classes) == 14


def test_names_that_python_takes_for_numbers_are_classes() -> None:
    target = read([f"{k % 3}_0" for k in range(30)])
    assert (target.kind, target.classes) == ("classes", ("0_0", "1_0", "2_0"))
