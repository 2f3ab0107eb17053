"""The leads of records, gathered by the CPU and sent to a device that prepares them.

Where a record still has its digitizer's steps, those travel, sample after sample as in the file: half the bytes of
millivolts where all of them are leads, and nothing to turn around on the CPU. Everything else travels as millivolts in
float32.

Shapes: R records of one rate and length, L leads of the encoder, S samples, K columns of a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.digitized import DigitizedRecord
from skecg.records import ECGRecord
from skecg.screening import Screening
from skecg.spec import InputSpec
from skecg.windows import gather_leads, group_alike

__all__ = ["Leads", "gather_groups"]


class _Digitizer(NamedTuple):
    """What makes millivolts of steps: the column of each lead (-1 where it is absent), and each column's scale."""

    columns: tuple[int, ...]
    baselines_RK: NDArray[np.float32]
    gains_RK: NDArray[np.float32]

    def millivolts(self, steps_RSK: Tensor) -> Tensor:
        """Give leads (R, L, S), zeros where one is absent, to the last bit what reading the file gives."""
        columns = torch.tensor(self.columns, device=steps_RSK.device)
        baselines, gains = (
            torch.from_numpy(values).to(steps_RSK.device)[:, columns][..., None]
            for values in (self.baselines_RK, self.gains_RK)
        )
        leads_RLS = steps_RSK[..., columns].transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return leads_RLS.sub_(baselines).div_(gains).masked_fill_((columns < 0)[:, None], 0.0)


@dataclass(frozen=True, eq=False)
class Leads:
    """The leads of records of one rate and length, before or on their way to a device.

    Parameters
    ----------
    numbers : list of int of length R
        Which records these are.
    sampling_rate : float
        Hz.
    values : Tensor of shape (R, L, S), float32, or (R, S, K), int16
        Millivolts, 0 where a lead is absent; or a digitizer's steps.
    digitizer : _Digitizer, optional
        What the steps mean.
    sent : torch.cuda.Event, optional
        What has happened once the values are there.
    """

    numbers: list[int]
    sampling_rate: float
    values: Tensor
    digitizer: _Digitizer | None = None
    sent: torch.cuda.Event | None = None

    def send(self, device: torch.device) -> Leads:
        """Begin the way to a device; a CUDA device goes on with what it does meanwhile.

        Pinned values are fetched by the device itself, on a stream that it has for transfers. Others stay here until
        they are asked for, and so do those that its memory has no room for now.

        Parameters
        ----------
        device : torch.device
            With its number where there are several: what the current one is, each thread has an opinion of its own.
        """
        if device.type != "cuda" or not self.values.is_pinned():
            return self
        stream = _transfers(device)
        try:
            with torch.cuda.device(device), torch.cuda.stream(stream):
                values = self.values.to(device, non_blocking=True)
        except torch.cuda.OutOfMemoryError:
            return self
        return replace(self, values=values, sent=stream.record_event())

    def millivolts(self, device: torch.device) -> Tensor:
        """Give the leads (R, L, S) on a device, to which they may have been sent before."""
        if self.sent is not None:
            stream = torch.cuda.current_stream(self.values.device)
            stream.wait_event(self.sent)
            self.values.record_stream(stream)  # or their memory would be the next transfer's before this stream is done
        values = self.values.to(device, non_blocking=True)
        return values if self.digitizer is None else self.digitizer.millivolts(values)


@cache
def _transfers(device: torch.device) -> torch.cuda.Stream:
    """Give the stream on which a device fetches; memory is kept for each stream by itself, so it is always this one."""
    return torch.cuda.Stream(device)


def gather_groups(
    records: Sequence[ECGRecord], screenings: Sequence[Screening], spec: InputSpec, n_bytes: int, *, pinned: bool
) -> Iterator[Leads]:
    """Gather leads, chosen by name or derived, with their gaps filled, as :func:`skecg.prepare` does.

    Parameters
    ----------
    records, screenings, spec
        As in :func:`skecg.windows.prepare_screened`.
    n_bytes : int
        What the leads of a group may take as millivolts.
    pinned : bool
        Whether they are for a CUDA device, which fetches them from memory that stays in its place.

    Yields
    ------
    Leads
    """
    for alike in group_alike(records, spec, n_bytes):
        by_columns: dict[tuple[int, ...], list[int]] = {}
        for i in alike:
            by_columns.setdefault(_columns(records[i], screenings[i]), []).append(i)
        for columns, numbers in by_columns.items():
            some, how = [records[i] for i in numbers], [screenings[i] for i in numbers]
            rate = some[0].sampling_rate
            if columns:
                yield Leads(numbers, rate, *_steps(some, columns, pinned))
            else:
                yield Leads(numbers, rate, _millivolts(some, how, spec, pinned))


def _columns(record: ECGRecord, screening: Screening) -> tuple[int, ...]:
    """Give the number of columns of a record's steps and the one of each lead; nothing where steps are no gain."""
    sources = screening.sources
    if not isinstance(record, DigitizedRecord) or any(len(source) > 1 for source in sources):
        return ()  # there are no steps, or none of a lead that is derived
    n_columns = record.steps.shape[1]
    if n_columns >= 2 * len(sources):
        return ()  # most of it would be for nothing
    return (n_columns, *(record.columns[source[0][0]] if source else -1 for source in sources))


def _steps(records: Sequence[ECGRecord], columns: tuple[int, ...], pinned: bool) -> tuple[Tensor, _Digitizer]:
    """Lay steps side by side."""
    digitized = [record for record in records if isinstance(record, DigitizedRecord)]
    n_columns, *columns_of_leads = columns
    steps = _empty((len(digitized), digitized[0].n_samples, n_columns), torch.int16, pinned)
    for out, record in zip(steps.numpy(), digitized, strict=True):
        out[:] = record.steps
    scale = [np.stack([getattr(record, name) for record in digitized]) for name in ("baselines", "gains")]
    return steps, _Digitizer(tuple(columns_of_leads), *scale)


def _millivolts(records: Sequence[ECGRecord], screenings: Sequence[Screening], spec: InputSpec, pinned: bool) -> Tensor:
    """Lay leads side by side."""
    leads = _empty((len(records), spec.n_leads, records[0].n_samples), torch.float32, pinned)
    # By NumPy: torch would start threads to write zeros.
    for out, record, screening in zip(leads.numpy(), records, screenings, strict=True):
        out[:] = 0.0
        gather_leads(record, screening, out)
    return leads


def _empty(shape: tuple[int, ...], dtype: torch.dtype, pinned: bool) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=pinned)
