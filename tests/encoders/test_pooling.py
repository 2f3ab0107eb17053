from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skecg.encoders.pooling import POOLINGS, as_layers, check_pooling, n_pooled_features, pool_tokens, pool_windows
from skecg.errors import ParameterError


def tokens(n_registers: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, n_registers + 7, 5, generator=torch.Generator().manual_seed(seed))


def test_registers_have_no_part_in_what_is_pooled_over_patches():
    states = tokens()
    loud = states.clone()
    loud[:, :2] = 1e6
    for pooling in ("mean", "max", "mean+std", "mean+std+max"):
        assert torch.equal(pool_tokens([states], 2, pooling), pool_tokens([loud], 2, pooling))


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_the_spread_is_torchs_whatever_the_mean(offset):
    states = tokens(0) + offset
    wanted = states.double().std(dim=1, correction=0).float()
    torch.testing.assert_close(
        pool_tokens([states], 0, "mean+std")[:, 5:], wanted, rtol=1e-3 if offset else 1e-6, atol=0
    )


def test_the_spread_has_a_gradient_where_nothing_varies():
    states = torch.ones(2, 4, 3, requires_grad=True)
    pool_tokens([states], 0, "mean+std").sum().backward()
    assert torch.equal(states.grad, torch.full((2, 4, 3), 0.25))


@pytest.mark.parametrize("pooling", ["mean", "max", "mean+std", "mean+std+max"])
def test_the_order_of_the_tokens_does_not_matter(pooling):
    states = tokens(0)
    shuffled = states[:, torch.randperm(7, generator=torch.Generator().manual_seed(1))]
    assert torch.allclose(pool_tokens([states], 0, pooling), pool_tokens([shuffled], 0, pooling), atol=1e-6)


def test_each_pooling_is_what_its_name_says():
    states = tokens()
    patches = states[:, 2:].numpy()
    assert np.allclose(pool_tokens([states], 2, "mean"), patches.mean(axis=1), atol=1e-6)
    assert np.allclose(pool_tokens([states], 2, "max"), patches.max(axis=1))
    both = np.concatenate([patches.mean(axis=1), patches.std(axis=1)], axis=1)
    assert np.allclose(pool_tokens([states], 2, "mean+std"), both, atol=1e-6)
    all_three = np.concatenate([both, patches.max(axis=1)], axis=1)
    assert np.allclose(pool_tokens([states], 2, "mean+std+max"), all_three, atol=1e-6)
    assert np.array_equal(pool_tokens([states], 2, "cls"), states[:, :2].flatten(1))


def test_a_single_token_has_no_spread():
    pooled = pool_tokens([torch.randn(2, 1, 5)], 0, "mean+std")
    assert torch.equal(pooled[:, 5:], torch.zeros(2, 5))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_layers_lie_one_after_the_other(pooling):
    first, second = tokens(seed=1), tokens(seed=2)
    pooled = pool_tokens([first, second], 2, pooling)
    apart = [pool_tokens([states], 2, pooling) for states in (first, second)]
    assert torch.equal(pooled, torch.cat(apart, dim=1))
    assert pooled.shape == (3, n_pooled_features(pooling, 10, 2))


def test_poolings_that_do_not_exist_are_refused():
    with pytest.raises(ParameterError, match=r"'mean', 'max', 'mean\+std', 'mean\+std\+max', 'cls'"):
        check_pooling("median", 1)
    with pytest.raises(ParameterError, match=r"no register token. Use 'mean'"):
        check_pooling("cls", 0)
    with pytest.raises(ParameterError):
        check_pooling(["mean"], 1)
    assert [check_pooling(pooling, 1) for pooling in POOLINGS] == list(POOLINGS)


@pytest.mark.parametrize(
    ("layer", "layers"),
    [
        (-1, (-1,)),
        (0, (0,)),
        (np.int64(3), (3,)),
        ([1, -1], (1, -1)),
        ((2, 2), (2, 2)),
        ("last1", (-1,)),
        ("last4", (-4, -3, -2, -1)),
        ("last-2", (-2, -1)),
    ],
)
def test_a_choice_of_layers_is_read(layer, layers):
    assert as_layers(layer) == layers


@pytest.mark.parametrize("layer", ["last", "last0", "first2", "", [], [1.0], 1.5, None, True, [True], ["1"], {1}])
def test_what_is_no_choice_of_layers_is_refused(layer):
    with pytest.raises(ParameterError, match="expected an integer, a list of integers, or 'last4'"):
        as_layers(layer)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_each_record_is_the_mean_of_its_windows_and_nothing_when_it_has_none(counts):
    owner = np.repeat(np.arange(len(counts)), counts)
    vectors = np.random.default_rng(sum(counts)).normal(size=(len(owner), 3)).astype(np.float32)
    pooled = pool_windows(vectors, owner, len(counts))
    assert pooled.shape == (len(counts), 3)
    assert pooled.dtype == np.float32
    for record, count in enumerate(counts):
        if count:
            assert np.allclose(pooled[record], vectors[owner == record].mean(axis=0), atol=1e-6)
        else:
            assert np.isnan(pooled[record]).all()


def test_one_window_a_record_passes_through_untouched():
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert np.array_equal(pool_windows(vectors, np.arange(4), 4), vectors)


def test_a_record_does_not_depend_on_its_neighbours():
    vectors = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    owner = np.array([0, 0, 0, 1, 1, 2])
    together = pool_windows(vectors, owner, 3)
    assert np.array_equal(together[1], pool_windows(vectors[3:5], owner[3:5] - 1, 1)[0])
