"""Views turn and stretch the heart's vector, and hide a stretch of time; nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pretraining.data.vectorcardiogram import from_vcg, to_vcg
from pretraining.objectives.views import ViewMaker, ViewRanges, Views, draw_views, is_seen, rotation
from skecg.datasets import make_ecg
from skecg.leads import CANONICAL_LEADS

T = 400


def windows(n: int = 3) -> torch.Tensor:
    records, _ = make_ecg(n, duration_seconds=4.0, sampling_rate=100.0, random_state=0)
    return torch.from_numpy(np.stack([record.signal for record in records]))


def still(n: int = 3) -> Views:
    """Views that do nothing."""
    return Views(torch.zeros(n, 2, 3), torch.ones(n, 2, 3), torch.zeros(n, 2, dtype=torch.int64), 0)


def drawn(n: int = 3, step: int = 0, start: int = 0, **ranges: float) -> Views:
    return draw_views(ViewRanges(**ranges), T, range(start, start + n), seed=1, step=step)  # type: ignore[arg-type]


@pytest.mark.parametrize("matrix", ["dower", "kors"])
def test_a_view_that_does_nothing_is_what_a_dipole_explains_of_the_leads(matrix: str) -> None:
    values = windows()
    both = ViewMaker(CANONICAL_LEADS, matrix)(values, still())
    expected = from_vcg(CANONICAL_LEADS, matrix) @ to_vcg(CANONICAL_LEADS, matrix) @ values.double().numpy()
    for view in both:
        np.testing.assert_allclose(view, expected, atol=1e-4)
    # What is lost is what no dipole explains: of these hearts, made by a dipole of the torso's, less than half.
    lost = (both[0] - values).square().sum() / values.square().sum()
    assert 0 <= lost < 0.5


def test_views_obey_einthoven_whatever_is_drawn() -> None:
    views = ViewMaker(CANONICAL_LEADS)(windows(), drawn())
    torch.testing.assert_close(views[:, :, 1], views[:, :, 0] + views[:, :, 2], atol=1e-4, rtol=1e-4)
    assert views[:, :, 3:6].sum(dim=2).abs().max() < 1e-4


@pytest.mark.parametrize("matrix", ["dower", "kors"])
def test_the_heart_is_turned_about_x_then_y_then_z_and_then_stretched(matrix: str) -> None:
    values, views = windows(), dataclasses.replace(drawn(), masked_samples=0)
    heart = torch.from_numpy(to_vcg(CANONICAL_LEADS, matrix)).float()
    before, after = heart @ values, heart @ ViewMaker(CANONICAL_LEADS, matrix)(values, views)
    for view in range(2):
        for row in range(3):
            turned = before[row]
            for axis, radians in enumerate(views.radians[row, view]):
                alone = torch.zeros(3).index_fill(0, torch.tensor(axis), float(radians))
                turned = rotation(alone) @ turned
            stretched = views.scale[row, view][:, None] * turned
            torch.testing.assert_close(after[view, row], stretched, atol=1e-3, rtol=1e-3)


def test_rotations_keep_lengths_and_hands() -> None:
    matrices = rotation(drawn(50).radians.double())
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).double().expand_as(matrices))
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(50, 2).double())
    quarter = torch.tensor([0.0, 0.0, torch.pi / 2])
    torch.testing.assert_close(rotation(quarter) @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))


def test_what_is_drawn_lies_between_its_limits_and_fills_them() -> None:
    views = drawn(2000)
    degrees = views.radians.rad2deg()
    assert -45 <= degrees.min() < -44
    assert 44 < degrees.max() <= 45
    assert 1 <= views.scale.min() < 1.01
    assert 1.49 < views.scale.max() <= 1.5
    assert views.masked_samples == T // 2
    assert (int(views.mask_start.min()), int(views.mask_start.max())) == (0, T // 2)


def test_what_is_drawn_for_a_place_depends_on_nothing_else() -> None:
    whole, rest = drawn(8), drawn(4, start=4)
    for name in ("radians", "scale", "mask_start"):
        assert torch.equal(getattr(whole.take(slice(4, 8)), name), getattr(rest, name))
    assert not torch.equal(whole.radians, drawn(8, step=1).radians)
    assert not torch.equal(whole.radians[:, 0], whole.radians[:, 1])


def test_half_of_the_window_is_silent_in_one_stretch_and_is_said_to_be_unseen() -> None:
    views = drawn()
    made = ViewMaker(CANONICAL_LEADS)(torch.ones(3, 12, T), views)
    shown_VBT = made.abs().sum(dim=2) > 0
    assert (shown_VBT.sum(dim=-1) == T // 2).all()
    assert (shown_VBT.int().diff(dim=-1) != 0).sum(dim=-1).max() <= 2
    assert torch.equal(is_seen(views, torch.arange(T).expand(3, -1)), shown_VBT.all(dim=0))


def test_views_are_clipped_as_windows_are() -> None:
    assert ViewMaker(CANONICAL_LEADS, clip=2.0)(100 * windows(), drawn()).abs().max() == 2
