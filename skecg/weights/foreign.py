"""What a repository is that holds no skecg weights: said by name, with the way there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["describe_foreign"]

_SHOWN = 5

#: Files of the two published systems, by the names that their own code gives them.
_CONVERTIBLE = (
    (re.compile(r"(random|multiblock)\w*_epoch\d+\.pth$"), "kim", "Kim's ECG-JEPA"),
    (re.compile(r"(chkpt_\d+\.pt|_best_chkpt\.pt|\.min\.pt)$"), "weimann", "Weimann and Conrad's ECG-JEPA"),
)


def describe_foreign(repository: str, revision: str | None, config: Path | None = None) -> str | None:
    """Say what a repository holds, as the message of an error; None when its configuration is one of skecg's."""
    values = _read(config)
    if isinstance(values, dict) and "skecg_format" in values:
        return None
    names = _file_names(repository, revision)
    found = f"found {_in_words(names)}" if names else "its files could not be listed"
    origin = f"; its config.json is {_origin(values)}" if config is not None else ""
    return (
        f"Got {repository!r}, which holds no skecg weights: {found}{origin}. Expected config.json with 'skecg_format' "
        f"and model.safetensors. {_way_out(repository, names)}"
    )


def _file_names(repository: str, revision: str | None) -> list[str]:
    """List a repository's files; none when that is not possible, for this only makes a message better."""
    from huggingface_hub import HfApi

    from skecg.errors import SkecgError
    from skecg.weights.hub_errors import hub_errors

    try:
        with hub_errors(repository, revision):
            names = HfApi(library_name="skecg").list_repo_files(repository, revision=revision)
    except SkecgError:
        return []
    return sorted(name for name in names if name.isprintable() and not name.startswith(".git"))


def _in_words(names: list[str]) -> str:
    # The largest part of a repository is its weights; a reader looks for those first.
    ranked = sorted(names, key=lambda name: not re.search(r"\.(pth?|ckpt|bin|safetensors|h5|onnx)$", name))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(ranked[:_SHOWN]) + more


def _origin(values: Any) -> str:
    """Say whose configuration it is."""
    if not isinstance(values, dict):
        return "no object of named fields"
    if "skecg_pipeline" in values:
        return "that of a fitted pipeline, which skecg.hub.load_pipeline loads"
    if "model_type" in values or "transformers_version" in values:
        return f"one of transformers (model_type {values.get('model_type')!r})"
    return f"another program's (fields {', '.join(map(repr, sorted(values)[:_SHOWN]))})" if values else "empty"


def _way_out(repository: str, names: list[str]) -> str:
    for pattern, origin, system in _CONVERTIBLE:
        for name in names:
            if pattern.search(name):
                return (
                    f"{name} looks like a checkpoint of {system}: fetch it with `hf download {repository} {name}`, "
                    f"turn it into weights with `skecg convert {origin} FILE FOLDER`, and pass the folder as model=."
                )
    return (
        "skecg loads weights folders of its own and converts the checkpoints of two published systems "
        "(`skecg convert --help`); other encoders it does not load."
    )


def _read(config: Path | None) -> Any:
    try:
        return json.loads(config.read_text(encoding="utf-8")) if config is not None else None
    except (ValueError, RecursionError):
        return None
