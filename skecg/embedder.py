"""JEPAEmbedder: a self-supervised ECG encoder behind scikit-learn's fit and transform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import sklearn
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skecg.backends import PRECISIONS, place
from skecg.compute.devices import resolve_precision
from skecg.compute.notebook import HeldWeights
from skecg.compute.progress import CallbackSupportMixin, Progress, with_callbacks
from skecg.embedding_cache import EmbeddingCache, open_cache
from skecg.encoders.base import resolve_layers
from skecg.encoders.encode import Encoding
from skecg.encoders.pooling import as_layers, check_pooling, n_registers
from skecg.errors import DamagedWeightsError, ParameterError
from skecg.hub.publishing import PushMixin
from skecg.inference.batches import EmbeddingConfig
from skecg.inference.inputs import RecordSource, record_source
from skecg.inference.pipeline import (
    CHUNK_RECORDS,
    ON_BAD_RECORD,
    Chunk,
    RecordTokens,
    embed_chunks,
    embed_tokens,
    fill_features,
)
from skecg.preprocessing.quality import Policies
from skecg.preprocessing.windows import check_stride
from skecg.validation import check_choice, check_jobs, is_integer
from skecg.weights import Verification, WeightsInfo, find_weights, read_attention, verify_weights

__all__ = ["JEPAEmbedder"]

# What ``transform`` returns; a tensor with output="torch" alone.
Features: TypeAlias = NDArray[np.float32] | torch.Tensor


class JEPAEmbedder(
    HeldWeights, PushMixin, CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Turn electrocardiograms into features with any encoder: skecg's own, another lab's, yours, an ONNX file.

    Fitting trains nothing, it settles which weights are meant. The process holds them once, for all clones and threads.

    Parameters
    ----------
    model : str or Path, default="default"
        A name of :func:`skecg.list_models`, a weights folder, or ``"owner/name"`` on the Hugging Face Hub. Any skecg
        weights serve, whatever objective or lab trained them and whatever is inside: ``skecg convert`` makes weights
        folders of published checkpoints and of ONNX files, :func:`skecg.save_encoder` of a module of your own.
    sampling_rate : float, default=None
        Samples a second (Hz) of arrays, and of files that do not carry their own. Records, and files that do, keep
        theirs.
    leads : list of str or dict of str to str, default=None
        Names of the rows of arrays, and of files that do not name theirs. Arrays of twelve rows may go without when
        they are in the order I, II, III, aVR, aVL, aVF, V1 to V6. ``{"MLII": "II"}`` says which of the twelve leads
        one with another name is, in records and files of any kind.
    units : {"mV", "uV", "V", "nV", "per-lead standard deviation"}, default="mV"
        Unit of arrays, and of files that do not carry theirs. ``"per-lead standard deviation"`` is for records, of any
        kind, whose leads were each divided by their own: each gets the amplitude back that is typical of it.
    path_column : str, default=None
        Column of paths of a data frame; its other columns are not looked at. Lists of paths or records are taken too.
    pooling : {"mean", "max", "mean+std", "mean+std+max", "cls", "attention"}, default=None
        How a window's tokens become one vector; None leaves it to the weights. A record's vector is the mean over its
        windows. ``"attention"`` is for weights that bring it: folders that a fine-tuned model with an attention head
        was saved to.
    truncate_dim : int, default=None
        How many features to keep: the coordinates along the first principal directions that come with the weights
        (:func:`skecg.weights.write_directions` makes them for yours). Of the weights' own pooling and last layer only.
        One cached embedding serves every number. Leave them their scales, without a
        :class:`~sklearn.preprocessing.StandardScaler`: directions along which recordings hardly differ count little
        then, as they should. What standardizes by itself (:class:`skecg.NoveltyScore`, :func:`skecg.similar`,
        :class:`skecg.RidgeProbe`, maps) takes ``standardize=False``.
    layer : int, list of int or str, default=None
        Block whose tokens are used, counted from 0 or, when negative, from the last; several are concatenated
        (``"last4"`` is the last four). None is the last.
    stride : float, default=None
        Seconds from one window of a long record to the next; None is the length of a window.
    missing_leads : {"raise", "zero", "subset"}, default="raise"
        What to do about leads that are neither there nor derivable: refuse the record, feed zeros, or leave them out of
        the encoder. Weights made for any subset of leads leave them out without being told.
    short_records : {"raise", "pad"}, default="raise"
        What to do about records under one second. Longer ones that do not fill a window are always padded, and their
        padding is kept out of attention and pooling.
    on_bad_record : {"raise", "warn", "nan"}, default="raise"
        What to do about a record that cannot be read or embedded: refuse all, or give it a row of NaN, with or without
        a warning. The reasons are in ``bad_records_``.
    batch_size : int or "auto", default="auto"
        Windows that go through the encoder together. Features do not depend on it beyond rounding.
    device : str or list of str, default="auto"
        Where to compute, found anew at each use and never stored: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, … or
        several, ``["cuda:0", "cuda:1"]``, which take windows as they become free.
    precision : {"auto", "fp32", "bf16", "int8"}, default="auto"
        ``"auto"`` is float32. ``"bf16"`` runs matrix products in bfloat16, with torch; ``"int8"`` runs linear layers
        in integers of eight bits, with ``backend="onnx"``. Both change features a little: see :doc:`/speed`.
    backend : {"torch", "onnx", "openvino"}, default="torch"
        What runs the encoder; the others need the extra of that name, and compute on the CPU.
    cache : {"memory", "disk"}, path, None, default="memory"
        Where embeddings are kept by content, so that no record is embedded twice: in this process, in the user's cache
        folder, in a folder named, or not at all. Embeddings of patients are personal data: folders are made private.
        Searches and cross-validations with ``n_jobs`` of their own start processes, which share folders but no memory.
    output : {"numpy", "torch"}, default="numpy"
        What ``transform`` returns: an array, or a ``torch.Tensor`` on the CPU, float32, which shares no memory with the
        cache and takes no gradient. ``set_output`` makes frames of arrays, not of tensors.
    n_jobs : int, default=None
        Files read and batches encoded at once. None reads one by one and encodes on the cores that torch may use.
    revision : str, default=None
        Branch, tag or commit of weights on the Hub.
    local_files_only : bool, default=False
        Whether to refuse to ask the network for weights.
    verify_checksums : bool, default=False
        Whether to compare the signals of WFDB records with the checksums in their headers, where these state any.
    verbose : int, default=0
        Whether to show a progress bar.

    Attributes
    ----------
    n_features_in_ : int
        Number of leads of 3-D input, of samples of 2-D input; not set for records and paths.
    embedding_dim_ : int
        Number of features of a record.
    weights_sha256_ : str
        Digest of the weights settled by ``fit``; others are refused later.
    revision_ : str or None
        Commit of the weights on the Hub.
    bad_records_ : dict of int to str
        Reasons of the rows of NaN in the last ``transform``, by row.

    leads_used_ : list of tuple of str
        Leads of the encoder that each record of the last ``transform`` had, or had others to derive them from.

    See Also
    --------
    skecg.read_records : Files to records.
    skecg.prepare : Records to the windows that an encoder sees.

    Notes
    -----
    Accepted as `X`: a float array (n_records, n_leads, n_samples), or (n_records, n_samples) for one lead; a list,
    object array or Series of :class:`skecg.ECGRecord`, ``wfdb.Record``, arrays (n_leads, n_samples) of any lengths, or
    paths; a data frame with one column of paths, or with several and `path_column`; tensors on any device.

    Gaps (NaN) in records of a second or more are bridged by straight lines, with a warning. scikit-learn's tag
    ``allow_nan`` stays false all the same: in anything shorter they are an error.

    scikit-learn's ``check_estimator`` passes whole for ``JEPAEmbedder(leads=["II"], sampling_rate=250,
    short_records="pad")``, since it feeds a few samples of one lead without saying at what rate. A bare
    ``JEPAEmbedder()`` refuses those: there is no rate, and no length of a recording, that would be safe to assume.

    Examples
    --------
    >>> from skecg import JEPAEmbedder
    >>> from skecg.datasets import make_ecg
    >>> records = make_ecg(3, random_state=0).records
    >>> JEPAEmbedder().fit_transform(records).shape
    (3, 1188)
    """

    def __init__(
        self,
        model: str | Path = "default",
        *,
        sampling_rate: float | None = None,
        leads: Sequence[str] | Mapping[str, str] | None = None,
        units: str = "mV",
        path_column: str | None = None,
        pooling: str | None = None,
        truncate_dim: int | None = None,
        layer: int | Sequence[int] | str | None = None,
        stride: float | None = None,
        missing_leads: str = "raise",
        short_records: str = "raise",
        on_bad_record: str = "raise",
        batch_size: int | str = "auto",
        device: str | Sequence[str] = "auto",
        precision: str = "auto",
        backend: str = "torch",
        cache: str | Path | EmbeddingCache | None = "memory",
        output: str = "numpy",
        n_jobs: int | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        verify_checksums: bool = False,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.sampling_rate = sampling_rate
        self.leads = leads
        self.units = units
        self.path_column = path_column
        self.pooling = pooling
        self.truncate_dim = truncate_dim
        self.layer = layer
        self.stride = stride
        self.missing_leads = missing_leads
        self.short_records = short_records
        self.on_bad_record = on_bad_record
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.backend = backend
        self.cache = cache
        self.output = output
        self.n_jobs = n_jobs
        self.revision = revision
        self.local_files_only = local_files_only
        self.verify_checksums = verify_checksums
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, *, sampling_rate: ArrayLike | None = None) -> Self:
        """Check the input and the parameters and settle which weights are meant; nothing is trained or read.

        Parameters
        ----------
        X : array-like
            Records, as described in the notes.
        y : ignored
        sampling_rate : float or array-like of shape (n_records,), optional
            Rate of each record (Hz), instead of the constructor's; for scikit-learn's metadata routing.

        Returns
        -------
        self
        """
        self._check_choices()
        info = find_weights(self.model, revision=self.revision, local_files_only=self.local_files_only)
        # Before X is looked at: what does not go with the weights is an error of the parameters.
        config = self._combine(info)
        self._source(X, sampling_rate, reset=True)
        self.weights_sha256_ = info.sha256
        self.revision_ = info.revision
        # Weights alone do not settle a feature: config.json says how they are fed and pooled.
        self._settings = self._settings_of(info)
        self.embedding_dim_ = self._n_features_out = config.n_features
        self.bad_records_: dict[int, str] = {}
        # Changed in place: scikit-learn wants an estimator's attributes to stay what they were through ``transform``.
        self._leads_used: list[tuple[str, ...]] = []
        return self

    def transform(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> Features:
        """Embed records.

        Parameters
        ----------
        X : array-like
            Records, as described in the notes.
        sampling_rate : float or array-like of shape (n_records,), optional
            Rate of each record (Hz), instead of the constructor's.

        Returns
        -------
        ndarray or Tensor of shape (n_records, n_features), float32
            One row for each record, in their order; a tensor where ``output="torch"``.

        Raises
        ------
        InputError
            When a record cannot be embedded and ``on_bad_record="raise"``; the message names the record.
        RecordReadError
            When a file cannot be read and ``on_bad_record="raise"``.
        WeightsError
            When the weights are not those settled by ``fit``, or are damaged.
        """
        return self._embed(X, sampling_rate, report_to=None)

    @with_callbacks
    def fit_transform(self, X: Any, y: Any = None, *, sampling_rate: ArrayLike | None = None) -> Features:
        """Fit, then transform the same records; unlike scikit-learn's default, both see `sampling_rate`.

        Parameters
        ----------
        X, y, sampling_rate
            As in :meth:`fit`.

        Returns
        -------
        ndarray or Tensor of shape (n_records, n_features), float32
        """
        return self.fit(X, y, sampling_rate=sampling_rate)._embed(X, sampling_rate, report_to=self)

    def transform_tokens(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> list[RecordTokens]:
        """Embed records without pooling.

        Parameters
        ----------
        X, sampling_rate
            As in :meth:`transform`.

        Returns
        -------
        list of RecordTokens
            For each record the tokens (n_tokens, D), and for each token when it begins and ends (seconds) and which
            lead it sees (``"all"`` where a token sees all).

        Raises
        ------
        InputError, RecordReadError
            When a record cannot be embedded, whatever `on_bad_record` says: there is no row of NaN to give.
        """
        check_is_fitted(self)
        return embed_tokens(self._source(X, sampling_rate, reset=False), self.embedding_config())

    def transform_chunks(self, X: Any, *, first: int = 0, sampling_rate: ArrayLike | None = None) -> Iterator[Chunk]:
        """Embed records some at a time, for programs that keep what is done, as ``skecg embed`` does.

        Parameters
        ----------
        X, sampling_rate
            As in :meth:`transform`.
        first : int, default=0
            Number of the record to begin with.

        Returns
        -------
        iterator of :class:`skecg.inference.pipeline.Chunk`
            Neither errors of records nor warnings are raised, whatever `on_bad_record` says; they are in the chunks.
        """
        check_is_fitted(self)
        source = self._source(X, sampling_rate, reset=False)
        # Opened now, so that a folder that cannot be written to shows at fit and not after an hour.
        return embed_chunks(source, self.embedding_config(), open_cache(self.cache), first=first, n_jobs=self.n_jobs)

    @property
    def leads_used_(self) -> list[tuple[str, ...]]:
        """Leads of the encoder that each record of the last ``transform`` had, or had others to derive them from."""
        check_is_fitted(self)
        return list(self._leads_used)

    def embedding_config(self) -> EmbeddingConfig:
        """Return everything that shapes the embeddings, for programs that keep them, as ``skecg embed`` does.

        Returns
        -------
        :class:`skecg.inference.batches.EmbeddingConfig`
            The weights that ``fit`` settled, encoding and policies. Its ``fingerprint`` differs when embeddings may.

        Raises
        ------
        WeightsError
            When the weights are not those settled by ``fit``, or are damaged.
        ParameterError
            When parameters were set since that change the number of features.
        """
        check_is_fitted(self)
        config = self._combine(self._settled_weights())
        if config.n_features != self.embedding_dim_:
            raise ParameterError(
                f"Got parameters that give {config.n_features} features, expected the {self.embedding_dim_} that fit "
                "settled. Fit again after set_params."
            )
        return config

    def verify(self) -> Verification:
        """Embed the golden records that came with the weights and say, in a sentence, how far off this machine is.

        Returns
        -------
        Verification
        """
        return verify_weights(find_weights(self.model, revision=self.revision, local_files_only=self.local_files_only))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the leads of the last records behind: they are those records', not the embedder's."""
        state = super().__getstate__()
        return {**state, "_leads_used": []} if "_leads_used" in state else state

    def _held_weights(self) -> str | None:
        if not hasattr(self, "weights_sha256_"):
            return None
        at = f" at commit {self.revision_}" if self.revision_ else ""
        return (
            f"Weights: {self.model}{at}, sha256 {self.weights_sha256_[:16]}…, {self.embedding_dim_} features a record."
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Beside 2-D arrays, which mean one lead: tagged 3-D alone, scikit-learn would skip its common checks.
        tags.input_tags.three_d_array = True
        # Features are float32 whatever comes in (and scikit-learn's check would ask for float64).
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_sha256_")

    def _check_choices(self) -> None:
        """Raise for what the constructor stored unseen; what the weights have a say in is checked with them."""
        Policies(self.missing_leads, self.short_records)
        check_choice("on_bad_record", self.on_bad_record, ON_BAD_RECORD)
        size = self.batch_size
        if size != "auto" and not is_integer(size, 1):
            raise ParameterError(f"Got batch_size={size!r}, expected a positive integer or 'auto'.")
        check_jobs(self.n_jobs)
        check_choice("output", self.output, ("numpy", "torch"))
        open_cache(self.cache)

    def _combine(self, info: WeightsInfo) -> EmbeddingConfig:
        """Combine the parameters with what the weights say."""
        attention = read_attention(info) if self.pooling == "attention" else None
        pooling = "attention" if attention else check_pooling(self.pooling or info.pooling, n_registers(info.encoder))
        layers = as_layers(-1 if self.layer is None else self.layer)
        resolve_layers(layers, len(info.encoder.stages))
        encoding = Encoding(
            pooling=pooling,
            layers=layers,
            batch_size=None if self.batch_size == "auto" else int(self.batch_size),
            precision=resolve_precision(self.precision, PRECISIONS),
            n_jobs=self.n_jobs,
            attention=attention,
        )
        devices = place(self.backend, self.device, encoding.precision, info.encoder)
        check_stride(self.stride, info.spec)
        return EmbeddingConfig(
            info,
            encoding,
            devices,
            self.stride,
            self.missing_leads,
            self.short_records,
            self.backend,
            self.truncate_dim,
        )

    def _source(self, X: Any, sampling_rate: ArrayLike | None, *, reset: bool) -> RecordSource:
        """Make a source of records of X, checking arrays as scikit-learn does."""
        # Where bad records become rows of NaN, an array with gaps is not refused as a whole.
        return record_source(self, X, sampling_rate, reset=reset, refuse_gaps=self.on_bad_record == "raise")

    def _settled_weights(self) -> WeightsInfo:
        """Find the weights that ``fit`` settled on, at the same commit; parameters may have been set since."""
        self._check_choices()
        info = find_weights(
            self.model, revision=self.revision_ or self.revision, local_files_only=self.local_files_only
        )
        if info.sha256 != self.weights_sha256_:
            raise DamagedWeightsError(
                f"The weights of {str(self.model)!r} are not those this embedder was fitted with (sha256 "
                f"{info.sha256[:16]}…, expected {self.weights_sha256_[:16]}…). Fit again if you changed model=, else "
                "restore them."
            )
        if self._settings_of(info) != self._settings:
            raise DamagedWeightsError(
                f"The configuration of {str(self.model)!r} is not the one this embedder was fitted with: "
                f"config.json in {info.folder} was changed. Restore it, or fit again."
            )
        return info

    def _settings_of(self, info: WeightsInfo) -> tuple[str | None, ...]:
        """Return what of a weights folder shapes features, beside its tensors; directions where they are used."""
        directions = None if self.truncate_dim is None else info.directions_sha256
        attention = read_attention(info).sha256 if self.pooling == "attention" else None
        return info.digest, info.pooling, directions, attention

    def _check_output(self) -> None:
        """Raise where scikit-learn would make a frame of a tensor, which some versions do, and others do not."""
        of_this = getattr(self, "_sklearn_output_config", {}).get("transform")
        frame = of_this or sklearn.get_config()["transform_output"]
        if self.output == "torch" and frame != "default":
            raise ParameterError(
                f"Got output='torch' and set_output(transform={frame!r}), which want two things at once. Pass "
                "output='numpy' for a frame, or set_output(transform='default') for a tensor."
            )

    def _embed(self, X: Any, sampling_rate: ArrayLike | None, report_to: Any) -> Features:
        """Embed all records into one table, with progress and warnings."""
        check_is_fitted(self)
        self._check_output()
        source, config = self._source(X, sampling_rate, reset=False), self.embedding_config()
        features = np.empty((len(source), config.n_features), dtype=np.float32)
        chunks = embed_chunks(source, config, open_cache(self.cache), n_jobs=self.n_jobs)
        n_chunks = -(-len(source) // CHUNK_RECORDS)
        progress = Progress(len(source), n_chunks, verbose=self.verbose, estimator=report_to)
        self.bad_records_, self._leads_used[:] = fill_features(
            chunks,
            features,
            progress,
            config.info.spec,
            source.label,
            on_bad_record=self.on_bad_record,
        )
        source.warn_of_unmet_leads()
        return torch.from_numpy(features) if self.output == "torch" else features
