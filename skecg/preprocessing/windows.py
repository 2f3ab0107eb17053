"""Records to windows: the one road to any encoder.

The steps follow the fields of :class:`skecg.spec.InputSpec`: gaps are filled, leads chosen by name and derived where
they can be, the signal resampled, filtered, normalized, and cut. A :class:`WindowLayout` says where the windows of
records lie, and what of them is signal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skecg.compute.devices import in_order
from skecg.compute.notebook import html_facts
from skecg.errors import InputError, ParameterError
from skecg.preprocessing.quality import Policies, Screening, record_label, screen, warn_once_a_kind
from skecg.preprocessing.resampling import resampled_rate, resampled_samples
from skecg.preprocessing.signals import fill_gaps, filter_leads, mix_leads, normalize, resample
from skecg.preprocessing.stretches import STRETCH_BYTES, LongRecord
from skecg.preprocessing.units import warn_about_units
from skecg.records import ECGRecord
from skecg.spec import InputSpec
from skecg.validation import is_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from skecg.preprocessing.quality import Policies, Screening
    from skecg.records import ECGRecord
    from skecg.spec import InputSpec

__all__ = [
    "WindowLayout",
    "Windows",
    "check_stride",
    "count_windows",
    "WindowStream",
    "gather_leads",
    "group_alike",
    "place_windows",
    "prepare",
    "prepare_screened",
    "prepared_rate",
    "prepared_samples",
]

FloatArray = NDArray[np.float32]

# Records of one length are worked on together, but no more than stay in the processor's cache: four of 10 s take a
# quarter less time each than sixteen.
_CHUNK_BYTES = 2**20
# Of a record that is larger at the encoder's rate, stretches are prepared one by one.
_LONG_BYTES = 2**22
# Windows that are there at once; and how many threads may each have a stretch of a long record in hand.
_BLOCK_BYTES, _STRETCHES_AT_ONCE = 2**23, 4


class WindowLayout(NamedTuple):
    """Where the windows of R records lie, and what is there: all of W :class:`Windows` but the values.

    Parameters
    ----------
    owner, start_samples, valid_samples, lead_mask
        As in :class:`Windows`.
    first : ndarray of shape (R + 1,), int64
        Number of each record's first window, and of all windows.
    present : ndarray of shape (R, n_leads), bool
        False where a lead is absent, whether or not the encoder is told to leave it out.
    """

    owner: NDArray[np.int64]
    start_samples: NDArray[np.int64]
    valid_samples: NDArray[np.int64]
    lead_mask: NDArray[np.bool_]
    first: NDArray[np.int64]
    present: NDArray[np.bool_]


def place_windows(
    records: Sequence[ECGRecord],
    screenings: Sequence[Screening],
    spec: InputSpec,
    *,
    stride: float | None,
    policies: Policies,
) -> WindowLayout:
    """Return where the windows of records lie that :func:`skecg.preprocessing.quality.screen` has let through."""
    stride_samples = check_stride(stride, spec)
    lengths = [prepared_samples(record, spec) for record in records]
    starts = [_window_starts(length, spec, stride_samples) for length in lengths]
    counts = np.array([len(some) for some in starts], dtype=np.int64)
    present = np.array([[bool(source) for source in screening.sources] for screening in screenings], dtype=np.bool_)
    present = present.reshape(len(records), spec.n_leads)
    # An encoder of any leads is never shown zeros in their place unless somebody asks for them.
    leave_out = policies.missing_leads == "subset" or (policies.missing_leads == "raise" and spec.any_leads)
    return WindowLayout(
        owner=np.repeat(np.arange(len(records)), counts),
        start_samples=np.array([start for some in starts for start in some], dtype=np.int64),
        # Only a record shorter than a window has a window that is not full.
        valid_samples=np.repeat(np.minimum(np.array(lengths, dtype=np.int64), spec.window_samples), counts),
        lead_mask=np.repeat(present | (not leave_out), counts, axis=0),
        first=np.concatenate([[0], np.cumsum(counts)]),
        present=present,
    )


def check_stride(stride: float | None, spec: InputSpec) -> int:
    """Check a stride in seconds (None for the window's length) and give it in samples of the encoder."""
    if stride is None:
        return spec.window_samples
    # The margin forgives what rounding adds to a quotient of samples and rate.
    if not is_number(stride) or not 0 < stride <= spec.window_seconds * (1 + 1e-9):
        raise ParameterError(
            f"Got stride={stride!r}, expected seconds above 0 and no more than the window's {spec.window_seconds:g} s, "
            "so that the windows cover the record."
        )
    return min(spec.window_samples, max(1, round(float(stride) * spec.sampling_rate)))


def prepared_samples(record: ECGRecord, spec: InputSpec) -> int:
    """Return the length of a record at the encoder's rate."""
    return resampled_samples(record.n_samples, record.sampling_rate, spec.sampling_rate, spec.resampling)


def prepared_rate(record: ECGRecord, spec: InputSpec) -> float:
    """Return the rate that a record comes to: the encoder's, but for what fractions and whole lengths leave over."""
    return resampled_rate(record.n_samples, record.sampling_rate, spec.sampling_rate, spec.resampling)


def count_windows(record: ECGRecord, spec: InputSpec, *, stride: float | None) -> int:
    """Return how many windows a record has."""
    return len(_window_starts(prepared_samples(record, spec), spec, check_stride(stride, spec)))


def _window_starts(n_samples: int, spec: InputSpec, stride_samples: int) -> Sequence[int]:
    """Return where windows start: at multiples of the stride, and the last one so that it ends with the record.

    Where the encoder's authors drop the remainder, the last one is the last whole one.
    """
    last = max(0, n_samples - spec.window_samples)
    if spec.remainder == "drop":
        return range(0, last + 1, stride_samples)
    # The last window ends with the record and overlaps the one before it: no padding, and no sample is left out.
    return [*range(0, last, stride_samples), last]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of records, as an encoder takes them.

    Parameters
    ----------
    values : ndarray of shape (n_windows, n_leads, window_samples), float32
        In the order of the records and, within one, of time.
    owner : ndarray of shape (n_windows,), int64
        Which record each window is of.
    start_samples : ndarray of shape (n_windows,), int64
        Where it starts in the record, at the encoder's rate.
    valid_samples : ndarray of shape (n_windows,), int64
        How much of it is signal; less than `window_samples` only for a record shorter than the window, whose last
        value is held from there on.
    lead_mask : ndarray of shape (n_windows, n_leads), bool
        False where a lead is absent: its values are 0 and the encoder leaves it out.
    spec : InputSpec
        What the windows were made for.
    """

    values: FloatArray
    owner: NDArray[np.int64]
    start_samples: NDArray[np.int64]
    valid_samples: NDArray[np.int64]
    lead_mask: NDArray[np.bool_]
    spec: InputSpec

    def __len__(self) -> int:
        return len(self.owner)

    def __repr__(self) -> str:
        return (
            f"Windows({len(self)} of {len(np.unique(self.owner))} records, {self.spec.n_leads} leads, "
            f"{self.spec.window_samples} samples at {self.spec.sampling_rate:g} Hz)"
        )

    def _repr_html_(self) -> str:
        spec = self.spec
        seconds = spec.window_samples / spec.sampling_rate
        facts = {
            "records": str(len(np.unique(self.owner))),
            "leads": ", ".join(spec.leads),
            "window": f"{seconds:g} s, {spec.window_samples} samples at {spec.sampling_rate:g} Hz",
            "padded": str(int((self.valid_samples < spec.window_samples).sum())),
            "leads absent in": str(int((~self.lead_mask).any(axis=1).sum())),
        }
        return html_facts(f"{len(self)} windows", facts)


def prepare(
    records: Sequence[ECGRecord],
    spec: InputSpec,
    *,
    stride: float | None = None,
    missing_leads: str = "raise",
    short_records: str = "raise",
) -> Windows:
    """Turn records into the windows that an encoder takes.

    Parameters
    ----------
    records : sequence of ECGRecord
        Of any leads, rates and lengths.
    spec : InputSpec
        What the encoder expects.
    stride : float or None, default=None
        Seconds from one window of a long record to the next, at most the window's length, which is the default. The
        last window ends where the record ends, so that the windows cover it, unless ``spec.remainder`` drops the rest.
    missing_leads : {"raise", "zero", "subset"}, default="raise"
        What to do about leads that are absent and cannot be derived: refuse the record, put zeros in their place, or
        tell the encoder to leave them out. Where ``spec.any_leads`` says that the encoder is made for it, ``"raise"``
        leaves them out. A lead that holds nothing but NaN is absent; III, aVR, aVL, aVF, and I or II, follow from any
        two other limb leads.
    short_records : {"raise", "pad"}, default="raise"
        What to do about records of less than a second. Records shorter than the window are padded in any case.

    Returns
    -------
    Windows

    Raises
    ------
    ParameterError
        When `stride` or a policy is not allowed.
    LeadError
        When leads are absent and `missing_leads` does not provide for it, when no lead of the encoder is there, or when
        the limb leads' names are exchanged.
    ShortRecordError
        When a record is shorter than a second and `short_records` does not provide for it.
    BadSignalError
        When a record has infinite values, or no values, or does not change.
    SamplingRateError
        When a rate is more than 1,000 times the encoder's, or less than a thousandth.

    Warns
    -----
    SignalWarning
        Once a call and kind: flat leads and segments, saturated leads, gaps, offsets, wander, clipping, spikes.
    UnitsWarning
        Once a call and kind: amplitudes that look like microvolts or volts; a batch that is standardized, scaled to
        limits, or several times too large or small.

    Notes
    -----
    The result for a record is bit for bit the same whatever other records are prepared with it.

    Examples
    --------
    >>> import numpy as np
    >>> from skecg.spec import InputSpec
    >>> seconds = np.arange(6000) / 500
    >>> record = ECGRecord([0.3 * np.sin(9 * seconds), 0.3 * np.cos(9 * seconds)], 500, ["I", "II"])
    >>> windows = prepare([record], InputSpec(("I", "II", "III"), 250, 2500))
    >>> windows
    Windows(2 of 1 records, 3 leads, 2500 samples at 250 Hz)
    >>> windows.start_samples.tolist()
    [0, 500]
    """
    policies = Policies(missing_leads, short_records)
    if not isinstance(spec, InputSpec):
        raise ParameterError(
            f"Got spec of type {type(spec).__name__}, expected a skecg.spec.InputSpec. load_encoder gives that of "
            "weights."
        )
    check_stride(stride, spec)
    records = _listed(records)
    labels = [record_label(record, position) for position, record in enumerate(records)]
    screenings = [screen(record, spec, policies, label) for record, label in zip(records, labels, strict=True)]
    warn_once_a_kind([screening.notes for screening in screenings], labels)
    warn_about_units([screening.amplitude for screening in screenings], spec)
    return prepare_screened(records, screenings, spec, stride=stride, policies=policies)


def _listed(records: Sequence[ECGRecord]) -> list[ECGRecord]:
    """List the records; what none of them is gets its error when it is screened."""
    if isinstance(records, ECGRecord):
        raise InputError("Got one ECGRecord, expected a sequence of them. Pass [record].")
    if not isinstance(records, Iterable):
        raise InputError(f"Got {type(records).__name__}, expected a sequence of ECGRecords.")
    return list(records)


def prepare_screened(
    records: Sequence[ECGRecord],
    screenings: Sequence[Screening],
    spec: InputSpec,
    *,
    stride: float | None,
    policies: Policies,
    n_threads: int = 1,
) -> Windows:
    """Prepare records that :func:`skecg.preprocessing.quality.screen` has let through; it said what to warn of.

    The result is bit for bit the same whatever the number of threads.
    """
    return WindowStream(records, screenings, spec, stride=stride, policies=policies, n_threads=n_threads).whole()


class WindowStream:
    """The windows of records, so many at a time as take little room: all of a day's would take six times its own.

    Parameters
    ----------
    records, screenings, spec, stride, policies, n_threads
        As in :func:`prepare_screened`.
    """

    def __init__(
        self,
        records: Sequence[ECGRecord],
        screenings: Sequence[Screening],
        spec: InputSpec,
        *,
        stride: float | None,
        policies: Policies,
        n_threads: int = 1,
    ) -> None:
        self.layout = place_windows(records, screenings, spec, stride=stride, policies=policies)
        self._records, self._screenings, self._spec, self._n_threads = records, screenings, spec, n_threads
        self._window_bytes = 4 * spec.n_leads * spec.window_samples
        self._long: dict[int, LongRecord] = {}

    def __len__(self) -> int:
        return len(self.layout.owner)

    @property
    def is_small(self) -> bool:
        """Whether all windows may be there at once."""
        return len(self) * self._window_bytes <= _BLOCK_BYTES

    def __iter__(self) -> Iterator[Windows]:
        """Yield consecutive windows: all of several records, or some of one."""
        size = self._stretch_windows * (_BLOCK_BYTES // STRETCH_BYTES)
        for rows in self._together():
            # One long record is given out in pieces; several records together are small already.
            step = size if self.layout.owner[rows[0]] == self.layout.owner[rows[-1]] else len(rows)
            yield from (self._windows(rows[i : i + step]) for i in range(0, len(rows), step))

    def whole(self) -> Windows:
        """Return all windows at once."""
        return self._windows(range(len(self)))

    @property
    def _stretch_windows(self) -> int:
        """How many windows of a long record are made of one stretch, wherever it is divided otherwise."""
        return max(1, STRETCH_BYTES // self._window_bytes)

    def _together(self) -> Iterator[range]:
        """Divide the windows into those of as many records as have few together, or of one."""
        begin, first = 0, self.layout.first.tolist()
        for start, stop in pairwise(first):
            if start > begin and (stop - begin) * self._window_bytes > _BLOCK_BYTES:
                yield range(begin, start)
                begin = start
        if begin < first[-1]:
            yield range(begin, first[-1])

    def _windows(self, rows: range) -> Windows:
        """Make consecutive windows."""
        layout, part = self.layout, slice(rows.start, rows.stop)
        values = np.empty((len(rows), self._spec.n_leads, self._spec.window_samples), dtype=np.float32)
        numbers = np.unique(layout.owner[part]).tolist()
        sample_bytes = 4 * self._spec.n_leads
        long = [i for i in numbers if sample_bytes * prepared_samples(self._records[i], self._spec) > _LONG_BYTES]
        short = [i for i in numbers if i not in long]
        groups = group_alike([self._records[i] for i in short], self._spec, _CHUNK_BYTES)
        tasks = [partial(self._cut_alike, [short[i] for i in group], rows, values) for group in groups]
        for i in long:
            tasks += self._stretches(i, rows, values)
        # Each thread holds a stretch at the record's own rate, which may be many times its windows' size.
        n_threads = min(self._n_threads, _STRETCHES_AT_ONCE) if long else self._n_threads
        for _ in in_order(lambda task: task(), tasks, n_threads):
            pass
        return Windows(
            values,
            layout.owner[part],
            layout.start_samples[part],
            layout.valid_samples[part],
            layout.lead_mask[part],
            self._spec,
        )

    def _cut_alike(self, numbers: list[int], rows: range, values: FloatArray) -> None:
        """Write what is wanted of the windows of whole records of one rate and length."""
        records, screenings = [self._records[i] for i in numbers], [self._screenings[i] for i in numbers]
        signal = _signal(records, screenings, self.layout.present[numbers], self._spec)
        for leads, i in zip(signal, numbers, strict=True):
            own = self._own(i, rows)
            _cut(leads, self.layout.start_samples[own], values[own.start - rows.start : own.stop - rows.start])

    def _own(self, number: int, rows: range) -> slice:
        """Return which of some windows are a record's."""
        first = self.layout.first
        return slice(max(int(first[number]), rows.start), min(int(first[number + 1]), rows.stop))

    def _stretches(self, number: int, rows: range, values: FloatArray) -> list[partial[None]]:
        """Return what writes the windows of a long record, a stretch each."""
        if number not in self._long:
            sources, present = self._screenings[number].sources, self.layout.present[number]
            # Only the last one is kept: records come in order.
            self._long = {number: LongRecord(self._records[number], sources, present, self._spec)}
        own, step = self._own(number, rows), self._stretch_windows
        return [
            partial(self._cut_stretch, self._long[number], slice(i, min(i + step, own.stop)), values, rows.start)
            for i in range(own.start, own.stop, step)
        ]

    def _cut_stretch(self, long: LongRecord, part: slice, values: FloatArray, first: int) -> None:
        """Write consecutive windows of a long record."""
        starts = self.layout.start_samples[part]
        signal = long.prepare(int(starts[0]), int(starts[-1]) + self._spec.window_samples)
        _cut(signal, starts - starts[0], values[part.start - first : part.stop - first])


def group_alike(records: Sequence[ECGRecord], spec: InputSpec, n_bytes: int) -> Iterator[list[int]]:
    """Group records of one rate and length, so many that their leads take no more than `n_bytes`, or one."""
    groups: dict[tuple[float, int], list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault((record.sampling_rate, record.n_samples), []).append(i)
    for (_, n_samples), members in groups.items():
        step = max(1, n_bytes // (4 * spec.n_leads * n_samples))
        yield from (members[i : i + step] for i in range(0, len(members), step))


def _signal(
    records: Sequence[ECGRecord], screenings: Sequence[Screening], present: NDArray[np.bool_], spec: InputSpec
) -> FloatArray:
    """Take records of one rate and length to (n_records, n_leads, n_samples) as the encoder expects it."""
    signal = np.zeros((len(records), spec.n_leads, records[0].n_samples), dtype=np.float32)
    for leads, record, screening in zip(signal, records, screenings, strict=True):
        gather_leads(record, screening, leads)
    # Filters are designed for the encoder's rate, so resampling comes first; normalization must see what the encoder
    # will, so it comes last.
    signal = resample(signal, records[0].sampling_rate, spec.sampling_rate, spec.resampling)
    signal = filter_leads(signal, spec)
    signal = normalize(signal, spec, lead_mask=present)
    if not present.all():
        # After normalization, which would turn the zeros of an absent lead into minus its mean.
        signal[~present] = 0.0
    return signal


def gather_leads(record: ECGRecord, screening: Screening, out: FloatArray) -> None:
    """Write each lead of the encoder, taken as it is or as a sum of others, into `out` (n_leads, n_samples)."""
    mix_leads(fill_gaps(record.signal) if "gaps" in screening.notes else record.signal, screening.sources, out)


def _cut(signal: FloatArray, starts: Sequence[int] | NDArray[np.int64], windows: FloatArray) -> None:
    """Write the windows of one record (n_leads, n_samples), holding its last value where it is shorter than one."""
    valid = min(signal.shape[-1], windows.shape[-1])
    for window, start in zip(windows, starts, strict=True):
        window[:, :valid] = signal[:, start : start + valid]
        # Not zeros, which would be a step in the token that reaches beyond the end.
        window[:, valid:] = signal[:, -1:]
