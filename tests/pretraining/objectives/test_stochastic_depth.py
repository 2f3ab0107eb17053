from __future__ import annotations

import pytest
import torch
from small_runs import PATCHES, small_config
from torch import Tensor, nn

from pretraining.distributed import open_engine
from pretraining.objectives.jepa import Jepa, JepaDraw
from pretraining.objectives.masks import draw_masks
from pretraining.objectives.stochastic_depth import StochasticDepth
from skecg.encoders.blocks import Attention, Block

DEPTH, DIM = 3, 4


class Stack(nn.Module):
    """Blocks whose branches give ones, whatever comes in, so that what is left out can be read off the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(Attention(DIM, 1, proj_bias=False), DIM, bias=False, norm_bias=False, norm_eps=1e-5)
            for _ in range(DEPTH)
        )
        self.seen: list[Tensor] = []
        for block in self.blocks:
            for branch in (block.attn, block.mlp):
                branch.forward = lambda x, *_: torch.ones_like(x)
            block.register_forward_hook(lambda _, inputs, output: self.seen.append(output - inputs[0]))

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


def added_by_blocks(rate: float, positions: range, *, step: int = 0, seed: int = 0, rows: int = 1) -> Tensor:
    """Give what each block added to each row: (depth, rows)."""
    stack = Stack()
    depth = StochasticDepth([stack], rate, seed)
    with depth.active(step, positions):
        stack(torch.zeros(len(positions) * rows, 2, DIM))
    added = torch.stack(stack.seen)
    assert (added == added[:, :, :1, :1]).all(), "a row is left out whole"
    return added[:, :, 0, 0]


def test_branches_are_left_out_linearly_more_often_with_depth_and_scaled_up_where_they_stay() -> None:
    added = added_by_blocks(0.5, range(4000))

    for block, rate in zip(added, (0.0, 0.25, 0.5), strict=True):
        factor = 1 / (1 - rate)
        kept = block / factor
        torch.testing.assert_close(kept, kept.round())
        assert block.mean().item() == pytest.approx(2.0, abs=0.1)
        both_left_out = (block == 0).float().mean().item()
        assert both_left_out == pytest.approx(rate**2, abs=0.02)


def test_the_same_is_left_out_however_a_batch_is_split() -> None:
    for rows in (1, 3):
        whole = added_by_blocks(0.5, range(16), rows=rows)
        halves = [added_by_blocks(0.5, part, rows=rows) for part in (range(8), range(8, 16))]
        assert torch.equal(whole, torch.cat(halves, dim=1))


def test_draws_differ_with_step_and_seed_and_nothing_else() -> None:
    first = added_by_blocks(0.5, range(64))

    assert torch.equal(first, added_by_blocks(0.5, range(64)))
    assert not torch.equal(first, added_by_blocks(0.5, range(64), step=1))
    assert not torch.equal(first, added_by_blocks(0.5, range(64), seed=1))


@pytest.mark.parametrize("kind", ["temporal", "leadwise"])
def test_it_acts_in_a_step_in_both_encoders_and_the_predictor_and_nowhere_else(kind: str) -> None:
    config = small_config(kind)
    torch.manual_seed(0)
    model = Jepa(config)
    values = torch.randn(4, 3, 200)
    masks = draw_masks(config.masks, PATCHES, range(4), seed=0, step=0)
    tokens = model.context_encoder(values, visible_BK=masks[0].context)[:, model.context_encoder.num_registers :]
    parts = {
        "context": lambda: model.context_encoder(values),
        "target": lambda: model.target_encoder(values),
        "predictor": lambda: model.predictor(tokens, masks[0]),
    }
    before = {name: call() for name, call in parts.items()}
    depth = StochasticDepth([model.context_encoder, model.target_encoder, model.predictor], 0.9, seed=0)

    for name, call in parts.items():
        with depth.active(0, range(4)):
            assert not torch.equal(call(), before[name])
        assert torch.equal(call(), before[name])


def test_passes_of_one_step_are_drawn_apart() -> None:
    stack = Stack()
    depth = StochasticDepth([stack], 0.5, seed=0)
    with depth.active(0, range(64)):
        stack(torch.zeros(64, 2, DIM))
        stack(torch.zeros(64, 2, DIM))

    assert not torch.equal(torch.stack(stack.seen[:DEPTH]), torch.stack(stack.seen[DEPTH:]))


def test_torchs_generator_is_left_alone() -> None:
    stack = Stack()
    depth = StochasticDepth([stack], 0.5, seed=0)
    before = torch.get_rng_state()
    with depth.active(0, range(8)):
        stack(torch.zeros(8, 2, DIM))

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("kind", ["temporal", "leadwise"])
def test_blocks_that_are_left_out_of_are_one_graph_each(kind: str) -> None:
    config = small_config(kind)
    model = Jepa(config)
    values, masks = torch.randn(4, 3, 200), draw_masks(config.masks, PATCHES, range(4), seed=0, step=0)
    depth = StochasticDepth(model.deep_parts(), 0.5, seed=0)
    with depth.active(0, range(4)):
        expected = model(values, JepaDraw(masks)).total
    torch._dynamo.reset()
    # fullgraph raises at the first break.
    for block in (module for module in model.modules() if isinstance(module, Block)):
        block.compile(fullgraph=True, backend="eager")
    with depth.active(0, range(4)):
        torch.testing.assert_close(model(values, JepaDraw(masks)).total, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["temporal", "leadwise"])
def test_activations_that_are_computed_again_are_left_out_of_as_before(kind: str) -> None:
    gradients = []
    for recompute in (False, True):
        config = small_config(kind, run__recompute=recompute, masks__masks_per_target=2)
        torch.manual_seed(0)
        model = Jepa(config)
        values, masks = torch.randn(4, 3, 200), draw_masks(config.masks, PATCHES, range(4), seed=0, step=0)
        depth = StochasticDepth(model.deep_parts(), 0.5, seed=0)
        called = open_engine(config.run, "cpu").distribute(model)
        passes = count_passes(model.context_encoder.blocks[1])
        with depth.active(0, range(4)):
            loss = called(values, JepaDraw(masks)).total
        loss.backward()
        assert len(passes) == (4 if recompute else 2)  # of two masks
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


def count_passes(block: nn.Module) -> list[None]:
    """Note each pass through a block's attention."""
    passes: list[None] = []
    block.attn.register_forward_hook(lambda *_: passes.append(None))
    return passes
