from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import small_state

from pretraining.config import DataConfig, MaskConfig, OptimConfig, PredictorConfig, PretrainConfig, RunConfig
from pretraining.export import export
from pretraining.monitoring.journal import Journal
from pretraining.objectives.base import exported_encoder
from pretraining.objectives.jepa import Jepa
from pretraining.runs import CheckpointError, save_checkpoint
from skecg.datasets import make_ecg
from skecg.embedder import JEPAEmbedder
from skecg.encoders.pooling import pool_tokens
from skecg.errors import DamagedWeightsError, ParameterError
from skecg.hub.licences import data_licences
from skecg.preprocessing.windows import prepare
from skecg.spec import EncoderConfig, InputSpec, LeadwiseConfig, TemporalConfig
from skecg.weights import verify_weights

LEADS = ("I", "II", "V2", "V5")


def tiny_config(architecture: str = "temporal", **changes: object) -> PretrainConfig:
    encoder: EncoderConfig = (
        TemporalConfig(4, 10, 25, 16, 2, 2) if architecture == "temporal" else LeadwiseConfig(4, 25, 10, 16, 2, 2)
    )
    values: dict[str, object] = {
        "name": "tiny",
        "input": InputSpec(LEADS, 100, 250, normalization="zscore"),
        "encoder": encoder,
        "predictor": PredictorConfig(16, 1, 2),
        "masks": MaskConfig("random", 0.5, 0.7),
        "optim": OptimConfig(lr=1e-3),
        "run": RunConfig(steps=100, batch_size=32, seed=3),
        "pooling": "mean+std",
    }
    return PretrainConfig(**(values | changes))  # type: ignore[arg-type]


def make_model(config: PretrainConfig, seed: int = 0) -> Jepa:
    """A model whose two encoders differ."""
    torch.manual_seed(seed)
    model = Jepa(config)
    with torch.no_grad():
        for p in model.target_encoder.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model


def save(run: Path, model: Jepa, step: int, probe: dict | None = None) -> None:
    state = small_state(model.config, model=model.state_dict(), step=step, probe=probe or {"history": []})
    save_checkpoint(run / "checkpoints", state, step, keep_last=5)


def own_features(encoder: torch.nn.Module, config: PretrainConfig, records: list) -> np.ndarray:
    windows = prepare(records, config.input)
    with torch.inference_mode():
        tokens = encoder.eval()(torch.from_numpy(windows.values))
        pooled = pool_tokens([tokens], encoder.num_registers, "mean+std").numpy()
    return pooled.reshape(len(records), 2, -1).mean(axis=1)  # two windows a record


@pytest.fixture(scope="module")
def records() -> list:
    return make_ecg(5, duration_seconds=5, sampling_rate=500, random_state=0).records


@pytest.mark.parametrize("kind", ["target", "context"])
@pytest.mark.parametrize("architecture", ["temporal", "leadwise"])
def test_exported_weights_give_the_features_of_the_trained_encoder(architecture, kind, records, tmp_path):
    config = tiny_config(architecture, export_encoder=kind)
    model = make_model(config)
    save(tmp_path / "run", model, 50)
    info = export(tmp_path / "run", tmp_path / "weights")
    found = JEPAEmbedder(str(tmp_path / "weights"), cache=None).fit_transform(records)
    encoders = {"target": model.target_encoder, "context": model.context_encoder}
    np.testing.assert_allclose(found, own_features(encoders.pop(kind), config, records), atol=1e-6)
    assert np.abs(found - own_features(*encoders.values(), config, records)).max() > 1e-3
    assert info.provenance["which_encoder"] == kind
    assert verify_weights(info).passed


def test_the_other_encoder_can_be_asked_for(records, tmp_path):
    model = make_model(tiny_config())
    save(tmp_path / "run", model, 50)
    export(tmp_path / "run", tmp_path / "weights", encoder="context")
    found = JEPAEmbedder(str(tmp_path / "weights"), cache=None).fit_transform(records)
    np.testing.assert_allclose(found, own_features(model.context_encoder, model.config, records), atol=1e-6)


def test_last_is_the_newest_and_best_the_one_with_the_best_probe(tmp_path):
    config, run = tiny_config(), tmp_path / "run"
    history = [[10, 0.6], [20, 0.8], [30, 0.7]]
    for step in (10, 20, 30):
        save(run, make_model(config, seed=step), step, {"history": history[: step // 10], "best_step": min(step, 20)})
    last, best = export(run, tmp_path / "last"), export(run, tmp_path / "best", which="best")
    assert (last.provenance["steps"], best.provenance["steps"]) == (30, 20)
    assert last.provenance["probe"] == {"step": 30, "macro_auroc": 0.7}
    assert best.provenance["probe"] == {"step": 20, "macro_auroc": 0.8}
    assert last.sha256 != best.sha256


def test_the_card_says_where_the_weights_come_from(tmp_path):
    run = tmp_path / "run"
    save(run, make_model(tiny_config(data=DataConfig(lead_dropout=0.2))), 50)
    (run / "data.json").write_text(json.dumps({"corpora": {"ptbxl": 1625, "ludb": 160}, "n_records": 1785}))
    with Journal(run, print_every=0) as journal:
        journal.write(40, {"loss": 1.0, "rank": 12.34567, "record_spread": 0.2})
        journal.write(50, {"loss": 0.9, "rank": 13.0})
        journal.write(50, {"record_spread": 0.3})
        journal.write(60, {"loss": 0.9, "rank": 99.0})
    info = export(run, tmp_path / "weights", name="mine", licence="CC-BY-4.0")
    known = info.provenance
    assert (known["name"], known["licence"], known["trained"], known["recipe"]) == ("mine", "CC-BY-4.0", True, "tiny")
    assert (known["steps"], known["records_seen"], known["seed"]) == (50, 1600, 3)
    assert known["data"] == "ptbxl (1,625 records), ludb (160 records)"
    assert known["data_fingerprint"] == "ab12"
    assert known["gauges"] == {"rank": 13.0, "record_spread": 0.3}
    assert known["lead_dropout"] == 0.2
    assert info.pooling == "mean+std"
    card = (tmp_path / "weights" / "README.md").read_text()
    assert "50 steps of 32 records" in card
    assert "license: cc-by-4.0" in card
    assert str(tmp_path) not in card


def test_the_card_names_only_corpora_that_were_drawn(tmp_path):
    run = tmp_path / "run"
    save(run, make_model(tiny_config(data=DataConfig(weights={"ludb": 1.0}))), 50)
    (run / "data.json").write_text(json.dumps({"corpora": {"closed": 1625, "ludb": 160}}))
    known = export(run, tmp_path / "weights").provenance
    assert known["data"] == "ludb (160 records)"
    assert data_licences(known) == {"ludb": "ODC-By-1.0"}


def test_a_score_is_called_what_it_is(tmp_path):
    probe = {"history": [[50, 0.31]], "best_step": 50, "measure": "r2"}
    save(tmp_path / "run", make_model(tiny_config()), 50, probe)
    assert export(tmp_path / "run", tmp_path / "weights").provenance["probe"] == {"step": 50, "r2": 0.31}
    assert "- probe: step 50, r2 0.31" in (tmp_path / "weights" / "README.md").read_text()


def test_tensors_of_another_encoder_are_refused_by_the_name_of_their_file(tmp_path):
    model = make_model(tiny_config())
    foreign = model.state_dict() | {"target_encoder.newer": torch.zeros(2)}
    model.state_dict = lambda: foreign
    save(tmp_path / "run", model, 50)
    with pytest.raises(CheckpointError, match=r"step-00000050\.pt.*tensors cannot be used.*newer"):
        export(tmp_path / "run", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_gauges_and_score_are_left_off_the_card_of_an_encoder_that_they_were_not_measured_on(tmp_path):
    run, config = tmp_path / "run", tiny_config()
    save(run, make_model(config), 50, {"history": [[50, 0.7]], "best_step": 50})
    with Journal(run, print_every=0) as journal:
        journal.write(50, {"rank": 13.0})
    as_watched = export(run, tmp_path / "same", encoder="target", blocks=config.encoder.depth).provenance
    assert (as_watched["gauges"], as_watched["probe"]["macro_auroc"]) == ({"rank": 13.0}, 0.7)
    for number, other in enumerate(({"encoder": "context"}, {"blocks": 1})):
        assert not {"gauges", "probe"} & set(export(run, tmp_path / f"other{number}", **other).provenance)


def test_a_run_trained_without_absent_leads_is_not_said_to_bear_them(tmp_path):
    save(tmp_path / "run", make_model(tiny_config(data=DataConfig(lead_dropout=0.5))), 50)
    assert export(tmp_path / "run", tmp_path / "w").spec.any_leads is False


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="without a checkpoint"):
        export(tmp_path / "nowhere", tmp_path / "w")
    run = tmp_path / "run"
    save(run, make_model(tiny_config()), 50)
    with pytest.raises(ParameterError, match="no probe has scored"):
        export(run, tmp_path / "w", which="best")
    with pytest.raises(ParameterError, match="one of 'last', 'best'"):
        export(run, tmp_path / "w", which="first")
    with pytest.raises(ParameterError, match="one of 'target', 'context'"):
        export(run, tmp_path / "w", encoder="student")
    save(run, make_model(tiny_config()), 60, {"history": [[10, 0.9]], "best_step": 10})
    with pytest.raises(ParameterError, match="step 10, and it is no longer there"):
        export(run, tmp_path / "w", which="best")
    assert not (tmp_path / "w").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = make_model(tiny_config())
    with torch.no_grad():
        next(model.target_encoder.parameters()).fill_(torch.nan)
    save(tmp_path / "run", model, 50)
    with pytest.raises(DamagedWeightsError, match="not finite"):
        export(tmp_path / "run", tmp_path / "w")


def test_what_is_exported_carries_its_training_configuration_and_code(tmp_path):
    config = tiny_config()
    save(tmp_path / "run", make_model(config), 50)
    (tmp_path / "run" / "code.json").write_text('[{"skecg": "1.0", "commit": "ab", "dirty": false}]')
    info = export(tmp_path / "run", tmp_path / "weights")
    written = json.loads((tmp_path / "weights" / "training_config.json").read_text())
    assert PretrainConfig.from_dict(written) == config
    assert info.provenance["code"] == {"skecg": "1.0", "commit": "ab", "dirty": False}


def test_exporting_the_first_blocks_gives_the_features_of_their_last_layer(tmp_path: Path) -> None:
    whole = tiny_config()
    first = dataclasses.replace(whole, export_blocks=1)
    model = make_model(whole)

    cut = exported_encoder(model.target_encoder.state_dict(), first)

    values = torch.randn(2, whole.input.n_leads, whole.input.window_samples)
    assert len(cut.blocks) == 1
    with torch.no_grad():
        torch.testing.assert_close(cut(values), model.target_encoder.eval().layers(values, (0,))[0], rtol=0, atol=0)
    with pytest.raises(ParameterError, match="export_blocks"):
        dataclasses.replace(whole, export_blocks=whole.encoder.depth + 1)


def test_an_export_that_breaks_while_writing_leaves_nothing_that_refuses_the_next(tmp_path, monkeypatch):
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    save(tmp_path / "run", make_model(tiny_config()), 50)
    with monkeypatch.context() as patch:
        patch.setattr("pretraining.export.write_json", full_disk)
        with pytest.raises(OSError, match="No space"):
            export(tmp_path / "run", tmp_path / "weights")

    export(tmp_path / "run", tmp_path / "weights")

    found = {path.name for path in (tmp_path / "weights").iterdir()}
    assert found == {"README.md", "config.json", "golden.safetensors", "model.safetensors", "training_config.json"}


def test_a_folder_that_is_not_empty_is_written_over_only_when_forced(tmp_path):
    save(tmp_path / "run", make_model(tiny_config()), 50)
    export(tmp_path / "run", tmp_path / "weights", name="first")
    with pytest.raises(ParameterError, match=r"not empty.*--force"):
        export(tmp_path / "run", tmp_path / "weights", name="second")
    assert json.loads((tmp_path / "weights" / "config.json").read_text())["provenance"]["name"] == "first"
    (tmp_path / "weights" / "directions.safetensors").write_text("of the first")
    assert export(tmp_path / "run", tmp_path / "weights", name="second", force=True).provenance["name"] == "second"
    assert (tmp_path / "weights" / "training_config.json").is_file()
    assert not (tmp_path / "weights" / "directions.safetensors").exists()
