"""Kim's encoder of single leads, four blocks hidden: 85.1 million trained parameters, best for linear probes.

Four blocks of 17.5 to 22.5 % of the window, which may overlap, are hidden, the same in all leads of the batch; the last
slice never is, as in the published code. The learning rate is the code's default and the paper's (their README has
5.5e-5).
What it shares with the other run, and the departures, stand in :mod:`pretraining.recipes.kim_leadwise`.
"""

from __future__ import annotations

from pretraining.config import MaskConfig, PretrainConfig
from pretraining.recipes.kim_leadwise import kim_leadwise


def config() -> PretrainConfig:
    """Give the run as published."""
    masks = MaskConfig("multiblock", 0.175, 0.225, n_blocks=4, last_slice=False)
    return kim_leadwise("kim_leadwise_b_block", masks, lr=5e-5, batch_size=64)
