"""Batches drawn ahead by a thread, so that a step does not wait for reading.

Batches and what goes with them are pure functions of the step, so drawing them early changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pretraining.config import PretrainConfig
from pretraining.data.batches import Batch, draw_batch
from pretraining.objectives import objective_class

if TYPE_CHECKING:
    from pretraining.data.shards import ShardSet

__all__ = ["BatchLoader", "TrainingBatch", "draw_training_batch"]


@dataclass(frozen=True)
class TrainingBatch:
    """The records at some places of a step's batch, still int16 and on the host, and what was drawn for them."""

    positions: range
    batch: Batch
    drawn: Any


def draw_training_batch(
    config: PretrainConfig, shards: ShardSet, step: int, positions: range, tables: Any = None
) -> TrainingBatch:
    """Draw the records at some places of a step's batch, and what its objective wants of them."""
    batch = draw_batch(shards, config, step, positions)
    return TrainingBatch(positions, batch, objective_class(config).draw(config, tables, batch, step, positions))


class BatchLoader:
    """The batches of one process, drawn one ahead.

    Parameters
    ----------
    config : PretrainConfig
    shards : ShardSet
    positions : list of range
        Places of the process's batches, one for each accumulated, in the global batch of a step.
    tables : optional
        What the objective knows of the rows of the shards.
    """

    def __init__(self, config: PretrainConfig, shards: ShardSet, positions: list[range], tables: Any = None) -> None:
        self._config, self._shards, self._positions, self._tables = config, shards, positions, tables
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch-loader")
        self._drawn: dict[tuple[int, int], Future[TrainingBatch]] = {}

    def batches(self, step: int) -> Iterator[TrainingBatch]:
        """Yield the batches of a step."""
        last = len(self._positions) - 1
        for number in range(last + 1):
            batch = self._draw(step, number)
            following = (step, number + 1) if number < last else (step + 1, 0)
            self._drawn = {following: self._submit(*following)} if following[0] < self._config.run.steps else {}
            yield batch.result()

    def _draw(self, step: int, number: int) -> Future[TrainingBatch]:
        return self._drawn.pop((step, number), None) or self._submit(step, number)

    def _submit(self, step: int, number: int) -> Future[TrainingBatch]:
        return self._thread.submit(
            draw_training_batch, self._config, self._shards, step, self._positions[number], self._tables
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
