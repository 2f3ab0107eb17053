from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and golden numbers that may lie beside the checkout."""
    if not (SHARED / "data" / "raw").is_dir():
        pytest.skip("the shared recordings are not here")
    return SHARED
