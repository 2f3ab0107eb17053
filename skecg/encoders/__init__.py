"""Encoders: one file per architecture, chosen by the name in ``config.json``; others register theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from skecg.encoders.base import Encoder, PatchEncoder, WindowEncoder
from skecg.encoders.dual import DualConfig, DualEncoder
from skecg.encoders.graph import GraphConfig, GraphEncoder
from skecg.encoders.leadwise import LeadwiseEncoder
from skecg.encoders.multiscale import MultiscaleEncoder
from skecg.encoders.net1d import Net1dConfig, Net1dEncoder
from skecg.encoders.plugins import load_installed_plugins, needed_plugin
from skecg.encoders.resnet import ResnetConfig, ResnetEncoder
from skecg.encoders.temporal import TemporalEncoder
from skecg.encoders.wav2vec import Wav2vecConfig, Wav2vecEncoder
from skecg.encoders.xlstm import XlstmConfig, XlstmEncoder
from skecg.errors import ParameterError, WeightsFormatError
from skecg.spec import EncoderConfig, LeadwiseConfig, MultiscaleConfig, TemporalConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = [
    "Encoder",
    "LeadwiseEncoder",
    "MultiscaleEncoder",
    "PatchEncoder",
    "TemporalEncoder",
    "WindowEncoder",
    "build_encoder",
    "provider_of",
    "read_encoder_config",
    "register_encoder",
]

C = TypeVar("C", bound=EncoderConfig)

# By architecture: its configuration and what builds an encoder of one.
_ARCHITECTURES: dict[str, tuple[type[EncoderConfig], Callable[[Any], Encoder]]] = {}


def register_encoder(config: type[C], build: Callable[[C], Encoder]) -> None:
    """Make an architecture known, by the name that its configuration bears.

    Parameters
    ----------
    config : type
        A frozen dataclass derived from :class:`skecg.spec.EncoderConfig`, with its own ``architecture``.
    build : callable
        Makes an encoder with freshly drawn weights of a configuration: the encoder's class, as a rule.

    Raises
    ------
    ParameterError
        When another configuration has that name.
    """
    name = config.architecture
    known = _ARCHITECTURES.get(name)
    # A module that is imported anew, in a notebook, brings the same class as another object.
    if known is not None and (known[0].__module__, known[0].__qualname__) != (config.__module__, config.__qualname__):
        raise ParameterError(f"Got architecture {name!r} of {config.__module__}, which {known[0].__module__} has.")
    _ARCHITECTURES[name] = config, build


register_encoder(LeadwiseConfig, LeadwiseEncoder)
register_encoder(MultiscaleConfig, MultiscaleEncoder)
register_encoder(TemporalConfig, TemporalEncoder)
register_encoder(DualConfig, DualEncoder)
register_encoder(GraphConfig, GraphEncoder)
register_encoder(Net1dConfig, Net1dEncoder)
register_encoder(ResnetConfig, ResnetEncoder)
register_encoder(Wav2vecConfig, Wav2vecEncoder)
register_encoder(XlstmConfig, XlstmEncoder)


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build an encoder with freshly drawn weights (torch's global generator)."""
    known = _ARCHITECTURES.get(getattr(config, "architecture", ""))
    if known is None or not isinstance(config, known[0]):
        raise WeightsFormatError(f"Got a {type(config).__name__}, expected the configuration of a known architecture.")
    return known[1](config)


def read_encoder_config(architecture: str, values: Mapping[str, Any], provider: object = None) -> EncoderConfig:
    """Read the configuration of the architecture named; `provider` is the plug-in that is said to have it."""
    if not isinstance(architecture, str) or architecture not in _ARCHITECTURES:
        load_installed_plugins()
    if not isinstance(architecture, str) or architecture not in _ARCHITECTURES:
        known = ", ".join(map(repr, _ARCHITECTURES))
        raise WeightsFormatError(
            f"Got architecture {architecture!r}, expected one of {known}. Weights of a newer one need a newer skecg."
            f"{needed_plugin(provider)}"
        )
    return _ARCHITECTURES[architecture][0].from_dict(values)


def provider_of(part: EncoderConfig | Encoder) -> str | None:
    """Return the module of a configuration's or an encoder's class from outside, None for one of skecg's own."""
    module = type(part).__module__
    return None if module.partition(".")[0] == "skecg" else module
