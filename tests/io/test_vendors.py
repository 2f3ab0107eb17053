from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skecg.errors import (
    DamagedRecordError,
    RecordReadError,
    SignalWarning,
    SkecgError,
    SkecgWarning,
    UnsupportedFormatError,
)
from skecg.io.formats import read_format
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENT = "Zyxwvut"


def counts(n_leads: int, n_samples: int = 1000) -> np.ndarray:
    return np.random.default_rng(7).integers(-3000, 3000, (n_leads, n_samples)).astype(np.int16)


def base64_text(samples: np.ndarray) -> str:
    return base64.b64encode(samples.astype("<i2").tobytes()).decode()


# ---- the files, written here by hand from what the formats' descriptions say ---------------------------------------


def aecg(raw: np.ndarray, leads: tuple[str, ...], increment: str = '0.002" unit="s', sets: int = 1) -> bytes:
    sequences = [
        '<component><sequence><code code="TIME_ABSOLUTE" codeSystem="2.16.840.1.113883.6.24"/>'
        '<value xsi:type="GLIST_TS"><head value="20200101120000"/>'
        f'<increment value="{increment}"/></value></sequence></component>'
    ]
    for lead, row in zip(leads, raw, strict=True):
        sequences.append(
            f'<component><sequence><code code="MDC_ECG_LEAD_{lead.upper()}" codeSystem="2.16.840.1.113883.6.24"/>'
            '<value xsi:type="SLIST_PQ"><origin value="10" unit="uV"/><scale value="2.5" unit="uV"/>'
            f"<digits>{' '.join(map(str, row))}</digits></value></sequence></component>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        "<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject><subjectDemographicPerson>"
        f"<name>{PATIENT}</name></subjectDemographicPerson></trialSubject></subject></subjectAssignment></componentOf>"
        '</timepointEvent></componentOf><component><series><code code="RHYTHM"/>'
        + f"<component><sequenceSet>{''.join(sequences)}</sequenceSet></component>" * sets
        + "</series></component></AnnotatedECG>"
    ).encode()


def muse(raw: np.ndarray, leads: tuple[str, ...], units: str = "MICROVOLTS", lying_crc: bool = False) -> bytes:
    data = "".join(
        f"<LeadData><LeadByteCountTotal>{2 * len(row)}</LeadByteCountTotal><LeadTimeOffset>0</LeadTimeOffset>"
        f"<LeadSampleCountTotal>{len(row)}</LeadSampleCountTotal>"
        f"<LeadAmplitudeUnitsPerBit>4.88</LeadAmplitudeUnitsPerBit><LeadAmplitudeUnits>{units}</LeadAmplitudeUnits>"
        f"<LeadID>{lead}</LeadID><LeadSampleSize>2</LeadSampleSize>"
        f"<LeadDataCRC32>{binascii.crc32(row.astype('<i2').tobytes()) ^ lying_crc}</LeadDataCRC32>"
        f"<WaveFormData>\n{base64_text(row)}\n</WaveFormData></LeadData>"
        for lead, row in zip(leads, raw, strict=True)
    )

    def waveform(kind: str) -> str:
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><NumberofLeads>{len(leads)}</NumberofLeads>"
            f"<SampleType>CONTINUOUS_SAMPLES</SampleType><SampleBase>500</SampleBase><SampleExponent>0</SampleExponent>"
            f"{data if kind == 'Rhythm' else data.replace(base64_text(raw[0]), base64_text(raw[0] * 0))}</Waveform>"
        )

    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?><!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG>'
        f"<PatientDemographics><PatientLastName>{PATIENT}</PatientLastName></PatientDemographics>"
        + waveform("Rhythm")
        + "</RestingECG>"
    ).encode("latin-1")


def sierra(raw: np.ndarray, leads: tuple[str, ...]) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><restingecgdata xmlns="http://www3.medical.philips.com">'
        "<documentinfo><documenttype>PhilipsECG</documenttype><documentversion>1.04.01</documentversion></documentinfo>"
        f"<patient><generalpatientdata><name><lastname>{PATIENT}</lastname></name></generalpatientdata></patient>"
        '<dataacquisition date="2020-01-01" time="12:00:00"><signalcharacteristics><samplingrate>500</samplingrate>'
        "<resolution>5</resolution><signaloffset>0</signaloffset><signalsigned>True</signalsigned>"
        f"<numberchannelsallocated>{len(leads)}</numberchannelsallocated></signalcharacteristics></dataacquisition>"
        f'<waveforms><parsedwaveforms dataencoding="Base64" numberofleads="{len(leads)}" '
        f'leadlabels="{" ".join(leads)}" durationperchannel="{raw.shape[1] * 2}" samplespersecond="500" resolution="5">'
        f"{base64_text(raw)}</parsedwaveforms></waveforms></restingecgdata>"
    ).encode()


def mortara(raw: np.ndarray, leads: tuple[str, ...]) -> bytes:
    channels = "".join(
        f'<CHANNEL BITS="16" FORMAT="SIGNED" UNITS_PER_MV="200" DURATION="{len(row)}" SAMPLE_FREQ="500" NAME="{lead}" '
        f'ENCODING="BASE64" OFFSET="0" DATA="{base64_text(row)}"/>'
        for lead, row in zip(leads, raw, strict=True)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ECG ACQUISITION_TIME="20200101120000">'
        f'<SUBJECT LAST_NAME="{PATIENT}"/>{channels}</ECG>'
    ).encode()


SCP_CODES = dict(zip(CANONICAL_LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))


def scp_section(number: int, body: bytes) -> bytes:
    body += b"\0" * (len(body) % 2)
    rest = struct.pack("<HIBB6x", number, 16 + len(body), 20, 20) + body
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def scp(raw: np.ndarray, leads: tuple[str, ...], differences: int = 0, starts: dict[int, int] | None = None) -> bytes:
    stored = np.concatenate([raw[:, :differences], np.diff(raw.astype(np.int64), n=differences)], axis=1)
    chunks = [row.astype("<i2").tobytes() for row in stored]
    begin = [(starts or {}).get(i, 1) for i in range(len(leads))]
    lead_table = b"".join(
        struct.pack("<IIB", b, b + raw.shape[1] - 1, SCP_CODES[lead]) for b, lead in zip(begin, leads, strict=True)
    )
    sections = {
        1: scp_section(1, b"\0" + struct.pack("<H", 8) + PATIENT.encode() + b"\0" + b"\xff\0\0"),
        3: scp_section(3, struct.pack("<BB", len(leads), 4 | len(leads) << 3) + lead_table),
        6: scp_section(
            6,
            struct.pack("<HHBB", 5000, 2000, differences, 0)
            + b"".join(struct.pack("<H", len(chunk)) for chunk in chunks)
            + b"".join(chunks),
        ),
    }
    return scp_file(sections)


def scp_file(sections: dict[int, bytes]) -> bytes:
    position = 6 + 16 + 10 * 12  # the record's head, section 0's head, and its 12 pointers
    pointers = struct.pack("<HII", 0, position - 6, 7)
    for number in range(1, 12):
        section = sections.get(number, b"")
        pointers += struct.pack("<HII", number, len(section), position + 1 if section else 0)
        position += len(section)
    content = scp_section(0, pointers) + b"".join(sections.values())
    rest = struct.pack("<I", 6 + len(content)) + content
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def ishne(raw: np.ndarray, codes: list[int], resolution_nanovolts: int = 4880) -> bytes:
    def per_lead(values: list[int], absent: int = -9) -> bytes:
        return struct.pack("<12h", *values, *[absent] * (12 - len(values)))

    n = len(codes)
    head = struct.pack("<iiiih", 0, raw.shape[1], 522, 522, 1)
    head += b"First".ljust(40, b"\0") + PATIENT.encode().ljust(40, b"\0") + b"C42".ljust(20, b"\0")
    head += struct.pack("<hh", 1, 1) + struct.pack("<3h", 1, 2, 1950)
    head += struct.pack("<3h", 1, 1, 2020) * 2 + struct.pack("<3h", 12, 0, 0)
    head += struct.pack("<h", n) + per_lead(codes) + per_lead([1] * n) + per_lead([resolution_nanovolts] * n)
    head += struct.pack("<h", 0) + b"digital".ljust(40, b"\0") + struct.pack("<h", 500)
    head = head.ljust(512, b"\0")
    return b"ISHNE1.0" + struct.pack("<H", binascii.crc_hqx(head, 0xFFFF)) + head + raw.T.astype("<i2").tobytes()


def mfer(raw: np.ndarray, leads: tuple[str, ...]) -> bytes:
    def tag(code: int, value: bytes) -> bytes:
        length = bytes([len(value)]) if len(value) < 128 else b"\x84" + struct.pack(">I", len(value))
        return bytes([code]) + length + value

    codes = SCP_CODES  # MFER numbers the twelve leads as SCP-ECG does
    content = tag(0x40, b"MFR Standard 12 leads ECG".ljust(32)) + tag(0x01, b"\x01")
    content += tag(0x08, struct.pack("<H", 1)) + tag(0x81, PATIENT.encode())
    content += tag(0x0B, b"\x01\xfd" + struct.pack("<h", 2))  # an interval of 2e-3 s
    content += tag(0x0C, b"\x00\xf9" + struct.pack("<h", 25))  # 25e-7 V
    content += tag(0x05, bytes([len(leads)])) + tag(0x04, struct.pack("<H", raw.shape[1])) + tag(0x06, b"\x01")
    for number, lead in enumerate(leads):
        content += bytes([0x3F, number]) + bytes([3, 0x09, 1, codes[lead]])
    return content + tag(0x1E, raw.astype("<i2").tobytes()) + b"\x80\x00"


def kardia(raw: np.ndarray, leads: tuple[str, ...]) -> bytes:
    names = {"I": "leadI", "II": "leadII", "III": "leadIII", "aVR": "AVR", "aVL": "AVL", "aVF": "AVF"}
    samples = {names[lead]: row.tolist() for lead, row in zip(leads, raw, strict=True)}
    block = {
        "frequency": 300,
        "mainsFrequency": 60,
        "amplitudeResolution": 500,
        "numLeads": len(leads),
        "samples": samples,
    }
    document = {"recordedAt": "2020-01-01T12:00:00Z", "patientID": PATIENT, "algorithmDetermination": "normal"}
    return json.dumps(document | {"data": {"raw": block}}).encode()


LIMB_LEADS = CANONICAL_LEADS[:6]
FILES: dict[str, tuple[Callable[[], bytes], tuple[str, ...], float, Callable[[], np.ndarray]]] = {
    "aecg.xml": (lambda: aecg(counts(12), CANONICAL_LEADS), CANONICAL_LEADS, 500, lambda: counts(12) * 2.5e-3 + 0.01),
    "muse.xml": (lambda: muse(counts(8), EIGHT_LEADS), EIGHT_LEADS, 500, lambda: counts(8) * 4.88e-3),
    "sierra.xml": (lambda: sierra(counts(12), CANONICAL_LEADS), CANONICAL_LEADS, 500, lambda: counts(12) * 5e-3),
    "mortara.xml": (lambda: mortara(counts(12), CANONICAL_LEADS), CANONICAL_LEADS, 500, lambda: counts(12) / 200),
    "plain.scp": (lambda: scp(counts(12), CANONICAL_LEADS), CANONICAL_LEADS, 500, lambda: counts(12) * 5e-3),
    "first.scp": (lambda: scp(counts(12), CANONICAL_LEADS, 1), CANONICAL_LEADS, 500, lambda: counts(12) * 5e-3),
    "second.scp": (lambda: scp(counts(8), EIGHT_LEADS, 2), EIGHT_LEADS, 500, lambda: counts(8) * 5e-3),
    "holter.ecg": (lambda: ishne(counts(3), [6, 11, 15]), ("II", "V1", "V5"), 500, lambda: counts(3) * 4.88e-3),
    "a.mwf": (lambda: mfer(counts(12), CANONICAL_LEADS), CANONICAL_LEADS, 500, lambda: counts(12) * 2.5e-3),
    "kardia.json": (lambda: kardia(counts(6), LIMB_LEADS), LIMB_LEADS, 300, lambda: counts(6) * 5e-4),
}


@pytest.mark.parametrize("name", FILES)
def test_samples_come_back_to_the_step(tmp_path: Path, name: str) -> None:
    content, leads, rate, expected = FILES[name]
    (tmp_path / name).write_bytes(content())
    record = read_format(tmp_path / name)
    assert record.leads == leads
    assert (record.sampling_rate, record.name) == (rate, Path(name).stem)
    assert record.signal.dtype == np.float32
    np.testing.assert_allclose(record.signal, expected(), rtol=1e-6, atol=1e-6)
    assert PATIENT not in f"{record!r} {vars(record)}"


@pytest.mark.parametrize("name", FILES)
def test_the_content_decides_what_a_file_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "renamed.xml"
    path.write_bytes(FILES[name][0]())
    assert read_format(path).leads == FILES[name][1]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.9995])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, keep: float) -> None:
    content = FILES[name][0]()
    length = int(keep * len(content))
    if name == "holter.ecg":  # its header need not say how long it is: only a broken last sample shows
        length -= (length - 522) % 6 == 0
    path = tmp_path / name
    path.write_bytes(content[:length])
    with pytest.raises(RecordReadError, match=re.escape(str(path))) as raised:
        read_format(path)
    assert PATIENT not in str(raised.value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(FILES)), seed=st.integers(0, 2**32 - 1), n_bytes=st.integers(1, 20))
def test_scrambled_bytes_raise_nothing_but_errors_of_ours(tmp_path: Path, name: str, seed: int, n_bytes: int) -> None:
    generator = np.random.default_rng(seed)
    content = bytearray(FILES[name][0]())
    for position in generator.integers(0, min(len(content), 1500), n_bytes):
        content[position] = generator.integers(0, 256)
    path = tmp_path / name
    path.write_bytes(content)
    with contextlib.suppress(SkecgError), warnings.catch_warnings():
        warnings.simplefilter("ignore", SkecgWarning)
        read_format(path)


def test_muse_without_scale_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(muse(counts(8), EIGHT_LEADS, units="COUNTS"))
    with pytest.raises(UnsupportedFormatError, match="no unit of voltage"):
        read_format(path)


def test_a_wrong_checksum_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(muse(counts(8), EIGHT_LEADS, lying_crc=True))
    with pytest.warns(SignalWarning, match="checksum"):
        assert read_format(path).n_leads == 8


def test_a_second_recording_in_a_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(aecg(counts(2), ("I", "II"), sets=2))
    with pytest.warns(SignalWarning, match="more than one recording"):
        assert read_format(path).n_samples == 1000


@pytest.mark.parametrize(
    ("increment", "rate"),
    [('0.004" unit="s', 250), ('4" unit="ms', 250), ('0.003906" unit="s', 256), ('0.0078" unit="s', 1 / 0.0078)],
)
def test_the_sampling_rate_is_what_the_increment_says(tmp_path: Path, increment: str, rate: float) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(aecg(counts(2), ("I", "II"), increment=increment))
    assert read_format(path).sampling_rate == pytest.approx(rate, rel=1e-9)


def test_a_vendor_s_negated_avr_is_turned_round(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(mortara(counts(2), ("I", "-aVR")))
    record = read_format(path)
    assert record.leads == ("I", "aVR")
    np.testing.assert_allclose(record.signal[1], -counts(2)[1] / 200, rtol=1e-6)


def test_scp_leads_that_start_at_different_times_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.scp"
    path.write_bytes(scp(counts(2), ("I", "II"), starts={1: 1001}))
    with pytest.raises(UnsupportedFormatError, match="start at different times"):
        read_format(path)


def test_ishne_lead_faults_are_gaps_and_unknown_leads_keep_their_number(tmp_path: Path) -> None:
    raw = counts(3)
    raw[1, 5] = -32768
    path = tmp_path / "a.ecg"
    path.write_bytes(ishne(raw, [0, 1, 6]))
    record = read_format(path)
    assert record.leads == ("CH1", "CH2", "II")
    assert np.argwhere(np.isnan(record.signal)).tolist() == [[1, 5]]


def test_leads_of_different_lengths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    document = json.loads(kardia(counts(2), ("I", "II")))
    document["data"]["raw"]["samples"]["leadII"].pop()
    path.write_text(json.dumps(document))
    with pytest.raises(DamagedRecordError, match="999 to 1000 samples"):
        read_format(path)


def test_kardia_without_a_step_is_no_damaged_file_but_one_without_a_unit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(kardia(counts(6), LIMB_LEADS).replace(b'"amplitudeResolution": 500, ', b""))
    with pytest.raises(DamagedRecordError, match="amplitudeResolution=''"):
        read_format(path)


def test_entities_in_xml_are_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    path.write_text(f'<?xml version="1.0"?>{bomb}<RestingECG><Waveform>&b;</Waveform></RestingECG>')
    with pytest.raises(DamagedRecordError):
        read_format(path)


@pytest.mark.parametrize("content", ["<html><body/></html>", '{"a": 1}', "<ECG></ECG>"])
def test_other_xml_and_json_are_refused_with_what_could_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(UnsupportedFormatError, match="Expected HL7 aECG, GE MUSE"):
        read_format(path)


def test_a_known_form_that_the_package_does_not_read_asks_for_another_export(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(json.loads(kardia(counts(6), LIMB_LEADS)) | {"data12L": {}}))
    with pytest.raises(UnsupportedFormatError, match="Export it in another form"):
        read_format(path)


def test_a_real_aecg_obeys_einthoven(shared: Path) -> None:
    path = shared / "data" / "raw" / "hl7" / "ecg_hl7.xml"
    record = read_format(path)
    assert (record.n_leads, record.n_samples, record.sampling_rate) == (12, 5000, 500)
    signal = dict(zip(record.leads, record.signal, strict=True))
    assert signal["I"][:6] == pytest.approx([-0.005, -0.005, -0.005, -0.005, -0.0075, -0.01])
    assert np.abs(signal["II"] - signal["I"] - signal["III"]).max() <= 0.0051  # two steps of 2.5 µV


NO_STEP = ("text", "", "2,5", "nan", "inf", "1e999", "1_0", "0", "-3")
SCALING = {
    "aecg.xml": {
        'scale value="2.5"': NO_STEP,
        'increment value="0.002"': NO_STEP,
        'origin value="10"': NO_STEP[:-2],
        'origin value="10" unit="uV"': ("text", "", "m"),
    },
    "muse.xml": {
        "<LeadAmplitudeUnitsPerBit>4.88<": NO_STEP,
        "<LeadAmplitudeUnits>MICROVOLTS<": ("text", ""),
        "<LeadSampleSize>2<": NO_STEP,
        "<SampleBase>500<": NO_STEP,
        "<SampleExponent>0<": NO_STEP[:-2],
        "<LeadTimeOffset>0<": NO_STEP[:-2],
    },
    "sierra.xml": {
        "<resolution>5<": NO_STEP,
        'samplespersecond="500" resolution="5"': NO_STEP,
        "<samplingrate>500<": NO_STEP,
        "<signaloffset>0<": NO_STEP[:-2],
        "<signalsigned>True<": ("text", "", "2"),
    },
    "mortara.xml": {'UNITS_PER_MV="200"': NO_STEP, 'SAMPLE_FREQ="500"': NO_STEP, 'OFFSET="0"': NO_STEP[:-2]},
    "kardia.json": {
        '"amplitudeResolution": 500,': ("text", "", "NaN", "Infinity", "0", "-3", '"1_0"', '"2,5"'),
        '"frequency": 300,': ("text", "", "NaN", "Infinity", "0", "-3", '"3_00"', '"300,0"'),
    },
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in SCALING for field in SCALING[name]])
def test_what_scales_a_signal_is_a_number_or_the_file_is_refused(tmp_path: Path, name: str, field: str) -> None:
    path, sound = tmp_path / name, FILES[name][0]()
    begin, last = re.fullmatch(r"(.*[^\w.-])[\w.-]+(\W)", field).groups()
    assert field.encode() in sound
    for value in SCALING[name][field]:
        path.write_bytes(sound.replace(field.encode(), f"{begin}{value}{last}".encode()))
        with pytest.raises(RecordReadError, match=re.escape(name)):
            read_format(path)


def test_an_aecg_s_scale_or_origin_without_a_value_is_refused(tmp_path: Path) -> None:
    for field in (b'scale value="2.5"', b'origin value="10"'):
        path = tmp_path / "a.xml"
        path.write_bytes(FILES["aecg.xml"][0]().replace(field, field.split()[0]))
        with pytest.raises(DamagedRecordError, match="''"):
            read_format(path)


def test_an_aecg_s_origin_with_a_decimal_comma_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(FILES["aecg.xml"][0]().replace(b'origin value="10"', b'origin value="1,5"'))
    with pytest.raises(DamagedRecordError, match=r"origin='1,5'.*a number with a decimal point"):
        read_format(path)


def test_an_aecg_s_origin_of_0_needs_no_unit_and_one_in_another_unit_is_converted(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.xml", FILES["aecg.xml"][0]()
    for origin, offset in (('value="0"', 0.0), ('value="0.25" unit="mV"', 0.25)):
        path.write_bytes(sound.replace(b'origin value="10" unit="uV"', f"origin {origin}".encode()))
        np.testing.assert_allclose(read_format(path).signal, counts(12) * 2.5e-3 + offset, atol=1e-6)


def test_muse_leads_that_start_at_different_times_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(FILES["muse.xml"][0]().replace(b"<LeadTimeOffset>0<", b"<LeadTimeOffset>40<", 1))
    with pytest.raises(UnsupportedFormatError, match="start at different times"):
        read_format(path)


@pytest.mark.parametrize("resolution", [0, -9])
def test_ishne_without_a_step_is_refused(tmp_path: Path, resolution: int) -> None:
    path = tmp_path / "a.ecg"
    path.write_bytes(ishne(counts(3), [6, 11, 15], resolution))
    with pytest.raises(RecordReadError, match=r"a\.ecg"):
        read_format(path)


def test_scp_without_a_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.scp"
    sound = FILES["plain.scp"][0]()
    path.write_bytes(sound.replace(struct.pack("<HH", 5000, 2000), struct.pack("<HH", 0, 2000)))
    with pytest.raises(RecordReadError, match=r"a\.scp"):
        read_format(path)


def test_mfer_without_a_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mwf"
    for step in (0, -25):
        path.write_bytes(
            FILES["a.mwf"][0]().replace(b"\x00\xf9" + struct.pack("<h", 25), b"\x00\xf9" + struct.pack("<h", step))
        )
        with pytest.raises(RecordReadError, match=r"a\.mwf"):
            read_format(path)
