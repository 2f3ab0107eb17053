"""An encoder whose tokens another engine computes.

Shapes: B windows, L leads, T samples, N tokens, R registers, D width of a token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skecg.backends.graphs import LEADS, WINDOWS, states_graph
from skecg.encoders import Encoder
from skecg.encoders.interface import resolve_layers
from skecg.errors import ParameterError

__all__ = ["Engine", "ExportedEncoder", "Session"]

#: Arrays by the names of a graph's inputs, to the arrays of its outputs in their order; called by many threads at once.
Session: TypeAlias = Callable[[dict[str, NDArray[np.generic]]], list[NDArray[np.float32]]]

#: A serialized ONNX graph to what runs it.
Engine: TypeAlias = Callable[[bytes], Session]


class ExportedEncoder(Encoder):
    """Take the place of an encoder; what it computes comes from sessions of an engine, made when first needed.

    Parameters
    ----------
    source : Encoder
        The encoder itself, on the CPU.
    engine : callable
        Makes a session of a graph.
    """

    def __init__(self, source: Encoder, engine: Engine) -> None:
        super().__init__(source.config)
        self.source = source
        self.token_per_lead = source.token_per_lead
        self._engine = engine
        self._sessions: dict[tuple[tuple[int, ...], bool], Session] = {}
        self._lock = threading.Lock()

    @property
    def num_registers(self) -> int:
        """Number of tokens without position that precede the others."""
        return self.source.num_registers

    def hidden_states(
        self, values_BLT: Tensor, leads: Sequence[int] | None = None, visible_BK: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the tokens after each block as torch computes them: an engine gives only what comes out at the end."""
        return self.source.hidden_states(values_BLT, leads, visible_BK)

    def layers(
        self,
        values_BLT: Tensor,
        layers: Sequence[int],
        leads: Sequence[int] | None = None,
        visible_BK: Tensor | None = None,
    ) -> list[Tensor]:
        """Give the tokens (B, R + N, D) after several blocks, as :meth:`skecg.encoders.Encoder.layers` does.

        Raises
        ------
        ParameterError
            When only some slices of time are to be seen: that is for training, which is torch's.
        """
        self._check_window(values_BLT)
        if visible_BK is not None:
            raise ParameterError("Got visible slices of time for an exported encoder. Use backend='torch' for those.")
        wanted = resolve_layers(layers, self.config.depth)
        numbers = tuple(sorted(set(wanted)))
        values = np.ascontiguousarray(values_BLT.numpy(force=True), dtype=np.float32)
        feed: dict[str, NDArray[np.generic]] = {WINDOWS: values}
        if leads is not None and self.token_per_lead:
            feed[LEADS] = np.asarray(leads, dtype=np.int64)
        elif leads is not None:
            feed[WINDOWS] = _only(values, leads)
        states = self._session(numbers, LEADS in feed)(feed)
        found = {number: torch.from_numpy(state) for number, state in zip(numbers, states, strict=True)}
        return [found[number] for number in wanted]

    def _session(self, layers: tuple[int, ...], some_leads: bool) -> Session:
        with self._lock:
            key = (layers, some_leads)
            if key not in self._sessions:
                self._sessions[key] = self._engine(states_graph(self.source, layers, some_leads=some_leads))
            return self._sessions[key]


def _only(values_BLT: NDArray[np.float32], leads: Sequence[int]) -> NDArray[np.float32]:
    """Silence absent leads, whatever stands there: for tokens of all leads the same as leaving them out."""
    silenced = np.zeros_like(values_BLT)
    silenced[:, leads] = values_BLT[:, leads]
    return silenced
