"""Beat-SSL, each row of its ablation, at the size of skecg_temporal.

Rizqyawan et al. (ISBI 2026) say neither which encoder they train nor on what and for how long; what is ours of the
objective stands in :mod:`pretraining.objectives.beat_ssl`. Encoder, data, steps and schedules are therefore those of
``skecg_temporal``, so that objectives can be compared; other than there all twelve leads are always shown, because
views mix them, and all six blocks are exported.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from pretraining.config import PretrainConfig
from pretraining.config.objectives import BeatSslConfig
from pretraining.recipes.skecg import skecg_temporal

__all__ = ["ABLATION", "Row", "describe", "row_config"]


class Row(NamedTuple):
    """A row of the ablation: the targets, and what was published of it.

    Attributes
    ----------
    rhythm, beat : str
        As in :class:`pretraining.config.objectives.BeatSslConfig`.
    exponent : float
    auroc, f1 : float
        Of the superclasses of PTB-XL.
    ludb_f1 : float
        Of the waves in LUDB.
    """

    rhythm: str
    beat: str
    exponent: float
    auroc: float
    f1: float
    ludb_f1: float


#: By the name of the recipe, in the order of the paper.
ABLATION: dict[str, Row] = {
    f"beat_ssl_{row.rhythm}_{row.beat}_{row.exponent:g}": row
    for row in (
        Row("hard", "none", 1.0, 0.811, 0.595, 0.802),
        Row("hard", "hard", 1.0, 0.797, 0.551, 0.827),
        Row("hard", "soft_1", 1.0, 0.789, 0.552, 0.785),
        Row("hard", "soft_1", 50.0, 0.794, 0.540, 0.805),
        Row("hard", "soft_2", 1.0, 0.795, 0.567, 0.784),
        Row("soft_1", "none", 1.0, 0.834, 0.593, 0.869),
        Row("soft_1", "none", 50.0, 0.814, 0.572, 0.895),
        Row("soft_1", "hard", 1.0, 0.681, 0.247, 0.784),
        Row("soft_1", "hard", 50.0, 0.843, 0.622, 0.911),
        Row("soft_1", "soft_1", 1.0, 0.704, 0.389, 0.807),
        Row("soft_1", "soft_1", 50.0, 0.833, 0.598, 0.881),
        Row("soft_2", "none", 1.0, 0.797, 0.534, 0.888),
        Row("soft_2", "hard", 1.0, 0.801, 0.525, 0.872),
        Row("soft_2", "soft_2", 1.0, 0.805, 0.537, 0.878),
    )
}


def row_config(name: str) -> PretrainConfig:
    """Return the run of a row by its recipe's name."""
    row, base = ABLATION[name], skecg_temporal()
    return dataclasses.replace(
        base,
        name=name,
        input=dataclasses.replace(base.input, any_leads=False),
        objective=BeatSslConfig(row.rhythm, row.beat, row.exponent),
        predictor=None,
        masks=None,
        data=dataclasses.replace(base.data, lead_dropout=0.0),
        export_encoder="context",
        export_blocks=0,
    )


def describe(name: str) -> str:
    """Describe in a line which row it is."""
    row = ABLATION[name]
    beats = "no beats" if row.beat == "none" else f"{row.beat} between beats"
    return (
        f"Beat-SSL: {row.rhythm} targets between recordings, {beats}, power {row.exponent:g} (AUROC {row.auroc:.3f})."
    )
