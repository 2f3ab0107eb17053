"""From the name of a model to the folder of its weights: bundled, registered, on disk, or on the Hub."""

from __future__ import annotations

import difflib
import functools
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from skecg.errors import DamagedWeightsError, ParameterError, WeightsNotFoundError
from skecg.weights.folder import WeightsInfo, read_info

__all__ = ["find_weights", "list_models"]

_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")
_HUB_FILES = ["config.json", "model.safetensors", "golden.safetensors", "README.md"]


def list_models() -> dict[str, dict[str, Any]]:
    """List the models that skecg knows by name.

    Returns
    -------
    dict of str to dict
        Name to what the registry says: where the weights are, whether they are trained, licence, data, number of
        features. The name ``"default"`` stands for the entry whose ``default`` is true.

    Examples
    --------
    >>> import skecg
    >>> skecg.list_models()["untrained-temporal"]["trained"]
    False
    """
    return {name: dict(entry) for name, entry in _registry().items()}


@functools.cache
def _registry() -> dict[str, dict[str, Any]]:
    text = files("skecg").joinpath("registry.json").read_text(encoding="utf-8")
    return dict(json.loads(text)["models"])


def find_weights(model: str | Path, *, revision: str | None = None, local_files_only: bool = False) -> WeightsInfo:
    """Find a model's weights and read what they say of themselves.

    Parameters
    ----------
    model : str or Path
        A name of :func:`list_models` (or ``"default"``), a weights folder, or ``"owner/name"`` on the Hugging Face Hub.
    revision : str, optional
        Branch, tag or commit, for weights on the Hub.
    local_files_only : bool, default=False
        Whether to refuse to ask the network.

    Raises
    ------
    WeightsNotFoundError
        When nothing answers to the name.
    WeightsFormatError
        When what answers is no weights folder.
    """
    if not isinstance(model, str | Path) or not str(model):
        raise ParameterError(f"Got model={model!r}, expected a model's name, a folder, or 'owner/name' on the Hub.")
    registered = _registered(str(model))
    if registered is not None:
        return _bundled(*registered)
    if Path(model).is_dir():
        return read_info(Path(model))
    if isinstance(model, str) and _HUB_NAME.match(model) and not model.startswith("."):
        return _from_hub(model, revision, local_files_only)
    raise WeightsNotFoundError(_unknown_name(str(model)))


def _registered(name: str) -> tuple[str, dict[str, Any]] | None:
    if name == "default":
        return next((name, entry) for name, entry in _registry().items() if entry.get("default"))
    entry = _registry().get(name)
    return None if entry is None else (name, entry)


def _bundled(name: str, entry: dict[str, Any]) -> WeightsInfo:
    info = read_info(Path(str(files("skecg"))) / entry["bundled"])
    if info.sha256 != entry["sha256"]:
        raise DamagedWeightsError(
            f"The bundled weights {name!r} in {info.folder} are not those of this release "
            f"(sha256 {info.sha256[:16]}…, expected {entry['sha256'][:16]}…). Reinstall skecg."
        )
    return info


def _unknown_name(model: str) -> str:
    known = ["default", *_registry()]
    close = difflib.get_close_matches(model, known, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known names: {', '.join(known)}."
    return f"Got model={model!r}, which is no known name, no folder and no 'owner/name' on the Hub. {hint}"


def _from_hub(repository: str, revision: str | None, local_files_only: bool) -> WeightsInfo:
    """Download a repository's weights into the Hub library's own cache; all files come from one commit."""
    from huggingface_hub import errors, snapshot_download

    at = f"{repository} at revision {revision or 'main'}"
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=_HUB_FILES, local_files_only=local_files_only
        )
    except errors.RepositoryNotFoundError as error:
        raise WeightsNotFoundError(
            f"The Hub has no repository {repository!r}, or it is private. Check the name; for a private one run "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsNotFoundError(f"The Hub has no {at}. Name a branch, a tag or a commit that exists.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        raise WeightsNotFoundError(
            f"{at} is not in the local cache and could not be fetched ({type(error).__name__}). Connect to the network "
            f"once, or run `hf download {repository}` on a machine that has one and pass the folder as model=."
        ) from error
    return read_info(folder, revision=Path(folder).name)
