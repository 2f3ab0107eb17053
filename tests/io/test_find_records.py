"""Folders, patterns and names lead to records, each once."""

from __future__ import annotations

import pytest
from wfdb_writing import random_steps, write_wfdb

from skecg.errors import ParameterError, RecordNotFoundError
from skecg.io import find_records, read_record


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "sub").mkdir()
    b, a = write_wfdb(tmp_path, "b"), write_wfdb(tmp_path, "a", storage="16+24")
    c = write_wfdb(tmp_path / "sub", "c")
    for name in ("b.atr", "labels.csv", "notes.md", "settings.json", "orphan.dat"):
        (tmp_path / name).write_text("x")
    (tmp_path / "d.edf").write_text("x")
    return tmp_path, [a, b, tmp_path / "d.edf", c]


def test_a_folder_gives_its_recordings_sorted_and_each_once(archive):
    folder, records = archive
    assert find_records(folder) == records
    assert find_records(str(folder), recursive=False) == records[:3]


def test_files_names_and_patterns_lead_to_the_same_record(archive):
    folder, (_, b, _, c) = archive
    for name in ("b", "b.hea", "b.dat", "b.*", "[b].hea"):
        assert find_records(str(folder / name)) == [b]
    assert find_records([folder / "b", folder / "b.dat", b]) == [b]
    assert find_records(folder / "**" / "c.*") == [c]
    assert find_records(path for path in (folder / "sub", b)) == [b, c]


def test_a_file_that_is_named_is_listed_as_it_is(archive):
    folder, _ = archive
    for name in ("labels.csv", "notes.md", "settings.json"):
        assert find_records(folder / name) == [folder / name]
    assert find_records(folder / "*.csv") == [folder / "labels.csv"]


def test_the_parts_of_a_record_are_not_listed_beside_it(tmp_path):
    write_wfdb(tmp_path, "p1", random_steps(40, 2))
    write_wfdb(tmp_path, "p2", random_steps(60, 2))
    (tmp_path / "whole.hea").write_text("whole/2 2 500 100\np1 40\np2 60\n")
    assert find_records(tmp_path) == [tmp_path / "whole.hea"]
    assert find_records(tmp_path / "p1") == [tmp_path / "p1.hea"]


def test_a_damaged_header_is_listed_so_that_reading_can_say_why(tmp_path):
    (tmp_path / "bad.hea").write_bytes(b"\0\1\2")
    assert find_records(tmp_path) == [tmp_path / "bad.hea"]


def test_what_is_found_can_be_read(tmp_path):
    for name in ("x", "y"):
        write_wfdb(tmp_path, name)
    assert [read_record(path).name for path in find_records(tmp_path)] == ["x", "y"]


@pytest.mark.parametrize("name", ["", "*.hea", "nowhere", "aa.hea"])
def test_what_leads_to_nothing_is_an_error(tmp_path, name):
    with pytest.raises(RecordNotFoundError):
        find_records(tmp_path / name)


def test_an_absent_record_is_answered_with_similar_names(archive):
    folder, _ = archive
    write_wfdb(folder, "00001_hr")
    with pytest.raises(RecordNotFoundError, match=r"00001_hr\.hea"):
        find_records(folder / "00001_h")


@pytest.mark.parametrize("paths", [[None], [3], 7, [b"a"], b"a"])
def test_what_is_no_path_is_refused(paths):
    with pytest.raises(ParameterError):
        find_records(paths)


def test_the_real_archive_lists_every_header_once(shared):
    raw = shared / "data" / "raw"
    found = [path for path in find_records(raw) if path.suffix == ".hea"]
    assert found == sorted(raw.rglob("*.hea"))
