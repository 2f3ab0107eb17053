"""What fine-tuning gives over a linear head on the frozen encoder, and what it costs, on PTB-XL's superclasses.

    python examples/benchmarks/fine_tuning.py --data ptbxl_raw500_folds1-8_250hz.npz [--model default] [--test-fold 8]
        [--precision bf16]

FILE is a packed sample of PTB-XL, or its folder; --data again for each file of one that lies in several. Training takes
the folds below the one that is tested, of whose patients FineTunedClassifier holds some out by itself. Macro AUROC with
95 % intervals over the tested patients, paired differences from the frozen encoder, and processor time of one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch

from skecg import FineTunedClassifier
from skecg.datasets.packed import join_datasets
from skecg.evaluation import bootstrap_auroc, open_dataset, task_labels

FROZEN = 'stages="head"'
WAYS: dict[str, dict[str, str]] = {
    FROZEN: {"stages": "head"},
    "the default": {},
    'head="attention"': {"head": "attention"},
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, action="append", metavar="FILE")
    parser.add_argument("--model", default="default")
    parser.add_argument("--test-fold", type=int, default=8)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dataset = join_datasets([open_dataset(path) for path in given.data])
    task = task_labels(dataset, "superdiagnostic")
    below = (dataset.folds > 0) & (dataset.folds < given.test_fold)
    train, test = (np.flatnonzero(task.keep & part) for part in (below, dataset.folds == given.test_fold))
    known, asked = dataset.select(train), dataset.select(test)
    print(f"{len(train)} recordings of {len(set(known.patients))} patients to train, {len(test)} to test")
    print(f"{'':<18}{'macro AUROC':<26}{'minus the frozen head':<26}{'seconds':>7}")
    probabilities: dict[str, np.ndarray] = {}
    for name, how in WAYS.items():
        start = time.process_time()
        classifier = FineTunedClassifier(
            given.model,
            precision=given.precision,
            sampling_rate=dataset.sampling_rate,
            leads=dataset.leads,
            **how,
        )
        classifier.fit(known.records, task.labels[train], groups=known.patients)
        seconds = time.process_time() - start
        probabilities[name] = np.asarray(classifier.predict_proba(asked.records))
        scores = bootstrap_auroc(task.labels[test], probabilities, asked.patients)
        gain = "" if name == FROZEN else str(scores.difference(name, FROZEN))
        print(f"{name:<18}{scores.macro(name)!s:<26}{gain:<26}{seconds:>7.0f}", flush=True)


if __name__ == "__main__":
    main()
