"""Whitening: raw numbers of different kinds to few components of unit variance, weighted by how much they say.

Shapes: n things, R raw numbers of one kind or of all kinds side by side, C components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kind", "KindWhitening", "Whitening", "fit_kinds", "fit_whitening"]

FloatArray = NDArray[np.float32]

# Artefacts reach hundreds of deviations; what lies beyond these few says no more than that it is one.
_CLIP_DEVIATIONS = 5.0
_SMALL = 1e-6


@dataclass(frozen=True, eq=False)
class Whitening:
    """Standardizing, clipping, and the first principal components scaled to unit variance.

    Attributes
    ----------
    centre, scale : ndarray of shape (R,)
    mean : ndarray of shape (R,)
        Of the clipped values.
    components : ndarray of shape (R, C)
    importance : ndarray of shape (C,)
        Square root of each component's singular value, summing to 1: a compromise between all components alike, which
        is mostly noise, and by variance, which is little but the first few.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    importance: NDArray[np.float64]

    def __call__(self, raw_nR: FloatArray) -> FloatArray:
        """Compute the components (n, C) of raw values."""
        return np.asarray((self._clipped(raw_nR) - self.mean) @ self.components, dtype=np.float32)

    def _clipped(self, raw: NDArray[Any]) -> NDArray[np.float64]:
        standard = (np.nan_to_num(raw.astype(np.float64)) - self.centre) / self.scale
        return np.clip(standard, -_CLIP_DEVIATIONS, _CLIP_DEVIATIONS)


def fit_whitening(raw_nR: FloatArray, n_components: int) -> Whitening:
    """Fit on raw values; at most `n_components` are kept, and none without variance."""
    # In place from here on: of a large archive these are hundreds of megabytes.
    values = np.nan_to_num(raw_nR.astype(np.float64), copy=False)
    # Artefacts move a mean by more than they move a median.
    centre, scale = np.median(values, axis=0), values.std(axis=0) + _SMALL
    values -= centre
    values /= scale
    np.clip(values, -_CLIP_DEVIATIONS, _CLIP_DEVIATIONS, out=values)
    mean = values.mean(axis=0)
    values -= mean
    singular, vectors = _leading_directions(values, n_components)
    kept = min(n_components, int((singular > _SMALL * singular[0]).sum())) if singular[0] > 0 else 0
    vectors = vectors[:kept]
    # The sign of a component is arbitrary; this makes it the same wherever it is computed.
    vectors = vectors * np.sign(vectors[np.arange(kept), np.abs(vectors).argmax(axis=1)])[:, None]
    deviation = singular[:kept] / len(values) ** 0.5
    # The root of the singular value, which falls more slowly than variance does.
    importance = singular[:kept] ** 0.5
    return Whitening(centre, scale, mean, vectors.T / deviation, importance / max(importance.sum(), _SMALL))


def _leading_directions(centred_nR: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the largest singular values, descending, and their right vectors (n, R).

    Of many rows by the eigenvectors of their products, in a tenth of the time. That halves the digits, of which those
    far above :data:`_SMALL` have enough.
    """
    from scipy.linalg import eigh

    n_rows, n_raw = centred_nR.shape
    if n_rows <= n_raw:
        _, singular, vectors = np.linalg.svd(centred_nR, full_matrices=False)
        return singular[:n], vectors[:n]
    largest = (max(0, n_raw - n), n_raw - 1)
    variance, vectors = eigh(centred_nR.T @ centred_nR, subset_by_index=largest)
    return np.sqrt(np.maximum(variance[::-1], 0.0)), vectors.T[::-1]


class Kind(NamedTuple):
    """One kind of numbers: how many there are, how many components are kept, and their share of the whole."""

    n_raw: int
    n_components: int
    share: float


@dataclass(frozen=True, eq=False)
class KindWhitening:
    """Raw numbers of several kinds side by side, each kind whitened by itself."""

    kinds: tuple[Kind, ...]
    whitenings: tuple[Whitening, ...]

    def components(self, raw_nR: FloatArray) -> FloatArray:
        """Compute the components (n, sum of n_components), of unit variance; 0 where a kind has fewer."""
        parts = zip(self.whitenings, _by_kind(raw_nR, self.kinds), strict=True)
        return np.concatenate(self._padded([whiten(part) for whiten, part in parts]), axis=1)

    def importance(self) -> NDArray[np.float64]:
        """Return the weight of each component, which add up to the kind's share; 0 where a kind has fewer."""
        weights = self._padded([whiten.importance for whiten in self.whitenings])
        return np.concatenate([part * kind.share for part, kind in zip(weights, self.kinds, strict=True)])

    def __call__(self, raw_nR: FloatArray) -> FloatArray:
        """Compute vectors (n, C) whose angle and distance say how alike two things are, of mean squared length 1.

        Components that are mostly noise count for little.
        """
        total = sum(kind.share for kind in self.kinds)
        parts = zip(_by_kind(raw_nR, self.kinds), self.kinds, self.whitenings, strict=True)
        weighted = [whiten(part) * np.sqrt(whiten.importance * kind.share / total) for part, kind, whiten in parts]
        return np.concatenate(weighted, axis=1).astype(np.float32)

    def _padded(self, parts: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Fill up components (..., C) of each kind that are fewer than asked for."""
        lacking = [kind.n_components - part.shape[-1] for kind, part in zip(self.kinds, parts, strict=True)]
        return [np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, n)]) for part, n in zip(parts, lacking, strict=True)]


def fit_kinds(raw_nR: FloatArray, kinds: Sequence[Kind], *, n_jobs: int | None = 1) -> KindWhitening:
    """Fit on raw numbers of all kinds side by side, kinds in several threads."""
    from joblib import Parallel, delayed

    parts = zip(_by_kind(raw_nR, kinds), kinds, strict=True)
    fitted = Parallel(n_jobs, prefer="threads")(delayed(fit_whitening)(part, kind.n_components) for part, kind in parts)
    return KindWhitening(tuple(kinds), tuple(fitted))


def _by_kind(raw_nR: FloatArray, kinds: Sequence[Kind]) -> list[FloatArray]:
    return np.split(raw_nR, np.cumsum([kind.n_raw for kind in kinds])[:-1], axis=1)
