"""What does a recorder's trouble do to features: offsets, wander, hum, muscle noise, an electrode off, another rate?

A probe is fitted once on clean recordings. Then the test recordings are disturbed, and embedded again. For each
disturbance: the share of records whose nearest record among the clean ones is themselves, and the macro AUROC of the
superclasses with its change.

    python examples/benchmarks/robustness.py --train FILE --test FILE [--test-100 FILE] [--model MODEL ...]

Files are packed samples of PTB-XL in millivolts (skecg.datasets.read_packed); `--test-100` holds the test recordings
as they came from the 100 Hz files, matched by record_ids.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from skecg import JEPAEmbedder, LogisticProbe
from skecg.datasets import LabelledECGs, read_packed
from skecg.errors import SkecgWarning
from skecg.evaluation import task_labels
from skecg.metrics import area_under_roc

FloatArray = NDArray[np.float32]
Disturbance = Callable[[FloatArray, float, np.random.Generator], FloatArray]


def hum(X: FloatArray, rate: float, rng: np.random.Generator) -> FloatArray:
    """Add 0.2 mV of 50 Hz, in another phase for each record."""
    seconds = np.arange(X.shape[-1]) / rate
    phases = rng.uniform(0, 2 * np.pi, (len(X), 1, 1))
    return X + (0.2 * np.sin(2 * np.pi * 50 * seconds + phases)).astype(np.float32)


def wander(X: FloatArray, rate: float, rng: np.random.Generator) -> FloatArray:
    """Add 0.3 mV of 0.2 Hz, in another phase for each lead."""
    seconds = np.arange(X.shape[-1]) / rate
    phases = rng.uniform(0, 2 * np.pi, (*X.shape[:2], 1))
    return X + (0.3 * np.sin(2 * np.pi * 0.2 * seconds + phases)).astype(np.float32)


def muscle(X: FloatArray, rate: float, rng: np.random.Generator) -> FloatArray:
    """Add white noise of 0.03 mV."""
    return X + rng.normal(0, 0.03, X.shape).astype(np.float32)


def electrode_off(X: FloatArray, rate: float, rng: np.random.Generator) -> FloatArray:
    """Make one chest lead of each record flat."""
    X = X.copy()
    X[np.arange(len(X)), rng.integers(X.shape[1] - 6, X.shape[1], len(X))] = 0
    return X


def offset(millivolts: float, *, one_lead: bool = False) -> Disturbance:
    """Return what adds an offset to all leads, or to one of each record."""

    def add(X: FloatArray, rate: float, rng: np.random.Generator) -> FloatArray:
        if not one_lead:
            return X + np.float32(millivolts)
        X = X.copy()
        X[np.arange(len(X)), rng.integers(0, X.shape[1], len(X))] += np.float32(millivolts)
        return X

    return add


def gain(factor: float) -> Disturbance:
    """Return what multiplies all leads."""
    return lambda X, rate, rng: X * np.float32(factor)


DISTURBANCES: dict[str, Disturbance] = {
    "1 mV on all leads": offset(1.0),
    "8 mV on all leads": offset(8.0),
    "1 mV on one lead": offset(1.0, one_lead=True),
    "8 mV on one lead": offset(8.0, one_lead=True),
    "0.2 mV of 50 Hz": hum,
    "0.3 mV of 0.2 Hz": wander,
    "0.03 mV of noise": muscle,
    "one chest lead off": electrode_off,
    "gain 1.1": gain(1.1),
}


def embed(model: str, X: FloatArray, data: LabelledECGs) -> FloatArray:
    embedder = JEPAEmbedder(model, sampling_rate=data.sampling_rate, leads=list(data.leads or ()), cache=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkecgWarning)  # that it is disturbed is what we are here for
        return embedder.fit_transform(X)


def nearest_to_themselves(features: FloatArray, clean: FloatArray, scaler: StandardScaler) -> float:
    """Return the share of rows whose nearest clean row, in standardized features, is their own."""
    A, B = scaler.transform(features), scaler.transform(clean)
    distances = (A**2).sum(1)[:, None] - 2 * A @ B.T + (B**2).sum(1)[None]
    return float((distances.argmin(axis=1) == np.arange(len(A))).mean())


def rows_of(model: str, train: LabelledECGs, test: LabelledECGs, test_100: LabelledECGs | None) -> list[str]:
    """Return the table of one model."""
    task, test_task = task_labels(train, "superdiagnostic"), task_labels(test, "superdiagnostic")
    X_test = np.asarray(test.records, dtype=np.float32)
    clean = embed(model, np.asarray(train.records, dtype=np.float32), train)
    scaler = StandardScaler().fit(clean)
    probe = LogisticProbe(C=0.01).fit(scaler.transform(clean[task.keep]), task.labels[task.keep])

    def auroc(features: FloatArray) -> float:
        decisions = probe.decision_function(scaler.transform(features[test_task.keep]))
        return float(np.nanmean(area_under_roc(test_task.labels[test_task.keep], decisions)))

    base = embed(model, X_test, test)
    before = auroc(base)
    rows = [f"{model}: {len(X_test)} records, AUROC {before:.4f}"]
    disturbed = {
        name: d(X_test, float(test.sampling_rate or 0), np.random.default_rng(0)) for name, d in DISTURBANCES.items()
    }
    for name, X in disturbed.items():
        rows.append(row_of(name, features := embed(model, X, test), base, scaler, auroc(features) - before))
    if test_100 is not None:
        order = {name: i for i, name in enumerate(test_100.record_ids)}
        same = test_100.select([order[name] for name in test.record_ids])
        features = embed(model, np.asarray(same.records, dtype=np.float32), same)
        rows.append(row_of("from the 100 Hz files", features, base, scaler, auroc(features) - before))
    return rows


def row_of(name: str, features: FloatArray, clean: FloatArray, scaler: StandardScaler, change: float) -> str:
    return f"{name:<24}{nearest_to_themselves(features, clean, scaler):>8.1%}{change:>+10.4f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure what recorders' troubles do to features.")
    parser.add_argument("--train", required=True, type=Path, metavar="FILE")
    parser.add_argument("--test", required=True, type=Path, metavar="FILE")
    parser.add_argument("--test-100", type=Path, metavar="FILE", help="the same recordings from the 100 Hz files")
    parser.add_argument("--model", action="append", metavar="M", help="name or weights folder; again")
    given = parser.parse_args(arguments)
    train, test = read_packed(given.train), read_packed(given.test)
    test_100 = read_packed(given.test_100) if given.test_100 else None
    print(f"{'disturbance':<24}{'nearest':>8}{'AUROC':>10}")
    for model in given.model or ["default"]:
        print("\n".join(rows_of(model, train, test, test_100)), flush=True)


if __name__ == "__main__":
    main()
