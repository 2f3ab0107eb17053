"""Long records prepared stretch by stretch: what a stretch needs of what lies around it is read along, and cut away.

A recording of a day has a hundred million samples once all leads are derived; the whole of it is never there at once.
Linear filters forget: what lies further away than their memory changes nothing that float32 can hold. The same steps on
a longer piece therefore give the same samples in its middle, within 1e-6 mV of the whole record's.

Legend: L leads of the encoder, n_out samples of a record at the encoder's rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skecg.preprocessing.resampling import frame_layout, rate_ratio, resample, resampled_samples
from skecg.preprocessing.signals import (
    GapFiller,
    fill_gaps,
    filter_leads,
    filter_memory_samples,
    limits_of,
    mix_leads,
    moments_of,
    normalize,
)

if TYPE_CHECKING:
    from skecg.records import ECGRecord
    from skecg.spec import InputSpec

__all__ = ["STRETCH_BYTES", "LongRecord"]

FloatArray = NDArray[np.float32]

#: Windows that are made at once of a long record; what the steps take for them is some ten times as much.
STRETCH_BYTES = 2**20


class LongRecord:
    """A record, any stretch of which can be prepared by itself.

    Parameters
    ----------
    record : ECGRecord
    sources : sequence of sequences of (int, float)
        Each lead of the encoder as a weighted sum of rows of the record.
    present : ndarray of shape (L,), bool
        False where a lead is absent.
    spec : InputSpec
    """

    def __init__(
        self,
        record: ECGRecord,
        sources: Sequence[Sequence[tuple[int, float]]],
        present: NDArray[np.bool_],
        spec: InputSpec,
    ) -> None:
        self.spec, self.present = spec, present
        self.n_out = resampled_samples(record.n_samples, record.sampling_rate, spec.sampling_rate, spec.resampling)
        self._signal, self._rate, self._sources = record.signal, record.sampling_rate, sources
        if spec.resampling != "polyphase" and self._rate != spec.sampling_rate:
            self._signal, self._rate, self._sources = self._resampled_whole()
        self._gaps = GapFiller(self._signal, _rows_of(self._sources))
        self._moments: tuple[FloatArray, FloatArray] | None = None
        if spec.normalization not in ("none", "statistics"):
            measure = limits_of if spec.normalization == "minmax" else moments_of
            self._moments = measure(self._filtered(*part) for part in self._stretches())

    def prepare(self, start: int, stop: int) -> FloatArray:
        """Return samples `start` to `stop` of the prepared record, shape (L, stop - start)."""
        signal = self._filtered(start, stop)
        signal = normalize(signal, self.spec, lead_mask=self.present, moments=self._moments)
        signal[~self.present] = 0.0
        return signal

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """Divide the record."""
        step = max(1, STRETCH_BYTES // (4 * self.spec.n_leads))
        return ((start, min(start + step, self.n_out)) for start in range(0, self.n_out, step))

    def _filtered(self, start: int, stop: int) -> FloatArray:
        """Return a stretch at the encoder's rate, filtered."""
        memory = filter_memory_samples(self.spec)
        first, last = max(0, start - memory), min(self.n_out, stop + memory)
        signal = self._resampled(first, last)
        for lead in signal if memory else ():  # one after the other: in float64 they take twice the room
            lead[:] = filter_leads(lead, self.spec)
        return signal[:, start - first : stop - first]

    def _resampled(self, start: int, stop: int) -> FloatArray:
        """Return a stretch at the encoder's rate, new in memory."""
        rate = self.spec.sampling_rate
        ratio = rate_ratio(self._rate, rate)
        if self._rate == rate or ratio == 1:
            return self._mixed(start, stop)
        up, down = ratio.numerator, ratio.denominator
        margin = frame_layout(up, down)[0] + 1
        # Every so many samples of the record fall together with one of the result.
        block = max(0, start // up - -(-margin // down))
        last = min(self._signal.shape[1], -(-stop * down // up) + margin)
        resampled = resample(self._mixed(block * down, last), self._rate, rate, origin=self._mixed(0, 1))
        return np.ascontiguousarray(resampled[:, start - block * up : stop - block * up])

    def _mixed(self, start: int, stop: int) -> FloatArray:
        """Return a stretch of the encoder's leads as they were recorded, without gaps."""
        leads = np.zeros((len(self._sources), stop - start), dtype=np.float32)
        mix_leads(self._gaps.fill(start, stop), self._sources, leads)
        return leads

    def _resampled_whole(self) -> tuple[FloatArray, float, list[list[tuple[int, float]]]]:
        """Resample the rows that are used, each as a whole, as spectra and lines from end to end want it."""
        rows = _rows_of(self._sources)
        signal = np.empty((len(rows), self.n_out), dtype=np.float32)
        for out, row in zip(signal, rows, strict=True):
            whole = fill_gaps(self._signal[row : row + 1])
            out[:] = resample(whole, self._rate, self.spec.sampling_rate, self.spec.resampling)[0]
        sources = [[(rows.index(row), weight) for row, weight in source] for source in self._sources]
        return signal, self.spec.sampling_rate, sources


def _rows_of(sources: Sequence[Sequence[tuple[int, float]]]) -> list[int]:
    """Return the rows of a record that leads of the encoder are made of."""
    return sorted({row for source in sources for row, _ in source})
