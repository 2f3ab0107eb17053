"""Archives: millions of records, embedded chunk by chunk on many machines by engines that exist."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = [
    "Assignment",
    "ChunkJob",
    "ChunkPlan",
    "ChunkResult",
    "Cluster",
    "Failure",
    "Share",
    "check_scheduler",
    "embed_chunk",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line reads and writes files of features without torch."""
    if name not in __all__:
        raise AttributeError(f"module 'skecg.archives' has no attribute {name!r}")
    return getattr(importlib.import_module("skecg.archives.cluster"), name)
