"""Pictures in a report's page."""

from __future__ import annotations

import re

import numpy as np

from skecg import ECGRecord
from skecg.tabular.page import ecg_picture


def heights_of(record: ECGRecord) -> list[np.ndarray]:
    """The heights of each lead's line, in strips from its middle."""
    lines = re.findall(r'<polyline points="([^"]*)"', ecg_picture(record))
    points = [np.array([point.split(",") for point in line.split()], dtype=float).reshape(-1, 2) for line in lines]
    return [(34 * (row + 0.5) - line[:, 1]) / 17 for row, line in enumerate(points)]


def test_a_picture_shows_millivolts_and_nothing_that_its_few_points_cannot_hold() -> None:
    seconds = np.arange(5000) / 500
    slow, fast = np.sin(2 * np.pi * seconds), np.sin(2 * np.pi * 195 * seconds)
    shown = heights_of(ECGRecord(np.stack([slow, slow + fast]), 500, ["I", "II"]))
    for line in shown:
        assert len(line) == 1000
        np.testing.assert_allclose(line[10:-10], np.sin(2 * np.pi * np.arange(1000) / 100)[10:-10], atol=0.05)


def test_a_gap_is_bridged_and_a_lead_without_a_sample_has_no_line() -> None:
    signal = np.ones((2, 1000))
    signal[0, 300:400], signal[1] = np.nan, np.nan
    bridged, nothing = heights_of(ECGRecord(signal, 100, ["I", "II"]))
    assert len(bridged) == 1000
    assert len(nothing) == 0
