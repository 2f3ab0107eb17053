"""From files to weights with four commands; what makes no sense is one line and code 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pretraining.__main__ import main
from pretraining.monitoring.journal import read_journal
from pretraining.recipes import RECIPES
from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.hub.licences import data_licences, licence_problems
from skecg.weights import read_info

ROOT = Path(__file__).resolve().parents[2]

# A run of a second.
SHORT = ["run.steps=4", "run.batch_size=4", "watch.gauge_every=0", "watch.checkpoint_every=2", "watch.log_every=1"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed array of recordings."""
    records = make_ecg(8, sampling_rate=250, noise=0.03, random_state=0).records
    path = tmp_path_factory.mktemp("archive") / "mine.npz"
    signals = np.rint(np.stack([record.signal for record in records]) * 1000).astype(np.int16)
    np.savez(path, signals=signals, lsb=1.0, units="uV", fs=250.0, leads=np.array(records[0].leads))
    return path


@pytest.fixture(scope="module")
def shards(archive: Path) -> Path:
    folder = archive.parent / "shards"
    assert main(["pack", "--corpus", f"mine={archive}", "--out", str(folder), "--recipe", "tiny", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(shards: Path) -> Path:
    folder = shards.parent / "run"
    arguments = ["--recipe", "tiny", "--data", str(shards), "--out", str(folder), "--device", "cpu"]
    assert main(["train", *arguments, *SHORT]) == 0
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that cannot be carried out, and give its one line."""
    capsys.readouterr()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_run_becomes_weights_that_the_embedder_takes(
    run: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "weights"), "--name", "mine"]) == 0
    assert f"skecg verify {tmp_path / 'weights'}" in capsys.readouterr().out
    embedder = JEPAEmbedder(str(tmp_path / "weights"))
    records = make_ecg(2, sampling_rate=250, random_state=1).records
    assert embedder.fit_transform(records).shape == (2, 96)
    assert embedder.verify().passed


def test_inspect_tells_the_story_and_draws(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run), "--out", str(tmp_path / "curves.png")]) == 0
    assert "tiny" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 5_000


def test_pack_says_what_it_packed(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pack", "--corpus", f"mine={archive}", "--out", str(tmp_path), "--sampling-rate", "200", "--quiet"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "8 records packed" in output
    assert "8 rows at 200 Hz" in output


def test_a_recipe_says_how_to_pack(archive: Path, tmp_path: Path) -> None:
    arguments = ["pack", "--corpus", f"mine={archive}", "--out", str(tmp_path), "--recipe", "weimann_vit_xs", "--quiet"]
    assert main(arguments) == 0
    spec = json.loads((tmp_path / "manifest.json").read_text())["input"]
    assert (spec["sampling_rate"], spec["resampling"], spec["window_samples"]) == (500.0, "fourier", 5000)


def test_overrides_are_written_with_the_run(run: Path) -> None:
    written = json.loads((run / "config.json").read_text())
    assert (written["run"]["steps"], written["run"]["batch_size"]) == (4, 4)


def test_overrides_may_stand_anywhere_among_the_options(shards: Path, tmp_path: Path) -> None:
    first, *others = SHORT
    options = ["--data", str(shards), "--out", str(tmp_path / "run")]
    assert (
        main(["train", first, *options, "run.steps=1", "--recipe", "tiny", *others[:1], "--resume", *others[1:]]) == 0
    )
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["steps"] == 1


def test_a_run_is_resumed_without_saying_again_what_it_is(
    run: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(shards), "--out", str(run), "--resume"]) == 0
    assert "resume" in capsys.readouterr().out


def test_a_probe_is_scored_at_every_checkpoint_unless_told_otherwise(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pretraining.monitoring import online_probe

    few = online_probe.synthetic_labelled(40)
    monkeypatch.setattr(online_probe, "synthetic_labelled", lambda: few)
    arguments = ["--recipe", "tiny", "--data", str(shards), "--out", str(tmp_path / "run"), "--probe", "synthetic"]
    assert main(["train", *arguments, *SHORT]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["watch"]["probe_every"] == 2
    assert main(["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "best"), "--which", "best"]) == 0
    # Where no checkpoints are asked for on the way, at the last one.
    arguments[arguments.index(str(tmp_path / "run"))] = str(tmp_path / "again")
    assert main(["train", *arguments, *SHORT, "watch.checkpoint_every=0"]) == 0
    lines = map(json.loads, (tmp_path / "again" / "journal.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "probe" in line] == [0, 4]


def test_list_prints_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(RECIPES)


def test_what_cannot_be_done_is_one_line_and_code_2(
    run: Path, shards: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--data", str(shards), "--out", str(tmp_path / "new")]
    assert "'weimann_vit_s'" in said(capsys, *train, "--recipe", "weimann_vits")
    assert "Did you mean 'lr'" in said(capsys, *train, "--recipe", "tiny", "optim.lrr=1")
    assert "no --recipe" in said(capsys, *train)
    assert "no --data" in said(capsys, "train", "--recipe", "tiny", "--out", str(tmp_path / "new"))
    assert "500" in said(capsys, *train, "--recipe", "weimann_vit_xs")
    assert "not empty" in said(capsys, *train[:3], "--out", str(run), "--recipe", "tiny")
    assert "other" in said(capsys, "train", "--data", str(shards), "--out", str(run), "--resume", "optim.lr=0.5")
    assert "no file" in said(capsys, *train, "--recipe", "tiny", "--probe", str(tmp_path / "none.npz"))
    assert "NAME=DIR" in said(capsys, "pack", "--corpus", str(archive), "--out", str(tmp_path / "s"))
    pack = ["pack", "--corpus", f"a={archive}", "--out", str(tmp_path / "s"), "--recipe", "tiny"]
    assert "one of the two" in said(capsys, *pack, "--sampling-rate", "100")
    assert "folder of a run" in said(capsys, "inspect", str(tmp_path))
    assert "checkpoint" in said(capsys, "export", "--run", str(tmp_path), "--out", str(tmp_path / "w"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "wrong", [["traim"], ["train", "--lisst"], ["pack", "--out", "x", "--corpus", "a=b", "a=b"], []]
)
def test_arguments_that_make_no_sense_end_with_code_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(wrong)
    assert end.value.code == 2


def test_help_answers_without_torch() -> None:
    code = "import sys; sys.argv = ['x', '--help']\nfrom pretraining.__main__ import main\ntry:\n    main()\n"
    code += "except SystemExit:\n    print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
def test_a_run_that_is_asked_to_stop_saves_and_leaves_with_code_0(shards: Path, tmp_path: Path) -> None:
    arguments = ["--recipe", "tiny", "--data", str(shards), "--out", str(tmp_path / "run"), "run.steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pretraining", "train", *arguments, "run.batch_size=4", "watch.gauge_every=0"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.lstrip().startswith("step") and "loss" in line:
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "--resume" in rest
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))) == 1


def test_pack_leaves_out_what_is_listed_and_learns_whose_recordings_are(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "whose.csv").write_text("path;patient\n#0;anna\n#3;anna\n", encoding="utf-16")  # a spreadsheet's
    (tmp_path / "list.txt").write_text("anna\n#1\n")
    lists = ["--patients", str(tmp_path / "whose.csv"), "--leave-out", str(tmp_path / "list.txt")]
    arguments = ["--corpus", f"mine={archive}", "--out", str(tmp_path / "shards"), "--sampling-rate", "100", "--quiet"]

    assert main(["pack", *arguments, *lists, "--corpus-highpass", "mine=0.5"]) == 0

    assert "5 records packed" in capsys.readouterr().out
    wrong = said(capsys, "pack", *arguments, "--corpus-highpass", "mine")
    assert "--corpus-highpass 'mine'" in wrong
    (tmp_path / "whose.csv").write_text("path,name\n#0,anna\n")
    assert "without the column(s) patient" in said(capsys, "pack", *arguments, *lists)
    (tmp_path / "whose.csv").write_text("path,patient\n#0,anna\n#3,\n#0,bert\n")
    assert "two patients of '#0'" in said(capsys, "pack", *arguments, *lists)
    (tmp_path / "whose.csv").write_text("path,patient\n#0,anna\n#3,\n")
    (tmp_path / "other.csv").write_text("path,patient\n#0,bert\n")
    other = ["--patients", str(tmp_path / "other.csv")]
    assert "two patients of '#0' in --patients" in said(capsys, "pack", *arguments, *lists, *other)


def test_pack_that_sigterm_stops_says_so_and_exits_with_143(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr("pretraining.data.pack.pack", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    try:
        assert main(["pack", "--corpus", f"mine={archive}", "--out", str(tmp_path / "shards")]) == 143
    finally:
        signal.signal(signal.SIGTERM, before)

    assert capsys.readouterr().err == "skecg: stopped\n"


def test_train_goes_on_from_exported_weights_and_probes_ones_own_rows(
    run: Path, shards: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, own = str(tmp_path / "weights"), tmp_path / "own"
    assert main(["export", "--run", str(run), "--out", weights]) == 0
    table = tmp_path / "mine.csv"
    table.write_text("row,label,fold\n" + "".join(f"{row},{'AF' if row % 2 else 'SR'},{row + 1}\n" for row in range(8)))
    pack = ["--corpus", f"mine={archive}", "--out", str(tmp_path / "shards"), "--from", weights, "--quiet"]
    assert main(["pack", *pack]) == 0

    arguments = ["--from", weights, "--data", str(tmp_path / "shards"), "--out", str(own), "--device", "cpu"]
    assert main(["train", *arguments, "--probe", str(table), *SHORT, "optim.lr=1e-4", "optim.warmup_steps=0.25"]) == 0

    written = json.loads((own / "config.json").read_text())
    assert written["start"].startswith("tiny (sha256 ")
    assert (written["name"], written["optim"]["lr"]) == ("tiny", 1e-4)
    assert "probe" in (own / "journal.jsonl").read_text()
    wrong = said(capsys, "pack", *pack, "--sampling-rate", "100")
    assert "--from and --sampling-rate" in wrong


def test_training_goes_on_when_who_watched_it_has_left(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["--recipe", "tiny", "--data", str(shards), "--out", str(tmp_path / "run"), "--device", "cpu"]
    with os.fdopen(writer, "w", buffering=1) as pipe, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", pipe)
        patch.setattr("sys.stderr", pipe)
        assert main(["train", *arguments, *SHORT]) == 0
    assert max(line["step"] for line in read_journal(tmp_path / "run")) == 4


def test_weights_that_went_on_from_others_name_the_data_of_both(run: Path, shards: Path, tmp_path: Path) -> None:
    weights, own = str(tmp_path / "weights"), tmp_path / "own"
    assert main(["export", "--run", str(run), "--out", weights]) == 0
    base = tmp_path / "weights" / "config.json"
    told = {"data": "closed: the archive (9 records)", "data_licences": {"closed": "CC-BY-NC-4.0"}}
    values = json.loads(base.read_text())
    base.write_text(json.dumps(values | {"provenance": values["provenance"] | told}))
    arguments = ["--from", weights, "--data", str(shards), "--out", str(own), "--device", "cpu", *SHORT]
    assert main(["train", *arguments]) == 0

    def data_of(folder: str) -> str:
        assert main(["export", "--run", str(own), "--out", str(tmp_path / folder), "--licence", "CC0-1.0"]) == 0
        known = read_info(tmp_path / folder).provenance
        assert any("closed is under" in line for line in licence_problems(known, data_licences(known))) == (
            folder == "known"
        )
        return str(known["data"])

    assert data_of("known").endswith(" records); closed: the archive (9 records)")
    (own / "start.json").unlink()  # as in runs from before it was written
    assert data_of("unknown").endswith(" records); the data of tiny (sha256 " + read_info(weights).sha256[:16] + ")")
