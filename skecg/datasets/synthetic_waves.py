"""make_waves: synthetic electrocardiograms with the waves that their drawing knows, to try segmentation on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.arguments import read_count, read_n_samples, read_range, read_seed
from skecg.datasets.dipole import beat_waves, trace_dipole
from skecg.datasets.heart import Heart, draw_heart
from skecg.datasets.labelled import Waves
from skecg.datasets.rhythm import Beats, draw_beats
from skecg.datasets.torso import DOWER
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS, derivation_matrix
from skecg.records import ECGRecord, as_sampling_rate

__all__ = ["SyntheticWaves", "make_waves"]

# A wave reaches as far as two widths of its outer Gaussians.
_WIDTHS = 2.0
# Annotators leave out waves that a recording cuts, and those beside its ends.
_MARGIN_SECONDS = 0.3
_NOISE_MV = 0.01


class SyntheticWaves(NamedTuple):
    """What :func:`make_waves` gives: ``records, waves = make_waves(...)``.

    Attributes
    ----------
    records : list of ECGRecord of length n_records
    waves : list of Waves of length n_records
        The same in all leads.
    """

    records: list[ECGRecord]
    waves: list[Waves]


def make_waves(
    n_records: int = 1,
    *,
    duration_seconds: float = 10.0,
    sampling_rate: float = 500.0,
    heart_rate: float | tuple[float, float] = (55.0, 95.0),
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
) -> SyntheticWaves:
    """Make synthetic 12-lead electrocardiograms in sinus rhythm, and mark their P, QRS and T waves.

    The hearts are those of :func:`skecg.datasets.make_ecg`, under noise of 0.01 mV. Record i depends on `random_state`
    and i alone.

    Parameters
    ----------
    n_records : int, default=1
    duration_seconds : float, default=10.0
    sampling_rate : float, default=500.0
        Samples a second (Hz).
    heart_rate : float or (low, high), default=(55.0, 95.0)
        Beats a minute, 20 to 240.
    random_state : int, numpy Generator or RandomState, or None, default=None
        An int makes the same bits every time.

    Returns
    -------
    SyntheticWaves
        The pair ``(records, waves)``. As annotators do, waves within 0.3 s of either end are left out.

    Notes
    -----
    Onset and offset are two widths away from the outer Gaussians that draw a wave, and the peak lies in the middle of
    their centres: consistent, but nobody's reading. Good to test code, not to measure how well waves are found.

    Examples
    --------
    >>> records, waves = make_waves(2, random_state=0)
    >>> records[0].duration_seconds, waves[0].tables[0].shape[1]
    (10.0, 4)
    """
    n_made, rate = read_count("n_records", n_records), as_sampling_rate(sampling_rate)
    n_samples = read_n_samples(duration_seconds, rate)
    low, high = read_range("heart_rate", heart_rate, 20.0, 240.0)
    seed = read_seed(random_state)
    made = []
    for index in range(n_made):
        rng = np.random.default_rng([seed, index])
        heart, _ = draw_heart(rng, "normal", None, np.zeros(3))
        beats = draw_beats(rng, "sinus", low + (high - low) * float(rng.random()), n_samples / rate)
        signal = _record(heart, beats, rng, rate, n_samples)
        table = _table(heart, beats, rate, n_samples)
        record = ECGRecord(signal, rate, CANONICAL_LEADS, name=f"waves{index:05d}")
        made.append((record, Waves(rate, CANONICAL_LEADS, (table,) * len(CANONICAL_LEADS))))
    return SyntheticWaves([record for record, _ in made], [waves for _, waves in made])


def _record(
    heart: Heart, beats: Beats, rng: np.random.Generator, sampling_rate: float, n_samples: int
) -> NDArray[np.float32]:
    """Trace the twelve leads of a heart, with a little noise at the electrodes."""
    dipole = trace_dipole(heart, beats, atrial=True, sampling_rate=sampling_rate, n_samples=n_samples)
    eight = DOWER.astype(np.float32) @ dipole
    eight += rng.normal(scale=_NOISE_MV, size=eight.shape).astype(np.float32)
    matrix, _ = derivation_matrix(EIGHT_LEADS, CANONICAL_LEADS)
    return np.asarray(matrix @ eight, dtype=np.float32)


def _table(heart: Heart, beats: Beats, sampling_rate: float, n_samples: int) -> NDArray[np.int64]:
    """Say where the waves of all beats begin, peak and end, leaving out those beside the record's ends."""
    ends = np.cumsum([len(heart.p_waves), len(heart.qrs_waves)])
    rows = []
    for second, rr in zip(beats.seconds, beats.rr_seconds, strict=True):
        gaussians, _, _ = beat_waves(heart, float(rr), atrial=True, ectopic=False)
        for kind, wave in enumerate(np.split(gaussians, ends)):
            reach = _WIDTHS * wave[:, 1]
            onset, offset = (wave[:, 0] - reach).min(), (wave[:, 0] + reach).max()
            rows.append([second + onset, second + wave[:, 0].mean(), second + offset, kind / sampling_rate])
    table = np.rint(np.array(rows) * sampling_rate).astype(np.int64)
    table = table[np.argsort(table[:, 1], kind="stable")]
    margin = _MARGIN_SECONDS * sampling_rate
    return table[(table[:, 0] >= margin) & (table[:, 2] < n_samples - margin)]
