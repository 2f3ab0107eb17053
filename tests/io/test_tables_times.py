"""Columns of times, which tell the rate and where samples are missing, however they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skecg.errors import DamagedRecordError, InputError, SamplingRateError, SignalWarning
from skecg.io.tables import read_table
from skecg.io.times import check_frame_times

N, RATE = 400, 250
VALUES = np.arange(N) % 50 / 50
FORMS: dict[str, tuple[str, Callable[[float], str]]] = {
    "seconds": ("time,I,II", lambda t: f"{t:.3f},{{0}},{{0}}"),
    "seconds, last": ("I,II,time (s)", lambda t: f"{{0}},{{0}},{t:.3f}"),
    "seconds, rounded": ("time (s),I,II", lambda t: f"{t:.2f},{{0}},{{0}}"),
    "milliseconds": ("t [ms],I,II", lambda t: f"{t * 1e3:.0f},{{0}},{{0}}"),
    "dates": ("when,I,II", lambda t: f"2020-01-31T23:59:{58 + t:06.3f},{{0}},{{0}}"),
    "a clock": ("Elapsed time,I,II", lambda t: f"0:{t:06.3f},{{0}},{{0}}"),
    "a clock with commas": ("Zeit;I;II", lambda t: f"00:00:{t:06.3f};{{0}};{{0}}".replace(".", ",")),
    "German dates": ("Zeit;I;II", lambda t: "31.12.2024 10:00:" + f"{t:06.3f};{{0}};{{0}}".replace(".", ",")),
    "American dates": ("Time,I,II", lambda t: f"12/31/2024 10:00:{t:06.3f},{{0}},{{0}}"),
    "Timedelta": ("Time,I,II", lambda t: f"0 days 10:00:{t:09.6f},{{0}},{{0}}"),
    "rdsamp -pv": ("Elapsed time\tI\tII\n(seconds)\t(mV)\t(mV)", lambda t: f"{t:.3f}\t{{0}}\t{{0}}"),
    "rdsamp -pe": ("'Elapsed time','I','II'\n'hh:mm:ss.mmm','mV','mV'", lambda t: f"'0:{t:06.3f}',{{0}},{{0}}"),
}


@pytest.fixture(params=sorted(FORMS))
def form(request: pytest.FixtureRequest) -> tuple[str, Callable[[float], str]]:
    return FORMS[request.param]


def written(folder: Path, form: tuple[str, Callable[[float], str]], times: np.ndarray) -> Path:
    header, row = form
    if header.startswith("when"):  # dates have no second 60
        dates = np.datetime64("2020-01-31T23:59:58.000") + np.round(times * 1e3).astype("timedelta64[ms]")
        rows = [f"{date},{value},{value}" for date, value in zip(dates, VALUES, strict=True)]
    else:
        is_comma = "," in row(0.0) and ";" in header
        rows = [
            row(float(time)).format(str(value).replace(".", "," if is_comma else "."))
            for time, value in zip(times, VALUES, strict=True)
        ]
    (folder / "a.csv").write_text("\n".join([header, *rows]))
    return folder / "a.csv"


@pytest.mark.parametrize("rate", [RATE, 360, 499.7])
def test_times_are_no_lead_and_agree_with_the_true_rate(tmp_path: Path, form, rate: float) -> None:
    record = read_table(written(tmp_path, form, np.arange(N) / rate), sampling_rate=rate)
    assert (record.leads, record.n_samples, record.sampling_rate) == (("I", "II"), N, rate)
    np.testing.assert_allclose(record.signal, [VALUES, VALUES], rtol=1e-6)


@pytest.mark.parametrize("rate", [125, 220, 1000])
def test_times_that_contradict_the_rate_are_refused(tmp_path: Path, form, rate: float) -> None:
    with pytest.raises(SamplingRateError, match=f"sampling_rate={rate} and times that advance by .*Pass the rate that"):
        read_table(written(tmp_path, form, np.arange(N) / RATE), sampling_rate=rate)


TRUE_AND_SAID = [(130, 128), (128, 130), (130, 125), (256, 250), (250, 256), (500, 512), (360, 350), (500, 492)]


@pytest.mark.parametrize(
    "written", ["timestamp [ns],{:.0f},1e9", "t [ms],{:.0f},1e3", "time,{:.2f},1", "clock,0:{:06.3f},1"]
)
@pytest.mark.parametrize(("true", "said"), TRUE_AND_SAID)
def test_rates_that_are_taken_for_each_other_are_told_apart(tmp_path: Path, written: str, true: int, said: int) -> None:
    header, cell, scale = written.split(",")
    rows = [f"{cell.format(number / true * float(scale))},{number % 7}" for number in range(5000)]
    (tmp_path / "a.csv").write_text("\n".join([f"{header},II", *rows]))

    assert read_table(tmp_path / "a.csv", sampling_rate=true * 1.004).n_samples == len(rows)  # a recorder's clock
    with pytest.raises(SamplingRateError, match=f"sampling_rate={said} and times that advance .* tell: {true} Hz"):
        read_table(tmp_path / "a.csv", sampling_rate=said)


@pytest.mark.parametrize("size", [0.2, 0.5])
def test_times_that_jitter_beside_a_gap_are_those_of_the_rate(tmp_path: Path, size: float) -> None:
    late = np.arange(N) / RATE + np.where(np.arange(N) > 100, 0.5, 0)
    times = np.sort(late + np.random.default_rng(0).normal(0, size / RATE, N))
    (tmp_path / "a.csv").write_text("t [ms],II\n" + "".join(f"{1e3 * t:.3f},0\n" for t in times))
    with pytest.warns(SignalWarning, match=r"The times in .* jump by 50"):
        assert read_table(tmp_path / "a.csv", sampling_rate=RATE).sampling_rate == RATE


@pytest.mark.parametrize("name", sorted(FORMS.keys() - {"seconds", "seconds, last", "seconds, rounded"}))
@pytest.mark.parametrize("lost", [73, 1000])
def test_times_tell_the_rate_where_packets_are_missing(tmp_path: Path, name: str, lost: int) -> None:
    times = np.arange(N) / RATE + np.where(np.arange(N) > 100, lost / RATE, 0)
    with pytest.warns(SignalWarning, match="samples are missing there"):
        assert read_table(written(tmp_path, FORMS[name], times)).sampling_rate == RATE


@pytest.mark.parametrize(
    "times",
    [
        *[np.cumsum(np.where(np.arange(N) % every, 4, 20)) for every in (3, 10)],
        4 * np.arange(40),
        4 * (np.arange(N) // 2),
    ],
    ids=["often apart", "at times apart", "few", "in pairs"],
)
def test_times_that_are_uneven_or_few_tell_no_rate(tmp_path: Path, times: np.ndarray) -> None:
    (tmp_path / "a.csv").write_text("t [ms],II\n" + "".join(f"{time},0\n" for time in times))
    with pytest.raises(SamplingRateError, match="whose times are too few, too coarse or too uneven"):
        read_table(tmp_path / "a.csv")


@pytest.fixture(params=["t [ms]", "time_ms", "Messzeit (ms)"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[np.ndarray], Path]:
    """Write a table with times in milliseconds, which may be missing."""

    def write(milliseconds: np.ndarray) -> Path:
        times = ["" if np.isnan(time) else f"{time:.0f}" for time in milliseconds]
        rows = [f"{time},{value}" for time, value in zip(times, VALUES, strict=True)]
        (tmp_path / "a.csv").write_text("\n".join([f"{request.param},II", *rows]))
        return tmp_path / "a.csv"

    return write


FLAWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a blank": lambda times: np.where(np.arange(N) == 77, np.nan, times),
    "a step back": lambda times: times - np.where(np.arange(N) > 300, 8, 0),
    "two parts": lambda times: times % times[N // 2],
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_times_in_a_unit_contradict_the_rate_whatever_flaw_they_have(write, flaw: str) -> None:
    path = write(FLAWS[flaw](np.arange(N) * 4.0))
    with pytest.raises(SamplingRateError, match=r"sampling_rate=500 and times that advance by 4 a row"):
        read_table(path, sampling_rate=500)


def test_a_blank_time_is_no_fault_and_hides_no_jump(write) -> None:
    times = FLAWS["a blank"](np.arange(N) * 4.0)
    assert read_table(write(times), sampling_rate=RATE).leads == ("II",)
    with pytest.warns(SignalWarning, match="jump by 1000 after row 77, where steps are 4: samples are missing"):
        read_table(write(times + np.where(np.arange(N) > 77, 1992, 0)), sampling_rate=RATE)


@pytest.mark.parametrize("flaw", ["a step back", "two parts"])
def test_times_that_go_back_are_warned_of(write, flaw: str) -> None:
    with pytest.warns(SignalWarning, match="jump by -"):
        assert read_table(write(FLAWS[flaw](np.arange(N) * 4.0)), sampling_rate=RATE).leads == ("II",)


@pytest.mark.parametrize("name", ["t [ms]", "time_ms"])
def test_a_recording_that_runs_backwards_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_text(f"{name},II\n" + "".join(f"{4 * (N - i)},{i % 7}\n" for i in range(N)))
    with pytest.raises(DamagedRecordError, match="times that only go back"):
        read_table(tmp_path / "a.csv", sampling_rate=RATE)


def test_times_that_stand_still_tell_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t [ms],II\n" + "".join(f"0,{i % 7}\n" for i in range(N)))
    assert read_table(tmp_path / "a.csv", sampling_rate=RATE).leads == ("II",)


@pytest.mark.parametrize("gap", [9.0, 0.5])
def test_times_that_jump_are_warned_of(tmp_path: Path, form, gap: float) -> None:
    times = np.arange(N) / RATE + np.where(np.arange(N) > 100, gap, 0)
    with pytest.warns(SignalWarning, match="after row 10[12], where .* samples are missing there"):
        read_table(written(tmp_path, form, times), sampling_rate=RATE)


@pytest.mark.parametrize(
    "name", sorted(FORMS.keys() - {"seconds", "seconds, last", "seconds, rounded", "milliseconds"})
)
def test_clock_times_tell_the_rate_where_nothing_else_does(tmp_path: Path, name: str) -> None:
    assert read_table(written(tmp_path, FORMS[name], np.arange(N) / RATE)).sampling_rate == RATE


def test_whole_milliseconds_tell_a_rate_that_they_do_not_hit(tmp_path: Path) -> None:
    rows = [f"{number * 1000 // 800},{number % 7}" for number in range(4000)]
    (tmp_path / "a.csv").write_text("\n".join(["t [ms],II", *rows]))
    assert read_table(tmp_path / "a.csv").sampling_rate == 800
    with pytest.raises(
        SamplingRateError, match=r"advance by 1\.24\d* a row .* tell: 800.* Hz if they are milliseconds"
    ):
        read_table(tmp_path / "a.csv", sampling_rate=333)
    (tmp_path / "b.csv").write_text("\n".join(["t [ms],II", *rows[:400]]))  # may be 801 as well
    with pytest.raises(SamplingRateError, match="Pass sampling_rate="):
        read_table(tmp_path / "b.csv")


@pytest.mark.parametrize(
    "days", [("", ""), ("31.12.2024 ", "01.01.2025 "), ("12/31/24 ", "1/1/25 "), ("0 days ", "1 days ")]
)
def test_a_clock_begins_again_at_midnight(tmp_path: Path, days: tuple[str, str]) -> None:
    seconds = (86_398 + np.arange(N) / 100) % 86_400
    clock = [
        f"{days[int(t < 10)]}{int(t // 3600):02d}:{int(t % 3600 // 60):02d}:{t % 60:06.3f},{v}"
        for t, v in zip(seconds, VALUES, strict=True)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["clock,II", *clock]))
    assert read_table(tmp_path / "a.csv").sampling_rate == 100


def test_a_clock_that_goes_back_is_warned_of(tmp_path: Path) -> None:
    times = np.arange(N) / RATE + np.where(np.arange(N) > 100, -0.2, 0.0)
    with pytest.warns(SignalWarning, match="jump by -0.196 after row 101"):
        read_table(written(tmp_path, FORMS["a clock"], times + 1), sampling_rate=RATE)


def test_a_time_may_be_missing_but_no_text_stands_for_it(tmp_path: Path) -> None:
    path = written(tmp_path, FORMS["a clock"], np.arange(N) / RATE)
    path.write_text(path.read_text().replace("0:00.400,", ","))
    assert read_table(path, sampling_rate=RATE).n_samples == N
    path.write_text(path.read_text().replace("0:00.404,", "later,"))
    with pytest.raises(DamagedRecordError, match=r"the text 'later' in line 103, column 1 .* expected a time"):
        read_table(path, sampling_rate=RATE)


def test_times_of_five_digits_are_rounded_more_and_more(tmp_path: Path) -> None:
    rows = [f"{number / 250:.5g},{number % 7}" for number in range(50_000)]  # as MATLAB's csvwrite writes them
    (tmp_path / "a.csv").write_text("\n".join(["time,II", *rows]))
    assert read_table(tmp_path / "a.csv", sampling_rate=250).n_samples == len(rows)
    with pytest.raises(SamplingRateError, match="times that advance"):
        read_table(tmp_path / "a.csv", sampling_rate=500)


@pytest.mark.parametrize("header", ["clock\n", ""])
def test_times_without_samples_are_no_recording(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}0:00.000\n0:00.004\n0:00.008\n")
    with pytest.raises(DamagedRecordError, match="holds times alone, expected a column of samples too"):
        read_table(tmp_path / "a.csv", sampling_rate=RATE, leads=["I"])


def test_one_row_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("clock,II\n0:00.000,0.5\n")
    assert read_table(tmp_path / "a.csv", sampling_rate=RATE).n_samples == 1


def test_times_alone_are_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,s\n0,1\n1,2\n2,3\n")
    assert read_table(tmp_path / "a.csv", sampling_rate=RATE, leads=["I", "II"]).n_leads == 2


@pytest.mark.parametrize("header", ["time,I", "I,time", "I,index"])
def test_rows_in_the_opposite_order_are_refused_wherever_their_times_stand(tmp_path: Path, header: str) -> None:
    rows = [f"{i / 500},{i % 7}" if header.startswith("time") else f"{i % 7},{i / 500}" for i in range(60)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([header, *rows]))
    assert read_table(path, sampling_rate=500).leads == ("I",)
    path.write_text("\n".join([header, *rows[::-1]]))
    with pytest.raises(DamagedRecordError, match="times that only go back"):
        read_table(path, sampling_rate=500)


@pytest.mark.parametrize("index", ["default", "dates", "spans", "seconds", "every second", "named", "none"])
def test_the_samples_of_a_data_frame_go_by_its_rate(index: str) -> None:
    pandas = pytest.importorskip("pandas")
    seconds, values = np.arange(300) / 500, np.random.default_rng(0).normal(size=(2, 300)).astype(np.float32)
    labels = {
        "default": pandas.RangeIndex(300),
        "dates": pandas.to_datetime(1.7e9 + seconds, unit="s"),
        "spans": pandas.to_timedelta(seconds, unit="s"),
        "seconds": pandas.Index(seconds),
        "every second": pandas.Index(np.arange(0, 600, 2)),
        "named": pandas.Index(2 * np.arange(300), name="ms"),
        "none": (),
    }[index]
    names, kept = check_frame_times(labels, ["I", "II"], values, 500, "X[0]")
    assert (names, kept is values) == (["I", "II"], True)
    names, kept = check_frame_times(labels, ["I", "time", "II"], np.insert(values, 1, seconds, axis=0), 500, "X[0]")
    assert names == ["I", "II"]
    np.testing.assert_array_equal(kept, values)
    if index not in ("default", "every second", "none"):
        with pytest.raises(SamplingRateError, match=r"times that advance by .* a row in X\[0\]"):
            check_frame_times(labels, ["I", "II"], values, 250, "X[0]")
        with pytest.raises(InputError, match=r"only go back in X\[0\]"):
            check_frame_times(labels[::-1], ["I", "II"], values, 500, "X[0]")
