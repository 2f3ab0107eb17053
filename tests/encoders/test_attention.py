from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from skecg.encoders import blocks as attention
from skecg.encoders import build_encoder
from skecg.encoders.blocks import small_products
from skecg.spec import LeadwiseConfig, TemporalConfig

# Windows, heads, tokens, width of a head: the default's, a lone token, none, more than is held at once (of windows, of
# the heads of one).
SHAPES = [(8, 3, 100, 64), (2, 1, 1, 8), (0, 2, 5, 8), (2, 2, 0, 8), (5, 4, 300, 16), (2, 3, 520, 8)]
TEMPORAL = TemporalConfig(n_leads=3, patch_samples=10, n_patches=20, dim=24, depth=2, num_heads=3)
LEADWISE = LeadwiseConfig(n_leads=3, patch_samples=10, n_patches=7, dim=24, depth=2, num_heads=3)


@pytest.fixture
def numpy_multiplies(monkeypatch, one_thread):
    """A machine whose small products go to NumPy, whatever this one is; a list of what did."""
    calls: list[tuple[int, ...]] = []
    original = attention._is_for_numpy

    def count(*tensors: Tensor) -> bool:
        chosen = original(*tensors)
        calls.extend([tuple(tensors[0].shape)] * chosen)
        return chosen

    monkeypatch.setattr(attention, "has_faster_products", lambda: True)
    monkeypatch.setattr(attention, "_has_faster_small_products", lambda: True)
    monkeypatch.setattr(attention, "_is_for_numpy", count)
    return calls


def heads(shape: tuple[int, ...], scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as a block makes them: views of one array."""
    B, H, N, d = shape
    qkv = scale * torch.randn(B, N, 3, H, d, generator=torch.Generator().manual_seed(0))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of heads that lie side by side again."""
    return attention.attend(torch.stack([q, k, v]).permute(1, 3, 0, 2, 4).contiguous())


def truth(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by its formula, in float64."""
    q, k, v = (part.double() for part in (q, k, v))
    mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
    return mixed.transpose(1, 2).flatten(2).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_its_formula_to_rounding(numpy_multiplies, shape):
    parts = heads(shape)
    torch.testing.assert_close(attend(*parts), truth(*parts), rtol=1e-5, atol=1e-6)
    assert bool(numpy_multiplies) is (parts[0].numel() > 0)


@pytest.mark.parametrize("scale", [1e-4, 30.0])
def test_very_small_and_very_large_logits_are_no_trouble(numpy_multiplies, scale):
    parts = heads((2, 2, 40, 16), scale)
    torch.testing.assert_close(attend(*parts), truth(*parts), rtol=1e-3, atol=1e-4 * scale)


def test_rows_whose_sums_leave_the_range_are_shifted_and_no_others(numpy_multiplies):
    q, k, v = (part.clone() for part in heads((3, 2, 40, 16)))
    usual = attend(q, k, v)
    k[..., 0] = 1.0  # so that all logits of a row rise and fall with this feature of its query
    q[..., 0] = 0.0
    wanted = attend(q, k, v)
    assert not torch.equal(wanted, usual)
    q[0, 0, 3, 0], q[1, 1, 7, 0], q[2, 0, 5, 0] = 3000.0, -3000.0, 240.0
    mixed = attend(q, k, v)
    far = torch.zeros(3, 40, 2, dtype=torch.bool)
    far[0, 3, 0] = far[1, 7, 1] = far[2, 5, 0] = True
    rows, wanted_rows = mixed.view(3, 40, 2, 16), wanted.view(3, 40, 2, 16)
    assert torch.equal(rows[~far], wanted_rows[~far]), "to the bit"
    torch.testing.assert_close(
        rows[far], wanted_rows[far], rtol=1e-2, atol=1e-3
    )  # what 3000 leaves of the other digits
    torch.testing.assert_close(mixed, truth(q, k, v), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("power", [-150, -145, -140, -130, -61, -59, 59, 61, 120, 126])
def test_rows_anywhere_in_the_range_of_float32_lose_no_digits(numpy_multiplies, power):
    q, k, v = (part.clone() for part in heads((2, 2, 40, 16), 0.3))
    k[..., 0] = 1.0
    q[..., 0] = power * 16**0.5 / math.log2(math.e)  # all logits of all rows are about so many powers of two
    if power > 0:
        v *= 1e3
    found, wanted = attend(q, k, v), truth(q, k, v)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def test_what_is_not_a_number_stays_in_its_window(numpy_multiplies):
    q, k, v = (part.clone() for part in heads((3, 2, 10, 8)))
    k[1, 0, 4] = torch.nan
    mixed = attend(q, k, v)
    assert mixed[1].isnan().any()
    torch.testing.assert_close(mixed[[0, 2]], truth(q, k, v)[[0, 2]], rtol=1e-5, atol=1e-6)


def test_a_window_is_the_same_bits_whatever_stands_beside_it(numpy_multiplies):
    q, k, v = heads((9, 4, 300, 16))
    alone = [attend(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i in range(9)]
    assert torch.equal(attend(q, k, v), torch.cat(alone))


def test_bfloat16_is_mixed_in_float32(numpy_multiplies):
    parts = [part.bfloat16() for part in heads((2, 2, 40, 16))]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attend(*parts)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, truth(*parts), rtol=1e-5, atol=1e-6)


def test_products_are_torchs_to_rounding(numpy_multiplies):
    a, b, _ = heads((3, 4, 20, 16))
    torch.testing.assert_close(small_products(a, b.mT), a @ b.mT, rtol=1e-5, atol=1e-5)
    assert len(numpy_multiplies) == 1


@pytest.mark.parametrize("config", [TEMPORAL, LEADWISE], ids=["temporal", "leadwise"])
def test_an_encoders_tokens_are_the_same_to_rounding(numpy_multiplies, config):
    torch.manual_seed(0)
    encoder = build_encoder(config).eval()
    x = torch.randn(4, config.n_leads, config.window_samples)
    with torch.inference_mode():
        ours = encoder(x)
        assert numpy_multiplies
        torch.set_num_threads(2)
        torch.testing.assert_close(ours, encoder(x), rtol=1e-5, atol=1e-5)


def test_torch_multiplies_where_a_gradient_is_wanted(numpy_multiplies):
    q, k, v = (part.clone().requires_grad_() for part in heads((2, 2, 10, 8)))
    attend(q, k, v).sum().backward()
    small_products(q, k.mT).sum().backward()
    assert q.grad is not None
    assert numpy_multiplies == []


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap over torch's own attention
def test_torch_multiplies_where_it_has_several_threads_or_is_watched_or_rewritten(numpy_multiplies):
    q, k, v = heads((2, 2, 10, 8))
    with FlopCounterMode(display=False):
        attend(q, k, v)
    torch.func.vmap(lambda q, k, v: attend(q[None], k[None], v[None]))(q, k, v)
    torch.set_num_threads(2)
    attend(q, k, v)
    assert numpy_multiplies == []


@pytest.mark.parametrize(("kernels", "n_threads"), [(None, 1), ("Prescott", 1), ("SkylakeX", 2)])
def test_torch_multiplies_where_numpys_library_is_no_better(monkeypatch, one_thread, kernels, n_threads):
    class Library:
        is_fast = kernels == "SkylakeX"

    Library.n_threads = n_threads
    asked = []
    monkeypatch.setattr(attention, "has_faster_products", lambda: True)
    monkeypatch.setattr(attention, "find_openblas", lambda: kernels and Library)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *parts: asked.append(parts) or parts[0])
    attend(*heads((2, 2, 10, 8)))
    assert len(asked) == 1


def test_torchs_default_type_does_not_matter(numpy_multiplies):
    parts = heads((2, 2, 10, 8))
    wanted = attend(*parts)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(attend(*parts), wanted)
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(numpy_multiplies) == 2
