"""What feeding a pre-training step costs: batches drawn and prepared at once, against a loader that works item by item.

Run ``python examples/benchmarks/pretraining_data.py [N_RECORDS] [--tiny]``. Records of 12 leads and 10 s at 250 Hz lie
in shards, as ``python -m pretraining pack`` writes them, in the page cache. Processor time counts, the best of several
passes; the loader that works item by item reads a row, scales, standardizes and crops it in numpy, and collates as
PyTorch does.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pretraining.config import PretrainConfig
from pretraining.data.batches import draw_batch, to_values
from pretraining.data.corpora import Corpus, Item
from pretraining.data.pack import pack
from pretraining.data.shards import ShardSet
from pretraining.recipes import load_recipe
from skecg.leads import CANONICAL_LEADS
from skecg.records import ECGRecord
from skecg.spec import InputSpec

BATCH = 256
PASSES = 5
RATE = 250


class WanderingNoise:
    """Reads recordings that are made up as they are asked for."""

    def __call__(self, items: Sequence[Item]) -> Iterator[ECGRecord]:
        for item in items:
            steps = np.random.default_rng(int(item.source)).normal(size=(12, 10 * RATE)) * 0.05
            yield ECGRecord(np.cumsum(steps - steps.mean(axis=-1, keepdims=True), axis=-1), RATE, CANONICAL_LEADS)


class ItemByItem(Dataset[torch.Tensor]):
    """The loader that one writes first."""

    def __init__(self, shards: ShardSet, config: PretrainConfig) -> None:
        self.shards, self.window = shards, config.input.window_samples
        self.signals = [np.load(path, mmap_mode="r") for path in sorted(shards.folder.glob("*.npy"))]
        self.places = [(shard, row) for shard, rows in enumerate(self.signals) for row in range(len(rows))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> torch.Tensor:
        shard, row = self.places[number]
        signal = self.signals[shard][row].astype(np.float32) * (self.shards.scale_uv[number] / 1000)
        signal = (signal - signal.mean(axis=-1, keepdims=True)) / signal.std(axis=-1, keepdims=True)
        start = np.random.randint(signal.shape[-1] - self.window + 1)  # noqa: NPY002
        return torch.from_numpy(signal[:, start : start + self.window].clip(-5, 5))


def make_shards(folder: Path, n_records: int) -> ShardSet:
    items = tuple(Item("noise", str(number)) for number in range(n_records))
    return pack([Corpus("noise", items, WanderingNoise())], folder, sampling_rate=RATE, progress=False)


def configure(window_samples: int) -> PretrainConfig:
    tiny = load_recipe("tiny")
    spec = InputSpec(CANONICAL_LEADS, RATE, window_samples, any_leads=True, normalization="zscore", clip=5.0)
    encoder = dataclasses.replace(tiny.encoder, n_patches=window_samples // tiny.encoder.patch_samples)
    data = dataclasses.replace(tiny.data, roll=False, gain=(1.0, 1.0), lead_dropout=0.5)
    return dataclasses.replace(tiny, input=spec, encoder=encoder, data=data)


def microseconds(work: Callable[[int], Any], n_records: int, passes: int) -> float:
    """Best processor time of several passes over other rows, divided by the number of records."""
    work(0)
    times = []
    for number in range(1, passes + 1):
        start = time.process_time()
        work(number)
        times.append(time.process_time() - start)
    return min(times) / n_records * 1e6


def ways(shards: ShardSet, config: PretrainConfig, batch_size: int, passes: int) -> dict[str, Callable[[int], Any]]:
    """Name what is timed; each way is given the number of its pass."""
    places = range(batch_size)
    drawn = draw_batch(shards, config, 0, places)
    loader = DataLoader(ItemByItem(shards, config), batch_size=batch_size, shuffle=True)
    rows = [np.random.default_rng(number).integers(0, shards.n_records, batch_size) for number in range(passes + 1)]
    return {
        "gather int16": lambda number: shards.gather(rows[number]),
        "draw_batch": lambda number: draw_batch(shards, config, number, places),
        "to_values": lambda number: to_values(drawn, config, "cpu"),
        "both": lambda number: to_values(draw_batch(shards, config, number, places), config, "cpu"),
        "item by item": lambda number: next(iter(loader)),
    }


def measure(shards: ShardSet, config: PretrainConfig, batch_size: int, passes: int) -> dict[str, float]:
    """Time each way of making a batch, in microseconds a record."""
    each = ways(shards, config, batch_size, passes)
    return {name: microseconds(work, batch_size, passes) for name, work in each.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("n_records", nargs="?", type=int, default=4096)
    parser.add_argument("--tiny", action="store_true", help="few records, one pass, to see that it runs")
    given = parser.parse_args(arguments)
    n_records, batch_size, passes = (16, 8, 1) if given.tiny else (given.n_records, BATCH, PASSES)
    torch.set_num_threads(1)
    print(f"{n_records} records of 12 x {10 * RATE} int16, batches of {batch_size}, one thread")
    print(f"{'window':>8}  {'':<14}{'us/record':>10}{'records/s':>12}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), n_records)
        for window_samples in (2500, 1000):
            times = measure(shards, configure(window_samples), batch_size, passes)
            for name, taken in times.items():
                ratio = times["item by item"] / taken
                print(f"{window_samples:>8}  {name:<14}{taken:>10.1f}{1e6 / taken:>12,.0f}{ratio:>8.1f}")


if __name__ == "__main__":
    main()
