"""Which way of pre-training is the better one, on the same recordings, encoder size and number of records seen?

    python examples/benchmarks/side_by_side.py --data FOLDER --out OUT [--views 25600] [--seeds 3] [--only NAME ...]

FOLDER holds packed recordings (pretraining/data/arrays.py); PTB-XL's folds 9 and 10 and all of LUDB are kept out of
training. Every method (side_by_side_methods.py) is trained from several seeds, exported, and probed frozen: PTB-XL's
superclasses on fold 9 with all, a tenth and a hundredth of the labels, and the waves of LUDB by a linear head on tokens
and their neighbours; the first seed of each is fine-tuned to find waves, too. Random convolutions and untrained
encoders stand beside them.

What was interrupted goes on where it was, and what is done is not done again: several processes may share OUT when each
has its own ``--only``. ``--table`` trains nothing and prints what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch
from side_by_side_methods import INPUT, METHODS, STUDIES, UNTRAINED, method_config

from pretraining.config import PretrainConfig
from pretraining.data.corpora import parse_corpus
from pretraining.data.pack import pack
from pretraining.data.shards import ShardSet, open_shards
from pretraining.export import export
from pretraining.loader import draw_training_batch
from pretraining.monitoring.journal import read_journal
from pretraining.objectives import objective_class
from pretraining.trainer import Trainer
from skecg import JEPAEmbedder, Segmenter, save_encoder
from skecg.annotations import wave_traces
from skecg.datasets import read_packed
from skecg.datasets.packed import join_datasets
from skecg.encoders import build_encoder
from skecg.evaluation import compare
from skecg.evaluation.delineation import WaveProtocol, annotated_waves, predict_waves
from skecg.evaluation.delineation_scores import PredictedTrace, score_waves
from skecg.evaluation.features import MODEL, EncoderFeatures, FeatureSource, random_convolutions
from skecg.splits import patient_folds

CORPORA = {
    "ptbxl": "ptbxl_full_folds1-8_100hz.npz",
    "cinc2020-2021": "cinc2020_2021_mix_250hz.npz",
    "code15-samitrop": "code15_samitrop_250hz.npz",
    "cinc2011": "cinc2011_seta_250hz.npz",
}
LABELLED, WAVES = ("ptbxl_full_folds1-8_100hz.npz", "ptbxl_full_fold9_100hz.npz"), "ludb_500hz.npz"
FRACTIONS = (1.0, 0.1, 0.01)
CONVOLUTIONS = "random convolutions"
NAMES = [*METHODS, *UNTRAINED]
#: One penalty and two parts of the patients: a head on the tokens of twelve leads has 28,000 weights and takes minutes.
WAVE_PROTOCOL = WaveProtocol(context=1, n_folds=2, penalties=(1e-3,))
#: Patients of LUDB that the fine-tuned segmentation is tested on: one part of five.
TEST_PART, N_PARTS = 0, 5


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, metavar="FOLDER", help="of the packed recordings")
    parser.add_argument("--out", required=True, type=Path, metavar="OUT", help="where runs, weights and scores go")
    parser.add_argument("--views", type=int, default=25_600, metavar="N", help="records seen by every run")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--only", nargs="+", choices=[*NAMES, *STUDIES], default=NAMES, metavar="NAME")
    parser.add_argument("--table", action="store_true", help="print what is there and stop")
    given = parser.parse_args(arguments)
    if not given.table:
        shards = packed(given)
        for seed, name in itertools.product(range(given.seeds), given.only):
            run_method(name, seed, shards, given)
        for name in given.only:
            fine_tune_waves(name, given)
        score_convolutions(given)
    print(table(given.out / "scores"))


def packed(arguments: argparse.Namespace) -> ShardSet:
    """Pack the recordings, or open what was packed."""
    folder = arguments.out / "shards"
    if (folder / "manifest.json").is_file():
        return open_shards(folder)
    corpora = [parse_corpus(f"{name}={arguments.data / file}") for name, file in CORPORA.items()]
    return pack(
        corpora,
        folder,
        sampling_rate=INPUT.sampling_rate,
        highpass_hz=INPUT.highpass_hz,
        lowpass_hz=INPUT.lowpass_hz,
    )


def run_method(name: str, seed: int, shards: ShardSet, arguments: argparse.Namespace) -> None:
    """Train, export and score one run, as far as that is not done yet."""
    path = arguments.out / "scores" / f"{name}-{seed}.json"
    weights = arguments.out / "weights" / f"{name}-{seed}"
    if path.is_file():
        return
    config = method_config(UNTRAINED.get(name, name), seed, arguments.views)
    cost: dict[str, float] = {}
    if name not in UNTRAINED:
        cost = train(config, shards, arguments.out / "runs" / f"{name}-{seed}", weights)
    elif not (weights / "config.json").is_file():
        torch.manual_seed(seed)
        save_encoder(weights, build_encoder(config.encoder), config.input, pooling=config.pooling)
    found = cost | classify(weights, arguments)
    # A head on twelve leads' tokens is fitted for the first seed only.
    if seed == 0 or not config.encoder.token_per_lead:
        found |= find_waves(weights, arguments)
    write_scores(path, found)


def train(config: PretrainConfig, shards: ShardSet, run: Path, weights: Path) -> dict[str, float]:
    """Train and export, and say what it took."""
    if not (weights / "config.json").is_file():
        trainer = Trainer(config, shards, run, resume=True)
        trainer.train()
        if trainer.step < config.run.steps:
            raise SystemExit("Stopped as asked; give the same command again to go on.")
        export(run, weights, name=weights.name, licence="CC-BY-4.0")
    objective = objective_class(config)
    part = draw_training_batch(config, shards, 0, range(config.run.batch_size), objective.read_tables(config, shards))
    speeds = [entry["records_per_second"] for entry in read_journal(run) if "records_per_second" in entry]
    return {
        "gflop_per_view": objective.flops(config, part.drawn) / 1e9,
        "records_per_second": median(speeds),
    }


def score_convolutions(arguments: argparse.Namespace) -> None:
    """Score random convolutions, once."""
    path = arguments.out / "scores" / f"{CONVOLUTIONS}-0.json"
    if not path.is_file():
        write_scores(path, auroc(random_convolutions(), arguments))


def classify(weights: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Probe frozen features for PTB-XL's superclasses on fold 9."""
    return auroc(EncoderFeatures(weights.name, weights), arguments)


def auroc(source: FeatureSource, arguments: argparse.Namespace) -> dict[str, float]:
    """Give the macro AUROC with each share of the labels, and the interval with all of them."""
    dataset = join_datasets([read_packed(arguments.data / name) for name in LABELLED])
    report = compare(dataset, "superdiagnostic", [(MODEL, source)], fractions=FRACTIONS, test_fold=9)
    found = {f"auroc_{scores.fraction:g}": scores.macro_auroc.estimate for scores in report.rows[0].by_fraction}
    largest = report.rows[0].largest.macro_auroc
    return found | {"auroc_low": largest.low, "auroc_high": largest.high}


def find_waves(weights: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Probe frozen tokens and their neighbours for the waves of LUDB."""
    dataset = read_packed(arguments.data / WAVES)
    embedder = JEPAEmbedder(weights, sampling_rate=dataset.sampling_rate, leads=dataset.leads, cache=None)
    tokens = embedder.fit(dataset.records).transform_tokens(dataset.records)
    found = predict_waves(tokens, annotated_waves(dataset), dataset.patients, WAVE_PROTOCOL)
    macro = score_waves(found, dataset.patients).macro_f1
    return {"waves": macro.estimate, "waves_low": macro.low, "waves_high": macro.high}


def fine_tune_waves(name: str, arguments: argparse.Namespace) -> None:
    """Fine-tune the first seed's encoder with a head that finds waves, on four fifths of LUDB's patients."""
    path = arguments.out / "scores" / "fine_tuned" / f"{name}-0.json"
    if path.is_file():
        return
    dataset = read_packed(arguments.data / WAVES)
    waves = annotated_waves(dataset)
    tested = patient_folds(dataset.patients, N_PARTS, seed=0) == TEST_PART
    train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
    weights = arguments.out / "weights" / f"{name}-0"
    segmenter = Segmenter(weights, sampling_rate=dataset.sampling_rate, leads=dataset.leads)
    known = dataset.select(train)
    segmenter.fit(known.records, [waves[row] for row in train], groups=known.patients)
    found = [
        PredictedTrace(number, labels, truth.sampling_rate, truth)
        for number, labels in enumerate(segmenter.predict(dataset.select(test).records))
        for truth in wave_traces(waves[test[number]], segmenter.target)
    ]
    # Of the tested patients alone: an interval over all would draw some that nothing is known of.
    macro = score_waves(found, dataset.patients[test]).macro_f1
    write_scores(path, {"waves_tuned": macro.estimate, "waves_tuned_low": macro.low, "waves_tuned_high": macro.high})


def write_scores(path: Path, found: dict[str, float]) -> None:
    """Write what a run scored, so that half of it is never there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(found, indent=1), encoding="utf-8")
    partial.rename(path)


def table(folder: Path) -> str:
    """Put what was scored into a table: means over seeds, their standard deviations, intervals over test patients."""
    lines = [HEADER]
    for name in [*METHODS, *STUDIES, *UNTRAINED, CONVOLUTIONS]:
        runs = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-[0-9]*.json"))]
        tuned = folder / "fine_tuned" / f"{name}-0.json"
        if runs and tuned.is_file():
            runs[0] |= json.loads(tuned.read_text())
        if runs:
            lines.append(f"{name:<28}" + "".join(_cells(runs)))
    return "\n".join(lines)


HEADER = (
    f"{'':<28}{'AUROC, all labels':<32}{'10 %':<16}{'1 %':<16}{'waves, frozen tokens':<32}{'waves, fine-tuned':<24}"
    f"{'GFLOP a view':<14}{'views/s':<8}runs"
)


def _cells(runs: Sequence[dict[str, float]]) -> list[str]:
    wide, narrow = 32, 16
    return [
        f"{_spread(runs, 'auroc_1')} {_interval(runs, 'auroc')}".ljust(wide),
        _spread(runs, "auroc_0.1").ljust(narrow),
        _spread(runs, "auroc_0.01").ljust(narrow),
        f"{_spread(runs, 'waves')} {_interval(runs, 'waves')}".ljust(wide),
        f"{_spread(runs, 'waves_tuned')} {_interval(runs, 'waves_tuned')}".ljust(24),
        _mean(runs, "gflop_per_view", ".2f").ljust(14),
        _mean(runs, "records_per_second", ".0f").ljust(8),
        str(len(runs)),
    ]


def _mean(runs: Sequence[dict[str, float]], name: str, form: str) -> str:
    values = [run[name] for run in runs if name in run]
    return format(mean(values), form) if values else "-"


def _spread(runs: Sequence[dict[str, float]], name: str) -> str:
    """Give the mean over seeds, and the standard deviation between them."""
    values = [run[name] for run in runs if name in run]
    if not values:
        return "-"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _interval(runs: Sequence[dict[str, float]], name: str) -> str:
    """Give the mean ends of the runs' intervals."""
    low, high = (_mean(runs, f"{name}_{end}", ".3f") for end in ("low", "high"))
    return "" if low == "-" else f"({low}-{high})"


if __name__ == "__main__":
    main()
