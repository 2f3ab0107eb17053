"""The batches of the coming steps, drawn by threads, so that a step does not wait for reading.

Batches and what goes with them are pure functions of the step, so drawing them early, and in any order, changes
nothing. Several threads draw a batch each, and further ones read its rows. For CUDA a batch is read into pinned memory
and uploaded on a stream of its own, by the thread that drew it, while the device computes an earlier step.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.config import PretrainConfig
from pretraining.data.batches import Batch, below, draw_batch, to_values, uniforms
from pretraining.objectives import objective_class

if TYPE_CHECKING:
    from pretraining.data.shards import ShardSet

__all__ = ["BatchLoader", "TrainingBatch", "Upload", "config_of_step", "draw_training_batch"]

_WINDOW_STREAM = 0x317D0


@dataclass(frozen=True)
class Upload:
    """Values of a batch, and what was drawn for it, on their way to a device.

    Parameters
    ----------
    values : Tensor of shape (B, L, T), float32
    drawn : Drawn
    arrived : Event, optional
        None where they are there already.
    """

    values: Tensor
    drawn: Any
    arrived: torch.cuda.Event | None = None

    def wait(self) -> tuple[Tensor, Any]:
        """Let what the caller's stream does from now on wait for them; return them."""
        if self.arrived is not None:
            stream = torch.cuda.current_stream(self.values.device)
            stream.wait_event(self.arrived)
            for tensor in tensors_of((self.values, self.drawn)):
                # Their memory is the other stream's, which would take it back before this one has done with it.
                tensor.record_stream(stream)
        return self.values, self.drawn


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested sequences and dataclasses."""
    if isinstance(tree, Tensor):
        yield tree
    elif dataclasses.is_dataclass(tree):
        yield from tensors_of([getattr(tree, field.name) for field in dataclasses.fields(tree)])
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from tensors_of(part)


@dataclass(frozen=True)
class TrainingBatch:
    """The records at some places of a step's batch, still int16 and on the host, and what was drawn for them.

    The configuration is that of its step, see :func:`config_of_step`.
    """

    config: PretrainConfig
    positions: range
    batch: Batch
    drawn: Any
    upload: Upload | None = None


def draw_training_batch(
    config: PretrainConfig, shards: ShardSet, step: int, positions: range, tables: Any = None, **options: Any
) -> TrainingBatch:
    """Draw the records at some places of a step's batch, and what its objective wants of them.

    Options are those of :func:`pretraining.data.batches.draw_batch`.
    """
    config = config_of_step(config, step)
    batch = draw_batch(shards, config, step, positions, **options)
    return TrainingBatch(config, positions, batch, objective_class(config).draw(config, tables, batch, step, positions))


def config_of_step(config: PretrainConfig, step: int) -> PretrainConfig:
    """Return the configuration that a step is drawn by: one length of its windows, of those that there are."""
    lengths = config.data.window_seconds
    if not lengths:
        return config
    # One length for the whole step, for windows of one batch are one tensor.
    drawn = uniforms(config.run.seed, step, range(1), 1, stream=_WINDOW_STREAM)
    return config.with_window(lengths[below(drawn[0], np.array([len(lengths)]))[0]])


class BatchLoader:
    """The batches of one process, drawn ahead.

    Parameters
    ----------
    config : PretrainConfig
        ``run.prefetch`` says how many are drawn ahead, ``run.readers`` how many threads read rows.
    shards : ShardSet
    positions : list of range
        Places of the process's batches, one for each accumulated, in the global batch of a step.
    tables : optional
        What the objective knows of the rows of the shards.
    device : torch.device, optional
        Where batches are uploaded to; None leaves that to the caller.
    """

    def __init__(
        self,
        config: PretrainConfig,
        shards: ShardSet,
        positions: list[range],
        tables: Any = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        self._config, self._shards, self._positions, self._tables = config, shards, positions, tables
        self._device, run = device, config.run
        self._stream = torch.cuda.Stream(device) if device is not None and device.type == "cuda" else None
        # Threads and not processes: reading and NumPy let Python's lock go, and nothing has to be pickled.
        self._threads = ThreadPoolExecutor(run.prefetch, thread_name_prefix="batch-loader")
        self._readers = ThreadPoolExecutor(run.readers, thread_name_prefix="row-reader")
        self._drawn: dict[tuple[int, int], Future[TrainingBatch]] = {}

    def batches(self, step: int) -> Iterator[TrainingBatch]:
        """Yield the batches of a step."""
        n_parts = len(self._positions)
        for number in range(n_parts):
            first = step * n_parts + number
            ahead = [divmod(place, n_parts) for place in range(first, first + 1 + self._config.run.prefetch)]
            # Nothing is drawn beyond the last step, which would only be thrown away.
            wanted = [place for place in ahead if place[0] == step or place[0] < self._config.run.steps]
            self._drawn = {place: self._drawn.get(place) or self._submit(*place) for place in wanted}
            yield self._drawn.pop((step, number)).result()

    def _submit(self, step: int, number: int) -> Future[TrainingBatch]:
        return self._threads.submit(self._load, step, self._positions[number])

    def _load(self, step: int, positions: range) -> TrainingBatch:
        batch = draw_training_batch(self._config, self._shards, step, positions, self._tables, gather=self._gather)
        return batch if self._device is None else dataclasses.replace(batch, upload=self._upload(batch, self._device))

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[np.int16]:
        """Read rows with several threads, into memory that a device can read from where there is one."""
        out = None
        if self._stream is not None:
            shape = (len(rows), len(self._shards.leads), self._shards.segment_samples)
            out = torch.empty(shape, dtype=torch.int16, pin_memory=True).numpy()
        return self._shards.gather(rows, out=out, readers=self._readers, n_readers=self._config.run.readers)

    def _upload(self, batch: TrainingBatch, device: torch.device) -> Upload:
        side = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with side:
            values, drawn = to_values(batch.batch, batch.config, device), batch.drawn.to(device)
            return Upload(values, drawn, None if self._stream is None else self._stream.record_event())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._readers.shutdown()
