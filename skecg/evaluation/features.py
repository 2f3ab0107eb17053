"""What is evaluated: a name and a way from recordings to features.

The rows of the standard table are the baselines (the majority, hand-crafted features, random convolutions, an untrained
encoder of each model's shape) and the models named. An encoder that does not beat the baselines has not learned what
they lack.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from skecg.compute.progress import count_progress
from skecg.datasets.base import LabelledECGs
from skecg.embedder import JEPAEmbedder
from skecg.embedding_cache import WhilePossible, open_cache, record_key, salt_of
from skecg.encoders import build_encoder
from skecg.encoders.plugins import load_plugin
from skecg.errors import ParameterError, ShapeError, SkecgError, SkecgWarning
from skecg.evaluation.baselines import hand_crafted_features, random_convolution_features
from skecg.inference.inputs import RecordSource
from skecg.inference.pipeline import chunk_rows
from skecg.leads import CANONICAL_LEADS
from skecg.linear_model.distances import standardization
from skecg.preprocessing.windows import prepare
from skecg.records import ECGRecord
from skecg.spec import InputSpec
from skecg.weights import WeightsInfo, find_weights, save_encoder

__all__ = [
    "BASELINE",
    "MODEL",
    "EncoderFeatures",
    "FeatureSource",
    "MajorityFeatures",
    "ObjectFeatures",
    "SignalFeatures",
    "Transformer",
    "features_of",
    "hand_crafted",
    "is_object",
    "random_convolutions",
    "standard_sources",
    "write_untrained_twin",
]

#: Kinds of rows.
BASELINE, MODEL = "baseline", "model"

#: What the signals of all baselines are: twelve leads in millivolts at 250 Hz, windows of 10 s, no filter.
BASELINE_INPUT = InputSpec(CANONICAL_LEADS, 250.0, 2500)

#: Random convolutions are the mean over so many draws of the kernels.
N_KERNEL_SEEDS = 5  # one draw of the kernels may be lucky

# Far from the seeds that people give, so that the twin of an untrained model is another draw and not its copy.
_TWIN_SEED = 1_000_003


class FeatureSource(Protocol):
    """Anything that computes features of recordings, with a name and a note on how.

    Where the scales of its features say what counts, as along principal directions, it has ``standardize = False``.
    """

    @property
    def name(self) -> str:
        """What its row is called."""

    @property
    def note(self) -> str:
        """How features are made, in words."""

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> NDArray[np.float32]:
        """Compute features, (n_records, n_features), or (n_seeds, n_records, n_features) where chance has a part."""


def features_of(source: FeatureSource, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> Any:
    """Compute what a source makes of recordings, and raise ShapeError where it makes the same of all of them.

    An encoder that collapsed does so; a probe would then predict the share of each class, and no score would say why.
    """
    features = source.features(dataset, cache=cache, verbose=verbose)
    tables = features if getattr(features, "ndim", 0) == 3 else [features]
    for table in tables:
        is_table = isinstance(table, np.ndarray) and table.ndim == 2 and table.shape[1] > 0 and len(table) > 1
        if is_table and np.isinf(standardization(table)[1]).all():
            raise ShapeError(
                f"Got the same features for all {len(table)} recordings from {source.name!r}, expected features that "
                "differ: the encoder has collapsed, or what it was given is the same. Leave it out, or look at its "
                "training."
            )
    return features


def _records_of(dataset: LabelledECGs) -> RecordSource:
    """Return the recordings of a data set as baselines and objects take them, read when they are asked for."""
    return RecordSource(dataset.records, sampling_rate=dataset.sampling_rate, leads=dataset.leads, units=dataset.units)


@dataclass(frozen=True)
class MajorityFeatures:
    """No features: every recording has the labels' shares in the training records."""

    name: str = "majority"
    note: str = "no features: the share of each label among the training records"

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> NDArray[np.float32]:
        """Return a table without columns, (n_records, 0)."""
        return np.empty((len(dataset), 0), dtype=np.float32)


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
        Windows (n, 12, n_samples) in millivolts at 250 Hz to features (n, n_seeds * n_features).
    n_seeds : int, default=1
        Where chance has a part in the features: draws of it, whose scores are averaged.
    """

    name: str
    note: str
    # Goes into the keys of the cache: raised when the computation changes, or old features would be found.
    version: int
    compute: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    n_seeds: int = 1

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> NDArray[np.float32]:
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
        ndarray of shape (n_records, n_features) or (n_seeds, n_records, n_features), float32
        """
        source = _records_of(dataset)
        opened = open_cache(cache)
        store = None if opened is None else WhilePossible(opened)
        salt = self._salt()
        chunks = []
        with count_progress(len(source), self.name, "record", verbose=verbose) as progress:
            for rows in chunk_rows(len(source)):
                chunks.append(self._looked_up([source[row] for row in rows], store, salt))
                progress.update(len(rows))
        features = np.concatenate(chunks)
        # A record's row in the cache has all draws side by side; here they come apart.
        return features if self.n_seeds == 1 else features.reshape(len(features), self.n_seeds, -1).swapaxes(0, 1)

    def _salt(self) -> bytes:
        """Return what sets these features apart from all others in a cache."""
        return salt_of(baseline=self.name, version=self.version, input=BASELINE_INPUT.to_dict(), n_seeds=self.n_seeds)

    def _looked_up(self, records: Sequence[ECGRecord], store: Any, salt: bytes) -> NDArray[np.float32]:
        """Look features up, and compute and keep those that are not there."""
        if store is None:
            return self._computed(records)
        keys = [record_key(record, salt) for record in records]
        known = dict(store.get(keys))
        fresh = {key: record for key, record in zip(keys, records, strict=True) if key not in known}
        if fresh:
            computed = dict(zip(fresh, self._computed(list(fresh.values())), strict=True))
            store.put(computed)
            known |= computed
        return np.stack([known[key] for key in keys])

    def _computed(self, records: Sequence[ECGRecord]) -> NDArray[np.float32]:
        """Prepare records and compute their features, without the padding of those shorter than a window."""
        with warnings.catch_warnings():
            # The encoder that these are compared with warns of the same records.
            warnings.simplefilter("ignore", SkecgWarning)
            # Baselines need no policy: an absent lead is as flat for them as one that came off.
            windows = prepare(records, BASELINE_INPUT, missing_leads="zero")
        # Windows of one length at a time: zeros beyond the end would count as signal.
        parts: dict[int, NDArray[np.float32]] = {}
        for length in np.unique(windows.valid_samples):
            rows = np.flatnonzero(windows.valid_samples == length)
            parts |= dict(zip(rows.tolist(), self.compute(windows.values[rows, :, :length]), strict=True))
        of_windows = np.stack([parts[row] for row in range(len(windows))])
        counts = np.bincount(windows.owner, minlength=len(records))
        sums = np.add.reduceat(of_windows, np.r_[0, np.cumsum(counts)[:-1]], axis=0)
        return np.asarray(sums / counts[:, None], dtype=np.float32)


def hand_crafted() -> SignalFeatures:
    """Return the baseline of hand-crafted features."""
    note = "quantiles, moments, slopes, bands and correlations of the leads"
    rate = BASELINE_INPUT.sampling_rate
    return SignalFeatures("hand-crafted", note, 1, lambda signals: hand_crafted_features(signals, rate))


def random_convolutions(n_seeds: int = N_KERNEL_SEEDS) -> SignalFeatures:
    """Return the baseline of random convolutions, of `n_seeds` draws of the kernels."""
    note = "504 random kernels: greatest value, share of positive values, deviation"
    draws = f"; mean of {n_seeds} draws of the kernels" if n_seeds > 1 else ""

    def compute(signals: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([random_convolution_features(signals, seed=seed) for seed in range(n_seeds)], axis=1)

    return SignalFeatures("random convolutions", note + draws, 1, compute, n_seeds)


@dataclass(frozen=True)
class EncoderFeatures:
    """A frozen encoder, through :class:`skecg.JEPAEmbedder` as any user would.

    Parameters
    ----------
    name : str
    model : str or Path
        As for the embedder.
    options : mapping of str to object
        Further parameters of the embedder (pooling, layer, stride, device, ...).
    """

    name: str
    model: str | Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> WeightsInfo:
        """What the weights say of themselves."""
        where = {name: self.options[name] for name in ("revision", "local_files_only") if name in self.options}
        return find_weights(self.model, **where)

    @property
    def standardize(self) -> bool:
        """Whether a probe may standardize the features: along principal directions their scales say what counts."""
        return self.options.get("truncate_dim") is None

    @property
    def note(self) -> str:
        """Window, stride, pooling, layer, and what trained the weights."""
        info = self.info
        known, window = info.provenance, info.spec.window_seconds
        untrained = "untrained" if known.get("trained") is False else "not known to be trained"
        parts = [
            f"{info.encoder.architecture}, {info.spec.n_leads} leads at {info.spec.sampling_rate:g} Hz",
            f"window {window:g} s",
            f"stride {self.options.get('stride') or window:g} s",
            f"pooling {self.options.get('pooling') or info.pooling}",
            *([f"first {n} directions"] if (n := self.options.get("truncate_dim")) else []),
            f"layer {self.options.get('layer') if self.options.get('layer') is not None else 'last'}",
            f"trained on {known.get('data', '?')}" if known.get("trained") is True else untrained,
            # Publishing looks for this word and digest: a report is of the weights, not of their name.
            f"weights {info.sha256[:12]}",
        ]
        return ", ".join(parts)

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> NDArray[np.float32]:
        """Embed all recordings, (n_records, n_features)."""
        embedder = JEPAEmbedder(
            self.model,
            sampling_rate=dataset.sampling_rate,
            leads=dataset.leads,
            cache=cache,
            verbose=verbose,
            **{"units": dataset.units, **self.options},
        )
        return embedder.fit_transform(dataset.records)


class Transformer(Protocol):
    """Anything of anybody's that turns records into features."""

    def transform(self, records: Sequence[ECGRecord]) -> NDArray[np.floating]:
        """Compute features (n_records, n_features) of records, each by itself.

        Records come some at a time, in millivolts, at the rate and with the leads of the data set.
        """


@dataclass(frozen=True)
class ObjectFeatures:
    """An object with ``transform(records)``, see :class:`Transformer`, named by where it is: ``module:attribute``.

    Its features are computed anew each time: what they depend on is not known here.

    Parameters
    ----------
    name : str
        What its row is called.
    target : str
        ``"package.module:attribute"`` or ``"file.py:attribute"``. A class is called without arguments.
    """

    name: str
    target: str

    @property
    def note(self) -> str:
        """Where it is from."""
        return f"features of {self.target}, not kept"

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> NDArray[np.float32]:
        """Compute the features of all recordings, (n_records, n_features)."""
        transformer = _transformer_at(self.target)
        source = _records_of(dataset)
        chunks: list[NDArray[np.float32]] = []
        with count_progress(len(source), self.name, "record", verbose=verbose) as progress:
            for rows in chunk_rows(len(source)):
                records = [source[row] for row in rows]
                chunks.append(self._checked(self._transformed(transformer, records), records, chunks))
                progress.update(len(rows))
        return np.concatenate(chunks)

    def _transformed(self, transformer: Transformer, records: Sequence[ECGRecord]) -> NDArray[Any]:
        """Return what an object makes of records, as an array of whatever shape."""
        try:
            features: Any = transformer.transform(records)
            if isinstance(features, torch.Tensor):
                features = features.detach().cpu()
                # NumPy has no bfloat16; booleans and complex numbers stay what they are, to be refused.
                features = features.double() if features.is_floating_point() else features
            return np.asarray(features)
        except SkecgError:
            raise
        except Exception as error:  # whatever somebody else's code raises, rows of different lengths too
            raise ParameterError(
                f"{self.target} failed on {len(records)} records, {records[0].name!r} the first "
                f"({type(error).__name__}: {error}); expected an array with one row for each."
            ) from error

    def _checked(
        self, table: NDArray[Any], records: Sequence[ECGRecord], before: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return features as float32, or raise for what is no table with a row for each record."""
        width = before[0].shape[1] if before else "n_features"
        fits = table.ndim == 2 and len(table) == len(records) and width in ("n_features", table.shape[1])
        if not fits or 0 in table.shape or table.dtype.kind not in "fiu":
            raise ShapeError(
                f"{self.target} gave {table.dtype} of shape {table.shape} for {len(records)} records, expected numbers "
                f"of shape ({len(records)}, {width}): one row for each record, all of one length."
            )
        with np.errstate(over="ignore"):
            features = table.astype(np.float32)
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            worst = int(finite.argmin())
            raise ShapeError(
                f"{self.target} gave numbers that are not finite in float32 for {int((~finite).sum())} of "
                f"{len(records)} records, {records[worst].name!r} the first; expected one row for each record, all "
                "finite. Fill in there what is missing."
            )
        return features


def is_object(model: str | Path) -> bool:
    """Return whether a model is named as an object of a module, and is no path that happens to hold a colon."""
    # C:\weights has a colon, too; what lies on the disk is a folder.
    return bool(re.fullmatch(r"[^:]+:[A-Za-z_][\w.]*", str(model))) and not Path(model).exists()


def _transformer_at(target: str) -> Transformer:
    """Import what is named, calling a class without arguments."""
    module, _, path = target.partition(":")
    found: Any = load_plugin(module)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ParameterError(f"Got the model {target!r}, but there is no {name!r} in {module!r}.")
        found = getattr(found, name)
    found = _made(target, found) if isinstance(found, type) else found
    if not callable(getattr(found, "transform", None)):
        raise ParameterError(
            f"Got the model {target!r}, a {type(found).__name__}, expected an object with transform(records)."
        )
    transformer: Transformer = found
    return transformer


def _made(target: str, kind: type) -> Any:
    """Call a class without arguments."""
    try:
        return kind()
    except Exception as error:  # whatever somebody else's code raises
        raise ParameterError(
            f"Got the model {target!r}, a class that cannot be called without arguments "
            f"({type(error).__name__}: {error}). Name an object that is made already, or a class that can."
        ) from error


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
    # The caller's own random numbers go on as if nothing had been drawn.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_encoder(info.encoder)
    about = {"name": f"untrained, seed {seed}", "trained": False, "licence": "Apache-2.0", "data": "none"}
    save_encoder(folder, encoder.eval(), info.spec, pooling=info.pooling, **about)
    return Path(folder)


def standard_sources(
    models: Sequence[str | Path],
    twins_folder: Path,
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    n_kernel_draws: int = N_KERNEL_SEEDS,
) -> list[tuple[str, FeatureSource]]:
    """Return the rows of the standard table: all baselines, and the models.

    Parameters
    ----------
    models : sequence of str or Path
        As for :class:`skecg.JEPAEmbedder`, or ``module:attribute``, an object with ``transform(records)``.
    twins_folder : Path
        Where the weights of untrained encoders of the models' shapes are written, one for each shape.
    options : mapping of str to object, optional
        Further parameters of the embedder, for the models and their untrained twins alike.
    seed : int, default=0
        Of the untrained weights.
    n_kernel_draws : int, default=5
        Draws of the random convolutions, whose scores are averaged.

    Returns
    -------
    list of (str, FeatureSource)
        :data:`BASELINE` or :data:`MODEL`, and what it is.

    Raises
    ------
    WeightsError
        When a model is not found, or damaged.
    ParameterError
        When there is no such object, or it has no ``transform``.
    """
    chosen = dict(options or {})
    named = _distinct_names(models)
    encoders = [EncoderFeatures(name, model, chosen) for name, model in named.items() if not is_object(model)]
    # Local weights know nothing of revisions on the Hub, and random ones bring no principal directions.
    foreign = ("revision", "local_files_only", "truncate_dim")
    own = {name: value for name, value in chosen.items() if name not in foreign}
    twins: dict[str, EncoderFeatures] = {}
    for encoder in encoders:
        info = encoder.info
        # By content: two models of one shape share a twin, which is computed once.
        shape = str((info.encoder.architecture, info.encoder.to_dict(), info.spec.to_dict(), info.pooling))
        if shape not in twins:
            folder = write_untrained_twin(info, twins_folder / f"untrained-{len(twins)}", seed=_TWIN_SEED + seed)
            twins[shape] = EncoderFeatures(f"untrained, shape of {encoder.name}", folder, own)
    baselines: list[FeatureSource] = [
        MajorityFeatures(),
        hand_crafted(),
        random_convolutions(n_kernel_draws),
        *twins.values(),
    ]
    known: dict[str, FeatureSource] = {encoder.name: encoder for encoder in encoders}
    models_in_order = [known.get(name) or ObjectFeatures(name, str(model)) for name, model in named.items()]
    for source in models_in_order:
        if isinstance(source, ObjectFeatures):
            _transformer_at(source.target)  # a name that is misspelt should not cost an hour
    return [(BASELINE, source) for source in baselines] + [(MODEL, source) for source in models_in_order]


def _distinct_names(models: Sequence[str | Path]) -> dict[str, str | Path]:
    """Name each model by the last part of its path, or by all of it where two would be called alike."""
    distinct = list(dict.fromkeys(map(str, models)))
    short = [Path(model).name or model for model in distinct]
    return {name if short.count(name) == 1 else model: model for name, model in zip(short, distinct, strict=True)}
