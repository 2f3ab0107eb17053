"""``skecg embed --format omop`` writes rows that a database of OMOP's waveform extension takes as they are."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, Run

Capture = pytest.CaptureFixture[str]
REQUIRED = ["waveform_feature_id", "waveform_occurrence_id", "waveform_registry_id", "waveform_channel_metadata_id"]


def rows_of(file: str) -> list[dict[str, str]]:
    with Path(file).open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def ids(archive: Path) -> Path:
    lines = [f"r{k:02d},{100 + k},{200 + k},{300 + k},08:00:00,08:00:04,M{k}" for k in range(3)]
    names = f"path,{','.join(REQUIRED[1:])},waveform_feature_start_timestamp,waveform_feature_end_timestamp,other"
    (archive / "ids.csv").write_text("\n".join([names, *lines]) + "\n")
    return archive / "ids.csv"


def test_there_is_a_row_for_each_number_with_the_ids_of_its_recording(run: Run, archive: Path, ids: Path) -> None:
    which = [archive / f"r{k:02d}.hea" for k in range(3)]
    run("embed", *which, "--model", TINY, "--out", "f.npz")

    assert run("embed", *which, "--model", TINY, "--format", "omop", "--omop-ids", ids, "--out", "o.csv") == 0

    rows = rows_of("o.csv")
    features = np.load("f.npz")["features"]
    assert len(rows[0]) == 18
    assert [float(row["value_as_number"]) for row in rows] == pytest.approx(features.ravel().tolist())
    assert len({row["waveform_feature_id"] for row in rows}) == features.size
    of_second = rows[features.shape[1] : 2 * features.shape[1]]
    assert {tuple(row[name] for name in REQUIRED[1:]) for row in of_second} == {("101", "201", "301")}
    assert len({row["algorithm_source_value"] for row in of_second}) == features.shape[1]
    assert all(row["algorithm_concept_id"] == "0" and row["is_feature_overflow"] == "TRUE" for row in rows)
    assert rows[0]["waveform_feature_end_timestamp"] == "08:00:04"
    assert all(row[name] for row in rows for name in REQUIRED)
    assert not Path("o.csv.registry.csv").exists()
    assert Path("o.csv").stat().st_mode & 0o077 == 0


def test_without_ids_recordings_are_numbered_and_failed_ones_have_no_row(
    run: Run, archive: Path, capsys: Capture
) -> None:
    which = [archive / "r00.hea", archive / "r05b.hea", archive / "r07.hea"]

    assert run("embed", *which, "--model", TINY, "--format", "omop", "--out", "o.csv") == 1

    rows, registry = rows_of("o.csv"), rows_of("o.csv.registry.csv")
    assert sorted({row["waveform_registry_id"] for row in rows}) == ["1", "3"]
    assert [row["waveform_source_file_uri"] for row in registry] == [str(path) for path in which]
    assert {row["file_extension_source_value"] for row in registry} == {".hea"}
    said = capsys.readouterr().err
    assert "says which is which" in said
    assert "1 of 3 records failed and have no rows" in said


@pytest.mark.parametrize(("written", "again"), [("o.csv.registry.csv", 0), ("o.csv", 2)])
def test_where_rows_are_written_all_is(
    written: str, again: int, run: Run, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    replace = Path.replace

    def replace_and_interrupt(path: Path, to: Path) -> Path:
        done = replace(path, to)
        if to.name == written:
            raise KeyboardInterrupt
        return done

    embed = ("embed", archive / "r00.hea", "--model", TINY, "--format", "omop", "--out", "o.csv")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_and_interrupt)
        assert run(*embed) == 130

    assert ("is whole" in capsys.readouterr().err) == (written == "o.csv")
    # What is whole exists, and is refused; what is not goes on.
    assert run(*embed) == again
    assert rows_of("o.csv")
    assert len(rows_of("o.csv.registry.csv")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "fhir", "--out", "o.csv"], "expected omop"),
        (["--format", "omop", "--out", "o.npz"], "that ends in .csv"),
        (["--format", "omop", "--out", "o.csv", "--part", "1/2"], "one file"),
        (["--omop-ids", "ids.csv", "--out", "o.csv"], "without --format omop"),
        (["--format", "omop", "--omop-ids", "half.csv", "--out", "o.csv"], "without waveform_registry_id for 1 of 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_embedded(
    arguments: list[str], message: str, run: Run, archive: Path, capsys: Capture
) -> None:
    Path("half.csv").write_text(f"path,waveform_occurrence_id\n{archive / 'r00'},1\n")

    assert run("embed", archive / "r00.hea", "--model", TINY, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("o.csv").exists()


def test_what_a_table_of_ids_knows_besides_is_copied_and_what_is_written_here_is_refused(
    run: Run, archive: Path, capsys: Capture
) -> None:
    more = {"value_as_string": "run A", "observation_id": "9", "unit_source_value": "", "is_feature_overflow": ""}
    more["algorithm_concept_id"] = ""
    embed = ("embed", archive / "r00.hea", "--model", TINY, "--format", "omop", "--omop-ids", "ids.csv", "--out")

    def write_ids(columns: dict[str, str]) -> None:
        names, cells = ["path", *REQUIRED[1:], *columns], [str(archive / "r00.hea"), "1", "2", "3", *columns.values()]
        Path("ids.csv").write_text(f"{','.join(names)}\n{','.join(cells)}\n")

    write_ids(more)
    assert run(*embed, "o.csv") == 0
    assert {tuple(row[name] for name in more) for row in rows_of("o.csv")} == {("run A", "9", "", "TRUE", "0")}

    write_ids(more | {"is_feature_overflow": "FALSE", "waveform_feature_id": "5000"})
    assert run(*embed, "p.csv") == 2
    assert "with waveform_feature_id, is_feature_overflow, which skecg writes itself" in capsys.readouterr().err
    assert not Path("p.csv").exists()
