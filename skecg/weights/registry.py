"""From the name of a model to the folder of its weights: bundled, registered, on disk, or on the Hub.

What reads folders comes in when one is looked for: the list of models is there without torch.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg.compute.notebook import html_table
from skecg.errors import DamagedWeightsError, ParameterError, WeightsNotFoundError

if TYPE_CHECKING:
    from skecg.weights.folder import WeightsInfo

__all__ = ["find_weights", "list_models", "repository_of"]

_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")
# Of addresses as browsers show them, which are told the name to write instead.
_HUB_HOST = re.compile(r"hf:/+|https?:/+[^/]+/|(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
_COMMIT = re.compile("[0-9a-f]{40}")


class Models(dict[str, dict[str, Any]]):
    """Models by name; a notebook shows them as a table."""

    def table(self) -> list[list[str]]:
        """Return a line of names, and one for each model."""
        rows = [_row(name, entry) for name, entry in self.items()]
        return [list(rows[0]) if rows else [], *(list(row.values()) for row in rows)]

    def _repr_html_(self) -> str:
        header, *rows = self.table()
        return html_table(header, rows)


def list_models() -> Models:
    """List the models that skecg knows by name.

    Returns
    -------
    dict of str to dict
        Name to what the registry says: where the weights are, whether they are trained, licence, data, number of
        features; a table in a notebook. The name ``"default"`` stands for the entry whose ``default`` is true.

    Examples
    --------
    >>> import skecg
    >>> skecg.list_models()["untrained-temporal"]["trained"]
    False
    """
    return Models({name: dict(entry) for name, entry in _registry().items()})


def _row(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """Return a model's cells by column."""
    leads = entry.get("leads", [])
    subset = "up to " if entry.get("any_leads") else ""
    return {
        "name": name + (" (default)" if entry.get("default") else ""),
        "trained": "yes" if entry.get("trained") else "NO, random weights",
        "architecture": _text(entry, "architecture"),
        "features": _text(entry, "n_features"),
        "leads": f"{subset}{len(leads)}" if leads else "?",
        "rate": _text(entry, "sampling_rate", " Hz"),
        "window": _text(entry, "window_seconds", " s"),
        "licence": _text(entry, "licence"),
        "size": _text(entry, "megabytes", " MB"),
    }


def _text(entry: Mapping[str, Any], field: str, unit: str = "") -> str:
    value = entry.get(field)
    if value is None:
        return "?"
    return f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}"


def _registry() -> dict[str, dict[str, Any]]:
    return dict(_registry_file()["models"])


@functools.cache
def _registry_file() -> dict[str, Any]:
    text = files("skecg").joinpath("registry.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


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
    DamagedWeightsError
        When its tensors are not those that its configuration was written for.
    """
    from skecg.weights.folder import check_bytes

    if revision is not None and not (isinstance(revision, str) and revision.strip()):
        raise ParameterError(f"Got revision={revision!r}, expected the name of a branch or tag, a commit, or None.")
    info = _find(model, revision=revision, local_files_only=local_files_only)
    check_bytes(info)
    return info


def _find(model: str | Path, *, revision: str | None, local_files_only: bool) -> WeightsInfo:
    """Find a model's weights without looking at their tensors."""
    from skecg.weights.fetching import fetch_weights
    from skecg.weights.folder import read_info

    if not isinstance(model, str | Path) or not str(model):
        raise ParameterError(f"Got model={model!r}, expected a model's name, a folder, or 'owner/name' on the Hub.")
    registered = _registered(str(model))
    # Registered names go before folders: a folder "default" in the working directory must not change what a name means.
    if registered is not None and "repository" in registered[1]:
        return _published(*registered, revision=revision, local_files_only=local_files_only)
    if registered is not None or Path(model).is_dir():
        _refuse_revision(str(model), revision)
        return _bundled(*registered) if registered is not None else read_info(Path(model))
    if Path(model).is_file():
        raise WeightsNotFoundError(
            f"Got model={str(model)!r}, a file, expected the folder of its config.json and model.safetensors. Pass "
            f"{str(Path(model).parent)!r}, or turn another lab's file into a folder: `skecg convert --help`."
        )
    # "./mine/weights" is a folder that is not there, not a repository.
    if isinstance(model, str) and _HUB_NAME.match(model) and not model.startswith("."):
        return fetch_weights(model, revision, local_files_only=local_files_only)
    raise WeightsNotFoundError(_unknown_name(str(model)))


def _refuse_revision(model: str, revision: str | None) -> None:
    if revision is not None:
        raise ParameterError(
            f"Got revision={revision!r} for {model!r}, which is not on the Hub; expected None. Only 'owner/name' has "
            "branches, tags and commits."
        )


def _published(name: str, entry: Mapping[str, Any], *, revision: str | None, local_files_only: bool) -> WeightsInfo:
    """Fetch the weights that a registered name stands for.

    A release of skecg freezes the commit. Another commit, in full, is what an estimator remembers that was fitted with
    another release; branches and tags are not the name's.
    """
    from skecg.weights.fetching import fetch_weights

    if revision is not None and not _COMMIT.fullmatch(revision):
        raise ParameterError(
            f"Got revision={revision!r} for {name!r}, whose commit each release of skecg freezes; expected None. For "
            f"another revision name the repository: {entry['repository']!r}."
        )
    commit = revision or entry["commit"]
    info = fetch_weights(entry["repository"], commit, local_files_only=local_files_only)
    # The Hub answers for the commit; the release answers for the bytes.
    if commit == entry["commit"] and info.sha256 != entry["sha256"]:
        raise DamagedWeightsError(
            f"{entry['repository']} at commit {commit} is not what this release of skecg knows as {name!r} (sha256 "
            f"{info.sha256[:16]}…, expected {entry['sha256'][:16]}…). Do not use it; report it."
        )
    return info


def _registered(name: str) -> tuple[str, dict[str, Any]] | None:
    if name == "default":
        return next((name, entry) for name, entry in _registry().items() if entry.get("default"))
    entry = _registry().get(name)
    return None if entry is None else (name, entry)


def _bundled(name: str, entry: Mapping[str, Any]) -> WeightsInfo:
    from skecg.weights.folder import read_info

    info = read_info(Path(str(files("skecg"))) / entry["bundled"])
    if info.sha256 != entry["sha256"]:
        raise DamagedWeightsError(
            f"The bundled weights {name!r} in {info.folder} are not those of this release "
            f"(sha256 {info.sha256[:16]}…, expected {entry['sha256'][:16]}…). Reinstall skecg."
        )
    return info


def repository_of(model: str) -> str:
    """Return the repository on the Hub that a registered name stands for; others are repositories themselves."""
    entry = _registered(model)
    return str(entry[1]["repository"]) if entry is not None else model


def _unknown_name(model: str) -> str:
    if _HUB_HOST.match(model):
        return (
            f"Got model={model!r}, an address, expected a name, a folder or 'owner/name' on the Hub.{_named_by(model)}"
        )
    successor = _registry_file()["replaced"].get(model)
    if successor is not None:
        return (
            f"Got model={model!r}, which {successor!r} has replaced; its weights are no longer known by name. Features "
            f"of {successor!r} are others: embed your records again, and fit again what was fitted on them."
        )
    known = ["default", *_registry()]
    close = difflib.get_close_matches(model, known, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known names: {', '.join(known)}."
    return f"Got model={model!r}, which is no known name, no folder and no 'owner/name' on the Hub. {hint}"


def _named_by(address: str) -> str:
    """Return the repository, and the revision, that the address of a page on the Hub names, as a question."""
    parts = re.split("[/?#]", _HUB_HOST.sub("", address, count=1).removeprefix("models/"))
    repository = "/".join(parts[:2]).removesuffix(".git")
    if not _HUB_NAME.match(repository) or parts[0] in ("datasets", "spaces"):
        return " Pass what stands above the files on the model's page."
    is_pinned = len(parts) > 3 and parts[2] in ("tree", "blob", "resolve", "commit")
    return f" Did you mean {repository!r}{f' with revision={parts[3]!r}' if is_pinned else ''}?"
