"""What a user passes to an estimator as X, checked as scikit-learn checks and made a source of records."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_n_features, validate_data

from skecg.errors import ParameterError, ShapeError
from skecg.inputs import RecordSource, as_items, as_plain, is_numeric_array

__all__ = ["receive"]


def receive(
    estimator: Any, X: Any, sampling_rate: ArrayLike | None, *, reset: bool, refuse_gaps: bool = True
) -> RecordSource:
    """Make a source of records of X.

    Parameters
    ----------
    estimator : object
        Has ``sampling_rate``, ``leads`` and ``units``; is given ``n_features_in_`` and ``feature_names_in_`` where X
        is one array.
    X : array-like
        Records, as :class:`skecg.JEPAEmbedder` takes them.
    sampling_rate : float or array-like of shape (n_records,), optional
        Instead of the estimator's.
    reset : bool
        Whether the estimator is being fitted, or X has to be like what it was fitted with.
    refuse_gaps : bool, default=True
        See :class:`skecg.inputs.RecordSource`.

    Raises
    ------
    InputError
        When X is not what it should be.
    """
    X = as_plain(X)
    items = _check_array(estimator, X, reset=reset) if is_numeric_array(X) else as_items(X)
    return RecordSource(
        items,
        sampling_rate=estimator.sampling_rate if sampling_rate is None else sampling_rate,
        leads=estimator.leads,
        units=estimator.units,
        refuse_gaps=refuse_gaps,
    )


def _check_array(estimator: Any, X: Any, *, reset: bool) -> NDArray[Any]:
    """Check one array of numbers as scikit-learn does, making its ValueErrors ours."""
    try:
        X = validate_data(
            estimator, X, reset=reset, dtype="numeric", ensure_2d=False, allow_nd=True, ensure_all_finite=False
        )
        if X.ndim in (2, 3):
            _check_n_features(estimator, X, reset=reset)
    except ValueError as error:
        # Some messages end in the whole array.
        raise ShapeError(str(error).partition("\n[")[0]) from error
    if X.ndim not in (2, 3):
        raise ParameterError(
            f"Got X of shape {X.shape}. Expected 2D array (one lead per record) or 3D array "
            "(n_records, n_leads, n_samples). Reshape your data: one record is X[np.newaxis]."
        )
    return np.asarray(X)
