from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretraining.objectives.masks import TokenMasks, draw_token_masks, n_visible

LEADS, SLICES = 4, 10
KINDS = [("time", 1), ("time", LEADS), ("leads", LEADS), ("both", LEADS)]


def there(*shapes: tuple[int, int]) -> np.ndarray:
    """Recordings of so many leads and slices."""
    found = np.zeros((len(shapes), LEADS, SLICES), dtype=bool)
    for row, (leads, slices) in enumerate(shapes):
        found[row, :leads, :slices] = True
    return found


WHOLE = there(*[(LEADS, SLICES)] * 6)
MIXED = there((4, 10), (2, 10), (1, 10), (4, 3), (3, 1), (1, 1))


def draw(over: str, groups: int, patches: np.ndarray, ratio: float = 0.75, step: int = 0, start: int = 0) -> TokenMasks:
    return draw_token_masks(over, ratio, patches, groups, range(start, start + len(patches)), seed=1, step=step)


def seen(masks: TokenMasks, groups: int) -> np.ndarray:
    """Mark the visible tokens (B, G, P)."""
    grid = torch.zeros(len(masks.visible), groups * SLICES + 1, dtype=torch.bool)
    grid.scatter_(1, masks.visible.where(masks.visible >= 0, groups * SLICES), True)
    return grid[:, :-1].view(-1, groups, SLICES).numpy()


@pytest.mark.parametrize(("over", "groups"), KINDS)
@pytest.mark.parametrize("patches", [WHOLE, MIXED], ids=["whole", "mixed"])
def test_what_is_there_is_either_seen_or_asked_for_and_what_is_not_is_neither(over, groups, patches) -> None:
    for step in range(20):
        masks = draw(over, groups, patches, step=step)
        visible = np.broadcast_to(seen(masks, groups), patches.shape) & patches
        assert np.array_equal(visible | masks.asked.numpy(), patches)
        assert not (visible & masks.asked.numpy()).any()
        if groups > 1:
            assert not (seen(masks, groups) & ~patches).any()


@pytest.mark.parametrize(("over", "groups"), KINDS)
def test_tokens_are_ascending_and_places_without_one_are_at_the_end(over, groups) -> None:
    for row in draw(over, groups, MIXED).visible:
        numbers = row[row >= 0]
        assert (numbers.diff() > 0).all()
        assert len(numbers) > 0
        assert (row[len(numbers) :] == -1).all()


@pytest.mark.parametrize(("over", "groups"), KINDS)
def test_the_share_that_is_hidden_is_the_ratio(over, groups) -> None:
    for ratio in (0.5, 0.75, 0.8):
        masks = draw(over, groups, WHOLE, ratio)
        n = {"time": SLICES, "leads": LEADS, "both": LEADS * SLICES}[over]
        assert masks.asked.float().mean().item() == pytest.approx(1 - n_visible(n, ratio) / n)
        assert (masks.visible >= 0).all(), "whole recordings leave no place empty"


@pytest.mark.parametrize(("over", "groups"), KINDS)
def test_the_ratio_is_that_of_what_a_recording_has(over, groups) -> None:
    asked = draw(over, groups, MIXED).asked.numpy()
    for hidden, patches in zip(asked, MIXED, strict=True):
        leads, slices = int(patches.any(axis=1).sum()), int(patches.any(axis=0).sum())
        kept = {"time": leads * n_visible(slices, 0.75), "both": n_visible(leads * slices, 0.75)}
        kept["leads"] = n_visible(leads, 0.75) * slices if leads > 1 else kept["time"]
        assert hidden.sum() == leads * slices - kept[over]


def test_masks_over_time_hide_whole_slices_and_masks_over_leads_whole_leads() -> None:
    for step in range(10):
        over_time = draw("time", LEADS, WHOLE, step=step).asked
        over_leads = draw("leads", LEADS, WHOLE, step=step).asked
        assert (over_time == over_time[:, :1]).all()
        assert (over_leads == over_leads[:, :, :1]).all()
    both = draw("both", LEADS, WHOLE).asked
    assert not (both == both[:, :1]).all()
    assert not (both == both[:, :, :1]).all()


def test_a_single_lead_is_hidden_in_time_where_leads_would_be_hidden() -> None:
    masks = draw("leads", LEADS, there((1, 10)))
    assert masks.asked[0, 0].sum() == 10 - n_visible(10, 0.75)


@pytest.mark.parametrize(("over", "groups"), KINDS)
def test_masks_do_not_depend_on_how_the_batch_is_split(over, groups) -> None:
    whole = draw(over, groups, MIXED)
    parts = [draw(over, groups, MIXED[:2]), draw(over, groups, MIXED[2:], start=2)]
    assert torch.equal(whole.visible, torch.cat([part.visible for part in parts]))
    assert torch.equal(whole.asked, torch.cat([part.asked for part in parts]))
    assert torch.equal(whole.take(slice(2, 6)).asked, parts[1].asked)
    assert torch.equal(whole.take(slice(2, 6)).visible, parts[1].visible)


def test_masks_are_a_function_of_seed_and_step_and_differ_between_recordings() -> None:
    assert torch.equal(draw("both", LEADS, WHOLE).asked, draw("both", LEADS, WHOLE).asked)
    assert not torch.equal(draw("both", LEADS, WHOLE).asked, draw("both", LEADS, WHOLE, step=1).asked)
    asked = draw("both", LEADS, WHOLE).asked
    assert not torch.equal(asked[0], asked[1])


def test_every_slice_is_hidden_equally_often() -> None:
    hidden = torch.stack([draw("time", 1, WHOLE, step=step).asked[:, 0].float().mean(dim=0) for step in range(300)])
    assert (hidden.mean(dim=0) - 0.8).abs().max() < 0.04


@given(st.integers(1, 5000), st.floats(0.01, 0.99))
@settings(max_examples=200, deadline=None)
def test_something_is_seen_and_something_is_asked_for_where_there_are_two(n: int, ratio: float) -> None:
    assert 1 <= n_visible(n, ratio) <= max(1, n - 1)
    assert n_visible(n, ratio) <= n_visible(n + 1, ratio)
