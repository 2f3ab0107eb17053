"""What vendors' files say of their leads is obeyed, or the files refused."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import struct
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from test_vendors import FILES, PATIENT, aecg, base64_text, counts, ishne, muse, scp_file, scp_section, sierra

from skecg.errors import DamagedRecordError, LeadWarning, SignalWarning, UnsupportedFormatError
from skecg.io import find_records
from skecg.io.formats import read_format
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("write", [aecg, muse])
@pytest.mark.parametrize(
    ("names", "leads"),
    [(("I", "V_1", "V_2"), ("I", "V1", "V2")), (("I", "CH_1", "CH_2"), ("I", "CH_1", "CH_2"))],
    ids=["chest leads", "numbered channels"],
)
def test_a_number_that_belongs_to_a_lead_s_name_stays(
    tmp_path: Path, write: Callable[..., bytes], names: tuple[str, ...], leads: tuple[str, ...]
) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(write(counts(3), names))
    assert read_format(path).leads == leads


@pytest.mark.parametrize("write", [aecg, muse])
def test_a_lead_twice_is_known_for_one(tmp_path: Path, write: Callable[..., bytes]) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(write(np.repeat(counts(1), 2, axis=0), ("II", "II")))
    assert read_format(path).leads == ("II",)
    path.write_bytes(write(counts(3), ("I", "V", "V")))
    with pytest.raises(UnsupportedFormatError, match="Got leads V and V_2"):
        read_format(path)


@pytest.mark.parametrize(
    ("name", "stated", "other", "rate"),
    [
        ("muse.xml", b"<SampleBase>500</SampleBase>", b"<SampleBase>128.5</SampleBase>", 128.5),
        ("muse.xml", b"500</SampleBase><SampleExponent>0", b"24999</SampleBase><SampleExponent>-2", 249.99),
        ("mortara.xml", b'SAMPLE_FREQ="500"', b'SAMPLE_FREQ="299.5"', 299.5),
        ("kardia.json", b'"frequency": 300', b'"frequency": 128.4', 128.4),
        ("plain.scp", struct.pack("<HH", 5000, 2000), struct.pack("<HH", 5000, 3900), 1e6 / 3900),
        ("plain.scp", struct.pack("<HH", 5000, 2000), struct.pack("<HH", 5000, 3906), 256),
        ("plain.scp", struct.pack("<HH", 5000, 2000), struct.pack("<HH", 5000, 3333), 300),
        ("plain.scp", struct.pack("<HH", 5000, 2000), struct.pack("<HH", 5000, 3331), 1e6 / 3331),
    ],
)
def test_rates_are_not_rounded(tmp_path: Path, name: str, stated: bytes, other: bytes, rate: float) -> None:
    path, sound = tmp_path / name, FILES[name][0]()
    assert stated in sound
    path.write_bytes(sound.replace(stated, other))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*checksum")
        assert read_format(path).sampling_rate == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "stated", "other"),
    [
        ("sierra.xml", b'samplespersecond="500"', b'samplespersecond="500.5"'),
        ("sierra.xml", b"<signaloffset>0<", b"<signaloffset>0.4<"),
        ("muse.xml", b"<LeadSampleSize>2<", b"<LeadSampleSize>2.5<"),
    ],
)
def test_numbers_that_would_be_rounded_are_refused(tmp_path: Path, name: str, stated: bytes, other: bytes) -> None:
    path, sound = tmp_path / name, FILES[name][0]()
    assert stated in sound
    path.write_bytes(sound.replace(stated, other))
    with pytest.raises(DamagedRecordError, match="expected a whole number"):
        read_format(path)


@pytest.mark.parametrize("sample", ["inf", "-inf", "nan", "1_0", "1e400", "２"])
def test_an_aecg_s_samples_are_numbers_or_the_file_is_refused(tmp_path: Path, sample: str) -> None:
    path, sound = tmp_path / "a.xml", FILES["aecg.xml"][0]()
    path.write_bytes(sound.replace(b"<digits>", f"<digits>{sample} ".encode()))
    with pytest.raises(DamagedRecordError, match=r"sample.*a\.xml"):
        read_format(path)


def test_samples_in_plain_text_are_numbers_or_the_file_is_refused(tmp_path: Path) -> None:
    path, raw = tmp_path / "a.xml", counts(2)
    text = " ".join(map(str, raw.ravel()))
    sound = sierra(raw, ("I", "II")).decode().replace(base64_text(raw), text).replace("Base64", "Plain")
    path.write_text(sound)
    np.testing.assert_allclose(read_format(path).signal, raw * 5e-3, rtol=1e-6)
    path.write_text(sound.replace(text, f"1_0 {text}"))
    with pytest.raises(DamagedRecordError, match="Got a sample with '_'"):
        read_format(path)


def test_kardia_s_samples_are_numbers_or_the_file_is_refused(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.json", FILES["kardia.json"][0]()
    for sample, found in ((b'"1_0"', "samples"), (b"true", "samples"), (b"Infinity", "an infinite sample of lead I")):
        path.write_bytes(sound.replace(b'"leadI": [', b'"leadI": [' + sample + b", ", 1))
        with pytest.raises(DamagedRecordError, match=f"Got {found}"):
            read_format(path)


def in_sets(write: Callable[..., bytes], parts: list[tuple[str, ...]], around: str) -> bytes:
    """A file with a set of leads after the other, each between the tags named."""
    files = [write(counts(len(part)), part).decode("latin-1") for part in parts]
    bodies = [re.search(f"<{around}>.*</{around}>", file, re.DOTALL)[0] for file in files]
    return files[0].replace(bodies[0], "".join(bodies)).encode("latin-1")


@pytest.mark.parametrize(("write", "around"), [(aecg, "sequenceSet"), (aecg, "series"), (muse, "Waveform")])
def test_leads_in_turn_are_refused_and_the_same_ones_again_are_said(
    tmp_path: Path, write: Callable[..., bytes], around: str
) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(in_sets(write, [CANONICAL_LEADS[i : i + 3] for i in (0, 3, 6, 9)], around))
    with pytest.raises(UnsupportedFormatError, match=r"aVR, aVL, aVF, V1, V2, V3, V4, V5, V6 in another set"):
        read_format(path)
    path.write_bytes(in_sets(write, [("I", "II"), ("I", "II")], around))
    with pytest.warns(SignalWarning, match="more than one recording"):
        assert read_format(path).leads == ("I", "II")


def test_a_sequence_of_an_aecg_that_is_not_read_is_named(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.xml", aecg(counts(3), ("I", "II", "III"))
    path.write_bytes(sound.replace(b"MDC_ECG_LEAD_III", b"III"))
    with pytest.warns(LeadWarning, match="codes as 'III'"):
        assert read_format(path).leads == ("I", "II")


@pytest.mark.parametrize("unit", ["ns", "min", ""])
def test_an_aecg_s_increment_in_another_unit_is_told(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(aecg(counts(2), ("I", "II"), increment=f'2" unit="{unit}'))
    with pytest.raises(DamagedRecordError, match=f"Got '{unit}' as the unit of the increment of time"):
        read_format(path)


def patched(content: bytes, place: int, value: bytes) -> bytes:
    """An ISHNE file with other bytes at a place of its header, and no checksum."""
    content = content[:8] + b"\0\0" + content[10:]
    return content[:place] + value + content[place + len(value) :]


def test_an_ishne_file_whose_samples_begin_elsewhere_than_stated_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "a.ecg"
    path.write_bytes(patched(FILES["holter.ecg"][0](), 22, struct.pack("<i", 1026)))
    with pytest.warns(SignalWarning, match="begin at another place than its header says"):
        assert read_format(path).n_leads == 3


def test_leads_that_were_off_are_named(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.xml", muse(counts(3), ("I", "II", "V1")).decode()
    for lead, state in (("I", "FALSE"), ("II", "TRUE")):
        sound = sound.replace(f"<LeadID>{lead}</LeadID>", f"<LeadID>{lead}</LeadID><LeadOff>{state}</LeadOff>")
    path.write_text(sound)
    with pytest.warns(SignalWarning, match=r"marks lead\(s\) II \(off\)\."):
        assert read_format(path).n_leads == 3
    path.write_bytes(patched(FILES["holter.ecg"][0](), 182, struct.pack("<3h", 3, 5, 0)))
    with pytest.warns(SignalWarning, match=r"marks lead\(s\) V1 \(frequent disconnection\)\."):
        assert read_format(path).n_leads == 3


@pytest.mark.parametrize(("nanoseconds", "n_samples"), [(20_000_000, 10), (2_000_000, 1), (1_900_000, 0)])
def test_mfer_channels_of_different_times_are_refused(tmp_path: Path, nanoseconds: int, n_samples: int) -> None:
    path, lead_2 = tmp_path / "a.mwf", bytes([3, 0x09, 1, 2])
    skewed = bytes([9, *lead_2[1:], 0x43, 4]) + struct.pack("<i", nanoseconds)
    path.write_bytes(FILES["a.mwf"][0]().replace(bytes([0x3F, 1]) + lead_2, bytes([0x3F, 1]) + skewed))
    if n_samples == 0:
        assert read_format(path).n_leads == 12
        return
    with pytest.raises(UnsupportedFormatError, match=f"skewed by up to {n_samples} samples"):
        read_format(path)


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        (0x12, b"\x00\x80\xff\xff", r"a value that stands for none of 4 byte\(s\).*expected 2"),
        (0x12, b"\x80", r"a value that stands for none of 1 byte\(s\)"),
        (0x0D, b"\x64", r"an offset of 1 byte\(s\)"),
        (0x06, b"\x01\x00\x00\x00", ""),
        (0x67, bytes([0x12, 2, 0, 0x80]), ""),
        (0x67, bytes([0x12, 1, 0x80]), "a value that stands for none"),
    ],
)
def test_what_mfer_says_of_levels_is_as_wide_as_samples(tmp_path: Path, tag: int, value: bytes, said: str) -> None:
    path, sound = tmp_path / "a.mwf", FILES["a.mwf"][0]()
    waves = sound.rindex(b"\x1e\x84")
    path.write_bytes(sound[:waves] + bytes([tag, len(value)]) + value + b"\0" + sound[waves:])
    if not said:
        np.testing.assert_allclose(read_format(path).signal, counts(12) * 2.5e-3, rtol=1e-6)
        return
    with pytest.raises(DamagedRecordError, match=f"Got {said}"):
        read_format(path)


def test_mfer_with_more_samples_than_declared_is_damaged(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.mwf", FILES["a.mwf"][0]()
    n_samples = counts(12).shape[1]
    declared = bytes([0x04, 2]) + struct.pack("<H", n_samples)
    assert declared in sound
    path.write_bytes(sound.replace(declared, bytes([0x04, 2]) + struct.pack("<H", n_samples - 1)))
    with pytest.raises(DamagedRecordError, match=rf"Got {12 * n_samples} samples.*expected {12 * n_samples - 12} as"):
        read_format(path)
    # Where channels have sizes or types of their own they are not counted.
    for own in (bytes([0x04, 2]) + struct.pack("<H", n_samples), bytes([0x0A, 1, 0])):
        channel = bytes([0x3F, 0x80, 0, 3 + len(own)]) + own
        path.write_bytes(sound.replace(bytes([0x3F, 0, 3]), channel))
        assert read_format(path).n_leads == 12


def mfer_channel(number: bytes, fields: bytes) -> bytes:
    return b"\x3f" + number + bytes([len(fields)]) + fields


@pytest.mark.parametrize(("number", "found"), [(b"\x0c", 13), (b"\x81\x00", 129)])
def test_mfer_that_describes_more_channels_than_it_counts_is_damaged(tmp_path: Path, number: bytes, found: int) -> None:
    path, sound = tmp_path / "a.mwf", FILES["a.mwf"][0]()
    waves = sound.rindex(b"\x1e\x84")
    path.write_bytes(sound[:waves] + mfer_channel(number, bytes([0x0A, 1, 9])) + sound[waves:])
    with pytest.raises(DamagedRecordError, match=rf"description of channel {found} .*expected 12 channel"):
        read_format(path)
    path.write_bytes(sound[:waves] + mfer_channel(number, b"\x09") + sound[waves:])  # says nothing
    assert read_format(path).n_leads == 12


def mfer_in_two(between: bytes) -> bytes:
    sound = FILES["a.mwf"][0]()
    piece = sound[sound.rindex(b"\x1e\x84") : -2]
    return sound[:-2] + between + piece + b"\x80\x00"


@pytest.mark.parametrize(
    ("between", "what"),
    [
        (bytes([0x82, 1]) + b"2", "another patient"),
        (bytes([0x87, 1]) + b"2", "another identifier"),
        (bytes([0x40, 3]) + b"MFR", "a preamble"),
    ],
)
def test_mfer_of_several_recordings_is_refused(tmp_path: Path, between: bytes, what: str) -> None:
    path = tmp_path / "a.mwf"
    path.write_bytes(mfer_in_two(b""))
    assert read_format(path).n_samples == 2000
    path.write_bytes(mfer_in_two(between))
    with pytest.raises(UnsupportedFormatError, match=f"Got {what} between two pieces"):
        read_format(path)


def test_mfer_pieces_with_times_of_their_own_are_told(tmp_path: Path) -> None:
    path, time = tmp_path / "a.mwf", bytes([0x85, 11]) + struct.pack("<H5B2H", 2020, 1, 1, 12, 0, 0, 0, 0)
    path.write_bytes(mfer_in_two(time))
    with pytest.warns(SignalWarning, match="Joined pieces .* times of their own"):
        assert read_format(path).n_samples == 2000


def test_mfer_of_dominant_beats_alone_is_refused(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.mwf", FILES["a.mwf"][0]()
    of_channel = b"".join(mfer_channel(bytes([n]), bytes([0x08, 1, 9])) for n in range(12))
    waves = sound.rindex(b"\x1e\x84")
    path.write_bytes(sound[:waves] + of_channel + sound[waves:])
    with pytest.raises(UnsupportedFormatError, match="averaged beats alone"):
        read_format(path)


def test_kardia_of_another_duration_or_number_of_leads_than_stated_is_told(tmp_path: Path) -> None:
    path, document = tmp_path / "a.json", json.loads(FILES["kardia.json"][0]())
    n_seconds = 1000 / 300
    for stated in (1000 * n_seconds, 3500, 2500):
        path.write_text(json.dumps(document | {"duration": stated}))
        assert read_format(path).n_leads == 6
    path.write_text(json.dumps(document | {"duration": 30_000}))
    with pytest.warns(SignalWarning, match=r"Read 3.33333 s at 300 Hz from .* duration of 30 s"):
        read_format(path)
    document["data"]["raw"]["numLeads"] = 1
    path.write_text(json.dumps(document))
    with pytest.warns(SignalWarning, match="another number of leads than it holds"):
        read_format(path)


def test_kardia_is_known_in_any_order_of_its_keys(tmp_path: Path) -> None:
    document = json.loads(FILES["kardia.json"][0]())
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": document.pop("data"), **document}))
    assert path.read_text().index("recordedAt") > 10_000
    assert read_format(path).n_leads == 6
    assert find_records(tmp_path) == [path]
    path.write_bytes(b"\x01" + path.read_bytes())
    with pytest.raises(UnsupportedFormatError, match="none of the formats known"):
        read_format(path)


@pytest.mark.parametrize(("name", "root"), [("aecg.xml", "<AnnotatedECG"), ("muse.xml", "<RestingECG")])
@pytest.mark.parametrize("n_letters", [5_000, 50_000])
def test_xml_with_a_long_comment_before_its_root_is_known(tmp_path: Path, name: str, root: str, n_letters: int) -> None:
    path, sound = tmp_path / name, FILES[name][0]().decode("latin-1")
    path.write_text(sound.replace(root, f"<!-- {'c' * n_letters} -->{root}"), encoding="latin-1")
    assert read_format(path).n_leads == len(FILES[name][1])
    assert find_records(tmp_path) == [path]


def test_muse_with_fewer_leads_than_stated_is_told(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.xml", muse(counts(8), EIGHT_LEADS).decode()
    for stated, lacks in (("8", False), ("12", False), ("", False), ("13", True)):
        path.write_text(sound.replace("<NumberofLeads>8<", f"<NumberofLeads>{stated}<"))
        with pytest.warns(LeadWarning, match="Read 8 lead.*states 13") if lacks else contextlib.nullcontext():
            assert read_format(path).n_leads == 8


@pytest.mark.parametrize("stated", ["length", "leads", "labels"])
def test_sierra_s_packed_leads_that_contradict_what_is_stated_are_refused(tmp_path: Path, stated: str) -> None:
    path, raw = tmp_path / "a.xml", np.round(40 * np.sin(np.arange(1200) / np.array([[5.0], [7.0]]))).astype(np.int16)
    packed = base64.b64encode(b"".join(as_xli(lead) for lead in raw)).decode()
    sound = sierra(raw, ("V1", "V2")).decode().replace(base64_text(raw), packed)
    sound = sound.replace("<parsedwaveforms", '<parsedwaveforms compressflag="True" compression="XLI"')
    path.write_text(sound.replace('durationperchannel="2400"', 'durationperchannel="2000"'))
    assert read_format(path).n_samples == 1000  # less than a second fills the last block
    if stated == "length":
        path.write_text(sound.replace('durationperchannel="2400"', 'durationperchannel="300"'))
        with pytest.raises(DamagedRecordError, match=r"Got leads of 1200 samples.*expected 150"):
            read_format(path)
    elif stated == "leads":
        path.write_text(sound.replace('numberofleads="2"', 'numberofleads="1"'))
        with pytest.raises(DamagedRecordError, match=r"Got 2 packed leads.*expected 1"):
            read_format(path)
    else:
        path.write_text(sound.replace('leadlabels="V1 V2"', 'leadlabels="III aVR"'))
        with pytest.raises(UnsupportedFormatError, match=r"Got packed leads III, aVR .*expected I, II, III, aVR"):
            read_format(path)


@pytest.mark.parametrize("is_plain", [False, True])
def test_sierra_with_more_samples_than_declared_is_damaged(tmp_path: Path, is_plain: bool) -> None:
    path, raw = tmp_path / "a.xml", counts(2)
    sound = sierra(raw, ("I", "II")).decode()
    if is_plain:
        sound = sound.replace(base64_text(raw), " ".join(map(str, raw.ravel()))).replace("Base64", "Plain")
    n_ms = raw.shape[1] * 2
    path.write_text(sound.replace(f'durationperchannel="{n_ms}"', f'durationperchannel="{n_ms - 2}"'))
    with pytest.raises(DamagedRecordError, match=rf"Got {n_ms} samples.*expected {n_ms - 2}, of 2 leads"):
        read_format(path)


def as_xli(samples: np.ndarray) -> bytes:
    """A lead in Philips's XLI: twice differenced, high bytes before low ones, each as a literal of LZW."""
    x = samples.astype(int)
    codes = np.r_[x[:2], 64 + 2 * x[2:-1] - x[1:-2] - x[3:], 64].astype("<u2")
    bits = "".join(f"{code:010b}" for code in [*(codes >> 8), *(codes & 255), 1023])
    packed = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    return struct.pack("<IHh", len(packed), 0, 2 * x[1] - x[0] - x[2]) + packed


def test_sierra_s_compressed_leads_say_themselves_where_they_end(tmp_path: Path) -> None:
    path, raw = tmp_path / "a.xml", np.round(40 * np.sin(np.arange(60) / np.array([[5.0], [7.0]]))).astype(np.int16)
    packed = base64.b64encode(b"".join(as_xli(lead) for lead in raw)).decode()
    sound = sierra(raw, ("V1", "V2")).decode().replace(base64_text(raw), packed)
    path.write_text(sound.replace("<parsedwaveforms", '<parsedwaveforms compressflag="True" compression="XLI"'))
    np.testing.assert_allclose(read_format(path).signal, raw * 5e-3, rtol=1e-6)


def test_bytes_in_another_encoding_than_declared_do_not_keep_a_file_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    for name in ("aecg.xml", "sierra.xml"):
        sound = FILES[name][0]()
        path.write_bytes(sound.replace(PATIENT.encode(), "M\xfcller".encode("latin-1")))
        assert read_format(path).n_leads == 12


@pytest.mark.parametrize("name", ["plain.scp", "first.scp"])
def test_scp_leads_longer_than_declared_are_damaged(tmp_path: Path, name: str) -> None:
    path, sound = tmp_path / name, FILES[name][0]()
    lead_1 = struct.pack("<IIB", 1, 1000, 1)
    assert lead_1 in sound
    path.write_bytes(sound.replace(lead_1, struct.pack("<IIB", 1, 50, 1)))
    with pytest.raises(DamagedRecordError, match=r"Got a lead of 1000 samples.*expected 50"):
        read_format(path)


def test_coded_scp_leads_are_read_unless_they_hold_more_than_declared(tmp_path: Path) -> None:
    path, coded = tmp_path / "a.scp", int("100" * 26, 2) << 18  # 26 ones by the standard's own table, and zeros

    def write(n_samples: int, table: bytes = struct.pack("<H", 19999)) -> None:
        lead_table = b"".join(struct.pack("<IIB", 1, n_samples, code) for code in (1, 2))
        lead = coded.to_bytes(12, "big")
        sections = {
            2: scp_section(2, table),
            3: scp_section(3, struct.pack("<BB", 2, 4 | 2 << 3) + lead_table),
            6: scp_section(6, struct.pack("<HHBBHH", 5000, 2000, 0, 0, len(lead), len(lead)) + lead * 2),
        }
        path.write_bytes(scp_file(sections))

    for n_samples in (26, 44):  # zeros may be samples, or fill the last bytes
        write(n_samples)
        expected = np.repeat([[0.005] * 26 + [0.0] * (n_samples - 26)], 2, axis=0)
        np.testing.assert_allclose(read_format(path).signal, expected, rtol=1e-6)
    write(24)
    with pytest.raises(DamagedRecordError, match=r"Got a lead of 26 samples.*expected 24"):
        read_format(path)
    escape = f"{'1' * 10}{64:016b}"  # a sample by its bits, whose zeros are no samples
    coded = int("100" * 20 + escape, 2) << 10
    write(21)
    np.testing.assert_allclose(read_format(path).signal, [[0.005] * 20 + [0.32]] * 2, rtol=1e-6)
    own_codes = struct.pack("<HH", 1, 2) + struct.pack("<BBBHI", 1, 1, 1, 0, 0) + struct.pack("<BBBHI", 1, 1, 1, 9, 1)
    write(24, own_codes)
    assert read_format(path).n_samples == 24


def test_an_ishne_file_of_another_length_than_declared_is_said(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.ecg", FILES["holter.ecg"][0]()
    for declared in (1000, 3000, 0, -9):
        path.write_bytes(patched(sound, 14, struct.pack("<i", declared)))
        assert read_format(path).n_samples == 1000
    path.write_bytes(patched(sound, 14, struct.pack("<i", 100_000)))
    with pytest.warns(SignalWarning, match="Read 1,000 samples a lead from .* which declares 100,000"):
        assert read_format(path).n_samples == 1000


def test_an_ishne_lead_without_a_step_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ecg"
    path.write_bytes(patched(ishne(counts(2), [0, 6]), 206, struct.pack("<h", 0)))
    with pytest.warns(LeadWarning, match=r"Left out CH1 \[no unit\] of"):
        assert read_format(path).leads == ("II",)
