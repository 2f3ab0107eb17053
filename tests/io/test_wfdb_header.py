"""Headers are read by the letter of their grammar."""

from __future__ import annotations

import pytest

from skecg.errors import DamagedRecordError
from skecg.io.wfdb_header import Segment, SignalLine, _parse_fields, parse_header, plain_header


def parse(text: str):
    return parse_header(text.encode(), "rec.hea")


def test_every_field_lands_in_its_place():
    header = parse(
        "r-1 1 62.4725/999.56(3) 14400 12:30:00.5 01/02/2003\nr.dat 212x4:3+24 16.5(-800)/uV 12 2048 -7 5 0 aVF x\n"
    )
    assert header[:4] == ("r-1", 62.4725, 14400, 1)
    assert header.signals == (SignalLine("r.dat", 212, 4, 3, 24, 16.5, -800, "uV", -7, "aVF x", 5),)


def test_what_lines_share_and_what_they_do_not_land_in_their_places():
    """The usual line is put together of what all records share and of what is this record's own."""
    lines = [
        f"{name}.dat 16 {scale} 16 7 {first} {checksum} 0 {lead}"
        for name, scale, first, checksum in (("r1", "1000.0(0)/mV", -5, 99), ("r2", "1000.0(0)/mV", "+8", -1))
        for lead in ("I", "aVR", "0 V1")
    ]
    lines += ["r1.dat 16 1000/mV 16 7 -5 99 0 I", "r1.dat 212 1000.0(0)/mV 16 7 -5 99 0 I"]
    signals = parse(f"rec {len(lines)}\n" + "\n".join(lines)).signals
    assert [(s.file_name, s.initial_value, s.name) for s in signals[:6]] == [
        (name, first, lead) for name, first in (("r1.dat", -5), ("r2.dat", 8)) for lead in ("I", "aVR", "0 V1")
    ]
    assert [s.checksum for s in signals[:6]] == [99, 99, 99, -1, -1, -1]
    assert {s[1:7] for s in signals[:6]} == {(16, 1, 0, 0, 1000.0, 0)}
    assert [(s.storage_format, s.baseline) for s in signals[6:]] == [(16, 7), (212, 0)]


@pytest.mark.parametrize(
    "line",
    [
        "r.dat 16 200/mV 16 0 1 2 0 I",
        "r.dat 16 0/mV 12 1024 3 4 0 a lead",
        "r.dat 16 200/mV 16 0 1 2 I",
        "r.dat 16 200/mV 16 0 1 2 a lead",
        "r.dat 16 200/mV x 0 1 2 0 I",
        "r.dat 16 200( 16 0 1 2 0 I",
    ],
)
def test_a_usual_line_is_read_by_the_same_grammar_as_any_other(line):
    whole = _parse_fields(line)
    if whole is None:
        with pytest.raises(DamagedRecordError, match="Line 2 of"):
            parse(f"rec 1\n{line}")
    else:
        assert parse(f"rec 1\n{line}").signals == (whole,)


def test_absent_fields_have_their_defaults():
    header = parse("rec 2\na.dat 16\na.dat 16 0/V 12 1024")
    assert (header.sampling_rate, header.n_frames) == (250.0, 0)
    assert header.signals[0] == SignalLine("a.dat", 16, 1, 0, 0, 200.0, 0, "mV", 0, "")
    assert header.signals[1] == SignalLine("a.dat", 16, 1, 0, 0, 200.0, 1024, "V", 0, "")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "  \t\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "# first\n\n" + text.replace("\n", "\n\n# remark\n") + "\n\n",
    ],
)
def test_line_ends_blanks_marks_and_comments_do_not_matter(wrap):
    text = "rec 2 500 10\na.dat 16 200/mV 12 0 0 0 0 I\na.dat 16 200/mV 12 0 0 0 0 II\n"
    assert parse(wrap(text)) == parse(text)


@pytest.mark.parametrize(
    "tail",
    ["", " 12:49:10 15/11/1984", " 05-May-2020 14:50:55", " 14:50:55 05-May-2020", " 99:99 1984/11/15", " today"],
)
def test_dates_in_any_order_do_not_matter(tail):
    assert parse(f"rec 1 500 10{tail}\na.dat 16")._replace() == parse("rec 1 500 10\na.dat 16")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_micro_sign_stays_one(encoding):
    header = parse_header("rec 1 500 10\na.dat 16 1/µV 16 0 0 0 0 II".encode(encoding), "rec.hea")
    assert header.signals[0].units == "µV"


@pytest.mark.parametrize(
    "line",
    [
        "a.dat sixteen 200/mV 16 0 0 0 0 I",
        "a.dat 16 much/mV 16 0 0 0 0 I",
        "a.dat 16 200/mV 16 zero 0 0 0 I",
        "a.dat 16 200/mV 16 0 0 0 none I",
        "a.dat 16 200(base)/mV 16 0 0 0 0 I",
        "a.dat 16x0 200/mV 16 0 0 0 0 I",
        "a.dat 16 1e999/mV 16 0 0 0 0 I",
        "a.dat 16 1e-30/mV 16 0 0 0 0 I",
        "a.dat 16+123456789012345678901234567890 200/mV",
        "a.dat",
    ],
)
def test_text_where_numbers_should_be_is_no_default(line):
    with pytest.raises(DamagedRecordError, match=r"Line 2 of rec\.hea"):
        parse(f"rec 1 500 10\n{line}\n")


@pytest.mark.parametrize(
    "line", ["", "rec", "rec twelve 500", "rec 1 fast", "rec 1 -5", "rec 1 500 ten", "a b 1 500", "/2 1 500"]
)
def test_a_record_line_of_other_things_is_refused(line):
    with pytest.raises(DamagedRecordError):
        parse(f"{line}\na.dat 16\n")


@pytest.mark.parametrize(("n_signals", "n_lines"), [(12, 11), (11, 12), (1, 0)])
def test_signals_promised_and_signals_listed_must_agree(n_signals, n_lines):
    with pytest.raises(DamagedRecordError, match=rf"promises {n_signals} signals but has {n_lines} "):
        parse("\n".join([f"rec {n_signals} 500 10", *["a.dat 16 200"] * n_lines]))


@pytest.mark.parametrize("rate", ["0", "0.0", "9" * 400])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(DamagedRecordError, match="sampling rate"):
        parse(f"rec 1 {rate} 10\na.dat 16")


def test_a_record_of_no_signals_is_refused():
    with pytest.raises(DamagedRecordError, match="0 signals"):
        parse("rec 0 500 10\n")


def test_segments_are_listed():
    header = parse("rec/3 2 360 300\na_1 100\n~ 50\na_2 150")
    assert header.segments == (Segment("a_1", 100), Segment("~", 50), Segment("a_2", 150))


@pytest.mark.parametrize(
    "text", ["rec/2 2 360 300\na 100", "rec/0 2 360 300", "rec/1 2 360 300\n../a 300", "rec/1 2 360 3\na x"]
)
def test_segments_must_be_there_and_bear_plain_names(text):
    with pytest.raises(DamagedRecordError):
        parse(text)


def test_a_message_never_quotes_the_header():
    for text in ("Jane Doe born 1950-01-01", "rec 1 500 10\na.dat Jane Doe", "rec 1 500 10\n# Jane Doe", "Jane Doe\0"):
        with pytest.raises(DamagedRecordError) as caught:
            parse(text)
        assert "Doe" not in str(caught.value)


def test_a_plain_header_says_where_the_steps_are_in_plain_words():
    header = parse("r.1 2 500 10 1 1\nä.b.dat 24x2:1+8 1e-3(7)/µV 9 9 -4 0 0 II\nä.b.dat 24x2:1+8 0.3/V 9 9 5 0 0 V1")
    again = parse(plain_header("record", header, ["s0.dat", "s0.dat"]))
    for ours, plain in zip(header.signals, again.signals, strict=True):
        bare = {"skew_frames": 0, "gain": 1.0, "baseline": 0, "units": "mV"}
        assert plain == ours._replace(file_name="s0.dat", name=plain.name, **bare)


def test_a_gain_with_a_capital_e_is_refused_for_wfdb_reads_it_otherwise() -> None:
    with pytest.raises(DamagedRecordError, match="no WFDB signal line"):
        parse_header(b"rec 1 500 50\nrec.dat 16 4E80/mV 0 0 0 0 0 I\n", "rec.hea")
    assert parse_header(b"rec 1 500 50\nrec.dat 16 4e2/mV 0 0 0 0 0 I\n", "rec.hea").signals[0].gain == 400
