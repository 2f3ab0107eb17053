"""Heart rate and QRS duration from pooled vectors, by ridge regression.

    python examples/benchmarks/heart_rate.py [--data ludb_500hz.npz] [--model FOLDER ...]

With --data from annotated waves of real recordings; always on synthetic recordings, whose rate is known. The training
patients' mean, hand-crafted features, random convolutions and an untrained encoder of the same shape are in every
table. What is done is described in skecg/evaluation/regression.py.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from skecg.datasets import LabelledECGs, make_ecg, read_packed
from skecg.evaluation import standard_sources
from skecg.evaluation.delineation import annotated_waves
from skecg.evaluation.regression import compare_regressions, heart_rates, qrs_durations, regression_table


def synthetic(n_records: int) -> tuple[LabelledECGs, np.ndarray]:
    """Make noisy records in sinus rhythm and atrial fibrillation, and give their heart rates."""
    made = make_ecg(n_records, rhythm=["sinus", "af"], heart_rate=(40, 150), noise=(0.01, 0.1), random_state=0)
    signals = np.stack([record.signal for record in made.records])
    names = np.array([record.name for record in made.records])
    unknown = np.full(n_records, "", dtype=str)
    dataset = LabelledECGs(
        name="synthetic",
        records=signals,
        sampling_rate=made.records[0].sampling_rate,
        leads=made.records[0].leads,
        codes=({},) * n_records,
        patients=names,
        folds=np.zeros(n_records, dtype=np.int64),
        sexes=unknown,
        ages=np.full(n_records, np.nan),
        licence="none needed",
        citation="skecg.datasets.make_ecg",
        folder=Path(),
    )
    return dataset, made.labels["heart_rate"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed file with waves")
    parser.add_argument("--model", action="append", default=[], help="weights to probe (untrained-temporal)")
    parser.add_argument("--n-synthetic", type=int, default=400, help="synthetic records")
    given = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        sources = standard_sources(given.model or ["untrained-temporal"], Path(folder))
        if given.data is not None:
            dataset = read_packed(given.data)
            waves = annotated_waves(dataset)
            targets = {"heart rate (bpm)": heart_rates(waves), "QRS duration (ms)": qrs_durations(waves)}
            show(dataset, targets, sources)
        dataset, rates = synthetic(given.n_synthetic)
        show(dataset, {"heart rate (bpm)": rates}, sources)


def show(dataset: LabelledECGs, targets: dict[str, np.ndarray], sources: list) -> None:
    """Print one table for each target."""
    for name, scores in compare_regressions(dataset, sources, targets).items():
        target = targets[name]
        print(f"{dataset.name}, {name}: {np.nanmean(target):.1f} ± {np.nanstd(target):.1f}\n")
        print(regression_table(scores, name.partition("(")[2].rstrip(")")) + "\n")


if __name__ == "__main__":
    main()
