from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from skecg.compute.devices import autocast
from skecg.encoders import build_encoder
from skecg.encoders import linear as packing
from skecg.encoders.linear import (
    Linear,
    PackedLinear,
    can_multiply_bfloat16,
    goes_to_onednn,
    has_faster_products,
    pack_linear_layers_,
)
from skecg.spec import LeadwiseConfig, MultiscaleConfig, TemporalConfig

CPU = torch.device("cpu")
SHAPES = [(192, 576), (768, 192), (50, 400), (130, 1030)]
TEMPORAL = TemporalConfig(n_leads=3, patch_samples=10, n_patches=20, dim=192, depth=2, num_heads=3)
LEADWISE = LeadwiseConfig(n_leads=3, patch_samples=10, n_patches=7, dim=192, depth=2, num_heads=3)
MULTISCALE = MultiscaleConfig(n_leads=3, patch_samples=10, n_patches=20, dim=192, depth=2, num_heads=3)
CONFIGS = pytest.mark.parametrize(
    "config", [TEMPORAL, LEADWISE, MULTISCALE], ids=["temporal", "leadwise", "multiscale"]
)

PRECISIONS = [
    pytest.param("fp32", marks=pytest.mark.skipif(not has_faster_products(), reason="MKL multiplies here")),
    pytest.param("bf16", marks=pytest.mark.skipif(not can_multiply_bfloat16(), reason="no bfloat16 here")),
]


pytestmark = pytest.mark.usefixtures("one_thread")


def layer(n_in: int, n_out: int, *, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    return Linear(n_in, n_out, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n_in", "n_out"), SHAPES)
def test_packed_layers_compute_the_same_bits(precision, bias, n_in, n_out):
    source = layer(n_in, n_out, bias=bias)
    packed = PackedLinear(source, torch.bfloat16 if precision == "bf16" else torch.float32)
    with torch.inference_mode(), autocast(CPU, precision):
        for n_rows in [2, 3, 25, 64, 101, 800, 1201]:
            x = torch.randn(n_rows, n_in)
            assert torch.equal(packed(x), source(x))
            assert packed(x).dtype == source(x).dtype
        x = torch.randn(2, 5, n_in)
        assert torch.equal(packed(x), source(x))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_is_the_same_bits_whatever_stands_beside_it(precision):
    packed = PackedLinear(layer(192, 576), torch.bfloat16 if precision == "bf16" else torch.float32)
    x = torch.randn(300, 192)
    with torch.inference_mode():
        together, gelu = packed(x), packed.gelu(x)
        for rows in (slice(0, 1), slice(7, 9), slice(20, 300)):
            assert torch.equal(packed(x[rows]), together[rows])
            assert torch.equal(packed.gelu(x[rows]), gelu[rows])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n_in", "n_out"), SHAPES)
def test_the_gelu_is_the_exact_one_in_any_layer(precision, bias, n_in, n_out):
    source, x = layer(n_in, n_out, bias=bias), torch.randn(64, n_in)
    packed = PackedLinear(source, torch.bfloat16 if precision == "bf16" else torch.float32)
    exact, approximate = (
        F.gelu(F.linear(x, source.weight, source.bias), approximate=kind) for kind in ("none", "tanh")
    )
    torch.testing.assert_close(source.gelu(x), exact, rtol=1e-5, atol=1e-5)
    off = (packed.gelu(x) - exact).abs().max()
    assert off < 1e-5 < 1e-4 < (packed.gelu(x) - approximate).abs().max() if precision == "fp32" else off < 0.03


@pytest.mark.parametrize("precision", PRECISIONS)
@CONFIGS
def test_an_encoders_tokens_are_the_same_to_rounding(config, precision):
    torch.manual_seed(0)
    plain = build_encoder(config).eval().requires_grad_(False)
    packed = copy.deepcopy(plain)
    pack_linear_layers_(packed.blocks, precision)
    n_packed = sum(isinstance(module, PackedLinear) for module in packed.modules())
    assert n_packed == 4 * config.depth
    with torch.inference_mode(), autocast(CPU, precision):
        for n_windows, leads in [(1, None), (5, None), (3, [0, 2])]:
            x = torch.randn(n_windows, config.n_leads, config.window_samples)
            for found, wanted in zip(packed.layers(x, (0, -1), leads), plain.layers(x, (0, -1), leads), strict=True):
                tolerance = {"rtol": 1e-5, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.02, "atol": 0.1}
                torch.testing.assert_close(found, wanted, **tolerance)


def test_small_layers_and_other_types_stay_as_they_are():
    small, double = layer(16, 16), layer(192, 576).double()
    module = torch.nn.Sequential(small, double, torch.nn.Linear(192, 576))
    pack_linear_layers_(module, "fp32")
    assert module[0] is small
    assert not any(isinstance(child, PackedLinear) for child in module)
    assert not goes_to_onednn(small.weight)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_where_the_machine_does_not_gain_nothing_is_packed(monkeypatch, precision):
    monkeypatch.setattr("skecg.encoders.linear.goes_to_onednn", lambda _: False)
    monkeypatch.setattr("skecg.encoders.linear.can_multiply_bfloat16", lambda: False)
    module = torch.nn.Sequential(layer(192, 576))
    pack_linear_layers_(module, precision)
    assert isinstance(module[0], Linear)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_where_torch_cannot_pack_layers_stay_as_they_are(monkeypatch, error):
    def refuse(*_: object) -> None:
        raise error("no such operation")

    packing._can_pack.cache_clear()
    monkeypatch.setattr("skecg.encoders.linear._pack", refuse)
    module = torch.nn.Sequential(layer(192, 576))
    pack_linear_layers_(module, "bf16")
    packing._can_pack.cache_clear()
    assert isinstance(module[0], Linear)


def test_packing_takes_no_random_numbers():
    module = torch.nn.Sequential(layer(192, 576))
    packing._can_pack.cache_clear()
    before = torch.random.get_rng_state()
    pack_linear_layers_(module, "bf16")
    assert torch.equal(torch.random.get_rng_state(), before)
