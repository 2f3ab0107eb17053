"""Benchmarks of how good features are print tables that hold, on recordings that are made up."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from skecg import Segmenter
from skecg.annotations import wave_traces
from skecg.datasets import make_ecg, make_waves, read_packed
from skecg.evaluation import compare
from skecg.evaluation.delineation_scores import PredictedTrace
from skecg.evaluation.features import MODEL, EncoderFeatures
from skecg.weights import read_directions, read_info

TINY = str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")
SOURCES = ["hand-crafted", "random convolutions", "untrained, shape of tiny-temporal", "tiny-temporal"]
BOUNDARIES = [f"{kind} {edge}" for kind in ("P", "QRS", "T") for edge in ("onset", "offset")]
#: PTB-XL's superclasses, and what is drawn for each.
SUPERCLASSES = {
    "NORM": {},
    "MI": {"st_level": 0.3},
    "STTC": {"st_level": -0.3},
    "CD": {"conduction": "lbbb"},
    "HYP": {"axis_degrees": -40},
}
AREA = r"([\d.]+) \(([\d.]+) to ([\d.]+)\)"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("threads_as_before"),
    # Noise and wander stand in for recordings; what is odd about them is tested elsewhere.
    pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning", "ignore::skecg.errors.UnitsWarning"),
]


def steps_of(records: list) -> dict[str, object]:
    """Give records as a packed file stores them."""
    signals = np.rint(np.stack([record.signal for record in records]) * 1000).astype(np.int16)
    return {"signals": signals, "lsb": 1.0, "units": "uV", "fs": records[0].sampling_rate, "leads": records[0].leads}


@pytest.fixture(scope="module")
def waved(tmp_path_factory) -> Path:
    """A packed file of ten hearts with waves, the last two of one patient."""
    path = tmp_path_factory.mktemp("waved") / "hearts.npz"
    records, waves = make_waves(10, duration_seconds=5, heart_rate=(50, 100), random_state=0)
    rows = [
        (record, lead, kind, onset, peak, offset)
        for record, of_record in enumerate(waves)
        for lead, marked in enumerate(of_record.tables)
        for onset, peak, offset, kind in marked
    ]
    columns = ["record_index", "lead_index", "type(0=P,1=QRS,2=T)", "onset", "peak", "offset"]
    patients = np.array(list("abcdefghii"))
    np.savez(path, **steps_of(records), waves=np.array(rows), waves_columns=columns, patient_ids=patients)
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A packed file of 130 recordings, as many of every superclass; in fold 9 ten, with fewer none is scored."""
    path = tmp_path_factory.mktemp("labelled") / "classes.npz"
    hearts = [
        make_ecg(26, sampling_rate=250, noise=0.05, random_state=number, **options).records
        for number, options in enumerate(SUPERCLASSES.values())
    ]
    numbers = np.arange(130)
    records = [hearts[number % 5][number // 5] for number in numbers]
    folds = np.where(numbers < 80, numbers // 5 % 8 + 1, 9)
    np.savez(path, **steps_of(records), strat_fold=folds, super_class=np.array(list(SUPERCLASSES))[numbers % 5])
    return path


def test_heart_rates_are_regressed_on_every_kind_of_features_and_the_mean_explains_nothing(benchmark, waved, capsys):
    benchmark("heart_rate").main(["--model", TINY, "--n-synthetic", "20", "--data", str(waved)])
    tables = re.split(r"^(\w+), (.+): ([\d.]+) ± ([\d.]+)$", capsys.readouterr().out, flags=re.M)[1:]
    known = {
        ("hearts", "heart rate (bpm)"): (50, 100, 10),
        ("hearts", "QRS duration (ms)"): (60, 120, 10),
        ("synthetic", "heart rate (bpm)"): (40, 150, 20),
    }
    assert list(zip(tables[0::5], tables[1::5], strict=True)) == list(known)
    for (low, high, n_records), mean, deviation, table in zip(
        known.values(), tables[2::5], tables[3::5], tables[4::5], strict=True
    ):
        assert low < float(mean) < high
        rows = re.findall(r"^(\S.*?)  +(\d+) +(-?[\d.]+) \(.+\) +([\d.]+) \([\d.]+ to [\d.]+\)$", table, re.M)
        assert [row[0] for row in rows] == ["mean of the training patients", *SOURCES]
        assert {int(row[1]) for row in rows} == {n_records}
        assert float(rows[0][2]) <= 0  # the mean of other patients is no better than one's own
        assert float(rows[0][3]) < 2 * float(deviation)
    rates = make_ecg(20, rhythm=["sinus", "af"], heart_rate=(40, 150), noise=(0.01, 0.1), random_state=0).labels
    assert float(tables[12]) == pytest.approx(rates["heart_rate"].mean(), abs=0.05)


def test_waves_are_probed_in_tokens_and_in_samples_and_background_finds_none(benchmark, waved, capsys):
    benchmark("ludb_waves").main(["--data", str(waved), "--model", TINY, "--context", "0", "--tiny"])
    printed = capsys.readouterr().out
    assert re.search(r"^hearts: 10 records, \d+ instants; WaveProtocol\(target='majority', .*n_folds=2", printed, re.M)
    found = re.findall(r"^(\S.*?)  +([\d.]+) +([\d.]+) +([\d.]+) +" + AREA + r" +([\d.]+) +([\d.]+)$", printed, re.M)
    rows = {name: [float(number) for number in numbers] for name, *numbers in found}
    encoders = [f"{name}, k=0" for name in SOURCES[2:]]
    assert list(rows) == ["background everywhere", "samples (temporal, 250 ms), k=0", *encoders]
    assert rows["background everywhere"][:4] == [0, 0, 0, 0]
    for name, (*each, macro, low, high, dice, union) in list(rows.items())[1:]:
        assert np.mean(each) == pytest.approx(macro, abs=0.001), name
        assert 0.3 < low <= macro <= high < 1
        assert 0.3 < union < dice < 1
    bounds = re.findall(
        rf"^(\S.*?)  +({'|'.join(BOUNDARIES)}) +(\d+) +([\d.]+) +([\d.]+|nan) +\S+ ± \S+$", printed, re.M
    )
    assert [row[:2] for row in bounds] == [(name, boundary) for name in rows for boundary in BOUNDARIES]
    assert len({row[1:3] for row in bounds}) == len(BOUNDARIES)  # all are held to the same annotations


def test_segmenters_are_fine_tuned_in_every_way_asked_for(benchmark, waved, monkeypatch, capsys):
    module = benchmark("ludb_segmenter")
    monkeypatch.setattr(module, "N_FOLDS", 3)
    module.main(["--data", str(waved), "--model", TINY, "--target", "II"])
    printed = capsys.readouterr().out
    distances = re.findall(r"^(\w+): \d+ s of computing; median distance \(ms\): (.*)$", printed, re.M)
    assert [name for name, _ in distances] == ["head", "two"]
    for _, listed in distances:
        assert re.fullmatch(", ".join(rf"{boundary} \d+" for boundary in BOUNDARIES), listed)
    macros = re.findall(r"^(head|two)( +[\d.]+){3} +" + AREA, printed, re.M)
    assert len(macros) == 2
    assert all(0.5 < float(low) <= float(macro) <= float(high) <= 1 for _, _, macro, low, high in macros)
    assert len(re.findall(rf"^(head|two) +({'|'.join(BOUNDARIES)}) +\d+ +1?", printed, re.M)) == 2 * len(BOUNDARIES)


def test_a_wave_that_is_never_found_has_no_distance(benchmark, waved):
    module, dataset = benchmark("ludb_segmenter"), read_packed(waved)
    truth = [wave_traces(dataset.waves(row), "II")[0] for row in range(2)]
    nothing = [
        PredictedTrace(row, np.zeros_like(trace.labels), trace.sampling_rate, trace) for row, trace in enumerate(truth)
    ]
    assert set(re.findall(r"(?:onset|offset) (\S+?)(?:,|$)", module.median_errors(nothing))) == {"-"}


def test_no_record_is_labelled_by_a_segmenter_that_was_shown_its_patient(benchmark, waved, monkeypatch):
    fitted, shown = [], []

    class Spy(Segmenter):
        def fit(self, X, y, groups=None):
            fitted.append((set(groups), len(X), len(y)))
            return self

        def predict(self, X):
            shown.append(X)
            return [np.full(X.shape[-1], len(fitted), np.int8) for _ in X]

    module, dataset = benchmark("ludb_segmenter"), read_packed(waved)
    monkeypatch.setattr(module, "Segmenter", Spy)
    found = module.predict_all(dataset, "II")
    assert [trace.record for trace in found] == list(range(len(dataset)))
    for trace in found:
        patients, n_records, n_waves = fitted[trace.labels[0] - 1]
        assert dataset.patients[trace.record] not in patients
        assert n_records == n_waves == np.isin(dataset.patients, list(patients)).sum()
        assert any((dataset.records[trace.record] == row).all() for row in shown[trace.labels[0] - 1])


def test_the_median_distance_of_waves_that_are_late_is_by_how_much(benchmark, waved):
    module, dataset = benchmark("ludb_segmenter"), read_packed(waved)
    traces = [wave_traces(dataset.waves(row), "II")[0] for row in range(len(dataset))]
    late = [
        PredictedTrace(row, np.roll(np.maximum(trace.labels, 0), 10), trace.sampling_rate, trace)
        for row, trace in enumerate(traces)
    ]
    assert module.median_errors(late) == "median distance (ms): " + ", ".join(f"{name} 20" for name in BOUNDARIES)


def test_fine_tuning_is_set_against_the_frozen_head_on_the_fold_that_is_tested(benchmark, labelled, capsys):
    benchmark("fine_tuning").main(["--data", str(labelled), "--model", TINY])
    printed = capsys.readouterr().out
    assert printed.startswith("70 recordings of 70 patients to train, 10 to test\n")
    interval = r"(-?[\d.]+) \((-?[\d.]+) to (-?[\d.]+)\)"
    found = re.findall(rf"^(\S.*?)  +{interval}(?: +{interval})? +\d+$", printed, re.M)
    assert [row[0] for row in found] == ['stages="head"', "the default", 'head="attention"']
    areas, gains = ([row[place] for row in found] for place in (1, 4))
    assert gains[0] == ""
    for area, gain in zip(areas[1:], gains[1:], strict=True):
        assert float(gain) == pytest.approx(float(area) - float(areas[0]), abs=0.0011)


def test_fewer_leads_and_seconds_are_scored_beside_random_weights(benchmark, labelled, capsys):
    benchmark("leads_and_lengths").main(
        ["--data", str(labelled), "--model", TINY, "--resamples", "20", "--seconds", "10", "2.5"]
    )
    rows = re.findall(rf"^(\S.*?)  +([\d.]+)  {AREA} +{AREA}$", capsys.readouterr().out, re.M)
    leads = ["12 leads", "I, II", "II", "I"]
    assert [row[:2] for row in rows] == [(name, seconds) for name in leads for seconds in ("10", "2.5")]
    for estimate, low, high in [row[column : column + 3] for row in rows for column in (2, 5)]:
        assert 0 <= float(low) <= float(estimate) <= float(high) <= 1
    source = EncoderFeatures("tiny-temporal", TINY)
    report = compare(
        read_packed(labelled), "superdiagnostic", [(MODEL, source)], fractions=(1.0,), n_resamples=20, test_fold=9
    )
    assert rows[0][2] == f"{report.rows[0].largest.macro_auroc.estimate:.3f}"  # the model first, then random weights
    assert rows[0][2] != rows[0][5]


def test_features_are_cut_down_along_directions_of_the_other_folds(benchmark, labelled, capsys, tmp_path):
    folder = Path(shutil.copytree(TINY, tmp_path / "weights"))
    benchmark("truncation").main(
        ["--data", str(labelled), "--write", str(folder), "--kept", "2", "16", "--resamples", "20"]
    )
    rows = re.findall(
        rf"^(\d+|all) +{AREA} *(?:(-?[\d.]+) \((-?[\d.]+) to (-?[\d.]+)\))?$", capsys.readouterr().out, re.M
    )
    assert [row[0] for row in rows] == ["2", "16", "all"]
    areas = [float(row[1]) for row in rows]
    for area, row in zip(areas[:2], rows[:2], strict=True):
        assert float(row[4]) == pytest.approx(areas[2] - area, abs=2e-4)
    dataset = read_packed(labelled)
    whole = EncoderFeatures("all", TINY).features(dataset)
    directions = read_directions(read_info(folder))
    assert np.allclose(directions.mean, whole[np.asarray(dataset.folds) != 9].mean(axis=0), atol=1e-4)


def test_labels_of_another_archive_are_scored_on_patients_that_no_probe_saw(benchmark, labelled, capsys):
    script = benchmark("other_archives")
    script.main(["--data", str(labelled), "--label", "heart=super:MI,super:CD", "--model", TINY])
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\S.*?)  +([01]\.\d{3})$", printed, re.M)
    assert [name for name, _ in rows][:2] == ["hand-crafted", "random convolutions"]
    assert len(rows) == 4
    assert all(0 <= float(area) <= 1 for _, area in rows)
    patients = np.arange(60) // 3
    truth = np.array([0, 1])[patients % 2]
    assert script.area(truth[:, None] + np.zeros((60, 2)), truth, patients) == 1.0
    known_by_patient = np.eye(20)[patients]  # nothing but who it is: no use for patients that were not seen
    assert script.area(known_by_patient, truth, patients) < 0.8


def test_recordings_without_any_change_are_left_out(benchmark, labelled):
    dataset = read_packed(labelled)
    sounding = np.arange(len(dataset.codes)) != 3
    silent = dataclasses.replace(dataset, records=dataset.records * sounding[:, None, None])
    kept = benchmark("other_archives").changing(silent)
    assert len(kept.codes) == len(kept.records) == len(dataset.codes) - 1
    assert kept.record_ids[3] == dataset.record_ids[4]


def test_recordings_are_cut_to_their_middle_and_to_the_leads_named(benchmark, labelled):
    dataset = read_packed(labelled)
    cut = benchmark("leads_and_lengths").shortened(dataset, ("V1", "I"), 2.5)
    assert cut.leads == ("V1", "I")
    columns = [dataset.leads.index(lead) for lead in cut.leads]
    np.testing.assert_array_equal(cut.records, dataset.records[:, columns, 937 : 937 + 625])


@pytest.fixture
def side_by_side(benchmark, monkeypatch) -> ModuleType:
    """The benchmark, whose first method is a run of a small encoder here, in batches of four."""
    module = benchmark("side_by_side")
    monkeypatch.setattr("side_by_side_methods.BATCH", 4)
    small = dataclasses.replace(module.METHODS["jepa-temporal"]().encoder, dim=48, depth=2)
    methods = sys.modules["side_by_side_methods"]
    monkeypatch.setitem(module.METHODS, "jepa-temporal", lambda: methods._jepa(small))
    return module


def test_methods_are_trained_and_probed_once_and_stand_beside_untrained_encoders(
    side_by_side, waved, labelled, tmp_path, monkeypatch, capsys
):
    for name in side_by_side.CORPORA.values():
        shutil.copy(labelled, tmp_path / name)
    with np.load(labelled) as file:
        arrays = {key: file[key] for key in file.files}
    arrays["record_ids"] = np.arange(len(arrays["signals"])).astype(str)
    for name, chosen in zip(side_by_side.LABELLED, (arrays["strat_fold"] < 9, arrays["strat_fold"] == 9), strict=True):
        rows = {key: array[chosen] if array.shape[:1] == chosen.shape else array for key, array in arrays.items()}
        np.savez(tmp_path / name, **rows)
    shutil.copy(waved, tmp_path / side_by_side.WAVES)
    asked = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--views", "4", "--seeds", "1"]
    asked += ["--only", "jepa-temporal", "untrained-temporal"]
    side_by_side.main(asked)
    printed = capsys.readouterr().out
    area, waves = r"[\d.]+ \([\d.]+-[\d.]+\) +[\d.]+ +[\d.]+ +", r"([\d.]+) \(([\d.]+)-([\d.]+)\) +"
    row = re.search(rf"^jepa-temporal +{area}{waves}{waves}([\d.]+) +\d+ +1$", printed, re.M)
    for estimate, low, high in (row.groups()[:3], row.groups()[3:6]):
        assert 0.3 < float(low) <= float(estimate) <= float(high) <= 1
    assert float(row[7]) > 0
    assert re.search(rf"^untrained-temporal +{area}{waves}{waves}- +- +1$", printed, re.M)
    assert re.search(rf"^random convolutions +{area}- +- +- +- +1$", printed, re.M)

    table = side_by_side.table(tmp_path / "out" / "scores")
    assert table in printed
    for part in ("train", "auroc", "find_waves", "pack", "Segmenter"):  # what is done is not done again
        monkeypatch.delattr(side_by_side, part)
    for again in (asked, [*asked, "--table"]):
        side_by_side.main(again)
        assert capsys.readouterr().out == table + "\n"


def test_seeds_become_their_mean_and_deviation(side_by_side, tmp_path):
    for seed, found in enumerate([{"auroc_1": 0.8, "auroc_low": 0.7, "auroc_high": 0.9}, {"auroc_1": 0.9}]):
        (tmp_path / f"mae-time-{seed}.json").write_text(json.dumps({"waves": 0.5, **found}))
    side_by_side.write_scores(tmp_path / "mae-time-hiding-50-0.json", {"auroc_1": 0.2})
    side_by_side.write_scores(tmp_path / "fine_tuned" / "mae-time-0.json", {"waves_tuned": 0.75})
    _, row, other = side_by_side.table(tmp_path).splitlines()
    assert re.split("  +", row.strip())[:2] == ["mae-time", "0.850 ± 0.071 (0.700-0.900)"]
    assert re.split("  +", row.strip())[4:] == ["0.500 ± 0.000", "0.750", "-", "-", "2"]
    assert re.split("  +", other.strip())[:2] == ["mae-time-hiding-50", "0.200"]


def test_methods_side_by_side_have_one_input_size_and_budget(benchmark):
    methods = benchmark("side_by_side_methods")
    configs = {name: methods.method_config(name, 3, 6400) for name in [*methods.METHODS, *methods.STUDIES]}
    for name, config in configs.items():
        encoder, spec = config.encoder, config.input
        assert (config.name, config.run.seed, config.run.steps * config.run.batch_size) == (name, 3, 6400)
        assert (encoder.dim, encoder.depth, encoder.num_heads, config.export_blocks) == (128, 4, 4, 0)
        assert dataclasses.replace(spec, any_leads=True) == methods.INPUT
        assert (config.data, config.pooling) == (configs["mae-time"].data, "mean+std")
        assert (config.optim.lr, config.optim.warmup_steps) == (1e-3, 10)
    assert set(methods.UNTRAINED.values()) <= set(methods.METHODS)


def test_calibration_is_measured_on_patients_whom_no_model_saw(benchmark, tmp_path, capsys):
    made = make_ecg(24, duration_seconds=3.0, sampling_rate=250, conduction=["normal", "lbbb"], random_state=0)
    for number, record in enumerate(made.records):
        np.savez(tmp_path / f"{number}.npz", signal=record.signal, sampling_rate=250, leads=np.array(record.leads))
    rows = [f"{number}.npz,{kind}" for number, kind in enumerate(made.labels["conduction"])]
    (tmp_path / "t.csv").write_text("\n".join(["path,kind", *rows]))
    options = [
        "--label-column",
        "kind",
        "--model",
        TINY,
        "--cache",
        str(tmp_path / "c"),
        "--patients",
        "14",
        "--draws",
        "1",
    ]

    benchmark("calibration").main([str(tmp_path / "t.csv"), *options])

    assert re.search(r"^ +14 +0\.\d{3} +0\.\d{3} ", capsys.readouterr().out, re.M)
