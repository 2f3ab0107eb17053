"""FineTunedRegressor: an encoder and a head, trained together for numbers, behind scikit-learn's fit and predict."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_array
from torch import Tensor

from skecg.encoders import Encoder
from skecg.encoders.pooling import check_pooling
from skecg.errors import InputError, WeightsFormatError
from skecg.finetuning.base import Examples, FineTunedEstimator
from skecg.finetuning.heads import HEADS, Head, build_head
from skecg.finetuning.losses import Numbers
from skecg.finetuning.serialization import REGRESSOR, Layout
from skecg.finetuning.stages import RegressorTraining
from skecg.validation import check_choice, check_number, check_unmasked
from skecg.weights import WeightsInfo

__all__ = ["FineTunedRegressor"]


class FineTunedRegressor(RegressorMixin, FineTunedEstimator):
    """Predict numbers from electrocardiograms with an encoder that is trained for the task.

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
    alpha : float, default=None
        Penalty of the linear head's ridge regression while the encoder is frozen, of standardized features and targets.
        None chooses it on the patients held out.
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
    target_mean_, target_scale_ : ndarray of shape (n_targets,), float64
        What targets are standardized by: mean and deviation of the records trained on.
    network_ : torch.nn.Module
        What was trained, on the CPU; its pickle holds arrays only.
    alpha_ : float or None
        The penalty that the linear head was fitted with.
    history_ : History
        Losses and validation scores (minus the mean squared error of standardized targets) by epoch, and the epoch
        whose weights were kept, 0 for those of the first stage.
    validation_rows_ : ndarray of int
        Rows of X that were held out; see :class:`skecg.FineTunedClassifier`.
    n_features_in_ : int
        Number of leads of 3-D input, of samples of 2-D input; not set for records and paths.

    See Also
    --------
    skecg.RidgeProbe : Ridge regression on the features of a frozen encoder.
    skecg.FineTunedClassifier : For classes and labels; its notes hold here too.

    Examples
    --------
    >>> from skecg import FineTunedRegressor
    >>> from skecg.datasets import make_ecg
    >>> records, facts = make_ecg(24, random_state=0)
    >>> regressor = FineTunedRegressor(epochs=1).fit(records, facts["heart_rate"])
    >>> regressor.predict(records).shape
    (24,)
    """

    _layout: ClassVar[Layout] = REGRESSOR

    def __init__(
        self,
        model: str | Path = "default",
        *,
        head: str = "linear",
        pooling: str | None = None,
        stages: str = "two",
        alpha: float | None = None,
        epochs: int = 10,
        batch_size: int = 32,
        learning_rate: float = 3e-4,
        layer_decay: float = 0.75,
        weight_decay: float = 0.01,
        warmup_epochs: float = 1.0,
        averaging: float = 0.999,
        patience: int | None = 3,
        validation_fraction: float = 0.15,
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
        self.alpha = alpha
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.averaging = averaging
        self.patience = patience
        self.validation_fraction = validation_fraction
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
        y : array-like of shape (n_records,) or (n_records, n_targets)
            Numbers, in any unit.
        groups, sampling_rate
            As in :meth:`skecg.FineTunedClassifier.fit`.

        Returns
        -------
        self

        Raises
        ------
        ParameterError
            When a parameter has a value that is not allowed, or groups do not belong to the records.
        InputError
            When a record cannot be used (the message names it), or `y` is of another length or holds what is no finite
            number, dates and durations among it.
        RecordReadError
            When a file cannot be read.
        WeightsError
            When the weights cannot be found or are damaged.
        """
        return self._fit(X, y, groups, sampling_rate)

    def score(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, *, sampling_rate: ArrayLike | None = None
    ) -> float:
        """Compute R2, the mean over targets where there are several.

        Parameters
        ----------
        X, sampling_rate
            As in :meth:`predict`.
        y : array-like of shape (n_records,) or (n_records, n_targets)
            True numbers.
        sample_weight : array-like of shape (n_records,), optional
            How much each record counts.

        Returns
        -------
        float
            1 at best; 0 for the mean of `y`.
        """
        return float(r2_score(y, self.predict(X, sampling_rate=sampling_rate), sample_weight=sample_weight))

    def predict(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> NDArray[np.float64]:
        """Predict numbers: means over the record's windows.

        Parameters
        ----------
        X : array-like
            Records, as :class:`skecg.JEPAEmbedder` takes them.
        sampling_rate : float or array-like of shape (n_records,), optional
            Rate of each record (Hz), instead of the constructor's.

        Returns
        -------
        ndarray of shape (n_records,) or (n_records, n_targets)

        Raises
        ------
        InputError, RecordReadError
            When a record cannot be used; the message names it.
        """
        chunks = self._predict_logits(X, sampling_rate, stride_seconds=self.stride)
        standardized: NDArray[np.float64] = np.concatenate([outputs for _, outputs in chunks])
        predicted = standardized * self.target_scale_ + self.target_mean_
        return predicted[:, 0] if self._is_one_column else predicted

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("head", self.head, HEADS)
        if self.alpha is not None:
            check_number("alpha", self.alpha, 0)

    def _read_y(self, y: Any, n_records: int) -> NDArray[np.float64]:
        values = read_numbers(y, n_records)
        self._is_one_column = values.ndim == 1
        return values.reshape(n_records, -1)

    def _build_head(self, encoder: Encoder, info: WeightsInfo, labels: NDArray[np.float64], seed: int) -> Head:
        return build_head(
            self.head,
            encoder,
            labels.shape[1],
            check_pooling(self.pooling or info.pooling, encoder.num_registers),
            seed,
        )

    def _build_training(self, examples: Examples, **shared: Any) -> RegressorTraining:
        # Of the training patients alone: those held out must not set the scale that they are scored on.
        known = examples.labels[shared["train"]]
        self.target_mean_, scale = known.mean(axis=0), known.std(axis=0)
        # What does not vary is predicted by its mean.
        self.target_scale_ = np.where(scale > 0, scale, 1.0)
        alpha = None if self.alpha is None else float(self.alpha)
        # Standardized, so that one learning rate serves beats a minute and millivolts.
        labels = Numbers((examples.labels - self.target_mean_) / self.target_scale_)
        return RegressorTraining(labels=labels, strength=alpha, **shared)

    def _keep_own(self, training: RegressorTraining) -> None:
        self.pooling_ = self.pooling or self.pooling_
        self.history_, self.alpha_ = training.last_history, training.fitted_strength

    def _describe(self) -> dict[str, Any]:
        return {
            "head": self.network_.head.kind,
            "mean": self.target_mean_.tolist(),
            "scale": self.target_scale_.tolist(),
            "one_column": self._is_one_column,
            "fitted": {"alpha": self.alpha_, **self._described_names()},
        }

    def _restore(self, values: dict[str, Any], encoder: Encoder, state: dict[str, Tensor]) -> Head:
        n_outputs, self._is_one_column = len(state["linear.bias"]), bool(values["one_column"])
        self.target_mean_, self.target_scale_ = (np.array(values[name], dtype=np.float64) for name in ("mean", "scale"))
        # Arrays of other shapes would broadcast into plausible numbers.
        if not self.target_mean_.shape == self.target_scale_.shape == (n_outputs,):
            raise WeightsFormatError(f"{len(values['mean'])} targets for a head of {n_outputs} outputs")
        self.alpha_ = values["fitted"]["alpha"]
        self._restore_names(values)
        return build_head(values["head"], encoder, n_outputs, self.pooling_, seed=0)


def read_numbers(y: Any, n_records: int) -> NDArray[np.float64]:
    """Read numbers, one row for each record.

    Raises
    ------
    InputError
        When there is no `y`, it is one value or of another length, or holds what is no finite number.
    """
    if y is None:
        raise InputError("This regressor requires y to be passed, but the target y is None. Pass y, a number a record.")
    # Nanoseconds, days or years: the unit would be lost, and the numbers of two spellings differ.
    if _is_of_time(y):
        raise InputError(
            "Got y of dates or durations, expected numbers. Convert them to numbers of one unit, such as days: "
            "(y - start) / np.timedelta64(1, 'D')."
        )
    check_unmasked("y", y)
    try:
        values: NDArray[np.float64] = check_array(
            y, dtype=np.float64, ensure_2d=False, ensure_min_samples=0, input_name="y"
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{str(error).partition(chr(10))[0]} (y, expected finite numbers)") from error
    if values.ndim == 0:
        raise InputError(f"Got y={values.item()!r}, a single value, expected a sequence with a number for each record.")
    if len(values) != n_records:
        raise InputError(f"Got y of {len(values)} rows for {n_records} records, expected one for each.")
    return values


def _is_of_time(y: Any) -> bool:
    """Return whether values are dates or durations, which become numbers of whatever unit they are kept in."""
    try:
        array = np.asarray(y)
    except (ValueError, TypeError, RuntimeError):  # whatever it is, reading it as numbers says so
        return False
    kinds = (np.timedelta64, np.datetime64, datetime.timedelta, datetime.date)
    return array.dtype.kind in "mM" or (array.dtype.kind == "O" and any(isinstance(item, kinds) for item in array.flat))
