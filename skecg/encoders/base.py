"""What every encoder offers, whatever its architecture, and the architectures by their names in ``config.json``.

Shapes: B windows, L leads, T samples, N tokens, R registers, K visible slices of time, D width of a token.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from skecg.encoders.blocks import Block
from skecg.encoders.plugins import load_installed_plugins, needed_plugin
from skecg.errors import ParameterError, ShapeError, UnregisteredError, WeightsFormatError
from skecg.spec import EncoderConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from skecg.spec import PatchEncoderConfig

__all__ = [
    "Encoder",
    "PatchEncoder",
    "WindowEncoder",
    "build_encoder",
    "gather_tokens",
    "hold_last",
    "provider_of",
    "read_encoder_config",
    "register_encoder",
    "resolve_layers",
    "silence_others",
]

C = TypeVar("C", bound=EncoderConfig)

# By architecture: its configuration and what builds an encoder of one.
_ARCHITECTURES: dict[str, tuple[type[EncoderConfig], Callable[[Any], Encoder]]] = {}

# Digests of the code of those from outside: the same tensors may mean something else after a change of it.
_CODE: dict[str, str] = {}


class Encoder(nn.Module, ABC):
    """Windows to tokens, stage after stage.

    What an encoder is made of is its own affair: ``config.stages`` name its parts, how wide their tokens are and how
    many samples apart. It knows nothing of training: masks are drawn elsewhere and come in as the indices of the slices
    of time to see.

    Parameters
    ----------
    config : EncoderConfig
        Shape of the encoder.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def token_per_lead(self) -> bool:
        """Whether each lead has tokens of its own, lead after lead; else a token is a slice of time of all leads."""
        return self.config.token_per_lead

    @property
    def num_registers(self) -> int:
        """Number of tokens without position that precede the others."""
        return 0

    #: Whether a visible place may hold no token (-1). Whoever knows that none does says so: to look, the host would
    #: have to wait for the device, and not to look takes a mask, by which attention is slower.
    may_lack_tokens = True

    @abstractmethod
    def hidden_states(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens after each stage, before what :meth:`read_out` does."""

    def read_out(self, tokens_BND: Tensor) -> Tensor:
        """Return tokens as they leave the encoder, after whichever stage: as they are, unless there is a last norm."""
        return tokens_BND

    @property
    def packed_part(self) -> nn.Module:
        """The part whose linear layers are only ever called, so that they may be packed."""
        return self

    def counted(self, values_BLT: Tensor) -> Tensor | None:
        """Return which tokens (B, N) of windows pooling counts, bool; None for all of them."""
        return None

    def forward(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Tensor:
        """Encode windows.

        Parameters
        ----------
        values_BLT : Tensor of shape (B, L, T)
            Prepared windows; T is a multiple of the patch, at most the longest window.
        leads : sequence of int, optional
            Rows that are present; the others are left out of the computation.
        visible_BK : Tensor of shape (B, K), int64, optional
            Slices of time to see, ascending; all when not given. For encoders with a token for each lead the same
            slices are seen in every lead. Only for the multiscale encoder they are numbers of tokens, of those that a
            window would have, and -1 at the end of a row holds a place at which there is none.

        Returns
        -------
        Tensor of shape (B, R + N, D)
            Registers, then the patches' tokens; with a token for each lead, lead after lead.
        """
        return self.layers(values_BLT, (-1,), leads, visible_BK)[0]

    def layers(
        self,
        values_BLT: Tensor,
        layers: Sequence[int],
        leads: Sequence[int] | None = None,
        visible_BK: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the tokens after several stages, each through :meth:`read_out`; later stages are not computed.

        Parameters
        ----------
        layers : sequence of int
            Stages, counted from 0, or from the last one when negative.
        values_BLT, leads, visible_BK
            As in :meth:`forward`.

        Returns
        -------
        list of Tensor of shape (B, R + N, D), one for each entry of `layers`
        """
        self._check_window(values_BLT)
        wanted = resolve_layers(layers, len(self.config.stages))
        states: dict[int, Tensor] = {}
        for number, tokens in enumerate(self.hidden_states(values_BLT, leads, visible_BK)):
            if number in wanted:
                states[number] = self.read_out(tokens)
            if number == max(wanted):
                break
        if missing := set(wanted) - states.keys():
            raise ShapeError(
                f"{type(self).__name__} gave no tokens for stage {min(missing)} of the {len(self.config.stages)} that "
                "its configuration names; expected the tokens after each of them, one after the other."
            )
        return [states[number] for number in wanted]

    def _check_window(self, values_BLT: Tensor) -> None:
        n_leads, window, step = self.config.n_leads, self.config.window_samples, self.config.length_step
        fits = values_BLT.ndim == 3 and values_BLT.shape[1] == n_leads
        if not fits or not 0 < values_BLT.shape[2] <= window or values_BLT.shape[2] % step:
            raise ShapeError(
                f"Got windows of shape {tuple(values_BLT.shape)}, expected (n_windows, {n_leads}, n_samples) with "
                f"n_samples a multiple of {step} and at most {window}. skecg.prepare makes such windows of records."
            )


class PatchEncoder(Encoder):
    """An encoder with an embedding of slices of time, ``blocks`` of transformers, and a final ``norm``.

    Parameters
    ----------
    config : PatchEncoderConfig
        Shape of the encoder.
    """

    config: PatchEncoderConfig
    norm: nn.LayerNorm
    patch_embed: nn.Linear
    blocks: nn.ModuleList

    def typed_blocks(self) -> list[Block]:
        """Return the blocks as what they are."""
        return [block for block in self.blocks if isinstance(block, Block)]

    @property
    def packed_part(self) -> nn.Module:
        """The blocks: of the embedding's weights those of absent leads are left out."""
        return self.blocks

    def read_out(self, tokens_BND: Tensor) -> Tensor:
        """Return tokens through the final norm."""
        normed: Tensor = self.norm(tokens_BND)
        return normed


class WindowEncoder(Encoder):
    """An encoder that sees whole windows, and zeros where a lead is absent: convolutions, recurrences, other labs'.

    Parameters
    ----------
    config : EncoderConfig
        Shape of the encoder.
    """

    @abstractmethod
    def stages(self, values_BLT: Tensor) -> Iterator[Tensor]:
        """Yield the tokens (B, N, D) after each stage."""

    def hidden_states(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens (B, N, D) after each stage, before what :meth:`read_out` does."""
        if visible_BK is not None:
            raise ParameterError(
                f"Got visible slices of time for the architecture {self.config.architecture!r}, which sees whole "
                "windows only. Pre-train one that has patches: 'temporal', 'leadwise' or 'multiscale'."
            )
        yield from self.stages(values_BLT if leads is None else silence_others(values_BLT, leads))


def silence_others(values_BLT: Tensor, leads: Sequence[int]) -> Tensor:
    """Put zeros in the place of all leads but those named."""
    index = torch.as_tensor(leads, device=values_BLT.device)
    present_L1 = torch.zeros_like(values_BLT[0, :, :1]).index_fill(0, index, 1.0)
    return values_BLT * present_L1


def hold_last(values_BLT: Tensor, n_samples: int) -> Tensor:
    """Return windows of at least so many samples, the last value held where there are fewer."""
    n_given = values_BLT.shape[2]
    if not torch.compiler.is_compiling() and n_given >= n_samples:
        return values_BLT
    # Without a condition: whoever traces this for windows of any length could not follow one.
    place = torch.arange(torch.sym_max(n_given, n_samples), device=values_BLT.device).clamp(max=n_given - 1)
    return values_BLT.index_select(2, place)


def resolve_layers(layers: Sequence[int], depth: int) -> list[int]:
    """Count negative layers from the last, refusing those that do not exist."""
    for layer in layers:
        if not -depth <= layer < depth:
            raise ParameterError(
                f"Got layer={layer}, expected {-depth} to {depth - 1}: the encoder has {depth} stages."
            )
    return [layer % depth for layer in layers]


def gather_tokens(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    """Pick tokens (B, K, D) by their numbers."""
    return tokens_BND.gather(1, index_BK[:, :, None].expand(-1, -1, tokens_BND.shape[-1]))


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
    code = _digest_of_code(config, build)
    if code is not None:
        _CODE[name] = code


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
        raise UnregisteredError(
            f"Got architecture {architecture!r}, expected one of {known}. Weights of a newer one need a newer skecg."
            f"{needed_plugin(provider)}"
        )
    return _ARCHITECTURES[architecture][0].from_dict(values)


def code_of(config: EncoderConfig) -> str | None:
    """Return the digest of the code of an architecture from outside, as it was when it was registered.

    None for skecg's own, whose versions have their say in the keys of embeddings by themselves.
    """
    return _CODE.get(config.architecture)


def _digest_of_code(*parts: Any) -> str | None:
    """Return the digest of the files that define classes or functions, or of what a notebook's cell says."""
    sources = []
    for part in parts:
        name = str(part.__module__)  # None of some builtins
        if name.partition(".")[0] == "skecg":
            continue
        path = getattr(sys.modules.get(name), "__file__", None)
        try:
            sources.append(Path(path).read_bytes() if path else inspect.getsource(part).encode())
        except (OSError, TypeError):
            sources.append(os.urandom(16))  # written nowhere: what this process computes is for nobody else
    return hashlib.sha256(b"\0".join(sources)).hexdigest() if sources else None


def provider_of(part: EncoderConfig | Encoder) -> str | None:
    """Return the module of a configuration's or an encoder's class from outside, None for one of skecg's own."""
    module = type(part).__module__
    return None if module.partition(".")[0] == "skecg" else module
