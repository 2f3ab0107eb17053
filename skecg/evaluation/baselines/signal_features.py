"""Features computed from signals, on the same road as those of encoders: read, prepare, compute, remember."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skecg.embedding import CHUNK_RECORDS
from skecg.embedding_cache import open_cache, record_key, salt_of
from skecg.errors import SkecgError, SkecgWarning
from skecg.evaluation.baselines.hand_crafted import hand_crafted_features
from skecg.evaluation.baselines.random_convolutions import random_convolution_features
from skecg.inputs import RecordSource
from skecg.leads import CANONICAL_LEADS
from skecg.progress import Progress
from skecg.spec import InputSpec
from skecg.windows import prepare

if TYPE_CHECKING:
    from skecg.datasets.labelled import LabelledECGs
    from skecg.records import ECGRecord

__all__ = ["SignalFeatures", "hand_crafted", "random_convolutions"]

FloatArray = NDArray[np.float32]

#: What the signals of all baselines are: twelve leads in millivolts at 250 Hz, windows of 10 s, no filter.
BASELINE_INPUT = InputSpec(CANONICAL_LEADS, 250.0, 2500)


@dataclass(frozen=True)
class SignalFeatures:
    """A baseline that computes features from prepared windows; a record's are the mean over its windows.

    Parameters
    ----------
    name : str
    note : str
        In words, for reports.
    version : int
        Raised when the features change, so that stored ones are not taken for them.
    compute : callable
        Windows (n, 12, n_samples) in millivolts at 250 Hz to features (n, n_features).
    """

    name: str
    note: str
    version: int
    compute: Callable[[FloatArray], FloatArray]

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> FloatArray:
        """Compute the features of all recordings.

        Parameters
        ----------
        dataset : LabelledECGs
        cache : as for :class:`skecg.JEPAEmbedder`
            Where features are kept, record by record.
        verbose : int, default=0
            Whether to show a progress bar.

        Returns
        -------
        ndarray of shape (n_records, n_features), float32
        """
        source = RecordSource(dataset.records, sampling_rate=dataset.sampling_rate, leads=dataset.leads, units="mV")
        store = open_cache(cache)
        salt = salt_of(baseline=self.name, version=self.version, input=BASELINE_INPUT.to_dict())
        chunks = [range(i, min(i + CHUNK_RECORDS, len(source))) for i in range(0, len(source), CHUNK_RECORDS)]
        progress, parts = Progress(len(source), len(chunks), verbose=verbose), []
        with progress.whole():
            for rows in chunks:
                with progress.chunk(len(rows)):
                    parts.append(self._remembered(_whole(source.read(rows)), store, salt))
        return np.concatenate(parts)

    def _remembered(self, records: Sequence[ECGRecord], store: Any, salt: bytes) -> FloatArray:
        """Look features up, and compute and keep those that are not there."""
        if store is None:
            return self._computed(records)
        keys = [record_key(record, salt) for record in records]
        known = dict(store.get(keys))
        fresh = {key: record for key, record in zip(keys, records, strict=True) if key not in known}
        if fresh:
            found = dict(zip(fresh, self._computed(list(fresh.values())), strict=True))
            store.put(found)
            known |= found
        return np.stack([known[key] for key in keys])

    def _computed(self, records: Sequence[ECGRecord]) -> FloatArray:
        """Prepare records and compute their features, without the padding of those shorter than a window."""
        with warnings.catch_warnings():
            # What is odd about the records is said once, by the encoder that they are compared with.
            warnings.simplefilter("ignore", SkecgWarning)
            windows = prepare(records, BASELINE_INPUT, missing_leads="zero")
        parts: dict[int, FloatArray] = {}
        for length in np.unique(windows.valid_samples):
            rows = np.flatnonzero(windows.valid_samples == length)
            parts |= dict(zip(rows.tolist(), self.compute(windows.values[rows, :, :length]), strict=True))
        of_windows = np.stack([parts[row] for row in range(len(windows))])
        counts = np.bincount(windows.owner, minlength=len(records))
        sums = np.add.reduceat(of_windows, np.r_[0, np.cumsum(counts)[:-1]], axis=0)
        return np.asarray(sums / counts[:, None], dtype=np.float32)


def _whole(records: Sequence[ECGRecord | SkecgError]) -> list[ECGRecord]:
    """Raise the error of the first record that could not be read."""
    whole = []
    for record in records:
        if isinstance(record, SkecgError):
            raise record
        whole.append(record)
    return whole


def hand_crafted() -> SignalFeatures:
    """Make the baseline of hand-crafted features."""
    note = "quantiles, moments, slopes, bands and correlations of the leads"
    rate = BASELINE_INPUT.sampling_rate
    return SignalFeatures("hand-crafted", note, 1, lambda signals: hand_crafted_features(signals, rate))


def random_convolutions() -> SignalFeatures:
    """Make the baseline of random convolutions."""
    note = "504 random kernels: greatest value, share of positive values, deviation"
    return SignalFeatures("random convolutions", note, 1, random_convolution_features)
