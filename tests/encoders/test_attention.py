from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from skecg.encoders.blocks import attend

# Windows, heads, tokens, width of a head: the default's, a lone token, a width whose root is no power of two.
SHAPES = [(8, 3, 100, 64), (2, 1, 1, 8), (5, 4, 300, 24)]

pytestmark = pytest.mark.usefixtures("one_thread")


def heads(shape: tuple[int, ...], scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as a block makes them: views of one array."""
    B, H, N, d = shape
    qkv = scale * torch.randn(B, N, 3, H, d, generator=torch.Generator().manual_seed(0))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def truth(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by its formula, in float64."""
    q, k, v = (part.double() for part in (q, k, v))
    mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
    return mixed.transpose(1, 2).flatten(2).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_its_formula_to_rounding(shape):
    parts = heads(shape)
    torch.testing.assert_close(attend(*parts), truth(*parts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("autocast", [True, False])
@torch.inference_mode()
def test_in_bfloat16_attention_is_its_formula_to_bfloat16s_rounding(shape, autocast):
    parts = [part.bfloat16() for part in heads(shape)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mixed = attend(*parts)
    assert mixed.dtype == torch.bfloat16
    wanted = truth(*parts)
    assert (mixed - wanted).square().mean() < 1e-4 * wanted.square().mean()


@pytest.mark.parametrize("scale", [1e-4, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_very_small_and_very_large_logits_give_numbers(dtype, scale):
    parts = [part.to(dtype) for part in heads((2, 2, 40, 16), scale)]
    tolerance = 1e-4 if dtype == torch.float32 else 0.5  # of rounded logits of a thousand one may beat another
    assert (attend(*parts) - truth(*parts)).square().mean().sqrt() < tolerance * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_window_is_the_same_bits_whatever_stands_beside_it(dtype):
    q, k, v = (part.to(dtype) for part in heads((9, 3, 100, 64)))
    alone = [attend(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i in range(9)]
    assert torch.equal(attend(q, k, v), torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_what_is_not_a_number_stays_in_its_window(dtype):
    q, k, v = (part.to(dtype) for part in heads((3, 2, 10, 8)))
    wanted = attend(q, k, v)
    k[1, 0, 4] = torch.nan
    mixed = attend(q, k, v)
    assert mixed[1].isnan().any()
    assert torch.equal(mixed[[0, 2]], wanted[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_is_that_of_the_formula(dtype):
    parts = [part.to(dtype).requires_grad_() for part in heads((2, 2, 10, 8))]
    found = torch.autograd.grad(attend(*parts).float().sin().sum(), parts)
    wanted = torch.autograd.grad(truth(*parts).sin().sum(), parts)
    for gradient, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, right.to(dtype), rtol=1e-4, atol=1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize(("with_gradient", "most"), [(True, 512), (False, 1024)])
def test_in_bfloat16_all_logits_of_few_tokens_are_held_and_those_of_many_are_not(with_gradient, most, monkeypatch):
    fused = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v: fused.append(q.shape[2]) or v)
    with torch.set_grad_enabled(with_gradient):
        for n_tokens in (most, most + 1):
            attend(*(part.bfloat16() for part in heads((1, 1, n_tokens, 8))))
    assert fused == [most + 1]
