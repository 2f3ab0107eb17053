"""What comes from outside the trainer: the examples' plug-ins, from recordings to features, and what may go wrong."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_corpora import heart, write_arrays, write_wfdb
from small_runs import CHECKOUT, small_config

from pretraining.__main__ import main
from pretraining.config import AnyObjectiveConfig, MaskConfig
from pretraining.config.parts import MASK_KINDS
from pretraining.data.corpora import CORPORA, open_corpus, open_files, register_corpus
from pretraining.objectives import _check_layers, register_objective
from pretraining.objectives.jepa import Jepa
from pretraining.objectives.masks import draw_masks, register_mask
from pretraining.recipes import load_recipe, register_recipe
from skecg.cli import main as skecg_main
from skecg.datasets import make_ecg
from skecg.encoders.plugins import load_plugin
from skecg.errors import ParameterError

PLUGINS = CHECKOUT / "examples" / "plugins"
SHORT = ["run.steps=4", "run.batch_size=4", "watch.gauge_every=2", "watch.checkpoint_every=2", "watch.log_every=1"]
SMALL = [*SHORT, "optim.warmup_steps=1", "encoder.dim=16", "encoder.depth=2"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    source = write_arrays(folder / "mine.npz", 8, rate=100.0)
    arguments = ["--corpus", f"mine={source}", "--out", str(folder / "shards"), "--recipe", "skecg_default", "--quiet"]
    assert main(["pack", *arguments]) == 0
    return folder / "shards"


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A plug-in of the examples and the folder of a run that it trained, for all who ask for the same one."""
    plugin, run = str(PLUGINS / f"{request.param}.py"), str(tmp_path_factory.mktemp("runs") / "run")
    smaller = ["encoder.num_heads=2"] if request.param == "lejepa" else []
    arguments = ["--recipe", plugin, "--data", str(shards), "--out", run, "--device", "cpu", *SMALL, *smaller]
    assert main(["train", *arguments]) == 0
    return plugin, run


def elsewhere(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own, where nothing is registered yet."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "trained", [pytest.param("dilated_convolutions", marks=pytest.mark.slow), "lejepa"], indirect=True
)
def test_a_plugin_of_one_file_is_trained_exported_verified_and_embeds(trained: tuple[str, str], tmp_path: Path) -> None:
    (plugin, run), weights = trained, str(tmp_path / "weights")
    records, _ = make_ecg(2, sampling_rate=100.0, random_state=1)
    for number, record in enumerate(records):
        np.savetxt(
            tmp_path / f"{number}.csv", record.signal.T, delimiter=",", header=",".join(record.leads), comments=""
        )

    assert main(["inspect", "--plugin", plugin, run]) == 0
    assert main(["export", "--plugin", plugin, "--run", run, "--out", weights]) == 0
    assert skecg_main(["verify", "--plugin", plugin, weights]) == 0
    table = tmp_path / "features.csv"
    embed = ["embed", "--plugin", plugin, "--model", weights, "--sampling-rate", "100", "--out", str(table)]
    embed += [str(tmp_path / "0.csv"), str(tmp_path / "1.csv")]
    if "lejepa" in plugin:  # an objective, whose weights are of an encoder of skecg
        assert skecg_main(embed) == 0
    else:
        found = elsewhere("skecg", *embed)
        assert found.returncode == 0, found.stderr
    assert len(table.read_text().splitlines()) == 3


@pytest.mark.parametrize("trained", ["lejepa"], indirect=True)
def test_a_run_of_a_plugin_that_is_not_named_says_what_is_missing(trained: tuple[str, str], tmp_path: Path) -> None:
    found = elsewhere("pretraining", "export", "--run", trained[1], "--out", str(tmp_path / "weights"))

    assert found.returncode == 2
    assert "objective.kind='lejepa'" in found.stderr
    assert "--plugin MODULE" in found.stderr
    assert f"The run was trained with {Path(trained[0]).stem!r}." in found.stderr
    assert "remove" not in found.stderr


def test_a_recipe_of_a_loaded_plugin_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list", "--plugin", str(PLUGINS / "lejepa.py")]) == 0
    assert "lejepa  " in capsys.readouterr().out


def test_an_objective_that_hides_no_leads_is_not_asked_to() -> None:
    load_plugin(str(PLUGINS / "lejepa.py"))
    with pytest.raises(ParameterError, match=r"Got masks\.lead_dropout=0\.5, expected 0 with 'lejepa'"):
        load_recipe("lejepa").override(["masks.lead_dropout=0.5"])


def test_a_file_without_a_recipe_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "without_a_recipe.py"
    file.write_text("")
    with pytest.raises(ParameterError, match="registers no recipe"):
        load_recipe(str(file))


def test_the_dilated_encoder_hides_what_is_hidden_and_counts_its_arithmetic() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    module = load_plugin(str(PLUGINS / "dilated_convolutions.py"))
    config = module.DilatedConfig(n_leads=3, patch_samples=10, n_patches=20, dim=16, depth=3)
    encoder = module.DilatedEncoder(config)
    values, visible = torch.randn(2, 3, 200), torch.tensor([[1, 2, 9], [0, 4, 19]])
    altered = values.clone()
    altered[0, :, 30:90] += 5.0

    seen, also = encoder(values, visible_BK=visible), encoder(altered, visible_BK=visible)

    assert seen.shape == (2, 3, 16)
    assert torch.equal(seen, also)
    assert torch.allclose(encoder(values, leads=[0, 2]), encoder(values * torch.tensor([1.0, 0.0, 1.0])[:, None]))
    with FlopCounterMode(display=False) as counted:
        encoder(values[:1])
    assert config.flops(20) == pytest.approx(counted.get_total_flops(), rel=0.01)


def test_arithmetic_that_nobody_counts_is_not_a_number() -> None:
    from skecg.spec import PatchEncoderConfig

    assert math.isnan(PatchEncoderConfig(3, 10, 20, 16, 2, 2).flops(20))


@pytest.fixture
def first_half() -> Iterator[str]:
    """A mask that keeps the first half of the slices."""

    def draw(config: MaskConfig, n_patches: int, positions: range, key: tuple[int, int, int]) -> np.ndarray:
        return np.tile(np.arange(n_patches) < n_patches // 2, (len(positions), 1))

    register_mask("first_half", draw)
    yield "first_half"
    del MASK_KINDS["first_half"]


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (torch.nn.BatchNorm1d(2), "gathers statistics"),
        (torch.nn.InstanceNorm1d(2, track_running_stats=True), "gathers statistics"),
        (torch.nn.Dropout(0.2), "drops at random"),
        (torch.nn.Dropout1d(0.2), "drops at random"),
    ],
)
def test_layers_that_averages_and_checkpoints_leave_behind_are_refused(layer: torch.nn.Module, words: str) -> None:
    with pytest.raises(ParameterError, match=f"Got the layer 1 = .*, which {words}, .*LayerNorm or GroupNorm"):
        _check_layers(torch.nn.Sequential(torch.nn.Linear(2, 2), layer))
    _check_layers(torch.nn.Sequential(torch.nn.Dropout(0), torch.nn.LayerNorm(2), torch.nn.InstanceNorm1d(2)))


def test_a_mask_is_registered_by_a_function(first_half: str) -> None:
    config = small_config(masks__kind=first_half)
    assert config.masks is not None

    (mask,) = draw_masks(config.masks, 20, range(3), seed=0, step=0)

    assert mask.context.tolist() == [list(range(10))] * 3
    assert mask.target.tolist() == [list(range(10, 20))] * 3


def test_a_corpus_is_registered_by_what_opens_it(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "one", heart(0), 500.0)
    try:
        register_corpus("ours", lambda name, folder: dataclasses.replace(open_files(name, folder), notes=("Ours.",)))
        assert open_corpus("ours", tmp_path).notes == ("Ours.",)
    finally:
        del CORPORA["ours"]


def test_names_that_are_taken_are_refused() -> None:
    class Thief(AnyObjectiveConfig):
        kind = "mae"

    def tiny() -> None:
        return None

    for steal in (
        lambda: register_objective(Thief, Jepa),
        lambda: register_recipe(tiny),
        lambda: register_corpus("ptbxl", lambda name, folder: open_files(name, folder)),
        lambda: register_mask("blocks", lambda *_: np.ones((1, 1), bool)),
    ):
        with pytest.raises(ParameterError, match=r"which|no other"):
            steal()
