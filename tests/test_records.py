from __future__ import annotations

import pickle
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import skecg
from skecg import ECGRecord
from skecg.errors import BadSignalError, InputError, LeadError, SamplingRateError, ShapeError, UnitsError
from skecg.leads import CANONICAL_LEADS
from skecg.records import as_millivolts, as_sampling_rate
from skecg.spec import InputSpec


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int16", "int32", "uint8", "bool", ">f4", ">i2"])
def test_any_real_numbers_become_float32_in_rows(dtype):
    signal = (np.arange(200).reshape(2, 100) % 2).astype(dtype)
    record = ECGRecord(signal, 100, ["I", "II"])
    assert record.signal.dtype == np.float32
    assert record.signal.dtype.isnative
    assert record.signal.flags.c_contiguous
    assert np.array_equal(record.signal, np.asarray(signal, dtype=float))


def test_a_view_in_any_memory_order_is_stored_row_after_row_and_left_untouched():
    columns = np.random.default_rng(0).normal(size=(100, 12)).astype(np.float32)
    before = columns.copy()
    record = ECGRecord(columns.T, 100, CANONICAL_LEADS)
    record.signal[:] = 0
    assert np.array_equal(columns, before)


def test_lists_are_arrays_too():
    assert ECGRecord([[1, 2, 3]], 10, ["I"]).signal.tolist() == [[1.0, 2.0, 3.0]]


def test_gaps_stay_gaps():
    assert np.isnan(ECGRecord([[1, np.nan, 3]], 10, ["I"]).signal[0, 1])


@pytest.mark.parametrize(("dtype", "filler"), [("float32", 1e20), ("float64", 9.0), ("int16", -32768)])
def test_what_a_mask_hides_is_a_gap_and_never_the_filler_beneath(dtype, filler):
    signal = np.ma.masked_array(np.arange(200).reshape(2, 100).astype(dtype), mask=False)
    signal[0, 10:20] = filler
    signal[0, 10:20] = np.ma.masked
    record = ECGRecord(signal, 100, ["I", "II"])
    assert np.array_equal(np.isnan(record.signal), signal.mask)
    assert np.array_equal(record.signal[~signal.mask], signal.compressed())


def test_names_are_put_into_their_common_spelling():
    assert ECGRecord(np.zeros((3, 50)), 50, ["avr", "Lead II", "vx"]).leads == ("aVR", "II", "vx")


@pytest.mark.parametrize("name", ["I (uV)", "Lead II (µV)", "aVR (raw nV)", "V5 ( V )"])
def test_a_unit_in_a_name_that_is_not_that_of_the_values_is_refused(name):
    with pytest.raises(UnitsError, match=rf"named {re.escape(name)} and values in mV"):
        ECGRecord([[1.0]], 500, [name])


def test_a_unit_in_a_name_that_is_that_of_the_values_is_left_out():
    assert ECGRecord([[1.0]] * 3, 500, ["I (mV)", "II", "V5 (MV)"]).leads == ("I", "II", "V5")
    assert ECGRecord([[1.0]] * 2, 500, ["II (raw)", "ABP (V)"]).leads == ("II", "ABP (V)")


def test_a_single_lead_may_be_named_by_a_bare_string():
    assert ECGRecord(np.zeros((1, 50)), 50, "dii").leads == ("II",)
    with pytest.raises(LeadError, match="a bare string"):
        ECGRecord(np.zeros((2, 50)), 50, "II")


def test_length_and_duration_follow_from_the_shape():
    record = ECGRecord(np.zeros((2, 2500)), 250, ["I", "II"], name="r1")
    assert (record.n_leads, record.n_samples, record.duration_seconds) == (2, 2500, 10.0)
    assert repr(record) == "ECGRecord('r1': 2 leads (I, II), 2500 samples, 250 Hz, 10.0 s)"


def test_a_record_does_not_change_and_can_be_pickled():
    record = ECGRecord(np.ones((1, 50)), 50, ["I"], "r1")
    with pytest.raises(FrozenInstanceError):
        record.sampling_rate = 3.0  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(record))
    assert (again.leads, again.sampling_rate, again.name) == (record.leads, record.sampling_rate, record.name)
    assert np.array_equal(again.signal, record.signal)
    assert {record: 1}[record] == 1


@pytest.mark.parametrize("shape", [(5000, 12), (5000, 8), (65, 12), (1000, 1), (100, 3)])
def test_transposed_arrays_are_refused_with_the_way_to_turn_them(shape):
    with pytest.raises(ShapeError, match=r"transposed.*np\.swapaxes"):
        ECGRecord(np.zeros(shape), 500, [f"lead {i}" for i in range(shape[0])])


@pytest.mark.parametrize("shape", [(12, 5000), (1, 3), (15, 10), (12, 13), (12, 12), (3, 2), (16, 8)])
def test_arrays_the_right_way_round_are_not_called_transposed(shape):
    assert ECGRecord(np.zeros(shape), 500, [f"lead {i}" for i in range(shape[0])]).n_leads == shape[0]


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (np.zeros(50), r"shape \(50,\).*signal\[np.newaxis\]"),
        (np.zeros((1, 2, 50)), r"shape \(1, 2, 50\)"),
        (np.float32(3), r"shape \(\)"),
        (np.zeros((0, 50)), "empty"),
        (np.zeros((2, 0)), "empty"),
        (np.array([["a", "b"]]), "dtype <U1"),
        (np.zeros((1, 50), dtype=complex), "dtype complex128"),
        (np.array([[None, 1]]), "dtype object"),
        (np.zeros((1, 5), dtype="datetime64[s]"), "dtype datetime64"),
        ([[1, 2], [3]], "ragged"),
        ("text", "dtype"),
        (None, "dtype object"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(signal, words):
    with pytest.raises(ShapeError, match=words):
        ECGRecord(signal, 50, ["I", "II"])


def test_the_number_of_names_is_the_number_of_rows():
    with pytest.raises(LeadError, match=r"2 rows of signal and 3 lead names.* in record 'r7'"):
        ECGRecord(np.zeros((2, 50)), 50, ["I", "II", "V1"], name="r7")


@pytest.mark.parametrize(
    "rate",
    [
        0,
        -250,
        float("nan"),
        float("inf"),
        "fast",
        None,
        True,
        np.True_,
        [250, 250],
        1j,
        2**1500,
        -(2**1500),
        "9" * 999,
    ],
)
def test_a_rate_that_is_no_positive_number_is_refused(rate):
    with pytest.raises(SamplingRateError, match="expected a positive number"):
        ECGRecord(np.zeros((1, 50)), rate, ["I"])


@pytest.mark.parametrize("rate", [250, 250.0, np.float32(250), np.int64(250), "250"])
def test_any_number_is_a_rate(rate):
    assert as_sampling_rate(rate) == 250.0


@pytest.mark.parametrize(
    ("units", "factor"), [("mV", 1), ("V", 1e3), ("uV", 1e-3), ("µV", 1e-3), ("μV", 1e-3), (" UV ", 1e-3), ("nV", 1e-6)]
)
def test_units_scale_to_millivolts(units, factor):
    signal = np.array([[1.0, -2.0]])
    assert np.allclose(as_millivolts(signal, units), signal * factor, rtol=1e-6)
    assert as_millivolts(signal, units).dtype == np.float32


def test_every_lead_may_have_its_own_unit():
    assert np.allclose(as_millivolts(np.ones((2, 3)), ["mV", "uV"]), [[1, 1, 1], [1e-3] * 3])
    assert np.allclose(as_millivolts(np.ones((4, 2, 3)), ["mV", "uV"])[3], [[1, 1, 1], [1e-3] * 3])


@pytest.mark.parametrize("units", [["mV", "uV"], ("uV",) * 4])
def test_as_many_units_as_leads_are_expected(units):
    with pytest.raises(UnitsError, match=f"Got {len(units)} units for a signal of shape"):
        as_millivolts(np.ones((3, 5)), units)


def test_millivolts_in_float32_are_not_copied():
    signal = np.ones((1, 3), dtype=np.float32)
    assert as_millivolts(signal, "mV") is signal


@pytest.mark.parametrize("units", ["mmHg", "", "bpm", ["mV", "NU"], None, 1, {"mV", "uV"}, []])
def test_units_that_are_none_of_voltage_are_refused(units):
    with pytest.raises(UnitsError, match="expected one of 'V', 'mV', 'uV', 'nV'"):
        as_millivolts(np.ones((2, 3)), units)


@given(
    arrays(
        st.sampled_from(["f4", "f8", "i2", "c8", "U3", "?"]),
        array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=80),
    ),
    st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_no_array_makes_a_record_fail_with_any_error_but_ours(signal, n_names):
    try:
        record = ECGRecord(signal, 100, ["I", "II", "III"][:n_names])
    except InputError:
        return
    assert record.signal.shape == signal.shape


def test_values_that_float32_cannot_hold_become_infinite_and_are_refused_as_that():
    record = ECGRecord(np.full((1, 500), 1e300), 100, ["II"])
    assert np.isinf(record.signal).all()
    assert np.isinf(as_millivolts(np.full((1, 5), 1e38), "V")).all()
    with pytest.raises(BadSignalError):
        skecg.prepare([record], InputSpec(("II",), 100.0, 500))


def test_the_record_is_public():
    assert skecg.ECGRecord is ECGRecord


def test_a_rate_of_more_digits_than_python_writes_is_refused():
    with pytest.raises(SamplingRateError, match="an integer of more than 20 digits, expected a positive number"):
        as_sampling_rate(10**5000)


# In a notebook


def test_a_notebook_shows_what_a_record_is_and_its_picture() -> None:
    signal = np.zeros((2, 5000), dtype=np.float32)
    signal[0, 1234] = 1.0  # one sample of 5,000, which every seventh would miss
    signal[1, 1000:2000] = np.nan

    shown = ECGRecord(signal, 500, ["I", "V2"], name="<b>x</b>")._repr_html_()

    assert "&lt;b&gt;x&lt;/b&gt;" in shown
    assert "<b>" not in shown
    assert "500 Hz" in shown
    assert "10.0 s, 5000 samples" in shown
    assert "10.0 %" in shown
    tip, gap = re.findall(r'd="([^"]*)"', shown)
    heights = [float(y) for y in re.findall(r"[ V]([\d.-]+)", tip)]
    assert min(heights) == pytest.approx(max(heights) - 18.0)  # a strip of 36 pixels is two millivolts
    assert gap.count("M") == 2


def test_a_lead_of_which_nothing_is_known_has_its_name_and_no_line() -> None:
    shown = ECGRecord(np.full((1, 500), np.nan), 500, ["II"])._repr_html_()

    assert 'd=""' in shown
    assert ">II</text>" in shown
    assert "range" not in shown


def test_a_rate_of_text_with_an_underscore_is_no_rate() -> None:
    with pytest.raises(SamplingRateError):
        as_sampling_rate("5_0")
    assert as_sampling_rate("500") == 500
