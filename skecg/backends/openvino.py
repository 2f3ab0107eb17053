"""The one door to OpenVINO."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from skecg.encoders.graph import Session

__all__ = ["open_with_openvino"]


def open_with_openvino(graph: bytes) -> Session:
    """Make a session on the CPU in which as many callers as there are cores run side by side, one thread each."""
    import openvino

    cores = joblib.cpu_count()
    settings = {
        # On processors that have bfloat16 it would be taken unasked.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": cores,
        "NUM_STREAMS": cores,
        "ENABLE_CPU_PINNING": False,
    }
    # What its binding sets up with the first array it must not set up in two threads at once: they wait for each other.
    np.array(openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data)
    openvino.Type.f32.to_dtype()
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model=graph), "CPU", settings)
    # A request holds the arrays of one caller; another's must not come between.
    idle: SimpleQueue[Any] = SimpleQueue()

    def run(feed: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        try:
            request = idle.get_nowait()
        except Empty:
            request = compiled.create_infer_request()
        request.infer(feed, share_inputs=True)
        outputs = [np.array(request.get_output_tensor(i).data) for i in range(len(compiled.outputs))]
        idle.put(request)
        return outputs

    return run
