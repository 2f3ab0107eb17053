"""Which recordings train, which select, which test: by the folds of the data set, patients never on two sides.

PTB-XL: training folds 1 to 8, selection on fold 9, test on fold 10, as its authors recommend. Where the fold that would
select is not there, or is the test (a sample of folds 1 to 9; CPSC2018, whose last part tests), selection is done on a
part of the training patients: a fifth, drawn as the draws of label efficiency are. What was selected is then fitted
again on all training patients. Fold 10 is either tested or left alone, never learned from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ParameterError
from skecg.splits import draw_patients, stratified_patient_folds

if TYPE_CHECKING:
    from skecg.datasets.base import LabelledECGs
    from skecg.evaluation.tasks import Task

__all__ = ["SELECTION_SHARE", "Split", "selecting_part", "split_by_folds", "split_by_patients"]

#: Share of the training patients that select where no fold does.
SELECTION_SHARE = 0.2

_CHOSEN = (
    f"C and thresholds chosen on a stratified {SELECTION_SHARE * 100:g} % of the training patients, then C fitted "
    "again on all of them"
)

# Beyond any draw of label efficiency, so that the part that selects is none of them.
_SELECTION_DRAW = 1_000_000

_PTBXL_TEST, _PTBXL_SELECTION = 10, 9

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of a data set's recordings by what they are for.

    Parameters
    ----------
    train : ndarray of int
        Recordings whose labels may be learned from.
    selection : ndarray of int
        Recordings on which the penalty and the thresholds are chosen.
    test : ndarray of int
        Recordings that are scored once.
    refit : bool
        Whether `selection` is a part of `train`: then what is chosen is fitted on the rest of `train`, and what is
        tested on all of it.
    description : str
        In words, for reports.
    """

    train: Rows
    selection: Rows
    test: Rows
    refit: bool
    description: str


def split_by_folds(
    dataset: LabelledECGs, task: Task, *, test_fold: int | None = None, selection_fold: int | None = None
) -> Split:
    """Split the recordings of a task.

    Parameters
    ----------
    dataset : LabelledECGs
        Its `folds` and `patients` are read.
    task : Task
        Recordings that it does not keep are on no side.
    test_fold : int, optional
        Instead of the last fold there is (at most 10).
    selection_fold : int, optional
        Instead of fold 9 where 10 is tested, or of a part of the training patients otherwise.

    Returns
    -------
    Split

    Raises
    ------
    ParameterError
        When a fold is not there, the data set has none, or a side is empty.
    """
    present = sorted(int(fold) for fold in np.unique(dataset.folds[task.keep]) if fold > 0)
    if len(present) < 2:
        number = "one fold" if present else "no folds"
        raise ParameterError(
            f"Got {dataset.name!r} with {number}, expected at least two, one of which is tested. Evaluate on a data "
            "set that comes with folds."
        )
    tested = _existing("test fold", present[-1] if test_fold is None else test_fold, present)
    usual = _PTBXL_SELECTION if tested == _PTBXL_TEST and _PTBXL_SELECTION in present else None
    selecting = usual if selection_fold is None else _existing("selection fold", selection_fold, present)
    if selecting == tested:
        raise ParameterError(f"Got fold {tested} for selection and for the test, expected two different folds.")
    # Fold 10 of ten stays what it is for, even where another is tested while a system is being built.
    kept = _PTBXL_TEST if present[-1] == _PTBXL_TEST else None
    training = [fold for fold in present if fold not in (selecting, tested, kept)]
    if not training:
        raise ParameterError(f"Got folds {_ranges(present)} and none of them to train on, expected three or more.")
    return _split(dataset, task, training, selecting, tested)


def _split(dataset: LabelledECGs, task: Task, training: list[int], selecting: int | None, tested: int) -> Split:
    """Turn folds into rows."""
    train = _rows(dataset, task, training)
    test = _rows(dataset, task, [tested])
    # Folds of one's own table may part a patient's recordings, and nobody would see it in the scores.
    _check_patients(dataset, train, test)
    named = f"training folds {_ranges(training)}, test fold {tested}"
    if selecting is not None:
        selection = _rows(dataset, task, [selecting])
        _check_patients(dataset, np.concatenate([train, test]), selection)
        words = (
            f"{named}; the penalty C and thresholds chosen on fold {selecting} (all of it, at every share of labels)"
        )
        return Split(train, selection, test, False, words)
    selection, who = selecting_part(dataset.patients, task.labels, train)
    words = (
        f"{named}; the penalty C and thresholds chosen on a stratified {SELECTION_SHARE * 100:g} % of the training "
        f"patients ({len(who)}, all of them at every share of labels) by a fit on the others, then C fitted again on "
        "all training patients of the draw"
    )
    return Split(train, selection, test, True, words)


def split_by_patients(
    patients: NDArray[np.str_], labels: NDArray[np.integer], n_folds: int, seed: int = 0, chosen: str = ""
) -> list[Split]:
    """Split records into folds of patients, each of which is tested by what was learned from the others.

    Parameters
    ----------
    patients : ndarray of shape (n_records,)
    labels : ndarray of shape (n_records, n_labels)
        Zeros and ones, of which each fold has its share.
    n_folds : int
        At least 2.
    seed : int, default=0
        Decides who is in which fold.
    chosen : str, optional
        What a method that holds out patients by itself chooses on them, for reports: no records select then.

    Returns
    -------
    list of Split
        One for each fold; every record is tested once.

    Raises
    ------
    ParameterError
        When there are fewer patients than folds.
    """
    folds = stratified_patient_folds(patients, labels, n_folds, seed)
    words = f"{n_folds} folds of patients, each tested once by what was fitted on the others; {chosen or _CHOSEN}"
    splits = []
    for fold in range(n_folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        selection = train[:0] if chosen else selecting_part(patients, labels, train)[0]
        splits.append(Split(train, selection, test, True, words))
    return splits


def selecting_part(
    patients: NDArray[np.str_], labels: NDArray[np.integer], train: Rows
) -> tuple[Rows, NDArray[np.str_]]:
    """Return the part of the training records that selects, and their patients."""
    who = draw_patients(patients[train], labels[train], SELECTION_SHARE, _SELECTION_DRAW)
    return train[np.isin(patients[train].astype(str), who)], who


def _existing(what: str, fold: int, present: list[int]) -> int:
    if fold not in present:
        raise ParameterError(
            f"Got {what} {fold}, which holds no record of this task; expected one of {', '.join(map(str, present))}."
        )
    return fold


def _rows(dataset: LabelledECGs, task: Task, folds: list[int]) -> Rows:
    rows = np.flatnonzero(np.isin(dataset.folds, folds) & task.keep)
    if not len(rows):
        raise ParameterError(f"Got no record of the task in folds {_ranges(folds)}, expected some. Choose other folds.")
    return rows


def _check_patients(dataset: LabelledECGs, some: Rows, others: Rows) -> None:
    """Raise where folds share patients: their scores would be those of recognizing patients."""
    both = np.intersect1d(dataset.patients[some], dataset.patients[others])
    if len(both):
        raise ParameterError(
            f"Got {len(both)} patients on two sides of the split of {dataset.name!r} (the first is {str(both[0])!r}), "
            "expected each on one. Its folds or its patients are not what they should be."
        )


def _ranges(folds: Any) -> str:
    """Write 1, 2, 3, 5 as "1-3, 5"."""
    parts: list[list[int]] = []
    for fold in sorted(folds):
        if parts and fold == parts[-1][-1] + 1:
            parts[-1].append(fold)
        else:
            parts.append([fold])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
