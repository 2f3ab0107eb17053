"""Tables of recordings: what a cell means, which rows are used, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from skecg.datasets.tables import read_columns
from skecg.errors import ParameterError, SkecgWarning
from skecg.tabular.table import columns_of, read_record_table

N = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of six records, the last of them a WFDB header."""
    (tmp_path / "ecg").mkdir()
    for number in range(N - 1):
        (tmp_path / "ecg" / f"r{number}.edf").touch()
    (tmp_path / "ecg" / "r5.hea").touch()
    return tmp_path


def frame_of(**columns: list[object]) -> pd.DataFrame:
    paths = [f"ecg/r{number}.edf" for number in range(N - 1)] + ["ecg/r5"]
    return pd.DataFrame({"path": paths, **columns})


def written(folder: Path, frame: pd.DataFrame, suffix: str) -> Path:
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_table_means_the_same_in_every_format(folder: Path, suffix: str) -> None:
    frame = frame_of(
        age=[50, 61.5, None, 70, 80, 33], sex=["F", "M", None, "F", "M", "F"], ok=[True, False] * 3, n=list(range(N))
    )

    columns, where, name = read_columns(written(folder, frame, suffix))

    assert (where, name) == (folder, "table")
    lowered = {key: [None if c is None else c.lower() for c in cells] for key, cells in columns.items()}
    assert lowered["age"] == ["50", "61.5", None, "70", "80", "33"] or lowered["age"][0] == "50.0"
    of_frame = read_columns(frame)[0]
    assert of_frame["sex"] == columns["sex"] == ["F", "M", None, "F", "M", "F"]
    assert of_frame["n"] == columns["n"]
    assert read_record_table(written(folder, frame, suffix), label_columns=["ok"]).target.y.tolist() == [1, 0] * 3  # type: ignore[union-attr]


def test_relative_paths_are_those_of_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    path = written(folder, frame_of(), ".csv")

    table = read_record_table(path)

    assert table.paths == [str(folder / name) for name in frame_of()["path"]]


def test_rows_without_label_group_or_file_are_left_out_and_named(folder: Path) -> None:
    frame = frame_of(label=["a", "b", None, "a", "b", "a"], who=["x", None, "y", "y", "z", "z"])
    frame.loc[3, "path"] = "ecg/gone.edf"

    table = read_record_table(written(folder, frame, ".csv"), "path", ["label"], "who")

    assert table.rows.tolist() == [0, 4, 5]
    assert table.groups.tolist() == ["x", "z", "z"]
    assert {reason: [Path(name).name for name in names] for reason, names in table.left_out.items()} == {
        "no label": ["r2.edf"],
        "no who": ["r1.edf"],
        "no file": ["gone.edf"],
    }
    notes = list(table.notes())
    assert any("1 of 6 rows are left out, for they have no file" in note and "gone.edf" in note for note in notes)
    assert table.target is not None
    assert table.target.y.tolist() == [0, 1, 0]
    assert table.columns["label"] == ["a", "b", "a"]


def test_records_without_a_column_of_groups_are_patients_of_their_own(folder: Path) -> None:
    table = read_record_table(written(folder, frame_of(), ".csv"))

    assert len(set(table.groups)) == N
    assert any(note.endswith("a patient of its own") for note in table.notes())
    named = read_record_table(written(folder, frame_of(Patient_ID=list("aabbcc")), ".csv"))
    assert any(note.endswith("if 'Patient_ID' does, pass --group-column Patient_ID") for note in named.notes())


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [
        (["a", "b", "c", "a", "b", "c"], "classes", ("a", "b", "c")),
        ([0, 1, 0, 1, 0, 1], "classes", ("0", "1")),
        ([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], "classes", ("0", "1")),
        (["yes", "No", "no", "Yes", "yes", "no"], "classes", ("no", "yes")),
        ([50.5, 60, 70, 55, 1, 0], "numbers", ()),
        (["a;b", "a", ";", "b ; c", "c", "a"], "labels", ("a", "b", "c")),
        ([["a", "b"], ["a"], [], ["b", "c"], ["c"], ["a"]], "labels", ("a", "b", "c")),
    ],
)
def test_what_labels_are_follows_from_their_cells(
    folder: Path, cells: list[object], kind: str, classes: tuple[str, ...]
) -> None:
    target = read_record_table(frame_of(label=cells), label_columns=["label"], check_files=False).target

    assert target is not None
    assert (target.kind, target.classes) == (kind, classes)
    if kind == "labels":
        assert target.y.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]]


def test_several_columns_are_several_labels() -> None:
    frame = frame_of(af=[0, 1, 0, 1, 0, None], lbbb=["yes", "no", "no", "no", "yes", "no"])

    table = read_record_table(frame, label_columns=["af", "lbbb"], check_files=False)

    assert table.target is not None
    assert table.target.classes == ("af", "lbbb")
    assert table.target.y.tolist() == [[0, 1], [1, 0], [0, 0], [1, 0], [0, 1]]
    assert list(table.left_out) == ["no label"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("path,label\nx.edf,a\n", {"path_column": "pth"}, r"--path-column 'pth'.*Did you mean 'path'"),
        ("path,label\nx.edf,a\n", {"label_columns": ["diagnosis"]}, r"expected one of 'path', 'label'"),
        ("path,label\nx.edf,a\n", {"label_columns": ["label"]}, r"none can be used.*no file"),
        ("path,label\nx.edf,a,b\n", {}, r"3 cells in row 1, below 2 names"),
        ("path,path\nx.edf,a\n", {}, r"several columns 'path'"),
        ("", {}, r"is empty"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, content: str, options: dict[str, object], message: str) -> None:
    (tmp_path / "t.csv").write_text(content)

    with pytest.raises(ParameterError, match=message):
        read_record_table(tmp_path / "t.csv", **options)  # type: ignore[arg-type]


def test_labels_that_contradict_what_is_said_of_them_are_refused() -> None:
    frame = frame_of(x=list("aaabbc"), y=["a"] * N)

    with pytest.raises(ParameterError, match="'x' with 'a', 'b', 'c', expected 0 and 1"):
        read_record_table(frame, label_columns=["x", "y"], check_files=False)
    with pytest.raises(ParameterError, match="one class only"):
        read_record_table(frame, label_columns=["y"], check_files=False)
    with pytest.raises(ParameterError, match="'x' with 'a', expected numbers"):
        read_record_table(frame, label_columns=["x"], kind="numbers", check_files=False)
    with pytest.raises(ParameterError, match=r"--kind='clases', expected one of 'classes'"):
        read_record_table(frame, label_columns=["x"], kind="clases", check_files=False)


def test_classes_of_one_patient_are_said_to_be_beyond_scoring() -> None:
    frame = pd.DataFrame({"path": list("abcd"), "x": ["u", "u", "v", "v"], "who": ["p", "q", "r", "r"]})

    notes = list(read_record_table(frame, label_columns=["x"], group_column="who", check_files=False).notes())

    assert "of one patient only, so that no score can be made by patients: v" in notes


def test_a_column_is_one_thing() -> None:
    frame = frame_of(x=list("aaabbb"))
    for options in (
        {"label_columns": ["x", "x"]},
        {"label_columns": ["path"]},
        {"label_columns": ["x"], "group_column": "x"},
    ):
        with pytest.raises(ParameterError, match="as two of --path-column"):
            read_record_table(frame, check_files=False, **options)  # type: ignore[arg-type]
    by_path = read_record_table(frame, label_columns=["x"], group_column="path", check_files=False)
    assert len(set(by_path.groups)) == len(by_path)


@pytest.mark.parametrize(
    "content",
    [
        "path\tx\nr0.edf\tä\n".encode("utf-16"),
        "sep=;\r\npath;x\r\nr0.edf;ä\r\n".encode("utf-8-sig"),
    ],
    ids=["UTF-16", "sep=;"],
)
def test_what_excel_saves_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)

    assert read_columns(tmp_path / "t.csv")[0] == {"path": ["r0.edf"], "x": ["ä"]}


def test_paths_that_windows_wrote_are_found_and_others_left_as_they_are(folder: Path) -> None:
    (folder / "more").mkdir(exist_ok=True)
    (folder / "more" / "r.edf").write_bytes(b"")
    (folder / "odd\\name.edf").write_bytes(b"")
    frame = {"path": [str(folder / "more\\r.edf"), str(folder / "odd\\name.edf"), "C:\\none.edf", b"none.edf"]}

    found = read_record_table(frame, check_files=False).paths

    assert found == [str(folder / "more" / "r.edf"), str(folder / "odd\\name.edf"), "C:\\none.edf", "none.edf"]


def test_spreadsheets_with_semicolons_and_a_byte_order_mark_are_read(folder: Path) -> None:
    path = folder / "excel.csv"
    path.write_bytes("﻿path;label\necg/r0.edf;a\necg/r1.edf;b\n".encode())

    table = read_record_table(path, label_columns=["label"])

    assert len(table) == 2


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (['r0,a,"a note', "r1,b,x", "r2,a,x"], 2),
        (['r0,a,"a note', "r1,b,x", 'r2,a,"another'], 2),
        (["r0,a,x", 'r1,b,"a note'], 3),
    ],
)
def test_a_quote_that_does_not_end_swallows_no_recording(tmp_path: Path, lines: list[str], line: int) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["path,label,note", *lines]) + "\n")
    with pytest.raises(ParameterError, match=f"line {line} opens a quote that does not end there"):
        read_record_table(tmp_path / "t.csv", check_files=False)


@pytest.mark.parametrize("after", ["r2,x", 'r2,"a note'])
def test_a_stray_quote_is_named_where_it_is_and_not_where_a_cell_has_lines(tmp_path: Path, after: str) -> None:
    (tmp_path / "t.csv").write_text(f'path,note\nr0,"two\nlines"\nr1,"one" more\n{after}\n')
    with pytest.raises(ParameterError, match="line 4 has text behind a quote"):
        read_columns(tmp_path / "t.csv")


def test_cells_in_quotes_may_have_lines_or_words_after_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('path,note\nr0,"two\nlines"\nr1,x\n')
    assert read_columns(tmp_path / "t.csv")[0] == {"path": ["r0", "r1"], "note": ["two\nlines", "x"]}
    (tmp_path / "t.csv").write_text('path,note\nr0,"one" more\nr1,x\n')
    assert read_columns(tmp_path / "t.csv")[0] == {"path": ["r0", "r1"], "note": ["one more", "x"]}


def test_whole_numbers_that_were_written_beside_missing_ones_are_whole(folder: Path) -> None:
    frame = frame_of(af=["1.0", "0.0", "1.0", "", "0.0", "1.0"])
    target = read_record_table(frame, label_columns=["af"], check_files=False).target
    assert target is not None
    assert (target.kind, target.y.tolist()) == ("classes", [1, 0, 1, 0, 1])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_codes_keep_the_zeros_behind_their_point(folder: Path, suffix: str) -> None:
    codes = ["427.0", "401.9;427.0", "250.00", "427", "427.0", None]
    frame = frame_of(x=codes, y=["427", "250.00", "250.0", "427", None, "250"], z=[427.0, 427.31, None, 1.0, 2.0, 3.0])

    columns = read_columns(written(folder, frame, suffix))[0]

    assert columns["x"] == codes
    assert columns["y"] == ["427", "250.00", "250.0", "427", None, "250"]
    assert columns["z"] == ["427.0", "427.31", None, "1.0", "2.0", "3.0"]


@pytest.mark.parametrize(
    "cells",
    [
        ["1.0", "0.0", "1.0", None, "0.0", "None"],
        ["1", "0.0", "1.0", None, "0", None],
        ["1.00", "0.00", "1.00", None, "0.00", None],
        [1.0, 0.0, 1.0, None, 0.0, None],
    ],
)
@pytest.mark.filterwarnings("ignore:Got the column")
def test_whole_numbers_are_whole_in_whatever_form_a_column_has_them(cells: list[object]) -> None:
    target = read_record_table(frame_of(x=cells), label_columns=["x"], check_files=False).target
    assert target is not None
    assert (target.classes, target.y.tolist()) == (("0", "1"), [1, 0, 1, 0])


def test_a_patient_stays_one_in_a_column_of_whatever_else() -> None:
    frame = frame_of(who=["15709", "15709.0", "P3", "007.0", "007", "P3"])
    groups = read_record_table(frame, group_column="who", check_files=False).groups
    assert groups.tolist() == ["15709", "15709", "P3", "007.0", "007", "P3"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["AF;NA", "nan;LBBB", "AF;None", ";", "b ; c", "#NV;AF"], ["AF;", "LBBB;", "AF;", ";", "b ; c", "AF;"]),
        (["N/A;NA", "a;NA;b", "None;", "a", "NA;", ""], [None, "a;b", "None", "a", None, None]),
        ([["AF", None], [], [float("nan")], ["a", "b"], [None], ["a"]], ["AF;", ";", None, "a;b", "None", "a;"]),
    ],
)
def test_what_is_missing_in_a_list_is_no_label(cells: list[object], expected: list[str | None]) -> None:
    assert read_columns({"x": cells})[0]["x"] == expected


def test_a_patient_of_several_recordings_who_may_be_nobody_is_warned_of() -> None:
    who = ["?", "?", "1.2E+11", "1.2E+11", "unknown", "-"]
    with pytest.warns(SkecgWarning, match=r"'who' with the cells '1\.2E\+11', '\?', taken for a patient each\. "):
        read_record_table(frame_of(who=who), group_column="who", check_files=False)


MISSING = ["#N/A", "#N/A N/A", "<NA>", "N/A", "n/a", "#NA", "-nan", "NULL", "#NV", "#N/D", "#N/B", "#Н/Д"]


@pytest.mark.parametrize("cell", MISSING)
def test_what_spreadsheets_and_pandas_write_for_missing_is_missing(cell: str) -> None:
    frame = frame_of(x=["a", "b", cell, "a", "b", "a"], who=["p", "p", "q", "r", "s", cell])

    table = read_record_table(frame, label_columns=["x"], group_column="who", check_files=False)

    assert table.target is not None
    assert table.target.classes == ("a", "b")
    assert table.rows.tolist() == [0, 1, 3, 4]
    assert columns_of(table.paths, frame)[0]["x"] == ["a", "b", "a", "b"]
    assert columns_of(["ecg/r2.edf"], frame)[0]["x"] == [None]


def test_a_recording_has_one_row_unless_its_rows_say_the_same() -> None:
    rows = {"path": ["r0.hea", "r1", "r0.hea", "r1.hea"], "x": ["a", "b", "a", "b"]}
    assert columns_of(["r1.hea", "r0.hea"], rows)[0]["x"] == ["b", "a"]
    some = {"path": ["r0.hea", "r1", "./r0", "r1.hea"], "x": ["a", "", "", "b"], "y": ["1", "2", "3", "2"]}
    assert columns_of(["r1.hea", "r0", "./r0.hea"], some, named=["x"])[0] == {"x": ["b", "a", "a"]}
    with pytest.raises(ParameterError, match=r"rows 1 and 3 of .* with other cells in 'y'"):
        columns_of(["r0"], some)
    with pytest.raises(ParameterError, match=r"rows 2 and 4 of .* with other cells in 'x'; expected one row for each"):
        columns_of(["r0.hea"], rows | {"x": ["a", "b", "a", "c"]})


def test_the_none_of_python_is_missing_and_said_to_be() -> None:
    frame = frame_of(x=["a", "none", "None", "a", "none", "None"])

    with pytest.warns(SkecgWarning, match="'x' with 2 cells 'None', taken for no label.*write 'none'"):
        table = read_record_table(frame, label_columns=["x"], check_files=False)

    assert table.target is not None
    assert table.target.classes == ("a", "none")


def test_marks_that_may_mean_missing_are_classes_and_warned_of() -> None:
    frame = frame_of(x=["a", "?", "-", "a", "#VALUE!", "#ÜBERLAUF!"])

    with pytest.warns(SkecgWarning, match=r"'x' with the cells '#VALUE!', '#ÜBERLAUF!', '-', '\?', taken for a class"):
        table = read_record_table(frame, label_columns=["x"], check_files=False)

    assert table.target is not None
    assert table.target.classes == ("#VALUE!", "#ÜBERLAUF!", "-", "?", "a")
