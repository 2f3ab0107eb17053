"""What an engine is to the rest: a graph made into something that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Engine", "Session"]

#: Arrays by the names of a graph's inputs, to the arrays of its outputs in their order; called by many threads at once.
Session: TypeAlias = Callable[[dict[str, NDArray[np.generic]]], list[NDArray[np.float32]]]


#: A serialized ONNX graph to what runs it.
Engine: TypeAlias = Callable[[bytes], Session]
