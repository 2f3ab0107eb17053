"""Other engines than torch for the same encoder, on the CPU: onnxruntime in float32 and int8, OpenVINO in float32.

An engine runs the transformer alone. Reading, preparation, pooling and the cache are those of every embedding, so that
whatever works with torch works here: all poolings and layers, short records, absent leads, tokens.

Shapes: B windows, L leads, T samples, N tokens, R registers, D width of a token.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.backends.onnx import LEADS, WINDOWS, export_onnx, open_in_int8, open_with_onnxruntime, states_graph
from skecg.backends.openvino import open_with_openvino
from skecg.compute.devices import PRECISIONS as TORCHS_PRECISIONS
from skecg.compute.devices import resolve_device, resolve_devices
from skecg.encoders import Encoder
from skecg.encoders.base import resolve_layers
from skecg.encoders.graph import GraphConfig, Session
from skecg.errors import MissingDependencyError, ParameterError
from skecg.spec import EncoderConfig
from skecg.weights import WeightsInfo, loaded_encoder

__all__ = ["BACKENDS", "Engine", "ExportedEncoder", "PRECISIONS", "Session", "encoder_on", "export_onnx", "place"]

#: A serialized ONNX graph to what runs it.
Engine: TypeAlias = Callable[[bytes], Session]

#: What may run an encoder.
BACKENDS = ("torch", "onnx", "openvino")

#: What one or another of them computes in.
PRECISIONS = (*TORCHS_PRECISIONS, "int8")

_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}

_ENGINES = {
    ("onnx", "fp32"): open_with_onnxruntime,
    ("onnx", "int8"): open_in_int8,
    ("openvino", "fp32"): open_with_openvino,
}

_KEPT = 4

_exported: OrderedDict[tuple[str, str, str], ExportedEncoder] = OrderedDict()

_lock = threading.Lock()

_inherited: list[object] = []


class ExportedEncoder(Encoder):
    """Take the place of an encoder; what it computes comes from sessions of an engine, made when first needed.

    Parameters
    ----------
    source : Encoder
        The encoder itself, on the CPU.
    engine : callable
        Makes a session of a graph.
    """

    def __init__(self, source: Encoder, engine: Engine) -> None:
        super().__init__(source.config)
        self.source = source
        self._engine = engine
        self._sessions: dict[tuple[tuple[int, ...], bool], Session] = {}
        self._lock = threading.Lock()

    @property
    def num_registers(self) -> int:
        """Number of tokens without position that precede the others."""
        return self.source.num_registers

    def counted(self, values_BLT: Tensor) -> Tensor | None:
        """Return which tokens (B, N) of windows pooling counts, as the encoder itself does."""
        return self.source.counted(values_BLT)

    def hidden_states(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens after each block as torch computes them: an engine gives only what comes out at the end."""
        return self.source.hidden_states(values_BLT, leads, visible_BK)

    def layers(
        self,
        values_BLT: Tensor,
        layers: Sequence[int],
        leads: Sequence[int] | None = None,
        visible_BK: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the tokens (B, R + N, D) after several blocks, as :meth:`skecg.encoders.Encoder.layers` does.

        Raises
        ------
        ParameterError
            When only some slices of time are to be seen: that is for training, which is torch's.
        """
        self._check_window(values_BLT)
        if visible_BK is not None:
            raise ParameterError("Got visible slices of time for an exported encoder. Use backend='torch' for those.")
        wanted = resolve_layers(layers, len(self.config.stages))
        numbers = tuple(sorted(set(wanted)))
        values = np.ascontiguousarray(values_BLT.numpy(force=True), dtype=np.float32)
        feed: dict[str, NDArray[np.generic]] = {WINDOWS: values}
        if leads is not None and self.token_per_lead:
            feed[LEADS] = np.asarray(leads, dtype=np.int64)
        elif leads is not None:
            feed[WINDOWS] = _only(values, leads)
        states = self._session(numbers, LEADS in feed)(feed)
        found = {number: torch.from_numpy(state) for number, state in zip(numbers, states, strict=True)}
        return [found[number] for number in wanted]

    def _session(self, layers: tuple[int, ...], some_leads: bool) -> Session:
        with self._lock:
            key = (layers, some_leads)
            if key not in self._sessions:
                self._sessions[key] = self._engine(states_graph(self.source, layers, some_leads=some_leads))
            return self._sessions[key]


def _only(values_BLT: NDArray[np.float32], leads: Sequence[int]) -> NDArray[np.float32]:
    """Silence absent leads, whatever stands there: for tokens of all leads the same as leaving them out."""
    silenced = np.zeros_like(values_BLT)
    silenced[:, leads] = values_BLT[:, leads]
    return silenced


def _forget_after_fork() -> None:
    """Leave an engine's threads to the process that has them: a forked one would wait for them for ever."""
    global _exported, _lock
    # Kept, because taking sessions apart would wait for their threads too.
    _inherited.append(_exported)
    _exported, _lock = OrderedDict(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def place(
    backend: str,
    device: str | torch.device | Sequence[str | torch.device],
    precision: str,
    encoder: EncoderConfig | None = None,
) -> tuple[torch.device, ...]:
    """Check that a backend can do what is asked of it, and find the devices that it computes on.

    Parameters
    ----------
    backend : {"torch", "onnx", "openvino"}
    device : str, torch.device, or a list of them
        As in :func:`skecg.compute.devices.resolve_devices`; backends other than torch know ``"auto"`` and the CPU.
    precision : {"fp32", "bf16", "int8"}
        Torch knows the first two, onnxruntime the first and the last, OpenVINO the first.
    encoder : EncoderConfig, optional
        What is to be computed: an ONNX graph has its precision in itself.

    Raises
    ------
    ParameterError
        When the backend is unknown, or does not offer the device or the precision.
    MissingDependencyError
        When a package that the backend needs is not installed.
    """
    if backend not in BACKENDS:
        raise ParameterError(f"Got backend={backend!r}, expected one of {', '.join(map(repr, BACKENDS))}.")
    _check_precision(backend, precision)
    if precision == "bf16" and isinstance(encoder, GraphConfig):
        raise ParameterError(
            "Got precision='bf16' for weights that are an ONNX graph, which computes in what it was exported in; "
            "expected 'auto', or 'int8' with backend='onnx'."
        )
    if backend == "torch":
        return resolve_devices(device)
    for package in _PACKAGES[backend]:
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"backend={backend!r} needs {package}, which is not installed. Run `pip install 'skecg[{backend}]'`."
            )
    found = (resolve_device("cpu"),) if device == "auto" else resolve_devices(device)
    if any(one.type != "cpu" for one in found):
        raise ParameterError(
            f"Got device={str(device)!r} with backend={backend!r}, which computes on the CPU. Pass device='cpu', or "
            "backend='torch' for other devices."
        )
    return found


def _check_precision(backend: str, precision: str) -> None:
    """Raise for a precision that a backend does not compute in, and name a backend that does."""
    able = [*(("torch", one) for one in TORCHS_PRECISIONS), *_ENGINES]
    if (backend, precision) not in able:
        known = " or ".join(repr(one) for name, one in able if name == backend)
        other = next(name for name, one in able if one == precision)
        raise ParameterError(
            f"Got precision={precision!r} with backend={backend!r}, expected {known}. Pass one of these, or "
            f"backend={other!r}."
        )


def encoder_on(backend: str, info: WeightsInfo, device: torch.device, precision: str = "fp32") -> Encoder:
    """Return the encoder of a weights folder as a backend runs it; this process shares one of each.

    Graphs are exported at their first use, once for each choice of layers, and not kept on disk. The last few encoders
    used are kept in memory.

    Parameters
    ----------
    backend : {"torch", "onnx", "openvino"}
        One that :func:`place` has let pass.
    info : WeightsInfo
    device : torch.device
    precision : {"fp32", "bf16", "int8"}, default="fp32"
        What the caller computes in: an engine is made for it, and torch's encoder on a CPU is packed for it.
    """
    is_graph = isinstance(info.encoder, GraphConfig) and (backend, precision) == ("onnx", "fp32")
    if backend == "torch" or is_graph:
        return loaded_encoder(info, device, packed_for=precision if device.type == "cpu" else None)
    source = loaded_encoder(info, device)
    key = (info.digest, backend, precision)
    with _lock:
        if key not in _exported:
            _exported[key] = ExportedEncoder(source, _ENGINES[backend, precision])
            while len(_exported) > _KEPT:
                _exported.popitem(last=False)
        _exported.move_to_end(key)
        return _exported[key]
