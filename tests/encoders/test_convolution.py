"""Convolutions along time are torch's, laid out once or not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from skecg.compute.devices import autocast
from skecg.encoders import build_encoder, convolution
from skecg.encoders.convolution import CentredConvolution, PackedConvolution, pack_convolutions_
from skecg.encoders.resnet import ResnetConfig

CPU = torch.device("cpu")
# Windows, steps, channels in and out, kernel, stride: what a residual network asks for, at even and odd lengths.
SHAPES = [
    (1, 50, 12, 32, 7, 2),
    (3, 31, 32, 32, 3, 1),
    (2, 31, 32, 48, 3, 2),
    (2, 1, 16, 16, 3, 1),
    (2, 9, 16, 8, 1, 2),
]


@pytest.fixture(params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    kind = torch.bfloat16 if request.param == "bf16" else torch.float32
    convolution._can_pack.cache_clear()
    if not convolution._can_pack(kind):
        pytest.skip(f"this torch packs no convolutions in {request.param} for this processor")
    return str(request.param)


def layer(n_in: int, n_out: int, kernel: int, stride: int) -> CentredConvolution:
    torch.manual_seed(0)
    made = CentredConvolution(n_in, n_out, kernel, stride).requires_grad_(False)
    made.bias.normal_()
    return made


@pytest.mark.parametrize(("n_windows", "n_steps", "n_in", "n_out", "kernel", "stride"), SHAPES)
def test_a_convolution_is_torchs_with_half_a_kernel_of_zeros(n_windows, n_steps, n_in, n_out, kernel, stride):
    made, x = layer(n_in, n_out, kernel, stride), torch.randn(n_windows, n_steps, n_in)
    wanted = F.conv1d(x.mT, made.weight, made.bias, stride, kernel // 2).mT
    other = torch.randn_like(wanted)
    for found, exact in [
        (made(x), wanted),
        (made.relu(x), wanted.clamp(min=0)),
        (made.add_relu(x, other), (wanted + other).clamp(min=0)),
    ]:
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n_windows", "n_steps", "n_in", "n_out", "kernel", "stride"), SHAPES)
def test_a_packed_convolution_computes_the_same(precision, n_windows, n_steps, n_in, n_out, kernel, stride):
    plain, x = layer(n_in, n_out, kernel, stride), torch.randn(n_windows, n_steps, n_in)
    packed = PackedConvolution(plain, torch.bfloat16 if precision == "bf16" else torch.float32)
    other = torch.randn_like(plain(x))
    tolerance = {"rtol": 0.02, "atol": 0.05} if precision == "bf16" else {"rtol": 1e-5, "atol": 1e-5}
    kept = other.clone()
    for found, wanted in [
        (packed(x), plain(x)),
        (packed.relu(x), plain.relu(x)),
        (packed.add_relu(x, other), plain.add_relu(x, other)),
    ]:
        torch.testing.assert_close(found.float(), wanted, **tolerance)
    assert torch.equal(other, kept)
    assert not list(packed.parameters())
    assert not packed.state_dict()


def test_an_encoders_tokens_after_every_stage_are_the_same_to_rounding(precision):
    torch.manual_seed(0)
    plain = build_encoder(ResnetConfig(3, 500, (16, 32, 32), 2)).eval().requires_grad_(False)
    packed = copy.deepcopy(plain)
    pack_convolutions_(packed, precision)
    assert not any(isinstance(module, CentredConvolution) for module in packed.modules())
    tolerance = 1e-5 if precision == "fp32" else 0.03
    with torch.inference_mode(), autocast(CPU, precision):
        for n_windows, n_samples, leads in [(1, 500, None), (4, 333, [0, 2])]:
            x = torch.randn(n_windows, 3, n_samples)
            pairs = zip(packed.layers(x, (0, 1, 2), leads), plain.layers(x, (0, 1, 2), leads), strict=True)
            for found, wanted in pairs:
                assert (found - wanted).float().norm() < tolerance * wanted.float().norm()


def test_packing_takes_no_random_numbers(precision):
    module = torch.nn.Sequential(layer(4, 4, 3, 1))
    convolution._can_pack.cache_clear()
    before = torch.random.get_rng_state()
    pack_convolutions_(module, precision)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_where_torch_cannot_pack_convolutions_stay_as_they_are(monkeypatch, error):
    def refuse(*_: object) -> None:
        raise error("no such operation")

    convolution._can_pack.cache_clear()
    monkeypatch.setattr(convolution, "_pack", refuse)
    module = torch.nn.Sequential(layer(4, 4, 3, 1))
    pack_convolutions_(module, "fp32")
    convolution._can_pack.cache_clear()
    assert isinstance(module[0], CentredConvolution)


def test_where_the_processor_multiplies_no_bfloat16_and_for_other_types_nothing_is_packed(monkeypatch):
    convolution._can_pack.cache_clear()
    monkeypatch.setattr(convolution, "can_multiply_bfloat16", lambda: False)
    module = torch.nn.Sequential(layer(4, 4, 3, 1), layer(4, 4, 3, 1).double())
    pack_convolutions_(module, "bf16")
    pack_convolutions_(module[1:], "fp32")
    convolution._can_pack.cache_clear()
    assert all(isinstance(child, CentredConvolution) for child in module)
