"""A fine-tuned classifier on disk: ``classifier.json`` and ``head.safetensors`` in its encoder's weights folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from skecg.errors import ParameterError, WeightsFormatError
from skecg.finetuning.class_names import classes_from_json, classes_to_json
from skecg.finetuning.fitted_folders import CLASSIFIER, Origin, parameters_of, read_fitted, read_top, write_fitted
from skecg.finetuning.heads import build_head
from skecg.finetuning.network import Head, Network
from skecg.weights import load_encoder

if TYPE_CHECKING:
    from skecg.encoders import Encoder
    from skecg.finetuning.classifier import FineTunedClassifier

__all__ = ["read_classifier", "write_classifier"]

Estimator = TypeVar("Estimator", bound="FineTunedClassifier")


def write_classifier(estimator: FineTunedClassifier, folder: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write a fitted classifier."""
    network: Network = estimator.network_
    names = getattr(estimator, "feature_names_in_", None)
    described = {
        "head": network.head.kind,
        "classes": classes_to_json(estimator.classes_, multilabel=estimator.multilabel_),
        "multilabel": estimator.multilabel_,
        "fitted": {
            "C": estimator.C_,
            "n_features_in": getattr(estimator, "n_features_in_", None),
            "feature_names_in": None if names is None else [str(name) for name in names],
        },
    }
    write_fitted(CLASSIFIER, estimator, folder, provenance, described)


def read_classifier(cls: type[Estimator], folder: str | Path) -> Estimator:
    """Read a fitted classifier."""
    folder = Path(folder)
    values, info = read_fitted(CLASSIFIER, folder)
    encoder, spec = load_encoder(folder)
    head, n_outputs = _read_head(folder, values, encoder, info.pooling)
    try:
        estimator = cls(**parameters_of(values))
        estimator.classes_ = classes_from_json(values["classes"], multilabel=values["multilabel"], n_outputs=n_outputs)
        origin = Origin(**values["origin"])
        fitted = values["fitted"]
        C, n_features, names = fitted["C"], fitted["n_features_in"], fitted["feature_names_in"]
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        path = folder / CLASSIFIER.description
        raise WeightsFormatError(f"{path} is malformed ({error}). Save the classifier again.") from error
    estimator.multilabel_ = bool(values["multilabel"])
    estimator.network_ = Network(encoder, head).requires_grad_(False).eval()
    estimator.spec_, estimator.pooling_, estimator.origin_, estimator.C_ = spec, info.pooling, origin, C
    if n_features is not None:
        estimator.n_features_in_ = int(n_features)
    if names is not None:
        estimator.feature_names_in_ = np.array(names, dtype=object)
    return estimator


def _read_head(folder: Path, values: Mapping[str, Any], encoder: Encoder, pooling: str) -> tuple[Head, int]:
    """Build the head, refusing anything but exactly its tensors, and count its outputs."""
    state = read_top(CLASSIFIER, folder)
    try:
        n_outputs = len(state["linear.bias"])
        head = build_head(values["head"], encoder, n_outputs, pooling, seed=0)
        head.load_state_dict(state, strict=True)
    except (KeyError, TypeError, RuntimeError, ParameterError) as error:
        raise WeightsFormatError(
            f"{folder / CLASSIFIER.description} describes a head that {CLASSIFIER.tensors} does not hold ({error}). "
            "Save it again."
        ) from error
    return head.float(), n_outputs
