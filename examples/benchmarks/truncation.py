"""What do features lose that are cut down to their first principal directions (``truncate_dim``)?

Prints the macro AUROC of PTB-XL's superclasses for each number of features, with its interval over test patients, and
the difference from all of them, on the same resamples.

    python examples/benchmarks/truncation.py --data folds1-8.npz --data fold9.npz

With ``--write FOLDER`` it first computes the directions of the weights in a folder, from all recordings but those of
the test fold, and puts them there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from skecg.datasets.packed import join_datasets
from skecg.evaluation import compare, open_dataset
from skecg.evaluation.features import MODEL, EncoderFeatures
from skecg.weights import write_directions


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each number of features."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, action="append", type=Path, metavar="FILE", help="packed; again")
    parser.add_argument("--model", default="default", metavar="M", help="name, weights folder or owner/name")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="compute the directions of these weights first")
    parser.add_argument("--test-fold", type=int, default=9, metavar="N")
    parser.add_argument("--kept", type=int, nargs="+", default=[32, 64, 128, 256], metavar="K")
    parser.add_argument("--fraction", type=float, default=1.0, metavar="F", help="of the training patients' labels")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N")
    given = parser.parse_args(arguments)
    dataset = join_datasets([open_dataset(path) for path in given.data])
    with tempfile.TemporaryDirectory() as cache:
        if given.write is not None:
            whole = EncoderFeatures("all", given.write).features(dataset, cache=cache)
            write_directions(given.write, whole[np.asarray(dataset.folds) != given.test_fold])
        model = given.write or given.model
        sources = [EncoderFeatures(str(k), model, {"truncate_dim": k}) for k in given.kept]
        sources.append(EncoderFeatures("all", model))
        report = compare(
            dataset,
            "superdiagnostic",
            [(MODEL, source) for source in sources],
            fractions=(given.fraction,),
            n_draws=1,
            n_resamples=given.resamples,
            test_fold=given.test_fold,
            cache=cache,
        )
    print(f"{'features':<10}{'macro AUROC':<26}less than with all")
    for row in report.rows:
        area = row.largest.macro_auroc
        lost = "" if row.name == "all" else _interval(report.difference("all", row.name, given.fraction))
        print(f"{row.name:<10}{_interval(area):<26}{lost}")


def _interval(value: object) -> str:
    return f"{value.estimate:.4f} ({value.low:.4f} to {value.high:.4f})"


if __name__ == "__main__":
    main()
