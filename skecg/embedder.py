"""JEPAEmbedder: a self-supervised ECG encoder behind scikit-learn's fit and transform."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import _check_n_features, check_is_fitted, validate_data

from skecg.devices import resolve_device, resolve_precision
from skecg.embedding import CHUNK_RECORDS, Chunk, Recipe, embed_chunks
from skecg.embedding_cache import EmbeddingCache, open_cache
from skecg.encoders.interface import resolve_layers
from skecg.encoding import Encoding
from skecg.errors import DamagedWeightsError, ParameterError, SignalWarning
from skecg.inputs import RecordSource, as_items, is_numeric_array, tensor_to_numpy
from skecg.pooling import as_layers, check_pooling
from skecg.progress import CallbackSupportMixin, Progress, with_callbacks
from skecg.screening import warn_once_a_kind
from skecg.tokens import RecordTokens, embed_tokens
from skecg.weights import Verification, WeightsInfo, find_weights, verify_weights
from skecg.windows import check_stride

__all__ = ["JEPAEmbedder"]

_CHOICES = {
    "missing_leads": ("raise", "zero", "subset"),
    "short_records": ("raise", "pad"),
    "on_bad_record": ("raise", "warn", "nan"),
}


class JEPAEmbedder(CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn electrocardiograms into features with a self-supervised encoder.

    Fitting trains nothing: it checks what it is given and settles which weights are meant. Weights are never held by
    the estimator: clones, threads and pickles share one copy in the process.

    Parameters
    ----------
    model : str or Path, default="default"
        A name of :func:`skecg.list_models`, a weights folder, or ``"owner/name"`` on the Hugging Face Hub. Any skecg
        weights serve, whatever objective trained them.
    sampling_rate : float, default=None
        Samples a second (Hz) of arrays, and of files that do not carry their own. Records, and files that do, keep
        theirs.
    leads : list of str, default=None
        Names of the rows of arrays, and of files that do not name theirs. Arrays of twelve rows may go without when
        they are in the order I, II, III, aVR, aVL, aVF, V1 to V6.
    units : {"mV", "uV", "V", "nV"}, default="mV"
        Unit of arrays, and of files that do not carry theirs.
    pooling : {"mean", "max", "mean+std", "cls"}, default=None
        How a window's tokens become one vector; None leaves it to the weights. A record's vector is the mean over its
        windows.
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
    device : str, default="auto"
        Where to compute, found anew at each use and never stored: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …
    precision : {"auto", "fp32", "bf16"}, default="auto"
        ``"auto"`` is float32. ``"bf16"`` runs matrix products in bfloat16.
    cache : {"memory", "disk"}, path, None, default="memory"
        Where embeddings are kept by content, so that no record is embedded twice: in this process, in the user's cache
        folder, in a folder named, or not at all. Embeddings of patients are personal data: folders are made private.
    n_jobs : int, default=None
        Files read and batches encoded at once. None reads one by one and encodes on the cores that torch may use.
    revision : str, default=None
        Branch, tag or commit of weights on the Hub.
    local_files_only : bool, default=False
        Whether to refuse to ask the network for weights.
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

    See Also
    --------
    skecg.read_records : Files to records.
    skecg.prepare : Records to the windows that an encoder sees.

    Notes
    -----
    Accepted as `X`: a float array (n_records, n_leads, n_samples), or (n_records, n_samples) for one lead; a list,
    object array or Series of :class:`skecg.ECGRecord`, ``wfdb.Record``, arrays (n_leads, n_samples) of any lengths, or
    paths; a data frame with one column of paths; tensors on any device.

    Gaps (NaN) in records of a second or more are bridged by straight lines, with a warning. scikit-learn's tag
    ``allow_nan`` stays false all the same: in anything shorter they are an error.

    Examples
    --------
    >>> from skecg import JEPAEmbedder
    >>> from skecg.datasets import make_ecg
    >>> records = make_ecg(3, random_state=0).records
    >>> JEPAEmbedder().fit_transform(records).shape
    (3, 256)
    """

    _doc_link_module = "skecg"
    _doc_link_template = "https://skecg.readthedocs.io/en/latest/api/generated/skecg.{estimator_name}.html"

    def __init__(
        self,
        model: str | Path = "default",
        *,
        sampling_rate: float | None = None,
        leads: Sequence[str] | None = None,
        units: str = "mV",
        pooling: str | None = None,
        layer: int | Sequence[int] | str | None = None,
        stride: float | None = None,
        missing_leads: str = "raise",
        short_records: str = "raise",
        on_bad_record: str = "raise",
        batch_size: int | str = "auto",
        device: str = "auto",
        precision: str = "auto",
        cache: str | Path | EmbeddingCache | None = "memory",
        n_jobs: int | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.sampling_rate = sampling_rate
        self.leads = leads
        self.units = units
        self.pooling = pooling
        self.layer = layer
        self.stride = stride
        self.missing_leads = missing_leads
        self.short_records = short_records
        self.on_bad_record = on_bad_record
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.cache = cache
        self.n_jobs = n_jobs
        self.revision = revision
        self.local_files_only = local_files_only
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
        recipe = self._recipe(info)
        self._source(X, sampling_rate, reset=True)
        self.weights_sha256_ = info.sha256
        self.revision_ = info.revision
        self.embedding_dim_ = self._n_features_out = recipe.n_features
        self.bad_records_: dict[int, str] = {}
        return self

    def transform(self, X: Any, *, sampling_rate: ArrayLike | None = None) -> NDArray[np.float32]:
        """Embed records.

        Parameters
        ----------
        X : array-like
            Records, as described in the notes.
        sampling_rate : float or array-like of shape (n_records,), optional
            Rate of each record (Hz), instead of the constructor's.

        Returns
        -------
        ndarray of shape (n_records, n_features), float32
            One row for each record, in their order.

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
    def fit_transform(self, X: Any, y: Any = None, *, sampling_rate: ArrayLike | None = None) -> NDArray[np.float32]:
        """Fit, then transform the same records; unlike scikit-learn's default, both see `sampling_rate`.

        Parameters
        ----------
        X, y, sampling_rate
            As in :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_records, n_features), float32
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
        return embed_tokens(self._source(X, sampling_rate, reset=False), self._recipe(self._settled_weights()))

    def verify(self) -> Verification:
        """Embed the golden records that came with the weights and say how far off this machine is.

        Returns
        -------
        Verification
            Prints as a sentence; ``passed`` says whether it is close enough.
        """
        return verify_weights(find_weights(self.model, revision=self.revision, local_files_only=self.local_files_only))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_sha256_")

    def _check_choices(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise ParameterError(f"Got {name}={getattr(self, name)!r}, expected one of {choices}.")
        size = self.batch_size
        if size != "auto" and (isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1):
            raise ParameterError(f"Got batch_size={size!r}, expected a positive integer or 'auto'.")
        open_cache(self.cache)

    def _recipe(self, info: WeightsInfo) -> Recipe:
        """Combine the parameters with what the weights say."""
        pooling = check_pooling(self.pooling or info.pooling, int(getattr(info.encoder, "num_registers", 0)))
        layers = as_layers(-1 if self.layer is None else self.layer)
        resolve_layers(layers, info.encoder.depth)
        encoding = Encoding(
            pooling=pooling,
            layers=layers,
            batch_size=None if self.batch_size == "auto" else int(self.batch_size),
            precision=resolve_precision(self.precision),
            n_jobs=self.n_jobs,
        )
        device = resolve_device(self.device)
        check_stride(self.stride, info.spec)
        return Recipe(info, encoding, device, self.stride, self.missing_leads, self.short_records)

    def _source(self, X: Any, sampling_rate: ArrayLike | None, *, reset: bool) -> RecordSource:
        """Make a source of records of X, checking arrays as scikit-learn does."""
        X = tensor_to_numpy(X)
        if is_numeric_array(X):
            X = validate_data(
                self, X, reset=reset, dtype="numeric", ensure_2d=False, allow_nd=True, ensure_all_finite=False
            )
            if X.ndim not in (2, 3):
                raise ParameterError(
                    f"Got X of shape {X.shape}. Expected 2D array (one lead per record) or 3D array "
                    "(n_records, n_leads, n_samples). Reshape your data: one record is X[np.newaxis]."
                )
            _check_n_features(self, X, reset=reset)
            items: Any = X
        else:
            items = as_items(X)
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        return RecordSource(items, sampling_rate=rate, leads=self.leads, units=self.units)

    def _settled_weights(self) -> WeightsInfo:
        """Find the weights that ``fit`` settled on, at the same commit."""
        info = find_weights(
            self.model, revision=self.revision_ or self.revision, local_files_only=self.local_files_only
        )
        if info.sha256 != self.weights_sha256_:
            raise DamagedWeightsError(
                f"The weights of {str(self.model)!r} are not those this embedder was fitted with (sha256 "
                f"{info.sha256[:16]}…, expected {self.weights_sha256_[:16]}…). Restore them, or fit again."
            )
        return info

    def _embed(self, X: Any, sampling_rate: ArrayLike | None, report_to: Any) -> NDArray[np.float32]:
        check_is_fitted(self)
        source = self._source(X, sampling_rate, reset=False)
        recipe = self._recipe(self._settled_weights())
        features = np.empty((len(source), recipe.n_features), dtype=np.float32)
        self.bad_records_.clear()
        notes: dict[int, tuple[str, ...]] = {}
        chunks = embed_chunks(source, recipe, open_cache(self.cache), n_jobs=self.n_jobs)
        n_chunks = -(-len(source) // CHUNK_RECORDS)
        progress = Progress(len(source), n_chunks, verbose=self.verbose, estimator=report_to)
        with progress.whole():
            for chunk in chunks:
                with progress.chunk(len(chunk.rows)):
                    self._note_failures(chunk)
                    notes |= chunk.notes
                    features[chunk.rows[0] : chunk.rows[-1] + 1] = chunk.features
        warn_once_a_kind(list(notes.values()), [f"record {row}" for row in notes], stacklevel=4)
        if self.bad_records_ and self.on_bad_record == "warn":
            shown = "; ".join(f"{row}: {reason}" for row, reason in list(self.bad_records_.items())[:3])
            warnings.warn(
                f"{len(self.bad_records_)} of {len(source)} records could not be embedded and have rows of NaN ({shown}"
                f"{'; …' if len(self.bad_records_) > 3 else ''}). All reasons are in bad_records_.",
                SignalWarning,
                stacklevel=3,
            )
        return features

    def _note_failures(self, chunk: Chunk) -> None:
        for row, error in chunk.failures.items():
            if self.on_bad_record == "raise":
                error.add_note(
                    f"This is record {row} of X. on_bad_record='warn' gives such records a row of NaN instead."
                )
                raise error
            self.bad_records_[row] = f"{type(error).__name__}: {error}"
