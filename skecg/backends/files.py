"""Weights to an ONNX file that other programs can run: windows in, features out."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skecg.backends.graphs import WINDOWS, features_graph
from skecg.encoders import Encoder
from skecg.encoders.interface import resolve_layers
from skecg.encoding import Encoding
from skecg.errors import MissingDependencyError, ParameterError, WeightsError
from skecg.pooling import as_layers, check_pooling, pool_tokens
from skecg.weights import WeightsInfo, find_weights, loaded_encoder

if TYPE_CHECKING:
    import onnx

__all__ = ["TOLERANCE", "Exported", "export_onnx"]

#: How far the file's features may be from torch's, as a share of their root mean square.
TOLERANCE = 1e-4

_NOTICE = "Research use only. Not for diagnosis, treatment decisions, triage or monitoring of patients."


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
    number of windows, of any number of whole patches up to the longest window. All leads of the input specification are
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
    how = _encoding(info, pooling, layer)
    encoder = loaded_encoder(info, torch.device("cpu"))
    graph = features_graph(encoder, how.layers, how.pooling)
    _describe(graph, info, how)
    content = graph.SerializeToString()
    error = _largest_error(content, encoder, how)
    if error is not None and not error <= TOLERANCE:
        raise WeightsError(
            f"The exported features of {str(model)!r} differ from torch's by {error:.1e} of their size, expected at "
            f"most {TOLERANCE:.0e}; nothing was written. Update onnxruntime, or report this."
        )
    path = Path(path)
    draft = path.with_name(path.name + ".draft")
    draft.write_bytes(content)
    draft.replace(path)
    n_features = graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return Exported(path, len(content), n_features, error)


def _encoding(info: WeightsInfo, pooling: str | None, layer: object) -> Encoding:
    """Settle pooling and layers (counted from 0)."""
    chosen = check_pooling(pooling or info.pooling, int(getattr(info.encoder, "num_registers", 0)))
    layers = resolve_layers(as_layers(-1 if layer is None else layer), info.encoder.depth)
    if len(set(layers)) < len(layers):
        raise ParameterError(f"Got layer={layer!r}, which names a block twice. Name each once.")
    return Encoding(chosen, tuple(layers))


def _describe(graph: onnx.ModelProto, info: WeightsInfo, how: Encoding) -> None:
    """Write into a model what its numbers mean."""
    from skecg import __version__

    about: dict[str, Any] = {
        "skecg": __version__,
        "architecture": info.encoder.architecture,
        "input": info.spec.to_dict(),
        "encoder": info.encoder.to_dict(),
        "pooling": how.pooling,
        "layers": list(how.layers),
        "weights_sha256": info.sha256,
        "revision": info.revision,
        "provenance": info.provenance,
        "notice": _NOTICE,
    }
    entry = graph.metadata_props.add()
    entry.key, entry.value = "skecg", json.dumps(about, sort_keys=True)
    graph.doc_string = _NOTICE


def _largest_error(content: bytes, encoder: Encoder, how: Encoding) -> float | None:
    """Compare with torch on noise in windows of every kind of length, where onnxruntime is installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    from skecg.backends.with_onnxruntime import open_with_onnxruntime

    run = open_with_onnxruntime(content)
    config, rng = encoder.config, np.random.default_rng(0)
    errors = []
    for n_windows, n_slices in ((1, config.n_patches), (3, config.n_patches), (2, -(-config.n_patches // 2)), (1, 1)):
        shape = (n_windows, config.n_leads, n_slices * config.patch_samples)
        values = rng.normal(size=shape).astype(np.float32)
        with torch.inference_mode():
            states = encoder.layers(torch.from_numpy(values), how.layers)
            wanted = pool_tokens(states, encoder.num_registers, how.pooling).numpy()
        features = run({WINDOWS: values})[0]
        errors.append(np.abs(features - wanted).max() / np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
    return float(np.max(errors))
