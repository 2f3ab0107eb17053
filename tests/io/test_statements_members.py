"""Rates, leads and units in ``.npz`` files, under the names that people give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skecg.errors import LeadError, SamplingRateError, UnitsError, UnsupportedFormatError
from skecg.io import read_record
from skecg.records import ECGRecord

SIGNAL = np.random.default_rng(0).normal(size=(2, 90))
TWO = {"sampling_rate": 500, "leads": ["I", "II"]}
RATE_NAMES = ["sampling_rate", "fs", "Fs", "sfreq", "sample_rate", "sampling_frequency", "samplingRate", "samp_freq"]
RATE_NAMES += [
    "ecg_sampling_rate",
    "fs_ecg",
    "sr",
    "frequency",
    "sampling-rate",
    "sampling rate hz",
    "SAMPLE_FREQ",
    "hz",
    "ecg_fs",
]


@pytest.fixture
def save(tmp_path: Path) -> Any:
    def save(**members: Any) -> Path:
        np.savez(tmp_path / "n.npz", **members)
        return tmp_path / "n.npz"

    return save


def assert_is_signal(record: ECGRecord, factor: float = 1.0) -> None:
    np.testing.assert_allclose(record.signal, SIGNAL * factor, rtol=1e-5)


@pytest.mark.parametrize("name", RATE_NAMES)
@pytest.mark.parametrize("value", [250, np.array([250.0]), "250", [250, 250]])
def test_a_rate_is_understood_under_its_usual_names(save: Any, name: str, value: Any) -> None:
    path = save(signal=SIGNAL, leads=["I", "II"], **{name: value})
    assert read_record(path).sampling_rate == 250
    assert read_record(path, sampling_rate=250).sampling_rate == 250
    with pytest.raises(SamplingRateError, match=r"sampling_rate=500 for .*n\.npz, which says 250 Hz"):
        read_record(path, sampling_rate=500)


@pytest.mark.parametrize("value", [0, -250, [250, 500], "fast", True, np.nan, [], 250j])
def test_a_rate_that_is_none_is_refused(save: Any, value: Any) -> None:
    with pytest.raises(SamplingRateError, match="as 'fs' in"):
        read_record(save(signal=SIGNAL, leads=["I", "II"], fs=value), sampling_rate=250)


@pytest.mark.parametrize("name", ["original_fs", "heart_rate", "filter_freq", "age"])
def test_other_members_are_passed_over(save: Any, name: str) -> None:
    path = save(signal=SIGNAL, **TWO, **{name: 100})
    assert read_record(path).sampling_rate == 500
    with pytest.raises(SamplingRateError, match="Got no sampling rate"):
        read_record(save(signal=SIGNAL, leads=["I", "II"], **{name: 100}))


@pytest.mark.parametrize(
    "name", ["leads", "lead_names", "channels", "ch_names", "channel_names", "sig_name", "Leads", "labels", "columns"]
)
def test_leads_are_understood_under_their_usual_names(save: Any, name: str) -> None:
    path = save(signal=SIGNAL, fs=500, **{name: ["ii", "v1"]})
    assert read_record(path).leads == ("II", "V1")
    with pytest.raises(LeadError, match="another order"):
        read_record(path, leads=["V1", "II"])


def test_labels_that_are_no_leads_name_none(save: Any) -> None:
    path = save(signal=SIGNAL, labels=["I", "AF"], **TWO)
    assert read_record(path).leads == ("I", "II")


def test_numbers_name_leads_only_in_leads(save: Any) -> None:
    path = save(signal=SIGNAL, fs=500, channels=2, leads=["I", "II"])
    assert read_record(path).leads == ("I", "II")
    with pytest.raises(LeadError, match="no lead names"):
        read_record(save(signal=SIGNAL, fs=500, channels=2))
    assert read_record(save(signal=SIGNAL, fs=500, leads=[1, 2])).leads == ("1", "2")


@pytest.mark.parametrize(
    "name", ["unit", "units", "Units", "physical_unit", "sig_units", "ecg_units", "y_unit", "physical_dimension"]
)
@pytest.mark.parametrize("value", ["uV", ["uV"], ["µV", "uV"], np.array(b"uV")])
def test_units_are_understood_under_their_usual_names(save: Any, name: str, value: Any) -> None:
    assert_is_signal(read_record(save(signal=SIGNAL, **TWO, **{name: value})), 1e-3)


def test_a_member_that_is_a_unit_by_what_it_holds_gives_way_to_one_that_is_by_its_name(save: Any) -> None:
    assert_is_signal(read_record(save(signal=SIGNAL, **TWO, unit="mV", resp_unit="V")))
    assert_is_signal(read_record(save(signal=SIGNAL, **TWO, sex="V", note="a noise of 5 mV")))
    with pytest.raises(UnitsError, match="expected members that agree"):
        read_record(save(signal=SIGNAL, **TWO, a_unit="uV", b_unit="mV"))


@pytest.mark.parametrize(
    "members", [{"ecg_uV": SIGNAL}, {"ecg_uV": SIGNAL, "gain": 1}, {"signal": SIGNAL, "note": "in µV"}]
)
def test_a_unit_in_an_odd_place_is_asked_for(save: Any, members: dict[str, Any]) -> None:
    path = save(**members, **(TWO if len(members) > 1 else {}))
    options = {} if len(members) > 1 else TWO
    with pytest.raises(UnitsError, match=r"no unit that is understood in the place of one\. Pass units="):
        read_record(path, **options)
    assert_is_signal(read_record(path, units="uV", **options), 1e-3)


def test_units_in_the_names_of_leads_are_understood_where_no_member_states_them(save: Any) -> None:
    named = {"fs": 500, "ch_names": ["I (uV)", "Lead II (µV)"]}
    path = save(signal=SIGNAL, **named)
    assert_is_signal(read_record(path), 1e-3)
    assert_is_signal(read_record(path, leads=["V1", "V2"], units="uV"), 1e-3)
    with pytest.raises(UnitsError, match="units='mV'"):
        read_record(path, units="mV")
    assert_is_signal(read_record(save(signal=SIGNAL, **named, units="nV")), 1e-6)
    with pytest.raises(UnitsError, match=r"named I \(uV\) and values in mV"):
        read_record(save(signal=SIGNAL, fs=500, leads=["I (uV)", "II"]))


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"fs": 250}, SamplingRateError),
        ({"ch_names": ["II", "I"]}, LeadError),
        ({"unit": "uV", "units": "mV"}, UnitsError),
        ({"unit": ["uV", "mV"], "units": ["mV", "uV"]}, UnitsError),
        ({"unit": ["uV", "mV"], "units": "uV"}, UnitsError),
    ],
)
def test_members_that_contradict_each_other_are_refused(save: Any, members: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected members that agree"):
        read_record(save(signal=SIGNAL, **TWO, **members))


def test_members_that_say_the_same_in_other_words_agree(save: Any) -> None:
    path = save(signal=SIGNAL, **TWO, fs=[500.0], ch_names=["i", "LEAD II"], unit="uV", units=["µV", "uv"])
    record = read_record(path)
    assert (record.sampling_rate, record.leads) == (500, ("I", "II"))
    assert_is_signal(record, 1e-3)


@pytest.mark.parametrize("name", ["ecg", "x", "val"])
def test_the_only_array_that_is_nothing_else_is_the_samples(save: Any, name: str) -> None:
    assert_is_signal(read_record(save(**{name: SIGNAL}, fs=500, ch_names=["I", "II"], unit="mV", gain=1)))
    with pytest.raises(UnsupportedFormatError, match="Got 4 arrays"):
        read_record(save(**{name: SIGNAL}, **TWO, other=SIGNAL))
    with pytest.raises(UnsupportedFormatError, match="Got 2 arrays"):
        read_record(save(fs=500, leads=["I", "II"]))


def test_a_lone_array_is_the_samples_whatever_its_name(save: Any) -> None:
    assert_is_signal(read_record(save(fs=SIGNAL), sampling_rate=500, leads=["I", "II"]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uv_per_lsb", 5.0),
        ("mv_per_count", 0.00488),
        ("uv_per_step", 4.88),
        ("sensitivity", 4.88),
        ("multiplier", 0.00488),
        ("calibration", 205),
        ("resolution", 0.005),
        ("ADU per mV", 200),
        ("gain", 1000),
        ("adc_gain", [1, 200]),
        ("lsb", 4.88),
        ("step", 0.005),
        ("quantization", 0.005),
        ("baseline", [0, 7]),
        ("offset", -1),
        ("scale", "mV/bit"),
    ],
)
def test_a_member_that_says_the_samples_are_no_voltages_is_refused(save: Any, name: str, value: Any) -> None:
    path = save(signal=SIGNAL, **TWO, **{name: value})
    with pytest.raises(UnsupportedFormatError, match=f"Got '{name}' beside the samples .*pass units="):
        read_record(path)
    assert_is_signal(read_record(path, units="uV"), 1e-3)


def test_a_gain_of_1_and_an_offset_of_0_change_nothing(save: Any) -> None:
    assert_is_signal(read_record(save(signal=SIGNAL, **TWO, gain=[1, 1], baseline=0, adc_zero=[0.0, 0.0])))


def test_units_of_nothing_are_refused(save: Any) -> None:
    with pytest.raises(UnitsError):
        read_record(save(signal=SIGNAL, **TWO, units=np.array([], dtype=str)))
    with pytest.raises(UnitsError):
        read_record(save(signal=SIGNAL, **TWO), units="")


@pytest.mark.parametrize(
    ("name", "value", "rate"),
    [
        ("dt", 0.004, 250),
        ("sampling_interval", 4, 250),
        ("samplePeriod", [0.003906, 0.003906], 256),
        ("sample_interval", 0.0037, 1 / 0.0037),
    ],
)
def test_the_time_between_samples_tells_their_rate(save: Any, name: str, value: Any, rate: float) -> None:
    path = save(signal=SIGNAL, leads=["I", "II"], **{name: value})
    assert read_record(path).sampling_rate == pytest.approx(rate, rel=1e-12)
    with pytest.raises(SamplingRateError, match=r"sampling_rate=500 for .*n\.npz, which says"):
        read_record(path, sampling_rate=500)
    assert read_record(save(signal=SIGNAL, leads=["I", "II"], dt="2020-01-01"), sampling_rate=250).sampling_rate == 250


@pytest.mark.parametrize("name", ["time", "t", "Timestamp", "index"])
def test_times_beside_the_samples_are_none_and_must_agree_with_the_rate(save: Any, name: str) -> None:
    seconds = {"time": 1 / 250, "t": 4.0, "Timestamp": 4e-3, "index": 1}[name]
    members = {"ecg": SIGNAL, "leads": ["I", "II"], name: 7 + seconds * np.arange(90)[None]}
    assert_is_signal(read_record(save(**members), sampling_rate=250))
    if name != "index":
        with pytest.raises(SamplingRateError, match="Got sampling_rate=360 and times that advance by"):
            read_record(save(**members), sampling_rate=360)
    # What does not rise is no time, and times of something else do not tell the rate.
    short = {**members, name: [0.1, 0.9, 1.7]}
    assert_is_signal(read_record(save(**short), sampling_rate=360))
    assert_is_signal(read_record(save(signal=SIGNAL, leads=["I", "II"], **{name: SIGNAL}), sampling_rate=360))
