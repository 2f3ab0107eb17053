"""Which records validate: whole patients, with the labels in the shares that they have.

Iterative stratification over patients (Sechidis, Tsoumakas and Vlahavas, 2011), in which training never loses the last
patient with a label, or the last without it.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.errors import ParameterError

__all__ = ["check_fraction", "hold_out"]

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
