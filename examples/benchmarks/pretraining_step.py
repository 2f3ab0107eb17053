"""How long a training step takes: the structure of the two published systems against skecg's, with ratios.

Run ``python examples/benchmarks/pretraining_step.py [RECIPE ...] [--batch 8] [--rounds 3]``; without recipes the
smallest of each system is taken.

Both sides have the same model with the same weights, the same batch size and the same step (target, context, predictor,
backward, AdamW, average), take turns in one process, and are measured in processor time of one thread. The published
side is rebuilt from its description: attention with all logits and an explicit softmax, for Kim over the 400 x 400
pattern that is made anew for every pass; masks record by record; records loaded one by one from float16 in memory and
collated; an average that makes new tensors. On a CPU neither published system computes in bfloat16 (one turns it off
there, the other has only float16 on CUDA), so skecg's bfloat16 is compared with what they do, and, in brackets, with
the same structure under autocast. Kim's drop-path is left out on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from encoders import as_published
from torch import Tensor
from torch.utils.data import default_collate

from pretraining.config import PretrainConfig
from pretraining.data.batches import to_values
from pretraining.data.corpora import open_corpus
from pretraining.data.pack import pack
from pretraining.data.shards import ShardSet
from pretraining.distributed import open_engine
from pretraining.loader import draw_training_batch
from pretraining.objectives.jepa import Jepa, JepaDraw
from pretraining.objectives.masks import Masks, draw_masks
from pretraining.optim import build_optimizer, momentum, set_schedule_
from pretraining.recipes import load_recipe
from skecg.datasets import make_ecg

N_RECORDS = 128
SYSTEMS = ("weimann_vit_xs", "kim_leadwise_b_random")


def with_published_parts(model: Jepa) -> Jepa:
    """Give the same model with the published structure."""
    model = copy.deepcopy(model)
    for name in ("context_encoder", "target_encoder", "predictor"):
        setattr(model, name, as_published(getattr(model, name)))
    return model


class Published:
    """A step with the structure of the published systems."""

    def __init__(self, config: PretrainConfig, model: Jepa, signals_NTL: np.ndarray) -> None:
        self.config, self.model, self.signals = config, with_published_parts(model), signals_NTL
        self.optimizer = build_optimizer(self.model, config)
        self.rng = np.random.default_rng(0)

    def step(self, number: int, precision: str) -> float:
        config, model = self.config, self.model
        records = default_collate([self.load_item() for _ in range(config.run.batch_size)])
        masks = self.draw_masks(number)
        set_schedule_(self.optimizer, config, number)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(records, JepaDraw(masks)).total
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        average = momentum(config, number)
        with torch.no_grad():
            pairs = zip(model.target_encoder.parameters(), model.context_encoder.parameters(), strict=True)
            for target, context in pairs:
                target.data = average * target.data + (1 - average) * context.data
        return loss.item()

    def load_item(self) -> Tensor:
        window = self.config.input.window_samples
        signal = self.signals[self.rng.integers(len(self.signals))]
        start = self.rng.integers(len(signal) - window + 1)
        return torch.from_numpy(signal[start : start + window].T.astype(np.float32))

    def draw_masks(self, number: int) -> list[Masks]:
        config, places = self.config, range(self.config.run.batch_size)
        drawn = [
            draw_masks(config.masks, config.encoder.n_patches, range(p, p + 1), seed=0, step=number) for p in places
        ]
        return [Masks(*(default_collate([getattr(d[0], k)[0] for d in drawn]) for k in ("context", "target")))]


class Ours:
    """A step as the trainer takes it."""

    def __init__(self, config: PretrainConfig, model: Jepa, shards: ShardSet) -> None:
        self.config, self.model, self.shards = config, copy.deepcopy(model), shards
        self.optimizer = build_optimizer(self.model, config)

    def step(self, number: int, precision: str) -> float:
        config, model = self.config, self.model
        values, masks = self.feed(number)
        set_schedule_(self.optimizer, config, number)
        engine = open_engine(dataclasses.replace(config.run, precision=precision), "cpu")
        with engine.computing():
            loss = model(values, JepaDraw(masks)).total
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        model.update_target_(momentum(config, number))
        return loss.item()

    def feed(self, number: int) -> tuple[Tensor, list[Masks]]:
        """Read, crop, normalize, mask."""
        part = draw_training_batch(self.config, self.shards, number, range(self.config.run.batch_size))
        return to_values(part.batch, self.config, "cpu"), part.drawn.masks


def seconds(work: Callable[[], object]) -> float:
    """Processor time of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


@contextlib.contextmanager
def packed_records(config: PretrainConfig) -> Iterator[tuple[ShardSet, np.ndarray]]:
    """Give synthetic records as shards, and as float16 in memory."""
    spec = config.input
    made = make_ecg(N_RECORDS, sampling_rate=spec.sampling_rate, noise=0.03, random_state=0).records
    signals = np.stack([record.signal for record in made])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.npz")
        steps = np.rint(signals * 1000).astype(np.int16)
        np.savez(path, signals=steps, lsb=1.0, units="uV", fs=spec.sampling_rate, leads=np.array(made[0].leads))
        how = {"sampling_rate": spec.sampling_rate, "resampling": spec.resampling}
        shards = pack([open_corpus("synthetic", path)], Path(folder, "shards"), progress=False, **how)
        rows = [made[0].leads.index(lead) for lead in spec.leads]
        mean, std = (np.array(v or d)[:, None] for v, d in ((spec.mean, [0.0]), (spec.std, [1.0])))
        yield shards, ((signals[:, rows] - mean) / std).transpose(0, 2, 1).astype(np.float16)


def compare(name: str, batch_size: int, rounds: int) -> None:
    config = load_recipe(name)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, batch_size=batch_size, accumulation=1))
    torch.manual_seed(0)
    model = Jepa(config)
    with packed_records(config) as (shards, signals):
        sides = {"published": Published(config, model, signals), "skecg": Ours(config, model, shards)}
        values, masks = sides["skecg"].feed(0)
        with torch.no_grad():
            losses = [side.model(values, JepaDraw(masks)).total.item() for side in sides.values()]
        print(f"\n{name}, batch {batch_size}: losses of both on one batch {losses[0]:.6f} and {losses[1]:.6f}")
        turns = [(side, precision) for precision in ("fp32", "bf16") for side in sides]
        times: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
        feeding = []
        for number in range(rounds + 1):
            for side, precision in turns:
                taken = seconds(lambda s=side, p=precision, n=number: sides[s].step(n, p))
                times[side, precision] += [taken] if number else []
            feeding.append(seconds(lambda n=number: sides["skecg"].feed(n)))
        report(times, statistics.median(feeding[1:]), batch_size)
        amortize(config, model, shards, rounds)


def report(times: dict[tuple[str, str], list[float]], feeding: float, batch_size: int) -> None:
    median = {turn: statistics.median(taken) for turn, taken in times.items()}
    for (side, precision), taken in median.items():
        print(f"  {side:<10}{precision}  {taken / batch_size * 1e3:9.1f} ms a record")
    theirs = median["published", "fp32"]
    fp32, bf16 = (theirs / median["skecg", precision] for precision in ("fp32", "bf16"))
    under_autocast = median["published", "bf16"] / median["skecg", "bf16"]
    print(f"  ratio: fp32 {fp32:.2f}x; bf16 {bf16:.2f}x ({under_autocast:.2f}x over theirs under autocast)")
    shares = (f"{feeding / median['skecg', p]:.2%} ({p})" for p in ("fp32", "bf16"))
    print(f"  reading, cropping, normalizing and masking: {feeding / batch_size * 1e3:.2f} ms, " + ", ".join(shares))


def amortize(config: PretrainConfig, model: Jepa, shards: ShardSet, rounds: int) -> None:
    """Say what a masked view costs when one pass of the target encoder serves several."""
    sides = {}
    for count in (1, 2, 4):
        masks = dataclasses.replace(config.masks, masks_per_target=count)
        sides[count] = Ours(dataclasses.replace(config, masks=masks), model, shards)
    times: dict[int, list[float]] = {count: [] for count in sides}
    for number in range(rounds):
        for count, side in sides.items():
            times[count].append(seconds(lambda s=side, n=number: s.step(n, "fp32")))
    views = {count: statistics.median(taken) / count for count, taken in times.items()}
    saved = ", ".join(f"{count}: {views[count] / views[1]:.2f}" for count in views)
    print(f"  cost of a masked view by masks for each target pass, relative (fp32): {saved}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("systems", nargs="*", default=SYSTEMS, help="recipes to compare at")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in given.systems:
        compare(name, given.batch, given.rounds)


if __name__ == "__main__":
    main()
