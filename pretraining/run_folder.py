"""A run's folder: what it is, its data, code, journal and checkpoints; begun once, resumed strictly.

A run goes on only as what it was: the same configuration and the same data. What else differs is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pretraining.checkpoints import CheckpointError, latest, write_json
from pretraining.code_state import record_code
from pretraining.config import PretrainConfig
from skecg.errors import ParameterError

if TYPE_CHECKING:
    from pretraining.shards import ShardSet

__all__ = ["checkpoints_of", "describe_data", "differences", "open_run_folder", "refuse_another_run", "what_changed"]


def checkpoints_of(run: str | Path) -> Path:
    """Give the folder of a run's checkpoints."""
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
    step = latest(checkpoints_of(out))
    if step is None:
        checkpoints_of(out).mkdir(parents=True, exist_ok=True)
        write_json(out / "config.json", config.to_dict())
        write_json(out / "data.json", describe_data(shards))
    record_code(out)
    return step


def describe_data(shards: ShardSet) -> dict[str, Any]:
    """Say what data a run sees, as plain values."""
    counts = np.bincount(shards.corpus_of, minlength=len(shards.corpora)).tolist()
    return {
        "corpora": dict(zip(shards.corpora, counts, strict=True)),
        "n_records": shards.n_records,
        "sampling_rate": shards.sampling_rate,
        "segment_samples": shards.segment_samples,
        "fingerprint": shards.fingerprint,
        "folder": str(shards.folder.absolute()),
    }


def refuse_another_run(state: Mapping[str, Any], config: PretrainConfig, shards: ShardSet) -> None:
    """Raise if a checkpoint is of another configuration or of other data, naming everything that differs."""
    began = PretrainConfig.from_dict(state["config"])
    changed = differences(began.to_dict(), config.to_dict())
    if changed:
        raise CheckpointError(
            f"The run began with another configuration: {'; '.join(changed)}. Resume it as it was, or begin another."
        )
    if state["fingerprint"] != shards.fingerprint:
        raise CheckpointError(
            f"The run began with other data (fingerprint {state['fingerprint'][:12]}, these are "
            f"{shards.fingerprint[:12]}). Resume it with the shards that data.json describes, or begin another."
        )


def what_changed(state: Mapping[str, Any], world_size: int) -> list[str]:
    """Say what is not as it was when a checkpoint was written, though it may be."""
    found = []
    if state["world_size"] != world_size:
        found.append(
            f"processes: {state['world_size']} before, {world_size} now (batches are the same; sums are taken in "
            "another order, so that losses agree to rounding, not to the last bit)"
        )
    if state["torch"] != str(torch.__version__):
        found.append(f"torch: {state['torch']} before, {torch.__version__} now")
    return found


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Name each field in which two nested dicts of plain values differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        found = [differences(old.get(k, _ABSENT), new.get(k, _ABSENT), f"{name}.{k}" if name else k) for k in keys]
        return [line for lines in found for line in lines]
    return [] if _plain(old) == _plain(new) else [f"{name} was {old!r}, is {new!r}"]


def _plain(value: Any) -> Any:
    """Give tuples as the lists that they are once written."""
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()
