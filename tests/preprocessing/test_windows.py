from __future__ import annotations

import dataclasses
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skecg.errors import (
    BadSignalError,
    InputError,
    LeadError,
    LeadWarning,
    ParameterError,
    SamplingRateError,
    ShortRecordError,
    SignalWarning,
    SkecgWarning,
    UnitsWarning,
)
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS, derivation_matrix
from skecg.preprocessing.signals import butterworth, normalize, resample
from skecg.preprocessing.windows import Windows, prepare
from skecg.records import ECGRecord
from skecg.spec import InputSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SPEC = InputSpec(CANONICAL_LEADS, 250, 2500)
FULL_SPEC = InputSpec(CANONICAL_LEADS, 250, 2500, highpass_hz=0.5, lowpass_hz=40, normalization="zscore", clip=5.0)


def ecg(seconds: float = 10, rate: float = 500, seed: int = 0, name: str = "", leads: Sequence[str] = ()) -> ECGRecord:
    """Twelve leads of beats made of smooth waves, band-limited below 40 Hz, obeying Einthoven's law."""
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    phase = (times * random.uniform(0.9, 1.5) + random.uniform()) % 1
    waves = [np.exp(-0.5 * ((phase - at) / width) ** 2) for at, width in ((0.3, 0.03), (0.5, 0.012), (0.75, 0.05))]
    drift = np.sin(2 * np.pi * 0.3 * times + random.uniform(0, 6))
    eight = random.normal(size=(8, 4)) * [0.15, 1.0, 0.3, 0.05] @ np.stack([*waves, drift])
    matrix, _ = derivation_matrix(EIGHT_LEADS, CANONICAL_LEADS)
    wanted = tuple(leads) or CANONICAL_LEADS
    return ECGRecord((matrix @ eight)[[CANONICAL_LEADS.index(lead) for lead in wanted]], rate, wanted, name)


def changed(record: ECGRecord, lead: str, value: Any, where: slice = slice(None)) -> ECGRecord:
    """The record with a stretch of one lead replaced."""
    signal = record.signal.copy()
    signal[record.leads.index(lead), where] = value
    return ECGRecord(signal, record.sampling_rate, record.leads, record.name)


def scaled(record: ECGRecord, factor: float) -> ECGRecord:
    return ECGRecord(record.signal * np.float32(factor), record.sampling_rate, record.leads, record.name)


# What comes out


def test_windows_have_the_shapes_and_types_that_encoders_take() -> None:
    windows = prepare([ecg(10), ecg(25, rate=360, seed=1)], SPEC)
    assert windows.values.shape == (4, 12, 2500)
    assert windows.values.dtype == np.float32
    assert windows.lead_mask.shape == (4, 12)
    assert windows.lead_mask.all()
    for part in (windows.owner, windows.start_samples, windows.valid_samples):
        assert part.dtype == np.int64
    assert windows.owner.tolist() == [0, 1, 1, 1]
    assert windows.start_samples.tolist() == [0, 0, 2500, 3750]
    assert windows.valid_samples.tolist() == [2500] * 4
    assert len(windows) == 4
    assert repr(windows) == "Windows(4 of 2 records, 12 leads, 2500 samples at 250 Hz)"


def test_no_records_give_no_windows() -> None:
    windows = prepare([], SPEC)
    assert len(windows) == 0
    assert windows.values.shape == (0, 12, 2500)
    assert windows.lead_mask.shape == (0, 12)


@pytest.mark.parametrize("resampling", ["polyphase", "fourier"])
def test_the_steps_follow_the_fields_of_the_specification(resampling: str) -> None:
    spec = InputSpec(
        CANONICAL_LEADS, 250, 2500, resampling=resampling, highpass_hz=0.5, normalization="record", clip=2.0
    )
    record = ecg()
    expected = normalize(butterworth(resample(record.signal, 500, 250, resampling), 250, highpass_hz=0.5), spec)
    with pytest.warns(SignalWarning, match="beyond the limits at which the encoder clips"):
        values = prepare([record], spec).values[0]
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_normalization_sees_the_whole_record_not_the_window() -> None:
    record = ecg(20, rate=250)
    signal = record.signal.copy()
    signal[:, 2500:] *= 3
    windows = prepare(
        [ECGRecord(signal, 250, record.leads)], InputSpec(CANONICAL_LEADS, 250, 2500, normalization="zscore")
    )
    assert windows.values[1].std() > 2 * windows.values[0].std()


# Windows and their places


@given(n_samples=st.integers(250, 4000), stride_samples=st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_windows_cover_the_record_and_stay_inside(n_samples: int, stride_samples: int) -> None:
    spec = InputSpec(("II",), 250, 500)
    signal = np.arange(n_samples, dtype=np.float32)[None] / 10000
    signal -= signal.mean()
    windows = prepare([ECGRecord(signal, 250, ["II"])], spec, stride=stride_samples / 250)
    covered = np.zeros(n_samples, bool)
    for values, start, valid in zip(windows.values, windows.start_samples, windows.valid_samples, strict=True):
        np.testing.assert_array_equal(values[0, :valid], signal[0, start : start + valid])
        covered[start : start + valid] = True
    assert covered.all()
    assert windows.start_samples[0] == 0
    assert (windows.start_samples + windows.valid_samples)[-1] == n_samples
    steps = np.diff(windows.start_samples)
    assert (steps[:-1] == stride_samples).all()
    assert (steps > 0).all()
    assert (steps <= stride_samples).all()


def test_without_a_stride_windows_touch_and_only_the_last_overlaps() -> None:
    assert prepare([ecg(31)], SPEC).start_samples.tolist() == [0, 2500, 5000, 5250]
    assert prepare([ecg(30)], SPEC).start_samples.tolist() == [0, 2500, 5000]


def test_padding_is_held_and_counted() -> None:
    record = ecg(4.2, rate=250)
    windows = prepare([record], SPEC)
    assert windows.valid_samples.tolist() == [1050]
    np.testing.assert_array_equal(windows.values[0, :, :1050], record.signal)
    np.testing.assert_array_equal(windows.values[0, :, 1050:], np.repeat(record.signal[:, -1:], 1450, axis=1))


def test_padding_weighs_in_no_statistics() -> None:
    record = ecg(4, rate=250)
    values = prepare([record], InputSpec(CANONICAL_LEADS, 250, 2500, normalization="zscore")).values[0, :, :1000]
    np.testing.assert_allclose(values.std(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("stride", [0, -1, 10.1, float("nan"), "5", True])
def test_strides_that_would_not_cover_the_record_are_refused(stride: Any) -> None:
    with pytest.raises(ParameterError, match="expected seconds above 0"):
        prepare([ecg()], SPEC, stride=stride)


# What must not matter


def test_a_record_alone_in_any_company_and_in_any_order_is_bit_identical() -> None:
    records = [ecg(10, rate, seed) for seed, rate in enumerate([500, 250, 500, 360, 500, 1000] * 4)]
    records += [ecg(5, 1000, 33), ecg(20, 250, 34)]  # as many samples as others, at other rates
    records += [changed(ecg(10, 500, 30), "V2", np.nan, slice(100, 300)), ecg(23, 500, 31), ecg(3, 500, 32)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SignalWarning)
        together, backwards = prepare(records, FULL_SPEC), prepare(records[::-1], FULL_SPEC)
        for i in range(len(records)):
            alone = prepare([records[i]], FULL_SPEC)
            np.testing.assert_array_equal(together.values[together.owner == i], alone.values)
            np.testing.assert_array_equal(backwards.values[backwards.owner == len(records) - 1 - i], alone.values)


@given(order=st.permutations(range(8)))
@settings(max_examples=20, deadline=None)
def test_lead_order_in_the_record_does_not_matter(order: list[int]) -> None:
    # III, aVR, aVL and aVF are derived, so that sums of rows are tried in every order too.
    record = ecg(2, leads=EIGHT_LEADS)
    permuted = ECGRecord(record.signal[order], 500, [record.leads[i] for i in order])
    np.testing.assert_array_equal(prepare([permuted], FULL_SPEC).values, prepare([record], FULL_SPEC).values)


@pytest.mark.parametrize("absent", [["III", "aVR", "aVL", "aVF"], ["I", "aVF"], ["II"], ["I", "II"]])
def test_limb_leads_that_follow_from_others_may_be_absent(absent: list[str]) -> None:
    record = ecg()
    fewer = ecg(leads=[lead for lead in CANONICAL_LEADS if lead not in absent])
    windows = prepare([fewer], SPEC)
    assert windows.lead_mask.all()
    np.testing.assert_allclose(windows.values, prepare([record], SPEC).values, atol=2e-6)


def test_leads_that_the_encoder_does_not_take_do_not_matter() -> None:
    record = ecg()
    signal = np.vstack([np.full_like(record.signal[:1], np.inf), record.signal])
    windows = prepare([ECGRecord(signal, 500, ["vx", *CANONICAL_LEADS])], SPEC)
    np.testing.assert_array_equal(windows.values, prepare([record], SPEC).values)


@pytest.mark.parametrize("rate", [200, 250, 360, 500])
def test_doubling_the_rate_changes_nothing_beyond_the_filter(rate: float) -> None:
    once, twice = (prepare([ecg(10, factor * rate)], SPEC).values[0] for factor in (1, 2))
    np.testing.assert_allclose(once[:, 50:-50], twice[:, 50:-50], atol=5e-3 * np.abs(once).max())


def test_records_are_never_modified() -> None:
    record = changed(ecg(), "V2", np.nan, slice(5, 50))
    before = record.signal.copy()
    with pytest.warns(SignalWarning, match="gaps"):
        prepare([record], FULL_SPEC)
    np.testing.assert_array_equal(record.signal, before)


# Absent leads


def test_an_absent_lead_is_an_error_that_names_the_way_out() -> None:
    record = ecg(name="A1", leads=["I", "II", "V1", "V2"])
    with pytest.raises(LeadError, match=r"'A1' with lead.s. I, II, V1, V2, expected also V3, V4, V5, V6") as caught:
        prepare([record], SPEC)
    assert 'missing_leads="zero"' in str(caught.value)
    assert '"subset"' in str(caught.value)


@pytest.mark.parametrize("normalization", ["none", "zscore", "record", "statistics"])
def test_absent_leads_are_zeros_after_normalization_and_masked_only_as_a_subset(normalization: str) -> None:
    statistics = {"mean": (0.5,) * 12, "std": (2.0,) * 12} if normalization == "statistics" else {}
    spec = InputSpec(CANONICAL_LEADS, 250, 2500, highpass_hz=0.5, normalization=normalization, **statistics)
    record = ecg(leads=["I", "II", "V1"])
    zero, subset = (prepare([record, ecg()], spec, missing_leads=policy) for policy in ("zero", "subset"))
    np.testing.assert_array_equal(zero.values, subset.values)
    assert (zero.values[0, 7:] == 0).all()
    assert (np.abs(zero.values[0, :7]).max(axis=1) > 0).all()
    assert zero.lead_mask.all()
    assert subset.lead_mask[0].tolist() == [True] * 7 + [False] * 5
    assert subset.lead_mask[1].all()


def test_absent_leads_do_not_change_the_scale_of_those_present() -> None:
    spec = InputSpec(("I", "II", "V1", "V2"), 250, 2500, normalization="record")
    pair = InputSpec(("I", "II"), 250, 2500, normalization="record")
    record = ecg(leads=["I", "II"])
    wide, narrow = prepare([record], spec, missing_leads="subset"), prepare([record], pair)
    np.testing.assert_allclose(wide.values[:, :2], narrow.values, atol=1e-6)


def test_an_encoder_made_for_any_leads_takes_the_subset_unasked() -> None:
    spec = InputSpec(CANONICAL_LEADS, 250, 2500, any_leads=True)
    assert prepare([ecg(leads=["V3"])], spec).lead_mask.sum() == 1
    assert prepare([ecg(leads=["V3"])], spec, missing_leads="zero").lead_mask.sum() == 12


@pytest.mark.parametrize("policy", ["raise", "zero", "subset"])
def test_no_lead_at_all_is_always_an_error(policy: str) -> None:
    record = ECGRecord(ecg(leads=["II"]).signal, 500, ["MLII"])
    spec = InputSpec(CANONICAL_LEADS, 250, 2500, any_leads=True)
    with pytest.raises(LeadError, match="MLII, expected at least one of I, II"):
        prepare([record], spec, missing_leads=policy)


def test_a_lead_of_nothing_but_gaps_is_absent() -> None:
    record = changed(ecg(), "V2", np.nan)
    with pytest.raises(LeadError, match=r"expected also V2 .V2 hold nothing but NaN"):
        prepare([record], SPEC)
    with pytest.warns(LeadWarning, match=r"hold nothing but NaN, and count as absent.*\(V2\)"):
        assert not prepare([record], SPEC, missing_leads="subset").lead_mask[0, 7]
    with pytest.warns(LeadWarning, match=r"\(aVL\)"):
        derived = prepare([changed(ecg(), "aVL", np.nan)], SPEC)
    np.testing.assert_allclose(derived.values, prepare([ecg()], SPEC).values, atol=2e-6)


def test_exchanged_limb_leads_are_refused_with_their_true_order() -> None:
    record = ecg(name="x")
    names = list(CANONICAL_LEADS)
    names[0], names[3] = names[3], names[0]
    wrong = ECGRecord(record.signal, 500, names, "x")
    with pytest.raises(
        LeadError, match=r"named aVR, II, III, I, .* they are, in this order, I, II, III, aVR, aVL, aVF"
    ):
        prepare([wrong], SPEC)
    prepare([wrong], InputSpec(("V1", "V2"), 250, 2500))


# Signals that cannot be used


def test_a_record_under_a_second_is_refused_unless_padding_is_asked_for() -> None:
    record = ecg(0.9)
    with pytest.raises(ShortRecordError, match=r"450 samples .0.9 s at 500 Hz., expected at least 1 s"):
        prepare([record], SPEC)
    assert prepare([record], SPEC, short_records="pad").valid_samples.tolist() == [225]
    assert prepare([ecg(1)], SPEC).valid_samples.tolist() == [250]


def test_a_record_under_a_second_must_be_whole_but_may_be_flat() -> None:
    with pytest.raises(BadSignalError, match="gaps"):
        prepare([changed(ecg(0.9), "V2", np.nan, slice(5, 9))], SPEC, short_records="pad")
    flat = ECGRecord(np.ones((12, 40)), 500, CANONICAL_LEADS)
    assert (prepare([flat], FULL_SPEC, short_records="pad").values == 0).all()


def test_more_leads_than_samples_is_said_to_look_transposed() -> None:
    record = ECGRecord(np.random.default_rng(0).normal(size=(12, 8)), 500, CANONICAL_LEADS)
    with pytest.raises(ShortRecordError, match="transposed"):
        prepare([record], SPEC)


@pytest.mark.parametrize("n_samples", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("resampling", ["polyphase", "fourier"])
@pytest.mark.parametrize("rate", [100, 250, 500])
def test_even_the_shortest_records_can_be_padded(n_samples: int, resampling: str, rate: float) -> None:
    spec = InputSpec(("II",), 250, 500, resampling=resampling, highpass_hz=0.5, lowpass_hz=40, normalization="zscore")
    signal = np.random.default_rng(n_samples).normal(size=(1, n_samples)) * 1000
    windows = prepare([ECGRecord(signal, rate, ["II"])], spec, short_records="pad")
    assert np.isfinite(windows.values).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 3.0])
def test_records_without_usable_values_are_refused(value: float) -> None:
    signal = ecg().signal.copy()
    signal[:] = value
    with pytest.raises(BadSignalError, match="'lost'"):
        prepare([ECGRecord(signal, 500, CANONICAL_LEADS, "lost")], SPEC, missing_leads="subset")


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30])
def test_a_single_infinite_value_is_refused_and_its_lead_named(value: float) -> None:
    with pytest.raises(BadSignalError, match=r"infinite values, .* in lead.s. V4"):
        prepare([changed(ecg(), "V4", value, slice(7, 8))], SPEC)


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(SamplingRateError, match="factor of 1,000"):
        prepare([ECGRecord(ecg().signal, 1e6, CANONICAL_LEADS)], SPEC, short_records="pad")


@pytest.mark.parametrize("wrong", [{"missing_leads": "drop"}, {"short_records": "cut"}])
def test_unknown_policies_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="expected one of 'raise'"):
        prepare([], SPEC, **wrong)


def test_things_that_are_no_records_are_refused_by_their_place() -> None:
    with pytest.raises(InputError, match="Got ndarray for the record at position 1"):
        prepare([ecg(), ecg().signal], SPEC)  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"Pass \[record\]"):
        prepare(ecg(), SPEC)  # type: ignore[arg-type]


# Signals that are odd


def kinds_of_warnings(records: Sequence[ECGRecord], spec: InputSpec = SPEC) -> list[tuple[type[Warning], str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(records, spec)
    return [(entry.category, str(entry.message)) for entry in caught]


def test_ordinary_records_warn_of_nothing() -> None:
    assert kinds_of_warnings([ecg(seed=seed) for seed in range(20)]) == []


def test_gaps_are_interpolated_and_warned_of() -> None:
    record = changed(ecg(rate=250), "V2", np.nan, slice(500, 510))
    with pytest.warns(SignalWarning, match=r"gaps .NaN., filled by linear interpolation"):
        windows = prepare([record], SPEC)
    before, after = record.signal[7, [499, 510]]
    np.testing.assert_allclose(windows.values[0, 7, 499:511], np.linspace(before, after, 12), atol=1e-6)


def test_derived_leads_come_from_leads_whose_gaps_are_filled() -> None:
    record = changed(changed(ecg(leads=["I", "II"]), "I", np.nan, slice(0, 3000)), "II", np.nan, slice(2000, 5000))
    with pytest.warns(SignalWarning, match="gaps"):
        values = prepare([record], InputSpec(("I", "II", "III"), 250, 2500)).values[0]
    np.testing.assert_allclose(values[2], values[1] - values[0], atol=1e-5)


def test_flat_and_railed_leads_are_warned_of() -> None:
    railed = np.where(np.sin(np.arange(5000) / 40) > 0.5, 5.0, ecg().signal[8])
    found = kinds_of_warnings([changed(ecg(), "V1", 0.3), changed(ecg(), "V3", railed)])
    assert {category for category, _ in found} == {SignalWarning}
    assert "1 of 2 records with flat leads" in found[0][1]
    assert "position 0" in found[0][1]
    assert any("held at their limit" in text and "of V3 at 5 mV)" in text for _, text in found)


@pytest.mark.parametrize(("factor", "advice"), [(1000, 'units="uV"'), (1e-3, 'units="V"')])
def test_amplitudes_of_another_unit_are_warned_of(factor: float, advice: str) -> None:
    with pytest.warns(UnitsWarning, match=advice):
        prepare([scaled(ecg(), factor)], SPEC)


@pytest.mark.parametrize("factor", [0.2, 5])
def test_small_and_large_hearts_are_not_taken_for_another_unit(factor: float) -> None:
    for seed in range(5):
        assert kinds_of_warnings([scaled(ecg(seed=seed), factor)]) == []


def test_an_artefact_does_not_look_like_another_unit() -> None:
    assert kinds_of_warnings([changed(ecg(), "V3", 60.0, slice(100, 110))]) == []
    signal = ecg().signal.copy()
    signal[:, 100:120] = 60
    assert kinds_of_warnings([ECGRecord(signal, 500, CANONICAL_LEADS)]) == []


def test_a_kind_of_warning_comes_once_a_call_and_names_three_records() -> None:
    records = [changed(ecg(seed=i, name=f"r{i}"), "V1", 0.3) for i in range(40)]
    found = kinds_of_warnings([*records, ecg()])
    assert len(found) == 1
    assert "40 of 41 records" in found[0][1]
    assert "'r0', record 'r1', record 'r2', ..." in found[0][1]
    assert "'r3'" not in found[0][1]


def test_warnings_point_at_the_line_that_called() -> None:
    with pytest.warns(SignalWarning) as caught:
        prepare([changed(ecg(), "V1", 0.3)], SPEC)
    assert caught[0].filename == __file__


# Anything at all


@given(
    seed=st.integers(0, 1000),
    n_leads=st.integers(1, 12),
    n_samples=st.integers(1, 3000),
    rate=st.sampled_from([50.0, 100.0, 250.0, 360.0, 500.0, 999.56]),
    damage=st.sampled_from(["none", "nan", "flat", "inf", "huge"]),
    policy=st.sampled_from(["raise", "zero", "subset"]),
    spec=st.sampled_from(
        [SPEC, FULL_SPEC, InputSpec(("II", "V5"), 100, 300, resampling="fourier", normalization="record")]
    ),
)
@settings(max_examples=80, deadline=None)
def test_any_record_becomes_finite_windows_or_an_error_of_ours(
    seed: int, n_leads: int, n_samples: int, rate: float, damage: str, policy: str, spec: InputSpec
) -> None:
    random = np.random.default_rng(seed)
    signal = random.normal(size=(n_leads, n_samples)).astype(np.float32)
    spots = random.random(signal.shape) < random.random()
    signal[spots] = {"none": 1.0, "nan": np.nan, "flat": 0.0, "inf": np.inf, "huge": 1e30}[damage]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkecgWarning)
        try:
            leads = random.permutation(CANONICAL_LEADS)[:n_leads].tolist()
            windows = prepare([ECGRecord(signal, rate, leads)], spec, missing_leads=policy, short_records="pad")
        except InputError:
            return
    assert isinstance(windows, Windows)
    assert np.isfinite(windows.values).all()


# Real recordings


def share_that_warns(records: Sequence[ECGRecord], spec: InputSpec) -> float:
    n_odd = 0
    for record in records:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prepare([record], spec)
        n_odd += bool(caught)
    return n_odd / len(records)


@pytest.mark.parametrize(("name", "largest_share"), [("ptbxl_raw_250hz", 0.0), ("ludb_500hz", 0.02)])
def test_sound_recordings_hardly_ever_warn(shared: Path, name: str, largest_share: float) -> None:
    # Wander is odd for encoders that see it; this one does not.
    spec = dataclasses.replace(SPEC, highpass_hz=0.5)
    assert share_that_warns(_shared_records(shared, name), spec) <= largest_share


def test_standardized_recordings_taken_for_millivolts_always_warn(shared: Path) -> None:
    assert share_that_warns(_shared_records(shared, "ptbxl_zscored_sample_250hz")[:10], SPEC) == 1.0


def test_bad_recordings_warn_often(shared: Path) -> None:
    found = kinds_of_warnings([r for r in _shared_records(shared, "cinc2011_seta_250hz") if np.ptp(r.signal) > 0])
    assert {category for category, _ in found} == {SignalWarning}  # electrodes at their limits are no microvolts


def _shared_records(shared: Path, name: str) -> list[ECGRecord]:
    data = np.load(shared / "data" / f"{name}.npz", allow_pickle=False)
    signals = data["signals"][:150] * np.float32(np.ravel(data["lsb"])[0])
    lengths = data["valid_len"] if "valid_len" in data.files else [signals.shape[-1]] * len(signals)
    rate = float(data["fs"])
    return [
        ECGRecord(signal[:, :length], rate, CANONICAL_LEADS) for signal, length in zip(signals, lengths, strict=False)
    ]


@pytest.mark.parametrize(
    ("records", "spec", "said"),
    [
        ([ecg(10)], None, "Got spec of type NoneType, expected a skecg.spec.InputSpec"),
        (None, SPEC, "Got NoneType, expected a sequence of ECGRecords"),
    ],
)
def test_what_is_no_record_and_no_specification_is_refused(records: Any, spec: Any, said: str) -> None:
    with pytest.raises((ParameterError, InputError), match=re.escape(said)):
        prepare(records, spec)
