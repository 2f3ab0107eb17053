"""What all fine-tuned estimators share: parameters, reading, holding out, training, predicting, saving and loading.

A kind of estimator adds which head it has, which labels it reads, what its training is, and what becomes of logits;
see :class:`skecg.FineTunedClassifier` and :class:`skecg.Segmenter`.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skecg.compute.devices import resolve_device, resolve_precision
from skecg.compute.notebook import HeldWeights
from skecg.encoders import Encoder
from skecg.errors import ParameterError, SkecgWarning, WeightsFormatError, user_stacklevel
from skecg.finetuning.data import PreparedWindows, WindowInputs, record_logits
from skecg.finetuning.heads import Head, Network, copied_encoder
from skecg.finetuning.loop import TrainingConfig
from skecg.finetuning.serialization import Layout, Origin, parameters_of, read_description, read_head, write_fitted
from skecg.finetuning.stages import STAGES, Training
from skecg.inference.inputs import RecordSource, record_source
from skecg.inference.pipeline import prepare_chunks
from skecg.preprocessing.quality import Policies, leads_used
from skecg.preprocessing.windows import Windows, check_stride
from skecg.records import ECGRecord
from skecg.spec import InputSpec
from skecg.splits import check_fraction, hold_out
from skecg.validation import check_choice, is_integer
from skecg.weights import WeightsInfo, find_weights, load_encoder

__all__ = ["Examples", "FineTunedEstimator"]

Rows = NDArray[np.intp]

# What is published for a head that is trained on a frozen encoder.
_HEAD_EPOCHS, _HEAD_RATE, _HEAD_DECAY = 30, 1e-3, 0.1


@dataclass(frozen=True, eq=False)
class Examples:
    """What a training reads.

    Parameters
    ----------
    windows : PreparedWindows
        Of all N records.
    labels : object
        What is known of the records or of their samples, as the estimator's training takes it.
    strata : ndarray of shape (N, L), bool
        Labels of the records of which the patients held out have their share.
    known : ndarray of shape (N,), bool
        Of which records anything is known.
    """

    windows: PreparedWindows
    labels: Any
    strata: NDArray[np.bool_]
    known: NDArray[np.bool_]


class FineTunedEstimator(HeldWeights, BaseEstimator, ABC):
    """An encoder and a head, trained together, behind scikit-learn's fit and predict.

    Subclasses have these parameters and their own, all in the signature of their constructor, as scikit-learn wants it;
    :class:`skecg.FineTunedClassifier` describes them.
    """

    model: str | Path
    stages: str
    epochs: int
    batch_size: int
    learning_rate: float
    layer_decay: float
    weight_decay: float
    warmup_epochs: float
    averaging: float
    patience: int | None
    validation_fraction: float
    sampling_rate: float | None
    leads: Sequence[str] | Mapping[str, str] | None
    units: str
    stride: float | None
    missing_leads: str
    short_records: str
    device: str
    precision: str
    n_jobs: int | None
    random_state: int | np.random.RandomState | None
    revision: str | None
    local_files_only: bool
    verbose: int

    network_: Network
    spec_: InputSpec
    pooling_: str
    origin_: Origin
    validation_rows_: Rows

    #: How it is laid out on disk.
    _layout: ClassVar[Layout]
    #: What the progress bar of predictions is called.
    _predicting: ClassVar[str] = "predicting"

    # --- what a kind of estimator has of its own

    @abstractmethod
    def _read_y(self, y: Any, n_records: int) -> Any:
        """Read what is known of each record, and check it as far as that goes without the records."""

    @abstractmethod
    def _build_head(self, encoder: Encoder, info: WeightsInfo, labels: Any, seed: int) -> Head:
        """Build an untrained head for an encoder and labels that were read."""

    @abstractmethod
    def _build_training(self, examples: Examples, **shared: Any) -> Training:
        """Build the training of what was read; `shared` is what :class:`skecg.finetuning.stages.Training` takes."""

    @abstractmethod
    def _keep_own(self, training: Any) -> None:
        """Set the fitted attributes that are not those of all."""

    @abstractmethod
    def _describe(self) -> dict[str, Any]:
        """Return the fields of the description on disk that are not those of all, and those of "fitted"."""

    @abstractmethod
    def _restore(self, values: dict[str, Any], encoder: Encoder, state: dict[str, Tensor]) -> Head:
        """Set the fitted attributes from a description, and build the head that the tensors are of."""

    # --- what labels of records have in common

    def _read_examples(self, chunks: Iterator[tuple[list[ECGRecord], Windows]], labels: Any, patch: int) -> Examples:
        """Gather the windows of all records, with what was read of their labels."""
        windows = PreparedWindows([windows for _, windows in chunks], patch)
        return Examples(windows, labels, self._strata(labels, windows.n_records), np.ones(windows.n_records, np.bool_))

    def _strata(self, labels: Any, n_records: int) -> NDArray[np.bool_]:
        """Return the labels (n_records, n_strata) of which the patients held out have their share."""
        return np.zeros((n_records, 0), dtype=np.bool_)

    def _logits_of(self, network: Network, inputs: WindowInputs, records: list[ECGRecord], precision: str) -> Any:
        """Compute the logits of a chunk of records."""
        return record_logits(network, inputs, range(len(records)), precision=precision, n_jobs=self.n_jobs)

    # --- parameters

    def _check_parameters(self) -> None:
        """Check what the constructor stored unseen, before anything is read."""
        self._policies()
        self._config(0)
        self._head_config(0)
        check_choice("stages", self.stages, STAGES)
        check_fraction(self.validation_fraction)
        _check_random_state(self.random_state)

    def _policies(self) -> Policies:
        return Policies(self.missing_leads, self.short_records)

    def _config(self, seed: int) -> TrainingConfig:
        """Return how all is trained."""
        return TrainingConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            layer_decay=self.layer_decay,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            averaging=self.averaging,
            patience=self.patience,
            precision=self.precision,
            random_state=seed,
            n_jobs=self.n_jobs,
        )

    def _head_config(self, seed: int) -> TrainingConfig:
        """Return how the head alone is trained."""
        config = self._config(seed)
        return replace(config, epochs=_HEAD_EPOCHS, learning_rate=_HEAD_RATE, weight_decay=_HEAD_DECAY, warmup_epochs=0)

    # --- training

    def _fit(self, X: Any, y: Any, groups: ArrayLike | None, sampling_rate: ArrayLike | None) -> Self:
        """Read, hold out, train, and become fitted; an interruption after an epoch leaves what was learned."""
        self._check_parameters()
        info = find_weights(self.model, revision=self.revision, local_files_only=self.local_files_only)
        source = record_source(self, X, sampling_rate, reset=True)
        # Labels before records: a wrong y should not cost the reading of an archive.
        labels = self._read_y(y, len(source))
        self.__dict__.pop("network_", None)  # of an earlier fit, should this one be interrupted
        network, training = self._prepare_training(info, source, labels, groups)
        try:
            training.run(network)
        except KeyboardInterrupt:
            if training.has_learned:
                self._keep(network, training, info)
            raise
        self._keep(network, training, info)
        return self

    def _prepare_training(
        self, info: WeightsInfo, source: RecordSource, labels: Any, groups: ArrayLike | None
    ) -> tuple[Network, Training]:
        """Copy the encoder, read the records, and hold patients out."""
        check_stride(self.stride, info.spec)
        device = resolve_device(self.device)
        # One number for all that is drawn: a generator that is passed moves on by one, however long training is.
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        # Groups of other records are found before the records are read, which may take long.
        hold_out(np.zeros((len(source), 0)), groups, float(self.validation_fraction), np.random.default_rng(seed))
        encoder = copied_encoder(info)
        network = Network(encoder, self._build_head(encoder, info, labels, seed)).to(device).eval()
        chunks = prepare_chunks(
            source,
            info.spec,
            self._policies(),
            stride_seconds=self._training_stride(),
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )
        examples = self._read_examples(chunks, labels, info.encoder.length_step)
        train, held = self._hold_out(examples, groups, seed)
        return network, self._build_training(
            examples,
            windows=examples.windows,
            train=train,
            held=held,
            stages=self.stages,
            head_config=self._head_config(seed),
            config=self._config(seed),
            device=device,
            verbose=self.verbose,
        )

    def _training_stride(self) -> float | None:
        """Return the seconds from one window to the next in training; None for the window's length."""
        return self.stride

    def _hold_out(self, examples: Examples, groups: ArrayLike | None, seed: int) -> tuple[Rows, Rows]:
        """Hold patients out, with a warning where that was asked for and cannot be."""
        share, known = float(self.validation_fraction), examples.known
        train, held = hold_out(examples.strata, groups, share, np.random.default_rng(seed))
        if share > 0 and not (known[train].any() and known[held].any()):
            warnings.warn(
                "Got too few patients to hold any out: each is the last with or without some label. Training goes on "
                "for all epochs. Pass more records, or validation_fraction=0.",
                SkecgWarning,
                stacklevel=user_stacklevel(),
            )
            return np.arange(len(known)), np.arange(0)
        return train, held

    def _keep(self, network: Network, training: Training, info: WeightsInfo) -> None:
        """Become fitted."""
        # On the CPU, where it can be pickled and used on machines without the device it was trained on.
        self.network_ = network.cpu().requires_grad_(False).eval()
        self.spec_, self.pooling_ = info.spec, info.pooling
        self.origin_ = Origin(info.sha256, info.revision, dict(info.provenance))
        self._said: dict[str, Any] = {}
        self.validation_rows_ = training.held
        self._leads_used: list[tuple[str, ...]] = []
        self._keep_own(training)

    # --- predicting

    def _predict_logits(
        self, X: Any, sampling_rate: ArrayLike | None, *, stride_seconds: float | None
    ) -> Iterator[tuple[list[ECGRecord], Any]]:
        """Yield records and their logits, chunk by chunk, in flat memory; the network itself stays where it is."""
        check_is_fitted(self)
        source = record_source(self, X, sampling_rate, reset=False)
        device, precision = resolve_device(self.device), resolve_precision(self.precision)
        # A copy goes to the device: threads may predict at once, and a fitted estimator does not change.
        network = self.network_ if device.type == "cpu" else copy.deepcopy(self.network_).to(device)
        chunks = prepare_chunks(
            source,
            self.spec_,
            self._policies(),
            stride_seconds=stride_seconds,
            n_jobs=self.n_jobs,
            title=self._predicting,
            verbose=self.verbose,
        )
        used: list[tuple[str, ...]] = []
        for records, windows in chunks:
            used += [leads_used(record, self.spec_) for record in records]
            inputs = WindowInputs(PreparedWindows([windows], network.encoder.config.length_step), device)
            yield records, self._logits_of(network, inputs, records, precision)
        # Changed in place: scikit-learn wants an estimator's attributes to stay what they were through ``predict``.
        # All at once, for threads may predict at the same time.
        self._leads_used[:] = used

    @property
    def leads_used_(self) -> list[tuple[str, ...]]:
        """Leads of the encoder that each record of the last prediction had, or had others to derive them from."""
        check_is_fitted(self)
        return list(self._leads_used)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the leads of the last records behind: they are those records', not the estimator's."""
        state = super().__getstate__()
        return {**state, "_leads_used": []} if "_leads_used" in state else state

    # --- on disk

    def save(self, folder: str | Path, **provenance: Any) -> None:
        """Write a weights folder of the encoder, with what was trained on top beside it.

        ``JEPAEmbedder(folder)`` computes the encoder's features, :meth:`load` reads the estimator. There is no pickle
        in it.

        Parameters
        ----------
        folder : str or Path
            Created when absent; files of these names in it are replaced.
        **provenance
            As of :func:`skecg.save_encoder`. Licence and data of the weights that training started from are taken over;
            ``data="clinic (40 records)"`` names the recordings of this training, and
            ``data_licences={"clinic": "CC0-1.0"}`` their licence. Weights with data of no known licence are not
            published.

        Raises
        ------
        ParameterError
            When `folder` is a file, or classes or parameters cannot be written as JSON.
        """
        check_is_fitted(self)
        described = self._describe()
        described["fitted"] |= {"n_features_in": getattr(self, "n_features_in_", None)}
        write_fitted(self._layout, self, folder, provenance, described)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read an estimator that :meth:`save` wrote.

        Parameters
        ----------
        folder : str or Path

        Returns
        -------
        self
            Fitted, with the parameters that it had but for `device`, `n_jobs`, `verbose` and a `random_state` that was
            no int, which are as by default; `history_` and `validation_rows_` stay behind.

        Raises
        ------
        WeightsError
            When the folder holds no such estimator, or a damaged one.
        """
        folder, layout = Path(folder), cls._layout
        values, info = read_description(layout, folder)
        encoder, spec = load_encoder(folder)
        state = read_head(layout, folder)
        try:
            estimator = cls(**parameters_of(values))
            estimator.spec_, estimator.pooling_ = spec, info.pooling
            estimator._leads_used = []
            estimator.origin_ = Origin(**values["origin"])
            # What was said of it when it was saved, but for what it was called.
            estimator._said = {key: value for key, value in info.provenance.items() if key not in ("name", "model")}
            head = estimator._restore(values, encoder, state)
            head.load_state_dict(state, strict=True)
            # Absent where the training records were files, which have no columns.
            n_features = values["fitted"]["n_features_in"]
            if n_features is not None:
                estimator.n_features_in_ = int(n_features)
        except (AttributeError, TypeError, ValueError, KeyError, RuntimeError) as error:
            path = folder / layout.description
            raise WeightsFormatError(
                f"{path} is malformed, or not of {layout.tensors} ({error}). Save the {layout.noun} again."
            ) from error
        estimator.network_ = Network(encoder, head.float()).requires_grad_(False).eval()
        return estimator

    def _described_names(self) -> dict[str, Any]:
        """Return the names of the columns of X as JSON has them, None where they have none."""
        names = getattr(self, "feature_names_in_", None)
        return {"feature_names_in": None if names is None else [str(name) for name in names]}

    def _restore_names(self, values: dict[str, Any]) -> None:
        names = values["fitted"]["feature_names_in"]
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)

    # --- scikit-learn

    def _held_weights(self) -> str | None:
        if not hasattr(self, "origin_"):
            return None
        at = f" at commit {self.origin_.revision}" if self.origin_.revision else ""
        return f"Weights: trained further from {self.model}{at}, sha256 {self.origin_.sha256[:16]}…"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")


def _check_random_state(value: object) -> None:
    """Raise unless this is what scikit-learn makes a generator of."""
    if value is None or isinstance(value, np.random.RandomState) or (is_integer(value, 0) and value < 2**32):
        return
    raise ParameterError(
        f"Got random_state={value!r}, expected None, an integer from 0 to {2**32 - 1}, or a np.random.RandomState. Of "
        "a np.random.Generator pass a number: random_state=int(generator.integers(2**32))."
    )
