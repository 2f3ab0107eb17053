"""A heart: the waves of its beats, normal, blocked and premature, and how they differ from person to person.

Tables are in milliseconds from the R wave at one beat a second, with dipoles (X, Y, Z) to the left, the feet and the
back. They were drawn for skecg after the textbook's description of each pattern and tuned by eye on ECG paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skecg.datasets.torso import Floats, about_feet_axis, frontal_axis, in_frontal_plane, rotation_to

__all__ = ["CONDUCTIONS", "Heart", "draw_heart"]

# One row a Gaussian: centre and width in milliseconds from the R wave, then its dipole X, Y, Z.
_P_WAVES = np.array(
    [
        [-168.0, 17.0, 0.030, 0.085, -0.055],  # right atrium: down and forward
        [-136.0, 19.0, 0.080, 0.055, 0.045],  # left atrium: left and back
    ]
)
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
