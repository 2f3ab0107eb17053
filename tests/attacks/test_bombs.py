"""Files that become far more than they are: refused before room is made for what they say they hold."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom.uid import DeflatedExplicitVRLittleEndian

from skecg.convert.checkpoint import open_checkpoint
from skecg.errors import DamagedRecordError, ForeignCheckpointError, RecordReadError, SkecgError
from skecg.io import read_record
from skecg.io.wfdb_header import parse_header

MANY = 300_000_000  # zeros, which deflate to a thousandth


def npy_of(n_values: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|i1", "fortran_order": False, "shape": (2, n_values // 2)})
    return buffer.getvalue()


def deflated_zip(path: Path, name: str, head: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as entry:
        entry.write(head)
        for _ in range(MANY // 10**6):
            entry.write(bytes(10**6))
    return path


def deflated_dicom(path: Path) -> Path:
    meta = b"\x02\x00\x10\x00UI" + (22).to_bytes(2, "little") + DeflatedExplicitVRLittleEndian.encode()
    head = b"\x02\x00\x00\x00UL\x04\x00" + len(meta).to_bytes(4, "little")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(deflate.compress(bytes(10**6)) for _ in range(MANY // 10**6)) + deflate.flush()
    path.write_bytes(bytes(128) + b"DICM" + head + meta + packed)
    return path


def lying_dicom(path: Path) -> Path:
    """An element that says that it has four thousand million bytes."""
    meta = b"\x02\x00\x10\x00UI" + (20).to_bytes(2, "little") + b"1.2.840.10008.1.2.1\x00"
    head = b"\x02\x00\x00\x00UL\x04\x00" + len(meta).to_bytes(4, "little")
    path.write_bytes(bytes(128) + b"DICM" + head + meta + b"\x00\x54\x00\x01OB\x00\x00\xf0\xff\xff\xff" + bytes(64))
    return path


def long_header(path: Path) -> Path:
    """An array whose header alone would be four thousand million bytes."""
    path.write_bytes(b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\xff" + bytes(100))
    return path


def endless_gap(path: Path) -> Path:
    """A record of two samples and a gap of four thousand million bytes."""
    path.with_name("s.dat").write_bytes(bytes(4))
    path.with_name("s.hea").write_text("s 1 500 2\ns.dat 16 200/mV 16 0 0 0 0 I\n")
    path.write_text("a/2 1 500 1000000002\ns 2\n~ 1000000000\n")
    return path


BOMBS = {
    "deflated npz": lambda folder: deflated_zip(folder / "a.npz", "signal.npy", npy_of(MANY)),
    "deflated DICOM": lambda folder: deflated_dicom(folder / "a.dcm"),
    "a gap of a WFDB record": lambda folder: endless_gap(folder / "a.hea"),
    "an element of a DICOM": lambda folder: lying_dicom(folder / "a.dcm"),
    "a header of an array": lambda folder: long_header(folder / "a.npy"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_recording_that_is_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, name: str) -> None:
    path = BOMBS[name](tmp_path)
    tracemalloc.start()
    with pytest.raises(RecordReadError):
        read_record(path, sampling_rate=500, leads=["I", "II"]) if path.suffix == ".npz" else read_record(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000


def test_a_checkpoint_of_deflated_entries_is_refused(tmp_path: Path) -> None:
    path = deflated_zip(tmp_path / "a.pth", "a/data/0", b"")
    with pytest.raises(ForeignCheckpointError, match="stored as they are"):
        open_checkpoint(path)
    torch.save({"model": {"a": torch.zeros(1000)}}, tmp_path / "b.pth")
    assert open_checkpoint(tmp_path / "b.pth").content


def test_a_name_that_is_no_text_is_an_error_of_the_checkpoint(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes().replace(b"a/data.pkl", b"\xc2\xffata.pkl")
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(SkecgError):
        open_checkpoint(tmp_path / "a.pth")


def test_an_archive_under_a_password_is_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", signal=np.zeros((2, 500)))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DamagedRecordError):
        read_record(tmp_path / "a.npz", sampling_rate=500, leads=["I", "II"])


@pytest.mark.parametrize(
    "line",
    [
        "r.dat 16 200/mV 12 0 0 0 -1 I",
        "r.dat 16 200/mV 12 0 0 2III",
        "r.dat 16 +200/mV 12 0 0 0 0 I",
        "r.dat 16 200(+3)/mV 12 0 0 0 0 I",
    ],
)
def test_a_line_that_other_readers_take_otherwise_is_refused(line: str) -> None:
    with pytest.raises(DamagedRecordError, match="Line 2"):
        parse_header(f"r 1 250 100\n{line}\n".encode(), "r.hea")


def test_a_rate_whose_counter_is_no_number_is_refused() -> None:
    with pytest.raises(DamagedRecordError, match="Line 1"):
        parse_header(b"r 1 250/1e3(12) 100\nr.dat 16 200/mV 12 0 0 0 0 I\n", "r.hea")
