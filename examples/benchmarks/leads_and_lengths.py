"""How much do features lose with fewer leads and shorter recordings?

The same records, labels, split and probe for every subset of leads and every length; probes are fitted and tested on
recordings of the same kind. Prints the macro AUROC of PTB-XL's superclasses with its interval over test patients,
beside that of the same encoder with random weights.

    python examples/benchmarks/leads_and_lengths.py --data FILE [--data FILE] [--model MODEL] [--test-fold 9]

FILE is a packed sample (skecg.datasets.read_packed); several are taken together.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from skecg.datasets import LabelledECGs
from skecg.datasets.packed import join_datasets
from skecg.evaluation import compare, open_dataset, standard_sources
from skecg.evaluation.features import EncoderFeatures

LEADS = {"12 leads": None, "I, II": ("I", "II"), "II": ("II",), "I": ("I",)}
SECONDS = (10.0, 5.0, 2.5)


def shortened(dataset: LabelledECGs, leads: tuple[str, ...] | None, seconds: float) -> LabelledECGs:
    """Keep some leads and the middle of each recording."""
    if not isinstance(dataset.records, np.ndarray) or dataset.leads is None or dataset.sampling_rate is None:
        raise SystemExit("Got recordings in files, expected a packed sample: their leads and lengths are cut here.")
    kept = dataset.leads if leads is None else leads
    n_samples = round(seconds * dataset.sampling_rate)
    start = (dataset.records.shape[-1] - n_samples) // 2
    columns = [dataset.leads.index(lead) for lead in kept]
    return dataclasses.replace(
        dataset, records=np.ascontiguousarray(dataset.records[:, columns, start : start + n_samples]), leads=kept
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure what fewer leads and shorter recordings cost.")
    parser.add_argument(
        "--data", required=True, action="append", type=Path, metavar="FILE", help="packed sample of PTB-XL; again"
    )
    parser.add_argument("--model", default="default", metavar="M", help="name, weights folder or owner/name")
    parser.add_argument("--test-fold", type=int, default=9, metavar="N")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N")
    parser.add_argument("--seconds", type=float, nargs="+", default=SECONDS, metavar="S")
    given = parser.parse_args(arguments)
    dataset = join_datasets([open_dataset(path) for path in given.data])
    print(f"{'leads':<10}{'seconds':>8}  {'AUROC':<24}{'random weights':<24}")
    for name, leads in LEADS.items():
        for seconds in given.seconds:
            print(f"{name:<10}{seconds:>8g}  {'  '.join(scores(dataset, leads, seconds, given))}", flush=True)


def scores(
    dataset: LabelledECGs, leads: tuple[str, ...] | None, seconds: float, arguments: argparse.Namespace
) -> list[str]:
    """Score the encoder and its twin."""
    with tempfile.TemporaryDirectory() as folder:
        rows = standard_sources([arguments.model], Path(folder))
        # The model before its twin: only encoders take any subset of the leads.
        sources = [row for row in reversed(rows) if isinstance(row[1], EncoderFeatures)]
        report = compare(
            shortened(dataset, leads, seconds),
            "superdiagnostic",
            sources,
            fractions=(1.0,),
            n_resamples=arguments.resamples,
            test_fold=arguments.test_fold,
        )
    found = [row.largest.macro_auroc for row in report.rows]
    return [f"{area.estimate:.3f} ({area.low:.3f} to {area.high:.3f})" for area in found]


if __name__ == "__main__":
    main()
