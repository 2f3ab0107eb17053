"""A content-addressed store of embeddings, in memory and on disk: no recording is embedded twice.

What names an embedding is a digest of the recording and of everything that shapes the result (:mod:`.keys`), so a
store never answers with the features of another model, lead set or pooling, whoever filled it and in whatever order.
:func:`open_cache` makes a cache of what users write (``cache="memory"``, a folder, ...).
"""

from __future__ import annotations

import difflib
import math
import multiprocessing
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from skecg.embedding_cache.base import CacheInfo, EmbeddingCache, WhilePossible
from skecg.embedding_cache.disk import DiskCache, shared_disk_cache
from skecg.embedding_cache.keys import FORMAT, passing_key, record_key, remembered_key, salt_of
from skecg.embedding_cache.memory import MemoryCache
from skecg.errors import CacheError, CacheWarning, ParameterError, user_stacklevel

if TYPE_CHECKING:
    from collections.abc import Callable

    from skecg.embedding_cache.base import EmbeddingCache
    from skecg.records import ECGRecord

__all__ = [
    "CacheInfo",
    "DiskCache",
    "EmbeddingCache",
    "FORMAT",
    "MemoryCache",
    "WhilePossible",
    "default_cache_folder",
    "key_function",
    "open_cache",
    "passing_key",
    "record_key",
    "remembered_key",
    "salt_of",
]

_NAMES = ("memory", "disk")

_DEFAULT_MEMORY_MB = "256"

_memory: dict[str, MemoryCache] = {}


def open_cache(cache: Any) -> EmbeddingCache | None:
    """Return the cache that an argument names.

    Parameters
    ----------
    cache : None, False, "memory", "disk", str, path, or object with ``get`` and ``put``
        Nothing; the one memory cache of this process (its size in MiB is the environment variable
        ``SKECG_MEMORY_CACHE_MB`` when first used, 256 by default); a :class:`DiskCache` in
        :func:`default_cache_folder`; one in the folder named; or the object itself. The same folder gives the same
        object as long as the process lives.

    Returns
    -------
    EmbeddingCache or None

    Raises
    ------
    ParameterError
        When `cache` is something else, or ``SKECG_MEMORY_CACHE_MB`` is not a number.

    Examples
    --------
    >>> open_cache("memory") is open_cache("memory")
    True
    """
    if cache is None or cache is False:
        return None
    if isinstance(cache, str) and cache == "memory":
        # setdefault is atomic: two threads at once get the same cache.
        return _memory.get("") or _memory.setdefault("", _own_memory_cache())
    if isinstance(cache, str) and cache == "disk":
        return shared_disk_cache(default_cache_folder())
    if isinstance(cache, str | os.PathLike) and not _looks_misspelt(cache):
        return shared_disk_cache(cache)
    if not isinstance(cache, type) and callable(getattr(cache, "get", None)) and callable(getattr(cache, "put", None)):
        return cast("EmbeddingCache", cache)
    raise ParameterError(
        f"Got cache={cache!r}, expected None, False, 'memory', 'disk', the path of a folder (with a slash in it if it "
        "looks like one of these names), or an object with get and put."
    )


def key_function(cache: EmbeddingCache | WhilePossible) -> Callable[[ECGRecord, bytes], bytes]:
    """Return what names the records of a cache: what dies with the process may have the faster of the two names.

    Parameters
    ----------
    cache : EmbeddingCache or WhilePossible

    Returns
    -------
    callable
        :func:`passing_key` for a :class:`MemoryCache`; for any other :func:`remembered_key`, which is
        :func:`record_key` whatever the process.
    """
    store = cache.cache if isinstance(cache, WhilePossible) else cache
    return passing_key if isinstance(store, MemoryCache) else remembered_key


def default_cache_folder() -> Path:
    """Return the folder of ``cache="disk"``.

    Returns
    -------
    Path
        The environment variable ``SKECG_CACHE`` when set; else ``skecg/embeddings`` in the user's cache folder:
        ``XDG_CACHE_HOME`` or ``~/.cache``, ``~/Library/Caches`` on macOS, ``LOCALAPPDATA`` on Windows.

    Raises
    ------
    CacheError
        When the user has no home folder.
    """
    try:
        named = os.environ.get("SKECG_CACHE")
        return Path(named).expanduser().absolute() if named else _user_cache_folder() / "skecg" / "embeddings"
    except RuntimeError as error:
        raise CacheError("Got no home folder for the embedding store. Set SKECG_CACHE to a folder.") from error


def _user_cache_folder() -> Path:
    """Return the folder where this platform keeps what can be computed again."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    named = Path(os.environ.get("XDG_CACHE_HOME") or "")
    # The XDG base directory specification asks to ignore relative paths.
    return named if named.is_absolute() else Path.home() / ".cache"


def _own_memory_cache() -> MemoryCache:
    """Make this process's memory cache, and warn where that is one of several that embed the same records."""
    # joblib's workers are numbered: the first of them speaks for all.
    if multiprocessing.current_process().name == "LokyProcess-1":
        warnings.warn(
            "Embeddings are kept in the memory of each worker of joblib: with n_jobs=N a search or cross-validation "
            "embeds each record up to N times. Let the workers share a folder, JEPAEmbedder(cache='disk') or "
            "cache=FOLDER, or leave n_jobs to the classifier.",
            CacheWarning,
            stacklevel=user_stacklevel(),
        )
    return MemoryCache(_memory_cache_bytes())


def _memory_cache_bytes() -> int:
    """Size of the process-wide memory cache, from the environment."""
    text = os.environ.get("SKECG_MEMORY_CACHE_MB") or _DEFAULT_MEMORY_MB
    try:
        megabytes = float(text)
    except ValueError:
        megabytes = math.nan
    if not 0 <= megabytes < math.inf:
        raise ParameterError(f"Got SKECG_MEMORY_CACHE_MB={text!r}, expected a number of mebibytes, zero or more.")
    return int(megabytes * 2**20)


def _looks_misspelt(cache: str | os.PathLike[str]) -> bool:
    """Raise for ``"Memory"`` or ``"disc"``, which would silently become folders."""
    if not isinstance(cache, str):
        return False
    is_path = "/" in cache or os.sep in cache or os.path.isdir(cache)  # noqa: PTH112 (a name that cannot be one is none)
    close = difflib.get_close_matches(cache.strip().lower(), _NAMES, cutoff=0.75)
    return not cache.strip() or bool(close and not is_path)
