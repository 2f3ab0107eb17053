"""Which training patients a share of the labels is: draws that anyone can repeat.

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

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.errors import ParameterError, ShapeError

__all__ = ["FRACTIONS", "N_DRAWS", "digest_of_patients", "draw_patients"]

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
