"""Archives: millions of records, embedded chunk by chunk on many machines by engines that exist."""

from skecg.archives.cluster import (
    Assignment,
    ChunkJob,
    ChunkPlan,
    ChunkResult,
    Cluster,
    Failure,
    Share,
    check_scheduler,
    embed_chunk,
)

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
