"""The shapes of the encoders that the benchmarks of speed measure, with weights drawn here."""

from __future__ import annotations

from pathlib import Path

import torch

from skecg import save_encoder
from skecg.encoders import Encoder, build_encoder
from skecg.leads import CANONICAL_LEADS
from skecg.spec import EncoderConfig, InputSpec, LeadwiseConfig, TemporalConfig

VIT_XS = TemporalConfig(n_leads=12, patch_samples=25, n_patches=100, dim=192, depth=12, num_heads=3)
VIT_S = TemporalConfig(n_leads=12, patch_samples=25, n_patches=100, dim=384, depth=8, num_heads=6)
WEIMANN_XS = TemporalConfig(n_leads=8, patch_samples=25, n_patches=200, dim=192, depth=8, num_heads=4)
WEIMANN_S = TemporalConfig(n_leads=8, patch_samples=25, n_patches=200, dim=384, depth=8, num_heads=6)
KIM_B = LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=50, dim=768, depth=12, num_heads=16)
TINY = TemporalConfig(n_leads=8, patch_samples=25, n_patches=20, dim=32, depth=1, num_heads=2)
TINY_LEADWISE = LeadwiseConfig(n_leads=8, patch_samples=25, n_patches=10, dim=32, depth=1, num_heads=2)


def frozen(config: EncoderConfig) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(config).eval().requires_grad_(False)


def find_model(name: str, folder: str) -> str:
    """Give what an embedder takes for a model: a folder of random weights for ``vit-xs`` and ``vit-s``."""
    configs = {"vit-xs": VIT_XS, "vit-s": VIT_S}
    if name not in configs:
        return name
    spec = InputSpec(CANONICAL_LEADS, 250, configs[name].window_samples)
    save_encoder(Path(folder, name), frozen(configs[name]), spec)
    return str(Path(folder, name))
