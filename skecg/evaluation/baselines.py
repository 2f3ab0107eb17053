"""What every encoder is compared with, in the same table and the same run.

An encoder that does not beat these has not learned what they lack: the majority (no features at all), numbers that a
person would compute of a signal, random convolutions, and an encoder of the same shape whose weights are random.

Numbers that a person would compute of an electrocardiogram: amplitudes, shapes, bands, and how leads go together.

Random convolutions: thousands of small random filters, each summed up in three numbers.

References
----------
.. [1] Dempster A., Schmidt D. F., Webb G. I. (2021). MiniRocket: a very fast (almost) deterministic transform for time
       series classification. KDD.

Features computed from signals, on the same road as those of encoders: read, prepare, compute, remember.

An encoder of the same shape whose weights are random: what training has to add to.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from skecg.compute.progress import Progress
from skecg.embedding_cache import open_cache, record_key, salt_of
from skecg.encoders import build_encoder
from skecg.errors import SkecgError, SkecgWarning
from skecg.inference.inputs import RecordSource
from skecg.inference.pipeline import CHUNK_RECORDS
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.windows import prepare
from skecg.spec import InputSpec
from skecg.weights import save_encoder

if TYPE_CHECKING:
    from skecg.datasets.base import LabelledECGs
    from skecg.records import ECGRecord
    from skecg.weights import WeightsInfo

__all__ = [
    "SignalFeatures",
    "hand_crafted",
    "hand_crafted_features",
    "random_convolution_features",
    "random_convolutions",
    "write_untrained_twin",
]


_QUANTILES = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)


_BAND_EDGES_HZ = (0.5, 2, 4, 7, 11, 16, 25, 40)


_SPECTRUM_SECONDS = 4


def hand_crafted_features(signals: NDArray[np.float32], sampling_rate: float) -> NDArray[np.float32]:
    """Compute amplitude, shape, spectrum and correlation of the leads.

    Parameters
    ----------
    signals : ndarray of shape (n_windows, n_leads, n_samples)
        In millivolts.
    sampling_rate : float
        In Hz.

    Returns
    -------
    ndarray of shape (n_windows, 21 * n_leads + n_leads * (n_leads - 1) / 2), float32
        Of each lead nine quantiles; standard deviation, skewness, excess kurtosis; standard deviation and greatest size
        of the difference from sample to sample; logarithm of the power in seven bands from 0.5 to 40 Hz (Welch).
        Then the correlation of each pair of leads.
    """
    quantiles = np.quantile(signals, _QUANTILES, axis=-1).transpose(1, 2, 0)
    shape, bands = _shape(signals), _log_bands(signals, sampling_rate)
    of_leads = np.concatenate([quantiles, shape, bands], axis=-1).reshape(len(signals), -1)
    return np.concatenate([of_leads, _correlations(signals)], axis=1).astype(np.float32)


def _shape(signals: NDArray[np.float32]) -> NDArray[np.floating]:
    """Give the moments of each lead and of its slope."""
    centred = signals - signals.mean(axis=-1, keepdims=True)
    deviation = signals.std(axis=-1)
    standard = centred / np.where(deviation > 0, deviation, 1)[..., None]
    slope = np.diff(signals, axis=-1)
    skewness, kurtosis = (standard**3).mean(axis=-1), (standard**4).mean(axis=-1) - 3
    return np.stack([deviation, skewness, kurtosis, slope.std(axis=-1), np.abs(slope).max(axis=-1)], axis=-1)


def _log_bands(signals: NDArray[np.float32], sampling_rate: float) -> NDArray[np.floating]:
    """Give the logarithm of the power in each band."""
    from scipy.signal import welch

    n_samples = min(signals.shape[-1], round(_SPECTRUM_SECONDS * sampling_rate))
    frequencies, power = welch(signals, sampling_rate, nperseg=n_samples)
    bands = [(frequencies >= low) & (frequencies < high) for low, high in itertools.pairwise(_BAND_EDGES_HZ)]
    return np.log(np.stack([power[..., band].sum(axis=-1) for band in bands], axis=-1) + 1e-9)


def _correlations(signals: NDArray[np.float32]) -> NDArray[np.floating]:
    """Give the correlation of each pair of leads, 0 where a lead is flat."""
    centred = signals - signals.mean(axis=-1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    unit = centred / np.where(length > 0, length, 1)
    upper = np.triu_indices(signals.shape[1], 1)
    return np.asarray(unit @ unit.swapaxes(1, 2))[:, upper[0], upper[1]]


_DILATIONS = (1, 2, 4, 8, 16, 32)


_KERNEL_SAMPLES = 9


_SHARE_OF_LEADS = 0.3


_BATCH = 16


def random_convolution_features(
    signals: NDArray[np.float32], *, n_kernels: int = 84, seed: int = 0
) -> NDArray[np.float32]:
    """Convolve with dilated random kernels and pool, in the manner of MiniRocket.

    Parameters
    ----------
    signals : ndarray of shape (n_windows, n_leads, n_samples)
        Each lead is standardized first.
    n_kernels : int, default=84
        Kernels of nine samples and zero mean for each of six dilations (1 to 32); each looks at about 30 % of the
        leads.
    seed : int, default=0
        Of the kernels.

    Returns
    -------
    ndarray of shape (n_windows, 18 * n_kernels), float32
        Greatest value, share of positive values, and standard deviation of each.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    n_leads = signals.shape[1]
    x = torch.from_numpy(np.ascontiguousarray(signals, dtype=np.float32))
    x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
    pooled = []
    for dilation in _DILATIONS:
        kernels = torch.randn(n_kernels, n_leads, _KERNEL_SAMPLES, generator=generator)
        kernels *= torch.rand(n_kernels, n_leads, 1, generator=generator) < _SHARE_OF_LEADS
        kernels -= kernels.mean(-1, keepdim=True)
        bias = torch.randn(n_kernels, generator=generator)
        parts = []
        with torch.inference_mode():
            for batch in x.split(_BATCH):
                y = torch.nn.functional.conv1d(batch, kernels, bias, dilation=dilation, padding="same")
                parts.append(torch.cat([y.amax(-1), (y > 0).float().mean(-1), y.std(-1)], dim=1))
        pooled.append(torch.cat(parts))
    return np.asarray(torch.cat(pooled, dim=1).numpy())


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


def write_untrained_twin(info: WeightsInfo, folder: str | Path, *, seed: int = 0) -> Path:
    """Write a weights folder with the architecture, input and pooling of another, and freshly drawn weights.

    Parameters
    ----------
    info : WeightsInfo
        The weights to be like.
    folder : str or Path
        Where to write it.
    seed : int, default=0
        Of the weights, drawn as they are before pre-training.

    Returns
    -------
    Path
        The folder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_encoder(info.encoder)
    about = {"name": f"untrained, seed {seed}", "trained": False, "licence": "Apache-2.0", "data": "none"}
    save_encoder(folder, encoder.eval(), info.spec, pooling=info.pooling, **about)
    return Path(folder)
