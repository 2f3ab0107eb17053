"""What trained weights have to beat: PTB-XL superclasses, folds 1-8 against 9.

The same records, split and classifier for hand-crafted features, random convolutions, and encoders through
JEPAEmbedder. Prints macro AUROC over the five diagnostic superclasses with a bootstrap interval over the test
patients, for each set of features. The sample is small (1,625 records, 183 of them in fold 9): a floor to compare
with, not a benchmark result.

    python examples/benchmarks/ptbxl_floor.py --data DIR [--model FOLDER ...]

DIR holds ptbxl_zscored_250hz.npz. Its leads are scaled to unit deviation one by one, so the limb leads are given
their mutual ratios back and every record a typical size of 0.2 mV; Einthoven's law holds as far as the sample keeps it.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import welch
from scipy.stats import kurtosis, skew
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skecg import ECGRecord, JEPAEmbedder
from skecg.leads import CANONICAL_LEADS

CLASSES = ("CD", "HYP", "MI", "NORM", "STTC")
Signals = NDArray[np.float32]
Features = NDArray[np.float32]


def load(folder: Path) -> tuple[Signals, NDArray[np.int64], NDArray[np.int64], NDArray[np.str_]]:
    """Give signals (n, 12, samples) in millivolts, labels (n, 5), folds and patients."""
    with np.load(folder / "ptbxl_zscored_250hz.npz") as data:
        signals = data["signals"].astype(np.float32) * np.float32(data["lsb"] * 0.2)
        signals[:, :6] *= data["limb_sigma_rel"][:, :, None]
        found = [set(str(names).replace(";", ",").split(",")) for names in data["super_class"]]
        labels = np.array([[name in names for name in CLASSES] for names in found]).astype(np.int64)
        return signals, labels, data["strat_fold"], data["patient_ids"]


def hand_crafted(signals: Signals) -> Features:
    """Amplitude, shape, spectrum and correlation of the leads: 12 x 21 + 66 numbers."""
    quantiles = np.quantile(signals, [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1], axis=-1).transpose(1, 2, 0)
    slope = np.diff(signals, axis=-1)
    shape = [signals.std(-1), skew(signals, axis=-1), kurtosis(signals, axis=-1), slope.std(-1), np.abs(slope).max(-1)]
    frequencies, power = welch(signals, 250, nperseg=1000)
    edges = [0.5, 2, 4, 7, 11, 16, 25, 40]
    bands = [power[..., (frequencies >= a) & (frequencies < b)].sum(-1) for a, b in itertools.pairwise(edges)]
    per_lead = np.concatenate([quantiles, np.stack(shape, -1), np.log(np.stack(bands, -1) + 1e-9)], axis=-1)
    upper = np.triu_indices(12, 1)
    correlations = np.stack([np.nan_to_num(np.corrcoef(record))[upper] for record in signals])
    return np.concatenate([per_lead.reshape(len(signals), -1), correlations], axis=1).astype(np.float32)


def random_convolutions(signals: Signals, n_kernels: int = 84, seed: int = 0) -> Features:
    """Maximum, share of positive values and deviation of dilated random convolutions, in the manner of MiniRocket."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(signals)
    x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
    pooled = []
    for dilation in (1, 2, 4, 8, 16, 32):
        kernels = torch.randn(n_kernels, 12, 9, generator=generator)
        kernels *= torch.rand(n_kernels, 12, 1, generator=generator) < 0.3  # each looks at some of the leads
        kernels -= kernels.mean(-1, keepdim=True)
        bias = torch.randn(n_kernels, generator=generator)
        parts = []
        with torch.inference_mode():
            for batch in x.split(16):
                y = torch.nn.functional.conv1d(batch, kernels, bias, dilation=dilation, padding="same")
                parts.append(torch.cat([y.amax(-1), (y > 0).float().mean(-1), y.std(-1)], dim=1))
        pooled.append(torch.cat(parts))
    return torch.cat(pooled, dim=1).numpy()


def embedded(model: str, signals: Signals, **parameters: object) -> Features:
    """Embed through the front door."""
    records = [ECGRecord(signal, 250, CANONICAL_LEADS) for signal in signals]
    return JEPAEmbedder(model, cache=None, **parameters).fit_transform(records)  # type: ignore[arg-type]


def scores(
    features: Features, labels: NDArray[np.int64], folds: NDArray[np.int64], patients: NDArray[np.str_]
) -> NDArray:
    """Fit on folds 1-8, C chosen there by patient-wise cross-validation, and score fold 9."""
    train, test = folds < 9, folds == 9
    pipeline = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(max_iter=2000)))
    grid = {"onevsrestclassifier__estimator__C": [0.001, 0.01, 0.1, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=GroupKFold(5), scoring="roc_auc", n_jobs=2)
    search.fit(features[train], labels[train], groups=patients[train])
    return search.decision_function(features[test])


def interval(labels: NDArray[np.int64], decisions: NDArray, n_draws: int = 1000) -> tuple[float, float, float]:
    """Give macro AUROC and its 95 % bootstrap interval over the test records, one for each patient."""
    generator = np.random.default_rng(0)
    draws = []
    while len(draws) < n_draws:
        rows = generator.integers(0, len(labels), len(labels))
        if labels[rows].mean(axis=0).min() > 0 and labels[rows].mean(axis=0).max() < 1:
            draws.append(roc_auc_score(labels[rows], decisions[rows], average="macro"))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(roc_auc_score(labels, decisions, average="macro")), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of ptbxl_zscored_250hz.npz")
    parser.add_argument("--model", action="append", default=[], help="further weights to compare")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)

    signals, labels, folds, patients = load(arguments.data)
    kinds: dict[str, Callable[[], Features]] = {
        "hand-crafted": lambda: hand_crafted(signals),
        "random convolutions": lambda: random_convolutions(signals),
        "untrained-temporal, mean+std": lambda: embedded("untrained-temporal", signals),
        "untrained-temporal, max": lambda: embedded("untrained-temporal", signals, pooling="max"),
        "untrained-temporal, cls": lambda: embedded("untrained-temporal", signals, pooling="cls"),
        "untrained-temporal, mean": lambda: embedded("untrained-temporal", signals, pooling="mean"),
    }
    for model in arguments.model:
        kinds[Path(model).name] = lambda model=model: embedded(model, signals)
    n_test = int((folds == 9).sum())
    print(f"PTB-XL superclasses, {len(signals) - n_test} records of folds 1-8 against {n_test} of fold 9\n")
    print(f"{'features':<30} {'n':>5} {'macro AUROC':>12}  {'95 % interval':<15} {'  '.join(CLASSES)}   seconds")
    for name, make in kinds.items():
        start = time.perf_counter()
        features = make()
        seconds = time.perf_counter() - start
        decisions = scores(features, labels, folds, patients)
        test = labels[folds == 9]
        auroc, low, high = interval(test, decisions)
        each = " ".join(f"{value:.2f}" for value in roc_auc_score(test, decisions, average=None))
        print(
            f"{name:<30} {features.shape[1]:>5} {auroc:>12.3f}  {low:.3f}-{high:.3f}     {each}  {seconds:>7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
