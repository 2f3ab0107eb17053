"""What a classifier is to learn: classes or an indicator of labels, and what each record weighs in it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from skecg.callers import user_stacklevel
from skecg.errors import InputError, ParameterError

__all__ = ["Targets", "read_targets", "read_weights"]


@dataclass(frozen=True, eq=False)
class Targets:
    """Which label each record has. N records, L labels; two classes are one label, the second."""

    has: NDArray[np.bool_]  # (N, L)
    classes: Any  # (n_classes,), or for an indicator a list of L arrays [0, 1]
    multilabel: bool

    @property
    def joint(self) -> bool:
        """Whether there are more than two classes of which each record has one."""
        return not self.multilabel and self.has.shape[1] > 1

    def find_learnable(self, intercept: bool) -> NDArray[np.bool_]:
        """Say which labels have a best regression, (L,), and warn of the others.

        Where all records have a label, or none has, an intercept would go to infinity.
        """
        constant = np.asarray((self.has.all(axis=0) | ~self.has.any(axis=0)) & intercept)
        if constant.any():
            columns = ", ".join(map(str, np.flatnonzero(constant)[:10])) + ", ..." * int(constant.sum() > 10)
            warnings.warn(
                f"{constant.sum()} of {len(constant)} labels are the same for all records (columns {columns}), so they "
                "are predicted as they are, whatever the features.",
                UserWarning,
                stacklevel=user_stacklevel(),
            )
        return np.asarray(~constant)

    def spread(self, C: ArrayLike) -> NDArray[np.float64]:
        """Give C for each label, (L,)."""
        n_labels, strengths = self.has.shape[1], np.asarray(C, dtype=np.float64)
        if strengths.size > 1 and strengths.shape != (n_labels if self.multilabel else 1,):
            expected = f"one for each of {n_labels} labels" if self.multilabel else "one number for all classes"
            raise ParameterError(f"Got C of shape {strengths.shape}, expected {expected}.")
        return np.broadcast_to(strengths, (n_labels,))

    def weigh(self, weight: NDArray[np.float64], class_weight: Any) -> NDArray[np.float64]:
        """Multiply the weights (N, 1) of records by those of their classes, to (N, 1) or, by label, (N, L)."""
        if class_weight is None:
            return weight
        n_labels = self.has.shape[1]
        if not self.multilabel:
            members = self.has if self.joint else np.concatenate([~self.has, self.has], axis=1)
            factors = _factors(class_weight, self.classes, (weight * members).sum(axis=0))
            return weight * (members @ factors)[:, None]
        if isinstance(class_weight, str | Mapping):
            class_weight = [class_weight] * n_labels
        elif len(class_weight) != n_labels:
            raise ParameterError(
                f"Got class_weight for {len(class_weight)} labels and y of {n_labels}, expected one dict for each."
            )
        totals = np.stack([(weight * ~self.has).sum(axis=0), (weight * self.has).sum(axis=0)])
        factors = np.stack(
            [_factors(w, self.classes[i], totals[:, i]) for i, w in enumerate(class_weight)], axis=1
        )  # (2, L)
        return weight * np.where(self.has, factors[1], factors[0])


def _factors(class_weight: Any, classes: NDArray[Any], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give what each class weighs, of which the records weigh `totals`."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        return totals.sum() / (len(classes) * np.where(totals > 0, totals, np.inf))
    if not isinstance(class_weight, Mapping):
        raise ParameterError(f"Got class_weight={class_weight!r}, expected None, 'balanced' or dicts.")
    known = classes.tolist()
    strangers = [name for name in class_weight if name not in known]
    if strangers and len(class_weight) - len(strangers) < len(known):
        raise ParameterError(f"Got class_weight for {strangers}, which are not among the classes {known}.")
    factors = np.array([class_weight.get(name, 1.0) for name in known], dtype=np.float64)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise ParameterError(f"Got class_weight={class_weight!r}, expected positive numbers.")
    return factors


def read_weights(sample_weight: ArrayLike | None, n_records: int) -> NDArray[np.float64]:
    """Give the weights of records, (N,), none of them negative and not all 0."""
    weight = np.ones(n_records) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weight.shape not in {(), (n_records,)}:
        raise InputError(f"Got sample_weight.shape == {weight.shape}, expected {(n_records,)}, one number a record.")
    weight = np.broadcast_to(weight, (n_records,))
    if not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
        raise InputError("Got sample_weight with negative, infinite or missing numbers, or of zeros only.")
    return weight


def read_targets(y: Any) -> Targets:
    """Read a column of classes, or an indicator, dense or sparse.

    Raises
    ------
    InputError
        When there is one class only, or when several columns are not of 0 and 1.
    """
    y = cast(Any, y).toarray() if sparse.issparse(y) else np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        message = "A column-vector y was passed when a 1d array was expected. Pass y.ravel()."
        warnings.warn(message, DataConversionWarning, stacklevel=user_stacklevel())
        y = y.ravel()
    if y.ndim == 2:
        return _read_indicator(y)
    check_classification_targets(y)
    classes, numbers = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"Got y with one class only, {classes.tolist()}, expected at least two classes.")
    has = numbers[:, None] == np.arange(len(classes))
    return Targets(has[:, 1:] if len(classes) == 2 else has, classes, multilabel=False)


def _read_indicator(y: NDArray[Any]) -> Targets:
    """Read labels of which a record may have any number."""
    if type_of_target(y) != "multilabel-indicator" or not np.isin(y, [0, 1]).all():
        raise InputError(
            f"Got y of shape {y.shape} with values besides 0 and 1, expected a class for each record or an indicator "
            "of labels. Fit one probe for each column of classes."
        )
    return Targets(y.astype(np.bool_), [np.array([0, 1])] * y.shape[1], multilabel=True)
