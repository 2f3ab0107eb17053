"""From an estimator's parameters to a fine-tuning that can begin: what is checked, read, split and built."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from skecg.callers import user_stacklevel
from skecg.devices import resolve_device
from skecg.errors import ParameterError, SkecgWarning
from skecg.finetuning.course import STAGES, Course
from skecg.finetuning.heads import HEADS, build_head
from skecg.finetuning.holding_out import check_fraction, hold_out
from skecg.finetuning.network import Network, copied_encoder
from skecg.finetuning.plan import Plan
from skecg.finetuning.prepared import PreparedWindows, prepare_in_chunks
from skecg.inputs import RecordSource
from skecg.pooling import check_pooling
from skecg.screening import Policies
from skecg.targets import Targets
from skecg.weights import WeightsInfo
from skecg.windows import check_stride

if TYPE_CHECKING:
    from skecg.finetuning.classifier import FineTunedClassifier

__all__ = ["begin", "check_choices"]


def check_choices(estimator: FineTunedClassifier) -> None:
    """Refuse what the constructor stored unseen, before anything is read."""
    Policies(estimator.missing_leads, estimator.short_records)
    _plan_of(estimator, 0)
    for name, allowed in (("head", HEADS), ("stages", STAGES)):
        if getattr(estimator, name) not in allowed:
            expected = ", ".join(map(repr, allowed))
            raise ParameterError(f"Got {name}={getattr(estimator, name)!r}, expected one of {expected}.")
    check_fraction(estimator.validation_fraction)
    C = estimator.C
    number = isinstance(C, numbers.Real) and not isinstance(C, bool) and math.isfinite(C)
    if C is not None and not (number and C > 0):
        raise ParameterError(f"Got C={estimator.C!r}, expected a positive number, or None to have it chosen.")


def _plan_of(estimator: FineTunedClassifier, seed: int) -> Plan:
    return Plan(
        epochs=estimator.epochs,
        batch_size=estimator.batch_size,
        learning_rate=estimator.learning_rate,
        layer_decay=estimator.layer_decay,
        weight_decay=estimator.weight_decay,
        warmup_epochs=estimator.warmup_epochs,
        patience=estimator.patience,
        precision=estimator.precision,
        random_state=seed,
        n_jobs=estimator.n_jobs,
    )


def begin(
    estimator: FineTunedClassifier, info: WeightsInfo, source: RecordSource, targets: Targets, groups: ArrayLike | None
) -> tuple[Network, Course]:
    """Read the records, hold patients out, and copy the encoder.

    Parameters
    ----------
    estimator : FineTunedClassifier
        Checked.
    info : WeightsInfo
        Where training starts.
    source : RecordSource
    targets : Targets
    groups : array-like of shape (n_records,) or None
    """
    targets.weigh(np.ones((len(targets.has), 1)), estimator.class_weight)  # refuses what does not go with y
    seed = int(check_random_state(estimator.random_state).randint(2**31 - 1))
    share = float(estimator.validation_fraction)
    train, held = hold_out(targets.has, groups, share, np.random.default_rng(seed))
    if share > 0 and not len(held):
        warnings.warn(
            "Got too few patients to hold any out: each is the last with or without some label. Training goes on for "
            "all epochs. Pass more records, or validation_fraction=0.",
            SkecgWarning,
            stacklevel=user_stacklevel(),
        )
    device = resolve_device(estimator.device)
    pooling = check_pooling(estimator.pooling or info.pooling, int(getattr(info.encoder, "num_registers", 0)))
    check_stride(estimator.stride, info.spec)
    encoder = copied_encoder(info)
    head = build_head(estimator.head, encoder, targets.has.shape[1], pooling, seed)
    network = Network(encoder, head).to(device).eval()
    course = Course(
        _read(estimator, info, source),
        targets,
        estimator.class_weight,
        train,
        held,
        estimator.stages,
        None if estimator.C is None else float(estimator.C),
        _plan_of(estimator, seed),
        device,
        estimator.verbose,
    )
    return network, course


def _read(estimator: FineTunedClassifier, info: WeightsInfo, source: RecordSource) -> PreparedWindows:
    """Read and prepare all records."""
    policies = Policies(estimator.missing_leads, estimator.short_records)
    chunks = prepare_in_chunks(
        source,
        info.spec,
        policies,
        stride_seconds=estimator.stride,
        n_jobs=estimator.n_jobs,
        verbose=estimator.verbose,
    )
    return PreparedWindows([windows for _, windows in chunks], info.encoder.patch_samples)
