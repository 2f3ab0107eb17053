"""Whole WFDB records: every storage format, several rates, parts, repairs, and records already in memory."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from wfdb_writing import edit, random_steps, same_bits, wfdb_millivolts, write_wfdb

from skecg.errors import (
    DamagedRecordError,
    HeaderRepairWarning,
    LeadError,
    ParameterError,
    RecordNotFoundError,
    UnitsError,
    UnsupportedFormatError,
)
from skecg.io import from_wfdb, read_record
from skecg.io.wfdb import import_wfdb, read_annotation

N = 120
BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2, "212": 1.5, "310": 4 / 3, "311": 4 / 3}


def write_bytes(folder, storages, units=("mV",), leads=("II", "V1", "V2", "V3"), first_line=None):
    """One file of noise for each signal: whatever the bytes are, they mean something in every plain format."""
    rng = np.random.default_rng(7)
    lines = [first_line or f"rec {len(storages)} 250 {N}"]
    for i, storage in enumerate(storages):
        layout, _, per_frame = storage.partition(":")[0].partition("x")
        size = int(np.ceil(N * int(per_frame or 1) * BYTES[layout]))
        (folder / f"f{i}.dat").write_bytes(rng.integers(0, 256, size, dtype=np.uint8).tobytes())
        lines.append(f"f{i}.dat {storage} 55.5(3)/{units[i % len(units)]} 12 0 -9 0 0 {leads[i]}")
    (folder / "rec.hea").write_text("\n".join(lines) + "\n")
    return folder / "rec.hea"


@pytest.mark.parametrize("storage", BYTES)
def test_every_plain_format_is_read_to_the_bit(tmp_path, storage):
    header = write_bytes(tmp_path, [storage, "16"], units=("mV", "uV"))
    assert same_bits(read_record(header).signal, wfdb_millivolts(header))


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb writes headers with pandas
@pytest.mark.parametrize("storage", ["508", "516", "524"])
def test_every_compressed_format_is_read_to_the_bit(tmp_path, storage):
    bits = int(storage) - 500
    import_wfdb().wrsamp(
        "rec",
        fs=500,
        units=["mV", "mV"],
        sig_name=["I", "II"],
        d_signal=random_steps(300, 2, bits),
        fmt=[storage] * 2,
        adc_gain=[200.0, 100.0],
        baseline=[0, 5],
        write_dir=str(tmp_path),
    )
    header = tmp_path / "rec.hea"
    assert same_bits(read_record(header).signal, wfdb_millivolts(header))


def test_a_skew_is_undone_as_wfdb_does_it(tmp_path):
    header = write_bytes(tmp_path, ["16", "16:5"])
    signal = read_record(header).signal
    assert same_bits(signal, wfdb_millivolts(header))
    assert np.isnan(signal[1, -5:]).all()


@pytest.mark.parametrize("n_refused", [1, 2])
def test_a_system_without_links_reads_the_same(tmp_path, monkeypatch, n_refused):
    header = write_bytes(tmp_path, ["80", "24"])
    before = read_record(header).signal

    def refuse(*_args, **_how):
        raise OSError("links are not supported")

    for owner, name in [("pathlib.Path", "symlink_to"), ("os", "link")][:n_refused]:
        monkeypatch.setattr(f"{owner}.{name}", refuse)
    assert same_bits(read_record(header).signal, before)


def test_leads_that_share_a_higher_rate_keep_it(tmp_path):
    header = write_bytes(tmp_path, ["16x4", "16x4", "16"], units=("mV", "mV", "mmHg"), leads=("II", "V1", "ABP"))
    record = read_record(header)
    expanded = import_wfdb().rdrecord(str(header.with_suffix("")), smooth_frames=False).e_p_signal
    assert (record.sampling_rate, record.leads) == (1000, ("II", "V1"))
    assert same_bits(record.signal, np.float32(np.stack(expanded[:2])))


def test_breathing_without_a_unit_does_not_lower_the_rate_of_the_ecg(tmp_path):
    header = write_bytes(tmp_path, ["16x4", "16"], leads=("MCL1", "RESP"))
    edit(header, "55.5(3)/mV", "55.5(3)")
    record = read_record(header)
    assert (record.sampling_rate, record.leads) == (1000, ("MCL1",))


def test_leads_of_several_rates_are_averaged_to_the_rate_of_frames(tmp_path):
    header = write_bytes(tmp_path, ["16x4", "16", "24x2"])
    record = read_record(header)
    assert record.sampling_rate == 250
    assert same_bits(record.signal, wfdb_millivolts(header))


def half_a_millivolt(folder, *signals, missing=None):
    """500 frames of half a millivolt, in leads of these formats and baselines; the first may lack a sample."""
    lines = [f"half {len(signals)} 125 500"]
    for row, (storage, baseline) in enumerate(signals):
        per_frame = int(storage.partition("x")[2].partition(":")[0] or 1)
        steps = np.full(500 * per_frame, baseline + 100, "<i2")
        if row == 0 and missing is not None:
            steps[missing] = -(2**15)
        (folder / f"{row}.dat").write_bytes(steps.tobytes())
        lines.append(f"{row}.dat {storage} 200({baseline})/mV 16 0 0 0 0 {('I', 'II', 'V1')[row]}")
    (folder / "half.hea").write_text("\n".join(lines) + "\n")
    return read_record(folder / "half.hea")


@pytest.mark.parametrize(
    ("signals", "rate", "late"),
    [
        ([("16x2", 1024), ("16x2:3", 1024)], 250, [0, 6]),
        ([("16x4:3", 0), ("16", 0)], 125, [3, 0]),
        ([("16x4:3", 7), ("16:5", 7), ("16x2:1", -20)], 125, [3, 5, 1]),
    ],
)
def test_a_skew_is_one_of_frames_and_what_it_leaves_open_is_a_gap(tmp_path, signals, rate, late):
    record = half_a_millivolt(tmp_path, *signals)
    assert record.sampling_rate == rate
    for values, n_missing in zip(record.signal, late, strict=True):
        end = len(values) - n_missing
        assert (values[:end] == 0.5).all()
        assert np.isnan(values[end:]).all()


def test_a_frame_with_a_sample_missing_has_no_mean(tmp_path):
    signal = half_a_millivolt(tmp_path, ("16x4", 0), ("16", 0), missing=401).signal
    assert np.flatnonzero(np.isnan(signal[0])).tolist() == [100]
    assert (np.delete(signal[0], 100) == 0.5).all()
    assert (signal[1] == 0.5).all()


def test_signals_of_one_file_may_have_skews_of_their_own(tmp_path):
    steps = np.arange(1000, dtype="<i2").reshape(500, 2)
    (tmp_path / "two.dat").write_bytes(steps.tobytes())
    header = tmp_path / "two.hea"
    lines = [f"two.dat 16:{late} 200(0)/mV 16 0 0 0 0 {lead}" for late, lead in ((2, "I"), (5, "II"))]
    header.write_text("\n".join(["two 2 125 500", *lines]) + "\n")
    found = read_record(header).signal
    for values, column, late in zip(found, steps.T, (2, 5), strict=True):
        assert np.array_equal(values[:-late], np.float32(column[late:] / 200))
        assert np.isnan(values[-late:]).all()


def test_differences_can_be_skewed_too(tmp_path):
    (tmp_path / "d.dat").write_bytes(np.ones(500, np.int8).tobytes())
    (tmp_path / "d.hea").write_text("d 1 125 500\nd.dat 8:2 200(0)/mV 8 0 99 0 0 II\n")
    [found] = read_record(tmp_path / "d.hea").signal
    assert np.array_equal(found[:-2], np.float32(np.arange(102, 600) / 200))


def test_a_micro_sign_is_not_lost(tmp_path):
    """A reader that drops what is not ASCII makes volts of microvolts."""
    plain = read_record(write_wfdb(tmp_path, "plain", scales=["1/uV"])).signal
    for storage in ("16", "16:0+0"):
        header = edit(write_wfdb(tmp_path, "micro", scales=["1/µV"]), " 16 1/", f" {storage} 1/")
        assert same_bits(read_record(header).signal, plain)
    (tmp_path / "f0.dat").write_bytes(bytes(range(200)))
    slow = tmp_path / "slow.hea"
    slow.write_text("slow 1 500 200\nf0.dat 80 1/µV 8 0 0 0 0 II\n", encoding="utf-8")
    assert np.nanmax(np.abs(read_record(slow).signal)) < 1


def test_dates_that_wfdb_refuses_do_not_matter_in_any_format(tmp_path):
    header = write_bytes(tmp_path, ["80", "24"])
    before = read_record(header).signal
    edit(header, f"250 {N}", f"250 {N} 14:50:55 05-May-2020")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_bits(read_record(header).signal, before)


def test_wfdb_is_imported_without_its_own_warnings(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "wfdb"]:
        monkeypatch.delitem(sys.modules, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert import_wfdb() is sys.modules["wfdb"] is import_wfdb()
    assert [warning for warning in caught if "wfdb" in warning.filename] == []


def test_a_warning_that_was_made_an_error_is_not_taken_for_damage(tmp_path, monkeypatch):
    wfdb = import_wfdb()
    read = wfdb.rdrecord

    def warn_and_read(*args, **how):
        warnings.warn("will change", FutureWarning, stacklevel=2)
        return read(*args, **how)

    monkeypatch.setattr(wfdb, "rdrecord", warn_and_read)
    header = write_bytes(tmp_path, ["310"])
    with pytest.warns(FutureWarning):
        assert read_record(header).n_samples == N
    with pytest.raises(FutureWarning, match="will change"):  # pytest is told to make warnings errors
        read_record(header)


# --- names


def test_numbered_channels_are_no_limb_leads(tmp_path):
    record = read_record(write_wfdb(tmp_path, steps=random_steps(50, 3), leads=["ECG 1", "ECG_2", "3"]))
    assert record.leads == ("ECG1", "ECG2", "ECG3")


def test_signals_of_one_name_or_none_are_told_apart(tmp_path):
    record = read_record(write_wfdb(tmp_path, steps=random_steps(50, 4), leads=["ECG", "ECG", "", "ECG"]))
    assert record.leads == ("ECG", "ECG#2", "signal 3", "ECG#3")


def test_a_standard_lead_named_twice_is_an_error(tmp_path):
    with pytest.raises(DamagedRecordError, match="Lead II is named twice"):
        read_record(write_wfdb(tmp_path, steps=random_steps(50, 3), leads=["II", "V1", "ii"]))


def test_a_record_without_a_voltage_is_an_error_that_lists_what_it_has(tmp_path):
    header = write_wfdb(tmp_path, scales=["100/mmHg", "1/NU"], leads=["ABP", "PLETH"])
    with pytest.raises(UnsupportedFormatError, match=r"ABP \[mmHg\], PLETH \[NU\]"):
        read_record(header)


def test_the_record_is_named_after_its_file(tmp_path):
    header = write_wfdb(tmp_path, "00001_hr", first_line="other 2 500 100")
    assert read_record(header).name == "00001_hr"


# --- repairs


def test_a_signal_file_in_place_of_the_record_name_is_repaired_with_one_warning(tmp_path):
    sound = read_record(write_wfdb(tmp_path, "E00271", storage="16+24"))
    header = edit(tmp_path / "E00271.hea", "E00271 2 ", "E00271.mat 2 ")
    with pytest.warns(HeaderRepairWarning, match=r"record name 'E00271\.mat'") as caught:
        record = read_record(header)
    assert len(caught) == 1
    assert record.name == "E00271"
    assert same_bits(record.signal, sound.signal)


def test_the_repair_serves_formats_that_wfdb_decodes(tmp_path):
    header = write_bytes(tmp_path, ["80", "310"])
    before = read_record(header).signal
    edit(header, "rec 2", "rec.v2.dat 2")
    with pytest.warns(HeaderRepairWarning):
        assert same_bits(read_record(header).signal, before)


def test_a_signal_file_in_another_case_is_found(tmp_path):
    header = write_wfdb(tmp_path)
    before = read_record(header).signal
    header.with_suffix(".dat").rename(tmp_path / "REC.DAT")
    with pytest.warns(HeaderRepairWarning, match=r"'rec\.dat' is absent, 'REC\.DAT' was read"):
        assert same_bits(read_record(header).signal, before)


def test_a_record_whose_files_were_both_renamed_is_found(tmp_path):
    before = read_record(write_wfdb(tmp_path)).signal
    for suffix in (".hea", ".dat"):
        (tmp_path / f"rec{suffix}").rename(tmp_path / f"patient7{suffix}")
    with pytest.warns(HeaderRepairWarning, match="'patient7.dat' was read"):
        assert same_bits(read_record(tmp_path / "patient7").signal, before)


def test_a_renamed_file_of_another_length_is_not_taken(tmp_path):
    header = write_wfdb(tmp_path)
    (tmp_path / "rec.mat").write_bytes((tmp_path / "rec.dat").read_bytes() + b"x")
    (tmp_path / "rec.dat").unlink()
    with pytest.raises(RecordNotFoundError, match=r"'rec\.dat'"):
        read_record(header)


def test_a_sound_header_gives_no_warning(tmp_path):
    header = write_wfdb(tmp_path, scales=["1000/mv"])
    text = "\ufeff" + header.read_text().replace("\n", "  \r\n").rstrip()
    header.write_text(text, encoding="utf-8", newline="")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_record(header).leads == ("I", "II")


# --- records in several parts


def write_parts(folder, *, layout=False):
    parts = [write_wfdb(folder, name, random_steps(n, 2, seed=n)) for name, n in (("a", 40), ("b", 60))]
    lines = ["whole/2 2 500 100", "a 40", "b 60"]
    if layout:
        text = "layout 2 500 0\n~ 0 1000/mV 16 0 0 0 0 I\n~ 0 1000/mV 16 0 0 0 0 II\n"
        (folder / "layout.hea").write_text(text)
        lines = ["whole/4 2 500 110", "layout 0", "a 40", "~ 10", "b 60"]
    (folder / "whole.hea").write_text("\n".join(lines) + "\n")
    return folder / "whole.hea", parts


def test_parts_are_joined(tmp_path):
    header, parts = write_parts(tmp_path)
    joined = np.concatenate([read_record(part).signal for part in parts], axis=1)
    record = read_record(header)
    assert record.name == "whole"
    assert same_bits(record.signal, joined)
    assert same_bits(record.signal, wfdb_millivolts(header))


def test_a_gap_between_parts_is_nan(tmp_path):
    header, _ = write_parts(tmp_path, layout=True)
    signal = read_record(header).signal
    assert same_bits(signal, wfdb_millivolts(header))
    assert np.isnan(signal[:, 40:50]).all()
    assert np.isfinite(signal).mean() > 0.9 - 1e-9


def test_parts_of_several_rates_are_averaged_to_the_rate_of_frames(tmp_path):
    write_bytes(tmp_path, ["16x4", "16"])
    (tmp_path / "whole.hea").write_text(f"whole/2 2 250 {2 * N}\nrec {N}\nrec {N}\n")
    record = read_record(tmp_path / "whole")
    assert record.sampling_rate == 250
    assert same_bits(record.signal, wfdb_millivolts(tmp_path / "whole.hea"))


def test_parts_that_share_a_higher_rate_keep_it(tmp_path):
    header = write_bytes(tmp_path, ["16x4", "16x4"])
    (tmp_path / "whole.hea").write_text(f"whole/1 2 250 {N}\nrec {N}\n")
    assert read_record(tmp_path / "whole").sampling_rate == 1000
    assert same_bits(read_record(tmp_path / "whole").signal, read_record(header).signal)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda f: (f / "b.dat").write_bytes(b"short"), DamagedRecordError),
        (lambda f: (f / "b.dat").unlink(), RecordNotFoundError),
        (lambda f: (f / "b.hea").unlink(), RecordNotFoundError),
        (lambda f: edit(f / "b.hea", "500 60", "500 59"), DamagedRecordError),
        (lambda f: edit(f / "whole.hea", "b 60", "b 61"), DamagedRecordError),
        (lambda f: edit(f / "b.hea", "1000/mV", "1000/mmHg"), UnsupportedFormatError),
    ],
)
def test_a_damaged_part_is_an_error_of_the_whole(tmp_path, damage, error):
    header, _ = write_parts(tmp_path)
    damage(tmp_path)
    with pytest.raises(error):
        read_record(header)


# --- records already in memory


@pytest.mark.parametrize(
    "how", [{}, {"physical": False}, {"smooth_frames": False}, {"physical": False, "smooth_frames": False}]
)
def test_a_record_in_memory_is_the_record_on_disk(tmp_path, how):
    header = write_wfdb(
        tmp_path, steps=random_steps(90, 3, 16), scales=["200(7)/uV", "1000/mV", "10/mmHg"], leads=["I", "II", "ABP"]
    )
    in_memory = import_wfdb().rdrecord(str(header.with_suffix("")), **how)
    record, on_disk = from_wfdb(in_memory), read_record(header)
    assert same_bits(record.signal, on_disk.signal)
    assert (record.leads, record.sampling_rate, record.name) == (on_disk.leads, 500, "rec")


def test_parts_in_memory_are_joined(tmp_path):
    header, _ = write_parts(tmp_path, layout=True)
    parts = import_wfdb().rdrecord(str(header.with_suffix("")), m2s=False)
    assert same_bits(from_wfdb(parts).signal, read_record(header).signal)


def test_leads_in_memory_that_share_a_higher_rate_keep_it(tmp_path):
    header = write_bytes(tmp_path, ["16x4", "16x4", "16"], units=("mV", "uV", "mmHg"), leads=("II", "V1", "ABP"))
    record = from_wfdb(import_wfdb().rdrecord(str(header.with_suffix("")), smooth_frames=False))
    assert (record.sampling_rate, record.n_samples) == (1000, 4 * N)
    assert same_bits(record.signal, read_record(header).signal)


def test_what_is_no_record_in_memory_is_refused(tmp_path):
    header = write_wfdb(tmp_path)
    for thing in (None, 3, "rec", np.zeros((2, 3)), import_wfdb().rdheader(str(header.with_suffix("")))):
        with pytest.raises(ParameterError, match=r"wfdb\.Record"):
            from_wfdb(thing)


def test_faults_of_a_record_in_memory_are_errors_of_the_input():
    wfdb = import_wfdb()
    signal = np.zeros((50, 2))
    with pytest.raises(UnitsError):
        from_wfdb(wfdb.Record(p_signal=signal, fs=500, sig_name=["a", "b"], units=["mmHg", "NU"]))
    with pytest.raises(LeadError):
        from_wfdb(wfdb.Record(p_signal=signal, fs=500, sig_name=["I", "I"], units=["mV", "mV"]))
    fields = {"sig_name": ["I", "II"], "units": ["mV", "mV"], "samps_per_frame": [1, 2]}
    with pytest.raises(LeadError, match="smooth_frames=True"):
        from_wfdb(wfdb.Record(e_p_signal=[np.zeros(50), np.zeros(100)], fs=500, **fields))
    with pytest.raises(ParameterError, match="names"):
        from_wfdb(wfdb.Record(p_signal=signal, fs=500, sig_name=["I"], units=["mV", "mV"]))
    with pytest.raises(ParameterError, match="adc_gain"):
        from_wfdb(
            wfdb.Record(d_signal=signal.astype(int), fs=500, sig_name=["I", "II"], units=["mV", "mV"], fmt=["16"] * 2)
        )


# --- real files


def test_the_real_header_that_wfdb_refuses_is_read(shared):
    path = shared / "data" / "raw" / "cinc2021" / "E00271"
    with pytest.warns(HeaderRepairWarning, match="E00271"):
        record = read_record(path)
    samples = np.frombuffer(path.with_suffix(".mat").read_bytes()[24:], dtype="<i2").reshape(-1, 12)
    assert record.signal.shape == (12, 5000)
    assert same_bits(record.signal, np.float32(samples.T / 1000.0))


@pytest.mark.parametrize(
    ("name", "rate", "leads"), [("03700181", 500, ("MCL1",)), ("mixedsignals", 249.89, ("II", "III", "V"))]
)
def test_real_records_of_several_rates_keep_that_of_the_ecg(shared, name, rate, leads):
    path = shared / "data" / "raw" / "wfdb_formats" / name
    record = read_record(path)
    assert record.sampling_rate == pytest.approx(rate)
    assert record.leads == leads
    expanded = import_wfdb().rdrecord(str(path), smooth_frames=False)
    for lead, signal in zip(record.leads, record.signal, strict=True):
        assert same_bits(signal, np.float32(expanded.e_p_signal[expanded.sig_name.index(lead)]))


def test_a_real_record_of_fifteen_leads_in_two_files_has_them_by_name(shared):
    record = read_record(shared / "data" / "raw" / "wfdb_formats" / "s0010_re.xyz")
    assert record.leads[3:6] == ("aVR", "aVL", "aVF")
    assert record.leads[12:] == ("vx", "vy", "vz")


def test_a_segment_that_consists_of_segments_is_damaged(tmp_path):
    (tmp_path / "r.hea").write_text("r/1 1 500 100\nq 100\n")
    (tmp_path / "q.hea").write_text("q/1 1 500 100\nr 100\n")
    with pytest.raises(DamagedRecordError, match="consists of segments itself"):
        read_record(tmp_path / "r.hea")


def words(*pairs: tuple[int, int]) -> bytes:
    return b"".join((code << 10 | value).to_bytes(2, "little") for code, value in pairs)


def test_annotations_have_samples_channels_and_a_rate(tmp_path):
    path = tmp_path / "x.atr"
    note = b"## time resolution: 360\0"  # wfdb writes it behind a note
    far = (59 << 10).to_bytes(2, "little") + b"\x01\x00\x00\x00"  # 65,536 samples later
    content = [
        words((22, 0), (63, len(note))),
        note,
        words((39, 10), (62, 1), (1, 5), (60, 2), (61, 4)),
        far,
        words((40, 0), (63, 3)),
        b"abc\0",
        words((0, 0)),
    ]
    path.write_bytes(b"".join(content))
    marks, channels, rate = read_annotation(path)
    assert (marks, rate) == ([(0, 22), (10, 39), (15, 1), (65551, 40)], 360.0)
    assert channels == [0, 1, 1, 1]
    theirs = import_wfdb().rdann(str(path.with_suffix("")), "atr")
    assert theirs.sample.tolist() == [10, 15, 65551]
    assert theirs.fs == 360


def test_a_channel_before_any_mark_is_of_none(tmp_path):
    (tmp_path / "x.atr").write_bytes(words((62, 3), (1, 5), (0, 0)))
    assert read_annotation(tmp_path / "x.atr") == ([(5, 1)], [0], None)


@pytest.mark.parametrize("content", [b"", words((1, 5)), words((1, 5), (59, 0)), words((1, 5), (63, 9))])
def test_annotations_without_their_end_are_damaged(tmp_path, content):
    (tmp_path / "x.atr").write_bytes(content)
    with pytest.raises(DamagedRecordError, match="without the end of its annotations"):
        read_annotation(tmp_path / "x.atr")
    with pytest.raises(RecordNotFoundError, match="no file of annotations"):
        read_annotation(tmp_path / "none.atr")
