"""Batches that are not in millivolts are warned of; batches that are, are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skecg import ECGRecord, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.datasets.packed import read_packed
from skecg.embedding_cache import MemoryCache
from skecg.errors import UnitsError, UnitsWarning
from skecg.inference import batches
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.quality import Policies, screen
from skecg.preprocessing.units import STANDARDIZED
from skecg.weights import find_weights

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"
X = np.stack([record.signal for record in make_ecg(8, random_state=0).records])
RATE = float(make_ecg(1, random_state=0).records[0].sampling_rate)


def standardized(X: np.ndarray) -> np.ndarray:
    return (X - X.mean(axis=-1, keepdims=True)) / X.std(axis=-1, keepdims=True)


def to_one(X: np.ndarray, axis: tuple[int, ...] = (-1,)) -> np.ndarray:
    low, high = X.min(axis=axis, keepdims=True), X.max(axis=axis, keepdims=True)
    return (X - low) / (high - low)


def warnings_of(X: np.ndarray, model: str | Path = TINY, **how: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        JEPAEmbedder(model, sampling_rate=RATE, missing_leads="subset", **{"cache": None} | how).fit_transform(X)
    return [str(w.message) for w in caught if issubclass(w.category, UnitsWarning)]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (standardized, "standard deviation of about 1 in 96 of 96 leads"),
        (to_one, "a scale from 0 to 1"),
        (lambda X: to_one(X, (-2, -1)), "a scale from 0 to 1"),
        (lambda X: 2 * to_one(X) - 1, "a scale from -1 to 1"),
        (lambda X: X / np.abs(X).max(axis=(-2, -1), keepdims=True), "a scale from -1 to 1"),
        (lambda X: X * 5, "times those typical of an ECG"),
        (lambda X: X / 5, "times those typical of an ECG"),
    ],
)
def test_a_batch_of_another_scale_is_named_with_numbers_and_the_way_out(
    spoil: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    (message,) = warnings_of(spoil(X))
    assert "Got 8 records" in message
    assert words in message
    assert f"units={STANDARDIZED!r}" in message


def test_millivolts_are_not_warned_of() -> None:
    assert warnings_of(X) == []


def test_a_wrong_scale_is_named_again_when_the_cache_knows_the_records() -> None:
    assert len(warnings_of(X * 5, cache="memory")) == len(warnings_of(X * 5, cache="memory")) == 1


def test_records_that_the_cache_knows_are_screened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    screened: list[str] = []

    def count(record: ECGRecord, *arguments: Any) -> Any:
        screened.append(record.name)
        return screen(record, *arguments)

    monkeypatch.setattr(batches, "screen", count)
    cache = MemoryCache()
    for _ in range(3):
        assert len(warnings_of(X * 5.5, cache=cache)) == 1
    assert len(screened) == len(X)


def test_gain_is_a_matter_of_the_batch_not_of_a_record() -> None:
    assert warnings_of(X[:1] * 5) == []
    assert warnings_of(np.concatenate([X[:1] * 5, X[1:]])) == []


def test_standardized_leads_get_typical_amplitudes_at_the_door() -> None:
    values = standardized(X)
    typical = np.array([0.118] * 6 + [0.147, 0.262, 0.262, 0.228, 0.212, 0.173])[:, None]
    how = {"sampling_rate": RATE, "cache": None}
    restored = JEPAEmbedder(TINY, units=STANDARDIZED, **how).fit_transform(values)
    np.testing.assert_allclose(
        restored, JEPAEmbedder(TINY, **how).fit_transform(values * typical), rtol=1e-4, atol=1e-5
    )
    assert warnings_of(values, units=STANDARDIZED) == []


def test_a_unit_that_is_none_is_still_refused() -> None:
    with pytest.raises(UnitsError, match="expected one of"):
        JEPAEmbedder(TINY, sampling_rate=RATE, units="standard deviation").fit(X)


@pytest.mark.parametrize("name", ["ptbxl_raw_250hz", "ludb_500hz"])
def test_true_millivolts_of_real_recordings_are_not_warned_of(shared: Path, name: str) -> None:
    records = read_packed(shared / "data" / f"{name}.npz")
    for first in (0, 32):
        batch = np.asarray(records.records)[first : first + 32]
        how = {"sampling_rate": records.sampling_rate, "leads": list(records.leads), "missing_leads": "subset"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", UnitsWarning)
            JEPAEmbedder(TINY, cache=None, **how).fit_transform(batch)


def test_a_file_whose_numbers_are_called_microvolts_is_not_taken_for_standardized(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, signal=standardized(X[0]), sampling_rate=RATE, leads=np.array(CANONICAL_LEADS), units=np.array("uV"))
    with pytest.raises(UnitsError, match=r"standard deviations of 0\.001"):
        JEPAEmbedder(TINY, units=STANDARDIZED, cache=None).fit_transform([path])


@pytest.mark.parametrize("seconds", [10, 60])
def test_a_lead_with_gaps_wherever_one_looks_is_no_offset_and_upsets_no_number(seconds: int) -> None:
    record = make_ecg(1, duration_seconds=seconds, random_state=0).records[0]
    signal = record.signal.copy()
    if seconds == 10:
        signal[3, :: max(1, record.n_samples // 500)] = np.nan
    else:
        rate = int(record.sampling_rate)
        for start in np.linspace(0, record.n_samples - rate, 10).astype(int):
            signal[3, start : start + rate] = np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        JEPAEmbedder(TINY, missing_leads="subset", cache=None).fit_transform(
            [ECGRecord(signal, record.sampling_rate, record.leads)]
        )
    assert not [w for w in caught if w.category is RuntimeWarning]
    assert not [w for w in caught if "nan" in str(w.message)]


@pytest.mark.parametrize(("rate", "n_samples"), [(0.2, 4), (0.4, 7)])
def test_a_record_of_less_than_a_sample_a_second_is_slow_and_nothing_else(rate: float, n_samples: int) -> None:
    record = ECGRecord(X[0][:, :: X.shape[-1] // n_samples], rate, CANONICAL_LEADS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notes = screen(record, find_weights(TINY).spec, Policies("subset", "pad"), "it").notes
    assert caught == []
    assert "slow" in notes
    assert "volts" not in notes
