"""Splits that keep patients apart: hold-outs, draws of labels, folds, and a warning for splits that do not.

Recordings of one patient resemble each other. When some of them are trained on and others tested on, the score is that
of recognizing patients.

Hold-outs and draws are stratified over patients by one iteration [1]_: labels are served from the rarest to the most
common, each by the patients who overfill the fewest other labels. A share of a label's patients that is not a whole
number is rounded up or down at random, so that over many draws each label has its share.

- :func:`hold_out` takes its randomness from a generator and never takes the last patient with a label, or the last
  without it, away from training.
- :func:`draw_patients` is a function of the patients' names and labels, the share and the draw's number, and of nothing
  else: neither of the order of the records nor of the version of a random number generator, for what is random is
  taken from SHA-256. ``draws_sha256.json`` holds the digests of the draws for PTB-XL, and every report lists the
  patients that it drew. At 1 % of the patients a rare label may be absent from a draw.

References
----------
.. [1] Sechidis K., Tsoumakas G., Vlahavas I. (2011). On the stratification of multi-label data. ECML PKDD.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.errors import LeakageWarning, ParameterError, ShapeError
from skecg.validation import check_integer, check_number, is_number

__all__ = [
    "FRACTIONS",
    "N_DRAWS",
    "check_fraction",
    "check_patients",
    "digest_of_patients",
    "draw_patients",
    "equal_rows",
    "hold_out",
    "number_patients",
    "patient_folds",
    "stratified_patient_folds",
    "warn_of_shared_patients",
]

#: Shares of the training patients of the standard table.
FRACTIONS = (0.01, 0.05, 0.1, 1.0)

#: Draws of each share below one.
N_DRAWS = 5

Rows = NDArray[np.intp]


def hold_out(
    labels: ArrayLike, groups: ArrayLike | None, fraction: float, rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Split records into those to train on and those to validate on, no patient on both sides.

    Parameters
    ----------
    labels : array-like of shape (n_records, n_labels), bool
        Which label each record has; may have no columns.
    groups : array-like of shape (n_records,) or None
        Who each record is of; None when each is of another.
    fraction : float
        Share of the patients to hold out, from 0 to less than 1.
    rng : numpy.random.Generator
        Draws the patients.

    Returns
    -------
    train, held : ndarray of int
        Row numbers, ascending. `held` is empty when `fraction` is 0, or when training needs every patient.

    Raises
    ------
    ParameterError
        When groups do not belong to the records, or the fraction is none.
    ShapeError
        When labels are no table.
    """
    has = _label_table(labels)
    who = np.arange(len(has)) if groups is None else np.asarray(groups)
    if who.shape != (len(has),):
        raise ParameterError(
            f"Got groups of shape {who.shape} for {len(has)} records, expected one patient for each. Pass "
            "groups=patients, in the order of the records."
        )
    check_fraction(fraction)
    _, member = number_patients(who)
    # Having a label and going without it are stratified alike, so that training keeps both.
    sides = _labels_of_patients(np.concatenate([has, ~has], axis=1), member)
    order = rng.permutation(len(sides))
    # Rounded at random: always down, a label of three patients would never be held out.
    wanted = np.floor(fraction * sides.sum(axis=0) + rng.random(sides.shape[1])).astype(np.int64)
    n_held = max(1, round(fraction * len(sides))) if fraction > 0 else 0
    held = _stratify(sides, order, wanted, n_held, keep_one=True)[member]
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_fraction(fraction: object) -> None:
    """Raise unless this is a share of patients that can be held out."""
    if not is_number(fraction) or not 0 <= float(fraction) < 1:
        raise ParameterError(f"Got validation_fraction={fraction!r}, expected a share from 0 to less than 1.")


def draw_patients(patients: ArrayLike, labels: ArrayLike, fraction: float, draw: int) -> NDArray[np.str_]:
    """Draw a share of the training patients, so that labels keep their shares.

    Parameters
    ----------
    patients : array-like of shape (n_records,)
        Whose recording each is; training records only.
    labels : array-like of shape (n_records, n_labels)
        Zeros and ones. A patient has the labels of all their recordings.
    fraction : float
        Share of the patients, more than 0 and at most 1. At least one patient is drawn.
    draw : int
        Number of the draw, from 0.

    Returns
    -------
    ndarray of str
        Names of the patients drawn, sorted.

    Raises
    ------
    ParameterError
        When `fraction` is not a share, `draw` negative, or a record without a patient.
    ShapeError
        When patients and labels do not belong together.

    Examples
    --------
    >>> import numpy as np
    >>> patients = [f"p{number}" for number in range(10)]
    >>> draw_patients(patients, np.eye(2, dtype=int)[[0, 1] * 5], 0.4, draw=0).size
    4
    """
    who, y = np.asarray(patients), np.asarray(labels)
    if y.ndim != 2 or who.shape != (len(y),) or len(y) == 0:
        raise ShapeError(f"Got patients of shape {who.shape} and labels of shape {y.shape}, expected (n,) and (n, L).")
    check_patients(who, "patients")  # all without one would be one
    who = who.astype(str)
    check_number("fraction", fraction, 0, 1, closed="right")
    check_integer("draw", draw, 0)
    names, index = np.unique(who, return_inverse=True)
    if fraction == 1:
        return names
    has = _labels_of_patients(y != 0, index)
    seed = f"{fraction:g}/{draw}"
    # By digests, not by a generator: NumPy may change its streams, published draws must not change.
    order = np.array(sorted(range(len(names)), key=lambda row: _digest(f"{seed}/{names[row]}")))
    # Not round(), which takes halves to the even number.
    n_drawn = max(1, math.floor(fraction * len(names) + 0.5))
    wanted = np.array([_round_at_random(fraction * count, f"{seed}/{k}") for k, count in enumerate(has.sum(axis=0))])
    return np.sort(names[_stratify(has, order, wanted, n_drawn)])


def digest_of_patients(patients: ArrayLike) -> str:
    """Return the SHA-256 of the names of patients, sorted and with a line feed after each; for checking a draw."""
    names = sorted(np.asarray(patients).astype(str).tolist())
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _round_at_random(value: float, seed: str) -> int:
    """Return a value rounded up with the probability of its fraction, and down otherwise."""
    chance = int.from_bytes(_digest(seed)[:8], "big") / 2**64
    return math.floor(value) + (chance < value - math.floor(value))


def _stratify(
    has: NDArray[np.bool_], order: Rows, wanted: NDArray[np.int64], n_drawn: int, *, keep_one: bool = False
) -> NDArray[np.bool_]:
    """Draw patients so that each label is had by as many as wanted, as far as labels that go together allow.

    Parameters
    ----------
    has : ndarray of shape (n_patients, n_labels), bool
    order : ndarray of shape (n_patients,), int
        Whom to prefer of those who fit equally well.
    wanted : ndarray of shape (n_labels,), int
        Patients to draw of each label.
    n_drawn : int
        Patients to draw in all.
    keep_one : bool, default=False
        Whether of each label one patient is left, even if fewer are drawn then.

    Returns
    -------
    ndarray of shape (n_patients,), bool
    """
    drawn, missing, left = np.zeros(len(has), dtype=np.bool_), wanted.copy(), has.sum(axis=0)
    n_so_far = 0

    def take(candidates: Rows, label: int | None) -> None:
        nonlocal n_so_far
        overfull = (has[candidates] & (missing <= 0)).sum(axis=1)
        if label is None and not keep_one:
            # Who fills up the number: draws of PTB-XL are published, and were made with one full label as bad as many.
            overfull = np.minimum(overfull, 1)
        # Stable: of those who overfill as many labels, the order that was drawn decides.
        for patient in candidates[np.argsort(overfull, kind="stable")]:
            if n_so_far >= n_drawn or (label is not None and missing[label] <= 0):
                return
            # The last with a label stays for training, which could not learn it otherwise.
            if not keep_one or (left[has[patient]] > 1).all():
                drawn[patient] = True
                n_so_far += 1
                left[has[patient]] -= 1
                missing[has[patient]] -= 1

    for label in np.argsort(left, kind="stable"):  # the rarest first, while there is a choice
        take(order[has[order, label] & ~drawn[order]], int(label))
    take(order[~drawn[order]], None)
    return drawn


def check_patients(who: NDArray[Any], what: str = "groups") -> None:
    """Raise where a record has no patient; `what` is the caller's word for them."""
    try:
        missing = [row for row, name in enumerate(who.tolist()) if name is None or name != name]
    except TypeError as error:  # pandas' NA is neither itself nor another
        raise _incomparable(what, error) from error
    if missing:
        raise ParameterError(
            f"Got {what} without a patient for {len(missing)} of {len(who)} records (record {missing[0]} first), "
            "expected one for each. Give each such record a name of its own, or leave it out."
        )


def number_patients(who: NDArray[Any], what: str = "groups") -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the patients' names, and each record's place among them, or raise where a record has none."""
    check_patients(who, what)
    try:
        return np.unique(who, return_inverse=True)
    except TypeError as error:
        raise _incomparable(what, error) from error


def _incomparable(what: str, error: TypeError) -> ParameterError:
    return ParameterError(
        f"Got {what} that cannot be compared ({error}), expected text or numbers, of one kind and none missing."
    )


def _label_table(labels: ArrayLike, n_records: int | None = None) -> NDArray[np.bool_]:
    """Return which labels each record has, refusing what is no table with a row for each."""
    table = np.asarray(labels)
    if table.ndim != 2 or (n_records is not None and len(table) != n_records):
        wanted = "n_records" if n_records is None else str(n_records)
        raise ShapeError(
            f"Got labels of shape {table.shape}, expected ({wanted}, n_labels). A single label is one column: "
            "labels[:, None]."
        )
    return table != 0


def _labels_of_patients(has: NDArray[np.bool_], member: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which labels any recording of a patient has, (n_patients, n_labels)."""
    table = np.zeros((int(member.max(initial=-1)) + 1, has.shape[1]), dtype=np.bool_)
    np.logical_or.at(table, member, has)
    return table


def patient_folds(patients: NDArray[np.generic], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold (from 0) of each record's patient; folds hold equally many patients, or one more."""
    names, index = _names_for_folds(patients, n_folds)
    return (np.random.default_rng(seed).permutation(len(names)) % n_folds)[index]


def _names_for_folds(patients: ArrayLike, n_folds: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the patients' names, and each record's place among them, or raise where they are fewer than the folds."""
    names, index = number_patients(np.asarray(patients))
    if len(names) < n_folds:
        raise ParameterError(
            f"Got {len(names)} patients for {n_folds} folds, expected a patient for each. Take fewer folds or more "
            "patients."
        )
    return names, index


def stratified_patient_folds(patients: ArrayLike, labels: ArrayLike, n_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the fold (from 0) of each record's patient, so that each fold has its share of every label.

    Parameters
    ----------
    patients : array-like of shape (n_records,)
    labels : array-like of shape (n_records, n_labels)
        Zeros and ones; no columns where nothing is to be stratified.
    n_folds : int
        At least 2.
    seed : int, default=0

    Returns
    -------
    ndarray of shape (n_records,), int64

    Raises
    ------
    ParameterError
        When there are fewer patients than folds, or a record has none.
    ShapeError
        When labels are no table, or not as many as patients.
    """
    check_integer("n_folds", n_folds, 2)
    table = _label_table(labels, len(np.asarray(patients)))
    names, index = _names_for_folds(patients, n_folds)
    has, rng = _labels_of_patients(table, index), np.random.default_rng(seed)
    folds = np.full(len(names), n_folds - 1, dtype=np.int64)
    left = rng.permutation(len(names))
    for fold in range(n_folds - 1):
        # Of what is left, so that the folds come out equal.
        share = 1 / (n_folds - fold)
        wanted = np.floor(has[left].sum(axis=0) * share + rng.random(has.shape[1])).astype(np.int64)
        drawn = _stratify(has[left], np.arange(len(left)), wanted, round(len(left) * share))
        folds[left[drawn]] = fold
        left = left[~drawn]
    return folds[index]


def equal_rows(features: NDArray[Any]) -> list[tuple[int, int]]:
    """Return each row that equals an earlier one to the bit, behind that one: equal recordings have equal features."""
    first: dict[bytes, int] = {}
    return [
        (other, row)
        for row, content in enumerate(map(bytes, np.ascontiguousarray(features)))
        if (other := first.setdefault(content, row)) != row
    ]


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
    number_patients(who, "patients")
    if isinstance(cv, Iterator):
        raise ParameterError(f"Got cv of type {type(cv).__name__}, which can be read but once. Pass list(cv).")
    splitter = check_cv(cv, y, classifier=True)
    # Splitters ask for the number of records only, and the records may be files that nobody wants to read here.
    rows = np.zeros((len(X), 1))
    with warnings.catch_warnings():
        # What the splitter ignores is what this finds out.
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
