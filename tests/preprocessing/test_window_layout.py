from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skecg.errors import ParameterError
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.quality import Policies, screen
from skecg.preprocessing.windows import check_stride, count_windows, place_windows, prepared_samples
from skecg.records import ECGRecord
from skecg.spec import InputSpec

SPEC = InputSpec(("I", "II"), 100, 250)


def record(n_samples: int, rate: float, leads: tuple[str, ...] = ("I", "II")) -> ECGRecord:
    return ECGRecord(np.random.default_rng(n_samples).normal(size=(len(leads), n_samples)), rate, leads)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 2000), st.sampled_from([50.0, 100.0, 250.0])), min_size=1, max_size=5),
    stride=st.sampled_from([None, 0.01, 0.33, 1.0, 2.5]),
)
@settings(max_examples=60, deadline=None)
def test_windows_are_counted_as_they_are_placed_and_cover_every_record(
    sizes: list[tuple[int, float]], stride: float | None
) -> None:
    policies = Policies("raise", "pad")
    records = [record(n_samples, rate) for n_samples, rate in sizes if n_samples > 1]
    places = place_windows(
        records, [screen(r, SPEC, policies, "r") for r in records], SPEC, stride=stride, policies=policies
    )
    assert np.diff(places.first).tolist() == [count_windows(r, SPEC, stride=stride) for r in records]
    assert len(places.owner) == places.first[-1] == len(places.start_samples) == len(places.lead_mask)
    for number, one in enumerate(records):
        rows = slice(places.first[number], places.first[number + 1])
        assert (places.owner[rows] == number).all()
        steps = np.diff(places.start_samples[rows])
        assert (steps > 0).all()
        assert (steps <= check_stride(stride, SPEC)).all()
        assert places.start_samples[rows][0] == 0
        assert places.start_samples[rows][-1] + places.valid_samples[rows][-1] == prepared_samples(one, SPEC)
        assert (places.valid_samples[rows] == min(250, prepared_samples(one, SPEC))).all()


@pytest.mark.parametrize(("policy", "masked"), [("raise", True), ("zero", False), ("subset", True)])
def test_absent_leads_are_known_whether_or_not_the_encoder_is_told(policy: str, masked: bool) -> None:
    spec = InputSpec(CANONICAL_LEADS, 100, 250, any_leads=True)
    policies = Policies(policy)
    one = record(600, 100, ("V1", "V4"))
    places = place_windows([one], [screen(one, spec, policies, "r")], spec, stride=None, policies=policies)
    assert np.flatnonzero(places.present[0]).tolist() == [6, 9]
    assert (places.lead_mask == (places.present if masked else True)).all()


def test_no_records_have_no_places() -> None:
    places = place_windows([], [], SPEC, stride=None, policies=Policies())
    assert places.first.tolist() == [0]
    assert places.lead_mask.shape == (0, 2)


@pytest.mark.parametrize("stride", [0, -1.0, 2.6, "1", True, np.nan])
def test_a_stride_that_would_leave_gaps_is_refused(stride: object) -> None:
    with pytest.raises(ParameterError, match=r"expected seconds above 0 and no more than the window's 2\.5 s"):
        check_stride(stride, SPEC)  # type: ignore[arg-type]
