"""What a run may be trained for: one frozen value per objective, told apart by its `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pretraining.config_part import Part, refuse_unknown, require

__all__ = ["OBJECTIVES", "AnyObjectiveConfig", "ObjectiveConfig", "read_objective"]


class AnyObjectiveConfig(Part):
    """The configuration of some objective."""

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Give the kind and the fields as plain JSON values."""
        return {"kind": self.kind} | super().to_dict()


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
        Weight of the squared error of the recording's label-free descriptors (:mod:`pretraining.descriptors`),
        predicted from the tokens that are seen; 0 leaves it out.
    describe_share : float
        Share of the slices that are seen for it, drawn by themselves for each record, in a further pass of the context
        encoder; with 0 it is made from what the prediction sees, which costs nothing.
    """

    kind: ClassVar[str] = "jepa"

    loss: str = "l1"
    target_norm: str = "none"
    predict_weight: float = 1.0
    sigreg_weight: float = 0.0
    describe_weight: float = 0.0
    describe_share: float = 0.0

    def __post_init__(self) -> None:
        require(self.loss in ("l1", "smooth_l1"), "objective.loss", self.loss, "'l1' or 'smooth_l1'")
        norms = ("none", "layer", "centre")
        require(self.target_norm in norms, "objective.target_norm", self.target_norm, f"one of {norms}")
        weights = {name: getattr(self, name) for name in ("predict_weight", "sigreg_weight", "describe_weight")}
        for name, weight in weights.items():
            require(weight >= 0, f"objective.{name}", weight, "0 or more")
        require(0 <= self.describe_share <= 1, "objective.describe_share", self.describe_share, "0 to 1")
        require(any(weights.values()), "objective's weights", tuple(weights.values()), "one that is not 0")


OBJECTIVES: dict[str, type[AnyObjectiveConfig]] = {one.kind: one for one in (ObjectiveConfig,)}


def read_objective(values: Mapping[str, Any]) -> AnyObjectiveConfig:
    """Read the configuration of the objective that is named, which is JEPA where none is."""
    fields = dict(values)
    kind = fields.pop("kind", ObjectiveConfig.kind)
    refuse_unknown(kind, list(OBJECTIVES), "objective.kind")
    return OBJECTIVES[kind].from_dict(fields)
