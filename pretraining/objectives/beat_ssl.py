"""Beat-SSL: recordings are told apart, and beats are, as far as they are unlike.

After Rizqyawan, Macfarlane, Hadjidemetriou and Deligianni (ISBI 2026, arXiv:2601.16147). Two views of a recording
(:mod:`pretraining.objectives.views`) go through one encoder. At the level of the rhythm the mean of all tokens,
projected, is contrasted between recordings; at the level of the heartbeat the tokens about detected beats, projected by
another head, are contrasted between beats (:mod:`pretraining.objectives.contrast`). Targets are hard, or soft: a
similarity of hand-crafted features, raised to a power.

The paper comes without code, and says neither which encoder, temperature, projectors and detector nor what exactly its
two similarities and its beat classifier are. What is ours:

- any encoder of skecg; projectors of two layers, temperature 0.1 and rotations as 3KG has them; the two losses are
  added as they are;
- soft_1 is 0.9 + 0.1 cosine and soft_2 is exp(-d² / mean d²), of whitened features
  (:mod:`pretraining.data.feature_tables`): for recordings the hand-crafted features that encoders are compared with,
  the median beat and the rhythm; for beats the shape in eight leads and the intervals. The paper's similarities are
  closer to 1: after a power of 50 most of its pairs keep more than 0.7, of ours those that are much alike;
- the hard target of beats: its classifier was trained on labels, which we do not have, so two beats are of one class
  when they fall into one of 24 clusters of these features;
- the beats of a recording that enter are at most ``beats`` many, spread over it, of those whose QRS complex both views
  show. A beat is four bins of tokens from 0.25 s before to 0.45 s after it, each the average of the tokens there by how
  far they overlap. Recordings without beats, or with none that both views show, take part at the level of the rhythm
  only;
- a recording that is drawn twice for a batch is one recording, whose four views are one another's target.

Both losses are reported beside what they gain on a guess, an answer that is the same for all: the cross-entropy alone
can be near its least value, the entropy of the targets, while nothing is told apart.

Shapes: B windows, L leads, T samples, N slices of time, D width of a token, K beats a recording, S bins of a beat,
V views, P width of what is contrasted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretraining.config import PretrainConfig
from pretraining.config.objectives import BeatSslConfig
from pretraining.data.batches import uniforms
from pretraining.data.feature_tables import BeatTable, read_beats, write_beats
from pretraining.distributed import gather_rows
from pretraining.objectives.base import Drawn, WithoutTarget
from pretraining.objectives.contrast import build_projector, guess, same_class, similarity, soft_contrast, targets
from pretraining.objectives.views import ViewMaker, ViewRanges, Views, draw_views, is_seen
from skecg.encoders import build_encoder
from skecg.errors import ParameterError

if TYPE_CHECKING:
    from pretraining.data.batches import Batch
    from pretraining.data.shards import ShardSet

__all__ = [
    "BeatDraw",
    "BeatSsl",
    "BeatSslLoss",
    "beats_in_windows",
    "choose_beats",
    "overlap_weights",
]

_STREAM = 0xBEA7  # of its own, so that views and beats of a step do not share numbers

_BEFORE_SECONDS, _AFTER_SECONDS = 0.25, 0.45  # from a P wave's beginning to a T wave's end

_BINS = 4


def beats_in_windows(
    samples: NDArray[np.int64], crop_start: int, roll: int, window: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Follow the beats of a row into its window: give their places there, and which of them lie in it.

    Parameters
    ----------
    samples : ndarray of shape (n,), int64
        In the row.
    crop_start, roll : int
        As in :class:`pretraining.data.batches.Batch`.
    window : int
        Samples.
    """
    places = (samples - crop_start + roll) % window if roll else samples - crop_start
    return places, (places >= 0) & (places < window)


def choose_beats(
    tables: BeatTable, batch: Batch, window: int, views: Views, drawn: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Choose, for each recording of a batch, at most K of its beats that lie in its window and are seen in all views.

    Parameters
    ----------
    tables : BeatTable
    batch : Batch
    window : int
        Samples.
    views : Views
        Of the batch.
    drawn : ndarray of shape (B, K), float64
        Uniform in [0, 1); what is chosen by.

    Returns
    -------
    tuple of ndarray of shape (B, K): int64, int64, bool
        Numbers of beats in the table, where in the window they are, and whether there is one.
    """
    # Places without a beat point at some row of the table, which is_beat then leaves out: all rows keep one shape.
    beats, samples = np.full(drawn.shape, len(tables.samples) - 1), np.zeros(drawn.shape, np.int64)
    is_beat = np.zeros(drawn.shape, np.bool_)
    for place, row in enumerate(batch.rows):
        numbers = np.arange(tables.first[row], tables.first[row + 1])
        start, roll = int(batch.crop_start[place]), int(batch.roll[place])
        found, inside = beats_in_windows(tables.samples[numbers], start, roll, window)
        shown = is_seen(views.take(slice(place, place + 1)), torch.from_numpy(found)[None])[0].numpy()
        # A beat that a mask hides in either view has nothing that could be contrasted.
        usable = np.flatnonzero(inside & shown)
        picked = usable[_spread(len(usable), drawn[place])]
        beats[place, : len(picked)], samples[place, : len(picked)] = numbers[picked], found[picked]
        is_beat[place, : len(picked)] = True
    return beats, samples, is_beat


def _spread(n: int, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choose at most K of n, one in each of K equal stretches, by K numbers in [0, 1); all where there are no more."""
    if n <= len(uniform):
        return np.arange(n)
    # One from each stretch: beats drawn freely can lie all at one end.
    edges = np.arange(len(uniform) + 1) * n // len(uniform)
    return edges[:-1] + (uniform * np.diff(edges)).astype(np.int64)


class BeatSslLoss(NamedTuple):
    """What a step minimizes, the two parts that it is the sum of, and by how many nats each is less than a guess."""

    total: Tensor
    rhythm: Tensor
    beat: Tensor
    rhythm_gain: Tensor
    beat_gain: Tensor


@dataclass(frozen=True)
class BeatDraw(Drawn):
    """What goes with the windows of a batch.

    Parameters
    ----------
    views : Views
        Two of each window.
    rows : Tensor of shape (B,), int64
        Which recording of the shards each is; one that is drawn twice is the same one.
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
    rows: Tensor
    records: Tensor
    samples: Tensor
    is_beat: Tensor
    features: Tensor
    classes: Tensor
    record_scale: float
    beat_scale: float


class BeatSsl(WithoutTarget):
    """Encoder and two projectors.

    Parameters
    ----------
    config : PretrainConfig
        Weights are drawn from torch's global generator.

    Notes
    -----
    In training the contrast is among what all processes take at once, so that several of them have the loss and the
    gradients of one. With ``run.accumulation`` it is within each part: such a run is another one. Each process computes
    the whole table of cosines, which is what does not become cheaper with their number.
    """

    loss_names = BeatSslLoss._fields

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.objective, dim = _objective(config), config.encoder.stages[-1].width
        self.context_encoder = build_encoder(config.encoder)
        self.view_maker = ViewMaker(config.input.leads, self.objective.vcg, config.input.clip)
        self.rhythm_projector = build_projector(dim, dim, self.objective.projected_dim)
        self.beat_projector: nn.Module | None = None
        if self.objective.beat != "none":
            self.beat_projector = build_projector(_BINS * dim, dim, self.objective.projected_dim)
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
        rhythm, rhythm_gain = self._contrast_recordings(tokens_VBND, drawn)
        beat = beat_gain = rhythm.new_zeros(())
        if self.beat_projector is not None:
            beat, beat_gain = self._contrast_beats(self.beat_projector, tokens_VBND, drawn)
        return BeatSslLoss(rhythm + beat, rhythm, beat, rhythm_gain, beat_gain)

    def _tokens(self, values_BLT: Tensor) -> Tensor:
        """Return one token for each slice of time (B, N, D), the mean over leads where each has tokens of its own."""
        tokens = self.context_encoder(values_BLT)[:, self.context_encoder.num_registers :]
        slices = values_BLT.shape[-1] // self.patch_samples
        of_slices: Tensor = tokens.reshape(len(tokens), -1, slices, tokens.shape[-1]).mean(dim=1)
        return of_slices

    def _together(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes; those of this one outside of training, where gauges measure on one."""
        return gather_rows(rows) if self.training else rows

    def _contrast_recordings(self, tokens_VBND: Tensor, drawn: BeatDraw) -> tuple[Tensor, Tensor]:
        """Compute the loss of the rhythm and its gain on a guess."""
        projected_VBP = self.rhythm_projector(tokens_VBND.mean(dim=2))
        if self.objective.rhythm == "hard":
            likeness = same_class(self._together(drawn.rows))
        else:
            likeness = similarity(self._together(drawn.records), self.objective.rhythm, drawn.record_scale)
        return self._contrast(self._together(projected_VBP.float().transpose(0, 1)).transpose(0, 1), likeness)

    def _contrast_beats(self, projector: nn.Module, tokens_VBND: Tensor, drawn: BeatDraw) -> tuple[Tensor, Tensor]:
        """Compute the loss of the beats and its gain on a guess; both and the gradients are 0 where there are none."""
        around = overlap_weights(drawn.samples, tokens_VBND.shape[2], self.patch_samples, self.sampling_rate)
        # (B, K S, N) times (V, B, N, D): each bin is an average of tokens.
        binned = around.flatten(1, 2).to(tokens_VBND.dtype) @ tokens_VBND
        projected_VBKP = projector(binned.reshape(*binned.shape[:2], around.shape[1], -1))
        # Rows of all processes have the same shape, beats or not; what is no beat is left out when they are together.
        is_beat = self._together(drawn.is_beat)
        beats_MVP = self._together(projected_VBKP.float().permute(1, 2, 0, 3))[is_beat]
        if self.objective.beat == "hard":
            likeness = same_class(self._together(drawn.classes)[is_beat])
        else:
            likeness = similarity(self._together(drawn.features)[is_beat], self.objective.beat, drawn.beat_scale)
        return self._contrast(beats_MVP.transpose(0, 1), likeness)

    def _contrast(self, projected_VMP: Tensor, likeness_MM: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of a contrast and its gain on a guess."""
        loss = soft_contrast(projected_VMP, targets(likeness_MM, self.objective.exponent), self.objective.temperature)
        # Gauges read the gain, not the loss, which can be near its least while nothing is told apart (docs/log.md).
        return loss, guess(len(likeness_MM)) - loss.detach()

    def noted(self) -> tuple[str, ...]:
        """Return the names of both parts where there are two, and of what is gained on a guess."""
        return ("rhythm_gain",) if self.beat_projector is None else self.loss_names[1:]

    def gauged(self) -> tuple[str, ...]:
        """Return the names of what is gained on a guess."""
        return ("rhythm_gain",) if self.beat_projector is None else ("rhythm_gain", "beat_gain")

    @classmethod
    def write_tables(cls, config: PretrainConfig, shards: ShardSet) -> None:
        """Find the beats of recordings and describe both, once for a set of shards."""
        write_beats(shards)

    @classmethod
    def read_tables(cls, config: PretrainConfig, shards: ShardSet) -> BeatTable:
        """Read what was written; refuse shards without a single beat where beats are asked for."""
        tables = read_beats(shards)
        if _objective(config).beat != "none" and tables.first[-1] == 0:
            raise ParameterError(
                f"Got {shards.n_records} recordings in which no beat was found, expected some to contrast. Look at the "
                "recordings, or set objective.beat=none."
            )
        return tables

    @classmethod
    def draw(cls, config: PretrainConfig, tables: BeatTable, batch: Batch, step: int, positions: range) -> BeatDraw:
        """Draw views, and beats of those that both views show."""
        objective, window, seed = _objective(config), config.input.window_samples, config.run.seed
        ranges = ViewRanges(objective.degrees, objective.scale, objective.masked_share)
        views = draw_views(ranges, window, positions, seed=seed, step=step)
        drawn = uniforms(seed, step, positions, objective.beats, stream=_STREAM)
        beats, samples, is_beat = choose_beats(tables, batch, window, views, drawn)
        return BeatDraw(
            views=views,
            rows=torch.from_numpy(batch.rows),
            records=torch.from_numpy(tables.records[batch.rows]),
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
        return 2 * 3 * config.encoder.flops(config.encoder.n_patches)

    @classmethod
    def summary(cls, config: PretrainConfig) -> str:
        """Describe the views and the targets."""
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


def overlap_weights(samples_BK: Tensor, n_slices: int, patch_samples: int, sampling_rate: float) -> Tensor:
    """Compute how much each slice of time has of each bin of beats, (B, K, S, N).

    Each bin's weights add up to 1; a bin beyond the ends of the window takes the slice there.
    """
    edges_S = torch.linspace(-_BEFORE_SECONDS, _AFTER_SECONDS, _BINS + 1, device=samples_BK.device) * sampling_rate
    edges_BKS = (samples_BK[..., None] + edges_S) / patch_samples
    low = edges_BKS[..., :-1, None].clamp(0.0, n_slices - 0.5)
    high = edges_BKS[..., 1:, None].clamp(0.5, float(n_slices))
    starts_N = torch.arange(n_slices, device=samples_BK.device)
    shared = (torch.minimum(high, starts_N + 1.0) - torch.maximum(low, starts_N.float())).clamp_min(0.0)
    return shared / shared.sum(dim=-1, keepdim=True)
