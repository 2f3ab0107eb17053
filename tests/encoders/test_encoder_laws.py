from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from plain_numpy import encode, temporal_position

from skecg.encoders import Encoder, build_encoder, read_encoder_config
from skecg.encoders.dual import DualConfig
from skecg.errors import ParameterError, ShapeError, WeightsFormatError
from skecg.spec import EncoderConfig, LeadwiseConfig, MultiscaleConfig, TemporalConfig

SMALL_RESIDUAL = {"residual_widths": (4, 6), "residual_blocks": (2, 1), "residual_kernel": 3, "residual_stem": 5}

CONFIGS = {
    "leadwise": LeadwiseConfig(n_leads=4, patch_samples=10, n_patches=6, dim=24, depth=3, num_heads=2),
    "temporal": TemporalConfig(n_leads=4, patch_samples=10, n_patches=6, dim=24, depth=3, num_heads=2),
    "temporal with biases": TemporalConfig(
        n_leads=4,
        patch_samples=10,
        n_patches=6,
        dim=24,
        depth=3,
        num_heads=2,
        num_registers=3,
        bias=True,
        norm_bias=True,
    ),
    "temporal without register": TemporalConfig(
        n_leads=4, patch_samples=10, n_patches=6, dim=24, depth=3, num_heads=2, num_registers=0
    ),
    "multiscale": MultiscaleConfig(4, 10, 6, 24, 3, 2, kernel_samples=(5, 7, 25), stem_dim=3),
    "multiscale without register": MultiscaleConfig(
        4, 10, 6, 24, 3, 2, kernel_samples=(2, 12), stem_dim=2, stride_samples=2, num_registers=0
    ),
    "dual": DualConfig(4, 10, 6, 24, 3, 2, kernel_samples=(5, 7), stem_dim=3, scale_floor=0.1, **SMALL_RESIDUAL),
    "dual without register": DualConfig(
        4,
        10,
        6,
        24,
        3,
        2,
        kernel_samples=(5,),
        stem_dim=2,
        scale_floor=0.3,
        num_registers=0,
        residual_stride=5,
        residual_widths=(4, 6, 6, 8),
        residual_blocks=(1, 1, 2, 1),
        residual_kernel=3,
        residual_stem=9,
        lead_energies=0.5,
    ),
}


@pytest.fixture(params=CONFIGS)
def encoder(request) -> Encoder:
    torch.manual_seed(1)
    encoder = build_encoder(CONFIGS[request.param]).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.add_(0.15 * torch.randn_like(parameter))
    return encoder


def windows_for(encoder: Encoder, n_windows: int = 2, n_samples: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n_windows)
    return torch.randn(n_windows, encoder.config.n_leads, n_samples, generator=generator)


def numpy_tokens(encoder: Encoder, windows: torch.Tensor, **choices) -> np.ndarray:
    return np.stack([encode(encoder, window, **choices) for window in windows.numpy()])


def assert_same(found: torch.Tensor, wanted: np.ndarray | torch.Tensor, tolerance: float = 1e-5) -> None:
    assert tuple(found.shape) == tuple(wanted.shape)
    assert np.abs(found.numpy() - np.asarray(wanted)).max() < tolerance


def test_tokens_equal_the_plain_definition(encoder):
    windows = windows_for(encoder)
    assert_same(encoder(windows), numpy_tokens(encoder, windows))


@pytest.mark.parametrize("leads", [[0], [2], [1, 3], [0, 1, 2], [3, 0], [0, 1, 2, 3]])
def test_absent_leads_leave_what_the_definition_says_without_them(encoder, leads):
    windows = windows_for(encoder)
    assert_same(encoder(windows, leads=leads), numpy_tokens(encoder, windows, leads=leads))


def test_what_lies_in_an_absent_lead_does_not_matter(encoder):
    windows = windows_for(encoder)
    filled = windows.clone()
    filled[:, [0, 2]] = 1e6
    assert torch.equal(encoder(filled, leads=[1, 3]), encoder(windows, leads=[1, 3]))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "leadwise"])
def test_leaving_leads_out_equals_feeding_zeros_when_a_token_is_all_leads(name):
    encoder = build_encoder(CONFIGS[name]).eval().requires_grad_(False)
    windows = windows_for(encoder)
    zeroed = windows.clone()
    zeroed[:, [0, 3]] = 0
    assert_same(encoder(windows, leads=[1, 2]), encoder(zeroed))


def test_visible_slices_are_encoded_as_if_the_others_did_not_exist(encoder):
    windows = windows_for(encoder)
    visible = [[0, 2, 3], [1, 4, 5]]
    found = encoder(windows, visible_BK=torch.tensor(visible))
    wanted = [encode(encoder, window, visible=v) for window, v in zip(windows.numpy(), visible, strict=True)]
    assert_same(found, np.stack(wanted))


def test_all_slices_visible_equals_not_naming_any(encoder):
    windows = windows_for(encoder)
    assert_same(encoder(windows, visible_BK=torch.arange(6).expand(2, -1)), encoder(windows))


def test_visible_slices_and_fewer_leads_go_together(encoder):
    windows = windows_for(encoder)
    found = encoder(windows, leads=[1, 3], visible_BK=torch.tensor([[0, 4], [0, 4]]))
    assert_same(found, numpy_tokens(encoder, windows, leads=[1, 3], visible=[0, 4]))


@pytest.mark.parametrize("n_samples", [10, 30, 60])
def test_a_crop_begins_at_position_zero(encoder, n_samples):
    windows = windows_for(encoder)[:, :, 60 - n_samples :]
    assert_same(encoder(windows), numpy_tokens(encoder, windows))


def test_a_crop_is_the_window_with_only_its_slices_visible_at_the_start(encoder):
    windows = windows_for(encoder)
    visible = torch.arange(3).expand(2, -1)
    assert_same(encoder(windows[:, :, :30]), encoder(windows, visible_BK=visible))


def test_registers_come_first_and_tokens_follow_lead_after_lead(encoder):
    tokens = encoder(windows_for(encoder))
    n_patch_tokens = 24 if encoder.token_per_lead else 6
    assert tokens.shape == (2, encoder.num_registers + n_patch_tokens, encoder.config.stages[-1].width)


def test_every_layer_equals_the_plain_definition_cut_there(encoder):
    windows = windows_for(encoder)
    for number, tokens in enumerate(encoder.layers(windows, (0, 1, 2))):
        assert_same(tokens, numpy_tokens(encoder, windows, depth=number + 1))


def test_the_last_layer_is_what_forward_gives(encoder):
    windows = windows_for(encoder)
    last, first, last_again = encoder.layers(windows, (-1, 0, 2))
    assert torch.equal(last, encoder(windows))
    assert torch.equal(last, last_again)
    assert not torch.equal(first, last)


@pytest.mark.parametrize(("layers", "computed"), [((0,), 1), ((1, 0), 2), ((-1,), 3), ((0, -1), 3), ((-3,), 1)])
def test_blocks_beyond_the_last_wanted_are_not_computed(encoder, layers, computed):
    calls = []
    hooks = [block.register_forward_hook(lambda *_: calls.append(1)) for block in encoder.blocks]
    encoder.layers(windows_for(encoder), layers)
    for hook in hooks:
        hook.remove()
    assert len(calls) == computed


@pytest.mark.parametrize("layer", [3, -4, 99])
def test_a_layer_that_does_not_exist_is_refused(encoder, layer):
    with pytest.raises(ParameterError, match=f"layer={layer}, expected -3 to 2"):
        encoder.layers(windows_for(encoder), (layer,))


def test_tokens_do_not_depend_on_the_batch(encoder):
    windows = windows_for(encoder, 64)
    together = encoder(windows)
    for size in (1, 3):
        apart = torch.cat([encoder(part) for part in windows.split(size)])
        assert_same(apart, together)


@pytest.mark.parametrize("shape", [(4, 60), (2, 3, 60), (2, 5, 60), (2, 4, 70), (2, 4, 55), (2, 4, 0), (1, 2, 4, 60)])
def test_windows_of_another_shape_are_refused_with_the_shape_wanted(encoder, shape):
    with pytest.raises(ShapeError, match=re.escape("expected (n_windows, 4, n_samples)")):
        encoder(torch.zeros(shape))


def test_the_temporal_position_table_is_the_formula():
    encoder = build_encoder(TemporalConfig(n_leads=1, patch_samples=5, n_patches=50, dim=64, depth=1, num_heads=1))
    wanted = np.stack([temporal_position(n, 64) for n in range(50)])
    assert np.abs(encoder.positions_ND.numpy() - wanted).max() < 1e-5  # angles are in float32, as published


def test_positions_are_not_stored_with_the_weights(encoder):
    assert not [name for name in encoder.state_dict() if "position" in name]


SIZES = [
    (TemporalConfig(n_leads=12, patch_samples=25, n_patches=200, dim=192, depth=8, num_heads=4), 3_600_000),
    (TemporalConfig(n_leads=12, patch_samples=25, n_patches=200, dim=384, depth=8, num_heads=6), 14_277_888),
    (TemporalConfig(n_leads=12, patch_samples=25, n_patches=200, dim=768, depth=12, num_heads=12), 85_185_024),
    (LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=50, dim=768, depth=12, num_heads=16), 85_067_520),
]


@pytest.mark.parametrize(("config", "n_parameters"), SIZES)
def test_the_published_sizes_have_the_published_number_of_parameters(config, n_parameters):
    with torch.device("meta"):
        encoder = build_encoder(config)
    assert sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad) == n_parameters


def test_initial_weights_are_small_and_scaled_down_with_depth():
    torch.manual_seed(0)
    temporal = build_encoder(TemporalConfig(n_leads=2, patch_samples=25, n_patches=4, dim=96, depth=8, num_heads=2))
    leadwise = build_encoder(LeadwiseConfig(n_leads=2, patch_samples=25, n_patches=4, dim=96, depth=8, num_heads=2))
    for encoder in (temporal, leadwise):
        assert encoder.blocks[3].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert temporal.blocks[3].mlp.fc2.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert leadwise.blocks[7].mlp.fc2.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert leadwise.blocks[0].mlp.fc2.weight.std().item() == pytest.approx(0.02 / 2**0.5, rel=0.1)


def test_the_same_seed_draws_the_same_encoder():
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(build_encoder(CONFIGS["leadwise"]).state_dict())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


def test_an_unknown_architecture_is_refused_with_those_known():
    with pytest.raises(WeightsFormatError, match="'leadwise', 'multiscale', 'temporal'"):
        read_encoder_config("spatial", {})


def test_a_configuration_without_architecture_builds_nothing():
    config = EncoderConfig(n_leads=1)
    with pytest.raises(WeightsFormatError, match="EncoderConfig"):
        build_encoder(config)


@pytest.mark.parametrize("config", [CONFIGS["leadwise"], CONFIGS["temporal with biases"], CONFIGS["multiscale"]])
def test_a_configuration_reads_itself_back(config):
    assert read_encoder_config(config.architecture, config.to_dict()) == config
