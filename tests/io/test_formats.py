from __future__ import annotations

import builtins
import contextlib
import datetime
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from edfio import Bdf, BdfSignal, Edf, EdfAnnotation, EdfSignal, Patient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import FileDataset, dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

from skecg.errors import (
    DamagedRecordError,
    LeadWarning,
    MissingDependencyError,
    RecordNotFoundError,
    RecordReadError,
    SignalWarning,
    SkecgError,
    SkecgWarning,
    UnsupportedFormatError,
)
from skecg.io.formats import FORMAT_SUFFIXES, read_format
from skecg.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from pathlib import Path

PATIENT = "Zyxwvut"


def counts(n_leads: int, n_samples: int, scale: int = 3000) -> np.ndarray:
    return np.random.default_rng(7).integers(-scale, scale, (n_leads, n_samples)).astype(np.int16)


# ---- EDF and BDF ------------------------------------------------------------------------------------------------


def edf_signal(samples: np.ndarray, label: str, rate: float = 500, unit: str = "uV", step: float = 2.5) -> EdfSignal:
    limits = (-32768, 32767)
    return EdfSignal.from_digital(
        samples.astype(np.int16),
        rate,
        label=label,
        physical_dimension=unit,
        physical_range=(limits[0] * step, limits[1] * step),
        digital_range=limits,
    )


def write_edf(path: Path, signals: list[EdfSignal]) -> Path:
    patient = Patient(name=PATIENT, code="C42")
    annotations = [EdfAnnotation(1, None, "noise")]
    Edf(signals, patient=patient, annotations=annotations, data_record_duration=1).write(path)
    return path


def test_edf_samples_come_back_to_the_step(tmp_path: Path) -> None:
    digital = counts(12, 1000)
    labels = [f"ECG {lead}" if lead != "aVR" else "AVR" for lead in CANONICAL_LEADS]
    path = write_edf(tmp_path / "night.edf", [edf_signal(row, name) for row, name in zip(digital, labels, strict=True)])
    record = read_format(path)
    assert record.leads == CANONICAL_LEADS
    assert record.sampling_rate == 500
    assert record.name == "night"
    np.testing.assert_allclose(record.signal, digital * 2.5e-3, atol=1e-6)


def test_edf_units_are_converted_and_other_channels_left_out(tmp_path: Path) -> None:
    digital = counts(5, 1000)
    signals = [
        edf_signal(digital[0], "EKG II", unit="mV", step=0.0025),
        edf_signal(digital[1], "V1-REF"),
        edf_signal(digital[2], "Resp", unit="mV"),
        edf_signal(digital[3], "SaO2", unit="%"),
        edf_signal(digital[4], "ECG HR", unit="bpm"),
    ]
    record = read_format(write_edf(tmp_path / "a.edf", signals))
    assert record.leads == ("II", "V1")
    np.testing.assert_allclose(record.signal, digital[:2] * 2.5e-3, atol=1e-6)


def test_a_micro_sign_in_latin_1_is_understood(tmp_path: Path) -> None:
    digital = counts(1, 1000)
    path = write_edf(tmp_path / "a.edf", [edf_signal(digital[0], "II")])
    path.write_bytes(path.read_bytes().replace(b"uV      ", "µV      ".encode("latin-1")))
    np.testing.assert_allclose(read_format(path).signal, digital * 2.5e-3, atol=1e-6)


def test_the_most_common_rate_is_taken_and_the_rest_named(tmp_path: Path) -> None:
    digital = counts(2, 1000)
    signals = [edf_signal(digital[0], "I"), edf_signal(digital[1], "II"), edf_signal(counts(1, 400)[0], "V1", rate=200)]
    path = write_edf(tmp_path / "a.edf", signals)
    with pytest.warns(LeadWarning, match=r"V1 \(200 Hz\)"):
        record = read_format(path)
    assert record.leads == ("I", "II")
    np.testing.assert_allclose(record.signal, digital * 2.5e-3, atol=1e-6)


def test_two_equally_common_rates_are_refused(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf", [edf_signal(counts(1, 1000)[0], "I"), edf_signal(counts(1, 400)[0], "II", rate=200)]
    )
    with pytest.raises(UnsupportedFormatError, match="I at 500 Hz, II at 200 Hz"):
        read_format(path)


def test_eeg_electrodes_c3_and_c4_are_not_chest_leads(tmp_path: Path) -> None:
    digital = counts(4, 1000)
    signals = [edf_signal(row, name) for row, name in zip(digital, ["C3", "C4", "O1", "ECG"], strict=True)]
    assert read_format(write_edf(tmp_path / "a.edf", signals)).leads == ("ECG",)
    alone = [edf_signal(row, name) for row, name in zip(digital, ["C1", "C2", "C3", "C4"], strict=True)]
    assert read_format(write_edf(tmp_path / "b.edf", alone)).leads == ("V1", "V2", "V3", "V4")


@pytest.mark.parametrize(
    "names",
    [
        ["C3-Ref", "C4-Ref", "Fp1-Ref"],
        ["C3_REF", "C4 (uV)", "O1_REF"],
        ["C3", "C4", "EOG L"],
        ["C3", "C4", "ROC"],
        ["C3", "C4", "Chin 1"],
        ["D1", "D2", "EEG Fp1"],
        ["L1", "L2", "Fz"],
    ],
)
def test_electrodes_of_the_head_are_no_leads_however_they_are_named(names: list[str], tmp_path: Path) -> None:
    signals = [edf_signal(row, name) for row, name in zip(counts(4, 1000), [*names, "ECG"], strict=True)]
    assert read_format(write_edf(tmp_path / "a.edf", signals)).leads == ("ECG",)


def test_what_monitors_measure_is_no_electrode_of_the_head(tmp_path: Path) -> None:
    units = {"C1": "uV", "C2": "uV", "T1 (core)": "degC", "P1": "mmHg", "O2": "%"}
    rows = counts(len(units), 1000)
    signals = [edf_signal(row, name, unit=unit) for row, (name, unit) in zip(rows, units.items(), strict=True)]
    assert read_format(write_edf(tmp_path / "a.edf", signals)).leads == ("V1", "V2")


def test_limb_leads_that_are_numbered_are_read_where_nothing_is_of_the_head(tmp_path: Path) -> None:
    signals = [edf_signal(row, name) for row, name in zip(counts(3, 1000), ["D1", "D2", "D3"], strict=True)]
    assert read_format(write_edf(tmp_path / "a.edf", signals)).leads == ("I", "II", "III")


def test_numbered_channels_are_not_limb_leads(tmp_path: Path) -> None:
    signals = [edf_signal(row, name) for row, name in zip(counts(2, 1000), ["ECG 1", "ECG 2"], strict=True)]
    assert read_format(write_edf(tmp_path / "holter.edf", signals)).leads == ("ECG1", "ECG2")


def test_negated_avr_is_turned_round(tmp_path: Path) -> None:
    digital = counts(2, 1000)
    record = read_format(write_edf(tmp_path / "a.edf", [edf_signal(digital[0], "I"), edf_signal(digital[1], "-aVR")]))
    assert record.leads == ("I", "aVR")
    np.testing.assert_allclose(record.signal[1], -digital[1] * 2.5e-3, atol=1e-6)


def test_a_file_without_ecg_is_an_error_that_lists_its_channels(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf",
        [edf_signal(counts(1, 1000)[0], "EEG Fpz-Cz"), edf_signal(counts(1, 1000)[0], "Resp", unit="l/s")],
    )
    with pytest.raises(UnsupportedFormatError, match=r"EEG Fpz-Cz \[uV\], Resp \[l/s\]"):
        read_format(path)


def test_a_standard_lead_without_unit_is_an_error(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf", [edf_signal(counts(1, 1000)[0], "I"), edf_signal(counts(1, 1000)[0], "II", unit="")]
    )
    with pytest.raises(UnsupportedFormatError, match=r"no unit of voltage for lead\(s\) II"):
        read_format(path)


def test_one_lead_twice_is_refused_unless_it_is_the_same(tmp_path: Path) -> None:
    digital = counts(2, 1000)
    twice = write_edf(tmp_path / "a.edf", [edf_signal(digital[0], "II"), edf_signal(digital[1], "ECG II")])
    with pytest.raises(UnsupportedFormatError, match="lead II twice"):
        read_format(twice)
    same = write_edf(tmp_path / "b.edf", [edf_signal(digital[0], "II"), edf_signal(digital[0], "ECG II")])
    assert read_format(same).n_leads == 1


def test_bdf_samples_come_back_to_the_step(tmp_path: Path) -> None:
    digital = np.random.default_rng(3).integers(-(2**22), 2**22, (2, 1000)).astype(np.int32)
    limits = (-(2**23), 2**23 - 1)
    signals = [
        BdfSignal.from_digital(
            row,
            500,
            label=name,
            physical_dimension="uV",
            physical_range=(limits[0] / 1000, limits[1] / 1000),
            digital_range=limits,
        )
        for row, name in zip(digital, ["I", "II"], strict=True)
    ]
    Bdf(signals, data_record_duration=1).write(tmp_path / "a.bdf")
    record = read_format(tmp_path / "a.bdf")
    np.testing.assert_allclose(record.signal, digital * 1e-6, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keep", [100, 256, 700, -1, -1500])
def test_a_truncated_edf_is_damaged(tmp_path: Path, keep: int) -> None:
    path = write_edf(
        tmp_path / "a.edf", [edf_signal(row, name) for row, name in zip(counts(2, 1000), ["I", "II"], strict=True)]
    )
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedRecordError, match=re.escape(str(path))):
        read_format(path)


def test_an_edf_broken_off_while_recording_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf", [edf_signal(row, name) for row, name in zip(counts(2, 1000), ["I", "II"], strict=True)]
    )
    content = bytearray(path.read_bytes())
    content[236:244] = b"-1      "
    path.write_bytes(content)
    with pytest.warns(SignalWarning, match="Read 2 data records .* not ended. Copy"):
        assert read_format(path).n_samples == 1000
    path.write_bytes(content[:-10])
    with pytest.warns(SignalWarning, match="Read 1 data records .* not ended; [0-9,]+ bytes that are no whole one"):
        assert read_format(path).n_samples == 500


def test_an_edf_without_scale_is_damaged(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [edf_signal(counts(1, 1000)[0], "II")])
    content = path.read_bytes()
    maximum = content.index(b"81917.5")
    path.write_bytes(content[:maximum] + b"-81920 " + content[maximum + 7 :])
    with pytest.raises(DamagedRecordError, match="no scale"):
        read_format(path)


def test_an_interrupted_edf_is_refused(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [edf_signal(counts(1, 1500)[0], "II")])
    content = path.read_bytes()
    assert b"EDF+C" in content
    interrupted = content.replace(b"EDF+C", b"EDF+D")
    path.write_bytes(interrupted)
    assert read_format(path).n_samples == 1500
    path.write_bytes(interrupted.replace(b"+2\x14\x14", b"+9\x14\x14"))
    with pytest.raises(UnsupportedFormatError, match="interrupted"):
        read_format(path)


# ---- DICOM ------------------------------------------------------------------------------------------------------


def coded(value: str, meaning: str, scheme: str = "MDC") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def multiplex_group(samples: np.ndarray, sources: list[tuple[str, str]], rate: float = 500, **more: object) -> Dataset:
    group = Dataset()
    group.MultiplexGroupTimeOffset = more.pop("offset", 0)
    group.WaveformOriginality = more.pop("originality", "ORIGINAL")
    group.MultiplexGroupLabel = more.pop("label", "RHYTHM")
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = samples.shape
    group.SamplingFrequency = rate
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    definitions = []
    for value, meaning in sources:
        channel = Dataset()
        channel.ChannelSourceSequence = coded(value, meaning)
        channel.ChannelSensitivity = more.get("sensitivity", "4.88")
        channel.ChannelSensitivityUnitsSequence = coded(str(more.get("unit", "uV")), "microvolt", "UCUM")
        channel.ChannelSensitivityCorrectionFactor = "1"
        channel.ChannelBaseline = more.get("baseline", "0")
        channel.WaveformBitsStored = 16
        definitions.append(channel)
    group.ChannelDefinitionSequence = Sequence(definitions)
    if "padding" in more:
        group.WaveformPaddingValue = np.array([more["padding"]], "<i2").tobytes()
        group["WaveformPaddingValue"].VR = "OW"
    group.WaveformData = samples.T.astype("<i2").tobytes()
    group["WaveformData"].VR = "OW"
    return group


def write_dicom(path: Path, groups: list[Dataset], syntax: str = ExplicitVRLittleEndian) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.9.1.1"  # 12-lead ECG Waveform Storage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.Modality = PATIENT, "C42", "ECG"
    dataset.AcquisitionDateTime = datetime.datetime(2020, 1, 2).strftime("%Y%m%d%H%M%S")
    if groups:
        dataset.WaveformSequence = Sequence(groups)
    dataset.save_as(path, enforce_file_format=True)
    return path


MEANINGS = [
    (f"MDC_ECG_LEAD_{lead.upper()}", f"Lead {lead} (Einthoven)" if lead == "I" else f"Lead {lead}")
    for lead in CANONICAL_LEADS
]
NUMBERS = [(f"2:{n}", "") for n in (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)]
SCP_NUMBERS = [(f"5.6.3-9-{n}", f"Ableitung {n}") for n in (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)]


@pytest.mark.parametrize("sources", [MEANINGS, NUMBERS, SCP_NUMBERS], ids=["words", "mdc numbers", "scp numbers"])
def test_dicom_samples_come_back_to_the_step(tmp_path: Path, sources: list[tuple[str, str]]) -> None:
    raw = counts(12, 5000)
    record = read_format(write_dicom(tmp_path / "a.dcm", [multiplex_group(raw, sources)]))
    assert record.leads == CANONICAL_LEADS
    assert (record.sampling_rate, record.name) == (500, "a")
    np.testing.assert_allclose(record.signal, raw * 4.88e-3, rtol=1e-6, atol=1e-7)


def test_dicom_sensitivity_units_baseline_and_padding_are_obeyed(tmp_path: Path) -> None:
    raw = counts(2, 1000)
    raw[0, 10] = -32768
    group = multiplex_group(raw, MEANINGS[:2], sensitivity="0.005", unit="mV", baseline="0.25", padding=-32768)
    signal = read_format(write_dicom(tmp_path / "a.dcm", [group])).signal
    expected = raw * 0.005 + 0.25
    expected[0, 10] = np.nan
    np.testing.assert_allclose(signal, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("marks", [{"label": "MEDIAN BEAT"}, {"originality": "DERIVED"}], ids=["label", "originality"])
def test_dicom_median_beats_are_passed_over(tmp_path: Path, marks: dict[str, str]) -> None:
    raw = counts(12, 5000)
    beats = multiplex_group(counts(12, 600), MEANINGS, **marks)
    record = read_format(write_dicom(tmp_path / "a.dcm", [beats, multiplex_group(raw, MEANINGS)]))
    np.testing.assert_allclose(record.signal, raw * 4.88e-3, rtol=1e-6, atol=1e-7)


def test_dicom_groups_at_the_same_time_stand_side_by_side(tmp_path: Path) -> None:
    raw = counts(12, 1000)
    groups = [multiplex_group(raw[i : i + 3], MEANINGS[i : i + 3]) for i in (0, 3, 6, 9)]
    np.testing.assert_allclose(read_format(write_dicom(tmp_path / "a.dcm", groups)).signal, raw * 4.88e-3, rtol=1e-6)


def test_dicom_groups_one_after_the_other_are_refused(tmp_path: Path) -> None:
    groups = [multiplex_group(counts(3, 1000), MEANINGS[i : i + 3], offset=i * 700) for i in (0, 3)]
    with pytest.raises(UnsupportedFormatError, match="2 groups"):
        read_format(write_dicom(tmp_path / "a.dcm", groups))


def test_the_longest_dicom_group_is_taken_aloud(tmp_path: Path) -> None:
    groups = [multiplex_group(counts(2, 300), MEANINGS[:2]), multiplex_group(counts(2, 1000), MEANINGS[:2])]
    with pytest.warns(SignalWarning, match=r"longest of 2 groups .*\(2 s\)\.$"):
        assert read_format(write_dicom(tmp_path / "a.dcm", groups)).n_samples == 1000


def test_leads_of_dicom_that_the_rhythm_strip_has_not_are_named(tmp_path: Path) -> None:
    groups = [multiplex_group(counts(3, 1250), MEANINGS[3 * i : 3 * i + 3], offset=2500 * i) for i in range(4)]
    strip = multiplex_group(counts(1, 5000), MEANINGS[1:2])
    with pytest.warns(SignalWarning, match=r"Left out are I, III, aVR, aVL, aVF, V1.*which only the others have"):
        assert read_format(write_dicom(tmp_path / "a.dcm", [*groups, strip])).leads == ("II",)


def test_negated_avr_of_dicom_is_turned_round(tmp_path: Path) -> None:
    raw = counts(3, 1000)
    group = multiplex_group(raw, [("2:1", "Lead I"), ("2:65", ""), ("MDC_ECG_LEAD_II", "Lead II")])
    record = read_format(write_dicom(tmp_path / "a.dcm", [group]))
    assert record.leads == ("I", "aVR", "II")
    np.testing.assert_allclose(record.signal[1], -raw[1] * 4.88e-3, rtol=1e-6)


def test_a_lead_of_dicom_that_its_code_says_is_negated_is_turned_round(tmp_path: Path) -> None:
    raw = counts(2, 1000)
    group = multiplex_group(raw, [("2:1", "Lead I"), ("AVR_NEG", "")])
    record = read_format(write_dicom(tmp_path / "a.dcm", [group]))
    assert record.leads == ("I", "aVR")
    np.testing.assert_allclose(record.signal[1], -raw[1] * 4.88e-3, rtol=1e-6)


def test_dicom_padding_that_is_written_as_a_number_is_obeyed(tmp_path: Path) -> None:
    raw = counts(2, 1000)
    raw[0, 10] = -32768
    group = multiplex_group(raw, MEANINGS[:2])
    group.add_new("WaveformPaddingValue", "SS", -32768)
    signal = read_format(write_dicom(tmp_path / "a.dcm", [group])).signal
    assert np.argwhere(np.isnan(signal)).tolist() == [[0, 10]]


def test_dicom_channels_without_a_sensitivity_are_no_leads(tmp_path: Path) -> None:
    group = multiplex_group(counts(3, 1000), [*MEANINGS[:2], ("X", "Pacer")])
    del group.ChannelDefinitionSequence[2].ChannelSensitivityUnitsSequence
    assert read_format(write_dicom(tmp_path / "a.dcm", [group])).leads == ("I", "II")
    del group.ChannelDefinitionSequence[1].ChannelSensitivityUnitsSequence
    with pytest.raises(UnsupportedFormatError, match="II"):
        read_format(write_dicom(tmp_path / "b.dcm", [group]))


def test_dicom_that_defines_fewer_channels_than_it_has_is_damaged(tmp_path: Path) -> None:
    group = multiplex_group(counts(3, 1000), MEANINGS[:3])
    del group.ChannelDefinitionSequence[2]
    with pytest.raises(DamagedRecordError, match="2 definitions of 3 channels"):
        read_format(write_dicom(tmp_path / "a.dcm", [group]))


def test_big_endian_dicom_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", [multiplex_group(counts(2, 1000), MEANINGS[:2])])
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dcmwrite(path, dataset, little_endian=False, implicit_vr=False, force_encoding=True)
    with pytest.raises(UnsupportedFormatError, match="Convert it with dcmconv"):
        read_format(path)


def test_deflated_dicom_is_read_and_a_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = counts(2, 5000)
    path = write_dicom(tmp_path / "a.dcm", [multiplex_group(raw, MEANINGS[:2])], DeflatedExplicitVRLittleEndian)
    np.testing.assert_allclose(read_format(path).signal, raw * 4.88e-3, rtol=1e-6, atol=1e-7)

    zeros = np.zeros((2, 500_000), np.int16)
    bomb = write_dicom(tmp_path / "b.dcm", [multiplex_group(zeros, MEANINGS[:2])], DeflatedExplicitVRLittleEndian)
    assert read_format(bomb).n_samples == 500_000  # small enough to be let through
    monkeypatch.setattr("skecg.io.files._ALWAYS_ALLOWED", 2**16)
    assert read_format(path).n_samples == 5000
    with pytest.raises(DamagedRecordError, match="compressed bytes to more than"):
        read_format(bomb)


def test_a_file_that_asks_for_more_memory_than_there_is_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    path = write_dicom(tmp_path / "a.dcm", [multiplex_group(counts(2, 1000), MEANINGS[:2])])
    monkeypatch.setattr("pydicom.waveforms.multiplex_array", refuse)
    with pytest.raises(RecordReadError, match="asks for more memory than there is"):
        read_format(path)


def test_dicom_without_waveforms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match="without waveforms"):
        read_format(write_dicom(tmp_path / "a.dcm", []))


@pytest.mark.parametrize("keep", [140, 400, 900, -100])
def test_a_truncated_dicom_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_dicom(tmp_path / "a.dcm", [multiplex_group(counts(2, 1000), MEANINGS[:2])])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RecordReadError, match=re.escape(str(path))):
        read_format(path)


def test_dicom_at_no_rate_is_damaged(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", [multiplex_group(counts(2, 1000), MEANINGS[:2], rate=0)])
    with pytest.raises(DamagedRecordError, match=r"SamplingFrequency='0.*a\.dcm, expected a number above 0"):
        read_format(path)


# ---- all of them ------------------------------------------------------------------------------------------------


def test_the_suffix_does_not_decide(tmp_path: Path) -> None:
    raw = counts(2, 1000)
    record = read_format(write_dicom(tmp_path / "a.edf", [multiplex_group(raw, MEANINGS[:2])]))
    np.testing.assert_allclose(record.signal, raw * 4.88e-3, rtol=1e-6)


@pytest.mark.parametrize("suffix", sorted(FORMAT_SUFFIXES))
@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 5000, b"<ECG/>", b"{}", bytes(range(256)) * 40, b"0       " * 64, b"DICM" * 100]
)
def test_no_content_gets_past_with_anything_but_an_error_of_ours(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(RecordReadError, match=re.escape(str(path))):
        read_format(path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(is_edf=st.booleans(), seed=st.integers(0, 2**32 - 1), n_bytes=st.integers(1, 20))
def test_scrambled_bytes_raise_nothing_but_errors_of_ours(
    tmp_path: Path, is_edf: bool, seed: int, n_bytes: int
) -> None:
    if is_edf:
        path = write_edf(
            tmp_path / "a.edf", [edf_signal(row, name) for row, name in zip(counts(2, 1000), "XY", strict=True)]
        )
    else:
        path = write_dicom(tmp_path / "a.dcm", [multiplex_group(counts(2, 1000), MEANINGS[:2])])
    generator = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for position in generator.integers(0, 1500, n_bytes):
        content[position] = generator.integers(0, 256)
    path.write_bytes(content)
    with contextlib.suppress(SkecgError), warnings.catch_warnings():
        warnings.simplefilter("ignore", SkecgWarning)
        read_format(path)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(RecordNotFoundError, match=r"absent\.edf"):
        read_format(tmp_path / "absent.edf")
    with pytest.raises(RecordNotFoundError):
        read_format(tmp_path)


@pytest.mark.parametrize("package", ["edfio", "pydicom", "ecgdatakit"])
def test_a_missing_package_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    if package == "edfio":
        path = write_edf(tmp_path / "a.edf", [edf_signal(counts(1, 1000)[0], "II")])
    elif package == "pydicom":
        path = write_dicom(tmp_path / "a.dcm", [multiplex_group(counts(2, 1000), MEANINGS[:2])])
    else:
        path = tmp_path / "a.xml"
        path.write_text("<RestingECG/>")
    real = builtins.__import__

    def absent(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=package)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependencyError, match=rf"needs {package}.*pip install 'skecg\[formats\]'"):
        read_format(path)


def test_patients_stay_out_of_records_and_messages(tmp_path: Path) -> None:
    edf = write_edf(tmp_path / "a.edf", [edf_signal(counts(1, 1000)[0], "II")])
    dicom = write_dicom(tmp_path / "a.dcm", [multiplex_group(counts(2, 1000), MEANINGS[:2])])
    for path in (edf, dicom):
        record = read_format(path)
        assert PATIENT not in f"{record!r} {vars(record)}"
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(RecordReadError) as raised:
            read_format(path)
        assert PATIENT not in str(raised.value)


@pytest.mark.parametrize(("keyword", "skew"), [("ChannelSampleSkew", "100"), ("ChannelTimeSkew", "0.2")])
def test_dicom_channels_of_different_times_are_refused(tmp_path: Path, keyword: str, skew: str) -> None:
    group = multiplex_group(counts(12, 5000), MEANINGS)
    setattr(group.ChannelDefinitionSequence[1], keyword, skew)
    path = write_dicom(tmp_path / "a.dcm", [group])
    with pytest.raises(UnsupportedFormatError, match="skewed by up to 100 samples"):
        read_format(path)


def test_dicom_channels_skewed_by_less_than_a_sample_stand_side_by_side(tmp_path: Path) -> None:
    group = multiplex_group(counts(12, 5000), MEANINGS)
    for number, channel in enumerate(group.ChannelDefinitionSequence):
        channel.ChannelSampleSkew = f"{number / 12:.2f}"
    assert read_format(write_dicom(tmp_path / "a.dcm", [group])).n_leads == 12


NO_NUMBER = ("text", "", "2,5", "nan", "inf", "1e999", "1_0")


@pytest.mark.parametrize("keyword", ["ChannelSensitivity", "ChannelSensitivityCorrectionFactor", "ChannelBaseline",
                                     "ChannelSampleSkew", "ChannelTimeSkew"])  # fmt: skip
def test_dicom_is_scaled_by_numbers_or_refused(tmp_path: Path, keyword: str) -> None:
    group = multiplex_group(counts(2, 100), MEANINGS[:2])
    for channel in group.ChannelDefinitionSequence:
        setattr(channel, keyword, "9.9999")
    sound = write_dicom(tmp_path / "a.dcm", [group]).read_bytes()
    for value in NO_NUMBER + (("0", "-3") if "Sensitivity" in keyword else ()):
        (tmp_path / "a.dcm").write_bytes(sound.replace(b"9.9999", value.encode().ljust(6)))
        with pytest.raises(RecordReadError, match=r"a\.dcm"):
            read_format(tmp_path / "a.dcm")


@pytest.mark.parametrize("field", range(4), ids=["physical_min", "physical_max", "digital_min", "digital_max"])
def test_edf_is_scaled_by_numbers_or_refused(tmp_path: Path, field: int) -> None:
    path = write_edf(tmp_path / "a.edf", [edf_signal(counts(1, 500)[0], "ECG II")])
    sound = path.read_bytes()
    place = 256 + 2 * (104 + 8 * field)  # of the first of two signals, the other of which holds annotations
    for value in NO_NUMBER + (("-32768", "-40000") if field == 3 else ()):
        path.write_bytes(sound[:place] + value.encode().ljust(8) + sound[place + 8 :])
        with pytest.raises(RecordReadError, match=r"a\.edf"):
            read_format(path)
