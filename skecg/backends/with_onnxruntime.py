"""The one door to onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skecg.backends.graphs import WINDOWS
from skecg.backends.quantization import quantized

if TYPE_CHECKING:
    from skecg.backends.exported import Session

__all__ = ["open_in_int8", "open_with_onnxruntime"]

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


def open_in_int8(graph: bytes) -> Session:
    """Make a session whose linear layers multiply in eight bits, window by window.

    Activations of one array share a scale. Of several windows, each would be rounded on the scale of the largest, and
    its features would depend on its neighbours.
    """
    session = open_with_onnxruntime(quantized(graph))

    def run(feed: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        windows = feed[WINDOWS]
        found = [session({**feed, WINDOWS: windows[i : i + 1]}) for i in range(len(windows))]
        return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]

    return run
