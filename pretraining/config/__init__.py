"""PretrainConfig: everything that decides a run, as one frozen value.

It is written next to whatever it made, read back strictly, and changed by typed overrides (``optim.lr=5e-4``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from pretraining.config.base import Part, refuse_unknown, require
from pretraining.config.objectives import AnyObjectiveConfig, ObjectiveConfig, read_objective
from skecg.encoders import read_encoder_config
from skecg.errors import ParameterError
from skecg.spec import EncoderConfig, InputSpec

__all__ = [
    "DataConfig",
    "AnyObjectiveConfig",
    "EmaConfig",
    "MaskConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PredictorConfig",
    "PretrainConfig",
    "RunConfig",
    "WatchConfig",
]


@dataclass(frozen=True)
class PredictorConfig(Part):
    """Shape of the predictor."""

    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        require(self.dim > 0 and self.dim % self.num_heads == 0, "predictor.dim", self.dim, "a multiple of num_heads")
        require(self.depth > 0, "predictor.depth", self.depth, "a positive integer")


@dataclass(frozen=True)
class MaskConfig(Part):
    """Which slices of time the context sees.

    Parameters
    ----------
    kind : {"random", "multiblock", "blocks"}
        Kim's single random slices or several overlapping blocks, one draw for the whole batch; Weimann and Conrad's
        contiguous blocks, drawn for each record, their total shared by the batch.
    low, high : float
        Range that a ratio is drawn from: of slices masked ("random"), of one block's length ("multiblock"), of slices
        kept ("blocks").
    n_blocks : int
        Blocks of "multiblock".
    last_slice : bool
        Whether a block of "multiblock" may reach the last slice. The published code never masks it (off by one).
    min_block : int
        Shortest block of "blocks".
    masks_per_target : int
        Masks of the same record that one pass of the target encoder serves.
    """

    kind: str
    low: float
    high: float
    n_blocks: int = 4
    last_slice: bool = True
    min_block: int = 10
    masks_per_target: int = 1

    def __post_init__(self) -> None:
        kinds = ("random", "multiblock", "blocks")
        require(self.kind in kinds, "masks.kind", self.kind, f"one of {', '.join(map(repr, kinds))}")
        require(0 < self.low <= self.high < 1, "masks.low, high", (self.low, self.high), "0 < low <= high < 1")
        for name in ("n_blocks", "min_block", "masks_per_target"):
            require(getattr(self, name) >= 1, f"masks.{name}", getattr(self, name), "a positive integer")


@dataclass(frozen=True)
class OptimConfig(Part):
    """AdamW and its schedules.

    Parameters
    ----------
    lr, warmup_lr, final_lr : float
        Peak of the learning rate, where warm-up begins, where the cosine ends.
    warmup_steps : int
    cosine_from : {"warmup", "zero"}
        Whether the cosine begins at its top when warm-up ends (Weimann), or is read at the absolute step (Kim), so that
        the rate drops a little there.
    weight_decay, final_weight_decay : float
        Ends of a cosine over the run; equal for a constant.
    betas : tuple of float
    eps : float
    gradient_clip : float
        Largest norm of the gradient; 0 for none.
    """

    lr: float
    warmup_lr: float = 1e-6
    final_lr: float = 1e-6
    warmup_steps: int = 0
    cosine_from: str = "warmup"
    weight_decay: float = 0.05
    final_weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    gradient_clip: float = 0.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "a positive number")
        require(self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "0 or more")
        require(self.cosine_from in ("warmup", "zero"), "optim.cosine_from", self.cosine_from, "'warmup' or 'zero'")


@dataclass(frozen=True)
class EmaConfig(Part):
    """The target encoder's momentum, linear over the run.

    `before_step` says whether the average is taken before the step's forward pass (Weimann) or after the optimizer's
    step (Kim).
    """

    start: float = 0.996
    end: float = 1.0
    before_step: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.start <= self.end <= 1, "ema.start, end", (self.start, self.end), "0 <= start <= end <= 1")


@dataclass(frozen=True)
class DataConfig(Part):
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
    drop_path : float
        Probability of leaving out the last block's branches, falling linearly to 0 at the first, in both encoders and
        the predictor (Kim).
    """

    weights: dict[str, float] = field(default_factory=dict)
    roll: bool = False
    gain: tuple[float, float] = (1.0, 1.0)
    lead_dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        require(all(w > 0 for w in self.weights.values()), "data.weights", self.weights, "positive shares")
        require(0 < self.gain[0] <= self.gain[1], "data.gain", self.gain, "0 < low <= high")
        for name in ("lead_dropout", "drop_path"):
            require(0 <= getattr(self, name) < 1, f"data.{name}", getattr(self, name), "0 or more, below 1")


@dataclass(frozen=True)
class RunConfig(Part):
    """How long, how much at once, on what.

    Parameters
    ----------
    steps : int
        Optimizer steps.
    batch_size : int
        Records of one optimizer step, over all processes and accumulation.
    accumulation : int
        Parts that a process's share of the batch is taken in, one after the other.
    precision : {"auto", "fp32", "bf16"}
        bfloat16 autocast where asked; "auto" takes it on accelerators.
    compile : bool
    parallel : {"ddp", "fsdp2"}
        Used when there are several processes.
    seed : int
    """

    steps: int
    batch_size: int
    accumulation: int = 1
    precision: str = "auto"
    compile: bool = False
    parallel: str = "ddp"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation"):
            require(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "a positive integer")
        require(self.precision in ("auto", "fp32", "bf16"), "run.precision", self.precision, "auto, fp32 or bf16")
        require(self.parallel in ("ddp", "fsdp2"), "run.parallel", self.parallel, "'ddp' or 'fsdp2'")


@dataclass(frozen=True)
class WatchConfig(Part):
    """What is written down on the way, counted in optimizer steps; 0 for never."""

    log_every: int = 20
    gauge_every: int = 200
    probe_every: int = 0
    checkpoint_every: int = 500
    keep_last: int = 2
    keep_every: int = 0
    stop_on_collapse: bool = False


@dataclass(frozen=True)
class PretrainConfig:
    """A whole run.

    Parameters
    ----------
    name : str
        Of the recipe.
    input : InputSpec
        What the encoder is fed, in training and ever after.
    encoder : EncoderConfig
    objective : AnyObjectiveConfig
        What it is trained for, JEPA if not said.
    predictor : PredictorConfig or None
        Of JEPA; the shape of the decoder of masked autoencoders.
    masks : MaskConfig or None
        Of JEPA.
    optim : OptimConfig
    ema : EmaConfig
    data : DataConfig
    run : RunConfig
    watch : WatchConfig
    pooling : str
        What exported weights name as their pooling.
    export_encoder : {"target", "context"}
        Which of the two encoders is exported: the average, or the one that was trained. Objectives other than JEPA have
        only the latter.
    export_blocks : int
        How many of its blocks, from the first; 0 for all. The last blocks learn what the objective asks for, and
        features from before them can be the better ones.
    """

    name: str
    input: InputSpec
    encoder: EncoderConfig
    optim: OptimConfig
    run: RunConfig
    objective: AnyObjectiveConfig = field(default_factory=ObjectiveConfig)
    predictor: PredictorConfig | None = None
    masks: MaskConfig | None = None
    ema: EmaConfig = field(default_factory=EmaConfig)
    data: DataConfig = field(default_factory=DataConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    pooling: str = "mean"
    export_encoder: str = "target"
    export_blocks: int = 0

    def __post_init__(self) -> None:
        exported = ("target", "context")
        require(self.export_encoder in exported, "export_encoder", self.export_encoder, f"one of {exported}")
        depth = self.encoder.depth
        require(0 <= self.export_blocks <= depth, "export_blocks", self.export_blocks, f"0 to {depth}")
        same = (self.encoder.n_leads, self.encoder.window_samples) == (self.input.n_leads, self.input.window_samples)
        require(same, "encoder", self.encoder, f"{self.input.n_leads} leads of {self.input.window_samples} samples")
        if self.masks is not None and self.masks.kind == "blocks":
            fits = self.masks.min_block <= self.encoder.n_patches
            require(fits, "masks.min_block", self.masks.min_block, f"at most {self.encoder.n_patches}")
        self._check_objective()

    def _check_objective(self) -> None:
        """Refuse parts that are missing for the objective, or that it has no use for."""
        kind = self.objective.kind
        if isinstance(self.objective, ObjectiveConfig):
            require(self.predictor is not None, "predictor", None, "its shape, which JEPA needs")
            require(self.masks is not None, "masks", None, "how they are drawn, which JEPA needs")
            return
        require(self.export_encoder == "context", "export_encoder", self.export_encoder, f"'context' with {kind!r}")
        require(self.masks is None, "masks", self.masks, f"None with {kind!r}, whose masks are in its own part")
        require(self.data.drop_path == 0, "data.drop_path", self.data.drop_path, f"0 with {kind!r}")
        self.objective.check_run(self)

    @property
    def jepa(self) -> tuple[ObjectiveConfig, PredictorConfig, MaskConfig]:
        """The parts that only JEPA has."""
        assert isinstance(self.objective, ObjectiveConfig), "asked of another objective"
        assert self.predictor is not None, "checked at birth"
        assert self.masks is not None, "checked at birth"
        return self.objective, self.predictor, self.masks

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain JSON values."""
        found: dict[str, Any] = {"name": self.name, "architecture": self.encoder.architecture, "pooling": self.pooling}
        found |= {"export_encoder": self.export_encoder, "export_blocks": self.export_blocks}
        for part in fields(self):
            value = getattr(self, part.name)
            if hasattr(value, "to_dict"):
                found[part.name] = value.to_dict()
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read everything from plain values, strictly."""
        parts = dict(values)
        architecture = parts.pop("architecture")
        for key in parts:
            refuse_unknown(key, [f.name for f in fields(cls)], cls.__name__)
        parts["encoder"] = read_encoder_config(architecture, parts["encoder"])
        parts["input"] = InputSpec.from_dict(parts["input"])
        for name, kind in _PARTS.items():
            if name in parts:
                parts[name] = kind.from_dict(parts[name])
        if "objective" in parts:
            parts["objective"] = read_objective(parts["objective"])
        return cls(**parts)

    def override(self, assignments: Sequence[str]) -> Self:
        """Change single fields by ``part.field=value``, typed as the field is, refusing unknown names.

        All are changed at once, so fields that have to fit each other may be given in any order.
        """
        changed: dict[str, dict[str, Any]] = {}
        for assignment in assignments:
            name, separator, text = assignment.partition("=")
            part, dot, key = name.partition(".")
            if not separator or not dot:
                raise ParameterError(f"Got {assignment!r}, expected part.field=value, for example optim.lr=5e-4.")
            refuse_unknown(part, ["input", "encoder", "objective", *_PARTS], "the configuration")
            old = getattr(self, part)
            is_used = old is not None and (part != "ema" or isinstance(self.objective, ObjectiveConfig))
            if not is_used:
                raise ParameterError(
                    f"Got {assignment!r} for a run of {self.objective.kind!r}, which uses no {part!r}."
                )
            types = {f.name: str(f.type) for f in fields(old)}
            refuse_unknown(key, list(types), part)
            may_be_none = "None" in types[key] and text.lower() == "none"
            value = None if may_be_none else _typed(text, getattr(old, key), name)
            changed.setdefault(part, {})[key] = value
        parts = {part: dataclasses.replace(getattr(self, part), **values) for part, values in changed.items()}
        return dataclasses.replace(self, **parts)


_PARTS: dict[str, type[Part]] = {
    "predictor": PredictorConfig,
    "masks": MaskConfig,
    "optim": OptimConfig,
    "ema": EmaConfig,
    "data": DataConfig,
    "run": RunConfig,
    "watch": WatchConfig,
}


def _typed(text: str, old: Any, name: str) -> Any:
    """Read a value as the kind of thing it replaces."""
    import json

    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(old, int):
            return int(text)
        if isinstance(old, float):
            return float(text)
        if isinstance(old, tuple):
            return tuple(type(old[0])(part) if old else part for part in text.strip("()[]").split(","))
        if isinstance(old, dict):
            return dict(json.loads(text))
        if old is None:
            return json.loads(text)
    except (ValueError, KeyError) as error:
        raise ParameterError(f"Got {name}={text!r}, expected a value like {old!r}.") from error
    return text
