"""Features in coordinates in which a logistic regression is easy: uncorrelated, of unit variance, with an intercept.

Letters in shapes: N records, F features, D columns of the design (rotated features, then the intercept), L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

__all__ = ["Array", "Design", "whiten"]

Array = NDArray[np.floating]

ROWS = 512  # so many rows stay in the processor's cache between the two products that they take part in
LARGEST_ROTATION = 4096  # an eigendecomposition takes seconds up to here; beyond, columns are only scaled


def _chunks(n_rows: int) -> Iterator[slice]:
    """Yield slices that cover the rows."""
    return (slice(start, start + ROWS) for start in range(0, n_rows, ROWS))


@dataclass(frozen=True, eq=False)
class Design:
    """Features in coordinates where their covariance is the identity, with a last column of ones for the intercept."""

    values: Array  # (N, D), of the features' precision
    penalty: Array  # (D,), what the squared norm of the weights is in these coordinates; 0 for the intercept
    basis: Array | None  # (F, D - intercept), orthonormal; None is the identity
    scales: Array  # (D - intercept,), of the columns
    center: Array  # (F,)
    intercept: bool

    def weights(self, u: Array) -> tuple[Array, Array]:
        """Give the weights (L, F) and intercepts (L,) of coordinates (D, L)."""
        scaled = u[: len(self.scales)] * self.scales[:, None]
        coefficients = scaled.T if self.basis is None else (self.basis @ scaled).T
        if not self.intercept:
            return coefficients, np.zeros(len(coefficients))
        return coefficients, u[-1] - coefficients @ self.center

    def forward(self, u: Array) -> Array:
        """Multiply by coordinates (D, L) in float64, to (N, L)."""
        return np.concatenate([self.values[rows].astype(np.float64) @ u for rows in _chunks(len(self.values))])

    def backward(self, residuals: Array) -> Array:
        """Multiply the transpose by (N, L) in float64, to (D, L)."""
        total: Array = np.zeros((self.values.shape[1], residuals.shape[1]))
        for rows in _chunks(len(self.values)):
            total += self.values[rows].astype(np.float64).T @ residuals[rows]
        return total

    def squares(self, diagonal: Array) -> Array:
        """Multiply the transpose of the squared values by (N, L), to (D, L) in float64."""
        total = np.zeros((self.values.shape[1], diagonal.shape[1]))
        for rows in _chunks(len(self.values)):
            total += np.square(self.values[rows]).T @ diagonal[rows]
        return total

    def curve(self, directions: Array, bend: Callable[[Array, slice], Array]) -> Array:
        """Multiply the losses' part of the Hessian by directions (D, L), to (D, L) in float64."""
        narrow, total = directions.astype(self.values.dtype), np.zeros(directions.shape)
        for rows in _chunks(len(self.values)):
            values = self.values[rows]
            total += values.T @ bend(values @ narrow, rows)
        return total


def whiten(X: Array, intercept: bool) -> Design:
    """Rotate and scale features (N, F) so that systems of logistic regressions are well conditioned.

    Nothing is approximated: centering moves into the intercept, and the penalty follows the scales. Only the space that
    the records span is kept, since a penalized weight outside it is 0.
    """
    center = X.mean(axis=0, dtype=np.float64) if intercept else np.zeros(X.shape[1])
    basis = _principal_axes(X, center)
    n_columns = X.shape[1] if basis is None else basis.shape[1]
    values = np.ones((len(X), n_columns + intercept), dtype=X.dtype)
    norms = np.zeros(n_columns)
    for rows in _chunks(len(X)):
        centered = X[rows] - center
        projected = centered if basis is None else centered @ basis
        values[rows, :n_columns] = projected
        norms += np.square(projected).sum(axis=0)
    scales = _powers_of_two(np.sqrt(norms / len(X)))
    values[:, :n_columns] *= scales.astype(X.dtype)
    return Design(values, np.append(scales**2, np.zeros(int(intercept))), basis, scales, center, intercept)


def _powers_of_two(deviations: Array) -> Array:
    """Give the factors that bring deviations near 1 without rounding what they multiply; 1 where there is no spread."""
    floor = 1e-12 * deviations.max(initial=0)
    return np.exp2(-np.round(np.log2(np.maximum(deviations, floor)))) if floor > 0 else np.ones(len(deviations))


def _principal_axes(X: Array, center: Array) -> Array | None:
    """Give an orthonormal basis (F, min(N, F)) of principal axes, or None where it would take too long."""
    if min(X.shape) > LARGEST_ROTATION:
        return None
    if len(X) < X.shape[1]:
        orthonormal, triangle = linalg.qr((X - center).T, mode="economic")
        return orthonormal @ linalg.eigh(triangle @ triangle.T)[1]
    gram = np.zeros((X.shape[1], X.shape[1]))
    for rows in _chunks(len(X)):
        centered = X[rows] - center
        gram += centered.T @ centered
    return linalg.eigh(gram)[1]
