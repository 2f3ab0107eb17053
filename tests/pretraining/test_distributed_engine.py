from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
import torch

from pretraining.config import RunConfig
from pretraining.distributed import Engine, open_engine, resolve_training_precision
from pretraining.runs import differences
from pretraining.safeguards import StopRequest
from skecg.errors import ParameterError

CPU = torch.device("cpu")


def an_engine(rank: int, world_size: int, **run: int) -> Engine:
    return Engine(CPU, "fp32", RunConfig(1, **run), rank, world_size)


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 3), (3, 2)])
def test_parts_of_all_processes_are_the_batch_and_equally_long(world_size: int, accumulation: int) -> None:
    engines = [an_engine(r, world_size, batch_size=24, accumulation=accumulation) for r in range(world_size)]
    parts = [part for engine in engines for part in engine.positions()]

    assert [place for part in parts for place in part] == list(range(24))
    assert {len(part) for part in parts} == {24 // (world_size * accumulation)}
    assert engines[0].positions(world_size - 1) == engines[-1].positions()


@pytest.mark.parametrize(("world_size", "accumulation"), [("1", 3), ("3", 1), ("2", 4)])
def test_a_batch_that_cannot_be_split_evenly_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, world_size: str, accumulation: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)

    # Nobody else is there: it would hang, were the group of processes opened first.
    with pytest.raises(ParameterError, match=r"run.batch_size=100.*multiple of (3|8)\. Set run.batch_size=(99|96)\."):
        open_engine(RunConfig(1, 100, accumulation), "cpu")


def test_several_processes_need_a_device_that_they_can_talk_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(ParameterError, match="one process"):
        open_engine(RunConfig(1, 8), "meta")


def test_one_process_opens_no_group_and_gathers_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_engine(RunConfig(1, 8), "cpu") as engine:
        assert engine.send(torch.tensor([1.0, 2.0])).read() == [[1.0, 2.0]]
        assert engine.on_first(lambda: 3) == 3
        with pytest.raises(FileNotFoundError):
            engine.on_first(lambda: Path("nowhere").read_text())
    assert not torch.distributed.is_initialized()


def test_lower_precision_is_taken_on_accelerators_or_when_asked() -> None:
    assert resolve_training_precision("auto", CPU) == "fp32"
    assert resolve_training_precision("bf16", CPU) == "bf16"
    assert resolve_training_precision("auto", torch.device("xpu")) == "bf16"
    assert resolve_training_precision("fp32", torch.device("xpu")) == "fp32"


def test_weights_and_norms_stay_in_float32_under_bfloat16() -> None:
    linear, norm = torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)
    with Engine(CPU, "bf16", RunConfig(1, 8)).computing():
        product = linear(torch.randn(2, 4))
        normed = norm(product.float())

    assert product.dtype == torch.bfloat16
    assert normed.dtype == torch.float32
    product.float().sum().backward()
    assert linear.weight.dtype == linear.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_is_as_before(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop
        assert stop.name == number.name
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


def test_other_threads_may_train_too() -> None:
    found: list[bool] = []

    def enter() -> None:
        with StopRequest() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False]


def test_each_field_that_differs_is_named_with_both_values() -> None:
    old = {"optim": {"lr": 1e-3, "betas": [0.9, 0.99]}, "name": "a", "gone": 1}
    new = {"optim": {"lr": 5e-4, "betas": (0.9, 0.99)}, "name": "a", "come": {"x": 2}}

    assert differences(old, new) == [
        "optim.lr was 0.001, is 0.0005",
        "gone was 1, is absent",
        "come was absent, is {'x': 2}",
    ]
    assert differences(old, old) == []
