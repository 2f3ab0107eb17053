"""Labels as the literature defines them, and their counts on all of PTB-XL where its labels lie beside the checkout."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

import numpy as np
import pytest

from skecg.datasets.cpsc2018 import CPSC2018_CLASSES
from skecg.errors import ParameterError
from skecg.evaluation.tasks import PTBXL_TASKS, TASKS, check_task, make_task

N_CLASSES = {
    "all": 71,
    "diagnostic": 44,
    "subdiagnostic": 23,
    "superdiagnostic": 5,
    "form": 19,
    "rhythm": 12,
    "superclass-single": 5,
    "cpsc2018": 9,
}
EVERYTHING = [{"NORM": 100.0, "SR": 0.0, "ABQRS": 0.0}, {"IMI": 35.0, "NDT": 0.0}, {"AFIB": 0.0}, {"1": 100.0}]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_as_many_classes_as_the_literature_says(name: str) -> None:
    task = make_task(EVERYTHING, name)

    assert len(task.classes) == N_CLASSES[name] == task.labels.shape[1]
    assert name == "cpsc2018" or list(task.classes) == sorted(task.classes)


def test_all_statements_are_diagnostic_or_form_or_rhythm_and_four_are_two() -> None:
    names = {name: set(make_task(EVERYTHING, name).classes) for name in ("all", "diagnostic", "form", "rhythm")}

    assert names["diagnostic"] | names["form"] | names["rhythm"] == names["all"]
    assert names["diagnostic"] & names["form"] == {"NDT", "NST_", "DIG", "LNGQT"}
    assert not names["rhythm"] & (names["diagnostic"] | names["form"])


def test_a_statement_counts_whatever_its_likelihood() -> None:
    task = make_task([{"NORM": 0.0}, {"NORM": 100.0}], "superdiagnostic")

    assert task.labels[:, task.classes.index("NORM")].tolist() == [1, 1]


def test_records_without_a_label_of_the_task_are_left_out() -> None:
    assert make_task(EVERYTHING, "superdiagnostic").keep.tolist() == [True, True, False, False]
    assert make_task(EVERYTHING, "rhythm").keep.tolist() == [True, False, True, False]


def test_a_record_has_every_class_of_its_statements_and_single_keeps_those_with_one() -> None:
    codes = [{"IMI": 100.0, "AMI": 50.0}, {"IMI": 100.0, "LVH": 100.0}, {"SR": 0.0}]
    several, single = make_task(codes, "superdiagnostic"), make_task(codes, "superclass-single")

    assert several.labels.tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert several.keep.tolist() == [True, True, False]
    assert single.keep.tolist() == [True, False, False]


def test_classes_of_packed_samples_are_understood_with_and_without_underscores() -> None:
    codes = [{"super:MI": 100.0, "sub:AVB": 100.0, "form:STD": 100.0}, {"sub:_AVB": 100.0, "form:STD_": 100.0}]

    for name, label in (("subdiagnostic", "_AVB"), ("form", "STD_")):
        task = make_task(codes, name)
        assert task.labels[:, task.classes.index(label)].tolist() == [1, 1]
        assert task.labels.sum() == 2


def test_a_class_and_a_statement_of_the_same_name_are_two_things() -> None:
    # PTB-XL has a subclass STTC of which no statement is called so, and NORM that is both.
    assert make_task([{"STTC": 100.0, "NORM": 100.0}], "subdiagnostic").labels.sum() == 1


def test_cpsc2018_has_its_nine_classes_by_number_and_by_snomed() -> None:
    numbers, snomed = ([{code: 100.0} for code in codes] for codes in (map(str, range(1, 10)), CPSC2018_CLASSES))

    by_number, by_snomed = make_task(numbers, "cpsc2018"), make_task(snomed, "cpsc2018")

    np.testing.assert_array_equal(by_number.labels, np.eye(9))
    np.testing.assert_array_equal(by_snomed.labels, np.eye(9))
    assert by_snomed.classes == tuple(CPSC2018_CLASSES.values())


def test_a_misspelt_task_is_told_the_nearest() -> None:
    with pytest.raises(ParameterError, match="Did you mean 'superdiagnostic'"):
        check_task("superdiagnostics")
    with pytest.raises(ParameterError, match="expected one of all, diagnostic"):
        check_task("zzz")


def test_statements_of_other_data_are_told_what_they_can_be_used_for() -> None:
    with pytest.raises(ParameterError, match=r"the data with 1 records and 1 statements \(super:MI\).*superdiagnostic"):
        make_task([{"super:MI": 100.0}], "all")
    with pytest.raises(ParameterError, match="there is none"):
        make_task([{}], "all")


@pytest.fixture(scope="module")
def ptbxl_codes(shared: Path) -> list[dict[str, float]]:
    """Classes of all of PTB-XL, from the table of labels."""
    kinds = {"super_class": "super", "sub_class": "sub", "form": "form", "rhythm": "rhythm"}
    with (shared / "data" / "ptbxl_labels.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        {f"{kind}:{x}": 100.0 for key, kind in kinds.items() for x in (ast.literal_eval(row[key]) if row[key] else [])}
        for row in rows
    ]


# Records and positives of PTB-XL 1.0.3, as published with it and in the benchmarks on it.
RECORDS = {"superdiagnostic": 21388, "superclass-single": 16244, "form": 8978, "rhythm": 21030, "subdiagnostic": 21388}
POSITIVES = {"CD": 4898, "HYP": 2649, "MI": 5469, "NORM": 9514, "STTC": 5235}


@pytest.mark.parametrize("name", RECORDS)
def test_counts_on_all_of_ptbxl_are_those_of_the_literature(name: str, ptbxl_codes: list[dict[str, float]]) -> None:
    task = make_task(ptbxl_codes, name)

    assert len(task.labels) == 21_799
    assert task.keep.sum() == RECORDS[name]
    assert (task.labels[task.keep].sum(axis=0) > 0).all()
    if name == "superdiagnostic":
        assert dict(zip(task.classes, task.labels.sum(axis=0).tolist(), strict=True)) == POSITIVES


def test_subclasses_belong_to_the_superclasses_that_the_table_gives_them(ptbxl_codes: list[dict[str, float]]) -> None:
    sub, superclass = (make_task(ptbxl_codes, name) for name in ("subdiagnostic", "superdiagnostic"))
    derived = np.zeros_like(superclass.labels)
    for column, label in enumerate(sub.classes):
        owners = [s for s in superclass.classes if _goes_with(sub, column, superclass, s)]
        assert len(owners) == 1, label
        derived[:, superclass.classes.index(owners[0])] |= sub.labels[:, column]

    np.testing.assert_array_equal(derived, superclass.labels)


def _goes_with(sub: object, column: int, superclass: object, name: str) -> bool:
    """Say whether the package's table puts a subclass under a superclass."""
    from skecg.evaluation.tasks import _statements

    label = sub.classes[column]  # type: ignore[attr-defined]
    return any(row["diagnostic_subclass"] == label and row["diagnostic_class"] == name for row in _statements())


def test_every_task_of_ptbxl_is_listed() -> None:
    assert set(PTBXL_TASKS) | {"cpsc2018"} == set(TASKS) == set(N_CLASSES)
