"""Fitted estimators on disk: their encoder's weights folder, in it what was trained on top, and a description.

A classifier is ``classifier.json`` and ``head.safetensors`` beside the encoder, a regressor ``regressor.json`` and
``head.safetensors``, a segmenter ``segmenter.json`` and ``decoder.safetensors``. The description says which parameters
the estimator had, and by their digests which tensors it belongs to. Nothing here opens a pickle or runs code from a
folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skecg.errors import DamagedWeightsError, ParameterError, WeightsFormatError, WeightsNotFoundError
from skecg.finetuning.heads import Network
from skecg.io.files import replacing, sha256_of
from skecg.spec import InputSpec
from skecg.validation import is_integer
from skecg.weights import WeightsInfo, read_info, save_encoder
from skecg.weights.card import join_data
from skecg.weights.folder import json_bytes, load_tensors, read_json, save_tensors

__all__ = [
    "CLASSIFIER",
    "REGRESSOR",
    "SEGMENTER",
    "Fitted",
    "Layout",
    "Origin",
    "classes_from_json",
    "classes_to_json",
    "parameters_of",
    "read_description",
    "read_head",
    "write_fitted",
]

# What stays on the machine that trained.
_NOT_SAVED = ("device", "n_jobs", "verbose")
# What binds whoever has the weights still binds after training them further.
_KEPT_PROVENANCE = ("licence", "licence_note")


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


class Fitted(Protocol):
    """What is written of a fitted estimator."""

    stages: str
    network_: Network
    spec_: InputSpec
    pooling_: str
    origin_: Origin

    def get_params(self) -> dict[str, Any]:
        """Return its parameters."""
        ...


@dataclass(frozen=True)
class Layout:
    """How the folders of one kind of estimator are laid out.

    Parameters
    ----------
    noun : str
        What it is called in messages and in the name of its description.
    estimator : str
        Its class.
    head : str
        What is trained on top of the encoder, by the name of its file of tensors.
    fields : tuple of str
        What its description holds besides what all do.
    version : int
    """

    noun: str
    estimator: str
    head: str
    fields: tuple[str, ...]
    version: int = 1

    @property
    def description(self) -> str:
        """Name of the file that describes the estimator."""
        return f"{self.noun}.json"

    @property
    def tensors(self) -> str:
        """Name of the file of what was trained on top."""
        return f"{self.head}.safetensors"

    @property
    def marker(self) -> str:
        """Field by which a description is known, with its version."""
        return f"skecg_{self.noun}"

    @property
    def digest(self) -> str:
        """Field with the digest of what was trained on top."""
        return f"{self.head}_sha256"

    @property
    def all_fields(self) -> set[str]:
        """Fields of a description, all of them, in any order."""
        return {self.marker, self.digest, "weights_sha256", "parameters", "fitted", "origin", *self.fields}


CLASSIFIER = Layout("classifier", "FineTunedClassifier", "head", ("head", "classes", "multilabel"))
REGRESSOR = Layout("regressor", "FineTunedRegressor", "head", ("head", "mean", "scale", "one_column"))
SEGMENTER = Layout("segmenter", "Segmenter", "decoder", ("classes",))


def write_fitted(
    layout: Layout, estimator: Fitted, folder: str | Path, provenance: Mapping[str, Any], described: Mapping[str, Any]
) -> None:
    """Write a fitted estimator.

    Parameters
    ----------
    layout : Layout
    estimator : Fitted
    folder : str or Path
    provenance : mapping
        What the user says of the weights.
    described : mapping
        The fields of this layout, and those of "fitted", as JSON has them.

    Raises
    ------
    ParameterError
        When `folder` is a file, or a parameter cannot be written as JSON; nothing is written then.
    """
    folder = Path(folder)
    parameters = _parameters_to_json(estimator)
    json_bytes({**described, "parameters": parameters}, folder / layout.description)
    # What the user says goes last, and so before what is known here.
    # Of one that was loaded the rest was said when it was saved first.
    said = getattr(estimator, "_said", {})
    seen = join_data(estimator.origin_.provenance, provenance) if "data" in provenance or not said else {}
    known = {**_provenance(layout, estimator, folder), **said, **provenance, **seen}
    save_encoder(folder, estimator.network_.encoder, estimator.spec_, pooling=estimator.pooling_, **known)
    state = estimator.network_.head.state_dict()
    save_tensors(
        folder / layout.tensors, {name: tensor.contiguous() for name, tensor in state.items()}, {"format": "pt"}
    )
    values = {
        layout.marker: layout.version,
        **described,
        layout.digest: sha256_of(folder / layout.tensors),
        "weights_sha256": read_info(folder).sha256,
        "parameters": parameters,
        "origin": asdict(estimator.origin_),
    }
    for other in {CLASSIFIER, REGRESSOR} - {layout}:
        if other.tensors == layout.tensors:  # which describes what was just replaced
            (folder / other.description).unlink(missing_ok=True)
    # Last: should this be interrupted, an older description does not fit the tensors that lie beside it, and says so.
    with replacing(folder / layout.description) as file:
        file.write(json_bytes(values, folder / layout.description))


def _provenance(layout: Layout, estimator: Fitted, folder: Path) -> dict[str, Any]:
    """Describe where the encoder comes from: what was known of the weights at the start, and that they were trained."""
    origin = estimator.origin_
    start = str(origin.provenance.get("name") or "other weights")
    return {
        "name": folder.resolve().name,
        "description": f"The encoder of a {layout.noun} that was fine-tuned from {start} with skecg.",
        "trained": True,
        "fine_tuned_from": start,
        "fine_tuned_from_sha256": origin.sha256,
        "fine_tuned_stages": estimator.stages,
        # Whoever fetches the encoder from the Hub learns by it that a head may lie there, too.
        **({"fine_tuned_head": kind} if (kind := getattr(estimator.network_.head, "kind", None)) else {}),
        **{name: value for name, value in origin.provenance.items() if name in _KEPT_PROVENANCE},
    }


def _parameters_to_json(estimator: Fitted) -> dict[str, Any]:
    """Return the parameters that travel: not those of the machine, nor a generator, which is of one process."""
    parameters = {name: _to_json(value) for name, value in estimator.get_params().items() if name not in _NOT_SAVED}
    if isinstance(parameters["random_state"], np.random.RandomState):
        del parameters["random_state"]
    for name, value in parameters.items():
        try:
            # NaN is no JSON: Python would write it, and other readers refuse the file.
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ParameterError(
                f"Got {name}={value!r}, which cannot be written as JSON ({error}). Set it to text, numbers, booleans "
                "or None, and fit again."
            ) from error
    return parameters


def _to_json(value: Any) -> Any:
    """Return a value as JSON has it; a dict with keys that are no text as pairs, and what JSON has not as it is."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        items = [[_to_json(key), _to_json(item)] for key, item in value.items()]
        return dict(items) if all(isinstance(key, str) for key, _ in items) else {"__items__": items}
    return [_to_json(item) for item in value] if isinstance(value, list | tuple) else value


def parameters_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a description holds."""
    return {name: _from_json(value) for name, value in values["parameters"].items()}


def _from_json(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"__items__"}:
        return dict(value["__items__"])
    return [_from_json(item) for item in value] if isinstance(value, list) else value


def read_description(layout: Layout, folder: Path) -> tuple[dict[str, Any], WeightsInfo]:
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
    values = _read_fields(layout, folder)
    path = folder / layout.tensors
    if not path.is_file() or sha256_of(path) != values[layout.digest]:
        raise DamagedWeightsError(f"{path} is missing or not the one that {layout.description} describes. Restore it.")
    info = read_info(folder)
    if info.sha256 != values["weights_sha256"]:
        raise DamagedWeightsError(
            f"The encoder in {folder} is not the one that its {layout.noun} was trained with. Restore the folder."
        )
    return values, info


def _read_fields(layout: Layout, folder: Path) -> dict[str, Any]:
    path = folder / layout.description
    if not path.is_file():
        raise WeightsNotFoundError(
            f"{folder} holds no {path.name}, expected a folder that {layout.estimator}.save wrote. {_instead(folder)}"
        )
    values = read_json(path)
    version: Any = values.get(layout.marker) if isinstance(values, dict) else None
    if not is_integer(version, 1):
        raise WeightsFormatError(f"{path} describes no {layout.noun}: it has no {layout.marker!r}. Save it again.")
    if version > layout.version:
        raise WeightsFormatError(
            f"{path} has format {version}, this skecg reads up to {layout.version}. Run `pip install --upgrade skecg`."
        )
    # Exactly these: an unknown field may change what the others mean.
    if unfit := sorted(set(values) ^ layout.all_fields):
        raise WeightsFormatError(f"{path} lacks or adds the field {unfit[0]!r}. Save the {layout.noun} again.")
    return dict(values)


def _instead(folder: Path) -> str:
    """Describe what a folder can be loaded by that is not what it was taken for."""
    for layout in (CLASSIFIER, REGRESSOR, SEGMENTER):
        if (folder / layout.description).is_file():
            return f"It holds a {layout.noun}: use {layout.estimator}.load."
    return "Weights alone are loaded by JEPAEmbedder or skecg.load_encoder."


def read_head(layout: Layout, folder: Path) -> dict[str, Tensor]:
    """Read the tensors of what was trained on top of the encoder, and check that they are finite."""
    state = load_tensors(folder / layout.tensors)
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise DamagedWeightsError(f"{folder / layout.tensors} holds values that are not finite. Restore the folder.")
    return state


def classes_to_json(classes: Any, *, multilabel: bool) -> dict[str, Any]:
    """Return classes as plain values with the type of their array; of an indicator the number of its labels.

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
    # With their type, for predictions are compared with y: int64 must not come back as text.
    return {"dtype": array.dtype.str, "values": values}


def classes_from_json(values: dict[str, Any], *, multilabel: bool, n_outputs: int) -> NDArray[Any] | list[NDArray[Any]]:
    """Return classes as they were written, and check that they fit a head of so many outputs."""
    n_found, n_wanted = (values["n_labels"], n_outputs) if multilabel else (len(values["values"]), max(2, n_outputs))
    if n_found != n_wanted:
        raise WeightsFormatError(f"{n_found} classes or labels for a head of {n_outputs} outputs")
    if multilabel:
        return [np.array([0, 1])] * n_wanted
    dtype = np.dtype(str(values["dtype"]))
    if dtype.kind not in "biufUO":
        raise WeightsFormatError(f"classes of dtype {dtype}")
    return np.array(values["values"], dtype=dtype)
