"""A content-addressed store of embeddings, in memory and on disk: no recording is embedded twice.

What names an embedding is a digest of the recording and of everything that shapes the result (:mod:`.keys`), so a
store never answers with the features of another model, lead set or pooling, whoever filled it and in whatever order.
"""

from __future__ import annotations

from skecg.embedding_cache.contract import CacheInfo, EmbeddingCache
from skecg.embedding_cache.disk import DiskCache
from skecg.embedding_cache.keys import FORMAT, passing_key, record_key, remembered_key, salt_of
from skecg.embedding_cache.memory import MemoryCache
from skecg.embedding_cache.opening import default_cache_folder, key_function, open_cache

__all__ = [
    "FORMAT",
    "CacheInfo",
    "DiskCache",
    "EmbeddingCache",
    "MemoryCache",
    "default_cache_folder",
    "key_function",
    "open_cache",
    "passing_key",
    "record_key",
    "remembered_key",
    "salt_of",
]
