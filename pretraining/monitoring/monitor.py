"""Monitor: a run's pace in the journal, its gauges and its probe, while it trains."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pretraining.config import PretrainConfig
from pretraining.data.batches import to_values
from pretraining.distributed import Engine
from pretraining.loader import draw_training_batch
from pretraining.monitoring.callbacks import Callback, tell
from pretraining.monitoring.gauges import Gauges, collapse_reason, memory_gib
from pretraining.objectives import gather_model
from pretraining.objectives.base import Drawn, Objective, exported_encoder
from pretraining.optim import learning_rate, momentum, weight_decay

if TYPE_CHECKING:
    from pretraining.data.shards import ShardSet
    from pretraining.monitoring.journal import Journal
    from pretraining.monitoring.online_probe import OnlineProbe
    from skecg.encoders import Encoder

__all__ = ["Evaluation", "Monitor", "StepStats", "pace"]

# Ranks cannot exceed the number of records that they are measured on.
_FIXED_RECORDS = 256
_FIXED_STEP = 2**40

# Dense bfloat16 peaks by words of the device's name, from the makers' data sheets (without sparsity), the more
# particular name first.
_BF16_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}


@dataclass(frozen=True)
class StepStats:
    """Loss, gradient, time and arithmetic of a step.

    Attributes
    ----------
    step : int
        Steps done with it.
    loss : dict of str to float
        What was minimized, ``total``, and the parts of it that the journal notes; means over the batch of the step.
    gradient_norm : float
        Before clipping.
    seconds : float
    flops : float
        Floating-point operations that one record took.
    stopping : bool
        Whether some process was asked to stop.
    """

    step: int
    loss: dict[str, float]
    gradient_norm: float
    seconds: float
    flops: float
    stopping: bool


class Evaluation(NamedTuple):
    """What a measurement led to: why the run has collapsed, if so, and whether the probe never scored higher."""

    collapse: str | None = None
    is_best: bool = False


@dataclass
class Monitor:
    """Measures a run on the way: the first process measures and writes, the others wait for what came of it.

    Parameters
    ----------
    config : PretrainConfig
    shards : ShardSet
    engine : Engine
    journal : Journal or None
        None in all processes but the first.
    probe : OnlineProbe, optional
    gauged : list of dict
        What gauges have shown so far; added to in the first process.
    scores : list of [step, score]
        What the probe has scored so far; added to in all.
    tables : optional
        What the objective knows of the rows of the shards.
    callbacks : list of Callback
        Who else hears of the run, in the first process; those that fail are dropped.
    losses : list of dict
        Loss and parts of each step since the journal's last line, in the first process.
    """

    config: PretrainConfig
    shards: ShardSet
    engine: Engine
    journal: Journal | None
    probe: OnlineProbe | None
    gauged: list[dict[str, float]]
    scores: list[list[float]]
    tables: Any = None
    callbacks: list[Callback] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    _recent: list[StepStats] = field(default_factory=list)
    _gauges: Gauges = field(default_factory=Gauges)
    _fixed: tuple[Tensor, Drawn] | None = None

    @property
    def best_step(self) -> int | None:
        """The step that the probe scored highest, the first of equals."""
        return int(max(self.scores, key=lambda entry: entry[1])[0]) if self.scores else None

    def note(self, step: int, event: str, text: str) -> None:
        """Write down an event."""
        self._tell(lambda callback: callback.note(step, event, text))

    def begin(self, journal: Journal, folder: Path, step: int) -> None:
        """Begin to write down and to tell what happens; the first process does."""
        self.journal = journal
        self._tell(lambda callback: callback.start(self.config, folder, step))

    def note_checkpoint(self, step: int, path: Path, is_best: bool) -> None:
        """Note a checkpoint that has been written."""
        self._tell(lambda callback: callback.checkpoint(step, path, is_best))

    def end(self, step: int) -> None:
        """Close what was opened."""
        self._tell(lambda callback: callback.end(step))

    def _tell(self, what: Callable[[Callback], None]) -> None:
        """Pass an event on to the journal, without which there is no run, and to whoever else listens."""
        if self.journal is not None:
            what(self.journal)
            self.callbacks = tell(self.callbacks, what)

    def note_step(self, stats: StepStats) -> None:
        """Write the journal's line every ``log_every`` steps, and of the first and last."""
        every = self.config.watch.log_every
        # Without further lines nothing is gathered for them.
        if self.journal is None or (every == 0 and stats.step > 1):
            return
        self._recent.append(stats)
        self.losses.append(stats.loss)
        if stats.step == 1 or self._is_due(stats.step, every):
            line = self._line(stats)
            self._tell(lambda callback: callback.step(stats.step, line))
            self._recent.clear()
            self.losses.clear()

    def _line(self, stats: StepStats) -> dict[str, float]:
        """Return the journal's line of a step; the loss and its parts are means since the last line."""
        # Losses are of all steps since then, times only of those that this process has seen.
        config, recent = self.config, self._recent
        seconds = sum(step.seconds for step in recent)
        flops = sum(step.flops for step in recent) / len(recent)
        share = config.run.batch_size // self.engine.world_size
        speed = pace(share * len(recent), seconds, flops, self.engine.device, self.engine.precision)
        losses = {name: self._mean_loss(name) for name in stats.loss}
        line = {
            "loss": losses.pop("total"),
            "gradient_norm": stats.gradient_norm,
            # A journal counts steps done, a schedule from 0.
            "lr": learning_rate(config, stats.step - 1),
            "weight_decay": weight_decay(config, stats.step - 1),
            "memory_gib": memory_gib(self.engine.device),
        }
        if config.objective.has_target:
            line["momentum"] = momentum(config, stats.step - 1)
        speed["records_per_second"] *= self.engine.world_size
        return line | losses | speed

    def _mean_loss(self, name: str) -> float:
        """Return the mean of a part of the loss since the last line."""
        values = [loss[name] for loss in self.losses if name in loss]
        return sum(values) / len(values)

    def measure(self, step: int, model: Objective) -> Evaluation:
        """Measure the gauges every ``gauge_every`` steps and score every ``probe_every``.

        Both are also done before the first step and after the last; the gauges also where the score is the best so far,
        for the card of those weights. All processes have to call this.
        """
        gauges, scores = self._due(step)
        if not gauges and not scores:
            return Evaluation()
        # Called by all, before the first one measures alone: gathering spread weights waits for everybody.
        usable = gather_model(model, self.config, self.engine)
        with self.engine.measuring():
            if scores:
                self.scores.append([step, self.engine.on_first(lambda: self._score(step, usable))])
            is_best = scores and self.best_step == step
            gauges = gauges or (is_best and self.config.watch.gauge_every > 0)
            reason = self.engine.on_first(lambda: self._gauge(step, usable)) if gauges else None
        return Evaluation(reason, is_best)

    def is_measuring(self, step: int) -> bool:
        """Return whether :meth:`measure` has anything to do after a step."""
        return any(self._due(step))

    def _due(self, step: int) -> tuple[bool, bool]:
        """Return whether gauges and whether scores are due."""
        watch = self.config.watch
        scores = self.probe is not None and self._is_due(step, watch.probe_every)
        return self._is_due(step, watch.gauge_every), scores

    def _is_due(self, step: int, every: int) -> bool:
        return every > 0 and (step % every == 0 or step == self.config.run.steps)

    def _gauge(self, step: int, model: Objective | None) -> str | None:
        """Measure the model on the fixed batch; say why it has collapsed, if it has."""
        assert model is not None
        measured = self._gauges.measure(model, *self._fixed_batch(), self._exported(model), self.config.pooling)
        self._tell(lambda callback: callback.gauge(step, dict(measured)))
        measured.pop("target_change", None)  # since the last measurement, of which a resumed run knows nothing
        self.gauged.append({"step": step, **measured})
        reason = collapse_reason(self.gauged)
        if reason is not None:
            self.note(step, "collapse", f"Warning: the run is collapsing: {reason}.")
        return reason

    def _score(self, step: int, model: Objective | None) -> float:
        """Score what would be exported: that encoder, its first blocks, pooled as the weights will be."""
        assert model is not None
        assert self.probe is not None
        begun = time.perf_counter()
        scores = self.probe.score(self._exported(model), self.config.input, self.config.pooling)
        scores |= {"probe_seconds": time.perf_counter() - begun}
        self._tell(lambda callback: callback.probe(step, scores))
        return scores["probe"]

    def _exported(self, model: Objective) -> Encoder:
        """Return the encoder that would be exported now."""
        is_context = self.config.export_encoder == "context"
        trained = model.context_encoder if is_context else model.target_encoder
        return exported_encoder(trained.state_dict(), self.config).to(self.engine.device)

    def _fixed_batch(self) -> tuple[Tensor, Drawn]:
        """Return the batch that gauges measure on: that of a step which no run reaches, however it is lengthened."""
        if self._fixed is None:
            # Whole windows, whatever lengths are trained with: they are what the encoder is exported for.
            whole = replace(self.config, data=replace(self.config.data, window_seconds=()))
            fixed = draw_training_batch(whole, self.shards, _FIXED_STEP, range(_FIXED_RECORDS), self.tables)
            values = to_values(fixed.batch, whole, self.engine.device)
            self._fixed = values, fixed.drawn.to(self.engine.device)
        return self._fixed


def pace(
    n_records: int, seconds: float, flops_of_record: float, device: torch.device, precision: str = "fp32"
) -> dict[str, float]:
    """Compute how fast a process trains.

    Parameters
    ----------
    n_records : int
        That this process trained on in so many `seconds`.
    seconds : float
    flops_of_record : float
        Of :meth:`pretraining.objectives.base.Objective.flops`.
    device : torch.device
    precision : {"fp32", "bf16"}

    Returns
    -------
    dict of str to float
        ``records_per_second``, ``model_tflops`` (10¹² a second) and, for known accelerators, ``peak_share``.
    """
    records_per_second = n_records / max(seconds, 1e-9)
    flops = records_per_second * flops_of_record
    found = {"records_per_second": records_per_second, "model_tflops": flops / 1e12}
    peak = peak_flops(device, precision)
    return found if peak is None else found | {"peak_share": flops / peak}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the dense peak of a known accelerator in bfloat16; None for anything else."""
    # Peaks of float32 depend on whether TF32 rounds, those of CPUs on their clock: no share rather than a wrong one.
    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _BF16_PEAKS.items() if re.search(rf"\b{part}\b", name)), None)
