"""Delineation from frozen tokens: P, QRS and T waves by a linear head.

The encoder is frozen and its tokens come through :meth:`skecg.JEPAEmbedder.transform_tokens`. A linear map predicts,
from the features of one token, the class of every instant in its span (4 ms apart), see
:mod:`skecg.evaluation.token_probe`; its penalty is chosen among a few on a fifth of the training patients. Patients are
split in five, and every record is predicted by the head that its patient had no part in. Nothing is smoothed.

No number of a frozen encoder under a linear token head on LUDB is known to us. The nearest are Beat-SSL's (a
pre-trained encoder and a trained decoder, F1 0.911 by instant) and Kim's (frozen and linear, mean intersection over
union of the four classes 0.888, on PTB-XL with labels made by a segmentation model).

Which lead's labels a token is held to depends on what it sees, and belongs to every number (`target`):

``"each"``
    Every lead by itself, as annotated. A leadwise encoder's token is held to its own lead, with one head for all; a
    temporal encoder's token, which sees all leads, has one head for each.
``"majority"``
    One trace a record: what most of the leads say. A leadwise encoder's tokens of one slice of time are set side by
    side.
a lead's name
    That lead alone, otherwise as ``"majority"``.

:mod:`skecg.evaluation.delineation_scores` scores what was predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.annotations import WAVE_CLASSES, Trace, Waves, wave_traces
from skecg.compute.progress import count_progress
from skecg.datasets.base import LabelledECGs
from skecg.embedder import JEPAEmbedder
from skecg.errors import ParameterError, ShapeError
from skecg.evaluation.delineation_scores import PredictedTrace, WaveScores, score_waves
from skecg.evaluation.features import EncoderFeatures, FeatureSource
from skecg.evaluation.token_probe import Slices, TokenHead, raw_tokens, slices_of
from skecg.inference.pipeline import RecordTokens
from skecg.splits import patient_folds
from skecg.validation import check_integer, check_number

__all__ = ["WaveProtocol", "annotated_waves", "compare_waves", "predict_background", "predict_waves"]

# A head's penalty is chosen on one part of the training patients, of so many.
_VALIDATION_FOLDS = 5


@dataclass(frozen=True)
class WaveProtocol:
    """How heads are fitted and what they predict; every number is to be given with it.

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
    """

    target: str = "majority"
    context: int = 0
    grid_hz: float = 250.0  # 4 ms, half of LUDB's rate
    n_folds: int = 5
    penalties: tuple[float, ...] = (1e-2, 1e-3, 1e-4)  # few, for a leadwise head takes a minute or more a fit
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("context", self.context, 0)
        check_integer("n_folds", self.n_folds, 2)
        check_number("grid_hz", self.grid_hz, 0)
        if not self.penalties:
            raise ParameterError("Got no penalties, expected at least one.")


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
        :func:`skecg.evaluation.delineation_scores.score_waves`.
    """
    protocol = protocol or WaveProtocol()
    who = np.asarray(patients)
    if not len(tokens) == len(waves) == len(who) or who.ndim != 1:
        raise ShapeError(
            f"Got {len(tokens)} tokens, {len(waves)} waves, {who.shape} patients; expected one for each record."
        )
    folds, predicted = patient_folds(who, protocol.n_folds, protocol.seed), []
    heads = _traces_by_head(tokens, waves, protocol.target)
    with count_progress(len(heads) * protocol.n_folds, "wave probe", "fit", verbose=verbose) as progress:
        for traces in heads.values():
            rows = np.array([row for row, _ in traces])
            slices = [
                slices_of(tokens[row], trace, protocol.target, protocol.context, protocol.grid_hz)
                for row, trace in traces
            ]
            # Folds are of patients and drawn once, so that all heads and encoders are tested on the same records.
            for fold in range(protocol.n_folds):
                train, test = np.flatnonzero(folds[rows] != fold), np.flatnonzero(folds[rows] == fold)
                head = _fit([slices[i] for i in train], who[rows[train]], protocol)
                for i in test:
                    labels = _apply(head, slices[i])
                    predicted.append(PredictedTrace(int(rows[i]), labels, protocol.grid_hz, traces[i][1]))
                progress.update(1)
    return sorted(predicted, key=lambda trace: trace.record)


def predict_background(
    waves: Sequence[Waves], target: str = "majority", grid_hz: float = 250.0
) -> list[PredictedTrace]:
    """Return background, the most frequent class, for every instant: the floor of every score."""
    return [
        PredictedTrace(row, np.zeros(round(len(trace.labels) / trace.sampling_rate * grid_hz), np.int8), grid_hz, trace)
        for row, of_record in enumerate(waves)
        for trace in wave_traces(of_record, target)
    ]


def _traces_by_head(
    tokens: Sequence[RecordTokens], waves: Sequence[Waves], target: str
) -> dict[str, list[tuple[int, Trace]]]:
    """Return which head learns which traces: one learns all, or each lead's its own where tokens see all leads."""
    heads: dict[str, list[tuple[int, Trace]]] = {}
    for row, (of_record, annotated) in enumerate(zip(tokens, waves, strict=True)):
        sees_all = bool((of_record.leads == "all").all())
        for trace in wave_traces(annotated, target):
            if target != "each" or sees_all or trace.lead in of_record.leads:
                heads.setdefault(trace.lead if target == "each" and sees_all else "", []).append((row, trace))
    return heads


def _fit(slices: Sequence[Slices], patients: NDArray[np.generic], protocol: WaveProtocol) -> TokenHead:
    """Fit a head, its penalty chosen on a fifth of the patients."""
    penalty = protocol.penalties[0]
    if len(protocol.penalties) > 1:
        n_folds = min(_VALIDATION_FOLDS, len(np.unique(patients)))
        penalty = _best_penalty(slices, patient_folds(patients, n_folds, protocol.seed), protocol)
    return TokenHead(len(WAVE_CLASSES), penalty).fit(*_labelled_tokens(slices, np.ones(len(slices), dtype=bool)))


def _best_penalty(slices: Sequence[Slices], fold: NDArray[np.int64], protocol: WaveProtocol) -> float:
    """Return the penalty that does best on fold 0 when the head is fitted on the others."""
    train, held = _labelled_tokens(slices, fold != 0), _labelled_tokens(slices, fold == 0)

    def cross_entropy(penalty: float) -> float:
        return TokenHead(len(WAVE_CLASSES), penalty).fit(*train).cross_entropy(*held)

    return min(protocol.penalties, key=cross_entropy)


def _labelled_tokens(
    slices: Sequence[Slices], chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Return features and labels of the tokens of the traces chosen whose every instant has a label."""
    parts = [part for part, use in zip(slices, chosen, strict=True) if use]
    known = [(part.labels >= 0).all(axis=1) for part in parts]
    # Tokens at the border of the annotated span are left out: half of their instants have no truth.
    features = np.concatenate([part.features[rows] for part, rows in zip(parts, known, strict=True)])
    return features, np.concatenate([part.labels[rows] for part, rows in zip(parts, known, strict=True)])


def _apply(head: TokenHead, slices: Slices) -> NDArray[np.int8]:
    """Return the most probable class of every instant of a trace; where tokens overlap, by the mean probability."""
    scores = np.exp(head.log_probabilities(slices.features))
    instants = slices.first_instants[:, None] + np.arange(scores.shape[1])
    # Sums do: the class with the largest sum has the largest mean.
    total = np.zeros((int(instants.max()) + 1, scores.shape[2]), dtype=np.float64)
    # Not total[instants] += scores, which counts an instant that is named twice once.
    np.add.at(total, instants, scores)
    return total.argmax(axis=1).astype(np.int8)


def annotated_waves(dataset: LabelledECGs) -> list[Waves]:
    """Return the annotated waves of all recordings of a data set.

    Raises
    ------
    ParameterError
        When none are annotated.
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
    """Compare encoders by how well a linear head reads waves from their tokens.

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
    waves, protocol = annotated_waves(dataset), protocol or WaveProtocol()
    background = predict_background(waves, protocol.target, protocol.grid_hz)
    scores = {"background everywhere": score_waves(background, dataset.patients)}
    for name, tokens in _rows(dataset, [s for _, s in sources if isinstance(s, EncoderFeatures)]):
        for context in contexts:
            asked = replace(protocol, context=context)
            predicted = predict_waves(tokens, waves, dataset.patients, asked, verbose=verbose)
            scores[f"{name}, k={context}"] = score_waves(predicted, dataset.patients)
    return scores


def _rows(dataset: LabelledECGs, encoders: Sequence[EncoderFeatures]) -> Iterator[tuple[str, list[RecordTokens]]]:
    """Yield the samples for each shape of input, then the tokens of each encoder."""
    embedders = {encoder.name: _embedder(encoder, dataset) for encoder in encoders}
    shapes = set()
    for encoder in encoders:
        info = encoder.info
        token_samples = info.encoder.stages[-1].token_samples
        shape = (info.encoder.architecture, token_samples, str(info.spec.to_dict()))
        # Encoders of one input see the same samples, which are scored once.
        if shape not in shapes:
            shapes.add(shape)
            span_ms = 1000 * token_samples / info.spec.sampling_rate
            yield (
                f"samples ({info.encoder.architecture}, {span_ms:g} ms)",
                raw_tokens(embedders[encoder.name], dataset.records),
            )
    for name, embedder in embedders.items():
        yield name, embedder.transform_tokens(dataset.records)


def _embedder(encoder: EncoderFeatures, dataset: LabelledECGs) -> JEPAEmbedder:
    options: dict[str, Any] = {"sampling_rate": dataset.sampling_rate, "leads": dataset.leads, **encoder.options}
    return JEPAEmbedder(encoder.model, cache=None, **options).fit(dataset.records)
