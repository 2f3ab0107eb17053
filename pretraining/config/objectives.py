"""What a run may be trained for: one frozen value per objective, told apart by its `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pretraining.config.parts import DataConfig, PredictorConfig, check_kinds, require
from skecg.encoders.plugins import load_installed_plugins, needed_plugin
from skecg.errors import UnregisteredError
from skecg.leads import EIGHT_LEADS
from skecg.spec import InputSpec, MultiscaleConfig, PatchEncoderConfig
from skecg.validation import PlainFields, check_choice, check_integer, check_number, suggestion

__all__ = ["OBJECTIVES", "AnyObjectiveConfig", "BeatSslConfig", "MaeConfig", "ObjectiveConfig", "read_objective"]


class AnyObjectiveConfig(PlainFields):
    """The configuration of one of the objectives.

    Attributes
    ----------
    kind : str
        Its name in files and on the command line.
    has_target : bool
        Whether there is a second encoder, an average of the first, that may be exported.
    takes_masks : bool
        Whether a run's ``masks`` are its; others draw what they hide by fields of their own.
    """

    kind: ClassVar[str]
    has_target: ClassVar[bool] = False
    takes_masks: ClassVar[bool] = False

    def to_dict(self) -> dict[str, Any]:
        """Return the kind and the fields as plain JSON values."""
        return {"kind": self.kind} | super().to_dict()

    def check_run(
        self, spec: InputSpec, encoder: PatchEncoderConfig, data: DataConfig, predictor: PredictorConfig | None
    ) -> None:
        """Check that the other parts of a run go together with this objective."""


@dataclass(frozen=True)
class ObjectiveConfig(AnyObjectiveConfig):
    """JEPA: what is predicted and how far off it is.

    Parameters
    ----------
    loss : {"l1", "smooth_l1"}
        Mean over all elements; "smooth_l1" has beta 1.
    target_norm : {"none", "layer", "centre"}
        The target encoder's tokens as they are; through a further layer norm without weights (Kim); or less their mean
        over the batch at each position.
    predict_weight : float
        Weight of the prediction of masked tokens; with 0 only the other terms are left, for comparison.
    sigreg_weight : float
        Weight of SIGReg on the context encoder's pooled tokens; 0 leaves it out.
    describe_weight : float
        Weight of the squared error of the recording's label-free descriptors (:mod:`pretraining.data.feature_tables`),
        predicted from the tokens that are seen; 0 leaves it out.
    describe_share : float
        Share of the slices that are seen for it, drawn by themselves for each record, in a further pass of the context
        encoder, which sees all leads; with 0 it is made from what the prediction sees, which costs nothing.
    contrast_weight : float
        Weight of telling recordings apart by what two masks leave of each; 0 leaves it out. It needs
        ``masks.masks_per_target`` of 2 or more.
    contrast_temperature : float
        What cosines are divided by.
    """

    kind: ClassVar[str] = "jepa"
    has_target: ClassVar[bool] = True
    takes_masks: ClassVar[bool] = True

    loss: str = "l1"  # Weimann and Conrad; Kim's code has "smooth_l1"
    target_norm: str = "none"  # "layer" for Kim
    predict_weight: float = 1.0
    sigreg_weight: float = 0.0
    describe_weight: float = 0.0
    describe_share: float = 0.0
    contrast_weight: float = 0.0
    contrast_temperature: float = 0.15

    def __post_init__(self) -> None:
        check_kinds("objective.", self)
        check_choice("objective.loss", self.loss, ("l1", "smooth_l1"))
        check_choice("objective.target_norm", self.target_norm, ("none", "layer", "centre"))
        terms = ("predict_weight", "sigreg_weight", "describe_weight", "contrast_weight")
        weights = {name: getattr(self, name) for name in terms}
        for name, weight in weights.items():
            check_number(f"objective.{name}", weight, 0, closed="left")
        check_number("objective.describe_share", self.describe_share, 0, 1, closed="both")
        check_number("objective.contrast_temperature", self.contrast_temperature, 0)
        names = ", ".join(f"objective.{name}" for name in weights)
        require(any(weights.values()), names, tuple(weights.values()), "one that is not 0")

    def check_run(
        self, spec: InputSpec, encoder: PatchEncoderConfig, data: DataConfig, predictor: PredictorConfig | None
    ) -> None:
        """Check that there is a predictor."""
        require(predictor is not None, "predictor", None, "its shape, which JEPA needs")
        assert predictor is not None
        fits = predictor.dim % 4 == 0 or not encoder.token_per_lead
        # Half of its positions, sines and cosines again, are those of leads.
        require(fits, "predictor.dim", predictor.dim, "a multiple of 4 with a token for each lead")


@dataclass(frozen=True)
class MaeConfig(AnyObjectiveConfig):
    """Masked autoencoder: what is hidden and how it is asked for.

    Parameters
    ----------
    masks : {"time", "leads", "both"}
        Whether whole slices of time, whole leads, or single patches (a slice of a lead) are hidden, at random. For the
        last two the encoder needs a token for each lead.
    ratio : float
        Share of them that is hidden.
    target_eps : float
        What is added to a patch's variance before its samples are divided by their deviation, in the square of the
        input's unit. Patches that vary less than its root count for less.
    """

    kind: ClassVar[str] = "mae"

    masks: str = "time"
    ratio: float = 0.75  # share that is hidden
    target_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_kinds("objective.", self)
        check_choice("objective.masks", self.masks, ("time", "leads", "both"))
        check_number("objective.ratio", self.ratio, 0, 1)
        check_number("objective.target_eps", self.target_eps, 0)

    def check_run(
        self, spec: InputSpec, encoder: PatchEncoderConfig, data: DataConfig, predictor: PredictorConfig | None
    ) -> None:
        """Check that encoder and decoder go together with the masks."""
        seen = "'multiscale' with 'mae', which hides patches from its convolutions"
        # Hidden samples have to be taken away before convolutions mix them with their neighbours.
        require(isinstance(encoder, MultiscaleConfig), "encoder.architecture", encoder.architecture, seen)
        assert isinstance(encoder, MultiscaleConfig)
        n_leads, apart = encoder.n_leads, self.masks == "time" or encoder.lead_groups == encoder.n_leads
        wanted = f"n_leads={n_leads} with objective.masks={self.masks!r}: a token of all leads cannot miss some"
        require(apart, "encoder.lead_groups", encoder.lead_groups, wanted)
        require(predictor is not None, "predictor", None, "the shape of the decoder")
        assert predictor is not None
        # Time and lead share the decoder's positions, each by sines and cosines.
        require(predictor.dim % 4 == 0, "predictor.dim", predictor.dim, "a multiple of 4")


@dataclass(frozen=True)
class BeatSslConfig(AnyObjectiveConfig):
    """Beat-SSL: what two views of a recording, and of its beats, are contrasted with.

    Parameters
    ----------
    rhythm : {"hard", "soft_1", "soft_2"}
        Targets between recordings: all unlike; or 0.9 + 0.1 cosine, or exp(-d² / mean d²), of hand-crafted features.
    beat : {"none", "hard", "soft_1", "soft_2"}
        Targets between beats: 1 for those of one cluster of shapes if hard; with "none" beats are left out.
    exponent : float
        Power that soft targets are raised to.
    temperature : float
        What cosines are divided by.
    beats : int
        Most beats of a recording that enter.
    vcg : {"dower", "kors"}
        The matrix of the vectorcardiogram in which views are turned.
    degrees : float
        Largest rotation about each axis, to either side.
    scale : tuple of float
        Smallest and largest factor along each axis.
    masked_share : float
        Share of the window that is silenced, in one stretch.
    projected_dim : int
        Width of what is contrasted.
    """

    kind: ClassVar[str] = "beat_ssl"

    rhythm: str = "soft_1"
    beat: str = "hard"
    exponent: float = 50.0  # 1 leaves 0.00013 nats to learn from, by docs/log.md
    temperature: float = 0.1
    beats: int = 4
    vcg: str = "dower"  # there and back loses 14 % of the power, with "kors" 53 %
    degrees: float = 45.0
    scale: tuple[float, float] = (1.0, 1.5)
    masked_share: float = 0.5
    projected_dim: int = 128

    def __post_init__(self) -> None:
        check_kinds("objective.", self)
        soft = ("soft_1", "soft_2")
        for name, kinds in (("rhythm", ("hard", *soft)), ("beat", ("none", "hard", *soft)), ("vcg", ("dower", "kors"))):
            check_choice(f"objective.{name}", getattr(self, name), kinds)
        for name in ("exponent", "temperature"):
            check_number(f"objective.{name}", getattr(self, name), 0)
        for name in ("beats", "projected_dim"):
            check_integer(f"objective.{name}", getattr(self, name), 1)
        check_number("objective.degrees", self.degrees, 0, 180, closed="both")
        require(0 < self.scale[0] <= self.scale[1], "objective.scale", self.scale, "0 < low <= high")
        check_number("objective.masked_share", self.masked_share, 0, 1, closed="left")

    def check_run(
        self, spec: InputSpec, encoder: PatchEncoderConfig, data: DataConfig, predictor: PredictorConfig | None
    ) -> None:
        """Check what views need: they mix leads, so all have to be there, and in one scale."""
        why = "with 'beat_ssl', whose views mix leads"
        absent = [lead for lead in EIGHT_LEADS if lead not in spec.leads]
        require(not absent, "input.leads", spec.leads, f"{', '.join(absent)} among them {why}")
        require(not spec.any_leads, "input.any_leads", True, f"False {why}")
        require(data.lead_dropout == 0, "data.lead_dropout", data.lead_dropout, f"0 {why}")
        require(spec.normalization != "zscore", "input.normalization", "zscore", f"one scale for all leads {why}")
        if spec.normalization == "statistics":
            assert spec.mean is not None, "checked by InputSpec"
            assert spec.std is not None, "checked by InputSpec"
            # The turned leads are sums of leads: an offset or a scale of a single one would be turned into the others.
            require(not any(spec.mean), "input.mean", spec.mean, f"zeros {why}")
            require(len(set(spec.std)) == 1, "input.std", spec.std, f"the same for all leads {why}")
        require(predictor is None, "predictor", predictor, "None with 'beat_ssl', which has none")


OBJECTIVES: dict[str, type[AnyObjectiveConfig]] = {one.kind: one for one in (ObjectiveConfig, MaeConfig, BeatSslConfig)}


def read_objective(values: Mapping[str, Any]) -> AnyObjectiveConfig:
    """Read the configuration of the objective that is named, which is JEPA where none is."""
    fields = dict(values)
    # Runs from before there were others do not name theirs.
    kind = fields.pop("kind", ObjectiveConfig.kind)
    # Plug-ins are imported where one is asked for, so that nobody else pays for them or fails by them.
    if kind not in OBJECTIVES:
        load_installed_plugins()
    if kind not in OBJECTIVES:
        known = ", ".join(map(repr, OBJECTIVES))
        hint = f"{suggestion(kind, OBJECTIVES)}{needed_plugin()}"
        raise UnregisteredError(f"Got objective.kind={kind!r}, expected one of {known}.{hint}")
    return OBJECTIVES[kind].from_dict(fields)
