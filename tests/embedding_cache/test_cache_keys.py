from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from numbered_rows import KEY_BYTES

from skecg.embedding_cache import (
    DiskCache,
    MemoryCache,
    key_function,
    keys,
    passing_key,
    record_key,
    remembered_key,
    salt_of,
)
from skecg.errors import ParameterError
from skecg.records import ECGRecord


@pytest.fixture(params=["record_key", "remembered_key", "passing_key", "passing_key without xxhash"])
def name_of(request, monkeypatch):
    """Either name of a record."""
    if request.param == "record_key":
        return record_key
    if request.param == "remembered_key":
        return remembered_key
    if request.param == "passing_key":
        pytest.importorskip("xxhash")
    else:
        monkeypatch.setattr(keys, "_xxh3", lambda: None)
    return passing_key


def record(signal=None, rate=500.0, leads=("I", "II"), name=""):
    return ECGRecord(np.arange(12, dtype=np.float32).reshape(2, 6) if signal is None else signal, rate, leads, name)


def test_keys_and_salts_are_the_same_in_every_process_and_on_every_machine():
    # Golden: when these change, every store on disk is forgotten.
    assert record_key(record(), b"salt").hex() == "857415a4c45c45b74a1bbe476fbc48d01ced0f0788e210297bdce9c9db480826"
    assert salt_of(weights="ab", layer=-1).hex() == "06a2f5c6bbd9a4d6260599746327724658b84d52a19b2f4c0df9ecf2be5ed090"


def test_the_name_of_a_record_does_not_change_its_key(name_of):
    assert name_of(record(name="a"), b"") == name_of(record(name="b"), b"")


def test_each_ingredient_changes_the_key(name_of):
    signal = record().signal
    other_sample = signal.copy()
    other_sample[1, 5] = np.nextafter(other_sample[1, 5], np.float32(np.inf))
    with_gap = signal.copy()
    with_gap[0, 0] = np.nan
    found = [
        name_of(record(), b""),
        name_of(record(), b"salt"),
        name_of(record(rate=250.0), b""),
        name_of(record(leads=("II", "I")), b""),
        name_of(record(leads=("I", "III")), b""),
        name_of(record(signal=signal.reshape(3, 4), leads=("I", "II", "III")), b""),
        name_of(record(signal=signal[::-1]), b""),
        name_of(record(signal=signal[:, :5]), b""),
        name_of(record(signal=other_sample), b""),
        name_of(record(signal=with_gap), b""),
    ]
    assert len(set(found)) == len(found)
    assert {len(one) for one in found} <= {16, KEY_BYTES}


def test_the_same_bytes_in_another_shape_have_another_key(name_of):
    # No record has two rows for three names; a stand-in shows that the shape counts by itself.
    wide = SimpleNamespace(signal=np.zeros((2, 6), np.float32), sampling_rate=500.0, leads=("I", "II"))
    tall = SimpleNamespace(signal=np.zeros((3, 4), np.float32), sampling_rate=500.0, leads=("I", "II"))
    assert name_of(wide, b"") != name_of(tall, b"")


def test_salt_and_record_cannot_be_taken_for_each_other(name_of):
    assert name_of(record(), b"a") != name_of(record(), b"a\x00")
    assert name_of(record(), b"") != name_of(record(), bytes(8))


def test_without_xxhash_both_names_are_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "xxhash", None)
    keys._xxh3.cache_clear()
    try:
        assert passing_key(record(), b"salt") == record_key(record(), b"salt")
    finally:
        keys._xxh3.cache_clear()


def test_a_passing_name_is_another_in_every_process():
    pytest.importorskip("xxhash")
    code = (
        "import numpy as np; from skecg import ECGRecord; from skecg.embedding_cache import passing_key;"
        "print(passing_key(ECGRecord(np.arange(12).reshape(2, 6), 500, ['I', 'II']), b'salt').hex())"
    )
    names = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout]
    names += [passing_key(record(), b"salt").hex(), passing_key(record(), b"salt").hex()]
    assert names[1] == names[2] != names[0].strip()


def test_threads_that_name_at_once_have_one_seed():
    # Whoever looks for the hash a second time, as two threads that are first at once do, finds the same.
    pytest.importorskip("xxhash")
    before = passing_key(record(), b"salt")
    keys._xxh3.cache_clear()
    assert passing_key(record(), b"salt") == before


def test_only_what_dies_with_the_process_is_named_in_passing(tmp_path):
    assert key_function(MemoryCache()) is passing_key
    assert key_function(DiskCache(tmp_path)) is remembered_key
    assert key_function(SimpleNamespace(get=None, put=None)) is remembered_key


def test_a_name_that_lasts_is_digested_once_and_always_the_same(monkeypatch):
    pytest.importorskip("xxhash")
    digested = []
    monkeypatch.setattr(keys, "record_key", lambda *given: digested.append(given) or record_key(*given))
    monkeypatch.setattr(keys, "_remembered", {})
    others = [record(np.full((2, 6), value, np.float32)) for value in range(5)]
    for _ in range(3):
        assert [remembered_key(other, b"salt") for other in others] == [record_key(other, b"salt") for other in others]
    assert len(digested) == 5
    others[2].signal[0, 0] = 7.0  # changed in place: another record
    assert remembered_key(others[2], b"salt") == record_key(others[2], b"salt")
    assert len(digested) == 6


def test_only_so_many_names_are_remembered(monkeypatch):
    pytest.importorskip("xxhash")
    monkeypatch.setattr(keys, "_MOST_REMEMBERED", 3)
    monkeypatch.setattr(keys, "_remembered", {})
    for value in range(8):
        other = record(np.full((2, 6), value, np.float32))
        assert remembered_key(other, b"") == record_key(other, b"")
        assert 0 < len(keys._remembered) <= 3


def test_without_xxhash_nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(keys, "_xxh3", lambda: None)
    monkeypatch.setattr(keys, "_remembered", {})
    assert remembered_key(record(), b"salt") == record_key(record(), b"salt")
    assert not keys._remembered


def test_the_order_of_salt_parts_does_not_matter_and_each_part_does():
    base = {"weights": "ab", "spec": {"leads": ["I", "II"], "rate": 500.0}, "layer": -1, "stride": None, "pad": False}
    salts = [salt_of(**base), salt_of(**base, extra=None)]
    salts += [salt_of(**{**base, name: "other"}) for name in base]
    salts += [salt_of(**{**base, "spec": {"leads": ["II", "I"], "rate": 500.0}}), salt_of(**{**base, "pad": 0})]
    assert len(set(salts)) == len(salts)
    assert salt_of(**dict(reversed(base.items()))) == salts[0]


def test_numpy_scalars_and_tuples_salt_like_numbers_and_lists():
    assert salt_of(layer=np.int64(2), leads=("I",)) == salt_of(layer=2, leads=["I"])


def test_the_format_version_is_part_of_the_salt(monkeypatch):
    before = salt_of(layer=1)
    monkeypatch.setattr("skecg.embedding_cache.keys.FORMAT", 2)
    assert salt_of(layer=1) != before


@pytest.mark.parametrize("part", [object(), {1: "a"}, {"a"}, b"bytes", np.zeros(2), [print]])
def test_a_salt_refuses_what_it_cannot_write_down_exactly(part):
    with pytest.raises(ParameterError, match=r"spec\.inner"):
        salt_of(spec={"inner": part})
