"""Does a token know where it is in the heart beat? P, QRS and T waves from frozen tokens by a linear head.

The encoder is frozen and its tokens come through :meth:`skecg.JEPAEmbedder.transform_tokens`. A linear map predicts,
from the features of one token, the class of every instant in its span (4 ms apart), see
:mod:`skecg.evaluation.token_probe`; its penalty is chosen among a few on a fifth of the training patients. Patients are
split in five, and every record is predicted by the head that its patient had no part in. Nothing is smoothed.

No number of a frozen encoder under a linear token head on LUDB is known to us. The nearest are Beat-SSL's (a
pre-trained encoder and a trained decoder, F1 0.911 by instant) and Kim's (frozen and linear, mean intersection over
union of the four classes 0.888, on PTB-XL with labels made by a segmentation model).

Which lead's labels a token is held to depends on what it sees, and has to be said with every number (`target`):

``"each"``
    Every lead by itself, as annotated. A leadwise encoder's token is held to its own lead, with one head for all; a
    temporal encoder's token, which sees all leads, has one head for each.
``"majority"``
    One trace a record: what most of the leads say. A leadwise encoder's tokens of one slice of time are set side by
    side.
a lead's name
    That lead alone, otherwise as ``"majority"``.

How well waves were found: by instant, and by their beginnings and ends.

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

Probes of beats and rhythm over one data set: every encoder, its untrained twin and the baselines in one table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.annotations import WAVE_CLASSES, Trace, Waves, boundaries, wave_traces
from skecg.compute.devices import resolve_device
from skecg.compute.progress import count_progress
from skecg.datasets.base import LabelledECGs
from skecg.embedder import JEPAEmbedder
from skecg.errors import ParameterError, ShapeError
from skecg.evaluation.bootstrap import Interval, patient_draws
from skecg.evaluation.features import EncoderFeatures, FeatureSource
from skecg.evaluation.regression import RegressionScores, predict_by_ridge, score_regression
from skecg.evaluation.token_probe import Slices, TokenHead, raw_tokens, slices_of
from skecg.inference.pipeline import RecordTokens
from skecg.splits import patient_folds

__all__ = [
    "BoundaryScores",
    "PredictedTrace",
    "WaveProtocol",
    "WaveScores",
    "annotated_waves",
    "boundary_table",
    "compare_regressions",
    "compare_waves",
    "match_boundaries",
    "predict_background",
    "predict_waves",
    "score_waves",
    "wave_table",
]


_VALIDATION_FOLDS = 5


@dataclass(frozen=True)
class WaveProtocol:
    """How the head is asked; every number is to be given with it.

    Parameters
    ----------
    target : str, default="majority"
        Whose labels; see the module.
    context : int, default=0
        Tokens on either side whose features the head sees as well.
    grid_hz : float, default=250.0
        Instants a second (Hz) that are predicted and scored.
    n_folds : int, default=5
        Parts of the patients.
    penalties : tuple of float, default=(1e-2, 1e-3, 1e-4)
        To choose from, see :mod:`skecg.evaluation.token_probe`.
    seed : int, default=0
        Decides who is in which part.
    device : str, default="cpu"
        Where the head is fitted.
    """

    target: str = "majority"
    context: int = 0
    grid_hz: float = 250.0
    n_folds: int = 5
    penalties: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.context < 0 or self.n_folds < 2 or not self.grid_hz > 0 or not self.penalties:
            raise ParameterError(
                f"Got {self}, expected context of 0 or more, 2 folds or more, a positive grid and a penalty."
            )


@dataclass(frozen=True, eq=False)
class PredictedTrace:
    """What a head said of one trace that it was not fitted on.

    Parameters
    ----------
    record : int
        Number of the record.
    labels : ndarray of shape (n_instants,), int8
        Index into :data:`skecg.annotations.WAVE_CLASSES`, from 0 s on.
    grid_hz : float
        Labels a second (Hz).
    truth : Trace
    """

    record: int
    labels: NDArray[np.int8]
    grid_hz: float
    truth: Trace

    @property
    def true_labels(self) -> NDArray[np.int8]:
        """The annotations at the instants predicted."""
        return self.truth.at(np.arange(len(self.labels)) / self.grid_hz)


def predict_waves(
    tokens: Sequence[RecordTokens],
    waves: Sequence[Waves],
    patients: ArrayLike,
    protocol: WaveProtocol | None = None,
    *,
    verbose: int = 0,
) -> list[PredictedTrace]:
    """Predict every record by heads fitted on other patients.

    Parameters
    ----------
    tokens : sequence of RecordTokens
        From a frozen encoder, or :func:`skecg.evaluation.token_probe.raw_tokens`.
    waves : sequence of Waves
        Annotations of the same records.
    patients : array-like of shape (n_records,)
        Who each record is of.
    protocol : WaveProtocol, optional
    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    list of PredictedTrace
        One for each record, or for each lead of each record with ``target="each"``. Score them with
        :func:`skecg.evaluation.delineation.score_waves`.
    """
    how = protocol or WaveProtocol()
    who = np.asarray(patients)
    if not len(tokens) == len(waves) == len(who) or who.ndim != 1:
        raise ShapeError(
            f"Got {len(tokens)} tokens, {len(waves)} waves, {who.shape} patients; expected one for each record."
        )
    folds, found = patient_folds(who, how.n_folds, how.seed), []
    heads = _traces_by_head(tokens, waves, how.target)
    with count_progress(len(heads) * how.n_folds, "wave probe", "fit", verbose=verbose) as shown:
        for traces in heads.values():
            slices = [slices_of(tokens[row], trace, how.target, how.context, how.grid_hz) for row, trace in traces]
            fold_of = np.array([folds[row] for row, _ in traces])
            of_patient = who[[row for row, _ in traces]]
            for fold in range(how.n_folds):
                train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
                head = _fit([slices[i] for i in train], of_patient[train], how)
                found += [
                    PredictedTrace(traces[i][0], _apply(head, slices[i]), how.grid_hz, traces[i][1]) for i in test
                ]
                shown.update(1)
    return sorted(found, key=lambda trace: trace.record)


def predict_background(
    waves: Sequence[Waves], target: str = "majority", grid_hz: float = 250.0
) -> list[PredictedTrace]:
    """Call every instant background, the most frequent class: the floor of every score."""
    return [
        PredictedTrace(row, np.zeros(round(len(trace.labels) / trace.sampling_rate * grid_hz), np.int8), grid_hz, trace)
        for row, some in enumerate(waves)
        for trace in wave_traces(some, target)
    ]


def _traces_by_head(
    tokens: Sequence[RecordTokens], waves: Sequence[Waves], target: str
) -> dict[str, list[tuple[int, Trace]]]:
    """Say which head learns which traces: one learns all, or each lead's its own where tokens see all leads."""
    heads: dict[str, list[tuple[int, Trace]]] = {}
    for row, (some, known) in enumerate(zip(tokens, waves, strict=True)):
        sees_all = bool((some.leads == "all").all())
        for trace in wave_traces(known, target):
            if target != "each" or sees_all or trace.lead in some.leads:
                heads.setdefault(trace.lead if target == "each" and sees_all else "", []).append((row, trace))
    return heads


def _fit(slices: Sequence[Slices], patients: NDArray[np.generic], how: WaveProtocol) -> TokenHead:
    """Fit a head, its penalty chosen on a fifth of the patients."""
    device, best = resolve_device(how.device), None
    if len(how.penalties) > 1:
        best = _best_of(
            slices, patient_folds(patients, min(_VALIDATION_FOLDS, len(np.unique(patients))), how.seed), how
        )
    penalty = how.penalties[0] if best is None else best.penalty
    return TokenHead(len(WAVE_CLASSES), penalty, device).fit(*_known(slices, np.ones(len(slices), dtype=bool)), best)


def _best_of(slices: Sequence[Slices], part: NDArray[np.int64], how: WaveProtocol) -> TokenHead:
    """Fit all penalties on the parts but the first, each from where the last ended, and give the best on the first."""
    train, held = _known(slices, part != 0), _known(slices, part == 0)
    heads: list[TokenHead] = []
    for penalty in how.penalties:
        head = TokenHead(len(WAVE_CLASSES), penalty, resolve_device(how.device))
        heads.append(head.fit(*train, heads[-1] if heads else None))
    return min(heads, key=lambda head: head.cross_entropy(*held))


def _known(slices: Sequence[Slices], chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Collect the tokens of the traces chosen whose every instant has a label."""
    some = [part for part, use in zip(slices, chosen, strict=True) if use]
    known = [(part.labels >= 0).all(axis=1) for part in some]
    features = np.concatenate([part.features[rows] for part, rows in zip(some, known, strict=True)])
    return features, np.concatenate([part.labels[rows] for part, rows in zip(some, known, strict=True)])


def _apply(head: TokenHead, slices: Slices) -> NDArray[np.int8]:
    """Label every instant of a trace; where tokens overlap by the mean of what they say."""
    scores = np.exp(head.log_probabilities(slices.features))
    instants = slices.first_instants[:, None] + np.arange(scores.shape[1])
    total = np.zeros((int(instants.max()) + 1, scores.shape[2]), dtype=np.float64)
    np.add.at(total, instants, scores)
    return total.argmax(axis=1).astype(np.int8)


TOLERANCE_SECONDS = 0.15


SHORTEST_WAVE_SECONDS = 0.02


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
        By kind of wave.
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
    """Score predictions.

    Parameters
    ----------
    predictions : sequence of PredictedTrace
        Of all records, as :func:`skecg.evaluation.delineation.predict_waves` gives them.
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
    f1, dice = _f1(confusion.sum(axis=0)), _mean_where(_f1(confusion), _occurrences(confusion) > 0)
    draws = patient_draws(who, len(who), n_draws, seed).astype(np.float64)
    macros = _f1(np.tensordot(draws, confusion, axes=1))[:, 1:].mean(axis=1)
    low, high = np.quantile(macros, [0.025, 0.975])
    union = f1 / (2 - f1)
    return WaveScores(
        f1={kind: float(f1[number]) for number, kind in enumerate(kinds, 1)},
        dice={kind: float(dice[number]) for number, kind in enumerate(kinds, 1)},
        macro_f1=Interval(float(f1[1:].mean()), float(low), float(high)),
        mean_iou=float(union.mean()),
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
    n_labels = round(len(trace.truth.labels) / trace.truth.sampling_rate * trace.grid_hz)
    predicted = np.zeros(max(len(trace.labels), n_labels), dtype=np.int8)
    predicted[: len(trace.labels)] = trace.labels
    truth = trace.truth.at(np.arange(len(predicted)) / trace.grid_hz)
    n, known = len(WAVE_CLASSES), truth >= 0
    return np.bincount(truth[known] * n + predicted[known], minlength=n * n).reshape(n, n).astype(np.float64)


def _occurrences(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count instants of each class, annotated and predicted."""
    return confusion.sum(axis=-1) + confusion.sum(axis=-2)


def _f1(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give each class's F1, 0 where it is neither annotated nor predicted."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return 2 * right / np.maximum(_occurrences(confusion), 1)


def _mean_where(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average the rows that count, column by column; 0 of none."""
    return np.where(counted, values, 0.0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)


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
    near = np.argwhere(distances <= tolerance_seconds + 1e-9)
    near = near[np.argsort(distances[near[:, 0], near[:, 1]], kind="stable")]
    rows: list[int] = []
    columns: list[int] = []
    for row, column in near.tolist():
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    return np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)


def _boundary_scores(predictions: Sequence[PredictedTrace], kind: int, edge: str) -> BoundaryScores:
    """Score the beginnings or ends of one kind of wave over all traces."""
    n_annotated, n_predicted, errors = 0, 0, []
    for trace in predictions:
        annotated = boundaries(trace.truth.labels, trace.truth.sampling_rate, kind)[edge == "offset"]
        onsets, offsets = boundaries(trace.labels, trace.grid_hz, kind)
        long_enough = offsets - onsets >= SHORTEST_WAVE_SECONDS - 0.5 / trace.grid_hz
        predicted = (offsets if edge == "offset" else onsets)[long_enough]
        rows, columns = match_boundaries(annotated, predicted)
        counted = trace.truth.at(predicted) >= 0
        counted[columns] = True
        n_annotated, n_predicted = n_annotated + len(annotated), n_predicted + int(counted.sum())
        errors.append(predicted[columns] - annotated[rows])
    found_ms = 1000 * np.concatenate(errors)
    return BoundaryScores(
        sensitivity=len(found_ms) / n_annotated if n_annotated else float("nan"),
        positive_predictive_value=len(found_ms) / n_predicted if n_predicted else float("nan"),
        mean_error_ms=float(found_ms.mean()) if len(found_ms) else float("nan"),
        sd_error_ms=float(found_ms.std()) if len(found_ms) else float("nan"),
        n_annotated=n_annotated,
    )


def wave_table(scores: Mapping[str, WaveScores]) -> str:
    """Write the scores by instant, one row for each set of predictions."""
    kinds = WAVE_CLASSES[1:]
    width = max(map(len, ["features", *scores])) + 2
    head = [f"{'features':<{width}}", *(f"{'F1 ' + kind:>7}" for kind in kinds), f"{'macro F1 (95 %)':>24}"]
    lines = ["".join([*head, f"{'Dice':>8}", f"{'mIoU':>8}"])]
    for name, score in scores.items():
        row = [f"{name:<{width}}", *(f"{score.f1[kind]:>7.3f}" for kind in kinds), f"{score.macro_f1!s:>24}"]
        dice = sum(score.dice.values()) / len(kinds)
        lines.append("".join([*row, f"{dice:>8.3f}", f"{score.mean_iou:>8.3f}"]))
    return "\n".join(lines)


def boundary_table(scores: Mapping[str, WaveScores]) -> str:
    """Write the scores by boundary: sensitivity, positive predictive value, and error (mean and deviation, ms)."""
    width = max(map(len, ["features", *scores])) + 2
    lines = [f"{'features':<{width}}{'boundary':<12}{'n':>7}{'Se':>7}{'PPV':>7}{'error (ms)':>16}"]
    for name, score in scores.items():
        for (kind, edge), found in score.boundaries.items():
            error = f"{found.mean_error_ms:+.1f} ± {found.sd_error_ms:.1f}"
            shares = f"{found.sensitivity:>7.3f}{found.positive_predictive_value:>7.3f}"
            lines.append(f"{name:<{width}}{kind + ' ' + edge:<12}{found.n_annotated:>7}{shares}{error:>16}")
    return "\n".join(lines)


def annotated_waves(dataset: LabelledECGs) -> list[Waves]:
    """Give the waves of all recordings of a data set that has some.

    Raises
    ------
    ParameterError
        When it has none.
    """
    if dataset.waves is None:
        raise ParameterError(f"Got the data set {dataset.name!r} without annotated waves, expected one such as LUDB.")
    return [dataset.waves(row) for row in range(len(dataset))]


def compare_waves(
    dataset: LabelledECGs,
    sources: Sequence[tuple[str, FeatureSource]],
    *,
    contexts: Sequence[int] = (0, 1),
    protocol: WaveProtocol | None = None,
    verbose: int = 0,
) -> dict[str, WaveScores]:
    """Probe tokens for waves.

    Parameters
    ----------
    dataset : LabelledECGs
        With waves.
    sources : sequence of (kind, FeatureSource)
        From :func:`skecg.evaluation.standard_sources`: models and untrained encoders of their shapes. Baselines without
        tokens are passed over.
    contexts : sequence of int, default=(0, 1)
        Neighbours on either side that the head sees; one row for each.
    protocol : WaveProtocol, optional
        For all else.
    verbose : int, default=0

    Returns
    -------
    dict of str to WaveScores
        Background everywhere; the samples themselves under the same head, once for each shape of input; then every
        encoder.
    """
    waves, how = annotated_waves(dataset), protocol or WaveProtocol()
    scores = {
        "background everywhere": score_waves(predict_background(waves, how.target, how.grid_hz), dataset.patients)
    }
    for name, tokens in _rows(dataset, [s for _, s in sources if isinstance(s, EncoderFeatures)]):
        for context in contexts:
            found = predict_waves(tokens, waves, dataset.patients, replace(how, context=context), verbose=verbose)
            scores[f"{name}, k={context}"] = score_waves(found, dataset.patients)
    return scores


def _rows(dataset: LabelledECGs, encoders: Sequence[EncoderFeatures]) -> Iterator[tuple[str, list[RecordTokens]]]:
    """Give the samples for each shape of input, then the tokens of each encoder."""
    embedders = {encoder.name: _embedder(encoder, dataset) for encoder in encoders}
    shapes = set()
    for encoder in encoders:
        info = encoder.info
        shape = (info.encoder.architecture, info.encoder.patch_samples, str(info.spec.to_dict()))
        if shape not in shapes:
            shapes.add(shape)
            span_ms = 1000 * info.encoder.patch_samples / info.spec.sampling_rate
            yield (
                f"samples ({info.encoder.architecture}, {span_ms:g} ms)",
                raw_tokens(embedders[encoder.name], dataset.records),
            )
    for name, embedder in embedders.items():
        yield name, embedder.transform_tokens(dataset.records)


def _embedder(encoder: EncoderFeatures, dataset: LabelledECGs) -> JEPAEmbedder:
    options: dict[str, Any] = {"sampling_rate": dataset.sampling_rate, "leads": dataset.leads, **encoder.options}
    return JEPAEmbedder(encoder.model, cache=None, **options).fit(dataset.records)


def compare_regressions(
    dataset: LabelledECGs,
    sources: Sequence[tuple[str, FeatureSource]],
    targets: Mapping[str, ArrayLike],
    *,
    seed: int = 0,
    verbose: int = 0,
) -> dict[str, dict[str, RegressionScores]]:
    """Probe pooled vectors for numbers such as the heart rate.

    Parameters
    ----------
    dataset : LabelledECGs
    sources : sequence of (kind, FeatureSource)
        From :func:`skecg.evaluation.standard_sources`. ``"majority"``, which has no features, predicts the training
        patients' mean.
    targets : mapping of str to array-like of shape (n_records,)
        By name, NaN where not known.
    seed : int, default=0
    verbose : int, default=0

    Returns
    -------
    dict of str to dict of str to RegressionScores
        By target and source.
    """
    scores: dict[str, dict[str, RegressionScores]] = {name: {} for name in targets}
    for _, source in sources:
        features = source.features(dataset, cache=None, verbose=verbose)
        for name, target in targets.items():
            predicted = predict_by_ridge(features, target, dataset.patients, seed=seed)
            label = source.name if features.shape[1] else "mean of the training patients"
            scores[name][label] = score_regression(target, predicted, dataset.patients, seed=seed)
    return scores
