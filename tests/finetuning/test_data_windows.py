"""What a network learns from: known samples only, and views that leave waves where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from skecg.encoders import build_encoder
from skecg.finetuning import sample_labels as augmenting
from skecg.finetuning.data import LabelledWindows, PreparedWindows, WindowBatches, WindowInputs
from skecg.finetuning.heads import Network, build_decoder, copied_encoder
from skecg.finetuning.losses import wave_loss
from skecg.finetuning.sample_labels import View, draw_view
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.windows import prepare
from skecg.records import ECGRecord
from skecg.weights import find_weights

# Noise, offsets and wander stand in for recordings here; what is odd about them is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning", "ignore::skecg.errors.UnitsWarning")


def test_the_loss_does_not_depend_on_what_is_said_where_nothing_is_known() -> None:
    logits = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.randint(-2, 4, (2, 50), generator=torch.Generator().manual_seed(1))

    loss = wave_loss(logits, labels)
    loss.backward()

    assert logits.grad is not None
    unknown = (labels < 0)[:, None].expand(-1, 4, -1)
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).all()
    known = labels >= 0
    by_hand = -torch.log_softmax(logits, dim=1).gather(1, labels.clamp(min=0)[:, None])[:, 0][known].sum()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("architecture", ["tiny", "tiny_leadwise"])
def test_the_losses_of_parts_add_up_to_the_mean_over_known_samples(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    """Though windows of different leads and lengths go through the network apart."""
    info = find_weights(request.getfixturevalue(architecture))
    encoder = copied_encoder(info)
    network = Network(encoder, build_decoder(encoder, 4, 8, 0)).eval()
    rng = np.random.default_rng(0)
    leads = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
    records = [ECGRecord(rng.normal(size=(n, t)), 100, leads[:n]) for n, t in [(8, 250), (2, 250), (8, 120), (2, 250)]]
    windows = prepare(records, info.spec, missing_leads="subset")
    labels = rng.integers(-1, 4, (len(windows), 250)).astype(np.int8)
    labels[np.arange(250) >= windows.valid_samples[:, None]] = -1
    prepared = PreparedWindows([windows], info.encoder.patch_samples)
    some = LabelledWindows(WindowInputs(prepared, torch.device("cpu")), labels, 100.0)

    (batch,) = WindowBatches(some, np.arange(len(windows)), batch_size=8).epoch(np.random.default_rng(1))
    loss = sum(WindowBatches(some, np.arange(0), 8).loss(network, part).item() for part in batch)

    total = 0.0
    for row in range(len(windows)):
        logits = network(*prepared.take(np.array([row])))
        total += wave_loss(logits, torch.from_numpy(labels[[row], : logits.shape[2]]).long()).item()
    assert len(batch) == 3
    assert loss == pytest.approx(total / (labels >= 0).sum(), rel=1e-5)


def test_views_are_the_windows_themselves_but_for_size_and_wandering() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=(3, 4, 100)).astype(np.float32))
    values[1, 2] = 0  # an absent lead
    for seed in range(20):
        view = draw_view(np.random.default_rng(seed), 10)
        seen, span = view.apply(values, 10, 100.0), view.span(100, 10)

        assert seen.shape == (3, 4, 90)
        assert 0 <= view.shift < 10
        assert span == slice(view.shift, view.shift + 90)
        assert (seen[1, 2] == 0).all()
        for window, other in zip(seen.flatten(0, 1), values[:, :, span].flatten(0, 1), strict=True):
            if other.any():
                assert np.corrcoef(np.diff(window), np.diff(other))[0, 1] > 0.95
        assert torch.equal(seen, view.apply(values, 10, 100.0))


def test_labels_are_shifted_with_their_windows(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("_GAIN_SPREAD", "_WANDER"):
        monkeypatch.setattr(augmenting, what, 0.0)
    info, rng = find_weights(tiny), np.random.default_rng(0)
    windows = prepare([ECGRecord(rng.normal(size=(12, 250)), 100, CANONICAL_LEADS)], info.spec)
    labels = rng.integers(0, 4, (1, 250)).astype(np.int8)
    windows.values[:, 0] = labels
    inputs = WindowInputs(PreparedWindows([windows], info.encoder.patch_samples), torch.device("cpu"))
    taught = WindowBatches(LabelledWindows(inputs, labels, 100.0), np.arange(1), batch_size=8, augment=True)

    def reads_the_labels(values_BLT: torch.Tensor, leads: object) -> torch.Tensor:
        return 50.0 * torch.nn.functional.one_hot(values_BLT[:, 0].long(), 4).transpose(1, 2)

    shifts = set()
    for seed in range(6):
        ((part,),) = taught.epoch(np.random.default_rng(seed))
        shifts.add(part.view.shift)
        assert taught.loss(reads_the_labels, part).item() < 1e-6
    assert len(shifts) > 2


def test_a_window_of_one_slice_is_seen_whole() -> None:
    assert View(3, 0).span(10, 10) == slice(0, 10)


def test_a_decoder_is_drawn_from_its_seed_alone(tiny: Path) -> None:
    encoder = build_encoder(find_weights(tiny).encoder)
    torch.manual_seed(1)
    one = build_decoder(encoder, 4, 8, seed=3)
    torch.manual_seed(2)
    same, other = build_decoder(encoder, 4, 8, seed=3), build_decoder(encoder, 4, 8, seed=4)

    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
