from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_corpora import heart, write_wfdb
from small_runs import small_config, small_shards

from pretraining.data.corpora import Corpus, Item, open_corpus
from pretraining.data.pack import pack
from pretraining.data.shards import ShardSet
from pretraining.export import export
from pretraining.monitoring.journal import read_journal
from pretraining.monitoring.online_probe import (
    SUPERCLASSES,
    OnlineProbe,
    _explained,
    _rows_of,
    load_label_table,
    load_labelled,
    synthetic_labelled,
)
from pretraining.trainer import Trainer
from skecg.datasets import make_ecg
from skecg.datasets.packed import TYPICAL_MV
from skecg.embedder import JEPAEmbedder
from skecg.encoders import build_encoder
from skecg.errors import LeakageWarning, ParameterError, ShapeError
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.windows import prepare
from skecg.records import ECGRecord
from skecg.spec import InputSpec, TemporalConfig
from skecg.weights import load_encoder, save_encoder

SPEC = InputSpec(("I", "II", "V1", "V5"), 100, 1000, normalization="zscore")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_encoder(TemporalConfig(4, 10, 100, 32, 2, 2))


@pytest.fixture(scope="module")
def labelled():
    return synthetic_labelled(160, sampling_rate=100)


@pytest.fixture(scope="module")
def probe(labelled):
    return OnlineProbe(*labelled)


def write_npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    n = 60
    values: dict[str, object] = {
        "signals": rng.integers(-900, 900, size=(n, 12, 1000)).astype(np.int16),
        "lsb": np.float64(0.001),
        "units": np.array("mV"),
        "fs": np.int64(100),
        "leads": np.array(["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]),
        "super_class": np.array([["NORM", "MI;CD", "STTC,HYP", ""][i % 4] for i in range(n)]),
        "strat_fold": np.arange(n) % 10 + 1,
    }
    np.savez(path, **{k: v for k, v in (values | changes).items() if v is not None})
    return path


def test_random_features_tell_bundle_branch_blocks(probe, encoder):
    found = probe.score(encoder, SPEC)
    assert set(found) == {"probe", "probe_af", "probe_pvc", "probe_lbbb", "probe_rbbb"}
    assert found["probe"] == pytest.approx(np.mean([v for k, v in found.items() if k != "probe"]))
    assert found["probe_lbbb"] > 0.8
    assert all(0 <= value <= 1 for value in found.values())


def test_scores_are_the_same_every_time_and_leave_the_encoder_alone(probe, encoder):
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert probe.score(encoder, SPEC) == pytest.approx(probe.score(encoder, SPEC), abs=1e-6)
    assert encoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_labels_that_have_nothing_to_do_with_the_records_score_a_half(labelled, encoder):
    scores = []
    for seed in range(4):
        labels = np.random.default_rng(seed).integers(0, 2, size=(160, 4))
        scores.append(OnlineProbe(labelled.records, labels, *labelled[2:]).score(encoder, SPEC)["probe"])
    assert np.mean(scores) == pytest.approx(0.5, abs=0.1)


def test_its_features_are_those_of_the_embedder(probe, encoder, tmp_path):
    save_encoder(tmp_path, encoder, SPEC, pooling="mean+std")
    wanted = JEPAEmbedder(str(tmp_path), cache=None).fit_transform(probe.records)
    np.testing.assert_allclose(probe.features(encoder, SPEC), wanted, atol=2e-6)


def test_windows_are_prepared_once(probe, encoder, monkeypatch):
    probe.score(encoder, SPEC)
    monkeypatch.setattr("skecg.preprocessing.windows.prepare", pytest.fail)
    probe.score(encoder, SPEC)


def test_fewer_records_are_drawn_from_both_parts(labelled):
    few = OnlineProbe(*labelled, max_records=80)
    assert len(few.records) == 80
    assert few.n_train == 60
    again = OnlineProbe(*labelled, max_records=80)
    assert [r.name for r in few.records] == [r.name for r in again.records]
    assert len(OnlineProbe(*labelled, max_records=10_000).records) == 160


def test_a_class_without_both_values_is_left_out(labelled, encoder):
    labels = labelled.labels.copy()
    labels[labelled.test, 1] = 0
    found = OnlineProbe(labelled.records, labels, *labelled[2:]).score(encoder, SPEC)
    assert set(found) == {"probe", "probe_af", "probe_lbbb", "probe_rbbb"}


def test_what_cannot_be_scored_is_refused(labelled):
    records, labels, train, test, classes, _ = labelled
    with pytest.raises(ShapeError, match="n_records, n_classes"):
        OnlineProbe(records, labels[:, 0], train, test)
    with pytest.raises(ParameterError, match="40 records in both"):
        OnlineProbe(records, labels, np.arange(160), test)
    with pytest.raises(ParameterError, match="No class has both values"):
        OnlineProbe(records, np.zeros_like(labels), train, test, classes)
    with pytest.raises(ParameterError, match="No class has both values"):
        OnlineProbe(records, labels, train, [])


def test_folds_nine_and_ten_are_never_read(tmp_path):
    found = load_labelled(write_npz(tmp_path / "x.npz"))
    assert (len(found.train), len(found.test)) == (42, 6)
    assert len(found.records) == 48
    assert found.classes == SUPERCLASSES
    # Rows 0 to 3 are of folds 1 to 4 and have the four texts.
    assert found.labels[:4].tolist() == [[0, 0, 0, 1, 0], [1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]


def test_steps_become_millivolts(tmp_path):
    path = write_npz(tmp_path / "x.npz")
    with np.load(path) as data:
        wanted = data["signals"][0] / 1000
    np.testing.assert_allclose(load_labelled(path).records[0].signal, wanted, rtol=1e-6)
    ratios = np.linspace(0.5, 1, 6, dtype=np.float32)[None].repeat(60, axis=0)
    scaled = write_npz(tmp_path / "y.npz", units=np.array("per-lead standard deviation"), limb_sigma_rel=ratios)
    signal = load_labelled(scaled).records[0].signal
    np.testing.assert_allclose(signal[6], TYPICAL_MV["V1"] * wanted[6], rtol=1e-5)
    first, last = (np.linalg.norm(signal[lead]) / np.linalg.norm(wanted[lead]) for lead in (0, 5))
    assert last == pytest.approx(2 * first, rel=1e-3)


def test_a_file_without_folds_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="lacks super_class or strat_fold"):
        load_labelled(write_npz(tmp_path / "x.npz", strat_fold=None))
    with pytest.raises(ParameterError, match="no file"):
        load_labelled(tmp_path / "absent.npz")


@pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning")  # some baselines move
def test_real_records_can_be_scored(shared, encoder, tmp_path):
    # Of one fold, which is read in a tenth of the time of eight, made into eight.
    with np.load(shared / "data" / "ptbxl_raw500_fold9_250hz.npz") as fold:
        np.savez(tmp_path / "folds.npz", **{**fold, "strat_fold": np.arange(len(fold["signals"])) % 8 + 1})
    labelled = load_labelled(tmp_path / "folds.npz")
    assert (len(labelled.train), len(labelled.test)) == (286, 40)
    found = OnlineProbe(*labelled, max_records=200).score(encoder, SPEC)
    assert found["probe_NORM"] > 0.6


@pytest.mark.parametrize(("kind", "pooling"), [("context", "mean"), ("target", "mean+std"), ("context", "max")])
def test_a_run_scores_what_it_exports(tmp_path: Path, kind: str, pooling: str) -> None:
    config = small_config(export_encoder=kind, pooling=pooling, export_blocks=1, watch__probe_every=6)
    probe = OnlineProbe(*synthetic_labelled(60, sampling_rate=100.0))
    Trainer(config, small_shards(tmp_path / "data"), tmp_path / "run", probe=probe, device="cpu").train()
    export(tmp_path / "run", tmp_path / "weights")
    scored = read_journal(tmp_path / "run")[-1]

    ours = probe.score(load_encoder(tmp_path / "weights")[0], config.input, pooling)

    assert scored["probe"] == pytest.approx(ours["probe"], abs=1e-6)


def test_ones_own_table_is_scored_and_folds_nine_and_ten_are_left_alone(tmp_path: Path) -> None:
    lines = ["path,label,patient,fold"]
    for number in range(10):
        write_wfdb(tmp_path / f"r{number}", heart(number), 500.0)
        lines.append(f"r{number}.hea,{'AF' if number % 2 else 'SR'},p{number // 2},{number + 1}")
    (tmp_path / "mine.csv").write_text("\n".join(lines))

    found = load_label_table(tmp_path / "mine.csv")

    assert (found.train.tolist(), found.test.tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7])
    assert found.classes == ("AF", "SR")
    assert OnlineProbe(*found).classes.keys() == {"AF", "SR"}


def test_rows_of_shards_are_records_in_millivolts_and_numbers_are_predicted(tmp_path: Path) -> None:
    shards = small_shards(tmp_path, n_records=24)
    heights = np.ptp(shards.gather(range(24))[:, 1], axis=1) / 1e3
    rows = [f"{row},{value},{row % 8 + 1}" for row, value in enumerate(heights)]
    (tmp_path / "mine.csv").write_text("\n".join(["row,target,fold", *rows]))

    found = load_label_table(tmp_path / "mine.csv", shards)

    assert np.ptp(found.records[3].signal[1]) == pytest.approx(heights[3], rel=1e-5)
    probe = OnlineProbe(*found)
    assert probe.is_regression
    assert probe.measure == "r2"
    assert probe.key != OnlineProbe(found.records, found.labels + 1, found.train, found.test).key
    with pytest.raises(ParameterError, match="rows of the run's shards"):
        load_label_table(tmp_path / "mine.csv")


def two_rows_each(folder: Path, patients: list[str]) -> ShardSet:
    """Shards of recordings of 20 s, which are two rows each."""
    records = [ECGRecord(heart(number, 20.0), 500.0, CANONICAL_LEADS) for number in range(len(patients))]
    items = tuple(Item("mine", f"r{number}", patient) for number, patient in enumerate(patients))
    corpus = Corpus("mine", items, lambda asked: (records[int(item.source[1:])] for item in asked))
    return pack([corpus], folder, sampling_rate=100.0, n_jobs=1, progress=False)


@pytest.mark.parametrize("patients", [[""] * 20, [f"p{number // 2}" for number in range(20)]])
def test_rows_of_one_recording_or_patient_of_the_shards_are_on_one_side(tmp_path: Path, patients: list[str]) -> None:
    shards = two_rows_each(tmp_path / "shards", patients)
    (tmp_path / "mine.csv").write_text("row,label\n" + "".join(f"{row},{'ab'[row % 2]}\n" for row in range(40)))
    whose = shards.patients if patients[0] else shards.sources
    records = _rows_of(shards, list(map(str, range(40))), "all")
    known = {record.signal.tobytes(): str(name) for record, name in zip(records, whose, strict=True)}

    found = load_label_table(tmp_path / "mine.csv", shards)

    fitted, judged = (
        {known[found.records[row].signal.tobytes()] for row in part} for part in (found.train, found.test)
    )
    assert fitted
    assert judged
    assert not fitted & judged


def test_who_is_on_both_sides_by_the_tables_own_folds_is_said(tmp_path: Path) -> None:
    shards = two_rows_each(tmp_path / "shards", [""] * 8)
    lines = [f"{row},{'ab'[row % 2]},{row % 8 + 1}" for row in range(16)]
    (tmp_path / "mine.csv").write_text("\n".join(["row,label,fold", *lines]))

    load_label_table(tmp_path / "mine.csv", shards)  # rows 6 and 7 are of one, and so on

    lines[6] = "6,a,1"
    (tmp_path / "mine.csv").write_text("\n".join(["row,label,fold", *lines]))
    with pytest.warns(LeakageWarning, match=r"Got 1 patients of .*mine.csv on both sides .*'mine/r3' is the first"):
        load_label_table(tmp_path / "mine.csv", shards)


def test_equal_records_on_both_sides_are_said(labelled) -> None:
    records = [*labelled.records]
    records[labelled.test[3]] = records[5]
    with pytest.warns(LeakageWarning, match="Got 1 records .* equal .*synthetic00005 and synthetic00005 are the first"):
        OnlineProbe(records, *labelled[1:])


@pytest.mark.parametrize("row", ["-1", "24", "²"])
def test_rows_that_the_shards_do_not_have_are_refused(tmp_path: Path, row: str) -> None:
    (tmp_path / "mine.csv").write_text(f"row,label\n0,a\n{row},b\n", encoding="utf-8")
    with pytest.raises(ParameterError, match="expected numbers of rows of the run's shards"):
        load_label_table(tmp_path / "mine.csv", small_shards(tmp_path, n_records=24))


def test_rows_of_shards_are_prepared_as_their_recordings_are_and_not_filtered_twice(tmp_path: Path) -> None:
    spec = InputSpec(("I", "II", "V1"), 100, 500, highpass_hz=0.67, lowpass_hz=30.0, normalization="zscore")
    records = make_ecg(16, duration_seconds=5.0, sampling_rate=200.0, noise=0.05, random_state=0).records
    signals = np.stack([np.rint(record.signal * 1e3) for record in records]).astype(np.int16)
    np.savez(tmp_path / "mine.npz", signals=signals, lsb=1e-3, units="mV", fs=200.0, leads=list(records[0].leads))
    options = {"sampling_rate": 100.0, "highpass_hz": 0.67, "lowpass_hz": 30.0, "segment_seconds": 5.0}
    corpus = open_corpus("mine", tmp_path / "mine.npz")
    shards = pack([corpus], tmp_path / "shards", n_jobs=1, progress=False, **options)
    rows = [f"{row},{row % 2},{row % 8 + 1}" for row in range(16)]
    (tmp_path / "mine.csv").write_text("\n".join(["row,label_a,fold", *rows]))

    probe = OnlineProbe(*load_label_table(tmp_path / "mine.csv", shards))

    order = [*range(6), *range(8, 14), 6, 7, 14, 15]  # folds 7 and 8 judge
    written = [ECGRecord(signals[row] / np.float32(1e3), 200.0, records[0].leads) for row in order]
    # To what rounding to microvolts leaves; filtered again they would differ by a hundred times as much.
    np.testing.assert_allclose(probe._prepared(spec).values, prepare(written, spec).values, atol=0.02)
    again = OnlineProbe(probe.records, probe.labels, range(12), range(12, 16), tuple(probe.classes))
    assert np.abs(again._prepared(spec).values - probe._prepared(spec).values).max() > 0.1
    assert again.key != probe.key
    assert (again.is_filtered, again.measure) == (False, "macro_auroc")


def test_a_ridge_regression_explains_what_the_features_hold() -> None:
    features = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    values = features @ np.arange(5)

    assert _explained(features[:200], values[:200], features[200:], values[200:]) > 0.7
    assert _explained(features[:200], values[:200], features[200:], values[199::-1][:100]) < 0.2
