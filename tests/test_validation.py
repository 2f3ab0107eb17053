from __future__ import annotations

import math

import numpy as np
import pytest

from skecg.errors import InputError, ParameterError
from skecg.validation import (
    as_numbers,
    check_choice,
    check_flag,
    check_integer,
    check_jobs,
    check_number,
    is_integer,
    is_number,
)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.float32(1), math.nan])
def test_what_is_no_integer_is_refused_by_name(value: object) -> None:
    assert not is_integer(value)
    with pytest.raises(ParameterError, match=r"Got n_jobs=.*, expected an integer of at least 1 or None\."):
        check_integer("n_jobs", value, 1, or_="None")


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_kind_become_python_integers(value: object) -> None:
    assert check_integer("n", value, 3) == 3
    assert type(check_integer("n", value, 3)) is int
    with pytest.raises(ParameterError):
        check_integer("n", value, 4)


@pytest.mark.parametrize("value", [0, True, 1.5, "2", math.nan])
def test_jobs_are_counted_as_joblib_counts_them(value: object) -> None:
    for allowed in (None, 1, -1, np.int64(4)):
        check_jobs(allowed)
    with pytest.raises(ParameterError, match="expected None, a positive integer, or -1 for all cores"):
        check_jobs(value)


@pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf, 10**400, 1j])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    assert not is_number(value)
    with pytest.raises(ParameterError, match=r"expected a finite number\."):
        check_number("C", value)


@pytest.mark.parametrize(
    ("closed", "inside", "outside", "words"),
    [
        ("neither", [0.5], [0, 1], "above 0 and below 1"),
        ("left", [0, 0.5], [1], "of at least 0 and below 1"),
        ("right", [0.5, 1], [0], "above 0 and of at most 1"),
        ("both", [0, 1], [-0.1, 1.1], "of at least 0 and of at most 1"),
    ],
)
def test_ends_belong_to_the_interval_that_names_them(closed: str, inside: list, outside: list, words: str) -> None:
    for value in inside:
        assert check_number("share", value, 0, 1, closed=closed) == value
    for value in outside:
        with pytest.raises(ParameterError, match=f"expected a number {words}"):
            check_number("share", value, 0, 1, closed=closed)


def test_a_misspelt_choice_is_refused_with_the_nearest() -> None:
    assert check_choice("stages", "two", ("two", "all")) == "two"
    with pytest.raises(ParameterError, match=r"Got stages='tow', expected one of 'two', 'all'\. Did you mean 'two'\?"):
        check_choice("stages", "tow", ("two", "all"))
    with pytest.raises(ParameterError, match=r"expected one of 'two', 'all'\.$"):
        check_choice("stages", ["two"], ("two", "all"))


@pytest.mark.parametrize("value", [1, 0, None, "false", np.int64(1), np.array([True]), np.array(1)])
def test_what_is_neither_true_nor_false_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match=r"flag=.*, expected True or False"):
        check_flag("flag", value)


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_flags_of_numpy_are_as_good(value: object) -> None:
    assert check_flag("flag", value) is bool(value)


@pytest.mark.parametrize(
    "values", [[["Smith"]], "Smith", [[1.0], [1.0, 2.0]], [[object()]], np.ma.masked_equal([1.0, 9.0], 9.0)]
)
def test_what_is_no_array_of_numbers_is_refused_without_quoting_it(values: object) -> None:
    with pytest.raises(InputError, match="Got features ") as caught:
        as_numbers("features", values)
    assert "Smith" not in str(caught.value)


def test_numbers_of_any_kind_become_float64() -> None:
    found = as_numbers("features", [np.float32(0.5), 2, True])
    assert found.dtype == np.float64
    assert found.tolist() == [0.5, 2.0, 1.0]
