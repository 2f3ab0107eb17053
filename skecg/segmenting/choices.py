"""What a Segmenter was constructed with, checked before anything is read."""

from __future__ import annotations

import numbers
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from skecg.errors import ParameterError
from skecg.finetuning.holding_out import check_fraction
from skecg.finetuning.plan import Plan
from skecg.leads import canonical_lead
from skecg.screening import Policies
from skecg.segmenting.training import STAGES

if TYPE_CHECKING:
    from skecg.segmenting.segmenter import Segmenter

__all__ = ["check_choices", "plans_of"]


def check_choices(segmenter: Segmenter) -> None:
    """Refuse what the constructor stored unseen."""
    Policies(segmenter.missing_leads, segmenter.short_records)
    plans_of(segmenter, 0)
    if segmenter.stages not in STAGES:
        expected = ", ".join(map(repr, STAGES))
        raise ParameterError(f"Got stages={segmenter.stages!r}, expected one of {expected}.")
    check_fraction(segmenter.validation_fraction)
    width = segmenter.width
    if not isinstance(width, numbers.Integral) or isinstance(width, bool) or width < 1:
        raise ParameterError(f"Got width={width!r}, expected a positive integer.")
    if not isinstance(segmenter.augment, bool | np.bool_):
        raise ParameterError(f"Got augment={segmenter.augment!r}, expected True or False.")
    canonical_lead(segmenter.target)


def plans_of(segmenter: Segmenter, seed: int) -> tuple[Plan, Plan]:
    """Say how the decoder alone is trained, and how all is."""
    plan = Plan(
        epochs=segmenter.epochs,
        batch_size=segmenter.batch_size,
        learning_rate=segmenter.learning_rate,
        layer_decay=segmenter.layer_decay,
        weight_decay=segmenter.weight_decay,
        warmup_epochs=segmenter.warmup_epochs,
        patience=segmenter.patience,
        precision=segmenter.precision,
        random_state=seed,
        n_jobs=segmenter.n_jobs,
    )
    return replace(plan, epochs=segmenter.head_epochs, learning_rate=segmenter.head_learning_rate), plan
