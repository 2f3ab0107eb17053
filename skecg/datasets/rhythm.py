"""When the heart beats: RR intervals of sinus rhythm, atrial fibrillation, premature beats and pauses.

Sinus rhythm breathes: its rate follows Mayer waves (about 0.1 Hz) and respiration (about 0.25 Hz), the two peaks of the
spectrum in [1]_, here as sums of lines drawn from each peak, so that the rate at an instant does not depend on how long
the recording is. The atria in fibrillation are the saw-tooth with wandering frequency of [2]_.

References
----------
.. [1] McSharry P. E. et al. (2003). A dynamical model for generating synthetic electrocardiogram signals. IEEE Trans
       Biomed Eng 50, 289-294.
.. [2] Stridh M., Sörnmo L. (2001). Spatiotemporal QRST cancellation techniques for analysis of atrial fibrillation.
       IEEE Trans Biomed Eng 48, 105-111.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ParameterError

__all__ = ["RHYTHMS", "Beats", "draw_beats", "draw_heart_rate", "fibrillatory_dipole"]

Floats = NDArray[np.float64]

#: Rhythms, each with the mean, the spread and the limits of the heart rate (bpm) drawn for it.
RHYTHMS: dict[str, tuple[float, float, float, float]] = {
    "sinus": (72.0, 13.0, 45.0, 110.0),
    "af": (95.0, 22.0, 55.0, 160.0),
    "pvc": (74.0, 11.0, 50.0, 105.0),
    "pause": (64.0, 9.0, 45.0, 90.0),
}

# Two clouds of wavelets: one seen best in V1 and one in the inferior leads (X, Y, Z in mV).
_FIBRILLATION = np.array([[-0.012, 0.020, -0.062], [0.006, 0.042, 0.010]])
_LINES_PER_PEAK = 12
_MARGIN_BEATS = 3  # T waves of beats before the start, P waves of those after the end


@dataclass(frozen=True, eq=False)
class Beats:
    """Times of R waves (s), RR intervals that govern repolarization (s), amplitude factors, and which are ectopic."""

    seconds: Floats
    rr_seconds: Floats
    gains: Floats
    ectopic: NDArray[np.bool_]


def draw_heart_rate(rng: np.random.Generator, rhythm: str) -> float:
    """Draw a heart rate (bpm) that is usual for a rhythm."""
    mean, spread, low, high = RHYTHMS[rhythm]
    return float(np.clip(rng.normal(mean, spread), low, high))


def draw_beats(rng: np.random.Generator, rhythm: str, heart_rate: float, duration_seconds: float) -> Beats:
    """Draw the beats of a recording, and a few before and after it whose waves reach into it.

    Parameters
    ----------
    rng : numpy.random.Generator
    rhythm : str
        A key of :data:`RHYTHMS`.
    heart_rate : float
        Mean rate (bpm); in ``"pause"`` that of the beats around the pause.
    duration_seconds : float

    Raises
    ------
    ParameterError
        When the recording is too short to show a premature beat or a pause.
    """
    mean_rr = 60.0 / heart_rate
    draw = _fibrillation_times if rhythm == "af" else _sinus_times
    seconds = draw(rng, mean_rr, duration_seconds)
    ectopic = np.zeros(len(seconds), dtype=np.bool_)
    if rhythm == "pvc":
        seconds, ectopic = _with_premature_beats(rng, seconds, duration_seconds)
    elif rhythm == "pause":
        seconds = _with_a_pause(rng, seconds, mean_rr, duration_seconds)
        ectopic = ectopic[: len(seconds)]
    previous = np.diff(seconds, prepend=seconds[0] - mean_rr)
    # The action potential remembers: it follows the mean interval more than the last one.
    governing = 0.75 * mean_rr + 0.25 * np.minimum(previous, 1.5 * mean_rr)
    breath_hz, breath_phase = rng.uniform(0.2, 0.3), rng.uniform(0.0, 2 * np.pi)
    # Breathing turns the heart's axis a little, which makes QRS complexes larger and smaller.
    gains = 1.0 + 0.03 * np.cos(2 * np.pi * breath_hz * seconds + breath_phase)
    return Beats(seconds, governing, gains, ectopic)


def fibrillatory_dipole(rng: np.random.Generator, sampling_rate: float, n_samples: int) -> NDArray[np.float32]:
    """Trace the fibrillating atria: the dipole (3, n_samples) of two saw-tooth waves of 5 to 8 Hz."""
    seconds = np.arange(n_samples) / sampling_rate
    dipole = np.zeros((3, n_samples), dtype=np.float32)
    base_hz = rng.uniform(5.0, 7.5)
    for direction in _FIBRILLATION:
        hz, size = base_hz * rng.uniform(0.94, 1.06), rng.uniform(0.7, 1.5)
        drift_hz, swell_hz = rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.5)
        phases = rng.uniform(0.0, 2 * np.pi, 3)
        angle = 2 * np.pi * hz * seconds + 1.5 * np.sin(2 * np.pi * drift_hz * seconds + phases[0]) + phases[1]
        swell = 1.0 + 0.35 * np.sin(2 * np.pi * swell_hz * seconds + phases[2])
        saw = sum(np.sin(k * angle.astype(np.float32)) / k for k in (1, 2, 3))
        dipole += (size * direction).astype(np.float32)[:, None] * (swell * saw).astype(np.float32)
    return dipole


def _sinus_times(rng: np.random.Generator, mean_rr: float, duration_seconds: float) -> Floats:
    """Step from beat to beat by the RR interval of the moment."""
    spread = rng.uniform(0.015, 0.04)
    hz = np.concatenate([rng.normal(centre, 0.01, _LINES_PER_PEAK) for centre in (0.1, 0.25)])
    phases = rng.uniform(0.0, 2 * np.pi, len(hz))
    # Half as much power in the Mayer waves as in respiration; the lines' powers sum to spread squared.
    amplitudes = spread * np.sqrt(2 / _LINES_PER_PEAK * np.repeat([1 / 3, 2 / 3], _LINES_PER_PEAK))
    times = [rng.uniform(-1.0, 0.0) * mean_rr - _MARGIN_BEATS * mean_rr]
    while times[-1] < duration_seconds + _MARGIN_BEATS * mean_rr:
        modulation = float(amplitudes @ np.cos(2 * np.pi * hz * times[-1] + phases))
        # Within 12 %: lines that happen to add up would make an arrhythmia of sinus rhythm.
        times.append(times[-1] + mean_rr * (1.0 + min(max(modulation, -0.12), 0.12)))
    return np.array(times)


def _fibrillation_times(rng: np.random.Generator, mean_rr: float, duration_seconds: float) -> Floats:
    """Draw unrelated RR intervals, scaled so that those within the recording have the mean asked for."""
    n_inside = max(2, round(duration_seconds / mean_rr))
    n_beats = n_inside + 2 * _MARGIN_BEATS + 2
    intervals = np.exp(rng.uniform(0.2, 0.28) * np.clip(rng.standard_normal(n_beats), -2.0, 2.5))
    # Refractoriness: no interval below 0.28 s, or at high rates below 0.65 of the mean.
    intervals = np.maximum(intervals, min(0.28 / mean_rr, 0.65))
    intervals *= mean_rr / intervals[_MARGIN_BEATS : _MARGIN_BEATS + n_inside].mean()
    start = rng.uniform(-1.0, 0.0) * mean_rr - intervals[:_MARGIN_BEATS].sum()
    return np.asarray(start + np.concatenate([[0.0], np.cumsum(intervals)]))


def _with_premature_beats(
    rng: np.random.Generator, seconds: Floats, duration_seconds: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Bring some beats forward; the beat after each stays where it was, which makes the pause compensatory."""
    candidates = _surrounded(seconds, duration_seconds)
    if len(candidates) == 0:
        raise _too_short("pvc", duration_seconds, 3.0 * float(np.diff(seconds).mean()))
    wanted = max(1, round(len(candidates) * rng.uniform(0.08, 0.3)))
    ectopic = np.zeros(len(seconds), dtype=np.bool_)
    moved = seconds.copy()
    for beat in rng.permutation(candidates):
        if ectopic.sum() < wanted and not ectopic[beat - 1 : beat + 2].any():
            rr = seconds[beat] - seconds[beat - 1]
            # A ventricle that has not recovered cannot be excited: 0.36 s, or what a fast rhythm leaves of it.
            moved[beat] = seconds[beat - 1] + max(rr * rng.normal(0.66, 0.02), min(0.36, 0.8 * rr))
            ectopic[beat] = True
    return moved, ectopic


def _with_a_pause(rng: np.random.Generator, seconds: Floats, mean_rr: float, duration_seconds: float) -> Floats:
    """Drop as many beats in a row as leave at least two seconds without one."""
    n_dropped = max(1, int(np.ceil(2.0 / (0.9 * mean_rr))) - 1)
    candidates = _surrounded(seconds, duration_seconds, n_dropped)
    if len(candidates) == 0:
        raise _too_short("pause", duration_seconds, (n_dropped + 2) * mean_rr)
    first = int(rng.choice(candidates))
    return np.delete(seconds, range(first, first + n_dropped))


def _surrounded(seconds: Floats, duration_seconds: float, n_beats: int = 1) -> NDArray[np.intp]:
    """Find where `n_beats` beats begin whose neighbours on both sides lie within the recording."""
    before, after = seconds[: -n_beats - 1], seconds[n_beats + 1 :]
    return np.flatnonzero((before >= 0.1) & (after <= duration_seconds - 0.1)) + 1


def _too_short(rhythm: str, duration_seconds: float, needed_seconds: float) -> ParameterError:
    return ParameterError(
        f"Got duration_seconds={duration_seconds:g} with rhythm={rhythm!r}, expected a record long enough to show it. "
        f"Ask for about {needed_seconds + 1:.0f} s or more."
    )
