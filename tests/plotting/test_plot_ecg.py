from __future__ import annotations

import io
import itertools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from skecg.datasets import make_ecg
from skecg.errors import MissingDependencyError, ParameterError, ShapeError
from skecg.leads import CANONICAL_LEADS
from skecg.plotting import plot_ecg, plot_ecgs, plot_embedding_map
from skecg.plotting.ecg import arrange_strips
from skecg.records import ECGRecord

matplotlib = pytest.importorskip("matplotlib")

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def record_of(*leads: str, seconds: float = 10.0, rate: float = 500.0) -> ECGRecord:
    return make_ecg(
        duration_seconds=seconds, sampling_rate=rate, leads=leads or CANONICAL_LEADS, random_state=0
    ).records[0]


def strips(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if not line.get_label().startswith("_")]


def names(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text() in (*CANONICAL_LEADS, "MLII", "vx")]


def grid(axes: Axes, every_mm: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the upright and of the level lines."""
    (lines,) = [c for c in axes.collections if c.get_gid() == f"grid-{every_mm}mm"]
    segments = np.array(lines.get_segments())
    upright = segments[:, 0, 0] == segments[:, 1, 0]
    return segments[upright, 0, 0], segments[~upright, 0, 1]


def saved(axes: Axes) -> bytes:
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


@pytest.mark.parametrize(("speed", "gain"), [(25.0, 10.0), (50.0, 10.0), (25.0, 5.0), (12.5, 20.0)])
def test_the_grid_is_a_millimetre_and_its_squares_are_square(speed: float, gain: float) -> None:
    axes = plot_ecg(record_of(), speed_mm_per_second=speed, gain_mm_per_mv=gain)
    for every_mm in (1, 5):
        columns, rows = grid(axes, every_mm)
        np.testing.assert_allclose(np.diff(columns), every_mm / speed)
        np.testing.assert_allclose(np.diff(rows), every_mm / gain)
        assert np.abs(columns).min() == 0.0  # time zero lies on a line
    square = axes.transData.transform([(0, 0), (1 / speed, 1 / gain)])
    width, height = np.diff(square, axis=0)[0]
    assert width == pytest.approx(height, rel=1e-6)
    assert width / axes.figure.dpi * 25.4 == pytest.approx(1.0, rel=1e-3)  # and a millimetre is one when printed


def test_rows_stand_on_thick_lines() -> None:
    axes = plot_ecg(record_of())
    _, thick = grid(axes, 5)
    for pulse in (line for line in axes.lines if line.get_label() == "_calibration"):
        assert np.abs(thick - pulse.get_ydata()[0]).min() < 1e-9


def test_the_calibration_pulse_is_one_millivolt_and_five_millimetres() -> None:
    axes = plot_ecg(record_of(), gain_mm_per_mv=20.0)
    pulses = [line for line in axes.lines if line.get_label() == "_calibration"]
    assert len(pulses) == 4
    for pulse in pulses:
        x, y = pulse.get_data()
        assert np.ptp(y) == pytest.approx(1.0)
        assert np.ptp(x[y > y.min() + 0.5]) == pytest.approx(5 / 25.0)
        assert x.max() < 0


def test_lines_are_the_signal_at_its_time() -> None:
    record = record_of()
    axes = plot_ecg(record)
    drawn = strips(axes)
    assert [line.get_label() for line in drawn[:12]] == [
        "I",
        "aVR",
        "V1",
        "V4",
        "II",
        "aVL",
        "V2",
        "V5",
        "III",
        "aVF",
        "V3",
        "V6",
    ]
    assert drawn[12].get_label() == "II"
    for line in drawn:
        x, y = line.get_data()
        voltage = record.signal[record.leads.index(line.get_label())]
        expected = voltage[np.rint(x * 500).astype(int)]
        offset = y - expected
        assert np.ptp(offset) < 1e-5
    assert [line.get_xdata()[0] for line in drawn[:4]] == [0.0, 2.5, 5.0, 7.5]
    assert [len(line.get_xdata()) for line in drawn] == [1250] * 12 + [5000]


def test_a_lead_is_drawn_about_its_median() -> None:
    record = record_of("II")
    raised = ECGRecord(record.signal + 7.0, 500, ["II"])
    for one, other in zip(strips(plot_ecg(record)), strips(plot_ecg(raised)), strict=True):
        np.testing.assert_allclose(one.get_ydata(), other.get_ydata(), atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1.8])
def test_rows_keep_apart(size: float) -> None:
    axes = plot_ecg(ECGRecord(record_of().signal * size, 500, CANONICAL_LEADS))
    drawn = strips(axes)
    for upper, lower in ((0, 4), (4, 8), (1, 5), (2, 6), (3, 7), (8, 12)):
        inside = drawn[lower].get_ydata()[:1250]
        assert drawn[upper].get_ydata().min() > inside.max()


@pytest.mark.parametrize("n_leads", [1, 2, 3, 8, 12])
def test_any_number_of_leads_is_drawn(n_leads: int) -> None:
    record = record_of(*CANONICAL_LEADS[:n_leads])
    axes = plot_ecg(record, layout="stacked")
    assert names(axes) == list(record.leads)
    assert saved(axes).startswith(b"\x89PNG")


def test_layout_auto_stacks_what_is_not_twelve_leads() -> None:
    assert len(strips(plot_ecg(record_of()))) == 13
    assert len(strips(plot_ecg(record_of("II", "V5")))) == 2


def test_missing_leads_leave_their_places_empty_and_other_leads_get_strips() -> None:
    rows = arrange_strips(["V1", "I", "MLII"], "3x4+1", 10.0)
    assert [[strip.lead for strip in row] for row in rows] == [["I", "V1"], [], [], ["V1"], ["MLII"]]
    assert (rows[0][1].start_seconds, rows[0][1].stop_seconds) == (5.0, 7.5)
    signal = record_of("I", "II", "III").signal
    axes = plot_ecg(ECGRecord(signal, 500, ["V1", "I", "MLII"]), layout="3x4+1")
    assert names(axes) == ["I", "V1", "V1", "MLII"]


def test_gaps_break_the_line() -> None:
    signal = record_of("I", "II").signal.copy()
    signal[0, 1000:1500] = np.nan
    signal[1] = np.nan
    signal[0, 10] = np.inf
    axes = plot_ecg(ECGRecord(signal, 500, ["I", "II"]))
    first, second = (line.get_ydata() for line in strips(axes))
    assert np.flatnonzero(np.isnan(first)).tolist() == [10, *range(1000, 1500)]
    assert np.isnan(second).all()
    assert saved(axes)


def test_a_long_record_shows_its_first_ten_seconds_and_says_so() -> None:
    axes = plot_ecg(record_of(seconds=30.0), title="Night")
    assert axes.get_title(loc="left") == "Night (first 10 s of 30 s)"
    assert max(line.get_xdata().max() for line in strips(axes)) < 10.0
    assert plot_ecg(record_of()).get_title(loc="left") == "synthetic00000"
    assert plot_ecg(record_of(), title="").get_title(loc="left") == ""


@pytest.mark.parametrize("seconds", [0.002, 0.5, 4.8, 9.998])
def test_short_records_and_low_rates_are_drawn(seconds: float) -> None:
    axes = plot_ecg(record_of(seconds=seconds))
    assert axes.get_xlim()[1] >= seconds
    assert saved(axes)
    assert saved(plot_ecg(record_of(seconds=2.0, rate=20.0)))


def test_the_paper_tells_its_scale() -> None:
    axes = plot_ecg(record_of(), speed_mm_per_second=50.0, gain_mm_per_mv=5.0)
    assert any("50 mm/s    5 mm/mV    500 Hz" in text.get_text() for text in axes.texts)


def test_axes_given_are_drawn_on_and_given_back() -> None:
    figure = matplotlib.figure.Figure()
    left, right = figure.subplots(1, 2)
    assert plot_ecg(record_of(), ax=left) is left
    assert plot_embedding_map(np.eye(5), ax=right) is right
    figure.draw_without_rendering()
    square = left.transData.transform([(0, 0), (1 / 25, 1 / 10)])
    width, height = np.diff(square, axis=0)[0]
    assert width == pytest.approx(height, rel=1e-6)


@pytest.mark.slow
def test_no_window_and_no_open_figure_is_left() -> None:
    code = (
        "import io, sys, numpy as np; from skecg.datasets import make_ecg; from skecg.plotting import *;"
        "axes = plot_ecg(make_ecg(random_state=0).records[0]); plot_embedding_map(np.eye(4));"
        "axes.figure.savefig(io.BytesIO(), format='svg'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", [{"layout": "6x2"}, {"speed_mm_per_second": 0}, {"gain_mm_per_mv": -10.0}])
def test_wrong_arguments_are_refused(how: dict) -> None:
    with pytest.raises(ParameterError, match="Got"):
        plot_ecg(record_of(), **how)


def test_without_matplotlib_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    for draw in (lambda: plot_ecg(record_of()), lambda: plot_embedding_map(np.eye(3))):
        with pytest.raises(MissingDependencyError, match=r"pip install 'skecg\[plot\]'"):
            draw()


def points(axes: Axes) -> np.ndarray:
    return np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])


def test_the_map_is_the_plane_of_greatest_variance() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 10)) + 0.01 * rng.standard_normal((200, 10))
    axes = plot_embedding_map(table * np.logspace(-3, 3, 10) + 5.0)
    standard = (table - table.mean(axis=0)) / table.std(axis=0)
    distances = [np.linalg.norm(p - p[:1], axis=1) for p in (standard, points(axes))]
    np.testing.assert_allclose(distances[0], distances[1], atol=0.03)
    shares = [int(label.split("(")[1].split()[0]) for label in (axes.get_xlabel(), axes.get_ylabel())]
    assert 99 <= sum(shares) <= 101
    assert shares[0] >= shares[1]


def test_the_map_is_the_same_each_time_and_for_any_order_of_rows() -> None:
    table = np.random.default_rng(1).standard_normal((30, 6))
    once, again = points(plot_embedding_map(table)), points(plot_embedding_map(table[::-1]))
    np.testing.assert_allclose(once, again[::-1], atol=1e-9)


def test_categories_have_a_legend() -> None:
    labels = np.array(["sinus", "af", "af", "sinus", "pvc"])
    axes = plot_embedding_map(np.random.default_rng(2).standard_normal((5, 4)), labels, title="Map")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["af (2)", "pvc (1)", "sinus (2)"]
    assert axes.get_title(loc="left") == "Map"
    colors = {tuple(c.get_facecolor()[0]) for c in axes.collections}
    assert len(colors) == 3
    many = plot_embedding_map(np.random.default_rng(2).standard_normal((60, 4)), np.arange(10).repeat(6))
    looks = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in many.collections}
    assert len(looks) == 10


def test_numbers_have_a_scale() -> None:
    axes = plot_embedding_map(np.random.default_rng(3).standard_normal((9, 4)), np.linspace(40.0, 120.0, 9))
    assert axes.get_legend() is None
    assert len(axes.figure.axes) == 2
    assert saved(axes)


@pytest.mark.parametrize("missing", [[np.nan], [np.inf, np.nan, np.nan], [np.nan] * 9])
def test_recordings_without_a_number_are_drawn_in_grey_and_counted(missing: list[float]) -> None:
    numbers = np.array([*missing, *np.linspace(40.0, 120.0, 9 - len(missing))])
    axes = plot_embedding_map(np.random.default_rng(3).standard_normal((9, 4)), numbers)
    assert sum(len(drawn.get_offsets()) for drawn in axes.collections) == 9
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"no number ({len(missing)})"]
    assert len(axes.figure.axes) == (1 if len(missing) == 9 else 2)
    assert saved(axes)


def test_rows_without_values_are_counted_not_drawn() -> None:
    table = np.random.default_rng(4).standard_normal((6, 3))
    table[2] = np.nan
    axes = plot_embedding_map(table, list("aabbcc"))
    assert len(points(axes)) == 5
    assert any("1 of 6 rows without values" in text.get_text() for text in axes.texts)


@pytest.mark.parametrize(
    "table", [np.ones((4, 3)), np.arange(4.0)[:, None], np.array([[0.0, 1.0], [1.0, 0.0]])], ids=str
)
def test_tables_of_little_variety_are_drawn(table: np.ndarray) -> None:
    axes = plot_embedding_map(table)
    assert np.isfinite(points(axes)).all()
    assert saved(axes)


@pytest.mark.parametrize(
    ("table", "labels"),
    [(np.zeros(3), None), (np.zeros((3, 0)), None), (np.full((3, 2), np.nan), None), (np.eye(3), ["a"])],
    ids=["one dimension", "no features", "no values", "few labels"],
)
def test_tables_that_are_none_are_refused(table: np.ndarray, labels: list[str] | None) -> None:
    with pytest.raises(ShapeError, match=r"Got .*expected"):
        plot_embedding_map(table, labels)


def test_recordings_below_each_other_leave_no_blank_between_their_papers() -> None:
    made = make_ecg(3, sampling_rate=250, random_state=0).records
    records = [ECGRecord(one.signal * height, 250, one.leads) for one, height in zip(made, (1, 3, 1), strict=True)]

    figure = plot_ecgs(records, titles=["a", "b", "c"])

    boxes = figure.axes
    height_mm = figure.get_size_inches()[1] * 25.4
    for above, below in itertools.pairwise(boxes):
        assert (above.get_position().y0 - below.get_position().y1) * height_mm == pytest.approx(19.0)
    for ax in boxes:
        # A millimetre is a millimetre: nothing was shrunk to fit its box.
        assert ax.get_position().height * height_mm == pytest.approx(10 * np.ptp(ax.get_ylim()))
    assert [ax.get_title(loc="left") for ax in boxes] == ["a", "b", "c"]
    assert boxes[1].get_position().height > boxes[0].get_position().height


@pytest.mark.parametrize("titles", [None, ["one", "too many"]])
def test_records_and_titles_have_to_be_as_many(titles: list[str] | None) -> None:
    with pytest.raises(ParameterError, match="a title for each"):
        plot_ecgs([] if titles is None else make_ecg(1, random_state=0).records, titles=titles)


@pytest.mark.parametrize("record", ["a.hea", np.zeros((12, 5000)), None])
def test_what_is_no_record_is_refused_with_the_way_to_one(record: Any) -> None:
    with pytest.raises(ParameterError, match=r"expected an ECGRecord\. skecg\.io\.read_record"):
        plot_ecg(record)


def test_a_single_record_is_no_list_of_them() -> None:
    with pytest.raises(ParameterError, match="expected a list of them"):
        plot_ecgs(record_of())  # type: ignore[arg-type]
