"""Reading the arguments of make_ecg: ranges, choices, noise, leads, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from skecg.datasets.noise import NOISE_SHARES, NOISES
from skecg.errors import LeadError, ParameterError
from skecg.leads import CANONICAL_LEADS, canonical_leads

__all__ = ["read_choice", "read_count", "read_n_samples", "read_noise", "read_range", "read_seed", "read_twelve_leads"]


def read_range(name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> tuple[float, float]:
    """Read a number or the two ends of a range."""
    ends = (value, value) if isinstance(value, Real) else value
    try:
        start, stop = (float(end) for end in ends)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"Got {name}={value!r}, expected a number or a pair (low, high).") from error
    if isinstance(value, bool) or not (low <= start <= stop <= high and np.isfinite([start, stop]).all()):
        limits = f" within {low:g} to {high:g}" if np.isfinite(low) or np.isfinite(high) else ""
        raise ParameterError(f"Got {name}={value!r}, expected a finite number or a pair (low, high){limits}.")
    return start, stop


def read_choice(name: str, value: Any, known: tuple[str, ...]) -> dict[str, float]:
    """Read a name, a sequence of names or a mapping of names to weights."""
    names = [value] if isinstance(value, str) else value
    try:
        weights = dict(names) if isinstance(names, Mapping) else {key: list(names).count(key) for key in names}
    except TypeError as error:
        raise ParameterError(f"Got {name}={value!r}, expected a name or several of: {', '.join(known)}.") from error
    unknown = [key for key in weights if key not in known]
    if unknown or not weights:
        raise ParameterError(f"Got {name}={value!r}, expected one or several of: {', '.join(known)}.")
    for key, weight in weights.items():
        read_range(f"{name}[{key!r}]", weight, 0.0)
    if sum(weights.values()) <= 0:
        raise ParameterError(f"Got {name}={value!r}, expected at least one positive weight.")
    return {key: float(weight) for key, weight in weights.items()}


def read_noise(value: Any, mains_hz: Any, sampling_rate: float) -> dict[str, tuple[float, float]]:
    """Read the noise: a level for the mixture, or one for each kind."""
    carried = read_range("mains_hz", mains_hz, 1.0)[0] < sampling_rate / 2
    if not isinstance(value, Mapping):
        low, high = read_range("noise", value, 0.0)
        return {k: (low * s, high * s) for k, s in NOISE_SHARES.items() if carried or k != "mains"}
    unknown = [kind for kind in value if kind not in NOISES]
    if unknown:
        raise ParameterError(f"Got noise of kind {unknown[0]!r}, expected some of: {', '.join(NOISES)}.")
    levels = {kind: read_range(f"noise[{kind!r}]", level, 0.0) for kind, level in value.items()}
    if levels.get("mains", (0.0, 0.0))[1] > 0 and not carried:
        raise ParameterError(
            f"Got noise at mains_hz={mains_hz:g} with sampling_rate={sampling_rate:g}, expected a rate above "
            f"{2 * mains_hz:g} Hz. Leave 'mains' out or ask for a higher sampling rate."
        )
    return levels


def read_count(name: str, value: Any) -> int:
    """Read a positive integer."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise ParameterError(f"Got {name}={value!r}, expected an integer of at least 1.")
    return int(value)


def read_n_samples(duration_seconds: Any, sampling_rate: float) -> int:
    """Read a duration as a number of samples."""
    low, high = read_range("duration_seconds", duration_seconds, 0.0)
    n_samples = round(low * sampling_rate)
    if low != high or n_samples < 1:
        raise ParameterError(f"Got duration_seconds={duration_seconds!r}, expected a positive number of seconds.")
    return n_samples


def read_twelve_leads(leads: Sequence[str]) -> tuple[str, ...]:
    """Read lead names that are among the twelve."""
    names = canonical_leads(leads)
    unknown = [lead for lead in names if lead not in CANONICAL_LEADS]
    if unknown:
        raise LeadError(f"Got lead {unknown[0]!r}, expected some of: {', '.join(CANONICAL_LEADS)}.")
    return names


def read_seed(random_state: Any) -> int:
    """Turn what scikit-learn's users pass as random_state into one non-negative integer."""
    if random_state is None:
        return int(np.random.default_rng().integers(2**63))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if not isinstance(random_state, Integral) or isinstance(random_state, bool) or int(random_state) < 0:
        raise ParameterError(
            f"Got random_state={random_state!r}, expected None, an integer from 0 on, or a numpy generator."
        )
    return int(random_state)
