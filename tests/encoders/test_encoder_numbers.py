from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_positions import use_golden_positions_
from plain_numpy import encode

from skecg.encoders import build_encoder
from skecg.spec import TemporalConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"
MAKE = runpy.run_path(str(FIXTURES / "make_fixtures.py"))


@pytest.mark.parametrize("name", MAKE["CONFIGS"])
def test_encoders_filled_by_a_formula_give_the_recorded_numbers(name):
    config = MAKE["CONFIGS"][name]
    recorded = np.load(FIXTURES / f"encoder_{name}.npz")
    found = MAKE["outputs"](MAKE["formula_encoder"](config), MAKE["formula_windows"](config))
    assert sorted(found) == sorted(recorded)
    for kind in recorded:
        assert np.abs(found[kind] - recorded[kind]).max() < 1e-5


@pytest.mark.parametrize("name", MAKE["CONFIGS"])
def test_the_recorded_numbers_follow_from_the_definition_in_plain_numpy(name):
    config = MAKE["CONFIGS"][name]
    recorded = np.load(FIXTURES / f"encoder_{name}.npz")
    encoder, windows = MAKE["formula_encoder"](config), MAKE["formula_windows"](config)
    for number, window in enumerate(windows.numpy()):
        wanted = {
            "tokens": encode(encoder, window),
            "first_block": encode(encoder, window, depth=1),
            "fewer_leads": encode(encoder, window, leads=MAKE["LEADS"]),
            "visible": encode(encoder, window, visible=MAKE["VISIBLE"][number]),
            "crop": encode(encoder, window[:, MAKE["CROP"]]),
        }
        for kind, tokens in wanted.items():
            assert np.abs(recorded[kind][number] - tokens).max() < 1e-5


def test_converted_checkpoints_give_the_golden_tokens_features_crops_and_context(shared: Path):
    errors = MAKE["golden_errors"](shared / "golden")
    assert len(errors) == 11
    assert max(errors.values()) < 1e-5, errors


def test_our_positions_are_the_golden_ones_but_for_the_last_place_of_their_frequencies():
    encoder = build_encoder(TemporalConfig(12, 25, 200, 192, 1, 4))
    ours = encoder.positions_ND.clone()
    use_golden_positions_(encoder)
    # 199 times the last place of a number below 1, and what rounding adds.
    assert (encoder.positions_ND - ours).abs().max() < 199 * torch.finfo(torch.float32).eps / 2 + 1e-6
