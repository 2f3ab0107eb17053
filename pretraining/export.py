"""Checkpoint to weights folder, as :class:`skecg.JEPAEmbedder` loads it, and weights into the library.

An exported folder has its card and golden vectors. The library's own weights lie in ``skecg/pretrained``, with the
scores and the run's curves on their card; their entry in the registry is the default. ``make weights`` ends with that.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import skecg
from pretraining.config import PretrainConfig
from pretraining.monitoring.journal import read_journal
from pretraining.monitoring.report import inspect_run
from pretraining.objectives.base import exported_encoder
from pretraining.runs import (
    as_configured,
    checkpoints_of,
    load_checkpoint,
    read_code,
    read_data,
    saved_steps,
    write_json,
)
from skecg._version import __version__
from skecg.errors import ParameterError
from skecg.hub.licences import data_licences
from skecg.hub.results import read_scores, registry_entry
from skecg.io.files import make_folder, replacing
from skecg.validation import check_choice
from skecg.weights import WeightsInfo, read_info, save_encoder
from skecg.weights.card import card_text, join_data
from skecg.weights.folder import DIRECTIONS_NAME, TRAINING_CONFIG, read_json
from skecg.weights.loading import move_draft

if TYPE_CHECKING:
    from skecg.encoders import Encoder

__all__ = ["bundle", "export", "record_start"]

_START = "start.json"  # in a run's folder

_GAUGES = ("rank", "rank_uncentred", "record_spread", "token_spread", "position_share", "lidar", "identity", "drift")

_PACKAGE = Path(skecg.__file__).parent

_FILES = ("config.json", "model.safetensors", "golden.safetensors", "training_config.json")

_CURVES = "curves.png"


def export(
    run: str | Path,
    out: str | Path,
    *,
    which: str = "last",
    encoder: str | None = None,
    blocks: int | None = None,
    name: str | None = None,
    licence: str | None = None,
    force: bool = False,
) -> WeightsInfo:
    """Write the encoder of a run as a weights folder.

    Parameters
    ----------
    run : path-like
        The run's folder.
    out : path-like
        The weights folder; made if absent.
    which : {"last", "best"}, default="last"
        The newest checkpoint, or that with the best score of the online probe.
    encoder : {"target", "context"} or None, default=None
        Which of the two encoders; None takes the one that the recipe names.
    blocks : int, optional
        How many of its blocks, from the first, 0 for all; None takes what the recipe says.
    name : str, optional
        Of the weights; the recipe's when not given.
    licence : str, optional
        An identifier of SPDX, such as ``"Apache-2.0"``. Mind the data's.
    force : bool, default=False
        Write over the files of a folder that is not empty.

    Returns
    -------
    WeightsInfo
        Its provenance names recipe, steps, records seen and data; also gauges and the probe's score, unless they are of
        another encoder of the run, or of another number of blocks.

    Raises
    ------
    ParameterError
        When the run has no checkpoint, none was scored, a file of its folder is torn, a choice is unknown, or the
        folder to write is not empty.
    CheckpointError
        When the checkpoint is damaged.
    """
    if encoder is not None:
        check_choice("encoder", encoder, ("target", "context"))
    run, out = Path(run), Path(out)
    if not force and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ParameterError(
            f"Got {str(out)!r}, which is not empty. Write over it with --force, or name another folder."
        )
    state = _load(run, which)
    watched = PretrainConfig.from_dict(state["config"])
    kind = encoder or watched.export_encoder
    config = watched if blocks is None else dataclasses.replace(watched, export_blocks=blocks)
    known = _provenance(run, state, config, kind)
    # The run measured one encoder of one depth: its numbers are not those of another.
    if (kind, config.exported_depth) == (watched.export_encoder, watched.exported_depth):
        known |= _watched(run, state)
    known |= {"name": name or config.name, "model": f"./{out.name}"} | ({"licence": licence} if licence else {})
    with as_configured(run, state["step"]):
        trained = _encoder(state["model"], config, kind)
    # Aside until all is written: what a full disk leaves would be refused at the next try. In the folder, for beside it
    # may be another disk, or where one may not write.
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=make_folder(out)) as draft:
        save_encoder(draft, trained, config.input, pooling=config.pooling, **known)
        # `skecg publish` wants it beside the weights.
        write_json(Path(draft) / TRAINING_CONFIG, config.to_dict())
        move_draft(Path(draft), out)
    return read_info(out)


def _load(run: Path, which: str) -> dict[str, Any]:
    """Load the checkpoint asked for."""
    check_choice("which", which, ("last", "best"))
    folder = checkpoints_of(run)
    steps = saved_steps(folder)
    if not steps:
        raise ParameterError(
            f"Got the run {str(run)!r} without a checkpoint, expected at least one in its folder 'checkpoints'. Train "
            "first; a checkpoint is written every watch.checkpoint_every steps and when a run stops."
        )
    state = load_checkpoint(folder)
    if which == "last":
        return state
    best = _best_step(state)
    if best is None:
        raise ParameterError(
            f"Got which='best' for the run {str(run)!r}, which no probe has scored. Export the last checkpoint, or "
            "train with a probe (watch.probe_every)."
        )
    if best not in steps:
        raise ParameterError(
            f"The best checkpoint of the run {str(run)!r} is that of step {best}, and it is no longer there (those of "
            f"steps {', '.join(map(str, steps))} are). Export the last one."
        )
    return load_checkpoint(folder, best)


def _best_step(state: Mapping[str, Any]) -> int | None:
    best = state["probe"].get("best_step")
    return None if best is None else int(best)


def _encoder(tensors: Mapping[str, Any], config: PretrainConfig, kind: str) -> Encoder:
    """Build one of the two encoders from the tensors of the whole model."""
    prefix = f"{kind}_encoder."
    return exported_encoder({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}, config)


def _provenance(run: Path, state: Mapping[str, Any], config: PretrainConfig, kind: str) -> dict[str, Any]:
    """Return where the weights come from, as plain JSON values."""
    step = int(state["step"])
    seen = step * config.run.batch_size
    known: dict[str, Any] = {
        "description": f"Trained with skecg's recipe {config.name}: {step:,} steps of {config.run.batch_size} records.",
        "trained": step > 0,
        "recipe": config.name,
        "which_encoder": kind,
        "blocks": f"{config.exported_depth} of {config.encoder.depth}",
        "steps": step,
        "records_seen": seen,
        "seed": config.run.seed,
        "skecg": __version__,
    }
    if config.start:
        known["started_from"] = config.start
    if dropout := config.data.lead_dropout or (config.masks and config.masks.lead_dropout):
        known["lead_dropout"] = dropout
    # What is drawn, for the licence of the weights goes by it.
    if corpora := read_data(run, config).get("corpora"):
        known["data"] = ", ".join(f"{name} ({count:,} records)" for name, count in corpora.items())
    if config.start:
        known |= join_data(_start_of(run, config), known)
    known["data_fingerprint"] = str(state["fingerprint"])
    code = read_code(run)
    return known | ({"code": code} if code else {})


def record_start(run: Path, provenance: Mapping[str, Any]) -> None:
    """Write down whose data the weights have seen that a run begins from: whoever has what comes of it is bound too."""
    write_json(
        run / _START, {name: provenance[name] for name in ("name", "data", "data_licences") if name in provenance}
    )


def _start_of(run: Path, config: PretrainConfig) -> dict[str, Any]:
    """Return what :func:`record_start` wrote, or that nothing is known of the data before."""
    path = run / _START
    known: dict[str, Any] = read_json(path) if path.is_file() else {"data": f"the data of {config.start}"}
    return known


def _watched(run: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the run itself has measured of the encoder that it names for export."""
    gauges = _gauges_of(run, int(state["step"]))
    known: dict[str, Any] = {"gauges": gauges} if gauges else {}
    scores = state["probe"].get("history")
    if scores:
        at, score = scores[-1]
        # Checkpoints did not name it from the beginning.
        measure = state["probe"].get("measure", "macro_auroc")
        known["probe"] = {"step": int(at), measure: round(float(score), 4)}
    return known


def _gauges_of(run: Path, step: int) -> dict[str, float]:
    """Return the gauges that were read at a step, empty when none were: those of another one are not the weights'."""
    entry = next((entry for entry in read_journal(run) if entry["step"] == step), {})
    return {name: round(float(entry[name]), 4) for name in _GAUGES if name in entry}


def bundle(
    weights: Path,
    run: Path,
    evaluations: Sequence[Path],
    *,
    notes: Path | None = None,
    package: Path = _PACKAGE,
) -> Path:
    """Copy weights into the library and make them the default.

    Parameters
    ----------
    weights : Path
        What ``python -m pretraining export`` wrote.
    run : Path
        The run that they are from.
    evaluations : sequence of Path
        Reports of ``skecg evaluate`` on them.
    notes : Path, optional
        Markdown that is added to the card: what cannot be read off the files.
    package : Path
        The library's folder.

    Returns
    -------
    Path
        The folder in the library.
    """
    info = read_info(weights)
    name = str(info.provenance["name"])
    folder = package / "pretrained" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in (*_FILES, *([DIRECTIONS_NAME] if info.directions_sha256 else [])):
        shutil.copyfile(weights / file, folder / file)
    inspect_run(run, folder / _CURVES)
    (folder / "README.md").write_text(_card(read_info(folder), name, evaluations, notes), encoding="utf-8")
    _register(package / "registry.json", name, _entry(folder, package, evaluations))
    return folder


def _card(info: WeightsInfo, name: str, evaluations: Sequence[Path], notes: Path | None) -> str:
    scores = [score.for_card() for score in read_scores(evaluations, info)]
    licences = {archive: licence or "not known" for archive, licence in data_licences(info.provenance).items()}
    text = card_text(info, data=licences, scores=scores, model=name)
    return text if notes is None else f"{text}\n{notes.read_text(encoding='utf-8')}"


def _entry(folder: Path, package: Path, evaluations: Sequence[Path]) -> dict[str, Any]:
    """Describe the weights as the registry does published ones, but lying in the library."""
    entry = registry_entry(folder, "", "", evaluations=evaluations)
    rest = {key: value for key, value in entry.items() if key not in ("repository", "commit")}
    # Bundled weights have no commit: the release vouches for their digest.
    return {"default": True, "bundled": folder.relative_to(package).as_posix(), **rest}


def _register(path: Path, name: str, entry: dict[str, Any]) -> None:
    registry = json.loads(path.read_text(encoding="utf-8"))
    others = {other: {**known, "default": False} for other, known in registry["models"].items() if other != name}
    registry["models"] = {name: entry, **others}
    with replacing(path) as file:
        file.write((json.dumps(registry, indent=2) + "\n").encode())
