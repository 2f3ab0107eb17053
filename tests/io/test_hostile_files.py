"""Files that are damaged or made to harm cost an error of ours, and neither memory nor a wrong record."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from wfdb_writing import write_wfdb

from skecg.convert.checkpoint import open_checkpoint
from skecg.errors import (
    DamagedRecordError,
    ForeignCheckpointError,
    LeadWarning,
    RecordReadError,
    SamplingRateError,
    UnitsError,
)
from skecg.io import find_records, read_record
from skecg.io.channels import ecg_rows
from skecg.leads import CANONICAL_LEADS


def npy_header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "shape", ["(12, 1000000000)", "(12, 10**30)", f"({10**30}, 2)", "(-3, 5)", "(12, 5000)", "(True,)"]
)
@pytest.mark.parametrize("container", ["npy", "npz"])
def test_an_array_larger_than_its_file_is_refused_before_room_is_made(
    tmp_path: Path, shape: str, container: str
) -> None:
    path, content = tmp_path / f"a.{container}", npy_header(shape) + bytes(64)
    if container == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("signal.npy", content)
    else:
        path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(RecordReadError):
        read_record(path, sampling_rate=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_sound_array_is_read_as_before(tmp_path: Path) -> None:
    signal = np.random.default_rng(0).normal(0, 0.2, (12, 5000)).astype(np.float32)
    np.save(tmp_path / "a.npy", signal)
    np.savez_compressed(tmp_path / "a.npz", signal=signal, sampling_rate=500)
    for name, rate in (("a.npy", 500), ("a.npz", None)):
        np.testing.assert_array_equal(
            read_record(tmp_path / name, sampling_rate=rate, leads=CANONICAL_LEADS).signal, signal
        )


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DamagedRecordError, match="never unpickled"):
        read_record(tmp_path / "a.npy", sampling_rate=500)


def test_json_nested_without_end_is_no_checkpoint(tmp_path: Path) -> None:
    header = {"__metadata__": {"config": "[" * 100_000}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(ForeignCheckpointError):
        open_checkpoint(path)


@pytest.mark.parametrize("unit", ["mW", "mV_", "adu", "m\ufffd", "mmHg"])
def test_a_standard_lead_in_no_unit_of_voltage_is_an_error_of_the_file(unit: str) -> None:
    with pytest.raises(UnitsError, match=rf"II \[{unit}\]"):
        ecg_rows(("I", "II", "RESP"), ("mV", unit, "l"))


@pytest.mark.parametrize(
    "unit", ["mV", "millivolt", "Millivolts", "uV", "µV", "μV", "microvolts", "nV", "V", "volts", "uVolt"]
)
def test_the_spellings_that_files_use_are_understood(unit: str) -> None:
    assert ecg_rows(("I", "II", "RESP"), ("mV", unit, "l")) == (0, 1)


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (("Fp1", "C3", "C4", "O1", "ECG"), (4,)),
        (("C3", "C4", "EOG L", "ECG"), (3,)),
        (("C3", "C4", "ECG"), (0, 1, 2)),
        (("A1", "A2"), (0, 1)),
        (("MLII", "EEG (C4-A1)", "V1"), (0, 2)),
    ],
)
def test_electrodes_of_the_head_are_no_leads(names: tuple[str, ...], rows: tuple[int, ...]) -> None:
    assert ecg_rows(names, ("uV",) * len(names)) == rows


def test_a_link_to_a_folder_above_lists_no_record_twice(tmp_path: Path) -> None:
    signal = np.zeros((12, 500), dtype=np.float32)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", signal)
    (tmp_path / "in" / "up").symlink_to(tmp_path, target_is_directory=True)
    found = find_records([str(tmp_path / "**" / "*.npy")])
    assert [path.name for path in found] == ["a.npy"]


def test_what_file_managers_leave_is_no_recording(tmp_path: Path) -> None:
    signal = np.zeros((12, 500), dtype=np.float32)
    (tmp_path / "__MACOSX").mkdir()
    for name in ("a.npy", "._a.npy", "__MACOSX/a.npy"):
        np.save(tmp_path / name, signal)
    assert [path.name for path in find_records([str(tmp_path / "**" / "*.npy")])] == ["a.npy"]


def test_times_in_nanoseconds_are_times(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-900, 900, 2600)
    rows = [f"{599616000000000000 + i * 7692307};{value}" for i, value in enumerate(values)]
    (tmp_path / "a.csv").write_text("\n".join(["sensor timestamp [ns];ecg [uV]", *rows]))
    record = read_record(tmp_path / "a.csv", sampling_rate=130, leads=["I"], units="uV")
    np.testing.assert_allclose(record.signal, values[None] / 1000, rtol=1e-6)
    with pytest.raises(SamplingRateError, match="tell: 130 Hz if they are nanoseconds"):
        read_record(tmp_path / "a.csv", sampling_rate=250, leads=["I"], units="uV")


@pytest.mark.parametrize("unit", ["mW", "mV_", "bpm"])
def test_a_lead_of_a_table_in_no_unit_of_voltage_is_refused(tmp_path: Path, unit: str) -> None:
    rows = ["0.1,0.2"] * 1000
    (tmp_path / "a.csv").write_text("\n".join([f"I [mV],II [{unit}]", *rows]))
    with pytest.raises(UnitsError, match=rf"no unit of voltage for II \[{unit}\]"):
        read_record(tmp_path / "a.csv", sampling_rate=500)


def table(path: Path, header: str, *columns: np.ndarray) -> Path:
    rows = [",".join(f"{value:.9g}" for value in row) for row in np.stack(columns, axis=1)]
    path.write_text("\n".join([header, *rows]))
    return path


BEAT = 0.3 * np.sin(np.arange(1000) / 9)


@pytest.mark.parametrize("other", ["SpO2 (%)", "RESP (mV)", "event (n)", "X (g)", "ECG HR (bpm)"])
def test_columns_of_a_table_that_are_no_voltages_of_the_heart_are_left_out(tmp_path: Path, other: str) -> None:
    record = read_record(table(tmp_path / "a.csv", f"I (mV),{other}", BEAT, BEAT * 7), sampling_rate=500)
    assert record.leads == ("I",)
    np.testing.assert_allclose(record.signal[0], BEAT, rtol=1e-6)


@pytest.mark.parametrize("other", ["MLII (adu)", "ECG 2 (NU)", "7 (NU)", "V7 (mW)"])
def test_a_channel_of_the_heart_without_a_unit_of_voltage_is_named_when_it_is_left_out(
    tmp_path: Path, other: str
) -> None:
    path = table(tmp_path / "a.csv", f"I (mV),{other}", BEAT, BEAT * 7)
    name, unit = other[:-1].split(" (")
    with pytest.warns(LeadWarning, match=rf"Left out {name} \[{unit}\]"):
        assert read_record(path, sampling_rate=500).leads == ("I",)


@pytest.mark.parametrize(("other", "is_named"), [("ECG [NU]", True), ("PLETH [NU]", False), ("X [g]", False)])
def test_a_wfdb_channel_of_the_heart_without_a_unit_of_voltage_is_named(
    tmp_path: Path, other: str, is_named: bool
) -> None:
    name, unit = other[:-1].split(" [")
    np.arange(200, dtype="<i2").tofile(tmp_path / "a.dat")
    (tmp_path / "a.hea").write_text(
        f"a 2 100 100\na.dat 16 200/mV 16 0 0 0 0 II\na.dat 16 200/{unit} 16 0 0 0 0 {name}\n"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_record(tmp_path / "a.hea").leads == ("II",)
    assert [str(w.message).startswith(f"Left out {other}") for w in caught] == [True] * is_named


def test_a_time_is_known_by_its_unit_whatever_it_is_called(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "elapsed (s),I (mV)", np.arange(1000) / 500, BEAT)
    assert read_record(path, sampling_rate=500).leads == ("I",)
    with pytest.raises(SamplingRateError, match="500 Hz if they are seconds"):
        read_record(path, sampling_rate=250)


def test_each_lead_of_a_table_has_the_unit_that_its_column_states(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "I (mV),II (uV)", BEAT, 1000 * BEAT)
    np.testing.assert_allclose(read_record(path, sampling_rate=500).signal, [BEAT, BEAT], rtol=1e-6)


@pytest.mark.parametrize("units", ["uV", ["uV"], ["uV", "uV"]])
def test_one_unit_of_an_archive_is_that_of_all_leads(tmp_path: Path, units: object) -> None:
    np.savez(tmp_path / "a.npz", signal=np.stack([BEAT, BEAT]) * 1000, units=np.array(units))
    record = read_record(tmp_path / "a.npz", sampling_rate=500, leads=["I", "II"])
    np.testing.assert_allclose(record.signal, [BEAT, BEAT], rtol=1e-5)


@pytest.mark.parametrize("member", ["signal", "sampling_rate", "units", "leads"])
def test_a_member_that_is_no_array_is_refused(tmp_path: Path, member: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **({} if member == "signal" else {"signal": np.zeros((2, 1000))}), other=np.zeros(2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, b"hello")
    with pytest.raises(DamagedRecordError, match=member):
        read_record(path, sampling_rate=500, leads=["I", "II"])


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_an_archive_with_bytes_changed_is_an_error_of_its_file(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(0).normal(size=(2, 5000)))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("signal.npy", buffer.getvalue())
    content = bytearray(path.read_bytes())
    content[300:500] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError):
        read_record(path, sampling_rate=500, leads=["I", "II"])


def test_a_link_to_a_header_alone_is_the_record_it_points_to(tmp_path: Path) -> None:
    header = write_wfdb(tmp_path, name="rec")
    (tmp_path / "a").mkdir()
    for path in tmp_path.glob("rec.*"):
        path.rename(tmp_path / "a" / path.name)
    (tmp_path / "latest.hea").symlink_to(tmp_path / "a" / header.name)
    assert find_records([tmp_path]) == [tmp_path / "a" / header.name]
