"""Normalization statistics, which the published checkpoints of Weimann and Conrad do not carry.

Means and standard deviations of each lead in millivolts, as the published pre-training hard-codes them for each of its
corpora (Comput. Biol. Med. 196:110809, 2025). CODE-15, PTB-XL and St Petersburg: after the removal of baseline wander,
and for PTB-XL over folds 1 to 8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skecg.errors import LeadError, ParameterError
from skecg.leads import CANONICAL_LEADS, canonical_leads

__all__ = ["STATISTICS", "read_statistics"]

# MIMIC-IV-ECG files carry aVF before aVL.
_MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
_ZERO = (0.0,) * 12


def _by_lead(
    mean: Sequence[float], std: Sequence[float], leads: Sequence[str] = CANONICAL_LEADS
) -> dict[str, tuple[float, float]]:
    return {lead: (m, s) for lead, m, s in zip(leads, mean, std, strict=True)}


#: Corpus to lead to (mean, standard deviation), mV.
STATISTICS: dict[str, dict[str, tuple[float, float]]] = {
    "mimic": _by_lead(
        (0.023, 0.015, -0.007, -0.019, 0.004, 0.014, -0.018, -0.004, 0.002, 0.017, 0.022, 0.022),
        (0.155, 0.158, 0.166, 0.133, 0.143, 0.141, 0.207, 0.282, 0.284, 0.253, 0.222, 0.197),
        _MIMIC_LEADS,
    ),
    "code-15": _by_lead(_ZERO, (0.488, 0.450, 0.437, 0.416, 0.405, 0.370, 0.548, 0.639, 0.719, 0.695, 0.676, 0.639)),
    "ptb-xl": _by_lead(
        (-0.002, -0.002, 0.0, 0.002, -0.001, -0.001, 0.0, -0.001, -0.002, -0.001, -0.001, -0.001),
        (0.191, 0.166, 0.173, 0.142, 0.149, 0.147, 0.235, 0.338, 0.335, 0.299, 0.294, 0.242),
    ),
    "chapman": _by_lead(
        (0.002, 0.005, 0.003, -0.002, -0.002, 0.003, 0.0, 0.003, 0.004, 0.004, 0.003, -0.001),
        (0.140, 0.171, 0.145, 0.138, 0.114, 0.143, 0.218, 0.355, 0.366, 0.365, 0.332, 0.299),
    ),
    "ningbo": _by_lead(
        (0.002, 0.004, 0.002, -0.001, -0.001, 0.002, 0.0, 0.003, 0.003, 0.004, 0.003, 0.0),
        (0.145, 0.179, 0.159, 0.142, 0.123, 0.153, 0.228, 0.368, 0.377, 0.394, 0.405, 0.444),
    ),
    "georgia": _by_lead(
        (-0.003, -0.002, 0.001, 0.003, -0.002, -0.001, -0.004, -0.004, -0.003, -0.003, -0.003, -0.003),
        (0.157, 0.178, 0.164, 0.147, 0.134, 0.153, 0.213, 0.285, 0.272, 0.245, 0.224, 0.209),
    ),
    "cpsc": _by_lead(_ZERO, (0.214, 0.236, 0.221, 0.209, 0.196, 0.214, 0.336, 0.417, 0.449, 0.483, 0.523, 0.561)),
    "cpsc-extra": _by_lead(_ZERO, (0.182, 0.183, 0.184, 0.163, 0.164, 0.165, 0.288, 0.370, 0.371, 0.380, 0.375, 0.392)),
    "ptb": _by_lead(_ZERO, (0.642, 0.975, 0.953, 0.674, 0.651, 0.909, 0.643, 0.658, 0.668, 0.688, 0.648, 0.622)),
    "st-petersburg": _by_lead(
        _ZERO, (0.132, 0.370, 0.353, 0.215, 0.191, 0.356, 0.234, 0.320, 0.328, 0.290, 0.317, 0.337)
    ),
}


def read_statistics(statistics: str | Path, leads: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give means and standard deviations (mV) of some leads.

    Parameters
    ----------
    statistics : str or Path
        A key of :data:`STATISTICS`, or a JSON file ``{"mean": ..., "std": ...}`` with a list in the order of `leads`
        or an object of lead names for each.
    leads : sequence of str

    Raises
    ------
    ParameterError
        When there is no such name or file, or the file lacks a lead or holds anything but usable numbers.
    """
    if statistics in STATISTICS:
        table = STATISTICS[str(statistics)]
        missing = [lead for lead in leads if lead not in table]
        if missing:
            raise ParameterError(
                f"Got statistics={str(statistics)!r}, which has none for {', '.join(missing)}. Pass a JSON file."
            )
        return tuple(table[lead][0] for lead in leads), tuple(table[lead][1] for lead in leads)
    if not Path(statistics).is_file():
        raise ParameterError(
            f"Got statistics={str(statistics)!r}, expected one of {', '.join(STATISTICS)}, or a JSON file "
            '{"mean": [...], "std": [...]} in millivolts.'
        )
    return _from_file(Path(statistics), leads)


def _from_file(path: Path, leads: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ParameterError(f"Got statistics={str(path)!r}, which is not valid JSON ({error}).") from error
    if not isinstance(values, Mapping) or not {"mean", "std"} <= values.keys():
        raise ParameterError(f"Got statistics={str(path)!r} without 'mean' and 'std', expected an object with both.")
    mean, std = (_in_order(path, kind, values[kind], leads) for kind in ("mean", "std"))
    if min(std) <= 0:
        raise ParameterError(f"Got a standard deviation of {min(std)} in {path}, expected positive numbers (mV).")
    return mean, std


def _in_order(path: Path, kind: str, values: Any, leads: Sequence[str]) -> tuple[float, ...]:
    if isinstance(values, Mapping):
        try:
            named = dict(zip(canonical_leads(list(values)), values.values(), strict=True))
            values = [named[lead] for lead in leads]
        except (LeadError, KeyError) as error:
            raise ParameterError(f"Got {kind!r} in {path} that does not name every lead once ({error}).") from error
    numbers = values if isinstance(values, list) else []
    usable = all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers)
    if len(numbers) != len(leads) or not usable:
        raise ParameterError(
            f"Got {kind!r} in {path}, expected {len(leads)} numbers, one for each of {', '.join(leads)}."
        )
    return tuple(float(x) for x in numbers)
