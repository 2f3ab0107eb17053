"""Pictures in a report's page, and its tables in a real browser."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
from browser import Browser
from small_corpora import write_wfdb

from skecg import ECGRecord
from skecg.datasets import make_ecg
from skecg.evaluation.regression import score_regression
from skecg.tabular.page import ecg_picture, regression_page


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


def regressions() -> str:
    target = np.arange(12.0)
    scores = {
        name: score_regression(target, target * slope + 1, np.arange(12), n_draws=20)
        for name, slope in (("<b>half</b>", 0.5), ("all", 1.0), ("none", 0.0))
    }
    scores["all"] = dataclasses.replace(scores["all"], predicted=target + 1)
    order = ["<b>half</b>", "none", "all"]
    return regression_page("rate", {name: scores[name] for name in order}, target, [f"{k}.npz" for k in range(12)])


def test_regressions_come_best_first_with_the_worst_errors() -> None:
    written = regressions()

    assert [written.index(f"<td>{name}") for name in ("all", "&lt;b&gt;half", "none")] == sorted(
        written.index(f"<td>{name}") for name in ("all", "&lt;b&gt;half", "none")
    )
    assert written.count(".npz: ") == 3
    assert "There is no file" in written


def test_a_name_that_is_no_utf_8_is_written_out() -> None:
    scores = {"all": score_regression(np.arange(3.0), np.arange(3.0), np.arange(3), n_draws=5)}
    scores["all"] = dataclasses.replace(scores["all"], predicted=np.arange(3.0))
    names = [os.fsdecode(b"\xff.npz"), "b.npz", "c.npz"]

    assert b"\\udcff.npz: 0, predicted 0" in regression_page("rate", scores, np.arange(3.0), names).encode()


def test_a_unit_of_tables_is_none_of_files_that_have_their_own(tmp_path: Path) -> None:
    record = make_ecg(1, duration_seconds=2.0, random_state=0).records[0]
    write_wfdb(tmp_path / "a", record.signal, record.sampling_rate)
    np.save(tmp_path / "b.npy", record.signal * 1000)
    told = {"sampling_rate": record.sampling_rate, "leads": list(record.leads), "units": "uV"}
    scores = {"all": score_regression(np.arange(3.0), np.arange(3.0), np.arange(3), n_draws=5)}
    scores["all"] = dataclasses.replace(scores["all"], predicted=np.arange(3.0))
    paths = [str(tmp_path / name) for name in ("a.hea", "b.npy", "a.hea")]
    page = regression_page("rate", scores, np.arange(3.0), paths, **told)
    assert page.count("<svg") == 1 + 3, "the plot, and a picture of each record"
    assert "Got units" not in page


def test_tables_are_sorted_by_the_column_that_is_clicked(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(regressions())
    browser.size(1280, 800)
    browser.open(tmp_path / "report.html")

    def clicked(column: int) -> list[str]:
        browser.run("document.querySelectorAll('th button')[arguments[0]].click()", column)
        return list(browser.run("return [...document.querySelectorAll('td:first-child')].map((c) => c.textContent)"))

    assert clicked(0) == ["<b>half</b>", "all", "none"]
    assert clicked(0) == ["none", "all", "<b>half</b>"]
    assert clicked(2) == ["all", "<b>half</b>", "none"]
    assert clicked(2) == ["none", "<b>half</b>", "all"]
    assert browser.run("return document.querySelectorAll('th[aria-sort]').length") == 1
    assert browser.complaints() == []
