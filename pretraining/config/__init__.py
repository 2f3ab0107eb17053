"""PretrainConfig: everything that decides a run, as one frozen value.

It is written next to whatever it made, read back strictly, and changed by typed overrides (``optim.lr=5e-4``).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from pretraining.config.objectives import AnyObjectiveConfig, ObjectiveConfig, read_objective
from pretraining.config.parts import (
    MASK_KINDS,
    DataConfig,
    EmaConfig,
    MaskConfig,
    OptimConfig,
    PredictorConfig,
    RunConfig,
    WatchConfig,
    check_kinds,
    require,
)
from skecg.encoders import read_encoder_config
from skecg.encoders.pooling import check_pooling, n_registers
from skecg.errors import ParameterError
from skecg.spec import InputSpec, PatchEncoderConfig
from skecg.validation import PlainFields, check_choice

if TYPE_CHECKING:
    from skecg.weights import WeightsInfo

__all__ = [
    "AnyObjectiveConfig",
    "DataConfig",
    "EmaConfig",
    "MaskConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PredictorConfig",
    "PretrainConfig",
    "RunConfig",
    "WatchConfig",
]

_ROUNDING = 1e-6  # slices

# What no configuration that was written down lacks.
_NEEDED = ("name", "architecture", "input", "encoder", "optim", "run")

# Fields that are no parts, and that a run may be given.
_EXPORTED = ("pooling", "export_encoder", "export_blocks")

_PARTS: dict[str, type[PlainFields]] = {
    "predictor": PredictorConfig,
    "masks": MaskConfig,
    "optim": OptimConfig,
    "ema": EmaConfig,
    "data": DataConfig,
    "run": RunConfig,
    "watch": WatchConfig,
}


@dataclass(frozen=True)
class PretrainConfig:
    """A whole run.

    Parameters
    ----------
    name : str
        Of the recipe.
    input : InputSpec
        What the encoder is fed, in training and ever after.
    encoder : PatchEncoderConfig
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
        How features are made of tokens: when they are probed and gauged, and by the weights that are exported.
    export_encoder : {"target", "context"}
        Which of the two encoders is exported: the average, or the one that was trained. Objectives other than JEPA have
        only the latter.
    export_blocks : int
        How many of its blocks, from the first; 0 for all. The last blocks learn what the objective asks for, and
        features from before them can be the better ones.
    start : str
        Name and digest of the weights that the encoder begins from; empty for weights that are drawn.
    """

    name: str
    input: InputSpec
    encoder: PatchEncoderConfig
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
    start: str = ""

    def __post_init__(self) -> None:
        check_kinds("", self)
        check_choice("export_encoder", self.export_encoder, ("target", "context"))
        sees_patches = "one that sees patches: temporal, leadwise, multiscale, dual, or a plug-in's"
        is_patched = isinstance(self.encoder, PatchEncoderConfig)
        require(is_patched, "encoder.architecture", getattr(self.encoder, "architecture", self.encoder), sees_patches)
        check_pooling(self.pooling, n_registers(self.encoder))
        depth = self.encoder.depth
        require(0 <= self.export_blocks <= depth, "export_blocks", self.export_blocks, f"0 to {depth}")
        # Checked here and not in OptimConfig, which does not know how deep the encoder is.
        frozen = self.optim.frozen_blocks
        require(frozen <= depth, "optim.frozen_blocks", frozen, f"0 to {depth}")
        # Both say it, because weights carry both: an encoder must not be trained on what its spec does not make.
        same = (self.encoder.n_leads, self.encoder.window_samples) == (self.input.n_leads, self.input.window_samples)
        require(same, "encoder", self.encoder, f"{self.input.n_leads} leads of {self.input.window_samples} samples")
        if self.masks is not None:
            require(self.encoder.n_patches >= 2, "encoder.n_patches", self.encoder.n_patches, "2 or more with masks")
        if self.masks is not None and self.masks.kind == "blocks":
            fits = self.masks.min_block <= self.encoder.n_patches
            require(fits, "masks.min_block", self.masks.min_block, f"at most {self.encoder.n_patches}")
        self._check_windows()
        self._check_objective()

    def _check_windows(self) -> None:
        """Check that windows of other lengths are whole slices, and that something can be masked of them."""
        # One slice to see and one to predict are the least that a mask can part.
        shortest = 2 if self.masks is None or self.masks.kind != "blocks" else self.masks.min_block
        for seconds in self.data.window_seconds:
            n_patches = seconds * self.input.sampling_rate / self.encoder.patch_samples
            # Up to rounding: 2.2 s are 22 slices of 0.1 s, though no float is exactly that.
            is_whole = abs(n_patches - round(n_patches)) < _ROUNDING
            fits = is_whole and shortest <= round(n_patches) <= self.encoder.n_patches
            longest, patch = self.input.window_seconds, self.encoder.patch_samples / self.input.sampling_rate
            wanted = f"multiples of {patch:g} s from {shortest * patch:g} to {longest:g} s"
            require(fits, "data.window_seconds", self.data.window_seconds, wanted)
        is_jepa = isinstance(self.objective, ObjectiveConfig)
        wanted = f"none with {self.objective.kind!r}"
        require(is_jepa or not self.data.window_seconds, "data.window_seconds", self.data.window_seconds, wanted)

    def with_window(self, seconds: float) -> Self:
        """Return the configuration of windows of another length; the encoder's weights are the same."""
        window_samples = round(seconds * self.input.sampling_rate)
        return dataclasses.replace(
            self,
            input=dataclasses.replace(self.input, window_samples=window_samples),
            encoder=dataclasses.replace(self.encoder, n_patches=window_samples // self.encoder.patch_samples),
            # The copy is of this one length; kept, the others would be checked against it and be too long.
            data=dataclasses.replace(self.data, window_seconds=()),
        )

    def _check_objective(self) -> None:
        """Check that the objective has the parts that it needs, and no others."""
        objective, kind = self.objective, self.objective.kind
        if objective.takes_masks:
            require(self.masks is not None, "masks", None, f"how they are drawn, which {kind!r} needs")
        else:
            require(self.masks is None, "masks", self.masks, f"None with {kind!r}, whose masks are in its own part")
        if not objective.has_target:
            require(self.export_encoder == "context", "export_encoder", self.export_encoder, f"'context' with {kind!r}")
        if self.masks is not None and self.masks.lead_dropout:
            require(self.input.any_leads, "input.any_leads", False, "True with masks.lead_dropout: what is hidden is 0")
        if isinstance(objective, ObjectiveConfig) and objective.contrast_weight and self.masks is not None:
            n_masks = self.masks.masks_per_target
            wanted = "2 or more with objective.contrast_weight: what they leave of a recording is compared"
            require(n_masks >= 2, "masks.masks_per_target", n_masks, wanted)
        if not isinstance(objective, ObjectiveConfig):
            require(self.data.drop_path == 0, "data.drop_path", self.data.drop_path, f"0 with {kind!r}")
            hidden = 0.0 if self.masks is None else self.masks.lead_dropout
            require(hidden == 0, "masks.lead_dropout", hidden, f"0 with {kind!r}, which hides no leads")
        self.objective.check_run(self.input, self.encoder, self.data, self.predictor)

    @property
    def exported_depth(self) -> int:
        """How many blocks of the encoder are probed, gauged and exported."""
        # Gauges and probe look where the export ends: the last blocks learn what the objective asks, and score lower.
        return self.export_blocks or self.encoder.depth

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        values: dict[str, Any] = {"name": self.name, "architecture": self.encoder.architecture, "pooling": self.pooling}
        values |= {"export_encoder": self.export_encoder, "export_blocks": self.export_blocks, "start": self.start}
        for part in fields(self):
            value = getattr(self, part.name)
            if hasattr(value, "to_dict"):
                values[part.name] = value.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read everything from plain values, strictly."""
        # Checkpoints of older releases lack parts that came later; their defaults mean the old behaviour.
        lacking = [name for name in _NEEDED if not isinstance(values, Mapping) or name not in values]
        if lacking:
            raise ParameterError(f"Got a configuration without {', '.join(lacking)}, expected {', '.join(_NEEDED)}.")
        parts = dict(values)
        architecture = parts.pop("architecture")
        for key in parts:
            check_choice("a part of the configuration", key, [part.name for part in fields(cls)])
        parts["encoder"] = read_encoder_config(architecture, parts["encoder"])
        parts["input"] = InputSpec.from_dict(parts["input"])
        for name, kind in _PARTS.items():
            if name in parts:
                parts[name] = kind.from_dict(parts[name])
        if "objective" in parts:
            parts["objective"] = read_objective(parts["objective"])
        return cls(**parts)

    @property
    def plugins(self) -> list[str]:
        """Modules from outside that define its encoder, its objective or its masks."""
        modules = {type(self.encoder).__module__, type(self.objective).__module__}
        modules |= {MASK_KINDS[self.masks.kind]} if self.masks else set()
        return sorted(module for module in modules if module.partition(".")[0] not in ("skecg", "pretraining"))

    def starting_from(self, info: WeightsInfo) -> Self:
        """Return this run for the encoder of some weights: its architecture, input, pooling and all its blocks.

        An encoder that holds theirs stays as it is: a part of it begins with them.
        """
        start = f"{info.provenance.get('name', info.folder.name)} (sha256 {info.sha256[:16]})"
        changes: dict[str, Any] = {
            "encoder": self.encoder if self.encoder.holds(info.encoder) else info.encoder,
            "input": info.spec,
            "pooling": info.pooling,
            # The weights were cut at export already; a number for the recipe's own encoder would cut them again.
            "export_blocks": 0,
        }
        return dataclasses.replace(self, start=start, **changes)

    def override(self, assignments: Sequence[str]) -> Self:
        """Change single fields by ``part.field=value``, typed as the field is, refusing unknown names.

        What is exported, and therefore probed and gauged, is no part: ``pooling``, ``export_encoder`` and
        ``export_blocks`` are changed by ``pooling=value`` and the like. All are changed at once, so fields that have to
        fit each other may be given in any order.
        """
        changed: dict[str, dict[str, Any]] = {}
        exported: dict[str, Any] = {}
        for assignment in assignments:
            name, separator, text = assignment.partition("=")
            part, dot, key = name.partition(".")
            if separator and name in _EXPORTED:
                exported[name] = _typed(text, getattr(self, name), name)
                continue
            if not separator or not dot:
                raise ParameterError(
                    f"Got {assignment!r}, expected part.field=value, for example optim.lr=5e-4, or one of "
                    f"{', '.join(f'{known}=value' for known in _EXPORTED)}."
                )
            check_choice("a part of the configuration", part, ["input", "encoder", "objective", *_PARTS])
            old = getattr(self, part)
            # Refused instead of stored: a run must not look as if a setting had had an effect.
            is_used = old is not None and (part != "ema" or self.objective.has_target)
            if not is_used:
                raise ParameterError(
                    f"Got {assignment!r} for a run of {self.objective.kind!r}, which uses no {part!r}."
                )
            types = {f.name: str(f.type) for f in fields(old)}
            check_choice(f"a field of {part}", key, types)
            may_be_none = "None" in types[key] and text.lower() == "none"
            # Whole numbers are steps and fractions shares of the run: 0.1 must not be typed as the 0 that it replaces.
            shares = types[key] == "int | float"
            value = None if may_be_none else (_number if shares else _typed)(text, getattr(old, key), name)
            changed.setdefault(part, {})[key] = value
        parts = {part: dataclasses.replace(getattr(self, part), **values) for part, values in changed.items()}
        # Once, for every replacement is checked: encoder.n_patches alone would not fit input.window_samples.
        return dataclasses.replace(self, **parts, **exported)


def _number(text: str, old: Any, name: str) -> int | float:
    """Read a whole number as one, and any other as a fraction."""
    value = float(_typed(text, 0.0, name))
    # 1e4 is written for ten thousand steps, and int() does not read it; 1.0 may be one step or all of them.
    is_count = value.is_integer() and (value > 1 or text.strip().isdecimal())
    return int(value) if is_count else value


def _typed(text: str, old: Any, name: str) -> Any:
    """Read a value as the kind of thing it replaces."""
    try:
        # Before int, of which bool is a kind.
        if isinstance(old, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(old, int):
            return int(text)
        if isinstance(old, float):
            return float(text)
        if isinstance(old, tuple):
            parts = [part for part in text.strip("()[]").split(",") if part.strip()]
            return tuple(type(old[0])(part) if old else json.loads(part) for part in parts)
        if old is None or isinstance(old, dict):
            return json.loads(text, object_pairs_hook=_each_once)
    except ParameterError as error:
        raise ParameterError(f"Got {name}={text!r}, {error}.") from error
    except (ValueError, KeyError) as error:
        raise ParameterError(f"Got {name}={text!r}, expected a value like {old!r}.") from error
    return text


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a JSON object, of whose equal names the last would count."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ParameterError(f"which names {twice[0]!r} more than once, expected each name once")
    return dict(pairs)
