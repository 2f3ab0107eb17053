"""P, QRS and T waves on LUDB by a fine-tuned Segmenter, scored as examples/benchmarks/ludb_waves.py scores a probe.

    python examples/benchmarks/ludb_segmenter.py --data ludb_500hz.npz [--model FOLDER] [--stages head two]

Patients are in the same five parts; every record is labelled by a segmenter that its patient had no part in.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from skecg import Segmenter
from skecg.annotations import WAVE_CLASSES, boundaries, wave_traces
from skecg.datasets import LabelledECGs, fetch_ludb, read_packed
from skecg.evaluation.delineation_scores import (
    PredictedTrace,
    boundary_table,
    match_boundaries,
    score_waves,
    wave_table,
)
from skecg.splits import patient_folds

N_FOLDS = 5


def predict_all(dataset: LabelledECGs, target: str, **parameters: Any) -> list[PredictedTrace]:
    """Label every record by a segmenter fitted on other patients."""
    waves = [dataset.waves(row) for row in range(len(dataset))]
    folds, found = patient_folds(dataset.patients, N_FOLDS, seed=0), []
    named = {"sampling_rate": dataset.sampling_rate, "leads": dataset.leads}
    for fold in range(N_FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        known, asked = dataset.select(train), dataset.select(test)
        segmenter = Segmenter(target=target, **named, **parameters)
        segmenter.fit(known.records, [waves[row] for row in train], groups=known.patients)
        for row, labels in zip(test, segmenter.predict(asked.records), strict=True):
            truth = wave_traces(waves[row], target)[0]
            found.append(PredictedTrace(int(row), labels, truth.sampling_rate, truth))
    return sorted(found, key=lambda trace: trace.record)


def median_errors(predictions: list[PredictedTrace]) -> str:
    """Write the median distance (ms) from an annotated boundary to the one found for it, "-" where none is found."""
    cells = []
    for number, kind in enumerate(WAVE_CLASSES[1:], 1):
        for place, edge in enumerate(("onset", "offset")):
            errors = []
            for trace in predictions:
                annotated = boundaries(trace.truth.labels, trace.truth.sampling_rate, number)[place]
                predicted = boundaries(trace.labels, trace.grid_hz, number)[place]
                rows, columns = match_boundaries(annotated, predicted)
                errors.append(np.abs(predicted[columns] - annotated[rows]))
            found = np.concatenate(errors)
            cells.append(f"{kind} {edge} {1000 * np.median(found):.0f}" if len(found) else f"{kind} {edge} -")
    return "median distance (ms): " + ", ".join(cells)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed file with waves; without it LUDB is downloaded")
    parser.add_argument("--model", default="default", help="weights to start from")
    parser.add_argument("--target", default="majority", help="whose annotations: majority, or a lead")
    parser.add_argument("--stages", nargs="+", default=["head", "two"], help="what is trained")
    parser.add_argument("--verbose", type=int, default=0)
    given = parser.parse_args(arguments)

    dataset = fetch_ludb() if given.data is None else read_packed(given.data)
    scores = {}
    for stages in given.stages:
        start = time.process_time()
        how = {"model": given.model, "stages": stages, "verbose": given.verbose}
        predictions = predict_all(dataset, given.target, **how)
        scores[stages] = score_waves(predictions, dataset.patients)
        print(f"{stages}: {time.process_time() - start:.0f} s of computing; {median_errors(predictions)}", flush=True)
    print(f"\n{wave_table(scores)}\n\n{boundary_table(scores)}")


if __name__ == "__main__":
    main()
