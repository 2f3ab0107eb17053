"""Two processes on one CPU, started as torchrun would start them."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SAMPLES, free_port, small_config, small_shards, start_process

from pretraining.config import MaskConfig, ObjectiveConfig, PretrainConfig
from pretraining.config.objectives import BeatSslConfig, MaeConfig
from pretraining.data.shards import ShardSet
from pretraining.distributed import Engine
from pretraining.monitoring.journal import read_events, read_journal
from pretraining.runs import load_checkpoint
from pretraining.safeguards import NonFiniteLossError, check_finite
from pretraining.trainer import Trainer
from skecg.encoders import Encoder, build_encoder
from skecg.leads import CANONICAL_LEADS
from skecg.spec import InputSpec, MultiscaleConfig, TemporalConfig

# Contrasts compare recordings of all processes.
BEAT_SSL = dataclasses.replace(
    small_config(),
    encoder=TemporalConfig(12, 10, 20, 16, 2, 2),
    input=InputSpec(CANONICAL_LEADS, 100.0, SAMPLES),
    objective=BeatSslConfig(projected_dim=8),
    predictor=None,
    masks=None,
    export_encoder="context",
)
MAE = dataclasses.replace(
    small_config(data__lead_dropout=0.5, run__accumulation=2),
    encoder=MultiscaleConfig(3, 10, 20, 16, 2, 2, lead_groups=3, kernel_samples=(5, 15), stem_dim=3),
    objective=MaeConfig("both"),
    masks=None,
    export_encoder="context",
)
CONTRAST = dataclasses.replace(
    small_config(),
    input=dataclasses.replace(small_config().input, any_leads=True),
    masks=MaskConfig("crop", 0.3, 0.6, masks_per_target=2, lead_dropout=0.5),
    objective=ObjectiveConfig(predict_weight=0.0, contrast_weight=1.0),
)
# Drop-path and both kinds of masks depend on a record's place in the batch, not in the process; an encoder without
# registers has a parameter without elements; several masks call a module more than once before going backward.
CONFIGS = {
    "ddp": small_config(
        "leadwise",
        masks__kind="multiblock",
        data__drop_path=0.3,
        objective=ObjectiveConfig("smooth_l1", "layer"),
        ema__start=0.9,
    ),
    "ddp in parts": small_config(masks__masks_per_target=2, run__accumulation=2, ema__before_step=True, ema__start=0.9),
    "fsdp2": small_config(masks__masks_per_target=2, run__accumulation=2, run__parallel="fsdp2", ema__start=0.9),
    "contrast": CONTRAST,
    "masked autoencoder": MAE,
    "beat_ssl": BEAT_SSL,
    "beat_ssl, fsdp2": dataclasses.replace(
        BEAT_SSL,
        objective=BeatSslConfig("hard", "soft_2", 1.0, projected_dim=8),
        run=dataclasses.replace(BEAT_SSL.run, parallel="fsdp2"),
    ),
    "fsdp2 without registers": small_config(run__parallel="fsdp2", ema__start=0.9),
    "from weights": small_config(start="others", optim__frozen_blocks=1, optim__layer_decay=0.5, ema__start=0.9),
    "from weights, fsdp2": small_config(
        start="others", optim__frozen_blocks=1, run__parallel="fsdp2", run__accumulation=2, ema__start=0.9
    ),
}
CONFIGS["fsdp2 without registers"] = dataclasses.replace(
    CONFIGS["fsdp2 without registers"],
    encoder=dataclasses.replace(CONFIGS["fsdp2 without registers"].encoder, num_registers=0),
)
UNEVEN = small_config(run__batch_size=9)
WATCHED = {"log_every": 1, "gauge_every": 3, "probe_every": 3, "checkpoint_every": 3}

# Two processes train everything in one go: most of the time goes into starting them.
BOTH = """
import contextlib, dataclasses, os, signal, sys
import torch.distributed as dist
from pathlib import Path
from test_distributed import CONFIGS, UNEVEN, StubProbe, others, prepared
from pretraining.distributed import collect_garbage, open_engine
from pretraining.data.shards import open_shards
from pretraining.objectives.jepa import Jepa
from pretraining.trainer import Trainer
from skecg.errors import ParameterError
from skecg.io.files import alone_in

shards, out = open_shards(sys.argv[1]), Path(sys.argv[2])
rank = int(os.environ["RANK"])
try:
    Trainer(UNEVEN, shards, out / "uneven", device="cpu")
except ParameterError as error:
    (out / f"uneven{rank}.txt").write_text(str(error))

# The group of processes is opened after what only the first one does, which may take long.
opened, write_tables = [], Jepa.write_tables
Jepa.write_tables = classmethod(lambda *_: opened.append(dist.is_initialized()))
alone = Trainer(prepared(CONFIGS["ddp"]), shards, out / "own group", probe=StubProbe(), device="cpu")
(out / f"opened{rank}.txt").write_text(f"{opened} {dist.is_initialized()}")
alone.train()
(out / f"closed{rank}.txt").write_text(str(dist.is_initialized()))
Jepa.write_tables = write_tables
del alone

dist.init_process_group("gloo")
for name, config in CONFIGS.items():
    Trainer(prepared(config), shards, out / name, probe=StubProbe(), device="cpu", start=others(config)).train()
try:
    Trainer(prepared(CONFIGS["ddp"]), shards, out / "ddp", device="cpu")
except ParameterError as error:
    (out / f"refused{rank}.txt").write_text(str(error))

# As if another run were under way there: known to the first process alone.
late = Trainer(prepared(CONFIGS["ddp"]), shards, out / "held", probe=StubProbe(), device="cpu")
with alone_in(out / "held") if rank == 0 else contextlib.nullcontext():
    for again in (late.train, lambda: Trainer(CONFIGS["ddp"], shards, out / "held", device="cpu", resume=True)):
        try:
            again()
        except ParameterError as error:
            with (out / f"held{rank}.txt").open("a") as said:
                print(error, file=said)

# Only the second process is asked to stop; then both go on from there, and to the end.
stopped = Trainer(prepared(CONFIGS["fsdp2"]), shards, out / "stopped", probe=StubProbe(), device="cpu")
take_step = stopped._take_step
def then_ask(stop, feed):
    if rank == 1 and stopped.step == 1:
        signal.raise_signal(signal.SIGTERM)
    return take_step(stop, feed)
stopped._take_step = then_ask
stopped.train()
(out / f"step{rank}.txt").write_text(str(stopped.step))
Trainer(prepared(CONFIGS["fsdp2"]), shards, out / "stopped", probe=StubProbe(), device="cpu", resume=True).train()
del stopped, take_step, then_ask
collect_garbage()
dist.destroy_process_group()
"""


class StubProbe:
    """Gives the mean weight, which is the same only if the weights are."""

    def score(self, encoder: Any, spec: Any, pooling: str) -> dict[str, float]:
        return {"probe": float(torch.cat([p.detach().flatten() for p in encoder.parameters()]).abs().mean())}


def prepared(config: PretrainConfig) -> PretrainConfig:
    return PretrainConfig.from_dict(config.to_dict() | {"watch": WATCHED})


def others(config: PretrainConfig) -> Encoder | None:
    """Build the encoder that a run begins from, which is none that its seed would draw."""
    with torch.random.fork_rng():
        torch.manual_seed(123)
        return build_encoder(config.encoder) if config.start else None


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return small_shards(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def ran(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two processes trained."""
    out = tmp_path_factory.mktemp("two")
    port = free_port()
    both = [start_process(BOTH, str(shards.folder), str(out), rank=r, world_size=2, port=port) for r in range(2)]
    try:
        texts = [process.communicate(timeout=240)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "\n".join(texts)
    assert texts[1].strip() == "", "only the first process tells"
    return out


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def story(run: Path) -> list[dict[str, float]]:
    kept = ("step", "loss", "gradient_norm", "lr", "momentum", "fixed_loss", "rank", "drift", "probe")
    kept += ("rhythm", "beat", "rhythm_gain", "beat_gain", "fixed_beat_gain")
    return [{name: line[name] for name in kept if name in line} for line in read_journal(run)]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_train_as_one_does(ran: Path, shards: ShardSet, tmp_path: Path, name: str) -> None:
    start = others(CONFIGS[name])
    Trainer(prepared(CONFIGS[name]), shards, tmp_path / "run", probe=StubProbe(), device="cpu", start=start).train()

    one, two = story(tmp_path / "run"), story(ran / name)
    assert len(one) == len(two) == 7
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
        assert ours.get("loss", 0.0) == pytest.approx(theirs.get("loss", 0.0), abs=1e-5)
    whole, gathered = (load_checkpoint(run / "checkpoints") for run in (tmp_path / "run", ran / name))
    assert gathered["world_size"] == 2
    for key, weight in whole["model"].items():
        torch.testing.assert_close(gathered["model"][key], weight, rtol=0, atol=1e-3)
    assert [set(values) for values in gathered["optimizer"]["state"].values()] == [
        set(values) for values in whole["optimizer"]["state"].values()
    ]


@pytest.mark.parametrize("name", [name for name in CONFIGS if CONFIGS[name].start])
def test_frozen_blocks_stay_those_of_the_weights_begun_from_in_two_processes(ran: Path, name: str) -> None:
    start = others(CONFIGS[name])
    assert start is not None
    model = load_checkpoint(ran / name / "checkpoints")["model"]
    for encoder in ("context_encoder", "target_encoder"):
        moved = {key for key, old in start.state_dict().items() if not torch.equal(model[f"{encoder}.{key}"], old)}
        assert moved == {key for key in start.state_dict() if key.startswith(("blocks.1.", "norm."))}


def test_a_group_of_their_own_is_opened_after_the_long_work_and_closed_with_the_run(ran: Path) -> None:
    assert (ran / "opened0.txt").read_text() == "[False] True"
    assert (ran / "opened1.txt").read_text() == "[] True"
    assert [(ran / f"closed{rank}.txt").read_text() for rank in range(2)] == ["False", "False"]
    ours, theirs = (load_checkpoint(ran / name / "checkpoints")["model"] for name in ("own group", "ddp"))
    for key, weight in theirs.items():
        torch.testing.assert_close(ours[key], weight, rtol=0, atol=1e-5)


def test_what_two_began_one_goes_on_with_and_says_so(ran: Path, shards: ShardSet, tmp_path: Path) -> None:
    for name in ("ddp", "fsdp2"):
        state = load_checkpoint(ran / name / "checkpoints", 3)
        run = Trainer(prepared(CONFIGS[name]), shards, tmp_path / name, device="cpu")
        (run.out / "checkpoints" / "step-00000003.pt").write_bytes(
            (ran / name / "checkpoints" / "step-00000003.pt").read_bytes()
        )
        resumed = Trainer(prepared(CONFIGS[name]), shards, run.out, device="cpu", resume=True, probe=StubProbe())
        assert resumed.step == state["step"] == 3
        resumed.train()

        assert story(run.out)[-1] == pytest.approx(story(ran / name)[-1], rel=1e-3, abs=1e-5)
        assert "processes: 2 before, 1 now" in read_events(run.out)[0]["text"]


def test_a_batch_that_two_cannot_share_is_refused_by_both(ran: Path) -> None:
    for rank in range(2):
        assert "run.batch_size=9 for 2 processes" in (ran / f"uneven{rank}.txt").read_text()
    assert not (ran / "uneven").exists()


def test_what_the_first_process_refuses_the_other_does_too(ran: Path) -> None:
    assert (ran / "refused0.txt").read_text() == (ran / "refused1.txt").read_text() != ""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_where_a_run_is_under_way_no_process_trains_and_none_waits(ran: Path) -> None:
    ours, theirs = ((ran / f"held{rank}.txt").read_text() for rank in range(2))
    assert ours == theirs
    assert ours.count("Another run is under way") == 2


def test_a_loss_that_is_broken_in_all_processes_names_the_records_of_all(shards: ShardSet) -> None:
    run = BEAT_SSL.run
    engine = Engine(torch.device("cpu"), "fp32", run, rank=1, world_size=2)
    known: dict[str, Any] = {"config": BEAT_SSL, "shards": shards, "engine": engine, "step": 0, "last_loss": None}
    with pytest.raises(NonFiniteLossError, match=r"process 0, 1 of 2.*Of its 8 records"):
        check_finite([math.nan, math.nan], 1.0, **known)
    with pytest.raises(NonFiniteLossError, match=r"norm is inf at step 1 of \d+, process 0, 1 of 2.*its 8 records"):
        check_finite([1.0, 1.0], math.inf, **known)


def test_both_stop_when_one_is_asked_to_and_go_on_where_they_were(ran: Path) -> None:
    assert [(ran / f"step{rank}.txt").read_text() for rank in range(2)] == ["2", "2"]
    assert [event["event"] for event in read_events(ran / "stopped")] == ["start", "stop", "resume", "end"]
    for ours, theirs in zip(story(ran / "stopped"), story(ran / "fsdp2"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-7)
