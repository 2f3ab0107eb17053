"""What an EDF file says of its samples and its time is obeyed, or the file refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from edfio import Edf, EdfAnnotation
from test_formats import counts, edf_signal, write_edf

from skecg.errors import DamagedRecordError, LeadWarning, SignalWarning, UnsupportedFormatError
from skecg.io.formats import read_format

if TYPE_CHECKING:
    from pathlib import Path


def with_onsets(path: Path, onsets: list[str], reserved: bytes = b"EDF+C", duration: bytes = b"1") -> Path:
    """Write seconds of a lead, with other times of their beginnings and another length of each in the header."""
    write_edf(path, [edf_signal(counts(1, 500 * len(onsets))[0], "II")])
    content = bytearray(path.read_bytes().replace(b"EDF+C ", reserved.ljust(6), 1))
    content[244:252] = duration.ljust(8)
    for number, onset in enumerate(onsets):
        place = 3 * 256 + (number + 1) * (2 * 500 + 16) - 16  # the annotations stand last in each data record
        content[place : place + 16] = f"{onset}\x14\x14".encode().ljust(16, b"\0")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("reserved", [b"EDF+C", b" EDF+D", b""])
def test_gaps_that_the_annotations_of_time_tell_are_refused(tmp_path: Path, reserved: bytes) -> None:
    path = with_onsets(tmp_path / "a.edf", ["+0", "+1", "+5", "+6"], reserved)
    with pytest.raises(UnsupportedFormatError, match="interrupted"):
        read_format(path)


@pytest.mark.parametrize(
    "onsets", [["+0", "+1", "+0", "+1"], ["+0", "+0.5", "+1.0"], ["+0", "+1", "+1"], ["+3", "+2", "+1"]], ids=str
)
def test_times_that_go_back_or_advance_too_little_are_refused(tmp_path: Path, onsets: list[str]) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"interrupted.*or go back"):
        read_format(with_onsets(tmp_path / "a.edf", onsets))


@pytest.mark.parametrize(
    ("onsets", "duration"),
    [
        (["+0", "+1", "+2"], b"1"),
        (["+0", "+0.999", "+1.998"], b"1"),
        (["+0", "+0", "+1", "+1", "+2"], b"0.5"),
        (["+0"], b"1"),
        (["+7.5", "+8.5", "+9.5"], b"1"),
        (["+0", "+0.33", "+0.67", "+1.00"], b"0.3333"),
        (["+0", "+1.0001", "+2.0002"], b"1"),
        (["+0", "+0", "+0"], b"1"),
        (["+0", "nothing", "+5"], b"1"),
    ],
    ids=str,
)
def test_rounding_drift_and_times_that_nobody_kept_are_no_gaps(
    tmp_path: Path, onsets: list[str], duration: bytes
) -> None:
    assert read_format(with_onsets(tmp_path / "a.edf", onsets, duration=duration)).n_samples == 500 * len(onsets)


def test_an_interruption_without_annotations_of_time_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    Edf([edf_signal(counts(1, 1000)[0], "II")], data_record_duration=1).write(path)
    path.write_bytes(path.read_bytes()[:192] + b"EDF+D" + path.read_bytes()[197:])
    with pytest.warns(SignalWarning, match="says that it is interrupted"):
        assert read_format(path).n_samples == 1000


def with_field(path: Path, place: int, value: bytes) -> Path:
    """Write two seconds of a lead, with another number in the header."""
    content = bytearray(write_edf(path, [edf_signal(counts(1, 1000)[0], "II")]).read_bytes())
    content[place : place + 8] = value.ljust(8)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            236,
            b"1",
            r"Got 2 data records in .*, expected 1 as its header says: which are of the recording is not known",
        ),
        (236, b"3", r"Got 2 data records in .*, expected 3 as its header says: the file is truncated"),
        (244, b"0", "Got '0' as the seconds of a data record"),
        (244, b"-1", "Got '-1' as the seconds of a data record"),
        (244, b"nan", "Got 'nan' as the seconds of a data record"),
        (
            256 + 2 * 120,
            b"32767",
            "Got a digital range of 32767 to 32767 and a physical one of -81920 to 81917.5 for 'II'",
        ),
        (256 + 2 * 120, b"40000", "Got a digital range of 40000 to 32767"),
    ],
)
def test_a_number_of_the_header_that_cannot_be_is_told(tmp_path: Path, place: int, value: bytes, message: str) -> None:
    with pytest.raises(DamagedRecordError, match=message):
        read_format(with_field(tmp_path / "a.edf", place, value))


def test_edf_annotations_alone_last_no_time_and_a_lead_alone_does(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    Edf([], annotations=[EdfAnnotation(1, None, "noise")]).write(path)
    with pytest.raises(UnsupportedFormatError, match="no ECG lead"):
        read_format(path)
    Edf([edf_signal(counts(1, 500)[0], "II")], data_record_duration=1).write(path)
    path.write_bytes(path.read_bytes()[:244] + b"0       " + path.read_bytes()[252:])
    with pytest.raises(DamagedRecordError, match="Got '0' as the seconds"):
        read_format(path)


@pytest.mark.parametrize("unit", ["µV", "μV", "мкВ"])
def test_units_in_utf_8_are_understood(tmp_path: Path, unit: str) -> None:
    raw = counts(1, 500)
    path = write_edf(tmp_path / "a.edf", [edf_signal(raw[0], "ECG1", unit="uV")])
    path.write_bytes(path.read_bytes().replace(b"uV      ", unit.encode().ljust(8)))
    np.testing.assert_allclose(read_format(path).signal, raw * 2.5e-3, atol=1e-6)


@pytest.mark.parametrize(("unit", "shown"), [("", "no unit"), ("LSB", "LSB")])
def test_a_lead_without_a_known_unit_is_named(tmp_path: Path, unit: str, shown: str) -> None:
    raw = counts(3, 500)
    signals = [
        edf_signal(raw[0], "ECG1", unit=unit),
        edf_signal(raw[1], "ECG2"),
        edf_signal(raw[2], "ECG HR", unit="bpm"),
    ]
    with pytest.warns(LeadWarning, match=rf"Left out ECG1 \[{shown}\] of"):
        assert read_format(write_edf(tmp_path / "a.edf", signals)).leads == ("ECG2",)


@pytest.mark.parametrize(
    "label", ["V1-WCT", "V1-RA", "V1-V2", "V1+", "V1_1", "V1:", "*V1", "Chest V1", "Brustwand v1", "aVF (R)", "Limb I"]
)
def test_a_lead_by_a_name_that_is_not_understood_is_said_to_be_left_out(tmp_path: Path, label: str) -> None:
    raw = counts(2, 500)
    path = write_edf(tmp_path / "a.edf", [edf_signal(raw[0], "II"), edf_signal(raw[1], label)])
    with pytest.warns(LeadWarning, match=rf"Left out {re.escape(label)} \[uV\] of .*expected a name such as V1"):
        assert read_format(path).leads == ("II",)


@pytest.mark.parametrize(
    ("label", "unit"),
    [
        *[(label, "uV") for label in ("EMG I", "EEG V1-A2", "Resp II", "PLETH I", "C4-M1", "VNS", "V", "AV1", "V11x")],
        *[(label, "mV") for label in ("II-WCT", "II filtered", "DC1", "Flow", "ABP", "Marker")],
        ("Temp V1", "mV"),
        ("Flow V1", "l/min"),
        ("HR (V1)", "bpm"),
    ],
)
def test_what_is_no_lead_or_another_view_of_one_that_is_read_is_left_out_quietly(
    tmp_path: Path, label: str, unit: str
) -> None:
    raw = counts(2, 500)
    path = write_edf(tmp_path / "a.edf", [edf_signal(raw[0], "II"), edf_signal(raw[1], label, unit=unit)])
    assert read_format(path).leads == ("II",)


@pytest.mark.parametrize(
    ("label", "lead"), [("EKG I", "I"), ("EKG_I", "I"), ("EKG", "ECG"), ("EKG 1", "ECG1"), ("EKG V", "ECG V")]
)
def test_a_lead_is_called_after_an_ekg_as_after_an_ecg(tmp_path: Path, label: str, lead: str) -> None:
    assert read_format(write_edf(tmp_path / "a.edf", [edf_signal(counts(1, 500)[0], label)])).leads == (lead,)


def test_bytes_behind_the_last_data_record_are_told(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [edf_signal(counts(1, 1000)[0], "II")])
    path.write_bytes(path.read_bytes() + b"\1" * 7)
    with pytest.warns(SignalWarning, match="goes on behind its last data record; 7 bytes"):
        assert read_format(path).n_samples == 1000


@pytest.mark.parametrize(
    ("seconds", "n_samples", "rate"),
    [
        (b"0.003906", 1, 256),
        (b"0.033333", 10, 300),
        (b"0.999", 256, 256 / 0.999),
        (b"10", 2501, 250.1),
        (b"0.998877", 256, 256 / 0.998877),
        (b"30.00001", 3, 3 / 30.00001),
    ],
)
def test_a_rate_that_the_seconds_of_a_data_record_have_no_room_for_is_a_whole_number(
    tmp_path: Path, seconds: bytes, n_samples: int, rate: float
) -> None:
    path = tmp_path / "a.edf"
    Edf([edf_signal(counts(1, 4 * n_samples)[0], "II", rate=n_samples)], data_record_duration=1).write(path)
    content = path.read_bytes()
    path.write_bytes(content[:244] + seconds.ljust(8) + content[252:])
    assert read_format(path).sampling_rate == pytest.approx(rate, rel=1e-12)
