"""Put trained weights into the library: ``python -m pretraining.bundling WEIGHTS --run RUN --evaluation REPORT``.

The folder goes to ``skecg/pretrained``, with a card that has the scores and the run's curves; its entry in the registry
becomes the default. ``make weights`` ends with it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import skecg
from pretraining.inspecting import inspect_run
from skecg.hub.licences import data_licences
from skecg.hub.registry import registry_entry
from skecg.hub.results import read_scores
from skecg.weights import WeightsInfo, read_info
from skecg.weights.card import card_text

__all__ = ["bundle", "main"]

_PACKAGE = Path(skecg.__file__).parent
_FILES = ("config.json", "model.safetensors", "golden.safetensors", "training_config.json")
_CURVES = "curves.png"


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
    for file in _FILES:
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
    return {"default": True, "bundled": folder.relative_to(package).as_posix(), **rest}


def _register(path: Path, name: str, entry: dict[str, Any]) -> None:
    registry = json.loads(path.read_text(encoding="utf-8"))
    others = {other: {**known, "default": False} for other, known in registry["models"].items() if other != name}
    registry["models"] = {name: entry, **others}
    path.write_text(json.dumps(registry, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pretraining.bundling", description=__doc__)
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="folder that export wrote")
    parser.add_argument("--run", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--evaluation", action="append", default=[], type=Path, metavar="REPORT", help="of skecg evaluate; again"
    )
    parser.add_argument("--notes", type=Path, metavar="FILE", help="Markdown that is added to the card")
    given = parser.parse_args(arguments)
    print(f"{bundle(given.weights, given.run, given.evaluation, notes=given.notes)}: the default from now on")


if __name__ == "__main__":
    main()
