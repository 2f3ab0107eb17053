from __future__ import annotations

import dataclasses
import json
import math
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import assert_same_bits, small_config, small_shards, start_process
from torch import Tensor

from pretraining import safeguards as non_finite
from pretraining import trainer
from pretraining.config import ObjectiveConfig, PretrainConfig
from pretraining.data.batches import Batch, to_values
from pretraining.data.shards import ShardSet
from pretraining.export import export
from pretraining.monitoring import monitor as watching
from pretraining.monitoring.journal import Journal, read_events, read_journal
from pretraining.objectives import build_model
from pretraining.objectives.jepa import Jepa
from pretraining.objectives.stochastic_depth import StochasticDepth
from pretraining.optim import build_optimizer, learning_rate, momentum, set_schedule_
from pretraining.runs import CheckpointError, check_same_run, load_checkpoint, saved_steps
from pretraining.safeguards import NonFiniteLossError
from pretraining.trainer import Collapse, Trainer, clip_gradients_
from skecg.encoders.dual import DualConfig
from skecg.errors import ParameterError
from skecg.weights import load_encoder, read_info

# Each of these is a way of its own through a step.
KINDS = {
    "weimann": small_config(ema__before_step=True),
    "kim": small_config(
        "leadwise", masks__kind="random", data__drop_path=0.5, objective=ObjectiveConfig("l1", "layer")
    ),
    "several masks, sigreg, accumulation": small_config(
        masks__masks_per_target=2, objective__sigreg_weight=0.1, run__accumulation=2
    ),
    "bf16": small_config(run__precision="bf16"),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return small_shards(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums to the last bit depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


_WATCH = {"log_every": 1, "probe_every": 2, "gauge_every": 2}


class StubProbe:
    """Scores by a list, and does something at its second score."""

    def __init__(self, scores: list[float] | None = None, then: Callable[[], Any] | None = None) -> None:
        self.scores, self.then, self.n_scored = scores or [0.5] * 99, then, 0

    def score(self, encoder: Any, spec: Any, pooling: str = "") -> dict[str, float]:
        self.n_scored += 1
        if self.then is not None and self.n_scored == 2:
            self.then()
        return {"probe": self.scores[self.n_scored - 1]}


def train(config: PretrainConfig, shards: ShardSet, out: Path, **options: Any) -> dict[str, Any]:
    Trainer(config, shards, out, device="cpu", **options).train()
    return load_checkpoint(out / "checkpoints")


class AskingProbe(StubProbe):
    """One that says what it asks."""

    measure = "r2"

    def __init__(self, key: str, scores: list[float]) -> None:
        super().__init__(scores)
        self.key = key


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_journal(out) if "loss" in line]


# --- what a run does ----------------------------------------------------------------------------------------------


def test_a_run_learns_and_leaves_its_whole_story_behind(shards: ShardSet, tmp_path: Path) -> None:
    config = small_config(run__steps=30, watch__gauge_every=15, watch__checkpoint_every=10)
    state = train(config, shards, tmp_path / "run")

    found = losses(tmp_path / "run")
    assert len(found) == 30
    assert np.mean(found[-3:]) < 0.9 * np.mean(found[:3])
    assert state["step"] == 30
    assert saved_steps(tmp_path / "run" / "checkpoints") == [20, 30]
    assert PretrainConfig.from_dict(json.loads((tmp_path / "run" / "config.json").read_text())) == config
    assert json.loads((tmp_path / "run" / "data.json").read_text())["corpora"] == {"small": 32}
    assert [entry["step"] for entry in state["gauges"]] == [0, 15, 30]
    assert [event["event"] for event in read_events(tmp_path / "run")] == ["start", "end"]
    line = read_journal(tmp_path / "run")[-1]
    assert {"lr", "momentum", "weight_decay", "gradient_norm", "records_per_second", "rank", "memory_gib"} <= set(line)


def test_every_step_has_the_schedules_values(shards: ShardSet, tmp_path: Path) -> None:
    for name, accumulation in (("whole", 1), ("parts", 4)):
        config = small_config(run__accumulation=accumulation)
        train(config, shards, tmp_path / name)

        lines = [line for line in read_journal(tmp_path / name) if "loss" in line]
        assert [line["lr"] for line in lines] == [learning_rate(config, step) for step in range(6)]
        assert [line["momentum"] for line in lines] == [momentum(config, step) for step in range(6)]


@pytest.mark.parametrize("kind", ["weimann", "kim"])
def test_a_batch_taken_in_parts_is_the_same_step(shards: ShardSet, tmp_path: Path, kind: str) -> None:
    whole = train(KINDS[kind], shards, tmp_path / "whole")
    run = KINDS[kind].to_dict()["run"] | {"accumulation": 4}
    parts = train(PretrainConfig.from_dict(KINDS[kind].to_dict() | {"run": run}), shards, tmp_path / "parts")

    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    for name, weight in whole["model"].items():
        torch.testing.assert_close(parts["model"][name], weight, rtol=0, atol=2e-4)


def test_the_average_is_taken_after_the_step_or_before_the_next(shards: ShardSet, tmp_path: Path) -> None:
    def weights(state: dict[str, Any], part: str) -> list[Tensor]:
        return [value for name, value in state["model"].items() if name.startswith(part)]

    def after_one_step(**changes: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        config = small_config(run__steps=1, ema__start=0.75, optim__warmup_steps=0, **changes)
        run = Trainer(config, shards, tmp_path / str(changes), device="cpu")
        begun = [p.clone() for p in run.model.target_encoder.parameters()]
        run.train()
        state = load_checkpoint(run.out / "checkpoints")
        return begun, weights(state, "context_encoder"), weights(state, "target_encoder")

    begun, _, target = after_one_step(ema__before_step=True)
    assert all(map(torch.equal, target, begun))
    begun, context, target = after_one_step(ema__before_step=False)
    for first, trained, averaged in zip(begun, context, target, strict=True):
        assert not torch.equal(first, trained)
        torch.testing.assert_close(averaged, 0.75 * first + 0.25 * trained)


def test_what_is_left_out_is_drawn_for_each_step_and_each_place_of_the_batch(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, range]] = []
    active = StochasticDepth.active
    monkeypatch.setattr(StochasticDepth, "active", lambda self, *place: (drawn.append(place), active(self, *place))[1])
    train(small_config(run__steps=2, run__accumulation=2, data__drop_path=0.3), shards, tmp_path / "run")

    assert drawn == [(0, range(4)), (0, range(4, 8)), (1, range(4)), (1, range(4, 8))]


def test_bfloat16_begins_as_float32_does(shards: ShardSet, tmp_path: Path) -> None:
    train(small_config(run__steps=2), shards, tmp_path / "fp32")
    state = train(small_config(run__steps=2, run__precision="bf16"), shards, tmp_path / "bf16")

    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=0.02)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")
    assert {value.dtype for value in state["model"].values()} == {torch.float32}


def test_gradients_are_cut_to_the_largest_norm_and_no_further(shards: ShardSet) -> None:
    model = torch.nn.Linear(3, 1, bias=False)
    for largest, wanted in ((0.0, 5.0), (10.0, 5.0), (1.0, 1.0)):
        model.weight.grad = torch.tensor([[3.0, 0.0, 4.0]])
        assert clip_gradients_(model, largest).item() == pytest.approx(5.0)
        assert model.weight.grad.norm().item() == pytest.approx(wanted, abs=1e-5)


def test_torchs_generator_is_left_alone(shards: ShardSet, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    config = small_config("leadwise", data__drop_path=0.5, masks__kind="multiblock", watch__gauge_every=3)
    train(config, shards, tmp_path / "run")

    assert torch.equal(torch.get_rng_state(), before)


# --- stopping and resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_stopped_and_resumed_is_the_same_run_to_the_last_bit(shards: ShardSet, tmp_path: Path, kind: str) -> None:
    config = PretrainConfig.from_dict(KINDS[kind].to_dict() | {"watch": _WATCH})
    whole = train(config, shards, tmp_path / "whole", probe=StubProbe())

    stopping = StubProbe(then=lambda: signal.raise_signal(signal.SIGTERM))
    stopped = train(config, shards, tmp_path / "run", probe=stopping)
    assert stopped["step"] == 3, "asked to stop after step 2, it finished and saved the one under way"
    resumed = train(config, shards, tmp_path / "run", probe=StubProbe(), resume=True)

    assert_same_bits(resumed, whole)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert [event["event"] for event in read_events(tmp_path / "run")] == ["start", "stop", "resume", "end"]


def test_the_journal_of_a_resumed_run_is_that_of_the_whole_one_and_a_loss_is_the_sum_of_its_parts(
    shards: ShardSet, tmp_path: Path
) -> None:
    config = small_config(objective__sigreg_weight=0.5, watch__log_every=5, watch__checkpoint_every=2)
    train(config, shards, tmp_path / "run")
    whole = [line for line in read_journal(tmp_path / "run") if "loss" in line]
    (tmp_path / "run" / "checkpoints" / "step-00000006.pt").unlink()
    assert len(load_checkpoint(tmp_path / "run" / "checkpoints")["losses"]) == 3, "of steps 2 to 4"

    state = train(config, shards, tmp_path / "run", resume=True)

    found = [line for line in read_journal(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in found] == [1, 5, 6]
    for name in ("loss", "prediction", "sigreg"):
        assert [line[name] for line in found] == [line[name] for line in whole]
    assert [line["prediction"] + 0.5 * line["sigreg"] for line in found] == pytest.approx(losses(tmp_path / "run"))
    assert state["losses"] == []


def test_a_checkpoint_from_before_losses_were_kept_is_resumed(shards: ShardSet, tmp_path: Path) -> None:
    config = small_config(watch__log_every=4)
    train(config, shards, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step-00000006.pt").unlink()
    state = torch.load(checkpoints / "step-00000003.pt", weights_only=True)
    del state["losses"]
    torch.save(state, checkpoints / "step-00000003.pt")

    assert train(config, shards, tmp_path / "run", resume=True)["step"] == 6


def test_nothing_is_gathered_for_lines_that_never_come(shards: ShardSet, tmp_path: Path) -> None:
    assert train(small_config(watch__log_every=0), shards, tmp_path / "run")["losses"] == []
    assert len(losses(tmp_path / "run")) == 1


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_a_checkpoint_with_tensors_of_another_model_is_named(shards: ShardSet, tmp_path: Path, part: str) -> None:
    state = train(small_config(), shards, tmp_path / "run")
    state["model" if part == "model" else "optimizer"] |= {"newer": torch.zeros(1), "param_groups": []}
    torch.save(state, tmp_path / "run" / "checkpoints" / "step-00000006.pt")

    with pytest.raises(CheckpointError, match=r"step-00000006\.pt.*whose tensors cannot be used"):
        Trainer(small_config(), shards, tmp_path / "run", resume=True, device="cpu")


KILLED = """
import os, signal, sys
from pathlib import Path
from small_runs import small_config
from pretraining.data.shards import open_shards
from pretraining.trainer import Trainer

class Killer:
    n_scored = 0
    def score(self, encoder, spec, pooling):
        self.n_scored += 1
        if self.n_scored == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"probe": 0.5}

Trainer(small_config(watch__probe_every=1), open_shards(sys.argv[1]), sys.argv[2], probe=Killer(), device="cpu").train()
"""


def test_a_killed_run_loses_at_most_the_interval_and_nothing_else(shards: ShardSet, tmp_path: Path) -> None:
    process = start_process(KILLED, str(shards.folder), str(tmp_path / "run"))
    config = small_config(watch__probe_every=1)
    whole = train(config, shards, tmp_path / "whole", probe=StubProbe())

    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, output
    assert saved_steps(tmp_path / "run" / "checkpoints")[-1] == 3, "killed within step 5"
    resumed = train(config, shards, tmp_path / "run", probe=StubProbe(), resume=True)

    assert_same_bits(resumed, whole)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_run_asked_to_stop_ends_with_code_0(shards: ShardSet, tmp_path: Path) -> None:
    script = KILLED.replace("SIGKILL", "SIGINT")
    process = start_process(script, str(shards.folder), str(tmp_path / "run"))
    output, _ = process.communicate(timeout=120)

    assert process.returncode == 0, output
    assert saved_steps(tmp_path / "run" / "checkpoints")[-1] == 6


def test_a_run_killed_before_its_first_checkpoint_begins_again(shards: ShardSet, tmp_path: Path) -> None:
    config = small_config()
    Trainer(config, shards, tmp_path / "run", device="cpu")

    with Journal(tmp_path / "run", print_every=0) as journal:  # as far as the first run came
        journal.note(0, "start", "the first try")
        journal.write(1, {"loss": 3.0})

    again = train(config, shards, tmp_path / "run", resume=True)

    assert again["step"] == 6
    assert len(losses(tmp_path / "run")) == 6
    assert [event["event"] for event in read_events(tmp_path / "run")] == ["start", "end"]


def test_a_folder_that_is_not_empty_is_refused_without_resume(shards: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(ParameterError, match=r"not empty.*--resume"):
        Trainer(small_config(), shards, tmp_path, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_resuming_with_another_configuration_or_other_data_says_what_differs(shards: ShardSet, tmp_path: Path) -> None:
    train(small_config(run__steps=1), shards, tmp_path / "run")

    changed = small_config(run__steps=2, optim__lr=0.5)
    with pytest.raises(CheckpointError, match=r"optim.lr was 0.01, is 0.5; run.steps was 1, is 2"):
        Trainer(changed, shards, tmp_path / "run", resume=True, device="cpu")
    others = small_shards(tmp_path / "others", seed=1)
    with pytest.raises(CheckpointError, match="other data"):
        Trainer(small_config(run__steps=1), others, tmp_path / "run", resume=True, device="cpu")


def test_the_order_of_weights_is_part_of_the_configuration(shards: ShardSet) -> None:
    began = small_config(data__weights={"a": 0.5, "b": 0.5})
    state = {"config": began.to_dict(), "fingerprint": shards.fingerprint}
    check_same_run(state, began, shards)
    # The same weights in another order draw other rows.
    with pytest.raises(CheckpointError, match=r"data.weights was \[\['a', 0.5\], \['b', 0.5\]\], is \[\['b', 0.5\]"):
        check_same_run(state, small_config(data__weights={"b": 0.5, "a": 0.5}), shards)


def test_a_run_goes_on_where_losses_are_scaled_though_they_were_not(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small_config(run__steps=1), shards, tmp_path / "run")
    # What "auto" is on a device without bfloat16.
    monkeypatch.setattr("pretraining.distributed.resolve_training_precision", lambda *_: "fp16")

    run = Trainer(small_config(run__steps=1), shards, tmp_path / "run", resume=True, device="cpu")

    assert run.engine.precision == "fp16"
    assert run.engine.scaler.state_dict()["scale"] == torch.amp.GradScaler("cpu").get_scale()


def test_resuming_where_something_else_differs_says_so(shards: ShardSet, tmp_path: Path) -> None:
    state = train(small_config(), shards, tmp_path / "run")
    torch.save(state | {"world_size": 4, "torch": "1.0"}, tmp_path / "run" / "checkpoints" / "step-00000006.pt")

    train(small_config(), shards, tmp_path / "run", resume=True)

    text = next(event["text"] for event in read_events(tmp_path / "run") if event["event"] == "resume")
    assert "processes: 4 before, 1 now" in text
    assert "torch: 1.0 before" in text


# --- watching -----------------------------------------------------------------------------------------------------


def test_the_best_scored_checkpoint_stays_and_is_the_one_marked(shards: ShardSet, tmp_path: Path) -> None:
    config = small_config(watch__probe_every=1, watch__keep_last=1, watch__checkpoint_every=1)
    state = train(config, shards, tmp_path / "run", probe=StubProbe([0.5, 0.6, 0.9, 0.7, 0.9, 0.6, 0.6]))

    assert state["probe"] == {
        "history": [[step, score] for step, score in enumerate([0.5, 0.6, 0.9, 0.7, 0.9, 0.6, 0.6])],
        "best_step": 2,
    }
    assert saved_steps(tmp_path / "run" / "checkpoints") == [2, 6]
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert_same_bits(best, load_checkpoint(tmp_path / "run" / "checkpoints", 2))


def test_scores_say_what_they_are_of_and_begin_anew_with_other_questions(shards: ShardSet, tmp_path: Path) -> None:
    config = small_config(run__steps=3, watch__probe_every=3)
    first = train(config, shards, tmp_path / "run", probe=AskingProbe("a", [0.1, 0.2]))
    assert first["probe"] == {"history": [[0, 0.1], [3, 0.2]], "best_step": 3, "key": "a", "measure": "r2"}

    longer = small_config(watch__probe_every=3)
    train(longer, shards, tmp_path / "run", probe=AskingProbe("b", [0.05]), resume=True)
    last = train(longer, shards, tmp_path / "run", resume=True)

    assert last["probe"] == {"history": [[6, 0.05]], "best_step": 6, "key": "b", "measure": "r2"}
    scored = [(line["probe"], line["asked"]) for line in read_journal(tmp_path / "run") if "probe" in line]
    asked = [{"key": key, "measure": "r2"} for key in "aab"]
    assert scored == list(zip([0.1, 0.2, 0.05], asked, strict=True))


@pytest.mark.parametrize("stops", [True, False])
def test_a_collapse_is_announced_and_stops_the_run_if_asked(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    monkeypatch.setattr(watching, "collapse_reason", lambda history: "all alike" if len(history) == 3 else None)
    config = small_config(watch__gauge_every=2, watch__stop_on_collapse=stops)

    if stops:
        with pytest.raises(Collapse) as ended:
            train(config, shards, tmp_path / "run")
        assert ended.value.code == 3
    else:
        train(config, shards, tmp_path / "run")

    assert load_checkpoint(tmp_path / "run" / "checkpoints")["step"] == (4 if stops else 6)
    (event,) = [event for event in read_events(tmp_path / "run") if event["event"] == "collapse"]
    assert event["step"] == 4
    assert "all alike" in event["text"]


# --- what is not finite -------------------------------------------------------------------------------------------


def break_row(monkeypatch: pytest.MonkeyPatch, row: int, value: float) -> None:
    """Let one record's values be so large."""

    def broken(batch: Batch, config: PretrainConfig, device: Any) -> Tensor:
        values = to_values(batch, config, device)
        values[torch.from_numpy(batch.rows == row)] = value
        return values

    monkeypatch.setattr(trainer, "to_values", broken)
    monkeypatch.setattr(non_finite, "to_values", broken)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_a_loss_that_is_not_finite_stops_before_the_step_and_says_where(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    config = small_config(run__steps=50, ema__before_step=True, watch__checkpoint_every=1)
    drawn = [
        set(trainer.BatchLoader(config, shards, [range(8)]).batches(step).__next__().batch.rows.tolist())
        for step in range(9)
    ]
    row, broken_at = next((r, s) for s in range(2, 9) for r in drawn[s] if not any(r in d for d in drawn[:s]))
    break_row(monkeypatch, row, value)
    run = Trainer(config, shards, tmp_path / "run", device="cpu")

    with pytest.raises(NonFiniteLossError) as stopped:
        run.train()

    text = str(stopped.value)
    assert f"at step {broken_at + 1} of 50, process 0 of 1" in text
    assert f"largest inputs: {row} (" in text
    assert f"last finite loss was {losses(tmp_path / 'run')[-1]:.6g}" in text
    assert len(losses(tmp_path / "run")) == broken_at
    state = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert state["step"] == broken_at
    assert_same_bits(
        {k: v for k, v in run.model.state_dict().items() if not k.startswith("target")},
        {k: v for k, v in state["model"].items() if not k.startswith("target")},
    )
    assert read_events(tmp_path / "run")[-1]["text"] == text


def test_a_gradient_that_is_not_finite_stops_too(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Jepa.forward

    def steep(self: Jepa, *arguments: Any) -> Any:
        loss = forward(self, *arguments)
        return loss._replace(total=loss.total + (0 * loss.total).sqrt())  # finite, with an infinite slope

    monkeypatch.setattr(Jepa, "forward", steep)

    with pytest.raises(NonFiniteLossError, match="gradient's norm is nan at step 1"):
        train(small_config(), shards, tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


# --- lengthening ----------------------------------------------------------------------------------------------------


def test_a_constant_rate_makes_a_lengthened_run_the_longer_one_to_the_last_bit(
    shards: ShardSet, tmp_path: Path
) -> None:
    constant = {"optim__schedule": "constant", "optim__cooldown_steps": 2, "watch__checkpoint_every": 1}
    train(small_config(run__steps=5, watch__keep_every=1, **constant), shards, tmp_path / "run")
    for step in (4, 5):  # after the cooldown has begun
        (tmp_path / "run" / "checkpoints" / f"step-{step:08d}.pt").unlink()

    lengthened = train(small_config(run__steps=9, **constant), shards, tmp_path / "run", resume=True)
    whole = train(small_config(run__steps=9, **constant), shards, tmp_path / "whole")

    assert lengthened["step"] == 9
    assert_same_bits(lengthened["model"], whole["model"])


def test_a_finished_run_goes_on_when_its_steps_are_raised_and_says_what_that_does(
    shards: ShardSet, tmp_path: Path
) -> None:
    train(small_config(), shards, tmp_path / "run")

    state = train(small_config(run__steps=8, watch__log_every=2), shards, tmp_path / "run", resume=True)

    assert state["step"] == 8
    text = next(event["text"] for event in read_events(tmp_path / "run") if event["event"] == "resume")
    assert "run.steps was 6, is 8" in text
    assert "watch.log_every was 1, is 2" in text
    assert "learning rate at this step" in text
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["steps"] == 8


def test_a_run_cannot_be_shortened(shards: ShardSet, tmp_path: Path) -> None:
    train(small_config(), shards, tmp_path / "run")

    with pytest.raises(CheckpointError, match=r"run.steps was 6, is 5.*only run.steps may be raised"):
        Trainer(small_config(run__steps=5), shards, tmp_path / "run", resume=True, device="cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim__warmup_steps": 3}, "Warm-up takes 3 of 6 steps"),
        ({"optim__warmup_steps": 0.5}, "Warm-up takes 3 of 6 steps"),
        ({"optim__warmup_steps": 60}, r"reaches 0.00083 of optim.lr=0.01"),
        ({"optim__warmup_steps": 2}, ""),
        ({"optim__warmup_steps": 1 / 3}, ""),
        ({"optim__warmup_steps": 2, "optim__schedule": "constant", "optim__cooldown_steps": 5}, "do not fit"),
    ],
)
def test_a_warm_up_that_is_too_long_is_announced_before_the_run_begins(
    shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    Trainer(small_config(**changes), shards, tmp_path / "run", device="cpu")

    error = capsys.readouterr().err
    assert (said in error) if said else not error


def test_shares_of_a_run_are_steps_of_it_and_a_constant_rate_falls_only_at_the_end() -> None:
    config = small_config(
        run__steps=100,
        optim__warmup_steps=0.1,
        optim__schedule="constant",
        optim__cooldown_steps=0.2,
        ema__start=0.9,
        optim__final_weight_decay=0.5,
    )
    rates = [learning_rate(config, step) for step in range(100)]

    assert rates[10:80] == [0.01] * 70
    assert rates[5] == pytest.approx((1e-6 + 0.01) / 2)
    assert rates[99] == pytest.approx(config.optim.final_lr)
    assert np.allclose(np.diff(rates[79:]), (config.optim.final_lr - 0.01) / 20)
    assert {momentum(config, step) for step in range(80)} == {0.9}
    assert momentum(config, 99) == pytest.approx(1.0)


# --- beginning from weights -----------------------------------------------------------------------------------------


def test_a_run_begins_from_weights_and_leaves_frozen_blocks_as_they_are(shards: ShardSet, tmp_path: Path) -> None:
    train(small_config(), shards, tmp_path / "first")
    export(tmp_path / "first", tmp_path / "weights")
    info = read_info(tmp_path / "weights")
    start = load_encoder(tmp_path / "weights")[0].state_dict()
    config = small_config(optim__frozen_blocks=1, pooling="max").starting_from(info)

    begun = Trainer(config, shards, tmp_path / "run", device="cpu", start=load_encoder(tmp_path / "weights")[0])
    for encoder in (begun.model.context_encoder, begun.model.target_encoder):
        assert_same_bits(dict(encoder.state_dict()), dict(start))
    begun.train()

    trained = begun.model.context_encoder.state_dict()
    moved = {name for name in start if not torch.equal(start[name], trained[name])}
    assert moved == {name for name in start if name.startswith(("blocks.1.", "norm."))}
    known = export(tmp_path / "run", tmp_path / "adapted").provenance
    assert known["started_from"] == f"small (sha256 {info.sha256[:16]})"
    assert config.pooling == info.pooling


def test_convolutions_are_trained_beside_a_transformer_that_stays_as_it_was(shards: ShardSet, tmp_path: Path) -> None:
    dual = DualConfig(
        3,
        10,
        20,
        16,
        2,
        2,
        kernel_samples=(5,),
        stem_dim=4,
        scale_floor=0.1,
        residual_widths=(4, 8),
        residual_blocks=(1, 1),
    )
    recipe = dataclasses.replace(small_config(), encoder=dual, export_blocks=0)
    train(dataclasses.replace(recipe, encoder=dual.transformer), shards, tmp_path / "first")
    info = export(tmp_path / "first", tmp_path / "weights")
    config = recipe.override([f"optim.frozen_blocks={dual.depth}"]).starting_from(info)
    assert config.encoder == dual

    transformer = load_encoder(tmp_path / "weights")[0].state_dict()
    begun = Trainer(config, shards, tmp_path / "run", device="cpu", start=load_encoder(tmp_path / "weights")[0])
    drawn = {name: tensor.clone() for name, tensor in begun.model.context_encoder.state_dict().items()}
    begun.train()

    trained = begun.model.context_encoder.state_dict()
    assert_same_bits({name: trained[name] for name in transformer}, dict(transformer))
    beside = [name for name in trained if name not in transformer]
    assert beside
    assert all(name.startswith("residual.") and not torch.equal(trained[name], drawn[name]) for name in beside)
    # An encoder of which the weights are no part becomes theirs.
    assert small_config().starting_from(info).encoder == dual.transformer


def test_random_weights_are_not_frozen(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"Got optim\.frozen_blocks=1 and random weights.*--from"):
        Trainer(small_config(optim__frozen_blocks=1), shards, tmp_path / "run", device="cpu")


def test_a_run_that_was_killed_before_its_first_checkpoint_wants_its_weights_again(
    shards: ShardSet, tmp_path: Path
) -> None:
    train(small_config(), shards, tmp_path / "first")
    export(tmp_path / "first", tmp_path / "weights")
    config = small_config().starting_from(read_info(tmp_path / "weights"))

    with pytest.raises(ParameterError, match=r"begins from small \(sha256 .*--from"):
        Trainer(config, shards, tmp_path / "run", resume=True, device="cpu")


def test_layers_have_their_share_of_the_rate_and_without_decay_groups_are_two() -> None:
    config = small_config(optim__layer_decay=0.5)
    model = build_model(config)
    optimizer = build_optimizer(model, config)
    set_schedule_(optimizer, config, 3)

    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    full = learning_rate(config, 3)
    named = dict(model.named_parameters())
    assert rates[id(named["context_encoder.patch_embed.weight"])] == full / 4
    assert rates[id(named["context_encoder.blocks.0.attn.qkv.weight"])] == full / 2
    assert rates[id(named["context_encoder.blocks.1.attn.qkv.weight"])] == full
    assert rates[id(named["context_encoder.norm.weight"])] == full
    assert rates[id(named["predictor.proj.weight"])] == full
    assert len(build_optimizer(model, small_config()).param_groups) == 2


# --- one at a time ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_run_under_way_is_left_alone_by_others(shards: ShardSet, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    config = small_config(watch__probe_every=3)
    longer = small_config(watch__probe_every=3, run__steps=9)
    early = Trainer(config, shards, both, device="cpu")

    def begin_another() -> None:
        torn = both / "checkpoints" / ".step-00000006.pt.0a1b2c3d"
        torn.write_bytes(b"half")
        before = contents()
        with pytest.raises(ParameterError, match="Another run is under way"):
            Trainer(longer, shards, both, device="cpu", resume=True)
        with pytest.raises(ParameterError, match="Another run is under way"):
            early.train()
        assert contents() == before

    def contents() -> dict[Path, bytes]:
        # Those of TensorBoard are written by a thread of the run that is under way.
        files = (path for path in both.rglob("*") if path.is_file() and path.parent.name != "tensorboard")
        return {path: path.read_bytes() for path in files}

    train(config, shards, alone, probe=StubProbe())
    train(config, shards, both, probe=StubProbe(then=begin_another), resume=True)

    assert losses(both) == losses(alone)
    assert json.loads((both / "config.json").read_text())["run"]["steps"] == 6


def test_a_trainer_that_another_has_overtaken_trains_nothing(shards: ShardSet, tmp_path: Path) -> None:
    config = small_config()
    late = Trainer(config, shards, tmp_path, device="cpu")
    train(config, shards, tmp_path, resume=True)
    story = (tmp_path / "journal.jsonl").read_bytes()

    with pytest.raises(ParameterError, match="came to step 6 since this one was made, at step 0"):
        late.train()
    assert (tmp_path / "journal.jsonl").read_bytes() == story


def test_a_trainer_that_failed_keeps_nobody_out(shards: ShardSet, tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    config = small_config(watch__probe_every=3)
    failed = Trainer(config, shards, tmp_path, device="cpu", probe=StubProbe(then=fail))
    with pytest.raises(ZeroDivisionError):
        failed.train()
    assert train(config, shards, tmp_path, resume=True)["step"] == 6
