"""What every encoder offers, whatever its architecture.

Shapes: B windows, L leads, T samples, N tokens, R registers, K visible slices of time, D width of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from skecg.encoders.blocks import Block
from skecg.errors import ParameterError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skecg.spec import EncoderConfig

__all__ = ["Encoder", "gather_tokens", "resolve_layers"]


class Encoder(nn.Module, ABC):
    """Windows to tokens.

    An encoder holds an embedding of patches, a list ``blocks`` of transformer blocks and a final ``norm``. It knows
    nothing of training: masks are drawn elsewhere and come in as the indices of the slices of time to see.

    Parameters
    ----------
    config : EncoderConfig
        Shape of the encoder.
    """

    norm: nn.LayerNorm
    patch_embed: nn.Linear
    blocks: nn.ModuleList
    token_per_lead: bool

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def num_registers(self) -> int:
        """Number of tokens without position that precede the others."""
        return 0

    def typed_blocks(self) -> list[Block]:
        """Return the blocks as what they are."""
        return [block for block in self.blocks if isinstance(block, Block)]

    @abstractmethod
    def hidden_states(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens after each block, before the final norm."""

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
        """Return the tokens after several blocks, each through the final norm; later blocks are not computed.

        Parameters
        ----------
        layers : sequence of int
            Blocks, counted from 0, or from the last one when negative.
        values_BLT, leads, visible_BK
            As in :meth:`forward`.

        Returns
        -------
        list of Tensor of shape (B, R + N, D), one for each entry of `layers`
        """
        self._check_window(values_BLT)
        wanted = resolve_layers(layers, len(self.blocks))
        states: dict[int, Tensor] = {}
        for number, tokens in enumerate(self.hidden_states(values_BLT, leads, visible_BK)):
            if number in wanted:
                states[number] = self.norm(tokens)
            if number == max(wanted):
                break
        return [states[number] for number in wanted]

    def _check_window(self, values_BLT: Tensor) -> None:
        n_leads, window, patch = self.config.n_leads, self.config.window_samples, self.config.patch_samples
        fits = values_BLT.ndim == 3 and values_BLT.shape[1] == n_leads
        if not fits or not 0 < values_BLT.shape[2] <= window or values_BLT.shape[2] % patch:
            raise ShapeError(
                f"Got windows of shape {tuple(values_BLT.shape)}, expected (n_windows, {n_leads}, n_samples) with "
                f"n_samples a multiple of {patch} and at most {window}. skecg.prepare makes such windows of records."
            )


def resolve_layers(layers: Sequence[int], depth: int) -> list[int]:
    """Count negative layers from the last, refusing those that do not exist."""
    for layer in layers:
        if not -depth <= layer < depth:
            raise ParameterError(
                f"Got layer={layer}, expected {-depth} to {depth - 1}: the encoder has {depth} blocks."
            )
    return [layer % depth for layer in layers]


def gather_tokens(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    """Pick tokens (B, K, D) by their numbers."""
    return tokens_BND.gather(1, index_BK[:, :, None].expand(-1, -1, tokens_BND.shape[-1]))
