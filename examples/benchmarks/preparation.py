"""How long a 10-second, 12-lead record takes to prepare: scipy record by record in float64 against skecg, with ratios.

Run ``python examples/benchmarks/preparation.py [N_RECORDS] [--tiny]``. Records of 12 leads at 500 Hz become windows at
250 Hz. Processor time of one thread counts, the best of several passes; OpenBLAS is kept to one thread unless
``OPENBLAS_NUM_THREADS`` says otherwise. What scipy is timed on checks nothing and cuts nothing, while skecg screens
every record first.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported

import numpy as np
import scipy.signal

from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS, derivation_matrix
from skecg.preprocessing.quality import Policies, screen
from skecg.preprocessing.windows import prepare
from skecg.records import ECGRecord
from skecg.spec import InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

N_SAMPLES = 5000
PASSES = 5


def make_records(n_records: int) -> list[ECGRecord]:
    """Wandering noise that obeys Einthoven's law."""
    random = np.random.default_rng(0)
    to_twelve, _ = derivation_matrix(EIGHT_LEADS, CANONICAL_LEADS)
    noise = random.normal(size=(n_records, 8, N_SAMPLES)) * 0.05
    walks = np.cumsum(noise - noise.mean(axis=-1, keepdims=True), axis=-1)
    return [ECGRecord(to_twelve @ walk, 500, CANONICAL_LEADS) for walk in walks]


def with_scipy(records: Sequence[ECGRecord], spec: InputSpec) -> list[np.ndarray]:
    """Resample, filter, and standardize as one writes it first."""
    sections = scipy.signal.butter(4, (0.5, 40), "bandpass", fs=250, output="sos")
    prepared = []
    for record in records:
        signal = record.signal.astype(np.float64)
        if spec.resampling == "fourier":
            signal = scipy.signal.resample(signal, N_SAMPLES // 2, axis=-1)
        else:
            signal = scipy.signal.resample_poly(signal, 1, 2, axis=-1)
        if spec.highpass_hz:
            signal = scipy.signal.sosfiltfilt(sections, signal, axis=-1)
        if spec.normalization == "zscore":
            signal = (signal - signal.mean(axis=-1, keepdims=True)) / signal.std(axis=-1, keepdims=True)
        prepared.append(signal.astype(np.float32))
    return prepared


def microseconds(work: Callable[[], object], n_records: int, passes: int) -> float:
    """Best processor time of several passes, divided by the number of records."""
    work()
    times = []
    for _ in range(passes):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times) / n_records * 1e6


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("n_records", nargs="?", type=int, default=64)
    parser.add_argument("--tiny", action="store_true", help="two records, one pass, to see that it runs")
    given = parser.parse_args(arguments)
    n_records, passes = (2, 1) if given.tiny else (given.n_records, PASSES)
    records = make_records(n_records)
    print(f"{n_records} records of 12 leads x {N_SAMPLES} samples, 500 to 250 Hz; microseconds a record\n")
    print(f"{'resampling':<12}{'filter':<12}{'scale':<8}{'scipy':>8}{'skecg':>8}{'ratio':>8}")
    for resampling in ("polyphase", "fourier"):
        for cutoffs in ((None, None), (0.5, 40.0)):
            for scale in ("none", "zscore"):
                spec = InputSpec(
                    CANONICAL_LEADS, 250, N_SAMPLES // 2, resampling=resampling,
                    highpass_hz=cutoffs[0], lowpass_hz=cutoffs[1], normalization=scale,
                )  # fmt: skip
                theirs = microseconds(lambda spec=spec: with_scipy(records, spec), n_records, passes)
                ours = microseconds(lambda spec=spec: prepare(records, spec), n_records, passes)
                band = "0.5-40 Hz" if cutoffs[0] else "-"
                print(f"{resampling:<12}{band:<12}{scale:<8}{theirs:>8.0f}{ours:>8.0f}{theirs / ours:>7.1f}x")
    checks = microseconds(
        lambda: [screen(record, spec, Policies(), "a record") for record in records], n_records, passes
    )
    print(f"\nOf skecg's time, {checks:.0f} microseconds are the checks of the record.")


if __name__ == "__main__":
    main()
