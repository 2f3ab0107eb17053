from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import assert_same_bits

from pretraining import runs as checkpoints
from pretraining.runs import (
    STATE_KEYS,
    CheckpointError,
    latest,
    load_checkpoint,
    mark_best,
    save_checkpoint,
    saved_steps,
    write_json,
)


def a_state(step: int) -> dict[str, Any]:
    state: dict[str, Any] = dict.fromkeys(STATE_KEYS)
    return state | {"step": step, "model": {"weight": torch.full((3,), float(step))}, "probe": {"history": [[0, 0.5]]}}


def save(folder: Path, *steps: int, **keeping: Any) -> None:
    for step in steps:
        save_checkpoint(folder, a_state(step), step, **keeping)


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    save(tmp_path / "new" / "folder", 7)

    assert_same_bits(load_checkpoint(tmp_path / "new" / "folder"), a_state(7))


def test_the_newest_is_loaded_unless_another_is_named(tmp_path: Path) -> None:
    save(tmp_path, 9, 10, 100, keep_last=3)

    assert latest(tmp_path) == 100
    assert load_checkpoint(tmp_path)["step"] == 100
    assert load_checkpoint(tmp_path, 9)["step"] == 9


def test_the_last_few_every_nth_and_protected_ones_stay(tmp_path: Path) -> None:
    save(tmp_path, *range(1, 12), keep_last=2, keep_every=4, protected=[3])

    assert saved_steps(tmp_path) == [3, 4, 8, 10, 11]


def test_the_newest_stays_even_if_none_is_to_be_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, keep_last=0)

    assert saved_steps(tmp_path) == [2]


def test_a_process_killed_while_writing_leaves_the_former_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def torn(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", torn)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)

    assert load_checkpoint(tmp_path)["step"] == 1
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.pt", "step-00000003.pt"]


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("sync"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (done.append("name"), replace(path, to))[1])

    save(tmp_path, 1)

    assert done == ["sync", "name", "sync"]


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda _: b"PK"])
def test_a_damaged_checkpoint_is_named_and_so_is_the_one_before(tmp_path: Path, damage: Any) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002.pt"
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(CheckpointError, match=r"step-00000002.*go on from step 1"):
        load_checkpoint(tmp_path)


def test_no_pickled_code_is_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    (tmp_path / "step-00000001.pt").write_bytes(pickle.dumps(Harm(), protocol=2))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path)
    torch.save({"model": Harm()}, tmp_path / "step-00000001.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path)

    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_that_lacks_something_is_refused(tmp_path: Path) -> None:
    state = a_state(1)
    del state["optimizer"]
    torch.save(state, tmp_path / "step-00000001.pt")

    with pytest.raises(CheckpointError, match="optimizer"):
        load_checkpoint(tmp_path)


def test_a_step_without_checkpoint_is_refused_naming_those_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none"):
        load_checkpoint(tmp_path)
    save(tmp_path, 4)
    with pytest.raises(CheckpointError, match=r"steps 4.*step 5"):
        load_checkpoint(tmp_path, 5)


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_the_best_one_outlives_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(checkpoints.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    save(tmp_path, 1)
    mark_best(tmp_path, 1)
    save(tmp_path, 2, 3, 4)

    assert saved_steps(tmp_path) == [3, 4]
    assert torch.load(tmp_path / "best.pt", weights_only=True)["step"] == 1
    mark_best(tmp_path, 4)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["step"] == 4


def test_json_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "config.json", {"a": object()})

    assert (tmp_path / "config.json").read_text() == '{\n  "a": 1\n}\n'
