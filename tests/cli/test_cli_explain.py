"""``skecg explain``: what a fitted model's probability rests on, for recordings of every kind of file."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import TINY, Run

from skecg.cli import main
from skecg.datasets import make_ecg
from skecg.records import ECGRecord
from skecg.tabular.model import read_model

Capture = pytest.CaptureFixture[str]
Write = Callable[[Path, ECGRecord, str], None]
N, RATE = 16, 250


@pytest.fixture(scope="session")
def made() -> Any:
    return make_ecg(
        N, duration_seconds=4.0, sampling_rate=RATE, conduction=["normal", "lbbb"], noise=0.05, random_state=0
    )


@pytest.fixture(scope="session")
def clinic(made: Any, as_wfdb: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings as WFDB, the first of them as CSV, too, and a model that was fitted on them, told of a rate."""
    folder = tmp_path_factory.mktemp("clinic")
    lines = ["path,beat"]
    for number, record in enumerate(made.records):
        as_wfdb(folder, record, f"r{number:02d}")
        lines.append(f"r{number:02d}.hea,{made.labels['conduction'][number]}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    with (folder / "r00.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(made.records[0].leads)
        writer.writerows(np.round(made.records[0].signal.T, 3).tolist())
    told = ["--sampling-rate", str(RATE), "--cache", "none", "--quiet", "--folds", "2", "--resamples", "10"]
    arguments = ["fit", folder / "table.csv", "--out", folder / "model", "--model", TINY, "--label-column", "beat"]
    assert main([os.fspath(argument) for argument in [*arguments, *told]]) == 0
    return folder


@pytest.mark.parametrize("name", ["r00.hea", "r00", "r00.csv"])
def test_a_recording_is_explained_whatever_kind_of_file_it_is_in(
    run: Run, clinic: Path, capsys: Capture, name: str
) -> None:
    assert run("explain", clinic / "model", clinic / name, "--class", "lbbb") == 0

    first, *lines = capsys.readouterr().out.splitlines()
    run("predict", clinic / "model", clinic / "r00.hea", "--out", "p.csv", "--quiet")
    row = next(csv.DictReader(Path("p.csv").read_text().splitlines()))
    assert first == f"r00: lbbb, probability {float(row['probability lbbb']):.3f}"
    assert [line.split()[0] for line in lines][:6] == ["phase", "P", "QRS", "ST", "T", "lead"]
    assert len(lines) == 2 + 4 + 12


def test_a_class_that_the_model_does_not_know_is_refused(run: Run, clinic: Path, capsys: Capture) -> None:
    assert run("explain", clinic / "model", clinic / "r00.hea", "--class", "rbbb") == 2

    assert "'rbbb', expected one of 'lbbb', 'normal'" in capsys.readouterr().err


def test_a_drawing_that_finds_no_room_is_not_written_by_half(
    run: Run, clinic: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert run("explain", clinic / "model", clinic / "r00.hea", "--out", "why.svg") == 2
    assert "Make room and run the same command again" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_file_that_is_no_recording_is_refused(run: Run, clinic: Path, capsys: Capture) -> None:
    for name, words in (("r99.hea", "r99"), ("table.csv", "looks like a table about recordings")):
        assert run("explain", clinic / "model", clinic / name) == 2
        assert words in capsys.readouterr().err


def test_what_the_embedder_does_to_every_record_is_done_once(made: Any, as_wfdb: Write, clinic: Path) -> None:
    record = made.records[0]
    standardized = record.signal / record.signal.std(axis=1, keepdims=True)
    as_wfdb(clinic, ECGRecord(standardized, RATE, ("MLI", *record.leads[1:]), "odd"), "odd")
    model = read_model(clinic / "model")
    told = {"units": "per-lead standard deviation", "leads": {"MLI": "I"}, "cache": None}

    classifier = model.classifier(**told)
    found = classifier.predict_proba([classifier.read(clinic / "odd.hea")])

    features = model.embedder(**told).fit_transform([str(clinic / "odd.hea")])
    np.testing.assert_allclose(found, model.predict(features).probabilities, rtol=1e-6)


def test_a_recording_of_one_lead_is_explained_by_its_phases(
    run: Run, made: Any, as_wfdb: Write, tmp_path: Path, capsys: Capture
) -> None:
    lines = ["path,beat"]
    for number, record in enumerate(made.records):
        as_wfdb(tmp_path, ECGRecord(record.signal[1:2], RATE, ("II",)), f"one{number:02d}")
        lines.append(f"one{number:02d}.hea,{made.labels['conduction'][number]}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    told = ["--cache", "none", "--quiet", "--folds", "2", "--resamples", "10", "--label-column", "beat"]
    assert run("fit", tmp_path / "table.csv", "--out", tmp_path / "model", *told) == 0
    capsys.readouterr()

    assert run("explain", tmp_path / "model", tmp_path / "one03.hea") == 0

    out = capsys.readouterr().out
    assert out.endswith("The recording has a single lead, without which nothing is left.\n")
    assert "QRS" in out
