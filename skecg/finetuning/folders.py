"""A fine-tuned classifier on disk: the weights folder of its encoder, and beside it the head and the classes.

``classifier.json`` says what ``head.safetensors`` is and which parameters the estimator had. Nothing here opens a
pickle or runs code from a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from skecg.errors import DamagedWeightsError, ParameterError, WeightsFormatError, WeightsNotFoundError
from skecg.finetuning.class_names import classes_from_json, classes_to_json
from skecg.finetuning.heads import build_head
from skecg.finetuning.network import Head, Network
from skecg.weights import WeightsInfo, load_encoder, read_info, save_encoder
from skecg.weights.reading import read_json
from skecg.weights.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from skecg.encoders import Encoder
    from skecg.finetuning.classifier import FineTunedClassifier

__all__ = ["CLASSIFIER_NAME", "HEAD_NAME", "Origin", "read_classifier", "write_classifier"]

#: Names of the files beside those of the weights folder, and the version of their layout.
CLASSIFIER_NAME, HEAD_NAME, CLASSIFIER_VERSION = "classifier.json", "head.safetensors", 1

_FIELDS = (
    "skecg_classifier",
    "head",
    "classes",
    "multilabel",
    "head_sha256",
    "weights_sha256",
    "parameters",
    "fitted",
    "origin",
)
# What stays on the machine that trained: a generator's state, and where to compute.
_NOT_SAVED = ("random_state", "device", "n_jobs", "verbose")

Estimator = TypeVar("Estimator", bound="FineTunedClassifier")


@dataclass(frozen=True)
class Origin:
    """The weights that a training started from.

    Parameters
    ----------
    sha256 : str
        Digest of their tensors.
    revision : str or None
        Commit on the Hub, when they came from there.
    provenance : dict
        What was recorded of them.
    """

    sha256: str
    revision: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, info: WeightsInfo) -> Origin:
        """Describe the weights of a folder."""
        return cls(info.sha256, info.revision, dict(info.provenance))


def write_classifier(estimator: FineTunedClassifier, folder: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write a fitted classifier."""
    folder = Path(folder)
    network: Network = estimator.network_
    parameters = {k: _plain(k, v) for k, v in estimator.get_params().items() if k not in _NOT_SAVED}
    classes = classes_to_json(estimator.classes_, multilabel=estimator.multilabel_)
    # The old description goes first: it must not be found beside a new head should this be interrupted.
    (folder / CLASSIFIER_NAME).unlink(missing_ok=True)
    known = {**_provenance(estimator, folder), **provenance}
    save_encoder(folder, network.encoder, estimator.spec_, pooling=estimator.pooling_, **known)
    save_tensors(
        folder / HEAD_NAME, {k: v.contiguous() for k, v in network.head.state_dict().items()}, {"format": "pt"}
    )
    values = {
        "skecg_classifier": CLASSIFIER_VERSION,
        "head": network.head.kind,
        "classes": classes,
        "multilabel": estimator.multilabel_,
        "head_sha256": _sha256(folder / HEAD_NAME),
        "weights_sha256": read_info(folder).sha256,
        "parameters": parameters,
        "fitted": {"C": estimator.C_, "n_features_in": getattr(estimator, "n_features_in_", None),
                   "feature_names_in": _listed(getattr(estimator, "feature_names_in_", None))},
        "origin": asdict(estimator.origin_),
    }  # fmt: skip
    (folder / CLASSIFIER_NAME).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _provenance(estimator: FineTunedClassifier, folder: Path) -> dict[str, Any]:
    """Say where the encoder comes from: what was known of the weights at the start, and that they were trained on."""
    origin = estimator.origin_
    start = str(origin.provenance.get("name") or "other weights")
    kept = {k: v for k, v in origin.provenance.items() if k in ("licence", "licence_note", "data", "data_licences")}
    return {
        "name": folder.resolve().name,
        "description": f"The encoder of a classifier that was fine-tuned from {start} with skecg.",
        "trained": True,
        "fine_tuned_from": start,
        "fine_tuned_from_sha256": origin.sha256,
        "fine_tuned_stages": estimator.stages,
        **kept,
    }


def _plain(name: str, value: Any) -> Any:
    """Give a parameter as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray | tuple):
        value = list(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"Got {name}={value!r}, which cannot be written as JSON ({error}). Set it to text, numbers, booleans or "
            "None, and fit again."
        ) from error
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        return {"__items__": [[_plain(name, key), _plain(name, item)] for key, item in value.items()]}
    return [_plain(name, item) for item in value] if isinstance(value, list) else value


def _from_plain(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"__items__"}:
        return dict(value["__items__"])
    return [_from_plain(item) for item in value] if isinstance(value, list) else value


def _listed(names: Any) -> list[str] | None:
    return None if names is None else [str(name) for name in names]


def read_classifier(cls: type[Estimator], folder: str | Path) -> Estimator:
    """Read a fitted classifier."""
    folder = Path(folder)
    values = _read_values(folder)
    info = read_info(folder)
    _check_digests(folder, values, info)
    encoder, spec = load_encoder(folder)
    head, n_outputs = _read_head(folder, values, encoder, info.pooling)
    try:
        estimator = cls(**{k: _from_plain(v) for k, v in values["parameters"].items()})
        estimator.classes_ = classes_from_json(values["classes"], multilabel=values["multilabel"], n_outputs=n_outputs)
        origin = Origin(**values["origin"])
        fitted = values["fitted"]
        C, n_features, names = fitted["C"], fitted["n_features_in"], fitted["feature_names_in"]
    except (TypeError, ValueError, KeyError) as error:
        raise WeightsFormatError(
            f"{folder / CLASSIFIER_NAME} is malformed ({error}). Save the classifier again."
        ) from error
    estimator.multilabel_ = bool(values["multilabel"])
    estimator.network_ = Network(encoder, head).requires_grad_(False).eval()
    estimator.spec_, estimator.pooling_, estimator.origin_, estimator.C_ = spec, info.pooling, origin, C
    if n_features is not None:
        estimator.n_features_in_ = int(n_features)
    if names is not None:
        estimator.feature_names_in_ = np.array(names, dtype=object)
    return estimator


def _read_values(folder: Path) -> dict[str, Any]:
    path = folder / CLASSIFIER_NAME
    if not path.is_file():
        raise WeightsNotFoundError(
            f"{folder} holds no {CLASSIFIER_NAME}; expected a folder that FineTunedClassifier.save wrote. Weights "
            "without a classifier are loaded by JEPAEmbedder or skecg.load_encoder."
        )
    values = read_json(path)
    version = values.get("skecg_classifier") if isinstance(values, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise WeightsFormatError(f"{path} describes no classifier: it has no 'skecg_classifier'. Save it again.")
    if version > CLASSIFIER_VERSION:
        raise WeightsFormatError(
            f"{path} has format {version}, this skecg reads up to {CLASSIFIER_VERSION}. "
            "Run `pip install --upgrade skecg`."
        )
    if set(values) != set(_FIELDS):
        odd = sorted(set(values) ^ set(_FIELDS))[0]
        raise WeightsFormatError(f"{path} lacks or adds the field {odd!r}. Save the classifier again.")
    return dict(values)


def _check_digests(folder: Path, values: Mapping[str, Any], info: WeightsInfo) -> None:
    """Refuse a head that was altered, or that lies beside another encoder than its own."""
    if not (folder / HEAD_NAME).is_file() or _sha256(folder / HEAD_NAME) != values["head_sha256"]:
        raise DamagedWeightsError(
            f"{folder / HEAD_NAME} is missing or is not the one that {CLASSIFIER_NAME} describes. Restore the folder."
        )
    if info.sha256 != values["weights_sha256"]:
        raise DamagedWeightsError(
            f"The encoder in {folder} is not the one that its classifier was trained with. Restore the folder."
        )


def _read_head(folder: Path, values: Mapping[str, Any], encoder: Encoder, pooling: str) -> tuple[Head, int]:
    """Build the head, refusing anything but exactly its tensors, and count its outputs."""
    state = load_tensors(folder / HEAD_NAME)
    try:
        n_outputs = len(state["linear.bias"])
        head = build_head(values["head"], encoder, n_outputs, pooling, seed=0)
        head.load_state_dict(state, strict=True)
    except (KeyError, TypeError, RuntimeError, ParameterError) as error:
        raise WeightsFormatError(
            f"{folder / CLASSIFIER_NAME} describes a head that {HEAD_NAME} does not hold ({error}). Save it again."
        ) from error
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise DamagedWeightsError(f"{folder / HEAD_NAME} holds values that are not finite. Restore the folder.")
    return head.float(), n_outputs


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
