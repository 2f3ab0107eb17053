"""``skecg fit`` and ``skecg predict``: from a table of labels to a model and what it says of recordings."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run

from skecg import JEPAEmbedder, read_record
from skecg.cli.embed import embed_into
from skecg.cli.predict import _write
from skecg.datasets import make_ecg
from skecg.errors import ParameterError
from skecg.tabular.features import embed_table
from skecg.tabular.model import read_model
from skecg.tabular.table import read_record_table
from skecg.weights import write_directions

TINY = str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")
N = 60
Capture = pytest.CaptureFixture[str]


def write_table(folder: Path, rows: list[dict[str, Any]], name: str = "table.csv") -> Path:
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Recordings of two a patient with wide and narrow complexes and a rate, two of them unusable."""
    folder = tmp_path_factory.mktemp("clinic")
    made = make_ecg(
        N, duration_seconds=4.0, sampling_rate=250, conduction=["normal", "lbbb"], noise=0.05, random_state=0
    )
    found = []
    for number, record in enumerate(made.records):
        path = folder / f"r{number:02d}.npz"
        np.savez(path, signal=record.signal, sampling_rate=250, leads=np.array(record.leads))
        beat = made.labels["conduction"][number]
        found.append(
            {
                "path": path.name,
                "beat": beat,
                "lists": "LBBB;old" if beat == "lbbb" and number % 4 else ("LBBB" if beat == "lbbb" else "old"),
                "wide": int(beat == "lbbb"),
                "other": number % 2,
                "rate": made.labels["heart_rate"][number],
                "who": f"p{number // 2}",
            }
        )
    found[3]["beat"] = ""
    (folder / "r07.npz").write_bytes(b"nothing")
    (folder / "r09.npz").unlink()
    return folder, found


@pytest.fixture
def fit(run: Run, rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> Run:
    """Fit on the table with the tiny weights."""
    table = write_table(rows[0], rows[1])

    def call(*arguments: str) -> int:
        common = ["--model", TINY, "--quiet", "--folds", "3", "--resamples", "50", "--group-column", "who"]
        return run("fit", table, "--out", "model", *common, "--cache", str(tmp_path / "cache"), *arguments)

    return call


def predictions_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("target", ["beat", "rate"])
def test_features_along_principal_directions_keep_their_scales(
    fit: Run, rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path, target: str
) -> None:
    directed = Path(shutil.copytree(TINY, tmp_path / "directed"))
    paths = [str(rows[0] / f"r{number:02d}.npz") for number in range(10, N)]
    write_directions(directed, JEPAEmbedder(TINY, cache=None).fit_transform(paths))

    assert fit("--label-column", target, "--model", str(directed), "--truncate-dim", "5") == 0

    model = read_model("model")
    assert not model.novelty.standardize
    for scale in (model.novelty.scale_, model.probe["scale"]):
        assert len(scale) == 5
        assert (scale == scale[0]).all()


def test_a_table_becomes_a_model_that_says_how_good_it_is(fit: Run, capsys: Capture) -> None:
    assert fit("--label-column", "beat") == 0

    said = capsys.readouterr()
    assert "macro AUROC" in said.out
    assert "1 of 60 rows are left out, for they have no label" in said.err
    assert "no file" in said.err
    assert "r09.npz" in said.err
    assert "no features" in said.err
    assert sorted(path.name for path in Path("model").iterdir()) == ["model.json", "probe.safetensors"]
    values = json.loads(Path("model/model.json").read_text())
    assert values["classes"] == ["lbbb", "normal"]
    assert values["provenance"]["n_records"] == N - 3
    area = values["score"]["by_fraction"][0]["macro_auroc"]
    assert area["low"] < area["estimate"] <= area["high"] or area["estimate"] == 1.0
    assert area["estimate"] > 0.6
    assert values["encoder"]["weights_sha256"]
    assert len(values["thresholds"]) == len(values["calibration"]) == 1
    assert "r00" not in json.dumps(values)
    assert "p1" not in json.dumps(values["provenance"])


def test_predictions_have_a_row_for_every_recording_in_their_order(
    fit: Run, run: Run, rows: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, found = rows
    fit("--label-column", "beat")

    assert run("predict", "model", "--table", folder / "table.csv", "--out", "p.csv", "--quiet") == 1

    lines = predictions_of("p.csv")
    assert [Path(line["path"]).name for line in lines] == [row["path"] for row in found]
    good = [k for k in range(N) if k not in (7, 9)]
    assert all(lines[k]["prediction"] == "" and lines[k]["error"] for k in (7, 9))
    assert "RecordNotFoundError" in lines[9]["error"]
    table = np.array([[float(lines[k][f"probability {name}"]) for name in ("lbbb", "normal")] for k in good])
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-5)
    assert all(lines[k]["prediction"] == ("lbbb", "normal")[int(p)] for k, p in zip(good, table.argmax(1), strict=True))
    right = [lines[k]["prediction"] == found[k]["beat"] for k in good if found[k]["beat"]]
    assert np.mean(right) > 0.7
    assert all(float(lines[k]["distance"]) > 0 for k in good)


def test_a_prediction_is_explained_in_words_and_drawn(fit: Run, run: Run, rows: Any, capsys: Capture) -> None:
    fit("--label-column", "beat")
    run("predict", "model", rows[0] / "r00.npz", "--out", "p.csv", "--quiet")
    row = predictions_of("p.csv")[0]
    capsys.readouterr()

    assert run("explain", "model", rows[0] / "r00.npz", "--class", "lbbb", "--out", "why.png") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"r00: lbbb, probability {float(row['probability lbbb']):.3f}"
    assert [line.split()[0] for line in lines][:6] == ["phase", "P", "QRS", "ST", "T", "lead"]
    assert len(lines) == 2 + 4 + 12
    assert Path("why.png").stat().st_size > 10_000
    record = read_record(rows[0] / "r00.npz")
    drift = np.sin(2 * np.pi * np.arange(record.n_samples) / 250) * np.linspace(0.4, 0.8, 12)[:, None]
    np.savez("still.npz", signal=drift, sampling_rate=250, leads=np.array(record.leads))
    assert run("explain", "model", "still.npz") == 0
    assert "No beat was found, so that no phase could be hidden." in capsys.readouterr().out
    assert run("explain", "model", rows[0] / "r00.npz", "--class", "rbbb") == 2
    assert run("explain", "model", rows[0] / "r00.npz", "--of", "beats") == 2
    assert run("explain", "model", rows[0] / "r00.npz", "--out", "why.txt") == 2
    said = capsys.readouterr().err
    for words in ("target='rbbb', expected one of 'lbbb', 'normal'", "of='beats'", "ends in .png, .svg, .pdf"):
        assert words in said


def test_what_is_far_from_the_training_data_is_said_to_be(fit: Run, run: Run, rows: Any) -> None:
    fit("--label-column", "beat")
    strange = np.random.default_rng(0).normal(scale=0.3, size=(12, 1000)).astype(np.float32)
    leads = np.array(make_ecg(1, random_state=0).records[0].leads)
    np.savez("noise.npz", signal=strange, sampling_rate=250, leads=leads)

    run("predict", "model", "noise.npz", "--out", "noise.csv", "--quiet")
    run("predict", "model", "--table", rows[0] / "table.csv", "--out", "usual.csv", "--quiet")

    usual = [float(line["distance"]) for line in predictions_of("usual.csv") if line["distance"]]
    assert float(predictions_of("noise.csv")[0]["distance"]) > max(usual)


def test_lists_of_labels_are_predicted_as_lists(fit: Run, run: Run, rows: Any) -> None:
    assert fit("--label-column", "lists") == 0

    run("predict", "model", "--table", rows[0] / "table.csv", "--out", "p.csv", "--quiet")

    model, lines = read_model("model"), predictions_of("p.csv")
    assert model.classes == ("LBBB", "old")
    for line in (line for line in lines if not line["error"]):
        has = [
            float(line[f"probability {name}"]) >= t - 1e-6
            for name, t in zip(model.classes, model.thresholds, strict=True)
        ]
        assert line["prediction"] == ";".join(name for name, yes in zip(model.classes, has, strict=True) if yes)


def test_columns_of_zeros_and_ones_are_labels(fit: Run) -> None:
    assert fit("--label-column", "wide", "--label-column", "other") == 0

    assert read_model("model").classes == ("wide", "other")


def test_numbers_are_a_regression(fit: Run, run: Run, rows: Any, capsys: Capture) -> None:
    assert fit("--label-column", "rate") == 0
    assert "R2" in capsys.readouterr().out
    assert run("explain", "model", rows[0] / "r00.npz") == 2
    assert "which are numbers and have no probability" in capsys.readouterr().err
    run("predict", "model", "--table", rows[0] / "table.csv", "--out", "p.csv", "--quiet")
    lines = predictions_of("p.csv")
    assert list(lines[0]) == ["path", "prediction", "distance", "error"]
    pairs = [
        (float(line["prediction"]), row["rate"]) for line, row in zip(lines, rows[1], strict=True) if line["prediction"]
    ]
    assert np.corrcoef(np.array(pairs).T)[0, 1] > 0.5


def test_the_same_command_again_embeds_nothing_and_gives_the_same_model(
    fit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit("--label-column", "beat")
    first = Path("model/probe.safetensors").read_bytes()
    monkeypatch.setattr("skecg.encoders.temporal.TemporalEncoder.forward", lambda *_: pytest.fail("embedded again"))

    assert fit("--label-column", "beat", "--force") == 0

    assert Path("model/probe.safetensors").read_bytes() == first


def test_predictions_that_were_interrupted_continue(
    fit: Run, run: Run, rows: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    fit("--label-column", "beat")
    table = rows[0] / "table.csv"
    run("predict", "model", "--table", table, "--out", "whole.csv", "--quiet")

    class Stopping:
        def __init__(self, unfinished: Any) -> None:
            self.unfinished = unfinished

        def __getattr__(self, name: str) -> Any:
            return getattr(self.unfinished, name)

        def add(self, *arguments: Any) -> None:
            if self.unfinished.n_done >= 9:
                raise KeyboardInterrupt
            self.unfinished.add(*arguments)

    def stopping(embedder: Any, paths: Any, unfinished: Any, **more: Any) -> None:
        embed_into(embedder, paths, Stopping(unfinished), **more)

    with monkeypatch.context() as stopped:
        stopped.setattr("skecg.cli.predict.embed_into", stopping)
        assert run("predict", "model", "--table", table, "--out", "p.csv", "--quiet") == 130
    capsys.readouterr()

    assert run("predict", "model", "--table", table, "--out", "p.csv", "--quiet") == 1

    assert "continuing" in capsys.readouterr().err
    assert Path("p.csv").read_text() == Path("whole.csv").read_text()


def test_an_interrupt_that_comes_when_predictions_are_written_leaves_nothing_to_do(
    fit: Run, run: Run, rows: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    fit("--label-column", "beat")
    predict = ("predict", "model", "--table", rows[0] / "table.csv", "--out", "p.csv", "--quiet")

    def write_and_interrupt(*arguments: Any) -> None:
        _write(*arguments)
        raise KeyboardInterrupt

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skecg.cli.predict._write", interrupt)
    assert run(*predict) == 130
    assert "Give the same command again to continue" in capsys.readouterr().err
    monkeypatch.setattr("skecg.cli.predict._write", write_and_interrupt)
    assert run(*predict) == 130

    assert capsys.readouterr().err.endswith("skecg: interrupted when all was done: 'p.csv' is whole\n")
    assert len(predictions_of("p.csv")) == len(rows[1])
    assert not Path("p.csv.partial").exists()


def test_fine_tuned_models_travel_in_their_folder(fit: Run, run: Run, rows: Any, capsys: Capture) -> None:
    assert fit("--label-column", "beat", "--method", "finetune", "--epochs", "1", "--folds", "2") == 0
    said = capsys.readouterr().out
    assert "the epoch and thresholds chosen on 15 % of the training patients" in said
    assert not re.search(r"\bnan\b|\d+ select", said)
    Path("model").rename("elsewhere")

    assert run("predict", "elsewhere", "--table", rows[0] / "table.csv", "--out", "p.csv", "--quiet") == 1

    lines = [line for line in predictions_of("p.csv") if not line["error"]]
    truth = {row["path"]: row["beat"] for row in rows[1]}
    assert np.mean([line["prediction"] == truth[Path(line["path"]).name] for line in lines]) > 0.8
    assert read_model("elsewhere").method == "finetune"
    assert json.loads(Path("elsewhere/model.json").read_text())["encoder"]["parameters"]["model"] == TINY


def test_numbers_are_fine_tuned_to_and_scored_beside_the_frozen_encoder(fit: Run, run: Run, rows: Any) -> None:
    assert fit("--label-column", "rate", "--method", "finetune", "--epochs", "1", "--folds", "2") == 0
    Path("model").rename("elsewhere")

    assert run("predict", "elsewhere", "--table", rows[0] / "table.csv", "--out", "p.csv", "--quiet") == 1

    model = read_model("elsewhere")
    assert model.encoder["parameters"]["model"] == TINY
    assert list(model.score) == ["tiny-temporal", "tiny-temporal, fine-tuned"]
    lines = [line for line in predictions_of("p.csv") if not line["error"]]
    found = model.network_values([str(rows[0] / Path(line["path"]).name) for line in lines])
    np.testing.assert_allclose([float(line["prediction"]) for line in lines], found[:, 0], rtol=1e-4)


@pytest.mark.filterwarnings("always::skecg.errors.LeakageWarning")
@pytest.mark.filterwarnings("default::skecg.errors.SkecgWarning")
def test_equal_recordings_of_different_patients_or_labels_are_warned_of(run: Run, rows: Any, capsys: Capture) -> None:
    folder, found = rows
    copied = [dict(row) for row in found]
    (folder / "copy.npz").write_bytes((folder / "r00.npz").read_bytes())
    table = write_table(
        folder, [*copied, {**copied[0], "path": "copy.npz", "who": "another", "beat": "other"}], "twins.csv"
    )

    common = ["--model", TINY, "--quiet", "--folds", "2", "--resamples", "20", "--cache", "cache"]
    run("fit", table, "--out", "m", "--label-column", "beat", "--group-column", "who", *common)

    said = capsys.readouterr().err
    assert "1 recordings that equal others of another patient" in said
    assert "1 recordings that equal others with another label" in said


def test_a_table_is_no_recording(fit: Run, run: Run, rows: Any, capsys: Capture) -> None:
    fit("--label-column", "beat")

    assert run("predict", "model", rows[0] / "table.csv", "--out", "p.csv") == 2
    assert "looks like a table about recordings" in capsys.readouterr().err


def test_a_model_is_saved_even_if_nobody_reads_the_scores_or_they_cannot_be_written(
    fit: Run, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1, encoding="utf-8") as pipe, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", pipe)
        assert fit("--label-column", "beat") == 0
    assert read_model("model").provenance["n_records"] > 0

    with Path("text").open("w", encoding="cp1252") as text, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", text)
        write_table(rows[0], [row | {"beat": row["beat"].replace("lbbb", "房颤")} for row in rows[1]])
        assert fit("--label-column", "beat", "--force") == 0
    assert "\\u623f\\u98a4" in Path("text").read_text()
    assert "房颤" in read_model("model").classes


def test_predictions_of_a_pattern_leave_out_the_file_they_are_written_to(fit: Run, run: Run, rows: Any) -> None:
    fit("--label-column", "beat")
    shutil.copy(rows[0] / "r00.npz", "a.npz")
    for _ in range(2):
        assert run("predict", "model", "*.*", "--out", "p.csv", "--quiet", "--force") == 0
        with Path("p.csv").open(newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == ["a.npz"]


def test_a_table_is_not_replaced_by_its_predictions(fit: Run, run: Run, rows: Any, capsys: Capture) -> None:
    fit("--label-column", "beat")
    table = write_table(Path(), rows[1])
    before = table.read_bytes()
    assert run("predict", "model", "--table", table, "--out", table, "--force") == 2
    assert "is read by this command" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_a_model_that_was_altered_is_refused(fit: Run, run: Run, rows: Any, capsys: Capture) -> None:
    fit("--label-column", "beat")
    path, path_of_probe = Path("model/model.json"), Path("model/probe.safetensors")
    sound, values, sound_values = path_of_probe.read_bytes(), json.loads(path.read_text()), json.loads(path.read_text())

    def refused() -> str:
        capsys.readouterr()
        assert run("predict", "model", "--table", rows[0] / "table.csv", "--out", "p.csv", "--quiet") == 2
        return capsys.readouterr().err

    path_of_probe.write_bytes(sound[:-1] + b"\0\0")
    assert "not the one that model.json describes" in refused()
    path_of_probe.write_bytes(sound)
    values["encoder"]["weights_sha256"] = "0" * 64
    path.write_text(json.dumps(values))
    assert "not those that this model was fitted with" in refused()
    values["encoder"]["weights_sha256"] = sound_values["encoder"]["weights_sha256"]
    for wrong in (
        {"classes": ["lbbb"]},
        {"classes": ["lbbb", "normal", "other"]},
        {"classes": [1, 2]},
        {"thresholds": [0.1, 0.2]},
        {"kind": "numbers"},
        {"kind": "ordinal"},
        {"labels": []},
        {"encoder": {}},
        {"encoder": {**values["encoder"], "parameters": {"cache": "elsewhere"}}},
    ):
        path.write_text(json.dumps({**values, **wrong}))
        assert "model.json is malformed" in refused()
    path.write_text(json.dumps({**values, "skecg_model": 2}))
    assert "has format 2" in refused()
    path.write_text("{}")
    assert "describes no model" in refused()
    path.unlink()
    assert "holds no model.json" in refused()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label-column", "beats"], "Did you mean 'beat'"),
        (["--label-column", "beat", "--folds", "1"], "--folds=1"),
        (["--label-column", "beat", "--epochs", "3"], "epochs=3 for --method probe"),
        (["--label-column", "beat", "--epochs", "0", "--method", "finetune"], "--epochs=0"),
        (["--label-column", "beat", "--method", "svm"], "expected one of 'probe', 'finetune'"),
        (["--label-column", "beat", "--folds", "40"], "30 patients for 40 folds"),
        (["--label-column", "beat", "--group-column", "beat"], "'beat' as two of"),
        (["--label-column", "beat", "--group-column", "wide"], "Of one patient only: lbbb, normal"),
    ],
)
def test_what_cannot_be_fitted_is_said(fit: Run, capsys: Capture, arguments: list[str], message: str) -> None:
    assert fit(*arguments) == 2

    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--truncate-dim", "32"], "Got --truncate-dim 32 for --method finetune, expected none"),
        (["--layer", "2"], "Got --layer 2 for --method finetune, expected none"),
        (["--backend", "onnx"], "Got --backend 'onnx' for --method finetune, expected 'torch'"),
        (["--pooling", "attention"], "Got --pooling attention for --method finetune"),
        (["--precision", "int8"], "Got precision='int8', expected one of 'auto', 'fp32', 'bf16'"),
    ],
)
def test_what_fine_tuning_has_no_use_for_is_refused_before_anything_is_embedded(
    fit: Run, capsys: Capture, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr("skecg.tabular.fitting.embed_table", lambda *_: pytest.fail("embedded"))

    assert fit("--label-column", "beat", "--method", "finetune", *options) == 2

    assert message in capsys.readouterr().err


@pytest.mark.parametrize("column", ["beat", "rate"])
def test_options_that_fine_tuning_shares_reach_the_network(
    fit: Run, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    seen: dict[str, Any] = {}

    def stop(estimator: Any, *_: Any, **__: Any) -> None:
        seen.update(estimator.get_params())
        raise KeyboardInterrupt

    monkeypatch.setattr("skecg.finetuning.base.FineTunedEstimator._fit", stop)
    options = ["--precision", "bf16", "--local-files-only", "--pooling", "max", "--stride", "2", "--n-jobs", "2"]
    options += ["--short-records", "pad", "--missing-leads", "zero", "--epochs", "3", "--seed", "7", "--device", "cpu"]

    assert fit("--label-column", column, "--method", "finetune", *options) == 130

    assert (seen["precision"], seen["local_files_only"], seen["pooling"], seen["stride"]) == ("bf16", True, "max", 2)
    assert (seen["short_records"], seen["missing_leads"], seen["n_jobs"]) == ("pad", "zero", 2)
    assert (seen["epochs"], seen["random_state"], seen["device"], seen["verbose"]) == (3, 7, "cpu", 0)


@pytest.mark.parametrize("seed", ["-1", "4294967296", "x", "1.5"])
@pytest.mark.parametrize("verb", ["fit", "score", "evaluate"])
def test_a_seed_that_no_generator_takes_is_refused_where_it_is_read(
    run: Run, capsys: Capture, verb: str, seed: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(verb, "--seed", seed)
    assert f"argument --seed: got '{seed}', expected a whole number from 0 to 4294967295" in capsys.readouterr().err


def test_classes_that_nothing_can_be_learned_of_are_said_before_anything_is_embedded() -> None:
    columns = {"path": list("abc"), "x": ["u", "v", "v"], "who": ["p", "q", "q"]}
    table = read_record_table(columns, label_columns=["x"], group_column="who", check_files=False)

    with pytest.raises(ParameterError, match="Of one patient only: u, v"):
        embed_table(table, JEPAEmbedder(TINY, on_bad_record="nan", cache=None))


@pytest.mark.parametrize("spelling", ["model", "model/new/..", "model/."])
def test_a_folder_of_something_else_is_left_alone(fit: Run, capsys: Capture, spelling: str) -> None:
    Path("model").mkdir()
    Path("model/thesis.txt").write_text("mine")

    assert fit("--label-column", "beat", "--force", "--out", spelling) == 2

    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in Path("model").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("n_written", [0, 1])
def test_after_a_disk_was_full_the_same_command_writes_the_model(
    fit: Run, capsys: Capture, monkeypatch: pytest.MonkeyPatch, n_written: int
) -> None:
    calls = itertools.count()

    def full(_: int) -> None:
        if next(calls) >= n_written:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert fit("--label-column", "beat") == 2
    assert "Make room and run the same command again" in capsys.readouterr().err
    assert len(list(Path("model").iterdir())) == n_written

    assert fit("--label-column", "beat") == 0
    assert read_model("model").classes == ("lbbb", "normal")
