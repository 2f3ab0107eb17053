"""A fitted model: encoder, probe, classes, thresholds, what is usual, and how well it did; a folder without pickle.

``model.json`` says everything in words and numbers, ``probe.safetensors`` holds what was fitted. The encoder is named
with the digest of its weights; one that was fine-tuned lies in the folder itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skecg.embedder import JEPAEmbedder
from skecg.errors import DamagedWeightsError, InputError, ParameterError, WeightsFormatError, WeightsNotFoundError
from skecg.evaluation.protocols import PooledProbe
from skecg.finetuning.classifier import FineTunedClassifier
from skecg.finetuning.regressor import FineTunedRegressor
from skecg.inference.inputs import read_as
from skecg.io.files import make_folder, replacing, sha256_of
from skecg.linear_model.distances import NoveltyScore
from skecg.records import ECGRecord
from skecg.tabular.targets import CLASSES, LABELS, NUMBERS
from skecg.validation import is_integer
from skecg.weights import list_models
from skecg.weights.folder import (
    CONFIG_NAME,
    GOLDEN_NAME,
    HEAD_FILES,
    MODEL_NAME,
    json_bytes,
    load_tensors,
    read_json,
    save_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FINETUNE", "METHODS", "PROBE", "FittedModel", "Predictions", "encoder_of", "is_unfinished", "read_model"]

#: How a model is fitted: on features of a frozen encoder, or together with it.
PROBE, FINETUNE = "probe", "finetune"
METHODS = (PROBE, FINETUNE)

FloatArray = NDArray[np.float64]

_VERSION = 1
_DESCRIPTION, _TENSORS = "model.json", "probe.safetensors"
_FILES = {_DESCRIPTION, _TENSORS, CONFIG_NAME, MODEL_NAME, GOLDEN_NAME, "README.md", *HEAD_FILES}
_FIELDS = [
    "skecg_model",
    "method",
    "kind",
    "target",
    "classes",
    "labels",
    "encoder",
    "thresholds",
    "calibration",
    "novelty",
    "score",
    "provenance",
    "probe_sha256",
    "notice",
]
_NOTICE = "Research use only. Not for diagnosis, treatment decisions, triage or monitoring of patients."

# Parameters of the embedder that a model keeps; the others belong to the machine.
_OF_ENCODER = (
    *("model", "sampling_rate", "leads", "units", "pooling", "truncate_dim", "layer", "stride"),
    *("missing_leads", "short_records", "precision", "backend", "revision"),
)
_NOVELTY = ("mean_", "scale_", "components_", "deviations_")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What is predicted of records.

    Parameters
    ----------
    predicted : list of str
        The class, the labels with semicolons between them, or the number.
    probabilities : ndarray of shape (n_records, n_classes), float64
        Of each class or label; without columns for numbers.
    distances : ndarray of shape (n_records,), float64
        Mahalanobis' distance from the records of the fit.
    """

    predicted: list[str]
    probabilities: FloatArray
    distances: FloatArray


@dataclass(frozen=True, eq=False)
class FittedModel:
    """What :func:`skecg.tabular.fitting.fit_model` makes of a table.

    Parameters
    ----------
    method : {"probe", "finetune"}
    kind : {"classes", "labels", "numbers"}
    target : str
        Column or columns of the table.
    classes, labels : tuple of str
        As of :class:`skecg.tabular.targets.Target`.
    encoder : dict
        ``parameters`` of the embedder, ``weights_sha256`` and ``revision``.
    probe : dict of str to ndarray
        What was fitted on features; empty where the head lies beside the encoder.
    novelty : NoveltyScore
        Fitted on the features of the records of the fit.
    thresholds : ndarray of shape (n_labels,), float64
        With the highest F1 on records of other patients than those fitted on; NaN where there is none.
    calibration : list of dict
        Of each label on these records: Brier score, expected error, slope and intercept.
    score : dict
        What cross-validation by patients found, with intervals.
    provenance : dict
    network : FineTunedClassifier, FineTunedRegressor or None
        Encoder and head that were trained together, with numbers of classes for classes.
    folder : Path or None
        Where it was read from.
    """

    method: str
    kind: str
    target: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    encoder: dict[str, Any]
    probe: dict[str, NDArray[Any]]
    novelty: NoveltyScore
    thresholds: FloatArray
    calibration: list[dict[str, Any]]
    score: dict[str, Any]
    provenance: dict[str, Any]
    network: FineTunedClassifier | FineTunedRegressor | None = None
    folder: Path | None = None

    def embedder(self, **options: Any) -> JEPAEmbedder:
        """Return the embedder that its features come from, not fitted yet; see :meth:`check_weights`."""
        parameters = {**self.encoder["parameters"], **options}
        if self.method == FINETUNE:
            # The fine-tuned encoder lies in the model's own folder, wherever that was moved to.
            parameters["model"] = str(self.folder)
        return JEPAEmbedder(**parameters)

    def check_weights(self, embedder: JEPAEmbedder) -> None:
        """Raise unless a fitted embedder has the weights that the model was fitted with."""
        if embedder.weights_sha256_ != self.encoder["weights_sha256"]:
            raise DamagedWeightsError(
                f"The weights of {str(embedder.model)!r} are not those that this model was fitted with (sha256 "
                f"{embedder.weights_sha256_[:16]}…, expected {self.encoder['weights_sha256'][:16]}…). Restore them, or "
                "fit the model again."
            )

    def label_probabilities(self, features: NDArray[np.floating]) -> FloatArray:
        """Compute the probe's probabilities of the labels (n_records, n_labels), or the numbers (n_records, 1)."""
        if self.kind == NUMBERS:
            scaled = (features - self.probe["mean"]) / self.probe["scale"]
            return np.asarray(scaled @ self.probe["coef"].T + self.probe["intercept"])
        return PooledProbe(**self.probe).predict(features)

    @property
    def probability_columns(self) -> list[str]:
        """What the columns of probabilities are called."""
        return [] if self.kind == NUMBERS else [f"probability {name}" for name in self.classes]

    @property
    def n_values(self) -> int:
        """How many probabilities or numbers a record has."""
        return 1 if self.kind == NUMBERS else len(self.labels)

    def network_values(self, paths: Sequence[str] | Sequence[ECGRecord]) -> FloatArray:
        """Compute the probabilities (n_records, n_labels) or numbers (n_records, 1) of a model that was fine-tuned."""
        if isinstance(self.network, FineTunedRegressor):
            return self.network.predict(list(paths))[:, None]
        assert self.network is not None, "only such a model has one"
        found: FloatArray = self.network.predict_proba(list(paths))
        return found[:, 1:] if self.kind == CLASSES and len(self.classes) == 2 else found

    def classifier(self, **options: Any) -> RecordClassifier:
        """Return what has ``predict_proba`` of records, as :func:`skecg.explain` takes it.

        Parameters
        ----------
        **options
            Of the embedder: ``device``, ``cache``, …

        Raises
        ------
        ParameterError
            When the model predicts numbers: they have no probability.
        """
        if self.kind == NUMBERS:
            raise ParameterError(
                f"Got a model of {self.target!r}, which are numbers and have no probability. Explain a model of "
                "classes or labels."
            )
        return RecordClassifier(self, self.embedder(**options))

    def predict(self, features: NDArray[np.floating], values: FloatArray | None = None) -> Predictions:
        """Predict records.

        Parameters
        ----------
        features : ndarray of shape (n_records, n_features)
        values : ndarray of shape (n_records, n_labels), optional
            Probabilities of the labels, or numbers, where not a probe computes them.

        Returns
        -------
        Predictions
        """
        values = self.label_probabilities(features) if values is None else values
        distances = self.novelty.distances(features) if len(features) else np.empty(0)
        if self.kind == NUMBERS:
            return Predictions([f"{value:.6g}" for value in values[:, 0]], np.empty((len(values), 0)), distances)
        if self.kind == LABELS:
            # A label that had no threshold was never seen: it is predicted by no probability.
            has = values >= np.nan_to_num(self.thresholds, nan=np.inf)
            predicted = [";".join(name for name, yes in zip(self.classes, row, strict=True) if yes) for row in has]
            return Predictions(predicted, values, distances)
        shares = of_classes(values)
        return Predictions([self.classes[k] for k in shares.argmax(axis=1)], shares, distances)

    def save(self, folder: Path) -> None:
        """Write the folder; files of these names in it are replaced.

        Raises
        ------
        ParameterError
            When `folder` is a file.
        """
        import torch

        json_bytes(self._described(), folder / _DESCRIPTION)  # before anything of an older model is replaced
        make_folder(folder)
        fitted = {name: getattr(self.novelty, name) for name in _NOVELTY}
        arrays = {**{f"probe.{k}": v for k, v in self.probe.items()}, **{f"novelty.{k}": v for k, v in fitted.items()}}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        save_tensors(folder / _TENSORS, tensors, {"format": "pt"})
        values = self._described() | {"probe_sha256": sha256_of(folder / _TENSORS), "notice": _NOTICE}
        if self.network is not None:
            self.network.save(folder)
        # Last: should this be interrupted, an older description does not fit the tensors beside it, and says so.
        with replacing(folder / _DESCRIPTION) as file:
            file.write(json_bytes(values, folder / _DESCRIPTION))

    def _described(self) -> dict[str, Any]:
        """Return what JSON holds of the model, but for what was written beside it."""
        return {
            "skecg_model": _VERSION,
            "method": self.method,
            "kind": self.kind,
            "target": self.target,
            "classes": list(self.classes),
            "labels": list(self.labels),
            "encoder": self.encoder,
            "thresholds": [None if np.isnan(value) else float(value) for value in self.thresholds],
            "calibration": self.calibration,
            "novelty": {**self.novelty.get_params(), "offset": self.novelty.offset_},
            "score": self.score,
            "provenance": self.provenance,
        }


@dataclass(frozen=True)
class RecordClassifier:
    """A fitted model of classes or labels as scikit-learn has them: ``classes_`` and ``predict_proba``.

    Parameters
    ----------
    model : FittedModel
    embedder : JEPAEmbedder
        Its own, not fitted.
    """

    model: FittedModel
    embedder: JEPAEmbedder

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Names of the columns of probabilities."""
        return np.array(self.model.classes)

    def read(self, path: str | Path) -> ECGRecord:
        """Read a file as the model's embedder does."""
        return read_as(self.embedder, path)

    def predict_proba(self, records: Sequence[ECGRecord]) -> FloatArray:
        """Compute the probability of each class, or of each label, (n_records, n_classes)."""
        if self.model.network is not None:
            self.model.network.set_params(device=self.embedder.device)
            values = self.model.network_values(records)
        else:
            embedder = self.embedder.fit(records)
            self.model.check_weights(embedder)
            values = self.model.label_probabilities(np.asarray(embedder.transform(records)))
        return values if self.model.kind == LABELS else of_classes(values)


def of_classes(values: FloatArray) -> FloatArray:
    """Return what adds up to 1 in each row: of two classes both; of more, each label's share of their sum."""
    if values.shape[1] == 1:
        return np.concatenate([1 - values, values], axis=1)
    # One-against-rest probabilities need not add up to 1; what is shown to people should.
    return np.asarray(values / np.maximum(values.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))


def encoder_of(embedder: JEPAEmbedder) -> dict[str, Any]:
    """Describe a fitted embedder, without what belongs to this machine."""
    parameters = {name: getattr(embedder, name) for name in _OF_ENCODER}
    model = Path(str(embedder.model))
    # Absolute: predictions are made from other folders than the model was fitted in.
    parameters["model"] = str(model.resolve()) if model.is_dir() else _own_name(str(embedder.model))
    if embedder.revision_ is not None:
        parameters["revision"] = embedder.revision_
    return {"parameters": parameters, "weights_sha256": embedder.weights_sha256_}


def _own_name(model: str) -> str:
    """Return the name of the default, which may be another's tomorrow, and any other name as it is."""
    return next(name for name, entry in list_models().items() if entry["default"]) if model == "default" else model


def is_unfinished(folder: Path) -> bool:
    """Return whether all that a folder holds is what a save that was cut short left in it."""
    # What a killed process was just writing is hidden, under a longer name.
    names = {re.sub(r"^\.(.+)\.[0-9a-f]{8}$", r"\1", path.name) for path in folder.iterdir()}
    # The tensors come first; without them it may be a folder of weights. The description is the end.
    return _TENSORS in names <= _FILES and not (folder / _DESCRIPTION).exists()


def read_model(folder: str | Path) -> FittedModel:
    """Read a model that ``skecg fit`` wrote.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    FittedModel

    Raises
    ------
    WeightsNotFoundError
        When there is no such model.
    WeightsFormatError
        When its description is malformed, or newer than this skecg.
    DamagedWeightsError
        When what was fitted is not what the description is of.
    """
    where = Path(folder)
    path = where / _DESCRIPTION
    if not path.is_file():
        raise WeightsNotFoundError(
            f"Got {str(where)!r}, which holds no {_DESCRIPTION}; expected what `skecg fit` wrote."
        )
    values = read_json(path)
    version = values.get("skecg_model") if isinstance(values, Mapping) else None
    if not is_integer(version, 1):
        raise WeightsFormatError(f"{path} describes no model: it has no 'skecg_model'. Fit it again.")
    if version > _VERSION:
        raise WeightsFormatError(
            f"{path} has format {version}, this skecg reads up to {_VERSION}. Run `pip install --upgrade skecg`."
        )
    if unfit := sorted(set(values) ^ set(_FIELDS)):
        raise WeightsFormatError(f"{path} lacks or adds the field {unfit[0]!r}. Fit the model again.")
    tensors = where / _TENSORS
    if not tensors.is_file() or sha256_of(tensors) != values["probe_sha256"]:
        raise DamagedWeightsError(f"{tensors} is missing or not the one that {_DESCRIPTION} describes. Restore it.")
    try:
        return _restored(values, load_tensors(tensors), where)
    except WeightsFormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsFormatError(f"{path} is malformed ({error}). Fit the model again.") from error


def _restored(values: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> FittedModel:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    parameters = {name: value for name, value in values["novelty"].items() if name != "offset"}
    novelty = NoveltyScore(**parameters)
    for name in _NOVELTY:
        setattr(novelty, name, arrays[f"novelty.{name}"])
    novelty.offset_, novelty.n_features_in_ = float(values["novelty"]["offset"]), len(novelty.mean_)
    probe = {name.removeprefix("probe."): array for name, array in arrays.items() if name.startswith("probe.")}
    classes, labels = tuple(values["classes"]), tuple(values["labels"])
    thresholds = [np.nan if value is None else float(value) for value in values["thresholds"]]
    _check_whole(values, probe, len(thresholds), novelty.n_features_in_)
    if strange := sorted(set(values["encoder"]["parameters"]) - set(_OF_ENCODER)):
        raise InputError(f"the encoder has the parameter {strange[0]!r}")
    return FittedModel(
        method=values["method"],
        kind=values["kind"],
        target=values["target"],
        classes=classes,
        labels=labels,
        encoder=values["encoder"],
        probe=probe,
        novelty=novelty,
        thresholds=np.array(thresholds, dtype=np.float64),
        calibration=values["calibration"],
        score=values["score"],
        provenance=values["provenance"],
        network=_network(values["kind"], folder) if values["method"] == FINETUNE else None,
        folder=folder,
    )


def _check_whole(
    values: Mapping[str, Any], probe: Mapping[str, NDArray[Any]], n_thresholds: int, n_features: int
) -> None:
    """Raise ValueError where the parts of a model do not belong together."""
    kind, classes, labels = values["kind"], values["classes"], values["labels"]
    if values["method"] not in METHODS or kind not in (CLASSES, LABELS, NUMBERS):
        raise InputError(f"method {values['method']!r} and kind {kind!r} are not known")
    if not all(isinstance(name, str) for name in (values["target"], *classes, *labels)):
        raise InputError("names of classes and labels are no text")
    n_labels = len(classes) - 1 if kind == CLASSES and len(classes) == 2 else len(classes)
    if (len(classes) < 2 and kind == CLASSES) or (not classes) != (kind == NUMBERS) or len(set(classes)) < len(classes):
        raise InputError(f"{len(classes)} classes are not those of the kind {kind!r}")
    if not len(labels) == n_thresholds == n_labels:
        raise InputError(
            f"{len(classes)} classes, {len(labels)} labels and {n_thresholds} thresholds do not go together"
        )
    if values["method"] != PROBE:
        return
    shape = (max(1, n_labels), n_features)
    if probe["coef"].shape != shape or probe["intercept"].shape != shape[:1] or probe["mean"].shape != shape[1:]:
        raise InputError(f"regressions of shape {probe['coef'].shape}, expected {shape}")
    if not all(np.isfinite(probe[name]).all() for name in ("coef", "intercept", "mean")):
        raise InputError("what was fitted is not finite")


def _network(kind: str, folder: Path) -> FineTunedClassifier | FineTunedRegressor:
    return FineTunedRegressor.load(folder) if kind == NUMBERS else FineTunedClassifier.load(folder)
