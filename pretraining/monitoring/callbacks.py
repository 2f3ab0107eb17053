"""Callback: whatever hears of a run while it trains. Journal and TensorBoard are two; others bring theirs.

Only the first process tells, and only of what is whole: checkpoints that lie on the disk, values that all processes
agree on. What a callback raises does not end the run: it is said, and the callback hears no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.cli.console import say

if TYPE_CHECKING:
    from pretraining.config import PretrainConfig

__all__ = ["Callback", "TensorBoard", "new_callbacks", "register_callback", "tell"]

_FACTORIES: list[Callable[[], Callback]] = []


class Callback:
    """What may be heard of a run; a callback overrides what it wants to know.

    Values are plain numbers by name, those of ``journal.jsonl`` (docs/pretraining.rst says what they mean). Steps are
    optimizer steps that are done.
    """

    def start(self, config: PretrainConfig, folder: Path, step: int) -> None:
        """Hear that a run begins in its folder, or goes on from a step above 0."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Hear of loss and speed, every ``watch.log_every`` steps."""

    def gauge(self, step: int, values: Mapping[str, float]) -> None:
        """Hear of the gauges, every ``watch.gauge_every`` steps."""

    def probe(self, step: int, values: Mapping[str, float]) -> None:
        """Hear of the probe's scores, every ``watch.probe_every`` steps."""

    def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
        """Hear that a checkpoint has been written, and whether the probe never scored higher."""

    def note(self, step: int, event: str, text: str) -> None:
        """Hear what happened: ``"start"``, ``"resume"``, ``"collapse"``, ``"stop"`` or ``"end"``, and a sentence."""

    def end(self, step: int) -> None:
        """Hear that nothing more will come, whatever the reason; the last event tells it."""


def register_callback(make: Callable[[], Callback]) -> Callable[[], Callback]:
    """Have a callback made for every run of this process; a decorator for its class, for plug-ins (``--plugin``)."""
    _FACTORIES.append(make)
    return make


def new_callbacks() -> list[Callback]:
    """Make a callback of each that is registered."""
    return [make() for make in _FACTORIES]


def tell(callbacks: Sequence[Callback], what: Callable[[Callback], None]) -> list[Callback]:
    """Call each callback, and return those that did not fail."""
    heard = []
    for callback in callbacks:
        try:
            what(callback)
            heard.append(callback)
        except Exception as error:  # a service that is down must not cost a day of training
            said = f"{type(error).__name__}: {error}"
            say(f"warning: the callback {type(callback).__name__} failed ({said}) and hears no more of this run")
    return heard


class TensorBoard(Callback):
    """Writes all values as TensorBoard reads them, where that is installed."""

    def start(self, config: PretrainConfig, folder: Path, step: int) -> None:
        """Open the log; what was written after the step resumed from is dropped."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
            return
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else 0)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Write values down."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    gauge = probe = step

    def end(self, step: int) -> None:
        """Close the log."""
        if self._board is not None:
            self._board.close()
