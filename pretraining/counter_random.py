"""Random numbers by address: what is drawn for a position of a step depends on nothing drawn before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["uniforms"]

_WORDS_A_COUNT = 4  # 64-bit words that Philox makes of one value of its counter
_MASK = 2**64 - 1


def uniforms(seed: int, step: int, positions: range, n_draws: int, *, stream: int) -> NDArray[np.float64]:
    """Draw numbers for some positions of the batch of a step.

    Parameters
    ----------
    seed, step : int
        The key of a Philox generator.
    positions : range
        Contiguous positions in the global batch; those of all processes and of all parts of a batch together give what
        one process would have drawn.
    n_draws : int
        Numbers for each position.
    stream : int
        Keeps draws for different purposes apart.

    Returns
    -------
    ndarray of shape (len(positions), n_draws), float64
        Uniform in [0, 1).

    References
    ----------
    .. [1] Salmon J. K. et al. (2011). Parallel random numbers: as easy as 1, 2, 3. SC '11.
    """
    assert positions.step == 1, "positions are contiguous"
    counts = -(-n_draws // _WORDS_A_COUNT)
    key = np.array([seed & _MASK, step & _MASK], dtype=np.uint64)
    counter = np.array([positions.start * counts, 0, 0, stream], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(len(positions) * counts * _WORDS_A_COUNT)
    drawn = (words.reshape(len(positions), counts * _WORDS_A_COUNT)[:, :n_draws] >> np.uint64(11)) * 2.0**-53
    return np.asarray(drawn, dtype=np.float64)
