from __future__ import annotations

import copy
import pickle
import tempfile
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numbered_rows import KEY_BYTES, ROW_BYTES, held, key, row, rows
from sklearn.base import BaseEstimator, clone

from skecg.embedding_cache import (
    DiskCache,
    MemoryCache,
)
from skecg.errors import ParameterError


@pytest.fixture(params=["memory", "disk"])
def make_cache(request, tmp_path):
    def make(**options):
        return MemoryCache(**options) if request.param == "memory" else DiskCache(tmp_path / "store", **options)

    return make


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=40),
        arrays(np.float32, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)),
        max_size=6,
    )
)
def test_what_was_put_comes_back_bit_for_bit(items):
    with tempfile.TemporaryDirectory() as folder:
        for cache in (MemoryCache(), DiskCache(folder)):
            cache.put(items)
            found = cache.get([*items, b"absent" * 9])
            assert found.keys() == items.keys()
            for name, array in found.items():
                assert array.dtype == np.float32
                assert array.shape == items[name].shape
                assert array.tobytes() == items[name].tobytes()


def test_hits_and_misses_are_counted_for_every_key_asked(make_cache):
    cache = make_cache()
    cache.put(rows(1, 2))
    cache.get([key(1), key(1), key(3)])
    cache.get([])
    info = cache.info()
    assert (info.entries, info.bytes, info.hits, info.misses) == (2, 2 * ROW_BYTES, 2, 1)


@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array")
def test_nobody_can_change_what_is_stored(make_cache):
    cache = make_cache()
    mine = row(1)
    cache.put({key(1): mine})
    mine[:] = 7
    given_out = cache.get([key(1)])[key(1)]
    with pytest.raises(ValueError, match="read-only"):
        given_out[0] = 7
    with pytest.raises(ValueError, match="WRITEABLE"):
        given_out.setflags(write=True)
    given_out.shape = (2, 4)
    np.testing.assert_array_equal(cache.get([key(1)])[key(1)], row(1))


def test_a_row_of_a_larger_array_does_not_keep_that_array_alive(make_cache):
    features = np.arange(80, dtype=np.float32).reshape(10, 8)
    cache = make_cache()
    cache.put({key(index): features[index] for index in range(10)} | {key(10): features.T[3]})
    np.testing.assert_array_equal(cache.get([key(10)])[key(10)], features.T[3])
    assert cache.info().bytes == 10 * ROW_BYTES + KEY_BYTES + 40


def test_putting_a_key_twice_keeps_one_and_the_latest(make_cache):
    cache = make_cache()
    cache.put(rows(1))
    cache.put(rows(1))
    cache.put({key(1): row(2)})
    assert cache.info().entries == 1
    assert cache.info().bytes == ROW_BYTES
    np.testing.assert_array_equal(cache.get([key(1)])[key(1)], row(2))


def test_the_least_recently_used_make_room(make_cache):
    cache = make_cache(max_bytes=3 * ROW_BYTES)
    for number in (1, 2, 3):
        cache.put(rows(number))
    cache.get([key(1)])
    cache.put(rows(4))
    assert held(cache) == [1, 3, 4]
    cache.put(rows(5, 6, 7, 8))
    assert held(cache) == [6, 7, 8]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6 * ROW_BYTES), st.lists(st.lists(st.integers(0, 20), max_size=8), max_size=5))
def test_the_bound_in_bytes_holds_after_every_put(max_bytes, batches):
    with tempfile.TemporaryDirectory() as folder:
        for cache in (MemoryCache(max_bytes), DiskCache(folder, max_bytes)):
            for batch in batches:
                cache.put(rows(*batch))
                info = cache.info()
                assert info.bytes <= max_bytes
                assert info.bytes == info.entries * ROW_BYTES == len(held(cache)) * ROW_BYTES


def test_an_array_larger_than_the_cache_pushes_nothing_out(make_cache):
    cache = make_cache(max_bytes=2 * ROW_BYTES)
    cache.put(rows(1, 2))
    cache.put({key(9): np.zeros(1000, np.float32)})
    assert held(cache) == [1, 2]


def test_prune_by_bytes_drops_the_oldest_and_says_how_many(make_cache):
    cache = make_cache()
    for number in range(5):
        cache.put(rows(number))
    cache.get([key(0)])
    assert cache.prune(max_bytes=2 * ROW_BYTES + 5) == 3
    assert held(cache) == [0, 4]
    assert cache.prune(max_bytes=2 * ROW_BYTES) == 0


def test_prune_by_age_counts_from_the_last_use(make_cache, monkeypatch):
    cache = make_cache()
    now_ns, days_ns = time.time_ns(), 86_400 * 10**9
    clock = {"ns": now_ns - 10 * days_ns}
    monkeypatch.setattr(time, "time_ns", lambda: clock["ns"])
    monkeypatch.setattr(time, "time", lambda: clock["ns"] / 1e9)
    cache.put(rows(1, 2))
    clock["ns"] = now_ns - 4 * days_ns
    cache.put(rows(3))
    cache.get([key(1)])
    clock["ns"] = now_ns
    assert cache.prune(older_than_days=4.5) == 1
    assert held(cache) == [1, 3]
    clock["ns"] = now_ns + days_ns
    assert cache.prune(older_than_days=0, max_bytes=10**6) >= 1


@pytest.mark.parametrize("bound", [{"older_than_days": 1e9}, {"older_than_days": 1e308}, {"max_bytes": 10**400}])
def test_nothing_is_beyond_a_bound_beyond_all_numbers(make_cache, bound):
    cache = make_cache()
    cache.put(rows(1, 2))
    assert cache.prune(**bound) == 0
    assert held(cache) == [1, 2]


def test_clear_forgets_everything_and_the_cache_goes_on(make_cache):
    cache = make_cache()
    cache.put(rows(1, 2))
    cache.clear()
    assert held(cache) == []
    assert (cache.info().entries, cache.info().bytes) == (0, 0)
    cache.put(rows(3))
    assert held(cache) == [3]


@pytest.mark.parametrize(
    "wrong", [{}, {"max_bytes": -1}, {"max_bytes": 1.5}, {"max_bytes": True}, {"older_than_days": -1}]
)
def test_prune_refuses_bounds_that_are_none(make_cache, wrong):
    with pytest.raises(ParameterError):
        make_cache().prune(**wrong)


@pytest.mark.parametrize("wrong", [-1, 2.5, "1GB", True])
def test_a_bound_is_a_whole_number_of_bytes(make_cache, wrong):
    with pytest.raises(ParameterError, match="max_bytes"):
        make_cache(max_bytes=wrong)


@pytest.mark.parametrize("wrong", [{"text": row(1)}, {key(1): np.zeros(3)}, {key(1): [1.0]}])
def test_only_float32_arrays_under_bytes_are_stored(make_cache, wrong):
    cache = make_cache()
    with pytest.raises(ParameterError, match="float32"):
        cache.put(wrong)
    assert cache.info().entries == 0


def test_a_clone_of_an_estimator_shares_the_cache(make_cache):
    class Holder(BaseEstimator):
        def __init__(self, cache=None):
            self.cache = cache

    cache = make_cache()
    assert clone(Holder(cache)).cache is cache
    assert copy.copy(cache) is cache


def test_threads_reading_and_writing_at_once_lose_nothing(make_cache):
    cache, failures = make_cache(), []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 40, 4):
                cache.put(rows(*range(number, number + 4)))
                found = cache.get([key(other) for other in range(200)])
                assert all((array == int.from_bytes(name, "big")).all() for name, array in found.items())
                assert {key(other) for other in range(first, number + 4)} <= found.keys()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 200, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert held(cache, 200) == list(range(200))


def test_memory_needs_a_bound():
    with pytest.raises(ParameterError, match="bound"):
        MemoryCache(None)


def test_a_pickled_memory_cache_takes_its_bound_and_not_its_contents():
    cache = MemoryCache(12_345)
    cache.put(rows(*range(50)))
    pickled = pickle.dumps(cache)
    assert len(pickled) < 200
    assert (pickle.loads(pickled).max_bytes, pickle.loads(pickled).info().entries) == (12_345, 0)
