"""Beat-SSL: recordings are told apart, and beats are, as far as they are unlike.

After Rizqyawan, Macfarlane, Hadjidemetriou and Deligianni (ISBI 2026, arXiv:2601.16147). Two views of a recording
(:mod:`pretraining.views`) go through one encoder. At the level of the rhythm the mean of all tokens, projected, is
contrasted between recordings; at the level of the heartbeat the tokens about detected beats, projected by another head,
are contrasted between beats. Targets are hard, or soft: a similarity of hand-crafted features, raised to a power.

The paper comes without code, and says neither which encoder, temperature, projectors and detector nor what exactly its
two similarities and its beat classifier are. What is ours:

- any encoder of skecg; projectors of two layers, temperature 0.1 and rotations as 3KG has them; the two losses are
  added as they are;
- soft_1 is 0.9 + 0.1 cosine and soft_2 is exp(-d² / mean d²), of whitened features (:mod:`pretraining.beats`): for
  recordings the hand-crafted features that encoders are compared with, the median beat and the rhythm; for beats the
  shape in eight leads and the intervals. The paper's similarities are closer to 1: after a power of 50 most of its
  pairs keep more than 0.7, of ours those that are much alike;
- the hard target of beats: its classifier was trained on labels, which we do not have, so two beats are of one class
  when they fall into one of 24 clusters of these features;
- the beats of a recording that enter are at most ``beats`` many, spread over it, of those which both views show. A beat
  is four bins of tokens from 0.25 s before to 0.45 s after it, each the average of the tokens there by how far they
  overlap. Recordings without beats, or with none that both views show, take part at the level of the rhythm only.

Shapes: B windows, L leads, T samples, N slices of time, D width of a token, K beats a recording, S bins of a beat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretraining.beats import BeatTable, read_beats, write_beats
from pretraining.config import PretrainConfig
from pretraining.counter_random import uniforms
from pretraining.flops import encoder_flops
from pretraining.objective_configs import BeatSslConfig
from pretraining.objectives.objective import WithoutTarget
from pretraining.objectives.soft_contrast import same_class, similarity, soft_contrast, targets
from pretraining.views import ViewMaker, ViewRanges, Views, draw_views, is_seen
from skecg.encoders import build_encoder

if TYPE_CHECKING:
    from pretraining.sampling import Batch
    from pretraining.shards import ShardSet

__all__ = ["BeatDraw", "BeatSsl", "BeatSslLoss", "beats_in_windows", "overlap_weights"]

_STREAM = 0xBEA7
_BEFORE_SECONDS, _AFTER_SECONDS = 0.25, 0.45
_BINS = 4
_OF_WINDOWS = ("views", "records", "samples", "is_beat", "features", "classes")


class BeatSslLoss(NamedTuple):
    """What a step minimizes, and its two parts, of which it is the sum."""

    total: Tensor
    rhythm: Tensor
    beat: Tensor


class BeatDraw(NamedTuple):
    """What goes with the windows of a batch.

    Attributes
    ----------
    views : Views
        Two of each window.
    records : Tensor of shape (B, F)
        What each recording is like.
    samples : Tensor of shape (B, K), int64
        Where in the window beats are.
    is_beat : Tensor of shape (B, K), bool
        Where there is one.
    features : Tensor of shape (B, K, f)
        What each beat is like.
    classes : Tensor of shape (B, K), int64
    record_scale, beat_scale : float
        Mean squared distances of recordings and of beats, in all shards.
    """

    views: Views
    records: Tensor
    samples: Tensor
    is_beat: Tensor
    features: Tensor
    classes: Tensor
    record_scale: float
    beat_scale: float

    def to(self, device: torch.device) -> BeatDraw:
        """Move all."""
        return self._replace(**{name: getattr(self, name).to(device) for name in _OF_WINDOWS})

    def take(self, rows: slice) -> BeatDraw:
        """Take what belongs to some of the windows."""
        parts = {name: getattr(self, name)[rows] for name in _OF_WINDOWS if name != "views"}
        return self._replace(views=self.views.take(rows), **parts)


class BeatSsl(WithoutTarget):
    """Encoder and two projectors.

    Parameters
    ----------
    config : PretrainConfig
        Weights are drawn from torch's global generator.

    Notes
    -----
    The contrast is among the records that one process takes at once, so the loss depends on how a batch is split.
    """

    loss_names = BeatSslLoss._fields

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.objective, dim = _objective(config), config.encoder.dim
        self.context_encoder = build_encoder(config.encoder)
        self.view_maker = ViewMaker(config.input.leads, self.objective.vcg, config.input.clip)
        self.rhythm_projector = _projector(dim, dim, self.objective.projected_dim)
        self.beat_projector: nn.Module | None = None
        if self.objective.beat != "none":
            self.beat_projector = _projector(_BINS * dim, dim, self.objective.projected_dim)
        self.sampling_rate, self.patch_samples = config.input.sampling_rate, config.encoder.patch_samples

    def forward(self, values_BLT: Tensor, drawn: BeatDraw) -> BeatSslLoss:
        """Contrast the two views of recordings, and those of their beats.

        Parameters
        ----------
        values_BLT : Tensor of shape (B, L, T)
            Prepared windows, not turned yet.
        drawn : BeatDraw

        Returns
        -------
        BeatSslLoss
        """
        views_VBLT = self.view_maker(values_BLT, drawn.views)
        tokens_VBND = torch.stack(self._tokens(views_VBLT.flatten(0, 1)).chunk(len(views_VBLT)))
        rhythm = self._rhythm_loss(tokens_VBND, drawn)
        beat = rhythm.new_zeros(()) if self.beat_projector is None else self._beat_loss(tokens_VBND, drawn)
        return BeatSslLoss(rhythm + beat, rhythm, beat)

    def _tokens(self, values_BLT: Tensor) -> Tensor:
        """Give one token for each slice of time (B, N, D), the mean over leads where each has tokens of its own."""
        tokens = self.context_encoder(values_BLT)[:, self.context_encoder.num_registers :]
        slices = values_BLT.shape[-1] // self.patch_samples
        of_slices: Tensor = tokens.reshape(len(tokens), -1, slices, tokens.shape[-1]).mean(dim=1)
        return of_slices

    def _rhythm_loss(self, tokens_VBND: Tensor, drawn: BeatDraw) -> Tensor:
        projected_VBP = self.rhythm_projector(tokens_VBND.mean(dim=2))
        kind, likeness = self.objective.rhythm, None
        if kind != "hard":
            likeness = similarity(drawn.records, kind, drawn.record_scale)
        wanted = targets(likeness, len(drawn.records), self.objective.exponent, tokens_VBND.device)
        return soft_contrast(projected_VBP, wanted, self.objective.temperature)

    def _beat_loss(self, tokens_VBND: Tensor, drawn: BeatDraw) -> Tensor:
        """Contrast the beats; where there are none this is 0, and so are all its gradients."""
        assert self.beat_projector is not None, "asked of a run without beats"
        around = overlap_weights(drawn.samples, tokens_VBND.shape[2], self.patch_samples, self.sampling_rate)
        # (B, K S, N) times (V, B, N, D): each bin is an average of tokens.
        binned = around.flatten(1, 2).to(tokens_VBND.dtype) @ tokens_VBND
        projected_VBKP = self.beat_projector(binned.reshape(*binned.shape[:2], around.shape[1], -1))
        beats_VMP = projected_VBKP[:, drawn.is_beat]
        kind, features_Mf = self.objective.beat, drawn.features[drawn.is_beat]
        if kind == "hard":
            likeness = same_class(drawn.classes[drawn.is_beat])
        else:
            likeness = similarity(features_Mf, kind, drawn.beat_scale)
        wanted = targets(likeness, len(features_Mf), self.objective.exponent, tokens_VBND.device)
        # Processes wait for a gradient of every weight, also of where no beat was found.
        nothing: Tensor = 0.0 * projected_VBKP.float().sum()
        return soft_contrast(beats_VMP, wanted, self.objective.temperature) + nothing

    def noted(self) -> tuple[str, ...]:
        """Name both parts where there are two."""
        return () if self.beat_projector is None else self.loss_names[1:]

    @classmethod
    def write_tables(cls, config: PretrainConfig, shards: ShardSet) -> None:
        """Find the beats of recordings and describe both, once for a set of shards."""
        write_beats(shards)

    @classmethod
    def read_tables(cls, config: PretrainConfig, shards: ShardSet) -> BeatTable:
        """Read what was written."""
        return read_beats(shards)

    @classmethod
    def draw(cls, config: PretrainConfig, tables: BeatTable, batch: Batch, step: int, positions: range) -> BeatDraw:
        """Draw views, and beats of those that both views show."""
        objective, window, seed = _objective(config), config.input.window_samples, config.run.seed
        ranges = ViewRanges(objective.degrees, objective.scale, objective.masked_share)
        views = draw_views(ranges, window, positions, seed=seed, step=step)
        records = torch.from_numpy(tables.records[batch.rows])
        drawn = uniforms(seed, step, positions, objective.beats, stream=_STREAM)
        beats, samples, is_beat = _chosen_beats(tables, batch, window, views, drawn)
        return BeatDraw(
            views=views,
            records=records,
            samples=torch.from_numpy(samples),
            is_beat=torch.from_numpy(is_beat),
            features=torch.from_numpy(tables.features[beats]),
            classes=torch.from_numpy(tables.classes[beats]),
            record_scale=tables.record_scale,
            beat_scale=tables.beat_scale,
        )

    @classmethod
    def flops(cls, config: PretrainConfig, drawn: BeatDraw) -> float:
        """Count two views, forward and backward; the projectors are next to nothing."""
        return 2 * 3 * encoder_flops(config.encoder, config.encoder.n_patches)

    @classmethod
    def summary(cls, config: PretrainConfig) -> str:
        """Name the views and the targets."""
        objective = _objective(config)
        beats = (
            "no beats" if objective.beat == "none" else f"{objective.beat} between beats ({objective.beats} a record)"
        )
        return (
            f"contrast of two views turned in the vectorcardiogram; targets {objective.rhythm} between recordings, "
            f"{beats}, to the power of {objective.exponent:g}; temperature {objective.temperature:g}"
        )


def _objective(config: PretrainConfig) -> BeatSslConfig:
    assert isinstance(config.objective, BeatSslConfig), "asked of another objective"
    return config.objective


def _projector(n_inputs: int, hidden: int, n_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_inputs, hidden), nn.GELU(), nn.Linear(hidden, n_outputs))


def beats_in_windows(
    samples: NDArray[np.int64], valid: int, crop_start: int, roll: int, window: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Follow the beats of a row into its window: give their places there, and which of them lie in it.

    Parameters
    ----------
    samples : ndarray of shape (n,), int64
        In the row.
    valid : int
        Samples of the row that are signal.
    crop_start, roll : int
        As in :class:`pretraining.sampling.Batch`.
    window : int
        Samples.
    """
    places = (samples - crop_start + roll) % window if roll else samples - crop_start
    return places, (places >= 0) & (places < window) & (samples < valid)


def _chosen_beats(
    tables: BeatTable, batch: Batch, window: int, views: Views, drawn: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Choose beats for the places of `drawn` (B, K): give their numbers in the table, where they are, and if at all."""
    beats, samples = np.full(drawn.shape, len(tables.samples) - 1), np.zeros(drawn.shape, np.int64)
    is_beat = np.zeros(drawn.shape, np.bool_)
    for place, row in enumerate(batch.rows):
        numbers = np.arange(tables.first[row], tables.first[row + 1])
        valid, start, roll = (int(part[place]) for part in (batch.valid_samples, batch.crop_start, batch.roll))
        found, inside = beats_in_windows(tables.samples[numbers], valid, start, roll, window)
        shown = is_seen(views.take(slice(place, place + 1)), torch.from_numpy(found)[None])[0].numpy()
        usable = np.flatnonzero(inside & shown)
        picked = usable[_spread(len(usable), drawn[place])]
        beats[place, : len(picked)], samples[place, : len(picked)] = numbers[picked], found[picked]
        is_beat[place, : len(picked)] = True
    return beats, samples, is_beat


def _spread(n: int, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choose at most K of n, one in each of K equal stretches, by K numbers in [0, 1); all where there are no more."""
    if n <= len(uniform):
        return np.arange(n)
    edges = np.arange(len(uniform) + 1) * n // len(uniform)
    return edges[:-1] + (uniform * np.diff(edges)).astype(np.int64)


def overlap_weights(samples_BK: Tensor, n_slices: int, patch_samples: int, sampling_rate: float) -> Tensor:
    """Say how much each slice of time has of each bin of beats, (B, K, S, N).

    Each bin's weights add up to 1; a bin beyond the ends of the window takes the slice there.
    """
    edges_S = torch.linspace(-_BEFORE_SECONDS, _AFTER_SECONDS, _BINS + 1, device=samples_BK.device) * sampling_rate
    edges_BKS = (samples_BK[..., None] + edges_S) / patch_samples
    low = edges_BKS[..., :-1, None].clamp(0.0, n_slices - 0.5)
    high = edges_BKS[..., 1:, None].clamp(0.5, float(n_slices))
    starts_N = torch.arange(n_slices, device=samples_BK.device)
    shared = (torch.minimum(high, starts_N + 1.0) - torch.maximum(low, starts_N.float())).clamp_min(0.0)
    return shared / shared.sum(dim=-1, keepdim=True)
