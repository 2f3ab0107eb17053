"""WFDB records in several segments: leads by their names, units and rates of each, on disk and in memory."""

from __future__ import annotations

import numpy as np
import pytest
from wfdb_writing import LEADS, edit, random_steps, same_bits, wfdb_millivolts, write_wfdb

from skecg.errors import (
    DamagedRecordError,
    HeaderRepairWarning,
    LeadError,
    ParameterError,
    SamplingRateError,
    ShapeError,
    UnitsError,
    UnsupportedFormatError,
)
from skecg.io import from_wfdb, read_record
from skecg.io.channels import shared_rate
from skecg.io.wfdb import import_wfdb

SWAPPED = ("I", "II", "III", "aVR", "aVF", "aVL", *LEADS[6:])


def write_segment(folder, name, leads, n_samples=40, **how):
    steps = random_steps(n_samples, len(leads), seed=len(name) + n_samples)
    return write_wfdb(folder, name, steps, leads=leads, **how)


def write_whole(folder, lines, n_signals=2, n_samples=80, rate=" 500"):
    path = folder / "whole.hea"
    path.write_text("\n".join([f"whole/{len(lines)} {n_signals}{rate} {n_samples}", *lines]) + "\n")
    return path


def write_layout(folder, leads, units="mV", first_line=None):
    lines = [first_line or f"layout {len(leads)} 500 0", *(f"~ 0 1000/{units} 16 0 0 0 0 {lead}" for lead in leads)]
    (folder / "layout.hea").write_text("\n".join(lines) + "\n")


def in_memory(header, **how):
    return import_wfdb().rdrecord(str(header.with_suffix("")), m2s=False, **how)


def rows_of(record, leads):
    return record.signal[[record.leads.index(lead) for lead in leads]]


# --- leads


@pytest.mark.parametrize("second", [SWAPPED, [lead.upper() for lead in SWAPPED]])
def test_leads_of_a_segment_in_another_order_are_found_by_name(tmp_path, second):
    first = read_record(write_segment(tmp_path, "a", LEADS))
    other = read_record(write_segment(tmp_path, "b", second))
    header = write_whole(tmp_path, ["a 40", "b 40"], n_signals=12)
    joined = np.concatenate([first.signal, rows_of(other, LEADS)], axis=1)
    for record in (read_record(header), from_wfdb(in_memory(header)), from_wfdb(in_memory(header, physical=False))):
        assert record.leads == LEADS
        assert (record.name, record.sampling_rate) == ("whole", 500)
        assert same_bits(record.signal, joined)


@pytest.mark.parametrize("second", [("I", "V1"), ("I", "I"), ("I",), ("I", "II", "V1"), ("I", "")])
def test_a_segment_with_other_leads_is_refused(tmp_path, second):
    write_segment(tmp_path, "a", ("I", "II"))
    write_segment(tmp_path, "b", second)
    header = write_whole(tmp_path, ["a 40", "b 40"])
    found = ", ".join(name or r"\?" for name in second)
    with pytest.raises(DamagedRecordError, match=f"Got {found} in segment b, expected all of I, II"):
        read_record(header)


def test_a_segment_in_memory_with_other_leads_is_refused(tmp_path):
    write_segment(tmp_path, "a", ("I", "II"))
    write_segment(tmp_path, "b", ("I", "V1"))
    with pytest.raises(LeadError, match="Got I, V1 in segment b, expected all of I, II"):
        from_wfdb(in_memory(write_whole(tmp_path, ["a 40", "b 40"])))


@pytest.mark.parametrize(
    ("names", "leads"), [("ab", ("II", "V1")), ("ba", ("II", "V1")), ("bb", ("signal 1", "signal 2"))]
)
def test_signals_without_names_are_in_the_record_s_order(tmp_path, names, leads):
    write_segment(tmp_path, "a", ("II", "V1"))
    write_segment(tmp_path, "b", ("", ""))
    record = read_record(write_whole(tmp_path, [f"{name} 40" for name in names]))
    assert record.leads == leads
    assert same_bits(record.signal[:, :40], read_record(tmp_path / names[0]).signal)
    assert same_bits(record.signal[:, 40:], read_record(tmp_path / names[1]).signal)


def test_signals_that_share_a_name_are_joined_where_all_segments_have_them_alike(tmp_path):
    parts = [read_record(write_segment(tmp_path, name, ("ECG", "ECG"))) for name in ("a", "bb")]
    record = read_record(write_whole(tmp_path, ["a 40", "bb 40"]))
    assert record.leads == ("ECG", "ECG#2")
    assert same_bits(record.signal, np.concatenate([part.signal for part in parts], axis=1))


@pytest.mark.parametrize("n_signals", [10, 13])
def test_a_record_that_gives_another_number_of_signals_than_its_segments_is_refused(tmp_path, n_signals):
    write_segment(tmp_path, "a", LEADS)
    with pytest.raises(DamagedRecordError, match=f"Got 12 signals in the segments .*expected {n_signals}"):
        read_record(write_whole(tmp_path, ["a 40", "a 40"], n_signals=n_signals))


def test_a_layout_of_another_number_of_signals_than_the_record_gives_is_refused(tmp_path):
    write_layout(tmp_path, ("I", "II", "V1"))
    write_segment(tmp_path, "a", ("I", "II"))
    with pytest.raises(DamagedRecordError, match="Got 3 signals in the layout"):
        read_record(write_whole(tmp_path, ["layout 0", "a 40"], n_samples=40))


def test_segments_of_a_variable_record_have_some_of_its_signals_in_any_order(tmp_path):
    write_layout(tmp_path, ("I", "II", "V1", "V2"))
    a, b = (write_segment(tmp_path, name, leads) for name, leads in (("a", ("V1", "I")), ("bb", ("II", "V1"))))
    header = write_whole(tmp_path, ["layout 0", "a 40", "~ 7", "bb 40"], n_signals=4, n_samples=87)
    expected = np.full((4, 87), np.nan, dtype=np.float32)
    expected[[2, 0], :40], expected[[1, 2], 47:] = read_record(a).signal, read_record(b).signal
    for record in (read_record(header), from_wfdb(in_memory(header)), from_wfdb(in_memory(header, physical=False))):
        assert record.leads == ("I", "II", "V1", "V2")
        assert same_bits(record.signal, expected)
    assert same_bits(expected, np.float32(import_wfdb().rdrecord(str(header.with_suffix(""))).p_signal).T)


@pytest.mark.parametrize("leads", [("I", "V9"), ("I", "I"), ("I", "ECG"), ("I", "")])
def test_a_segment_with_signals_that_the_layout_does_not_tell_apart_is_refused(tmp_path, leads):
    write_layout(tmp_path, ("I", "II", "ECG", "ECG"))
    write_segment(tmp_path, "a", leads)
    with pytest.raises(DamagedRecordError, match=r"in segment a, expected some of I, II, ECG, ECG, each once"):
        read_record(write_whole(tmp_path, ["layout 0", "a 40"], n_signals=4, n_samples=40))


def test_signals_of_a_variable_record_without_names_are_refused(tmp_path):
    write_layout(tmp_path, ("I", "II"))
    write_segment(tmp_path, "a", ("", ""))
    with pytest.raises(DamagedRecordError, match=r"Got \?, \? in segment a"):
        read_record(write_whole(tmp_path, ["layout 0", "a 40"], n_samples=40))


def test_a_gap_in_a_record_of_fixed_layout_is_nan(tmp_path):
    part = read_record(write_segment(tmp_path, "a", ("I", "II"))).signal
    gap = np.full((2, 7), np.nan, dtype=np.float32)
    record = read_record(write_whole(tmp_path, ["~ 7", "a 40"], n_samples=47))
    assert same_bits(record.signal, np.concatenate([gap, part], axis=1))


def test_a_record_of_gaps_alone_is_refused(tmp_path):
    with pytest.raises(DamagedRecordError, match="Got gaps alone"):
        read_record(write_whole(tmp_path, ["~ 80"]))


def test_a_segment_of_no_samples_adds_none(tmp_path):
    part = read_record(write_segment(tmp_path, "a", ("I", "II"))).signal
    write_segment(tmp_path, "b", ("V1", "V2"))
    assert same_bits(read_record(write_whole(tmp_path, ["a 40", "b 0"], n_samples=40)).signal, part)


# --- units


@pytest.mark.parametrize("layout", [True, False])
def test_each_segment_has_its_own_units(tmp_path, layout):
    write_layout(tmp_path, ("I", "II"), units="V")
    parts = [
        read_record(write_segment(tmp_path, name, ("I", "II"), scales=[scale])).signal
        for name, scale in (("a", "1000/mV"), ("bb", "3/uV"), ("ccc", "2/µV"))
    ]
    lines = ["layout 0"] * layout + ["a 40", "bb 40", "ccc 40"]
    header = write_whole(tmp_path, lines, n_samples=120)
    assert same_bits(read_record(header).signal, np.concatenate(parts, axis=1))
    edit(tmp_path / "ccc.hea", "µV", "uV")  # wfdb drops the sign
    assert same_bits(from_wfdb(in_memory(header)).signal, np.concatenate(parts, axis=1))


def test_a_signal_is_what_the_segments_say_and_not_the_layout(tmp_path):
    write_layout(tmp_path, ("MCL1", "X", "Y"))
    write_segment(tmp_path, "a", ("MCL1", "X"), scales=["1000/mV", "10/mmHg"])
    lines = ["layout 0", "a 40"]
    assert read_record(write_whole(tmp_path, lines, n_signals=3, n_samples=40)).leads == ("MCL1", "Y")
    edit(tmp_path / "layout.hea", "1000/mV 16 0 0 0 0 Y", "1000/mmHg 16 0 0 0 0 Y")
    assert read_record(tmp_path / "whole").leads == ("MCL1",)


def test_a_segment_without_an_ecg_is_a_gap(tmp_path):
    write_layout(tmp_path, ("II", "ABP"))
    write_segment(tmp_path, "a", ("II",))
    write_segment(tmp_path, "b", ("ABP",), scales=["10/mmHg"])
    record = read_record(write_whole(tmp_path, ["layout 0", "b 40", "a 40"]))
    assert record.leads == ("II",)
    assert np.isnan(record.signal[:, :40]).all()
    assert same_bits(record.signal[:, 40:], read_record(tmp_path / "a").signal)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_signal_that_is_a_voltage_in_some_segments_alone_is_refused(tmp_path, order):
    write_segment(tmp_path, "a", ("II", "X"))
    write_segment(tmp_path, "b", ("II", "X"), scales=["1000/mV", "1/NU"])
    header = write_whole(tmp_path, [f"{name} 40" for name in order])
    with pytest.raises(UnsupportedFormatError, match=r"Got X \[NU\] in segment b"):
        read_record(header)
    with pytest.raises(UnitsError, match=r"Got X \[NU\] in segment b"):
        from_wfdb(in_memory(header))


# --- rates


@pytest.mark.parametrize("layout", [True, False])
def test_a_segment_of_another_sampling_rate_than_the_record_is_refused(tmp_path, layout):
    write_layout(tmp_path, ("I", "II"), first_line="layout 2 250 0")
    write_segment(tmp_path, "a", ("I", "II"))
    write_segment(tmp_path, "b", ("I", "II"))
    header = write_whole(tmp_path, ["layout 0"] * layout + ["a 40", "b 40"], rate=" 250")
    with pytest.raises(DamagedRecordError, match=r"Got 500 Hz as the sampling rate of a.hea and 250 Hz .*whole\.hea"):
        read_record(header)
    with pytest.raises(SamplingRateError, match="Got 500 Hz as the sampling rate of segment a and 250 Hz"):
        from_wfdb(in_memory(header))


def test_a_layout_of_another_sampling_rate_than_the_record_is_refused(tmp_path):
    write_layout(tmp_path, ("I", "II"), first_line="layout 2 250 0")
    write_segment(tmp_path, "a", ("I", "II"))
    with pytest.raises(DamagedRecordError, match=r"layout\.hea"):
        read_record(write_whole(tmp_path, ["layout 0", "a 40"], n_samples=40))


@pytest.mark.parametrize(
    ("of_a", "of_b", "of_whole", "rate"),
    [
        ("", "", "", 250),
        ("", "", " 500", 500),
        (" 500 40", "", "", 500),
        (" 500 40", "", " 500.0", 500),
        (" 500 40", " 500.01 40", " 500/500(0)", 500),
        (" 250 40", "", "", 250),
    ],
)
def test_a_rate_that_is_not_given_contradicts_none(tmp_path, of_a, of_b, of_whole, rate):
    for name, fields in (("a", of_a), ("b", of_b)):
        write_segment(tmp_path, name, ("I", "II"), first_line=f"{name} 2{fields}")
    header = write_whole(tmp_path, ["a 40", "b 40"], rate=of_whole, n_samples="")
    record = read_record(header)
    assert (record.sampling_rate, record.n_samples) == (rate, 80)


def test_only_rates_that_are_stated_are_compared():
    assert shared_rate([]) is None
    assert shared_rate([("a", 500.0), ("b", 500.04)]) == 500
    with pytest.raises(SamplingRateError, match=r"Got 500\.1 Hz as the sampling rate of b and 500 Hz as that of a"):
        shared_rate([("a", 500.0), ("b", 500.1)])


# --- samples a frame, repairs


def write_frames(folder, name, per_frame, n_frames=30):
    rng = np.random.default_rng(len(name))
    lines = [f"{name} {len(per_frame)} 250 {n_frames}"]
    for lead, count in zip(("II", "RESP", "V1"), per_frame, strict=False):
        file_name = f"{name}_{lead}.dat"
        (folder / file_name).write_bytes(rng.integers(-999, 999, n_frames * count).astype("<i2").tobytes())
        lines.append(f"{file_name} 16x{count} 200/mV 16 0 0 0 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return folder / f"{name}.hea"


def test_a_higher_rate_is_kept_beside_breathing_of_another(tmp_path):
    parts = [read_record(write_frames(tmp_path, name, (4, 1, 4))).signal for name in ("a", "bb")]
    header = write_whole(tmp_path, ["a 30", "~ 5", "bb 30"], n_signals=3, n_samples=65, rate=" 250")
    gap = np.full((2, 20), np.nan, dtype=np.float32)
    record = read_record(header)
    assert (record.sampling_rate, record.leads) == (1000, ("II", "V1"))
    assert same_bits(record.signal, np.concatenate([parts[0], gap, parts[1]], axis=1))
    without_gap = write_whole(tmp_path, ["a 30", "bb 30"], n_signals=3, n_samples=60, rate=" 250")
    record = from_wfdb(in_memory(without_gap, smooth_frames=False))
    assert record.sampling_rate == 1000
    assert same_bits(record.signal, np.concatenate(parts, axis=1))


def test_segments_of_several_rates_are_averaged_to_the_rate_of_frames(tmp_path):
    headers = [write_frames(tmp_path, "a", (4,)), write_frames(tmp_path, "bb", (1,))]
    header = write_whole(tmp_path, ["a 30", "bb 30"], n_signals=1, n_samples=60, rate=" 250")
    record = read_record(header)
    assert record.sampling_rate == 250
    assert same_bits(record.signal, np.concatenate([wfdb_millivolts(header) for header in headers], axis=1))
    assert same_bits(from_wfdb(in_memory(header)).signal, record.signal)
    with pytest.raises(LeadError, match="smooth_frames=True"):
        from_wfdb(in_memory(header, smooth_frames=False))


def test_a_signal_file_of_a_segment_in_another_case_is_found(tmp_path):
    part = read_record(write_segment(tmp_path, "a", ("I", "II"))).signal
    (tmp_path / "a.dat").rename(tmp_path / "A.DAT")
    header = write_whole(tmp_path, ["a 40"], n_samples=40)
    with pytest.warns(HeaderRepairWarning, match=r"'a\.dat' is absent, 'A\.DAT' was read"):
        assert same_bits(read_record(header).signal, part)


# --- made in memory


def segment(n_samples, **fields):
    how = {"fs": 500, "sig_name": ["I", "II"], "units": ["mV", "mV"], **fields}
    return import_wfdb().Record(p_signal=np.arange(2.0 * n_samples).reshape(n_samples, 2), **how)


def test_segments_put_together_in_memory_need_say_little():
    record = from_wfdb(import_wfdb().MultiRecord(segments=[segment(40), segment(30, fs=None)]))
    assert (record.n_samples, record.sampling_rate, record.name) == (70, 500, "")
    many = import_wfdb().MultiRecord(segments=[segment(40), None, segment(30)], seg_len=[40, 5, 30])
    assert np.isnan(from_wfdb(many).signal[:, 40:45]).all()
    assert from_wfdb(many).n_samples == 75
    many.segments, many.seg_len = [segment(40)], None
    assert from_wfdb(many).n_samples == 40
    many.segments, many.seg_len = [segment(40), segment(0, sig_name=["V1", "V2"])], [40, 0]
    assert from_wfdb(many).leads == ("I", "II")


def test_segments_in_memory_without_a_rate_are_refused():
    with pytest.raises(SamplingRateError, match=r"None in a wfdb\.MultiRecord"):
        from_wfdb(import_wfdb().MultiRecord(segments=[segment(40, fs=None)]))
    with pytest.raises(SamplingRateError, match="-1 in segment number 2"):
        from_wfdb(import_wfdb().MultiRecord(segments=[segment(40), segment(40, fs=-1)]))


@pytest.mark.parametrize("lengths", [[40], [40, None, 30], [40, 5, 30, 1]])
def test_lengths_of_segments_in_memory_must_be_there(lengths):
    segments = [segment(40), None, segment(30)]
    with pytest.raises(ParameterError, match="expected a length for each"):
        from_wfdb(import_wfdb().MultiRecord(segments=segments, seg_len=lengths))


def test_a_segment_in_memory_of_another_length_is_refused():
    with pytest.raises(ShapeError, match="Got signals of 40 samples in segment number 1, expected 41 frames"):
        from_wfdb(import_wfdb().MultiRecord(segments=[segment(40)], seg_len=[41]))


def test_a_segment_that_is_no_record_is_refused():
    with pytest.raises(ParameterError, match="Got a str, expected"):
        from_wfdb(import_wfdb().MultiRecord(segments=["a"], seg_len=[41]))
    with pytest.raises(ParameterError, match=r"Got a wfdb\.Record without signals"):
        from_wfdb(import_wfdb().MultiRecord(segments=[import_wfdb().Record(fs=500)], seg_len=[41]))
