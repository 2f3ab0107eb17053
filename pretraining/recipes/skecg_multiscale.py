"""skecg_default with the multiscale encoder: convolutions of 20 to 204 ms look at the signal before the transformer.

Everything else is that recipe's: prediction of hidden tokens and of label-free descriptions, data, length. The reason:
left as it was drawn, this encoder's tokens tell the waves of LUDB and the superclasses of PTB-XL better than those of
the other shapes (docs/side_by_side.rst), for a twelfth more arithmetic. A run of an hour came out level with
skecg_default with all labels, a little better at waves, and behind it with few labels (docs/log.md).
"""

from __future__ import annotations

import dataclasses

from pretraining.config import PretrainConfig
from pretraining.recipes import skecg_default
from skecg.spec import MultiscaleConfig


def config() -> PretrainConfig:
    """Give the run: 4,800 steps of 64 recordings."""
    shape = MultiscaleConfig(n_leads=12, patch_samples=25, n_patches=100, dim=192, depth=6, num_heads=4)
    return dataclasses.replace(skecg_default.config(), name="skecg_multiscale", encoder=shape)
