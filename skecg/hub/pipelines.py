"""Fitted pipelines on the Hub: the embedder by name and commit, the rest in a format that runs nothing when read.

What of a pipeline belongs to this machine is left out, and rows of patients that an estimator has kept are refused. The
same pipeline gives the same bytes: skops names parts after addresses in memory and notes the time of day, so both are
replaced.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from skecg._version import __version__
from skecg.errors import (
    DamagedWeightsError,
    ForeignRepositoryError,
    MissingDependencyError,
    ParameterError,
    PublishError,
    WeightsFormatError,
)
from skecg.hub.licences import read_licence
from skecg.hub.uploading import Publication, plan, upload
from skecg.weights import list_models
from skecg.weights.fetching import fetch_file, resolve_commit
from skecg.weights.folder import CONFIG_NAME, json_bytes, read_json

__all__ = [
    "canonical",
    "check_kept_records",
    "described_classes",
    "embedder_of",
    "installed",
    "load_pipeline",
    "pinned",
    "pipeline_card",
    "push_pipeline",
    "without_this_machine",
]

_SCHEMA = "schema.json"

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip archive can say

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

_COMMIT = re.compile("[0-9a-f]{40}")

# Where estimators of scikit-learn keep rows of what they were fitted on; some by names with other meanings elsewhere.
_KEPT = frozenset({"_fit_X", "X_train_", "support_vectors_", "X_fit_", "X_", "embedding_"})
_KEPT_BY = {"Nystroem": "components_", "AffinityPropagation": "cluster_centers_", "KernelDensity": "tree_"}

#: Parameters of an embedder that say how this machine computes, not what.
_MACHINE = {
    "cache": "memory",
    "device": "auto",
    "n_jobs": None,
    "batch_size": "auto",
    "verbose": 0,
    "local_files_only": False,
}

PIPELINE_FORMAT = 1

_PIPELINE = "pipeline.skops"

_NOTHING_OWNED = ".skecg-pipeline/"  # a prefix that no file has: nothing in the repository is ours to remove

#: Ours, beside what skops trusts of scikit-learn, NumPy and SciPy.
_TRUSTED = (
    "skecg.embedder.JEPAEmbedder",
    "skecg.linear_model.distances.NoveltyScore",
    "skecg.linear_model.logistic.LogisticProbe",
    "skecg.linear_model.ridge.RidgeProbe",
)

_REASONS = ("records", "types")


def canonical(content: bytes) -> bytes:
    """Return the parts of a skops file numbers in the order of their mention, and forget when it was written."""
    numbers: dict[str, int] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        schema = _renumbered(json.loads(archive.read(_SCHEMA)), numbers)
        parts = {_renamed(name, numbers): archive.read(name) for name in archive.namelist() if name != _SCHEMA}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        # In the order of their names: the archive's own order is that of addresses.
        for name, part in sorted({**parts, _SCHEMA: json.dumps(schema, indent=1).encode()}.items()):
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), part, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def _renumbered(node: Any, numbers: dict[str, int]) -> Any:
    """Replace addresses within a schema; what users named like this are objects there, neither numbers nor text."""
    if isinstance(node, list):
        return [_renumbered(item, numbers) for item in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for key, value in node.items():
        # skops takes id() of the object, which is another in every process.
        if key == "__id__" and isinstance(value, int):
            found[key] = _number(str(value), numbers)
        elif key == "file" and isinstance(value, str):
            found[key] = _renamed(value, numbers)
        else:
            found[key] = _renumbered(value, numbers)
    return found


def _renamed(name: str, numbers: dict[str, int]) -> str:
    path = PurePosixPath(name)
    return f"{_number(path.stem, numbers)}{path.suffix}"


def _number(address: str, numbers: dict[str, int]) -> int:
    return numbers.setdefault(address, len(numbers) + 1)


_TEMPLATE = """\
---
{front}---

# {title}

{description}

**Research use only.** This is not a medical device: not for diagnosis, treatment decisions, triage or monitoring of
patients. Its outputs are numbers without validated clinical meaning.

## Use

```bash
pip install "skecg[hub]"
```

```python
from skecg.hub import load_pipeline

pipeline = load_pipeline("{repository}", revision="COMMIT")
pipeline.predict(["record_001.hea", "record_002.hea"])
```

Nothing runs when the file is read: it is no pickle, and types that are not of scikit-learn, NumPy, SciPy or skecg are
refused.{trust}

## What it is

| | |
| --- | --- |
| steps | {steps} |
| classes | {classes} |
| weights | {weights} |
| sha256 of the weights | `{weights_sha256}` |
| fitted with | skecg {skecg}, scikit-learn {scikit_learn}, NumPy {numpy} |

The weights are not in this repository. They are fetched when the pipeline is used, at the commit named here.

## Limits

What it was fitted on, and how well it does elsewhere, is for its publisher to say; where it is not said, it is not
known. Other versions of scikit-learn may refuse or misread it.
"""


def pipeline_card(pipeline: Any, repository: str, config: Mapping[str, Any], description: str, licence: str) -> str:
    """Write the card."""
    import yaml

    known = read_licence(licence)
    front: dict[str, Any] = {
        "library_name": "skecg",
        "tags": ["ecg", "electrocardiogram", "scikit-learn", "skops"],
        "license": known.hub_id if known else "other",
    }
    # Bundled weights have no page on the Hub that could be linked.
    if config["revision"]:
        front["base_model"] = config["model"]
    where = f"`{config['model']}`" + (
        f" at commit `{config['revision']}`" if config["revision"] else ", bundled with skecg"
    )
    needs = ", ".join(f'"{name}"' for name in config["needs_trust"])
    return _TEMPLATE.format(
        front=yaml.safe_dump(front, sort_keys=False),
        title=repository.split("/")[-1],
        description=description or "A fitted pipeline on electrocardiograms. Its publisher has not described it.",
        repository=repository,
        trust=f"\nThis one needs `trusted=[{needs}]`, which may run their code." if needs else "",
        steps=" → ".join(config["steps"]),
        classes=", ".join(config["classes"]) or "none",
        weights=where,
        **{key: config[key] for key in ("weights_sha256", "skecg", "scikit_learn", "numpy")},
    )


def embedder_of(pipeline: Any) -> Any:
    """Return the embedder that a fitted pipeline begins with."""
    steps = getattr(pipeline, "steps", None)
    if not isinstance(steps, list) or not steps:
        raise PublishError(
            f"Got a {type(pipeline).__name__}, expected a fitted scikit-learn Pipeline: "
            "make_pipeline(JEPAEmbedder(...), a classifier)."
        )
    first = steps[0][1]
    # By its name, for the estimator lies above this room.
    if f"{type(first).__module__}.{type(first).__qualname__}" != "skecg.embedder.JEPAEmbedder":
        raise PublishError(f"Got a pipeline that begins with a {type(first).__name__}, expected a JEPAEmbedder.")
    if not hasattr(first, "weights_sha256_"):
        raise PublishError("Got a pipeline that is not fitted, expected a fitted one. Call its fit first.")
    return first


def pinned(embedder: Any) -> dict[str, Any]:
    """Return which weights an embedder stands on, in a way that others can follow."""
    model, commit = str(embedder.model), embedder.revision_
    # A folder may be called owner/name as well; a full commit comes from the Hub alone.
    on_the_hub = bool(_HUB_NAME.fullmatch(model)) and bool(_COMMIT.fullmatch(str(commit)))
    if not on_the_hub and model not in ("default", *list_models()):
        raise PublishError(
            f"The weights of the pipeline are {model!r} on this machine, which others do not have. Publish them "
            "(`skecg publish`), fit the pipeline with their name on the Hub, and publish it then."
        )
    return {"model": model, "revision": commit, "weights_sha256": str(embedder.weights_sha256_)}


def check_kept_records(pipeline: Any) -> None:
    """Raise for steps that carry rows they were fitted on."""
    for name, step in pipeline.steps[1:]:
        kept = sorted(set(_kept_records(step, set())))
        if kept:
            raise PublishError(
                f"The step {name!r} ({type(step).__name__}) keeps records that it was fitted on ({', '.join(kept)}): "
                "embeddings of patients are personal data. Use a step that does not, such as a logistic regression, or "
                "allow=['records'] when these may be published."
            )


def _kept_records(value: Any, seen: set[int]) -> Iterator[str]:
    """Yield the attributes that hold such rows, of a step and of all that it is made of."""
    if id(value) in seen or isinstance(value, type):
        return
    seen.add(id(value))
    of_this = _KEPT | {_KEPT_BY.get(type(value).__name__)}
    attributes = getattr(value, "__dict__", {})
    yield from (name for name, held in attributes.items() if name in of_this and held is not None)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    if isinstance(value, np.ndarray) and value.dtype == object:
        parts = value.ravel().tolist()
    for part in (*attributes.values(), *parts):
        yield from _kept_records(part, seen)


def without_this_machine(pipeline: Any) -> Any:
    """Copy a pipeline without what belongs to the machine it was fitted on, and pin its embedder to its commit."""
    # A shallow copy: the user's own pipeline keeps its cache and its workers.
    embedder = copy.copy(pipeline.steps[0][1])
    for name, value in _MACHINE.items():
        setattr(embedder, name, value)
    if embedder.revision_ is not None:
        embedder.revision = embedder.revision_
    # Reasons name files, and files are named after patients.
    embedder.bad_records_ = {}
    pruned = copy.copy(pipeline)
    pruned.steps = [(pipeline.steps[0][0], embedder), *pipeline.steps[1:]]
    # scikit-learn's cache is a folder of the machine that fitted.
    pruned.memory = None
    return pruned


def described_classes(pipeline: Any) -> list[str]:
    """Return the classes that a pipeline tells apart, as text; none when it is no classifier."""
    classes = getattr(pipeline.steps[-1][1], "classes_", ())
    return [str(name) for name in classes][:1000]


def installed(*packages: str) -> dict[str, str]:
    """Return versions of packages, by names that can be fields."""
    from importlib import metadata

    return {package.replace("-", "_"): metadata.version(package) for package in packages}


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
    # First, before anything is serialized.
    waived = _check_names(allow)
    skops_io = _skops()
    embedder = embedder_of(pipeline)
    weights = pinned(embedder)
    if "records" not in waived:
        check_kept_records(pipeline)
    # The same pipeline is the same bytes, so that publishing it twice makes one commit.
    content = canonical(skops_io.dumps(without_this_machine(pipeline)))
    strange = _strange_types(skops_io, content)
    if strange and "types" not in waived:
        raise PublishError(
            f"The pipeline holds {', '.join(strange)}, which nobody can load without trusting them by name. Use steps "
            "of scikit-learn or skecg, or allow=['types']."
        )
    config = _configuration(pipeline, weights, content, strange)
    files = {
        CONFIG_NAME: json_bytes(config, Path(CONFIG_NAME)),
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
    try:
        pipeline = skops_io.loads(content, trusted=[*_TRUSTED, *trusted])
    except Exception as error:  # whatever a hostile file, or one of another release, makes of skops' reader
        raise DamagedWeightsError(
            f"The pipeline of {source} cannot be built ({type(error).__name__}: {error}). Fetch it again, or install "
            "the versions that its card names."
        ) from error
    found = {key: config.get(key) for key in ("model", "revision", "weights_sha256")}
    try:
        # config.json can be read without skops, the pipeline cannot: the two must not say different things.
        sound = pinned(embedder_of(pipeline)) == found
    except PublishError as error:
        raise WeightsFormatError(f"What {source} holds is no pipeline of skecg: {error}") from error
    if not sound:
        raise DamagedWeightsError(f"The pipeline of {source} is not the one that its {CONFIG_NAME} describes.")
    # Again: a file may come from a program that kept its cache or its number of workers.
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
    """Return what the pipeline is, for people and for :func:`load_pipeline`."""
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
    # The small file first: a repository of something else costs a few bytes.
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
