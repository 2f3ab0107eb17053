"""From a table with labels to a fitted model: cross-validated by patients first, then fitted on all of them.

Features, penalty and thresholds are those of the evaluation's pooled protocol, so that what is fitted is what was
scored. Fine-tuning is a protocol too: what it is given of a record is the record itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg._version import __version__
from skecg.compute.devices import resolve_precision
from skecg.datasets.base import LabelledECGs
from skecg.embedder import JEPAEmbedder
from skecg.errors import ParameterError
from skecg.evaluation.comparison import compare
from skecg.evaluation.features import MODEL, FeatureSource
from skecg.evaluation.protocols import OWN_LABELS, LabelDraw, ProbeFit
from skecg.evaluation.regression import RegressionScores, compare_regressions, regression_table, score_regression
from skecg.evaluation.report import Report
from skecg.evaluation.splitting import Split, selecting_part, split_by_patients
from skecg.finetuning.base import FineTunedEstimator
from skecg.finetuning.classifier import FineTunedClassifier
from skecg.finetuning.regressor import FineTunedRegressor
from skecg.linear_model.distances import NoveltyScore
from skecg.linear_model.ridge import RidgeProbe
from skecg.metrics import best_thresholds, calibration
from skecg.splits import patient_folds
from skecg.tabular.features import embed_table
from skecg.tabular.model import FINETUNE, METHODS, PROBE, FittedModel, encoder_of, of_classes
from skecg.tabular.table import RecordTable
from skecg.tabular.targets import LABELS, NUMBERS, Target
from skecg.validation import check_choice, check_integer
from skecg.versions import installed_version

__all__ = ["FineTuneProtocol", "Fitting", "KnownFeatures", "fit_model"]

# Parameters that an embedder and a fine-tuned estimator have in common. The embedder reads all records first: those of
# its own that say which of them can be read, and how they are embedded and kept, have then done their part.
_SHARED = (
    "model sampling_rate leads units pooling stride missing_leads short_records precision n_jobs revision "
    "local_files_only verbose"
)
# Those that fine-tuning has no use for, and what they have to be.
_UNTUNED = {"truncate_dim": None, "layer": None, "backend": "torch"}


@dataclass(frozen=True, eq=False)
class KnownFeatures:
    """Features that were computed before.

    Parameters
    ----------
    name, note : str
    table : object
        Whatever the protocol takes of all records.
    standardize : bool
        Whether a probe may standardize them; along principal directions their scales say what counts.
    """

    name: str
    note: str
    table: Any
    standardize: bool

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> Any:
        """Return them."""
        return self.table


@dataclass(frozen=True, eq=False)
class Fitting:
    """What came of it.

    Parameters
    ----------
    model : FittedModel
    report : Report or RegressionScores
        Of the cross-validation.
    text : str
        The same for a terminal.
    """

    model: FittedModel
    report: Report | RegressionScores
    text: str


def fit_model(
    table: RecordTable,
    embedder: JEPAEmbedder,
    *,
    method: str = PROBE,
    n_folds: int = 5,
    n_resamples: int = 1000,
    seed: int = 0,
    finetuning: Mapping[str, Any] | None = None,
    verbose: int = 0,
    say: Callable[[str], None] = lambda message: None,
) -> Fitting:
    """Cross-validate by patients, then fit on all records.

    Parameters
    ----------
    table : RecordTable
        With a target.
    embedder : JEPAEmbedder
        With ``on_bad_record="nan"``; a cache on disk makes a second run cheap.
    method : {"probe", "finetune"}, default="probe"
    n_folds : int, default=5
        Parts of the patients.
    n_resamples : int, default=1000
        Draws of patients for the intervals.
    seed : int, default=0
        Decides who is in which fold, the resamples, and fine-tuning.
    finetuning : mapping of str to object, optional
        Parameters of :class:`skecg.FineTunedClassifier` or :class:`skecg.FineTunedRegressor`.
    verbose : int, default=0
    say : callable, optional
        Called with a sentence on what is being done.

    Returns
    -------
    Fitting

    Raises
    ------
    ParameterError
        When the table has no target or too few patients, or the method has no use for an option that is set.
    """
    check_choice("method", method, METHODS)
    check_integer("seed", seed, 0)
    if table.target is None:
        raise ParameterError("Got a table without labels, expected a column of them. Name it: --label-column.")
    # Before anything is embedded or trained, which may take hours.
    tuning = _tuning(embedder, finetuning, method, seed)
    used, features = embed_table(table, embedder)
    for note in used.notes():
        say(note)
    say(f"{len(used)} records of {len(np.unique(used.groups))} patients, cross-validated in {n_folds} parts of them")
    name = Path(str(embedder.model)).name
    standardize = embedder.truncate_dim is None
    known = KnownFeatures(name, f"weights {embedder.weights_sha256_[:12]}", features, standardize)
    common: dict[str, Any] = {"n_folds": n_folds, "n_resamples": n_resamples, "seed": seed, "verbose": verbose}
    if table.target.kind == NUMBERS:
        return _fit_numbers(used, embedder, known, tuning, common)
    if tuning is not None:
        source = replace(known, table=list(used.paths))
        protocol = FineTuneProtocol(tuning, _target_of(used), used.groups)
        return _fit_network(used, embedder, source, features, protocol, common)
    return _fit_probe(used, embedder, known, common)


def _target_of(table: RecordTable) -> Target:
    assert table.target is not None, "checked before anything is read"
    return table.target


def _cross_validated(
    table: RecordTable, source: FeatureSource, protocol: Any, common: Mapping[str, Any], **words: str
) -> tuple[Report, NDArray[np.float64]]:
    """Score a source of features fold by fold, and return its word on every record in the order of the table."""
    target = _target_of(table)
    splits = split_by_patients(table.groups, target.indicator, common["n_folds"], common["seed"], **words)
    report = compare(
        table.dataset(),
        target.task(),
        [(MODEL, source)],
        protocol=protocol,
        fractions=(1.0,),
        splits=splits,
        n_resamples=common["n_resamples"],
        seed=common["seed"],
        verbose=common["verbose"],
    )
    assert report.tested is not None, "just made"
    out_of_fold = np.empty(target.indicator.shape)
    out_of_fold[report.tested.rows] = report.tested.probabilities[source.name]
    return report, out_of_fold


def _last_fit(table: RecordTable, source: KnownFeatures, protocol: Any) -> ProbeFit:
    """Fit on all records, choosing the penalty as each fold did."""
    target, rows = _target_of(table), np.arange(len(table))
    selection, _ = selecting_part(table.groups, target.indicator, rows)
    # Nobody is tested: the penalty is chosen on a part, and all are then fitted.
    split = Split(rows, selection, rows[:0], True, "all records")
    draw = LabelDraw(1.0, 0, np.unique(table.groups), rows)
    return next(iter(protocol.fits(source.table, target.indicator, split, [draw])))


def _fit_probe(table: RecordTable, embedder: JEPAEmbedder, source: KnownFeatures, common: Mapping[str, Any]) -> Fitting:
    report, out_of_fold = _cross_validated(table, source, OWN_LABELS, common)
    fit = _last_fit(table, source, replace(OWN_LABELS, standardize=source.standardize))
    assert fit.probe is not None, "the pooled protocol has one"
    novelty = NoveltyScore(standardize=source.standardize).fit(source.table)
    model = _described(table, encoder_of(embedder), PROBE, report, out_of_fold, novelty, common)
    arrays = {name: np.asarray(getattr(fit.probe, name)) for name in fit.probe.__dataclass_fields__}
    return Fitting(replace(model, probe=arrays), report, report.to_text())


def _fit_network(
    table: RecordTable,
    embedder: JEPAEmbedder,
    source: KnownFeatures,
    features: NDArray[np.float32],
    protocol: FineTuneProtocol,
    common: Mapping[str, Any],
) -> Fitting:
    """Fine-tune fold by fold, then on all; what is usual is measured by the features of the fine-tuned encoder."""
    report, out_of_fold = _cross_validated(table, source, protocol, common, chosen=protocol.chosen)
    estimator = protocol.fitted(np.array(table.paths, dtype=object), np.arange(len(table)))
    encoder, novelty = _tuned_encoder(table, embedder, estimator)
    model = _described(table, encoder, FINETUNE, report, out_of_fold, novelty, common)
    return Fitting(replace(model, network=estimator), report, report.to_text())


def _tuned_encoder(
    table: RecordTable, embedder: JEPAEmbedder, estimator: FineTunedEstimator
) -> tuple[dict[str, Any], NoveltyScore]:
    """Describe the encoder that was fine-tuned, by the weights that it began as, and what is usual by its features."""
    with tempfile.TemporaryDirectory(prefix="skecg-fit-") as folder:
        # Through a folder, for an embedder takes weights from nowhere else.
        estimator.save(folder)
        tuned = JEPAEmbedder(**{**embedder.get_params(), "model": folder, "revision": None, "cache": None})
        novelty = NoveltyScore().fit(tuned.fit_transform(table.paths))
    encoder = encoder_of(tuned)
    # The folder is gone. Which commit the weights were of is written beside the network.
    encoder["parameters"]["model"] = encoder_of(embedder)["parameters"]["model"]
    return encoder, novelty


def _fit_numbers(
    table: RecordTable,
    embedder: JEPAEmbedder,
    source: KnownFeatures,
    tuning: Mapping[str, Any] | None,
    common: Mapping[str, Any],
) -> Fitting:
    """Cross-validate ridge regression on features, fine-tuning where it is asked for, and fit the last on all."""
    target = _target_of(table)
    scores = compare_regressions(
        table.dataset(),
        [(MODEL, source)],
        {target.name: target.y},
        **{n: common[n] for n in ("n_folds", "seed", "verbose")},
        n_draws=common["n_resamples"],
    )[target.name]
    found: dict[str, Any]
    alpha: float | None
    if tuning is None:
        # The same seed as the probes of the cross-validation have.
        ridge = RidgeProbe(n_folds=common["n_folds"], random_state=common["seed"] + 1, standardize=source.standardize)
        ridge.fit(source.table, target.y, groups=table.groups)
        probe = {
            "mean": ridge.mean_,
            "scale": ridge.scale_,
            "coef": np.atleast_2d(ridge.coef_),
            "intercept": np.atleast_1d(ridge.intercept_),
        }
        novelty = NoveltyScore(standardize=source.standardize).fit(source.table)
        found = {"encoder": encoder_of(embedder), "probe": probe, "novelty": novelty}
        alpha = ridge.alpha_
    else:
        scores |= {f"{source.name}, fine-tuned": _score_tuned(table, tuning, common)}
        estimator = _tuned_regressor(table, tuning, np.arange(len(table)))
        encoder, novelty = _tuned_encoder(table, embedder, estimator)
        found = {"encoder": encoder, "probe": {}, "novelty": novelty, "network": estimator}
        alpha = estimator.alpha_
    text = f"{target.name}, cross-validated by patients\n\n{regression_table(scores, 'in the unit of the table')}\n"
    model = FittedModel(
        method=PROBE if tuning is None else FINETUNE,
        kind=NUMBERS,
        target=target.name,
        classes=(),
        labels=(),
        thresholds=np.empty(0),
        calibration=[],
        score={name: asdict(replace(score, predicted=None)) for name, score in scores.items()},
        provenance=_provenance(table, common) | {"alpha": alpha},
        **found,
    )
    return Fitting(model, next(reversed(scores.values())), text)


def _score_tuned(table: RecordTable, tuning: Mapping[str, Any], common: Mapping[str, Any]) -> RegressionScores:
    """Predict every record by an encoder that was fine-tuned on other patients."""
    target, seed = _target_of(table), common["seed"]
    folds, predicted = patient_folds(table.groups, common["n_folds"], seed), np.empty(len(table))
    for fold in range(common["n_folds"]):
        test = np.flatnonzero(folds == fold)
        estimator = _tuned_regressor(table, tuning, np.flatnonzero(folds != fold))
        predicted[test] = estimator.predict([table.paths[row] for row in test])
    scored = score_regression(target.y, predicted, table.groups, n_draws=common["n_resamples"], seed=seed)
    return replace(scored, predicted=predicted)


def _tuned_regressor(table: RecordTable, tuning: Mapping[str, Any], rows: NDArray[np.intp]) -> FineTunedRegressor:
    paths = [table.paths[row] for row in rows]
    return FineTunedRegressor(**tuning).fit(paths, _target_of(table).y[rows], groups=table.groups[rows])


def _described(
    table: RecordTable,
    encoder: dict[str, Any],
    method: str,
    report: Report,
    out_of_fold: NDArray[np.float64],
    novelty: NoveltyScore,
    common: Mapping[str, Any],
) -> FittedModel:
    """Return a model without what was fitted: thresholds and calibration by what other patients' fits said."""
    target, plain = _target_of(table), report.to_dict()["rows"][0]
    return FittedModel(
        method=method,
        kind=target.kind,
        target=target.name,
        classes=target.classes,
        labels=target.labels,
        encoder=encoder,
        probe={},
        novelty=novelty,
        # By out-of-fold probabilities: a fit's own records would put them too high.
        thresholds=best_thresholds(target.indicator, out_of_fold),
        calibration=_calibration_of(target, out_of_fold),
        score={"by_fraction": plain["by_fraction"], "labels": plain["labels"], "geometry": report.to_dict()["geometry"]}
        | {"split": report.split["description"]},
        provenance=_provenance(table, common),
    )


def _calibration_of(target: Target, out_of_fold: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return each label's calibration, of the probabilities that predictions show: those of classes add up to 1."""
    # Of two classes the second alone is a label.
    shown = out_of_fold if target.kind == LABELS else of_classes(out_of_fold)[:, -out_of_fold.shape[1] :]
    found = calibration(target.indicator, shown)
    columns = {
        "brier": found.brier,
        "calibration_error": found.expected_error,
        "calibration_slope": found.slope,
        "calibration_intercept": found.intercept,
    }
    return [
        {"label": label}
        | {name: float(values[k]) if np.isfinite(values[k]) else None for name, values in columns.items()}
        for k, label in enumerate(target.labels)
    ]


def _provenance(table: RecordTable, common: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the model came about, without names of records or patients."""
    return {
        "table": table.name,
        "n_records": len(table),
        "n_patients": len(np.unique(table.groups)),
        "grouped": table.grouped,
        # What stands in parentheses names a recording.
        "left_out": {reason.partition(" (")[0]: len(names) for reason, names in table.left_out.items()},
        "n_folds": common["n_folds"],
        "seed": common["seed"],
        "versions": {"skecg": __version__}
        | {name: installed_version(name) for name in ("torch", "numpy", "scikit-learn")},
    }


def _tuning(embedder: JEPAEmbedder, given: Mapping[str, Any] | None, method: str, seed: int) -> dict[str, Any] | None:
    """Return the parameters of a fine-tuned estimator: those that an embedder has, too, and those given.

    None where nothing is to be fine-tuned. What the method has no use for is refused: it would be dropped in silence.
    """
    if method == PROBE:
        if given:
            raise ParameterError(
                f"Got {', '.join(f'{name}={value!r}' for name, value in given.items())} for --method {PROBE}, which "
                f"trains no encoder. Leave it out, or pass --method {FINETUNE}."
            )
        return None
    for name, value in _UNTUNED.items():
        if getattr(embedder, name) != value:
            raise ParameterError(
                f"Got --{name.replace('_', '-')} {getattr(embedder, name)!r} for --method {FINETUNE}, expected "
                f"{'none' if value is None else repr(value)}: what is trained is the whole encoder, in torch, with a "
                f"head on the tokens of its last block. Leave it out, or pass --method {PROBE}."
            )
    if embedder.pooling == "attention":
        raise ParameterError(
            f"Got --pooling attention for --method {FINETUNE}, whose head is trained on pooled tokens, expected mean, "
            f"max, mean+std, mean+std+max or cls. Name one of these, or pass --method {PROBE}."
        )
    resolve_precision(embedder.precision)
    parameters = {name: getattr(embedder, name) for name in _SHARED.split()}
    # Several devices embed; one trains.
    device = embedder.device if isinstance(embedder.device, str) else embedder.device[0]
    return {**parameters, "device": device, "random_state": seed, **(given or {})}


@dataclass(frozen=True, eq=False)
class FineTuneProtocol:
    """Encoder and head, trained together; thresholds by the patients that training held out.

    Parameters
    ----------
    parameters : dict
        Of :class:`skecg.FineTunedClassifier`.
    target : Target
        Of all records.
    groups : ndarray of shape (n_records,), str
        Whose they are.
    """

    parameters: dict[str, Any]
    target: Target
    groups: NDArray[np.str_]

    @property
    def chosen(self) -> str:
        """What is chosen on which of the training patients, in words."""
        share = FineTunedClassifier(**self.parameters).validation_fraction
        return f"the epoch and thresholds chosen on {share:.0%} of the training patients".replace("%", " %")

    def describe(self) -> dict[str, Any]:
        """Return what is done, for reports."""
        # The others belong to this machine, not to the method.
        machine = ("n_jobs", "device", "verbose", "local_files_only")
        plain = {name: value for name, value in self.parameters.items() if name not in machine}
        return {"name": "(c) the encoder fine-tuned with a head", **{k: str(v) for k, v in plain.items()}}

    def fitted(self, paths: NDArray[Any], rows: NDArray[np.int64]) -> FineTunedClassifier:
        """Fine-tune on some of all records."""
        y = self.target.take(rows).y
        return FineTunedClassifier(**self.parameters).fit(list(paths[rows]), y, groups=self.groups[rows])

    def fits(
        self, features: Any, labels: NDArray[np.int8], split: Split, draws: Iterable[LabelDraw]
    ) -> Iterator[ProbeFit]:
        """Fine-tune once for each draw.

        Parameters
        ----------
        features : sequence of str
            Paths of all records.
        labels : ndarray of shape (n_records, n_labels)
        split : Split
        draws : iterable of LabelDraw

        Yields
        ------
        ProbeFit
        """
        paths = np.array(features, dtype=object)
        for draw in draws:
            estimator = self.fitted(paths, draw.rows)
            held = draw.rows[estimator.validation_rows_]
            seen = held if len(held) else draw.rows
            guess = self.label_probabilities(estimator, list(paths[seen]))
            yield ProbeFit(
                draw.fraction,
                draw.draw,
                float("nan"),
                float("nan"),
                best_thresholds(labels[seen], guess),
                self.label_probabilities(estimator, list(paths[split.test])),
            )

    def label_probabilities(self, estimator: FineTunedClassifier, paths: list[str]) -> NDArray[np.float64]:
        """Compute the probabilities of the labels (n_records, n_labels), 0 of a class that was not there to learn."""
        found = estimator.predict_proba(paths)
        if self.target.kind == LABELS:
            return found
        shares = np.zeros((len(found), len(self.target.classes)))
        shares[:, np.asarray(estimator.classes_)] = found
        return shares[:, 1:] if shares.shape[1] == 2 else shares
