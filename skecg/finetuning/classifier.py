"""FineTunedClassifier: an encoder and a head, trained together, behind scikit-learn's fit and predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_array
from torch import Tensor

from skecg.encoders import Encoder
from skecg.encoders.pooling import check_pooling
from skecg.errors import InputError, ParameterError
from skecg.finetuning.base import Examples, FineTunedEstimator
from skecg.finetuning.heads import HEADS, Head, build_head
from skecg.finetuning.serialization import CLASSIFIER, Layout, classes_from_json, classes_to_json
from skecg.finetuning.stages import ClassifierTraining
from skecg.linear_model.logistic import Targets, read_targets
from skecg.validation import check_choice, check_unmasked, is_number
from skecg.weights import WeightsInfo

__all__ = ["FineTunedClassifier", "read_labels"]


class FineTunedClassifier(ClassifierMixin, FineTunedEstimator):
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
    pooling : {"mean", "max", "mean+std", "mean+std+max", "cls"}, default=None
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
    averaging : float, default=0.999
        Memory of the running average of the weights, which is what is validated and kept (Polyak and Juditsky, 1992):
        0.999 goes back about 1,000 steps, at the beginning a tenth of the steps done; 0 takes the weights themselves.
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

    A `fit` that is interrupted (Ctrl-C) after an epoch leaves the estimator fitted with the best weights until then,
    and the KeyboardInterrupt goes on.

    Examples
    --------
    >>> from skecg import FineTunedClassifier
    >>> from skecg.datasets import make_ecg
    >>> records, labels = make_ecg(24, rhythm=["sinus", "af"], random_state=0)
    >>> classifier = FineTunedClassifier(epochs=1).fit(records, labels["rhythm"])
    >>> classifier.predict_proba(records).shape
    (24, 2)
    """

    _layout: ClassVar[Layout] = CLASSIFIER

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
        averaging: float = 0.999,
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
        self.averaging = averaging
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
        return self._fit(X, y, groups, sampling_rate)

    def decision_function(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> NDArray[np.float64]:
        """Compute the log-odds.

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
        chunks = self._predict_logits(X, sampling_rate, stride_seconds=self.stride)
        logits: NDArray[np.float64] = np.concatenate([logits for _, logits in chunks])
        # Two classes have one column, as scikit-learn's classifiers give them.
        return logits if self.multilabel_ or logits.shape[1] > 1 else logits[:, 0]

    def predict_proba(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> NDArray[np.float64]:
        """Compute probabilities.

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

    def score(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, *, sampling_rate: ArrayLike | None = None
    ) -> float:
        """Compute the share of records whose class, or whose labels all, are predicted right.

        Parameters
        ----------
        X, sampling_rate
            As in :meth:`decision_function`.
        y : array-like of shape (n_records,) or (n_records, n_labels)
            True classes, or an indicator.
        sample_weight : array-like of shape (n_records,), optional
            How much each record counts.

        Returns
        -------
        float
        """
        return float(accuracy_score(y, self.predict(X, sampling_rate=sampling_rate), sample_weight=sample_weight))

    def predict(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> NDArray[Any]:
        """Return the most probable class, or the labels that are more probable than not.

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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("head", self.head, HEADS)
        if self.C is not None and not (is_number(self.C) and self.C > 0):
            raise ParameterError(f"Got C={self.C!r}, expected a positive number, or None to have it chosen.")

    def _read_y(self, y: Any, n_records: int) -> Targets:
        targets = read_labels(y, n_records)
        targets.weigh(np.ones((n_records, 1)), self.class_weight)  # raises for weights that do not go with the classes
        return targets

    def _strata(self, labels: Targets, n_records: int) -> NDArray[np.bool_]:
        return labels.has

    def _build_head(self, encoder: Encoder, info: WeightsInfo, labels: Targets, seed: int) -> Head:
        pooling = check_pooling(self.pooling or info.pooling, encoder.num_registers)
        return build_head(self.head, encoder, labels.has.shape[1], pooling, seed)

    def _build_training(self, examples: Examples, **shared: Any) -> ClassifierTraining:
        C = None if self.C is None else float(self.C)
        return ClassifierTraining(targets=examples.labels, class_weight=self.class_weight, strength=C, **shared)

    def _keep_own(self, training: ClassifierTraining) -> None:
        self.classes_, self.multilabel_ = training.targets.classes, training.targets.multilabel
        self.pooling_ = self.pooling or self.pooling_
        self.history_, self.C_ = training.history, training.fitted_strength

    def _describe(self) -> dict[str, Any]:
        return {
            "head": self.network_.head.kind,
            "classes": classes_to_json(self.classes_, multilabel=self.multilabel_),
            "multilabel": self.multilabel_,
            "fitted": {"C": self.C_, **self._described_names()},
        }

    def _restore(self, values: dict[str, Any], encoder: Encoder, state: dict[str, Tensor]) -> Head:
        n_outputs, self.multilabel_ = len(state["linear.bias"]), bool(values["multilabel"])
        self.classes_ = classes_from_json(values["classes"], multilabel=self.multilabel_, n_outputs=n_outputs)
        self.C_ = values["fitted"]["C"]
        self._restore_names(values)
        return build_head(values["head"], encoder, n_outputs, self.pooling_, seed=0)


def read_labels(y: Any, n_records: int) -> Targets:
    """Read classes or an indicator of labels, one row for each record, and warn of labels that cannot be learned.

    Raises
    ------
    InputError
        When there is no `y`, it is one value or of another length, holds NaN, one class only, or neither classes nor
        an indicator.
    """
    if y is None:
        raise InputError("This classifier requires y to be passed, but the target y is None. Pass y, a label a record.")
    check_unmasked("y", y)
    try:
        # dtype=None: classes may be text, which a conversion to numbers would refuse.
        y = check_array(y, accept_sparse="csr", dtype=None, ensure_2d=False, ensure_min_samples=0, input_name="y")
        if y.ndim == 0:
            raise InputError(f"Got y={y.item()!r}, a single value, expected a sequence with a label for each record.")
        if y.shape[0] != n_records:
            raise InputError(f"Got y of {y.shape[0]} rows for {n_records} records, expected one for each.")
        targets = read_targets(y)
    except InputError:
        raise
    except TypeError as error:
        raise InputError(
            f"Got y whose classes cannot be compared ({error}), expected one kind and none missing."
        ) from error
    except ValueError as error:
        raise InputError(str(error).partition("\n[")[0]) from error
    targets.find_learnable(intercept=True)
    return targets
