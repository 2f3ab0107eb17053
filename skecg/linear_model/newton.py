"""Newton's method for many penalized logistic regressions on the same features at once.

Each label's objective is the sum of its log-losses plus ``0.5 / C * ||w||^2``. All labels share the features, so that
the products that cost time are matrix times matrix. Two things keep the conjugate gradients short: the features are
whitened, that is, brought into coordinates that are uncorrelated and of unit variance, with an intercept; and each
label's system is preconditioned by the exact diagonal of its Hessian. Gradients and objectives are float64 whatever the
features are; products with the Hessian are in the features' own precision, which costs steps at worst, not accuracy.

Source of the method: truncated Newton, Dembo and Steihaug (1983), https://doi.org/10.1007/BF02592055; for logistic
regression, Lin, Weng and Keerthi (2008), https://www.jmlr.org/papers/v9/lin08b.html.

Shapes: N records, F features, D columns of the design (rotated features, then the intercept), L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from skecg.errors import InputError

__all__ = ["Array", "Design", "Sigmoid", "Softmax", "Solution", "minimize", "whiten"]

Array = NDArray[np.floating]

ROWS = 512  # so many rows stay in the processor's cache between the two products that they take part in

LARGEST_FEATURE = 1e100  # sums of many squares stay finite

LARGEST_ROTATION = 4096  # an eigendecomposition takes seconds up to here; beyond, columns are only scaled

LARGEST_BLOCK = 2**24  # numbers in an array of shape (N, L); more labels than that are solved in several blocks

CG_STEPS = 250

HALVINGS = 40

ROUNDING = 1e-13  # of an objective that is a sum of N terms


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
        """Return the weights (L, F) and intercepts (L,) of coordinates (D, L)."""
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

    Raises
    ------
    InputError
        When features are so large that their squares are not finite.
    """
    _check_size(X)
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
    scales = _powers_of_two(np.sqrt(norms / len(X)), X.dtype)
    values[:, :n_columns] *= scales.astype(X.dtype)
    return Design(values, np.append(scales**2, np.zeros(int(intercept))), basis, scales, center, intercept)


def _check_size(X: Array) -> None:
    """Raise where the squares of features would be infinite."""
    largest = float(np.abs(X).max(initial=0))
    if largest > LARGEST_FEATURE:
        raise InputError(
            f"Got features of up to {largest:.3g} (column {int(np.abs(X).max(axis=0).argmax())}), expected none beyond "
            f"{LARGEST_FEATURE:g}: their squares are not finite. Standardize the features."
        )


def _powers_of_two(deviations: Array, dtype: np.dtype) -> Array:
    """Return the factors that bring deviations near 1 without rounding what they multiply; 1 where there is no spread.

    A deviation among the smallest numbers of the type stays below 1: its factor would be infinite.
    """
    floor = 1e-12 * deviations.max(initial=0)
    floor = max(floor, 2.0 ** (-126 if dtype == np.float32 else -500)) if floor > 0 else 0.0
    return np.exp2(-np.round(np.log2(np.maximum(deviations, floor)))) if floor > 0 else np.ones(len(deviations))


def _principal_axes(X: Array, center: Array) -> Array | None:
    """Return an orthonormal basis (F, min(N, F)) of principal axes, or None where it would take too long."""
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


@dataclass(frozen=True, eq=False)
class Separate:
    """Second derivatives of losses that do not know of each other: one problem for each label."""

    diagonal: Array  # (N, L)

    def spread(self, of_problems: NDArray[Any]) -> NDArray[Any]:
        """Return for each column what is of its problem, (L,)."""
        return of_problems

    def bend(self, t: Array, rows: slice) -> Array:
        """Multiply by the second derivatives of some rows."""
        return t * self.diagonal[rows]

    def total(self, a: Array) -> Array:
        """Add up what belongs to one problem, to (L,)."""
        return a.sum(axis=0)

    def select(self, going: NDArray[np.bool_]) -> Separate:
        """Keep some problems."""
        return Separate(self.diagonal[:, going])


@dataclass(frozen=True, eq=False)
class Joint:
    """Second derivatives of softmaxes: all classes of one are one problem."""

    probabilities: Array  # (N, L)
    record_weight: Array  # (N, 1)
    n_classes: int

    def spread(self, of_problems: NDArray[Any]) -> NDArray[Any]:
        """Return for each column what is of its problem, (L,)."""
        return np.repeat(of_problems, self.n_classes)

    @property
    def diagonal(self) -> Array:
        """Second derivatives by each logit, (N, L)."""
        return self.record_weight * self.probabilities * (1 - self.probabilities)

    def bend(self, t: Array, rows: slice) -> Array:
        """Multiply by the second derivatives of some rows."""
        p = self.probabilities[rows]
        mean = _by_problem(p * t, self.n_classes).sum(axis=2, keepdims=True)
        apart = _by_problem(t, self.n_classes) - mean
        return self.record_weight[rows] * p * apart.reshape(t.shape)

    def total(self, a: Array) -> Array:
        """Add up what belongs to one problem, to (n_problems,)."""
        return _by_problem(a, self.n_classes).sum(axis=(0, 2))

    def select(self, going: NDArray[np.bool_]) -> Joint:
        """Keep some problems."""
        return replace(self, probabilities=self.probabilities[:, self.spread(going)])


Curvature = Separate | Joint


def _by_problem(a: Array, n_classes: int) -> Array:
    """Return columns (n, L) by problem and class, (n, n_problems, n_classes)."""
    return a.reshape(len(a), -1, n_classes)


@dataclass(frozen=True, eq=False)
class Sigmoid:
    """Log-losses of labels that do not know of each other."""

    targets: NDArray[np.bool_]  # (N, L)
    weight: Array  # (N or 1, L or 1)

    @property
    def n_problems(self) -> int:
        """Return the number of labels."""
        return self.targets.shape[1]

    def columns(self, problems: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the columns of some problems."""
        return problems

    def select(self, problems: NDArray[np.int64]) -> Sigmoid:
        """Keep some labels."""
        weight = self.weight if self.weight.shape[1] == 1 else self.weight[:, problems]
        return Sigmoid(self.targets[:, problems], weight)

    def start(self) -> Array:
        """Return the intercepts (L,) that fit best when all weights are 0."""
        positive = (self.weight * self.targets).sum(axis=0)
        return np.log(positive) - np.log((self.weight * ~self.targets).sum(axis=0))

    def values(self, z: Array) -> Array:
        """Return the losses (L,) of logits (N, L)."""
        margins = np.where(self.targets, z, -z)
        return (self.weight * (np.log1p(np.exp(-np.abs(z))) - np.minimum(margins, 0))).sum(axis=0)

    def slopes(self, z: Array, dtype: np.dtype) -> tuple[Array, Separate]:
        """Return the first derivatives (N, L) by the logits, and the second."""
        p = special.expit(z)
        return self.weight * (p - self.targets), Separate((self.weight * p * special.expit(-z)).astype(dtype))


@dataclass(frozen=True, eq=False)
class Softmax:
    """Log-losses of classes of which each record has one; one problem, or several with as many classes side by side."""

    targets: NDArray[np.bool_]  # (N, L)
    weight: Array  # (N or 1, 1)
    n_problems: int = 1

    @property
    def n_classes(self) -> int:
        """Return the number of classes of each problem."""
        return self.targets.shape[1] // self.n_problems

    def columns(self, problems: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the columns of some problems."""
        return (problems[:, None] * self.n_classes + np.arange(self.n_classes)).ravel()

    def select(self, problems: NDArray[np.int64]) -> Softmax:
        """Keep some problems."""
        if len(problems) == self.n_problems:
            return self
        return Softmax(self.targets[:, self.columns(problems)], self.weight, len(problems))

    def start(self) -> Array:
        """Return the intercepts (L,) that fit best when all weights are 0."""
        logs = np.log((self.weight * self.targets).sum(axis=0)).reshape(self.n_problems, -1)
        return (logs - logs.mean(axis=1, keepdims=True)).ravel()

    def values(self, z: Array) -> Array:
        """Return the losses (n_problems,) of logits (N, L)."""
        largest = special.logsumexp(_by_problem(z, self.n_classes), axis=2)
        return (self.weight * (largest - z[self.targets].reshape(largest.shape))).sum(axis=0)

    def slopes(self, z: Array, dtype: np.dtype) -> tuple[Array, Joint]:
        """Return the first derivatives (N, L) by the logits, and the second."""
        p = special.softmax(_by_problem(z, self.n_classes), axis=2).reshape(z.shape)
        weight = np.broadcast_to(self.weight, (len(p), 1)).astype(dtype)
        return self.weight * (p - self.targets), Joint(p.astype(dtype), weight, self.n_classes)


@dataclass(frozen=True, eq=False)
class Solution:
    """Where Newton's method ended."""

    u: Array  # (D, L), coordinates in the design
    n_iter: NDArray[np.int64]  # (n_problems,)
    converged: NDArray[np.bool_]  # (n_problems,)


def minimize(
    design: Design, loss: Sigmoid | Softmax, C: Array, start: Array | None = None, *, tol: float, max_iter: int
) -> Solution:
    """Minimize each problem's sum of log-losses plus ``0.5 / C * ||w||^2``.

    Parameters
    ----------
    design : Design
        Whitened features.
    loss : Sigmoid or Softmax
        What the labels are; each must have records with and without.
    C : ndarray of shape (L,)
        Inverse strengths of the penalty.
    start : ndarray of shape (D, L), default=None
        Where to begin; None is the best constant.
    tol : float
        A problem is done when what its step promised to gain is below ``tol**2`` times its objective.
    max_iter : int
        Most steps.

    Returns
    -------
    Solution
        Coordinates, steps, and which problems were done.
    """
    penalty = design.penalty[:, None] / C
    if start is None:
        start = np.zeros(penalty.shape)
        if design.intercept:
            start[-1] = loss.start()
    n_problems = loss.n_problems
    width = max(1, LARGEST_BLOCK * n_problems // max(1, loss.targets.size))
    blocks = [np.arange(first, min(first + width, n_problems)) for first in range(0, max(1, n_problems), width)]
    done = [
        _minimize_block(design, loss.select(b), penalty[:, columns], start[:, columns], tol, max_iter)
        for b, columns in ((b, loss.columns(b)) for b in blocks)
    ]
    return Solution(
        np.concatenate([solution.u for solution in done], axis=1),
        np.concatenate([solution.n_iter for solution in done]),
        np.concatenate([solution.converged for solution in done]),
    )


@dataclass(frozen=True, eq=False)
class _Step:
    """Where a Newton step led, what it promised, and whether it could be taken."""

    u: Array  # (D, L)
    logits: Array  # (N, L)
    objective: Array  # (n_problems,), before the step
    promised: Array  # (n_problems,), the squared Newton decrement
    stuck: NDArray[np.bool_]  # (n_problems,)


def _minimize_block(
    design: Design, loss: Sigmoid | Softmax, penalty: Array, start: Array, tol: float, max_iter: int
) -> Solution:
    """Take Newton steps until every problem is done, dropping those that are."""
    u, logits = start.copy(), design.forward(start)
    n_iter, converged = np.zeros(loss.n_problems, np.int64), np.zeros(loss.n_problems, np.bool_)
    going = np.arange(loss.n_problems)
    for _ in range(max_iter):
        columns = loss.columns(going)
        step = _step(design, loss.select(going), penalty[:, columns], u[:, columns], logits[:, columns])
        u[:, columns], logits[:, columns] = step.u, step.logits
        n_iter[going] += 1
        converged[going] = step.promised <= tol**2 * step.objective
        going = going[~(converged[going] | step.stuck)]
        if len(going) == 0:
            break
    return Solution(u, n_iter, converged)


def _step(design: Design, loss: Sigmoid | Softmax, penalty: Array, u: Array, logits: Array) -> _Step:
    """Take one Newton step for each problem, as long as it may be for the objective to fall."""
    residuals, curvature = loss.slopes(logits, design.values.dtype)
    gradient = design.backward(residuals) + penalty * u
    objective = loss.values(logits) + 0.5 * curvature.total(penalty * u**2)
    direction = _newton_direction(design, curvature, penalty, gradient, objective)
    promised = -curvature.total(gradient * direction)
    along = design.forward(direction)
    length, stuck = np.ones(len(objective)), np.ones(len(objective), np.bool_)
    for _ in range(HALVINGS):
        wide = curvature.spread(length)
        there = u + wide * direction
        value = loss.values(logits + wide * along) + 0.5 * curvature.total(penalty * there**2)
        stuck = ~(value <= objective - 1e-4 * length * promised + ROUNDING * objective)
        if not stuck.any():
            break
        length[stuck] /= 2
    length[stuck] = 0
    wide = curvature.spread(length)
    return _Step(u + wide * direction, logits + wide * along, objective, promised, stuck)


def _newton_direction(
    design: Design, curvature: Separate | Joint, penalty: Array, gradient: Array, objective: Array
) -> Array:
    """Solve Hessian times direction = -gradient by preconditioned conjugate gradients, one system for each problem.

    The nearer a problem is to its solution, the more accurately its system is solved.
    """
    inverse: Array = 1 / np.maximum(design.squares(curvature.diagonal) + penalty, np.finfo(np.float32).tiny)
    solved = np.zeros(gradient.shape)
    columns = np.arange(gradient.shape[1])
    residual = -gradient
    towards = inverse * residual
    rho = curvature.total(residual * towards)
    goal = rho * np.clip(np.sqrt(rho / objective), 1e-3, 0.1) ** 2
    for _ in range(CG_STEPS):
        product = design.curve(towards, curvature.bend) + penalty * towards
        bend = curvature.total(towards * product)
        usable = bend > 0
        length = np.where(usable, rho / np.where(usable, bend, 1), 0)
        wide = curvature.spread(length)
        solved[:, columns] += wide * towards
        residual = residual - wide * product
        conditioned = inverse * residual
        rho, before = curvature.total(residual * conditioned), rho
        keep = usable & (rho > goal)
        if not keep.any():
            break
        towards = conditioned + curvature.spread(np.where(usable, rho / np.where(usable, before, 1), 0)) * towards
        if not keep.all():
            stay = curvature.spread(keep)
            curvature, columns = curvature.select(keep), columns[stay]
            residual, towards = residual[:, stay], towards[:, stay]
            inverse, penalty = inverse[:, stay], penalty[:, stay]
            rho, goal = rho[keep], goal[keep]
    return solved
