"""Records to windows on an accelerator: leads gathered by the CPU, everything after them on the device, in float32.

The steps are those of :mod:`skecg.preprocessing.signals` and :mod:`skecg.preprocessing.resampling`, and equal to them
but for rounding, which here depends on the other records too. Filters are recursive, sample after sample, or medians,
which suits no accelerator: where an encoder wants one, its records are prepared on the CPU. So are those whose rates
ask for long filters, and those that are too long to be kept on the device.

Where a record still has its digitizer's steps, those travel, sample after sample as in the file: half the bytes of
millivolts where all of them are leads, and nothing to turn around on the CPU. Everything else travels as millivolts in
float32.

Shapes: R records of one rate and length, L leads of the encoder, S samples of a record, K columns of a file,
W windows, T samples of a window.
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

from skecg.compute.devices import autocast
from skecg.io.wfdb_signals import DigitizedRecord
from skecg.preprocessing.quality import Policies, Screening
from skecg.preprocessing.resampling import frame_layout, frame_matrix, line_places, rate_ratio, resampled_samples
from skecg.preprocessing.signals import FLAT
from skecg.preprocessing.windows import (
    WindowLayout,
    count_windows,
    gather_leads,
    group_alike,
    place_windows,
    prepared_samples,
)
from skecg.records import ECGRecord
from skecg.spec import InputSpec

__all__ = ["GatheredLeads", "Leads", "WindowsOnDevice", "can_prepare_on_device", "gather", "gather_groups"]

# What is held on the device beside the encoder: leads that are being prepared, a few times over, all windows, and the
# leads of the next batch, which are no more than are read at once.
_GROUP_BYTES = 2**25

_WINDOWS_BYTES = 2**28


class _Digitizer(NamedTuple):
    """What makes millivolts of steps: the column of each lead (-1 where it is absent), and each column's scale."""

    columns: tuple[int, ...]
    baselines_RK: NDArray[np.float32]
    gains_RK: NDArray[np.float32]

    def millivolts(self, steps_RSK: Tensor) -> Tensor:
        """Return leads (R, L, S), zeros where one is absent, to the last bit what reading the file gives."""
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
        # Memory that is not pinned is copied synchronously anyway; a stream of its own would gain nothing.
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
        """Return the leads (R, L, S) on a device, to which they may have been sent before."""
        if self.sent is not None:
            stream = torch.cuda.current_stream(self.values.device)
            stream.wait_event(self.sent)
            self.values.record_stream(stream)  # or their memory would be the next transfer's before this stream is done
        values = self.values.to(device, non_blocking=True)
        return values if self.digitizer is None else self.digitizer.millivolts(values)


@cache
def _transfers(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream on which a device fetches: memory is kept for each stream by itself."""
    return torch.cuda.Stream(device)


def gather_groups(
    records: Sequence[ECGRecord], screenings: Sequence[Screening], spec: InputSpec, n_bytes: int, *, pinned: bool
) -> Iterator[Leads]:
    """Gather leads, chosen by name or derived, with their gaps filled, as :func:`skecg.prepare` does.

    Parameters
    ----------
    records, screenings, spec
        As in :func:`skecg.preprocessing.windows.prepare_screened`.
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
            alike_records, screened = [records[i] for i in numbers], [screenings[i] for i in numbers]
            rate = alike_records[0].sampling_rate
            if columns:
                yield Leads(numbers, rate, *_steps(alike_records, columns, pinned))
            else:
                yield Leads(numbers, rate, _millivolts(alike_records, screened, spec, pinned))


def _columns(record: ECGRecord, screening: Screening) -> tuple[int, ...]:
    """Return the number of columns of a record's steps and the one of each lead; nothing where steps are no gain."""
    sources = screening.sources
    if not isinstance(record, DigitizedRecord) or any(len(source) > 1 for source in sources):
        return ()  # there are no steps, or none of a lead that is derived
    # Steps of all channels travel together; where few of them are leads, millivolts are fewer bytes.
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


@dataclass(frozen=True, eq=False)
class WindowsOnDevice:
    """Windows whose values lie on a device; everything else is as in :class:`skecg.preprocessing.windows.Windows`.

    Parameters
    ----------
    values : Tensor of shape (W, L, T), float32
    owner, start_samples, valid_samples, lead_mask, spec
        As in :class:`skecg.preprocessing.windows.Windows`.
    """

    values: Tensor
    owner: NDArray[np.int64]
    start_samples: NDArray[np.int64]
    valid_samples: NDArray[np.int64]
    lead_mask: NDArray[np.bool_]
    spec: InputSpec

    def __len__(self) -> int:
        return len(self.owner)


@dataclass(frozen=True, eq=False)
class GatheredLeads:
    """The leads of records as they were recorded, for a device to make windows of.

    Parameters
    ----------
    groups : list of Leads
        Each leaves it when it is prepared.
    layout : WindowLayout
        Where their windows will lie.
    spec : InputSpec
    """

    groups: list[Leads]
    layout: WindowLayout
    spec: InputSpec

    def send(self, device: torch.device) -> GatheredLeads:
        """Begin their way to a device, which may be at work on others; see :meth:`Leads.send`."""
        return replace(self, groups=[leads.send(device) for leads in self.groups])

    @torch.inference_mode()
    def prepare(self, device: torch.device) -> WindowsOnDevice:
        """Prepare the records on a device, once: group after group, letting go of the leads of each."""
        layout, spec = self.layout, self.spec
        shape = (len(layout.owner), spec.n_leads, spec.window_samples)
        values = torch.empty(shape, dtype=torch.float32, device=device)
        with autocast(device, "fp32"):
            # Popped, not iterated: a group's memory is free as soon as its windows are written.
            while self.groups:
                leads = self.groups.pop(0)
                windows = [np.arange(layout.first[i], layout.first[i + 1]) for i in leads.numbers]
                starts = torch.from_numpy(layout.start_samples[windows[0]]).to(device)
                rows = torch.from_numpy(np.concatenate(windows)).to(device)
                present = torch.from_numpy(layout.present[leads.numbers]).to(device)
                signal = _resample(leads.millivolts(device), leads.sampling_rate, spec)
                signal = _normalize(signal, present, spec)
                values.index_copy_(0, rows, _cut(signal, starts, spec.window_samples))
        return WindowsOnDevice(
            values, layout.owner, layout.start_samples, layout.valid_samples, layout.lead_mask, self.spec
        )


def can_prepare_on_device(records: Sequence[ECGRecord], spec: InputSpec, *, stride: float | None) -> bool:
    """Return whether a device can prepare records: nothing recursive, short filters, no more than it can hold."""
    # Recursive filters need float64 and one sample after the other, the opposite of what a device is good at.
    if spec.is_filtered:
        return False
    # What has no frame matrix would need scipy's filter tap by tap, which a device does not have.
    if not all(_has_short_filter(rate, spec) for rate in {record.sampling_rate for record in records}):
        return False
    longest = max((max(r.n_samples, prepared_samples(r, spec)) for r in records), default=0)
    n_windows = sum(count_windows(record, spec, stride=stride) for record in records)
    window_bytes = 4 * spec.n_leads * spec.window_samples
    return 4 * spec.n_leads * longest <= _GROUP_BYTES and window_bytes * n_windows <= _WINDOWS_BYTES


def gather(
    records: Sequence[ECGRecord],
    screenings: Sequence[Screening],
    spec: InputSpec,
    *,
    stride: float | None,
    policies: Policies,
    pinned: bool,
) -> GatheredLeads:
    """Gather the leads of records that :func:`skecg.preprocessing.quality.screen` has let through, on the CPU.

    Leads are chosen by name, or derived, and their gaps filled, as :func:`skecg.prepare` does.

    Parameters
    ----------
    records, screenings, spec, stride, policies
        As in :func:`skecg.preprocessing.windows.prepare_screened`.
    pinned : bool
        Whether the leads are for a CUDA device, which fetches them from memory that stays in its place.
    """
    groups = list(gather_groups(records, screenings, spec, _GROUP_BYTES, pinned=pinned))
    return GatheredLeads(groups, place_windows(records, screenings, spec, stride=stride, policies=policies), spec)


def _has_short_filter(sampling_rate: float, spec: InputSpec) -> bool:
    """Return whether a rate asks for a spectrum, for a matrix on short frames, or for no resampling at all."""
    if spec.resampling != "polyphase" or sampling_rate == spec.sampling_rate:
        return True
    ratio = rate_ratio(sampling_rate, spec.sampling_rate)
    return frame_layout(ratio.numerator, ratio.denominator)[1] > 0


def _resample(signal_RLS: Tensor, sampling_rate: float, spec: InputSpec) -> Tensor:
    """Change the sampling rate; the first sample is set aside, so that a constant lead stays exactly that constant."""
    n_out = resampled_samples(signal_RLS.shape[-1], sampling_rate, spec.sampling_rate, spec.resampling)
    ratio = rate_ratio(sampling_rate, spec.sampling_rate)
    if sampling_rate == spec.sampling_rate or (spec.resampling == "polyphase" and ratio == 1):
        return signal_RLS
    if spec.resampling == "linear":
        return _linear(signal_RLS, n_out)
    first = signal_RLS[..., :1]
    if spec.resampling == "polyphase":
        return _polyphase(signal_RLS - first, ratio.numerator, ratio.denominator, n_out) + first
    return _fourier(signal_RLS - first, n_out) + first


def _polyphase(signal: Tensor, up: int, down: int, n_out: int) -> Tensor:
    """Resample by up / down: frames of the input times a matrix, the edge values held before and after."""
    margin, repeats = frame_layout(up, down)
    step = down * repeats
    length = -(-n_out // (up * repeats)) * step + 2 * margin
    # The first sample is subtracted already, so what holds the edge before the record is 0.
    after = length - margin - signal.shape[-1]
    padded = torch.cat([torch.zeros_like(signal[..., :1]).expand(*signal.shape[:-1], margin), signal], dim=-1)
    if after > 0:
        padded = torch.cat([padded, signal[..., -1:].expand(*signal.shape[:-1], after)], dim=-1)
    frames = padded.unfold(-1, step + 2 * margin, step)
    matrix = torch.from_numpy(frame_matrix(up, down, repeats)).to(signal.device)
    return (frames @ matrix).flatten(-2)[..., :n_out]


def _fourier(signal: Tensor, n_out: int) -> Tensor:
    """Resample to `n_out` samples by cutting or extending the spectrum."""
    n_samples = signal.shape[-1]
    n_shared = min(n_samples, n_out)
    spectrum = torch.fft.rfft(signal)[..., : n_shared // 2 + 1].clone()
    if n_shared % 2 == 0 and n_samples != n_out:
        # The bin at the lower Nyquist frequency stands for its mirror image too.
        spectrum[..., -1] *= 2.0 if n_out < n_samples else 0.5
    return torch.fft.irfft(spectrum, n=n_out) * (n_out / n_samples)


def _linear(signal: Tensor, n_out: int) -> Tensor:
    """Resample to `n_out` samples on the lines between neighbours."""
    before, beyond = (torch.from_numpy(values).to(signal.device) for values in line_places(signal.shape[-1], n_out))
    first = signal[..., before]
    return first + beyond * (signal[..., (before + 1).clamp(max=signal.shape[-1] - 1)] - first)


def _normalize(signal_RLS: Tensor, present_RL: Tensor, spec: InputSpec) -> Tensor:
    """Bring amplitudes to the encoder's scale, clip them, and put zeros in the place of absent leads."""
    signal_RLS = scale_leads(signal_RLS, present_RL, spec)
    if spec.clip is not None:
        signal_RLS = signal_RLS.clamp(-spec.clip, spec.clip)
    return signal_RLS.masked_fill(~present_RL[..., None], 0.0)


def scale_leads(
    signal_RLS: Tensor, present_RL: Tensor, spec: InputSpec, valid_samples_R: NDArray[np.int64] | None = None
) -> Tensor:
    """Bring amplitudes to the encoder's scale, as :func:`skecg.preprocessing.signals.normalize` does without clipping.

    Parameters
    ----------
    signal_RLS : Tensor of shape (R, L, S), float32
        Millivolts. Not changed, but returned as it is where there is nothing to do.
    present_RL : Tensor of shape (R, L), bool
        Leads that take part in what all share: a mean, a deviation, limits.
    spec : InputSpec
    valid_samples_R : ndarray of shape (R,), int64, optional
        How much of each record is not padding; all of it by default. Means are of that.
    """
    if spec.normalization == "statistics":
        mean, std = (signal_RLS.new_tensor(value)[:, None] for value in (spec.mean, spec.std))
        return (signal_RLS - mean).div_(std)
    if spec.normalization == "none":
        return signal_RLS
    if spec.normalization == "minmax":
        return _to_unit_interval(signal_RLS, present_RL, valid_samples_R)
    mean_RL = _mean(signal_RLS, valid_samples_R)
    if spec.normalization == "whole":
        mean_RL = _over_leads(mean_RL, present_RL)
    centred = signal_RLS - mean_RL[..., None]
    # From differences, not as a mean square less a square, which loses its digits in float32.
    variance_RL = _mean(centred.square(), valid_samples_R)
    if spec.normalization == "whole":
        variance_RL = _over_leads(variance_RL, present_RL)
    flat_RL = variance_RL.sqrt() <= FLAT * (mean_RL.abs() + 1.0)
    if spec.normalization == "record":
        variance_RL = _over_leads(variance_RL * ~flat_RL, present_RL)
    scale_RL = variance_RL.rsqrt().masked_fill(flat_RL | (variance_RL == 0), 0.0)
    return centred.mul_(scale_RL[..., None])


def _over_leads(values_RL: Tensor, present_RL: Tensor) -> Tensor:
    """Average over the leads that are present, for each of the leads."""
    total_R1 = (values_RL * present_RL).sum(dim=-1, keepdim=True)
    return (total_R1 / present_RL.sum(dim=-1, keepdim=True).clamp(min=1)).expand_as(values_RL)


def _to_unit_interval(signal_RLS: Tensor, present_RL: Tensor, valid_samples_R: NDArray[np.int64] | None) -> Tensor:
    """Take the smallest and the largest value of each record's present leads to 0 and 1."""
    counted_RLS = present_RL[..., None].expand_as(signal_RLS)
    if valid_samples_R is not None:
        valid_R = torch.from_numpy(valid_samples_R).to(signal_RLS.device)
        inside_RS = torch.arange(signal_RLS.shape[-1], device=signal_RLS.device) < valid_R[:, None]
        counted_RLS = counted_RLS & inside_RS[:, None]
    lowest = signal_RLS.masked_fill(~counted_RLS, torch.inf).amin(dim=(1, 2), keepdim=True)
    span = signal_RLS.masked_fill(~counted_RLS, -torch.inf).amax(dim=(1, 2), keepdim=True) - lowest
    flat = ~(span > FLAT * (lowest.abs() + 1.0))
    return ((signal_RLS - lowest) / span.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


def _mean(values_RLS: Tensor, valid_samples_R: NDArray[np.int64] | None) -> Tensor:
    """Average over the valid part of each record.

    Records with padding are taken apart, so that no record's rounding depends on its neighbours. These are sums, never
    matrix products: those lose digits under autocast and TF32.
    """
    mean_RL = values_RLS.mean(dim=-1)
    n_samples = values_RLS.shape[-1]
    padded = np.flatnonzero(valid_samples_R < n_samples) if valid_samples_R is not None else np.empty(0, np.int64)
    if padded.size:
        assert valid_samples_R is not None
        rows_P = torch.from_numpy(padded).to(values_RLS.device)
        valid_P = torch.from_numpy(valid_samples_R[padded]).to(values_RLS.device)
        inside_PS = torch.arange(n_samples, device=values_RLS.device) < valid_P[:, None]
        mean_RL[rows_P] = (values_RLS[rows_P] * inside_PS[:, None]).sum(dim=-1) / valid_P[:, None]
    return mean_RL


def _cut(signal_RLS: Tensor, starts: Tensor, window_samples: int) -> Tensor:
    """Cut windows (R · n_starts, L, T), holding the last value where the records are shorter than one."""
    n_samples = signal_RLS.shape[-1]
    valid = min(n_samples, window_samples)
    windows = signal_RLS.unfold(-1, valid, 1)[:, :, starts].transpose(1, 2).flatten(0, 1)
    if valid == window_samples:
        return windows
    return torch.cat([windows, windows[..., -1:].expand(*windows.shape[:-1], window_samples - valid)], dim=-1)
