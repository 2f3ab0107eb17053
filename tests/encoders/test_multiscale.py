"""What only the multiscale encoder has: kernels wider than a patch, a token for each lead, places without a token.

The laws that all encoders share are in test_encoder_laws.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_numpy import encode

from skecg.encoders import Encoder, build_encoder
from skecg.encoders.multiscale import shapes_and_amplitudes
from skecg.errors import WeightsFormatError
from skecg.spec import MultiscaleConfig

SHAPE = {"n_leads": 4, "patch_samples": 10, "n_patches": 6, "dim": 24, "depth": 2, "num_heads": 2}
STEM = {"kernel_samples": (5, 7, 25), "stem_dim": 3}


def an_encoder(lead_groups: int, **changes) -> Encoder:
    torch.manual_seed(1)
    shape = MultiscaleConfig(**SHAPE, **STEM, lead_groups=lead_groups, **changes)
    encoder = build_encoder(shape).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.add_(0.15 * torch.randn_like(parameter))
    return encoder


@pytest.fixture
def encoder() -> Encoder:
    """One with a token for each lead."""
    return an_encoder(4)


@pytest.fixture
def windows() -> torch.Tensor:
    return torch.randn(2, 4, 60, generator=torch.Generator().manual_seed(2))


def wanted(encoder: Encoder, windows: torch.Tensor, visible: list[list[int]] | None = None, **how) -> np.ndarray:
    chosen = visible or [None] * len(windows)
    return np.stack([encode(encoder, w, visible=v, **how) for w, v in zip(windows.numpy(), chosen, strict=True)])


def assert_same(found: torch.Tensor, other: np.ndarray | torch.Tensor) -> None:
    assert tuple(found.shape) == tuple(other.shape)
    assert np.abs(found.numpy() - np.asarray(other)).max() < 1e-5


def test_tokens_of_single_leads_equal_the_plain_definition(encoder, windows):
    assert_same(encoder(windows), wanted(encoder, windows))
    assert encoder(windows).shape == (2, 1 + 24, 24)


@pytest.mark.parametrize("leads", [[0], [2], [1, 3], [3, 0]])
def test_absent_leads_have_no_tokens(encoder, windows, leads):
    found = encoder(windows, leads=leads)
    assert found.shape[1] == 1 + 6 * len(leads)
    assert_same(found, wanted(encoder, windows, leads=leads))
    filled = windows.clone()
    filled[:, [lead for lead in range(4) if lead not in leads]] = 1e6
    assert torch.equal(encoder(filled, leads=leads), found)


def test_visible_tokens_are_encoded_as_the_definition_says(encoder, windows):
    visible = [[0, 7, 23], [3, 4, 12]]
    assert_same(encoder(windows, visible_BK=torch.tensor(visible)), wanted(encoder, windows, visible))


def test_token_numbers_count_among_the_leads_that_are_there(encoder, windows):
    visible = [[0, 7], [3, 11]]
    found = encoder(windows, leads=[1, 3], visible_BK=torch.tensor(visible))
    assert_same(found, wanted(encoder, windows, visible, leads=[1, 3]))


@pytest.mark.parametrize("lead_groups", [1, 4])
def test_no_kernel_is_so_wide_that_a_visible_token_learns_of_hidden_samples(windows, lead_groups):
    encoder = an_encoder(lead_groups)
    visible = torch.tensor([[0, 2, 3], [1, 4, 5]])
    hidden = torch.ones(2, lead_groups * 6, dtype=torch.bool).scatter(1, visible, False)
    patches = windows.clone().unflatten(2, (6, 10))
    patches.masked_fill_(hidden.view(2, lead_groups, 6, 1), torch.nan)
    assert torch.equal(encoder(patches.flatten(2), visible_BK=visible), encoder(windows, visible_BK=visible))


def test_a_visible_token_does_learn_of_its_visible_neighbours_samples(windows):
    stem = an_encoder(1).stem
    changed = windows.clone()
    changed[:, :, 20:30] += 1.0
    moved = (stem(changed) - stem(windows)).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize("lead_groups", [1, 4])
def test_places_without_a_token_are_as_if_they_were_not_there(windows, lead_groups):
    encoder = an_encoder(lead_groups)
    visible = torch.tensor([[1, 3], [0, 5]])
    filled = torch.tensor([[1, 3, -1, -1], [0, 5, -1, -1]])
    together = torch.tensor([[1, 3, -1], [0, 4, 5]])
    assert_same(encoder(windows, visible_BK=filled)[:, :3], encoder(windows, visible_BK=visible))
    found = encoder(windows, visible_BK=together)
    assert_same(found[:1, :3], encoder(windows[:1], visible_BK=visible[:1]))
    assert_same(found[1:], encoder(windows[1:], visible_BK=together[1:]))


@pytest.mark.parametrize("lead_groups", [1, 4])
def test_attention_needs_no_mask_where_no_token_is_lacking(windows, lead_groups, monkeypatch):
    encoder, visible = an_encoder(lead_groups), torch.tensor([[1, 3], [0, 5]])
    without = encoder(windows, visible_BK=visible)
    masked = torch.ones(2, encoder.num_registers + 2, dtype=torch.bool)
    with monkeypatch.context() as patched:
        patched.setattr(encoder, "_places", lambda visible_BK: masked)
        assert_same(encoder(windows, visible_BK=visible), without)
    # Elsewhere than on a CPU nobody looks, so whoever knows has to say so.
    elsewhere = visible.to("meta")
    assert encoder._places(elsewhere) is not None
    encoder.may_lack_tokens = False
    assert encoder._places(elsewhere) is None
    assert torch.equal(encoder(windows, visible_BK=visible), without)


@pytest.fixture
def scaled() -> Encoder:
    """One that takes shape and amplitude apart."""
    return an_encoder(1, scale_floor=0.1)


@pytest.mark.parametrize("leads", [None, [2], [3, 1]])
@pytest.mark.parametrize("visible", [None, [[0, 3, 5], [1, 2, 4]]])
def test_shape_and_amplitude_apart_equal_the_plain_definition(scaled, windows, leads, visible):
    index = None if visible is None else torch.tensor(visible)
    assert_same(scaled(windows, leads=leads, visible_BK=index), wanted(scaled, windows, visible, leads=leads))


def test_a_gain_leaves_shapes_and_adds_its_logarithm_to_amplitudes(windows):
    (shapes, amplitudes), (same, louder) = (shapes_and_amplitudes(k * windows, 1.0, 1e-4) for k in (1.0, 3.0))
    assert torch.allclose(same, shapes, atol=1e-5)
    assert torch.allclose(louder - amplitudes, torch.tensor(3.0).log().expand(2, 4), atol=1e-5)


def test_a_lead_far_below_the_floor_counts_as_absent(scaled, windows):
    flat = windows.clone()
    flat[:, 2] *= 1e-6
    assert torch.allclose(scaled(flat), scaled(windows, leads=[0, 1, 3]), atol=1e-3)
    flat[:, 2] = 0.0
    assert_same(scaled(flat), scaled(windows, leads=[0, 1, 3]))


def test_shape_and_amplitude_of_hidden_samples_are_not_told(scaled, windows):
    visible = torch.tensor([[0, 2, 3], [1, 4, 5]])
    loud = windows.unflatten(2, (6, 10)).clone()
    loud[0, :, [1, 4, 5]], loud[1, :, [0, 2, 3]] = 1e3, 1e3
    assert_same(scaled(loud.flatten(2), visible_BK=visible), scaled(windows, visible_BK=visible))


@pytest.mark.parametrize("n_patches", [1, 4])
def test_a_short_window_is_the_whole_one_with_the_rest_hidden(encoder, windows, n_patches):
    visible = (torch.arange(4)[:, None] * 6 + torch.arange(n_patches)).flatten().expand(2, -1)
    assert_same(encoder(windows[:, :, : 10 * n_patches]), encoder(windows, visible_BK=visible))


def test_leads_share_their_convolutions_and_are_told_apart_by_position(encoder, windows):
    swapped = windows[:, [1, 0, 2, 3]]
    features = encoder.stem(windows).unflatten(1, (4, 6))
    assert_same(encoder.stem(swapped).unflatten(1, (4, 6)), features[:, [1, 0, 2, 3]])
    assert not torch.allclose(encoder(swapped), encoder(windows), atol=1e-2)


def test_gradients_reach_every_weight_through_the_visible_tokens(windows):
    for lead_groups in (1, 4):
        encoder = an_encoder(lead_groups).requires_grad_()
        encoder(windows, visible_BK=torch.tensor([[0, 2, -1], [1, 4, 5]]))[:, 1:].square().sum().backward()
        without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum()]
        assert without == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lead_groups": 2}, "lead_groups=2 .* expected 1 or n_leads=4"),
        ({"kernel_samples": ()}, "kernel_samples"),
        ({"kernel_samples": (5, 3)}, "kernel_samples"),
        ({"kernel_samples": (5, 8)}, "kernel_samples"),
        ({"kernel_samples": 5}, "kernel_samples"),
        ({"stride_samples": 4}, "stride_samples=4 .* expected a divisor of 10"),
        ({"stem_dim": 0}, "stem_dim"),
        ({"num_registers": -1}, "num_registers"),
        ({"dim": 18}, "dim=18 .* expected a multiple of 4"),
        ({"scale_floor": 0.0}, "scale_floor=0.0 .* expected a positive number"),
        ({"scale_floor": 0.1, "lead_groups": 4}, "lead_groups=4 .* expected 1 with scale_floor"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes, words):
    with pytest.raises(WeightsFormatError, match=words):
        MultiscaleConfig(**(SHAPE | STEM | changes))
