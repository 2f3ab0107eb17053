"""Everything that shapes an embedding, as one value."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from skecg.embedding_cache import salt_of
from skecg.encoding import Encoding
from skecg.pooling import n_pooled_features
from skecg.screening import Policies
from skecg.weights import WeightsInfo

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes an embedding.

    Parameters
    ----------
    info : WeightsInfo
        The weights.
    encoding : Encoding
        Pooling, layers, precision (these count) and batch size, workers (these do not).
    devices : tuple of torch.device
        Where encoders run, one on each.
    stride_seconds : float or None
    missing_leads, short_records : str
        Policies of :func:`skecg.prepare`.
    backend : {"torch", "onnx", "openvino"}
        What runs the encoder; it counts, for the last digits are its own.
    """

    info: WeightsInfo
    encoding: Encoding
    devices: tuple[torch.device, ...]
    stride_seconds: float | None = None
    missing_leads: str = "raise"
    short_records: str = "raise"
    backend: str = "torch"

    @property
    def policies(self) -> Policies:
        """What to do about absent leads and short records."""
        return Policies(self.missing_leads, self.short_records)

    @property
    def n_features(self) -> int:
        """Number of features of a record."""
        registers = int(getattr(self.info.encoder, "num_registers", 0))
        return n_pooled_features(self.encoding.pooling, self.info.encoder.dim, len(self.encoding.layers), registers)

    @property
    def salt(self) -> bytes:
        """What sets embeddings of this recipe apart from those of any other."""
        depth = self.info.encoder.depth
        return salt_of(
            weights=self.info.digest,
            pooling=self.encoding.pooling,
            layers=[layer % depth for layer in self.encoding.layers],
            precision=self.encoding.precision,
            stride_seconds=self.stride_seconds,
            missing_leads=self.missing_leads,
            short_records=self.short_records,
            backend=self.backend,
        )
