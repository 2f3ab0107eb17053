"""Encoders as ONNX graphs, made by torch's exporter: for onnxruntime here, in eight bits too, and for other programs.

The number of windows, their length in whole patches and, where asked, the leads are left open, so that one graph serves
all records. Shapes: B windows, L leads, T samples, N tokens, R registers, D width of a token, C leads present.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skecg.encoders import Encoder
from skecg.encoders.base import resolve_layers
from skecg.encoders.encode import Encoding, token_distance
from skecg.encoders.graph import GraphEncoder, Session, open_with_onnxruntime
from skecg.encoders.pooling import as_layers, check_pooling, n_registers, pool_tokens
from skecg.errors import MissingDependencyError, ParameterError, WeightsError
from skecg.io.files import replacing
from skecg.weights import WeightsInfo, find_weights, loaded_encoder

if TYPE_CHECKING:
    import onnx


__all__ = [
    "Exported",
    "FEATURES",
    "LEADS",
    "TOKENS",
    "TOLERANCE",
    "WINDOWS",
    "export_onnx",
    "features_graph",
    "open_in_int8",
    "open_with_onnxruntime",
    "quantized",
    "states_graph",
]

#: Names of inputs and outputs.
WINDOWS, LEADS, FEATURES, TOKENS = "windows", "leads", "features", "tokens"

# What the protocol in which graphs are written can hold.
_MOST_BYTES = 2**31 - 2**20

# The first whose exporter leaves sizes open.
_OLDEST_TORCH = (2, 6)

# Tracing swaps parts of torch for the whole process.
_tracing = threading.Lock()

#: How far the file's features may be from torch's, as a share of their root mean square.
TOLERANCE = 1e-4

_NOTICE = "Research use only. Not for diagnosis, treatment decisions, triage or monitoring of patients."

_LAYERS = ("MatMul", "Gemm")


class _States(nn.Module):
    """Windows to the tokens of each layer, registers first."""

    def __init__(self, encoder: Encoder, layers: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.numbers = tuple(layers)

    def forward(self, windows: Tensor, leads: Tensor | None = None) -> tuple[Tensor, ...]:
        # Indexing by a tensor is what the encoders make of any sequence.
        return tuple(self.encoder.layers(windows, self.numbers, leads))  # type: ignore[arg-type]


class _Features(_States):
    """Windows to pooled features, and to the tokens that they are pooled from."""

    def __init__(self, encoder: Encoder, layers: Sequence[int], pooling: str) -> None:
        super().__init__(encoder, layers)
        self.pooling = pooling

    def forward(self, windows: Tensor, leads: Tensor | None = None) -> tuple[Tensor, ...]:
        states = super().forward(windows, leads)
        registers = self.encoder.num_registers
        tokens = torch.cat([state[:, registers:] for state in states], dim=-1)
        return pool_tokens(states, registers, self.pooling, self.encoder.counted(windows)), tokens


def states_graph(encoder: Encoder, layers: Sequence[int], *, some_leads: bool) -> bytes:
    """Export what gives the tokens (B, R + N, D) of each of several layers.

    Parameters
    ----------
    encoder : Encoder
        In evaluation mode, on the CPU.
    layers : sequence of int
        Blocks, counted from 0.
    some_leads : bool
        Whether a second input (C,), int64, says which leads are present.

    Returns
    -------
    bytes
        An ONNX model.
    """
    names = [f"block_{number}" for number in layers]
    return _export(_States(encoder, layers), encoder, names, some_leads=some_leads).SerializeToString()


def features_graph(encoder: Encoder, layers: Sequence[int], pooling: str) -> onnx.ModelProto:
    """Export what gives pooled features (B, F), and tokens (B, N, D · n_layers) without registers."""
    return _export(_Features(encoder, layers, pooling), encoder, [FEATURES, TOKENS], some_leads=False)


def _export(module: nn.Module, encoder: Encoder, outputs: list[str], *, some_leads: bool) -> onnx.ModelProto:
    """Trace a module on a stand-in and write it down, without a word about the machine it was traced on."""
    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < _OLDEST_TORCH:
        raise MissingDependencyError(
            f"Got torch {torch.__version__}, expected 2.6 or newer for exporting. Update it, or use backend='torch'."
        )
    if isinstance(encoder, GraphEncoder):
        raise ParameterError("Got an encoder that is an ONNX graph already. Use its file, or backend='torch'.")
    if sum(value.nbytes for value in encoder.state_dict().values()) > _MOST_BYTES:
        raise ParameterError("Got an encoder of more than 2 GB, which ONNX cannot hold. Use backend='torch'.")
    config = encoder.config
    step, most = config.length_step, config.window_samples // config.length_step
    n_steps: Any = torch.export.Dim("n_slices", min=1, max=most) if most > 1 else None
    window = {0: torch.export.Dim("n_windows"), **({2: n_steps * step} if n_steps else {})}
    # As long as can be: where a stage has but one step, tracing would take that for a rule.
    stand_in = torch.zeros(2, config.n_leads, most * step)
    leads = torch.arange(min(2, config.n_leads)) if some_leads else None
    shapes = {"windows": window, "leads": _present(config.n_leads) if some_leads else None}
    # Within torch's inference mode, where embeddings are computed, nothing can be traced.
    with _tracing, _quiet(), torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            (stand_in, leads),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[WINDOWS, LEADS] if some_leads else [WINDOWS],
            output_names=outputs,
            verbose=False,
        )
    assert program is not None
    return _plain(program.model_proto)


def _present(n_leads: int) -> dict[int, Any]:
    """Leave the number of leads open, unless there is but one."""
    return {0: torch.export.Dim("n_present", min=1, max=n_leads)} if n_leads > 1 else {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says of packages that nobody asked for, and of its own past, from the user."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the source lines and paths that the exporter notes at every node."""
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for initializer in model.graph.initializer:
        initializer.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    model.ClearField("functions")
    return model


@dataclass(frozen=True)
class Exported:
    """What was written.

    Parameters
    ----------
    path : Path
    n_bytes : int
    n_features : int
        Features of a window.
    largest_error : float or None
        Largest difference from torch's features over their root mean square, as onnxruntime computes; None where it
        is not installed.
    """

    path: Path
    n_bytes: int
    n_features: int
    largest_error: float | None


def export_onnx(
    model: str | Path,
    path: str | Path,
    *,
    pooling: str | None = None,
    layer: object = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Exported:
    """Write an encoder as one ONNX file.

    Its input ``windows`` (n_windows, n_leads, n_samples), float32, is what :func:`skecg.prepare` makes of records: any
    number of windows, of any number of whole patches up to the longest window. Cut a window that ``valid_samples`` says
    is filled up behind its last patch with signal, as the embedder does; ``step_samples`` in the metadata is the length
    of a patch. A recording's features are the mean of those of its windows. All leads of the input specification are
    taken as present. Its outputs are ``features`` (n_windows, n_features) and ``tokens`` (n_windows, n_tokens, dim),
    the tokens that they are pooled from. The input specification, pooling, layers and where the weights come from are
    in the file's metadata under ``skecg``, as JSON.

    Parameters
    ----------
    model : str or Path
        A name of :func:`skecg.list_models`, a weights folder, or ``"owner/name"`` on the Hub.
    path : str or Path
        The file to write, in one step; one that is there is replaced.
    pooling, layer
        As in :class:`skecg.JEPAEmbedder`.
    revision : str, optional
        Branch, tag or commit, for weights on the Hub.
    local_files_only : bool, default=False
        Whether to refuse to ask the network for weights.

    Returns
    -------
    Exported

    Raises
    ------
    MissingDependencyError
        When onnx or onnxscript is not installed.
    WeightsError
        When the weights cannot be had, or the file's features are not those of torch.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"Exporting needs {package}, which is not installed. Run `pip install 'skecg[onnx]'`."
            )
    info = find_weights(model, revision=revision, local_files_only=local_files_only)
    encoding = _encoding(info, pooling, layer)
    encoder = loaded_encoder(info, torch.device("cpu"))
    graph = features_graph(encoder, encoding.layers, encoding.pooling)
    _describe(graph, info, encoding)
    content = graph.SerializeToString()
    error = _largest_error(content, encoder, encoding)
    if error is not None and not error <= TOLERANCE:
        raise WeightsError(
            f"The exported features of {str(model)!r} differ from torch's by {error:.1e} of their size, expected at "
            f"most {TOLERANCE:.0e}; nothing was written. Update onnxruntime, or report this."
        )
    path = Path(path)
    with replacing(path) as file:
        file.write(content)
    n_features = graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return Exported(path, len(content), n_features, error)


def _encoding(info: WeightsInfo, pooling: str | None, layer: object) -> Encoding:
    """Settle pooling and layers (counted from 0)."""
    chosen = check_pooling(pooling or info.pooling, n_registers(info.encoder))
    layers = resolve_layers(as_layers(-1 if layer is None else layer), len(info.encoder.stages))
    if len(set(layers)) < len(layers):
        raise ParameterError(f"Got layer={layer!r}, which names a block twice. Name each once.")
    token_distance(info.encoder, layers)  # the file gives tokens, too
    return Encoding(chosen, tuple(layers))


def _describe(graph: onnx.ModelProto, info: WeightsInfo, encoding: Encoding) -> None:
    """Write into a model what its numbers mean."""
    from skecg._version import __version__

    about: dict[str, Any] = {
        "skecg": __version__,
        "architecture": info.encoder.architecture,
        # A graph cannot leave out the tokens of leads that are not there.
        "input": replace(info.spec, any_leads=info.spec.any_leads and not info.encoder.token_per_lead).to_dict(),
        "encoder": info.encoder.to_dict(),
        "step_samples": info.encoder.length_step,
        "pooling": encoding.pooling,
        "layers": list(encoding.layers),
        "weights_sha256": info.sha256,
        "revision": info.revision,
        "provenance": info.provenance,
        "notice": _NOTICE,
    }
    entry = graph.metadata_props.add()
    entry.key, entry.value = "skecg", json.dumps(about, sort_keys=True)
    graph.doc_string = _NOTICE


def _largest_error(content: bytes, encoder: Encoder, encoding: Encoding) -> float | None:
    """Compare with torch on noise in windows of every kind of length, where onnxruntime is installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    run = open_with_onnxruntime(content)
    config, rng = encoder.config, np.random.default_rng(0)
    errors = []
    step, most = config.length_step, config.window_samples // config.length_step
    for n_windows, n_steps in ((1, most), (3, most), (2, -(-most // 2)), (1, 1)):
        shape = (n_windows, config.n_leads, n_steps * step)
        values = rng.normal(size=shape).astype(np.float32)
        values[0, :, shape[2] // 2 :] = 0.0  # some encoders pool what is silent otherwise
        with torch.inference_mode():
            windows = torch.from_numpy(values)
            states, counted = encoder.layers(windows, encoding.layers), encoder.counted(windows)
            wanted = pool_tokens(states, encoder.num_registers, encoding.pooling, counted).numpy()
        features = run({WINDOWS: values})[0]
        errors.append(np.abs(features - wanted).max() / np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
    return float(np.max(errors))


def quantized(graph: bytes) -> bytes:
    """Return a graph whose linear layers multiply integers of eight bits; everything else stays in float32.

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

    with tempfile.TemporaryDirectory() as folder, _without_warnings():
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
def _without_warnings() -> Iterator[None]:
    """Drop the advice to run a preparation that the exporter has done; it goes to the root logger."""
    logger = logging.getLogger()

    def is_news(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


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
