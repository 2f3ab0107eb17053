"""What screening lets through, what it notes, and what it refuses, at the edges of each rule."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest

from skecg.embedder import JEPAEmbedder
from skecg.errors import BadSignalError, LeadError, LeadWarning, SignalWarning
from skecg.leads import CANONICAL_LEADS, LIMB_COEFFICIENTS
from skecg.preprocessing.quality import Policies, screen
from skecg.preprocessing.windows import prepare
from skecg.records import ECGRecord
from skecg.spec import InputSpec

SPEC = InputSpec(CANONICAL_LEADS, 250, 2500)
CHEST_SPEC = InputSpec(CANONICAL_LEADS[6:], 250, 2500)


def twelve_leads(seed: int = 0) -> np.ndarray:
    """Smooth waves of 1 to 2 mV that keep Einthoven's law, shape (12, 5000)."""
    random = np.random.default_rng(seed)
    times = np.arange(5000) / 500
    eight = random.normal(size=(8, 6)) @ np.sin(
        2 * np.pi * random.uniform(1, 9, (6, 1)) * times + np.arange(6)[:, None]
    )
    eight /= np.ptp(eight, axis=1, keepdims=True) / random.uniform(1, 2, (8, 1))
    eight -= np.median(eight, axis=1, keepdims=True)
    limb = [a * eight[0] + b * eight[1] for a, b in LIMB_COEFFICIENTS.values()]
    return np.array([*limb, *eight[2:]], dtype=np.float32)


def notes(signal: np.ndarray, spec: InputSpec = SPEC, leads: tuple[str, ...] = CANONICAL_LEADS) -> tuple[str, ...]:
    return screen(ECGRecord(signal, 500, leads), spec, Policies(), "it").notes


def test_a_sound_record_has_no_notes_and_each_lead_its_row() -> None:
    screening = screen(ECGRecord(twelve_leads(), 500, CANONICAL_LEADS), SPEC, Policies(), "it")
    assert screening.notes == ()
    assert screening.sources == tuple(((row, 1.0),) for row in range(12))


@pytest.mark.parametrize("limit", ["lowest", "highest"])
@pytest.mark.parametrize(("share", "found"), [(0.002, ()), (0.03, ("railed",)), (0.25, ("railed",))])
def test_a_lead_is_railed_by_the_time_that_it_alone_spends_at_a_limit(
    limit: str, share: float, found: tuple[str, ...]
) -> None:
    """Two thousandths in each of six leads are more than a hundredth together, and in none of them."""
    signal = twelve_leads()
    for row in range(6, 12):
        quantile = np.quantile(signal[row], share if limit == "lowest" else 1 - share)
        signal[row] = np.maximum(signal[row], quantile) if limit == "lowest" else np.minimum(signal[row], quantile)
    assert notes(signal) == found


def test_a_flat_lead_is_flat_and_not_railed() -> None:
    signal = twelve_leads()
    signal[7] = 0.1
    assert notes(signal) == ("flat",)


@pytest.mark.parametrize(("millivolts", "found"), [(30.0, ("microvolts",)), (15.0, ()), (0.03, ()), (0.01, ("volts",))])
def test_the_unit_is_told_by_the_middle_of_the_leads_that_change(millivolts: float, found: tuple[str, ...]) -> None:
    """Flat leads have no say, be they half of all, and neither has one of another size."""
    signal = twelve_leads()
    signal *= np.float32(millivolts) / np.ptp(signal, axis=1, keepdims=True)
    assert notes(signal[6:], CHEST_SPEC, CANONICAL_LEADS[6:]) == found
    half_flat = signal.copy()
    half_flat[[7, 8, 9]] = 0.01
    assert notes(half_flat[6:], CHEST_SPEC, CANONICAL_LEADS[6:]) == ("flat", *found)
    signal[10] *= 1000
    assert notes(signal[6:], CHEST_SPEC, CANONICAL_LEADS[6:]) == found


def test_a_single_spike_does_not_make_another_unit() -> None:
    signal = twelve_leads()
    signal[:, 123] = 500
    assert notes(signal[6:], CHEST_SPEC, CANONICAL_LEADS[6:]) == ()


def test_exchanged_limb_leads_are_refused_where_one_of_them_is_used() -> None:
    names = ("II", "I", *CANONICAL_LEADS[2:])
    with pytest.raises(LeadError, match=r"named II, I, III, .* by Einthoven's law they are, in this order, I, II, III"):
        notes(twelve_leads(), leads=names)
    assert notes(twelve_leads(), CHEST_SPEC, names) == ()


def test_a_lead_of_nothing_but_gaps_is_named_where_the_encoder_would_use_it() -> None:
    signal = twelve_leads()
    signal[7] = np.nan
    spec = InputSpec(CANONICAL_LEADS, 250, 2500, any_leads=True)
    assert notes(signal, spec) == ("empty",)
    assert notes(signal, InputSpec(("I", "V1"), 250, 2500)) == ()
    with pytest.warns(LeadWarning, match=r"1 of 2 records with leads that hold nothing but NaN.*record 0 \(V2\)"):
        JEPAEmbedder(sampling_rate=500, cache=None).fit_transform([signal, twelve_leads(1)])


def test_a_limb_lead_that_is_upside_down_is_refused_and_computed_once_it_is_named_so() -> None:
    signal = twelve_leads()
    signal[3] *= -1
    names = (*CANONICAL_LEADS[:3], "-aVR", *CANONICAL_LEADS[4:])
    with pytest.raises(LeadError, match=r"in this order, I, II, III, -aVR, aVL, aVF \(a minus: upside down\)"):
        notes(signal)
    record = ECGRecord(signal, 500, names)
    right = prepare([ECGRecord(twelve_leads(), 500, CANONICAL_LEADS)], SPEC)
    np.testing.assert_allclose(prepare([record], SPEC).values, right.values, atol=1e-4)
    embedder = JEPAEmbedder(sampling_rate=500, leads=list(names), cache=None)
    found, wanted = embedder.fit_transform([signal]), JEPAEmbedder(cache=None).fit_transform([record])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, np.nan])
def test_leads_that_are_not_used_may_hold_anything(value: float) -> None:
    signal = twelve_leads()
    signal[3, 50:90] = value
    assert notes(signal, CHEST_SPEC) == ()
    # Lead I is used, and aVR with it in the laws of the limb leads only.
    assert notes(signal, InputSpec(("I", "V1"), 250, 2500)) == ()
    if not np.isnan(value):
        with pytest.raises(BadSignalError, match=r"in lead\(s\) aVR;"):
            notes(signal)


DEFAULT = InputSpec(
    CANONICAL_LEADS, 250, 2500, normalization="statistics", mean=(0.0,) * 12, std=(0.2,) * 12, clip=20.0
)
STANDARDIZING = InputSpec(CANONICAL_LEADS, 250, 2500, normalization="zscore", clip=5.0)
HIGH_PASS = InputSpec(
    CANONICAL_LEADS,
    250,
    2500,
    highpass_hz=0.5,
    normalization="statistics",
    mean=(0.0,) * 12,
    std=(0.2,) * 12,
    clip=20.0,
)


def beats() -> np.ndarray:
    """Beats of 1 mV with a noise of 10 µV, that keep Einthoven's law, shape (12, 5000)."""
    times = np.arange(5000) / 500
    random = np.random.default_rng(0)
    waves = sum(
        np.exp(-0.5 * ((times % 0.8 - at) / width) ** 2) * h for at, width, h in ((0.4, 0.012, 1), (0.6, 0.04, 0.3))
    )
    eight = waves * random.uniform(0.4, 1.0, (8, 1)) + 0.01 * random.normal(size=(8, 5000))
    limb = [a * eight[0] + b * eight[1] for a, b in LIMB_COEFFICIENTS.values()]
    return np.array([*limb, *eight[2:]], dtype=np.float32)


def with_spikes(signal: np.ndarray) -> np.ndarray:
    signal[:, 37::400] += 3.0
    return signal


def with_a_pause(signal: np.ndarray) -> np.ndarray:
    signal[7, 1000:1600] = signal[7, 1000]
    return signal


TIMES = np.arange(5000, dtype=np.float32) / 500


@pytest.mark.parametrize(
    ("change", "found", "detail"),
    [
        (lambda x: x, set(), ""),
        (lambda x: x + np.float32(0.5), {"offset"}, r"0\.\d+ mV in"),
        (lambda x: x + np.float32(10), {"offset", "clipped"}, r"100% of I and 11 more leads"),
        (lambda x: x + np.sin(2 * np.pi * 0.2 * TIMES), {"wander"}, r"mV within a second"),
        (lambda x: np.minimum(x, 0.3), {"railed"}, r"\d+% of .* at 0\.3 mV"),
        (with_a_pause, {"flat_segments"}, r"1\.\d* s of V2"),
        (with_spikes, {"spikes"}, r"\d+ of up to [34]\.?\d* mV"),
    ],
)
def test_what_is_no_heart_is_noted_with_its_numbers(change: Any, found: set[str], detail: str) -> None:
    noted = notes(change(beats()), DEFAULT)
    assert set(noted) == found
    if found:
        assert any(re.search(detail, note.detail) for note in noted)
    again = pickle.loads(pickle.dumps(noted))
    assert [(note, note.detail) for note in again] == [(note, note.detail) for note in noted]


def test_what_a_high_pass_or_a_standardization_takes_away_is_not_noted() -> None:
    assert notes(beats() + np.float32(10), HIGH_PASS) == ()
    assert notes(beats() + np.sin(2 * np.pi * 0.1 * TIMES), HIGH_PASS) == ()
    assert notes(beats() + np.float32(10), STANDARDIZING) == ()


def test_what_a_high_pass_leaves_beyond_the_limits_is_noted() -> None:
    assert "clipped" in notes(beats() + 6 * np.sin(2 * np.pi * 1.5 * TIMES), HIGH_PASS)


def test_two_hearts_that_are_clipped_to_one_row_are_warned_of_by_number_and_lead() -> None:
    records = [ECGRecord(signal + np.float32(10), 500, CANONICAL_LEADS) for signal in (beats(), 1.5 * beats())]
    with pytest.warns(SignalWarning) as caught:
        prepare(records, DEFAULT)
    assert [str(w.message) for w in caught if "2 of 2 records beyond the limits" in str(w.message)]
    assert any("the record at position 1 (100% of I and 11 more leads)" in str(w.message) for w in caught)
