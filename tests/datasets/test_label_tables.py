"""Tables of one's own labels: what they may say, whose recording it is, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skecg.datasets.tables import is_table, read_label_table
from skecg.errors import DamagedRecordError, ParameterError, RecordNotFoundError, SkecgWarning
from skecg.evaluation import open_dataset, task_labels


def write(folder: Path, text: str, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_labels_are_words_with_semicolons_between_them_and_lines_without_are_left_out(tmp_path: Path) -> None:
    table = read_label_table(write(tmp_path, "path,label,patient\na.hea,AF;PVC,p1\nb.hea,,p2\nc.hea,SR,p1\n"))

    assert table.sources == ("a.hea", "c.hea")
    assert table.classes == ("AF", "PVC", "SR")
    assert table.labels.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert table.patients.tolist() == ["p1", "p1"]
    assert table.folds[0] == table.folds[1]
    assert table.files == [tmp_path / "a.hea", tmp_path / "c.hea"]


def test_labels_may_be_columns_of_zeros_and_ones(tmp_path: Path) -> None:
    text = "path\tlabel_AF\tlabel_MI\tgroup\na\t1\t0\tx\nb\tfalse\ttrue\ty\nc\t0\t0\tz\nd\t\t\tz\n"

    table = read_label_table(write(tmp_path, text, "mine.tsv"))

    assert table.classes == ("AF", "MI")
    assert table.labels.tolist() == [[1, 0], [0, 1], [0, 0]]


def test_numbers_are_targets(tmp_path: Path) -> None:
    table = read_label_table(write(tmp_path, "row,target_age,target_ef,fold\n3,50.5,60,1\n0,41,35,2\n"))

    assert (table.by_row, table.sources) == (True, ("3", "0"))
    assert table.target_names == ("age", "ef")
    assert table.targets.tolist() == [[50.5, 60.0], [41.0, 35.0]]
    with pytest.raises(ParameterError, match="expected the columns 'path' and 'label'"):
        table.to_dataset()


def test_patients_fall_into_the_same_folds_whatever_the_order(tmp_path: Path) -> None:
    lines = [f"r{n},AF,p{n}" for n in range(200)]
    first = read_label_table(write(tmp_path, "\n".join(["path,label,patient", *lines])))
    again = read_label_table(write(tmp_path, "\n".join(["path,label,patient", *reversed(lines)])))

    assert first.folds.tolist() == again.folds.tolist()[::-1]
    assert set(first.folds.tolist()) == set(range(1, 11))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,AF\n", "expected 'path'"),
        ("path,diagnosis\na,AF\n", "expected 'label' or 'target'"),
        ("path,label\n", "without a line below its names"),
        ("path,label\na,\n", "without a single label"),
        ("path,label_AF\na,1\nb,2\n", "label_AF='2' in line 3"),
        ("path,label_AF,label_MI\na,1,0\nb,1,\n", "label_MI='' in line 3 .* Write 0 where it is known to be absent"),
        ("path,target\na,1\nb,much\n", "line 3 of .* without a number"),
        ("path,target\na,4.1\nb,>7.5\n", "line 3 of .* without a number for each target but '>7.5'"),
        ("path,target\na,1_0\nb,2\n", "line 2 of .* without a number"),
        ("path;target\na;753\nb;1.234\nc;80\n", "column 'target' .* points that seem to group thousands"),
        ("path,label,fold\na,AF,one\n", "fold='one' in line 2"),
        ("path,label,fold\na,AF,1\nb,AF,0\n", "fold='0' in line 3 of .*, expected a number from 1 on"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DamagedRecordError, match=message):
        read_label_table(write(tmp_path, text))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    assert is_table("no/such.CSV")
    with pytest.raises(RecordNotFoundError, match="no table"):
        read_label_table(tmp_path / "no.csv")


def test_ones_own_labels_are_a_task_of_which_each_is_a_class(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, "path,label_AF,label_MI,fold\na,1,0,1\nb,0,1,2\nc,0,0,3\n"))

    task = task_labels(dataset, "labels")

    assert task.classes == ("AF", "MI")
    assert task.labels.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert task.keep.all()
    assert np.array_equal(dataset.folds, [1, 2, 3])


@pytest.mark.parametrize("name", ["patient", "group", "Patient", "patient_id", "Subject_ID", "person_id", "Patient ID"])
def test_patients_are_known_by_the_usual_names_of_their_column(tmp_path: Path, name: str) -> None:
    rows = [f"r{n},AF,p{n // 2}" for n in range(20)]
    table = read_label_table(write(tmp_path, "\n".join([f"path,label,{name}", *rows])))
    assert table.patients.tolist() == [f"p{n // 2}" for n in range(20)]


def test_two_columns_that_may_say_whose_a_recording_is_are_not_chosen_between(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecordError, match="'patient_id' and 'subject_id', expected one"):
        read_label_table(write(tmp_path, "path,label,patient_id,subject_id\na,AF,p,s\n"))
    with pytest.raises(DamagedRecordError, match="'patient_id' and 'group', expected one"):
        read_label_table(write(tmp_path, "path,label,patient_id,group\na,AF,p,treated\n"))
    named = read_label_table(write(tmp_path, "path,label,patient_id,patient\na,AF,p,q\n"))
    assert named.patients.tolist() == ["q"]


@pytest.mark.parametrize("names", ["path,Label,label", "path,label,PATIENT,Patient", "path,label_AF,LABEL_AF"])
def test_columns_that_differ_in_case_alone_are_refused(tmp_path: Path, names: str) -> None:
    with pytest.raises(DamagedRecordError, match="in case alone"):
        read_label_table(write(tmp_path, f"{names}\na,1{',0' * (names.count(',') - 1)}\n"))


def test_columns_that_mean_nothing_here_may_be_called_as_they_like(tmp_path: Path) -> None:
    table = read_label_table(write(tmp_path, "path,label,Pathology,pathology\na,AF,x,y\n"))
    assert table.sources == ("a",)


def test_codes_are_one_label_alone_and_in_a_list(tmp_path: Path) -> None:
    table = read_label_table(write(tmp_path, "path,label\na,427.0;401.9\nb,427.0\nc,401.9;NA\n"))
    assert table.classes == ("401.9", "427.0")
    assert table.labels.tolist() == [[1, 1], [0, 1], [1, 0]]


def test_labels_and_patients_that_may_be_none_are_warned_of(tmp_path: Path) -> None:
    rows = "path,label,patient\na,AF;?,#REF!\nb,SR,#REF!\nc,SR,15709\nd,SR,15709.0\n"
    with pytest.warns(SkecgWarning) as said:
        table = read_label_table(write(tmp_path, rows))
    assert [str(one.message).partition(", taken")[0] for one in said] == [
        "Got the column 'label' with the cells '?'",
        "Got the column 'patient' with the cells '#REF!'",
    ]
    assert table.patients.tolist() == ["#REF!", "#REF!", "15709", "15709"]


def test_the_none_of_python_is_no_patient_and_no_class(tmp_path: Path) -> None:
    with pytest.warns(SkecgWarning, match="3 cells 'None', taken for missing.*write 'none'"):
        table = read_label_table(write(tmp_path, "path,label,patient\na,AF,None\nb,SR,None\nc,None,p\n"))
    assert table.classes == ("AF", "SR")
    assert table.patients.tolist() == ["a", "b"]
