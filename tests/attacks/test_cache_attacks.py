"""A cache that cannot be used costs time, never a number; one that others may write to is not used at all."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import skecg
from skecg import ECGRecord, JEPAEmbedder
from skecg.embedding_cache import DiskCache
from skecg.embedding_cache.sqlite import DATABASE_NAME
from skecg.errors import CacheError, CacheWarning
from skecg.leads import CANONICAL_LEADS

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ROOT = Path(skecg.__file__).parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")


def records(n_records: int, seed: int = 0) -> list[ECGRecord]:
    signals = np.random.default_rng(seed).normal(0, 0.2, (n_records, 12, 700)).astype(np.float32)
    return [ECGRecord(signal, 100, CANONICAL_LEADS) for signal in signals]


def embed(X: list[Any], **parameters: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=skecg.errors.SignalWarning)
        warnings.filterwarnings("ignore", category=skecg.errors.UnitsWarning)
        return JEPAEmbedder(parameters.pop("model", FIXTURES / "tiny-temporal"), **parameters).fit_transform(X)


class FullDisk(sqlite3.OperationalError):
    sqlite_errorcode = sqlite3.SQLITE_FULL


FAILURES = {
    "full": FullDisk("database or disk is full"),
    "no space": OSError(28, "No space left on device"),
    "read-only": OSError(30, "Read-only file system"),
    "not allowed": PermissionError(13, "Permission denied"),
    "gone": OSError(116, "Stale file handle"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("where", ["open_database", "write", "read"])
def test_a_cache_that_cannot_be_used_is_one_warning_and_the_features_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FAILURES[name]

    ecgs = records(70)  # of two chunks
    expected = embed(ecgs, cache=None)
    monkeypatch.setattr(f"skecg.embedding_cache.sqlite.{where}", fail)
    with pytest.warns(CacheWarning, match="Embedding goes on") as caught:
        features = embed(ecgs, cache=tmp_path / "cache")
    assert len([w for w in caught if w.category is CacheWarning]) == 1
    np.testing.assert_array_equal(features, expected)


def test_what_a_full_cache_had_before_is_still_found(tmp_path: Path) -> None:
    ecgs = records(3)
    expected = embed(ecgs, cache=tmp_path / "cache")
    store = skecg.embedding_cache.open_cache(tmp_path / "cache")
    store._store._connection.execute("PRAGMA max_page_count = 1")
    with pytest.warns(CacheWarning, match=r"disk is full: free some space"):
        features = embed(ecgs + records(400, seed=1), cache=tmp_path / "cache")
    np.testing.assert_array_equal(features[:3], expected)
    assert store.info().entries >= 3


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(CacheError, match=r"others may write to.*chmod go-w .*another folder"):
        embed(records(1), cache=folder)
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)
    assert np.isfinite(embed(records(1), cache=folder)).all()


@posix
def test_a_store_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    cache.put({b"key": np.ones(3, np.float32)})
    cache.close()
    (tmp_path / "cache" / DATABASE_NAME).chmod(0o666)
    with pytest.raises(CacheError, match="others may write to"):
        DiskCache(tmp_path / "cache").get([b"key"])
    assert stat.S_IMODE((tmp_path / "cache" / DATABASE_NAME).stat().st_mode) == 0o666, "it is not mended behind backs"


# ---- the cache never changes a number

_ECGS = records(4)
_ANOTHER_PROCESS = """
import sys, warnings
import numpy as np
from skecg import ECGRecord, JEPAEmbedder
from skecg.leads import CANONICAL_LEADS
warnings.simplefilter("ignore")
signals = np.random.default_rng(0).normal(0, 0.2, (4, 12, 700)).astype(np.float32)
ecgs = [ECGRecord(signal, 100, CANONICAL_LEADS) for signal in signals]
for model in sys.argv[2:]:
    for pooling in ("mean", "max", "mean+std"):
        JEPAEmbedder(model, pooling=pooling, cache=sys.argv[1]).fit_transform(ecgs)
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that another process has filled, and that all tests share and go on filling."""
    folder = tmp_path_factory.mktemp("cache")
    models = [str(FIXTURES / name) for name in ("tiny-temporal", "tiny-leadwise")]
    done = subprocess.run([sys.executable, "-c", _ANOTHER_PROCESS, str(folder), *models], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return folder


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    model=st.sampled_from(["tiny-temporal", "tiny-leadwise"]),
    how=st.fixed_dictionaries(
        {
            "pooling": st.sampled_from([None, "mean", "max", "mean+std", "mean+std+max"]),
            "layer": st.sampled_from([None, -1, 0, [0, -1]]),
            "stride": st.sampled_from([None, 1.0]),
            "batch_size": st.sampled_from(["auto", 1]),
        }
    ),
    n_leads=st.sampled_from([12, 8, 2]),
    rate=st.sampled_from([100.0, 250.0]),
    order=st.permutations(range(4)),
    negated=st.booleans(),
)
def test_no_cache_ever_changes_a_number(
    filled: Path, model: str, how: dict[str, Any], n_leads: int, rate: float, order: list[int], negated: bool
) -> None:
    """Whoever filled it, in whatever order, with whatever else: another process, other leads, rates, layers."""
    some = [_ECGS[i] for i in order]
    ecgs = [ECGRecord((-r.signal if negated else r.signal)[:n_leads], rate, r.leads[:n_leads]) for r in some]
    how = how | {"model": FIXTURES / model, "missing_leads": "subset", "short_records": "pad"}
    expected = embed(ecgs, cache=None, **how)
    for cache in (filled, "memory", filled):
        found = embed(ecgs, cache=cache, **how)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with tempfile.TemporaryDirectory() as empty:
        np.testing.assert_array_equal(embed(ecgs, cache=empty, **how), embed(ecgs, cache=empty, **how))
