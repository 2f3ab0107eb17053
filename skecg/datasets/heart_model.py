"""A heart as one moving dipole: its beats as sums of Gaussians, and what the leads see of it.

A beat is a sum of Gaussians on each of three axes [1]_ [2]_. The published model writes them as the solution of a
differential equation that a phase drives; here the solution itself is evaluated, which is exact but for the term that
pulls the published trajectory back to its baseline. Within a beat the phase runs evenly, so a Gaussian in phase is a
Gaussian in time, and the RR interval says how far it is stretched: the QRS complex keeps its duration, the T wave
follows the square root of RR as in [1]_ (Bazett's law), and the P wave comes nearer as its fourth root. Beats are
summed, not joined, so that the trace stays smooth where one beat's T wave meets the next one's P wave.

A wave is a row of five numbers: centre and width, then its dipole (X, Y, Z) to the left, the feet and the back. Tables
of normal, blocked and premature beats are in milliseconds from the R wave at one beat a second. They were drawn for
skecg after the textbook's description of each pattern and tuned by eye on ECG paper. The leads see the potentials of a
dipole in Frank's torso [3]_.

References
----------
.. [1] McSharry P. E. et al. (2003). A dynamical model for generating synthetic electrocardiogram signals. IEEE Trans
       Biomed Eng 50, 289-294.
.. [2] Sameni R. et al. (2007). Multichannel ECG and noise modeling: application to maternal and fetal ECG signals.
       EURASIP J Adv Signal Process 2007, 043407.
.. [3] Dower G. E., Machado H. B., Osborne J. A. (1980). On deriving the electrocardiogram from vectorcardiographic
       leads. Clin Cardiol 3, 87-95.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.rhythm import Beats
from skecg.leads import EIGHT_LEADS

__all__ = [
    "CONDUCTIONS",
    "DOWER",
    "Heart",
    "INVERSE_DOWER",
    "ST_TERRITORIES",
    "about_feet_axis",
    "beat_waves",
    "draw_heart",
    "frontal_axis",
    "in_frontal_plane",
    "rotation_to",
    "st_dipole",
    "trace_dipole",
]

Floats = NDArray[np.float64]

#: Millivolts in the leads I, II, V1 to V6 for a dipole (X, Y, Z) of one unit (Dower et al., 1980).
DOWER: Floats = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

#: The way back, X, Y and Z from these eight leads, as published (Edenbrandt and Pahlm, 1988): the pseudo-inverse of
#: `DOWER` to within 0.002.
INVERSE_DOWER: Floats = np.array(
    [
        [0.156, -0.010, -0.172, -0.074, 0.122, 0.231, 0.239, 0.194],
        [-0.227, 0.887, 0.057, -0.019, -0.106, -0.022, 0.041, 0.048],
        [0.022, 0.102, -0.229, -0.310, -0.246, -0.063, 0.055, 0.108],
    ]
)

_LEAD_I, _LEAD_II = DOWER[0], DOWER[1]

# A unipolar limb lead sees the frontal plane through a gain of sqrt(3)/2 (Goldberger), which is taken out again.
_DOWNWARD = (_LEAD_II - _LEAD_I / 2) * 2 / np.sqrt(3)

#: Walls whose injury lifts the ST segment: the direction of the injury's dipole, and the lead that tells its size.
ST_TERRITORIES: dict[str, tuple[tuple[float, float, float], str]] = {
    "anterior": ((0.35, -0.10, -1.00), "V3"),
    "inferior": ((-0.25, 1.00, 0.15), "III"),
    "lateral": ((1.00, -0.50, 0.30), "V5"),
}

# One row a Gaussian: centre and width in milliseconds from the R wave, then its dipole X, Y, Z.
_P_WAVES = np.array(
    [
        [-168.0, 17.0, 0.030, 0.085, -0.055],  # right atrium: down and forward
        [-136.0, 19.0, 0.080, 0.055, 0.045],  # left atrium: left and back
    ]
)

_T_WAVES = {
    "normal": np.array([[235.0, 52.0, 0.13, 0.12, -0.07], [298.0, 33.0, 0.20, 0.17, -0.13]]),
    "lbbb": np.array([[262.0, 55.0, -0.17, -0.06, -0.22], [332.0, 34.0, -0.23, -0.07, -0.28]]),
    "rbbb": np.array([[245.0, 52.0, 0.13, 0.11, 0.07], [308.0, 33.0, 0.19, 0.15, 0.12]]),
}

_ST_SHIFT = {"normal": (0.0, 0.0, 0.0), "lbbb": (-0.09, -0.02, -0.14), "rbbb": (0.03, 0.0, 0.05)}

# Premature beats start in the right outflow tract, at the right apex, or in the left free wall.
_ECTOPIC_QRS = np.array(
    [
        [[-36.0, 19.0, 0.22, 0.75, 0.15], [8.0, 25.0, 0.40, 1.45, 1.05], [56.0, 20.0, 0.25, 0.35, 0.95]],
        [[-36.0, 19.0, 0.60, -0.40, 0.30], [8.0, 25.0, 1.10, -1.15, 1.10], [56.0, 20.0, 0.35, -0.40, 0.85]],
        [[-36.0, 19.0, -0.30, -0.30, -0.75], [8.0, 25.0, -0.75, -0.90, -1.35], [56.0, 20.0, -0.50, -0.30, -0.50]],
    ]
)

_ECTOPIC_T = np.array(
    [
        [[235.0, 58.0, -0.14, -0.38, -0.32], [305.0, 36.0, -0.16, -0.40, -0.36]],
        [[235.0, 58.0, -0.36, 0.34, -0.32], [305.0, 36.0, -0.38, 0.36, -0.36]],
        [[235.0, 58.0, 0.28, 0.30, 0.42], [305.0, 36.0, 0.30, 0.32, 0.44]],
    ]
)


def st_dipole(level_mv: float, territory: str) -> Floats:
    """Return the dipole that lifts the ST segment by `level_mv` in the lead that tells a territory's injury."""
    direction, lead = ST_TERRITORIES[territory]
    row = _LEAD_II - _LEAD_I if lead == "III" else DOWER[EIGHT_LEADS.index(lead)]
    return np.asarray(np.array(direction) * level_mv / (row @ direction))


def frontal_axis(qrs_waves: Floats) -> float:
    """Compute the frontal axis of the QRS complex (degrees, 0 left, 90 to the feet) from its area in I and aVF."""
    net = _net_area(qrs_waves)
    return float(np.degrees(np.arctan2(_DOWNWARD @ net, _LEAD_I @ net)))


def rotation_to(axis_degrees: float, qrs_waves: Floats) -> float:
    """Find the angle (rad) of the rotation about Z that gives the QRS complex its axis in leads I and aVF.

    The leads see the plane through unequal gains and a little of Z, so the angle is not the difference of two axes.
    It solves ``A cos(angle) + B sin(angle) + C = 0``: no net QRS across the axis. Of the two roots, the one along it.
    """
    angle = np.radians(axis_degrees)
    across = _DOWNWARD * np.cos(angle) - _LEAD_I * np.sin(angle)
    along = _DOWNWARD * np.sin(angle) + _LEAD_I * np.cos(angle)
    x, y, z = _net_area(qrs_waves)
    a, b, c = across[0] * x + across[1] * y, across[1] * x - across[0] * y, across[2] * z
    spread = np.arccos(-c / np.hypot(a, b))
    roots = np.arctan2(b, a) + np.array([spread, -spread])
    turned = np.array([x * np.cos(roots) - y * np.sin(roots), x * np.sin(roots) + y * np.cos(roots)])
    projections = along[:2] @ turned
    root = roots[np.argmax(projections)]
    return float(np.arctan2(np.sin(root), np.cos(root)))


def in_frontal_plane(waves: Floats, angle: float) -> Floats:
    """Rotate the dipoles about Z, from the left to the feet."""
    return _rotated(waves, angle, 2, 3)


def about_feet_axis(waves: Floats, angle: float) -> Floats:
    """Rotate the dipoles about Y, from the left to the back: what moves the transition in the chest leads."""
    return _rotated(waves, angle, 2, 4)


def _rotated(waves: Floats, angle: float, first: int, second: int) -> Floats:
    rotated = waves.copy()
    rotated[:, first] = waves[:, first] * np.cos(angle) - waves[:, second] * np.sin(angle)
    rotated[:, second] = waves[:, first] * np.sin(angle) + waves[:, second] * np.cos(angle)
    return rotated


def _net_area(waves: Floats) -> Floats:
    """Return the time integral of the dipole (3,), but for a constant."""
    return np.asarray(waves[:, 1] @ waves[:, 2:])


_QRS_WAVES = {
    "normal": np.array(
        [
            [-23.0, 7.5, -0.14, -0.06, -0.30],  # septum: right and forward
            [-1.0, 9.5, 1.00, 0.85, 0.10],  # both free walls: left and down
            [14.0, 9.5, 0.40, 0.30, 0.85],  # left free wall: back
            [31.0, 8.5, -0.16, -0.24, 0.30],  # base: up, right and back
        ]
    ),
    "lbbb": np.array(
        [
            [-24.0, 12.0, 0.30, 0.14, 0.02],  # septum from right to left: no q in I and V6
            [2.0, 18.0, 0.88, 0.42, 0.45],
            [26.0, 18.0, 0.42, 0.16, 0.62],  # septum and apex from front to back
            [54.0, 20.0, 0.95, 0.34, 0.82],  # late free wall: the second summit of the notched R
            [82.0, 14.0, 0.18, 0.02, 0.26],
        ]
    ),
    "rbbb": np.array(
        [
            [-25.0, 7.5, -0.16, -0.06, -0.34],
            [-3.0, 9.5, 1.15, 0.58, 0.15],
            [13.0, 10.0, 0.62, 0.28, 0.55],
            [48.0, 13.0, -0.31, -0.08, -0.50],  # late right ventricle: R' in V1, slurred S in I and V6
            [74.0, 16.0, -0.27, -0.10, -0.48],
        ]
    ),
}

#: Ways in which the impulse spreads through the ventricles.
CONDUCTIONS = tuple(_QRS_WAVES)


@dataclass(frozen=True, eq=False)
class Heart:
    """One person's waves: arrays of rows (centre s, width s, X, Y, Z), and the dipole of the ST segment."""

    p_waves: Floats
    qrs_waves: Floats
    t_waves: Floats
    st: Floats
    ectopic_qrs: Floats
    ectopic_t: Floats


def draw_heart(
    rng: np.random.Generator, conduction: str, axis_degrees: float | None, injury: Floats
) -> tuple[Heart, float]:
    """Draw one person's heart around the textbook's and turn it to the axis asked for.

    Parameters
    ----------
    rng : numpy.random.Generator
        Always asked for the same numbers in the same order, so that changing an argument changes nothing else.
    conduction : str
        One of :data:`CONDUCTIONS`.
    axis_degrees : float or None
        Frontal axis of the QRS complex; None leaves it where this person's anatomy puts it.
    injury : ndarray of shape (3,)
        Dipole of the injured ST segment.

    Returns
    -------
    heart : Heart
    axis_degrees : float
        Its frontal axis, in (-180, 180].
    """
    turn = np.radians(rng.normal(0.0, 9.0))
    p = _vary(rng, _P_WAVES, amplitude=0.2, duration=0.0)
    qrs = about_feet_axis(_vary(rng, _QRS_WAVES[conduction], amplitude=0.17, duration=0.05), turn)
    t = about_feet_axis(_vary(rng, _T_WAVES[conduction], amplitude=0.22, duration=0.03), turn)
    p[:, 0] *= np.clip(rng.normal(1.0, 0.07), 0.85, 1.2)
    focus = rng.integers(len(_ECTOPIC_QRS))
    ectopic = [_vary(rng, waves[focus], amplitude=0.12, duration=0.04) for waves in (_ECTOPIC_QRS, _ECTOPIC_T)]
    own_axis = frontal_axis(qrs) + np.clip(rng.normal(0.0, 13.0), -30.0, 30.0)
    # Into -180 to 180 degrees, with 180 itself kept.
    axis = 180.0 - (180.0 - (own_axis if axis_degrees is None else axis_degrees)) % 360.0
    rotation = rotation_to(axis, qrs)
    # Repolarization follows the ventricles' new axis half way, and the atria not at all.
    qrs, t = in_frontal_plane(qrs, rotation), in_frontal_plane(t, rotation / 2)
    return Heart(p, qrs, t, np.array(_ST_SHIFT[conduction]) + injury, *ectopic), axis


def _vary(rng: np.random.Generator, waves: Floats, *, amplitude: float, duration: float) -> Floats:
    """Draw a person's version of a table of waves, in seconds: all waves together, then each a little on its own."""
    together = np.exp(np.clip(rng.normal(0.0, amplitude), -2 * amplitude, 2 * amplitude))
    apart = np.exp(np.clip(rng.normal(0.0, 0.09, (len(waves), 3)), -0.2, 0.2))
    pace = 1.0 + np.clip(rng.normal(0.0, duration or 1.0) * (duration > 0), -2 * duration, 2 * duration)
    return np.concatenate([waves[:, :2] * pace / 1000.0, waves[:, 2:] * together * apart], axis=1)


def beat_waves(heart: Heart, rr_seconds: float, *, atrial: bool, ectopic: bool) -> tuple[Floats, float, float]:
    """Return one beat's Gaussians at its RR interval, and where its ST segment begins and ends (s from the R wave)."""
    # Bazett's law holds for usual rates; beyond them waves would overlap or drift apart.
    stretch = np.sqrt(np.clip(rr_seconds, 0.3, 1.6))
    qrs, t = (heart.ectopic_qrs, heart.ectopic_t) if ectopic else (heart.qrs_waves, heart.t_waves)
    t = t * [stretch, stretch, 1.0, 1.0, 1.0]
    p = heart.p_waves * [np.sqrt(stretch), 1.0, 1.0, 1.0, 1.0]
    waves = np.concatenate([p, qrs, t] if atrial else [qrs, t])
    return waves, float((qrs[:, 0] + 2.0 * qrs[:, 1]).max()), float(t[-1, 0])


def trace_dipole(
    heart: Heart, beats: Beats, *, atrial: bool, sampling_rate: float, n_samples: int
) -> NDArray[np.float32]:
    """Trace the dipole of a sequence of beats from 0 s on.

    Parameters
    ----------
    heart : Heart
    beats : Beats
    atrial : bool
        Whether beats that are not ectopic have P waves.
    sampling_rate : float
        Samples a second (Hz).
    n_samples : int

    Returns
    -------
    ndarray of shape (3, n_samples), float32
    """
    dipole = np.zeros((3, n_samples), dtype=np.float32)
    for second, rr, gain, ectopic in zip(beats.seconds, beats.rr_seconds, beats.gains, beats.ectopic, strict=True):
        waves, st_onset, st_end = beat_waves(heart, float(rr), atrial=atrial and not ectopic, ectopic=bool(ectopic))
        # Six widths from its centre a Gaussian is below 2e-8 of its height, the resolution of float32.
        start = second + (waves[:, 0] - 6 * waves[:, 1]).min()
        stop = second + (waves[:, 0] + 6 * waves[:, 1]).max()
        first, last = max(0, int(np.ceil(start * sampling_rate))), min(n_samples, int(stop * sampling_rate) + 1)
        if first >= last:
            continue
        seconds = (np.arange(first, last) / sampling_rate - second).astype(np.float32)
        trace = _gaussians(waves, seconds)
        if not ectopic and heart.st.any():
            trace += heart.st.astype(np.float32)[:, None] * _plateau(seconds, st_onset, st_end)
        dipole[:, first:last] += np.float32(gain) * trace
    return dipole


def _gaussians(waves: Floats, seconds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum the Gaussians of a beat: (n_waves, 5) and (n_samples,) to (3, n_samples)."""
    rows = waves.astype(np.float32)
    z = (seconds - rows[:, :1]) / rows[:, 1:2]
    return np.asarray(rows[:, 2:].T @ np.exp(np.float32(-0.5) * z * z), dtype=np.float32)


def _plateau(seconds: NDArray[np.float32], onset: float, end: float) -> NDArray[np.float32]:
    """Rise to one within 20 ms of the end of the QRS complex, and come down with the T wave."""
    rise = (seconds - np.float32(onset - 0.004)) / np.float32(0.005)
    fall = (np.float32(end + 0.015) - seconds) / np.float32(0.018)
    with np.errstate(over="ignore"):  # exp(-x) of a far negative x is infinite, and its reciprocal the zero wanted
        return np.asarray(1 / ((1 + np.exp(-rise)) * (1 + np.exp(-fall))), dtype=np.float32)
