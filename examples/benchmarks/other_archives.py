"""How good are the features on an archive that labels its recordings in its own way?

AUROC of single labels, cross-validated over patients on one packed file, by logistic regression with a fixed penalty;
hand-crafted features, one draw of random convolutions and an untrained encoder of the same shape are in the table.

    python examples/benchmarks/other_archives.py --data FILE --label AF=164889003 --label RBBB=59118001,713427006 \\
        [--model MODEL]

A label has a name and the codes that count for it. Recordings in which every lead is flat are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from skecg import LogisticProbe
from skecg.datasets import LabelledECGs, read_packed
from skecg.evaluation import standard_sources

N_REPEATS, N_PARTS, PENALTY = 3, 5, 1e-2


def changing(dataset: LabelledECGs) -> LabelledECGs:
    """Leave out recordings in which every lead is flat."""
    signals = (getattr(record, "signal", record) for record in dataset.records)
    kept = np.flatnonzero([np.ptp(signal, axis=-1).max() > 0 for signal in signals])
    records = dataset.records[kept] if isinstance(dataset.records, np.ndarray) else [dataset.records[i] for i in kept]
    columns = {name: getattr(dataset, name)[kept] for name in ("patients", "folds", "sexes", "ages", "record_ids")}
    return dataclasses.replace(dataset, records=records, codes=tuple(dataset.codes[i] for i in kept), **columns)


def area(features: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> float:
    """Return the mean AUROC over repeats; each is of all recordings, scored by probes that did not see the patient."""
    areas = []
    for repeat in range(N_REPEATS):
        scores = np.empty(len(labels))
        parts = StratifiedGroupKFold(N_PARTS, shuffle=True, random_state=repeat)
        for train, test in parts.split(features, labels, patients):
            mean, deviation = features[train].mean(axis=0), features[train].std(axis=0) + 1e-6
            probe = LogisticProbe(C=PENALTY).fit((features[train] - mean) / deviation, labels[train])
            scores[test] = probe.decision_function((features[test] - mean) / deviation)
        areas.append(roc_auc_score(labels, scores))
    return float(np.mean(areas))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Score features on the labels of another archive.")
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="packed file")
    parser.add_argument("--label", required=True, action="append", metavar="NAME=CODE,CODE", help="may be repeated")
    parser.add_argument("--model", action="append", metavar="M", help="name, weights folder or owner/name; again")
    given = parser.parse_args(arguments)
    dataset = changing(read_packed(given.data))
    targets = {name: set(codes.split(",")) for name, _, codes in (text.partition("=") for text in given.label)}
    labels = {name: np.array([bool(codes & set(of)) for of in dataset.codes], int) for name, codes in targets.items()}
    counts = [f"{name} ({labels[name].sum()})" for name in labels]
    print(f"{dataset.name}, {len(dataset.codes)} records\n\n{'features':<40}{''.join(f'{c:>22}' for c in counts)}")
    with tempfile.TemporaryDirectory() as folder:
        for _, source in standard_sources(given.model or ["default"], Path(folder)):
            features = source.features(dataset)
            if not features.shape[-1]:  # the shares of the labels, without features
                continue
            features = features[0] if features.ndim == 3 else features  # several draws of random convolutions
            areas = [area(features, labels[name], dataset.patients) for name in labels]
            print(f"{source.name:<40}{''.join(f'{a:>22.3f}' for a in areas)}", flush=True)


if __name__ == "__main__":
    main()
