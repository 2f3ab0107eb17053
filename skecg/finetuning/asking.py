"""Records to logits, chunk by chunk, in flat memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from skecg.finetuning.lessons import WindowInputs, record_logits
from skecg.finetuning.network import Network
from skecg.finetuning.prepared import PreparedWindows
from skecg.windows import Windows

__all__ = ["ask_records"]


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
