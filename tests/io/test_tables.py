from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from skecg.errors import (
    DamagedRecordError,
    LeadError,
    RecordNotFoundError,
    SamplingRateError,
    ShapeError,
    SkecgError,
    UnitsError,
    UnsupportedFormatError,
)
from skecg.io.tables import TABLE_SUFFIXES, read_table
from skecg.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEADS = list(CANONICAL_LEADS)
TWO = "0.1,-0.2\n0.3,0.4\n-0.5,0.6\n"
TWO_SIGNAL = [[0.1, 0.3, -0.5], [-0.2, 0.4, 0.6]]


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "a.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


values = st.one_of(st.just(float("nan")), st.floats(-1e4, 1e4, width=32))
tables = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=values)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    signal=tables,
    delimiter=st.sampled_from([",", ";", "\t", " ", "  ", ", "]),
    missing=st.sampled_from(["nan", "NA", "NaN", "null", ""]),
    newline=st.sampled_from(["\n", "\r\n", "\r", "\r\r\n"]),
    start=st.sampled_from(["", "\ufeff", "\n"]),
    end=st.sampled_from(["", "\n", "\n\n"]),
    decimal=st.sampled_from([".", ","]),
    has_header=st.booleans(),
    has_index=st.booleans(),
    is_quoted=st.booleans(),
)
def test_what_is_written_is_read_back(
    tmp_path: Path,
    signal: np.ndarray,
    delimiter: str,
    missing: str,
    newline: str,
    start: str,
    end: str,
    decimal: str,
    has_header: bool,
    has_index: bool,
    is_quoted: bool,
) -> None:
    if not delimiter.strip(" "):
        missing, decimal, is_quoted = missing or "nan", ".", False  # blanks separate neither nothing nor numbers
    is_single = signal.shape[0] + has_index == 1
    decimal = "." if "," in delimiter or is_single else decimal  # 0,1 alone in a line is two numbers
    missing = "nan" if is_single else missing  # a last empty line is no row
    leads = LEADS[: len(signal)]

    def line(cells: list[str]) -> str:
        return delimiter.join(f'"{cell}"' if is_quoted else cell for cell in cells)

    rows = [[*(["time"] if has_index else []), *leads]] if has_header else []
    for i, column in enumerate(signal.T):
        cells = [missing if np.isnan(v) else f"{v!r}".split("(")[-1].rstrip(")").replace(".", decimal) for v in column]
        rows.append([*([str(i)] if has_index else []), *cells])
    path = tmp_path / "a.csv"
    path.write_bytes((start + newline.join(map(line, rows)) + end).encode())
    last_is_empty = bool(np.isnan(signal[-1]).all())
    if has_index and (signal.shape[1] == 1 or (last_is_empty and not has_header)):
        with pytest.raises(LeadError):  # one row is no ramp; and an empty last column may be none
            read_table(path, sampling_rate=500, leads=leads)
        return
    if not has_index and np.isnan(signal).all() and missing == "":
        return  # a file of delimiters: refused or not, nothing is lost
    record = read_table(path, sampling_rate=500, leads=None if has_header else leads)
    assert record.leads == tuple(leads)
    np.testing.assert_array_equal(record.signal, signal)


def test_rate_leads_units_and_name_are_those_given(table: Callable[..., Path]) -> None:
    record = read_table(table(TWO, "p7.csv"), sampling_rate=250, leads=["ii", "v1"], units="uV")
    assert (record.name, record.sampling_rate, record.leads) == ("p7", 250, ("II", "V1"))
    np.testing.assert_allclose(record.signal, np.array(TWO_SIGNAL) / 1000, rtol=1e-6)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.TXT"])
def test_the_suffix_does_not_decide_the_delimiter(table: Callable[..., Path], name: str) -> None:
    assert read_table(table(TWO, name), sampling_rate=250, leads=["I", "II"]).n_samples == 3


@pytest.mark.parametrize(
    "content",
    [
        TWO.replace(",", ";").replace(".", ","),
        TWO.replace(",", "\t").replace(".", ","),
        TWO.replace(",", ",  "),
        TWO.replace("\n", ",\n"),
        "# lead I, lead II\n" + TWO,
        "I (mV),II [mV]\n" + TWO,
        "\n\nMDC_ECG_LEAD_I,dii\n" + TWO,
        "I|II\n" + TWO.replace(",", "|"),
        TWO.replace(",", "|").replace(".", ","),
        ",0,1\n0,0.1,-0.2\n1,0.3,0.4\n2,-0.5,0.6\n",
        "Time (s),I,II\n0,0.1,-0.2\n0.002,0.3,0.4\n0.004,-0.5,0.6\n",
        TWO.encode("utf-16"),
        '"I","II"\n"0.1","-0.2"\n"0.3","0.4"\n"-0.5","0.6"\n',
        "0,1;-0,2\n,3;0,4\n-0,5;6E-1\n",
        "I,II\nµ".encode("latin-1")[:5] + TWO.encode(),
    ],
)
def test_common_dialects_mean_the_same(table: Callable[..., Path], content: str | bytes) -> None:
    record = read_table(table(content), sampling_rate=500, leads=["I", "II"])
    np.testing.assert_allclose(record.signal, np.array(TWO_SIGNAL), rtol=1e-6)


@pytest.mark.parametrize("first", [0, 1])
def test_a_row_of_column_numbers_is_no_sample(table: Callable[..., Path], first: int) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 12))
    numbered = (
        ",".join(map(str, range(first, first + 12))) + "\n" + "\n".join(",".join(f"{v}" for v in row) for row in rows)
    )
    np.testing.assert_allclose(read_table(table(numbered), sampling_rate=500, leads=LEADS).signal, rows.T, rtol=1e-6)
    assert read_table(table("0,1\n1,1\n2,1\n"), sampling_rate=500, leads=["I", "II"]).n_samples == 3


@pytest.mark.parametrize("row", ["1000,1000", ",3,3", "0,1,2", "1,2,3", ",3", "3"])
@pytest.mark.parametrize("names", ["", "Device: x\n\n"])
def test_a_row_of_counts_is_no_sample(table: Callable[..., Path], names: str, row: str) -> None:
    n_columns = row.count(",") + 1
    names += ",".join(["time" if row[0] == "," else "V1", "I", "II"][:n_columns])
    body = "".join(",".join([f"{0.002 * i:.3f}", "0.5", "-0.5"][:n_columns]) + "\n" for i in range(3))
    with pytest.raises(
        DamagedRecordError, match=r"in line [24] of .*, above numbers with fractions, .* Delete the line"
    ):
        read_table(table(f"{names}\n{row}\n{body}"), sampling_rate=500)
    with pytest.raises(DamagedRecordError, match="in line 1 of"):
        read_table(table(f"{row}\n{body}"), sampling_rate=500, leads=["I", "II", "V1"][:n_columns])


@pytest.mark.parametrize(
    "rows", ["0,0\n0.1,0.2\n", "5,5\n5,4\n0.1,0.2\n", "1,1\n", "0,1\n0.1,0.9\n", "-1,-1\n0.1,0.2\n"]
)
def test_a_first_sample_of_whole_numbers_is_a_sample(table: Callable[..., Path], rows: str) -> None:
    found = read_table(table("I,II\n" + rows), sampling_rate=500)
    assert found.signal[:, 0].tolist() == [float(cell) for cell in rows.split("\n")[0].split(",")]


def test_without_rate_the_message_says_what_to_pass(table: Callable[..., Path]) -> None:
    with pytest.raises(SamplingRateError, match=r"a\.csv.*Pass sampling_rate="):
        read_table(table("I,II\n" + TWO))
    with pytest.raises(SamplingRateError):
        read_table(table("I,II\n" + TWO), sampling_rate=-1)


@pytest.mark.parametrize("n_columns", [1, 2, 8, 12, 13])
def test_leads_are_never_guessed(table: Callable[..., Path], n_columns: int) -> None:
    with pytest.raises(LeadError, match=rf"{n_columns} columns without names.*Pass leads="):
        read_table(table("\n".join([",".join(["0.5"] * n_columns)] * 20)), sampling_rate=500)


@pytest.mark.parametrize("leads", [["I"], ["I", "II", "III", "V1"], ["I", "II", "III"]])
def test_columns_and_leads_must_be_as_many(table: Callable[..., Path], leads: list[str]) -> None:
    with pytest.raises(LeadError, match="2 columns"):
        read_table(table(TWO), sampling_rate=500, leads=leads)


@pytest.mark.parametrize("name", ["a.csv", "a.npy"])
@pytest.mark.parametrize("leads", [{"I", "II"}, frozenset({"I", "II"}), {"MLII": "II", "V5": "V5"}, 2])
def test_leads_without_an_order_are_refused(table: Callable[..., Path], name: str, leads: object) -> None:
    path = table(TWO, name)
    if name == "a.npy":
        np.save(path, TWO_SIGNAL)
    with pytest.raises(LeadError, match="expected a list of names in the order"):
        read_table(path, sampling_rate=500, leads=leads)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [TWO, "I (uV),II [uV]\n" + TWO, "I,II\nuV,uV\n" + TWO])
def test_the_unit_in_names_that_the_caller_gives_is_obeyed(table: Callable[..., Path], content: str) -> None:
    record = read_table(table(content), sampling_rate=500, leads=["I (uV)", "II (µV)"])
    np.testing.assert_allclose(record.signal, np.array(TWO_SIGNAL) * 1e-3, rtol=1e-6)
    for leads, units in ((["I (nV)", "II (uV)"], None), (["I (uV)", "II"], None), (["I (uV)", "II (uV)"], "mV")):
        with pytest.raises(UnitsError, match=r"named I .*V\), .*expected one unit|named I \(uV\) and values in mV"):
            read_table(table(content), sampling_rate=500, leads=leads, units=units)


def test_an_extra_first_column_is_dropped_only_if_it_is_a_ramp(table: Callable[..., Path]) -> None:
    path = table("5,0.1\n6,0.2\n9,0.3\n")
    assert read_table(path, sampling_rate=500, leads="II").signal.tolist() == [pytest.approx([0.1, 0.2, 0.3])]
    with pytest.raises(LeadError, match="does not increase all along"):
        read_table(table("5,0.1\n6,0.2\n6,0.3\n"), sampling_rate=500, leads=["II"])


def test_an_empty_last_column_is_no_lead_unless_it_must_be(table: Callable[..., Path]) -> None:
    both = table("0,0.1,0.2,\n1,0.3,0.1,\n2,0.2,0.1,\n")
    assert read_table(both, sampling_rate=500, leads=["I", "II"]).signal[:, 0].tolist() == pytest.approx([0.1, 0.2])
    assert np.isnan(read_table(both, sampling_rate=500, leads=["V3", "I", "II", "III"]).signal[3]).all()
    either = table("0,0.1,\n1,0.3,\n")
    with pytest.raises(LeadError, match="either could be no lead"):
        read_table(either, sampling_rate=500, leads=["I", "II"])
    named = table("V1,V2,\n0,0.1,\n1,0.3,\n")
    assert read_table(named, sampling_rate=500).signal[0].tolist() == [0, 1]


def test_rows_of_empty_cells_are_samples(table: Callable[..., Path]) -> None:
    signal = read_table(table("\t\n0.1\t0.2\n\t\n"), sampling_rate=500, leads=["I", "II"]).signal
    np.testing.assert_array_equal(signal[0], np.float32([np.nan, 0.1, np.nan]))


def test_quotes_are_no_part_of_a_name(table: Callable[..., Path]) -> None:
    assert read_table(table("'I','V1','a'b'\n0.1,0.2,0.3\n"), sampling_rate=500).leads == ("I", "V1", "a'b")


def test_a_header_with_the_same_leads_in_another_order_is_refused(table: Callable[..., Path]) -> None:
    with pytest.raises(LeadError, match="another order"):
        read_table(table("I,II\n" + TWO), sampling_rate=500, leads=["II", "I"])
    assert read_table(table("I,II\n" + TWO), sampling_rate=500, leads=["V1", "V2"]).leads == ("V1", "V2")


def test_the_units_of_a_header_are_obeyed_and_not_contradicted(table: Callable[..., Path]) -> None:
    path = table("I (uV),II (uV)\n" + TWO)
    for units in (None, "µV"):
        assert read_table(path, sampling_rate=500, units=units).signal[0, 0] == pytest.approx(1e-4)
    with pytest.raises(UnitsError, match="Pass units='uV'"):
        read_table(path, sampling_rate=500, units="mV")


def test_a_header_that_names_a_lead_twice_is_refused(table: Callable[..., Path]) -> None:
    with pytest.raises(LeadError, match=r"first row of .*a\.csv.*more than once"):
        read_table(table("II,ii\n" + TWO), sampling_rate=500)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"is empty \(0 bytes\)"),
        (" \r\n\t\n", "is empty"),
        ("\ufeff\r\n \n", "only blank lines"),
        ("I,II\n", "a header and no samples"),
        (bytes(range(256)) * 20, "is a binary file"),
        ("I,II\n0.1,0.2\n".encode("utf-32"), "is a binary file, .* in UTF-8"),
        ("I,II\n0.1,0.2\n0.3\n", r"1 column\(s\) in line 3 .*expected 2 as in line 2"),
        ("0.1,0.2\n0.3,0.4,0.5\n", r"3 column\(s\) in line 2"),
        ("0.1,0.2\n\n0.3,0.4\n", r"1 column\(s\) in line 2"),
        ("I,II\n0.1,0.2\n0.3,off\n", "text 'off' in line 3, column 2"),
        ("0.1,oops\n0.3,0.4\n", "text 'oops' in line 1, column 2"),
        ("0.1;1.234,5\n0.3;0.4\n", "text '1.234,5' in line 1, column 2"),
        ("1,234;0.5\n2,345;0.6\n", "text '1,234' in line 1, column 1"),
        ("I,II\n0.1,1_000\n", "text '1_000' in line 2"),
        ("I,II\n0.1," + "x" * 500, "text 'x{30}…'"),
        ("I,II\n0.1,0.2\n0.3,1e40\n", r"number of 1e\+40"),
        ('I,II\n0.1,0.2\n0.3,"' + "9" * 200_000, "quotes that make no cells in line 3"),
    ],
)
def test_a_damaged_table_says_where(table: Callable[..., Path], content: str | bytes, message: str) -> None:
    with pytest.raises(DamagedRecordError, match=message) as raised:
        read_table(table(content), sampling_rate=500, leads=["I", "II"])
    assert "a.csv" in str(raised.value)


@pytest.mark.parametrize("row", ['{0},"{1}"', "{0};{1}", "{0}\t{1}", "{0} {2}", "{0};{2}", "12:00:0{0};{1}"])
def test_thousands_that_are_grouped_are_no_fractions(table: Callable[..., Path], row: str) -> None:
    rows = [row.format(k, f"{v:,}", f"{v:,}".replace(",", ".")) for k, v in enumerate([753, -1153, 80, 12])]
    with pytest.raises(DamagedRecordError, match=r"'-1[.,]153' and whole ones below 1000 in column 2 .* thousands"):
        read_table(table("\n".join(rows)), sampling_rate=500, leads=["I"])


@pytest.mark.parametrize(
    "cells",
    [
        ["753", "1.153", "80.5"],  # digits cut off
        ["753", "1.153", "0.125"],
        ["53", "1.153", "80"],  # a whole number of three digits is seldom in millivolts, one of two is not
        ["1753", "1.153", "80"],
        ["753.000", "1.153", "2.000"],
        ["753", "1153", "nan"],
        ["2.778", "25", "102.778", "125"],  # milliseconds of a beat
    ],
)
def test_fractions_of_three_digits_are_fractions(table: Callable[..., Path], cells: list[str]) -> None:
    found = read_table(table("\n".join(cells)), sampling_rate=500, leads=["I"]).signal
    np.testing.assert_allclose(found, [[float(cell) for cell in cells]], rtol=1e-6)


def test_an_empty_line_of_a_single_lead_is_a_gap(table: Callable[..., Path]) -> None:
    signal = read_table(table("0.1\n\n0.3\n"), sampling_rate=500, leads=["II"]).signal
    np.testing.assert_array_equal(signal, np.float32([[0.1, np.nan, 0.3]]))


@pytest.mark.parametrize("n_samples", [13, 20, 5000])
def test_leads_in_rows_are_refused(table: Callable[..., Path], n_samples: int) -> None:
    sideways = "\n".join(",".join(f"{v:.3f}" for v in row) for row in np.ones((12, n_samples + 1)))
    with pytest.raises(ShapeError, match="transposed"):
        read_table(table(sideways), sampling_rate=500, leads=LEADS)
    if n_samples > 64:
        with pytest.raises(ShapeError, match="transposed"):
            read_table(
                table("\n".join(f"{lead},{row}" for lead, row in zip(LEADS, sideways.split("\n"), strict=True))),
                sampling_rate=500,
            )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=200), st.text("0123456789.,;-+eE \t\n\r\"'#nNaAI", max_size=80).map(str.encode)
    )
)
@pytest.mark.parametrize("suffix", sorted(TABLE_SUFFIXES))
def test_any_bytes_raise_nothing_but_errors_of_ours(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(SkecgError):
        assert read_table(path, sampling_rate=500, leads=["I", "II"]).n_leads == 2


# ---- NumPy ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(signal=tables)
def test_numpy_files_are_read_back(tmp_path: Path, signal: np.ndarray) -> None:
    leads = LEADS[: len(signal)]
    np.save(tmp_path / "a.npy", signal)
    np.savez(tmp_path / "one.npz", anything=signal)
    np.savez_compressed(tmp_path / "all.npz", signal=signal, sampling_rate=500, leads=leads, units="mV")
    for name in ("a.npy", "one.npz", "all.npz"):
        record = read_table(tmp_path / name, sampling_rate=500, leads=leads)
        np.testing.assert_array_equal(record.signal, signal)
    own = read_table(tmp_path / "all.npz")
    assert (own.sampling_rate, own.leads) == (500, tuple(leads))


def test_units_of_an_npz_take_the_argument_s_place(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", signal=[[100.0], [2.0]], sampling_rate=[250], leads=np.array([b"I", b"II"]), units="uV"
    )
    assert read_table(tmp_path / "a.npz").signal.ravel().tolist() == pytest.approx([0.1, 0.002])
    np.savez(tmp_path / "b.npz", signal=[[100.0], [2.0]], sampling_rate=250, leads=["I", "II"], units=["uV", "mV"])
    assert read_table(tmp_path / "b.npz").signal.ravel().tolist() == pytest.approx([0.1, 2])


def test_units_must_be_as_many_as_leads(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", signal=np.ones((2, 9)), sampling_rate=250, leads=["I", "II"], units=["uV"] * 3)
    with pytest.raises(UnitsError, match="3 units and 2 leads"):
        read_table(tmp_path / "a.npz")


def test_integer_arrays_are_scaled_as_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1000, -2000, 3]], dtype=np.int16))
    record = read_table(tmp_path / "a.npy", sampling_rate=500, leads=["II"], units="uV")
    assert record.signal.ravel().tolist() == pytest.approx([1, -2, 0.003])


def test_arguments_that_contradict_an_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", signal=np.zeros((2, 100)), sampling_rate=250, leads=["I", "II"])
    with pytest.raises(SamplingRateError, match="says 250 Hz"):
        read_table(tmp_path / "a.npz", sampling_rate=500)
    np.savez(tmp_path / "f.npz", signal=np.zeros((2, 100)), sampling_rate=np.float32(333.33), leads=["I", "II"])
    assert read_table(tmp_path / "f.npz", sampling_rate=333.33).n_samples == 100
    with pytest.raises(LeadError, match=r"2.*3|3.*2"):
        read_table(tmp_path / "f.npz", leads=["II", "I", "V1"])
    for leads in (["II", "I"], ["II", "V1"], ["V1", "I"]):
        with pytest.raises(LeadError, match="another order"):
            read_table(tmp_path / "a.npz", leads=leads)
    for leads in (["I", "II"], ["I", "MLII"], ["V1", "V2"]):
        assert read_table(tmp_path / "a.npz", leads=leads).leads == tuple(leads)


@pytest.mark.parametrize("units", ["uV", ["uV", "uV"], ["uV", "mV"]])
def test_a_unit_that_contradicts_an_npz_is_refused(tmp_path: Path, units: str | list[str]) -> None:
    np.savez(tmp_path / "a.npz", signal=np.ones((2, 9)), sampling_rate=250, leads=["I", "II"], units=units)
    with pytest.raises(UnitsError, match=r"Got values in uV.* units='V'\. Leave units out"):
        read_table(tmp_path / "a.npz", units="V")
    np.savez(tmp_path / "b.npz", signal=np.ones((2, 9)), sampling_rate=250, leads=["I", "II"], units="a.u.")
    assert read_table(tmp_path / "b.npz", units="uV").signal[0, 0] == pytest.approx(1e-3)
    with pytest.raises(UnitsError, match="units='a"):
        read_table(tmp_path / "b.npz")
    if len(set(units)) < 2 or isinstance(units, str):
        assert read_table(tmp_path / "a.npz", units="uV").signal[0, 0] == pytest.approx(1e-3)


def test_arrays_need_rate_and_leads(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((12, 100)))
    with pytest.raises(SamplingRateError, match="Pass sampling_rate="):
        read_table(tmp_path / "a.npy", leads=LEADS)
    with pytest.raises(LeadError, match="Pass leads="):
        read_table(tmp_path / "a.npy", sampling_rate=500)


@pytest.mark.parametrize("shape", [(5000, 12), (5000,), (2, 12, 50), (12, 0)])
def test_arrays_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(ShapeError):
        read_table(tmp_path / "a.npy", sampling_rate=500, leads=LEADS)


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1, "x"]], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(b"\x80\x04K\x01.")
    np.savez(tmp_path / "c.npz", signal=np.array([[1, "x"]], dtype=object))
    for name in ("a.npy", "b.npy", "c.npz"):
        with pytest.raises(DamagedRecordError, match="never unpickled"):
            read_table(tmp_path / name, sampling_rate=500, leads=["I"])


@pytest.mark.parametrize("dtype", [complex, "U3"])
def test_arrays_that_are_no_real_numbers_are_refused(tmp_path: Path, dtype: str | type) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 100), dtype=dtype))
    with pytest.raises(ShapeError, match="dtype"):
        read_table(tmp_path / "a.npy", sampling_rate=500, leads=["I"])


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_numpy_file_is_damaged(tmp_path: Path, name: str, keep: int) -> None:
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, np.ones((2, 100)))
    else:
        np.savez(path, np.ones((2, 100)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedRecordError, match=re.escape(str(path))):
        read_table(path, sampling_rate=500, leads=["I", "II"])


def test_several_arrays_without_a_signal_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((2, 100)), y=np.ones((2, 100)))
    with pytest.raises(UnsupportedFormatError, match=r"2 arrays \(x, y\)"):
        read_table(tmp_path / "a.npz", sampling_rate=500, leads=["I", "II"])


def test_other_suffixes_and_absent_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"\.csv, \.npy"):
        read_table(tmp_path / "a.xls")
    with pytest.raises(RecordNotFoundError):
        read_table(tmp_path / "a.csv", sampling_rate=500)


# ---- real files -------------------------------------------------------------------------------------------------


def test_challenge_2011_texts_are_read_with_their_sample_numbers_dropped(shared: Path) -> None:
    path = shared / "data" / "raw" / "cinc2011" / "1002867.txt"
    record = read_table(path, sampling_rate=500, leads=LEADS, units="uV")
    assert (record.n_leads, record.n_samples) == (12, 5000)
    first = [-0.304, -0.620, -0.316, 0.462, -0.468, 0.006, 0.148, 0.064, 0.184, 0.152, 0.088, 0.188]
    assert record.signal[:, 0].tolist() == pytest.approx(first)
    with pytest.raises(LeadError, match="Pass leads="):
        read_table(path, sampling_rate=500)


@pytest.mark.parametrize(("step", "fits"), [(1.0, True), (0.002, True), (2.0, True), (0.004, False), (4.0, False)])
def test_times_have_to_agree_with_the_sampling_rate(tmp_path: Path, step: float, fits: bool) -> None:
    rows = "\n".join(f"{number * step:.6f},{number % 7 / 10}" for number in range(50))
    (tmp_path / "a.csv").write_text(f"time,II\n{rows}\n")

    if fits:
        assert read_table(tmp_path / "a.csv", sampling_rate=500).n_samples == 50
    else:
        with pytest.raises(SamplingRateError, match="advance by"):
            read_table(tmp_path / "a.csv", sampling_rate=500)


@pytest.mark.parametrize(
    "names",
    [
        *("I_uV,II_mV", "I/uV,II/mV", "I uV,II mV", "I (uV),II (mV)", "I-uV,II-mV", "I.uV,II.mV"),
        *("I..uV.,II..mV.", "I_uV_,II_mV_", "I_microvolt,II_millivolts"),
    ],
)
@pytest.mark.parametrize("leads", [None, ["I", "II"]])
def test_units_in_names_are_obeyed_however_they_are_written(table, names: str, leads: list[str] | None) -> None:
    record = read_table(table(f"{names}\n100,0.1\n200,0.2\n"), sampling_rate=500, leads=leads)
    assert record.leads == ("I", "II")
    np.testing.assert_allclose(record.signal, [[0.1, 0.2], [0.1, 0.2]], rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "row", "leads", "wanted"),
    [
        ("I,II\nuV,mV", "100,0.1", ("I", "II"), [[0.1], [0.1]]),
        ("I,II\n(uV),(mV)", "100,0.1", ("I", "II"), [[0.1], [0.1]]),
        ("time,ECG\ns,uV", "0,100", ("ECG",), [[0.1]]),
        ("I,II,V1\nuV,mV,V", "100,0.1,1e-4", ("I", "II", "V1"), [[0.1], [0.1], [0.1]]),
    ],
)
def test_a_row_of_units_belongs_to_its_columns(table, names, row, leads, wanted) -> None:
    rows = "\n".join([row, row.replace("0,", "0.002,", 1) if "time" in names else row])
    record = read_table(table(f"{names}\n{rows}\n"), sampling_rate=500)
    assert record.leads == leads
    np.testing.assert_allclose(record.signal[:, :1], wanted, rtol=1e-6)


UNHEARD = [
    *("Unit: microvolts (uV)", "Units (µV)", "Units: uV, uV", "Einheit: Mikrovolt", "Unit: mikroV"),
    *("Amplitude in volts", "nV, rounded"),
]


@pytest.mark.parametrize("content", [f"Device: x\n{line}\nI,II\n{TWO}" for line in UNHEARD])
def test_a_unit_in_an_odd_place_above_the_samples_is_asked_for(table, content: str) -> None:
    with pytest.raises(UnitsError, match=r"no unit that is understood in the place of one\. Pass units="):
        read_table(table(content), sampling_rate=500)
    for heard in (content.replace("I,II", "I [mV],II [mV]"), "Unit: mV\n" + content):
        np.testing.assert_allclose(read_table(table(heard), sampling_rate=500).signal, TWO_SIGNAL, rtol=1e-6)
    assert read_table(table(content), sampling_rate=500, units="uV").signal[0, 0] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "Noise: 3 uV",
            "Sensitivity: 100 uV/mm",
            "Battery: 3 volts",
            "Filter: 0.05 mV",
            "Maker: Heart NV",
            "Range: 5 mV",
        ),
        *("Amplitude in milli-volts", "Sensitivity: 10", "A/D converter: 16", "Bits per sample: 16", "Unit: [mV]"),
    ],
)
def test_other_voltages_than_the_samples_are_passed_over(table, line: str) -> None:
    record = read_table(table(f"Device: x\n{line}\nI,II\n{TWO}"), sampling_rate=500)
    np.testing.assert_allclose(record.signal, TWO_SIGNAL, rtol=1e-6)


@pytest.mark.parametrize("content", ["I (uV) filtered,II", "IuV,IIuV", "Values in uV", "ECG 500 Hz, uV"])
def test_a_unit_in_an_odd_place_of_the_first_row_is_asked_for(table, content: str) -> None:
    path = table(f"{content}\n{TWO}")
    with pytest.raises(UnitsError, match=r"in the place of one\. Pass units="):
        read_table(path, sampling_rate=500, leads=["I", "II"])


def test_names_that_are_fewer_than_columns_say_their_unit_for_nothing(table) -> None:
    path = table("I_uV II_uV\n1 100 200\n2 100 200\n")  # as R writes the names of rows
    with pytest.raises(UnitsError, match="Got 'I_uV' in"):
        read_table(path, sampling_rate=500)
    assert read_table(path, sampling_rate=500, units="uV").signal[:, 0].tolist() == pytest.approx([0.1, 0.2])


def test_a_unit_on_some_leads_only_is_asked_for(table) -> None:
    path = table(f"I [uV],II\n{TWO}")
    with pytest.raises(UnitsError, match=r"Got no unit for II in .* Pass units="):
        read_table(path, sampling_rate=500)
    for heard in (f"Device: x\nUnit: uV\nI [uV],II\n{TWO}", f"I [uV],II [uV]\n{TWO}"):
        assert read_table(table(heard), sampling_rate=500).signal[1, 0] == pytest.approx(-2e-4)
    path = table(f"I [uV],II\n{TWO}")
    assert read_table(path, sampling_rate=500, units="uV").signal[1, 0] == pytest.approx(-2e-4)
    np.testing.assert_allclose(read_table(table(f"I [mV],II\n{TWO}"), sampling_rate=500).signal, TWO_SIGNAL)
    assert read_table(table(f"I [uV],pulse\n{TWO}"), sampling_rate=500).leads == ("I", "pulse")


@pytest.mark.parametrize(
    "line",
    [
        *("gain: 200 adu/mV", "Resolution: 4.88 uV", "unit: 4.88 uV/bit", "units: adu", "ADC units per mV: 200"),
        *("LSB;1 uV", "Conversion: 0.00488 mV/count", "Conversion factor: 0.00488", "mV per count: 0.00488"),
        *("uV/count: 4.88", "Counts per mV: 205", "Multiplier: 0.00488", "Sensitivity: 4.88 uV", "Units: 5 uV"),
    ],
)
def test_steps_of_a_digitizer_are_no_millivolts(table, line: str) -> None:
    path = table(f"# {line}\nI,II\n{TWO}")
    with pytest.raises(UnsupportedFormatError, match="which may be steps of a digitizer; expected voltages"):
        read_table(path, sampling_rate=500)
    assert read_table(path, sampling_rate=500, units="mV").signal.tolist() == pytest.approx(np.array(TWO_SIGNAL))


@pytest.mark.parametrize(
    "line",
    [
        "Gain: 10 mm/mV",
        "Gain (mm/mV): 10",
        "Resolution: 16 bit",
        "Resolution,16",
        "Auflösung;16",
        "Gain: 1",
        "scale: 1 mV",
    ],
)
def test_paper_and_bits_scale_nothing(table, line: str) -> None:
    record = read_table(table(f"# {line}\nI,II\n{TWO}"), sampling_rate=500)
    np.testing.assert_allclose(record.signal, TWO_SIGNAL, rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("I\n---\n---\n---\n0.1\n0.2\n0.3\n", "the text '---' in line 2, column 1"),
        (
            f"I,II\n9,9\n# pause\n{TWO}",
            "the text '# pause' in line 3, .* expected a row of numbers as in the line above",
        ),
        ("%PDF-1.4\n0.1\n0.2\n", "is a binary file"),
    ],
)
def test_text_among_the_first_samples_is_no_preamble(table, content: str, fault: str) -> None:
    with pytest.raises(DamagedRecordError, match=fault):
        read_table(table(content), sampling_rate=500, leads=["I"] if content.startswith("I\n") else None)


@pytest.mark.parametrize("n_columns", [7, 8, 12])
@pytest.mark.parametrize("corner", ["", '"",'])
def test_columns_that_r_numbers_are_no_chest_leads(table: Callable[..., Path], corner: str, n_columns: int) -> None:
    names = corner + ",".join(f'"V{k + 1}"' for k in range(n_columns))
    rows = [",".join([*([f'"{i + 1}"'] if corner else []), *["0.5"] * n_columns]) for i in range(9)]
    path = table("\n".join([names, *rows]))
    with pytest.raises(LeadError, match="Pass leads="):
        read_table(path, sampling_rate=500)
    leads = CANONICAL_LEADS[:n_columns]
    assert read_table(path, sampling_rate=500, leads=leads).leads == leads


def test_a_single_column_of_r_is_no_chest_lead_and_six_chest_leads_are(table: Callable[..., Path]) -> None:
    with pytest.raises(LeadError, match="Pass leads="):
        read_table(table('"","V1"\n"1",0.5\n"2",0.25\n'), sampling_rate=500)
    for content in ("V1,V2,V3,V4,V5,V6\n", ",V1,V2,V3,V4,V5,V6\n"):
        rows = [("" if content[0] == "V" else f"{i},") + "0,0,0,0,0,0.5" for i in range(4)]
        found = read_table(table(content + "\n".join(rows)), sampling_rate=500)
        assert found.leads == ("V1", "V2", "V3", "V4", "V5", "V6")


@pytest.mark.parametrize("name", ["Zeit", "Temps", "whatever"])
def test_a_first_column_that_only_increases_is_a_time_whatever_its_name(table: Callable[..., Path], name: str) -> None:
    rows = [f"{0.004 * i:.3f};{i % 3}".replace(".", ",") for i in range(100)]
    path = table("\n".join([f"{name};II", *rows]))
    found = read_table(path, sampling_rate=250)
    assert (found.leads, found.n_samples) == (("II",), 100)
    with pytest.raises(SamplingRateError, match=r"advance by 0\.004 a row"):
        read_table(path, sampling_rate=500)


def test_times_that_are_rounded_are_times_whatever_their_name(table: Callable[..., Path]) -> None:
    rows = [f"{0.002 * i:.2f},{i % 3}" for i in range(500)]  # five of a kind
    assert read_table(table("\n".join(["zaehler,II", *rows])), sampling_rate=500).leads == ("II",)
    with pytest.raises(SamplingRateError):
        read_table(table("\n".join(["zaehler,II", *rows])), sampling_rate=250)
    flat = [f"{int(i > 300)},{i % 3}" for i in range(500)]
    assert read_table(table("\n".join(["probe,II", *flat])), sampling_rate=500).leads == ("probe", "II")


def test_a_lead_that_only_increases_is_a_lead(table: Callable[..., Path]) -> None:
    assert read_table(table("II,V1\n0.1,0\n0.2,0\n0.3,0\n"), sampling_rate=500).leads == ("II", "V1")


def test_minus_signs_as_typesetting_has_them_are_read(table: Callable[..., Path]) -> None:
    assert read_table(table("II\n\u22120.5\n0.5\n"), sampling_rate=500).signal.tolist() == [[-0.5, 0.5]]


LABCHART = (
    "Interval=\t0.001 s\nExcelDateTime=\t4.2E4\t10/19/2015 11:32:33.12\nTimeFormat=\tStartOfBlock\nDateFormat=\t\n"
    "ChannelTitle=\tECG\tPressure\nRange=\t10.000 mV\t10.000 V\nUnitName=\tmV\tmmHg\nTopValue=\t10\t300\n"
)


@pytest.mark.parametrize("begins", ["", "time"])
@pytest.mark.parametrize("ends", ["", "\t"])
@pytest.mark.parametrize(
    ("old", "new", "factor", "leads"),
    [
        ("UnitName", "UnitName", 1, ("ECG",)),
        ("=\tmV", "=\tµV", 1e-3, ("ECG",)),
        ("UnitName=\tmV\tmmHg\n", "", 1, ("ECG", "Pressure")),
        ("UnitName", "Units", 1, ("ECG",)),
        ("ECG", "Lead II", 1, ("II",)),
        ("ChannelTitle=\tECG\tPressure", "ChannelTitle=\tI\tII", 1, ("I",)),
    ],
)
def test_labchart_describes_columns_in_rows(table, begins: str, ends: str, old: str, new: str, factor: float, leads):
    rows = [f"{0.1 * (i % 7):.1f}\t{7 - i}{ends}" for i in range(20)]
    rows = [f"{i / 1000:g}\t{row}" if begins else row for i, row in enumerate(rows)]
    path = table(LABCHART.replace(old, new) + "\n".join(rows), "a.txt")
    if leads == ("I",):
        with pytest.raises(UnitsError, match=r"II \[mmHg\]"):
            read_table(path)
        return
    record = read_table(path)
    assert (record.leads, record.sampling_rate) == (leads, 1000)
    np.testing.assert_allclose(record.signal[0], 0.1 * factor * (np.arange(20) % 7), atol=1e-6)
    with pytest.raises(SamplingRateError, match="which says 1000 Hz"):
        read_table(path, sampling_rate=500)
    if begins:
        with pytest.raises(SamplingRateError, match=r"sampling_rate=500 and times that advance by 0\.001"):
            read_table(table(path.read_text().replace("0.001 s", "2 ms"), "b.txt"))


@pytest.mark.parametrize("row", ["1\t2\t3\t4\t5", "1\t2\t3\t4", "1"])
def test_other_columns_than_labchart_describes_are_refused(table, row: str) -> None:
    with pytest.raises(DamagedRecordError, match=r"Got 2 channel titles .* expected one for each column"):
        read_table(table(LABCHART + "\n".join([row] * 9), "a.txt"))


def test_a_channel_of_labchart_without_a_title_keeps_its_place(table) -> None:
    rows = [f"{i / 1000:g}\t{i % 5}\t{i % 7}\t{i % 3}" for i in range(60)]
    head = LABCHART.replace("\tECG\tPressure", "\tII\t\tV1\t").replace("\tmV\tmmHg", "\tmV\tmmHg\tuV")
    record = read_table(table(head + "\n".join(rows), "a.txt"))
    assert record.leads == ("II", "V1")
    np.testing.assert_allclose(record.signal[:, 4], [4, 1e-3], rtol=1e-6)


@pytest.mark.parametrize(
    ("header", "factors"),
    [("uV,uV", (1e-3, 1e-3)), ("mV,V", (1, 1e3)), ("[mV],[uV]", (1, 1e-3)), ("ms,uV,mV", (1e-3, 1)), ("V,V", None)],
)
def test_a_row_of_units_alone_names_no_leads(table, header: str, factors: tuple[float, float] | None) -> None:
    signal = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    rows = [f"{a},{b}" for a, b in signal]
    rows = [f"{2 * i},{row}" for i, row in enumerate(rows)] if header.startswith("ms") else rows
    path = table("\n".join([header, *rows]))
    if factors is None:  # V may be a name, and not two columns'
        with pytest.raises(LeadError, match="more than once"):
            read_table(path, sampling_rate=500)
        return
    with pytest.raises(LeadError, match="columns without names"):
        read_table(path, sampling_rate=500)
    found = read_table(path, sampling_rate=500, leads=["I", "II"]).signal
    np.testing.assert_allclose(found, (signal * factors).T, rtol=1e-5)


def test_times_may_be_minutes(table) -> None:
    rows = [f"{i / 500 / 60:.9f},{0.1 * (i % 7):.1f}" for i in range(300)]
    assert read_table(table("\n".join(["time [min],I", *rows]))).sampling_rate == 500
    for header in ("time,I", "min,I"):
        assert read_table(table("\n".join([header, *rows])), sampling_rate=500).n_samples == 300
        with pytest.raises(SamplingRateError, match="500 Hz if they are minutes"):
            read_table(table("\n".join([header, *rows])), sampling_rate=400)
