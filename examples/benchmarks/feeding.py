"""How many records a second one process draws for a pre-training run: rows, masks and what describes them.

Run ``python examples/benchmarks/feeding.py [RECIPE ...] [--against CHECKOUT]``. Noise lies in shards, as ``python -m
pretraining pack`` writes them, in the page cache. Batches are drawn one after the other by one thread, without values
being computed of them; the fastest of several counts. With ``--against`` the code of another checkout is measured, too,
in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

RECIPES = ("weimann_vit_xs", "weimann_vit_s", "kim_leadwise_b_random", "skecg_default")
ROOT = Path(__file__).resolve().parents[2]


def make_shards(folder: Path, sampling_rate: float, n_records: int) -> None:
    """Pack noise at a rate."""
    from pretraining.data.corpora import open_corpus
    from pretraining.data.pack import pack
    from skecg.leads import CANONICAL_LEADS

    steps = np.random.default_rng(0).integers(-500, 500, (n_records, 12, round(10 * sampling_rate)), dtype=np.int16)
    what = {"lsb": 1e-3, "units": "mV", "fs": sampling_rate, "leads": list(CANONICAL_LEADS)}
    np.savez(folder / "noise.npz", signals=steps, **what)
    corpus = open_corpus("noise", folder / "noise.npz")
    pack([corpus], folder / "shards", sampling_rate=sampling_rate, segment_seconds=10.0, n_jobs=1, progress=False)


def measure(recipe: str, folder: Path, batch_size: int, passes: int) -> dict[str, float]:
    """Return the least processor time of a batch (ms): rows, what goes with them, both."""
    from pretraining.data.batches import draw_batch
    from pretraining.data.shards import open_shards
    from pretraining.loader import draw_training_batch
    from pretraining.objectives import objective_class
    from pretraining.recipes import load_recipe

    config, places = load_recipe(recipe), range(batch_size)
    spec = dataclasses.replace(config.input, highpass_hz=None, lowpass_hz=None)
    config = dataclasses.replace(config, input=spec, data=dataclasses.replace(config.data, weights={}))
    shards = open_shards(folder)
    tables, drawn = some_tables(config, shards.n_records), draw_batch(shards, config, 0, places)
    ways = {
        "rows": lambda step: draw_batch(shards, config, step, places),
        "masks": lambda step: objective_class(config).draw(config, tables, drawn, step, places),
        "both": lambda step: draw_training_batch(config, shards, step, places, tables),
    }
    return {name: 1e3 * min(seconds(way, step) for step in range(passes + 1)) for name, way in ways.items()}


def some_tables(config: object, n_rows: int) -> object:
    """Return descriptions of the right shape, where the recipe asks for any: what they say costs nothing."""
    from pretraining.data.feature_tables import N_DESCRIPTORS, Descriptors

    if not getattr(config.objective, "describe_weight", 0):  # type: ignore[attr-defined]
        return None
    values = np.zeros((n_rows, N_DESCRIPTORS), np.float32)
    return Descriptors(values, np.ones(N_DESCRIPTORS, np.float32), np.ones(n_rows, np.bool_))


def seconds(way: object, step: int) -> float:
    begun = time.process_time()
    way(step)  # type: ignore[operator]
    return time.process_time() - begun


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="root of a checkout of another commit")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--records", type=int, default=4096)
    parser.add_argument("--tiny", action="store_true", help="few records, one pass, to see that it runs")
    given = parser.parse_args(arguments)
    batch_size, n_records, passes = (8, 16, 1) if given.tiny else (given.batch_size, given.records, 4)
    if given.against:
        again = [sys.executable, str(Path(__file__).resolve()), *given.recipes, "--batch-size", str(given.batch_size)]
        again += ["--records", str(given.records)] + ["--tiny"] * given.tiny
        path = {"PYTHONPATH": str(given.against.resolve())}
        subprocess.run(again, cwd=given.against, env=os.environ | path, check=True)
    import pretraining
    from pretraining.recipes import load_recipe

    torch.set_num_threads(1)
    print(f"{Path(pretraining.__file__).parents[1]}: batches of {batch_size}, one thread")
    for recipe in given.recipes:
        with tempfile.TemporaryDirectory() as folder:
            make_shards(Path(folder), load_recipe(recipe).input.sampling_rate, n_records)
            taken = measure(recipe, Path(folder) / "shards", batch_size, passes)
        each = ", ".join(f"{name} {ms:.1f} ms" for name, ms in taken.items())
        print(f"{recipe:<24}{each}: {1e3 * batch_size / taken['both']:,.0f} records/s", flush=True)


if __name__ == "__main__":
    main()
