"""Learning rates fall from the head to the patches as stated, for every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from skecg.encoders import build_encoder
from skecg.encoders.dual import DualConfig
from skecg.finetuning.heads import Network, build_head, copied_encoder
from skecg.finetuning.loop import layered_groups, levels_of
from skecg.spec import MultiscaleConfig
from skecg.weights import read_info

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


MULTISCALE = MultiscaleConfig(12, 25, 10, 16, 2, 2, kernel_samples=(5, 15), stem_dim=4)


@pytest.fixture(params=["tiny-temporal", "tiny-leadwise", MULTISCALE])
def network(request: pytest.FixtureRequest) -> Network:
    known = isinstance(request.param, str)
    encoder = copied_encoder(read_info(FIXTURES / request.param)) if known else build_encoder(request.param)
    return Network(encoder, build_head("linear", encoder, 3, "mean", seed=0))


def test_every_parameter_has_the_rate_of_its_layer(network: Network) -> None:
    depth = len(network.encoder.blocks)
    rates = {
        name: group["lr"]
        for group in layered_groups(network, learning_rate=0.1, layer_decay=0.5)
        for name in group["names"]
    }

    assert rates.keys() == {name for name, _ in network.named_parameters()}
    assert rates["head.linear.weight"] == rates["encoder.norm.weight"] == 0.1
    for block in range(depth):
        assert rates[f"encoder.blocks.{block}.attn.qkv.weight"] == pytest.approx(0.1 * 0.5 ** (depth - block))
    assert rates["encoder.patch_embed.weight"] == pytest.approx(0.1 * 0.5 ** (depth + 1))
    if "encoder.scales.0.weight" in rates:
        assert rates["encoder.scales.0.weight"] == pytest.approx(0.1 * 0.5 ** (depth + 1))
    if "encoder.registers" in rates:
        assert rates["encoder.registers"] == pytest.approx(0.1 * 0.5 ** (depth + 1))


def test_blocks_side_by_side_have_one_rate() -> None:
    # Two blocks of the transformer beside three of the convolutions.
    config = DualConfig(
        12, 25, 10, 16, 2, 2, scale_floor=0.1, residual_widths=(4, 8), residual_blocks=(1, 2), residual_stride=5
    )
    levels = levels_of(Network(build_encoder(config), nn.Linear(24, 3)))

    found = {name.removeprefix("encoder.").removesuffix(".weight"): level for name, level in levels.items()}
    assert found["norm"] == found["residual.norm"] == 0
    for level, (block, beside) in enumerate([("blocks.1.mlp.fc1", 2), ("blocks.0.mlp.fc1", 1)], start=1):
        assert found[block] == found[f"residual.levels.{beside}.conv1"] == level
    assert found["residual.levels.0.conv1"] == 3
    assert found["residual.stem"] == found["patch_embed"] == 4


def test_every_parameter_is_in_one_group_and_the_network_is_in_them(network: Network) -> None:
    groups = layered_groups(network, learning_rate=0.1)
    parameters = [id(parameter) for group in groups for parameter in group["params"]]

    assert sorted(parameters) == sorted(map(id, network.parameters()))
    assert {group["lr"] for group in groups} == {0.1}


def test_matrices_decay_and_nothing_else_does(network: Network) -> None:
    for group in layered_groups(network, learning_rate=0.1, weight_decay=0.3):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            matrix = parameter.ndim > 1 and not name.endswith("registers")
            assert group["weight_decay"] == (0.3 if matrix else 0.0), name


def test_what_is_frozen_is_in_no_group(network: Network) -> None:
    network.encoder.requires_grad_(False)

    names = [name for group in layered_groups(network, learning_rate=0.1) for name in group["names"]]

    assert sorted(names) == ["head.linear.bias", "head.linear.weight"]


def test_levels_count_from_the_head_down(network: Network) -> None:
    levels = levels_of(network)

    assert levels["head.linear.bias"] == 0
    assert max(levels.values()) == len(network.encoder.blocks) + 1
