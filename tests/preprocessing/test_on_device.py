"""On CPU tensors: the same code as on a device, held to what `prepare` gives."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skecg.errors import SkecgWarning
from skecg.inference.batches import prepares
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.on_device import WindowsOnDevice, can_prepare_on_device, gather
from skecg.preprocessing.quality import Policies, record_label, screen
from skecg.preprocessing.resampling import METHODS
from skecg.preprocessing.windows import Windows, prepare, prepare_screened
from skecg.records import ECGRecord
from skecg.spec import InputSpec

CPU = torch.device("cpu")
LEADS = ("I", "II", "III", "V1", "V5")
SPEC = InputSpec(LEADS, 250, 500, any_leads=True)
STATISTICS = {"mean": (0.5, -0.1, 0.0, 0.2, 3.0), "std": (2.0, 0.5, 1.0, 0.5, 0.8)}


def record(
    seconds: float = 3, rate: float = 500, seed: int = 0, leads: Sequence[str] = LEADS, offset: float = 0.0
) -> ECGRecord:
    """Smooth noise that starts and ends anywhere."""
    values = np.random.default_rng(seed).normal(size=(len(leads), round(seconds * rate) + 20))
    smooth = np.apply_along_axis(lambda row: np.convolve(row, np.hanning(20) / 4, "valid"), 1, values)
    return ECGRecord(smooth[:, : round(seconds * rate)] + offset, rate, leads)


def both_ways(
    records: Sequence[ECGRecord], spec: InputSpec, stride: float | None = None, **policies: str
) -> tuple[WindowsOnDevice, Windows]:
    """The windows that the device's way gives, and those of `prepare`."""
    chosen = Policies(**policies)
    screenings = [screen(r, spec, chosen, record_label(r)) for r in records]
    assert can_prepare_on_device(records, spec, stride=stride)
    gathered = gather(records, screenings, spec, stride=stride, policies=chosen, pinned=False)
    return gathered.prepare(CPU), prepare_screened(records, screenings, spec, stride=stride, policies=chosen)


def assert_same(found: WindowsOnDevice, wanted: Windows, tolerance: float = 1e-5) -> None:
    for name in ("owner", "start_samples", "valid_samples", "lead_mask"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
    assert found.spec == wanted.spec
    assert len(found) == len(wanted)
    assert found.values.dtype == torch.float32
    assert found.values.shape == wanted.values.shape
    scale = max(1.0, float(np.abs(wanted.values).max(initial=0)))
    assert np.abs(found.values.numpy() - wanted.values).max(initial=0) <= tolerance * scale


@pytest.mark.parametrize("resampling", METHODS)
@pytest.mark.parametrize("normalization", ["none", "statistics", "zscore", "record", "whole", "minmax"])
@pytest.mark.parametrize("clip", [None, 0.7])
def test_windows_are_those_of_prepare(resampling: str, normalization: str, clip: float | None) -> None:
    how = STATISTICS if normalization == "statistics" else {}
    spec = replace(SPEC, resampling=resampling, normalization=normalization, clip=clip, **how)
    # Several records of one kind between others; up, down, not at all; whole windows, less, and more than one.
    rates = [500, 360, 250, 500, 100, 500, 257.5, 128]
    seconds = [3, 2, 2.6, 3, 1.5, 3, 5.1, 1]
    records = [record(s, r, seed) for seed, (s, r) in enumerate(zip(seconds, rates, strict=True))]
    assert_same(*both_ways(records, spec))


@pytest.mark.parametrize("rate", [100, 250, 360, 500, 1000])
@pytest.mark.parametrize("resampling", METHODS)
def test_whatever_the_length_the_ends_are_those_of_prepare(rate: float, resampling: str) -> None:
    spec = replace(SPEC, resampling=resampling)
    records = [record(n / rate, rate, n) for n in [1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 499, 500, 501, 502, 1003]]
    assert_same(*both_ways(records, spec, short_records="pad"))


@pytest.mark.parametrize("policy", ["raise", "zero", "subset"])
@pytest.mark.parametrize("normalization", ["none", "statistics", "zscore", "record", "whole", "minmax"])
def test_absent_leads_are_zeros_and_take_no_part(policy: str, normalization: str) -> None:
    spec = replace(SPEC, normalization=normalization, **(STATISTICS if normalization == "statistics" else {}))
    records = [record(), record(seed=1, leads=["V5", "I"]), record(seed=2, leads=["I", "II", "V1"]), record(seed=3)]
    found, wanted = both_ways(records, spec, missing_leads=policy)
    assert_same(found, wanted)
    assert (found.values[found.owner == 1][:, [1, 2, 3]] == 0).all()
    assert found.lead_mask.all() == (policy == "zero")


@pytest.mark.parametrize("stride", [None, 2.0, 1.3, 0.004])
def test_windows_of_long_records_lie_where_prepare_cuts_them(stride: float | None) -> None:
    records = [record(7.3), record(2.0, seed=1), record(1.2, seed=2), record(7.3, seed=3), record(2.004, seed=4)]
    found, wanted = both_ways(records, SPEC, stride)
    assert_same(found, wanted)
    # The same samples, wherever windows overlap.
    last = np.flatnonzero(found.owner == 0)[-2:]
    if len(last) == 2 and (step := int(np.diff(found.start_samples[last])[0])) < 500:
        assert torch.equal(found.values[last[0], :, step:], found.values[last[1], :, : 500 - step])


@pytest.mark.parametrize("resampling", METHODS)
@pytest.mark.parametrize("normalization", ["none", "zscore", "record"])
@pytest.mark.parametrize("value", [0.0, 0.3, -70.1, 1e4])
def test_flat_leads_become_exactly_zero_or_stay_exactly_what_they_are(
    resampling: str, normalization: str, value: float
) -> None:
    signal = record().signal.copy()
    signal[2] = value
    found, _ = both_ways(
        [ECGRecord(signal, 500, LEADS)], replace(SPEC, resampling=resampling, normalization=normalization)
    )
    assert (found.values[:, 2] == (np.float32(value) if normalization == "none" else 0)).all()
    assert (found.values[:, 1].std(dim=-1) > 0).all()


def test_a_record_all_flat_becomes_zero() -> None:
    flat = ECGRecord(np.full((5, 40), 0.3), 500, LEADS)
    for normalization in ("zscore", "record"):
        found, _ = both_ways([flat], replace(SPEC, normalization=normalization), short_records="pad")
        assert (found.values == 0).all()


def test_gaps_are_filled_and_leads_derived_before_the_transfer() -> None:
    holes = record(seed=1, leads=["V5", "II", "I"]).signal.copy()
    holes[0, 100:130] = holes[1, :20] = np.nan
    broken = ECGRecord(holes, 500, ["V5", "II", "I"])
    found, wanted = both_ways([record(), broken, record(seed=2)], SPEC)
    assert_same(found, wanted)
    assert found.lead_mask[found.owner == 1][0].tolist() == [True, True, True, False, True]


def test_an_offset_costs_no_accuracy() -> None:
    for resampling in ("polyphase", "fourier"):
        found, wanted = both_ways([record(offset=100.0)], replace(SPEC, resampling=resampling, normalization="zscore"))
        assert_same(found, wanted, 5e-5)


def test_leads_are_let_go_as_soon_as_they_are_prepared() -> None:
    records = [record(), record(rate=250)]
    screenings = [screen(one, SPEC, Policies(), record_label(one)) for one in records]
    gathered = gather(records, screenings, SPEC, stride=None, policies=Policies(), pinned=False)
    assert len(gathered.groups) == 2
    gathered.prepare(CPU)
    assert gathered.groups == []


def test_no_records_give_no_windows() -> None:
    assert_same(*both_ways([], SPEC))


def test_groups_that_are_divided_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(seed=seed) for seed in range(5)]
    found, _ = both_ways(records, SPEC)
    monkeypatch.setattr("skecg.preprocessing.on_device._GROUP_BYTES", 2 * records[0].signal.nbytes)
    divided, wanted = both_ways(records, SPEC)
    assert_same(divided, wanted)
    assert torch.allclose(divided.values, found.values, atol=1e-6)


def test_the_users_defaults_of_torch_do_not_matter() -> None:
    records = [record(), record(2, 360)]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_same(*both_ways(records, replace(SPEC, normalization="statistics", **STATISTICS)))
    finally:
        torch.set_default_dtype(torch.float32)


def test_records_are_left_as_they_were() -> None:
    one = record(2, 250)
    before = one.signal.copy()
    both_ways([one], replace(SPEC, normalization="zscore", clip=0.1))
    np.testing.assert_array_equal(one.signal, before)


@given(
    seconds=st.lists(st.floats(0.01, 6), min_size=1, max_size=4),
    rate=st.sampled_from([50.0, 100.0, 128.0, 250.0, 360.0, 500.0, 1000.0]),
    stride=st.sampled_from([None, 0.5, 1.7]),
    how=st.sampled_from(list(itertools.product(["polyphase", "fourier"], ["none", "zscore", "record"], [None, 1.0]))),
    leads=st.sampled_from([LEADS, ("I", "II"), ("V1",), CANONICAL_LEADS]),
)
@settings(max_examples=60, deadline=None)
def test_any_records_are_what_prepare_makes_of_them(
    seconds: list[float],
    rate: float,
    stride: float | None,
    how: tuple[str, str, float | None],
    leads: tuple[str, ...],
) -> None:
    resampling, normalization, clip = how
    spec = replace(SPEC, resampling=resampling, normalization=normalization, clip=clip)
    records = [record(max(s, 2 / rate), rate, seed, leads) for seed, s in enumerate(seconds)]
    assert_same(*both_ways(records, spec, stride, short_records="pad"), tolerance=2e-5)


def test_it_is_prepare_itself_that_it_is_held_to() -> None:
    records = [record(), record(1.2, 360, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkecgWarning)
        np.testing.assert_array_equal(both_ways(records, SPEC)[1].values, prepare(records, SPEC).values)


# --- what a device does not prepare -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["highpass_hz", "lowpass_hz", "notch_hz", "baseline_samples"])
def test_filters_are_left_to_the_cpu(name: str) -> None:
    assert not can_prepare_on_device([record()], replace(SPEC, **{name: 51}), stride=None)


def test_rates_with_long_filters_are_left_to_the_cpu_unless_the_spectrum_is_cut() -> None:
    odd = record(rate=499.87)
    assert not can_prepare_on_device([record(), odd], SPEC, stride=None)
    assert can_prepare_on_device([record(), odd], replace(SPEC, resampling="fourier"), stride=None)


def test_what_the_device_could_not_hold_is_left_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    records, slow = [record(4), record(4)], [record(4, 50)]
    assert can_prepare_on_device(records, SPEC, stride=None)
    monkeypatch.setattr("skecg.preprocessing.on_device._WINDOWS_BYTES", 4 * 5 * 500 * 4)
    assert can_prepare_on_device(records, SPEC, stride=None)
    assert not can_prepare_on_device([*records, record()], SPEC, stride=None)
    assert not can_prepare_on_device(records, SPEC, stride=1.0)
    monkeypatch.setattr("skecg.preprocessing.on_device._GROUP_BYTES", 4 * 5 * 999)
    assert not can_prepare_on_device([record(4, 250)], SPEC, stride=None)
    assert not can_prepare_on_device(slow, SPEC, stride=None), "what comes of it is long, though it is short"


@pytest.mark.parametrize(("device", "does"), [("cuda", True), ("cuda:1", True), ("xpu", True), ("cpu", False)])
def test_devices_with_memory_of_their_own_prepare(device: str, does: bool) -> None:
    assert prepares(torch.device(device)) == does
