"""The torso: how the leads see the heart's dipole, and how a dipole turns in it.

The dipole is (X, Y, Z): to the left, to the feet, to the back. The potentials are those in Frank's torso [1]_. A wave
is a row of five numbers: centre and width (s), then its dipole.

References
----------
.. [1] Dower G. E., Machado H. B., Osborne J. A. (1980). On deriving the electrocardiogram from vectorcardiographic
       leads. Clin Cardiol 3, 87-95.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skecg.leads import EIGHT_LEADS

__all__ = ["DOWER", "ST_TERRITORIES", "about_feet_axis", "frontal_axis", "in_frontal_plane", "rotation_to", "st_dipole"]

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
_LEAD_I, _LEAD_II = DOWER[0], DOWER[1]
# A unipolar limb lead sees the frontal plane through a gain of sqrt(3)/2 (Goldberger), which is taken out again.
_DOWNWARD = (_LEAD_II - _LEAD_I / 2) * 2 / np.sqrt(3)

#: Walls whose injury lifts the ST segment: the direction of the injury's dipole, and the lead that tells its size.
ST_TERRITORIES: dict[str, tuple[tuple[float, float, float], str]] = {
    "anterior": ((0.35, -0.10, -1.00), "V3"),
    "inferior": ((-0.25, 1.00, 0.15), "III"),
    "lateral": ((1.00, -0.50, 0.30), "V5"),
}


def st_dipole(level_mv: float, territory: str) -> Floats:
    """Give the dipole that lifts the ST segment by `level_mv` in the lead that tells a territory's injury."""
    direction, lead = ST_TERRITORIES[territory]
    row = _LEAD_II - _LEAD_I if lead == "III" else DOWER[EIGHT_LEADS.index(lead)]
    return np.asarray(np.array(direction) * level_mv / (row @ direction))


def frontal_axis(qrs_waves: Floats) -> float:
    """Give the frontal axis of the QRS complex (degrees, 0 to the left, 90 to the feet), from its area in I and aVF."""
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
    """Give the time integral of the dipole (3,), but for a constant."""
    return np.asarray(waves[:, 1] @ waves[:, 2:])
