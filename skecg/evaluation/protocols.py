"""Protocols: how features become scores on the test records.

The literature calls three things "linear": (a) logistic regression on one pooled vector a record, (b) a trained
attention-pooling head on the tokens of a frozen encoder, on crops of 2.5 s, averaged over crops, and (c) fine-tuning
the encoder. Their numbers are not comparable. This module is (a).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from skecg.errors import ParameterError
from skecg.linear_model.distances import standardization
from skecg.linear_model.logistic import LogisticProbe
from skecg.metrics import area_under_roc, best_thresholds, macro
from skecg.splits import digest_of_patients, draw_patients

if TYPE_CHECKING:
    from skecg.evaluation.splitting import Split

__all__ = [
    "OWN_LABELS",
    "LabelDraw",
    "PooledProbe",
    "PooledProtocol",
    "ProbeFit",
    "amount_in_words",
    "fit_path",
    "label_draws",
]

# A probability of 0 that was wrong costs much, and not everything.
_LEAST_PROBABILITY = 1e-6

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelDraw:
    """Training records of which the labels may be used.

    Parameters
    ----------
    fraction : float
        Share of the training patients; above 1, a number of training records.
    draw : int
        Number of the draw.
    patients : ndarray of str
        Those drawn, sorted.
    rows : ndarray of int
        Their training records.
    """

    fraction: float
    draw: int
    patients: NDArray[np.str_]
    rows: Rows

    def to_dict(self) -> dict[str, Any]:
        """Return the draw as plain JSON values, with the names of the patients unless it is all of them."""
        digest = digest_of_patients(self.patients)
        return {
            "fraction": self.fraction,
            "draw": self.draw,
            "n_patients": len(self.patients),
            "n_records": len(self.rows),
            "patients_sha256": digest,
            # Names for small draws, so that others can draw the same; the digest is enough to compare.
            "patients": "all of the training folds" if self.fraction == 1 else self.patients.tolist(),
        }


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """A fitted probe's word on the test records.

    Parameters
    ----------
    fraction : float
    draw : int
        Of :class:`LabelDraw`.
    C : float
        The penalty chosen; NaN where there was nothing to choose.
    selection_auroc : float
        Macro area under the curve on the records that selected it.
    thresholds : ndarray of shape (n_labels,), float64
        With the highest F1 on these records.
    probabilities : ndarray of shape (n_test, n_labels), float64
    probe : PooledProbe, optional
        What was learned, of protocols that have it.
    """

    fraction: float
    draw: int
    C: float
    selection_auroc: float
    thresholds: FloatArray
    probabilities: FloatArray
    probe: PooledProbe | None = None


def label_draws(
    patients: NDArray[np.str_], labels: NDArray[np.int8], split: Split, fractions: Sequence[float], n_draws: int
) -> list[LabelDraw]:
    """List the draws of training patients: one of all, and `n_draws` of whatever is less.

    Parameters
    ----------
    patients : ndarray of shape (n_records,)
    labels : ndarray of shape (n_records, n_labels)
    split : Split
    fractions : sequence of float
        Shares of the training patients; above 1, whole numbers of training records.
    n_draws : int

    Returns
    -------
    list of LabelDraw
        Numbers of records, then shares, each ascending.

    Raises
    ------
    ParameterError
        When nothing is asked for, or more records than there are.
    """
    if n_draws < 1 or not len(fractions):
        raise ParameterError(f"Got {n_draws} draws of the shares {tuple(fractions)}, expected one or more of each.")
    train = split.train
    named, y = patients[train].astype(str), labels[train]
    draws = []
    # Numbers of records before shares: the last is then all labels, which reports call the largest.
    for fraction in sorted(set(fractions), key=lambda fraction: (fraction <= 1, fraction)):
        for draw in range(1 if fraction == 1 else n_draws):
            if fraction > 1:
                rows = train[_draw_records(named, y, fraction, draw)]
                chosen = np.unique(patients[rows].astype(str))
            else:
                chosen = draw_patients(named, y, fraction, draw)
                rows = train[np.isin(named, chosen)]
            draws.append(LabelDraw(fraction, draw, chosen, rows))
    return draws


def _draw_records(patients: NDArray[np.str_], labels: NDArray[np.int8], wanted: float, draw: int) -> Rows:
    """Draw exactly so many records, of patients that are drawn as shares of them are."""
    n_wanted = int(wanted)
    if n_wanted != wanted or n_wanted > len(patients):
        raise ParameterError(
            f"Got {wanted:g} training records in fractions, expected a whole number up to the {len(patients)} there "
            "are, or a share up to 1."
        )
    share = n_wanted / len(patients)
    while True:
        # Whole patients first, then records of them: so a draw of records has the same patients as the share has.
        rows = np.flatnonzero(np.isin(patients, draw_patients(patients, labels, share, draw)))
        if len(rows) >= n_wanted:
            return np.sort(np.random.default_rng([n_wanted, draw]).permutation(rows)[:n_wanted])
        # Patients with several recordings are drawn as often as those with one, so that a share of patients may fall
        # short of the same share of recordings.
        share = min(1.0, 1.05 * share)


def amount_in_words(fraction: float) -> str:
    """Write what :class:`LabelDraw` calls a fraction: "10 % of the training patients", "250 training records"."""
    return f"{fraction:g} training records" if fraction > 1 else f"{fraction * 100:g} % of the training patients"


@dataclass(frozen=True)
class PooledProtocol:
    """Protocol (a): one pooled vector a record, standardized, and logistic regression.

    Mean and standard deviation of each feature come from the records that the regression is fitted on. All labels share
    one penalty, the one of `Cs` that does best on the selection records (the strongest of several that are equal). The
    test records are looked at once.

    Parameters
    ----------
    criterion : {"macro AUROC", "log loss"}, default="macro AUROC"
        What is best on the selection records: the order of the records, which comparisons are about, or the
        probabilities. Of few records that are easy to tell apart many penalties give the right order, and the
        strongest of them leaves probabilities that say nothing and cannot be compared between folds.
    Cs : tuple of float
        Inverse strengths of the penalty to choose from, ascending.
    further_Cs : tuple of float
        Tried as well where the last of `Cs` is the best of them, which features of little scale (means of untrained
        tokens) make it. They take long and are seldom needed.
    standardize : bool, default=True
        Whether each feature is divided by its own deviation. False divides all by one number: for coordinates along
        principal directions, of which the last ones would become as large as the first, and cost more the fewer the
        labels.
    """

    criterion: str = "macro AUROC"
    # From 1e-5, for standardized features of a few hundred records want strong penalties.
    Cs: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in np.arange(-5, 1.25, 0.5))
    # Means of untrained tokens take C = 100: a grid that ends at 10 underrates them (docs/log.md).
    further_Cs: tuple[float, ...] = (10.0**1.5, 100.0, 1000.0, 10000.0)
    standardize: bool = True

    def describe(self) -> dict[str, Any]:
        """Return what is done, for reports."""
        return {
            "name": "(a) pooled vector + logistic regression",
            "features": "frozen, one vector a record: pooled over tokens, then the mean over windows",
            "standardization": "mean and deviation of each feature over the records fitted; one deviation for all "
            "coordinates along principal directions"
            if self.standardize
            else "mean of each feature over the records fitted, one deviation for all",
            "classifier": "L2-penalized logistic regression, one label against the rest, intercept free",
            # Whether features are standardized depends on the row.
            **{name: value for name, value in asdict(self).items() if name != "standardize"},
        }

    def fits(
        self,
        features: NDArray[np.float32],
        labels: NDArray[np.int8],
        split: Split,
        draws: Iterable[LabelDraw],
    ) -> Iterator[ProbeFit]:
        """Fit one probe for each draw.

        Parameters
        ----------
        features : ndarray of shape (n_records, n_features)
            Of all records of the data set; without columns, the shares of the labels are what is predicted.
        labels : ndarray of shape (n_records, n_labels)
        split : Split
        draws : iterable of LabelDraw

        Yields
        ------
        ProbeFit
        """
        for draw in draws:
            yield self._fit(features, labels, split, draw)

    def _fit(self, features: NDArray[np.float32], labels: NDArray[np.int8], split: Split, draw: LabelDraw) -> ProbeFit:
        tried = np.setdiff1d(draw.rows, split.selection) if split.refit else draw.rows
        # A draw so small that all of it selects is fitted as it is; there is nothing else to learn from.
        tried = tried if len(tried) else draw.rows
        seen = features[split.selection], labels[split.selection]
        tries = self._try_path(features[tried], labels[tried], self.Cs, *seen)
        if len(tries) > 1 and _best(tries) is tries[-1]:
            # Weak penalties take the solver long and are seldom best: tried only where the weakest so far was.
            tries += self._try_path(features[tried], labels[tried], self.further_Cs, *seen)
        best = _best(tries)
        last = best.probe
        if split.refit:
            # The penalty was chosen; now the records that chose it may be learned from, too.
            (last,) = fit_path(features[draw.rows], labels[draw.rows], [best.C], standardize=self.standardize)
        return ProbeFit(
            draw.fraction,
            draw.draw,
            best.C if features.shape[1] else float("nan"),
            macro(area_under_roc(seen[1], best.guess)),
            best_thresholds(seen[1], best.guess),
            last.predict(features[split.test]),
            last,
        )

    def _try_path(
        self,
        features: NDArray[np.float32],
        labels: NDArray[np.int8],
        Cs: Sequence[float],
        seen_features: NDArray[np.float32],
        seen_labels: NDArray[np.int8],
    ) -> list[_Try]:
        """Fit for each C and score on the selection records."""
        tries = []
        for C, probe in zip(Cs, fit_path(features, labels, Cs, standardize=self.standardize), strict=False):
            guess = probe.predict(seen_features)
            tries.append(_Try(C, probe, guess, _merit(seen_labels, guess, self.criterion)))
        return tries


#: For labels of one's own, of which there may be few, and whose probabilities are used.
OWN_LABELS = PooledProtocol(criterion="log loss", further_Cs=())


@dataclass(frozen=True, eq=False)
class PooledProbe:
    """Standardized features and a regression for each label: what a fit of this protocol has learned.

    Parameters
    ----------
    mean, scale : ndarray of shape (n_features,), float64
        What features are standardized by; the scale is infinite where a feature does not vary.
    coef : ndarray of shape (n_labels, n_features), float64
    intercept : ndarray of shape (n_labels,), float64
    shares : ndarray of shape (n_labels,), float64
        Of the labels among the records of the fit.
    learned : ndarray of shape (n_labels,), bool
        Labels that some of these records have and some have not; the others are predicted by their share.
    """

    mean: FloatArray
    scale: FloatArray
    coef: FloatArray
    intercept: FloatArray
    shares: FloatArray
    learned: NDArray[np.bool_]

    def predict(self, features: NDArray[np.floating]) -> FloatArray:
        """Compute the probabilities (n_records, n_labels)."""
        logits = ((features - self.mean) / self.scale) @ self.coef.T + self.intercept
        return np.where(self.learned, special.expit(logits), self.shares)


@dataclass(frozen=True, eq=False)
class _Try:
    """A probe fitted with one penalty, and its word on the selection records."""

    C: float
    probe: PooledProbe
    guess: FloatArray
    merit: float


def _best(tries: Sequence[_Try]) -> _Try:
    """Return the first of those with the highest merit; the first of all where none has any."""
    known = [one for one in tries if np.isfinite(one.merit)]
    # max takes the first of equals, and the path begins with the strongest penalty.
    return max(known, key=lambda one: one.merit) if known else tries[0]


def _merit(labels: NDArray[np.int8], guess: FloatArray, criterion: str) -> float:
    if criterion == "log loss":
        likely = np.where(labels == 1, guess, 1 - guess)
        return float(np.log(likely.clip(_LEAST_PROBABILITY)).mean())
    return macro(area_under_roc(labels, guess))


def fit_path(
    features: NDArray[np.float32], labels: NDArray[np.int8], Cs: Sequence[float], *, standardize: bool = True
) -> list[PooledProbe]:
    """Standardize and fit for each C; labels that all records have, or none, are predicted by their share."""
    shares = labels.mean(axis=0)
    learned = (shares > 0) & (shares < 1)
    n_features = features.shape[1]
    if n_features == 0 or not learned.any():
        constant = np.zeros((len(shares), n_features)), np.zeros(len(shares))
        return [PooledProbe(np.zeros(n_features), np.ones(n_features), *constant, shares, np.zeros_like(learned))]
    mean, scale = standardization(features, standardize=standardize)
    # One column of zeros and ones is two classes to a classifier, not one label.
    wanted = labels[:, learned] if learned.sum() > 1 else labels[:, learned][:, 0]
    probes = LogisticProbe().path((features - mean) / scale, wanted, Cs)
    return [PooledProbe(mean, scale, *_spread(probe, learned), shares, learned) for probe in probes]


def _spread(probe: LogisticProbe, learned: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Return weights and constants with zeros for labels that were not learned."""
    coef, intercept = np.zeros((len(learned), probe.coef_.shape[1])), np.zeros(len(learned))
    coef[learned], intercept[learned] = probe.coef_, probe.intercept_
    return coef, intercept
