"""Fitted pipelines on the Hub: the embedder by name and commit, the rest in a format that runs nothing when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from skecg import __version__
from skecg.errors import (
    DamagedWeightsError,
    ForeignRepositoryError,
    MissingDependencyError,
    ParameterError,
    PublishError,
    WeightsFormatError,
)
from skecg.hub.pipeline_archive import canonical
from skecg.hub.pipeline_card import pipeline_card
from skecg.hub.pipeline_parts import check_kept_records, embedder_of, pinned, without_this_machine
from skecg.hub.uploading import Publication, plan, upload
from skecg.weights.fetching import fetch_file, resolve_commit
from skecg.weights.folder import CONFIG_NAME
from skecg.weights.reading import read_json

__all__ = ["load_pipeline", "push_pipeline"]

PIPELINE_FORMAT = 1
_PIPELINE = "pipeline.skops"
_NOTHING_OWNED = ".skecg-pipeline/"

#: Ours, beside what skops trusts of scikit-learn, NumPy and SciPy.
_TRUSTED = ("skecg.embedder.JEPAEmbedder", "skecg.probe.LogisticProbe")

_REASONS = ("records", "types")


def push_pipeline(
    pipeline: Any,
    repository: str,
    *,
    description: str = "",
    licence: str = "other",
    private: bool = False,
    tag: str | None = None,
    allow: Iterable[str] = (),
    dry_run: bool = False,
) -> Publication:
    """Publish a fitted scikit-learn pipeline that begins with a :class:`skecg.JEPAEmbedder`.

    The weights are not in it: the embedder is kept as the name and commit of weights on the Hub, or as the name of
    bundled ones. What belongs to this machine (cache, device, workers) is left out, and so are names of records.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted; its first step an embedder of weights that others can have.
    repository : str
        ``"owner/name"``; made when it is not there.
    description : str, default=""
        What it predicts, of what it was trained, for the card.
    licence : str, default="other"
        Identifier of SPDX.
    private, tag, dry_run
        As of :func:`skecg.hub.publish`.
    allow : iterable of {"records", "types"}, optional
        What does not keep it from being published: a step that keeps training records (their embeddings are personal
        data), or types that others have to trust by name.

    Returns
    -------
    Publication

    Raises
    ------
    PublishError
        When the pipeline is not fitted, its weights are in a folder of this machine, or it should not be published.
    MissingDependencyError
        When skops is not installed.
    """
    waived = _check_names(allow)
    skops_io = _skops()
    embedder = embedder_of(pipeline)
    weights = pinned(embedder)
    if "records" not in waived:
        check_kept_records(pipeline)
    content = canonical(skops_io.dumps(without_this_machine(pipeline)))
    strange = _strange_types(skops_io, content)
    if strange and "types" not in waived:
        raise PublishError(
            f"The pipeline holds {', '.join(strange)}, which nobody can load without trusting them by name. Use steps "
            "of scikit-learn or skecg, or allow=['types']."
        )
    config = _configuration(pipeline, weights, content, strange)
    files = {
        CONFIG_NAME: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
        _PIPELINE: content,
        "README.md": pipeline_card(pipeline, repository, config, description, licence).encode(),
    }
    if dry_run:
        return Publication(repository, None, tag, tuple(plan(repository, files, _NOTHING_OWNED)), tuple(sorted(waived)))
    message = f"Publish a pipeline on {weights['model']}"
    return upload(repository, files, message, owned=_NOTHING_OWNED, private=private, tag=tag)


def load_pipeline(
    source: str | Path, *, revision: str | None = None, local_files_only: bool = False, trusted: Iterable[str] = ()
) -> Any:
    """Load a pipeline that :func:`push_pipeline` published.

    Nothing in it runs when it is read: it is no pickle, and types that are not of scikit-learn, NumPy, SciPy or skecg
    are refused. Its weights are fetched when it is used, at the commit that it was fitted with.

    Parameters
    ----------
    source : str or Path
        ``"owner/name"``, or a folder.
    revision : str, optional
        Branch, tag or commit.
    local_files_only : bool, default=False
        Whether to refuse to ask the network.
    trusted : iterable of str, optional
        Further types that may be built, by their full names. Trust only whom you know: building one may run its code.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Fitted.

    Raises
    ------
    WeightsError
        When there is nothing, nothing of the kind, something damaged, or something not trusted.
    MissingDependencyError
        When skops is not installed.
    """
    skops_io = _skops()
    config, content = _read(source, revision, local_files_only)
    strange = [name for name in _strange_types(skops_io, content) if name not in set(trusted)]
    if strange:
        raise WeightsFormatError(
            f"The pipeline of {source} holds {', '.join(strange)}, which are neither of scikit-learn nor of skecg, and "
            "building them could run code. If you trust who published it, name them: load_pipeline(..., trusted=[...])."
        )
    pipeline = skops_io.loads(content, trusted=[*_TRUSTED, *trusted])
    found = {key: config.get(key) for key in ("model", "revision", "weights_sha256")}
    try:
        sound = pinned(embedder_of(pipeline)) == found
    except PublishError as error:
        raise WeightsFormatError(f"What {source} holds is no pipeline of skecg: {error}") from error
    if not sound:
        raise DamagedWeightsError(f"The pipeline of {source} is not the one that its {CONFIG_NAME} describes.")
    return without_this_machine(pipeline)


def _check_names(allow: Iterable[str]) -> set[str]:
    names = {allow} if isinstance(allow, str) else set(allow)
    for name in names - set(_REASONS):
        raise ParameterError(f"Got {name!r} to allow, expected some of {', '.join(map(repr, _REASONS))}.")
    return names


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise MissingDependencyError(
            "Pipelines are published in the format of skops, which is not installed. Run `pip install skecg[hub]`."
        ) from error
    return skops.io


def _strange_types(skops_io: Any, content: bytes) -> list[str]:
    """Name the types in a file that are not trusted; a file that cannot be looked through is damaged."""
    try:
        found = skops_io.get_untrusted_types(data=content)
    except Exception as error:  # whatever a hostile file makes of skops' reader
        raise DamagedWeightsError(
            f"The pipeline cannot be read ({type(error).__name__}: {error}). Fetch it again."
        ) from error
    return sorted(set(found) - set(_TRUSTED))


def _configuration(pipeline: Any, weights: Mapping[str, Any], content: bytes, strange: list[str]) -> dict[str, Any]:
    """Say what the pipeline is, for people and for :func:`load_pipeline`."""
    from skecg.hub.pipeline_parts import described_classes, installed

    return {
        "skecg_pipeline": PIPELINE_FORMAT,
        **weights,
        "pipeline_sha256": hashlib.sha256(content).hexdigest(),
        "steps": [type(step).__name__ for _, step in pipeline.steps],
        "classes": described_classes(pipeline),
        "needs_trust": strange,
        "skecg": __version__,
        **installed("scikit-learn", "skops", "numpy"),
    }


def _read(source: str | Path, revision: str | None, local_files_only: bool) -> tuple[dict[str, Any], bytes]:
    """Read and check the two files of a pipeline."""
    if Path(source).is_dir():
        config_path, path = Path(source) / CONFIG_NAME, Path(source) / _PIPELINE
        if not config_path.is_file() or not path.is_file():
            raise ForeignRepositoryError(f"{source} holds no pipeline; expected {CONFIG_NAME} and {_PIPELINE}.")
    else:
        commit = resolve_commit(str(source), revision, local_files_only=local_files_only)
        config_path = fetch_file(str(source), CONFIG_NAME, commit, local_files_only=local_files_only)
    config = read_json(config_path)
    version = config.get("skecg_pipeline") if isinstance(config, dict) else None
    if not isinstance(version, int):
        raise ForeignRepositoryError(
            f"{source} holds no pipeline: its {CONFIG_NAME} has no 'skecg_pipeline'. Weights are loaded with "
            f"JEPAEmbedder({str(source)!r})."
        )
    if version > PIPELINE_FORMAT:
        raise WeightsFormatError(
            f"The pipeline of {source} has format {version}, this skecg reads up to {PIPELINE_FORMAT}. Run "
            "`pip install --upgrade skecg`."
        )
    if not Path(source).is_dir():
        path = fetch_file(str(source), _PIPELINE, commit, local_files_only=local_files_only)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != config.get("pipeline_sha256"):
        raise DamagedWeightsError(
            f"{path} is not the file that its {CONFIG_NAME} describes: it was truncated or altered. Delete "
            f"{path.resolve()} and fetch it again."
        )
    return config, content
