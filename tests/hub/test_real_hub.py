"""The one test that asks the real Hub: that it still answers as ours does. Run with ``pytest -m network``."""

from __future__ import annotations

import os

import pytest
from hub_weights import start

CODE = """
from skecg import errors
from skecg.weights import find_weights
for name in ("hf-internal-testing/tiny-random-bert", "hf-internal-testing/there-is-no-such-thing-here"):
    try:
        find_weights(name)
    except errors.WeightsError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.network
def test_the_real_hub_says_what_a_repository_is_and_that_one_is_not_there(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    said, complaint = start(kept | {"HF_HOME": str(tmp_path)}, CODE).communicate(timeout=120)
    foreign, absent = said.splitlines() or [complaint, complaint]
    assert foreign.startswith("ForeignRepositoryError")
    assert "transformers" in foreign
    assert absent.startswith("WeightsNotFoundError")
