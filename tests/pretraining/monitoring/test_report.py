from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pretraining.config import DataConfig, MaskConfig, OptimConfig, PredictorConfig, PretrainConfig, RunConfig
from pretraining.monitoring.journal import Journal, read_journal
from pretraining.monitoring.report import _PANELS, _curves, describe_run, inspect_run
from skecg.errors import ParameterError
from skecg.spec import InputSpec, TemporalConfig

CONFIG = PretrainConfig(
    name="tiny",
    input=InputSpec(("I", "II", "V2", "V5"), 100, 250, normalization="zscore"),
    encoder=TemporalConfig(4, 10, 25, 16, 2, 2),
    predictor=PredictorConfig(16, 1, 2),
    masks=MaskConfig("random", 0.5, 0.7),
    optim=OptimConfig(lr=1e-3, warmup_steps=50),
    run=RunConfig(steps=2000, batch_size=32),
)


def write_run(folder: Path, *, collapsing: bool = False, gauges: bool = True, probe: bool = True) -> Path:
    """A run's folder with a journal of 1,500 of 2,000 steps."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    (folder / "data.json").write_text(json.dumps({"corpora": {"ptbxl": 1000, "ludb": 200}}))
    rng = np.random.default_rng(0)
    with Journal(folder, total_steps=2000, print_every=0) as journal:
        for step in range(0, 1501, 10):
            x = step / 1500
            loss = 0.3 + 0.5 * np.exp(-6 * x)
            values = {
                "loss": loss + 0.01 * rng.normal(),
                "lr": 1e-3 * min(1, step / 50) * (1 - x),
            }
            values |= {"gradient_norm": np.exp(rng.normal(-1, 0.3)), "momentum": 0.996 + 0.004 * x}
            journal.write(step, values | {"records_per_second": 800 + 10 * rng.normal()})
            if gauges and step % 100 == 0:
                spread = 0.09 * np.exp(-8 * x) if collapsing else 0.09 + 0.2 * x
                found = {"fixed_loss": loss, "rank": 20 + 30 * x, "rank_uncentred": 2 + 4 * x}
                found |= {"record_spread": spread, "token_spread": 0.7 - 0.2 * x, "position_share": 0.9 - 0.3 * x}
                found |= {"identity": 4 + 20 * x, "lidar": 14 + 20 * x, "lidar_shuffled": 18 + 5 * x, "drift": 0.2 * x}
                journal.write(step, found)
            if probe and step % 250 == 0:
                score = 0.8 + 0.08 * np.sin(2.5 * x)
                journal.write(step, {"probe": score, "probe_CD": score - 0.03, "probe_MI": score + 0.03})
    return folder


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_the_story_names_what_was_run_and_how_it_went(tmp_path):
    story = describe_run(write_run(tmp_path / "run"))
    for words in (
        "tiny: temporal encoder of width 16, 2 blocks",
        "4 leads at 100 Hz, windows of 2.5 s, 25 slices of 100 ms; normalization: zscore",
        "learning rate 0.001 after 50 steps of warm-up",
        "2,000 steps of 32 records",
        "1,200 records (ptbxl 1,000, ludb 200); 48,000 seen, 40.0 times each",
        "step 1,500 of 2,000 in ",
        "rank 20 to 50; spread of records 0.09 to 0.29",
        "best macro AUROC 0.880 at step 1,000 (first 0.800, last 0.848)",
        "Collapse   no sign of it",
    ):
        assert words in story
    assert max(map(len, story.splitlines())) < 130


def test_a_collapse_is_told_from_the_gauges_or_from_what_was_announced(tmp_path):
    run = write_run(tmp_path / "run", collapsing=True)
    assert "records differ by" in describe_run(run)
    with Journal(run, print_every=0, resume_step=1500) as journal:
        journal.note(700, "collapse", "Warning: no spread.")
        journal.note(1500, "stop", "asked to")
    story = describe_run(run)
    assert "Collapse   announced at step 700: Warning: no spread." in story
    assert "step 1,500: stop: asked to" in story


def test_scores_of_another_probe_than_the_last_are_neither_told_nor_drawn(tmp_path):
    run = write_run(tmp_path / "run", probe=False)
    for step, score, key in ((500, 0.9, "a"), (1000, 0.1, "b"), (1500, 0.3, "b")):
        with Journal(run, print_every=0, resume_step=1500, asked={"key": key, "measure": "r2"}) as journal:
            journal.write(step, {"probe": score, f"probe_{key}": score})
    assert "best R² 0.300 at step 1,500 (first 0.100, last 0.300)" in describe_run(run)
    drawn = {p.title: dict(_curves(p, read_journal(run))) for p in _PANELS if p.measure}
    points = [(1000, 0.1), (1500, 0.3)]
    assert drawn == {"Probe, AUROC": {}, "Probe, R²": {"b": points, "macro": points}}


def test_scores_from_before_they_said_what_they_are_of_are_told_as_they_were(tmp_path):
    run = write_run(tmp_path / "run")
    with Journal(run, print_every=0, resume_step=1500, asked={"key": "a", "measure": "macro_auroc"}) as journal:
        journal.write(1500, {"probe": 0.95})
    assert "best macro AUROC 0.950 at step 1,500 (first 0.800, last 0.950)" in describe_run(run)


def test_data_are_told_as_far_as_they_are_drawn(tmp_path):
    run = write_run(tmp_path / "run")
    config = dataclasses.replace(CONFIG, data=DataConfig(weights={"ludb": 1.0}))
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    assert "200 records (ludb 200); 48,000 seen, 240.0 times each" in describe_run(run)
    (run / "data.json").write_text('{"corp')
    with pytest.raises(ParameterError, match=r"data\.json"):
        describe_run(run)


@pytest.mark.slow
def test_the_picture_grows_with_what_was_measured(tmp_path, capsys):
    whole = inspect_run(write_run(tmp_path / "whole"))
    assert whole == tmp_path / "whole" / "curves.png"
    assert "Progress" in capsys.readouterr().out
    bare = inspect_run(write_run(tmp_path / "bare", gauges=False, probe=False), tmp_path / "deep" / "bare.png")
    assert size_of(bare)[0] == size_of(whole)[0]
    assert size_of(bare)[1] < size_of(whole)[1]


def test_a_run_with_a_single_line_can_be_inspected(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    with Journal(tmp_path, print_every=0) as journal:
        journal.write(1, {"loss": float("nan"), "lr": 0.0, "gradient_norm": 0.0})
    assert inspect_run(tmp_path).is_file()
    assert "Probe      none" in describe_run(tmp_path)
    assert "not watched" in describe_run(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"holds no config.json"):
        inspect_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    with pytest.raises(ParameterError, match="holds nothing yet"):
        inspect_run(tmp_path)
