"""Batches drawn ahead are the batches, whoever draws, reads and uploads them, and whenever their numbers are read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import assert_same_bits, small_config, small_shards

from pretraining import trainer
from pretraining.config import ObjectiveConfig, PretrainConfig
from pretraining.data.batches import to_values
from pretraining.data.shards import ShardSet
from pretraining.distributed import Engine, resolve_training_precision
from pretraining.loader import BatchLoader, Upload, draw_training_batch, tensors_of
from pretraining.monitoring.journal import read_events, read_journal
from pretraining.objectives.jepa import Jepa
from pretraining.optim import skip_unless_finite_
from pretraining.runs import CheckpointError, load_checkpoint
from pretraining.safeguards import NonFiniteLossError
from pretraining.trainer import Trainer
from skecg.errors import ParameterError

CPU = torch.device("cpu")
PARTS = [range(8), range(8, 16)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return small_shards(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plain(tree: Any) -> list[list[float]]:
    return [tensor.tolist() for tensor in tensors_of(tree)]


def journal_of(run: Path) -> list[dict[str, float]]:
    """The lines of a run without what depends on the clock."""
    timed = {"records_per_second", "model_tflops", "memory_gib", "peak_share", "elapsed_seconds"}
    return [{name: value for name, value in line.items() if name not in timed} for line in read_journal(run)]


# --- feeding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefetch", "readers"), [(1, 1), (3, 2), (20, 5)])
def test_what_is_drawn_does_not_depend_on_the_threads_that_draw(shards: ShardSet, prefetch: int, readers: int) -> None:
    config = small_config(run__prefetch=prefetch, run__readers=readers, run__batch_size=16)
    with BatchLoader(config, shards, PARTS) as loader:
        for step in (0, 1, 2, 5, 3):  # a run that resumes begins anywhere
            found = list(loader.batches(step))
            wanted = [draw_training_batch(config, shards, step, part) for part in PARTS]
            for ours, theirs in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(ours.batch.signals, theirs.batch.signals)
                np.testing.assert_array_equal(ours.batch.rows, theirs.batch.rows)
                assert plain(ours.drawn) == plain(theirs.drawn)


def test_an_upload_has_the_values_that_the_step_would_have_made(shards: ShardSet) -> None:
    config = small_config()
    with BatchLoader(config, shards, [range(8)], device=CPU) as loader:
        (found,) = loader.batches(2)

    assert found.upload is not None
    values, drawn = found.upload.wait()
    assert torch.equal(values, to_values(found.batch, config, CPU))
    assert plain(drawn) == plain(found.drawn)


def test_all_tensors_of_an_upload_are_found_however_deep_they_lie(shards: ShardSet) -> None:
    config = small_config(masks__masks_per_target=2)
    drawn = draw_training_batch(config, shards, 0, range(8)).drawn
    upload = Upload(torch.zeros(1), drawn)

    assert len(list(tensors_of((upload.values, upload.drawn)))) == 1 + 2 * 2


def test_a_run_is_the_same_when_its_batches_are_uploaded_ahead(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(run__accumulation=2)
    Trainer(config, shards, tmp_path / "plain", device="cpu").train()
    monkeypatch.setattr(trainer, "BatchLoader", lambda *given, device: BatchLoader(*given, device=CPU))
    Trainer(config, shards, tmp_path / "ahead", device="cpu").train()

    ours, theirs = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("ahead", "plain"))
    assert_same_bits(ours["model"], theirs["model"])


def test_rows_read_by_several_threads_are_the_rows_and_go_where_they_are_wanted(shards: ShardSet) -> None:
    rows = np.random.default_rng(0).integers(0, 32, 50)
    with ThreadPoolExecutor(3) as readers:
        out = np.empty((50, 12, 200), np.int16)
        found = shards.gather(rows, out=out, readers=readers, n_readers=3)

        assert found is out
        np.testing.assert_array_equal(found, shards.gather(rows))
        assert shards.gather([], readers=readers, n_readers=3).shape == (0, 12, 200)
        with pytest.raises(ValueError, match="broadcast"):
            shards.gather(rows, out=out[:, :, :7], readers=readers, n_readers=3)


# --- numbers that are read a step late --------------------------------------------------------------------------------


def test_a_run_whose_numbers_are_read_late_is_the_same_run(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(run__steps=7, watch__gauge_every=3, watch__checkpoint_every=5)
    Trainer(config, shards, tmp_path / "at once", device="cpu").train()
    monkeypatch.setattr(Engine, "reads_late", True)
    Trainer(config, shards, tmp_path / "late", device="cpu").train()

    at_once, late = journal_of(tmp_path / "at once"), journal_of(tmp_path / "late")
    assert len(late) >= 7
    assert sorted(late, key=str) == sorted(at_once, key=str)
    ours, theirs = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("late", "at once"))
    assert_same_bits(ours["model"], theirs["model"])
    assert ours["last_loss"] == theirs["last_loss"]


def test_a_run_that_is_read_late_stops_when_asked_and_has_lost_no_step(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "reads_late", True)
    config = small_config(run__steps=20, watch__checkpoint_every=0)
    run = Trainer(config, shards, tmp_path, device="cpu")
    take_step = run._take_step

    def ask_at_the_third(stop: Any, loader: Any) -> Any:
        stop.name = "SIGTERM" if run.step == 2 else stop.name
        return take_step(stop, loader)

    run._take_step = ask_at_the_third  # type: ignore[method-assign]
    run.train()

    assert run.step == load_checkpoint(tmp_path / "checkpoints")["step"] == 4
    assert [line["step"] for line in read_journal(tmp_path) if "loss" in line] == [1, 2, 3, 4]


def test_a_loss_that_is_read_late_and_not_finite_is_named_by_its_own_step(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "reads_late", True)
    config = small_config(run__steps=20, watch__checkpoint_every=0)
    run = Trainer(config, shards, tmp_path, device="cpu")
    monkeypatch.setattr(trainer, "to_values", lambda *given: to_values(*given) * (math.nan if run.step == 4 else 1.0))

    with pytest.raises(NonFiniteLossError, match="at step 5 of 20"):
        run.train()
    assert not list((tmp_path / "checkpoints").glob("*.pt"))


def test_a_fused_optimizer_skips_a_step_that_is_not_finite_without_being_asked() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    for number, is_taken in ((math.nan, False), (math.inf, False), (1.0, True)):
        before = weight.detach().clone()
        weight.grad = torch.full((3,), 2.0)
        skip_unless_finite_(optimizer, torch.tensor([[0.5, number]]))
        optimizer.step()
        assert torch.equal(weight, before) is not is_taken


# --- float16 ----------------------------------------------------------------------------------------------------------


def test_a_run_in_float16_learns_and_is_resumed_with_its_scale(shards: ShardSet, tmp_path: Path) -> None:
    config = small_config(run__precision="fp16", objective=ObjectiveConfig("smooth_l1"), run__steps=8)
    Trainer(config, shards, tmp_path / "whole", device="cpu").train()
    stopped = Trainer(config, shards, tmp_path / "two", device="cpu")
    take_step = stopped._take_step

    def stop_after_three(stop: Any, loader: Any) -> Any:
        stats = take_step(stop, loader)
        return dataclasses.replace(stats, stopping=stats.step == 3)

    stopped._take_step = stop_after_three  # type: ignore[method-assign]
    stopped.train()
    Trainer(config, shards, tmp_path / "two", device="cpu", resume=True).train()

    whole, two = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "two"))
    assert whole["optimizer"]["scaler"]["scale"] > 0
    assert_same_bits(whole["model"], two["model"])
    assert_same_bits(whole["optimizer"], two["optimizer"])
    losses = [line["loss"] for line in read_journal(tmp_path / "whole") if "loss" in line]
    assert all(map(math.isfinite, losses))
    assert "fp16" in read_events(tmp_path / "whole")[0]["text"]


def test_a_gradient_that_overflows_in_float16_skips_its_step_and_the_run_goes_on(
    shards: ShardSet, tmp_path: Path
) -> None:
    run = Trainer(small_config(run__precision="fp16", run__steps=3), shards, tmp_path, device="cpu")
    run.engine.scaler._init_scale = 2.0**127  # type: ignore[attr-defined]
    run.train()

    state = load_checkpoint(tmp_path / "checkpoints")
    assert state["step"] == 3
    assert state["optimizer"]["scaler"]["scale"] < 2.0**127


def test_cards_without_bfloat16_take_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, wanted in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert resolve_training_precision("auto", torch.device("cuda")) == wanted
    assert resolve_training_precision("fp16", CPU) == "fp16"


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_how_a_run_is_fed_may_change_on_resume_and_what_it_computes_may_not(shards: ShardSet, tmp_path: Path) -> None:
    Trainer(small_config(), shards, tmp_path, device="cpu").train()

    other = small_config(run__prefetch=5, run__readers=1, run__timeout_minutes=1.0)
    assert Trainer(other, shards, tmp_path, device="cpu", resume=True).step == 6
    with pytest.raises(CheckpointError, match=r"run.tf32 was False, is True"):
        Trainer(small_config(run__tf32=True), shards, tmp_path, device="cpu", resume=True)


@pytest.mark.parametrize(("kind", "is_said"), [("blocks", True), ("random", False)])
def test_a_run_from_before_masks_were_drawn_together_goes_on_and_says_so(
    shards: ShardSet, tmp_path: Path, kind: str, is_said: bool
) -> None:
    config = small_config(masks__kind=kind)
    Trainer(config, shards, tmp_path, device="cpu").train()
    for path in (tmp_path / "checkpoints").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        del state["mask_law"], state["optimizer"]["scaler"]
        torch.save(state, path)
    (tmp_path / "checkpoints" / "step-00000006.pt").unlink()

    Trainer(config, shards, tmp_path, device="cpu", resume=True).train()

    text = next(event["text"] for event in read_events(tmp_path) if event["event"] == "resume")
    assert ("masks: drawn by law 1 before, by law 2 now" in text) is is_said


@pytest.mark.parametrize("field", ["prefetch", "readers", "timeout_minutes"])
def test_there_is_at_least_one_of_what_feeds_a_run(field: str) -> None:
    with pytest.raises(ParameterError, match=f"run.{field}"):
        small_config(**{f"run__{field}": 0})


def test_old_configurations_are_read_with_todays_defaults() -> None:
    values = small_config().to_dict()
    for name in ("tf32", "prefetch", "readers", "timeout_minutes"):
        del values["run"][name]
    assert PretrainConfig.from_dict(values) == small_config()


# --- windows of several lengths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["temporal", "leadwise"])
def test_the_windows_of_a_step_have_one_of_the_lengths_and_every_length_comes(
    shards: ShardSet, tmp_path: Path, kind: str
) -> None:
    config = small_config(kind, data__window_seconds=(1.0, 1.5, 2.0), run__steps=12, watch__gauge_every=6)
    Trainer(config, shards, tmp_path, device="cpu").train()

    seen = []
    for step in range(12):
        parts = [draw_training_batch(config, shards, step, part) for part in PARTS]
        lengths = {to_values(part.batch, part.config, CPU).shape[-1] for part in parts}
        n_slices = {part.drawn.masks[0].context.shape[1] + part.drawn.masks[0].target.shape[1] for part in parts}
        assert len(lengths) == 1, "whatever part of the batch is drawn"
        assert n_slices == {length // 10 for length in lengths}
        seen += lengths
    assert set(seen) == {100, 150, 200}
    assert all(math.isfinite(line["loss"]) for line in read_journal(tmp_path) if "loss" in line)
    assert load_checkpoint(tmp_path / "checkpoints")["gauges"][-1]["step"] == 12


def test_a_token_of_a_shorter_window_is_compared_with_its_own_target(shards: ShardSet) -> None:
    config = small_config("leadwise", data__window_seconds=(1.0,))
    model = Jepa(config)
    part = draw_training_batch(config, shards, 0, range(8))
    values = to_values(part.batch, part.config, CPU)
    (masks,) = part.drawn.masks
    targets = model.targets(values)

    numbers = model._token_numbers(masks.target, 10)

    assert targets.shape[1] == 3 * 10
    assert numbers.max() < 30
    assert torch.equal(numbers % 10, masks.target.repeat(1, 3))


@pytest.mark.parametrize(("seconds", "kind"), [((0.1,), "temporal"), ((3.0,), "temporal"), ((1.05,), "temporal")])
def test_windows_that_are_no_whole_slices_too_short_or_too_long_are_refused(
    seconds: tuple[float, ...], kind: str
) -> None:
    with pytest.raises(ParameterError, match=r"data.window_seconds=.*multiples of 0.1 s from 0.3 to 2 s"):
        small_config(kind, data__window_seconds=seconds)


def test_window_lengths_are_given_on_the_command_line_as_numbers() -> None:
    config = small_config().override(["data.window_seconds=1,1.5"])
    assert config.data.window_seconds == (1, 1.5)
    assert PretrainConfig.from_dict(config.to_dict()).data.window_seconds == (1, 1.5)
