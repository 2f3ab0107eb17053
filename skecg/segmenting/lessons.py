"""Windows with a label for each sample, as a network learns from them and is scored on them.

Shapes: B windows, T samples, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from skecg.devices import autocast
from skecg.evaluation.wave_labels import OUTSIDE
from skecg.finetuning.lessons import WindowInputs, part_size
from skecg.finetuning.network import Network
from skecg.finetuning.workers import over_parts
from skecg.segmenting.augmenting import View, draw_view
from skecg.segmenting.scoring import confusion_of, f1_of_waves

__all__ = ["LabelledWindows", "WaveLessons", "loss_of", "validation_f1", "window_logits"]

Rows = NDArray[np.intp]


def loss_of(logits_BCT: Tensor, labels_BT: Tensor) -> Tensor:
    """Add up the cross entropy of samples with a label; the others, with negative ones, count nothing."""
    return F.cross_entropy(logits_BCT, labels_BT.clamp(min=OUTSIDE), ignore_index=OUTSIDE, reduction="sum")


@dataclass(frozen=True)
class LabelledWindows:
    """Windows and the labels of their samples.

    Parameters
    ----------
    inputs : WindowInputs
    labels : ndarray of shape (n_windows, T), int8
        Negative where nothing is known.
    sampling_rate : float
        Of both (Hz).
    """

    inputs: WindowInputs
    labels: NDArray[np.int8]
    sampling_rate: float

    def of_records(self, records: Rows) -> Rows:
        """Give the numbers of the windows of some records in which anything is known."""
        return np.flatnonzero(np.isin(self.inputs.windows.owner, records) & (self.labels >= 0).any(axis=1))


@dataclass(frozen=True)
class Part:
    """Windows of one kind, what one sample counts in the loss of their batch, and how they are seen, if otherwise."""

    rows: Rows
    weight: float
    view: View | None


@dataclass(frozen=True)
class WaveLessons:
    """What is learned from: in an epoch each window once, in any order.

    Parameters
    ----------
    windows : LabelledWindows
    rows : ndarray of int
        Those to learn from, each with a label somewhere.
    batch_size : int
        Windows in a batch.
    augment : bool
        Whether windows are seen otherwise each time, see :mod:`skecg.segmenting.augmenting`.
    """

    windows: LabelledWindows
    rows: Rows
    batch_size: int
    augment: bool = False

    def epoch(self, rng: np.random.Generator) -> list[list[Part]]:
        """Draw the order of the windows, and how they are seen."""
        order = rng.permutation(self.rows)
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        return [list(self._parts(batch, rng)) for batch in batches]

    def _parts(self, batch: Rows, rng: np.random.Generator) -> Iterator[Part]:
        weight = 1 / max(1, int((self.windows.labels[batch] >= 0).sum()))
        inputs = self.windows.inputs
        for rows in inputs.windows.parts(batch, part_size(inputs.device)):
            yield Part(rows, weight, draw_view(rng, inputs.windows.patch_samples) if self.augment else None)

    def loss(self, network: Network, part: Part) -> Tensor:
        """Compute a part's share of the batch's mean cross entropy."""
        inputs = self.windows.inputs
        values_BLT, leads = inputs.windows.take(part.rows, inputs.device)
        labels_BT = self.windows.labels[part.rows, : values_BLT.shape[2]]
        if part.view is not None:
            patch_samples = inputs.windows.patch_samples
            labels_BT = labels_BT[:, part.view.span(labels_BT.shape[1], patch_samples)]
            values_BLT = part.view.show(values_BLT, patch_samples, self.windows.sampling_rate)
        logits_BCT = network(values_BLT, leads).float()
        return part.weight * loss_of(logits_BCT, torch.tensor(labels_BT, device=inputs.device).long())


def window_logits(
    network: Network, inputs: WindowInputs, rows: Rows, *, precision: str, n_jobs: int | None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Give the number and the logits (C, T) of windows, one kind after the other.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    inputs : WindowInputs
    rows : ndarray of int
    precision : {"fp32", "bf16"}
    n_jobs : int or None
    """

    def ask(part: Rows) -> NDArray[np.float32]:
        with torch.inference_mode(), autocast(inputs.device, precision):
            return inputs.outputs(network, part).float().cpu().numpy()

    parts = inputs.windows.parts(rows, part_size(inputs.device))
    with over_parts(inputs.device, n_jobs) as over:
        answers = over(ask, parts)
    for part, answer in zip(parts, answers, strict=True):
        yield from zip(part.tolist(), answer, strict=True)


def validation_f1(
    network: Network, windows: LabelledWindows, rows: Rows, *, precision: str, n_jobs: int | None
) -> float:
    """Give the mean F1 of P, QRS and T over the samples of windows."""
    confusion = sum(
        confusion_of(windows.labels[row, : logits.shape[1]], logits.argmax(axis=0))
        for row, logits in window_logits(network, windows.inputs, rows, precision=precision, n_jobs=n_jobs)
    )
    return float(f1_of_waves(np.asarray(confusion)).mean())
