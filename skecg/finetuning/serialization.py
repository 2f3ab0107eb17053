"""Fitted estimators on disk: their encoder's weights folder, in it what was trained on top, and a description.

The description says which parameters the estimator had, and by their digests which tensors it belongs to. Nothing here
opens a pickle or runs code from a folder.

A fine-tuned classifier on disk: ``classifier.json`` and ``head.safetensors`` in its encoder's weights folder.

A segmenter on disk: ``segmenter.json`` and ``decoder.safetensors`` in its encoder's weights folder.

Names of classes as JSON has them, and back as the array that they were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skecg.annotations import WAVE_CLASSES
from skecg.errors import DamagedWeightsError, ParameterError, WeightsError, WeightsFormatError, WeightsNotFoundError
from skecg.finetuning.heads import Head, Network, SegmentingNetwork, build_decoder, build_head
from skecg.weights import WeightsInfo, load_encoder, read_info, save_encoder
from skecg.weights.folder import load_tensors, read_json, save_tensors

if TYPE_CHECKING:
    from skecg.encoders import Encoder
    from skecg.finetuning.classifier import FineTunedClassifier
    from skecg.finetuning.heads import WaveDecoder
    from skecg.finetuning.segmenter import Segmenter

__all__ = [
    "CLASSIFIER",
    "Kind",
    "Origin",
    "SEGMENTER",
    "classes_from_json",
    "classes_to_json",
    "parameters_of",
    "read_classifier",
    "read_fitted",
    "read_segmenter",
    "read_top",
    "write_classifier",
    "write_fitted",
    "write_segmenter",
]


# What stays on the machine that trained.
_NOT_SAVED = ("device", "n_jobs", "verbose")


_KEPT_PROVENANCE = ("licence", "licence_note", "data", "data_licences")


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


@dataclass(frozen=True)
class Kind:
    """A kind of estimator, and how its folders are laid out.

    Parameters
    ----------
    noun : str
        What it is called in messages and in the name of its description.
    estimator : str
        Its class.
    top : str
        What is trained on top of the encoder, by the name of its file of tensors.
    fields : tuple of str
        What its description holds besides what all do.
    version : int
        Of the layout.
    """

    noun: str
    estimator: str
    top: str
    fields: tuple[str, ...]
    version: int = 1

    @property
    def description(self) -> str:
        """Name of the file that describes the estimator."""
        return f"{self.noun}.json"

    @property
    def tensors(self) -> str:
        """Name of the file of what was trained on top."""
        return f"{self.top}.safetensors"

    @property
    def marker(self) -> str:
        """Field that tells a description, and holds its version."""
        return f"skecg_{self.noun}"

    @property
    def digest(self) -> str:
        """Field with the digest of what was trained on top."""
        return f"{self.top}_sha256"

    @property
    def all_fields(self) -> set[str]:
        """Fields of a description, all of them, in any order."""
        return {self.marker, self.digest, "weights_sha256", "parameters", "fitted", "origin", *self.fields}


CLASSIFIER = Kind("classifier", "FineTunedClassifier", "head", ("head", "classes", "multilabel"))


SEGMENTER = Kind("segmenter", "Segmenter", "decoder", ("classes",))


def write_fitted(
    kind: Kind, estimator: Any, folder: str | Path, provenance: Mapping[str, Any], described: Mapping[str, Any]
) -> None:
    """Write a fitted estimator.

    Parameters
    ----------
    kind : Kind
    estimator : object
        Has ``network_``, ``spec_``, ``pooling_`` and ``origin_``.
    folder : str or Path
    provenance : mapping
        What the user says of the weights.
    described : mapping
        The fields of this kind, and those of "fitted", as JSON has them.

    Raises
    ------
    ParameterError
        When `folder` is a file, or a parameter cannot be written as JSON; nothing is written then.
    """
    folder = Path(folder)
    parameters = _parameters_to_json(estimator)
    known = {**_provenance(kind, estimator, folder), **provenance}
    save_encoder(folder, estimator.network_.encoder, estimator.spec_, pooling=estimator.pooling_, **known)
    state = estimator.network_.head.state_dict()
    save_tensors(folder / kind.tensors, {name: tensor.contiguous() for name, tensor in state.items()}, {"format": "pt"})
    values = {
        kind.marker: kind.version,
        **described,
        kind.digest: _sha256(folder / kind.tensors),
        "weights_sha256": read_info(folder).sha256,
        "parameters": parameters,
        "origin": asdict(estimator.origin_),
    }
    # Last: should this be interrupted, the digests of an older description refuse the tensors that lie beside it.
    (folder / kind.description).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _provenance(kind: Kind, estimator: Any, folder: Path) -> dict[str, Any]:
    """Say where the encoder comes from: what was known of the weights at the start, and that they were trained on."""
    origin = estimator.origin_
    start = str(origin.provenance.get("name") or "other weights")
    return {
        "name": folder.resolve().name,
        "description": f"The encoder of a {kind.noun} that was fine-tuned from {start} with skecg.",
        "trained": True,
        "fine_tuned_from": start,
        "fine_tuned_from_sha256": origin.sha256,
        "fine_tuned_stages": estimator.stages,
        **{name: value for name, value in origin.provenance.items() if name in _KEPT_PROVENANCE},
    }


def _parameters_to_json(estimator: Any) -> dict[str, Any]:
    """Give the parameters that travel: not those of the machine, nor a generator, which is of one process."""
    parameters = {name: _to_json(value) for name, value in estimator.get_params().items() if name not in _NOT_SAVED}
    if isinstance(parameters["random_state"], np.random.RandomState):
        del parameters["random_state"]
    for name, value in parameters.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ParameterError(
                f"Got {name}={value!r}, which cannot be written as JSON ({error}). Set it to text, numbers, booleans "
                "or None, and fit again."
            ) from error
    return parameters


def _to_json(value: Any) -> Any:
    """Give a value as JSON has it; a dict with keys that are no text as pairs, and what JSON cannot say as it is."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        items = [[_to_json(key), _to_json(item)] for key, item in value.items()]
        return dict(items) if all(isinstance(key, str) for key, _ in items) else {"__items__": items}
    return [_to_json(item) for item in value] if isinstance(value, list | tuple) else value


def parameters_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give the parameters that a description holds."""
    return {name: _from_json(value) for name, value in values["parameters"].items()}


def _from_json(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"__items__"}:
        return dict(value["__items__"])
    return [_from_json(item) for item in value] if isinstance(value, list) else value


def read_fitted(kind: Kind, folder: Path) -> tuple[dict[str, Any], WeightsInfo]:
    """Read the description of an estimator and what is known of its encoder's weights.

    Raises
    ------
    WeightsNotFoundError
        When the folder holds no such estimator.
    WeightsFormatError
        When its description is of another layout.
    DamagedWeightsError
        When what was trained on top was altered, or lies beside another encoder than its own.
    """
    values = _read_description(kind, folder)
    path = folder / kind.tensors
    if not path.is_file() or _sha256(path) != values[kind.digest]:
        raise DamagedWeightsError(f"{path} is missing or not the one that {kind.description} describes. Restore it.")
    info = read_info(folder)
    if info.sha256 != values["weights_sha256"]:
        raise DamagedWeightsError(
            f"The encoder in {folder} is not the one that its {kind.noun} was trained with. Restore the folder."
        )
    return values, info


def _read_description(kind: Kind, folder: Path) -> dict[str, Any]:
    path = folder / kind.description
    if not path.is_file():
        raise WeightsNotFoundError(f"{folder} holds no {path.name}, expected a folder that {kind.estimator}.save wrote."
                                   f" {_instead(folder)}")  # fmt: skip
    values = read_json(path)
    version = values.get(kind.marker) if isinstance(values, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise WeightsFormatError(f"{path} describes no {kind.noun}: it has no {kind.marker!r}. Save it again.")
    if version > kind.version:
        raise WeightsFormatError(
            f"{path} has format {version}, this skecg reads up to {kind.version}. Run `pip install --upgrade skecg`."
        )
    if odd := sorted(set(values) ^ kind.all_fields):
        raise WeightsFormatError(f"{path} lacks or adds the field {odd[0]!r}. Save the {kind.noun} again.")
    return dict(values)


def _instead(folder: Path) -> str:
    """Say what a folder can be loaded by that is not what it was taken for."""
    for kind in (CLASSIFIER, SEGMENTER):
        if (folder / kind.description).is_file():
            return f"It holds a {kind.noun}: use {kind.estimator}.load."
    return "Weights alone are loaded by JEPAEmbedder or skecg.load_encoder."


def read_top(kind: Kind, folder: Path) -> dict[str, Tensor]:
    """Read the tensors of what was trained on top of the encoder, refusing any that are not finite."""
    state = load_tensors(folder / kind.tensors)
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise DamagedWeightsError(f"{folder / kind.tensors} holds values that are not finite. Restore the folder.")
    return state


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def classes_to_json(classes: Any, *, multilabel: bool) -> dict[str, Any]:
    """Give classes as plain values with the type of their array; of an indicator the number of its labels.

    Raises
    ------
    ParameterError
        When they are neither text, numbers nor booleans.
    """
    if multilabel:
        return {"n_labels": len(classes)}
    array = np.asarray(classes)
    values = array.tolist()
    if array.dtype.kind not in "biufUO" or not all(isinstance(value, str | int | float | bool) for value in values):
        raise ParameterError(
            f"Got classes of dtype {array.dtype} ({values[:3]}), which cannot be written as JSON. Fit with classes "
            "that are text, numbers or booleans."
        )
    return {"dtype": array.dtype.str, "values": values}


def classes_from_json(found: dict[str, Any], *, multilabel: bool, n_outputs: int) -> NDArray[Any] | list[NDArray[Any]]:
    """Give classes as they were written, refusing any that do not fit a head of so many outputs."""
    n_found, n_wanted = (found["n_labels"], n_outputs) if multilabel else (len(found["values"]), max(2, n_outputs))
    if n_found != n_wanted:
        raise WeightsFormatError(f"{n_found} classes or labels for a head of {n_outputs} outputs")
    if multilabel:
        return [np.array([0, 1])] * n_wanted
    dtype = np.dtype(str(found["dtype"]))
    if dtype.kind not in "biufUO":
        raise WeightsFormatError(f"classes of dtype {dtype}")
    return np.array(found["values"], dtype=dtype)


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


SegmenterType = TypeVar("Estimator", bound="Segmenter")


def write_segmenter(segmenter: Segmenter, folder: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write a fitted segmenter."""
    fitted = {"n_features_in": getattr(segmenter, "n_features_in_", None)}
    write_fitted(SEGMENTER, segmenter, folder, provenance, {"classes": list(WAVE_CLASSES), "fitted": fitted})


def read_segmenter(cls: type[SegmenterType], folder: str | Path) -> SegmenterType:
    """Read a fitted segmenter."""
    folder = Path(folder)
    values, info = read_fitted(SEGMENTER, folder)
    if values["classes"] != list(WAVE_CLASSES):
        raise WeightsFormatError(f"{folder / SEGMENTER.description} has other classes than this skecg. Save it again.")
    encoder, spec = load_encoder(folder)
    try:
        segmenter = cls(**parameters_of(values))
        origin, n_features = Origin(**values["origin"]), values["fitted"]["n_features_in"]
        decoder = _read_decoder(folder, encoder, int(segmenter.width))
    except WeightsError:
        raise
    except (AttributeError, TypeError, ValueError, KeyError, RuntimeError) as error:
        path = folder / SEGMENTER.description
        raise WeightsFormatError(f"{path} is malformed ({error}). Save the segmenter again.") from error
    segmenter.network_ = SegmentingNetwork(encoder, decoder).requires_grad_(False).eval()
    segmenter.spec_, segmenter.pooling_, segmenter.origin_ = spec, info.pooling, origin
    segmenter.classes_ = np.arange(len(WAVE_CLASSES), dtype=np.int8)
    if n_features is not None:
        segmenter.n_features_in_ = int(n_features)
    return segmenter


def _read_decoder(folder: Path, encoder: Encoder, width: int) -> WaveDecoder:
    """Build the decoder, refusing anything but exactly its tensors."""
    state = read_top(SEGMENTER, folder)
    # Before anything is built: a width that does not belong to the tensors could ask for any amount of memory.
    if state["unfold.bias"].numel() != encoder.config.patch_samples * width:
        raise WeightsFormatError(
            f"{folder / SEGMENTER.description} is malformed (a decoder that is not {width} wide). Save it again."
        )
    decoder = build_decoder(encoder, len(WAVE_CLASSES), width, seed=0)
    decoder.load_state_dict(state, strict=True)
    return decoder.float()
