from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

from skecg import ECGRecord, JEPAEmbedder, prepare
from skecg.backends import onnx as files
from skecg.datasets import make_ecg
from skecg.weights import read_info

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-leadwise"
RECORDS = make_ecg(4, duration_seconds=2.5, random_state=0).records
Capture = pytest.CaptureFixture[str]

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
with_packages = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in PACKAGES), reason="the extra onnx is not installed"
)


@with_packages
def test_the_file_gives_the_embedders_features_and_says_what_it_is(run: Run, capsys: Capture) -> None:
    import onnx
    import onnxruntime

    assert run("export", "--onnx", TINY, "--to", "tiny.onnx", "--pooling", "mean+std", "--layer", "0,1") == 0
    said = capsys.readouterr().err
    assert "64 features a window" in said
    assert "with onnxruntime its features are torch's" in said
    assert [path.name for path in Path.cwd().iterdir()] == ["tiny.onnx"]

    info = read_info(TINY)
    session = onnxruntime.InferenceSession("tiny.onnx", providers=["CPUExecutionProvider"])
    features, tokens = session.run(["features", "tokens"], {"windows": prepare(RECORDS, info.spec).values})
    wanted = JEPAEmbedder(TINY, pooling="mean+std", layer=[0, 1], cache=None).fit_transform(RECORDS)
    assert np.abs(features - wanted).max() < 1e-5 * np.sqrt(np.mean(wanted**2))
    assert tokens.shape == (4, 80, 32)
    assert np.abs(tokens[:, :, :16].mean(axis=1) - features[:, :16]).max() < 1e-5

    model = onnx.load("tiny.onnx")
    about = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "skecg"))
    assert about["weights_sha256"] == info.sha256
    assert about["input"] == info.spec.to_dict()
    assert (about["pooling"], about["layers"]) == ("mean+std", [0, 1])
    assert "Research use only" in model.doc_string
    # A record shorter than a window, and no whole number of patches.
    short = [ECGRecord(record.signal[:, :741], record.sampling_rate, record.leads) for record in RECORDS]
    windows = prepare(short, info.spec)
    n_samples = -(-windows.valid_samples[0] // about["step_samples"]) * about["step_samples"]
    (features,) = session.run(["features"], {"windows": windows.values[:, :, :n_samples]})
    wanted = JEPAEmbedder(TINY, pooling="mean+std", layer=[0, 1], cache=None).fit_transform(short)
    assert n_samples < info.spec.window_samples
    assert np.abs(features - wanted).max() < 1e-5 * np.sqrt(np.mean(wanted**2))
    # Nor where it was made.
    assert b".py" not in Path("tiny.onnx").read_bytes()
    assert str(Path(files.__file__).parents[1]).encode() not in Path("tiny.onnx").read_bytes()


@with_packages
def test_a_file_whose_features_are_not_torchs_is_not_written(run: Run, capsys: Capture, monkeypatch) -> None:
    monkeypatch.setattr(files, "_largest_error", lambda *_: 2e-4)
    monkeypatch.setattr(files, "features_graph", lambda *_: __import__("onnx").ModelProto())
    assert run("export", TINY, "--onnx", "--to", "tiny.onnx") == 2
    assert "nothing was written" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_a_file_that_is_there_is_kept_unless_forced(run: Run, capsys: Capture) -> None:
    Path("mine.onnx").write_text("mine")
    assert run("export", "--onnx", TINY, "--to", "mine.onnx") == 2
    assert "--force" in capsys.readouterr().err
    assert Path("mine.onnx").read_text() == "mine"


@pytest.mark.parametrize(("to", "what"), [("tiny.pt", "ends in .onnx"), ("nowhere/tiny.onnx", "is no folder")])
def test_a_place_that_cannot_be_written_is_said_at_once(run: Run, capsys: Capture, to: str, what: str) -> None:
    assert run("export", "--onnx", TINY, "--to", to) == 2
    assert what in capsys.readouterr().err


def test_without_the_extra_it_is_named(run: Run, capsys: Capture, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert run("export", "--onnx", TINY, "--to", "tiny.onnx") == 2
    assert "skecg[onnx]" in capsys.readouterr().err


@with_packages
def test_a_block_named_twice_is_refused(run: Run, capsys: Capture) -> None:
    assert run("export", "--onnx", TINY, "--to", "tiny.onnx", "--layer", "1,1") == 2
    assert "names a block twice" in capsys.readouterr().err
