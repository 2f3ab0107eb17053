"""Records to the logits of their samples, chunk by chunk."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from skecg.finetuning.lessons import WindowInputs
from skecg.finetuning.prepared import PreparedWindows
from skecg.records import ECGRecord
from skecg.segmenting.decoder import SegmentingNetwork
from skecg.segmenting.lessons import window_logits
from skecg.segmenting.stitching import at_own_rate, stitch
from skecg.windows import Windows

__all__ = ["ask_records"]


def ask_records(
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
