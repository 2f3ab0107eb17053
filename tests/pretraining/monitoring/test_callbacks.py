"""Who hears of a run: everything in order, only what is whole, and nobody else suffers from one who fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_hub import TOKEN, serve
from small_runs import CHECKOUT, small_config, small_shards

from pretraining.config import PretrainConfig
from pretraining.data.shards import ShardSet
from pretraining.monitoring import callbacks as registry
from pretraining.monitoring.callbacks import Callback, register_callback
from pretraining.monitoring.journal import read_journal
from pretraining.trainer import Trainer

EXAMPLES = CHECKOUT / "examples" / "callbacks"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return small_shards(tmp_path_factory.mktemp("data"))


class Listener(Callback):
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def start(self, config: PretrainConfig, folder: Path, step: int) -> None:
        self.heard.append(("start", step))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self.heard.append(("step", step, values["loss"]))

    def gauge(self, step: int, values: Mapping[str, float]) -> None:
        self.heard.append(("gauge", step, values["rank"]))

    def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
        assert path.is_file()
        self.heard.append(("checkpoint", step))

    def note(self, step: int, event: str, text: str) -> None:
        self.heard.append((event, step))

    def end(self, step: int) -> None:
        self.heard.append(("closed", step))


class Broken(Callback):
    def step(self, step: int, values: Mapping[str, float]) -> None:
        raise ConnectionError("the service is down")

    def end(self, step: int) -> None:
        raise AssertionError("hears no more")


def test_a_callback_hears_all_of_a_run_in_its_order(shards: ShardSet, tmp_path: Path) -> None:
    listener = Listener()
    config = small_config(run__steps=2, watch__checkpoint_every=1, watch__gauge_every=2)

    Trainer(config, shards, tmp_path / "run", device="cpu", callbacks=[listener]).train()

    heard = [(what[0], what[1]) for what in listener.heard]
    begins = [("start", 0), ("start", 0), ("gauge", 0)]
    assert heard == [
        *begins,
        ("step", 1),
        ("checkpoint", 1),
        ("step", 2),
        ("gauge", 2),
        ("checkpoint", 2),
        ("end", 2),
        ("closed", 2),
    ]
    written = read_journal(tmp_path / "run")
    assert listener.heard[3] == ("step", 1, written[1]["loss"])
    assert listener.heard[6] == ("gauge", 2, written[2]["rank"])


def test_one_that_fails_is_named_and_left_out_and_the_run_goes_on(
    shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = Listener()

    Trainer(small_config(), shards, tmp_path / "run", device="cpu", callbacks=[Broken(), listener]).train()

    said = capsys.readouterr().err
    assert said.count("Broken failed (ConnectionError: the service is down)") == 1
    assert listener.heard[-1] == ("closed", 6)


def test_a_registered_callback_is_made_anew_for_each_run(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_FACTORIES", [])
    made: list[Listener] = []

    @register_callback
    def make() -> Listener:
        made.append(Listener())
        return made[-1]

    for name in ("a", "b"):
        Trainer(small_config(run__steps=1), shards, tmp_path / name, device="cpu").train()

    assert [listener.heard[-1] for listener in made] == [("closed", 1), ("closed", 1)]


def test_a_run_that_is_resumed_tells_where(shards: ShardSet, tmp_path: Path) -> None:
    Trainer(small_config(), shards, tmp_path / "run", device="cpu").train()
    listener = Listener()

    longer = small_config(run__steps=7)
    Trainer(longer, shards, tmp_path / "run", resume=True, device="cpu", callbacks=[listener]).train()

    assert listener.heard[:2] == [("start", 6), ("resume", 6)]


def train_with(example: str, shards: ShardSet, tmp_path: Path, **environment: str) -> str:
    """Train a run in a process of its own with an example's callback, in a folder of its own."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[4]); from small_runs import small_config;"
        "from pathlib import Path; from pretraining.data.shards import open_shards;"
        "from pretraining.trainer import Trainer; from skecg.encoders.plugins import load_plugin;"
        "load_plugin(sys.argv[1]); config = small_config(run__steps=4, watch__checkpoint_every=1);"
        "Trainer(config, open_shards(sys.argv[2]), Path(sys.argv[3]), device='cpu').train()"
    )
    support = str(CHECKOUT / "tests" / "support")
    places = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script, str(EXAMPLES / example), str(shards.folder), "run", support],
        env=os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr, done.stderr
    return done.stdout


def test_weights_and_biases_offline(shards: ShardSet, tmp_path: Path) -> None:
    pytest.importorskip("wandb")

    train_with("weights_and_biases.py", shards, tmp_path, WANDB_MODE="offline")

    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert log.stat().st_size > 1000


def test_mlflow_in_a_folder(shards: ShardSet, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")

    train_with("mlflow_folder.py", shards, tmp_path, MLFLOW_ALLOW_FILE_STORE="true")

    (metric,) = (tmp_path / "mlruns").glob("*/*/metrics/loss")
    assert [int(line.split()[-1]) for line in metric.read_text().splitlines()] == [1, 2, 3, 4]
    (written,) = (tmp_path / "mlruns").glob("*/*/artifacts/config.json")
    assert json.loads(written.read_text())["name"] == "small"


@pytest.mark.slow
def test_every_second_checkpoint_goes_to_the_hub(shards: ShardSet, tmp_path: Path) -> None:
    hub, server = serve()
    place = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    place |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    try:
        train_with("push_checkpoints.py", shards, tmp_path, REPOSITORY="me/run", EVERY="2", **place)
    finally:
        server.shutdown()
        server.server_close()

    repository = hub.repositories["me/run"]
    assert repository.private
    files = repository.commits[repository.branches["main"]]
    assert sorted(name for name in files if name.endswith(".pt")) == ["step-00000002.pt", "step-00000004.pt"]
    assert files["step-00000004.pt"] == (tmp_path / "run" / "checkpoints" / "step-00000004.pt").read_bytes()
