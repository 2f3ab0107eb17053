"""The encoders that this process has loaded: one of each, shared by all who ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from skecg.packing import pack_linear_layers_
from skecg.weights.folder import WeightsInfo, read_state

if TYPE_CHECKING:
    import torch

    from skecg.encoders import Encoder

__all__ = ["forget_encoders", "loaded_encoder"]

_KEPT = 4

# Of each weights folder on a device, the encoder as it is and as it is packed for a precision.
_encoders: OrderedDict[tuple[str, str], dict[str | None, Encoder]] = OrderedDict()
_lock = threading.Lock()


def loaded_encoder(info: WeightsInfo, device: torch.device, *, packed_for: str | None = None) -> Encoder:
    """Give the encoder of a weights folder on a device, reading it only if this process has not.

    Those of the last few folders used are kept. They are shared between estimators, clones and threads, so they must
    not be modified; load your own with :func:`skecg.load_encoder` for that.

    Parameters
    ----------
    info : WeightsInfo
    device : torch.device
    packed_for : {"fp32", "bf16"}, optional
        On the CPU: another encoder, which only ever computes in this precision, and is faster at it
        (:mod:`skecg.packing`).
    """
    key = (info.digest, str(device))
    with _lock:
        if packed_for not in _encoders.get(key, {}):
            encoder = read_state(info).to(device)
            if packed_for is not None:
                pack_linear_layers_(encoder.blocks, packed_for)
            _encoders.setdefault(key, {})[packed_for] = encoder
            while len(_encoders) > _KEPT:
                _encoders.popitem(last=False)
        _encoders.move_to_end(key)
        return _encoders[key][packed_for]


def forget_encoders() -> None:
    """Drop all encoders that this process keeps."""
    with _lock:
        _encoders.clear()
