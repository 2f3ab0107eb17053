"""Scores of a delineation of P, QRS and T waves: instant by instant, and by the beginnings and ends of waves.

By instant, over all those with a label (those outside the annotated span have none):

- F1 of P, QRS and T: twice the instants right over those annotated plus those predicted, over all records together;
  `macro_f1` is their mean, background left out.
- Dice: the same of each record by itself, averaged over the records in which the wave is annotated or predicted.
- Mean intersection over union of the four classes, background among them.

By boundary: an onset (offset) that was predicted belongs to an annotated one of the same kind of wave at most 150 ms
away, the usual tolerance on LUDB (Moskalenko et al., 2020), the nearest pairs first and each only once. Sensitivity is
the share of annotated boundaries with a partner, positive predictive value that of predicted ones within the annotated
span; the error is predicted minus annotated, of the pairs. Predicted waves of less than 20 ms, which no wave is, are
left out here (and only here). Grid and labels let an error be off by a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.annotations import WAVE_CLASSES, Trace, boundaries
from skecg.errors import ShapeError
from skecg.evaluation.bootstrap import Interval, patient_draws
from skecg.metrics import class_f1, macro

__all__ = [
    "BoundaryScores",
    "PredictedTrace",
    "WaveScores",
    "boundary_table",
    "match_boundaries",
    "score_waves",
    "wave_table",
]

#: Farthest that a predicted boundary may lie from the annotated one that it is paired with.
TOLERANCE_SECONDS = 0.15

#: Predicted waves shorter than this have no boundaries.
SHORTEST_WAVE_SECONDS = 0.02


@dataclass(frozen=True, eq=False)
class PredictedTrace:
    """The labels predicted of one trace, and those annotated.

    Parameters
    ----------
    record : int
        Number of the record.
    labels : ndarray of shape (n_instants,), int8
        Index into :data:`skecg.annotations.WAVE_CLASSES`, from 0 s on; what is negative counts as background.
    grid_hz : float
        Labels a second (Hz).
    truth : Trace
    """

    record: int
    labels: NDArray[np.int8]
    grid_hz: float
    truth: Trace


@dataclass(frozen=True)
class BoundaryScores:
    """Beginnings, or ends, of one kind of wave.

    Parameters
    ----------
    sensitivity, positive_predictive_value : float
        Shares, NaN of nothing.
    mean_error_ms, sd_error_ms : float
        Predicted minus annotated (ms), NaN without pairs.
    n_annotated : int
    """

    sensitivity: float
    positive_predictive_value: float
    mean_error_ms: float
    sd_error_ms: float
    n_annotated: int


@dataclass(frozen=True)
class WaveScores:
    """Scores of one set of predictions, see the module.

    Parameters
    ----------
    f1, dice : mapping of str to float
        By kind of wave; NaN of one that is neither annotated nor predicted, which has no part in the means.
    macro_f1 : Interval
        With the 95 % bootstrap interval over patients.
    mean_iou : float
    boundaries : mapping of (str, str) to BoundaryScores
        By kind of wave and ``"onset"`` or ``"offset"``.
    n_records, n_instants : int
    """

    f1: Mapping[str, float]
    dice: Mapping[str, float]
    macro_f1: Interval
    mean_iou: float
    boundaries: Mapping[tuple[str, str], BoundaryScores]
    n_records: int
    n_instants: int


def score_waves(
    predictions: Sequence[PredictedTrace], patients: ArrayLike, *, n_draws: int = 1000, seed: int = 0
) -> WaveScores:
    """Compute all scores of predictions.

    Parameters
    ----------
    predictions : sequence of PredictedTrace
        Of all records, as :func:`skecg.evaluation.delineation.predict_waves` returns them.
    patients : array-like of shape (n_records,)
        Who each record is of; the bootstrap draws patients.
    n_draws : int, default=1000
    seed : int, default=0

    Returns
    -------
    WaveScores
    """
    who = np.asarray(patients)
    if not predictions or max(trace.record for trace in predictions) >= len(who):
        raise ShapeError(
            f"Got {len(predictions)} predictions for {len(who)} patients, expected a patient for each record."
        )
    confusion = np.zeros((len(who), len(WAVE_CLASSES), len(WAVE_CLASSES)))
    for trace in predictions:
        confusion[trace.record] += _confusion(trace)
    kinds = WAVE_CLASSES[1:]
    f1, dice = class_f1(confusion.sum(axis=0)), _mean(class_f1(confusion), axis=0)
    draws = patient_draws(who, len(who), n_draws, seed).astype(np.float64)
    # Confusions are added before F1 is taken: a mean of ratios would not be the F1 of the draw.
    macros = _mean(class_f1(np.tensordot(draws, confusion, axes=1))[:, 1:], axis=1)
    # All of one patient say nothing of others.
    known = macros[np.isfinite(macros) & (len(np.unique(who)) > 1)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    # IoU as a function of F1: one follows from the other.
    union = f1 / (2 - f1)
    return WaveScores(
        f1={kind: float(f1[number]) for number, kind in enumerate(kinds, 1)},
        dice={kind: float(dice[number]) for number, kind in enumerate(kinds, 1)},
        macro_f1=Interval(macro(f1[1:]), float(low), float(high)),
        mean_iou=macro(union),
        boundaries={
            (kind, edge): _boundary_scores(predictions, number, edge)
            for number, kind in enumerate(kinds, 1)
            for edge in ("onset", "offset")
        },
        n_records=len({trace.record for trace in predictions}),
        n_instants=int(confusion.sum()),
    )


def _confusion(trace: PredictedTrace) -> NDArray[np.float64]:
    """Count instants by annotated (rows) and predicted class; instants that were not predicted are background."""
    # Tokens may end before the record does; what nobody predicted there counts as background, not as absent.
    n_labels = round(len(trace.truth.labels) / trace.truth.sampling_rate * trace.grid_hz)
    predicted = np.zeros(max(len(trace.labels), n_labels), dtype=np.int8)
    predicted[: len(trace.labels)] = np.maximum(trace.labels, 0)
    truth = trace.truth.at(np.arange(len(predicted)) / trace.grid_hz)
    n, known = len(WAVE_CLASSES), truth >= 0
    return np.bincount(truth[known] * n + predicted[known], minlength=n * n).reshape(n, n).astype(np.float64)


def _mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Average what is not NaN along an axis; NaN of nothing."""
    known = np.isfinite(values)
    n_known = known.sum(axis=axis)
    return np.where(n_known > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(n_known, 1), np.nan)


def match_boundaries(
    annotated: NDArray[np.float64], predicted: NDArray[np.float64], tolerance_seconds: float = TOLERANCE_SECONDS
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair boundaries, the nearest first and each only once.

    Parameters
    ----------
    annotated, predicted : ndarray of float64
        Times (s).
    tolerance_seconds : float
        Farthest apart that a pair may be.

    Returns
    -------
    rows, columns : ndarray of int64
        Numbers of the annotated and of the predicted boundary of each pair.
    """
    distances = np.abs(annotated[:, None] - predicted[None, :])
    # A boundary on the edge of the tolerance is within it, whatever a difference of floats says.
    near = np.argwhere(distances <= tolerance_seconds + 1e-9)
    # The nearest pairs first, or a wave between two would take the partner of another.
    near = near[np.argsort(distances[near[:, 0], near[:, 1]], kind="stable")]
    rows: list[int] = []
    columns: list[int] = []
    for row, column in near.tolist():
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    return np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)


def _boundary_scores(predictions: Sequence[PredictedTrace], kind: int, edge: str) -> BoundaryScores:
    """Compute the scores of the beginnings or ends of one kind of wave over all traces."""
    n_annotated, n_predicted, errors = 0, 0, []
    for trace in predictions:
        annotated = boundaries(trace.truth.labels, trace.truth.sampling_rate, kind)[edge == "offset"]
        onsets, offsets = boundaries(trace.labels, trace.grid_hz, kind)
        # Half an instant less: a wave of exactly 20 ms may be one instant shorter on the grid.
        long_enough = offsets - onsets >= SHORTEST_WAVE_SECONDS - 0.5 / trace.grid_hz
        predicted = (offsets if edge == "offset" else onsets)[long_enough]
        rows, columns = match_boundaries(annotated, predicted)
        # Where nobody annotated, a prediction is neither right nor wrong.
        counted = trace.truth.at(predicted) >= 0
        counted[columns] = True
        n_annotated, n_predicted = n_annotated + len(annotated), n_predicted + int(counted.sum())
        errors.append(predicted[columns] - annotated[rows])
    error_ms = 1000 * np.concatenate(errors)
    return BoundaryScores(
        sensitivity=len(error_ms) / n_annotated if n_annotated else float("nan"),
        positive_predictive_value=len(error_ms) / n_predicted if n_predicted else float("nan"),
        mean_error_ms=float(error_ms.mean()) if len(error_ms) else float("nan"),
        sd_error_ms=float(error_ms.std()) if len(error_ms) else float("nan"),
        n_annotated=n_annotated,
    )


def wave_table(scores: Mapping[str, WaveScores]) -> str:
    """Return a table of the scores by instant, one row for each set of predictions."""
    kinds = WAVE_CLASSES[1:]
    width = max(map(len, ["features", *scores])) + 2
    head = [f"{'features':<{width}}", *(f"{'F1 ' + kind:>7}" for kind in kinds), f"{'macro F1 (95 %)':>24}"]
    lines = ["".join([*head, f"{'Dice':>8}", f"{'mIoU':>8}"])]
    for name, score in scores.items():
        row = [f"{name:<{width}}", *(f"{score.f1[kind]:>7.3f}" for kind in kinds), f"{score.macro_f1!s:>24}"]
        dice = macro(list(score.dice.values()))
        lines.append("".join([*row, f"{dice:>8.3f}", f"{score.mean_iou:>8.3f}"]))
    return "\n".join(lines)


def boundary_table(scores: Mapping[str, WaveScores]) -> str:
    """Return a table of the scores by boundary: sensitivity, positive predictive value, and errors (ms)."""
    width = max(map(len, ["features", *scores])) + 2
    lines = [f"{'features':<{width}}{'boundary':<12}{'n':>7}{'Se':>7}{'PPV':>7}{'error (ms)':>16}"]
    for name, score in scores.items():
        for (kind, edge), boundary in score.boundaries.items():
            error = f"{boundary.mean_error_ms:+.1f} ± {boundary.sd_error_ms:.1f}"
            shares = f"{boundary.sensitivity:>7.3f}{boundary.positive_predictive_value:>7.3f}"
            lines.append(f"{name:<{width}}{kind + ' ' + edge:<12}{boundary.n_annotated:>7}{shares}{error:>16}")
    return "\n".join(lines)
