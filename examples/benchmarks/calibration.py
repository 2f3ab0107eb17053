"""How far may one trust the probabilities of a model that `skecg fit` made, and what it says of them itself?

For each number of patients models are fitted on as many, drawn at random, and predict the recordings of all others.
Printed are, as means over labels and draws: expected error, Brier score and slope (1 is right, above 1 too timid) on
these, and the error and the slope that the model holds, which come from its own cross-validation.

    python examples/benchmarks/calibration.py TABLE --label-column superclass --group-column patient
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skecg import JEPAEmbedder
from skecg.metrics import calibration
from skecg.tabular.features import embed_table
from skecg.tabular.fitting import fit_model
from skecg.tabular.table import RecordTable, read_record_table


def one_draw(
    table: RecordTable, features: np.ndarray, n_patients: int, seed: int, model: str, cache: str
) -> list[float]:
    """Fit on some patients, and measure on the others; without the labels that either lacks."""
    patients = np.unique(table.groups)
    drawn = np.random.default_rng(seed).permutation(patients)[:n_patients]
    inside = np.isin(table.groups, drawn)
    embedder = JEPAEmbedder(model, on_bad_record="nan", cache=cache)
    fitted = fit_model(table.select(inside, "no part"), embedder, n_resamples=10).model
    others = table.select(~inside, "no part").target
    found = calibration(others.indicator, fitted.label_probabilities(features[~inside]))
    held = [(one["calibration_error"], one["calibration_slope"]) for one in fitted.calibration]
    errors, slopes = np.array(held, dtype=float).T
    values = [found.expected_error, found.brier, found.slope, errors, slopes]
    return [float(value[known].mean()) if (known := np.isfinite(value)).any() else np.nan for value in values]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--label-column", required=True)
    parser.add_argument("--group-column")
    parser.add_argument("--model", default="default")
    parser.add_argument("--cache", default="disk")
    parser.add_argument("--patients", type=int, nargs="+", default=[60, 200, 600, 2000])
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args(argv)
    table = read_record_table(
        arguments.table, label_columns=[arguments.label_column], group_column=arguments.group_column
    )
    embedder = JEPAEmbedder(arguments.model, on_bad_record="nan", cache=arguments.cache, verbose=1)
    table, features = embed_table(table, embedder)
    print(f"{'patients':>8} {'error':>7} {'Brier':>7} {'slope':>6} {'held: error':>12} {'slope':>6}")
    for n_patients in arguments.patients:
        draws = [
            one_draw(table, features, n_patients, seed, arguments.model, arguments.cache)
            for seed in range(arguments.draws)
        ]
        error, brier, slope, held_error, held_slope = np.mean(draws, axis=0)
        print(
            f"{n_patients:>8} {error:7.3f} {brier:7.3f} {slope:6.2f} {held_error:12.3f} {held_slope:6.2f}", flush=True
        )


if __name__ == "__main__":
    main()
