"""The training loop: draw, mask, predict, compare, step, average."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pretraining.config import PretrainConfig
from pretraining.config.parts import MASK_LAW
from pretraining.data.batches import check_shards, to_values
from pretraining.distributed import Readback, load_optimizer_, open_engine, whole, whole_tensor
from pretraining.loader import BatchLoader, TrainingBatch
from pretraining.monitoring.callbacks import Callback, TensorBoard, new_callbacks
from pretraining.monitoring.journal import ASKED, Journal
from pretraining.monitoring.monitor import Monitor, StepStats
from pretraining.objectives import build_model, objective_class
from pretraining.objectives.stochastic_depth import StochasticDepth
from pretraining.optim import build_optimizer, momentum, schedule_trouble, set_schedule_, skip_unless_finite_
from pretraining.runs import (
    as_configured,
    check_same_run,
    checkpoints_of,
    latest,
    load_checkpoint,
    mark_best,
    open_run_folder,
    save_checkpoint,
    what_changed,
    write_json,
)
from pretraining.safeguards import NonFiniteLossError, StopRequest, check_finite
from skecg.cli.console import say
from skecg.errors import ParameterError
from skecg.io.files import alone_in

if TYPE_CHECKING:
    from pretraining.data.shards import ShardSet
    from pretraining.monitoring.online_probe import OnlineProbe
    from skecg.encoders import Encoder

__all__ = ["Collapse", "Trainer"]

_BEGINNING: dict[str, Any] = {"step": 0, "last_loss": None, "gauges": [], "losses": [], "probe": {"history": []}}


class Collapse(SystemExit):
    """The run collapsed and ``watch.stop_on_collapse`` is set; a process ends with code 3."""

    def __init__(self) -> None:
        super().__init__(3)


@dataclass
class _Launched:
    """A step that the device was told to take, and its numbers, by process, once they are read."""

    step: int
    sent: Readback
    begun: float
    flops: float
    values: list[list[float]] | None = None


class Trainer:
    """A run: begun or found again when made, it goes on to its end, or until it is stopped, with :meth:`train`.

    Parameters
    ----------
    config : PretrainConfig
    shards : ShardSet
    out : path-like
        The run's folder, on a file system that all processes see.
    resume : bool, default=False
        Go on from the newest checkpoint there, or begin if there is none yet. Configuration and data have to be the
        same, but for ``watch`` and for ``run.steps``, which may grow; the number of processes need not.
    probe : OnlineProbe, optional
        Scores the encoder that is exported every ``watch.probe_every`` steps; the best checkpoint is ``best.pt``, too.
    device : str or torch.device, optional
        The best one of this machine when not given.
    callbacks : sequence of Callback
        Who hears of the run beside the journal, TensorBoard and those that plug-ins have registered.
    start : Encoder, optional
        What a run begins from whose configuration names it (:meth:`PretrainConfig.starting_from`).

    Raises
    ------
    ParameterError
        When the folder is not empty and `resume` is not set, another run is under way in it, the batch cannot be split
        evenly, or the shards are not for this encoder.
    CheckpointError
        When the checkpoint is damaged, or of another configuration or other data.

    Notes
    -----
    What is drawn for a step does not depend on the number of processes or of parts (``run.accumulation``) that it is
    taken in. Nor does its loss, but for what compares recordings with each other: target normalization "centre" and
    SIGReg see those that one process takes at once, Beat-SSL those that all processes take at once.
    """

    def __init__(
        self,
        config: PretrainConfig,
        shards: ShardSet,
        out: str | Path,
        *,
        resume: bool = False,
        probe: OnlineProbe | None = None,
        device: str | torch.device | None = None,
        callbacks: Sequence[Callback] = (),
        start: Encoder | None = None,
    ) -> None:
        self.config, self.shards, self.out = config, shards, Path(out)
        self.engine = open_engine(config.run, device)
        # By one process while the others wait: it alone reads all the files.
        self.engine.on_first(lambda: check_shards(shards, config))
        resume_step = self.engine.on_first(lambda: open_run_folder(self.out, config, shards, resume=resume))
        self.resumed = None if resume_step is None else load_checkpoint(checkpoints_of(self.out), resume_step)
        state = self.resumed or _BEGINNING
        if self.resumed is not None:
            check_same_run(state, config, shards)
        else:
            self._announce_trouble()
        self.tables = self._tabulate()
        if self.resumed is None:
            self.model = build_model(config)
            self._start_from(start)
        else:
            # A resumed run has its weights in the checkpoint; those it began from may be gone.
            with as_configured(self.out, state["step"]):
                self.model = build_model(config, state["model"])
        # Weights are drawn on the CPU, so that a seed gives the same ones on every device.
        self.model.to(self.engine.device)
        self.depth = StochasticDepth(self.model.deep_parts(), config.data.drop_path, config.run.seed)
        self.called = self.engine.distribute(self.model)
        # After the model was wrapped: sharding puts other parameters in the place of those before.
        self.optimizer = build_optimizer(self.model, config)
        if self.resumed is not None:
            with as_configured(self.out, state["step"]):
                load_optimizer_(self.optimizer, state["optimizer"])
            # Empty where losses were not scaled: with another precision than before they may be now.
            if scaler := state["optimizer"].get("scaler"):
                self.engine.scaler.load_state_dict(scaler)
        self.step: int = state["step"]
        self.last_loss: float | None = state["last_loss"]
        self._late: _Launched | None = None
        self._settled = 0.0
        # Scores of other records or other labels are not to be compared.
        was_asked = {name: state["probe"][name] for name in ASKED if name in state["probe"]}
        is_asked = {name: getattr(probe, name) for name in ASKED if hasattr(probe, name)}
        self.asked: dict[str, str] = was_asked if probe is None else is_asked
        keys = {asked["key"] for asked in (was_asked, self.asked) if "key" in asked}
        gauged, scores = [*state["gauges"]], [] if len(keys) > 1 else [*state["probe"]["history"]]
        self.monitor = Monitor(config, shards, self.engine, None, probe, gauged, scores, self.tables)
        self.monitor.losses = [*state["losses"]]
        self.monitor.callbacks = [TensorBoard(), *new_callbacks(), *callbacks] if self.engine.is_first else []

    def train(self) -> None:
        """Train to the last step, or until SIGTERM or SIGINT, after which everything is saved.

        Raises
        ------
        ParameterError
            When another trainer is at work in the run's folder, or was since this one was made.
        NonFiniteLossError
            When a loss or gradient is infinite or NaN; the step is not taken.
        Collapse
            When the run has collapsed and ``watch.stop_on_collapse`` is set; everything is saved before.
        """
        device = self.engine.device if self.engine.device.type == "cuda" else None
        loading = BatchLoader(self.config, self.shards, self.engine.positions(), self.tables, device=device)
        with self.engine, contextlib.ExitStack() as held, StopRequest() as stop, loading as loader:
            self.engine.on_first(lambda: self._take_folder(held))
            try:
                self._begin()
                self._loop(stop, loader)
            finally:
                self.monitor.end(self.step)

    def _take_folder(self, held: contextlib.ExitStack) -> None:
        """Keep other trainers out of the run's folder; raise if one is at work there, or was since this was made."""
        held.enter_context(alone_in(self.out))
        newest = latest(checkpoints_of(self.out)) or 0
        if newest > self.step:
            raise ParameterError(
                f"Got {str(self.out)!r}, where another trainer came to step {newest} since this one was made, at step "
                f"{self.step}. Make it again, to resume from there."
            )
        if self.resumed is not None:
            write_json(self.out / "config.json", self.config.to_dict())

    def _start_from(self, encoder: Encoder | None) -> None:
        """Begin with weights that the configuration names, if it does."""
        frozen = self.config.optim.frozen_blocks
        if frozen and not self.config.start:
            raise ParameterError(
                f"Got optim.frozen_blocks={frozen} and random weights, expected to begin from trained ones: --from, or "
                "optim.frozen_blocks=0."
            )
        if not self.config.start:
            return
        if encoder is None:
            raise ParameterError(f"Got a run that begins from {self.config.start}, expected those weights: --from.")
        self.model.start_from_(encoder)

    def _announce_trouble(self) -> None:
        """Report before anything is computed what is odd about the schedules."""
        trouble = schedule_trouble(self.config)
        if trouble is not None and self.engine.is_first:
            say(f"warning: {trouble}")

    def _tabulate(self) -> Any:
        """Work out what the objective asks of the records; the first process does, and all read what it wrote."""
        objective = objective_class(self.config)
        self.engine.on_first(lambda: objective.write_tables(self.config, self.shards))
        return objective.read_tables(self.config, self.shards)

    def _begin(self) -> None:
        """Open the journal, note how the run begins, and measure what is not trained yet."""
        resumed = self.resumed
        text = f"{self.config.name} on {self.shards.n_records} records, {self.engine.describe()}"
        if resumed is None:
            event, more = "start", [trouble] if (trouble := schedule_trouble(self.config)) else []
        else:
            event, more = "resume", what_changed(resumed, self.config, self.engine.world_size)
        if self.engine.is_first:
            at = None if resumed is None else self.step  # a run killed before its first checkpoint is written anew
            journal = Journal(self.out, total_steps=self.config.run.steps, resume_step=at, asked=self.asked)
            self.monitor.begin(journal, self.out, self.step)
        self.monitor.note(self.step, event, "; ".join([text, *more]))
        # Step 0 is the untrained encoder's score, which training has to beat.
        if resumed is None and self.monitor.measure(0, self.model).is_best:
            self._save(is_best=True)

    def _loop(self, stop: StopRequest, loader: BatchLoader) -> None:
        while self.step < self.config.run.steps:
            known = [self._take_step(stop, loader)]
            is_asked = known[0] is not None and known[0].stopping
            # What is written down must not depend on a step that may yet prove not finite.
            if self._late and (is_asked or self._is_checkpoint_due() or self.monitor.is_measuring(self.step)):
                known.append(self._settle(self._late))
            for stats in filter(None, known):
                self.monitor.note_step(stats)
            stopping = any(stats.stopping for stats in filter(None, known))
            evaluation = self.monitor.measure(self.step, self.model)
            ends_early = stopping or (evaluation.collapse and self.config.watch.stop_on_collapse)
            if ends_early or evaluation.is_best or self._is_checkpoint_due():
                self._save(is_best=evaluation.is_best)
            if stopping and self.step < self.config.run.steps:
                return self.monitor.note(
                    self.step, "stop", "stopped as asked; everything is saved, go on with --resume"
                )
            if ends_early and not stopping:
                self.monitor.note(self.step, "stop", "stopped for the collapse, as watch.stop_on_collapse asks")
                raise Collapse
        return self.monitor.note(self.step, "end", f"{self.step} steps of {self.config.run.batch_size} records")

    def _take_step(self, stop: StopRequest, loader: BatchLoader) -> StepStats | None:
        """Take one optimizer step; return what is known of it, or of the one before where numbers are read late."""
        begun, config, step = time.perf_counter(), self.config, self.step
        set_schedule_(self.optimizer, config, step)
        if config.ema.before_step:
            self.model.update_target_(momentum(config, step))
        losses, flops = [], 0.0
        for number, batch in enumerate(loader.batches(step), start=1):
            losses.append(self._learn_from(batch, is_last=number == config.run.accumulation))
            flops += self.model.flops(batch.config, batch.drawn) / config.run.accumulation
        # Before clipping: the limit is for true gradients.
        self.engine.scaler.unscale_(self.optimizer)
        norm = clip_gradients_(self.model, config.optim.gradient_clip)
        # One transfer for losses, norm and the wish to stop: each reading of a number waits for the device.
        mean = torch.stack(losses).mean(dim=0)
        sent = self.engine.send(torch.cat([mean, norm[None], norm.new_tensor([float(bool(stop))])]))
        launched, before = _Launched(step, sent, begun, flops), self._late
        if self.engine.reads_late:
            # The host knows of this loss a step later; the device must not learn from it meanwhile.
            skip_unless_finite_(self.optimizer, sent.values_PV)
            self._late = launched
        else:
            launched.values = self._read(launched)
        self.engine.scaler.step(self.optimizer)
        self.engine.scaler.update()
        self.optimizer.zero_grad()
        if not config.ema.before_step:
            self.model.update_target_(momentum(config, step))
        self.step += 1
        if self.engine.reads_late:
            return None if before is None else self._settle(before)
        return self._settle(launched)

    def _read(self, launched: _Launched) -> list[list[float]]:
        """Read the numbers of a step, and stop if they are not finite."""
        by_process = launched.sent.read()
        # In float16 gradients may overflow: such a step is skipped, and the next loss scaled up by less.
        norm = 0.0 if self.engine.scaler.is_enabled() else by_process[0][-2]
        self._check_finite([values[0] for values in by_process], norm, launched.step)
        return by_process

    def _settle(self, launched: _Launched) -> StepStats:
        """Work out what is known of a step."""
        self._late = None if launched is self._late else self._late
        by_process = launched.values or self._read(launched)
        *parts, norm, asked = (sum(values) / len(by_process) for values in zip(*by_process, strict=True))
        self.last_loss = parts[0]
        # A step that is read late began before the one before it was done.
        begun, self._settled = max(launched.begun, self._settled), time.perf_counter()
        named = dict(zip(self.model.loss_names, parts, strict=True))
        noted = {name: named[name] for name in ("total", *self.model.noted())}
        return StepStats(launched.step + 1, noted, norm, self._settled - begun, launched.flops, asked > 0)

    def _learn_from(self, batch: TrainingBatch, *, is_last: bool) -> Tensor:
        """Add up the gradients of a batch; return its loss and the loss's parts."""
        if batch.upload is None:
            values, drawn = to_values(batch.batch, batch.config, self.engine.device), batch.drawn.to(self.engine.device)
        else:
            values, drawn = batch.upload.wait()
        with self.engine.joining(self.called, is_last=is_last):
            with self.depth.active(self.step, batch.positions), self.engine.computing():
                loss = self.called(values, drawn)
            # Divided here, so that the parts' gradients add up to the mean of the whole batch.
            self.engine.scaler.scale(loss.total / self.config.run.accumulation).backward()
        return torch.stack([value.detach().float() for value in loss])

    def _check_finite(self, losses: list[float], gradient_norm: float, step: int) -> None:
        """Stop before the step if something is not finite, leaving the reason in the journal."""
        run: dict[str, Any] = {"config": self.config, "shards": self.shards, "engine": self.engine}
        try:
            check_finite(losses, gradient_norm, step=step, last_loss=self.last_loss, **run)
        except NonFiniteLossError as error:
            self.monitor.note(step, "stop", str(error))
            raise

    def _is_checkpoint_due(self) -> bool:
        every = self.config.watch.checkpoint_every
        return self.step == self.config.run.steps or (every > 0 and self.step % every == 0)

    def _save(self, *, is_best: bool) -> None:
        """Write a checkpoint; all processes have to call this."""
        folder, watch = checkpoints_of(self.out), self.config.watch
        best = self.monitor.best_step
        # Parts of a sharded model are gathered by all processes, though one writes.
        state = self._state() if self.engine.is_first or self.engine.is_sharded else {}

        def write() -> None:
            kept = [] if best is None else [best]
            path = save_checkpoint(
                folder, state, self.step, keep_last=watch.keep_last, keep_every=watch.keep_every, protected=kept
            )
            if is_best:
                mark_best(folder, self.step)
            self.monitor.note_checkpoint(self.step, path, is_best)

        self.engine.on_first(write)

    def _state(self) -> dict[str, Any]:
        """Gather all that a run needs to go on as if it had not been interrupted."""
        return {
            "model": whole(self.model.state_dict()),
            "optimizer": whole(self.optimizer.state_dict()) | {"scaler": self.engine.scaler.state_dict()},
            "step": self.step,
            "config": self.config.to_dict(),
            "fingerprint": self.shards.fingerprint,
            "probe": {"history": self.monitor.scores, "best_step": self.monitor.best_step} | self.asked,
            "gauges": self.monitor.gauged,
            "losses": self.monitor.losses,
            "last_loss": self.last_loss,
            "torch": str(torch.__version__),
            "world_size": self.engine.world_size,
            "mask_law": MASK_LAW,
        }


def clip_gradients_(model: nn.Module, largest: float) -> Tensor:
    """Scale gradients down to a norm of at most `largest` (0 for any) and give the norm that they had."""
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    # With no limit, too: the norm is what the journal shows.
    return whole_tensor(torch.nn.utils.clip_grad_norm_(trained, largest or float("inf")))
