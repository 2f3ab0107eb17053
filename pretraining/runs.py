"""A run's folder: its configuration, data, code and checkpoints; begun once, resumed strictly.

A run goes on only as what it was: the same configuration and the same data. What else differs is noted. A checkpoint is
one file, ``step-00000500.pt``, of tensors and plain values only. It appears under its name when all of it is on the
disk, so that a process killed at any moment leaves whole files behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import struct
import subprocess
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from pretraining.config import PretrainConfig
from pretraining.config.parts import MASK_LAW
from pretraining.optim import learning_rate, warmup_steps
from skecg._version import __version__
from skecg.errors import ParameterError, SkecgError, UnregisteredError
from skecg.io.files import alone_in, replacing

if TYPE_CHECKING:
    from pretraining.data.shards import ShardSet

__all__ = [
    "BEST",
    "CheckpointError",
    "STATE_KEYS",
    "as_configured",
    "checkpoints_of",
    "describe_code",
    "describe_data",
    "differences",
    "latest",
    "load_checkpoint",
    "mark_best",
    "open_run_folder",
    "read_code",
    "read_config",
    "read_data",
    "record_code",
    "check_same_run",
    "save_checkpoint",
    "saved_steps",
    "what_changed",
    "write_json",
]

_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model", "optimizer", "config", "probe"), dict),
    **dict.fromkeys(("step", "world_size", "mask_law"), int),
    **dict.fromkeys(("fingerprint", "torch"), str),
    **dict.fromkeys(("gauges", "losses"), list),
    "last_loss": (float, type(None)),
}

#: What a checkpoint holds, exactly.
STATE_KEYS = frozenset(_KINDS)

# What checkpoints did not hold from the beginning, and what was true or not known before they did.
_SINCE: dict[str, Any] = {"mask_law": 1, "losses": []}

#: A second name of the checkpoint with the best probe score.
BEST = "best.pt"

_T = TypeVar("_T")

_NAME = re.compile(r"step-(\d{8,})\.pt")

# What is raised for content that is not what was written.
_UNFIT = (RuntimeError, LookupError, ValueError, TypeError, AttributeError)

_SAME_CODE = "Go on with the skecg, and the plug-ins, that wrote it."

# The files of a run's folder, and what to do without one.
_CONFIG, _DATA, _CODE = "config.json", "data.json", "code.json"
_WITHOUT = {
    _CONFIG: "remove it and resume with --recipe and the overrides that the run began with, which writes it anew",
    _DATA: "remove it: cards will not name the data",
    _CODE: "remove it: cards will not name the code",
}

_PACKAGES = ("skecg", "pretraining")

_SECONDS = 20  # git on a network disk may take long, or never answer

# What may change on the way: the length, how batches are fed, how long processes wait for each other.
_PASSING = ("steps", "prefetch", "readers", "timeout_minutes")


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
    # Exactly: what a resumed run does not find it would silently begin anew.
    assert set(state) == STATE_KEYS, set(state) ^ STATE_KEYS
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, step)
    for torn in folder.glob(".step-*"):  # what a killed process left: no other is at work in the run's folder
        torn.unlink()
    with replacing(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # a full disk, of which torch's own error says nothing
                raise error.__context__ from None
            raise
    # The rename, too, has to be on the disk before older checkpoints go.
    _sync_folder(folder)
    # Older ones go only when the new one is on the disk.
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
        # torch takes a tensor's bytes as they are, whatever the file's own sums say.
        with zipfile.ZipFile(path) as archive:
            if torn := archive.testzip():
                raise zipfile.BadZipFile(f"other bytes than were written in {torn}")
        # On the CPU, and tensors only: checkpoints travel, between devices and between people.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNFIT, zipfile.BadZipFile, pickle.UnpicklingError, struct.error, EOFError, OSError) as error:
        raise CheckpointError(f"Got a damaged checkpoint {str(path)!r} ({_first_line(error)}). {way_out}") from error
    state = _SINCE | state if isinstance(state, dict) else {type(state).__name__: state}
    if odd := sorted(map(str, set(state) ^ STATE_KEYS)):
        raise CheckpointError(f"Got {str(path)!r}, which lacks or adds {', '.join(odd)}. {way_out}")
    odd = [name for name, kind in _KINDS.items() if not isinstance(state[name], kind)]
    if odd or "history" not in state["probe"]:
        wrong = ", ".join(odd or ["probe without history"])
        raise CheckpointError(f"Got {str(path)!r} with other content than training writes ({wrong}). {way_out}")
    with _named(path, "configuration", _SAME_CODE):
        PretrainConfig.from_dict(state["config"])
    return state


@contextlib.contextmanager
def _named(path: Path, part: str, way_out: str, kind: type[SkecgError] = CheckpointError) -> Iterator[None]:
    """Raise an error of the kind that names the file where a part of it is not what was written."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:  # a RuntimeError that says nothing of the file
        raise
    except UnregisteredError as error:
        plugins = read_code(path.parent if path.name == _CONFIG else path.parents[1]).get("plugins", ())
        trained = f" The run was trained with {', '.join(map(repr, plugins))}." if plugins else ""
        raise kind(f"Got {str(path)!r}, whose {part} needs a plug-in. {error}{trained}") from error
    except _UNFIT as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split()).rstrip(".")
        raise kind(f"Got {str(path)!r}, whose {part} cannot be used ({why}). {way_out}") from error


def as_configured(run: str | Path, step: int) -> contextlib.AbstractContextManager[None]:
    """Raise :class:`CheckpointError` where a checkpoint's tensors do not fit what its configuration builds."""
    return _named(_path(checkpoints_of(run), step), "tensors", _SAME_CODE)


def latest(folder: str | Path) -> int | None:
    """Return the newest checkpoint's step, None when there is none."""
    steps = saved_steps(folder)
    return steps[-1] if steps else None


def saved_steps(folder: str | Path) -> list[int]:
    """Return the steps that there are checkpoints of, ascending."""
    found = (_NAME.fullmatch(path.name) for path in Path(folder).glob("step-*.pt"))
    return sorted(int(match[1]) for match in found if match)


def mark_best(folder: str | Path, step: int) -> Path:
    """Name the checkpoint of a step ``best.pt``, too; by a hard link where there are such."""
    source, best = _path(Path(folder), step), Path(folder) / BEST
    temporary = best.with_name(f".{best.name}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        # A hard link costs no space, and outlives the step's own name.
        os.link(source, temporary)
    except OSError:
        with replacing(best) as file:
            file.write(source.read_bytes())
    else:
        temporary.replace(best)
    _sync_folder(best.parent)
    return best


def write_json(path: str | Path, value: object) -> None:
    """Write plain values as JSON, all or nothing."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with replacing(Path(path)) as file:
        file.write(text.encode())


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system lets folders be opened."""
    # Windows does not open folders; there is nothing to sync there.
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_json(run: Path, name: str, read: Callable[[Any], _T]) -> _T | None:
    """Read a file of a run's folder; None where there is none."""
    path = run / name
    if not path.is_file():
        return None
    with _named(path, "content", f"Restore it from a copy, or {_WITHOUT[name]}.", ParameterError):
        return read(json.loads(path.read_text(encoding="utf-8")))


def describe_code(root: Path | None = None) -> dict[str, Any]:
    """Describe the code that runs: skecg's version and, in a checkout of git, its commit and whether it was changed."""
    root = root or Path(__file__).resolve().parents[1]
    found: dict[str, Any] = {"skecg": __version__}
    commit = _git(root, "rev-parse", "HEAD")
    # An installation within somebody else's checkout is not of their commit.
    if commit and _git(root, "ls-files", "--error-unmatch", "pretraining/__init__.py"):
        changes = _git(root, "status", "--porcelain", "--", *_PACKAGES)
        found |= {"commit": commit, "dirty": changes is None or bool(changes)}
    return found


def record_code(run: Path, plugins: Sequence[str] = ()) -> None:
    """Add the code that runs now, and the modules of its plug-ins, to those that a run was trained with."""
    known, now = _codes(run), describe_code() | ({"plugins": list(plugins)} if plugins else {})
    if now not in known:
        write_json(run / _CODE, [*known, now])


def read_code(run: Path) -> dict[str, Any]:
    """Return the code that a run was last trained with, dirty when any of it was; empty when nothing is known."""
    known = _codes(run)
    if not known:
        return {}
    commits = [str(state["commit"]) for state in known if "commit" in state]
    dirty = any(state.get("dirty") for state in known)
    return dict(known[-1]) | ({"dirty": dirty} if commits else {}) | ({"commits": commits} if len(commits) > 1 else {})


def _codes(run: Path) -> list[dict[str, Any]]:
    """Return each code that a run was trained with, in order."""
    return _read_json(run, _CODE, lambda states: [dict(state) for state in states]) or []


def _git(root: Path, *arguments: str) -> str | None:
    """Run git; None where there is none, or this folder is none of its checkouts."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def checkpoints_of(run: str | Path) -> Path:
    """Return the folder of a run's checkpoints."""
    return Path(run) / "checkpoints"


def open_run_folder(out: Path, config: PretrainConfig, shards: ShardSet, *, resume: bool) -> int | None:
    """Begin a run's folder, or find where to resume.

    Parameters
    ----------
    out : Path
    config : PretrainConfig
    shards : ShardSet
    resume : bool
        Without it a folder with anything in it is refused; with it a folder without checkpoints is begun.

    Returns
    -------
    int or None
        The step to resume from; None for a run that begins.
    """
    if not resume and out.exists() and any(out.iterdir()):
        raise ParameterError(f"Got {str(out)!r}, which is not empty. Go on with --resume, or choose another folder.")
    checkpoints_of(out).mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        step = latest(checkpoints_of(out))
        if step is None:
            write_json(out / _CONFIG, config.to_dict())
            write_json(out / _DATA, describe_data(shards, config))
        record_code(out, config.plugins)
    return step


def describe_data(shards: ShardSet, config: PretrainConfig) -> dict[str, Any]:
    """Describe what data lie before a run, as plain values: recordings by corpus, of those that have its leads."""
    spec = config.input
    present = shards.lead_mask[:, [shards.leads.index(lead) for lead in spec.leads]]
    usable = present.any(axis=1) if spec.any_leads else present.all(axis=1)
    # A long recording has several rows, of which one is the first.
    first = shards.corpus_of[usable & (shards.start_samples == 0)]
    counts = np.bincount(first, minlength=len(shards.corpora)).tolist()
    return {
        "corpora": dict(zip(shards.corpora, counts, strict=True)),
        "n_records": sum(counts),
        "n_rows": shards.n_records,
        "sampling_rate": shards.sampling_rate,
        "segment_samples": shards.segment_samples,
        "fingerprint": shards.fingerprint,
        "folder": str(shards.folder.absolute()),
    }


def read_data(run: Path, config: PretrainConfig) -> dict[str, Any]:
    """Return what :func:`describe_data` found, of corpora only those that are drawn; empty when nothing is known."""

    def read(known: Mapping[str, Any]) -> dict[str, Any]:
        counts = {name: int(count) for name, count in known.get("corpora", {}).items()}
        drawn = config.data.weights or counts
        return {**known, "corpora": {name: count for name, count in counts.items() if count and name in drawn}}

    return _read_json(run, _DATA, read) or {}


def check_same_run(state: Mapping[str, Any], config: PretrainConfig, shards: ShardSet) -> None:
    """Raise if a checkpoint is of another configuration or of other data, naming everything that differs.

    What does not touch the steps that are done may differ: ``watch``, and ``run.steps`` if it grows.
    """
    # Read as a configuration, so that fields that came later are compared by their defaults.
    began = PretrainConfig.from_dict(state["config"])
    if differences(_lasting(began), _lasting(config)) or config.run.steps < began.run.steps:
        changed = differences(_ordered(began), _ordered(config))
        passing = ", ".join(f"run.{name}" for name in _PASSING if name != "steps")
        raise CheckpointError(
            f"The run began with another configuration: {'; '.join(changed)}. Resume it as it was, or begin another; "
            f"only run.steps may be raised, and watch.*, {passing} changed."
        )
    if state["fingerprint"] != shards.fingerprint:
        raise CheckpointError(
            f"The run began with other data (fingerprint {state['fingerprint'][:12]}, these are "
            f"{shards.fingerprint[:12]}). Resume it with the shards that data.json describes, or begin another."
        )


def _lasting(config: PretrainConfig) -> dict[str, Any]:
    """Return what of a configuration stays for the whole of a run."""
    values = _ordered(config)
    del values["watch"]
    for name in _PASSING:
        del values["run"][name]
    return values


def _ordered(config: PretrainConfig) -> dict[str, Any]:
    """Return plain values in which the order of corpora counts: rows are drawn by it."""
    values = config.to_dict()
    values["data"]["weights"] = [list(item) for item in values["data"]["weights"].items()]
    return values


def what_changed(state: Mapping[str, Any], config: PretrainConfig, world_size: int) -> list[str]:
    """List what is not as it was when a checkpoint was written, though it may be."""
    began, step = PretrainConfig.from_dict(state["config"]), state["step"]
    found = differences(began.to_dict(), config.to_dict())
    before, now = learning_rate(began, min(step, began.run.steps - 1)), learning_rate(config, step)
    if began.run.steps != config.run.steps and before != now:
        found.append(f"learning rate at this step: {before:.3g} before, {now:.3g} now")
    warmups = warmup_steps(began), warmup_steps(config)
    if step and warmups[0] != warmups[1]:
        found.append(
            f"warm-up: {warmups[0]} steps before, {warmups[1]} now (a share of the run: what was learnt before is not "
            "what a run of this length would have learnt)"
        )
    if state["world_size"] != world_size:
        found.append(
            f"processes: {state['world_size']} before, {world_size} now (batches are the same; sums are taken in "
            "another order, so that losses agree to rounding, not to the last bit)"
        )
    if state["mask_law"] != MASK_LAW and (state["config"].get("masks") or {}).get("kind") == "blocks":
        found.append(
            f"masks: drawn by law {state['mask_law']} before, by law {MASK_LAW} now (the same distribution, other "
            "draws, so that losses are not those that the run would have had)"
        )
    if state["torch"] != str(torch.__version__):
        found.append(f"torch: {state['torch']} before, {torch.__version__} now")
    return found


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """List each field in which two nested dicts of plain values differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        found = [differences(old.get(k, _ABSENT), new.get(k, _ABSENT), f"{name}.{k}" if name else k) for k in keys]
        return [line for lines in found for line in lines]
    return [] if _plain(old) == _plain(new) else [f"{name} was {old!r}, is {new!r}"]


def _plain(value: Any) -> Any:
    """Return tuples as the lists that they are once written."""
    # JSON makes lists of tuples; a configuration that was read back is still the same.
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def read_config(folder: Path) -> PretrainConfig:
    """Read the configuration that a run's folder holds; raise :class:`ParameterError` for none, or a torn one."""
    config = _read_json(folder, _CONFIG, PretrainConfig.from_dict)
    if config is None:
        raise ParameterError(f"Got {str(folder)!r}, which holds no config.json, expected the folder of a run.")
    return config
