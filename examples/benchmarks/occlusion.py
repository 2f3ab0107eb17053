"""Does `skecg.explain` point at the cause? Measured on synthetic hearts whose cause is known sample by sample.

One seed gives the same heart with and without an ST elevation, or a bundle branch block. Where the two differ is the
cause. Printed is how well the worth of pieces, and of whole leads, tells the fifth that differs most from the rest
(area under the ROC curve, 0.5 by chance), beside how well the plain size of the signal does. At the end of a row: what
each phase of all beats is worth on average, and in how many hearts the most is the phase that differs most.

    python examples/benchmarks/occlusion.py
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skecg import JEPAEmbedder, LogisticProbe, explain
from skecg.datasets import make_ecg
from skecg.evaluation.occlusion import PHASES
from skecg.preprocessing.r_peaks import find_r_peaks

COMMON = {"sampling_rate": 250, "noise": 0.02}
CAUSES = {
    "LBBB": ({"conduction": "lbbb"}, {"conduction": "normal"}),
    **{
        f"ST elevation, {wall}": ({"st_level": 0.3, "st_territory": wall}, {"st_level": 0.0})
        for wall in ("anterior", "inferior", "lateral")
    },
}


def energy(signal: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Compute the root mean square of each piece of each lead."""
    cuts = np.round(edges * COMMON["sampling_rate"]).astype(int)
    return np.stack([np.sqrt((part**2).mean(axis=1)) for part in np.split(signal, cuts[1:-1], axis=1)], axis=1)


def agreement(worth: np.ndarray, cause: np.ndarray) -> tuple[float, float]:
    """Compute the area under the curve for the fifth with the greatest cause, and the rank correlation."""
    strong = cause.ravel() >= np.quantile(cause, 0.8)
    return roc_auc_score(strong, worth.ravel()), spearmanr(worth.ravel(), cause.ravel()).statistic


def difference_of_phases(difference: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Compute the root mean square of each phase of all beats in all leads."""
    sizes = []
    for begin, end in PHASES.values():
        places = peaks[:, None] + np.arange(*np.round(np.array([begin, end]) * COMMON["sampling_rate"]).astype(int))
        inside = places[(places >= 0) & (places < difference.shape[1])]
        sizes.append(np.sqrt((difference[:, inside] ** 2).mean()))
    return np.array(sizes)


def main() -> None:
    """Print a row for each cause."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--records", type=int, default=5, help="explained of each cause")
    parser.add_argument("--train", type=int, default=100, help="records of each class to learn from")
    arguments = parser.parse_args()
    print(
        f"{'cause':24}{'pieces AUROC':>14}{'size of signal':>16}{'pieces rho':>12}{'leads AUROC':>13}{'leads rho':>11}"
        f"{'  '.join(PHASES):>26}{'found':>8}"
    )
    for cause, (with_it, without) in CAUSES.items():
        ill, well = (
            make_ecg(arguments.train, **COMMON, **of, random_state=seed).records
            for of, seed in ((with_it, 1), (without, 2))
        )
        y = np.repeat([1, 0], arguments.train)
        pipeline = make_pipeline(JEPAEmbedder(arguments.model), StandardScaler(), LogisticProbe(C=0.01))
        pipeline.fit([*ill, *well], y)
        shown, same = (make_ecg(arguments.records, **COMMON, **of, random_state=3).records for of in (with_it, without))
        rows, phases, n_found = [], [], 0
        for record, other in zip(shown, same, strict=True):
            found = explain(pipeline, record, 1)
            difference = record.signal - other.signal
            cause_of_pieces = energy(difference, found.edges)
            by_phase = difference_of_phases(difference, find_r_peaks(record.signal, COMMON["sampling_rate"]))
            phases.append(found.phases)
            n_found += found.phases.argmax() == by_phase.argmax()
            lead_cause = np.sqrt((difference**2).mean(axis=1))
            rows.append(
                [
                    agreement(found.pieces, cause_of_pieces)[0],
                    agreement(energy(record.signal, found.edges), cause_of_pieces)[0],
                    agreement(found.pieces, cause_of_pieces)[1],
                    *agreement(found.leads, lead_cause),
                ]
            )
        a, b, c, d, e = np.mean(rows, axis=0)
        print(f"{cause:24}{a:14.2f}{b:16.2f}{c:12.2f}{d:13.2f}{e:11.2f}", end="")
        worth = "".join(f"{value:6.2f}" for value in np.mean(phases, axis=0))
        print(f"{worth:>26}{n_found:>5}/{len(shown)}", flush=True)


if __name__ == "__main__":
    main()
