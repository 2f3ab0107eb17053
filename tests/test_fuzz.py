"""Whatever arrays, records and leads come in, features or an error of skecg's own come out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skecg import ECGRecord, JEPAEmbedder
from skecg.errors import SkecgError
from skecg.leads import CANONICAL_LEADS

TINY = Path(__file__).parent / "fixtures" / "tiny-temporal"
LEADWISE = Path(__file__).parent / "fixtures" / "tiny-leadwise"

quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

anything = st.floats(width=32, allow_nan=True, allow_infinity=True)
plausible = st.floats(-5, 5, width=32)
rates = st.one_of(st.sampled_from([50, 100, 250, 257, 360, 500, 1000, 999.56]), st.floats(allow_nan=True), st.none())
names = st.sampled_from([*CANONICAL_LEADS, "MLII", "x", "", "aVr", "lead I", "V1"])


def embed(X: Any, **parameters: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return JEPAEmbedder(TINY, cache=None, **parameters).fit_transform(X)


@quick
@given(
    X=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int16, np.uint8, np.int64, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=14),
    ),
    rate=rates,
    leads=st.one_of(st.none(), st.lists(names, max_size=13)),
    short=st.sampled_from(["raise", "pad"]),
)
def test_any_small_array_gives_finite_features_or_a_refusal(X: np.ndarray, rate: Any, leads: Any, short: str) -> None:
    try:
        features = embed(X, sampling_rate=rate, leads=leads, short_records=short, missing_leads="subset")
    except ValueError:  # ours, and scikit-learn's own for empty arrays
        return
    assert len(features) == len(X)
    assert np.isfinite(features).all()


@quick
@given(
    data=st.data(),
    n_leads=st.integers(1, 12),
    n_samples=st.integers(1, 700),
    rate=st.sampled_from([100.0, 250.0, 257.0, 999.56]),
    missing=st.sampled_from(["raise", "zero", "subset"]),
    model=st.sampled_from([TINY, LEADWISE]),
)
def test_any_record_gives_finite_features_or_a_refusal_of_ours(
    data: st.DataObject, n_leads: int, n_samples: int, rate: float, missing: str, model: Path
) -> None:
    values = data.draw(hnp.arrays(np.float32, (n_leads, 8), elements=st.one_of(plausible, anything)))
    signal = np.tile(values, -(-n_samples // 8))[:, :n_samples]
    leads = data.draw(st.lists(names, min_size=n_leads, max_size=n_leads))
    refusal = ""
    try:
        record = ECGRecord(signal, rate, leads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            embedder = JEPAEmbedder(model, cache=None, missing_leads=missing, short_records="pad")
            features = embedder.fit_transform([record])
    except SkecgError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(("Got ", "The features"))
    else:
        assert np.isfinite(features).all()


@quick
@given(
    items=st.lists(
        st.one_of(st.none(), st.text(max_size=8), st.integers(), st.binary(max_size=4), st.just({}), st.just([[1.0]])),
        min_size=1,
        max_size=3,
    )
)
def test_any_list_of_things_is_refused_with_an_error_that_users_expect(items: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        embed(items, sampling_rate=250, leads=["I"])


@quick
@given(gap=st.tuples(st.integers(0, 11), st.integers(0, 499), st.integers(1, 500)))
def test_a_gap_anywhere_is_bridged(gap: tuple[int, int, int]) -> None:
    lead, start, length = gap
    time = np.arange(500) / 100
    signal = np.sin(2 * np.pi * time * np.arange(1, 13)[:, None] / 3).astype(np.float32)
    signal[6 + lead % 6, start : start + length] = np.nan

    assert np.isfinite(
        embed([ECGRecord(signal, 100, ["x1", "x2", "x3", "x4", "x5", "x6", *CANONICAL_LEADS[6:]])])
    ).all()
