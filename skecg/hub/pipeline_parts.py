"""The parts of a fitted pipeline: which weights it stands on, and what of it belongs to this machine or to patients."""

from __future__ import annotations

import copy
import re
from typing import Any

from skecg.errors import PublishError
from skecg.weights import list_models

__all__ = ["check_kept_records", "described_classes", "embedder_of", "installed", "pinned", "without_this_machine"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile("[0-9a-f]{40}")

#: Where estimators of scikit-learn keep rows of what they were fitted on.
_KEPT = ("_fit_X", "X_train_", "support_vectors_", "X_fit_", "embedding_")

#: Parameters of an embedder that say how this machine computes, not what.
_MACHINE = {
    "cache": "memory",
    "device": "auto",
    "n_jobs": None,
    "batch_size": "auto",
    "verbose": 0,
    "local_files_only": False,
}


def embedder_of(pipeline: Any) -> Any:
    """Give the embedder that a fitted pipeline begins with."""
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
    """Say which weights an embedder stands on, in a way that others can follow."""
    model, commit = str(embedder.model), embedder.revision_
    on_the_hub = bool(_HUB_NAME.fullmatch(model)) and bool(_COMMIT.fullmatch(str(commit)))
    if not on_the_hub and model not in ("default", *list_models()):
        raise PublishError(
            f"The weights of the pipeline are {model!r} on this machine, which others do not have. Publish them "
            "(`skecg publish`), fit the pipeline with their name on the Hub, and publish it then."
        )
    return {"model": model, "revision": commit, "weights_sha256": str(embedder.weights_sha256_)}


def check_kept_records(pipeline: Any) -> None:
    """Refuse steps that carry rows they were fitted on."""
    for name, step in pipeline.steps[1:]:
        kept = [attribute for attribute in _KEPT if getattr(step, attribute, None) is not None]
        if kept:
            raise PublishError(
                f"The step {name!r} ({type(step).__name__}) keeps records that it was fitted on ({', '.join(kept)}): "
                "embeddings of patients are personal data. Use a step that does not, such as a logistic regression, or "
                "allow=['records'] when these may be published."
            )


def without_this_machine(pipeline: Any) -> Any:
    """Copy a pipeline without what belongs to the machine it was fitted on, and pin its embedder to its commit."""
    embedder = copy.copy(pipeline.steps[0][1])
    for name, value in _MACHINE.items():
        setattr(embedder, name, value)
    if embedder.revision_ is not None:
        embedder.revision = embedder.revision_
    # Reasons name files, and files are named after patients.
    embedder.bad_records_ = {}
    pruned = copy.copy(pipeline)
    pruned.steps = [(pipeline.steps[0][0], embedder), *pipeline.steps[1:]]
    pruned.memory = None
    return pruned


def described_classes(pipeline: Any) -> list[str]:
    """Give the classes that a pipeline tells apart, as text; none when it is no classifier."""
    classes = getattr(pipeline.steps[-1][1], "classes_", ())
    return [str(name) for name in classes][:1000]


def installed(*packages: str) -> dict[str, str]:
    """Give versions of packages, by names that can be fields."""
    from importlib import metadata

    return {package.replace("-", "_"): metadata.version(package) for package in packages}
