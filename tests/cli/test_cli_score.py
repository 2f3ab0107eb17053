"""``skecg score``: a report on the labels of one's own table."""

from __future__ import annotations

import itertools
import json
import re
import signal
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import Run

from skecg.datasets import make_ecg
from skecg.tabular.page import _efficiency

TINY = str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")
N = 48
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, two a patient, with a class and a rate; one that cannot be read, with markup in its name."""
    folder = tmp_path_factory.mktemp("clinic")
    made = make_ecg(
        N, duration_seconds=4.0, sampling_rate=250, conduction=["normal", "lbbb"], noise=0.05, random_state=0
    )
    lines = ["path,beat,rate,who"]
    for number, record in enumerate(made.records):
        name = "<b>.npz" if number == 5 else f"r{number:02d}.npz"
        np.savez(folder / name, signal=record.signal, sampling_rate=250, leads=np.array(record.leads))
        lines.append(f"{name},{made.labels['conduction'][number]},{made.labels['heart_rate'][number]},p{number // 2}")
    (folder / "r08.npz").write_bytes(b"nothing")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


@pytest.fixture
def score(run: Run, table: Path) -> Run:
    """Score the tiny weights with few folds and resamples."""

    def call(*arguments: str) -> int:
        common = ["--model", TINY, "--quiet", "--folds", "2", "--resamples", "20", "--kernels", "1"]
        return run("score", table, "--group-column", "who", "--out", "report", *common, "--cache", "cache", *arguments)

    return call


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whatever_stops_it_nothing_temporary_is_left(
    score: Run, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    former = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    former = {of: signal.signal(of, handler) for of, handler in former.items()}
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("skecg.evaluation.compare", lambda *_, **__: signal.raise_signal(number))
    try:
        assert score("--label-column", "beat") == 128 + number
    finally:
        for of, handler in former.items():
            signal.signal(of, handler)

    assert list((tmp_path / "temporary").iterdir()) == []
    assert capsys.readouterr().err.endswith({2: "skecg: interrupted\n", 15: "skecg: stopped\n"}[number])


class Page(HTMLParser):
    """What a page holds, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_encoders_and_baselines_are_scored_on_the_labels_of_the_table(score: Run, capsys: Capture) -> None:
    assert score("--label-column", "beat", "--fractions", "0.5,1", "--draws", "1") == 0

    said = capsys.readouterr()
    for name in (
        "majority",
        "hand-crafted",
        "random convolutions",
        "untrained, shape of tiny-temporal",
        "tiny-temporal",
    ):
        assert name in said.out
    assert "2 folds of patients" in said.out
    assert "no features" in said.err
    values = json.loads(Path("report/report.json").read_text())
    assert values["split"]["n_test"] == N - 1
    assert values["split"]["n_test_patients"] == N // 2
    assert [row["kind"] for row in values["rows"]] == ["baseline"] * 4 + ["model"]
    assert "tested" not in values
    assert Path("report/report.md").read_text().startswith("## table: beat")
    drawn = Path("report/report.html").read_text().partition('aria-label="label efficiency"')[2].partition("</svg>")[0]
    assert drawn.count("<polyline") == 5
    assert all(f">{amount}</text>" in drawn for amount in ("50 %", "100 %", "1.0", "tiny-temporal"))
    heights = sorted(float(y) for y in re.findall(r'x="508" y="([\d.]+)"', drawn))
    assert all(b - a >= 12.9 for a, b in itertools.pairwise(heights))


def test_names_of_rows_that_all_end_at_chance_stay_inside_the_picture() -> None:
    part = SimpleNamespace(fraction=1.0, macro_auroc=SimpleNamespace(estimate=0.5))
    rows = [SimpleNamespace(name=f"row {k}", kind="model", by_fraction=[part]) for k in range(6)]

    report: Any = SimpleNamespace(rows=rows)

    drawn = _efficiency(report)

    heights = [float(y) for y in re.findall(r'x="508" y="([\d.]+)"', drawn)]
    found = re.search(r'viewBox="0 0 760 (\d+)"', drawn)
    assert len(heights) == 6
    assert found is not None
    assert max(heights) < float(found[1])


def test_the_page_holds_everything_and_fetches_nothing(score: Run) -> None:
    score("--label-column", "beat")

    written = Path("report/report.html").read_text()
    page = Page(written)
    assert page.fetched == []
    assert page.tags.count("script") == 1
    assert not re.search(r"url\(|@import|https?://", written)
    for heading in ("Scores", "ROC and calibration curves", "Confusion", "Worst errors", "Calibration", "Rows"):
        assert heading in page.text
    assert page.tags.count("svg") >= 2 + 3  # two curves of one label, three errors
    assert "b" not in page.tags
    assert len(written) < 2_000_000
    assert Path("report/report.html").stat().st_mode & 0o077 == 0


def test_the_same_command_again_gives_the_same_scores(score: Run) -> None:
    def scores() -> list[object]:
        return [row["by_fraction"] for row in json.loads(Path("report/report.json").read_text())["rows"]]

    score("--label-column", "beat")
    first = scores()
    score("--label-column", "beat")

    assert scores() == first


def test_numbers_are_scored_as_regressions(score: Run, capsys: Capture) -> None:
    assert score("--label-column", "rate") == 0

    assert "R2" in capsys.readouterr().out
    scores = json.loads(Path("report/report.json").read_text())["scores"]
    assert scores["tiny-temporal"]["r2"]["estimate"] > scores["mean of the training patients"]["r2"]["estimate"]
    assert Page(Path("report/report.html").read_text()).tags.count("circle") == N - 1


def test_an_object_stands_in_the_report_beside_encoders(score: Run) -> None:
    Path("mine.py").write_text(
        "import numpy as np\n\n\n"
        "class Mine:\n"
        "    def transform(self, records):\n"
        "        return np.stack([record.signal.std(axis=1) for record in records])\n"
    )
    assert score("--label-column", "beat", "--model", "mine.py:Mine") == 0
    rows = [row["name"] for row in json.loads(Path("report/report.json").read_text())["rows"]]
    assert rows[-2:] == ["tiny-temporal", "mine.py:Mine"]
