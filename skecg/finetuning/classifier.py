"""FineTunedClassifier: an encoder and a head, trained together, behind scikit-learn's fit and predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skecg.compute.devices import resolve_device, resolve_precision
from skecg.finetuning.base import ask_records, begin, check_choices, read_labels
from skecg.finetuning.data import prepare_in_chunks
from skecg.finetuning.heads import Network
from skecg.finetuning.serialization import Origin, read_classifier, write_classifier
from skecg.finetuning.stages import Course, run_stages
from skecg.inference.inputs import receive
from skecg.preprocessing.quality import Policies
from skecg.weights import WeightsInfo, find_weights

__all__ = ["FineTunedClassifier"]


class FineTunedClassifier(ClassifierMixin, BaseEstimator):
    """Classify electrocardiograms with an encoder that is trained for the task.

    First the head alone is fitted on the frozen encoder, then head and encoder are trained together, gently, for as
    long as patients that are held out gain by it. Takes the records that :class:`skecg.JEPAEmbedder` takes; the encoder
    that the process shares is copied and stays what it is.

    Parameters
    ----------
    model : str or Path, default="default"
        Where training starts: a name of :func:`skecg.list_models`, a weights folder, or ``"owner/name"`` on the Hugging
        Face Hub.
    head : {"linear", "attention"}, default="linear"
        A linear layer on pooled tokens; or a learned query that attends to all tokens and a linear layer (Weimann and
        Conrad, 2025).
    pooling : {"mean", "max", "mean+std", "cls"}, default=None
        What the linear head is given of a window; None leaves it to the weights.
    stages : {"two", "head", "all"}, default="two"
        What is trained: the head and then all; the head alone, the encoder staying as it is; or all from the start.
    C : float, default=None
        Inverse strength of the linear head's L2 penalty while the encoder is frozen. None chooses it on the patients
        held out.
    epochs : int, default=10
        Passes over the records in the stage that trains all, at most.
    batch_size : int, default=32
        Records in a step.
    learning_rate : float, default=3e-4
        Of the head, in the stage that trains all: it rises for `warmup_epochs` and falls along half a cosine.
    layer_decay : float, default=0.75
        What the rate is multiplied by from the head to the last block, and from each block to the one below it.
    weight_decay : float, default=0.01
        Of matrices, in the stage that trains all.
    warmup_epochs : float, default=1.0
        Epochs in which the rate rises.
    patience : int, default=3
        Epochs without a better validation score after which training ends; None never does.
    validation_fraction : float, default=0.15
        Share of the patients that is held out; 0 holds out none, trains for all epochs and keeps the last.
    class_weight : None, "balanced", dict or list of dict, default=None
        What the records of a class weigh, as in :class:`skecg.LogisticProbe`.
    sampling_rate, leads, units, stride, missing_leads, short_records
        As in :class:`skecg.JEPAEmbedder`.
    device : str, default="auto"
        Where to compute, found anew at each use and never stored.
    precision : {"auto", "fp32", "bf16"}, default="auto"
        ``"auto"`` is float32. ``"bf16"`` runs matrix products in bfloat16.
    n_jobs : int, default=None
        Files read and parts of a batch computed at once. None reads one by one and computes on the cores that torch may
        use. Results do not depend on it.
    random_state : int, RandomState instance or None, default=0
        Decides who is held out, the batches, and the first weights of an attention head. One seed gives one result, bit
        for bit on one kind of CPU.
    revision : str, default=None
        Branch, tag or commit of weights on the Hub.
    local_files_only : bool, default=False
        Whether to refuse to ask the network for weights.
    verbose : int, default=0
        Whether to show progress bars, of reading, embedding, training and predicting.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or list of n_labels ndarray
        Classes of a `y` of one column; for an indicator, ``[0, 1]`` for each label.
    multilabel_ : bool
        Whether `y` was an indicator.
    network_ : torch.nn.Module
        What was trained, on the CPU; its pickle holds arrays only.
    C_ : float or None
        Inverse strength of the penalty that the linear head was fitted with.
    history_ : History
        Losses and validation scores (macro AUROC; minus the log-loss where no label has an AUROC) by epoch, and the
        epoch whose weights were kept, 0 for those of the first stage.
    validation_rows_ : ndarray of int
        Rows of X that were held out. Where the encoder stays as it was (``stages="head"``, or an epoch 0 that was the
        best), a linear head is in the end fitted to them, too: they then say nothing of how good it is.
    n_features_in_ : int
        Number of leads of 3-D input, of samples of 2-D input; not set for records and paths.

    See Also
    --------
    skecg.JEPAEmbedder : Features of a frozen encoder, computed once.
    skecg.LogisticProbe : The classifier that the first stage ends with.

    Notes
    -----
    A record's logit is the mean over its windows; in training a record shows one of them, drawn anew in every epoch.
    All prepared windows are held in memory: 12 leads of 10 s at 250 Hz are 120 kB.

    A `fit` that is interrupted (Ctrl-C) while all is trained leaves the estimator fitted with the best weights until
    then, and the KeyboardInterrupt goes on.

    Examples
    --------
    >>> from skecg import FineTunedClassifier
    >>> from skecg.datasets import make_ecg
    >>> records, labels = make_ecg(24, rhythm=["sinus", "af"], random_state=0)
    >>> classifier = FineTunedClassifier(epochs=1).fit(records, labels["rhythm"])
    >>> classifier.predict_proba(records).shape
    (24, 2)
    """

    def __init__(
        self,
        model: str | Path = "default",
        *,
        head: str = "linear",
        pooling: str | None = None,
        stages: str = "two",
        C: float | None = None,
        epochs: int = 10,
        batch_size: int = 32,
        learning_rate: float = 3e-4,
        layer_decay: float = 0.75,
        weight_decay: float = 0.01,
        warmup_epochs: float = 1.0,
        patience: int | None = 3,
        validation_fraction: float = 0.15,
        class_weight: str | Mapping[Any, float] | Sequence[Mapping[int, float]] | None = None,
        sampling_rate: float | None = None,
        leads: Sequence[str] | Mapping[str, str] | None = None,
        units: str = "mV",
        stride: float | None = None,
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
        self.head = head
        self.pooling = pooling
        self.stages = stages
        self.C = C
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.sampling_rate = sampling_rate
        self.leads = leads
        self.units = units
        self.stride = stride
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
        y : array-like of shape (n_records,), or array-like or sparse matrix of shape (n_records, n_labels)
            A class for each record, or an indicator: 1 where a record has a label, else 0.
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
            When a record cannot be used (the message names it), `y` holds one class only, or is neither classes nor an
            indicator.
        RecordReadError
            When a file cannot be read.
        WeightsError
            When the weights cannot be found or are damaged.
        """
        check_choices(self)
        info = find_weights(self.model, revision=self.revision, local_files_only=self.local_files_only)
        source = receive(self, X, sampling_rate, reset=True)
        targets = read_labels(y, len(source))
        self.__dict__.pop("network_", None)  # of an earlier fit, should this one be interrupted
        network, course = begin(self, info, source, targets, groups)
        try:
            run_stages(network, course)
        except KeyboardInterrupt:
            if course.history.losses:
                self._keep(network, course, info)
            raise
        self._keep(network, course, info)
        return self

    def decision_function(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> NDArray[np.float64]:
        """Give the log-odds.

        Parameters
        ----------
        X : array-like
            Records, as :class:`skecg.JEPAEmbedder` takes them.
        sampling_rate : float or array-like of shape (n_records,), optional
            Rate of each record (Hz), instead of the constructor's.

        Returns
        -------
        ndarray of shape (n_records,) or (n_records, n_labels)
            Of the second of two classes; of each of more classes, up to a constant; or of each label. Means over the
            record's windows.

        Raises
        ------
        InputError, RecordReadError
            When a record cannot be used; the message names it.
        """
        check_is_fitted(self)
        source = receive(self, X, sampling_rate, reset=False)
        chunks = prepare_in_chunks(
            source,
            self.spec_,
            Policies(self.missing_leads, self.short_records),
            stride_seconds=self.stride,
            n_jobs=self.n_jobs,
            title="predicting",
            verbose=self.verbose,
        )
        logits = ask_records(
            self.network_,
            (windows for _, windows in chunks),
            device=resolve_device(self.device),
            precision=resolve_precision(self.precision),
            n_jobs=self.n_jobs,
        )
        return logits if self.multilabel_ or logits.shape[1] > 1 else logits[:, 0]

    def predict_proba(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> NDArray[np.float64]:
        """Give probabilities.

        Parameters
        ----------
        X, sampling_rate
            As in :meth:`decision_function`.

        Returns
        -------
        ndarray of shape (n_records, n_classes) or (n_records, n_labels)
            Of each class, adding up to 1 in each row; or of each label of an indicator.
        """
        logits = self.decision_function(X, sampling_rate=sampling_rate)
        if self.multilabel_:
            return special.expit(logits)
        if logits.ndim == 1:
            return special.expit(np.stack([-logits, logits], axis=1))
        return special.softmax(logits, axis=1)

    def predict(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> NDArray[Any]:
        """Give the most probable class, or the labels that are more probable than not.

        Parameters
        ----------
        X, sampling_rate
            As in :meth:`decision_function`.

        Returns
        -------
        ndarray of shape (n_records,) or (n_records, n_labels)
            Classes, or an int64 indicator.
        """
        logits = self.decision_function(X, sampling_rate=sampling_rate)
        if self.multilabel_:
            return (logits > 0).astype(np.int64)
        return self.classes_[logits.argmax(axis=1) if logits.ndim > 1 else (logits > 0).astype(np.int64)]

    def save(self, folder: str | Path, **provenance: Any) -> None:
        """Write a weights folder of the encoder, with the head and the classes beside it.

        ``JEPAEmbedder(folder)`` gives the encoder's features, :meth:`load` the classifier. There is no pickle in it.

        Parameters
        ----------
        folder : str or Path
            Created when absent; files of these names in it are replaced.
        **provenance
            As of :func:`skecg.save_encoder`; what is known of the weights that training started from is taken over.

        Raises
        ------
        ParameterError
            When `folder` is a file, or classes or parameters cannot be written as JSON.
        """
        check_is_fitted(self)
        write_classifier(self, folder, provenance)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a classifier that :meth:`save` wrote.

        Parameters
        ----------
        folder : str or Path

        Returns
        -------
        FineTunedClassifier
            Fitted, with the parameters that it had but for `device`, `n_jobs`, `verbose` and a `random_state` that was
            no int, which are as by default; `history_` and `validation_rows_` stay behind.

        Raises
        ------
        WeightsError
            When the folder holds no classifier, or a damaged one.
        """
        return read_classifier(cls, folder)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_label = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def _keep(self, network: Network, course: Course, info: WeightsInfo) -> None:
        """Become fitted."""
        self.classes_, self.multilabel_ = course.targets.classes, course.targets.multilabel
        self.network_ = network.cpu().requires_grad_(False).eval()
        self.spec_, self.pooling_ = info.spec, self.pooling or info.pooling
        self.history_, self.C_ = course.history, course.history.C
        self.validation_rows_ = course.held
        self.origin_ = Origin.of(info)
