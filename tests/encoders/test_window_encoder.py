"""A module of one's own, of any inside, is an encoder like any other once it is derived and registered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skecg import ECGRecord, FineTunedClassifier, JEPAEmbedder, save_encoder
from skecg.encoders import WindowEncoder, build_encoder, register_encoder
from skecg.errors import ParameterError, ShapeError
from skecg.finetuning.heads import Network, build_head, copied_encoder
from skecg.finetuning.loop import levels_of
from skecg.spec import EncoderConfig, InputSpec, Stage
from skecg.weights import read_info, verify_weights

SPEC = InputSpec(("I", "II", "V1"), 100.0, 200)


@dataclass(frozen=True)
class PyramidConfig(EncoderConfig):
    """Two convolutions, the second of which makes fewer and wider tokens."""

    architecture: ClassVar[str] = "pyramid-of-the-tests"

    longest: int
    dim: int = 6

    @property
    def stages(self) -> tuple[Stage, ...]:
        return Stage("fine", self.dim, 5), Stage("coarse", 2 * self.dim, 20)

    @property
    def window_samples(self) -> int:
        return self.longest


class PyramidEncoder(WindowEncoder):
    config: PyramidConfig

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__(config)
        self.gain = nn.Parameter(torch.ones(()))
        self.fine = nn.Conv1d(config.n_leads, config.dim, 5, stride=5)
        self.coarse = nn.Conv1d(config.dim, 2 * config.dim, 4, stride=4)
        self.norm = nn.LayerNorm(2 * config.dim)

    def stages(self, values_BLT: Tensor) -> Iterator[Tensor]:
        fine = self.fine(self.gain * values_BLT).tanh()
        yield fine.mT
        yield self.norm(self.coarse(fine).mT)

    def counted(self, values_BLT: Tensor) -> Tensor | None:
        # Slices that are zeros altogether say nothing.
        return (values_BLT.unflatten(2, (-1, 20)) != 0).any(dim=3).any(dim=1)


register_encoder(PyramidConfig, PyramidEncoder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("pyramid") / "weights"
    save_encoder(place, build_encoder(PyramidConfig(3, 200)).eval(), SPEC, name="mine", licence="mit", trained=False)
    return place


def records(n_samples: int = 200, n: int = 2) -> list[ECGRecord]:
    rng = np.random.default_rng(n_samples)
    return [ECGRecord(rng.normal(size=(3, n_samples)).astype(np.float32) / 5, 100, SPEC.leads) for _ in range(n)]


def test_a_folder_of_it_is_written_read_and_verified(folder: Path) -> None:
    info = read_info(folder)
    assert info.encoder == PyramidConfig(3, 200)
    assert verify_weights(info).passed
    assert "| width, stages | 12, 2 |" in (folder / "README.md").read_text()


@pytest.mark.parametrize(("layer", "n_features"), [(0, 6), (-1, 12), ([0, 1], 18), ("last2", 18)])
def test_any_stage_gives_features_as_wide_as_it_is(folder: Path, layer: object, n_features: int) -> None:
    embedder = JEPAEmbedder(folder, layer=layer, cache=None)
    assert embedder.fit_transform(records()).shape == (2, n_features)
    assert len(embedder.get_feature_names_out()) == n_features


def test_tokens_know_their_times_at_every_stage(folder: Path) -> None:
    for layer, n_tokens, seconds in ((0, 40, 0.05), (1, 10, 0.2)):
        tokens = JEPAEmbedder(folder, layer=layer, cache=None).fit(records()).transform_tokens(records())[0]
        np.testing.assert_allclose(tokens.start_seconds, np.arange(n_tokens) * seconds)
        np.testing.assert_allclose(tokens.stop_seconds - tokens.start_seconds, seconds)
        assert set(tokens.leads) == {"all"}


def test_stages_at_other_distances_do_not_stand_side_by_side_as_tokens(folder: Path) -> None:
    with pytest.raises(ParameterError, match="5 and 20 samples apart"):
        JEPAEmbedder(folder, layer=[0, 1], cache=None).fit(records()).transform_tokens(records())


def test_an_absent_lead_is_one_of_zeros_whatever_stands_there(folder: Path) -> None:
    encoder = build_encoder(PyramidConfig(3, 200)).eval()
    values = torch.randn(2, 3, 200)
    silenced = values.clone()
    silenced[:, 1] = 0
    assert torch.equal(encoder(values, leads=[0, 2]), encoder(silenced))


def test_pooling_leaves_out_the_tokens_that_do_not_count(folder: Path) -> None:
    whole = records()[0]
    signal = whole.signal.copy()
    signal[:, 100:] = 0
    half = ECGRecord(signal, 100, SPEC.leads)
    tokens = JEPAEmbedder(folder, cache=None).fit(records()).transform_tokens([half])[0]
    for pooling, wanted in (("mean", tokens.values[:5].mean(axis=0)), ("max", tokens.values[:5].max(axis=0))):
        found = JEPAEmbedder(folder, pooling=pooling, cache=None).fit_transform([half])[0]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_pre_training_is_refused_for_what_sees_whole_windows_only(folder: Path) -> None:
    with pytest.raises(ParameterError, match=r"'pyramid-of-the-tests'.*whole"):
        build_encoder(PyramidConfig(3, 200))(torch.zeros(1, 3, 200), visible_BK=torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(1, 2, 200), (1, 3, 210), (1, 3, 220), (1, 3, 0), (3, 200)])
def test_windows_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="multiple of 20 and at most 200"):
        build_encoder(PyramidConfig(3, 200))(torch.zeros(shape))


def test_learning_rates_go_down_stage_by_stage(folder: Path) -> None:
    encoder = copied_encoder(read_info(folder))
    levels = levels_of(Network(encoder, build_head("attention", encoder, 2, "mean", 0)))
    assert {name: level for name, level in levels.items() if name.startswith("encoder.")} == {
        "encoder.gain": 3,
        "encoder.fine.weight": 2,
        "encoder.fine.bias": 2,
        "encoder.coarse.weight": 1,
        "encoder.coarse.bias": 1,
        "encoder.norm.weight": 0,
        "encoder.norm.bias": 0,
    }


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
@pytest.mark.parametrize("head", ["linear", "attention"])
def test_it_is_fine_tuned_like_any_other(folder: Path, head: str) -> None:
    classifier = FineTunedClassifier(folder, head=head, random_state=0, validation_fraction=0)
    X, y = records(n=8), np.arange(8) % 2
    assert classifier.fit(X, y).predict_proba(X).shape == (8, 2)


def test_a_bare_module_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"WindowEncoder.*skecg convert onnx"):
        save_encoder(tmp_path, nn.Linear(3, 3), SPEC)
