"""Probes of beats and rhythm over one data set: every encoder, its untrained twin and the baselines in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import ArrayLike

from skecg.datasets.labelled import LabelledECGs, Waves
from skecg.embedder import JEPAEmbedder
from skecg.errors import ParameterError
from skecg.evaluation.rhythm_probe import RegressionScores, predict_by_ridge, score_regression
from skecg.evaluation.sources import EncoderFeatures, FeatureSource
from skecg.evaluation.token_slices import raw_tokens
from skecg.evaluation.wave_probe import WaveProtocol, predict_background, predict_waves
from skecg.evaluation.wave_scores import WaveScores, score_waves
from skecg.tokens import RecordTokens

__all__ = ["annotated_waves", "compare_regressions", "compare_waves"]


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
