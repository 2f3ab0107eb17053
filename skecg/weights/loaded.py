"""The encoders that this process has loaded: one of each, shared by all who ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from skecg.weights.folder import WeightsInfo, read_state

if TYPE_CHECKING:
    import torch

    from skecg.encoders import Encoder

__all__ = ["forget_encoders", "loaded_encoder"]

_KEPT = 4

_encoders: OrderedDict[tuple[str, str], Encoder] = OrderedDict()
_lock = threading.Lock()


def loaded_encoder(info: WeightsInfo, device: torch.device) -> Encoder:
    """Give the encoder of a weights folder on a device, reading it only if this process has not.

    The last few used are kept. They are shared between estimators, clones and threads, so they must not be
    modified; load your own with :func:`skecg.load_encoder` for that.
    """
    key = (info.digest, str(device))
    with _lock:
        if key not in _encoders:
            _encoders[key] = read_state(info).to(device)
            while len(_encoders) > _KEPT:
                _encoders.popitem(last=False)
        _encoders.move_to_end(key)
        return _encoders[key]


def forget_encoders() -> None:
    """Drop all encoders that this process keeps."""
    with _lock:
        _encoders.clear()
