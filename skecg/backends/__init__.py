"""Other engines than torch for the same encoder, on the CPU: onnxruntime in float32 and int8, OpenVINO in float32.

An engine runs the transformer alone. Reading, preparation, pooling and the cache are those of every embedding, so that
whatever works with torch works here: all poolings and layers, short records, absent leads, tokens.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch

from skecg.backends.exported import ExportedEncoder
from skecg.backends.files import export_onnx
from skecg.backends.with_onnxruntime import open_in_int8, open_with_onnxruntime
from skecg.backends.with_openvino import open_with_openvino
from skecg.devices import PRECISIONS as TORCHS_PRECISIONS
from skecg.devices import resolve_device, resolve_devices
from skecg.encoders import Encoder
from skecg.errors import MissingDependencyError, ParameterError
from skecg.weights import WeightsInfo, loaded_encoder

__all__ = ["BACKENDS", "PRECISIONS", "encoder_on", "export_onnx", "place"]

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


def _forget_after_fork() -> None:
    """Leave an engine's threads to the process that has them: a forked one would wait for them for ever."""
    global _exported, _lock
    # Kept, because taking sessions apart would wait for their threads too.
    _inherited.append(_exported)
    _exported, _lock = OrderedDict(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def place(
    backend: str, device: str | torch.device | Sequence[str | torch.device], precision: str
) -> tuple[torch.device, ...]:
    """Check that a backend can do what is asked of it, and find the devices that it computes on.

    Parameters
    ----------
    backend : {"torch", "onnx", "openvino"}
    device : str, torch.device, or a list of them
        As in :func:`skecg.devices.resolve_devices`; backends other than torch know ``"auto"`` and the CPU.
    precision : {"fp32", "bf16", "int8"}
        Torch knows the first two, onnxruntime the first and the last, OpenVINO the first.

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
    """Refuse a precision that a backend does not compute in, and name a backend that does."""
    able = [*(("torch", one) for one in TORCHS_PRECISIONS), *_ENGINES]
    if (backend, precision) not in able:
        known = " or ".join(repr(one) for name, one in able if name == backend)
        other = next(name for name, one in able if one == precision)
        raise ParameterError(
            f"Got precision={precision!r} with backend={backend!r}, expected {known}. Pass one of these, or "
            f"backend={other!r}."
        )


def encoder_on(backend: str, info: WeightsInfo, device: torch.device, precision: str = "fp32") -> Encoder:
    """Give the encoder of a weights folder as a backend runs it; this process shares one of each.

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
    if backend == "torch":
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
