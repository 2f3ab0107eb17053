"""What a DICOM object says of its channels and samples is obeyed, or the object refused."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from test_formats import MEANINGS, counts, multiplex_group, write_dicom

from skecg.errors import DamagedRecordError, LeadWarning, SignalWarning, UnsupportedFormatError
from skecg.io.formats import read_format

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset


@pytest.mark.parametrize(
    ("code", "scheme", "lead"),
    [
        ("2:2", "MDC", "II"),
        ("5.6.3-9-2", "SCPECG", "II"),
        ("2:2", "", "II"),
        ("CH-2", "99ACME", "CH2"),
        ("2:2", "99ACME", "CH2"),
        ("1:2", "MDC", "CH2"),
        ("CH-2", "", "CH2"),
    ],
)
def test_a_code_is_a_lead_s_by_its_scheme_alone(tmp_path: Path, code: str, scheme: str, lead: str) -> None:
    group = multiplex_group(counts(1, 100), [(code, "Recorder channel 2")])
    (channel,) = group.ChannelDefinitionSequence
    channel.ChannelLabel = "CH2"
    channel.ChannelSourceSequence[0].CodingSchemeDesignator = scheme
    assert read_format(write_dicom(tmp_path / "a.dcm", [group])).leads == (lead,)


@pytest.mark.parametrize(("interpretation", "law"), [("MB", "µ-law"), ("AB", "A-law")])
def test_dicom_samples_that_are_companded_are_refused(tmp_path: Path, interpretation: str, law: str) -> None:
    group = multiplex_group(counts(1, 100), [("2:1", "")])
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 8, interpretation
    group.WaveformData = counts(1, 100).astype(np.uint8).tobytes()
    with pytest.raises(UnsupportedFormatError, match=law):
        read_format(write_dicom(tmp_path / "a.dcm", [group]))


@pytest.mark.parametrize(("bits", "interpretation"), [(8, "SB"), (16, "SS"), (32, "SL"), (64, "SV")])
def test_dicom_padding_has_the_sign_of_the_samples(tmp_path: Path, bits: int, interpretation: str) -> None:
    raw = counts(2, 100, scale=100)
    raw[1, 7] = -128
    group = multiplex_group(raw, MEANINGS[:2])
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = bits, interpretation
    group.WaveformData = raw.T.astype(f"<i{bits // 8}").tobytes()
    group.WaveformPaddingValue = np.array([-128], f"<i{bits // 8}").tobytes()
    group["WaveformPaddingValue"].VR = group["WaveformData"].VR = "OB" if bits == 8 else "OW"
    signal = read_format(write_dicom(tmp_path / "a.dcm", [group])).signal
    assert np.argwhere(np.isnan(signal)).tolist() == [[1, 7]]


def pressure(n_samples: int, rate: float) -> Dataset:
    return multiplex_group(counts(1, n_samples), [("109006", "Blood pressure")], rate=rate, unit="mm[Hg]")


@pytest.mark.parametrize(
    ("beside", "originality"),
    [(pressure(2004, 1000), "ORIGINAL"), (pressure(2000, 1000), "ORIGINAL"), (pressure(1000, 500), "DERIVED")],
    ids=["longer", "as long, at another rate", "original"],
)
def test_dicom_pressures_are_not_taken_for_the_rhythm(tmp_path: Path, beside: Dataset, originality: str) -> None:
    raw = counts(2, 1000)
    group = multiplex_group(raw, MEANINGS[:2], originality=originality)
    record = read_format(write_dicom(tmp_path / "a.dcm", [beside, group]))
    assert (record.leads, record.sampling_rate) == (("I", "II"), 500)
    np.testing.assert_allclose(record.signal, raw * 4.88e-3, rtol=1e-6)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("SamplingFrequency", "nan"), ("SamplingFrequency", "-5"), ("MultiplexGroupTimeOffset", "inf")],
)
def test_dicom_at_no_rate_or_time_is_damaged(tmp_path: Path, keyword: str, value: str) -> None:
    group = multiplex_group(counts(2, 100), MEANINGS[:2])
    setattr(group, keyword, "7.77")
    path = write_dicom(tmp_path / "a.dcm", [group])
    path.write_bytes(path.read_bytes().replace(b"7.77", value.encode().ljust(4)))
    with pytest.raises(DamagedRecordError, match=f"{keyword}='{value} *'"):
        read_format(path)


@pytest.mark.parametrize(
    "declared",
    [{"NumberOfWaveformSamples": 40}, {"NumberOfWaveformSamples": 101}, {"WaveformBitsAllocated": 32}],
    ids=str,
)
def test_dicom_samples_that_are_more_or_fewer_than_declared_are_damaged(
    tmp_path: Path, declared: dict[str, int]
) -> None:
    group = multiplex_group(counts(2, 100), MEANINGS[:2])
    for keyword, value in declared.items():
        setattr(group, keyword, value)
    with pytest.raises(DamagedRecordError, match="Got 400 bytes of samples"):
        read_format(write_dicom(tmp_path / "a.dcm", [group]))


def test_dicom_samples_of_an_odd_number_of_bytes_are_followed_by_one(tmp_path: Path) -> None:
    group = multiplex_group(counts(1, 101), MEANINGS[:1])
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 8, "SB"
    group.WaveformData = bytes(102)
    assert read_format(write_dicom(tmp_path / "a.dcm", [group])).n_samples == 101


def test_dicom_leads_that_the_recorder_marks_are_named(tmp_path: Path) -> None:
    group = multiplex_group(counts(4, 100), [*MEANINGS[:3], ("109006", "Blood pressure")])
    definitions = group.ChannelDefinitionSequence
    definitions[0].ChannelStatus = "OK"
    definitions[1].ChannelStatus = "DISCONNECTED"
    definitions[2].ChannelStatus = ["UNCALIBRATED", "TEST DATA"]
    definitions[3].ChannelStatus = "UNZEROED"
    with pytest.warns(SignalWarning) as caught:
        record = read_format(write_dicom(tmp_path / "a.dcm", [group]))
    assert record.leads == ("I", "II", "III")
    assert "marks lead(s) Lead II (DISCONNECTED), Lead III (UNCALIBRATED, TEST DATA)." in str(caught[0].message)


def test_dicom_whose_channels_lie_where_samples_should_is_damaged(tmp_path: Path) -> None:
    group = multiplex_group(counts(70, 40), [(f"CH{n}", "") for n in range(1, 71)])
    with pytest.raises(DamagedRecordError, match=r"a\.dcm does not hold a usable recording"):
        read_format(write_dicom(tmp_path / "a.dcm", [group]))


def test_dicom_channels_set_apart_for_presentation_are_refused(tmp_path: Path) -> None:
    group = multiplex_group(counts(2, 1000), MEANINGS[:2])
    for channel in group.ChannelDefinitionSequence:
        channel.ChannelOffset = "0.1"
    assert read_format(write_dicom(tmp_path / "a.dcm", [group])).n_leads == 2
    group.ChannelDefinitionSequence[1].ChannelOffset = "0"
    with pytest.raises(UnsupportedFormatError, match="skewed by up to 50 samples"):
        read_format(write_dicom(tmp_path / "a.dcm", [group]))


@pytest.mark.parametrize(
    ("code", "meaning", "lead"),
    [
        ("2:65", "Lead aVR, negative", "-aVR"),
        ("AVR_NEG", "", "-aVR"),
        ("2:63", "Lead aVL, negative", None),
        ("2:3", "Lead V1, neg. pole WCT", None),
        ("2:88", "Lead VR", None),
        ("2:89", "VL, nonaugmented voltage", None),
    ],
)
def test_dicom_leads_whose_sign_or_size_is_another_are_not_taken(
    tmp_path: Path, code: str, meaning: str, lead: str | None
) -> None:
    raw = counts(2, 100)
    path = write_dicom(tmp_path / "a.dcm", [multiplex_group(raw, [("2:1", "Lead I"), (code, meaning)])])
    if lead is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeadWarning)
            assert read_format(path).leads == ("I",)
        return
    record = read_format(path)
    assert record.leads == ("I", "aVR")
    np.testing.assert_allclose(record.signal[1], -raw[1] * 4.88e-3, rtol=1e-6)


def test_dicom_of_averaged_beats_alone_is_refused_or_told(tmp_path: Path) -> None:
    group = multiplex_group(counts(2, 600), MEANINGS[:2], originality="DERIVED")
    with pytest.warns(SignalWarning, match="derived and shorter than 2 s"):
        assert read_format(write_dicom(tmp_path / "a.dcm", [group])).n_leads == 2
    group.MultiplexGroupLabel = "MEDIAN BEAT"
    with pytest.raises(UnsupportedFormatError, match="averaged beats alone"):
        read_format(write_dicom(tmp_path / "a.dcm", [group]))
    filtered = multiplex_group(counts(2, 1000), MEANINGS[:2], originality="DERIVED")
    assert read_format(write_dicom(tmp_path / "a.dcm", [filtered])).n_samples == 1000


@pytest.mark.parametrize(("bits", "extended"), [(12, False), (12, True), (16, True)])
def test_dicom_samples_without_their_sign_are_damaged(tmp_path: Path, bits: int, extended: bool) -> None:
    raw = counts(2, 100, scale=300)
    group = multiplex_group(raw, MEANINGS[:2])
    for channel in group.ChannelDefinitionSequence:
        channel.WaveformBitsStored = bits
    group.WaveformData = (raw if extended else raw & 0xFFF).T.astype("<i2").tobytes()
    path = write_dicom(tmp_path / "a.dcm", [group])
    if extended:
        np.testing.assert_allclose(read_format(path).signal, raw * 4.88e-3, rtol=1e-6)
        return
    with pytest.raises(DamagedRecordError, match=r"expected signed ones of 12 bits.*not extended"):
        read_format(path)
    group.WaveformSampleInterpretation = "US"
    unsigned = read_format(write_dicom(tmp_path / "a.dcm", [group])).signal
    np.testing.assert_allclose(unsigned, (raw & 0xFFF) * 4.88e-3, rtol=1e-6)
