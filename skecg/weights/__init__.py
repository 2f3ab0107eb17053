"""Weights: folders that carry an encoder together with what it expects of records."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skecg.weights.directions import Directions, read_directions, write_directions
    from skecg.weights.folder import FORMAT_VERSION, WeightsInfo, forget_encoders, loaded_encoder, read_info
    from skecg.weights.golden import Verification, verify_weights
    from skecg.weights.loading import load_encoder, read_attention, save_encoder
    from skecg.weights.registry import find_weights, list_models
    from skecg.weights.signing import check_signature, sign_weights

# Resolved on first use: which models there are is known without torch.
_HOMES = {
    "Directions": "directions",
    "FORMAT_VERSION": "folder",
    "Verification": "golden",
    "WeightsInfo": "folder",
    "check_signature": "signing",
    "find_weights": "registry",
    "forget_encoders": "folder",
    "list_models": "registry",
    "load_encoder": "loading",
    "loaded_encoder": "folder",
    "read_attention": "loading",
    "read_directions": "directions",
    "read_info": "folder",
    "save_encoder": "loading",
    "sign_weights": "signing",
    "verify_weights": "golden",
    "write_directions": "directions",
}

__all__ = [
    "Directions",
    "FORMAT_VERSION",
    "Verification",
    "WeightsInfo",
    "check_signature",
    "find_weights",
    "forget_encoders",
    "list_models",
    "load_encoder",
    "loaded_encoder",
    "read_attention",
    "read_directions",
    "read_info",
    "save_encoder",
    "sign_weights",
    "verify_weights",
    "write_directions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skecg.weights' has no attribute {name!r}")
    return getattr(importlib.import_module(f"skecg.weights.{_HOMES[name]}"), name)
