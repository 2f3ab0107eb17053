"""Synthetic records with annotated waves, from the very Gaussians that draw them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skecg import ECGRecord
from skecg.annotations import Waves
from skecg.datasets.heart_model import DOWER, beat_waves, draw_heart, trace_dipole
from skecg.datasets.rhythm import draw_beats
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS, derivation_matrix

RATE = 500.0
SECONDS = 10.0


def waved_heart(seed: int, heart_rate: float | None = None) -> tuple[ECGRecord, Waves]:
    """Draw one record in sinus rhythm, and where its waves begin and end: two widths from their outer Gaussians."""
    rng = np.random.default_rng(seed)
    heart, _ = draw_heart(rng, "normal", None, np.zeros(3))
    beats = draw_beats(rng, "sinus", heart_rate or float(rng.uniform(55, 95)), SECONDS)
    n_samples = round(SECONDS * RATE)
    dipole = trace_dipole(heart, beats, atrial=True, sampling_rate=RATE, n_samples=n_samples)
    dipole += rng.normal(scale=0.01, size=dipole.shape).astype(np.float32)
    matrix, _ = derivation_matrix(EIGHT_LEADS, CANONICAL_LEADS)
    record = ECGRecord(matrix @ (DOWER.astype(np.float32) @ dipole), RATE, CANONICAL_LEADS, f"heart{seed}")
    counts = [len(heart.p_waves), len(heart.qrs_waves), len(heart.t_waves)]
    rows = []
    for second, rr in zip(beats.seconds, beats.rr_seconds, strict=True):
        gaussians, _, _ = beat_waves(heart, float(rr), atrial=True, ectopic=False)
        for kind, some in enumerate(np.split(gaussians, np.cumsum(counts)[:-1])):
            onset, offset = (some[:, 0] - 2 * some[:, 1]).min(), (some[:, 0] + 2 * some[:, 1]).max()
            rows.append([second + onset, second + some[:, 0].mean(), second + offset, kind])
    return record, Waves(RATE, CANONICAL_LEADS, (_inside(np.array(rows), n_samples),) * 12)


def _inside(rows: NDArray[np.float64], n_samples: int) -> NDArray[np.int64]:
    """Turn seconds into samples and, as the annotators of LUDB did, leave out the waves at both ends."""
    table = np.column_stack([np.rint(rows[:, :3] * RATE), rows[:, 3]]).astype(np.int64)
    table = table[np.argsort(table[:, 1])]
    return table[(table[:, 0] >= 0.3 * RATE) & (table[:, 2] < n_samples - 0.3 * RATE)]
