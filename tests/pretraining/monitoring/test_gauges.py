from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import f_oneway
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pretraining.config import (
    EmaConfig,
    MaskConfig,
    ObjectiveConfig,
    OptimConfig,
    PredictorConfig,
    PretrainConfig,
    RunConfig,
)
from pretraining.monitoring.gauges import (
    Gauges,
    collapse_reason,
    effective_rank,
    identity_ratio,
    lidar,
    memory_gib,
    position_share,
    record_spread,
    relative_distance,
    token_spread,
)
from pretraining.monitoring.monitor import pace
from pretraining.objectives.jepa import Jepa, JepaDraw, jepa_flops
from pretraining.objectives.masks import draw_masks
from pretraining.objectives.predictors import predictor_flops
from skecg.datasets import make_ecg
from skecg.preprocessing.windows import prepare
from skecg.spec import EncoderConfig, InputSpec, LeadwiseConfig, TemporalConfig

LEADS = ("I", "II", "V2", "V5")


def tiny_config(architecture: str = "temporal", **changes: object) -> PretrainConfig:
    """A run on windows of 2.5 s: 25 slices of four leads."""
    encoder: EncoderConfig = (
        TemporalConfig(4, 10, 25, 32, 2, 2) if architecture == "temporal" else LeadwiseConfig(4, 25, 10, 32, 2, 2)
    )
    values: dict[str, object] = {
        "name": "tiny",
        "input": InputSpec(LEADS, 100, 250, normalization="zscore"),
        "encoder": encoder,
        "predictor": PredictorConfig(16, 1, 2),
        "masks": MaskConfig("random", 0.5, 0.7),
        "optim": OptimConfig(lr=1e-3),
        "run": RunConfig(steps=100, batch_size=32),
    }
    return PretrainConfig(**(values | changes))  # type: ignore[arg-type]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def windows() -> Tensor:
    records, _ = make_ecg(
        64, duration_seconds=2.5, sampling_rate=100, leads=LEADS, conduction=("normal", "lbbb", "rbbb"), random_state=0
    )
    return torch.from_numpy(prepare(records, tiny_config().input).values)


def fixed_masks(config: PretrainConfig, n: int = 64) -> JepaDraw:
    return JepaDraw(draw_masks(config.masks, config.encoder.n_patches, range(n), seed=0, step=0), directions_seed=0)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(n: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(gaussian(n, n, seed=seed).double())[0]


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_equal_singular_values_is_their_number(rank):
    features = orthogonal(40)[:, :rank] @ orthogonal(16, seed=1)[:rank]
    assert effective_rank(features, centred=False) == pytest.approx(rank, rel=1e-3)


def test_effective_rank_does_not_see_rotation_or_scale():
    features = gaussian(60, 12).double() * torch.arange(1, 13)
    turned = 7.0 * features @ orthogonal(12)
    assert effective_rank(turned) == pytest.approx(effective_rank(features), rel=1e-9)


def test_an_offset_hides_the_uncentred_rank_and_not_the_centred_one():
    features = gaussian(200, 16)
    moved = features + 50 * gaussian(16, seed=1)
    assert effective_rank(moved) == pytest.approx(effective_rank(features), rel=1e-3)
    assert effective_rank(moved, centred=False) < 0.5 * effective_rank(features, centred=False)


def test_constant_features_have_no_rank():
    assert effective_rank(torch.ones(8, 4)) == 0.0


def test_lidar_counts_the_directions_that_tell_records_apart():
    centres = gaussian(400, 5) @ orthogonal(32).float()[:5]
    views = 10 * centres[:, None] + 0.1 * gaussian(400, 6, 32, seed=1)
    assert lidar(views) == pytest.approx(5, rel=0.1)
    assert identity_ratio(views) > 100


def test_identity_ratio_of_one_feature_is_the_f_ratio_of_an_analysis_of_variance():
    views = gaussian(4, 3, 1) + gaussian(4, 1, 1, seed=1)
    assert identity_ratio(views) == pytest.approx(f_oneway(*views[..., 0].double().numpy()).statistic)


def test_shuffled_identities_have_an_identity_ratio_of_one():
    views = 10 * gaussian(400, 1, 32) + gaussian(400, 6, 32, seed=1)
    shuffled = views.flatten(0, 1)[torch.randperm(2400, generator=torch.Generator().manual_seed(2))].view_as(views)
    assert identity_ratio(shuffled) == pytest.approx(1, rel=0.1)
    assert identity_ratio(views) > 100


def test_lidar_alone_cannot_tell_noise_from_identity():
    # Why the identity ratio and the shuffled control are written beside it.
    assert lidar(gaussian(400, 6, 32)) > 25


def test_spreads_are_shares_of_the_norm():
    pooled = torch.tensor([[3.0, 1.0], [3.0, -1.0]])
    assert record_spread(pooled) == pytest.approx(math.sqrt(1 / 10))
    assert record_spread(5 * pooled) == pytest.approx(record_spread(pooled))
    assert record_spread(torch.ones(4, 3)) == 0.0
    tokens = torch.tensor([[[3.0, 1.0], [3.0, -1.0]]])
    assert token_spread(tokens) == pytest.approx(math.sqrt(1 / 10))


def test_position_explains_everything_when_all_records_are_the_same():
    tokens = gaussian(1, 10, 8).expand(5, -1, -1)
    assert position_share(tokens) == pytest.approx(1)
    assert position_share(gaussian(500, 10, 8)) == pytest.approx(0, abs=0.01)


def test_relative_distance_is_of_all_tensors_together():
    theirs = [torch.full((2,), 3.0), torch.full((2,), 4.0)]
    ours = [torch.full((2,), 3.0), torch.full((2,), 9.0)]
    assert relative_distance(ours, theirs) == pytest.approx(1.0)
    assert relative_distance(theirs, theirs) == 0.0


def test_memory_of_this_process_is_some():
    assert 0.05 < memory_gib(torch.device("cpu")) < 100


@pytest.mark.parametrize("architecture", ["temporal", "leadwise"])
def test_measuring_leaves_no_trace(architecture, windows):
    config = tiny_config(architecture, objective=ObjectiveConfig(sigreg_weight=0.1))
    model = Jepa(config).train()
    model.target_encoder.eval()
    state = torch.random.get_rng_state()
    first, again = Gauges(), Gauges()
    found = first.measure(model, windows, fixed_masks(config))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.context_encoder.training
    assert not model.target_encoder.training
    assert all(p.grad is None for p in model.parameters())
    assert found == again.measure(model, windows, fixed_masks(config))
    assert all(map(math.isfinite, found.values()))


def test_drift_and_change_follow_the_two_encoders(windows):
    config = tiny_config()
    model, gauges = Jepa(config), Gauges()
    before = gauges.measure(model, windows, fixed_masks(config))
    assert before["drift"] == 0.0
    assert "target_change" not in before
    with torch.no_grad():
        for p in model.context_encoder.parameters():
            p.mul_(1.5)
    moved = gauges.measure(model, windows, fixed_masks(config))
    assert moved["drift"] == pytest.approx(0.5, rel=1e-5)
    assert moved["target_change"] == 0.0
    model.update_target_(0.0)
    followed = gauges.measure(model, windows, fixed_masks(config))
    assert followed["drift"] == 0.0
    assert followed["target_change"] == pytest.approx(0.5, rel=1e-5)


def test_records_are_told_apart_even_by_random_weights(windows):
    torch.manual_seed(0)
    config = tiny_config()
    found = Gauges().measure(Jepa(config), windows, fixed_masks(config))
    assert found["identity"] > 2
    assert found["lidar_shuffled"] != found["lidar"]
    assert 1 < found["rank"] < 32


def entries(spreads: list[float], ranks: list[float] | None = None, losses: list[float] | None = None) -> list[dict]:
    ranks = ranks or [20.0] * len(spreads)
    losses = losses or [0.5] * len(spreads)
    rows = zip(spreads, ranks, losses, strict=True)
    return [{"step": 100 * i, "record_spread": s, "rank": r, "fixed_loss": e} for i, (s, r, e) in enumerate(rows)]


def contrasted(gains: list[float], beats: list[float] | None = None) -> list[dict]:
    """Features that keep their spread, whatever the contrast gains on a guess."""
    rows = zip(entries([0.3] * len(gains)), gains, beats or gains, strict=True)
    return [entry | {"fixed_rhythm_gain": gain, "fixed_beat_gain": beat} for entry, gain, beat in rows]


@pytest.mark.parametrize(
    "history",
    [
        [],
        entries([0.001]),
        entries([0.09, 0.08, 0.10, 0.2]),
        entries([0.002, 0.002, 0.003, 0.002]),  # a token for each lead: low from the start
        entries([0.09, 0.004, 0.05, 0.004, 0.06]),  # dips that recover
        entries([0.09, 0.08, 0.08], ranks=[20, 5, 4]),
        entries([0.09, 0.09, 0.09], losses=[0.5, 0.001, 0.001]),
        [{"step": 0, "loss": 1.0}] * 9,
        contrasted([-0.0016, 0.0009, 0.0004, 0.008]),  # on the way from worse than a guess to better
        contrasted([0.0001, 0.0001]),  # too early to say
        contrasted([0.1, 0.7, 1.2, 1.6], beats=[-1.4, -0.06, -0.014, -0.007]),  # worse than a guess is none
    ],
)
def test_a_healthy_run_is_left_alone(history):
    assert collapse_reason(history) is None


@pytest.mark.parametrize(
    ("history", "word"),
    [
        (entries([0.09, 0.05, 0.006, 0.006]), "records differ by 0.60%"),
        (entries([0.5, 0.04, 0.04]), "records differ by 4.00%"),
        (entries([0.09, 0.09, 0.09], ranks=[20, 1.5, 1.4]), "rank of 1.4"),
        (entries([0.09, 0.09, 0.09], ranks=[300, 20, 20]), "rank of 20.0"),
        (entries([0.09, 0.03, 0.03], losses=[0.5, 0.001, 0.001]), "loss fell to 0.2%"),
        (contrasted([0.009, 0.0001, -0.0001]), "recordings are told apart no better than by a guess (-0.00010 nats)"),
        (contrasted([0.5, 0.6, 0.7], beats=[-0.1, 0.0002, 0.0]), "beats are told apart no better than by a guess"),
    ],
)
def test_a_collapsed_run_is_named(history, word):
    reason = collapse_reason(history)
    assert reason is not None
    assert word in reason
    assert f"step {history[-1]['step']}" in reason


def train(config: PretrainConfig, windows: Tensor, steps: int, *, through_targets: bool) -> list[dict]:
    """Train for a while with plain Adam, measuring every 25 steps."""
    torch.manual_seed(0)
    model, gauges, history = Jepa(config), Gauges(), []
    if through_targets:  # what the stop-gradient and the average are there to prevent
        model.target_encoder = model.context_encoder.requires_grad_(True)
        model.targets = lambda values: model.target_encoder(values)[:, 1:]  # type: ignore[method-assign]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=config.optim.lr)
    for step in range(steps + 1):
        if step % 25 == 0:
            history.append({"step": step} | gauges.measure(model, windows, fixed_masks(config)))
        masks = draw_masks(config.masks, config.encoder.n_patches, range(32), seed=1, step=step)
        rows = torch.randperm(len(windows), generator=torch.Generator().manual_seed(step))[:32]
        loss = model(windows[rows], JepaDraw(masks)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not through_targets:
            model.update_target_(config.ema.start)
    return history


def test_a_recipe_broken_on_purpose_is_caught_within_a_few_hundred_steps(windows):
    history = train(tiny_config(optim=OptimConfig(lr=3e-3)), windows, 200, through_targets=True)
    assert collapse_reason(history) is not None
    assert history[-1]["fixed_loss"] < 0.2 * history[0]["fixed_loss"]  # the loss alone looks like success


def test_a_sound_recipe_is_not_accused(windows):
    history = train(tiny_config(ema=EmaConfig(0.99, 1.0)), windows, 150, through_targets=False)
    assert collapse_reason(history) is None


def test_the_loss_on_the_fixed_batch_is_of_a_part_that_is_trained(windows):
    config = tiny_config(objective=ObjectiveConfig(predict_weight=0, sigreg_weight=1))
    torch.manual_seed(0)
    model, drawn = Jepa(config), fixed_masks(config)
    few = windows[:8]
    found = Gauges().measure(model, few, drawn.take(slice(8)))["fixed_loss"]
    model.eval()
    with torch.no_grad():
        assert found == pytest.approx(model(few, drawn.take(slice(8))).sigreg.item(), rel=1e-5)
    assert Jepa(tiny_config()).watched() == "prediction"


@pytest.mark.parametrize("architecture", ["temporal", "leadwise"])
def test_counted_operations_are_those_that_torch_counts(architecture):
    config = tiny_config(architecture)
    model, values = Jepa(config), gaussian(1, 4, 250)
    (mask,) = fixed_masks(config, 1).masks
    visible = mask.context.shape[1]
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():  # torch counts no other kernel of a CPU
        with FlopCounterMode(display=False) as whole:
            model.target_encoder(values)
        with FlopCounterMode(display=False) as seen:
            context = model.context_encoder(values, visible_BK=mask.context)[:, model.context_encoder.num_registers :]
        with FlopCounterMode(display=False) as predicted:
            model.predictor(context, mask)
    n_patches = config.encoder.n_patches
    # Slices that are not seen are embedded all the same.
    embedded = 2 * 10 * 4 * 32 * (n_patches - visible) if architecture == "temporal" else 0
    assert config.encoder.flops(n_patches) == whole.get_total_flops()
    assert config.encoder.flops(visible) == pytest.approx(seen.get_total_flops() - embedded)
    counted = predictor_flops(config.encoder, config.predictor, visible)
    assert counted == predicted.get_total_flops()
    total = whole.get_total_flops() + 3 * (config.encoder.flops(visible) + counted)
    assert jepa_flops(config, visible) == pytest.approx(total)


def test_the_published_small_encoder_costs_what_was_measured():
    # 6.22 GFLOP a record: counted by torch over the published code, and by its formula.
    assert TemporalConfig(8, 25, 200, 384, 8, 6).flops(200) == pytest.approx(6.22e9, rel=0.01)


def test_pace_is_records_and_operations_a_second():
    found = pace(100, 4.0, 2e9, torch.device("cpu"))
    assert found == pytest.approx({"records_per_second": 25.0, "model_tflops": 0.05})


def test_the_features_of_what_is_exported_are_measured(windows):
    config = tiny_config()
    model = Jepa(config)
    with torch.no_grad():
        for p in model.context_encoder.parameters():
            p.mul_(1.5)
    drawn = fixed_masks(config)

    target = Gauges().measure(model, windows, drawn)
    context = Gauges().measure(model, windows, drawn, model.context_encoder, "mean+std+max")

    tokens = model.context_encoder.eval()(windows)[:, model.context_encoder.num_registers :]
    features = torch.cat([tokens.mean(1), tokens.std(1, correction=0), tokens.amax(1)], dim=1)
    assert context["rank"] == pytest.approx(effective_rank(features), rel=1e-4)
    assert context["token_spread"] != target["token_spread"]
    assert context["drift"] == target["drift"] > 0
