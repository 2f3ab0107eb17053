"""The state of a run on disk: written atomically, loaded strictly, the last few kept.

A checkpoint is one file, ``step-00000500.pt``, of tensors and plain values only. It appears under its name when all of
it is on the disk, so that a process killed at any moment leaves whole files behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

import torch

from skecg.errors import SkecgError

__all__ = [
    "BEST",
    "STATE_KEYS",
    "CheckpointError",
    "latest",
    "load_checkpoint",
    "mark_best",
    "save_checkpoint",
    "saved_steps",
    "write_json",
]

#: What a checkpoint holds, exactly.
STATE_KEYS = frozenset(
    ("model", "optimizer", "step", "config", "fingerprint", "probe", "gauges", "last_loss", "torch", "world_size")
)
#: A second name of the checkpoint with the best probe score.
BEST = "best.pt"
_NAME = re.compile(r"step-(\d{8,})\.pt")


class CheckpointError(SkecgError, ValueError):
    """A checkpoint is missing, damaged or of another run."""


def save_checkpoint(
    folder: str | Path,
    state: dict[str, Any],
    step: int,
    *,
    keep_last: int = 2,
    keep_every: int = 0,
    protected: Collection[int] = (),
) -> Path:
    """Write a checkpoint, then remove those that are no longer wanted.

    Parameters
    ----------
    folder : path-like
        Of the run's checkpoints; made if absent.
    state : dict
        Tensors and plain values under :data:`STATE_KEYS`.
    step : int
        Optimizer steps done.
    keep_last : int, default=2
        How many of the newest stay; at least this one does.
    keep_every : int, default=0
        Those at multiples of so many steps stay for good; 0 for none.
    protected : collection of int
        Further steps that stay.

    Returns
    -------
    Path
    """
    assert set(state) == STATE_KEYS, set(state) ^ STATE_KEYS
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, step)
    for torn in folder.glob(".*.tmp"):  # what a killed process left
        torn.unlink()
    _write_atomically(path, lambda file: torch.save(state, file))
    newest = saved_steps(folder)[-max(1, keep_last) :]
    for old in saved_steps(folder):
        if old not in newest and old not in protected and not (keep_every and old % keep_every == 0):
            _path(folder, old).unlink()
    return path


def load_checkpoint(folder: str | Path, step: int | None = None) -> dict[str, Any]:
    """Read a checkpoint, strictly: no pickled code is run, and everything must be there.

    Parameters
    ----------
    folder : path-like
    step : int, optional
        Which one; the newest when not given.

    Returns
    -------
    dict
        As it was saved, tensors on the CPU.

    Raises
    ------
    CheckpointError
        When there is none, or it is damaged, or not a checkpoint of this trainer.
    """
    steps = saved_steps(folder)
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        there = f"those of steps {', '.join(map(str, steps))}" if steps else "none"
        raise CheckpointError(f"Got {str(folder)!r} with {there}, expected {wanted}.")
    path = _path(Path(folder), steps[-1] if step is None else step)
    older = [other for other in steps if _path(Path(folder), other) != path]
    way_out = f"Remove it to go on from step {older[-1]}." if older else "Start the run anew."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise CheckpointError(f"Got a damaged checkpoint {str(path)!r} ({_first_line(error)}). {way_out}") from error
    if not isinstance(state, dict) or set(state) != STATE_KEYS:
        odd = sorted(map(str, set(state) ^ STATE_KEYS)) if isinstance(state, dict) else [type(state).__name__]
        raise CheckpointError(f"Got {str(path)!r}, which lacks or adds {', '.join(odd)}. {way_out}")
    return state


def latest(folder: str | Path) -> int | None:
    """Give the newest checkpoint's step, None when there is none."""
    steps = saved_steps(folder)
    return steps[-1] if steps else None


def saved_steps(folder: str | Path) -> list[int]:
    """Give the steps that there are checkpoints of, ascending."""
    found = (_NAME.fullmatch(path.name) for path in Path(folder).glob("step-*.pt"))
    return sorted(int(match[1]) for match in found if match)


def mark_best(folder: str | Path, step: int) -> Path:
    """Let ``best.pt`` be the checkpoint of a step; it takes no further space where the file system has hard links."""
    source, best = _path(Path(folder), step), Path(folder) / BEST
    temporary = _temporary(best)
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(source, temporary)
    except OSError:
        _write_atomically(best, lambda file: file.write(source.read_bytes()))
    else:
        temporary.replace(best)
        _sync_folder(best.parent)
    return best


def write_json(path: str | Path, value: object) -> None:
    """Write plain values as JSON, all or nothing."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    _write_atomically(Path(path), lambda file: file.write(text.encode()))


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside the file, bring it to the disk, and only then give it its name."""
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system lets folders be opened."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
