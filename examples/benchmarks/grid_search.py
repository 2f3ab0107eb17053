"""What a search over a whole pipeline costs, against embedding once and fitting the probes.

Run ``python examples/benchmarks/grid_search.py [--records 1000] [--model default] [--tiny]``. Three values of C on five
folds and a last fit on all: scikit-learn transforms sixteen times as many records as there are, and the cache, one in
memory and one in a new folder, lets the encoder see each once. Records are synthetic, 12 leads, 10 s at 500 Hz, and lie
in memory. One thread, processor time. What a search adds is that every record is named by its content and looked up
whenever it is transformed; names are cheaper where ``xxhash`` is installed (``skecg[fast]``).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.embedding_cache import DiskCache, MemoryCache, key_function

if TYPE_CHECKING:
    from collections.abc import Callable

GRID = {"logisticregression__C": [0.01, 0.1, 1.0]}
N_FOLDS = 5


def seconds(run: Callable[[], object]) -> float:
    """Take the processor time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def search(*steps: object) -> GridSearchCV:
    """Make a search over the penalty of the logistic regression behind some steps."""
    pipe = make_pipeline(*steps, StandardScaler(), LogisticRegression(max_iter=1000))
    return GridSearchCV(pipe, GRID, cv=N_FOLDS)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--model", default="default")
    parser.add_argument("--tiny", action="store_true", help="few records, to see that it runs")
    given = parser.parse_args(arguments)
    n_records = 20 if given.tiny else given.records
    torch.set_num_threads(1)
    records, labels = make_ecg(n_records, rhythm=["sinus", "af"], noise=(0.02, 0.1), random_state=0)
    y = labels["rhythm"]
    plain = JEPAEmbedder(given.model, cache=None, device="cpu", n_jobs=1)
    plain.fit_transform(records[:8])  # loads the weights
    features: list[object] = []
    once = seconds(lambda: features.append(plain.transform(records)))
    probes = seconds(lambda: search().fit(features[0], y))
    print(f"{n_records} records, {len(GRID['logisticregression__C'])} x {N_FOLDS} fits, seconds of one core")
    print(f"embedding once {once:.2f}, the probes {probes:.2f}")
    n_named = n_records * (len(GRID["logisticregression__C"]) * N_FOLDS + 1)
    with tempfile.TemporaryDirectory() as folder:
        for cache in (MemoryCache(), DiskCache(folder)):
            name_of = key_function(cache)
            whole = search(JEPAEmbedder(given.model, cache=cache, device="cpu", n_jobs=1))
            first, again = (seconds(lambda whole=whole: whole.fit(records, y)) for _ in range(2))
            names = seconds(
                lambda name_of=name_of: [
                    name_of(record, b"") for _ in range(n_named // n_records) for record in records
                ]
            )
            print(f"\n{type(cache).__name__}")
            print(
                f"the search          {first:>8.2f}{first / (once + probes):>8.2f} times embedding once and the probes"
            )
            print(f"the same once more  {again:>8.2f}{again / probes:>8.2f} times the probes")
            print(f"{n_named} names of records take {names:.2f} s of the first")


if __name__ == "__main__":
    main()
