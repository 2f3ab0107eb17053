"""What watches and chest straps export is read as it is, in any language."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest

from skecg.errors import (
    DamagedRecordError,
    LeadError,
    SamplingRateError,
    SignalWarning,
    UnitsError,
    UnsupportedFormatError,
)
from skecg.inference.inputs import RecordSource
from skecg.io import read_record
from skecg.io.statements import plain_number, read_statements
from skecg.io.text_tables import check_about_samples

if TYPE_CHECKING:
    from pathlib import Path

MICROVOLTS = np.round(np.random.default_rng(0).normal(0, 200, 300), 3)
MICROVOLTS[[3, 5]] = 12, -0.5  # whole numbers and such below one, as they occur

ENGLISH = (
    'Name,"Doe, J"\nDate of Birth,"Feb 5, 1952"\nRecorded Date,2024-01-02 03:04:05 +0100\n'
    'Classification,Sinus Rhythm\nSymptoms,\nSoftware Version,1.90\nDevice,"Watch6,1"\nSample Rate,512 hertz\n'
    "Average Heart Rate,64 bpm\n\n\nLead,Lead I\nUnit,µV\n\n"
)
GERMAN = (
    'Name\nGeburtstag,"27.03.1987"\nAufzeichnungsdatum,2020-07-31 22:48:19 +0200\nKlassifizierung,Sinusrhythmus\n'
    'Symptome,\nSoftwareversion,1.13\nGerät,"Watch4,2"\nMessrate,512\u00a0Hertz\n\n\n'
    "Ableitung,Ableitung I\nEinheit,µV\n\n"
)
PREAMBLES = {
    "English": (ENGLISH, "."),
    "German": (GERMAN, ","),
    "French": ("Nom,Louis II\nFréquence d’échantillonnage,512 hertz\n\nDérivation,Dérivation I\nUnité,µV\n\n", ","),
    "Spanish": ("Frecuencia de muestreo,512 hercios\nFrecuencia cardiaca,164\nDerivación,DI\nUnidad,µV\n\n", ","),
    "Dutch": ("Geslacht,V\nBemonstering,512,0 hertz\n\nAfleiding,Afleiding I\nEenheid,µV\n\n", ","),
    "Polish": ("Imię,X\nPróbkowanie,512 Hz\nOdprowadzenie,Odprowadzenie I\nJednostka,µV\n\n", ","),
    "Turkish": ("Ad,X\nÖrnekleme Hızı,512 hertz\nDerivasyon,I. Derivasyon\nBirim,µV\n\n", ","),
    "Russian": ("Имя,X\nЧастота дискретизации,512,0 герц\nОтведение,Отведение I\nЕдиница,мкВ\n\n", ","),
    "Japanese": ("名前,X\nサンプルレート,512ヘルツ\n誘導,誘導Ⅰ\n単位,µV\n\n", "."),
    "Chinese": ("姓名,X\n采样率,512赫兹\n导联,I 导联\n单位,微伏\n\n", "."),
    "Korean": ("이름,X\n샘플률,512헤르츠\n유도,유도 I\n단위,µV\n\n", "."),
    "Arabic digits": ("الاسم,X\nمعدل,٥١٢٫٠ هرتز\nLead,I\nUnit,µV\n\n", "."),
    "semicolons": ("Name;X\nSample Rate;512 Hz\nLead;Lead I\nUnit;uV\n\n", ","),
    "tabs": ("Name\tX\nSample Rate (Hz)\t512\nLead\tLead I\nUnit\tmicrovolts\n\n", "."),
    "comments": ("# Sampling frequency: 512\n# Notch filter: 50 Hz\n# Lead: I\n# Unit = uV\n", "."),
    "a name above": ("Device,Strap\nSample Rate,512 Hz\nUnit,uV\nLead I\n", "."),
}


def written(folder: Path, content: str | bytes, name: str = "ecg_2024.csv") -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def rows(decimal: str = ".") -> str:
    return "\n".join(f"{value:g}".replace(".", decimal) for value in MICROVOLTS) + "\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("language", PREAMBLES)
def test_an_export_is_read_as_it_is(tmp_path: Path, language: str, encoding: str, newline: str) -> None:
    preamble, decimal = PREAMBLES[language]
    try:
        content = (preamble + rows(decimal)).replace("\n", newline).encode(encoding)
    except UnicodeEncodeError:
        return  # nobody writes this language so
    record = read_record(written(tmp_path, content))
    assert (record.leads, record.sampling_rate, record.name) == (("I",), 512, "ecg_2024")
    np.testing.assert_allclose(record.signal[0], MICROVOLTS / 1000, rtol=1e-5, atol=1e-9)


def test_values_may_be_quoted(tmp_path: Path) -> None:
    quoted = "\n".join(f'"{value:g}"'.replace(".", ",") for value in MICROVOLTS)
    record = read_record(written(tmp_path, GERMAN + quoted))
    np.testing.assert_allclose(record.signal[0], MICROVOLTS / 1000, rtol=1e-5, atol=1e-9)


def test_a_rate_is_true_to_its_digits_and_its_nominal_value_may_be_given(tmp_path: Path) -> None:
    path = written(tmp_path, GERMAN.replace("512", "511,562") + rows(","))
    for given in (None, 512, 511.562):
        assert read_record(path, sampling_rate=given).sampling_rate == 511.562
    with pytest.raises(SamplingRateError, match=r"says 511.562 Hz\. Leave the argument out"):
        read_record(path, sampling_rate=500)


def test_arguments_that_agree_change_nothing_and_others_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ENGLISH + rows())
    expected = read_record(path).signal
    np.testing.assert_array_equal(read_record(path, sampling_rate=512, leads=["I"], units="uV").signal, expected)
    with pytest.raises(UnitsError, match=r"units='mV'\. Pass units='μV' or none"):
        read_record(path, units="mV")
    assert read_record(path, leads=["II"]).leads == ("II",)


def test_the_embedder_s_default_unit_gives_way_to_the_file_s(tmp_path: Path) -> None:
    path = written(tmp_path, ENGLISH + rows())
    record = RecordSource([str(path)], sampling_rate=None, leads=None, units="mV")[0]
    np.testing.assert_array_equal(record.signal, read_record(path).signal)


@pytest.mark.parametrize(
    ("lines", "error", "given"),
    [
        ("Name,X\nNetzfilter,50 Hz\nLead,I\nUnit,µV\n", SamplingRateError, {"sampling_rate": 512}),
        ("Name,X\nA,512 Hz\nB,256 Hz\nLead,I\nUnit,µV\n", SamplingRateError, {"sampling_rate": 512}),
        ("Name,X\nSample Rate,512 Hz\nUnit,µV\n", LeadError, {"leads": ["I"]}),
        ("Name,Elizabeth II\nSample Rate,512 Hz\nPatient,V1\n\nUnit,µV\n", LeadError, {"leads": ["I"]}),
        ("Name,X\nSample Rate,512 Hz\nA,µV\nB,mV\nLead,I\n", UnitsError, {"units": "uV"}),
    ],
)
def test_what_could_be_something_else_is_asked_for_and_can_be_given(tmp_path, lines, error, given) -> None:
    path = written(tmp_path, lines + "\n" + rows())
    with pytest.raises(error, match=f"Pass {next(iter(given))}="):
        read_record(path)
    np.testing.assert_allclose(read_record(path, **given).signal[0], MICROVOLTS / 1000, rtol=1e-5, atol=1e-9)


def test_names_never_come_from_a_patient_s_line() -> None:
    assert read_statements(["Name,Elizabeth II", "Sex,V", "Version,V"]) == read_statements([])


def test_columns_below_a_preamble_have_their_own_names(tmp_path: Path) -> None:
    body = "\n".join(f"{i / 300:.5f},{value / 1000},{value / 500}" for i, value in enumerate(MICROVOLTS))
    record = read_record(written(tmp_path, "Device,X\nSample rate,300 Hz\n\nTime,Lead I,Lead II\n" + body))
    assert (record.leads, record.sampling_rate) == (("I", "II"), 300)
    np.testing.assert_allclose(record.signal[1], MICROVOLTS / 500, rtol=1e-5)


@pytest.mark.parametrize("row", ["{0:.3f},{1:.3f}", "{0:.0f},{0:.0f},{1:.0f}"])
def test_columns_without_names_below_a_preamble_are_no_numbers_with_decimal_commas(tmp_path: Path, row: str) -> None:
    body = "\n".join(row.format(value, 2 * value) for value in MICROVOLTS)
    leads = ["I", "II", "V1"][: row.count(",") + 1]
    record = read_record(written(tmp_path, "Sample rate,300 Hz\nUnit,uV\n\n" + body), leads=leads)
    np.testing.assert_allclose(record.signal[-1], 2 * MICROVOLTS / 1000, atol=6e-4)


@pytest.mark.parametrize("last", ["Device,X,Y", "Lead I,mm", "Lead,I\nPatient,V9"])
def test_a_line_that_cannot_name_the_columns_names_none(tmp_path: Path, last: str) -> None:
    body = "\n".join(f"{value:.3f},{2 * value:.3f}" for value in MICROVOLTS)
    path = written(tmp_path, f"Name,X\nUnit,uV\n{last}\n" + body)
    with pytest.raises((DamagedRecordError, LeadError, SamplingRateError, UnsupportedFormatError)):
        read_record(path)


@pytest.mark.parametrize("cell", ["1:2:3:4", "at 12:30", "2024-13-01 10:00:00"])
def test_a_cell_that_is_no_moment_is_no_time(tmp_path: Path, cell: str) -> None:
    times = [f"10:00:{i / 300:07.4f}" for i in range(300)]
    times[0] = cell
    body = "\n".join(f"{time},{value:.3f}" for time, value in zip(times, MICROVOLTS, strict=True))
    with pytest.raises(DamagedRecordError, match=f"Got the text '{cell}' in line 2"):
        read_record(written(tmp_path, "time,I\n" + body), sampling_rate=300)


def test_a_row_of_units_below_the_names_is_understood(tmp_path: Path) -> None:
    body = "\n".join(f"'0:{i / 360:06.3f}',{value / 1000},{value / 500}" for i, value in enumerate(MICROVOLTS))
    path = written(tmp_path, "'Elapsed time','MLII','V5'\n'hh:mm:ss.mmm','mV','mV'\n" + body)
    assert read_record(path, sampling_rate=360).leads == ("MLII", "V5")


def test_a_name_of_two_words_above_one_column_is_one_name(tmp_path: Path) -> None:
    for name in ("Lead I (uV)", '"Lead I [µV]"', "ECG LEAD I (µV)"):
        record = read_record(written(tmp_path, f"{name}\n{rows()}"), sampling_rate=500)
        assert record.leads == ("I",)
        np.testing.assert_allclose(record.signal[0], MICROVOLTS / 1000, rtol=1e-5, atol=1e-9)


def test_a_note_to_spreadsheets_is_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path, "sep=;\nI;II\n0,1;0,2\n0,3;0,4\n")
    assert read_record(path, sampling_rate=500).leads == ("I", "II")


# ---- times ------------------------------------------------------------------------------------------------------

NANOSECONDS = 599616000000000000 + np.round(np.arange(len(MICROVOLTS)) * 1e9 / 130).astype(int)


@pytest.mark.parametrize(
    ("header", "stamp"),
    [
        ("timestamp [ns];ecg [uV]", lambda i: f"{NANOSECONDS[i]}"),
        (
            "Phone timestamp;sensor timestamp [ns];ecg [uV]",
            lambda i: f"2021-05-16T08:08:0{i // 73}.000;{NANOSECONDS[i]}",
        ),
        ("timestamp [ms];ecg [uV]", lambda i: f"{int(i * 1000 / 130)}"),
        ("time (s);ecg [uV]", lambda i: f"{i / 130:.4f}"),
    ],
)
def test_the_times_of_a_chest_strap_tell_its_rate(tmp_path: Path, header: str, stamp) -> None:
    lines = [header] + [f"{stamp(i)};{value:g}" for i, value in enumerate(MICROVOLTS)]
    path = written(tmp_path, "\n".join(lines), "h10.txt")
    for given in (None, 130):
        record = read_record(path, sampling_rate=given)
        assert (record.leads, record.sampling_rate) == (("ecg",), 130)
        np.testing.assert_allclose(record.signal[0], MICROVOLTS / 1000, rtol=1e-5, atol=1e-9)


def test_times_that_jump_tell_the_rate_beside_the_gap_and_are_warned_of(tmp_path: Path) -> None:
    late = NANOSECONDS + np.where(np.arange(len(NANOSECONDS)) >= 100, 5 * 10**9, 0)
    body = "\n".join(f"{time};{value:g}" for time, value in zip(late, MICROVOLTS, strict=True))
    path = written(tmp_path, "timestamp [ns];ecg [uV]\n" + body)
    for given in (None, 130):
        with pytest.warns(SignalWarning, match="after row 100"):
            assert read_record(path, sampling_rate=given).sampling_rate == 130


# ---- what is no recording ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "path,label\nrecords/1,NORM\nrecords/2,MI\n",
        "path,label\nrecords/1,NORM\n",
        "ecg_id;age;sex;NORM\n1;40;0;1\n2;50;1;0\n",
        "records/1\nrecords/2\n",
        "records/1\tNORM\nrecords/2\tMI\nrecords/3\tMI\n",
        "com.samsung.health.ecg,6312,2\ndatauuid,start_time,sample_frequency,\nab-1,2024-06-01 09:00:00.000,500,\n",
    ],
)
def test_a_table_about_recordings_is_none(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, content, "labels.csv")
    for read in (read_record, check_about_samples, lambda path: read_record(path, sampling_rate=500, leads=["I"])):
        with pytest.raises(UnsupportedFormatError, match=r"table about recordings.*--paths-from FILE"):
            read(path)


def test_a_recording_in_each_row_is_said_with_the_way_to_read_it(tmp_path: Path) -> None:
    content = 'Date,Frequency,Wear Position,Signal\n2024-01-01 10:00:00,300,1,"[1,2,3]"\n'
    said = r"\(Signal\).*Each row is a recording.*ECGRecord.*microvolts from a watch"
    with pytest.raises(UnsupportedFormatError, match=said):
        read_record(written(tmp_path, content, "signal.csv"))


@pytest.mark.parametrize(
    ("content", "is_cut"),
    [
        ("I,II\n0.1,0.2\n0.3,0.4\n0.5\n", True),
        ("I,II\n0.1,0.2\n0.3,0.4,0.5\n0.1,0.2\n", False),
        ("I,II\n0.1,0.2\n0.3,0.4\nEnd of recording\n", False),
    ],
)
def test_only_a_file_that_ends_within_a_row_is_said_to_be_cut_off(tmp_path: Path, content: str, is_cut: bool) -> None:
    with pytest.raises(DamagedRecordError) as raised:
        read_record(written(tmp_path, content), sampling_rate=500)
    assert ("ends in the middle of a row" in str(raised.value)) == is_cut
    assert "truncated" not in str(raised.value)


def test_sound_tables_pass_the_first_look(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in (ENGLISH + rows(), "I,II\n0.1,0.2\n" * 9, "", "\0\0", "0.1\n0.2\n" * 9999):
            check_about_samples(written(tmp_path, content))


@pytest.mark.parametrize(
    ("text", "number"), [("1,5", 1.5), ("512", 512.0), ("1,234.5", None), ("1e", None), ("", None)]
)
def test_a_number_has_one_decimal_sign_at_most(text: str, number: float | None) -> None:
    assert plain_number(text) == number


@pytest.mark.parametrize(
    "rate", ["5 hertz", "1,234.5 hertz", "1,000 Hz", "10,000 Hz", "12,800 Hz", "10.000 Hz", "10,000", "10.000"]
)
def test_a_rate_that_no_recorder_has_is_asked_for(rate: str) -> None:
    assert read_statements([f"Sample Rate: {rate}", "Unit: mV"]).sampling_rate is None


@pytest.mark.parametrize(
    ("text", "rate"), [("31.25 Hz", 31.25), ("511,562 Hz", 511.562), ("10000 Hz", 10_000), ("50,0 Hz", 50)]
)
def test_other_rates_are_taken(text: str, rate: float) -> None:
    assert read_statements([f"Sample Rate: {text}"]).sampling_rate == rate
