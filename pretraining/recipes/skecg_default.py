"""skecg's own: any subset of the twelve leads at 250 Hz, 2.7 million parameters, for archives of any size.

It starts from Weimann and Conrad's system. Each departure and its reason:

- 250 Hz and tokens of 100 ms of 25 samples: a quarter of the tokens' pairs and half of their number. Diagnostic
  features of the ECG lie below 125 Hz, and many archives have no more.
- 192 wide and 6 blocks deep: 11 MB of weights and 0.6 GFLOP for 10 s, so that a CPU embeds dozens of records a second.
- Lead dropout: half of the records are shown with a random subset of their leads, so that one encoder serves any of
  them, and the target is still that of the leads which are left.
- All leads are divided by the same 0.2 mV, and clipped at 4 mV: what an amplitude was is still known, Einthoven's law
  still holds, and a recording needs no statistics of the archive that it is from.
- Gain between 0.8 and 1.25: devices and archives differ in calibration, by more than disease does.
- Roll: recordings of exactly one window cannot be cropped at random, so they are turned in time; otherwise what an
  archive does at its recordings' ends would always be seen at the same position.
- The target encoder follows more closely at first (momentum from 0.996): runs are shorter than 100,000 steps.
- The gradient's norm is clipped at 1: raw archives hold artefacts of many millivolts.
- Features are the mean and the standard deviation over tokens: the mean alone says little of how a rhythm varies.
"""

from __future__ import annotations

from pretraining.config import (
    DataConfig,
    EmaConfig,
    MaskConfig,
    OptimConfig,
    PredictorConfig,
    PretrainConfig,
    RunConfig,
    WatchConfig,
)
from skecg.leads import CANONICAL_LEADS
from skecg.spec import InputSpec, TemporalConfig


def config() -> PretrainConfig:
    """Give the run for a single GPU and an archive of some hundred thousand records; shorten it for a smaller one."""
    return PretrainConfig(
        name="skecg_default",
        input=InputSpec(
            CANONICAL_LEADS,
            250.0,
            2500,
            any_leads=True,
            normalization="statistics",
            mean=(0.0,) * 12,
            std=(0.2,) * 12,
            clip=20.0,
        ),
        encoder=TemporalConfig(n_leads=12, patch_samples=25, n_patches=100, dim=192, depth=6, num_heads=4),
        predictor=PredictorConfig(96, 6, 4),
        masks=MaskConfig("blocks", 0.15, 0.25, min_block=5),
        optim=OptimConfig(
            lr=5e-4,
            warmup_steps=1500,
            weight_decay=0.01,
            final_weight_decay=0.1,
            betas=(0.9, 0.99),
            eps=1e-6,
            gradient_clip=1.0,
        ),
        ema=EmaConfig(0.996, 0.9995),
        data=DataConfig(roll=True, gain=(0.8, 1.25), lead_dropout=0.5),
        run=RunConfig(30_000, 512),
        watch=WatchConfig(checkpoint_every=500, keep_every=5000),
        pooling="mean+std",
    )
