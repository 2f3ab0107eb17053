from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from skecg.errors import DamagedRecordError, LeadWarning, SkecgError, UnsupportedFormatError
from skecg.io import find_records, read_record
from skecg.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from pathlib import Path

PATIENT = "Zyxwvut"
RAW = np.random.default_rng(0).integers(-300, 300, (12, 500))
RATE = '<SampleRate units="Hz">500</SampleRate>'
STEP = '<Resolution units="uVperLsb">5</Resolution>'


def in_words(samples: np.ndarray) -> str:
    # Lines of a few samples, each ended by a comma, as the recorder writes them.
    return ",\n\t\t".join(",".join(map(str, part)) for part in np.array_split(samples, max(1, len(samples) // 20)))


def strip(raw: np.ndarray = RAW, leads: Any = CANONICAL_LEADS, kind: str = "StripData", more: str = RATE + STEP) -> str:
    waves = "".join(
        f'<WaveformData lead="{lead}">{in_words(row)}</WaveformData>' for lead, row in zip(leads, raw, strict=True)
    )
    return (
        f"<{kind}><NumberOfLeads>{len(leads)}</NumberOfLeads>{more}"
        f'<ChannelSampleCountTotal>{raw.shape[1]}</ChannelSampleCountTotal><Time units="ms">0</Time>{waves}</{kind}>'
    )


def disclosure(raw: np.ndarray = RAW, leads: Any = CANONICAL_LEADS) -> str:
    return (
        f"<FullDisclosure><NumberOfChannels>{len(leads)}</NumberOfChannels>{RATE}{STEP}<LeadOrder>{','.join(leads)}"
        f"</LeadOrder><FullDisclosureData>{in_words(raw.T.ravel())},</FullDisclosureData></FullDisclosure>"
    )


def write(path: Path, *blocks: str, encoding: str = "ISO-8859-1") -> Path:
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n<!DOCTYPE CardiologyXML SYSTEM "a.dtd">\n<CardiologyXML>'
        f"<ObservationType>RestECG</ObservationType><PatientInfo><Name><FamilyName>{PATIENT}</FamilyName></Name>"
        f"</PatientInfo>{''.join(blocks)}</CardiologyXML>"
    )
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("block", [strip(), disclosure()], ids=["strip", "disclosure"])
@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-8", "UTF-16"])
def test_samples_are_read_in_millivolts_of_their_leads(block: str, encoding: str, tmp_path: Path) -> None:
    # Averaged beats stand beside the rhythm, and are none.
    median = strip(np.zeros((12, 300), dtype=int), kind="MedianSamples")
    record = read_record(write(tmp_path / "a.xml", median, block, encoding=encoding))

    assert (record.name, record.sampling_rate, record.leads) == ("a", 500.0, CANONICAL_LEADS)
    np.testing.assert_allclose(record.signal, RAW * 0.005, rtol=1e-6)


def test_leads_are_known_in_capitals_and_in_any_order(tmp_path: Path) -> None:
    record = read_record(write(tmp_path / "a.xml", strip(RAW[:3], ("V1", "AVR", "II"))))

    assert record.leads == ("V1", "aVR", "II")
    np.testing.assert_allclose(record.signal, RAW[:3] * 0.005, rtol=1e-6)


def test_of_an_exercise_test_leads_that_have_numbers_for_names_are_not_taken_for_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xml", "<StripData></StripData>", disclosure(RAW[:3], ("I", "2", "3")))

    record = read_record(path)

    assert record.leads[0] == "I"
    assert not {"II", "III", "V2", "V3"} & {*record.leads}
    np.testing.assert_allclose(record.signal[0], RAW[0] * 0.005, rtol=1e-6)


def test_no_package_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ecgdatakit", "edfio", "pydicom"):
        monkeypatch.setitem(sys.modules, name, None)

    assert read_record(write(tmp_path / "a.xml", strip())).n_samples == 500


def test_folders_list_them(tmp_path: Path) -> None:
    path = write(tmp_path / "1000037_20205_2_0.xml", strip())

    assert [str(found) for found in find_records(tmp_path)] == [str(path)]


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        ([], UnsupportedFormatError, "Got 0 StripData and 0 FullDisclosure with samples"),
        ([strip(kind="MedianSamples")], UnsupportedFormatError, "expected one of either"),
        ([strip(), disclosure()], UnsupportedFormatError, "Got 1 StripData and 1 FullDisclosure"),
        ([strip(), strip()], UnsupportedFormatError, "Got 2 StripData"),
        ([strip(more=STEP)], DamagedRecordError, "Got SampleRate='' with units=''"),
        ([strip(more=RATE)], DamagedRecordError, "Got Resolution='' with units=''"),
        ([strip(more=RATE + STEP.replace("uVperLsb", "nVperLsb"))], DamagedRecordError, "units='nVperLsb'"),
        ([strip(more=RATE.replace(">500", ">0") + STEP)], DamagedRecordError, "Got SampleRate='0'"),
        ([strip(more=RATE + STEP.replace(">5<", ">4,88<"))], DamagedRecordError, "Got Resolution='4,88'"),
        ([strip().replace("<NumberOfLeads>12", "<NumberOfLeads>13")], DamagedRecordError, "12 leads .* expected 13"),
        ([strip().replace("Total>500", "Total>600")], DamagedRecordError, "500 samples of a lead .* expected 600"),
        ([disclosure().replace(">12<", ">8<")], DamagedRecordError, "12 leads .* expected 8"),
        ([disclosure().replace(",</Full", ",7</Full")], DamagedRecordError, "6001 samples of 12 leads"),
        ([strip().replace('lead="V6"', 'lead="V5"')], UnsupportedFormatError, "V5 twice with different samples"),
        ([strip().replace('"I">', '"I">1,,')], DamagedRecordError, "or one that is missing"),
        ([strip().replace('"I">', '"I">1_0,')], DamagedRecordError, "not whole numbers between commas"),
        ([strip().replace('"I">', '"I">nan,')], DamagedRecordError, "not whole numbers between commas"),
        (["<StripData>"], DamagedRecordError, "could not be read by Python's XML parser"),
    ],
)
def test_what_is_not_whole_is_refused(blocks: list[str], error: type, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.xml", *blocks)

    with pytest.raises(error, match=message) as refused:
        read_record(path)

    assert PATIENT not in str(refused.value)


def test_wherever_it_is_cut_it_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.xml", strip(RAW[:2, :40], ("I", "II"))).read_bytes()
    path = tmp_path / "cut.xml"
    for n_bytes in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(SkecgError):
            read_record(path)


def test_entities_that_multiply_are_refused(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 20 if n else "1," * 20}">' for n in range(9))
    path = tmp_path / "a.xml"
    path.write_text(
        f"<!DOCTYPE CardiologyXML [{entities}]><CardiologyXML>"
        f"{strip().replace('<WaveformData', '<WaveformData>&e8;</WaveformData><WaveformData', 1)}</CardiologyXML>"
    )

    with pytest.raises(DamagedRecordError, match="XML parser"):
        read_record(path)


def test_a_channel_that_may_hold_a_lead_is_named_and_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xml", strip(RAW[:2], ("II", "V1-RA")))

    with pytest.warns(LeadWarning, match="V1-RA"):
        assert read_record(path).leads == ("II",)
