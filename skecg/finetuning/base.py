"""From an estimator's parameters to a fine-tuning that can begin: what is checked, read, split and built.

From a Segmenter's parameters to a training that can begin: what is read, labelled, split and built.

What a Segmenter was constructed with, checked before anything is read.

Records to logits, chunk by chunk, in flat memory.

Records to the logits of their samples, chunk by chunk.

What the user says of the records, checked as scikit-learn checks it.
"""

from __future__ import annotations

import copy
import math
import numbers
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array

from skecg.annotations import WAVE_CLASSES
from skecg.compute.devices import resolve_device
from skecg.encoders.pooling import check_pooling
from skecg.errors import InputError, ParameterError, SkecgWarning, user_stacklevel
from skecg.finetuning.data import PreparedWindows, WindowInputs, prepare_in_chunks, record_logits, window_logits
from skecg.finetuning.heads import HEADS, Network, SegmentingNetwork, build_decoder, build_head, copied_encoder
from skecg.finetuning.loop import Plan
from skecg.finetuning.sample_labels import at_own_rate, check_tracks, label_windows, stitch
from skecg.finetuning.stages import STAGES, Course, Training
from skecg.inference.inputs import RecordSource
from skecg.leads import canonical_lead
from skecg.linear_model.logistic import Targets, read_targets
from skecg.preprocessing.quality import Policies
from skecg.preprocessing.windows import Windows, check_stride
from skecg.records import ECGRecord
from skecg.splits import check_fraction, hold_out
from skecg.weights import WeightsInfo

if TYPE_CHECKING:
    from skecg.finetuning.classifier import FineTunedClassifier
    from skecg.finetuning.segmenter import Segmenter

__all__ = [
    "ask_records",
    "ask_sample_probabilities",
    "begin",
    "begin_segmenter",
    "check_choices",
    "check_segmenter_choices",
    "plans_of",
    "read_labels",
]


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


def check_segmenter_choices(segmenter: Segmenter) -> None:
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


def begin_segmenter(
    segmenter: Segmenter, info: WeightsInfo, source: RecordSource, y: Any, groups: ArrayLike | None
) -> tuple[SegmentingNetwork, Training]:
    """Read records and labels, hold patients out, and copy the encoder.

    Parameters
    ----------
    segmenter : Segmenter
        Checked.
    info : WeightsInfo
        Where training starts.
    source : RecordSource
    y : sequence
        What is known of each record.
    groups : array-like of shape (n_records,) or None
    """
    check_stride(segmenter.stride, info.spec)
    seed = int(check_random_state(segmenter.random_state).randint(2**31 - 1))
    share = float(segmenter.validation_fraction)
    hold_out(np.zeros((len(source), 0)), groups, share, np.random.default_rng(seed))  # refuses groups of other records
    windows, labels = _read_annotated(segmenter, info, source, check_tracks(y, len(source)))
    has = _kinds_of_records(labels, windows.owner, len(source))
    train, held = _split(has, groups, share, seed)
    encoder = copied_encoder(info)
    device = resolve_device(segmenter.device)
    network = SegmentingNetwork(encoder, build_decoder(encoder, len(WAVE_CLASSES), int(segmenter.width), seed))
    network.to(device).eval()
    head_plan, plan = plans_of(segmenter, seed)
    return network, Training(
        windows, labels, train, held, segmenter.stages, head_plan, plan, segmenter.augment, device, segmenter.verbose
    )


def _read_annotated(
    segmenter: Segmenter, info: WeightsInfo, source: RecordSource, items: Sequence[Any]
) -> tuple[PreparedWindows, NDArray[np.int8]]:
    """Read and prepare all records, and label the samples of their windows, which do not overlap but at the end."""
    policies = Policies(segmenter.missing_leads, segmenter.short_records)
    chunks, labels, row = [], [], 0
    prepared = prepare_in_chunks(source, info.spec, policies, n_jobs=segmenter.n_jobs, verbose=segmenter.verbose)
    for records, windows in prepared:
        chunks.append(windows)
        labels.append(label_windows(records, windows, items[row : row + len(records)], segmenter.target, row))
        row += len(records)
    return PreparedWindows(chunks, info.encoder.patch_samples), np.concatenate(labels)


def _kinds_of_records(labels: NDArray[np.int8], owner: NDArray[np.int64], n_records: int) -> NDArray[np.bool_]:
    """Say which classes each record holds, (n_records, n_classes), refusing labels that say nothing at all."""
    if not (labels >= 0).any():
        raise InputError("Got y without a single label, all are negative; expected some that are known.")
    has = np.zeros((n_records, len(WAVE_CLASSES)), dtype=np.bool_)
    for number in range(len(WAVE_CLASSES)):
        np.logical_or.at(has[:, number], owner, (labels == number).any(axis=1))
    return has


def _split(
    has: NDArray[np.bool_], groups: ArrayLike | None, share: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Hold patients out, warning where that was asked for and cannot be."""
    # A class in all records or none of them is no matter of chance.
    varied = has[:, has.any(axis=0) & ~has.all(axis=0)]
    train, held = hold_out(varied, groups, share, np.random.default_rng(seed))
    if share > 0 and not (len(held) and len(train) and has[held].any() and has[train].any()):
        warnings.warn(
            "Got too few patients to hold any out. Training goes on for all epochs. Pass more records, or "
            "validation_fraction=0.",
            SkecgWarning,
            stacklevel=user_stacklevel(),
        )
        return np.arange(len(has)), np.arange(0)
    return train, held


def ask_records(
    network: Network, chunks: Iterable[Windows], *, device: torch.device, precision: str, n_jobs: int | None
) -> NDArray[np.float64]:
    """Give the logits (n_records, L) of records that are prepared in chunks; the network itself stays where it is."""
    if device.type != "cpu":
        network = copy.deepcopy(network).to(device)
    patch = network.encoder.config.patch_samples
    found = []
    for chunk in chunks:
        windows = PreparedWindows([chunk], patch)
        inputs = WindowInputs(windows, device)
        found.append(record_logits(network, inputs, range(windows.n_records), precision=precision, n_jobs=n_jobs))
    return np.concatenate(found)


def ask_sample_probabilities(
    network: SegmentingNetwork,
    chunks: Iterable[tuple[list[ECGRecord], Windows]],
    *,
    device: torch.device,
    precision: str,
    n_jobs: int | None,
) -> Iterator[tuple[ECGRecord, NDArray[np.float32]]]:
    """Give each record and the logits (n_classes, n_samples) of its samples; the network itself stays where it is."""
    if device.type != "cpu":
        network = copy.deepcopy(network).to(device)
    patch = network.encoder.config.patch_samples
    for records, windows in chunks:
        inputs = WindowInputs(PreparedWindows([windows], patch), device)
        rows = np.arange(len(windows))
        answers = dict(window_logits(network, inputs, rows, precision=precision, n_jobs=n_jobs))
        for number, record in enumerate(records):
            own = np.flatnonzero(windows.owner == number).tolist()
            parts = [answers[row][:, : windows.valid_samples[row]] for row in own]
            whole = stitch(parts, windows.start_samples[own].tolist())
            yield record, at_own_rate(whole, windows.spec.sampling_rate, record.sampling_rate, record.n_samples)


def read_labels(y: Any, n_records: int) -> Targets:
    """Read classes or an indicator of labels, one row for each record, and warn of labels that cannot be learned.

    Raises
    ------
    InputError
        When there is no `y`, it is of another length, holds NaN, one class only, or neither classes nor an indicator.
    """
    if y is None:
        raise InputError("This classifier requires y to be passed, but the target y is None. Pass y, a label a record.")
    try:
        y = check_array(y, accept_sparse="csr", dtype=None, ensure_2d=False, ensure_min_samples=0, input_name="y")
        if y.shape[0] != n_records:
            raise InputError(f"Got y of {y.shape[0]} rows for {n_records} records, expected one for each.")
        targets = read_targets(y)
    except InputError:
        raise
    except TypeError as error:
        raise InputError(
            f"Got y whose classes cannot be compared ({error}), expected text, numbers or booleans, of one kind and "
            "none missing."
        ) from error
    except ValueError as error:
        raise InputError(str(error).partition("\n[")[0]) from error
    targets.find_learnable(intercept=True)
    return targets
