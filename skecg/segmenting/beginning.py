"""From a Segmenter's parameters to a training that can begin: what is read, labelled, split and built."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from skecg.callers import user_stacklevel
from skecg.devices import resolve_device
from skecg.errors import InputError, SkecgWarning
from skecg.evaluation.wave_labels import WAVE_CLASSES
from skecg.finetuning.holding_out import hold_out
from skecg.finetuning.network import copied_encoder
from skecg.finetuning.prepared import PreparedWindows, prepare_in_chunks
from skecg.inputs import RecordSource
from skecg.screening import Policies
from skecg.segmenting.choices import plans_of
from skecg.segmenting.decoder import SegmentingNetwork, build_decoder
from skecg.segmenting.labelling import label_windows
from skecg.segmenting.tracks import check_tracks
from skecg.segmenting.training import Training
from skecg.weights import WeightsInfo
from skecg.windows import check_stride

if TYPE_CHECKING:
    from skecg.segmenting.segmenter import Segmenter

__all__ = ["begin"]


def begin(
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
    windows, labels = _read(segmenter, info, source, check_tracks(y, len(source)))
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


def _read(
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
