"""P, QRS and T waves from frozen tokens on LUDB, by a linear head on every token.

    python examples/benchmarks/ludb_waves.py --data ludb_500hz.npz [--model FOLDER ...] [--target majority|each|II]

Background everywhere, the samples themselves and an untrained encoder of the same shape are in every table. What
is done is described in skecg/evaluation/delineation.py, what the columns are in skecg/evaluation/delineation_scores.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from skecg.datasets import fetch_ludb, read_packed
from skecg.evaluation import standard_sources
from skecg.evaluation.delineation import WaveProtocol, compare_waves
from skecg.evaluation.delineation_scores import boundary_table, wave_table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed file with waves; without it LUDB is downloaded")
    parser.add_argument("--model", action="append", default=[], help="weights to probe (untrained-temporal)")
    parser.add_argument("--target", default="majority", help="whose annotations: majority, each, or a lead")
    parser.add_argument("--context", type=int, nargs="+", default=[0, 1], help="neighbouring tokens that the head sees")
    parser.add_argument("--tiny", action="store_true", help="two parts, one penalty, to see that it runs")
    given = parser.parse_args(arguments)

    dataset = fetch_ludb() if given.data is None else read_packed(given.data)
    protocol = WaveProtocol(target=given.target)
    if given.tiny:
        protocol = dataclasses.replace(protocol, n_folds=2, penalties=(1e-3,))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        sources = standard_sources(given.model or ["untrained-temporal"], Path(folder))
        scores = compare_waves(dataset, sources, contexts=given.context, protocol=protocol, verbose=1)
    some = next(iter(scores.values()))
    print(f"{dataset.name}: {some.n_records} records, {some.n_instants} instants; {protocol}\n")
    print(wave_table(scores))
    print(f"\n{boundary_table(scores)}\n\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
