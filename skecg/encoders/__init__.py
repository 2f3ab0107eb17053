"""Encoders: one file per architecture, chosen by the name in ``config.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skecg.encoders.base import Encoder, PatchEncoder, WindowEncoder
from skecg.encoders.leadwise import LeadwiseEncoder
from skecg.encoders.multiscale import MultiscaleEncoder
from skecg.encoders.resnet import ResnetConfig, ResnetEncoder
from skecg.encoders.temporal import TemporalEncoder
from skecg.encoders.wav2vec import Wav2vecConfig, Wav2vecEncoder
from skecg.encoders.xlstm import XlstmConfig, XlstmEncoder
from skecg.errors import WeightsFormatError
from skecg.spec import EncoderConfig, LeadwiseConfig, MultiscaleConfig, TemporalConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Encoder",
    "LeadwiseEncoder",
    "MultiscaleEncoder",
    "PatchEncoder",
    "TemporalEncoder",
    "WindowEncoder",
    "build_encoder",
    "read_encoder_config",
]

_ENCODERS: dict[type[EncoderConfig], Callable[[Any], Encoder]] = {
    TemporalConfig: TemporalEncoder,
    LeadwiseConfig: LeadwiseEncoder,
    MultiscaleConfig: MultiscaleEncoder,
    ResnetConfig: ResnetEncoder,
    Wav2vecConfig: Wav2vecEncoder,
    XlstmConfig: XlstmEncoder,
}
_CONFIGS = {config.architecture: config for config in _ENCODERS}


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build an encoder with freshly drawn weights (torch's global generator)."""
    if type(config) not in _ENCODERS:
        raise WeightsFormatError(f"Got a {type(config).__name__}, expected the configuration of a known architecture.")
    return _ENCODERS[type(config)](config)


def read_encoder_config(architecture: str, values: Mapping[str, Any]) -> EncoderConfig:
    """Read the configuration of the architecture named."""
    if not isinstance(architecture, str) or architecture not in _CONFIGS:
        known = ", ".join(map(repr, sorted(_CONFIGS)))
        raise WeightsFormatError(
            f"Got architecture {architecture!r}, expected one of {known}. Weights of a newer one need a newer skecg."
        )
    return _CONFIGS[architecture].from_dict(values)
