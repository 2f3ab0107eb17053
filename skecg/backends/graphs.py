"""Encoders to ONNX graphs, by torch's exporter.

The number of windows, their length in whole patches and, where asked, the leads are left open, so that one graph serves
all records. Shapes: B windows, L leads, T samples, N tokens, R registers, D width of a token, C leads present.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skecg.encoders import Encoder
from skecg.errors import MissingDependencyError, ParameterError
from skecg.pooling import pool_tokens

if TYPE_CHECKING:
    import onnx

__all__ = ["FEATURES", "LEADS", "TOKENS", "WINDOWS", "features_graph", "states_graph"]

#: Names of inputs and outputs.
WINDOWS, LEADS, FEATURES, TOKENS = "windows", "leads", "features", "tokens"

# What the protocol in which graphs are written can hold.
_MOST_BYTES = 2**31 - 2**20

# The first whose exporter leaves sizes open.
_OLDEST_TORCH = (2, 6)

# Tracing swaps parts of torch for the whole process.
_tracing = threading.Lock()


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
        return pool_tokens(states, registers, self.pooling), tokens


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
    if sum(value.nbytes for value in encoder.state_dict().values()) > _MOST_BYTES:
        raise ParameterError("Got an encoder of more than 2 GB, which ONNX cannot hold. Use backend='torch'.")
    config = encoder.config
    n_slices: Any = torch.export.Dim("n_slices", min=1, max=config.n_patches) if config.n_patches > 1 else None
    window = {0: torch.export.Dim("n_windows"), **({2: n_slices * config.patch_samples} if n_slices else {})}
    stand_in = torch.zeros(2, config.n_leads, min(2, config.n_patches) * config.patch_samples)
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
