"""Splits that keep patients apart, and a warning for those that do not.

Recordings of one patient resemble each other. When some of them are trained on and others tested on, the score is that
of recognizing patients.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skecg.errors import LeakageWarning, ParameterError

__all__ = ["warn_of_shared_patients"]


def warn_of_shared_patients(cv: Any, X: Any, y: ArrayLike | None, patients: ArrayLike) -> int:
    """Warn when a cross-validation trains and tests on recordings of the same patient.

    Parameters
    ----------
    cv : int or scikit-learn splitter
        As for :func:`sklearn.model_selection.cross_val_score` of a classifier.
    X : sequence of length n_records
        Only its length counts.
    y : array-like of shape (n_records,) or None
        Labels, for splitters that stratify.
    patients : array-like of shape (n_records,)
        Who each recording is of; handed to the splitter as `groups`.

    Returns
    -------
    int
        Largest number of patients that sit on both sides of one split.

    Warns
    -----
    LeakageWarning
        When that number is not 0.

    Examples
    --------
    >>> from sklearn.model_selection import GroupKFold
    >>> warn_of_shared_patients(GroupKFold(2), range(4), [0, 1, 0, 1], ["a", "a", "b", "b"])
    0
    """
    from sklearn.model_selection import check_cv

    who = np.asarray(patients)
    if who.shape != (len(X),):
        raise ParameterError(f"Got patients of shape {who.shape} for {len(X)} records, expected one name for each.")
    splitter = check_cv(cv, y, classifier=True)
    rows = np.zeros((len(X), 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The groups parameter is ignored")
        shared = [len(np.intersect1d(who[train], who[test])) for train, test in splitter.split(rows, y, groups=who)]
    if max(shared) > 0:
        warnings.warn(
            f"Got a {type(splitter).__name__} whose splits train and test on the same patients (up to {max(shared)} of "
            f"{len(np.unique(who))} in one split), so scores will be too good. Use StratifiedGroupKFold, and pass "
            "groups=patients to cross_val_score.",
            LeakageWarning,
            stacklevel=2,
        )
    return max(shared)
