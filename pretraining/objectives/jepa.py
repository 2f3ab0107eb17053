"""The joint-embedding predictive objective: from what is visible, predict what the target encoder makes of the rest.

Three terms can stand beside it. Descriptions: numbers that describe the whole recording are predicted from what is
visible of it. What a masked token will be can be told from its neighbours; what the whole recording is like cannot, so
that features are learned in far fewer steps than by prediction of tokens alone (docs/log.md). Contrast: what two masks
leave of a recording is told apart from what they leave of others. SIGReg: how far
embeddings are from an isotropic normal distribution, along random directions. It is the sketched Epps-Pulley statistic
of LeJEPA (Balestriero and LeCun, arXiv:2511.08544), written from its formula: for K random unit directions the
empirical characteristic function of the N projected embeddings is compared with that of the standard normal, ``T_k = N
∫ |φ̂_k(t) - exp(-t²/2)|² w(t) dt`` over [-3, 3] with w(t) = exp(-t²/2), by the trapezoidal rule on 17 knots from 0 to
3, doubled; the result is the mean over k.

Shapes: B windows, L leads, T samples, N tokens (descriptors in a description), K visible and M masked slices of time, R
registers, D width.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.config import MaskConfig, ObjectiveConfig, PredictorConfig, PretrainConfig
from pretraining.data.batches import draw_shown_leads
from pretraining.data.feature_tables import N_DESCRIPTORS, Descriptors, read_descriptors, write_descriptors
from pretraining.distributed import gather_rows
from pretraining.objectives.base import Drawn, Objective
from pretraining.objectives.contrast import build_projector, same_class, soft_contrast, targets
from pretraining.objectives.masks import Masks, draw_masks, draw_seen
from pretraining.objectives.predictors import build_predictor, predictor_flops
from skecg.encoders import Encoder, build_encoder
from skecg.encoders.base import gather_tokens
from skecg.encoders.pooling import n_pooled_features, pool_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pretraining.data.batches import Batch
    from pretraining.data.shards import ShardSet

__all__ = [
    "Contrast",
    "Described",
    "Describer",
    "Jepa",
    "JepaDraw",
    "JepaLoss",
    "describe",
    "description_loss",
    "jepa_flops",
    "parts_of",
    "pooled_parts",
    "sigreg",
]

T = TypeVar("T", Tensor, float)


@dataclass(frozen=True)
class Described(Drawn):
    """Descriptors of the windows of a batch.

    Parameters
    ----------
    values : Tensor of shape (B, N)
    weights : Tensor of shape (B, N)
        Importance of each; rows of zeros where nothing is known.
    seen : Tensor of shape (B, K), int64, or None
        The slices of time that are seen for it; None for those of the prediction.
    """

    values: Tensor
    weights: Tensor
    seen: Tensor | None = None


def describe(descriptors: Descriptors, rows: NDArray[np.int64]) -> Described:
    """Look up what is known of some rows of the shards."""
    # A record that could not be described weighs nothing, and its values are not looked at.
    weights = descriptors.is_known[rows][:, None] * descriptors.importance
    return Described(torch.from_numpy(descriptors.values[rows]), torch.from_numpy(weights))


class Describer(nn.Module):
    """A linear map of the visible tokens, pooled as the exported features are and normalized.

    Each of the networks that stand side by side in a token has a map of its own: through one for all they share the
    work, and their features are no better than those of one of them (docs/log.md).

    Parameters
    ----------
    widths : sequence of int
        Of the parts of a token (G of them).
    pooling : {"mean+std", "mean+std+max"}, default="mean+std"
    """

    def __init__(self, widths: Sequence[int], pooling: str = "mean+std") -> None:
        super().__init__()
        self.widths, self.pooling = list(widths), pooling
        self.linear = nn.ModuleList(nn.Linear(n_pooled_features(pooling, width, 0), N_DESCRIPTORS) for width in widths)

    def forward(self, context_BKD: Tensor) -> Tensor:
        """Predict descriptors (G, B, N) from visible tokens, with each of their parts."""
        parts = pooled_parts(context_BKD, self.widths, self.pooling)
        return torch.stack([linear(part) for linear, part in zip(self.linear, parts, strict=True)])


class Contrast(nn.Module):
    """Two layers behind the pooled tokens, where what two masks leave of a recording is told apart from others.

    Each part of a token is contrasted by itself; the loss is the mean of NT-Xent over them. A recording that is drawn
    twice for a batch is one. In training it is among what all processes take at once; with ``run.accumulation`` it is
    within each part.

    Parameters
    ----------
    widths : sequence of int
        Of the parts of a token.
    pooling : {"mean+std", "mean+std+max"}
    temperature : float
    """

    def __init__(self, widths: Sequence[int], pooling: str, temperature: float) -> None:
        super().__init__()
        self.widths, self.pooling, self.temperature = list(widths), pooling, temperature
        n_features = [n_pooled_features(pooling, width, 0) for width in widths]
        self.projectors = nn.ModuleList(build_projector(n, 256, 128) for n in n_features)

    def forward(self, contexts: Sequence[Tensor], rows_B: Tensor) -> Tensor:
        """Compute the loss of the first two contexts (B, K, D) of recordings with these row numbers."""
        looks = [pooled_parts(context, self.widths, self.pooling) for context in contexts[:2]]
        pairs = zip(self.projectors, zip(*looks, strict=True), strict=True)
        views_BVGP = torch.stack([project(torch.stack(views, dim=1)) for project, views in pairs], dim=2).float()
        if self.training:
            views_BVGP, rows_B = gather_rows(views_BVGP), gather_rows(rows_B)
        wanted = targets(same_class(rows_B), 1.0)
        parts_GVBP = views_BVGP.permute(2, 1, 0, 3)
        return torch.stack([soft_contrast(views, wanted, self.temperature) for views in parts_GVBP]).mean()


def pooled_parts(tokens_BKD: Tensor, widths: Sequence[int], pooling: str) -> list[Tensor]:
    """Pool the parts of tokens, each by itself, and normalize what comes of it: (B, F) for each part."""
    # Deviations of bfloat16 tokens lose their digits, and the pooling has them.
    parts = tokens_BKD[..., : sum(widths)].float().split(list(widths), dim=-1)
    pooled = [pool_tokens([part], 0, pooling) for part in parts]
    return [F.layer_norm(part, part.shape[-1:]) for part in pooled]


def description_loss(predicted_GBN: Tensor, described: Described) -> Tensor:
    """Compute the weighted mean squared error; windows of which nothing is known count as none.

    The mean is over all windows, so it does not depend on how a batch is split.
    """
    return ((predicted_GBN.float() - described.values) ** 2 * described.weights).mean()


def sigreg(embeddings_ND: Tensor, *, n_directions: int = 256, n_knots: int = 17, generator: torch.Generator) -> Tensor:
    """Measure how far embeddings are from an isotropic standard normal distribution.

    Parameters
    ----------
    embeddings_ND : Tensor of shape (N, D)
        One row for each record.
    n_directions, n_knots : int
    generator : torch.Generator
        Where the directions are drawn from (on the CPU, so that every device sees the same).

    Returns
    -------
    Tensor, scalar, float32
        About 1.05 for a perfect standard normal whatever N; 0.40205 N for a collapse to zero.
    """
    directions_DK = torch.randn(embeddings_ND.shape[1], n_directions, generator=generator).to(embeddings_ND.device)
    directions_DK = directions_DK / directions_DK.norm(dim=0, keepdim=True)
    # A distribution is normal if all its projections are (Cramér and Wold); each is compared by its characteristic
    # function, whose real part is the mean cosine and whose imaginary part, the mean sine, is zero for a normal one.
    # Sums of cosines lose their digits in bfloat16.
    with torch.autocast(embeddings_ND.device.type, enabled=False):
        projected_NK = embeddings_ND.float() @ directions_DK
        knots_T = torch.linspace(0, 3, n_knots, device=embeddings_ND.device)
        normal_T = torch.exp(-0.5 * knots_T**2)
        angles_TNK = knots_T[:, None, None] * projected_NK
        distance_TK = (angles_TNK.cos().mean(1) - normal_T[:, None]) ** 2 + angles_TNK.sin().mean(1) ** 2
        statistic_K = torch.trapezoid(distance_TK * normal_T[:, None], knots_T, dim=0)
        return 2 * len(embeddings_ND) * statistic_K.mean()  # the other half, from -3 to 0, is the same


@dataclass(frozen=True)
class JepaDraw(Drawn):
    """What goes with the windows of a batch.

    Parameters
    ----------
    masks : list of Masks
        One or several masks of the same windows; one pass of the target encoder serves them all.
    described : Described, optional
        What describes the windows; without it descriptions are left out of the loss.
    directions_seed : int, optional
        Of SIGReg's directions; needed when its weight is not 0.
    rows : Tensor of shape (B,), int64, optional
        Which recording of the shards each window is of; without it the contrast is left out of the loss.
    """

    masks: list[Masks]
    described: Described | None = None
    directions_seed: int | None = None
    rows: Tensor | None = None


class JepaLoss(NamedTuple, Generic[T]):
    """What a step minimizes, and its parts before they are weighted; each a scalar."""

    total: T
    prediction: T
    sigreg: T
    description: T
    contrast: T


class Jepa(Objective):
    """Context encoder, target encoder and predictor.

    Parameters
    ----------
    config : PretrainConfig
        Weights are drawn from torch's global generator; the target encoder begins as a copy of the context encoder.
    """

    loss_names = JepaLoss._fields

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.weights, predictor, _ = parts_of(config)
        self.context_encoder: Encoder = build_encoder(config.encoder)
        self.context_encoder.may_lack_tokens = False  # as many slices are seen of every recording
        # Frozen where nothing is predicted: processes would wait for its gradients.
        self.predictor = build_predictor(predictor, config.encoder).requires_grad_(self.weights.predict_weight > 0)
        # What is described from is pooled as the features are, but never to less than mean and deviation.
        pooling = config.pooling if config.pooling == "mean+std+max" else "mean+std"
        widths = config.encoder.token_parts
        self.describer = Describer(widths, pooling) if self.weights.describe_weight else None
        self.contrast = None
        if self.weights.contrast_weight:
            self.contrast = Contrast(widths, pooling, self.weights.contrast_temperature)
        # A copy, not a second draw: both begin as one, as both published systems do.
        self.target_encoder: Encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)

    def forward(self, values_BLT: Tensor, drawn: JepaDraw) -> JepaLoss[Tensor]:
        """Compare predictions with targets.

        Parameters
        ----------
        values_BLT : Tensor of shape (B, L, T)
            Prepared windows.
        drawn : JepaDraw

        Returns
        -------
        JepaLoss
        """
        weights, masks = self.weights, drawn.masks
        # One pass for all masks: targets are of whole windows.
        targets_BND = self.targets(values_BLT) if weights.predict_weight else None
        contexts = [self._context(_shown(values_BLT, mask), mask.context) for mask in masks]
        pairs = zip(contexts, masks, strict=True)
        prediction = torch.stack([self._prediction_loss(context, targets_BND, mask) for context, mask in pairs]).mean()
        penalty = self._sigreg([context.mean(dim=1) for context in contexts], drawn.directions_seed, prediction)
        description = self._description_loss(values_BLT, contexts, drawn.described, prediction)
        total = weights.predict_weight * prediction + weights.sigreg_weight * penalty
        total = total + weights.describe_weight * description
        contrast = torch.zeros_like(prediction)
        if self.contrast is not None and drawn.rows is not None:
            contrast = self.contrast(contexts, drawn.rows)
            total = total + weights.contrast_weight * contrast
        return JepaLoss(total, prediction, penalty, description, contrast)

    @torch.no_grad()
    def targets(self, values_BLT: Tensor) -> Tensor:
        """Compute the target encoder's tokens (B, N, D) of whole windows, normalized as the objective says."""
        # Registers stand for no place in the recording: there is nothing to predict.
        tokens = self.target_encoder(values_BLT)[:, self.target_encoder.num_registers :]
        kind = self.weights.target_norm
        if kind == "layer":
            # Kim normalizes the targets once more, without weights; Weimann and Conrad take them as they are.
            return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-5)
        if kind == "centre":
            return tokens - tokens.mean(dim=0, keepdim=True)
        return tokens

    @torch.no_grad()
    def update_target_(self, momentum: float) -> None:
        """Move the target encoder towards the context encoder: momentum times itself and the rest of the other."""
        # One call for all: hundreds of small ones wait for their launches on a GPU.
        torch._foreach_lerp_(
            list(self.target_encoder.parameters()), list(self.context_encoder.parameters()), 1.0 - momentum
        )

    def watched(self) -> str:
        """Return the first part of the loss that is trained."""
        weights = self.weights
        counts = (weights.predict_weight, weights.describe_weight, weights.contrast_weight, weights.sigreg_weight)
        parts = ("prediction", "description", "contrast", "sigreg")
        return next(name for name, weight in zip(parts, counts, strict=True) if weight)

    def deep_parts(self) -> list[nn.Module]:
        """Return the modules with ``blocks``: the published code trains with its target encoder in training mode."""
        return [self.context_encoder, self.target_encoder, self.predictor]

    def noted(self) -> tuple[str, ...]:
        """Return the names of the parts of the loss that count, if there are several."""
        weights = self.weights
        of_terms = (weights.sigreg_weight, weights.describe_weight, weights.contrast_weight)
        terms = zip(JepaLoss._fields[2:], of_terms, strict=True)
        others = tuple(name for name, weight in terms if weight)
        return ("prediction", *others) if others else ()

    @classmethod
    def write_tables(cls, config: PretrainConfig, shards: ShardSet) -> None:
        """Describe the records, where the objective asks for it."""
        if parts_of(config)[0].describe_weight:
            write_descriptors(shards)

    @classmethod
    def read_tables(cls, config: PretrainConfig, shards: ShardSet) -> Descriptors | None:
        """Read the descriptions, where the objective asks for them."""
        return read_descriptors(shards) if parts_of(config)[0].describe_weight else None

    @classmethod
    def draw(
        cls, config: PretrainConfig, tables: Descriptors | None, batch: Batch, step: int, positions: range
    ) -> JepaDraw:
        """Draw masks, and look up what describes the records."""
        weights, _, mask_config = parts_of(config)
        seed, n_patches = config.run.seed, config.encoder.n_patches
        masks = draw_masks(mask_config, n_patches, positions, seed=seed, step=step)
        if mask_config.lead_dropout:
            share, n_looks = mask_config.lead_dropout, len(masks)
            shown = draw_shown_leads(batch, config.input, share, positions, seed=seed, step=step, n_looks=n_looks)
            pairs = zip(masks, torch.from_numpy(shown), strict=True)
            masks = [dataclasses.replace(mask, leads=leads) for mask, leads in pairs]
        described = None if tables is None else describe(tables, batch.rows)
        if described is not None and weights.describe_share:
            seen = draw_seen(n_patches, weights.describe_share, positions, seed=seed, step=step)
            described = dataclasses.replace(described, seen=seen)
        # The same directions in every process, and drawn on the host: a loss does not depend on how a batch is split.
        directions = int(np.random.default_rng([seed, step]).integers(2**63)) if weights.sigreg_weight else None
        rows = torch.from_numpy(batch.rows) if weights.contrast_weight else None
        return JepaDraw(masks, described, directions, rows)

    @classmethod
    def flops(cls, config: PretrainConfig, drawn: JepaDraw) -> float:
        """Count what a record costs, by the number of slices that are visible."""
        return jepa_flops(config, sum(mask.context.shape[1] for mask in drawn.masks) / len(drawn.masks))

    @classmethod
    def summary(cls, config: PretrainConfig) -> str:
        """Describe the distance, the targets and the masks."""
        weights, predictor, masks = parts_of(config)
        normal = "layer-normed" if weights.target_norm == "layer" else weights.target_norm
        targets = "targets as they are" if normal == "none" else f"{normal} targets"
        sigreg = f" + {weights.sigreg_weight:g} SIGReg" if weights.sigreg_weight else ""
        described = f" + {weights.describe_weight:g} descriptions" if weights.describe_weight else ""
        if weights.contrast_weight:
            described += f" + {weights.contrast_weight:g} contrast"
        several = f", {masks.masks_per_target} a target" if masks.masks_per_target > 1 else ""
        return (
            f"{weights.loss} on {targets}{sigreg}{described}; masks: {masks.kind}, {masks.low:g} to {masks.high:g}"
            f"{several}; predictor of width {predictor.dim}, {predictor.depth} blocks"
        )

    def _context(self, values_BLT: Tensor, visible_BK: Tensor) -> Tensor:
        """Encode what is visible, and leave the registers out."""
        tokens: Tensor = self.context_encoder(values_BLT, visible_BK=visible_BK)
        return tokens[:, self.context_encoder.num_registers :]

    def _description_loss(
        self, values_BLT: Tensor, contexts: list[Tensor], described: Described | None, like: Tensor
    ) -> Tensor:
        """Describe the windows from what the predictions see, or from more."""
        if self.describer is None or described is None:
            return torch.zeros_like(like)
        seen = contexts if described.seen is None else [self._context(values_BLT, described.seen)]
        return torch.stack([description_loss(self.describer(tokens), described) for tokens in seen]).mean()

    def _prediction_loss(self, context: Tensor, targets_BND: Tensor | None, mask: Masks) -> Tensor:
        """Compare the predicted tokens with the targets; 0 where the objective does without."""
        if targets_BND is None:
            return context.new_zeros((), dtype=torch.float32)
        numbers = self._token_numbers(mask.target, mask.context.shape[1] + mask.target.shape[1])
        return self._distance(self.predictor(context, mask), gather_tokens(targets_BND, numbers))

    def _distance(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        if self.weights.loss == "l1":
            # In float32 under autocast, too: means over many small differences.
            return F.l1_loss(predicted.float(), wanted.float())
        return F.smooth_l1_loss(predicted.float(), wanted.float(), beta=1.0)

    def _token_numbers(self, slices_BM: Tensor, n_patches: int) -> Tensor:
        """Return the numbers of the tokens of slices of time, of `n_patches`: themselves, or once for every lead."""
        if not self.target_encoder.token_per_lead:
            return slices_BM
        leads = torch.arange(self.config.encoder.n_leads, device=slices_BM.device)
        # Tokens of a leadwise encoder lie lead after lead, and all leads of a record share its mask.
        return (leads[None, :, None] * n_patches + slices_BM[:, None]).flatten(1)

    def _sigreg(self, pooled: list[Tensor], seed: int | None, like: Tensor) -> Tensor:
        if self.weights.sigreg_weight == 0:
            return torch.zeros_like(like)
        assert seed is not None, "SIGReg draws its directions from a seed"
        # On the CPU: CUDA's generator draws other numbers from the same seed.
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([sigreg(vectors, generator=generator) for vectors in pooled]).mean()


def _shown(values_BLT: Tensor, mask: Masks) -> Tensor:
    """Return the values with 0 in the leads that a mask hides."""
    return values_BLT if mask.leads is None else values_BLT * mask.leads[:, :, None]


def parts_of(config: PretrainConfig) -> tuple[ObjectiveConfig, PredictorConfig, MaskConfig]:
    """Return the objective, the predictor and the masks of a configuration of JEPA."""
    assert isinstance(config.objective, ObjectiveConfig), "asked of another objective"
    assert config.predictor is not None, "checked at birth"
    assert config.masks is not None, "checked at birth"
    return config.objective, config.predictor, config.masks


def jepa_flops(config: PretrainConfig, visible_slices: float) -> float:
    """Count what one record costs in a training step of JEPA.

    Parameters
    ----------
    config : PretrainConfig
    visible_slices : float
        Slices of time that the context encoder sees (the mean over draws).

    Returns
    -------
    float
        Floating-point operations: the target encoder forward on everything, the context encoder and the predictor
        forward and backward for each mask, and the context encoder once more where it sees other slices to describe.
    """
    encoder, n_slices = config.encoder, config.encoder.n_patches
    objective, predictor, masks = parts_of(config)
    n_masks = masks.masks_per_target
    trained = n_masks * encoder.flops(visible_slices)
    target = 0.0
    if objective.predict_weight:
        trained += n_masks * predictor_flops(encoder, predictor, visible_slices)
        target = encoder.flops(n_slices)
    if objective.describe_weight and objective.describe_share:
        trained += encoder.flops(objective.describe_share * n_slices)
    # A backward pass is two forward ones; the target encoder has none.
    return target + 3 * trained
