"""One door for every file, and many files through it at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
import types

import numpy as np
import pytest
from wfdb_writing import random_steps, same_bits, write_wfdb

import skecg
from skecg.errors import (
    DamagedRecordError,
    InputError,
    LeadError,
    ParameterError,
    RecordNotFoundError,
    RecordReadError,
    UnsupportedFormatError,
)
from skecg.io import iter_records, read_record, read_records, reading


def test_importing_the_package_imports_no_reader():
    heavy = ("wfdb", "pandas", "scipy", "torch", "joblib", "pydicom", "edfio")
    code = f"import sys, skecg.io; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    from skecg import io

    assert all(hasattr(io, name) for name in io.__all__)
    assert skecg.read_record is read_record
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        io.nothing  # noqa: B018


# --- what names a record


@pytest.mark.parametrize("storage", ["16", "16+24"])
@pytest.mark.parametrize("make", [str, lambda path: path])
def test_a_record_is_named_with_or_without_a_suffix(tmp_path, storage, make):
    header = write_wfdb(tmp_path, "00001_hr", storage=storage)
    signal_file = header.with_suffix(".mat" if storage == "16+24" else ".dat")
    signals = [read_record(make(path)).signal for path in (header, header.with_suffix(""), signal_file)]
    assert all(same_bits(signal, signals[0]) for signal in signals)


def test_a_name_may_hold_dots_and_a_folder_may_bear_it_too(tmp_path):
    write_wfdb(tmp_path, "rec.v2", first_line="rec 2 500 100")
    (tmp_path / "rec.v2").mkdir()
    assert read_record(tmp_path / "rec.v2").name == "rec.v2"


def test_a_signal_file_with_a_suffix_of_its_own_names_its_record(tmp_path):
    header = write_wfdb(tmp_path)
    header.with_suffix(".dat").rename(tmp_path / "rec.xyz")
    header.write_text(header.read_text().replace("rec.dat", "rec.xyz"))
    assert read_record(tmp_path / "rec.xyz").n_leads == 2


def test_an_annotation_file_is_no_record(tmp_path):
    write_wfdb(tmp_path)
    (tmp_path / "rec.atr").write_bytes(b"\1\2")
    with pytest.raises(UnsupportedFormatError, match=r"rec\.hea"):
        read_record(tmp_path / "rec.atr")


@pytest.mark.parametrize("path", [None, 3, b"rec", 1.5, ["rec"], "", "  ", "rec\0"])
def test_what_is_no_path_is_a_mistake_of_the_caller(path):
    with pytest.raises(ParameterError):
        read_record(path)


def test_an_absent_record_is_answered_with_similar_names(tmp_path):
    write_wfdb(tmp_path, "00001_hr")
    write_wfdb(tmp_path, "zzz")
    for name in ("00001_lr", "00001_lr.hea", "00001_HR.dat", "00001hr.mat"):
        with pytest.raises(RecordNotFoundError, match=r"Similar names there: 00001_hr\.hea") as caught:
            read_record(tmp_path / name)
        assert isinstance(caught.value, FileNotFoundError)
        assert "zzz" not in str(caught.value)


def test_a_file_of_matlab_without_a_header_is_told_what_reads_it(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(RecordNotFoundError, match=r"no WFDB header .*a\.hea.*scipy\.io\.loadmat"):
        read_record(tmp_path / "a.mat")


def test_signals_that_are_still_packed_are_told(tmp_path):
    write_wfdb(tmp_path, "a")
    (tmp_path / "a.dat").rename(tmp_path / "a.dat.gz")
    with pytest.raises(RecordNotFoundError, match=r"a\.dat\.gz lies there\. Unpack it\."):
        read_record(tmp_path / "a")


def test_an_absent_file_of_another_format_is_answered_with_similar_names(tmp_path):
    for name in ("night1.edf", "zzz.edf"):
        (tmp_path / name).touch()
    with pytest.raises(RecordNotFoundError, match=r"There is no file .*Similar names there: night1\.edf") as caught:
        read_record(tmp_path / "night2.edf")
    assert "zzz" not in str(caught.value)


def test_an_absent_folder_is_said_to_be_absent(tmp_path):
    with pytest.raises(RecordNotFoundError, match="There is no folder"):
        read_record(tmp_path / "nowhere" / "rec")


def test_a_folder_is_answered_with_the_way_to_list_it(tmp_path):
    with pytest.raises(RecordNotFoundError, match=r"is a directory.*find_records"):
        read_record(tmp_path)


def test_a_signal_file_without_its_header_is_not_guessed_at(tmp_path):
    header = write_wfdb(tmp_path)
    header.unlink()
    with pytest.raises(RecordNotFoundError, match=r"rec\.hea"):
        read_record(tmp_path / "rec.dat")


def test_a_name_too_long_for_the_system_is_an_error_of_ours(tmp_path):
    with pytest.raises(RecordReadError):
        read_record(tmp_path / ("x" * 5000))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.csv.gz", "Unpack it"),
        ("a.parquet", "Read it with pandas, and pass the samples as skecg.ECGRecord"),
        ("a.h5", "Read it with h5py"),
        ("a.PNG", "export the recording from the system"),
    ],
)
@pytest.mark.parametrize("given", [{}, {"sampling_rate": 500, "leads": ["I"]}])
def test_what_is_no_recording_itself_is_answered_with_the_way_to_one(tmp_path, name, advice, given):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(UnsupportedFormatError, match=advice):
        read_record(tmp_path / name, **given)


@pytest.mark.parametrize("name", ["absent.csv", "absent.mat", "absent", "lone.mat"])
def test_what_is_not_there_is_said_so_whatever_is_given_for_it(tmp_path, name):
    (tmp_path / "lone.mat").write_bytes(b"anything")
    with pytest.raises(RecordNotFoundError, match="There is no"):
        read_record(tmp_path / name, sampling_rate=500)


def test_a_link_to_nothing_is_said_to_be_one(tmp_path):
    (tmp_path / "a.edf").symlink_to(tmp_path / "gone.edf")
    with pytest.raises(RecordNotFoundError, match=r"a link to '.*gone\.edf', which is not there"):
        read_record(tmp_path / "a.edf")


def test_a_file_of_unknown_content_is_refused(tmp_path):
    (tmp_path / "notes.docx").write_bytes(b"\1\2\3 not an ECG")
    with pytest.raises(RecordReadError):
        read_record(tmp_path / "notes.docx")


# --- tables and arrays


def test_a_rate_leads_and_units_are_for_files_that_have_none(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    record = read_record(tmp_path / "a.npy", sampling_rate=250, leads=["I", "II"], units="uV")
    assert (record.sampling_rate, record.leads, record.name) == (250, ("I", "II"), "a")
    assert np.allclose(record.signal, values / 1000)


@pytest.mark.parametrize("given", [{"sampling_rate": 500}, {"leads": ["I", "II"]}, {"units": "mV"}])
def test_a_file_that_carries_its_own_is_not_overruled(tmp_path, given):
    header = write_wfdb(tmp_path)
    for path in (header, header.with_suffix(""), header.with_suffix(".dat")):
        with pytest.raises(ParameterError, match=f"Got {next(iter(given))} .*carry its own|carry their own"):
            read_record(path, **given)


def test_faults_inside_a_file_are_never_mistakes_of_the_caller(tmp_path, monkeypatch):
    def read_format(_path):
        raise LeadError("twice")

    (tmp_path / "a.edf").write_bytes(b"0")
    monkeypatch.setattr("skecg.io.formats.read_format", read_format)
    with pytest.raises(DamagedRecordError, match="twice") as caught:
        read_record(tmp_path / "a.edf")
    assert isinstance(caught.value.__cause__, LeadError)


# --- many records


@pytest.fixture
def archive(tmp_path):
    return [write_wfdb(tmp_path, f"r{i:02d}", random_steps(80, 3, seed=i)) for i in range(20)]


@pytest.mark.parametrize("n_jobs", [None, 1, 2, -1])
def test_many_records_come_in_the_order_of_their_paths(archive, n_jobs):
    records = read_records(archive[::-1], n_jobs=n_jobs)
    assert [record.name for record in records] == [path.stem for path in archive[::-1]]
    assert all(same_bits(r.signal, read_record(p).signal) for r, p in zip(records, archive[::-1], strict=True))


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_an_unreadable_record_keeps_its_place_when_asked_to(archive, n_jobs):
    archive[7].with_suffix(".dat").unlink()
    archive[12].write_text("")
    rows = read_records(archive, n_jobs=n_jobs, errors="return")
    assert isinstance(rows[7], RecordNotFoundError)
    assert isinstance(rows[12], DamagedRecordError)
    assert [row.name for i, row in enumerate(rows) if i not in (7, 12)] == [
        path.stem for i, path in enumerate(archive) if i not in (7, 12)
    ]


def test_a_table_that_does_not_say_its_rate_is_an_unreadable_record_among_many(tmp_path, archive):
    np.save(tmp_path / "a.npy", np.zeros((2, 100), dtype=np.float32))
    rows = read_records([archive[0], tmp_path / "a.npy"], errors="return")
    assert isinstance(rows[1], RecordReadError)
    with pytest.raises(InputError):
        read_records([tmp_path / "a.npy"])


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_an_unreadable_record_is_an_error_of_ours_in_threads_too(archive, n_jobs):
    archive[7].write_bytes(b"\0\1")
    with pytest.raises(DamagedRecordError, match="r07"):
        read_records(archive, n_jobs=n_jobs)


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_a_mistake_of_the_caller_is_raised_even_so(archive, n_jobs):
    with pytest.raises(ParameterError):
        read_records([archive[0], None], n_jobs=n_jobs, errors="return")


def test_threads_read_side_by_side(archive, monkeypatch):
    meeting = threading.Barrier(2, timeout=20)

    def wait_for_the_other(path, **_):
        meeting.wait()
        return path

    monkeypatch.setattr(reading, "read_record", wait_for_the_other)
    assert read_records(archive[:4], n_jobs=2) == archive[:4]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_paths_are_drawn_as_they_are_needed(archive, n_jobs):
    drawn = []

    def paths():
        for i in range(10_000):
            drawn.append(i)
            yield archive[i % len(archive)]

    records = iter_records(paths(), n_jobs=n_jobs, chunk=8)
    assert isinstance(records, (types.GeneratorType, map))
    assert drawn == []
    assert [next(records).name for _ in range(10)] == [path.stem for path in archive[:10]]
    assert len(drawn) <= 16


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_memory_stays_flat_however_many_files_are_named(tmp_path, n_jobs):
    header = write_wfdb(tmp_path, steps=random_steps(10_000, 2))

    def peak(n_records):
        tracemalloc.start()
        for _ in iter_records((header for _ in range(n_records)), n_jobs=n_jobs, chunk=4):
            pass
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(8)
    assert peak(80) < 2 * peak(12)


def test_no_paths_give_no_records():
    assert read_records([]) == []
    assert list(iter_records(iter(()), n_jobs=2)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"errors": "skip"}, {"errors": None}, {"n_jobs": 0}, {"n_jobs": 1.5}, {"n_jobs": "all"}, {"n_jobs": True}],
)
def test_wrong_arguments_are_refused_at_once(archive, wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        read_records(archive, **wrong)
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        iter_records(archive, **wrong)


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True])
def test_a_chunk_is_a_positive_number(archive, chunk):
    with pytest.raises(ParameterError, match="chunk"):
        iter_records(archive, chunk=chunk)


@pytest.mark.parametrize("paths", ["r01", b"r01", None, 5])
def test_one_path_is_no_list_of_paths(paths):
    with pytest.raises(ParameterError, match="read_record"):
        read_records(paths)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch, name):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / name).write_bytes(b"locked")
    monkeypatch.setattr("pathlib.Path.open", refuse)
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(RecordReadError, match=r"cannot be read \(PermissionError\)\. Check its permissions"):
        read_record(tmp_path / name)


def test_a_file_that_needs_more_memory_than_there_is_costs_itself_alone(tmp_path, monkeypatch):
    header = write_wfdb(tmp_path, "a")

    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr("skecg.io.reading._read", refuse)
    with pytest.raises(RecordReadError, match="needs more memory than there is"):
        read_record(header)
