"""What ends a run safely: a request to stop, and a loss or gradient that is not finite.

SIGTERM and SIGINT let the step under way finish, so that it can be saved. A step whose loss or gradient is not finite
is not taken, and the records in question are named.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from pretraining.config import PretrainConfig
from pretraining.data.batches import draw_batch, to_values
from pretraining.distributed import Engine
from pretraining.loader import config_of_step
from skecg.errors import SkecgError

if TYPE_CHECKING:
    from pretraining.data.shards import ShardSet

__all__ = ["NonFiniteLossError", "StopRequest", "check_finite"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_NAMED_RECORDS = 8


class StopRequest:
    """Notes that the process was asked to stop; the second time it stops as it would have without this.

    Used as a context manager, which gives the former handlers back. Threads other than the main one may not handle
    signals: there it does nothing.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self.name is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        # A second signal then ends the process at once, for whoever cannot wait for the step.
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}


class NonFiniteLossError(SkecgError, ArithmeticError):
    """The loss or its gradient became infinite or NaN."""


def check_finite(
    losses: Sequence[float],
    gradient_norm: float,
    *,
    config: PretrainConfig,
    shards: ShardSet,
    engine: Engine,
    step: int,
    last_loss: float | None,
) -> None:
    """Raise, on all processes alike, if the loss of one of them or the gradient's norm is not finite.

    Parameters
    ----------
    losses : sequence of float
        Mean loss of each process's share, by rank.
    gradient_norm : float
    config, shards, engine
        The run's; the records in question are drawn anew from them.
    step : int
        Counted from 0.
    last_loss : float or None
        That of the step before.
    """
    broken = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
    if not broken and math.isfinite(gradient_norm):
        return
    # A loss that compares the records of all processes is broken in all of them, and gradients are sums over them.
    ranks = broken or range(engine.world_size)
    what = f"The loss is {losses[ranks[0]]}" if broken else f"The gradient's norm is {gradient_norm}"
    process = f"process {', '.join(map(str, ranks))} of {engine.world_size}"
    where = f"at step {step + 1} of {config.run.steps}, {process}"
    before = "no step was finished before" if last_loss is None else f"the last finite loss was {last_loss:.6g}"
    raise NonFiniteLossError(
        f"{what} {where}; {before}. {_largest_inputs(config, shards, engine, step, ranks)} The step was not taken. "
        "Look at these records if their values are out of proportion; else lower optim.lr or set optim.gradient_clip, "
        "and begin from an earlier checkpoint."
    )


def _largest_inputs(config: PretrainConfig, shards: ShardSet, engine: Engine, step: int, ranks: Sequence[int]) -> str:
    """List the records of some processes' shares that have the largest values, and those that are not finite."""
    found: list[tuple[float, int]] = []
    config = config_of_step(config, step)
    for positions in (positions for rank in ranks for positions in engine.positions(rank)):
        # Drawn again from (seed, step): the records need not have been kept.
        batch = draw_batch(shards, config, step, positions)
        largest = to_values(batch, config, engine.device).abs().amax(dim=(1, 2)).tolist()
        found += zip((v if math.isfinite(v) else math.inf for v in largest), batch.rows.tolist(), strict=True)
    found.sort(reverse=True)
    named = ", ".join(f"{row} ({value:.4g})" for value, row in found[:_NAMED_RECORDS])
    return f"Of its {len(found)} records these rows of the shards have the largest inputs: {named}."
