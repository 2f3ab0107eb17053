"""The one door to onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from skecg.backends.exported import Session

__all__ = ["open_with_onnxruntime"]

_ERRORS_ONLY = 3


def open_with_onnxruntime(graph: bytes) -> Session:
    """Make a session on the CPU with one thread; several callers run side by side, as with torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feed: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        return list(session.run(names, feed))

    return run
