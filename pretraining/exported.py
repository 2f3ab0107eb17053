"""What of a trained encoder becomes weights: all of its blocks, or the first of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from skecg.encoders import Encoder, build_encoder

if TYPE_CHECKING:
    from pretraining.config import PretrainConfig

__all__ = ["exported_encoder"]


def exported_encoder(tensors: Mapping[str, Tensor], config: PretrainConfig) -> Encoder:
    """Build the encoder that a run exports.

    Parameters
    ----------
    tensors : mapping
        State of the whole encoder.
    config : PretrainConfig
        Its ``export_blocks`` says how many blocks are kept; the final norm follows the last of them.

    Returns
    -------
    Encoder
        Without gradients, in evaluation mode; it gives what layer ``export_blocks - 1`` of the whole one gives.
    """
    depth = config.export_blocks or config.encoder.depth
    dropped = tuple(f"blocks.{number}." for number in range(depth, config.encoder.depth))
    built = build_encoder(dataclasses.replace(config.encoder, depth=depth))
    built.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(dropped)})
    return built.eval().requires_grad_(False)
