"""Distances between embeddings: how far a record is from those one knows, and which of them are most like it.

Both are measured in features standardized by the known records. A direction in which these do not vary counts nowhere.
Features along principal directions are not standardized: the last of them would be as large as the first, though
recordings hardly differ in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from skecg.errors import ParameterError, ShapeError
from skecg.linear_model.logistic import read_features
from skecg.validation import as_numbers, check_flag, check_integer, check_number, check_squares

__all__ = ["Neighbours", "NoveltyScore", "nearest_rows", "similar", "standardization"]

FloatArray = NDArray[np.float64]

# Distances from all known records are held for so many records at once.
_ROWS_TOGETHER = 512


def standardization(features: NDArray[np.floating], *, standardize: bool = True) -> tuple[FloatArray, FloatArray]:
    """Return mean and deviation of each feature; infinite, so that it counts nothing, where only rounding varies.

    Without `standardize` all that vary have one deviation, the root of the mean variance, and keep their proportions.
    """
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    varies = deviation > 1e-6 * np.abs(mean)
    if not standardize and varies.any():
        deviation[:] = np.sqrt(np.square(deviation[varies]).mean())
    return mean, np.where(varies, deviation, np.inf)


class NoveltyScore(OutlierMixin, BaseEstimator):
    """How far records are from those of the fit: Mahalanobis' distance on their leading principal components.

    Features are standardized by the records of the fit; each component counts in units of its own deviation. It is one
    of scikit-learn's outlier detectors: higher scores are more usual records, and ``predict`` gives -1 for outliers.

    Parameters
    ----------
    n_components : int, default=128
        Leading components that count, at most; those along which the records of the fit do not vary are left out, and
        so are those beyond a third of the records: each record would be usual along components of its own.
    contamination : float, default=0.05
        Share of the records of the fit that ``predict`` calls outliers, above 0 and up to 0.5.
    standardize : bool, default=True
        Whether each feature is brought to a deviation of 1 first. False leaves their proportions, for features whose
        scales say what counts, as with ``truncate_dim``.

    Attributes
    ----------
    mean_, scale_ : ndarray of shape (n_features,), float64
        What features are standardized by; the scale is infinite where a feature does not vary.
    components_ : ndarray of shape (n_components, n_features), float64
    deviations_ : ndarray of shape (n_components,), float64
        Of the records of the fit along each component.
    offset_ : float
        Score from which a record is none of the outliers.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, one for each feature
        Names of the columns, when they have names.

    Notes
    -----
    Fit it on records that are as they should be (normal ones, or those that a classifier was fitted on), many more than
    there are components: the distance of the records of the fit themselves is too small by what they had to say in it.

    Examples
    --------
    >>> import numpy as np
    >>> usual = np.random.default_rng(0).normal(size=(200, 8))
    >>> score = NoveltyScore().fit(usual)
    >>> score.predict([[0.0] * 8, [9.0] * 8]).tolist()
    [1, -1]
    """

    def __init__(self, n_components: int = 128, *, contamination: float = 0.05, standardize: bool = True) -> None:
        self.n_components = n_components
        self.contamination = contamination
        self.standardize = standardize

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn what is usual.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ShapeError
            When the records do not differ.
        InputError
            When features are no finite numbers, or so large or small that their squares are none.
        """
        check_integer("n_components", self.n_components, 1)
        check_number("contamination", self.contamination, 0, 0.5, closed="right")
        check_flag("standardize", self.standardize)
        features: NDArray[Any] = read_features(self, X, ensure_min_samples=2)
        check_squares(features)
        self.mean_, self.scale_ = standardization(features, standardize=self.standardize)
        _, lengths, axes = np.linalg.svd((features - self.mean_) / self.scale_, full_matrices=False)
        if not lengths[0]:
            raise ShapeError(
                f"Got {len(features)} records with the same features, expected records that differ: nothing says how "
                "far others may be from them. Check how they were embedded."
            )
        # With as many components as records all would be equally far, and nothing else as near.
        most = min(self.n_components, max(1, len(features) // 3))
        # A direction without variation would make any difference along it infinitely far.
        used = lengths[:most] > 1e-6 * lengths[0]
        self.components_ = axes[:most][used]
        # Singular values of N rows are deviations times the root of N - 1.
        self.deviations_ = lengths[:most][used] / np.sqrt(len(features) - 1)
        self.offset_ = float(np.quantile(-self._distances(features), self.contamination))
        return self

    def distances(self, X: ArrayLike) -> FloatArray:
        """Compute the distances, in deviations.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)

        Returns
        -------
        ndarray of shape (n_records,), float64
        """
        check_is_fitted(self)
        features: NDArray[Any] = read_features(self, X, reset=False)
        return self._distances(features)

    def score_samples(self, X: ArrayLike) -> FloatArray:
        """Return minus the distances: higher is more usual."""
        return -self.distances(X)

    def decision_function(self, X: ArrayLike) -> FloatArray:
        """Return how far scores are above the offset; outliers are below 0."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return -1 for outliers and 1 for all others."""
        return np.where(self.decision_function(X) < 0, -1, 1).astype(np.int64)

    def _distances(self, features: NDArray[np.floating]) -> FloatArray:
        along = ((features - self.mean_) / self.scale_) @ self.components_.T / self.deviations_
        return np.asarray(np.sqrt(np.square(along).sum(axis=1)))


class Neighbours(NamedTuple):
    """The nearest records of each query, nearest first.

    Parameters
    ----------
    rows : ndarray of shape (n_queries, k), int64
        Their rows in the table of features.
    distances : ndarray of shape (n_queries, k), float64
        Euclidean, in standardized features.
    """

    rows: NDArray[np.int64]
    distances: FloatArray


def _names_of(table: Any) -> list[Any]:
    """Return the names of features: columns of a frame, or what a row of one is indexed by."""
    names = getattr(table, "columns", getattr(table, "index", ()))
    # Lists have a method of that name, and rows without names are numbered.
    return [] if callable(names) else [name for name in names if isinstance(name, str)]


def similar(query: ArrayLike, features: ArrayLike, k: int = 10, *, standardize: bool = True) -> Neighbours:
    """Find the records that are most like others: those at the least Euclidean distance in standardized features.

    Parameters
    ----------
    query : array-like of shape (n_queries, n_features) or (n_features,)
        Embeddings of the records asked for. One that is itself in `features` finds itself first.
    features : array-like of shape (n_records, n_features)
        Embeddings to search. Rows of NaN, of records that could not be embedded, are never found.
    k : int, default=10
        Records to find.
    standardize : bool, default=True
        As for :class:`NoveltyScore`: False for features of ``truncate_dim``.

    Returns
    -------
    Neighbours
        ``rows`` and ``distances``, (n_queries, k); (k,) for one query of one dimension.

    Raises
    ------
    ShapeError
        When the two do not have the same features, or a query has none.
    InputError
        When one of them holds what is no number.
    ParameterError
        When `k` is not a number of records that there are, or `standardize` is neither True nor False.

    Examples
    --------
    >>> features = [[0.0, 0.0], [0.0, 1.0], [4.0, 4.0]]
    >>> similar([3.0, 4.0], features, k=2).rows.tolist()
    [2, 1]
    """
    for wanted, name in zip(_names_of(features), _names_of(query), strict=False):
        if wanted != name:
            raise ShapeError(
                f"Got a query with the column {name!r} where features have {wanted!r}, expected the same columns in "
                "the same order. Pass query[features.columns]."
            )
    known, asked = as_numbers("features", features), as_numbers("query", query)
    table = np.atleast_2d(asked)
    if known.ndim != 2 or table.ndim != 2 or table.shape[1] != known.shape[1] or not np.isfinite(table).all():
        raise ShapeError(
            f"Got a query of shape {asked.shape} and features of shape {known.shape}, expected finite numbers and the "
            "same columns in both. Embed both with the same model, and leave out queries that could not be embedded."
        )
    complete = np.flatnonzero(np.isfinite(known).all(axis=1))
    if not len(table):
        raise ShapeError("Got a query of no records, expected at least one.")
    if check_integer("k", k, 1) > len(complete):
        raise ParameterError(f"Got k={k} for {len(complete)} records with features, expected at most as many.")
    check_squares(known[complete])
    mean, scale = standardization(known[complete], standardize=check_flag("standardize", standardize))
    standard, others = (known[complete] - mean) / scale, (table - mean) / scale
    found = np.concatenate(list(nearest_rows(standard, others, k)))
    gaps = np.linalg.norm(standard[found] - others[:, None], axis=2)
    rows = complete[found].astype(np.int64)
    return Neighbours(rows, gaps) if asked.ndim == 2 else Neighbours(rows[0], gaps[0])


def nearest_rows(known: FloatArray, asked: FloatArray, k: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of the `k` nearest known records, (n, k), for some of those asked at a time."""
    half_squares = 0.5 * np.square(known).sum(axis=1)
    for start in range(0, len(asked), _ROWS_TOGETHER):
        some = asked[start : start + _ROWS_TOGETHER]
        # What is left out of the squared distance is the same for all known records.
        yield np.argsort(half_squares - some @ known.T, axis=1, kind="stable")[:, :k]
