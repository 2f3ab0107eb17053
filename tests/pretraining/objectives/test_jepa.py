from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_jepa import KIM, WEIMANN, kim_name, load_kim, load_weimann, weimann_name
from torch.nn import functional as F

from pretraining.config import MaskConfig, ObjectiveConfig, PredictorConfig, PretrainConfig
from pretraining.objectives.jepa import Contrast, Jepa, JepaDraw, sigreg
from pretraining.objectives.masks import Masks, draw_masks
from pretraining.optim import build_optimizer, learning_rate, momentum, set_schedule_, weight_decay
from skecg.spec import InputSpec, LeadwiseConfig, TemporalConfig

LEADS = ("I", "II", "V1")


def small(kind: str, **changes: object) -> PretrainConfig:
    encoder = {"temporal": TemporalConfig, "leadwise": LeadwiseConfig}[kind](3, 10, 20, 16, 2, 2)
    config = dataclasses.replace(
        WEIMANN if kind == "temporal" else KIM,
        input=InputSpec(LEADS, 100.0, 200),
        encoder=encoder,
        predictor=PredictorConfig(8, 2, 2),
        masks=MaskConfig("blocks", 0.2, 0.4, min_block=3),
    )
    return dataclasses.replace(config, **changes)


def a_model(config: PretrainConfig) -> tuple[Jepa, torch.Tensor, list[Masks]]:
    torch.manual_seed(0)
    model = Jepa(config)
    values = torch.randn(4, 3, 200, generator=torch.Generator().manual_seed(1))
    return model, values, draw_masks(config.masks, 20, range(4), seed=0, step=0)


# --- laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["temporal", "leadwise"])
def test_the_context_encoder_never_sees_what_is_masked(kind: str) -> None:
    model, values, (masks,) = a_model(small(kind))
    changed = values.clone().unflatten(2, (20, 10))
    for row, target in enumerate(masks.target):
        changed[row, :, target] += 1.0

    before = model.context_encoder(values, visible_BK=masks.context)
    after = model.context_encoder(changed.flatten(2), visible_BK=masks.context)

    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["temporal", "leadwise"])
def test_only_the_context_encoder_and_the_predictor_are_trained(kind: str) -> None:
    model, values, masks = a_model(small(kind))
    model(values, JepaDraw(masks)).total.backward()

    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"context_encoder", "predictor"}
    assert all(p.grad is not None for p in [*model.context_encoder.parameters(), *model.predictor.parameters()])


@pytest.mark.parametrize("kind", ["temporal", "leadwise"])
def test_predictions_pair_with_the_targets_of_their_own_lead_and_slice(kind: str) -> None:
    model, values, (masks,) = a_model(small(kind))
    targets = model.targets(values)
    wanted = targets.gather(1, model._token_numbers(masks.target, 20)[..., None].expand(-1, -1, 16))

    n_leads = 3 if kind == "leadwise" else 1
    grid = targets.unflatten(1, (n_leads, 20))
    for row in range(4):
        expected = grid[row][:, masks.target[row]].flatten(0, 1)
        assert torch.equal(wanted[row], expected)


def test_several_masks_share_one_pass_of_the_target_encoder() -> None:
    config = small("temporal", masks=MaskConfig("blocks", 0.2, 0.4, min_block=3, masks_per_target=3))
    model, values, masks = a_model(config)
    passes = []
    model.target_encoder.register_forward_hook(lambda *_: passes.append(1))

    together = model(values, JepaDraw(masks)).total

    assert len(passes) == 1
    apart = torch.stack([model(values, JepaDraw([mask])).total for mask in masks]).mean()
    torch.testing.assert_close(together, apart)


def test_the_average_moves_by_one_less_the_momentum() -> None:
    model, _, _ = a_model(small("temporal"))
    with torch.no_grad():
        for parameter in model.context_encoder.parameters():
            parameter += 1.0
    before = [p.clone() for p in model.target_encoder.parameters()]

    model.update_target_(0.9)

    for old, new, towards in zip(
        before, model.target_encoder.parameters(), model.context_encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * towards)


def test_centred_targets_have_no_mean_over_the_batch() -> None:
    model, values, _ = a_model(small("temporal", objective=ObjectiveConfig("l1", "centre")))

    assert model.targets(values).mean(dim=0).abs().max() < 1e-5


def test_sigreg_knows_the_normal_distribution_from_its_collapse() -> None:
    generator = torch.Generator().manual_seed(0)

    def measured(std: float) -> float:
        z = torch.randn(2048, 32, generator=generator) * std
        return float(np.mean([sigreg(z, generator=generator).item() for _ in range(4)]))

    # The golden values of the formula on 17 knots: 1.0525 in expectation, and so much times N.
    assert abs(measured(1.0) - 1.0525) < 0.35
    assert abs(measured(0.0) / 2048 - 0.40205) < 1e-4
    assert abs(measured(2.0) / 2048 - 0.237) < 0.01
    assert abs(measured(0.5) / 2048 - 0.151) < 0.01


def test_sigreg_joins_the_loss_with_its_weight() -> None:
    config = small("temporal", objective=ObjectiveConfig("l1", "none", sigreg_weight=0.5))
    model, values, masks = a_model(config)
    loss = model(values, JepaDraw(masks, directions_seed=0))

    torch.testing.assert_close(loss.total, loss.prediction + 0.5 * loss.sigreg)
    assert loss.sigreg > 0


def test_a_contrast_tells_recordings_apart_by_what_two_masks_leave_of_each() -> None:
    objective = ObjectiveConfig(predict_weight=0.0, contrast_weight=0.25, contrast_temperature=0.5)
    masks_config = MaskConfig("crop", 0.3, 0.6, masks_per_target=2)
    model, values, masks = a_model(small("temporal", objective=objective, masks=masks_config))
    loss = model(values, JepaDraw(masks, rows=torch.tensor([3, 8, 2, 9])))

    tokens = [model.context_encoder(values, visible_BK=mask.context)[:, 1:] for mask in masks]
    pooled = [torch.cat([t.mean(1), t.std(1, correction=0)], dim=1) for t in tokens]
    assert model.contrast is not None
    views = model.contrast.projectors[0](torch.cat([F.layer_norm(p, p.shape[-1:]) for p in pooled]))
    cosines = F.cosine_similarity(views[:, None], views[None], dim=-1).fill_diagonal_(-1e4)
    torch.testing.assert_close(loss.contrast, F.cross_entropy(cosines / 0.5, (torch.arange(8) + 4) % 8))
    torch.testing.assert_close(loss.total, 0.25 * loss.contrast)
    assert model.noted() == ("prediction", "contrast")
    assert not model(values, JepaDraw(masks)).total.any()


def test_each_part_of_a_token_is_contrasted_by_itself() -> None:
    contrast = Contrast([4, 6], "mean+std+max", 0.15)
    looks, rows = (torch.randn(5, 7, 10), torch.randn(5, 3, 10)), torch.arange(5)
    alone = []
    for number, (part, width) in enumerate(zip((slice(0, 4), slice(4, 10)), (4, 6), strict=True)):
        one = Contrast([width], "mean+std+max", 0.15)
        one.projectors[0].load_state_dict(contrast.projectors[number].state_dict())
        alone.append(one([look[..., part] for look in looks], rows))
    torch.testing.assert_close(contrast(looks, rows), sum(alone) / 2)


def test_leads_that_a_mask_hides_are_zero_for_the_context_and_seen_by_the_target() -> None:
    model, values, masks = a_model(small("temporal"))
    shown = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    hiding = [dataclasses.replace(mask, leads=shown) for mask in masks]
    # No gradient reaches the target's input: what is left is the context's.
    (slope,) = torch.autograd.grad(model(values.requires_grad_(), JepaDraw(hiding)).prediction, values)
    assert torch.equal(slope.abs().sum(dim=2) > 0, shown)
    assert JepaDraw(hiding).take(slice(1, 3)).masks[0].leads.tolist() == shown[1:3].tolist()


def test_a_recording_that_is_drawn_twice_is_not_told_apart_from_itself() -> None:
    objective = ObjectiveConfig(contrast_weight=1.0)
    model, values, masks = a_model(
        small("temporal", objective=objective, masks=MaskConfig("crop", 0.3, 0.6, masks_per_target=2))
    )
    one = JepaDraw(masks, rows=torch.zeros(4, dtype=torch.int64))
    values = values[:1].expand(4, -1, -1)
    same = [Masks(mask.context[:1].expand(4, -1), mask.target[:1].expand(4, -1)) for mask in masks]
    # All seven other views are the same recording: each is wanted as much.
    least = model(values, dataclasses.replace(one, masks=[same[0], same[0]])).contrast
    torch.testing.assert_close(least, torch.tensor(7.0).log())
    assert one.take(slice(1, 3)).rows is not None
    assert len(one.take(slice(1, 3)).rows) == 2


def test_what_decays_is_what_the_published_systems_let_decay() -> None:
    for kind, mask_token_decays in (("temporal", False), ("leadwise", True)):
        model, _, _ = a_model(small(kind))
        decaying, rest = (set(map(id, group["params"])) for group in build_optimizer(model, small(kind)).param_groups)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                assert id(parameter) not in decaying | rest
            elif name.endswith("mask_token"):
                assert (id(parameter) in decaying) == mask_token_decays
            elif "norm" in name or name.endswith(("bias", "registers")):
                assert id(parameter) in rest
            else:
                assert id(parameter) in decaying


# --- schedules ----------------------------------------------------------------------------------------------------

WEIMANN_SCHEDULE = dataclasses.replace(
    WEIMANN,
    optim=dataclasses.replace(WEIMANN.optim, warmup_steps=10_000, final_weight_decay=0.1),
    ema=dataclasses.replace(WEIMANN.ema, start=0.998, end=0.9995),
)


@pytest.mark.parametrize(
    ("step", "rate", "decay", "average"),
    [
        (0, 1e-6, 0.01, 0.998),
        (1, 1.0999e-06, 0.01000000002220705, 0.998000015),
        (9999, 0.0009999001, 0.01220206360365833, 0.998149985),
        (10000, 0.001, 0.012202500453614526, 0.99815),
        (50000, 0.0005872296331162196, 0.05500070686541568, 0.99875),
        (99999, 1e-06, 0.1, 0.999499985),
    ],
)
def test_schedules_are_those_of_the_published_code(step: int, rate: float, decay: float, average: float) -> None:
    assert learning_rate(WEIMANN_SCHEDULE, step) == pytest.approx(rate, rel=1e-9)
    assert weight_decay(WEIMANN_SCHEDULE, step) == pytest.approx(decay, rel=1e-9)
    assert momentum(WEIMANN_SCHEDULE, step) == pytest.approx(average, rel=1e-12)


def test_kims_cosine_is_read_at_the_absolute_step_so_the_rate_drops_where_warm_up_ends() -> None:
    optim = dataclasses.replace(KIM.optim, warmup_steps=50, cosine_from="zero")
    config = dataclasses.replace(KIM, optim=optim)

    assert learning_rate(config, 49) == pytest.approx(1e-6 + (5e-5 - 1e-6) * 49 / 50)
    assert learning_rate(config, 50) == pytest.approx(1e-6 + 0.5 * (5e-5 - 1e-6) * (1 + np.cos(np.pi * 0.05)))
    assert learning_rate(config, 50) < 5e-5


# --- parity with the published systems' own code ------------------------------------------------------------------


def assert_gradients(model: Jepa, golden: np.lib.npyio.NpzFile, rename) -> None:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = dict(zip(golden["grad_norm_names"], golden["grad_norms"], strict=True))
    assert {rename(name) for name in norms} == set(gradients)
    for name, norm in norms.items():
        assert gradients[rename(name)].norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-9)
    for key in golden.files:
        if key.startswith("grad__"):
            theirs = torch.from_numpy(golden[key]).flatten()
            torch.testing.assert_close(gradients[rename(key[6:])].flatten(), theirs, rtol=1e-4, atol=1e-8)


def test_weimanns_step_is_theirs(shared: Path) -> None:
    model = load_weimann(shared / "golden")
    golden = np.load(shared / "golden" / "weimann_vitxs.npz")
    values = torch.from_numpy(golden["x"])
    masks = Masks(torch.from_numpy(golden["mask_encoder"]), torch.from_numpy(golden["mask_predictor"]))
    optimizer = build_optimizer(model, WEIMANN)
    set_schedule_(optimizer, dataclasses.replace(WEIMANN, optim=dataclasses.replace(WEIMANN.optim)), 0)

    torch.testing.assert_close(model.targets(values)[:, ::4], torch.from_numpy(golden["target_out"]), rtol=0, atol=1e-5)
    model.update_target_(0.998)
    context = model.context_encoder(values, visible_BK=masks.context)[:, 1:]
    torch.testing.assert_close(context, torch.from_numpy(golden["context_out"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        model.predictor(context, masks), torch.from_numpy(golden["predictor_out"]), rtol=0, atol=1e-5
    )
    loss = model(values, JepaDraw([masks])).total
    loss.backward()

    assert loss.item() == pytest.approx(float(golden["loss"]), abs=1e-6)
    assert_gradients(model, golden, weimann_name)

    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    optimizer.step()
    model.update_target_(0.998 + 1.5e-8)
    assert model(values, JepaDraw([masks])).total.item() == pytest.approx(float(golden["loss_after_step"]), abs=1e-6)
    after = dict(model.named_parameters())
    for key in ("encoder.registers", "encoder.norm.weight", "predictor.mask_token", "encoder.patch_embed.proj.weight"):
        theirs = torch.from_numpy(golden[f"after__{key}"]).flatten()
        torch.testing.assert_close(after[weimann_name(key)].detach().flatten(), theirs, rtol=0, atol=1e-7)


def test_kims_loss_and_gradients_are_theirs(shared: Path) -> None:
    model = load_kim(shared / "golden")
    golden = np.load(shared / "golden" / "kim_small.npz")
    values = torch.from_numpy(golden["x"])
    masks = Masks(
        *(torch.from_numpy(np.flatnonzero(which)).expand(2, -1) for which in (~golden["mask"], golden["mask"]))
    )

    context = model.context_encoder(values, visible_BK=masks.context)
    torch.testing.assert_close(context, torch.from_numpy(golden["context_tokens"]), rtol=0, atol=1e-5)
    predicted = torch.from_numpy(golden["predictor_out"]).unflatten(1, (8, 50))[:, :, 23:].flatten(1, 2)
    torch.testing.assert_close(model.predictor(context, masks), predicted, rtol=0, atol=1e-5)
    wanted = model.targets(values).unflatten(1, (8, 50))[:, :, masks.target[0]].flatten(1, 2)
    torch.testing.assert_close(wanted, torch.from_numpy(golden["target_ln_masked"]), rtol=0, atol=1e-5)
    loss = model(values, JepaDraw([masks])).total
    loss.backward()

    assert loss.item() == pytest.approx(float(golden["loss"]), abs=1e-6)
    assert_gradients(model, golden, kim_name)
