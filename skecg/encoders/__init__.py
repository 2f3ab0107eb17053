"""Encoders: one file per architecture, chosen by the name in ``config.json``; others register theirs."""

from __future__ import annotations

from skecg.encoders.base import (
    Encoder,
    PatchEncoder,
    WindowEncoder,
    build_encoder,
    code_of,
    provider_of,
    read_encoder_config,
    register_encoder,
)
from skecg.encoders.dual import DualConfig, DualEncoder
from skecg.encoders.graph import GraphConfig, GraphEncoder
from skecg.encoders.leadwise import LeadwiseEncoder
from skecg.encoders.multiscale import MultiscaleEncoder
from skecg.encoders.net1d import Net1dConfig, Net1dEncoder
from skecg.encoders.resnet import ResnetConfig, ResnetEncoder
from skecg.encoders.temporal import TemporalEncoder
from skecg.encoders.wav2vec import Wav2vecConfig, Wav2vecEncoder
from skecg.encoders.xlstm import XlstmConfig, XlstmEncoder
from skecg.spec import LeadwiseConfig, MultiscaleConfig, TemporalConfig

__all__ = [
    "Encoder",
    "LeadwiseEncoder",
    "MultiscaleEncoder",
    "PatchEncoder",
    "TemporalEncoder",
    "WindowEncoder",
    "build_encoder",
    "code_of",
    "provider_of",
    "read_encoder_config",
    "register_encoder",
]

register_encoder(LeadwiseConfig, LeadwiseEncoder)
register_encoder(MultiscaleConfig, MultiscaleEncoder)
register_encoder(TemporalConfig, TemporalEncoder)
register_encoder(DualConfig, DualEncoder)
register_encoder(GraphConfig, GraphEncoder)
register_encoder(Net1dConfig, Net1dEncoder)
register_encoder(ResnetConfig, ResnetEncoder)
register_encoder(Wav2vecConfig, Wav2vecEncoder)
register_encoder(XlstmConfig, XlstmEncoder)
