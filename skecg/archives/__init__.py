"""Archives: millions of records, embedded chunk by chunk on many machines by engines that exist."""

from skecg.archives.chunks import ChunkPlan, Share
from skecg.archives.cluster import Cluster, check_scheduler
from skecg.archives.jobs import Assignment, ChunkJob, ChunkResult, Failure, embed_chunk

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
