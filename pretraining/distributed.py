"""Where a step runs: device, precision, compilation, and the processes that share its batch.

Several processes are started by ``torchrun``; each reads its place from the environment. The engine is all that knows
of them: the loop calls it and reads the same with one process and with many. Weights may be sharded over the processes
(FSDP2); checkpoints hold whole tensors, so that a run may go on with another number of processes, sharded or not.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import itertools
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from pretraining.config import RunConfig
from skecg.compute.devices import resolve_device
from skecg.encoders.blocks import Block
from skecg.errors import MissingDependencyError, ParameterError, SkecgError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

__all__ = [
    "Engine",
    "Readback",
    "gather_rows",
    "collect_garbage",
    "load_optimizer_",
    "recompute_",
    "open_engine",
    "resolve_training_precision",
    "shard_",
    "whole",
    "whole_tensor",
]

T = TypeVar("T")

_BACKENDS = {"cuda": "nccl", "cpu": "gloo"}

_PLACES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))

_N_OPENED = itertools.count()

# The first process may take as long as it takes to describe an archive.
_FOR_EVER = timedelta(days=365)


def shard_(model: nn.Module, device: torch.device, world_size: int) -> nn.Module:
    """Spread a model's weights over the processes, each transformer block by itself."""
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise MissingDependencyError(
            f"Got run.parallel='fsdp2' with torch {torch.__version__}, expected 2.6 or newer. Use run.parallel=ddp."
        ) from error
    mesh = init_device_mesh(device.type, (world_size,))
    # Blocks first, then what is left: each is gathered when its turn comes and freed after it.
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def recompute_(block: Block) -> None:
    """Let a block keep its input only, and compute the rest again when gradients need it (Chen et al., 2016).

    What stochastic depth leaves out is the same the second time, though that comes after its pass has ended.
    """
    forward, branches = block.forward, [block.attn, block.mlp]

    def again(x: Tensor, kept: list[Tensor | None], *args: Any) -> Tensor:
        now = [getattr(branch, "kept_R", None) for branch in branches]
        lay_beside(kept)
        try:
            return forward(x, *args)
        finally:
            lay_beside(now)

    def lay_beside(kept: list[Tensor | None]) -> None:
        for branch, kept_R in zip(branches, kept, strict=True):
            branch.kept_R = kept_R  # type: ignore[assignment]

    def checkpointed(x: Tensor, *args: Any) -> Tensor:
        # Nothing to save where no gradient is asked for: the target encoder, gauges, the probe.
        if not torch.is_grad_enabled():
            return forward(x, *args)
        # As of the forward pass: by the time of the backward pass the next step may have drawn others.
        kept = [getattr(branch, "kept_R", None) for branch in branches]
        found: Tensor = checkpoint(again, x, kept, *args, use_reentrant=False, preserve_rng_state=False)
        return found

    block.forward = checkpointed  # type: ignore[method-assign,assignment]


def whole(tree: Any) -> Any:
    """Copy nested dicts and lists with tensors whole and on the CPU; all processes have to call this."""
    if isinstance(tree, dict):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [whole(value) for value in tree]
    return whole_tensor(tree).cpu().clone() if isinstance(tree, Tensor) else tree


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor's values, gathered from all processes where it is spread over them."""
    gather = getattr(tensor, "full_tensor", None)
    return (tensor if gather is None else gather()).detach()


def load_optimizer_(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a whole state into an optimizer whose weights may be sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread = {
        number: {name: _as_spread(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": spread})


def _as_spread(value: Any, parameter: Tensor) -> Any:
    """Spread a tensor as the parameter that it belongs to is; counts stay as they are."""
    if not hasattr(parameter, "device_mesh") or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]


def open_engine(run: RunConfig, device: str | torch.device | None = None) -> Engine:
    """Open this process's engine: its device, its rank, and the group of processes if there are several.

    Parameters
    ----------
    run : RunConfig
    device : str or torch.device, optional
        The best one of this machine when not given; with several processes each takes its own of that kind.

    Raises
    ------
    ParameterError
        When the batch cannot be split evenly, or there are more processes than devices.
    """
    rank, world_size, local_rank = (int(os.environ.get(n, d)) for n, d in _PLACES)
    found = resolve_device("auto" if device is None else device)
    check_even_split(run, world_size)
    store = None
    if world_size > 1:
        found = _own_device(found, local_rank)
        store = None if dist.is_initialized() else _meet(run)
    precision = resolve_training_precision(run.precision, found)
    if precision == "fp16" and world_size > 1 and run.parallel == "fsdp2":
        raise ParameterError(
            "Got float16 with run.parallel='fsdp2', expected run.parallel='ddp' or run.precision='fp32'."
        )
    if run.tf32 and found.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return Engine(found, precision, run, rank, world_size, store)


def _meet(run: RunConfig) -> Store:
    """Find the other processes, by way of a store of keys; :meth:`Engine.distribute` opens their group later."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=timedelta(minutes=run.timeout_minutes)))
    # A prefix of its own: trainers in one process, one after the other, must not read each other's keys.
    return dist.PrefixStore(f"pretraining/{next(_N_OPENED)}", store)  # type: ignore[attr-defined]


def check_even_split(run: RunConfig, world_size: int) -> None:
    """Check that processes and accumulated micro-batches have equally many records."""
    parts = world_size * run.accumulation
    if run.batch_size % parts:
        nearest = max(1, round(run.batch_size / parts)) * parts
        raise ParameterError(
            f"Got run.batch_size={run.batch_size} for {world_size} processes with run.accumulation={run.accumulation}, "
            f"expected a multiple of {parts}. Set run.batch_size={nearest}."
        )


def resolve_training_precision(precision: str, device: torch.device) -> str:
    """Return ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    ``"auto"`` is bfloat16 on accelerators that compute in it, float16 on other CUDA devices.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        # Emulated bfloat16 is slower than float32; float16 is what older devices are fast at.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "xpu" else "fp32"


def _own_device(device: torch.device, local_rank: int) -> torch.device:
    """Return the device of one of the processes of a machine."""
    if device.type not in _BACKENDS:
        raise ParameterError(f"Got several processes on {device.type!r}, expected 'cuda' or 'cpu'. Use one process.")
    if device.type == "cpu":
        return device
    if local_rank >= torch.cuda.device_count():
        raise ParameterError(
            f"Got process {local_rank} of this machine, expected fewer than its {torch.cuda.device_count()} devices. "
            "Start at most that many with --nproc-per-node."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@dataclass(frozen=True)
class Readback:
    """Values of each process on their way back from the device."""

    values_PV: Tensor
    arrived: torch.cuda.Event | None = None

    def read(self) -> list[list[float]]:
        """Wait for them, and for nothing that was asked of the device since."""
        if self.arrived is not None:
            self.arrived.synchronize()
        values: list[list[float]] = self.values_PV.tolist()
        return values


@dataclass(frozen=True)
class Engine:
    """One process's place in a run; see :func:`open_engine`.

    Parameters
    ----------
    device : torch.device
    precision : {"fp32", "bf16", "fp16"}
        Weights, gradients and losses are float32 in all; the others are for matrix products (autocast), and for what
        passes between blocks.
    run : RunConfig
    rank, world_size : int
        Which of how many processes this is.
    store : Store, optional
        By which processes meet before their group is opened; without it there is one process, or a group already.
    """

    device: torch.device
    precision: str
    run: RunConfig
    rank: int = 0
    world_size: int = 1
    store: Store | None = None
    _n_told: Iterator[int] = field(default_factory=itertools.count)

    @property
    def reads_late(self) -> bool:
        """Whether a step's numbers are read while the device computes the next one."""
        return self.device.type == "cuda"

    @cached_property
    def scaler(self) -> torch.amp.GradScaler:
        """What scales losses up in float16, so that small gradients do not vanish; it does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether weights are spread over the processes."""
        return self.world_size > 1 and self.run.parallel == "fsdp2"

    def describe(self) -> str:
        """Describe where a run takes place."""
        spread = f"{self.world_size} processes ({self.run.parallel})" if self.world_size > 1 else "one process"
        return f"{spread} on {self.device.type}, {self.precision}{', compiled' if self.run.compile else ''}"

    def positions(self, rank: int | None = None) -> list[range]:
        """Return the places, in the batch of a step, of the micro-batches of a process, by default of this one."""
        # Places in the global batch: what is drawn for a place does not depend on how many processes share it.
        size = self.run.batch_size // (self.world_size * self.run.accumulation)
        first = (self.rank if rank is None else rank) * self.run.accumulation
        return [range(n * size, (n + 1) * size) for n in range(first, first + self.run.accumulation)]

    def distribute(self, model: nn.Module) -> nn.Module:
        """Wrap the model: compiled, and joined with those of the other processes, as the run says.

        The group of processes is opened here, not with the engine: what the first process alone does before, while all
        wait for it, may take longer than a group lets one wait.
        """
        if self.store is not None:
            dist.init_process_group(
                _BACKENDS[self.device.type],
                store=dist.PrefixStore("group", self.store),  # type: ignore[attr-defined]
                rank=self.rank,
                world_size=self.world_size,
                timeout=timedelta(minutes=self.run.timeout_minutes),
                device_id=self.device if self.device.type == "cuda" else None,
            )
        for block in (module for module in model.modules() if isinstance(module, Block)):
            if self.run.compile:
                # Block by block: they are alike, and one compilation serves them all.
                block.compile()
            if self.run.recompute:
                recompute_(block)
        if self.world_size == 1:
            return model
        if self.is_sharded:
            return shard_(model, self.device, self.world_size)
        ddp: Any = nn.parallel.DistributedDataParallel
        devices = [self.device] if self.device.type == "cuda" else None
        # Buffers are tables of positions, the same everywhere; how to say so changed its name with torch 2.13.
        renamed = "forward_sync_buffers" in inspect.signature(ddp).parameters
        keep = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        joined: nn.Module = ddp(model, device_ids=devices, gradient_as_bucket_view=True, **keep)
        return joined

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Run forward passes in the precision asked for."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32"):
            yield

    def joining(self, called: nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[object]:
        """Sum gradients over processes with the last of a step's micro-batches only."""
        if self.is_sharded:
            called.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        elif self.world_size > 1 and not is_last:
            return called.no_sync()  # type: ignore[operator]
        return contextlib.nullcontext()

    def measuring(self) -> contextlib.AbstractContextManager[object]:
        """Run passes that are no training without compiling them: each shape would take one of the few compilations."""
        eager = self.run.compile and hasattr(torch.compiler, "set_stance")
        return torch.compiler.set_stance("force_eager") if eager else contextlib.nullcontext()

    def send(self, values: Tensor) -> Readback:
        """Send for the values (n,) of each process, by rank, without waiting for the device."""
        gathered = [values]
        if self.world_size > 1:
            gathered = [torch.empty_like(values) for _ in range(self.world_size)]
            dist.all_gather(gathered, values)
        stacked = torch.stack(gathered)
        if stacked.device.type != "cuda":
            return Readback(stacked)
        # Only from page-locked memory does a copy run beside the device's work.
        host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
        host.copy_(stacked, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return Readback(host, arrived)

    def on_first(self, function: Callable[[], T]) -> T:
        """Call something on the first process; all wait for it and get its result, or its error."""
        # Result and error, for an error on one process would leave the others waiting for ever.
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = function()
            # What users can mend is told to all; anything else is a bug, and ends this process with its traceback.
            except (SkecgError, OSError) as error:
                outcome[1] = error
        if self.store is not None:
            outcome = self._tell(self.store, outcome)
        elif self.world_size > 1:
            dist.broadcast_object_list(outcome, src=0, device=self.device)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _tell(self, store: Store, outcome: list[Any]) -> list[Any]:
        """Pass what the first process got on to the others, which wait for it as long as it takes."""
        key = f"told/{next(self._n_told)}"
        if self.is_first:
            store.set(key, pickle.dumps(outcome))  # type: ignore[arg-type]
            return outcome
        store.wait([key], _FOR_EVER)
        # A pickle of our own first process, by way of torchrun's store: nothing from a file.
        told: list[Any] = pickle.loads(store.get(key))
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.store is not None and dist.is_initialized():
            dist.destroy_process_group()


def collect_garbage() -> None:
    """Collect garbage, and with it the threads of a group of processes that is closed.

    Models and their hooks hold the group in cycles. Where it lives on to the end of Python, a thread of it that still
    frees a tensor there brings the process down with SIGABRT, after everything was done well.
    """
    gc.collect()


def gather_rows(rows: Tensor) -> Tensor:
    """Gather the rows of all processes, rank after rank; all have to call this, with equally many.

    Parameters
    ----------
    rows : Tensor of shape (B, ...)
        This process's.

    Returns
    -------
    Tensor of shape (world size times B, ...)
        What was given where there is one process only.

    Notes
    -----
    A loss that every process computes alike from these rows has, after gradients were averaged over processes, the
    gradient that one process with all rows would have.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    """Backward, each process takes the gradient of its own rows, for the others take that of theirs."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.own = slice(dist.get_rank() * len(rows), (dist.get_rank() + 1) * len(rows))
        # Not all back ends send truth values.
        sent = (rows.to(torch.uint8) if rows.dtype == torch.bool else rows).contiguous()
        parts = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, sent)
        return torch.cat(parts).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # The average over processes divides by their number what only one of them has added.
        return gradients[0][ctx.own] * dist.get_world_size()
