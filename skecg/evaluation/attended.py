"""Protocol (b): a frozen encoder under an attention-pooling head, on crops of 2.5 s.

What has no tokens (the majority, hand-crafted features, random convolutions) is scored by protocol (a) in the same
table, as a floor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skecg.embedder import JEPAEmbedder
from skecg.evaluation.attention_probe import AttentionProbe
from skecg.evaluation.crops import CROP_SECONDS, CROP_STRIDE_SECONDS, crop_tokens
from skecg.evaluation.metrics import area_under_roc, best_thresholds, macro
from skecg.evaluation.protocols import LabelDraw, PooledProtocol, ProbeFit
from skecg.evaluation.sources import EncoderFeatures

if TYPE_CHECKING:
    from skecg.datasets.labelled import LabelledECGs
    from skecg.evaluation.sources import FeatureSource
    from skecg.evaluation.splitting import Split

__all__ = ["AttendedProtocol", "EncoderTokens", "with_tokens"]


@dataclass(frozen=True)
class EncoderTokens:
    """The tokens of a frozen encoder on crops; embeddings of crops are not kept on disk.

    Parameters
    ----------
    encoder : EncoderFeatures
    """

    encoder: EncoderFeatures

    @property
    def name(self) -> str:
        """That of the encoder."""
        return self.encoder.name

    @property
    def note(self) -> str:
        """That of the encoder, with the crops."""
        return f"{self.encoder.note}; tokens of crops of {CROP_SECONDS:g} s every {CROP_STRIDE_SECONDS:g} s"

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> list[NDArray[np.floating]]:
        """Give for each recording (n_crops, n_tokens, D), in half precision."""
        options = {name: value for name, value in self.encoder.options.items() if name not in ("pooling", "stride")}
        embedder = JEPAEmbedder(
            self.encoder.model, sampling_rate=dataset.sampling_rate, leads=dataset.leads, cache=None, **options
        )
        return crop_tokens(embedder.fit(dataset.records), dataset.records, dtype="float16")


def with_tokens(sources: Sequence[tuple[str, FeatureSource]]) -> list[tuple[str, Any]]:
    """Let the encoders among the sources give tokens."""
    return [
        (kind, EncoderTokens(source) if isinstance(source, EncoderFeatures) else source) for kind, source in sources
    ]


@dataclass(frozen=True)
class AttendedProtocol:
    """Protocol (b), for what gives tokens; protocol (a) for what gives one vector a record.

    The step at which training stops, and the thresholds, are chosen on the selection records. Where these are a part of
    the training patients, the head is not trained again with them: stopping needs records that were not trained on.

    Parameters
    ----------
    num_heads : int, default=4
        Attention heads of the head.
    n_steps : int, default=5000
        Steps of training, at most.
    patience : int, default=1000
        Steps without improvement after which it ends.
    random_state : int, default=0
    pooled : PooledProtocol
        For what has no tokens.
    """

    num_heads: int = 4
    n_steps: int = 5000
    patience: int = 1000
    random_state: int = 0
    pooled: PooledProtocol = field(default_factory=PooledProtocol)

    def describe(self) -> dict[str, Any]:
        """Say what is done, for reports."""
        return {
            "name": (
                "(b) frozen encoder + attention-pooling head on 2.5 s crops, logits averaged over crops; rows without "
                "tokens by (a) pooled vector + logistic regression"
            ),
            "crop_seconds": CROP_SECONDS,
            "crop_stride_seconds": CROP_STRIDE_SECONDS,
            **asdict(self),
        }

    def fits(
        self, features: Any, labels: NDArray[np.int8], split: Split, draws: Iterable[LabelDraw]
    ) -> Iterator[ProbeFit]:
        """Fit one head for each draw."""
        if isinstance(features, np.ndarray):
            yield from self.pooled.fits(features, labels, split, draws)
            return
        for draw in draws:
            yield self._fit(features, labels, split, draw)

    def _fit(
        self, tokens: list[NDArray[np.floating]], labels: NDArray[np.int8], split: Split, draw: LabelDraw
    ) -> ProbeFit:
        learned = np.setdiff1d(draw.rows, split.selection) if split.refit else draw.rows
        learned = learned if len(learned) else draw.rows
        seen = labels[split.selection]
        held = [tokens[row] for row in split.selection]
        probe = AttentionProbe(
            self.num_heads, n_steps=self.n_steps, patience=self.patience, random_state=self.random_state
        )
        probe.fit([tokens[row] for row in learned], labels[learned], validation=(held, seen))
        guess = np.asarray(probe.predict_proba(held), dtype=np.float64)
        return ProbeFit(
            draw.fraction,
            draw.draw,
            float("nan"),
            macro(area_under_roc(seen, guess)),
            best_thresholds(seen, guess),
            np.asarray(probe.predict_proba([tokens[row] for row in split.test]), dtype=np.float64),
        )
