"""The encoder that is a graph: somebody's ONNX file, run by onnxruntime on the CPU.

A graph is data, but it asks a runtime to do things, so it is looked at before it is run: operators of the standard that
compute numbers from numbers, nothing random, no branches and loops, no files beside it.

Shapes: B windows, L leads, T samples, N tokens, D width of a token.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.encoders.base import WindowEncoder
from skecg.errors import MissingDependencyError, WeightsFormatError
from skecg.spec import Stage, WindowEncoderConfig

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphConfig", "GraphEncoder", "Session", "check_graph", "open_with_onnxruntime"]

#: Arrays by the names of a graph's inputs, to the arrays of its outputs in their order; called by many threads at once.
Session: TypeAlias = Callable[[dict[str, NDArray[np.generic]]], list[NDArray[np.float32]]]

# What the protocol in which graphs are written can hold.
_MOST_BYTES = 2**31 - 2**20
_MOST_VALUES = 2**28  # 1 GB of float32
_OPSETS = range(9, 27)
_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitShift Cast
CastLike Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum
DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten
Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool
Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul
QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape RotaryEmbedding Round ScatterElements
ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
_OPERATORS = frozenset(_NAMES.split())
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class GraphConfig(WindowEncoderConfig):
    """What goes into a graph and what comes out of it.

    Parameters
    ----------
    n_leads, input_samples : int
        Of a window; no other length will do.
    dim : int
        Width of a token.
    n_tokens : int
        Tokens of a window; 1 where the graph gives one vector for each window.
    graph_bytes : int
        Size of the graph.
    input_name, output_name : str
        What it calls them.
    one_at_a_time : bool, default=False
        Whether it takes a single window.
    """

    architecture: ClassVar[str] = "onnx"

    dim: int
    n_tokens: int
    graph_bytes: int
    input_name: str
    output_name: str
    one_at_a_time: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers("dim", "n_tokens", "graph_bytes")
        for name in ("input_name", "output_name"):
            self._require(isinstance(getattr(self, name), str), name, "text")
        self._require(isinstance(self.one_at_a_time, bool), "one_at_a_time", "true or false")
        self._require(self.n_tokens <= self.input_samples, "n_tokens", f"at most {self.input_samples}")
        self._require(self.graph_bytes <= _MOST_BYTES, "graph_bytes", f"at most {_MOST_BYTES}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The graph: what is inside cannot be had."""
        return (Stage("graph", self.dim, self.input_samples // self.n_tokens),)

    @property
    def length_step(self) -> int:
        """Samples of a window: shorter records are held at their last value up to it."""
        return self.input_samples

    @property
    def fewest_parameters(self) -> int:
        """Bytes of the graph, each a value of its tensor."""
        return self.graph_bytes


class GraphEncoder(WindowEncoder):
    """Tokens, or one vector for each window, from a graph that nobody trains further.

    Parameters
    ----------
    config : GraphConfig
    """

    config: GraphConfig
    graph: Tensor

    def __init__(self, config: GraphConfig) -> None:
        super().__init__(config)
        self.register_buffer("graph", torch.zeros(config.graph_bytes, dtype=torch.uint8))
        # Opened at first use: loading weights to look at them should not start a runtime.
        self._session: Session | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session behind, which a copy opens for itself."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_session", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._session, self._lock = None, threading.Lock()

    def stages(self, values_BLT: Tensor) -> Iterator[Tensor]:
        """Yield the tokens (B, N, D)."""
        run, values = self._opened(), np.ascontiguousarray(values_BLT.numpy(force=True), dtype=np.float32)
        size = 1 if self.config.one_at_a_time else len(values)
        found = [run({self.config.input_name: values[i : i + size]})[0] for i in range(0, len(values), size)]
        shape = (len(values), self.config.n_tokens, self.config.dim)
        tokens = np.concatenate(found).astype(np.float32, copy=False)
        if tokens.size != math.prod(shape):
            raise WeightsFormatError(
                f"The graph gave {tokens.shape} for windows of shape {values.shape}, its config.json says {shape}. "
                "Convert the file again."
            )
        yield torch.from_numpy(tokens.reshape(shape)).to(values_BLT.device)

    def _opened(self) -> Session:
        """Open the graph at its first use, once."""
        with self._lock:
            if self._session is None:
                content = self.graph.cpu().numpy().tobytes()
                # Here and not at conversion alone: a weights folder may come from anybody.
                check_graph(content)
                self._session = open_with_onnxruntime(content, [self.config.output_name])
            return self._session


def check_graph(content: bytes) -> onnx.ModelProto:
    """Read a graph and raise for whatever is more than arithmetic.

    Parameters
    ----------
    content : bytes
        An ONNX model.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    MissingDependencyError
        When onnx is not installed.
    WeightsFormatError
        When it is no ONNX model, large, of another standard, or holds what is not on the list of operators here.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError(
            "An ONNX encoder needs onnx and onnxruntime. Run `pip install 'skecg[onnx]'`."
        ) from error
    if len(content) > _MOST_BYTES:
        raise WeightsFormatError(f"Got a graph of {len(content):,} bytes, expected at most {_MOST_BYTES:,}.")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of whatever class the parser of a damaged file ends with
        raise WeightsFormatError("Got a file that is no ONNX model, or a damaged one. Export it again.") from error
    if not model.graph.node:  # what the parser makes of an empty file
        raise WeightsFormatError("Got a graph without a single operator, expected an encoder. Export it again.")
    _check_standard(model)
    _check_nodes(model.graph)
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # both raise what their C++ code stumbles over
        reason = " ".join(str(error).split())[:200]
        raise WeightsFormatError(f"Got an ONNX model that is not valid ({reason}). Export it again.") from error
    for value in (*inferred.graph.value_info, *model.graph.initializer):
        _check_size(value)
    return model


def _check_standard(model: onnx.ModelProto) -> None:
    """Raise for extensions of the standard, and for versions of it that nobody here knows."""
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx") or opset.version not in _OPSETS:
            raise WeightsFormatError(
                f"Got a graph of the operators {opset.domain or 'ai.onnx'!r} in version {opset.version}, expected "
                f"'ai.onnx' in version {_OPSETS[0]} to {_OPSETS[-1]}. Export it for one of these."
            )
    if not model.opset_import or model.functions or model.training_info:
        raise WeightsFormatError(
            "Got a graph with functions of its own, or for training, or without a version; expected plain operators."
        )


def _check_nodes(graph: onnx.GraphProto) -> None:
    """Raise for operators that are not on the list, and for tensors that lie elsewhere."""
    tensors = list(graph.initializer)
    if graph.sparse_initializer:
        raise WeightsFormatError("Got a graph with sparse tensors, expected dense ones. Export it without them.")
    for node in graph.node:
        if node.op_type not in _OPERATORS or node.domain not in ("", "ai.onnx"):
            raise WeightsFormatError(
                f"Got the operator {node.op_type[:60]!r} in the graph, which is not on the list of those that are run: "
                "arithmetic of the standard, nothing random, no branches and loops. Export the encoder without it."
            )
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
                raise WeightsFormatError(f"Got a graph within the operator {node.op_type!r}, expected plain operators.")
            tensors += [attribute.t, *attribute.tensors]
    if any(tensor.data_location or tensor.external_data for tensor in tensors):
        raise WeightsFormatError("Got a graph whose tensors lie in another file, expected one that holds them all.")


def _check_size(value: onnx.ValueInfoProto | onnx.TensorProto) -> None:
    """Raise for arrays, of one window, that no machine should be asked to make room for."""
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim] if hasattr(value, "type") else list(value.dims)
    if math.prod(max(1, dim) for dim in dims) > _MOST_VALUES:
        raise WeightsFormatError(
            f"Got {value.name[:60]!r} of shape {tuple(dims)} in the graph, expected at most {_MOST_VALUES:,} values."
        )


def open_with_onnxruntime(graph: bytes, outputs: list[str] | None = None) -> Session:
    """Make a session on the CPU with one thread; several callers run side by side, as with torch."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "This needs onnxruntime, which is not installed. Run `pip install 'skecg[onnx]'`."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = outputs or [output.name for output in session.get_outputs()]

    def run(feed: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        return list(session.run(names, feed))

    return run
