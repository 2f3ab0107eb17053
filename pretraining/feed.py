"""What a step is fed, drawn ahead by a thread, so that reading is not what a step waits for.

Batches and masks are pure functions of the step, so drawing them early changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from pretraining.config import PretrainConfig
from pretraining.masks import Masks, draw_masks, draw_seen
from pretraining.objectives.describing import Described
from pretraining.sampling import Batch, draw_batch

if TYPE_CHECKING:
    from pretraining.descriptors import Descriptors
    from pretraining.shards import ShardSet

__all__ = ["Feed", "Part", "draw_part"]


@dataclass(frozen=True)
class Part:
    """A part of a step's batch: the records at some places, still int16 and on the host, and what goes with them."""

    positions: range
    batch: Batch
    masks: list[Masks]
    described: Described | None = None


def draw_part(
    config: PretrainConfig, shards: ShardSet, step: int, positions: range, descriptors: Descriptors | None = None
) -> Part:
    """Draw the records at some places of a step's batch, and their masks, and look up what describes them."""
    masks = draw_masks(config.masks, config.encoder.n_patches, positions, seed=config.run.seed, step=step)
    batch = draw_batch(shards, config, step, positions)
    described = None if descriptors is None else _describe(batch, descriptors, _seen(config, step, positions))
    return Part(positions, batch, masks, described)


def _seen(config: PretrainConfig, step: int, positions: range) -> torch.Tensor | None:
    """Draw the slices that descriptions are made from, where they are not those of the prediction."""
    share = config.objective.describe_share
    return draw_seen(config.encoder.n_patches, share, positions, seed=config.run.seed, step=step) if share else None


def _describe(batch: Batch, descriptors: Descriptors, seen: torch.Tensor | None) -> Described:
    weights = descriptors.is_known[batch.rows][:, None] * descriptors.importance
    return Described(torch.from_numpy(descriptors.values[batch.rows]), torch.from_numpy(weights), seen)


class Feed:
    """The parts of one process, drawn one ahead.

    Parameters
    ----------
    config : PretrainConfig
    shards : ShardSet
    positions : list of range
        Places of the parts in the batch of a step.
    descriptors : Descriptors, optional
        Of the rows of the shards, where the objective asks for them.
    """

    def __init__(
        self,
        config: PretrainConfig,
        shards: ShardSet,
        positions: list[range],
        descriptors: Descriptors | None = None,
    ) -> None:
        self._config, self._shards, self._positions, self._descriptors = config, shards, positions, descriptors
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self._drawn: dict[tuple[int, int], Future[Part]] = {}

    def parts(self, step: int) -> Iterator[Part]:
        """Yield the parts of a step."""
        last = len(self._positions) - 1
        for number in range(last + 1):
            part = self._draw(step, number)
            following = (step, number + 1) if number < last else (step + 1, 0)
            self._drawn = {following: self._submit(*following)} if following[0] < self._config.run.steps else {}
            yield part.result()

    def _draw(self, step: int, number: int) -> Future[Part]:
        return self._drawn.pop((step, number), None) or self._submit(step, number)

    def _submit(self, step: int, number: int) -> Future[Part]:
        return self._thread.submit(
            draw_part, self._config, self._shards, step, self._positions[number], self._descriptors
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
