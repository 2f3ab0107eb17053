from __future__ import annotations

import io
import math

import numpy as np
import pytest

from skecg.datasets import make_ecg
from skecg.errors import ParameterError, ShapeError
from skecg.plotting import plot_ecg, plot_embedding_map, plot_scores
from skecg.records import ECGRecord

pytest.importorskip("matplotlib")

SCORES = {"one": {"few": (0.6, 0.5, 0.7), "all": (0.8, 0.7, 0.85)}, "two": {"all": (0.9, math.nan, math.nan)}}


def test_every_row_has_its_name_and_every_series_its_points() -> None:
    axes = plot_scores(SCORES, title="title", label="scale")

    assert [text.get_text() for text in axes.get_yticklabels()] == ["one", "two"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["few", "all"]
    points = sorted(x for container in axes.containers for x in container[0].get_xdata())
    assert points == [0.6, 0.8, 0.9]
    assert (axes.get_title(loc="right"), axes.get_xlabel()) == ("title", "scale")


@pytest.mark.parametrize("name", ["$5 to $\\10", "_none", "ST $>$ 1 mm \\, $\\x$", "$"])
def test_a_name_is_text_and_no_formula_and_never_left_out(name: str) -> None:
    points = plot_embedding_map(np.random.default_rng(0).normal(size=(6, 4)), [name, "b"] * 3, title=name)
    assert f"{name} (3)" in [text.get_text() for text in points.get_legend().get_texts()]
    scores = plot_scores({name: {name: (0.5, 0.4, 0.6), "b": (0.6, 0.5, 0.7)}}, title=name, label=name)
    assert [text.get_text() for text in scores.get_legend().get_texts()] == [name, "b"]
    record = make_ecg(1, random_state=0).records[0]
    paper = plot_ecg(ECGRecord(record.signal, record.sampling_rate, record.leads, name))
    for axes in (points, scores, paper):
        axes.figure.savefig(io.BytesIO(), format="svg")


def test_limits_are_drawn_where_they_are_known() -> None:
    axes = plot_scores(SCORES)

    ends = [segment[:, 0].tolist() for c in axes.containers for bars in c[2] for segment in bars.get_segments()]
    assert [[round(x, 6) for x in pair] for pair in ends] == [[0.5, 0.7], [0.7, 0.85], [0.9, 0.9]]


def test_one_series_needs_no_legend_and_rows_go_downwards() -> None:
    axes = plot_scores({"a": {"x": (0.5, 0.4, 0.6)}, "b": {"x": (0.6, 0.5, 0.7)}})

    assert axes.get_legend() is None
    assert axes.yaxis_inverted()


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ShapeError, match="no scores"):
        plot_scores({"one": {}})


def test_names_of_baselines_are_grey_and_their_points_hollow() -> None:
    axes = plot_scores(SCORES, baselines={"two"})

    names = {text.get_text(): text.get_color() for text in axes.get_yticklabels()}
    assert names["one"] == "black"
    assert names["two"] != "black"
    faces = {c[0].get_ydata()[0] > 0.5: c[0].get_markerfacecolor() for c in axes.containers if len(c[0].get_xdata())}
    assert faces[True] == "white"
    assert faces[False] != "white"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["few", "all"]


def test_of_many_classes_the_rarest_are_one_group_and_the_axes_stay_as_they_are() -> None:
    names = [f"class {k:02d} of a name that is much too long for a legend" for k in range(30) for _ in range(31 - k)]
    features = np.random.default_rng(0).normal(size=(len(names), 4))

    many, one = plot_embedding_map(features, names), plot_embedding_map(features)

    legend = [text.get_text() for text in many.get_legend().get_texts()]
    assert len(legend) == 11
    assert legend[-1] == f"20 others ({sum(range(2, 22))})"
    assert legend[0].startswith("class 00 of a name")
    assert max(map(len, legend)) < 36
    assert many.get_xlabel() == one.get_xlabel()
    for axes in (many, one):
        axes.figure.draw_without_rendering()
    assert many.get_position().bounds == pytest.approx(one.get_position().bounds)
    assert many.get_xlim() == pytest.approx(one.get_xlim())


def test_features_are_standardized_unless_their_scales_say_what_counts() -> None:
    random = np.random.default_rng(0)
    loud, alike = 100 * random.normal(size=(200, 1)), random.normal(size=(200, 1)) + 0.1 * random.normal(size=(200, 3))
    features = np.hstack([loud, alike, np.full((200, 1), 5.0)])

    assert plot_embedding_map(features).get_xlabel() == "Component 1 (75 % of variance)"
    assert plot_embedding_map(features, standardize=False).get_xlabel() == "Component 1 (100 % of variance)"
    with pytest.raises(ParameterError, match="standardize='yes'"):
        plot_embedding_map(features, standardize="yes")  # type: ignore[arg-type]
