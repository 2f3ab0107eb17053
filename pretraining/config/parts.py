"""The parts of a run's configuration, but for its objective: each a frozen value with checked fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from skecg.encoders.plugins import load_installed_plugins, needed_plugin
from skecg.errors import ParameterError, UnregisteredError
from skecg.validation import PlainFields, check_choice, check_integer, check_number, is_integer, is_number, suggestion

__all__ = [
    "DataConfig",
    "EmaConfig",
    "MASK_KINDS",
    "MASK_LAW",
    "MaskConfig",
    "OptimConfig",
    "PredictorConfig",
    "RunConfig",
    "WatchConfig",
    "check_kinds",
    "require",
]

#: How masks follow from (seed, step, position). Checkpoints name it; it is raised when the same key gives other masks.
#: By law 1 those of "blocks" were drawn record by record.
MASK_LAW = 2

#: How masks of slices may be drawn, and the module that does; plug-ins add to it
#: (:func:`pretraining.objectives.masks.register_mask`).
MASK_KINDS = dict.fromkeys(("random", "multiblock", "blocks", "crop"), "pretraining")


def require(condition: bool, where: str, value: object, wanted: str) -> None:
    """Raise for a value that is not what it has to be."""
    if not condition:
        raise ParameterError(f"Got {where}={value!r}, expected {wanted}.")


def _are_numbers(values: Any) -> bool:
    return isinstance(values, tuple | list) and all(map(is_number, values))


# What a value of each declared type is; fields of other types are checked by themselves.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int": (is_integer, "a whole number"),
    "float": (is_number, "a finite number"),
    "int | float": (is_number, "a finite number"),
    "str": (lambda value: isinstance(value, str), "text"),
    "tuple[float, float]": (lambda value: _are_numbers(value) and len(value) == 2, "two numbers, both finite"),
    "tuple[float, ...]": (_are_numbers, "finite numbers"),
    "dict[str, float]": (
        lambda value: isinstance(value, Mapping) and _are_numbers(list(value.values())),
        'finite numbers by name, such as {"mine": 0.8}',
    ),
}


def check_kinds(part: str, value: Any) -> None:
    """Check that the fields of a part hold what they are declared to, whoever wrote them: a file, or a command line."""
    for each in fields(value):
        if str(each.type) in _KINDS:
            is_one, wanted = _KINDS[str(each.type)]
            found = getattr(value, each.name)
            require(is_one(found), f"{part}{each.name}", found, wanted)


@dataclass(frozen=True)
class PredictorConfig(PlainFields):
    """Shape of the predictor."""

    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        check_kinds("predictor.", self)
        for name in ("dim", "depth", "num_heads"):
            check_integer(f"predictor.{name}", getattr(self, name), 1)
        check_number("predictor.mlp_ratio", self.mlp_ratio, 0, closed="left")
        require(self.dim % 2 == 0, "predictor.dim", self.dim, "an even number, for positions are sines and cosines")
        require(self.dim % self.num_heads == 0, "predictor.dim", self.dim, "a multiple of num_heads")


@dataclass(frozen=True)
class MaskConfig(PlainFields):
    """Which slices of time the context sees.

    Parameters
    ----------
    kind : {"random", "multiblock", "blocks", "crop"} or str
        Kim's single random slices or several overlapping blocks, one draw for the whole batch; Weimann and Conrad's
        contiguous blocks, drawn for each record, their total shared by the batch; all but one stretch, drawn for each
        record, its length shared by the batch; or that of a plug-in.
    low, high : float
        Range that a ratio is drawn from: of slices masked ("random"), of one block's length ("multiblock"), of slices
        kept ("blocks", "crop").
    n_blocks : int
        Blocks of "multiblock".
    last_slice : bool
        Whether a block of "multiblock" may reach the last slice. The published code never masks it (off by one).
    min_block : int
        Shortest block of "blocks".
    masks_per_target : int
        Masks of the same record that one pass of the target encoder serves.
    lead_dropout : float
        Probability that a mask also hides a random subset of a record's leads from the context, each mask another one;
        the target sees them all. For encoders that take any leads.
    """

    kind: str
    low: float
    high: float
    n_blocks: int = 4
    last_slice: bool = True  # False in Kim's recipes, for parity
    min_block: int = 10
    masks_per_target: int = 1
    lead_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_kinds("masks.", self)
        # Plug-ins are imported where one is asked for, so that nobody else pays for them or fails by them.
        if self.kind not in MASK_KINDS:
            load_installed_plugins()
        if self.kind not in MASK_KINDS:
            known = ", ".join(map(repr, MASK_KINDS))
            hint = f"{suggestion(self.kind, MASK_KINDS)}{needed_plugin()}"
            raise UnregisteredError(f"Got masks.kind={self.kind!r}, expected one of {known}.{hint}")
        require(0 < self.low <= self.high < 1, "masks.low, high", (self.low, self.high), "0 < low <= high < 1")
        for name in ("n_blocks", "min_block", "masks_per_target"):
            check_integer(f"masks.{name}", getattr(self, name), 1)
        check_number("masks.lead_dropout", self.lead_dropout, 0, 1, closed="left")


@dataclass(frozen=True)
class OptimConfig(PlainFields):
    """AdamW and its schedules.

    Parameters
    ----------
    lr, warmup_lr, final_lr : float
        Peak of the learning rate, where warm-up begins, where the cosine ends.
    warmup_steps : int or float
        Below 1 a share of the run's steps.
    schedule : {"cosine", "constant"}
        After warm-up a cosine to the end of the run; or the peak, held until the cooldown. Where it is held, weight
        decay and the target's momentum stay at their beginnings as long, so that a run does not depend on its length
        before its cooldown, and may be lengthened.
    cooldown_steps : int or float
        Of a constant rate: the last steps, in which all goes to its end in a straight line. Below 1 a share of the run.
    cosine_from : {"warmup", "zero"}
        Whether the cosine begins at its top when warm-up ends (Weimann), or is read at the absolute step (Kim), so that
        the rate drops a little there.
    weight_decay, final_weight_decay : float
        Ends of a cosine over the run; equal for a constant.
    betas : tuple of float
    eps : float
    gradient_clip : float
        Largest norm of the gradient; 0 for none.
    layer_decay : float
        What each block's rate is multiplied by for every block above it, and the embedding's for all; for encoders that
        begin from weights.
    frozen_blocks : int
        So many of the encoder's first blocks, and the embedding below them, are left as they are; 0 for none.
    """

    lr: float
    warmup_lr: float = 1e-6  # both published systems begin and end at 1e-6
    final_lr: float = 1e-6
    warmup_steps: int | float = 0
    schedule: str = "cosine"
    cooldown_steps: int | float = 0
    cosine_from: str = "warmup"
    weight_decay: float = 0.05
    final_weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    gradient_clip: float = 0.0
    layer_decay: float = 1.0
    frozen_blocks: int = 0

    def __post_init__(self) -> None:
        check_kinds("optim.", self)
        check_number("optim.lr", self.lr, 0)
        for name in ("warmup_lr", "final_lr", "weight_decay", "final_weight_decay", "eps", "gradient_clip"):
            check_number(f"optim.{name}", getattr(self, name), 0, closed="left")
        fits = all(0 <= beta < 1 for beta in self.betas)
        require(fits, "optim.betas", self.betas, "two numbers from 0 to below 1")
        check_choice("optim.schedule", self.schedule, ("cosine", "constant"))
        for name in ("warmup_steps", "cooldown_steps"):
            value = getattr(self, name)
            # Not 1.0: nobody could tell one step from the whole run.
            fits = is_integer(value, 0) or 0 <= value < 1
            require(fits, f"optim.{name}", value, "a number of steps, or a share of them from 0 to below 1")
        held = self.schedule == "constant" or self.cooldown_steps == 0
        require(held, "optim.cooldown_steps", self.cooldown_steps, "0 with optim.schedule='cosine', which cools down")
        check_number("optim.layer_decay", self.layer_decay, 0, 1, closed="right")
        check_integer("optim.frozen_blocks", self.frozen_blocks, 0)
        check_choice("optim.cosine_from", self.cosine_from, ("warmup", "zero"))


@dataclass(frozen=True)
class EmaConfig(PlainFields):
    """The target encoder's momentum, linear over the run.

    `before_step` says whether the average is taken before the step's forward pass (Weimann) or after the optimizer's
    step (Kim).
    """

    start: float = 0.996
    end: float = 1.0
    before_step: bool = False

    def __post_init__(self) -> None:
        check_kinds("ema.", self)
        # 1 is allowed, as Kim's ends there: the target then stands still.
        require(0 <= self.start <= self.end <= 1, "ema.start, end", (self.start, self.end), "0 <= start <= end <= 1")


@dataclass(frozen=True)
class DataConfig(PlainFields):
    """How records become a batch.

    Parameters
    ----------
    weights : dict of str to float
        Share of each corpus in a batch; empty for shares by number of records.
    roll : bool
        Whether a record of exactly one window is rolled in time by a random number of samples.
    gain : tuple of float
        Range of a factor drawn for each record.
    lead_dropout : float
        Probability that a record is shown with a random subset of its leads, absent ones being zero.
    window_seconds : tuple of float
        Lengths that windows may have; those of a step have one of them, drawn for the step. Empty for the length of
        `input`, which is the longest.
    drop_path : float
        Probability of leaving out the last block's branches, falling linearly to 0 at the first, in both encoders and
        the predictor (Kim).
    """

    weights: dict[str, float] = field(default_factory=dict)
    roll: bool = False
    gain: tuple[float, float] = (1.0, 1.0)
    lead_dropout: float = 0.0
    window_seconds: tuple[float, ...] = ()
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_kinds("data.", self)
        require(all(w > 0 for w in self.weights.values()), "data.weights", self.weights, "positive shares")
        require(0 < self.gain[0] <= self.gain[1], "data.gain", self.gain, "two numbers, 0 < low <= high")
        for name in ("lead_dropout", "drop_path"):
            check_number(f"data.{name}", getattr(self, name), 0, 1, closed="left")


@dataclass(frozen=True)
class RunConfig(PlainFields):
    """How long, how much at once, on what.

    Parameters
    ----------
    steps : int
        Optimizer steps.
    batch_size : int
        Records of one optimizer step, over all processes and accumulation.
    accumulation : int
        Parts that a process's share of the batch is taken in, one after the other.
    precision : {"auto", "fp32", "bf16", "fp16"}
        bfloat16 autocast where asked, or float16 with losses scaled up; "auto" takes the first on accelerators that
        compute in it, the second on other CUDA devices.
    compile : bool
    parallel : {"ddp", "fsdp2"}
        Used when there are several processes.
    seed : int
    recompute : bool
        Whether blocks keep their input only and compute the rest again for the gradients: a quarter to a third more
        arithmetic for a fraction of the memory.
    tf32 : bool
        Whether CUDA may round what float32 products multiply to ten bits (TensorFloat-32).
    prefetch : int
        Batches drawn ahead of the step, each by a thread of its own.
    readers : int
        Threads that read the rows of a batch.
    timeout_minutes : float
        How long a process waits for the others, with several of them, before it gives up.
    """

    steps: int
    batch_size: int
    accumulation: int = 1
    precision: str = "auto"
    compile: bool = False
    parallel: str = "ddp"
    seed: int = 0
    recompute: bool = False
    tf32: bool = False
    prefetch: int = 2
    readers: int = 4
    timeout_minutes: float = 30.0

    def __post_init__(self) -> None:
        check_kinds("run.", self)
        for name in ("steps", "batch_size", "accumulation", "prefetch", "readers"):
            check_integer(f"run.{name}", getattr(self, name), 1)
        # PyTorch's generators take 64 bits.
        require(0 <= self.seed < 2**64, "run.seed", self.seed, "0 to below 2**64")
        check_choice("run.precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        check_choice("run.parallel", self.parallel, ("ddp", "fsdp2"))
        check_number("run.timeout_minutes", self.timeout_minutes, 0)
        wanted = "False with run.compile=True, which decides by itself what to compute again"
        require(not (self.recompute and self.compile), "run.recompute", True, wanted)


@dataclass(frozen=True)
class WatchConfig(PlainFields):
    """What is written down on the way, counted in optimizer steps; 0 for never."""

    log_every: int = 20
    gauge_every: int = 200
    probe_every: int = 0
    checkpoint_every: int = 500
    keep_last: int = 2
    keep_every: int = 0
    stop_on_collapse: bool = False

    def __post_init__(self) -> None:
        check_kinds("watch.", self)
        for name in ("log_every", "gauge_every", "probe_every", "checkpoint_every", "keep_last", "keep_every"):
            check_integer(f"watch.{name}", getattr(self, name), 0)
