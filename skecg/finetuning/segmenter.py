"""Segmenter: P, QRS and T waves sample by sample, behind scikit-learn's fit and predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skecg.annotations import WAVE_CLASSES, WaveAnnotations, waves_of
from skecg.encoders import Encoder
from skecg.errors import InputError, WeightsFormatError
from skecg.finetuning.base import Examples, FineTunedEstimator
from skecg.finetuning.data import PreparedWindows, WindowInputs, window_logits
from skecg.finetuning.heads import Head, Network, build_decoder
from skecg.finetuning.loop import TrainingConfig
from skecg.finetuning.losses import confusion_of, mean_f1
from skecg.finetuning.sample_labels import (
    at_own_rate,
    check_sample_labels,
    label_windows,
    read_sample_labels,
    stitch,
)
from skecg.finetuning.serialization import SEGMENTER, Layout
from skecg.finetuning.stages import SegmenterTraining
from skecg.inference.inputs import record_source
from skecg.leads import canonical_lead
from skecg.preprocessing.windows import Windows, prepared_rate
from skecg.records import ECGRecord
from skecg.validation import check_flag, check_integer, check_number
from skecg.weights import WeightsInfo

__all__ = ["Segmenter"]


class Segmenter(FineTunedEstimator):
    """Label every sample of an electrocardiogram as P wave, QRS complex, T wave or background.

    A decoder unfolds the encoder's tokens to samples and refines them with convolutions that see the signal. First the
    decoder alone is fitted on the frozen encoder, then both are trained together, gently, for as long as patients that
    are held out gain by it. The encoder that the process shares is copied and stays what it is.

    Parameters
    ----------
    model : str or Path, default="default"
        Where training starts: a name of :func:`skecg.list_models`, a weights folder, or ``"owner/name"`` on the Hugging
        Face Hub.
    target : str, default="majority"
        What becomes of labels that differ from lead to lead, for each sample of a record gets one label: what most of
        the leads say, or what one says, named here.
    stages : {"two", "head", "all"}, default="two"
        What is trained: the decoder and then all; the decoder alone, the encoder staying as it is; or all from the
        start.
    width : int, default=32
        Channels of the decoder.
    epochs : int, default=12
        Passes over the windows in the stage that trains all, at most.
    head_epochs : int, default=15
        The same of the stage that trains the decoder alone.
    batch_size : int, default=8
        Windows in a step.
    learning_rate : float, default=1e-3
        Of the decoder, in the stage that trains all: it rises for `warmup_epochs` and falls along half a cosine.
    head_learning_rate : float, default=3e-3
        The same of the stage that trains the decoder alone.
    layer_decay : float, default=0.75
        What the rate is multiplied by from the decoder to the last block, and from each block to the one below it.
    weight_decay : float, default=0.01
        Of matrices.
    warmup_epochs : float, default=1.0
        Epochs in which the rate rises.
    averaging : float, default=0.0
        Memory of the running average of the weights, which is what is validated and kept (Polyak and Juditsky, 1992):
        0.999 goes back about 1,000 steps, at the beginning a tenth of the steps done; 0 takes the weights themselves.
    patience : int, default=None
        Epochs without a better validation score after which a stage ends; None goes on to the end and keeps the best.
    validation_fraction : float, default=0.15
        Share of the patients that is held out; 0 holds out none, trains for all epochs and keeps the last.
    augment : bool, default=True
        Whether training sees windows shifted by less than a token, larger or smaller, and wandering.
    stride : float, default=None
        Seconds from one window of a long record to the next where a record is segmented; None is half a window.
        Training cuts records into windows side by side.
    sampling_rate, leads, units, missing_leads, short_records
        As in :class:`skecg.JEPAEmbedder`.
    device : str, default="auto"
        Where to compute, found anew at each use and never stored.
    precision : {"auto", "fp32", "bf16"}, default="auto"
        ``"auto"`` is float32. ``"bf16"`` runs matrix products in bfloat16.
    n_jobs : int, default=None
        Files read and parts of a batch computed at once. None reads one by one and computes on the cores that torch may
        use. Results do not depend on it.
    random_state : int, RandomState instance or None, default=0
        Decides who is held out, the batches, and the first weights of the decoder. One seed gives one result, bit for
        bit on one kind of CPU.
    revision : str, default=None
        Branch, tag or commit of weights on the Hub.
    local_files_only : bool, default=False
        Whether to refuse to ask the network for weights.
    verbose : int, default=0
        Whether to show progress bars, of reading, training and segmenting.

    Attributes
    ----------
    classes_ : ndarray of shape (4,), int8
        0 background, 1 P, 2 QRS, 3 T.
    network_ : torch.nn.Module
        What was trained, on the CPU; its pickle holds arrays only.
    history_ : dict of str to History
        Losses and validation scores (mean F1 by sample of P, QRS and T, as in :meth:`score`) by epoch, and the epoch
        whose weights were kept, of the stages ``"head"`` and ``"all"`` as far as there were any.
    validation_rows_ : ndarray of int
        Rows of X that were held out.
    n_features_in_ : int
        Number of leads of 3-D input, of samples of 2-D input; not set for records and paths.

    See Also
    --------
    skecg.FineTunedClassifier : One label a record.
    skecg.evaluation.delineation : What a linear head finds in frozen tokens.

    Notes
    -----
    Logits of windows that overlap are averaged, the middle of a window counting most, and drawn at the record's own
    rate on straight lines between the samples of the encoder.

    A `fit` that is interrupted (Ctrl-C) leaves the estimator fitted with the best weights until then, and the
    KeyboardInterrupt goes on.

    Examples
    --------
    >>> from skecg import Segmenter
    >>> from skecg.datasets import fetch_ludb
    >>> ludb = fetch_ludb()                                                  # doctest: +SKIP
    >>> waves = [ludb.waves(row) for row in range(len(ludb))]                # doctest: +SKIP
    >>> segmenter = Segmenter().fit(ludb.records, waves, groups=ludb.patients)    # doctest: +SKIP
    >>> segmenter.predict(["patient7.hea"])[0].shape                         # doctest: +SKIP
    (5000,)
    >>> segmenter.annotate(["patient7.hea"])[0].write("patient7.waves")      # doctest: +SKIP
    """

    _layout: ClassVar[Layout] = SEGMENTER
    _predicting: ClassVar[str] = "segmenting"

    def __init__(
        self,
        model: str | Path = "default",
        *,
        target: str = "majority",
        stages: str = "two",
        width: int = 32,
        epochs: int = 12,
        head_epochs: int = 15,
        batch_size: int = 8,
        learning_rate: float = 1e-3,
        head_learning_rate: float = 3e-3,
        layer_decay: float = 0.75,
        weight_decay: float = 0.01,
        warmup_epochs: float = 1.0,
        averaging: float = 0.0,
        patience: int | None = None,
        validation_fraction: float = 0.15,
        augment: bool = True,
        stride: float | None = None,
        sampling_rate: float | None = None,
        leads: Sequence[str] | Mapping[str, str] | None = None,
        units: str = "mV",
        missing_leads: str = "raise",
        short_records: str = "raise",
        device: str = "auto",
        precision: str = "auto",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        revision: str | None = None,
        local_files_only: bool = False,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.target = target
        self.stages = stages
        self.width = width
        self.epochs = epochs
        self.head_epochs = head_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.averaging = averaging
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.augment = augment
        self.stride = stride
        self.sampling_rate = sampling_rate
        self.leads = leads
        self.units = units
        self.missing_leads = missing_leads
        self.short_records = short_records
        self.device = device
        self.precision = precision
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.revision = revision
        self.local_files_only = local_files_only
        self.verbose = verbose

    def fit(self, X: Any, y: Any, *, groups: ArrayLike | None = None, sampling_rate: ArrayLike | None = None) -> Self:
        """Train.

        Parameters
        ----------
        X : array-like
            Records, as :class:`skecg.JEPAEmbedder` takes them.
        y : sequence of length n_records
            What is known of each record: integers (n_samples,) or (n_leads, n_samples), one for each sample of the
            record at its own rate, 0 background, 1 P, 2 QRS, 3 T, and -1 where nothing is known, which then counts
            nowhere; or :class:`skecg.datasets.Waves`, :class:`skecg.finetuning.WaveAnnotations`, a ``wfdb.Annotation``,
            or the path of a WFDB file of annotations, with the symbols ``( p N t )``, and any other beat's for ``N``.
            In these, time before the first and after the last wave counts as not known.
        groups : array-like of shape (n_records,), optional
            Who each record is of, so that no patient is both trained on and held out. Without it, each record counts as
            a patient.
        sampling_rate : float or array-like of shape (n_records,), optional
            Rate of each record (Hz), instead of the constructor's; for scikit-learn's metadata routing.

        Returns
        -------
        self

        Raises
        ------
        ParameterError
            When a parameter has a value that is not allowed, or groups do not belong to the records.
        InputError
            When a record cannot be used, or labels are not those of its record; the message names it.
        RecordReadError
            When a file cannot be read.
        WeightsError
            When the weights cannot be found or are damaged.
        """
        return self._fit(X, y, groups, sampling_rate)

    def predict(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> list[NDArray[np.int8]]:
        """Label every sample.

        Parameters
        ----------
        X : array-like
            Records, as :class:`skecg.JEPAEmbedder` takes them, of any length.
        sampling_rate : float or array-like of shape (n_records,), optional
            Rate of each record (Hz), instead of the constructor's.

        Returns
        -------
        list of ndarray of shape (n_samples,), int8
            For each record, at its own rate: 0 background, 1 P, 2 QRS, 3 T, -1 where no lead has a sample.

        Raises
        ------
        InputError, RecordReadError
            When a record cannot be used; the message names it.
        """
        return [_labels(record, logits) for record, logits in self._sample_logits(X, sampling_rate)]

    def predict_proba(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> list[NDArray[np.float32]]:
        """Compute the probability of each class at every sample.

        Parameters
        ----------
        X, sampling_rate
            As in :meth:`predict`.

        Returns
        -------
        list of ndarray of shape (n_samples, 4), float32
            NaN where no lead has a sample.
        """
        found = []
        for record, logits in self._sample_logits(X, sampling_rate):
            found.append(special.softmax(logits, axis=0).T)
            found[-1][_is_gap(record)] = np.nan
        return found

    def annotate(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> list[WaveAnnotations]:
        """Return the waves of records, each with onset, peak and offset.

        Parameters
        ----------
        X, sampling_rate
            As in :meth:`predict`.

        Returns
        -------
        list of WaveAnnotations
            Waves of less than 20 ms are left out, and shorter pauses within one are closed.
            :meth:`skecg.finetuning.WaveAnnotations.write` writes them as a WFDB file.
        """
        return [waves_of(_labels(record, logits), record) for record, logits in self._sample_logits(X, sampling_rate)]

    def score(self, X: Any, y: Any, *, sampling_rate: ArrayLike | None = None) -> float:
        """Compute the mean F1 of P, QRS and T over all samples whose label is known.

        A wave that no record has and none is said to have has no F1 and does not count, as P in atrial fibrillation.

        Parameters
        ----------
        X, sampling_rate
            As in :meth:`predict`.
        y : sequence of length n_records
            As in :meth:`fit`.

        Returns
        -------
        float
            1 where there is no wave at all, neither annotated nor predicted.

        Raises
        ------
        InputError
            When a record cannot be used, or labels are not those of its record, or none of them is known.
        RecordReadError
            When a file cannot be read.
        """
        check_is_fitted(self)
        items = check_sample_labels(y, len(record_source(self, X, sampling_rate, reset=False)))
        confusion = np.zeros((len(WAVE_CLASSES), len(WAVE_CLASSES)), dtype=np.int64)
        for row, (record, logits) in enumerate(self._sample_logits(X, sampling_rate)):
            # Against labels at the record's own rate: resampled truth would forgive errors at the borders.
            truth, found = read_sample_labels(items[row], record, self.target, row), _labels(record, logits)
            confusion += confusion_of(np.where(found < 0, found, truth), found)
        _check_known(bool(confusion.any()))
        return mean_f1(confusion)

    def _sample_logits(
        self, X: Any, sampling_rate: ArrayLike | None
    ) -> Iterator[tuple[ECGRecord, NDArray[np.float32]]]:
        """Yield each record and the logits (4, n_samples) of its samples."""
        check_is_fitted(self)
        # Half a window: each sample is then well inside one of the two that hold it.
        stride = self.spec_.window_seconds / 2 if self.stride is None else self.stride
        for records, logits in self._predict_logits(X, sampling_rate, stride_seconds=stride):
            yield from zip(records, logits, strict=True)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_integer("width", self.width, 1)
        check_flag("augment", self.augment)
        canonical_lead(self.target)

    def _head_config(self, seed: int) -> TrainingConfig:
        check_number("head_learning_rate", self.head_learning_rate, 0)
        head_epochs = check_integer("head_epochs", self.head_epochs, 1)
        return replace(self._config(seed), epochs=head_epochs, learning_rate=self.head_learning_rate)

    def _training_stride(self) -> None:
        return None  # windows side by side: of overlapping ones, samples would be learned from twice

    def _read_y(self, y: Any, n_records: int) -> Sequence[Any]:
        return check_sample_labels(y, n_records)

    def _read_examples(
        self, chunks: Iterator[tuple[list[ECGRecord], Windows]], labels: Sequence[Any], patch: int
    ) -> Examples:
        prepared, of_windows, row = [], [], 0
        for records, windows in chunks:
            prepared.append(windows)
            of_windows.append(label_windows(records, windows, labels[row : row + len(records)], self.target, row))
            row += len(records)
        every, sample_labels = PreparedWindows(prepared, patch), np.concatenate(of_windows)
        has = _classes_of_records(sample_labels, every.owner, row)
        # A class in all records or none of them is no matter of chance.
        varied = has[:, has.any(axis=0) & ~has.all(axis=0)]
        return Examples(every, sample_labels, varied, np.asarray(has.any(axis=1)))

    def _build_head(self, encoder: Encoder, info: WeightsInfo, labels: Sequence[Any], seed: int) -> Head:
        return build_decoder(encoder, len(WAVE_CLASSES), int(self.width), seed)

    def _build_training(self, examples: Examples, **shared: Any) -> SegmenterTraining:
        return SegmenterTraining(labels=examples.labels, augment=bool(self.augment), **shared)

    def _logits_of(
        self, network: Network, inputs: WindowInputs, records: list[ECGRecord], precision: str
    ) -> list[NDArray[np.float32]]:
        windows = inputs.windows
        of_windows = dict(
            window_logits(network, inputs, np.arange(len(windows)), precision=precision, n_jobs=self.n_jobs)
        )
        logits = []
        for number, record in enumerate(records):
            own = windows.of_record(number).tolist()
            # Without the padding of short windows, which belongs to no sample.
            signals = [of_windows[row][:, : windows.valid_samples[row]] for row in own]
            whole = stitch(signals, windows.start_samples[own].tolist())
            rate = prepared_rate(record, self.spec_)
            logits.append(at_own_rate(whole, rate, record.sampling_rate, record.n_samples))
        return logits

    def _keep_own(self, training: SegmenterTraining) -> None:
        self.classes_ = np.arange(len(WAVE_CLASSES), dtype=np.int8)
        self.history_ = training.histories
        # Every sample has a label, also those that features of records do without.
        self.spec_ = replace(self.spec_, remainder="cover")

    def _describe(self) -> dict[str, Any]:
        return {"classes": list(WAVE_CLASSES), "fitted": {}}

    def _restore(self, values: dict[str, Any], encoder: Encoder, state: dict[str, Tensor]) -> Head:
        if values["classes"] != list(WAVE_CLASSES):
            raise WeightsFormatError("it has other classes than this skecg")
        self.classes_ = np.arange(len(WAVE_CLASSES), dtype=np.int8)
        width = int(self.width)
        # Before anything is built: a width that does not belong to the tensors could ask for any amount of memory.
        if state["unfold.bias"].numel() != encoder.config.stages[-1].token_samples * width:
            raise WeightsFormatError(f"the decoder is not {width} wide")
        return build_decoder(encoder, len(WAVE_CLASSES), width, seed=0)


def _labels(record: ECGRecord, logits: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return the most probable class of each sample, -1 in gaps: what bridges them is no signal."""
    labels: NDArray[np.int8] = logits.argmax(axis=0).astype(np.int8)
    labels[_is_gap(record)] = -1
    return labels


def _is_gap(record: ECGRecord) -> NDArray[np.bool_]:
    """Return which samples no lead has, shape (n_samples,)."""
    return np.asarray(np.isnan(record.signal).all(axis=0))


def _check_known(any_known: bool) -> None:
    """Raise where nothing is known of any sample."""
    if not any_known:
        raise InputError("Got y without a single label, all are negative; expected some that are known.")


def _classes_of_records(labels: NDArray[np.int8], owner: NDArray[np.int64], n_records: int) -> NDArray[np.bool_]:
    """Return which classes each record holds, (n_records, n_classes); raise where nothing is known of any."""
    _check_known(bool((labels >= 0).any()))
    has = np.zeros((n_records, len(WAVE_CLASSES)), dtype=np.bool_)
    for number in range(len(WAVE_CLASSES)):
        np.logical_or.at(has[:, number], owner, (labels == number).any(axis=1))
    return has
