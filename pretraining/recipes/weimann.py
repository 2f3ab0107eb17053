"""Weimann and Conrad's ECG-JEPA in its three sizes (Comput. Biol. Med. 196:110809, 2025; arXiv:2410.13867).

Twelve leads at 500 Hz in windows of 10 s, tokens of 50 ms of all leads, 15 to 25 % of them seen, the others hidden in
blocks of half a second and more; absolute distance to the target encoder's tokens as they are.

Departures, all outside the model and the objective:

- One set of statistics (MIMIC-IV-ECG's, by far their largest corpus) normalizes all recordings. The original takes
  those of each corpus in pre-training and yet other ones in evaluation, so a recording of unknown origin has none.
- CODE-15 and the St Petersburg records are high-passed at 0.5 Hz in the original, which calls it necessary for stable
  training. A recipe knows nothing of corpora; pack them so with ``--corpus-highpass`` (:data:`CORPUS_HIGHPASS_HZ`).
- Signals are int16 in steps of a microvolt and float32 from there on; theirs are float16 throughout.
- The average of the encoders moves once for each optimizer step. Theirs moves once for each part of a batch that is
  accumulated, so that their ViT-B reached its last momentum after half of the run.
- Everything drawn follows from the seed; theirs has none.
"""

from __future__ import annotations

from pretraining.config import (
    EmaConfig,
    MaskConfig,
    OptimConfig,
    PredictorConfig,
    PretrainConfig,
    RunConfig,
    WatchConfig,
)
from skecg.convert import STATISTICS
from skecg.leads import CANONICAL_LEADS
from skecg.spec import InputSpec, TemporalConfig

__all__ = ["CORPUS_HIGHPASS_HZ", "CORPUS_SHARES", "weimann_vit"]

#: Share of each corpus in a batch as published, to be given as ``data.weights`` by whoever has packed them all.
#: Recipes leave it empty: a share for a corpus that is not there is an error, and shares by size suit any mix.
CORPUS_SHARES: dict[str, float] = {
    "mimic-iv-ecg": 0.70,
    "code15": 0.10,
    "ptbxl": 0.05,
    "georgia": 0.0375,
    "ningbo": 0.028125,
    "cpsc": 0.025,
    "ptb": 0.01875,
    "st-petersburg": 0.01875,
    "cpsc-extra": 0.0125,
    "chapman": 0.009375,
}

#: High-pass (Hz) of single corpora as published, to be given when they are packed.
CORPUS_HIGHPASS_HZ: dict[str, float] = {"code15": 0.5, "st-petersburg": 0.5}

_STEPS = 100_000


def weimann_vit(
    name: str, *, dim: int, depth: int, num_heads: int, batch_size: int, accumulation: int = 1
) -> PretrainConfig:
    """Return the run of one size; the predictor has half the width and the same depth and heads."""
    mimic = [STATISTICS["mimic"][lead] for lead in CANONICAL_LEADS]
    return PretrainConfig(
        name=name,
        input=InputSpec(
            CANONICAL_LEADS,
            500.0,
            5000,
            resampling="fourier",
            normalization="statistics",
            mean=tuple(mean for mean, _ in mimic),
            std=tuple(std for _, std in mimic),
            clip=5.0,
        ),
        encoder=TemporalConfig(
            n_leads=12, patch_samples=25, n_patches=200, dim=dim, depth=depth, num_heads=num_heads, num_registers=1
        ),
        predictor=PredictorConfig(dim // 2, depth, num_heads),
        masks=MaskConfig("blocks", 0.15, 0.25, min_block=10),
        optim=OptimConfig(
            lr=1e-3,
            warmup_lr=1e-6,
            final_lr=1e-6,
            warmup_steps=10_000,
            weight_decay=0.01,
            final_weight_decay=0.1,
            betas=(0.9, 0.99),
            eps=1e-6,
        ),
        # At the start of a step, as their forward pass does: the first average is of two equal encoders.
        ema=EmaConfig(0.998, 0.9995, before_step=True),
        run=RunConfig(_STEPS, batch_size, accumulation),
        watch=WatchConfig(checkpoint_every=1000, keep_every=10_000),
    )


def weimann_vit_xs() -> PretrainConfig:
    """Weimann and Conrad's smallest encoder, ViT-XS: 3.6 million parameters, 192 wide, 8 blocks."""
    return weimann_vit("weimann_vit_xs", dim=192, depth=8, num_heads=4, batch_size=2048)


def weimann_vit_s() -> PretrainConfig:
    """Weimann and Conrad's ViT-S, their best on PTB-XL: 14.3 million parameters, 384 wide, 8 blocks."""
    return weimann_vit("weimann_vit_s", dim=384, depth=8, num_heads=6, batch_size=2048)


def weimann_vit_b() -> PretrainConfig:
    """Weimann and Conrad's largest encoder, ViT-B: 85.2 million parameters, 768 wide, 12 blocks.

    A batch is 1024 records in two parts, as in their configuration (their text says 2048).
    """
    return weimann_vit("weimann_vit_b", dim=768, depth=12, num_heads=12, batch_size=1024, accumulation=2)
