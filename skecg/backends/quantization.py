"""Graphs whose linear layers multiply in eight bits."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["quantized"]

_LAYERS = ("MatMul", "Gemm")


def quantized(graph: bytes) -> bytes:
    """Give a graph whose linear layers multiply integers of eight bits; everything else stays in float32.

    Weights are rounded to seven bits and a sign, each column on a scale of its own: with the eighth, processors without
    instructions for such products (VNNI) would cut sums off, and compute other numbers. Activations are rounded to
    eight bits on a scale that is found for each array as it comes. Products of two activations, which attention is
    made of, are left alone.

    Parameters
    ----------
    graph : bytes
        An ONNX model.

    Returns
    -------
    bytes
        An ONNX model.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "quantized.onnx")
        quantize_dynamic(
            onnx.load_model_from_string(graph),
            path,
            op_types_to_quantize=list(_LAYERS),
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        return path.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop the advice to run a preparation that the exporter has done; it goes to the root logger."""
    logger = logging.getLogger()

    def is_news(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
