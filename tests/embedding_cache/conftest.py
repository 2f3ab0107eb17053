from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from skecg.embedding_cache import DiskCache


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskCache]:
    """An empty store in a folder of its own."""
    cache = DiskCache(tmp_path / "store")
    yield cache
    cache.close()
