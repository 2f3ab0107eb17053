"""The entry of ``registry.json`` that freezes published weights for a release of skecg."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skecg.hub.licences import data_licences
from skecg.hub.results import read_scores
from skecg.pooling import n_pooled_features
from skecg.weights.folder import MODEL_NAME, read_info

__all__ = ["registry_entry"]


def registry_entry(
    folder: str | Path, repository: str, commit: str, *, evaluations: Iterable[str | Path] = ()
) -> dict[str, Any]:
    """Describe published weights as ``registry.json`` does.

    Parameters
    ----------
    folder : path-like
        The weights that were published.
    repository, commit : str
        Where they lie, and the commit in full.
    evaluations : iterable of path-like, optional
        Reports of ``skecg evaluate`` on them.

    Returns
    -------
    dict
        Plain JSON values.
    """
    info = read_info(folder)
    known, registers = info.provenance, int(getattr(info.encoder, "num_registers", 0))
    scores = {
        f"{score.dataset} {score.task}, {score.measure}": [score.value, score.low, score.high]
        for score in read_scores(evaluations, info)
    }
    return {
        "repository": repository,
        "commit": commit,
        "sha256": info.sha256,
        "trained": known.get("trained") is True,
        "architecture": info.encoder.architecture,
        "n_features": n_pooled_features(info.pooling, info.encoder.dim, 1, registers),
        "leads": list(info.spec.leads),
        "any_leads": info.spec.any_leads,
        "sampling_rate": info.spec.sampling_rate,
        "window_seconds": info.spec.window_seconds,
        "licence": known.get("licence"),
        "data": known.get("data"),
        "data_licences": data_licences(known),
        "megabytes": round((info.folder / MODEL_NAME).stat().st_size / 1e6, 1),
        **({"scores": scores} if scores else {}),
    }
