"""Splits that keep patients apart, and a warning for those that do not.

Recordings of one patient resemble each other. When some of them are trained on and others tested on, the score is that
of recognizing patients.

Which records validate: whole patients, with the labels in the shares that they have.

Iterative stratification over patients (Sechidis, Tsoumakas and Vlahavas, 2011), in which training never loses the last
patient with a label, or the last without it.

Which training patients a share of the labels is: draws that anyone can repeat.

A draw is a function of the patients' names and labels, the share and the draw's number, and of nothing else: neither
of the order of the records nor of the version of a random number generator, for what is random is taken from SHA-256.
``draws_sha256.json`` holds the digests of the draws for PTB-XL, and every report lists the patients that it drew.

Draws are stratified (iterative stratification of several labels a patient). A share of a label's patients that is not
a whole number is rounded up or down at random, so that over many draws each label has its share; at 1 % of the patients
a rare label may therefore be absent from a draw.

References
----------
.. [1] Sechidis K., Tsoumakas G., Vlahavas I. (2011). On the stratification of multi-label data. ECML PKDD.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.errors import LeakageWarning, ParameterError, ShapeError

__all__ = [
    "FRACTIONS",
    "N_DRAWS",
    "check_fraction",
    "digest_of_patients",
    "draw_patients",
    "hold_out",
    "warn_of_shared_patients",
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


Rows = NDArray[np.intp]


def check_fraction(fraction: object) -> None:
    """Refuse what is no share of patients to hold out."""
    number = isinstance(fraction, numbers.Real) and not isinstance(fraction, bool)
    if not (number and 0 <= float(fraction) < 1):  # type: ignore[arg-type]
        raise ParameterError(f"Got validation_fraction={fraction!r}, expected a share from 0 to less than 1.")


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
    """
    has = np.asarray(labels, dtype=np.bool_)
    who = np.arange(len(has)) if groups is None else np.asarray(groups)
    if who.shape != (len(has),):
        raise ParameterError(
            f"Got groups of shape {who.shape} for {len(has)} records, expected one patient for each. Pass "
            "groups=patients, in the order of the records."
        )
    check_fraction(fraction)
    member = _members(who)
    held = _draw(_sides_of(has, member), fraction, rng)[member]
    return np.flatnonzero(~held), np.flatnonzero(held)


def _members(who: NDArray[Any]) -> NDArray[np.intp]:
    """Give each record the number of its patient, (n_records,), refusing records of nobody known."""
    try:
        missing = [row for row, name in enumerate(who.tolist()) if name is None or name != name]
        member: NDArray[np.intp] = np.unique(who[:0] if missing else who, return_inverse=True)[1]
    except TypeError as error:
        raise ParameterError(
            f"Got groups that cannot be compared ({error}), expected text or numbers, of one kind and none missing."
        ) from error
    if missing:
        raise ParameterError(
            f"Got groups without a patient for {len(missing)} of {len(who)} records (record {missing[0]} first), "
            "expected one for each. Give each such record a name of its own, or leave it out."
        )
    return member


def _sides_of(has: NDArray[np.bool_], member: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Say of each patient which labels they have and which they go without, (n_patients, 2 n_labels)."""
    both = np.concatenate([has, ~has], axis=1)
    sides = np.zeros((int(member.max(initial=-1)) + 1, both.shape[1]), dtype=np.bool_)
    np.logical_or.at(sides, member, both)
    return sides


def _draw(sides: NDArray[np.bool_], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose patients, the rarest side first; (n_patients,), true for those held out."""
    n_patients = len(sides)
    n_held = max(1, round(fraction * n_patients)) if fraction > 0 else 0
    left, order = sides.sum(axis=0), rng.permutation(n_patients)
    missing = np.floor(fraction * left + rng.random(len(left))).astype(np.int64)
    held = np.zeros(n_patients, dtype=np.bool_)

    def take(candidates: Rows, side: int | None) -> None:
        for patient in candidates:
            if held.sum() >= n_held or (side is not None and missing[side] <= 0):
                return
            if (left[sides[patient]] > 1).all():
                held[patient] = True
                left[sides[patient]] -= 1
                missing[sides[patient]] -= 1

    for side in np.argsort(left, kind="stable"):
        members = order[sides[order, side] & ~held[order]]
        take(_least_overfilling(sides, members, missing), int(side))
    take(_least_overfilling(sides, order[~held[order]], missing), None)
    return held


def _least_overfilling(sides: NDArray[np.bool_], patients: Rows, missing: NDArray[np.int64]) -> Rows:
    """Put those first who fill the fewest sides that are full already."""
    overfull = (sides[patients] & (missing <= 0)).sum(axis=1)
    return patients[np.argsort(overfull, kind="stable")]


#: Shares of the training patients of the standard table.
FRACTIONS = (0.01, 0.05, 0.1, 1.0)


#: Draws of each share below one.
N_DRAWS = 5


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
        When `fraction` is not a share, or `draw` negative.
    ShapeError
        When patients and labels do not belong together.

    Examples
    --------
    >>> import numpy as np
    >>> patients = [f"p{number}" for number in range(10)]
    >>> draw_patients(patients, np.eye(2, dtype=int)[[0, 1] * 5], 0.4, draw=0).size
    4
    """
    who, y = np.asarray(patients).astype(str), np.asarray(labels)
    if y.ndim != 2 or who.shape != (len(y),) or len(y) == 0:
        raise ShapeError(f"Got patients of shape {who.shape} and labels of shape {y.shape}, expected (n,) and (n, L).")
    if not 0 < fraction <= 1 or draw < 0:
        raise ParameterError(f"Got fraction={fraction!r} and draw={draw!r}, expected 0 < fraction <= 1 and 0 or more.")
    names, index = np.unique(who, return_inverse=True)
    if fraction == 1:
        return names
    has = np.zeros((len(names), y.shape[1]), dtype=bool)
    np.logical_or.at(has, index, y != 0)
    seed = f"{fraction:g}/{draw}"
    order = sorted(range(len(names)), key=lambda row: _digest(f"{seed}/{names[row]}"))
    n_drawn = max(1, math.floor(fraction * len(names) + 0.5))
    wanted = np.array([_round_at_random(fraction * count, f"{seed}/{k}") for k, count in enumerate(has.sum(axis=0))])
    return np.sort(names[_stratify(has, order, wanted, n_drawn)])


def digest_of_patients(patients: ArrayLike) -> str:
    """Give the SHA-256 of the names of patients, sorted and with a line feed after each; for checking a draw."""
    names = sorted(np.asarray(patients).astype(str).tolist())
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _round_at_random(value: float, seed: str) -> int:
    """Round up with the probability of what is behind the point."""
    chance = int.from_bytes(_digest(seed)[:8], "big") / 2**64
    return math.floor(value) + (chance < value - math.floor(value))


def _stratify(has: NDArray[np.bool_], order: list[int], wanted: NDArray[np.int64], n_drawn: int) -> NDArray[np.int64]:
    """Choose patients so that each label is had by as many as wanted, as far as labels that go together allow.

    Labels are served from the rarest, each by the first patients in order who have no label that is full already;
    where these do not suffice, by the first at all.
    """
    drawn = np.zeros(len(has), dtype=bool)
    missing = wanted.copy()
    ordered = np.array(order)
    for label in np.argsort(has.sum(axis=0), kind="stable"):
        for patient in _first_fitting(has, ordered, drawn, missing, int(label)):
            if missing[label] <= 0 or drawn.sum() >= n_drawn:
                break
            drawn[patient] = True
            missing -= has[patient]
    # Patients without a label, and whoever is needed for the number to be right, in the same order.
    rest = ordered[~drawn[ordered]]
    free = ~(has[rest] & (missing <= 0)).any(axis=1)
    drawn[np.concatenate([rest[free], rest[~free]])[: n_drawn - drawn.sum()]] = True
    return np.flatnonzero(drawn)


def _first_fitting(
    has: NDArray[np.bool_], ordered: NDArray[np.int64], drawn: NDArray[np.bool_], missing: NDArray[np.int64], label: int
) -> NDArray[np.int64]:
    """List the patients with a label that are not drawn yet, those first who overfill no other label."""
    candidates = ordered[has[ordered, label] & ~drawn[ordered]]
    overfull = (has[candidates] & (missing <= 0)).sum(axis=1)
    return candidates[np.argsort(overfull, kind="stable")]


def patient_folds(patients: NDArray[np.generic], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Give each record the fold (from 0) of its patient; folds hold equally many patients, or one more."""
    names, index = np.unique(patients, return_inverse=True)
    if len(names) < n_folds:
        raise ParameterError(f"Got {len(names)} patients for {n_folds} folds, expected a patient for each.")
    return (np.random.default_rng(seed).permutation(len(names)) % n_folds)[index]
