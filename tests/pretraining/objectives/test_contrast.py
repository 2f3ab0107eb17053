"""InfoNCE with soft targets is the textbook's where they are hard, and asks for nothing where they say nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from pretraining.objectives.contrast import guess, same_class, similarity, soft_contrast, targets


def features(n: int = 6, dim: int = 5) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0))


def views(n: int = 6) -> torch.Tensor:
    return torch.randn(2, n, 4, generator=torch.Generator().manual_seed(1))


def test_hard_targets_give_nt_xent() -> None:
    made, n, temperature = views(), 6, 0.1
    everything = made.flatten(0, 1)
    total = 0.0
    for i in range(2 * n):
        cosines = F.cosine_similarity(everything[i], everything, dim=1) / temperature
        others = torch.tensor([float(cosines[j].exp()) for j in range(2 * n) if j != i]).sum()
        total += -math.log(float(cosines[(i + n) % (2 * n)].exp() / others))
    loss = soft_contrast(made, targets(torch.eye(n), 1.0), temperature)
    assert loss.item() == pytest.approx(total / (2 * n), rel=1e-5)


@pytest.mark.parametrize("kind", ["soft_1", "soft_2"])
def test_targets_are_distributions_that_leave_out_a_view_itself(kind: str) -> None:
    wanted = targets(similarity(features(), kind, 10.0), 1.0)
    torch.testing.assert_close(wanted.sum(dim=1), torch.ones(12))
    assert wanted.diagonal().abs().max() == 0
    assert (wanted.argmax(dim=1) == torch.arange(12).roll(6)).all(), "the other view of the same counts most"


@pytest.mark.parametrize("kind", ["soft_1", "soft_2"])
def test_likeness_lies_between_0_and_1_and_is_1_with_itself(kind: str) -> None:
    likeness = similarity(features(), kind, 10.0)
    assert 0 <= likeness.min() <= likeness.max() <= 1
    torch.testing.assert_close(likeness, likeness.T)
    torch.testing.assert_close(likeness.diagonal(), torch.ones(6))


def test_likeness_is_what_its_definitions_say() -> None:
    things = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [-6.0, -8.0]])
    of_first = torch.tensor([[1.0, 0.9, 0.8], [1.0, math.exp(-50 / 200), math.exp(-225 / 200)]])
    torch.testing.assert_close(similarity(things, "soft_1")[0], of_first[0])
    torch.testing.assert_close(similarity(things, "soft_2", 200.0)[0], of_first[1])


@pytest.mark.parametrize("kind", ["soft_1", "soft_2"])
def test_a_power_sharpens(kind: str) -> None:
    likeness = similarity(features(), kind, 10.0)
    own = [float(targets(likeness, power)[0, 6]) for power in (1.0, 5.0, 50.0, 5000.0)]
    assert own == sorted(own)
    assert own[-1] == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(targets(likeness, 5000.0), targets(torch.eye(6), 1.0), atol=1e-3, rtol=0)


def test_beats_of_one_class_share_the_target() -> None:
    wanted = targets(same_class(torch.tensor([0, 0, 1])), 50.0)
    torch.testing.assert_close(wanted[0], torch.tensor([0, 1, 0, 1, 1, 0]) / 3)
    torch.testing.assert_close(wanted[2], torch.tensor([0.0, 0, 0, 0, 0, 1]))


def gap_to_collapse(exponent: float) -> float:
    """How much less than a constant the best loss can be: what there is to gain by telling records apart, in nats."""
    likeness = similarity(features(64, 40), "soft_1")
    wanted = targets(likeness, exponent)
    collapsed = soft_contrast(torch.ones(2, 64, 4), wanted, 0.1).item()
    assert collapsed == pytest.approx(guess(64), rel=1e-5)
    entropy = -(wanted * wanted.clamp_min(1e-30).log()).sum(dim=1).mean().item()
    return collapsed - entropy


@pytest.mark.parametrize("n", [1, 2, 64])
def test_an_answer_that_is_the_same_for_all_is_a_guess_whatever_the_targets(n: int) -> None:
    wanted = targets(torch.rand(n, n, generator=torch.Generator().manual_seed(0)), 3.0)
    assert soft_contrast(torch.ones(2, n, 4), wanted, 0.1).item() == pytest.approx(guess(n), abs=1e-5)
    assert guess(0) == 0


def test_without_sharpening_a_constant_is_all_but_the_best() -> None:
    assert gap_to_collapse(1.0) < 0.05, "nats of 4.84"
    assert gap_to_collapse(50.0) > 0.5
    assert gap_to_collapse(5000.0) == pytest.approx(math.log(127), rel=1e-2), "nothing is shared"


def test_nothing_to_contrast_is_no_loss_and_has_a_gradient_of_0() -> None:
    nothing = torch.zeros(2, 0, 4, requires_grad=True)
    loss = soft_contrast(nothing, targets(torch.zeros(0, 0), 1.0), 0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    alone = soft_contrast(views(1), targets(torch.eye(1), 1.0), 0.1)
    assert alone.item() == pytest.approx(0.0, abs=1e-6)
