"""LogisticProbe: logistic regression for embeddings, one label or a hundred at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from skecg.errors import InputError, ParameterError, user_stacklevel
from skecg.linear_model.newton import Design, Sigmoid, Softmax, Solution, minimize, whiten
from skecg.validation import as_numbers, check_unmasked, is_integer, is_number

__all__ = ["LogisticProbe", "Targets", "read_features", "read_targets", "read_weights"]

_LONGEST_MESSAGE = 400  # some of scikit-learn's end in the whole array
CONSTANT_LOGIT = 50.0  # of a label that all records have, or none: a probability of 1, or of 2e-22


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
        """Return which labels have a best regression, (L,), and warn of the others.

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
        """Return C for each label, (L,)."""
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
        if not isinstance(class_weight, Sequence):
            raise ParameterError(f"Got class_weight={class_weight!r}, expected None, 'balanced' or dicts.")
        if len(class_weight) != n_labels:
            raise ParameterError(
                f"Got class_weight for {len(class_weight)} labels and y of {n_labels}, expected one dict for each."
            )
        totals = np.stack([(weight * ~self.has).sum(axis=0), (weight * self.has).sum(axis=0)])
        factors = np.stack(
            [_factors(w, self.classes[i], totals[:, i]) for i, w in enumerate(class_weight)], axis=1
        )  # (2, L)
        return weight * np.where(self.has, factors[1], factors[0])


def _factors(class_weight: Any, classes: NDArray[Any], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each class weighs, of which the records weigh `totals`."""
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


def read_features(estimator: BaseEstimator, X: Any, y: Any = "no_validation", **options: Any) -> Any:
    """Check features, and `y` if it is given, as :func:`sklearn.utils.validation.validate_data` does and returns them.

    Raises
    ------
    InputError
        When it does, or values are masked.
    """
    for name, values in (("X", X), ("y", y)):
        check_unmasked(name, values)
    try:
        return validate_data(estimator, X, y, dtype=[np.float64, np.float32], **options)
    except ValueError as error:
        message = str(error)[:_LONGEST_MESSAGE]
        if "X contains NaN" in message:  # the lines after it praise estimators that take NaN
            message = message.partition("\n")[0] + " A recording that could not be embedded has a row of NaN."
        raise InputError(message) from error
    except TypeError as error:
        if "value of NA" not in str(error):
            raise
        raise InputError("Got y with pandas.NA among the classes. Leave such records out.") from error


def read_weights(sample_weight: ArrayLike | None, n_records: int) -> NDArray[np.float64]:
    """Return the weights of records, (N,), none of them negative and not all 0."""
    weight = np.ones(n_records) if sample_weight is None else as_numbers("sample_weight", sample_weight)
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
        When there is one class only, classes are of several kinds, or several columns are not of 0 and 1.
    """
    y = cast(Any, y).toarray() if sparse.issparse(y) else np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        message = "A column-vector y was passed when a 1d array was expected. Pass y.ravel()."
        warnings.warn(message, DataConversionWarning, stacklevel=user_stacklevel())
        y = y.ravel()
    if y.ndim == 2:
        return _read_indicator(y)
    try:
        check_classification_targets(y)
        classes, numbers = np.unique(y, return_inverse=True)
    except ValueError as error:
        raise InputError(str(error)) from error
    except TypeError as error:
        raise InputError(
            f"Got y whose classes cannot be compared ({error}), expected text, numbers or booleans, of one kind and "
            "none missing."
        ) from error
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


class LogisticProbe(ClassifierMixin, BaseEstimator):
    """Logistic regression with an L2 penalty, fast for many labels on the same features.

    The objective is that of :class:`sklearn.linear_model.LogisticRegression`, and so is the solution: for each label
    ``C`` times the sum of the log-losses of its records plus half the squared norm of its weights, the intercept left
    out of the penalty. All labels are solved together, by Newton's method with conjugate gradients on whitened
    features. Features are used as they are; standardize them when their scales mean nothing.

    Parameters
    ----------
    C : float or array-like of shape (n_labels,), default=1.0
        Inverse strength of the penalty, one for all labels or one for each column of an indicator `y`.
    class_weight : None, "balanced", dict or list of dict, default=None
        What the records of a class weigh. ``"balanced"`` gives the classes of each label the same total. A dict maps
        classes to weights (0 and 1 for an indicator); a list of dicts has one for each column of an indicator.
    fit_intercept : bool, default=True
        Whether to fit a constant, which is not penalized.
    tol : float, default=1e-6
        A label is done when the last step promised to lower its objective by less than ``tol**2`` times its value;
        decision values are then accurate to about `tol`.
    max_iter : int, default=100
        Most Newton steps; few problems take more than 15.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or list of n_labels ndarray
        Classes of a `y` of one column; for an indicator, ``[0, 1]`` for each label.
    coef_ : ndarray of shape (n_labels, n_features), float64
        Weights. One row for two classes, one for each of more classes, one for each label of an indicator.
    intercept_ : ndarray of shape (n_labels,), float64
        Constants.
    n_iter_ : ndarray of shape (n_labels,) or (1,)
        Newton steps taken for each label of an indicator, 0 for a constant one; for classes, one number.
    multilabel_ : bool
        Whether `y` was an indicator.
    n_features_in_ : int
        Columns of `X`.
    feature_names_in_ : ndarray of str, one for each feature
        Names of the columns, when they have names.

    Notes
    -----
    More than two classes are one softmax, as in scikit-learn. A label of an indicator that all records have, or none,
    cannot be learned: it is given the same constant for every record, and warned of. Records of weight 0 count as
    absent. Float32 features are kept in float32, which takes half the memory; gradients are computed in float64 all
    the same. The cost grows with n_records times the square of n_features; beyond 4,096 of both, features are scaled
    but not rotated, and ill-conditioned ones take longer.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> Y = X[:, :3] > [0, 1, 2]
    >>> probe = LogisticProbe().fit(X, Y)
    >>> probe.predict_proba(X).shape
    (200, 3)
    >>> [float(p.C) for p in LogisticProbe().path(X, Y, [0.01, 1, 100])]
    [0.01, 1.0, 100.0]
    """

    def __init__(
        self,
        C: float | ArrayLike = 1.0,
        *,
        class_weight: str | Mapping[Any, float] | Sequence[Mapping[int, float]] | None = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        max_iter: int = 100,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Fit one regression for each label.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            Features, float32 or float64.
        y : array-like of shape (n_records,), or array-like or sparse matrix of shape (n_records, n_labels)
            A class for each record, or an indicator: 1 where a record has a label, else 0.
        sample_weight : array-like of shape (n_records,), default=None
            What each record counts; None is 1.

        Returns
        -------
        LogisticProbe
            Itself, fitted.

        Raises
        ------
        ParameterError
            When a parameter has a value that is not allowed, or does not go with `y`.
        InputError
            When `y` holds one class only, or is neither classes nor an indicator; or when features are so large that
            their squares are not finite.
        """
        self._check_parameters()
        _fit_in_turn([self], X, y, sample_weight)
        return self

    def path(
        self, X: ArrayLike, y: Any, Cs: Sequence[float | ArrayLike], sample_weight: ArrayLike | None = None
    ) -> list[LogisticProbe]:
        """Fit one probe for each C, each from where the one before ended.

        Features are whitened once; this probe itself stays as it was.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`.
        Cs : sequence of float, or of array-like of shape (n_labels,)
            Values of `C`, in any order.

        Returns
        -------
        list of LogisticProbe
            Fitted, in the order of `Cs`.

        Raises
        ------
        ParameterError, InputError
            As for :meth:`fit`.
        """
        probes = [clone(self).set_params(C=C) for C in Cs]
        for probe in probes:
            probe._check_parameters()
        # From the strongest penalty on: its solution is nearest to 0, where the first one starts.
        _fit_in_turn(sorted(probes, key=lambda probe: float(np.mean(np.asarray(probe.C)))), X, y, sample_weight)
        return probes

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the log-odds.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_records,) or (n_records, n_labels)
            Of the second of two classes; of each of more classes, up to a constant; or of each label.

        Raises
        ------
        InputError
            When features are so large that the log-odds are not finite.
        """
        check_is_fitted(self)
        features: NDArray[Any] = read_features(self, X, reset=False)
        with np.errstate(over="ignore", invalid="ignore"):  # said below, in words
            logits: NDArray[np.float64] = features @ self.coef_.T + self.intercept_
        if not np.isfinite(logits).all():
            raise InputError(
                f"Got features of up to {np.abs(features).max():.3g}, whose log-odds are not finite; expected features "
                "like those of the fit. Standardize both."
            )
        return logits if self.multilabel_ or logits.shape[1] > 1 else logits[:, 0]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return probabilities.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_records, n_classes) or (n_records, n_labels)
            Of each class, adding up to 1 in each row; or of each label of an indicator.
        """
        logits = self.decision_function(X)
        if self.multilabel_:
            return special.expit(logits)
        if logits.ndim == 1:
            # Not 1 minus the other: a small probability would lose its digits.
            return special.expit(np.stack([-logits, logits], axis=1))
        return special.softmax(logits, axis=1)

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the logarithms of the probabilities.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            Features.

        Returns
        -------
        ndarray
            As :meth:`predict_proba`.
        """
        logits = self.decision_function(X)
        if self.multilabel_:
            return special.log_expit(logits)
        if logits.ndim == 1:
            # Not the logarithm of expit, which is minus infinity where expit rounds to 0.
            return special.log_expit(np.stack([-logits, logits], axis=1))
        return special.log_softmax(logits, axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class, or the labels that are more probable than not.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_records,) or (n_records, n_labels)
            Classes, or an int64 indicator.
        """
        logits = self.decision_function(X)
        if self.multilabel_:
            return (logits > 0).astype(np.int64)
        return self.classes_[logits.argmax(axis=1) if logits.ndim > 1 else (logits > 0).astype(np.int64)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _check_parameters(self) -> None:
        """Raise for values that are wrong whatever the data."""
        try:
            strengths = np.asarray(self.C, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"Got C={self.C!r}, expected a number, or one for each label.") from error
        if strengths.ndim > 1 or strengths.size == 0 or not (np.isfinite(strengths) & (strengths > 0)).all():
            raise ParameterError(f"Got C={self.C!r}, expected a positive number, or one for each label.")
        if not is_number(self.tol) or not 0 < self.tol < 1:
            raise ParameterError(f"Got tol={self.tol!r}, expected a number between 0 and 1.")
        if not is_integer(self.max_iter, 1):
            raise ParameterError(f"Got max_iter={self.max_iter!r}, expected a positive integer.")

    def _keep(self, targets: Targets, learned: NDArray[np.bool_], design: Design, solution: Solution) -> None:
        """Become fitted: what was learned, and constants for the rest."""
        self.classes_, self.multilabel_ = targets.classes, targets.multilabel
        n_labels, n_features = targets.has.shape[1], len(design.center)
        self.coef_ = np.zeros((n_labels, n_features))
        self.intercept_ = np.where(targets.has.all(axis=0), CONSTANT_LOGIT, -CONSTANT_LOGIT)
        self.coef_[learned], self.intercept_[learned] = design.weights(solution.u)
        if targets.joint:
            self.intercept_ -= self.intercept_.mean()  # a common constant changes no probability
        self.n_iter_ = np.zeros(1 if targets.joint else n_labels, np.int64)
        self.n_iter_[learned[: len(self.n_iter_)]] = solution.n_iter
        if not solution.converged.all():
            warnings.warn(
                f"{np.sum(~solution.converged)} of {len(solution.converged)} regressions did not converge in "
                f"max_iter={self.max_iter} steps. Standardize the features, lower C, or raise max_iter.",
                ConvergenceWarning,
                stacklevel=user_stacklevel(),
            )


def _fit_in_turn(probes: Sequence[LogisticProbe], X: Any, y: Any, sample_weight: ArrayLike | None) -> None:
    """Fit probes that differ in C, each from where the one before ended."""
    if len(probes) == 0:
        return
    first = probes[0]
    X, y = read_features(first, X, y, multi_output=True)
    weight = read_weights(sample_weight, len(X))
    present = weight > 0
    if not present.all():
        X, y, weight = X[present], y[present], weight[present]
    targets = read_targets(y)
    strengths = [targets.spread(probe.C) for probe in probes]
    learned = targets.find_learnable(bool(first.fit_intercept))
    weigh = targets.weigh(weight[:, None], first.class_weight)
    some = np.flatnonzero(learned)
    loss = Softmax(targets.has, weigh) if targets.joint else Sigmoid(targets.has, weigh).select(some)
    design, u = whiten(X, bool(first.fit_intercept)), None
    for probe, C in zip(probes, strengths, strict=True):
        solution = minimize(design, loss, C[learned], u, tol=first.tol, max_iter=first.max_iter)
        u = solution.u
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(first, name):
                setattr(probe, name, getattr(first, name))
        probe._keep(targets, learned, design, solution)
