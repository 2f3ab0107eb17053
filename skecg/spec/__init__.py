"""What weights are and what they expect: InputSpec, and the configuration of each encoder architecture.

These values travel in ``config.json`` beside the weights. Their defaults are part of every file already written and are
never edited; a new behaviour gets a new field whose default is the old behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from skecg.errors import LeadError, WeightsFormatError
from skecg.leads import canonical_leads
from skecg.spec.encoders import (
    EncoderConfig,
    LeadwiseConfig,
    MultiscaleConfig,
    PatchEncoderConfig,
    Stage,
    TemporalConfig,
    WindowEncoderConfig,
    block_flops,
)
from skecg.validation import Value, is_finite

__all__ = [
    "EncoderConfig",
    "InputSpec",
    "LeadwiseConfig",
    "MultiscaleConfig",
    "PatchEncoderConfig",
    "Stage",
    "TemporalConfig",
    "WindowEncoderConfig",
    "block_flops",
]


@dataclass(frozen=True)
class InputSpec(Value):
    """What an encoder expects to be fed: the one description of a record's way to it.

    Leads are chosen by name, gaps filled, and the signal resampled; a notch is cut, low and high frequencies are taken
    away, then the baseline; it is normalized and cut into windows. Fields that a ``config.json`` lacks have their
    defaults, which is what they meant before there were such fields.

    Parameters
    ----------
    leads : tuple of str
        Leads in the order of the encoder's input.
    sampling_rate : float
        Samples a second (Hz) of the encoder's input.
    window_samples : int
        Length of a window at that rate.
    any_leads : bool, default=False
        Whether the encoder is made for any subset of `leads`, so that absent ones are no error.
    resampling : {"polyphase", "fourier", "fourier-nearest", "linear"}, default="polyphase"
        Polyphase filtering; truncation of the spectrum of the whole record to the length below (what both published
        JEPA systems do) or to the nearest one (xECG); or straight lines between samples, the ends put onto the ends
        (ECG-FM).
    highpass_hz, lowpass_hz : float or None, default=None
        Cut-off frequencies of a zero-phase Butterworth filter, applied at the encoder's rate.
    filter_order : int, default=4
        Order of each of the two filters, before it is run forwards and backwards.
    normalization : {"none", "statistics", "zscore", "record", "whole", "minmax"}, default="none"
        ``"none"`` leaves millivolts. ``"statistics"`` subtracts `mean` and divides by `std`, one value a lead.
        ``"zscore"`` does so with each lead's own mean and standard deviation in the record. ``"record"`` takes away
        each lead's own mean and divides all leads by one standard deviation, pooled over the leads of the record.
        ``"whole"`` has one mean, too, of all leads and samples; ``"minmax"`` takes their smallest and largest value to
        0 and 1.
    mean, std : tuple of float or None, default=None
        Millivolts, one value a lead, for ``normalization="statistics"``.
    clip : float or None, default=None
        Values beyond plus or minus `clip` are set to it, after normalization.
    notch_hz : float or None, default=None
        Frequency that a zero-phase notch of second order takes out before the other filters: that of the mains.
    notch_quality : float, default=30.0
        Its frequency over its width (at -3 dB, in one pass).
    filter_design : {"cascade", "bandpass"}, default="cascade"
        A high-pass and a low-pass after each other, or one band-pass between the two frequencies, which is of
        `filter_order` on either side and not quite the same.
    baseline_samples : int or None, default=None
        Odd length of a running median, at the encoder's rate, that is taken from each lead after the filters. Beyond
        the ends it sees zeros.
    remainder : {"cover", "drop"}, default="cover"
        What becomes of samples after the last whole window: one more window, which ends with the record, covers them,
        or they are dropped.
    any_name : bool, default=False
        Whether a record's only lead serves whatever it is called, for an encoder of one lead.

    Raises
    ------
    WeightsFormatError
        When a field is not what it has to be.
    """

    kind: ClassVar[str] = "input specification"

    leads: tuple[str, ...]
    sampling_rate: float
    window_samples: int
    any_leads: bool = False
    resampling: str = "polyphase"
    highpass_hz: float | None = None
    lowpass_hz: float | None = None
    filter_order: int = 4
    normalization: str = "none"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    clip: float | None = None
    # Later fields, written only where they differ from these defaults (see to_dict).
    notch_hz: float | None = None
    notch_quality: float = 30.0
    filter_design: str = "cascade"
    baseline_samples: int | None = None
    remainder: str = "cover"
    any_name: bool = False

    def __post_init__(self) -> None:
        try:
            # Frozen, and yet the spelling is settled here: digests and caches must not tell "avr" from "aVR".
            object.__setattr__(self, "leads", canonical_leads(self.leads))
        except (LeadError, TypeError) as error:
            raise WeightsFormatError(f"Got leads={self.leads!r} in the input specification: {error}") from error
        self._require_numbers("sampling_rate")
        self._require_integers("window_samples", "filter_order")
        self._require(isinstance(self.any_leads, bool), "any_leads", "true or false")
        self._require_one_of("resampling", "polyphase", "fourier", "fourier-nearest", "linear")
        self._require_one_of("normalization", "none", "statistics", "zscore", "record", "whole", "minmax")
        if self.clip is not None:
            self._require_numbers("clip")
        self._check_filters()
        for name in ("mean", "std"):
            value = getattr(self, name)
            if self.normalization == "statistics":
                fits = isinstance(value, tuple) and len(value) == len(self.leads) and all(map(is_finite, value))
                self._require(fits, name, f"{len(self.leads)} numbers, one a lead")
            else:
                self._require(value is None, name, "none unless normalization is 'statistics'")
        self._require_one_of("remainder", "cover", "drop")
        self._require(isinstance(self.any_name, bool), "any_name", "true or false")
        # Several leads are told apart by nothing but their names.
        self._require(not self.any_name or self.n_leads == 1, "any_name", "false for an encoder of several leads")
        if self.std is not None:
            self._require(all(s > 0 for s in self.std), "std", "positive numbers")

    def _check_filters(self) -> None:
        nyquist = self.sampling_rate / 2
        for name in ("notch_hz", "highpass_hz", "lowpass_hz"):
            value = getattr(self, name)
            if value is not None:
                self._require_numbers(name)
                # SciPy would raise for such an edge, too, but at the first record instead of when the weights are read.
                self._require(value < nyquist, name, f"below half the sampling rate ({nyquist:g} Hz)")
        self._require_numbers("notch_quality")
        self._require_one_of("filter_design", "cascade", "bandpass")
        low, high = self.highpass_hz, self.lowpass_hz
        if low is not None and high is not None:
            self._require(low < high, "highpass_hz", f"below lowpass_hz={high:g}: nothing passes both filters")
        if self.filter_design == "bandpass":
            banded = low is not None and high is not None
            self._require(banded, "filter_design", "'cascade' unless highpass_hz and lowpass_hz bound a band")
        if self.baseline_samples is not None:
            self._require_integers("baseline_samples", minimum=3)
            # A running median has one sample in its middle only where it has an odd number of them.
            self._require(self.baseline_samples % 2 == 1, "baseline_samples", "an odd number")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; later fields only where they say something new.

        What was written before there were such fields keeps its digest. What does not use them stays readable to older
        releases, which refuse by its name a field that they do not know.
        """
        known = [field.name for field in fields(self)]
        later = {field.name: field.default for field in fields(self)[known.index("clip") + 1 :]}
        return {name: value for name, value in super().to_dict().items() if later.get(name, ...) != value}

    @property
    def is_filtered(self) -> bool:
        """Whether anything is taken away by a filter."""
        filters = (self.notch_hz, self.highpass_hz, self.lowpass_hz, self.baseline_samples)
        return any(value is not None for value in filters)

    @property
    def is_recentred(self) -> bool:
        """Whether each lead's own level and slow drift are taken away by a filter."""
        return self.highpass_hz is not None or self.baseline_samples is not None

    @property
    def n_leads(self) -> int:
        """Number of leads of the encoder's input."""
        return len(self.leads)

    @property
    def window_seconds(self) -> float:
        """Length of a window in seconds."""
        return self.window_samples / self.sampling_rate
