from __future__ import annotations

import os
from pathlib import Path

import pytest

# No test asks the real Hub, whatever it names; those in tests/hub have one of their own. Read when the Hub's client is
# imported, and handed on to processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and golden numbers that may lie beside the checkout."""
    if not (SHARED / "data" / "raw").is_dir():
        pytest.skip("the shared recordings are not here")
    return SHARED
