from __future__ import annotations

from pathlib import Path

import pytest

from skecg.datasets import SyntheticWaves, make_waves
from skecg.finetuning import Segmenter

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="session")
def tiny() -> Path:
    """Weights of one token for all leads."""
    return FIXTURES / "tiny-temporal"


@pytest.fixture(scope="session")
def tiny_leadwise() -> Path:
    """Weights of one token for each lead."""
    return FIXTURES / "tiny-leadwise"


@pytest.fixture(scope="session")
def hearts() -> SyntheticWaves:
    """Twelve records at 500 Hz whose waves are known by construction."""
    return make_waves(12, random_state=0)


@pytest.fixture(scope="session")
def segmenter(hearts: SyntheticWaves, tiny: Path) -> Segmenter:
    """One that has learned the waves of these hearts; not to be changed."""
    return Segmenter(str(tiny), epochs=3, head_epochs=12, batch_size=4, validation_fraction=0).fit(
        hearts.records, hearts.waves
    )
