from __future__ import annotations

import dataclasses
import errno
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import LEADS, assert_same_bits, small_config, small_state

from pretraining import runs as checkpoints
from pretraining.data.corpora import open_corpus
from pretraining.data.pack import pack
from pretraining.runs import (
    CheckpointError,
    as_configured,
    describe_data,
    latest,
    load_checkpoint,
    mark_best,
    read_code,
    read_config,
    read_data,
    save_checkpoint,
    saved_steps,
    what_changed,
    write_json,
)
from skecg.errors import ParameterError


def a_state(step: int) -> dict[str, Any]:
    model = {"weight": torch.full((3,), float(step))}
    return small_state(small_config(), step=step, model=model, probe={"history": [[0, 0.5]]})


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


def test_a_full_disk_is_said_to_be_full_and_leaves_the_former_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    write = torch.save

    class Full:
        """A file that takes what torch writes first."""

        def write(self, content: bytes) -> int:
            if len(content) > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(content)

        def flush(self) -> None:
            """Do nothing."""

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", lambda state, _: write(state | {"gauges": torch.zeros(9999)}, Full()))
        with pytest.raises(OSError, match="No space left") as caught:
            save(tmp_path, 2)
        patched.setattr(torch, "save", lambda *_: torch.zeros(2, 3) @ torch.zeros(2, 3))
        with pytest.raises(RuntimeError, match="shapes"):
            save(tmp_path, 2)

    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.pt"]


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


def test_a_checkpoint_of_other_bytes_than_were_written_is_refused_wherever_they_lie(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002.pt"
    whole = path.read_bytes()
    tensor = whole.find(torch.full((3,), 2.0).numpy().tobytes())
    assert tensor > 0
    # In a tensor, where nothing but the sums tell; in what names the tensors; in the zip's own directory.
    for place in (tensor, tensor + 11, whole.find(b"weight"), whole.rfind(b"PK\x01\x02") + 10):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"damaged.*step-00000002.*go on from step 1"):
            load_checkpoint(tmp_path)
    path.write_text("Notes.\n" * 100)
    with pytest.raises(CheckpointError, match=r"damaged.*step-00000002"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": None}, r"other content.*config"),
        ({"config": {}}, "configuration cannot be used.*architecture"),
        ({"config": {"architecture": "temporal", "encoder": None}}, "configuration cannot be used"),
        ({"config": small_config().to_dict() | {"optim": {"newer": 1}}}, "unknown field 'newer'.*that wrote it"),
        ({"step": "40"}, r"other content.*\(step\)"),
        ({"probe": {}}, "probe without history"),
        ({"model": [], "gauges": None}, r"\(model, gauges\)"),
    ],
)
def test_a_checkpoint_of_other_content_is_refused_by_name(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    torch.save(a_state(1) | change, tmp_path / "step-00000001.pt")
    with pytest.raises(CheckpointError, match=rf"step-00000001\.pt.*{said}"):
        load_checkpoint(tmp_path)
    torch.save([1, 2], tmp_path / "step-00000001.pt")
    with pytest.raises(CheckpointError, match=r"lacks or adds.*list"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_from_before_losses_were_kept_has_none(tmp_path: Path) -> None:
    state = a_state(1)
    del state["losses"], state["mask_law"]
    torch.save(state, tmp_path / "step-00000001.pt")

    assert_same_bits(load_checkpoint(tmp_path), a_state(1) | {"losses": [], "mask_law": 1})


def test_tensors_that_are_not_those_of_the_configuration_are_named_with_their_file() -> None:
    with (
        pytest.raises(CheckpointError, match=r"step-00000003\.pt.*tensors cannot be used.*newer"),
        as_configured("r", 3),
    ):
        torch.nn.Linear(1, 1).load_state_dict({"newer": torch.zeros(1)})
    with pytest.raises(torch.cuda.OutOfMemoryError), as_configured("r", 3):
        raise torch.cuda.OutOfMemoryError


_TORN = {"torn": '{"name": "ti', "empty": "", "a list": "[1]", "text": '"run"', "bytes": "\ud800"}


@pytest.mark.parametrize("torn", _TORN.values(), ids=_TORN)
@pytest.mark.parametrize("name", ["config.json", "data.json", "code.json"])
def test_a_torn_file_of_a_runs_folder_is_named_with_what_to_do(tmp_path: Path, name: str, torn: str) -> None:
    (tmp_path / name).write_bytes(torn.encode("utf-8", "surrogatepass"))
    readers = {
        "config.json": read_config,
        "data.json": lambda run: read_data(run, small_config()),
        "code.json": read_code,
    }

    with pytest.raises(ParameterError, match=rf"{name}', whose content cannot be used.*Restore it.*or remove it"):
        readers[name](tmp_path)


def test_a_configuration_that_lacks_its_parts_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ParameterError, match=r"config\.json.*architecture.*--recipe"):
        read_config(tmp_path)
    (tmp_path / "data.json").write_text('{"corpora": {"a": "many"}}')
    with pytest.raises(ParameterError, match=r"data\.json.*many"):
        read_data(tmp_path, small_config())


def test_data_are_recordings_of_the_corpora_that_are_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Long ones of several rows, short ones, and some that lack the encoder's leads.
    kinds = {"long": (2, 700, LEADS), "short": (3, 200, LEADS), "leadless": (4, 200, ("V5", "V6"))}
    for name, (n, samples, leads) in kinds.items():
        signals = rng.integers(-500, 500, (n, len(leads), samples)).astype(np.int16)
        np.savez(tmp_path / f"{name}.npz", signals=signals, lsb=1e-3, units="mV", fs=100.0, leads=list(leads))
    corpora = [open_corpus(name, tmp_path / f"{name}.npz") for name in kinds]
    options: dict[str, Any] = {"sampling_rate": 100.0, "segment_seconds": 2.0, "n_jobs": 1, "progress": False}
    shards = pack(corpora, tmp_path / "shards", **options)
    config = small_config()
    assert {name: len(shards.rows_of(name)) for name in kinds} == {"long": 8, "short": 3, "leadless": 4}

    described = describe_data(shards, config)

    packed = {name: entry["n_records"] for name, entry in shards.manifest["corpora"].items()}
    assert described["corpora"] == packed | {"leadless": 0}
    assert (described["n_records"], described["n_rows"]) == (5, 15)
    assert describe_data(shards, small_config(input=dataclasses.replace(config.input, any_leads=True)))[
        "corpora"
    ] == packed | {"leadless": 0}
    write_json(tmp_path / "data.json", described)
    assert read_data(tmp_path, config)["corpora"] == {"long": 2, "short": 3}
    assert read_data(tmp_path, small_config(data__weights={"short": 2.0}))["corpora"] == {"short": 3}
    assert read_data(tmp_path / "shards", config) == {}


def test_a_warm_up_that_is_a_share_is_another_one_in_a_longer_run() -> None:
    def changed(step: int, warmup: float) -> str:
        began, longer = (small_config(run__steps=n, optim__warmup_steps=warmup) for n in (20, 30))
        return "; ".join(what_changed(small_state(began, step=step), longer, 1))

    assert "run.steps was 20, is 30" in changed(5, 0.1)
    assert "warm-up: 2 steps before, 3 now" in changed(5, 0.1)
    assert "warm-up" not in changed(5, 2)
    assert "warm-up" not in changed(0, 0.1), "nothing was learnt yet"


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
