"""ShardSet: packed recordings as they lie on disk, read by row."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.embedding_cache import default_cache_folder
from skecg.errors import DamagedRecordError, MissingDependencyError, ParameterError, RecordNotFoundError
from skecg.io.files import alone_in, replacing
from skecg.spec import InputSpec

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "ShardSet",
    "digest_of",
    "fetch_shards",
    "is_whole",
    "open_shards",
]

MANIFEST = "manifest.json"

FORMAT_VERSION = 1

# Shards that are copied at the same time.
_COPIES = 4


class ShardSet:
    """Segments of recordings: int16, twelve leads, one sampling rate, memory-mapped.

    A row is a segment; a recording longer than one has several.

    Parameters
    ----------
    folder : Path
        As :func:`pretraining.data.pack.pack` wrote it.

    Attributes
    ----------
    n_records : int
        Rows.
    spec : InputSpec
        How the rows were prepared: leads, rate, filter and length, no normalization.
    corpora : tuple of str
        Names of the corpora.
    corpus_of : ndarray of shape (n_records,), int64
        Which of `corpora` each row is of.
    fingerprint : str
        SHA-256 (hexadecimal) of the manifest, which holds the checksums of all values: equal for equal contents.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        content = _read_manifest(folder)
        self.manifest = _parse_manifest(content, folder)
        if self.manifest.get("format") != FORMAT_VERSION:
            raise DamagedRecordError(
                f"Got shards of format {self.manifest.get('format')!r} in {folder}, expected {FORMAT_VERSION}. "
                "Pack them again."
            )
        # The manifest holds the digest of every shard, so its own digest stands for all values.
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.spec = InputSpec.from_dict(self.manifest["input"])
        self.corpora: tuple[str, ...] = tuple(self.manifest["corpora"])
        counts = [shard["n_segments"] for shard in self.manifest["shards"]]
        self._first = np.cumsum([0, *counts])
        self.n_records = int(self._first[-1])
        shape = (len(self.leads), self.segment_samples)
        self._signals = [_map_signals(folder / f"{i:05d}.npy", (n, *shape)) for i, n in enumerate(counts)]

    def __len__(self) -> int:
        return self.n_records

    def __repr__(self) -> str:
        seconds = self.segment_samples / self.sampling_rate
        return (
            f"ShardSet({self.n_records} segments of {seconds:g} s at {self.sampling_rate:g} Hz, "
            f"{', '.join(self.corpora)})"
        )

    @property
    def sampling_rate(self) -> float:
        """Samples a second (Hz)."""
        return self.spec.sampling_rate

    @property
    def leads(self) -> tuple[str, ...]:
        """The twelve leads, in their order."""
        return self.spec.leads

    @property
    def segment_samples(self) -> int:
        """Length of a row."""
        return self.spec.window_samples

    @property
    def summary(self) -> str:
        """What was packed and what was left out, in a few lines."""
        return str(self.manifest["summary"])

    @cached_property
    def corpus_of(self) -> NDArray[np.int64]:
        """Which of `corpora` each row is of."""
        numbers = {corpus: number for number, corpus in enumerate(self.corpora)}
        return np.array([numbers[corpus] for corpus in self._column("corpus").tolist()], dtype=np.int64)

    @cached_property
    def sources(self) -> NDArray[np.str_]:
        """What each row's recording is called in its corpus."""
        return self._column("source")

    @cached_property
    def patients(self) -> NDArray[np.str_]:
        """Whom each row is of; empty where nobody says. Numbers are those of the corpus."""
        return self._column("patient")

    @cached_property
    def folds(self) -> NDArray[np.int16]:
        """Fold of each row in its corpus' own cross-validation, -1 for none."""
        return self._column("fold")

    @cached_property
    def start_samples(self) -> NDArray[np.int64]:
        """Where each row starts in its recording, at the rate of the shards."""
        return self._column("start_samples")

    @cached_property
    def original_rates(self) -> NDArray[np.float64]:
        """Sampling rate (Hz) of each row's recording."""
        return self._column("rate")

    @cached_property
    def valid_samples(self) -> NDArray[np.int32]:
        """How much of each row is signal; the last value is held from there on."""
        return self._column("valid_samples")

    @cached_property
    def scale_uv(self) -> NDArray[np.float32]:
        """Microvolts a step of each row."""
        return self._column("scale_uv")

    @cached_property
    def lead_mask(self) -> NDArray[np.bool_]:
        """Whether each row (n_records, 12) has a lead; those it has not are 0."""
        return self._column("lead_mask")

    def rows_of(self, corpus: str) -> NDArray[np.int64]:
        """Return the rows of a corpus, ascending."""
        return self._rows[self.corpora.index(corpus)]

    def gather(
        self,
        rows: Sequence[int] | NDArray[np.integer],
        *,
        out: NDArray[np.int16] | None = None,
        readers: Executor | None = None,
        n_readers: int = 1,
    ) -> NDArray[np.int16]:
        """Read rows, in the order asked for; a row may come twice.

        Parameters
        ----------
        rows : array-like of shape (b,), int
            From 0 to ``n_records - 1``.
        out : ndarray of shape (b, 12, segment_samples), int16, optional
            Where they go.
        readers : Executor of threads, optional
            Reads in as many parts as `n_readers` says, so that a disk has several requests at a time; the caller reads
            all when not given.
        n_readers : int, default=1

        Returns
        -------
        ndarray of shape (b, 12, segment_samples), int16

        Raises
        ------
        ParameterError
            When a row is out of range.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        # A negative row would read from the end, as Python's indices do.
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.n_records):
            raise ParameterError(f"Got rows from {wanted.min()} to {wanted.max()}, expected 0 to {self.n_records - 1}.")
        shape = (len(wanted), len(self.leads), self.segment_samples)
        gathered = np.empty(shape, dtype=np.int16) if out is None else out
        # Ascending, so that a disk that turns is read in one direction.
        order = np.argsort(wanted, kind="stable")
        shards = np.searchsorted(self._first, wanted[order], side="right") - 1
        local = wanted[order] - self._first[shards]

        def read(part: slice) -> None:
            for place, shard, row in zip(
                order[part].tolist(), shards[part].tolist(), local[part].tolist(), strict=True
            ):
                gathered[place] = self._signals[shard][row]

        ends = np.linspace(0, len(wanted), n_readers + 1).astype(int).tolist()
        parts = [slice(first, last) for first, last in itertools.pairwise(ends)]
        for _ in map(read, parts) if readers is None else readers.map(read, parts):
            pass  # an error of a reader is raised here
        return gathered

    @cached_property
    def _rows(self) -> list[NDArray[np.int64]]:
        """The rows of each corpus."""
        return [np.flatnonzero(self.corpus_of == number) for number in range(len(self.corpora))]

    @cached_property
    def _indices(self) -> list[Path]:
        """The index of each shard, compared with the manifest's checksum: another scale would be another signal."""
        paths = [self.folder / f"{number:05d}.npz" for number in range(len(self._signals))]
        for path, shard in zip(paths, self.manifest["shards"], strict=True):
            _check_index(path, shard["index_sha256"])
        return paths

    def _column(self, name: str) -> NDArray[Any]:
        """Read one column of the index of all shards."""
        columns = []
        for path in self._indices:
            with np.load(path, allow_pickle=False) as index:
                columns.append(index[name])
        return np.concatenate(columns)


def digest_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over the values of several arrays."""
    digest = hashlib.sha256()
    for name, values in arrays.items():
        digest.update(f"{name} {values.dtype.str} {values.shape};".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def is_whole(folder: Path, number: int, stated: Mapping[str, Any], row_shape: tuple[int, int]) -> bool:
    """Return whether the files of a shard are there: signals of the size that is stated, an index of its values.

    The values of signals are not looked at: of a large archive they take as long to read as to write.
    """
    stem = folder / f"{number:05d}"
    try:
        _map_signals(stem.with_suffix(".npy"), (stated["n_segments"], *row_shape))
        _check_index(stem.with_suffix(".npz"), stated["index_sha256"])
    except DamagedRecordError:
        return False
    return True


def open_shards(folder: str | Path) -> ShardSet:
    """Open what :func:`pretraining.data.pack.pack` wrote.

    The signals of a shard are checked for their shape and size; their values are not read before they are used. The
    values of its index are compared with the manifest's checksum when they are first needed.

    Parameters
    ----------
    folder : str or Path
        Or an address of remote storage (``s3://bucket/shards``), as fsspec knows them. What lies there is copied to the
        cache of this machine first, once; see :func:`fetch_shards`.

    Returns
    -------
    ShardSet

    Raises
    ------
    RecordNotFoundError
        When the folder holds no shards, or packing has not been finished.
    DamagedRecordError
        When the manifest cannot be read, the signals of a shard have another shape or size than it says, or what is
        copied has other values.
    MissingDependencyError
        When the package for a kind of remote storage is not installed.
    """
    return ShardSet(fetch_shards(str(folder)) if "://" in str(folder) else Path(folder))


def fetch_shards(address: str) -> Path:
    """Copy shards from remote storage to the cache, where that has not been done before, and return their folder.

    The folder is named by what the shards hold. A copy that was interrupted goes on; the values of each shard and of
    its index are compared with the manifest's checksums, and copied again where they are others. Of the processes of a
    machine one copies, and the others wait for it.
    """
    from fsspec.core import url_to_fs
    from tqdm import tqdm

    try:
        storage, root = url_to_fs(address)
        content = storage.cat_file(f"{root}/{MANIFEST}")
    except (ImportError, ValueError) as error:
        raise MissingDependencyError(f"Got shards at {address!r}, which cannot be reached: {error}") from error
    except FileNotFoundError as error:
        raise RecordNotFoundError(f"There are no shards at {address!r}, or packing was not finished.") from error
    folder = _shard_cache() / hashlib.sha256(content).hexdigest()[:16]
    manifest = _parse_manifest(content, address)
    spec = InputSpec.from_dict(manifest["input"])
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, wait=True), ThreadPoolExecutor(_COPIES) as threads:
        # Of a finished copy only what was damaged since then is copied anew.
        is_copied = (folder / MANIFEST).is_file()
        lacking = [
            (number, stated)
            for number, stated in enumerate(manifest["shards"])
            if not (is_copied and is_whole(folder, number, stated, (spec.n_leads, spec.window_samples)))
        ]
        copies = [threads.submit(_copy_shard, storage, root, folder, number, stated) for number, stated in lacking]
        for copy in tqdm(copies, unit="shard", desc=f"copying {address}", disable=not copies):
            copy.result()
        # Last: a folder with a manifest is a whole copy.
        if not is_copied:
            with replacing(folder / MANIFEST) as file:
                file.write(content)
    return folder


def _shard_cache() -> Path:
    """Return the folder of copied shards: ``SKECG_SHARD_CACHE``, or beside the store of embeddings."""
    named = os.environ.get("SKECG_SHARD_CACHE")
    return Path(named).expanduser().absolute() if named else default_cache_folder().with_name("shards")


def _copy_shard(storage: Any, root: str, folder: Path, number: int, stated: Mapping[str, Any]) -> None:
    """Copy the two files of a shard that are not there yet as they are stated, and check their values."""
    checks = {".npz": (_check_index, "index_sha256"), ".npy": (_check_signals, "signals_sha256")}
    for suffix, (check, key) in checks.items():
        path = folder / f"{number:05d}{suffix}"
        if path.is_file():
            with contextlib.suppress(DamagedRecordError):
                check(path, stated[key])
                continue
        with replacing(path) as file, storage.open(f"{root}/{path.name}", "rb") as remote:
            shutil.copyfileobj(remote, file, 1 << 24)
        try:
            check(path, stated[key])
        except DamagedRecordError as error:
            path.unlink()
            raise DamagedRecordError(f"{error} It was copied from {root}/{path.name}, which may be damaged.") from error


def _read_manifest(folder: Path) -> bytes:
    """Read the manifest, telling an unfinished pack from none."""
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        begun = (folder / "plan.json").is_file()
        advice = "Packing was not finished: run pack again." if begun else "Make them with pack."
        raise RecordNotFoundError(f"There are no shards in {str(folder)!r}. {advice}") from error


def _parse_manifest(content: bytes, place: object) -> dict[str, Any]:
    """Read a manifest, refusing one that was cut short."""
    try:
        manifest: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise DamagedRecordError(
            f"The {MANIFEST} of the shards in {place} is damaged ({error}). Pack again, into the same folder: only it "
            "is then written anew. Or copy it again."
        ) from error
    return manifest


def _check_index(path: Path, sha256: str) -> None:
    """Raise for an index that cannot be read, or holds other values than stated: another scale is another signal."""
    try:
        # Opened here, for NumPy leaves a file open that turns out to be none.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as index:
            is_intact = digest_of(index) == sha256
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedRecordError(f"The index {path} cannot be read ({error}). Pack again, or copy it again.") from error
    if not is_intact:
        raise DamagedRecordError(f"Got other values in {path} than its manifest says. Pack again, or copy it again.")


def _check_signals(path: Path, sha256: str) -> None:
    """Raise for signals that cannot be read, or are others than stated."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            # The digest is of the values alone, so what stands before them is skipped.
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            while part := file.read(1 << 24):
                digest.update(part)
    except (OSError, ValueError) as error:
        raise DamagedRecordError(f"The shard {path} cannot be read ({error}). Copy it again.") from error
    if digest.hexdigest() != sha256:
        raise DamagedRecordError(f"Got other values in {path} than its manifest says. Pack again, or copy it again.")


def _map_signals(path: Path, shape: tuple[int, int, int]) -> NDArray[np.int16]:
    """Map a shard's values into memory, refusing one of another size."""
    if shape[0] == 0:
        return np.empty(shape, dtype=np.int16)
    try:
        signals = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamagedRecordError(
            f"The shard {path} cannot be opened ({error}). Pack again, or copy it again."
        ) from error
    if signals.shape != shape or signals.dtype != np.int16:
        raise DamagedRecordError(
            f"Got {signals.dtype} of shape {signals.shape} in {path}, expected int16 of {shape}. "
            "Pack again, or copy it again."
        )
    # The plain view of the same memory: np.memmap makes a Python object of every row that is read.
    return signals.view(np.ndarray)
