"""Ridge regression of numbers on embeddings, its penalty chosen by patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skecg.errors import ParameterError
from skecg.linear_model.logistic import read_features
from skecg.splits import patient_folds
from skecg.validation import check_flag, check_integer, check_number, check_squares

__all__ = ["ALPHAS", "RidgeProbe"]

#: Ridge penalties to choose from.
ALPHAS = tuple(10.0**power for power in range(-1, 6))  # 0.1 to 1e5


class RidgeProbe(RegressorMixin, BaseEstimator):
    """Ridge regression on standardized features; the penalty is chosen by cross-validation among the patients.

    scikit-learn's own :class:`~sklearn.linear_model.Ridge` behind a :class:`~sklearn.preprocessing.StandardScaler`. No
    patient is in two folds.

    Parameters
    ----------
    alphas : sequence of float, default=(0.1, 1, ..., 1e5)
        Penalties to choose from, of standardized features; the one with the smallest squared error is taken.
    n_folds : int, default=5
        Parts of the patients for choosing; fewer where there are fewer patients.
    random_state : int, default=0
        Decides who is in which part.
    standardize : bool, default=True
        Whether each feature is brought to a deviation of 1. False divides all by one number, for features whose scales
        say what counts, as with ``truncate_dim``.

    Attributes
    ----------
    alpha_ : float
        The penalty chosen.
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features), float64
        Of standardized features.
    intercept_ : float or ndarray of shape (n_targets,)
    mean_, scale_ : ndarray of shape (n_features,), float64
        What features are standardized by.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, one for each feature
        Names of the columns, when they have names.

    See Also
    --------
    skecg.LogisticProbe : For classes and labels.
    skecg.FineTunedRegressor : Encoder and regression trained together.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skecg import JEPAEmbedder, RidgeProbe
    >>> from skecg.datasets import make_ecg
    >>> records, facts = make_ecg(12, random_state=0)
    >>> make_pipeline(JEPAEmbedder(), RidgeProbe()).fit(records, facts["heart_rate"]).predict(records).shape
    (12,)
    """

    def __init__(
        self, alphas: Sequence[float] = ALPHAS, *, n_folds: int = 5, random_state: int = 0, standardize: bool = True
    ) -> None:
        self.alphas = alphas
        self.n_folds = n_folds
        self.random_state = random_state
        self.standardize = standardize

    def fit(self, X: Any, y: Any, groups: ArrayLike | None = None) -> Self:
        """Choose the penalty and fit.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            For example what :meth:`skecg.JEPAEmbedder.transform` gives.
        y : array-like of shape (n_records,) or (n_records, n_targets)
        groups : array-like of shape (n_records,), optional
            Who each record is of. Without it, each record counts as a patient.

        Returns
        -------
        self

        Raises
        ------
        ParameterError
            When a parameter has a value that is not allowed, y holds no numbers, groups do not belong to the records,
            or there is one patient only.
        InputError
            When X or y holds what is no finite number, or X numbers whose squares are none.
        """
        self._check_parameters()
        X, y = read_features(self, X, y, multi_output=True, y_numeric=True)
        check_squares(X)
        if y.dtype.kind not in "fiub":
            raise ParameterError(f"Got y of dtype {y.dtype}, expected numbers. Convert them to one unit, such as days.")
        who = np.arange(len(X)) if groups is None else np.asarray(groups)
        if who.shape != (len(X),):
            raise ParameterError(f"Got groups of shape {who.shape} for {len(X)} records, expected one for each.")
        n_patients = len({*who.tolist()})
        if n_patients < 2:
            raise ParameterError(
                f"Got 1 sample or patient ({len(X)} record(s)), expected at least two to choose a penalty by."
            )
        folds = patient_folds(who, min(self.n_folds, n_patients), self.random_state)
        self.alpha_ = self._choose(X, y, folds)
        scaler = self._scaler(X)
        ridge = Ridge(self.alpha_).fit(scaler.transform(X), y)
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        self.coef_, self.intercept_ = ridge.coef_, ridge.intercept_
        return self

    def predict(self, X: Any) -> NDArray[np.floating]:
        """Predict numbers.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)

        Returns
        -------
        ndarray of shape (n_records,) or (n_records, n_targets)
        """
        check_is_fitted(self)
        X = read_features(self, X, reset=False)
        predicted: NDArray[np.floating] = (X - self.mean_) / self.scale_ @ self.coef_.T + self.intercept_
        return predicted

    def _choose(self, X: NDArray[Any], y: NDArray[Any], folds: NDArray[np.int64]) -> float:
        """Return the penalty whose mean squared error over the folds is smallest."""
        alphas = np.asarray(self.alphas, dtype=np.float64)
        # All penalties in one fit: each copy of the targets has its own.
        variances = y.reshape(len(y), -1).var(axis=0)
        variances[variances == 0] = 1.0
        copies = np.tile(y.reshape(len(y), -1), len(alphas))
        each = np.repeat(alphas, copies.shape[1] // len(alphas))
        errors = []
        for fold in range(folds.max() + 1):
            train, test = folds != fold, folds == fold
            # Within the fold: the records tested must not say how features are scaled.
            scaler = self._scaler(X[train])
            ridge = Ridge(each).fit(scaler.transform(X[train]), copies[train])
            squared = np.square(ridge.predict(scaler.transform(X[test])).reshape(copies[test].shape) - copies[test])
            # In variances of each target, whose units must not say which of them decides.
            errors.append((squared.mean(axis=0).reshape(len(alphas), -1) / variances).mean(axis=1))
        return float(alphas[np.mean(errors, axis=0).argmin()])

    def _scaler(self, X: NDArray[Any]) -> StandardScaler:
        scaler = StandardScaler().fit(X)
        if not self.standardize:
            # One number for all: penalties mean the same, and features keep their proportions.
            scaler.scale_ = np.full_like(scaler.scale_, np.sqrt(scaler.var_.mean()) or 1.0)
        return scaler

    def _check_parameters(self) -> None:
        if not hasattr(self.alphas, "__len__") or isinstance(self.alphas, str) or not len(self.alphas):
            raise ParameterError(f"Got alphas={self.alphas!r}, expected a list of at least one number.")
        check_integer("random_state", self.random_state, 0)
        for alpha in self.alphas:
            check_number("alphas", alpha, 0, closed="left")
        check_integer("n_folds", self.n_folds, 2)
        check_flag("standardize", self.standardize)

    def __sklearn_tags__(self) -> Tags:
        tags: Any = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
