"""
The main job, end to end
========================

Synthetic records are written as WFDB files, read back, embedded, and cross-validated with logistic regression: what a
user does with real files and labels. Everything happens on the CPU with what is bundled, without a network.

Run it twice: the second run finds every embedding in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import wfdb
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skecg import ECGRecord, JEPAEmbedder, list_models, read_records
from skecg.datasets import make_ecg
from skecg.embedding_cache import DiskCache
from skecg.plotting import plot_ecg, plot_embedding_map

OUT = Path("demo_output")
N_RECORDS = 240

T = TypeVar("T")


class Stages:
    """Times what is done and prints it as a table."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, str]] = []

    def run(self, name: str, work: Callable[[], T], say: Callable[[T], str]) -> T:
        print(f"  {name} ...", flush=True)
        start = time.perf_counter()
        result = work()
        self.rows.append((name, time.perf_counter() - start, say(result)))
        return result

    def print(self) -> None:
        width = max(len(name) for name, _, _ in self.rows)
        print(f"\n  {'stage':<{width}}  seconds  result")
        for name, seconds, what in self.rows:
            print(f"  {name:<{width}}  {seconds:7.2f}  {what}")
        print(f"  {'total':<{width}}  {sum(seconds for _, seconds, _ in self.rows):7.2f}")


def make_records() -> tuple[list[ECGRecord], np.ndarray]:
    """Make noisy hearts of five kinds, and say which is which."""
    kinds = {
        "sinus rhythm": {},
        "atrial fibrillation": {"rhythm": "af"},
        "premature beats": {"rhythm": "pvc"},
        "left bundle branch block": {"conduction": "lbbb"},
        "right bundle branch block": {"conduction": "rbbb"},
    }
    noise = {"wander": (0.05, 0.3), "emg": (0.01, 0.06), "mains": (0.0, 0.04)}
    records, labels = [], []
    for seed, (kind, how) in enumerate(kinds.items()):
        made = make_ecg(N_RECORDS // len(kinds), noise=noise, random_state=seed, **how)
        records += made.records
        labels += [kind] * len(made.records)
    return records, np.array(labels)


def write_files(records: list[ECGRecord]) -> list[Path]:
    """Write records as WFDB files (format 16, 1 µV a step), as archives hold them."""
    folder = OUT / "records"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"ecg{number:04d}" for number in range(len(records))]
    for name, record in zip(names, records, strict=True):
        if not (folder / f"{name}.hea").exists():
            wfdb.wrsamp(
                name,
                fs=record.sampling_rate,
                units=["mV"] * record.n_leads,
                sig_name=list(record.leads),
                d_signal=np.round(record.signal.T * 1000).astype(np.int64),
                fmt=["16"] * record.n_leads,
                adc_gain=[1000.0] * record.n_leads,
                baseline=[0] * record.n_leads,
                write_dir=str(folder),
            )
    return [folder / f"{name}.hea" for name in names]


def draw(record: ECGRecord, features: np.ndarray, labels: np.ndarray) -> Path:
    """Draw an ECG on paper beside the map of all embeddings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(20, 7), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.75, 1])
    plot_ecg(record, ax=left, title="One of the records (left bundle branch block)")
    plot_embedding_map(features, labels, ax=right, title=f"Embeddings of all {len(features)} records")
    path = OUT / "demo.png"
    figure.savefig(path, dpi=100)
    return path


def main() -> None:
    name, model = next((name, entry) for name, entry in list_models().items() if entry.get("default"))
    print(f"skecg demo: {N_RECORDS} synthetic 12-lead records, model {name!r}")
    if not model["trained"]:
        print("This encoder is untrained: its features are random projections, a floor for trained ones.")
    stages = Stages()
    records, labels = stages.run("make records", make_records, lambda made: f"{len(made[0])} records, 5 classes")
    paths = stages.run("write WFDB files", lambda: write_files(records), lambda p: f"{len(p)} in {p[0].parent}")
    read = stages.run("read them back", lambda: read_records(paths), lambda r: repr(r[0]))

    cache = DiskCache(OUT / "cache")
    embedder = JEPAEmbedder(cache=cache)
    features = stages.run(
        "embed the files",
        lambda: embedder.fit_transform(paths),
        lambda f: f"{f.shape[1]} features each; {cache.info().hits} of {len(f)} were in the cache",
    )
    n_embedded = cache.info().misses

    pipeline = make_pipeline(JEPAEmbedder(cache=cache), StandardScaler(), LogisticRegression(max_iter=1000))
    stages.run(
        "5-fold cross-validation",
        lambda: cross_val_score(pipeline, paths, labels, cv=5),
        lambda s: (
            f"accuracy {s.mean():.3f} ± {s.std():.3f} (5 classes), "
            f"{cache.info().misses - n_embedded or 'nothing'} embedded again"
        ),
    )
    example = int(np.flatnonzero(labels == "left bundle branch block")[0])
    stages.run("draw the figure", lambda: draw(read[example], features, labels), str)
    stages.print()
    if n_embedded == 0:
        print("\n  Nothing was embedded in this run: every embedding came from the cache of an earlier one.")
    else:
        print("\n  Run it again: the embeddings are cached now, so nothing will be embedded twice.")
    print("  Research use only: not a medical device.")


if __name__ == "__main__":
    main()
