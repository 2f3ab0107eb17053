"""AttentionProbe: protocol (b), a frozen encoder under an attention-pooling head on 2.5 s crops.

What Weimann and Conrad (2025) call "linear evaluation". It is no linear classifier on a pooled vector: the head learns
where to look, so its numbers are to be compared with theirs and with nobody's pooled ones. Different from theirs: crops
begin every 1.25 s in training too (theirs begin anywhere), since tokens of a frozen encoder are computed once; the
register token is not among the tokens; the last layer has a bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional

from skecg.compute.devices import resolve_device
from skecg.compute.progress import count_progress
from skecg.errors import ParameterError, ShapeError
from skecg.finetuning.heads import AttentionHead
from skecg.metrics import area_under_roc, macro
from skecg.splits import hold_out
from skecg.validation import check_unmasked

__all__ = ["AttentionProbe", "Tokens", "collate_crops", "draw_batch"]

#: Tokens of records: for each an array (n_crops, n_tokens, D); rows of NaN are places without a token.
Tokens = Sequence[NDArray[np.floating]] | NDArray[np.floating]

_SCORED_TOGETHER = 64  # records, each with seven crops where it lasts 10 s


def draw_batch(
    X: Tokens, y: NDArray[np.int64], batch_size: int, rng: np.random.Generator, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Draw records without replacement within the batch, and one crop of each."""
    rows = rng.permutation(len(X))[:batch_size]
    # One crop a record: the other crops are other views of it in other steps.
    crops = [X[row][int(rng.integers(len(X[row])))] for row in rows]
    return *collate_crops(crops, device), torch.from_numpy(y[rows]).to(device)


def collate_crops(crops: Sequence[NDArray[np.floating]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Stack crops (n_tokens, D); shorter ones are padded, and the second tensor says which tokens count."""
    stacked = np.full((len(crops), max(map(len, crops)), crops[0].shape[1]), np.nan, dtype=np.float32)
    for row, crop in enumerate(crops):
        stacked[row, : len(crop)] = crop
    absent = np.isnan(stacked[:, :, 0])
    if not absent.any():
        return torch.from_numpy(stacked).to(device), None
    stacked[absent] = 0.0
    return torch.from_numpy(stacked).to(device), torch.from_numpy(~absent).to(device)


class AttentionProbe(ClassifierMixin, BaseEstimator):
    """Classify records by the tokens of their crops, with one learned query and a linear layer.

    In training each record of a batch shows one of its crops, drawn at random; in prediction the logits of all its
    crops are averaged. The weights kept are those with the best validation score.

    Parameters
    ----------
    num_heads : int, default=4
        Attention heads of the query; must divide the width of the tokens. The published head has the encoder's number.
    n_steps : int, default=5000
        Steps of the optimizer, at most.
    batch_size : int, default=128
        Records in a step.
    learning_rate, final_learning_rate : float, default=1e-3
        AdamW's, from the end of the warm-up to the last step along half a cosine; equal ones are a constant rate.
    warmup_steps : int, default=0
        Steps in which the rate rises from zero.
    weight_decay : float, default=0.1
        Of the matrices.
    gradient_clip : float, default=1.0
        Largest norm of a step's gradient; 0 leaves it.
    validate_every : int, default=100
        Steps between validations.
    patience : int, default=1000
        Steps without a better validation score after which training stops.
    validation_fraction : float, default=0.125
        Share of the patients held out for validation when ``fit`` gets no validation records.
    device : str, default="cpu"
        Where the head is trained; the tokens stay where they are.
    random_state : int, default=0
        Decides the first weights, the batches, the crops and the split. One seed, device and number of threads give
        one result.
    verbose : int, default=0
        Whether to show a progress bar.

    Attributes
    ----------
    classes_ : ndarray
        Values of a `y` of classes; the numbers of the labels where `y` is an indicator.
    validation_scores_ : list of (int, float)
        Step and validation score: the macro AUROC over the labels with both positives and negatives there.
    best_step_ : int
        The step whose weights were kept.

    Notes
    -----
    The defaults are the published values but for `patience` (5000, which never stops), and the differences named in
    :mod:`skecg.evaluation.attention_probe`.

    Examples
    --------
    >>> from skecg import JEPAEmbedder
    >>> from skecg.datasets import make_ecg
    >>> from skecg.evaluation.attention_protocol import crop_tokens
    >>> records, labels = make_ecg(24, rhythm=["sinus", "af"], random_state=0)
    >>> tokens = crop_tokens(JEPAEmbedder().fit(records), records)
    >>> probe = AttentionProbe(n_steps=20, validate_every=10).fit(tokens, labels["rhythm"])
    >>> probe.predict_proba(tokens).shape
    (24, 2)
    """

    def __init__(
        self,
        # Defaults are the published ones (optimizer, 5,000 steps of 128, gradients clipped at 1) but for the patience.
        num_heads: int = 4,
        *,
        n_steps: int = 5000,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        final_learning_rate: float = 1e-3,
        warmup_steps: int = 0,
        weight_decay: float = 0.1,
        gradient_clip: float = 1.0,
        validate_every: int = 100,
        patience: int = 1000,
        validation_fraction: float = 0.125,
        device: str = "cpu",
        random_state: int = 0,
        verbose: int = 0,
    ) -> None:
        self.num_heads = num_heads
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.final_learning_rate = final_learning_rate
        self.warmup_steps = warmup_steps
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.validate_every = validate_every
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Tokens,
        y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        validation: tuple[Tokens, ArrayLike] | None = None,
    ) -> Self:
        """Train the head.

        Parameters
        ----------
        X : list of ndarray of shape (n_crops, n_tokens, D), or one array (n_records, n_crops, n_tokens, D)
            Tokens of the crops of each record, see :func:`skecg.evaluation.attention_protocol.crop_tokens`.
        y : array-like of shape (n_records,) or (n_records, n_labels)
            A class for each record (softmax), or zeros and ones for each label (a sigmoid each).
        groups : array-like of shape (n_records,), optional
            Who each record is of, so that validation patients are not trained on.
        validation : (X, y), optional
            Records to choose the step by, instead of a part of the training patients.

        Returns
        -------
        self

        Raises
        ------
        ShapeError
            When tokens and labels do not belong together, or the heads do not divide the tokens.
        """
        self._check(X)
        y = self._encode(y, len(X), learn=True)
        if validation is None:
            X, y, validation_X, validation_y = self._hold_out(X, y, groups)
        else:
            validation_X, validation_y = validation[0], self._encode(validation[1], len(validation[0]))
        self._train(X, y, validation_X, validation_y)
        return self

    def decision_function(self, X: Tokens) -> NDArray[np.float32]:
        """Compute the logits (n_records, n_classes or n_labels), averaged over the crops of each record."""
        check_is_fitted(self)
        return self._logits(self.head_, X)

    def predict_proba(self, X: Tokens) -> NDArray[np.float32]:
        """Compute probabilities (n_records, n_classes), or (n_records, n_labels) when trained on an indicator."""
        logits = torch.from_numpy(self.decision_function(X))
        return (logits.sigmoid() if self.multilabel_ else logits.softmax(dim=1)).numpy()

    def predict(self, X: Tokens) -> NDArray[Any]:
        """Return the most probable class, or for each label whether it is more probable than not."""
        logits = self.decision_function(X)
        return (logits > 0).astype(np.int64) if self.multilabel_ else self.classes_[logits.argmax(axis=1)]

    def _check(self, X: Tokens) -> None:
        shape = np.shape(X[0]) if len(X) else ()
        if len(shape) != 3 or any(np.ndim(tokens) != 3 or np.shape(tokens)[2] != shape[2] for tokens in X):
            raise ShapeError(
                f"Got tokens of shape {shape} for the first of {len(X)} records, expected (n_crops, n_tokens, D) with "
                "one D for all. Use skecg.evaluation.attention_protocol.crop_tokens."
            )
        if self.num_heads < 1 or shape[2] % self.num_heads:
            raise ParameterError(
                f"Got num_heads={self.num_heads!r}, expected a divisor of the tokens' width {shape[2]}."
            )

    def _encode(self, y: ArrayLike, n_records: int, learn: bool = False) -> NDArray[np.int64]:
        """Check labels, and return class numbers or the indicator."""
        check_unmasked("y", y)
        values = np.asarray(y)
        if len(values) != n_records or values.ndim not in (1, 2):
            raise ShapeError(f"Got labels of shape {values.shape} for {n_records} records, expected one row for each.")
        if learn:
            self.multilabel_ = values.ndim == 2
            self.classes_ = np.arange(values.shape[1]) if self.multilabel_ else np.unique(values)
        if self.multilabel_:
            return values.astype(np.int64)
        unknown = np.setdiff1d(values, self.classes_)
        if len(unknown):
            raise ParameterError(f"Got classes {unknown.tolist()} in validation that are not among those of training.")
        return np.searchsorted(self.classes_, values).astype(np.int64)

    def _hold_out(
        self, X: Tokens, y: NDArray[np.int64], groups: ArrayLike | None
    ) -> tuple[Tokens, NDArray[np.int64], Tokens, NDArray[np.int64]]:
        """Hold out whole patients, with the labels in the shares that they have."""
        has = y if self.multilabel_ else np.eye(len(self.classes_), dtype=np.int64)[y]
        train, held = hold_out(has, groups, self.validation_fraction, np.random.default_rng(self.random_state))
        if not len(held):
            raise ParameterError(
                f"Got {len(y)} records of which training needs every patient, so that none can be held out. Pass "
                "validation=(X, y), or more patients."
            )
        return [X[i] for i in train], y[train], [X[i] for i in held], y[held]

    def _train(self, X: Tokens, y: NDArray[np.int64], validation_X: Tokens, validation_y: NDArray[np.int64]) -> None:
        """Draw, step, and now and then validate; leave the best weights."""
        rng, device = np.random.default_rng(self.random_state), resolve_device(self.device)
        head = AttentionHead(
            dim=X[0].shape[2], num_heads=self.num_heads, n_outputs=len(self.classes_), seed=self.random_state
        ).to(device)
        optimizer = torch.optim.AdamW(_decayed_groups(head, self.weight_decay), lr=self.learning_rate)
        self.validation_scores_: list[tuple[int, float]] = []
        best, self.best_step_, state = -math.inf, 0, _copy(head)
        with count_progress(self.n_steps, "attention probe", "step", verbose=self.verbose) as shown:
            for step in range(1, self.n_steps + 1):
                self._step(head, optimizer, step, draw_batch(X, y, self.batch_size, rng, device))
                shown.update(1)
                if step % self.validate_every and step < self.n_steps:
                    continue
                score = self._score(head, validation_X, validation_y)
                self.validation_scores_.append((step, score))
                if score > best:
                    best, self.best_step_, state = score, step, _copy(head)
                # Counted in steps, not in validations, so that validating more often does not stop sooner.
                elif step - self.best_step_ >= self.patience:
                    break
        head.load_state_dict(state)
        self.head_ = head.eval()

    def _step(
        self,
        head: AttentionHead,
        optimizer: torch.optim.Optimizer,
        step: int,
        batch: tuple[Tensor, Tensor | None, Tensor],
    ) -> None:
        tokens, counted, y = batch
        for group in optimizer.param_groups:
            # A function of the step, so that a rate never depends on how often a scheduler was called.
            group["lr"] = self._rate(step)
        logits = head(tokens, counted_BN=counted)
        if self.multilabel_:
            loss = functional.binary_cross_entropy_with_logits(logits, y.float())
        else:
            loss = functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        if self.gradient_clip:
            torch.nn.utils.clip_grad_norm_(head.parameters(), self.gradient_clip)
        optimizer.step()

    def _rate(self, step: int) -> float:
        """Compute the learning rate of a step, counted from 1."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.n_steps - self.warmup_steps)
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * _half_cosine(done)

    def _score(self, head: AttentionHead, X: Tokens, y: NDArray[np.int64]) -> float:
        """Compute the macro AUROC; where no label has both positives and negatives, minus the loss."""
        logits = self._logits(head, X)
        truth = y if self.multilabel_ else np.eye(len(self.classes_), dtype=np.int64)[y]
        score = macro(area_under_roc(truth, logits))
        if np.isfinite(score):
            return score
        # A loss below zero is a worse score, so that the best weights are still chosen by one comparison.
        return -float(
            functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(truth).float())
        )

    def _logits(self, head: AttentionHead, X: Tokens) -> NDArray[np.float32]:
        """Average the logits of each record's crops."""
        device = next(head.parameters()).device
        found = np.empty((len(X), len(self.classes_)), dtype=np.float32)
        for start in range(0, len(X), _SCORED_TOGETHER):
            records = [X[row] for row in range(start, min(start + _SCORED_TOGETHER, len(X)))]
            tokens, counted = collate_crops([crop for record in records for crop in record], device)
            with torch.inference_mode():
                logits = head(tokens, counted_BN=counted).split([len(record) for record in records])
            found[start : start + len(records)] = torch.stack([some.mean(dim=0) for some in logits]).cpu().numpy()
        return found


def _decayed_groups(head: AttentionHead, weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups: matrices are decayed, the query and the bias are not."""
    matrices = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim == 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _copy(head: AttentionHead) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in head.state_dict().items()}
