"""Folders, patterns and names lead to records, each once."""

from __future__ import annotations

import glob
import os
import sys
import warnings
from pathlib import Path

import pytest
import test_formats as formats
import test_vendors as vendors
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from wfdb_writing import random_steps, write_wfdb

from skecg.errors import (
    DamagedRecordError,
    MissingDependencyError,
    ParameterError,
    RecordNotFoundError,
    RecordReadError,
    UnsupportedFormatError,
)
from skecg.io import find_records, read_record
from skecg.io.folders import _matches
from skecg.leads import CANONICAL_LEADS


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


def test_the_folder_one_is_in_has_no_name_and_lists_its_records(archive, monkeypatch):
    folder, records = archive
    monkeypatch.chdir(folder)
    assert find_records(".") == [path.relative_to(folder) for path in records]
    assert find_records(folder / "sub" / "..", recursive=False) == [folder / "sub" / ".." / r.name for r in records[:3]]
    for name in (".", "/"):
        with pytest.raises(RecordNotFoundError, match="is a directory"):
            read_record(name)


@pytest.mark.parametrize("name", ["", "  ", "a\0b"])
def test_no_name_is_no_folder(name):
    with pytest.raises(ParameterError, match="expected the name of a file or folder"):
        find_records(name)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(archive):
    folder, _ = archive
    place = os.open(folder, os.O_RDONLY)
    for _ in range(20):  # beyond what the system takes as one path
        os.mkdir("x" * 250, dir_fd=place)
        above, place = place, os.open("x" * 250, os.O_RDONLY, dir_fd=place)
        os.close(above)
    os.close(place)
    with pytest.raises(RecordReadError, match="cannot be listed"):
        find_records(folder)
    assert find_records(folder, recursive=False)


@pytest.mark.parametrize("pattern", ["**/*.hea", "*/*.hea", "*/a/*.hea", "**", "s?b/c.*", "**/b.hea"])
def test_a_pattern_does_not_pass_over_a_folder_that_may_not_be_listed(archive, monkeypatch, pattern):
    folder, _ = archive
    scandir = os.scandir

    def refuse(path="."):
        if "sub" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RecordReadError, match=r"sub.*cannot be listed \(PermissionError: Permission denied\)"):
        find_records(folder / pattern)
    assert len(find_records(folder / "*.hea")) == 2  # it lies beside them


@pytest.mark.parametrize("pattern", ["**/*.hea", "**", "sub/**/*.hea", "**/sub/**/c.*"])
def test_a_pattern_ends_where_several_links_lead_back(archive, pattern):
    folder, (_, _, _, c) = archive
    for name in ("up", "latest", "again"):
        (folder / "sub" / name).symlink_to("..")
    assert c in find_records(folder / pattern)


@pytest.mark.parametrize(
    "pattern", ["**/*.hea", "**", "a/**/*.hea", "**/b/*.hea", "**/b/**/y.*", "[[]x]/**/*", "*/**/x.hea"]
)
def test_a_pattern_matches_what_glob_matches(tmp_path, monkeypatch, pattern):
    for place in ("x", "a/b/x", "a/b/c/y", "a/.hidden/z", "d/b/y", "[x]/e/x", "a/.w"):
        path = tmp_path / f"{place}.hea"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "link").symlink_to("a/b")
    for start in (tmp_path, Path()):
        monkeypatch.chdir(tmp_path)
        wanted = {Path(match) for match in glob.glob(str(start / pattern), recursive=True)}  # noqa: PTH207
        found = list(_matches(start / pattern, recursive=True))
        assert {path for path in found if path.is_file()} == {path for path in wanted if path.is_file()} != set()


def test_files_names_and_patterns_lead_to_the_same_record(archive):
    folder, (_, b, _, c) = archive
    for name in ("b", "b.hea", "b.dat", "b.*", "[b].hea"):
        assert find_records(str(folder / name)) == [b]
    assert find_records([folder / "b", folder / "b.dat", b]) == [b]
    assert find_records(folder / "**" / "c.*") == [c]
    assert find_records(path for path in (folder / "sub", b)) == [c, b]


def test_records_come_in_the_order_in_which_they_are_named_each_where_it_is_first(archive):
    folder, (a, b, d, c) = archive
    assert find_records([d, b, a, b]) == [d, b, a]
    assert find_records([b, folder]) == [b, a, d, c]


def test_a_file_that_is_named_is_listed_as_it_is(archive):
    folder, _ = archive
    for name in ("labels.csv", "notes.md", "settings.json"):
        assert find_records(folder / name) == [folder / name]
    assert find_records(folder / "*.csv") == [folder / "labels.csv"]
    assert folder / "sub" not in find_records(folder / "*")  # a folder is no recording


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_folder_gives_kardia_s_json_and_no_other(archive, encoding):
    folder, records = archive
    for name, text in (("e.json", '{"recordedAt": "2020"'), ("f.json", '{"data": {"raw": {"amplitudeResolution": 500')):
        (folder / name).write_text(text, encoding=encoding)
    assert set(find_records(folder)) == {*records, folder / "e.json", folder / "f.json"}


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


# ---- what is no ECG, and what does not look like one ------------------------------------------------------------

AECG = '<?xml version="1.0"?>\n<!-- <project> --><AnnotatedECG xmlns="urn:hl7-org:v3"></AnnotatedECG>'
OTHER_XML = '<?xml version="1.0"?>\n<!-- an ECG -->\n<project xmlns="a"><RestingECG/></project>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("pattern", ["", "*.xml"])
def test_xml_is_listed_by_its_root_element(tmp_path, encoding, pattern):
    for name, text in {"a.xml": AECG, "pom.xml": OTHER_XML, "b.XML": "<h:RestingECG>", "page.xml": "<html>"}.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
    found = {path.name for path in find_records(tmp_path / pattern)}
    assert found == ({"a.xml", "b.XML"} if not pattern else {"a.xml"})


def test_xml_without_a_root_is_listed_so_that_reading_can_say_why(tmp_path):
    (tmp_path / "cut.xml").write_text('<?xml version="1.0"?>\n')
    assert find_records(tmp_path) == [tmp_path / "cut.xml"]


@pytest.mark.parametrize("name", ["p.edf", "p.xml", "p.csv", "p"])
def test_a_namesake_of_a_wfdb_record_is_listed_and_read_as_what_it_is(tmp_path, name):
    header = write_wfdb(tmp_path, "p")
    digital = formats.counts(12, 1000)
    if name == "p.edf":
        signals = [formats.edf_signal(row, lead) for row, lead in zip(digital, CANONICAL_LEADS, strict=True)]
        formats.write_edf(tmp_path / name, signals)
    elif name == "p.xml":
        (tmp_path / name).write_bytes(vendors.aecg(digital, CANONICAL_LEADS))
    elif name == "p.csv":
        (tmp_path / name).write_text("time [ms],II [mV]\n" + "\n".join(f"{2 * i},0.5" for i in range(1000)))
    found = find_records([tmp_path, tmp_path / name])
    assert header in found
    assert len(found) == (1 if name == "p" else 2)
    assert {read_record(path).n_samples for path in found} == ({1000, 100} if len(found) > 1 else {100})


def test_a_signal_file_is_not_listed_beside_its_header_whatever_its_suffix(tmp_path):
    header = write_wfdb(tmp_path, "p")
    (tmp_path / "p.dat").rename(tmp_path / "p.edf")
    header.write_text(header.read_text().replace("p.dat", "p.edf"))
    assert find_records(tmp_path) == [header]
    assert read_record(tmp_path / "p.edf").n_samples == 100


def test_annotations_with_ishne_s_suffix_are_passed_over(tmp_path):
    header = write_wfdb(tmp_path, "slp01a")
    (tmp_path / "slp01a.ecg").write_bytes(b"\x12\x34" * 40)
    (tmp_path / "holter.ecg").write_bytes(b"ISHNE1.0" + bytes(100))
    assert find_records(tmp_path) == [tmp_path / "holter.ecg", header]


@pytest.fixture
def dicom_export(tmp_path):
    group = formats.multiplex_group(formats.counts(2, 1000), [("2:1", "Lead I"), ("2:2", "Lead II")])
    folder = tmp_path / "DICOM" / "ST000000"
    folder.mkdir(parents=True)
    for name in ("IM000001", "1.2.840.113619.2"):
        formats.write_dicom(folder / name, [group])
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    image.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name in ("IM000002", "scan.dcm"):
        image.save_as(folder / name, enforce_file_format=True)
    (folder / "README").write_text("x" * 200)
    return tmp_path


def write_dicomdir(folder, *files, waveform="1.2.840.10008.5.1.4.1.1.9.1.1"):
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.4"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    entries = [Dataset()]
    for file in files:
        entry = Dataset()
        entry.ReferencedFileID = file.split("/")
        entry.ReferencedSOPClassUIDInFile = waveform
        entries.append(entry)
    directory.DirectoryRecordSequence = entries
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def test_dicom_waveforms_are_found_by_their_content_and_images_passed_over(dicom_export):
    write_dicomdir(dicom_export, "DICOM/ST000000/IM000001")
    found = find_records(dicom_export)
    assert [path.name for path in found] == ["1.2.840.113619.2", "IM000001"]
    assert {read_record(path).leads for path in found} == {("I", "II")}


def test_a_dicom_directory_stands_for_the_waveforms_in_it(dicom_export):
    folder = dicom_export / "DICOM" / "ST000000"
    (folder / "IM000001").rename(folder / "im000001")  # as a file system writes a disc's names
    directory = write_dicomdir(dicom_export, "DICOM/ST000000/IM000001", "DICOM/ST000000/GONE")
    assert find_records(directory) == [folder / "GONE", folder / "im000001"]
    with pytest.raises(UnsupportedFormatError, match="find_records"):
        read_record(directory)


@pytest.mark.parametrize("file", ["../IM000001", "/etc/passwd", "a.b"])
def test_a_dicom_directory_that_points_elsewhere_is_refused(dicom_export, file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom, of names that the standard does not allow
        directory = write_dicomdir(dicom_export, file)
    with pytest.raises(DamagedRecordError, match="Name the folder instead"):
        find_records(directory)


def test_a_dicom_directory_without_waveforms_holds_no_recording(dicom_export):
    with pytest.raises(RecordNotFoundError, match="lists no waveform"):
        find_records(write_dicomdir(dicom_export, "IM1", waveform="1.2.840.10008.5.1.4.1.1.7"))


def test_a_damaged_dicom_directory_is_refused(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    with pytest.raises((DamagedRecordError, RecordNotFoundError)):
        find_records(tmp_path / "DICOMDIR")


def test_a_dicom_directory_needs_pydicom_and_an_intact_file(tmp_path, monkeypatch):
    directory = tmp_path / "DICOMDIR"
    directory.write_bytes(b"nothing")
    with pytest.raises(DamagedRecordError, match="Name the folder instead"):
        find_records(directory)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingDependencyError, match="skecg\\[formats\\]"):
        find_records(directory)


def test_beside_a_damaged_header_other_formats_speak_for_themselves(tmp_path):
    (tmp_path / "a.hea").write_text("no header at all")
    for name in ("a.edf", "a.xyz"):
        (tmp_path / name).write_text("x")
    with pytest.raises(UnsupportedFormatError, match=r"a\.edf"):
        read_record(tmp_path / "a.edf")
    with pytest.raises(DamagedRecordError, match=r"a\.hea"):
        read_record(tmp_path / "a.xyz")


def test_linked_folders_are_looked_into_and_a_link_in_a_circle_ends(tmp_path):
    for folder in ("elsewhere", "study"):
        (tmp_path / folder).mkdir()
    write_wfdb(tmp_path / "elsewhere", "b")
    write_wfdb(tmp_path / "study", "a")
    (tmp_path / "study" / "site").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "study" / "again").symlink_to(tmp_path / "study")
    assert [path.name for path in find_records(tmp_path / "study")] == ["a.hea", "b.hea"]


def test_links_that_lead_nowhere_are_listed_so_that_reading_can_say_where(tmp_path):
    write_wfdb(tmp_path, "a")
    lost = ["b.hea", "c.edf", "d.xml", "e.DCM", "f.ecg"]
    for name in [*lost, "b.dat", "g.json", "notes.md", "annex", ".#a.hea", "a.ecg"]:
        (tmp_path / name).symlink_to(f"annex/{name}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.edf").symlink_to("folder")
    assert [path.name for path in find_records(tmp_path)] == ["a.hea", *lost]
    assert [path.name for path in find_records(tmp_path / "*.edf")] == ["c.edf"]
    for name in [*lost, "b", "b.dat"]:
        with pytest.raises(RecordNotFoundError, match=r"a link to 'annex/.*', which is not there"):
            read_record(tmp_path / name)
    with pytest.raises(RecordNotFoundError, match=r"Nothing answers to .*c\.edf'. It is a link to 'annex/c\.edf'"):
        find_records(tmp_path / "c.edf")


@pytest.mark.parametrize(("named", "why"), [("a.dat", "It is a link to 'gone', which is"), ("b.dat", "Put it")])
def test_a_signal_file_that_is_a_link_to_nothing_is_no_signal_file(tmp_path, named, why):
    header = write_wfdb(tmp_path, "a")
    header.write_text(header.read_text().replace("a.dat", named))
    (tmp_path / "a.dat").unlink()
    (tmp_path / "a.dat").symlink_to("gone")
    with pytest.raises(RecordNotFoundError, match=rf"Signal file '{named}'.* is not there\. .*{why}"):
        read_record(header)
