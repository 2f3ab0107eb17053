"""Damaged files: every fault has its message, and nothing but an error of ours comes of any bytes."""

from __future__ import annotations

import contextlib
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wfdb_writing import edit, random_steps, write_wfdb

from skecg.errors import DamagedRecordError, RecordNotFoundError, RecordReadError, SignalWarning, SkecgError
from skecg.io import read_record
from skecg.records import ECGRecord

FAULTS = {
    "missing header": (lambda h: h.unlink(), RecordNotFoundError, r"no WFDB header .*rec\.hea"),
    "missing signal": (lambda h: h.with_suffix(".dat").unlink(), RecordNotFoundError, r"'rec\.dat'.*Put it beside"),
    "empty header": (lambda h: h.write_bytes(b""), DamagedRecordError, r"empty \(0 bytes\)"),
    "blank header": (lambda h: h.write_text(" \n\n"), DamagedRecordError, r"is empty"),
    "only comments": (lambda h: h.write_text("# Age: 50\n"), DamagedRecordError, "nothing but comments"),
    "binary header": (lambda h: h.write_bytes(bytes(range(256))), DamagedRecordError, "binary data"),
    "a photograph": (lambda h: h.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), DamagedRecordError, "binary data"),
    "text": (lambda h: h.write_text("Dear colleague,\n"), DamagedRecordError, "Line 1"),
    "empty signal": (lambda h: h.with_suffix(".dat").write_bytes(b""), DamagedRecordError, "is empty, 400 expected"),
    "truncated": (
        lambda h: h.with_suffix(".dat").write_bytes(b"\1" * 399),
        DamagedRecordError,
        "truncated: 399 bytes found, 400 expected for 100 samples",
    ),
    "no signals": (lambda h: h.write_text("rec 0 500 100\n"), DamagedRecordError, "0 signals"),
    "a line lost": (lambda h: edit(h, "rec 2", "rec 3"), DamagedRecordError, "promises 3 signals but has 2"),
    "a line too many": (lambda h: edit(h, "rec 2", "rec 1"), DamagedRecordError, "promises 1 signals but has 2"),
    "gain as text": (lambda h: edit(h, "1000/mV", "high/mV"), DamagedRecordError, "Line 2"),
    "rate as text": (lambda h: edit(h, "2 500", "2 fast"), DamagedRecordError, "Line 1"),
    "rate zero": (lambda h: edit(h, "2 500", "2 0"), DamagedRecordError, "sampling rate of 0 Hz"),
    "unknown format": (lambda h: edit(h, "dat 16", "dat 99"), DamagedRecordError, r"cannot decode .*rec\.dat"),
    "no FLAC": (lambda h: edit(h, "dat 16", "dat 516"), DamagedRecordError, r"cannot decode .*rec\.dat"),
    "FLAC of unknown length": (
        lambda h: edit(edit(h, "dat 16", "dat 516"), "500 100", "500"),
        DamagedRecordError,
        "no number of samples",
    ),
    "offset beyond the end": (lambda h: edit(h, "dat 16", "dat 16+999"), DamagedRecordError, "1399 expected"),
    "skew beyond the end": (lambda h: edit(h, "dat 16", "dat 16:100"), DamagedRecordError, "shifts a signal by 100"),
    "not one sample": (
        lambda h: (edit(h, "500 100", "500"), h.with_suffix(".dat").write_bytes(b"abc")),
        DamagedRecordError,
        "3 bytes and not one sample of 2",
    ),
    "outside its folder": (lambda h: edit(h, "rec.dat", "../rec.dat"), DamagedRecordError, "bare file name"),
    "absolute path": (lambda h: edit(h, "rec.dat", "/etc/hosts"), DamagedRecordError, "bare file name"),
    "too many samples": (
        lambda h: edit(h, "500 100", "500 999999999999"),
        DamagedRecordError,
        "3999999999996 expected",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_its_message(tmp_path, fault):
    damage, error, message = FAULTS[fault]
    header = write_wfdb(tmp_path)
    damage(header)
    with pytest.raises(error, match=message) as caught:
        read_record(header)
    assert str(caught.value).count(". ") >= 1 or str(caught.value).endswith("."), "a message ends with what to do"


@pytest.mark.parametrize(
    ("storage", "size"), [("212", 300), ("16+24", 424), ("80", 200), ("24", 600), ("310", 268), ("311", 267)]
)
def test_a_single_missing_byte_is_noticed_in_every_format(tmp_path, storage, size):
    header = write_wfdb(tmp_path, storage=storage if storage in ("212", "16+24") else "16")
    signal_file = header.with_suffix(".mat" if storage == "16+24" else ".dat")
    if storage not in ("212", "16+24"):
        edit(header, "dat 16", f"dat {storage}")
    signal_file.write_bytes(b"\1" * size)
    assert read_record(header).n_samples == 100
    signal_file.write_bytes(b"\1" * (size - 1))
    with pytest.raises(DamagedRecordError, match=f"{size - 1} bytes found, {size} expected"):
        read_record(header)


@pytest.mark.parametrize("storage", ["16", "212", "16+24"])
@pytest.mark.parametrize("n_more", [0, 1, 4])
def test_what_a_file_holds_beyond_its_header_is_said(tmp_path, storage, n_more):
    steps = random_steps(101 + n_more, 1)
    steps[0] = 7
    header = edit(write_wfdb(tmp_path, steps=steps, storage=storage), f"500 {101 + n_more}", "500 101")
    if n_more < 4:  # fills the last bytes
        assert read_record(header).n_samples == 101
        return
    with pytest.warns(SignalWarning, match=r"for 101 samples: the rest is not read"):
        assert read_record(header).n_samples == 101


def test_segments_of_one_file_and_frames_for_a_skew_are_not_too_much(tmp_path):
    write_wfdb(tmp_path, "p1", random_steps(60, 2))
    edit(tmp_path / "p1.hea", "p1 2 500 60", "p1 2 500 20")
    (tmp_path / "p2.hea").write_text((tmp_path / "p1.hea").read_text().replace("p1 2 500 20", "p2 2 500 40", 1))
    edit(tmp_path / "p2.hea", "dat 16", "dat 16+80")
    (tmp_path / "whole.hea").write_text("whole/2 2 500 60\np1 20\np2 40\n")
    assert read_record(tmp_path / "whole").n_samples == 60
    skewed = write_wfdb(tmp_path, "rec", random_steps(110, 1))
    edit(edit(skewed, "rec 1 500 110", "rec 1 500 100"), "dat 16", "dat 16:10")
    assert read_record(skewed).n_samples == 100


def test_a_piece_of_a_longer_file_is_none_that_is_too_long(tmp_path):
    header = edit(write_wfdb(tmp_path), "rec 2 500 100", "rec 2 500 50")
    edit(header, "dat 16", "dat 16+80")
    assert read_record(header).n_samples == 50


def as_level_4(kind: int, n_rows: int, name: bytes) -> bytes:
    head = np.array([kind, n_rows, 200 // n_rows, 0, len(name)], dtype="<i4").tobytes()
    return head + name + bytes(800)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"MATLAB 5.0 MAT-file, made anew".ljust(600), "in a newer format"),
        (b"\x89HDF\r\n\x1a\n".ljust(600, b"\0"), "in a newer format"),
        (as_level_4(0, 2, b"val\0"), "a matrix of 2 rows, type 0, from byte 24 on"),
        (as_level_4(30, 100, b"val\0"), "a matrix of 100 rows, type 30, from byte 24 on"),
        (as_level_4(30, 2, b"data1\0"), "a matrix of 2 rows, type 30, from byte 26 on"),
    ],
    ids=["level 5", "HDF5", "float64", "transposed", "another name"],
)
def test_a_matrix_that_was_saved_again_is_refused(tmp_path, content, found):
    header = write_wfdb(tmp_path, storage="16+24")
    header.with_suffix(".mat").write_bytes(content)
    with pytest.raises(
        DamagedRecordError, match=f"{found}, expected what its header says: 2 rows in format 16 from byte"
    ):
        read_record(header)


def test_a_header_that_knows_where_samples_lie_in_a_newer_matrix_is_believed(tmp_path):
    header = edit(write_wfdb(tmp_path, storage="16+24"), "16+24", "16+160")
    header.with_suffix(".mat").write_bytes(
        b"MATLAB 5.0 MAT-file".ljust(160) + random_steps(100, 2).astype("<i2").tobytes()
    )
    assert read_record(header).n_samples == 100


def test_an_error_of_wfdb_is_the_cause_of_ours(tmp_path):
    header = edit(write_wfdb(tmp_path), "dat 16", "dat 516")
    with pytest.raises(DamagedRecordError) as caught:
        read_record(header)
    assert caught.value.__cause__ is not None


def test_no_message_tells_of_the_patient(tmp_path):
    header = write_wfdb(tmp_path)
    sound = header.read_text().replace("500 100", "500 100 10:11:12 13/12/1941") + "# Name: Jane Doe\n#Age: 83\n"
    for text in (
        sound.replace("16 1000", "Doe 1000"),
        sound.replace("rec 2", "rec 3"),
        "Doe\0" + sound,
        "Doe " + sound,
    ):
        header.write_text(text)
        with pytest.raises(RecordReadError) as caught:
            read_record(header)
        shown = "".join(traceback.format_exception_only(caught.value))
        assert not any(word in shown for word in ("Doe", "1941", "Age"))


def test_a_header_that_may_not_be_opened_is_an_error_of_ours(tmp_path, monkeypatch):
    header = write_wfdb(tmp_path)

    def refuse(_self):
        raise PermissionError("no")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RecordReadError, match="PermissionError"):
        read_record(header)


# --- any bytes at all

QUIET = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
STORAGES = st.sampled_from(["16", "212", "16+24"])


def read_or_error_of_ours(path):
    """Read a record; whatever else than a record or an error of ours comes of it fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        with contextlib.suppress(SkecgError):
            record = read_record(path)
            assert isinstance(record, ECGRecord)
            assert not np.isinf(record.signal).any()


@contextlib.contextmanager
def written(storage):
    with tempfile.TemporaryDirectory() as folder:
        header = write_wfdb(Path(folder), steps=random_steps(20, 2), storage=storage, scales=["200(1024)/mV", "1e3/uV"])
        yield header, header.with_suffix(".mat" if storage == "16+24" else ".dat")


@QUIET
@given(STORAGES, st.data())
def test_flipped_bytes_give_a_record_or_an_error_of_ours(storage, data):
    with written(storage) as (header, _):
        content = bytearray(header.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        header.write_bytes(bytes(content))
        read_or_error_of_ours(header)


@QUIET
@given(STORAGES, st.floats(0, 1), st.floats(0, 1))
def test_truncated_files_give_a_record_or_an_error_of_ours(storage, header_share, signal_share):
    with written(storage) as (header, signal_file):
        for path, share in ((header, header_share), (signal_file, signal_share)):
            path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
        read_or_error_of_ours(header)


@QUIET
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_give_a_record_or_an_error_of_ours(header_bytes, signal_bytes):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rec.hea").write_bytes(header_bytes)
        (Path(folder) / "rec.dat").write_bytes(signal_bytes)
        read_or_error_of_ours(Path(folder) / "rec")


HEADER_WORDS = """
    rec rec/2 rec.dat 2 0 1 -1 16 212 80 516 8 310 16x2:3+4 99999999 1e5 200(0)/mV 0/V -3(9)/uV /mmHg 1e-300/mV 1e300/V
    ~ II V1 # 500/2(3) 10:11 ü nan inf
"""
WORDS = st.sampled_from(HEADER_WORDS.split())


@QUIET
@given(st.lists(st.lists(WORDS, max_size=11).map(" ".join), min_size=1, max_size=4).map("\n".join))
def test_any_words_of_headers_give_a_record_or_an_error_of_ours(text):
    with written("16") as (header, _):
        header.write_text(text, encoding="utf-8")
        read_or_error_of_ours(header)


@QUIET
@given(
    st.sampled_from(["8", "16", "24", "32", "61", "80", "160", "212", "310", "311", "508", "516", "524"]),
    st.integers(1, 3),
    st.integers(0, 6),
    st.integers(0, 6),
    st.binary(max_size=300),
)
def test_any_layout_of_any_bytes_gives_a_record_or_an_error_of_ours(storage, per_frame, skew, offset, content):
    with tempfile.TemporaryDirectory() as folder:
        layout = f"{storage}x{per_frame}:{skew}+{offset}"
        (Path(folder) / "rec.dat").write_bytes(content)
        text = f"rec 2 250 20\nrec.dat {layout} 200/mV 12 0 0 0 0 I\nrec.dat {storage}+{offset} 200/mV 12 0 0 0 0 II\n"
        (Path(folder) / "rec.hea").write_text(text)
        read_or_error_of_ours(Path(folder) / "rec")
