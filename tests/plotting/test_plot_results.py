from __future__ import annotations

import math

import pytest

from skecg.errors import ShapeError
from skecg.plotting import plot_scores

pytest.importorskip("matplotlib")

SCORES = {"one": {"few": (0.6, 0.5, 0.7), "all": (0.8, 0.7, 0.85)}, "two": {"all": (0.9, math.nan, math.nan)}}


def test_every_row_has_its_name_and_every_series_its_points() -> None:
    axes = plot_scores(SCORES, title="title", label="scale")

    assert [text.get_text() for text in axes.get_yticklabels()] == ["one", "two"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["few", "all"]
    points = sorted(x for container in axes.containers for x in container[0].get_xdata())
    assert points == [0.6, 0.8, 0.9]
    assert (axes.get_title(loc="right"), axes.get_xlabel()) == ("title", "scale")


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
