"""Which beats of a recording enter a step: those in its window that the views show, spread over it.

Shapes: B windows, K beats of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.views import Views, is_seen

if TYPE_CHECKING:
    from pretraining.beats.table import BeatTable
    from pretraining.sampling import Batch

__all__ = ["beats_in_windows", "choose_beats"]


def beats_in_windows(
    samples: NDArray[np.int64], crop_start: int, roll: int, window: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Follow the beats of a row into its window: give their places there, and which of them lie in it.

    Parameters
    ----------
    samples : ndarray of shape (n,), int64
        In the row.
    crop_start, roll : int
        As in :class:`pretraining.sampling.Batch`.
    window : int
        Samples.
    """
    places = (samples - crop_start + roll) % window if roll else samples - crop_start
    return places, (places >= 0) & (places < window)


def choose_beats(
    tables: BeatTable, batch: Batch, window: int, views: Views, drawn: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Choose, for each recording of a batch, at most K of its beats that lie in its window and are seen in all views.

    Parameters
    ----------
    tables : BeatTable
    batch : Batch
    window : int
        Samples.
    views : Views
        Of the batch.
    drawn : ndarray of shape (B, K), float64
        Uniform in [0, 1); what is chosen by.

    Returns
    -------
    tuple of ndarray of shape (B, K): int64, int64, bool
        Numbers of beats in the table, where in the window they are, and whether there is one.
    """
    beats, samples = np.full(drawn.shape, len(tables.samples) - 1), np.zeros(drawn.shape, np.int64)
    is_beat = np.zeros(drawn.shape, np.bool_)
    for place, row in enumerate(batch.rows):
        numbers = np.arange(tables.first[row], tables.first[row + 1])
        start, roll = int(batch.crop_start[place]), int(batch.roll[place])
        found, inside = beats_in_windows(tables.samples[numbers], start, roll, window)
        shown = is_seen(views.take(slice(place, place + 1)), torch.from_numpy(found)[None])[0].numpy()
        usable = np.flatnonzero(inside & shown)
        picked = usable[_spread(len(usable), drawn[place])]
        beats[place, : len(picked)], samples[place, : len(picked)] = numbers[picked], found[picked]
        is_beat[place, : len(picked)] = True
    return beats, samples, is_beat


def _spread(n: int, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choose at most K of n, one in each of K equal stretches, by K numbers in [0, 1); all where there are no more."""
    if n <= len(uniform):
        return np.arange(n)
    edges = np.arange(len(uniform) + 1) * n // len(uniform)
    return edges[:-1] + (uniform * np.diff(edges)).astype(np.int64)
