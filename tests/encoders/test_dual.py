"""What only the dual encoder has: two parts side by side in a token.

The laws that all encoders share, the plain definition among them, are in test_encoder_laws.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch

from skecg.encoders import Encoder, build_encoder
from skecg.encoders.convolution import pack_convolutions_
from skecg.encoders.dual import DualConfig
from skecg.encoders.linear import pack_linear_layers_
from skecg.errors import WeightsFormatError
from skecg.spec import MultiscaleConfig

CONFIG = DualConfig(
    n_leads=4,
    patch_samples=10,
    n_patches=12,
    dim=24,
    depth=2,
    num_heads=2,
    kernel_samples=(5, 25),
    stem_dim=3,
    scale_floor=0.1,
    residual_widths=(8, 12, 16),
    residual_blocks=(1, 2, 1),
)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(1)
    return build_encoder(CONFIG).eval().requires_grad_(False)


@pytest.fixture
def windows() -> torch.Tensor:
    return torch.randn(2, 4, 120, generator=torch.Generator().manual_seed(2))


def test_the_first_part_of_a_token_is_the_multiscale_encoders(encoder, windows):
    names = [field.name for field in dataclasses.fields(MultiscaleConfig)]
    alone = build_encoder(MultiscaleConfig(**{name: getattr(CONFIG, name) for name in names})).eval()
    alone.load_state_dict({name: t for name, t in encoder.state_dict().items() if not name.startswith("residual.")})
    torch.testing.assert_close(encoder(windows)[..., :24], alone(windows), rtol=0, atol=0)
    assert encoder(windows).shape == (2, 1 + 12, 24 + 16)


def test_convolutions_see_a_visible_stretch_as_the_recording_that_it_is(encoder, windows):
    stretch = torch.arange(4, 9).expand(2, -1)
    seen, cut = encoder(windows, visible_BK=stretch), encoder(windows[:, :, 40:90])
    torch.testing.assert_close(seen[..., 24:], cut[..., 24:], rtol=0, atol=1e-6)


def test_what_is_hidden_does_not_matter(encoder, windows):
    visible = torch.tensor([[0, 1, 7, 8], [2, 3, 4, 11]])
    hidden = torch.ones(2, 12, dtype=torch.bool).scatter(1, visible, False).repeat_interleave(10, dim=1)
    other = torch.where(hidden[:, None], torch.full_like(windows, 1e3), windows)
    assert torch.equal(encoder(other, visible_BK=visible), encoder(windows, visible_BK=visible))


@pytest.fixture
def energetic(encoder) -> Encoder:
    """The same weights, with energies."""
    other = build_encoder(dataclasses.replace(CONFIG, lead_energies=0.5)).eval().requires_grad_(False)
    other.load_state_dict(encoder.state_dict())
    return other


def test_energies_end_a_token_and_change_nothing_before(encoder, energetic, windows):
    tokens = energetic(windows)
    assert tokens.shape == (2, 1 + 12, 24 + 16 + 4)
    assert energetic.config.stages[-1].width == 44
    assert energetic.config.token_parts == (24, 16)
    assert torch.equal(tokens[..., :40], encoder(windows))
    squares = windows.unflatten(2, (12, 10)).square().mean(dim=3)
    shares = squares / (squares.mean(dim=2, keepdim=True) + 0.1**2)
    own, presence = shares.log1p(), shares.mean(dim=2, keepdim=True)
    others = (own * presence).sum(dim=1, keepdim=True) / presence.sum(dim=1, keepdim=True)
    wanted = (own + 0.5 * (1 - presence) * others).mT
    torch.testing.assert_close(tokens[:, 1:, 40:], wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(tokens[:, 0, 40:], wanted.mean(dim=1), rtol=0, atol=1e-6)


def test_energies_know_neither_gain_nor_absent_leads_nor_hidden_slices(energetic, windows):
    whole = energetic(windows)[:, 1:, 40:]
    torch.testing.assert_close(energetic(2 * windows)[:, 1:, 40:], whole, rtol=0, atol=0.01)
    own = build_encoder(dataclasses.replace(energetic.config, lead_energies=0.0)).eval().requires_grad_(False)
    own.load_state_dict(energetic.state_dict())
    some = own(windows, leads=[1, 3])[:, 1:, 40:]
    assert not some[..., [0, 2]].any()
    assert torch.equal(some[..., [1, 3]], own(windows)[:, 1:, 40:][..., [1, 3]])
    seen = energetic(windows, visible_BK=torch.arange(4, 9).expand(2, -1))
    torch.testing.assert_close(seen[..., 40:], energetic(windows[:, :, 40:90])[..., 40:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_flat_or_absent_lead_has_a_part_of_the_others_energies(energetic, windows, part):
    encoder = build_encoder(dataclasses.replace(energetic.config, lead_energies=part)).eval().requires_grad_(False)
    encoder.load_state_dict(energetic.state_dict())
    flat = torch.cat([windows[:, :3], torch.zeros_like(windows[:, :1])], dim=1)
    energies = encoder(flat)[:, 1:, 40:]
    torch.testing.assert_close(energies[..., 3], part * energies[..., :3].mean(dim=2), rtol=0, atol=0.02)
    assert torch.equal(encoder(windows, leads=[0, 1, 2])[:, 1:, 40:], energies)
    assert not encoder(torch.zeros_like(windows))[..., 40:].any()


def test_places_without_a_token_are_silent(encoder, windows):
    visible = torch.tensor([[0, 1, 2, -1], [3, 4, 5, 6]])
    tokens = encoder(windows, visible_BK=visible)
    shortened = encoder(torch.cat([windows[:1, :, :30], torch.zeros(1, 4, 10)], dim=2))
    # The scale of a lead is over all places here, so that only what does not depend on it can be compared.
    assert torch.isfinite(tokens).all()
    assert tokens.shape == (2, 5, 40)
    torch.testing.assert_close(tokens[0, 1:4, 24:], shortened[0, 1:4, 24:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_it_computes_the_same_to_rounding(encoder, windows, precision):
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        plain = encoder(windows).float()
        pack_linear_layers_(encoder.packed_part, precision)
        pack_convolutions_(encoder.packed_part, precision)
        packed = encoder(windows).float()
    torch.testing.assert_close(packed, plain, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_parameters_and_operations_are_counted():
    encoder = build_encoder(CONFIG)
    n_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    assert 0.6 * n_parameters < CONFIG.fewest_parameters <= n_parameters
    n_convolved = sum(
        layer.weight.numel() for name, layer in encoder.residual.named_modules() if hasattr(layer, "stride")
    )
    names = [field.name for field in dataclasses.fields(MultiscaleConfig)]
    alone = MultiscaleConfig(**{name: getattr(CONFIG, name) for name in names})
    assert CONFIG.fewest_parameters - alone.fewest_parameters == n_convolved
    # The stem and the first level have five steps in a slice of time, all else has one.
    early = sum(
        t.numel()
        for n, t in encoder.residual.named_parameters()
        if n.startswith(("stem.w", "levels.0.conv")) and n.endswith("weight")
    )
    assert CONFIG.flops(12) - alone.flops(12) == 2 * 12 * (n_convolved + 4 * early)


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra onnx is not installed",
)
def test_as_a_graph_it_gives_its_tokens_for_windows_of_any_number_and_length():
    import onnxruntime

    from skecg.backends.onnx import WINDOWS, states_graph

    # As few blocks as there can be: an export takes seconds for each.
    shape = dataclasses.replace(CONFIG, depth=1, residual_blocks=(1, 1, 1))
    encoder = build_encoder(shape).eval().requires_grad_(False)
    session = onnxruntime.InferenceSession(states_graph(encoder, (0,), some_leads=False))
    for n_windows, n_samples in ((2, 120), (5, 30)):
        windows = torch.randn(n_windows, 4, n_samples, generator=torch.Generator().manual_seed(1))
        found = session.run(None, {WINDOWS: windows.numpy()})[0]
        assert np.abs(found - encoder(windows).numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"lead_groups": 4, "scale_floor": None}, "lead_groups"),
        ({"scale_floor": None}, "scale_floor"),
        ({"residual_kernel": 4}, "residual_kernel=4 .*an odd number"),
        ({"residual_stem": 0}, "residual_stem"),
        ({"residual_stride": 3}, "residual_stride=3 .*a divisor of 10"),
        ({"residual_widths": (8,)}, "residual_widths"),
        ({"residual_widths": (8, -1, 16)}, "residual_widths"),
        ({"residual_widths": (8, 12, 15)}, "a multiple of 2 heads"),
        ({"residual_blocks": (1, 1)}, "residual_blocks"),
        ({"residual_blocks": [1, 2, 1]}, "residual_blocks"),
        ({"lead_energies": True}, "lead_energies=True .*None, or a number from 0 to 1"),
        ({"lead_energies": 1.5}, "lead_energies=1.5 .*None, or a number from 0 to 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_name(change, wanted):
    with pytest.raises(WeightsFormatError, match=wanted):
        dataclasses.replace(CONFIG, **change)
