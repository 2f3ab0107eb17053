"""What a linear probe of many labels costs: skecg.LogisticProbe against scikit-learn's logistic regressions.

Run ``python examples/benchmarks/logistic_probe.py [--labels 24] [--records 8000] [--features 768] [--full]``. Features
are standardized and as ill-conditioned as embeddings are (a spectrum that falls as a power law, rotated); labels have
prevalences from 0.1 to 45 %, as PTB-XL's 71 statements have. All solve the same objective; scikit-learn's tolerances
are such that each comes close to the optimum. Ratios are of one run, by the clock and by processor time; set
``OMP_NUM_THREADS=1`` for one thread. ``--full`` is 71 labels of 17,000 records, which takes scikit-learn long.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from skecg import LogisticProbe

# Solver, its tolerance and most iterations: the first as it comes, the others far enough for the same objective.
SOLVERS: dict[str, dict[str, Any]] = {
    "newton-cholesky": {"tol": 1e-6, "max_iter": 100},
    "newton-cg": {"tol": 1e-6, "max_iter": 100},
    "lbfgs, to the end": {"solver": "lbfgs", "tol": 1e-6, "max_iter": 5000},
    "lbfgs, as it comes": {"solver": "lbfgs", "tol": 1e-4, "max_iter": 100},
}


def simulate(n_records: int, n_features: int, n_labels: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Draw features with a power-law spectrum and labels that depend on their first axes."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(n_records, n_features))
    axes = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
    X = (latent / np.arange(1, n_features + 1)) @ axes
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    scores = latent @ (rng.normal(size=(n_features, n_labels)) / np.sqrt(np.arange(1, n_features + 1))[:, None])
    scores = scores / scores.std(axis=0) + rng.logistic(size=scores.shape)
    n_positive = np.maximum(3, n_records * np.geomspace(0.45, 0.001, n_labels)).astype(int)
    thresholds = [np.sort(column)[-count] for column, count in zip(scores.T, n_positive, strict=True)]
    return X.astype(np.float32), scores >= thresholds


def objectives(X: NDArray[np.float32], Y: NDArray[np.bool_], coef: Any, intercept: Any, C: float) -> NDArray[Any]:
    """Give each label's objective: C times the sum of the log-losses plus half the squared norm of the weights."""
    logits = X.astype(np.float64) @ np.asarray(coef, np.float64).T + np.asarray(intercept, np.float64)
    return C * np.logaddexp(0, np.where(Y, -logits, logits)).sum(axis=0) + 0.5 * np.square(coef).sum(axis=1)


def one_vs_rest(X: NDArray[np.float32], Y: NDArray[np.bool_], C: float, **options: Any) -> tuple[Any, Any]:
    """Fit scikit-learn's regressions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = OneVsRestClassifier(LogisticRegression(C=C, **options)).fit(X, Y)
    coef = np.concatenate([one.coef_ for one in fitted.estimators_])
    return coef, np.concatenate([one.intercept_ for one in fitted.estimators_])


def probe(X: NDArray[np.float32], Y: NDArray[np.bool_], C: float) -> tuple[Any, Any]:
    """Fit skecg's."""
    fitted = LogisticProbe(C=C).fit(X, Y)
    return fitted.coef_, fitted.intercept_


def timed(work: Callable[[], tuple[Any, Any]]) -> tuple[NDArray[np.float64], tuple[Any, Any]]:
    """Take the time by the clock and by the processor."""
    start = np.array([time.perf_counter(), time.process_time()])
    found = work()
    return np.array([time.perf_counter(), time.process_time()]) - start, found


def print_row(name: str, taken: Any, ratio: Any, there: NDArray[Any], best: NDArray[Any]) -> None:
    above = there / best - 1
    times = f"{taken[0]:>9.2f}{ratio[0]:>8.1f}{taken[1]:>11.2f}{ratio[1]:>8.1f}"
    print(f"{name:<28}{times}{there.sum():>13.3f}{np.median(above):>10.1e}{above.max():>10.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=24)
    parser.add_argument("--records", type=int, default=8000)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--C", type=float, default=1.0)
    parser.add_argument("--solvers", nargs="*", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--full", action="store_true", help="71 labels of 17,000 records")
    options = parser.parse_args()
    n_labels, n_records = (71, 17_000) if options.full else (options.labels, options.records)
    X, Y = simulate(n_records, options.features, n_labels)
    print(
        f"{n_labels} labels, {n_records} x {options.features} float32, C={options.C:g}, positives {Y.sum(axis=0).min()}"
    )
    print(f"{'':<77}above the probe, by label")
    print(
        f"{'':<28}{'seconds':>9}{'ratio':>8}{'processor':>11}{'ratio':>8}{'objective':>13}{'median':>10}{'largest':>10}"
    )
    probe(X[:200], Y[:200] | (np.arange(200) < 2)[:, None], options.C)  # so that no import is timed
    taken, found = timed(partial(probe, X, Y, options.C))
    best = objectives(X, Y, *found, options.C)
    print_row("LogisticProbe", taken, taken / taken, best, best)
    for name in options.solvers:
        settings = {"solver": name, **SOLVERS[name]}
        seconds, found = timed(partial(one_vs_rest, X, Y, options.C, **settings))
        print_row(f"OneVsRest {name}", seconds, seconds / taken, objectives(X, Y, *found, options.C), best)


if __name__ == "__main__":
    main()
