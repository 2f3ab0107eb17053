"""From raw numbers to vectors of which the angle and the distance say how alike two things are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretraining.descriptors.whitening import Whitening, fit_whitening

__all__ = ["Kind", "Likeness", "fit_likeness"]

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
        """Give vectors (n, n_components) of raw numbers (n, n_raw), of mean squared length about 1."""
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
