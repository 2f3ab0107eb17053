"""A module of somebody's own is saved when what a folder builds computes the same, and refused when it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skecg import ECGRecord, JEPAEmbedder, load_encoder, prepare, save_encoder
from skecg.encoders import WindowEncoder, build_encoder, register_encoder
from skecg.encoders.resnet import ResnetConfig, ResnetEncoder
from skecg.errors import ParameterError, ShapeError, SkecgError
from skecg.spec import EncoderConfig, InputSpec, Stage

SPEC = InputSpec(("I", "II"), 100, 200)
RECORDS = [ECGRecord(np.random.default_rng(i).normal(size=(2, 400)), 100, ("I", "II")) for i in range(2)]


@dataclass(frozen=True)
class KindConfig(EncoderConfig):
    architecture = "of-some-kind"

    oddity: str = "plain"
    more: Any = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("seen", 8, 10),)

    @property
    def window_samples(self) -> int:
        return 200


class KindEncoder(WindowEncoder):
    """A convolution, and what may be odd about a module."""

    def __init__(self, config: KindConfig) -> None:
        super().__init__(config)
        self.seen = nn.Conv1d(config.n_leads, 8, 10, stride=10)
        if add := PARTS.get(config.oddity):
            add(self)

    def stages(self, values_BLT: Tensor) -> Iterator[Tensor]:
        tokens = self.seen(values_BLT).mT
        yield from STAGES.get(self.config.oddity, lambda _, tokens: [tokens])(self, tokens)


def tie(module: nn.Module) -> None:
    module.first, module.second = nn.Linear(8, 8), nn.Linear(8, 8)
    module.second.weight = module.first.weight


def take_slices(module: nn.Module) -> None:
    both = torch.randn(12)
    module.first, module.second = nn.Parameter(both[:8]), nn.Parameter(both[4:])


def keep_statistics(module: nn.Module) -> None:
    module.norm, module.dropped = nn.BatchNorm1d(8), nn.Dropout(0.5)
    module.register_buffer("mask", torch.tensor([True] * 4 + [False] * 4))
    module.register_buffer("absent", None)


def forget(module: nn.Module) -> None:
    module.register_buffer("gain", torch.rand(8), persistent=False)


class CountingEncoder(KindEncoder):
    def get_extra_state(self) -> dict[str, int]:
        return {"epoch": 3}


def keep_more(module: nn.Module) -> None:
    module.__class__ = CountingEncoder


def need_more(module: nn.Module) -> None:
    module.width = module.config.more.width


def drop_all(module: nn.Module) -> None:
    del module.seen
    module.seen = lambda values: values.unfold(2, 10, 10).mean(-1).repeat(1, 4, 1)


def explode(module: nn.Module, tokens: Tensor) -> list[Tensor]:
    raise ZeroDivisionError("of theirs")


def name_no_lead(module: nn.Module, tokens: Tensor) -> list[Tensor]:
    raise ShapeError("of skecg's own")


PARTS: dict[str, Callable[[Any], None]] = {
    "tied": tie,
    "slices": take_slices,
    "statistics": keep_statistics,
    "forgetful": forget,
    "extra": keep_more,
    "nested": need_more,
    "lazy": lambda module: module.add_module("lazy", nn.LazyLinear(8)),
    "without parameters": drop_all,
}
STAGES: dict[str, Callable[[Any, Tensor], Any]] = {
    "tied": lambda module, tokens: [module.second(module.first(tokens))],
    "slices": lambda module, tokens: [tokens * module.first * module.second],
    "statistics": lambda module, tokens: [module.dropped(module.norm(tokens.mT).mT) * module.mask],
    "forgetful": lambda module, tokens: [tokens * module.gain],
    "narrow": lambda _, tokens: [tokens[..., :5]],
    "vector": lambda _, tokens: [tokens.mean(1)],
    "none": lambda _, tokens: [],
    "tuple": lambda _, tokens: [(tokens,)],
    "whole numbers": lambda _, tokens: [tokens.long()],
    "not finite": lambda _, tokens: [tokens / 0],
    "neighbours": lambda _, tokens: [tokens - tokens.mean(0)],
    "chance": lambda _, tokens: [tokens + torch.rand(8)],
    "explodes": explode,
    "complains": name_no_lead,
}


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    register_encoder(KindConfig, KindEncoder)


def encoder_of(kind: str, more: Any = None) -> WindowEncoder:
    torch.manual_seed(1)
    return build_encoder(KindConfig(2, kind, more)).eval()


def features_of(encoder: WindowEncoder) -> np.ndarray:
    with torch.inference_mode():
        tokens = encoder(torch.from_numpy(prepare(RECORDS, SPEC).values))
    return tokens.mean(dim=1).unflatten(0, (2, 2)).mean(dim=1).numpy()


@pytest.mark.parametrize("kind", ["plain", "tied", "slices", "statistics", "without parameters"])
def test_a_folder_computes_what_the_module_computes(kind: str, tmp_path: Path) -> None:
    encoder = encoder_of(kind)
    save_encoder(tmp_path / "w", encoder, SPEC)
    found = JEPAEmbedder(tmp_path / "w", cache=None).fit_transform(RECORDS)
    np.testing.assert_allclose(found, features_of(encoder), atol=1e-6)


@pytest.mark.parametrize("more", [None, (1, 2), [1, (2, None)], {"a": {"b": 1.5}}, True])
def test_values_that_a_file_can_hold_come_back_in_the_configuration(more: Any, tmp_path: Path) -> None:
    save_encoder(tmp_path / "w", encoder_of("plain", more), SPEC)
    found = load_encoder(tmp_path / "w")[0].config.more
    assert found == (tuple(more) if more == (1, 2) else (1, [2, None]) if isinstance(more, list) else more)


def test_a_module_in_training_is_saved_as_it_is_in_evaluation_and_goes_on_training(tmp_path: Path) -> None:
    encoder = encoder_of("statistics").train()
    encoder.dropped.eval()
    statistics, drawn = encoder.norm.running_mean.clone(), torch.get_rng_state()
    save_encoder(tmp_path / "w", encoder, SPEC)
    assert [module.training for module in (encoder, encoder.norm, encoder.dropped)] == [True, True, False]
    assert torch.equal(encoder.norm.running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), drawn), "training draws on as if nothing had been saved"
    np.testing.assert_allclose(features_of(load_encoder(tmp_path / "w")[0]), features_of(encoder.eval()), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_precision_is_saved_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    encoder = encoder_of("plain")
    wanted = features_of(encoder)
    save_encoder(tmp_path / "w", encoder.to(dtype), SPEC)
    np.testing.assert_allclose(features_of(load_encoder(tmp_path / "w")[0]), wanted, atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("narrow", r"shape \(2, 20, 5\).*'seen'.*\(2, n_tokens, 8\)"),
        ("vector", r"shape \(2, 8\)"),
        ("none", "no tokens for stage 0 of the 1"),
        ("tuple", "Got a tuple"),
        ("whole numbers", "torch.int64"),
        ("not finite", "not finite"),
        ("neighbours", "depend on the windows beside"),
        ("chance", "or on chance"),
        ("explodes", r"fails on windows of shape \(2, 2, 200\).*ZeroDivisionError: of theirs"),
        ("complains", "^of skecg's own$"),
        ("forgetful", "other tokens when it is built again"),
        ("extra", "'_extra_state' of type dict"),
        ("lazy", "'lazy.weight' of type UninitializedParameter"),
    ],
)
def test_what_no_folder_could_give_back_is_refused_before_anything_is_written(
    kind: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SkecgError, match=words):
        save_encoder(tmp_path / "w", encoder_of(kind), SPEC)
    assert not (tmp_path / "w").exists()


@dataclass(frozen=True)
class Width:
    width: int = 3


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("plain", {1, 2}, "set is not JSON"),
        ("plain", np.int64(3), "int64 is not JSON"),
        ("plain", Path("here"), "not JSON"),
        ("plain", float("inf"), "not JSON compliant"),
        ("nested", Width(), "does not build again.*'width'"),
    ],
)
def test_a_configuration_that_no_file_holds_is_refused(kind: str, more: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=words):
        save_encoder(tmp_path / "w", encoder_of(kind, more), SPEC)
    assert not (tmp_path / "w").exists()


def test_what_was_added_to_a_module_or_is_empty_is_refused(tmp_path: Path) -> None:
    encoder = encoder_of("plain")
    encoder.head = nn.Linear(8, 2)
    with pytest.raises(ParameterError, match=r"other tensors.*head\.weight"):
        save_encoder(tmp_path / "w", encoder, SPEC)
    with pytest.raises(ParameterError, match=r"'seen.weight' of type Tensor.*with values"):
        save_encoder(tmp_path / "w", encoder_of("plain").to("meta"), SPEC)
    assert not (tmp_path / "w").exists()


def test_a_module_without_a_configuration_is_refused(tmp_path: Path) -> None:
    encoder = encoder_of("plain")
    del encoder.config
    with pytest.raises(ParameterError, match=r"without a configuration.*super\(\)"):
        save_encoder(tmp_path / "w", encoder, SPEC)


def test_a_class_of_ones_own_with_a_configuration_of_skecgs_is_saved_where_it_computes_the_same(tmp_path: Path) -> None:
    class Named(ResnetEncoder):
        pass

    class Squared(ResnetEncoder):
        def stages(self, values_BLT: Tensor) -> Iterator[Tensor]:
            yield from (tokens**2 for tokens in super().stages(values_BLT))

    config = ResnetConfig(2, 200, (8, 8), 2)
    save_encoder(tmp_path / "named", Named(config), SPEC)
    with pytest.raises(ParameterError, match=r"other tokens.*as a ResnetEncoder.*a configuration of its own"):
        save_encoder(tmp_path / "squared", Squared(config), SPEC)
    assert not (tmp_path / "squared").exists()


def test_an_architecture_that_nobody_registered_is_refused(tmp_path: Path) -> None:
    class OtherConfig(KindConfig):
        architecture = "of-no-kind"

    with pytest.raises(SkecgError, match="of-no-kind"):
        save_encoder(tmp_path / "w", KindEncoder(OtherConfig(2)), SPEC)
