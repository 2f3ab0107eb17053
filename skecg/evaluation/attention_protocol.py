"""Protocol (b): a frozen encoder under an attention-pooling head, on crops of 2.5 s.

Every record is cut into crops of 2.5 s, a new one every 1.25 s, and each crop is embedded as if it were a record: with
normalization, filters and windows as the weights ask for them. Crops shorter than the encoder's window are short
windows, whose padding the encoder never sees. What has no tokens (the majority, hand-crafted features, random
convolutions) is scored by protocol (a) in the same table, as a floor.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.embedder import JEPAEmbedder
from skecg.errors import ParameterError, SkecgError
from skecg.evaluation.attention_probe import AttentionProbe
from skecg.evaluation.features import EncoderFeatures
from skecg.evaluation.protocols import LabelDraw, PooledProtocol, ProbeFit
from skecg.inference.inputs import RecordSource, record_source
from skecg.metrics import area_under_roc, best_thresholds, macro
from skecg.records import ECGRecord

if TYPE_CHECKING:
    from skecg.datasets.base import LabelledECGs
    from skecg.evaluation.features import FeatureSource
    from skecg.evaluation.splitting import Split
    from skecg.inference.pipeline import RecordTokens

__all__ = [
    "AttendedProtocol",
    "CROP_SECONDS",
    "CROP_STRIDE_SECONDS",
    "EncoderTokens",
    "crop_record",
    "crop_tokens",
    "with_tokens",
]

#: Length of a crop, and the time from one to the next, of Weimann and Conrad (2025).
CROP_SECONDS = 2.5

CROP_STRIDE_SECONDS = 1.25

_RECORDS_TOGETHER = 32  # tokens of all crops of so many are held at once


def crop_record(
    record: ECGRecord, crop_seconds: float = CROP_SECONDS, stride_seconds: float = CROP_STRIDE_SECONDS
) -> list[ECGRecord]:
    """Cut a record into overlapping crops of equal length.

    Parameters
    ----------
    record : ECGRecord
    crop_seconds, stride_seconds : float
        Length of a crop, and time from the beginning of one to that of the next.

    Returns
    -------
    list of ECGRecord
        Seven of a record of 10 s. A record shorter than a crop is its own only crop; what is left after the last
        stride is left out.

    Examples
    --------
    >>> from skecg.datasets import make_ecg
    >>> len(crop_record(make_ecg(1, duration_seconds=10).records[0]))
    7
    """
    if not (crop_seconds > 0 and stride_seconds > 0):
        raise ParameterError(
            f"Got crop_seconds={crop_seconds!r}, stride_seconds={stride_seconds!r}, expected both > 0."
        )
    length = round(crop_seconds * record.sampling_rate)
    if record.n_samples <= length:
        return [record]
    last = (record.n_samples - length) / record.sampling_rate
    # From seconds each time: a stride rounded to samples once would drift along a long record.
    starts = [round(i * stride_seconds * record.sampling_rate) for i in range(int(last / stride_seconds + 1e-9) + 1)]
    return [
        ECGRecord(record.signal[:, start : start + length], record.sampling_rate, record.leads, record.name)
        for start in starts
    ]


def crop_tokens(
    embedder: JEPAEmbedder,
    X: Any,
    *,
    sampling_rate: ArrayLike | None = None,
    crop_seconds: float = CROP_SECONDS,
    stride_seconds: float = CROP_STRIDE_SECONDS,
    dtype: str = "float32",
) -> list[NDArray[np.floating]]:
    """Embed the crops of records without pooling.

    Parameters
    ----------
    embedder : JEPAEmbedder
        Fitted. Its `sampling_rate`, `leads` and `units` hold for arrays.
    X : array-like
        What :meth:`JEPAEmbedder.transform` takes.
    sampling_rate : float or array-like of shape (n_records,), optional
        Rate of arrays (Hz), instead of the embedder's.
    crop_seconds, stride_seconds : float
        See :func:`crop_record`.
    dtype : {"float32", "float16"}, default="float32"
        What to keep tokens in. 17,000 records of 10 s take 7 crops x 25 tokens x D numbers each: 3 GB at D = 128 in
        float16 with tokens of 0.05 s, half of that with tokens of 0.1 s.

    Returns
    -------
    list of ndarray of shape (n_crops, n_tokens, D)
        One for each record. Registers are left out, as :meth:`JEPAEmbedder.transform_tokens` leaves them out. Rows of
        NaN stand in the place of tokens of padding, which the encoder's own mean leaves out, too.

    Raises
    ------
    InputError, RecordReadError
        When a record cannot be read or embedded.
    """
    if dtype not in ("float32", "float16"):
        raise ParameterError(f"Got dtype={dtype!r}, expected 'float32' or 'float16'.")
    source = record_source(embedder, X, sampling_rate, reset=False)
    # Crops come as records, whatever X was.
    of_records = copy.copy(embedder)
    of_records.path_column = None
    found: list[NDArray[np.floating]] = []
    for records in _chunks(source):
        crops = [crop_record(record, crop_seconds, stride_seconds) for record in records]
        # Crops of many records in one call, so that the encoder's batches are full.
        tokens = iter(of_records.transform_tokens([crop for some in crops for crop in some]))
        found += [np.stack([_counted_only(next(tokens)) for _ in some]).astype(dtype) for some in crops]
    return found


def _counted_only(tokens: RecordTokens) -> NDArray[np.float32]:
    """Put NaN in the place of tokens that their encoder takes for padding."""
    if tokens.counted is None or tokens.counted.all():
        return tokens.values
    return np.where(tokens.counted[:, None], tokens.values, np.float32(np.nan))


def _chunks(source: RecordSource) -> Iterator[Sequence[ECGRecord]]:
    """Yield the records in chunks that fit into memory, raising the first error there is."""
    for start in range(0, len(source), _RECORDS_TOGETHER):
        records = source.read(range(start, min(start + _RECORDS_TOGETHER, len(source))), None)
        for record in records:
            if isinstance(record, SkecgError):
                raise record
        yield [record for record in records if isinstance(record, ECGRecord)]


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
        """Return for each recording (n_crops, n_tokens, D), in half precision."""
        # Tokens have no pooling, and a crop is one window.
        options = {name: value for name, value in self.encoder.options.items() if name not in ("pooling", "stride")}
        embedder = JEPAEmbedder(
            self.encoder.model, sampling_rate=dataset.sampling_rate, leads=dataset.leads, cache=None, **options
        )
        # Half precision: tokens of all crops fill a memory long before pooled vectors do.
        return crop_tokens(embedder.fit(dataset.records), dataset.records, dtype="float16")


def with_tokens(sources: Sequence[tuple[str, FeatureSource]]) -> list[tuple[str, Any]]:
    """Return the sources, with tokens instead of vectors from the encoders."""
    return [
        (kind, EncoderTokens(source) if isinstance(source, EncoderFeatures) else source) for kind, source in sources
    ]


@dataclass(frozen=True)
class AttendedProtocol:
    """Protocol (b), for sources of tokens; protocol (a) for sources of one vector a record.

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
        """Return what is done, for reports."""
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
        # With 1 % of the labels a draw may lie in the selection part whole; better the same records than none.
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
            # There is no penalty C to report: the head is stopped, not shrunk.
            float("nan"),
            macro(area_under_roc(seen, guess)),
            best_thresholds(seen, guess),
            np.asarray(probe.predict_proba([tokens[row] for row in split.test]), dtype=np.float64),
        )
