from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from skecg.encoders import linear as products
from skecg.encoders.linear import Linear, has_faster_products, linear

# Of widths that are no multiples of a processor's, above and below the size from which oneDNN takes over.
SHAPES = [((2, 37, 150), 130), ((101, 192), 576), ((3, 5, 7, 300), 129), ((1, 257), 64), ((6, 20), 30)]
HAS_OPERATION = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()


@pytest.fixture
def faster(monkeypatch):
    """A machine whose linear layers go to oneDNN, whatever this one is."""
    if not HAS_OPERATION:
        pytest.skip("this torch comes without oneDNN")
    monkeypatch.setattr(products, "has_faster_products", lambda: True)


@pytest.fixture
def counted(monkeypatch, faster):
    """How often oneDNN was asked."""
    calls: list[tuple[int, ...]] = []
    original = products._multiply_with_onednn

    def count(x: Tensor, *rest: Tensor | None, **how: bool) -> Tensor:
        calls.append(tuple(x.shape))
        return original(x, *rest, **how)

    monkeypatch.setattr(products, "_multiply_with_onednn", count)
    return calls


def layer(shape: tuple[int, ...], n_out: int, *, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw)
    weight = torch.randn(n_out, shape[-1], generator=draw) / shape[-1] ** 0.5
    return x, weight, torch.randn(n_out, generator=draw) if bias else None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "n_out"), SHAPES)
def test_products_are_torchs_to_rounding(faster, shape, n_out, bias):
    x, weight, offset = layer(shape, n_out, bias=bias)
    torch.testing.assert_close(linear(x, weight, offset), F.linear(x, weight, offset), rtol=1e-5, atol=1e-5)


def test_strides_do_not_matter(faster):
    x, weight, offset = layer((40, 150), 130)
    wanted = F.linear(x, weight, offset)
    for odd in (x.t().contiguous().t(), torch.stack([x, x], dim=1)[:, 1]):
        assert not odd.is_contiguous()
        torch.testing.assert_close(linear(odd, weight, offset), wanted, rtol=1e-5, atol=1e-5)
    columns = weight.t().contiguous().t()
    torch.testing.assert_close(linear(x, columns, offset), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "n_out"), SHAPES)
def test_gradients_are_torchs_to_rounding(faster, shape, n_out, bias):
    found, wanted = [], []
    for gradients, call in ((found, linear), (wanted, F.linear)):
        leaves = [part.requires_grad_() for part in layer(shape, n_out, bias=bias) if part is not None]
        gradients += torch.autograd.grad(call(*leaves).sin().sum(), leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_the_gradients_asked_for_are_computed(counted, wanted):
    parts = [part.requires_grad_(need) for part, need in zip(layer((30, 150), 130), wanted, strict=True)]
    linear(*parts).sum().backward()
    assert [part.grad is not None for part in parts] == list(wanted)
    assert len(counted) == 1 + (wanted[0] or wanted[1])


def test_gradients_have_gradients(faster):
    def penalty(call) -> Tensor:
        x, weight, bias = (part.requires_grad_() for part in layer((20, 150), 130))
        (slope,) = torch.autograd.grad(call(x, weight, bias).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        return weight.grad

    torch.testing.assert_close(penalty(linear), penalty(F.linear), rtol=1e-4, atol=1e-2)


def test_what_a_row_gives_does_not_depend_on_its_company(faster):
    x, weight, bias = layer((64, 150), 130)
    alone = torch.cat([linear(row[None], weight, bias) for row in x])
    torch.testing.assert_close(linear(x, weight, bias), alone, rtol=1e-5, atol=1e-5)


def test_the_same_rows_give_the_same_bits(faster):
    x, weight, bias = layer((808, 150), 130)
    assert torch.equal(linear(x, weight, bias), linear(x, weight, bias))


def test_threads_compute_what_one_does(faster):
    x, weight, bias = layer((16, 50, 150), 130)
    with ThreadPoolExecutor(4) as pool:
        found = torch.stack(list(pool.map(lambda part: linear(part, weight, bias), x)))
    torch.testing.assert_close(found, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_the_size_of_the_layer_decides_and_not_that_of_the_batch(counted):
    for rows in (1, 500):
        for n_out in (10, 130):
            x, weight, _ = layer((rows, 150), n_out)
            linear(x, weight)
    assert counted == [(1, 150), (500, 150)]


def test_other_types_other_machines_and_empty_batches_are_left_to_torch(counted, monkeypatch):
    x, weight, bias = layer((30, 150), 130)
    assert linear(x.double(), weight.double()).dtype == torch.float64
    assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    assert linear(x[:0], weight, bias).shape == (0, 130)
    assert linear(x[0], weight, bias).shape == (130,)
    assert linear(x.to("meta"), weight.to("meta")).device.type == "meta"
    monkeypatch.setattr(products, "has_faster_products", lambda: False)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    assert counted == []


def test_autocast_reduces_precision_as_everywhere(counted):
    x, weight, bias = layer((30, 150), 130)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert counted == []
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        assert linear(x, weight, bias).dtype == torch.float32
    assert len(counted) == 1


@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch traces and scripts of its own accord
def test_passes_that_are_watched_or_rewritten_see_torchs_own_operations(counted):
    x, weight, bias = layer((30, 150), 130)
    module = Linear(150, 130)
    with FlopCounterMode(display=False) as flops:
        linear(x, weight, bias)
    assert flops.get_total_flops() == 2 * 30 * 150 * 130
    assert "mkldnn" not in str(torch.export.export(module, (x,)).graph)
    assert "mkldnn" not in str(torch.jit.trace(module, x, check_trace=False).inlined_graph)
    mapped = torch.func.vmap(lambda row: linear(row, weight, bias))(x[:, None])
    torch.testing.assert_close(mapped[:, 0], F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
    tangent = torch.func.jvp(lambda part: linear(part, weight), (x,), (x,))[1]
    torch.testing.assert_close(tangent, F.linear(x, weight), rtol=1e-5, atol=1e-5)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(linear(forward_ad.make_dual(x, x), weight)).tangent
        torch.testing.assert_close(tangent, F.linear(x, weight), rtol=1e-5, atol=1e-5)
    assert counted == []


def test_many_gradients_at_once_are_those_one_by_one(faster):
    x, weight, _ = layer((3, 150), 130)
    slopes = torch.autograd.grad(
        linear(x.requires_grad_(), weight)[0], x, torch.eye(130), is_grads_batched=True, retain_graph=False
    )[0]
    torch.testing.assert_close(slopes[:, 0], weight, rtol=1e-5, atol=1e-5)


def test_the_layer_is_torchs_layer(faster):
    torch.manual_seed(0)
    wanted = nn.Linear(150, 130)
    torch.manual_seed(0)
    found = Linear(150, 130)
    x, *_ = layer((30, 150), 130)
    assert found.state_dict().keys() == wanted.state_dict().keys()
    assert torch.equal(found.weight, wanted.weight)
    for same in (found, copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        torch.testing.assert_close(same(x), wanted(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("vendor", "capability", "is_faster"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
def test_the_processor_decides(monkeypatch, vendor, capability, is_faster):
    if not (HAS_OPERATION and torch.backends.mkl.is_available()):
        pytest.skip("this torch has no choice")
    monkeypatch.setattr(products, "_processor", lambda: f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert has_faster_products.__wrapped__() is is_faster


def test_a_processor_that_no_file_describes_is_described_by_python(monkeypatch):
    monkeypatch.setattr(products, "Path", lambda _: products.platform)  # has no read_text: stands for no such file
    monkeypatch.setattr(products.platform, "read_text", lambda **_: (_ for _ in ()).throw(OSError), raising=False)
    monkeypatch.setattr(products.platform, "processor", lambda: "AMD64 Family 25 Model 97, AuthenticAMD")
    assert "AuthenticAMD" in products._processor()


def test_what_is_compiled_is_one_graph_of_torchs_own_operations():
    weight, x = torch.randn(192, 200), torch.randn(4, 200)
    has_faster_products.cache_clear()
    torch.compiler.reset()
    found = torch.compile(lambda x: linear(x, weight), backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(found, linear(x, weight))
