"""The loop steps as AdamW does, keeps the best, gives one result for one seed, and stops when it is told to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skecg.errors import ParameterError, SkecgWarning
from skecg.finetuning.loop import History, TrainingConfig, ordered_map, train_network

CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.05, warmup_epochs=0, weight_decay=0, gradient_clip=0)


class Line:
    """Batches of a straight line: 32 points, 8 in a batch, three in a micro-batch."""

    def __init__(self) -> None:
        self.x = torch.linspace(-1, 1, 32)[:, None]
        self.y = 3 * self.x + 1
        self.seen: list[list[int]] = []

    def epoch(self, rng: np.random.Generator) -> list[list[np.ndarray]]:
        order = rng.permutation(32)
        self.seen.append(order.tolist())
        return [[batch[i : i + 3] for i in range(0, 8, 3)] for batch in order.reshape(4, 8)]

    def loss(self, network: nn.Module, part: np.ndarray) -> Tensor:
        return (network(self.x[part]) - self.y[part]).square().sum() / 8


def line() -> nn.Linear:
    network = nn.Linear(1, 1)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    return network


def groups(network: nn.Module, rate: float = 0.05) -> list[dict]:
    return [{"params": list(network.parameters()), "lr": rate, "weight_decay": 0.0}]


def trained(config: TrainingConfig = CONFIG, batches: Line | None = None, **options) -> tuple[nn.Linear, History]:
    network = line()
    history = train_network(network, batches or Line(), config, groups(network), **options)
    return network, history


def weights(network: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_parts_add_up_to_the_steps_of_whole_batches(clip: float) -> None:
    points = Line()
    network, history = trained(replace(CONFIG, gradient_clip=clip), points)

    plain = line()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.05, weight_decay=0.0)
    losses = []
    for epoch, order in enumerate(points.seen):
        for i, batch in enumerate(np.reshape(order, (4, 8))):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * CONFIG.rate_factor(epoch + (i + 1) / 4)
            loss = (plain(points.x[batch]) - points.y[batch]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(plain.parameters(), clip)
            optimizer.step()
            losses.append(loss.item())

    np.testing.assert_allclose(weights(network), weights(plain), rtol=1e-5)
    np.testing.assert_allclose(history.losses, np.reshape(losses, (4, 4)).mean(axis=1), rtol=1e-5)


def test_what_is_validated_and_kept_is_the_average_and_the_steps_are_those_without_it() -> None:
    seen: list[np.ndarray] = []

    class Watched(Line):
        def loss(self, network: nn.Module, part: np.ndarray) -> Tensor:
            if part[0] == self.seen[-1][len(seen) % 4 * 8]:
                seen.append(weights(network))
            return super().loss(network, part)

    validated: list[np.ndarray] = []
    config = replace(CONFIG, n_jobs=1, averaging=0.5)
    network = line()
    history = train_network(
        network, Watched(), config, groups(network), lambda: validated.append(weights(network)) or len(validated)
    )

    # What a step began with is where the one before it ended; the last one is that of a training without an average.
    plain, its_history = trained(replace(CONFIG, n_jobs=1))
    average, averages = np.zeros(2), [np.zeros(2)]
    for number, after in enumerate([*seen[1:], weights(plain)], start=1):
        memory = min(0.5, (1 + number) / (10 + number))
        average = memory * average + (1 - memory) * after
        averages.append(average)
    assert history.losses == its_history.losses
    np.testing.assert_allclose(validated, averages[::4], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(weights(network), validated[-1])


def test_one_seed_is_one_result_bit_for_bit_however_many_work_on_it() -> None:
    first = weights(trained()[0])

    np.testing.assert_array_equal(first, weights(trained()[0]))
    np.testing.assert_array_equal(first, weights(trained(replace(CONFIG, n_jobs=1))[0]))
    np.testing.assert_array_equal(first, weights(trained(replace(CONFIG, n_jobs=3))[0]))
    assert not np.array_equal(first, weights(trained(replace(CONFIG, random_state=1))[0]))


def test_the_users_random_numbers_go_on_as_if_nothing_had_happened() -> None:
    network = line()
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    expected = torch.rand(3), np.random.random(3)  # noqa: NPY002
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    train_network(network, Line(), CONFIG, groups(network))

    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.random(3), expected[1])  # noqa: NPY002


def test_the_best_epoch_is_kept_and_patience_ends_the_rest() -> None:
    network = line()
    scores = iter([0.1, 0.3, 0.9, 0.2, 0.9, 0.5, 0.4])
    states: list[np.ndarray] = []

    def validate() -> float:
        states.append(weights(network))
        assert not network.training
        return next(scores)

    history = train_network(network, Line(), replace(CONFIG, epochs=9, patience=3), groups(network), validate)

    assert history.best_epoch == 2
    assert history.scores == [0.1, 0.3, 0.9, 0.2, 0.9, 0.5]
    assert len(history.losses) == 5
    np.testing.assert_array_equal(weights(network), states[2])


def test_where_scores_are_equal_what_follows_them_decides() -> None:
    network = line()
    scores = iter([(0.9, -3.0), (0.9, -1.0), (0.9, -2.0), (0.8, 0.0), (0.9, -1.0)])

    history = train_network(network, Line(), CONFIG, groups(network), lambda: next(scores))

    assert history.best_epoch == 1
    assert history.scores == [0.9, 0.9, 0.9, 0.8, 0.9]


def test_nothing_is_changed_when_nothing_gets_better() -> None:
    network = line()
    train_network(network, Line(), CONFIG, groups(network), lambda: -float(np.abs(weights(network)).sum()))

    np.testing.assert_array_equal(weights(network), 0)


def test_the_last_epoch_is_kept_where_nothing_validates() -> None:
    assert trained()[1].best_epoch == 4
    assert trained()[1].scores == []


def test_an_interruption_goes_on_and_leaves_the_best_so_far() -> None:
    network, history = line(), History()
    states: list[np.ndarray] = []

    def validate() -> float:
        states.append(weights(network))
        if len(states) == 4:
            raise KeyboardInterrupt
        return [0.0, 0.5, 0.2][len(states) - 1]

    with pytest.raises(KeyboardInterrupt):
        train_network(network, Line(), CONFIG, groups(network), validate, history=history)

    np.testing.assert_array_equal(weights(network), states[1])
    assert history.best_epoch == 1
    assert len(history.losses) == 3
    assert not network.training


def test_a_loss_that_is_no_number_ends_training_with_the_best_so_far() -> None:
    class Astray(Line):
        def loss(self, network: nn.Module, part: np.ndarray) -> Tensor:
            return super().loss(network, part) * (float("nan") if len(self.seen) > 2 else 1.0)

    with pytest.warns(SkecgWarning, match="no number in epoch 3 .* weights of epoch 2 were kept. Lower learning_rate"):
        network, history = trained(batches=Astray())

    assert np.isfinite(weights(network)).all()
    assert len(history.losses) == history.best_epoch == 2


def test_gradients_are_clipped_by_the_norm_of_the_batch() -> None:
    class Steep(Line):
        def loss(self, network: nn.Module, part: np.ndarray) -> Tensor:
            return 1e6 * super().loss(network, part)

    steps: list[float] = []
    norm = nn.utils.clip_grad_norm_

    def noted(parameters, largest):
        norm(parameters, largest)
        steps.append(math.hypot(*(p.grad.norm().item() for p in parameters)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.utils.clip_grad_norm_", noted)
        trained(replace(CONFIG, gradient_clip=0.5), Steep())

    np.testing.assert_allclose(steps, 0.5, rtol=1e-3)


def test_rates_rise_and_fall_along_half_a_cosine() -> None:
    config = TrainingConfig(epochs=11, warmup_epochs=1, final_share=0.1)

    assert config.rate_factor(0) == 0
    assert config.rate_factor(0.5) == 0.5
    assert config.rate_factor(1) == 1
    assert config.rate_factor(6) == pytest.approx(0.55)
    assert config.rate_factor(11) == pytest.approx(0.1)
    assert TrainingConfig(epochs=2, warmup_epochs=0).rate_factor(0) == 1
    assert 0 < TrainingConfig(epochs=1, warmup_epochs=3).rate_factor(1) < 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epochs": 0}, "epochs=0, expected an integer of at least 1"),
        ({"epochs": 2.5}, r"epochs=2\.5, expected an integer of at least 1"),
        ({"batch_size": True}, "batch_size=True, expected an integer of at least 1"),
        ({"learning_rate": 0}, "learning_rate=0, expected a number above 0"),
        ({"learning_rate": "fast"}, "learning_rate='fast', expected a number above 0"),
        ({"layer_decay": 1.1}, r"layer_decay=1\.1, expected a number above 0 and of at most 1"),
        ({"weight_decay": -1}, "weight_decay=-1, expected a number of at least 0"),
        ({"warmup_epochs": float("nan")}, "warmup_epochs=nan, expected a number"),
        ({"patience": 0}, "patience=0, expected an integer of at least 1 or None"),
        ({"averaging": 1}, "averaging=1, expected a number of at least 0 and below 1"),
        ({"precision": "fp16"}, "precision='fp16', expected one of"),
        ({"n_jobs": 0}, "n_jobs=0, expected"),
        ({"final_share": 2}, "final_share=2, expected a number of at least 0 and of at most 1"),
    ],
)
def test_wrong_plans_are_named_with_what_is_allowed(parameters: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        TrainingConfig(**parameters)


@pytest.mark.parametrize("n_jobs", [1, 4])
def test_a_map_keeps_the_order_and_passes_on_the_first_error(n_jobs: int) -> None:
    def work(item: int) -> int:
        assert torch.get_num_threads() == 1
        if item == 99:
            raise RuntimeError("item 99")
        return item * item

    with ordered_map(torch.device("cpu"), n_jobs) as over:
        assert over(work, range(40)) == [item * item for item in range(40)]
        with pytest.raises(RuntimeError, match="item 99"):
            over(work, [1, 99, 2])
