"""Is it learning, or collapsing? What can be read off the encoders on a fixed batch, without labels.

Loss alone misleads: a run that collapses has a loss that falls beautifully, since a constant is easily predicted. So
the spread of the features between records, their effective rank, and what tells records apart are measured beside it.
:func:`collapse_reason` reads them in this order: the spread between records, which falls first and furthest; the
effective rank; a loss too good to be true; and a contrast that gains nothing on a guess. The rank alone is blind to it:
features that are constant up to a thousandth of their norm may keep a full centred rank. The spread is blind to a
contrast whose targets say nothing: what is contrasted is then alike for all, while the encoder's features keep half of
their spread, or all of it where another part of the loss holds them apart (docs/log.md).

Shapes: n records, q views of each, B windows, L leads, T samples, N tokens, R registers, D width of a token.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pretraining.distributed import whole_tensor
from skecg.encoders.pooling import pool_tokens

if TYPE_CHECKING:
    from pretraining.objectives.base import Drawn, Objective
    from skecg.encoders import Encoder

__all__ = [
    "Gauges",
    "collapse_reason",
    "effective_rank",
    "identity_ratio",
    "lidar",
    "memory_gib",
    "position_share",
    "record_spread",
    "relative_distance",
    "token_spread",
]

# What counts as collapse. A healthy first try kept its spread; one that collapsed ended at 0.6 % of the norm. Encoders
# with a token for each lead start at 0.2 to 0.4 %, their positions being most of a token: so a low spread counts only
# if it was higher before.
_SPREAD_LOW, _SPREAD_FALLEN, _SPREAD_LOST = 0.01, 0.5, 0.1

_RANK_LOW, _RANK_LOST = 2.0, 0.1

_LOSS_TINY = 0.01

# Nats. Contrasts of recordings that collapsed were within 0.0002 of a guess from twenty steps after warm-up on, those
# that did not were above 0.007 by then. Those of beats come later, but pass through 0 by 0.004 in twenty steps.
_GAIN_NONE = 0.0005

_CONTRASTED = {"fixed_rhythm_gain": "recordings", "fixed_beat_gain": "beats"}

# A single dip may recover.
_TIMES = 2

_BATCH = 64

# Of the papers: what keeps the logarithms and the inverse finite.
_RANKME_EPS, _LIDAR_EPS, _LIDAR_DELTA = 1e-7, 1e-8, 1e-4


def collapse_reason(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why features have collapsed, if they have.

    Parameters
    ----------
    history : sequence of mapping
        What :meth:`Gauges.measure` gave so far, in order, with ``step``; the first one from before or soon after the
        first step.

    Returns
    -------
    str or None
        None as long as nothing is wrong. Otherwise one of these held the last two times in a row:

        - ``record_spread`` is below 0.01 and below half of the highest seen, or below a tenth of it;
        - ``rank`` is below 2 and below half of the highest seen, or below a tenth of it;
        - ``fixed_loss`` is below a hundredth of its first value while ``record_spread`` is below half of the highest;
        - ``fixed_rhythm_gain`` or ``fixed_beat_gain`` is less than 0.0005 nats from 0.
    """
    measured = [entry for entry in history if "record_spread" in entry and "rank" in entry]
    if len(measured) <= _TIMES:
        return None
    # Each of the last few has to be a collapse on its own.
    reasons = [_why_collapsed(measured[:end]) for end in range(len(measured) - _TIMES + 1, len(measured) + 1)]
    if not all(reasons):
        return None
    where = f" at step {measured[-1]['step']}" if "step" in measured[-1] else ""
    return f"{reasons[-1]}{where}"


def _why_collapsed(measured: Sequence[Mapping[str, Any]]) -> str | None:
    """Judge the last measurement by those before it."""
    spread, rank = measured[-1]["record_spread"], measured[-1]["rank"]
    most_spread, most_rank = (max(entry[name] for entry in measured) for name in ("record_spread", "rank"))
    if spread < max(_SPREAD_LOST * most_spread, min(_SPREAD_LOW, _SPREAD_FALLEN * most_spread)):
        return f"records differ by {spread:.2%} of the features' norm (it was {most_spread:.2%})"
    if rank < max(_RANK_LOST * most_rank, min(_RANK_LOW, _SPREAD_FALLEN * most_rank)):
        return f"features keep an effective rank of {rank:.1f} (it was {most_rank:.1f})"
    loss, first = measured[-1].get("fixed_loss", math.inf), measured[0].get("fixed_loss", 0.0)
    if loss < _LOSS_TINY * first and spread < _SPREAD_FALLEN * most_spread:
        return f"the loss fell to {loss / first:.1%} of its first value and the spread of records to {spread:.2%}"
    return _what_is_guessed(measured[-1])


def _what_is_guessed(entry: Mapping[str, Any]) -> str | None:
    """Return which contrast gains nothing on a guess, if one does."""
    for name, things in _CONTRASTED.items():
        if abs(entry.get(name, math.inf)) < _GAIN_NONE:
            return f"{things} are told apart no better than by a guess ({entry[name]:.5f} nats)"
    return None


def effective_rank(features_nD: Tensor, *, centred: bool = True) -> float:
    """Count the directions that features spread over: RankMe.

    Parameters
    ----------
    features_nD : Tensor of shape (n, D)
        One row a record.
    centred : bool, default=True
        Take the mean away first. The paper does not, but then an offset common to all records, which carries nothing,
        looks like collapse.

    Returns
    -------
    float
        1 to min(n, D); 0 when nothing varies at all.

    Notes
    -----
    The exponential of the entropy of the singular values over their sum (Garrido et al., 2023, arXiv:2210.02885).
    """
    # In float64: collapse is a matter of differences a thousandth of the norm.
    features = features_nD.detach().to("cpu", torch.float64)
    if centred:
        features = features - features.mean(dim=0)
    return _exp_entropy(torch.linalg.svdvals(features), _RANKME_EPS)


def lidar(views_nqD: Tensor) -> float:
    """Count the directions that tell records apart more than their views differ: LiDAR.

    Parameters
    ----------
    views_nqD : Tensor of shape (n, q, D)
        Features of q views of each record.

    Returns
    -------
    float
        1 to min(n - 1, D); 0 when nothing varies at all.

    Notes
    -----
    RankMe of the spectrum of linear discriminant analysis with records as classes (Thilak et al., 2023,
    arXiv:2312.04000). It has no scale: features without any identity give a high value too. Read it beside
    :func:`identity_ratio` and the same with shuffled records.
    """
    between, within = _scatters(views_nqD)
    within = within + _LIDAR_DELTA * torch.eye(len(within), dtype=within.dtype)
    values, vectors = torch.linalg.eigh(within)
    whiten = vectors * values.rsqrt() @ vectors.T
    spectrum = torch.linalg.eigvalsh(whiten @ between @ whiten).clamp_min(0)
    return _exp_entropy(spectrum, _LIDAR_EPS)


def identity_ratio(views_nqD: Tensor) -> float:
    """Compute how much more records differ than chance would have it, given how much views of one record differ.

    The variance of the records' means times q over the variance within records, summed over features (the F ratio of
    an analysis of variance): 1 for features that know nothing of the record, the more the better.
    """
    between, within = _scatters(views_nqD)
    return float(views_nqD.shape[1] * between.trace() / within.trace().clamp_min(1e-30))


def record_spread(pooled_nD: Tensor) -> float:
    """Compute the deviation between records as a share of the features' norm; below 0.01 they are nearly constant."""
    # On the CPU: some devices (MPS) have no float64.
    pooled = pooled_nD.detach().to("cpu", torch.float64)
    return _share(pooled - pooled.mean(dim=0), pooled)


def token_spread(tokens_nND: Tensor) -> float:
    """Compute the deviation of tokens from the mean of their own record, as a share of their norm."""
    tokens = tokens_nND.detach().to("cpu", torch.float64)
    return _share(tokens - tokens.mean(dim=1, keepdim=True), tokens)


def position_share(tokens_nND: Tensor) -> float:
    """Compute the share of the tokens' variance that their position alone explains.

    At 1 all records have the same token at the same position, which can be predicted without looking.
    """
    tokens = tokens_nND.detach().to("cpu", torch.float64)
    at_position = (tokens - tokens.mean(dim=0)).square().sum()
    overall = (tokens - tokens.mean(dim=(0, 1))).square().sum()
    return float(1 - at_position / overall.clamp_min(1e-30))


def relative_distance(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Compute the norm of the difference of two lists of tensors over the norm of the second."""
    difference = reference = 0.0
    for a, b in zip(ours, theirs, strict=True):
        x, y = whole_tensor(a), whole_tensor(b)
        difference += float((x - y).square().sum())
        reference += float(y.square().sum())
    return math.sqrt(difference / max(reference, 1e-30))


def memory_gib(device: torch.device) -> float:
    """Return the most memory (GiB) used so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    # macOS counts in bytes, Linux in KiB.
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit) / 2**30


class Gauges:
    """Everything that is measured on a fixed batch.

    Parameters
    ----------
    n_views : int, default=4
        Crops of half a window, at places drawn once, that a record is recognised by.
    seed : int, default=0
        Of those places and of the shuffled records that LiDAR is controlled by.
    """

    def __init__(self, n_views: int = 4, seed: int = 0) -> None:
        self.n_views = n_views
        self.seed = seed
        self._last_target: list[Tensor] | None = None

    def measure(
        self,
        model: Objective,
        values_nLT: Tensor,
        drawn: Drawn,
        encoder: Encoder | None = None,
        pooling: str = "mean",
    ) -> dict[str, float]:
        """Measure a model.

        Parameters
        ----------
        model : Objective
        values_nLT : Tensor of shape (n, L, T)
            Prepared windows, the same ones every time; some hundred of them, ranks cannot exceed their number.
        drawn : Drawn
            What goes with them, the same every time.
        encoder : Encoder, optional
            The one whose features are measured, as it is exported; the model's target encoder when not given.
        pooling : {"mean", "max", "mean+std", "mean+std+max", "cls"}, default="mean"
            What its tokens are pooled to.

        Returns
        -------
        dict of str to float
            ``fixed_loss`` on this batch, and other parts of the loss that the objective has gauged, by ``fixed_`` and
            their name; of the encoder's features ``rank``, ``rank_uncentred``,
            ``record_spread``, ``token_spread``, ``position_share``, ``lidar``, ``lidar_shuffled``, ``identity``
            (:func:`identity_ratio`); ``drift``, the distance of the context encoder from the target, relative to it, if
            they are two; and, from the second time on, ``target_change``, that of the target from where it was the last
            time.

        Notes
        -----
        Neither the mode of the model nor the state of torch's generators is changed.
        """
        with _left_as_found(model, values_nLT.device), torch.no_grad():
            encoder = encoder or model.target_encoder
            tokens, pooled = _features(encoder, values_nLT, pooling)
            found = {
                **self._measure_loss(model, values_nLT, drawn),
                "rank": effective_rank(pooled),
                "rank_uncentred": effective_rank(pooled, centred=False),
                "record_spread": record_spread(pooled),
                "token_spread": token_spread(tokens),
                "position_share": position_share(tokens),
            }
            return found | self._measure_views(encoder, values_nLT, pooling) | self._measure_drift(model)

    def _measure_loss(self, model: Objective, values_nLT: Tensor, drawn: Drawn) -> dict[str, float]:
        """Compute the means of parts of the loss over batches, which differ in size at most at the end."""
        names = {"fixed_loss": model.watched()} | {f"fixed_{name}": name for name in model.gauged()}
        parts = {shown: model.loss_names.index(name) for shown, name in names.items()}
        sums: dict[str, list[float]] = {name: [] for name in parts}
        for start in range(0, len(values_nLT), _BATCH):
            rows = slice(start, start + _BATCH)
            values = values_nLT[rows]
            loss = model(values, drawn.take(rows))
            for name, place in parts.items():
                sums[name].append(len(values) * float(loss[place]))
        return {name: math.fsum(found) / len(values_nLT) for name, found in sums.items()}

    def _measure_views(self, encoder: Encoder, values_nLT: Tensor, pooling: str) -> dict[str, float]:
        n, patch = len(values_nLT), encoder.config.length_step
        n_patches = values_nLT.shape[2] // patch
        if n_patches < 2 or n < 2:
            return {}
        # The same crops each time: curves must not move because of the draw.
        rng = np.random.default_rng(self.seed)
        kept = n_patches // 2
        # Crops begin at whole slices, as tokens do: else views would differ by where the grid lies.
        starts = torch.from_numpy(rng.integers(0, n_patches - kept + 1, size=(self.n_views, n)) * patch)
        crops = [_crop(values_nLT, start, kept * patch) for start in starts]
        views = torch.stack([_features(encoder, crop, pooling)[1] for crop in crops], dim=1)
        # A control: views of different records, which an encoder that knows its records tells apart.
        shuffled = views.flatten(0, 1)[torch.from_numpy(rng.permutation(n * self.n_views))].view_as(views)
        return {"lidar": lidar(views), "lidar_shuffled": lidar(shuffled), "identity": identity_ratio(views)}

    def _measure_drift(self, model: Objective) -> dict[str, float]:
        target = [whole_tensor(p) for p in model.target_encoder.parameters()]
        found = {}
        if model.target_encoder is not model.context_encoder:
            found["drift"] = relative_distance(model.context_encoder.parameters(), target)
        if self._last_target is not None:
            found["target_change"] = relative_distance(target, self._last_target)
        self._last_target = [p.clone() for p in target]
        return found


def _exp_entropy(spectrum: Tensor, eps: float) -> float:
    """Compute the exponential of the entropy of a spectrum over its sum."""
    total = float(spectrum.sum())
    if total <= 0:
        return 0.0
    share = spectrum / total + eps
    return float(torch.exp(-(share * share.log()).sum()))


def _scatters(views_nqD: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the covariance of the records' means and the mean covariance within records, each (D, D)."""
    views = views_nqD.detach().to("cpu", torch.float64)
    n, q, _ = views.shape
    means = views.mean(dim=1)
    between = means - means.mean(dim=0)
    within = (views - means[:, None]).flatten(0, 1)
    return between.T @ between / (n - 1), within.T @ within / (n * (q - 1))


def _share(part: Tensor, whole: Tensor) -> float:
    """Compute the root mean square of one tensor over that of another."""
    return float((part.square().sum() / whole.square().sum().clamp_min(1e-30)).sqrt())


def _features(encoder: Encoder, values_nLT: Tensor, pooling: str) -> tuple[Tensor, Tensor]:
    """Compute the tokens (n, N, D) without registers, and what they are pooled to (n, F), batch by batch."""
    states = torch.cat([encoder(batch).float() for batch in values_nLT.split(_BATCH)])
    return states[:, encoder.num_registers :], pool_tokens([states], encoder.num_registers, pooling)


def _crop(values_nLT: Tensor, starts_n: Tensor, n_samples: int) -> Tensor:
    """Cut (n, L, n_samples) out of windows, each at its own start."""
    index = starts_n[:, None] + torch.arange(n_samples)
    return values_nLT.gather(2, index[:, None].expand(-1, values_nLT.shape[1], -1).to(values_nLT.device))


@contextlib.contextmanager
def _left_as_found(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Measure in evaluation mode, and leave modes and random generators as they were."""
    modes = [(module, module.training) for module in model.modules()]
    # Measuring must not change what training draws next.
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
