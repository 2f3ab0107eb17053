"""ONNX files of anybody's encoder to weights folders; no code of theirs is run."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skecg.convert.checkpoint import Checkpoint, ConversionReport, check_deviations, check_folder, write_folder
from skecg.encoders.graph import GraphConfig, check_graph, open_with_onnxruntime
from skecg.errors import ForeignCheckpointError, MissingDependencyError, WeightsFormatError, WeightsNotFoundError
from skecg.io.files import sha256_of
from skecg.spec import InputSpec
from skecg.weights.folder import read_json

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

__all__ = ["convert_onnx"]

_PART = "the graph as it is"
# How far a window's numbers may be from those that it has among others, as a share of their size.
_TOLERANCE = 1e-3
_UNTOLD = "Nobody said whether it was trained; --trained (in Python trained=True) says that it was, for publishing."
_NOTE = "A graph takes windows of one length: a record that is shorter is held at its last value up to it."
_TOKENS_NOTE = (
    "A graph does not say where its tokens lie: they are taken to divide a window into equal parts, in their order, "
    "without one for the whole."
)
# An encoder for any subset of leads may be used for all of them, and one for a lead of any name for one of its name.
_MAY_BE_FALSE = ("any_leads", "any_name")
# What writing a folder says itself, or what says what else lies in the folder that a graph was exported from.
_NOT_TAKEN = {"folder", "encoder", "spec", "pooling", "model", "source_sha256", "converted_by", "plugin"}
_NOT_TAKEN |= {"fine_tuned_head"}


def convert_onnx(
    file: str | Path,
    folder: str | Path,
    spec: InputSpec | str | Path,
    *,
    output: str | None = None,
    sha256: str | None = None,
    **provenance: Any,
) -> ConversionReport:
    """Turn an ONNX file into a weights folder whose graph onnxruntime runs.

    Parameters
    ----------
    file : str or Path
        A graph with one input (n_windows, n_leads, n_samples), float32, whose number of windows is open or 1, and an
        output (n_windows, n_features) or (n_windows, n_tokens, n_features).
    folder : str or Path
        Weights folder to write; files of its names are replaced.
    spec : InputSpec, or str or Path of a JSON file of its fields
        What the graph expects to be fed. A file that :func:`skecg.backends.export_onnx` wrote says it, too, and has to
        agree.
    output : str, optional
        Name of the output to take; needed where there are several.
    sha256 : str, optional
        Digest that the file must have, when you know it.
    **provenance
        As of :func:`skecg.save_encoder`: ``name``, ``licence``, ``data``, ``trained``, … It goes before what a file
        that skecg exported says of itself. Of any other file only you know whether its encoder was trained.

    Returns
    -------
    ConversionReport

    Raises
    ------
    MissingDependencyError
        When onnx or onnxruntime is not installed.
    ForeignCheckpointError
        When the file is no ONNX model, does not fit the specification or says another, gives numbers that are not
        finite or that depend on the windows beside, or asks for more than arithmetic: operators that are not on the
        list, functions, graphs within graphs, tensors in other files.
    WeightsFormatError
        When the specification is malformed, or its deviations are no millivolts.
    """
    folder, path = check_folder(folder), Path(file)
    if not path.is_file():
        raise WeightsNotFoundError(f"Got {str(path)!r}, expected an ONNX file; there is none. Check the path.")
    checkpoint = Checkpoint(path, sha256_of(path), path.stat().st_size, {})
    if sha256 is not None and checkpoint.sha256 != sha256.strip().lower():
        raise checkpoint.refuse(f"a file of sha256 {checkpoint.sha256}", f"{sha256}. Fetch it again.")
    wanted = spec if isinstance(spec, InputSpec) else _read_spec(Path(spec))
    if wanted.std is not None:
        check_deviations(wanted.std, "the input specification", WeightsFormatError, filtered=wanted.is_filtered)
    content = path.read_bytes()
    try:
        model = check_graph(content)
        said = _said_of_itself(checkpoint, model, wanted)
        config = _config_of(checkpoint, model, wanted, output)
    except WeightsFormatError as error:
        raise ForeignCheckpointError(f"{path}: {error}") from error
    if said.get("trained") is False and provenance.get("trained"):
        raise checkpoint.refuse("trained=True", "what the file says of itself, trained=False. Leave it out.")
    config = _tried(checkpoint, content, config)
    # The graph as a tensor of bytes, so that the folder is what every other one is: safetensors and a digest.
    graph = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
    notes = (_NOTE, *[_TOKENS_NOTE] * (config.n_tokens > 1), *[_UNTOLD] * ("trained" not in said | provenance))
    about = {"name": path.stem, "description": "An encoder from an ONNX file, run by onnxruntime."}
    ours = {"source": path.name, "part": _PART, "ours": " ".join(notes)}
    write_folder(folder, checkpoint, config, {"graph": graph}, wanted, about | said | ours | provenance)
    return ConversionReport(folder, path, checkpoint.sha256, None, config, wanted, _PART, notes=notes)


def _read_spec(path: Path) -> InputSpec:
    if not path.is_file():
        raise WeightsNotFoundError(
            f"Got {str(path)!r}, expected a JSON file of the fields of an InputSpec: leads, sampling_rate (Hz), "
            "window_samples, and whatever else there is. There is none; check the path."
        )
    return InputSpec.from_dict(read_json(path))


def _said_of_itself(checkpoint: Checkpoint, model: onnx.ModelProto, spec: InputSpec) -> dict[str, Any]:
    """Return where an encoder that skecg exported comes from, nothing of others; raise where its input is another."""
    text = next((entry.value for entry in model.metadata_props if entry.key == "skecg"), None)
    if text is None:
        return {}
    try:
        about = json.loads(text)
        known, wanted = {**about["provenance"]}, InputSpec.from_dict(about["input"])
    except (ValueError, LookupError, TypeError, RecursionError, WeightsFormatError) as error:
        found = f"metadata 'skecg' that cannot be read ({type(error).__name__}: {error})"
        raise checkpoint.refuse(found, "what `skecg export --onnx` writes. Export it again.") from error
    pairs = {field.name: (getattr(spec, field.name), getattr(wanted, field.name)) for field in fields(InputSpec)}
    other = [n for n, (found, said) in pairs.items() if found != said and (found or n not in _MAY_BE_FALSE)]
    if other:
        found, said = (", ".join(f"{name}={pairs[name][side]!r}" for name in other) for side in (0, 1))
        raise checkpoint.refuse(
            f"an input specification with {found}", f"what the file says of itself: {said}. Use this."
        )
    return {name: value for name, value in known.items() if name not in _NOT_TAKEN}


def _config_of(checkpoint: Checkpoint, model: onnx.ModelProto, spec: InputSpec, output: str | None) -> GraphConfig:
    """Describe a graph by its input and output, as far as it tells; the rest is 1 until it was tried."""
    # Older exporters list weights among the inputs, too.
    inside = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in inside]
    names = [value.name for value in model.graph.output]
    if len(inputs) != 1:
        raise checkpoint.refuse(f"{len(inputs)} inputs ({_listed(v.name for v in inputs)})", "one, of windows.")
    if not names:
        raise checkpoint.refuse("no outputs", "one, of features or tokens.")
    if output is None and len(names) > 1:
        raise checkpoint.refuse(f"the outputs {_listed(names)}", "one. Pass output= (--output) with the one to take.")
    if output is not None and output not in names:
        raise checkpoint.refuse(f"no output {output!r} but {_listed(names)}", "the name of one of these.")
    tensor = inputs[0].type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    shape = ("n_windows", spec.n_leads, spec.window_samples)
    fits = len(dims) == 3 and dims[0] in (None, 1) and dims[1] in (None, shape[1]) and dims[2] in (None, shape[2])
    # Type 1 is float32 in ONNX's own numbering.
    if not fits or tensor.elem_type != 1:
        raise checkpoint.refuse(
            f"an input {inputs[0].name!r} of shape {tuple(dims)} and ONNX type {tensor.elem_type}",
            f"{shape} as the input specification says, float32 (type 1), the number of windows open or 1.",
        )
    return GraphConfig(
        n_leads=spec.n_leads,
        input_samples=spec.window_samples,
        dim=1,
        n_tokens=1,
        graph_bytes=checkpoint.n_bytes,
        input_name=inputs[0].name,
        output_name=output or names[0],
        one_at_a_time=dims[0] == 1,
    )


def _listed(names: Any) -> str:
    return ", ".join(repr(str(name)[:60]) for name in names) or "none"


def _tried(checkpoint: Checkpoint, content: bytes, config: GraphConfig) -> GraphConfig:
    """Run a graph on noise, check what comes out, and complete its description."""
    # Two windows: with one alone nobody could see whether a window's features depend on its neighbours.
    noise = np.random.default_rng(0).normal(size=(2, config.n_leads, config.input_samples)).astype(np.float32)
    try:
        run = open_with_onnxruntime(content, [config.output_name])
        first, *alone = [np.asarray(run({config.input_name: noise[i : i + 1]})[0]) for i in (0, 0, 1)]
        # Side by side whatever their shape, which is looked at next: one without any axis cannot be joined.
        together = np.concatenate(alone) if alone[0].ndim else np.stack(alone)
        found = together if config.one_at_a_time else run({config.input_name: noise})[0]
    except MissingDependencyError:
        raise
    except Exception as error:  # onnxruntime's errors are of classes of its own
        reason = " ".join(str(error).split())[:200]
        raise checkpoint.refuse(f"a graph that onnxruntime cannot run ({reason})", "one that it can.") from error
    if not np.array_equal(first, alone[0], equal_nan=True):
        raise checkpoint.refuse("another output for the same window", "one that does not change: no dropout, no noise.")
    _check_output(checkpoint, config, found, together)
    n_tokens = found.shape[1] if found.ndim == 3 else 1
    try:
        return replace(config, dim=int(found.shape[-1]), n_tokens=n_tokens)
    except WeightsFormatError as error:
        raise checkpoint.refuse(f"an output of shape {found.shape}", f"tokens of a window: {error}") from error


def _check_output(
    checkpoint: Checkpoint, config: GraphConfig, found: NDArray[np.float32], alone: NDArray[np.float32]
) -> None:
    """Raise for outputs that are no features of windows."""
    if found.dtype != np.float32 or found.ndim not in (2, 3) or len(found) != 2 or 0 in found.shape:
        raise checkpoint.refuse(
            f"an output {config.output_name!r} of shape {found.shape} and type {found.dtype} for two windows",
            "(2, n_features) or (2, n_tokens, n_features), float32.",
        )
    if not np.isfinite(found).all():
        raise checkpoint.refuse(f"values in {config.output_name!r} that are not finite", "finite numbers only.")
    if np.array_equal(found[0], found[1]):
        raise checkpoint.refuse("the same features for two windows of noise", "features that depend on the window.")
    # A share of the features' size, because kernels for one window and for two round differently.
    size = np.sqrt(np.mean(np.square(found, dtype=np.float64)))
    if found.shape != alone.shape or np.abs(found - alone).max() > _TOLERANCE * size:
        raise checkpoint.refuse("features of a window that depend on those beside it", "each window by itself.")
