"""Masked autoencoders over time, over leads, and over both."""

from __future__ import annotations

import dataclasses

from pretraining.config import PredictorConfig, PretrainConfig
from pretraining.config.objectives import MaeConfig
from pretraining.recipes.skecg import skecg_temporal
from skecg.spec import MultiscaleConfig


def mae_time() -> PretrainConfig:
    """Masked autoencoder over time (as MTAE): three quarters of the slices hidden in all leads; 2.8 million parameters.

    Data, input, size and length are those of skecg_temporal, so that the two can be compared; what is trained for is
    not:

    - The encoder is the multiscale one: convolutions of 20 to 204 ms before the transformer, a twelfth more
      arithmetic.
    - Tokens are slices of 100 ms of all leads; 75 of 100 are hidden, at random places for each recording.
    - Hidden samples are asked for after normalization by patch, to which the variance of 20 µV is added: an empty
      stretch between two beats then asks for (almost) nothing, instead of for its noise.
    - The decoder is 96 wide and two blocks deep, as light as those that the published controls use are in
      proportion.
    - AdamW with betas 0.9 and 0.95, as masked autoencoders are usually trained.
    - All blocks are exported.

    What it is after and where it departs from what is published stands in :mod:`pretraining.objectives.mae`.
    """
    default = skecg_temporal()
    return dataclasses.replace(
        default,
        name="mae_time",
        encoder=MultiscaleConfig(n_leads=12, patch_samples=25, n_patches=100, dim=192, depth=6, num_heads=4),
        objective=MaeConfig("time", 0.75, target_eps=0.01),
        # Half the width and two blocks: a light decoder, after He et al.
        predictor=PredictorConfig(96, 2, 4),
        masks=None,
        optim=dataclasses.replace(default.optim, betas=(0.9, 0.95), eps=1e-8),
        export_encoder="context",
        export_blocks=0,
    )


def mae_both() -> PretrainConfig:
    """Masked autoencoder over time and leads (as ST-MEM): three quarters of the patches of single leads hidden.

    As mae_time, with a token for each lead. Its slices are of 400 ms (ST-MEM's are of 300 ms): 300 tokens for 10 s,
    of which 75 are seen. A training step is half as much arithmetic again as one of skecg_temporal, embedding four
    times as much: attention sees all tokens of all leads.
    """
    return dataclasses.replace(
        mae_time(),
        name="mae_both",
        encoder=MultiscaleConfig(
            n_leads=12, patch_samples=100, n_patches=25, dim=192, depth=6, num_heads=4, lead_groups=12
        ),
        objective=MaeConfig("both", 0.75, target_eps=0.01),
    )


def mae_leads() -> PretrainConfig:
    """Masked autoencoder over leads (as MLAE): nine of twelve leads hidden, or three quarters of those there are.

    As mae_both otherwise. Four of the twelve leads are sums of two others, so that what is asked is in part
    arithmetic.
    """
    return dataclasses.replace(mae_both(), name="mae_leads", objective=MaeConfig("leads", 0.75, target_eps=0.01))
