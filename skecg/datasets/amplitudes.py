"""How large one step of a packed recording is, also where each lead was divided by its own standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import UnitsError
from skecg.leads import LIMB_COEFFICIENTS
from skecg.records import millivolts_per_unit

__all__ = ["STANDARDIZED", "TYPICAL_MV", "millivolts_a_step"]

#: The unit of recordings whose leads were each divided by their own standard deviation.
STANDARDIZED = "per-lead standard deviation"
#: Standard deviations (mV) that such leads are given back: medians over 81 PTB-XL recordings, filtered to 0.5-40 Hz;
#: for the limb leads that of the root mean square over the six.
TYPICAL_MV = {"limb": 0.118, "V1": 0.147, "V2": 0.262, "V3": 0.262, "V4": 0.228, "V5": 0.212, "V6": 0.173}


def millivolts_a_step(units: str, lsb: float, leads: Sequence[str], limb_ratios: Any = None) -> NDArray[np.float64]:
    """Say how many millivolts one step of each lead is.

    Parameters
    ----------
    units : str
        A unit of voltage, or :data:`STANDARDIZED`.
    lsb : float
        Size of one step in that unit.
    leads : sequence of str of length n_leads
        Canonical names.
    limb_ratios : array-like of shape (6,), optional
        The limb leads' standard deviations over that of one of them, in canonical order, where they are known.

    Returns
    -------
    ndarray of shape (n_leads, 1), float64
        A standardized lead is given the standard deviation that is typical of it (:data:`TYPICAL_MV`); limb leads the
        typical one of the six together, shared out by their ratios.

    Raises
    ------
    UnitsError
        When the unit is neither.
    """
    if units != STANDARDIZED:
        factor = millivolts_per_unit(units)
        if factor is None:
            raise UnitsError(f"Got units={units!r}, expected a unit of voltage or {STANDARDIZED!r}.")
        return np.full((len(leads), 1), lsb * factor)
    ratios = np.ones(6) if limb_ratios is None else np.asarray(limb_ratios, dtype=np.float64)
    limb = ratios / np.sqrt(np.square(ratios).mean()) * TYPICAL_MV["limb"]
    typical = {**TYPICAL_MV, **dict(zip(LIMB_COEFFICIENTS, limb, strict=True))}
    return np.array([[lsb * typical.get(lead, TYPICAL_MV["limb"])] for lead in leads])
