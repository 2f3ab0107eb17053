from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_numpy import attention, cropa_rule, leadwise_position

from skecg.encoders.blocks import CropaAttention
from skecg.encoders.leadwise import grid_positions

GRIDS = [(1, 1), (1, 6), (6, 1), (2, 3), (3, 4), (8, 13), (12, 5)]


def cropa_in_float64(dim: int, num_heads: int) -> CropaAttention:
    torch.manual_seed(dim)
    module = CropaAttention(dim, num_heads, proj_bias=True).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.6)  # sharp attention, so that the softmax is put to work
    return module


@pytest.mark.parametrize(("n_leads", "n_patches"), GRIDS)
def test_the_sparse_form_equals_the_dense_masked_softmax(n_leads, n_patches):
    module = cropa_in_float64(24, 3)
    tokens = torch.randn(2, n_leads * n_patches, 24, dtype=torch.float64)
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    allowed = cropa_rule(list(itertools.product(range(n_leads), range(n_patches))))
    with torch.no_grad():
        sparse = module(tokens, n_leads).numpy()
    dense = np.stack([attention(window, state, "", 3, allowed) for window in tokens.numpy()])
    assert np.abs(sparse - dense).max() < 1e-12 * max(1.0, np.abs(dense).max())


def test_a_token_is_blind_to_other_leads_at_other_instants_and_sees_all_else():
    module = cropa_in_float64(16, 2)
    n_leads, n_patches = 3, 4
    tokens = torch.randn(1, n_leads * n_patches, 16, dtype=torch.float64, requires_grad=True)
    allowed = cropa_rule(list(itertools.product(range(n_leads), range(n_patches))))
    mixed = module(tokens, n_leads)
    for query in range(n_leads * n_patches):
        (gradient,) = torch.autograd.grad(mixed[0, query].sum(), tokens, retain_graph=True)
        sees = (gradient[0].abs().sum(-1) > 0).numpy()
        assert np.array_equal(sees, allowed[query])


def test_every_token_sees_its_lead_and_its_instant_and_itself_once():
    allowed = cropa_rule(list(itertools.product(range(8), range(50))))
    assert np.array_equal(allowed, allowed.T)
    assert np.all(allowed.sum(axis=1) == 50 + 8 - 1)


def test_a_token_counts_itself_once():
    module = cropa_in_float64(8, 1)
    with torch.no_grad():
        module.qkv.weight[:16] = 0  # equal logits: the mean over the tokens seen
        module.qkv.weight[16:] = torch.eye(8)
        module.proj.weight[:] = torch.eye(8)
        module.proj.bias[:] = 0
        tokens = torch.randn(1, 6, 8, dtype=torch.float64)
        mixed = module(tokens, 2)
    assert torch.allclose(mixed[0, 0], (tokens[0, 0] + tokens[0, 1] + tokens[0, 2] + tokens[0, 3]) / 4)


@pytest.mark.parametrize("size", [30.0, -30.0, 300.0])
def test_extreme_logits_stay_finite(size):
    module = cropa_in_float64(8, 1).float()
    tokens = torch.full((1, 12, 8), size)
    assert module(tokens, 3).isfinite().all()


def test_reduced_precision_stays_near_full_precision():
    module = cropa_in_float64(16, 2).float()
    tokens = torch.randn(1, 24, 16)
    with torch.no_grad():
        full = module(tokens, 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = module(tokens, 4).float()
    assert (reduced - full).abs().max() < 0.05 * full.abs().max()


def test_the_position_table_is_the_formula_of_the_grid():
    table = grid_positions(3, 5, 16).numpy()
    for lead, instant in itertools.product(range(3), range(5)):
        assert np.abs(table[lead, instant] - leadwise_position(lead, instant, 16)).max() < 1e-12
    assert math.isclose(table[2, 3, 0], math.sin(3))
    assert math.isclose(table[2, 3, 8], math.sin(2))


def test_the_rule_and_the_positions_are_those_of_the_published_system(shared: Path):
    golden = np.load(shared / "golden" / "kim_cropa_and_posembed.npz")
    for n_leads, n_patches in ((2, 3), (3, 4), (4, 2), (8, 50)):
        grid = list(itertools.product(range(n_leads), range(n_patches)))
        assert np.array_equal(cropa_rule(grid), golden[f"mask_c{n_leads}_p{n_patches}"])
    assert np.array_equal(cropa_rule(list(itertools.product([0, 2], range(4)))), golden["mask_c3_p4_leads02"])
    assert np.array_equal(cropa_rule(list(itertools.product([1, 2], range(50)))), golden["mask_c8_p50_leads12"])
    assert np.array_equal(cropa_rule(list(itertools.product(range(3), [0, 2, 3]))), golden["mask_c3_p4_vis1011"])
    assert np.abs(grid_positions(8, 50, 768).flatten(0, 1).numpy() - golden["pos2d_768_8_50"]).max() < 1e-12
    assert np.abs(grid_positions(3, 4, 16).flatten(0, 1).numpy() - golden["pos2d_16_3_4"]).max() < 1e-12
    assert np.abs(grid_positions(1, 50, 384)[0].numpy() - golden["pos_pred_384_1_50"]).max() < 1e-12
