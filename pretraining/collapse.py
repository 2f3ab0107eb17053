"""When gauges say that features have collapsed.

Read off them in this order: the spread between records, which falls first and furthest; the effective rank; a loss
too good to be true; and a contrast that gains nothing on a guess. The rank alone is blind to it: features that are
constant up to a thousandth of their norm may keep a full centred rank. The spread is blind to a contrast whose targets
say nothing: what is contrasted is then alike for all, while the encoder's features keep half of their spread, or all of
it where another part of the loss holds them apart (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["collapse_reason"]

# What counts as collapse. A healthy first try kept its spread; one that collapsed ended at 0.6 % of the norm. Encoders
# with a token for each lead start at 0.2 to 0.4 %, their positions being most of a token: so a low spread counts only
# if it was higher before.
_SPREAD_LOW, _SPREAD_FALLEN, _SPREAD_LOST = 0.01, 0.5, 0.1
_RANK_LOW, _RANK_LOST = 2.0, 0.1
_LOSS_TINY = 0.01
# Nats. Contrasts of recordings that collapsed were within 0.0002 of a guess from twenty steps after warm-up on, those
# that did not were above 0.007 by then. Those of beats come later, but pass through 0 by 0.004 in twenty steps.
_GAIN_NONE = 0.0005
_CONTRASTED = {"fixed_rhythm_gain": "recordings", "fixed_beat_gain": "beats"}
# A single dip may recover.
_TIMES = 2


def collapse_reason(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Say why features have collapsed, if they have.

    Parameters
    ----------
    history : sequence of mapping
        What :meth:`Gauges.measure` gave so far, in order, with ``step``; the first one from before or soon after the
        first step.

    Returns
    -------
    str or None
        None as long as nothing is wrong. Otherwise one of these held the last two times in a row:

        - ``record_spread`` is below 0.01 and below half of the highest seen, or below a tenth of it;
        - ``rank`` is below 2 and below half of the highest seen, or below a tenth of it;
        - ``fixed_loss`` is below a hundredth of its first value while ``record_spread`` is below half of the highest;
        - ``fixed_rhythm_gain`` or ``fixed_beat_gain`` is less than 0.0005 nats from 0.
    """
    measured = [entry for entry in history if "record_spread" in entry and "rank" in entry]
    if len(measured) <= _TIMES:
        return None
    reasons = [_why_collapsed(measured[:end]) for end in range(len(measured) - _TIMES + 1, len(measured) + 1)]
    if not all(reasons):
        return None
    where = f" at step {measured[-1]['step']}" if "step" in measured[-1] else ""
    return f"{reasons[-1]}{where}"


def _why_collapsed(measured: Sequence[Mapping[str, Any]]) -> str | None:
    """Judge the last measurement by those before it."""
    spread, rank = measured[-1]["record_spread"], measured[-1]["rank"]
    most_spread, most_rank = (max(entry[name] for entry in measured) for name in ("record_spread", "rank"))
    if spread < max(_SPREAD_LOST * most_spread, min(_SPREAD_LOW, _SPREAD_FALLEN * most_spread)):
        return f"records differ by {spread:.2%} of the features' norm (it was {most_spread:.2%})"
    if rank < max(_RANK_LOST * most_rank, min(_RANK_LOW, _SPREAD_FALLEN * most_rank)):
        return f"features keep an effective rank of {rank:.1f} (it was {most_rank:.1f})"
    loss, first = measured[-1].get("fixed_loss", math.inf), measured[0].get("fixed_loss", 0.0)
    if loss < _LOSS_TINY * first and spread < _SPREAD_FALLEN * most_spread:
        return f"the loss fell to {loss / first:.1%} of its first value and the spread of records to {spread:.2%}"
    return _what_is_guessed(measured[-1])


def _what_is_guessed(entry: Mapping[str, Any]) -> str | None:
    """Say which things are contrasted in vain, if some are."""
    for name, things in _CONTRASTED.items():
        if abs(entry.get(name, math.inf)) < _GAIN_NONE:
            return f"{things} are told apart no better than by a guess ({entry[name]:.5f} nats)"
    return None
