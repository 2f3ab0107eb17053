"""From raw numbers of different kinds to few targets of unit variance.

From raw numbers to vectors of which the angle and the distance say how alike two things are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kind", "Likeness", "Whitening", "fit_likeness", "fit_whitening"]


# Artefacts reach hundreds of deviations; what lies beyond these few says no more than that it is one.
_CLIP_DEVIATIONS = 5.0


_SMALL = 1e-6


@dataclass(frozen=True, eq=False)
class Whitening:
    """Standardizing, clipping, and the first principal components scaled to unit variance.

    Attributes
    ----------
    centre, scale : ndarray of shape (n_raw,)
    mean : ndarray of shape (n_raw,)
        Of the clipped values.
    components : ndarray of shape (n_raw, n_components)
    importance : ndarray of shape (n_components,)
        Square root of each component's singular value, summing to 1: a compromise between all components alike, which
        is mostly noise, and by variance, which is little but the first few.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    importance: NDArray[np.float64]

    def __call__(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the components (n, n_components) of raw values (n, n_raw)."""
        return np.asarray((self._clipped(raw) - self.mean) @ self.components, dtype=np.float32)

    def _clipped(self, raw: NDArray[Any]) -> NDArray[np.float64]:
        standard = (np.nan_to_num(raw.astype(np.float64)) - self.centre) / self.scale
        return np.clip(standard, -_CLIP_DEVIATIONS, _CLIP_DEVIATIONS)


def fit_whitening(raw: NDArray[np.float32], n_components: int) -> Whitening:
    """Fit on raw values (n, n_raw); at most `n_components` are kept, and none without variance."""
    values = np.nan_to_num(raw.astype(np.float64))
    centre, scale = np.median(values, axis=0), values.std(axis=0) + _SMALL
    clipped = np.clip((values - centre) / scale, -_CLIP_DEVIATIONS, _CLIP_DEVIATIONS)
    mean = clipped.mean(axis=0)
    _, singular, vectors = np.linalg.svd(clipped - mean, full_matrices=False)
    kept = min(n_components, int((singular > _SMALL * singular[0]).sum())) if singular[0] > 0 else 0
    vectors = vectors[:kept]
    # The sign of a component is arbitrary; this makes it the same wherever it is computed.
    vectors = vectors * np.sign(vectors[np.arange(kept), np.abs(vectors).argmax(axis=1)])[:, None]
    deviation = singular[:kept] / len(values) ** 0.5
    importance = singular[:kept] ** 0.5
    return Whitening(centre, scale, mean, vectors.T / deviation, importance / max(importance.sum(), _SMALL))


FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """One kind of numbers: how many there are, how many components are kept, and their share of the whole."""

    n_raw: int
    n_components: int
    share: float


@dataclass(frozen=True, eq=False)
class Likeness:
    """Each kind whitened by itself; components weighted, so that those which are mostly noise count for little."""

    kinds: tuple[Kind, ...]
    whitenings: tuple[Whitening, ...]

    def __call__(self, raw: FloatArray) -> FloatArray:
        """Compute vectors (n, n_components) of raw numbers (n, n_raw), of mean squared length about 1."""
        parts = np.split(raw, np.cumsum([kind.n_raw for kind in self.kinds])[:-1], axis=1)
        total = sum(kind.share for kind in self.kinds)
        weighted = [
            whiten(part) * np.sqrt(whiten.importance * kind.share / total)
            for part, kind, whiten in zip(parts, self.kinds, self.whitenings, strict=True)
        ]
        return np.concatenate(weighted, axis=1).astype(np.float32)


def fit_likeness(raw: FloatArray, kinds: Sequence[Kind]) -> Likeness:
    """Fit on raw numbers (n, n_raw) of all kinds side by side."""
    parts = np.split(raw, np.cumsum([kind.n_raw for kind in kinds])[:-1], axis=1)
    fitted = [fit_whitening(part, kind.n_components) for part, kind in zip(parts, kinds, strict=True)]
    return Likeness(tuple(kinds), tuple(fitted))
