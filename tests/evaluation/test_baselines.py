from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_set import TINY, small_set

from skecg import JEPAEmbedder
from skecg.embedding_cache import MemoryCache
from skecg.errors import RecordReadError, WeightsNotFoundError
from skecg.evaluation.baselines import _random_kernels
from skecg.evaluation.features import (
    EncoderFeatures,
    hand_crafted,
    hand_crafted_features,
    random_convolution_features,
    random_convolutions,
    standard_sources,
    write_untrained_twin,
)
from skecg.leads import CANONICAL_LEADS
from skecg.weights import find_weights

SIGNALS = np.random.default_rng(0).normal(size=(4, 12, 1000)).astype(np.float32)


def test_hand_crafted_features_are_what_they_are_called() -> None:
    time = np.arange(2500) / 250
    signals = np.stack([np.sin(2 * np.pi * 5 * time), 2 * np.cos(2 * np.pi * 5 * time)]).astype(np.float32)[None]

    (features,) = hand_crafted_features(signals, 250)

    first, second, correlation = features[:21], features[21:42], features[42]
    assert first[[0, 4, 8]] == pytest.approx([-1, 0, 1], abs=0.02)  # lowest, median, highest
    assert second[9] == pytest.approx(2 / 2**0.5, rel=1e-3)  # deviation
    assert first[11] == pytest.approx(-1.5, abs=0.01)  # excess kurtosis of a sine
    assert np.argmax(first[14:]) == 2  # 5 Hz lies in the band from 4 to 7
    assert correlation == pytest.approx(0, abs=1e-3)


def test_the_correlations_are_those_of_numpy() -> None:
    expected = np.corrcoef(SIGNALS[2])[np.triu_indices(12, 1)]

    np.testing.assert_allclose(hand_crafted_features(SIGNALS, 250)[2, -66:], expected, atol=1e-5)


def test_quantiles_and_moments_are_those_of_numpy() -> None:
    of_leads = hand_crafted_features(SIGNALS, 250)[:, : 21 * 12].reshape(4, 12, 21)
    quantiles = np.quantile(SIGNALS, (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1), axis=-1)
    centred = SIGNALS - SIGNALS.mean(axis=-1, keepdims=True, dtype=np.float64)
    standard = centred / centred.std(axis=-1, keepdims=True)

    np.testing.assert_allclose(of_leads[..., :9], np.moveaxis(quantiles, 0, -1), atol=1e-6)
    np.testing.assert_allclose(of_leads[..., 10], (standard**3).mean(axis=-1), atol=1e-5)
    np.testing.assert_allclose(of_leads[..., 11], (standard**4).mean(axis=-1) - 3, atol=1e-5)


def test_a_lead_with_a_gap_has_no_quantiles_and_the_others_have_theirs() -> None:
    torn = SIGNALS.copy()
    torn[1, 3, 200] = np.nan

    quantiles = hand_crafted_features(torn, 250)[:, : 21 * 12].reshape(4, 12, 21)[..., :9]

    assert np.isnan(quantiles[1, 3]).all()
    assert np.isnan(quantiles).sum() == 9


@pytest.mark.parametrize("n_samples", [2500, 1000, 997, 50])
def test_convolutions_are_pooled_to_the_greatest_value_the_share_of_positive_ones_and_the_deviation(
    n_samples: int,
) -> None:
    signals = np.random.default_rng(1).normal(size=(3, 2, n_samples))  # with two leads, many kernels see none
    x = torch.from_numpy((signals - signals.mean(-1, keepdims=True)) / signals.std(-1, ddof=1, keepdims=True))

    found = random_convolution_features(signals.astype(np.float32), n_kernels=5).reshape(3, 6, 3, 5)

    for place, (dilation, weights, bias) in enumerate(_random_kernels(5, 2, 0)):
        kernels, offset = weights[:5, :, 0].double(), torch.from_numpy(bias).double()
        y = torch.nn.functional.conv1d(x, kernels, offset, dilation=dilation, padding="same")
        np.testing.assert_allclose(found[:, place, 0], y.amax(-1), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[:, place, 1], (y > 0).double().mean(-1), atol=1.5 / n_samples)
        np.testing.assert_allclose(found[:, place, 2], y.std(-1), rtol=1e-5, atol=1e-5)
        assert not found[:, place, 2, ~kernels.any(-1).any(-1)].any()


def test_flat_leads_give_finite_features() -> None:
    flat = SIGNALS.copy()
    flat[:, 3] = 0.25

    assert np.isfinite(hand_crafted_features(flat, 250)).all()
    assert np.isfinite(random_convolution_features(flat)).all()


def test_baselines_have_the_numbers_that_their_pages_say() -> None:
    assert hand_crafted_features(SIGNALS, 250).shape == (4, 21 * 12 + 66)
    assert random_convolution_features(SIGNALS).shape == (4, 18 * 84)


def test_random_convolutions_do_not_hang_on_neighbours_scale_or_chance() -> None:
    whole = random_convolution_features(SIGNALS)

    np.testing.assert_allclose(random_convolution_features(SIGNALS[2:3]), whole[2:3], atol=1e-5)
    np.testing.assert_allclose(random_convolution_features(SIGNALS * 9 + 1), whole, atol=1e-3)
    assert not np.allclose(random_convolution_features(SIGNALS, seed=1), whole)


@pytest.mark.parametrize("baseline", [hand_crafted(), random_convolutions()], ids=lambda b: b.name)
def test_features_of_a_data_set_are_the_same_from_the_cache_and_without(baseline: object) -> None:
    some, cache = small_set().select(range(5)), MemoryCache(2**20)

    fresh = baseline.features(some)  # type: ignore[attr-defined]
    stored = baseline.features(some, cache=cache)  # type: ignore[attr-defined]
    found = baseline.features(some, cache=cache)  # type: ignore[attr-defined]

    np.testing.assert_array_equal(fresh, stored)
    np.testing.assert_array_equal(stored, found)
    assert (cache.info().hits, cache.info().misses) == (5, 5)


def test_two_baselines_never_share_what_is_stored() -> None:
    some, cache = small_set().select(range(3)), MemoryCache(2**20)

    assert hand_crafted().features(some, cache=cache).shape[1] == 318
    assert random_convolutions().features(some, cache=cache).shape == (5, 3, 1512)


def test_a_long_record_has_the_mean_of_its_windows() -> None:
    records = small_set().records[:5]
    long = replace(records[0], signal=np.concatenate([r.signal for r in records], axis=1))  # 20 s, two windows
    halves = [replace(long, signal=long.signal[:, i : i + 2500]) for i in (0, 2500)]
    together = replace(small_set().select([0]), records=[long])
    apart = replace(small_set().select([0, 1]), records=halves)

    np.testing.assert_allclose(
        hand_crafted().features(together)[0], hand_crafted().features(apart).mean(axis=0), atol=1e-4
    )


def test_padding_is_not_part_of_a_short_record() -> None:
    record = small_set().records[0]  # 4 s in a window of 10 s

    found = hand_crafted().features(small_set().select([0]))[0]

    np.testing.assert_allclose(found, hand_crafted_features(record.signal[None], 250)[0], atol=1e-5)


def test_a_record_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(RecordReadError):
        hand_crafted().features(replace(small_set().select([0]), records=["nowhere.hea"]))


def test_the_untrained_twin_has_the_shape_and_none_of_the_weights(tmp_path: Path) -> None:
    info = find_weights(TINY)

    twin = find_weights(write_untrained_twin(info, tmp_path / "twin", seed=5))
    same = find_weights(write_untrained_twin(info, tmp_path / "same", seed=5))

    assert (twin.encoder, twin.spec, twin.pooling) == (info.encoder, info.spec, info.pooling)
    assert twin.provenance["trained"] is False
    assert twin.digest == same.digest != info.digest
    records = small_set().records[:2]
    assert not np.allclose(JEPAEmbedder(TINY).fit_transform(records), JEPAEmbedder(twin.folder).fit_transform(records))


def test_the_table_always_has_all_baselines_and_one_twin_for_each_shape(tmp_path: Path) -> None:
    sources = standard_sources([TINY, TINY, "untrained-temporal"], tmp_path)

    assert [(kind, source.name) for kind, source in sources] == [
        ("baseline", "majority"),
        ("baseline", "hand-crafted"),
        ("baseline", "random convolutions"),
        ("baseline", "untrained, shape of tiny-temporal"),
        ("baseline", "untrained, shape of untrained-temporal"),
        ("model", "tiny-temporal"),
        ("model", "untrained-temporal"),
    ]
    assert "window" in sources[-1][1].note
    assert "pooling mean+std" in sources[-1][1].note


def test_models_of_one_name_keep_their_paths_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_untrained_twin(find_weights(TINY), tmp_path / folder / "weights", seed=1 if folder == "a" else 2)

    named = [s.name for _, s in standard_sources([tmp_path / "a/weights", tmp_path / "b/weights"], tmp_path / "twins")]

    assert named[-2:] == [str(tmp_path / "a/weights"), str(tmp_path / "b/weights")]


def test_a_model_that_is_not_there_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError):
        standard_sources([TINY, tmp_path / "nothing"], tmp_path)


def test_a_data_set_in_another_unit_has_the_same_features() -> None:
    some = small_set().select(slice(4))
    values = np.stack([record.signal for record in some.records])
    as_array = {"sampling_rate": 250.0, "leads": CANONICAL_LEADS}
    in_mv = replace(some, records=values, **as_array)
    in_uv = replace(some, records=1e3 * values, units="uV", **as_array)
    for source in (hand_crafted(), EncoderFeatures("tiny", TINY)):
        wanted = source.features(in_mv)
        np.testing.assert_allclose(source.features(in_uv), wanted, rtol=1e-4, atol=1e-4)
