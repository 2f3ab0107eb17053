"""Twelve leads to a vectorcardiogram and back, as matrices.

Eight of the twelve leads are measured apart (I, II, V1 to V6); the vectorcardiogram says of them what one dipole in the
chest explains: X to the left, Y to the feet, Z to the back. Two matrices are used for it. The inverse Dower matrix was
computed from a model of the torso [1]_ [2]_; Kors' was fitted to leads of Frank that were recorded beside the twelve
[3]_. The way back is the pseudo-inverse of either. There and back again is therefore a projection of eight dimensions
on three: whatever of the eight leads is not a dipole's is lost, and what is left stays as it is however often it is
done.

References
----------
.. [1] Dower G. E., Machado H. B., Osborne J. A. (1980). On deriving the electrocardiogram from vectorcardiographic
       leads. Clinical Cardiology 3:87.
.. [2] Edenbrandt L., Pahlm O. (1988). Vectorcardiogram synthesized from a 12-lead ECG: superiority of the inverse Dower
       matrix. Journal of Electrocardiology 21:361.
.. [3] Kors J. A., van Herpen G., Sittig A. C., van Bemmel J. H. (1990). Reconstruction of the Frank vectorcardiogram
       from standard electrocardiographic leads: diagnostic comparison of different methods. European Heart Journal
       11:1083.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.heart_model import INVERSE_DOWER
from skecg.errors import LeadError
from skecg.leads import EIGHT_LEADS, derivation_matrix
from skecg.validation import check_choice

__all__ = ["TO_VCG", "from_vcg", "to_vcg"]

Floats = NDArray[np.float64]

#: By name: the matrix (3, 8) that makes X, Y and Z of the leads I, II, V1 to V6.
TO_VCG: dict[str, Floats] = {
    "dower": INVERSE_DOWER,
    "kors": np.array(
        [
            [0.38, -0.07, -0.13, 0.05, -0.01, 0.14, 0.06, 0.54],
            [-0.07, 0.93, 0.06, -0.02, -0.05, 0.06, -0.17, 0.13],
            [0.11, -0.23, -0.43, -0.06, -0.14, -0.20, -0.11, 0.31],
        ]
    ),
}


def to_vcg(leads: Sequence[str], matrix: str = "dower") -> Floats:
    """Return the matrix from leads to the vectorcardiogram.

    Parameters
    ----------
    leads : sequence of str
        Canonical names of the rows of a signal, in any order. Leads beside the eight count nothing.
    matrix : {"dower", "kors"}

    Returns
    -------
    ndarray of shape (3, n_leads), float64
        ``to_vcg(leads) @ signal`` is X, Y and Z, in the unit of the signal.

    Raises
    ------
    LeadError
        When some of I, II, V1 to V6 is absent and cannot be derived from other limb leads.
    ParameterError
        For a matrix of another name.
    """
    eight, missing = derivation_matrix(leads, EIGHT_LEADS)
    if missing:
        raise LeadError(
            f"Got leads {', '.join(leads)}, expected the eight that a vectorcardiogram is made of; there is no "
            f"{', '.join(missing)}. Take recordings of twelve leads."
        )
    return np.asarray(_matrix(matrix) @ eight)


def from_vcg(leads: Sequence[str], matrix: str = "dower") -> Floats:
    """Return the matrix (n_leads, 3) from the vectorcardiogram to leads.

    Limb leads are derived from I and II, so that Einthoven's and Goldberger's laws hold. Parameters and errors are as
    in :func:`to_vcg`.
    """
    wanted, missing = derivation_matrix(EIGHT_LEADS, leads)
    if missing:
        raise LeadError(f"Got lead(s) {', '.join(missing)}, expected some of the twelve.")
    # The pseudo-inverse, so that there and back twice is the same as once.
    return np.asarray(wanted @ np.linalg.pinv(_matrix(matrix)))


def _matrix(name: str) -> Floats:
    return TO_VCG[check_choice("matrix", name, TO_VCG)]
