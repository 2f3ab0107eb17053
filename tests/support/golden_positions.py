"""The position table that the golden numbers of Weimann and Conrad were computed with."""

from __future__ import annotations

import math

import torch

from skecg.encoders import Encoder


def use_golden_positions_(encoder: Encoder) -> None:
    """Put in the position table of the processor on which the golden numbers of Weimann and Conrad were computed.

    Their code, as ours, takes the frequencies from torch's exponential in float32, and that differs in the last place
    from one make of processor to another. There the tenth was the float above the nearest one, which moves tokens by
    1.2e-5.
    """
    n_frequencies = encoder.config.dim // 2
    exponents = torch.arange(n_frequencies, dtype=torch.float32) * (-math.log(10000.0) / n_frequencies)
    frequencies = exponents.double().exp().float()
    frequencies[9] = torch.nextafter(frequencies[9], torch.tensor(1.0))
    angles = torch.arange(encoder.config.n_patches, dtype=torch.float32)[:, None] * frequencies
    encoder.positions_ND.copy_(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1))
