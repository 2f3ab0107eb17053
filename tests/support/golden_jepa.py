"""The published systems' checkpoints, as the modules here name their parts."""

from __future__ import annotations

from pathlib import Path

import torch
from golden_positions import use_golden_positions_
from safetensors.torch import load_file

from pretraining.config import MaskConfig, ObjectiveConfig, OptimConfig, PredictorConfig, PretrainConfig, RunConfig
from pretraining.objectives.jepa import Jepa
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS
from skecg.spec import InputSpec, LeadwiseConfig, TemporalConfig

WEIMANN = PretrainConfig(
    name="golden-weimann",
    input=InputSpec(CANONICAL_LEADS, 500.0, 5000),
    encoder=TemporalConfig(12, 25, 200, 192, 8, 4),
    predictor=PredictorConfig(96, 8, 4),
    masks=MaskConfig("blocks", 0.15, 0.25),
    optim=OptimConfig(lr=1e-3, weight_decay=0.01, final_weight_decay=0.01, betas=(0.9, 0.99), eps=1e-6),
    run=RunConfig(steps=100_000, batch_size=2),
)
KIM = PretrainConfig(
    name="golden-kim",
    input=InputSpec(EIGHT_LEADS, 250.0, 2500),
    encoder=LeadwiseConfig(8, 50, 50, 192, 4, 4),
    predictor=PredictorConfig(96, 2, 3),
    masks=MaskConfig("multiblock", 0.175, 0.225, last_slice=False),
    objective=ObjectiveConfig("smooth_l1", "layer"),
    optim=OptimConfig(lr=5e-5),
    run=RunConfig(steps=1000, batch_size=2),
)

_KIM_NAMES = {
    "encoder_blocks.": "",
    "predictor_blocks.": "",
    "predictor_": "",
    "W_P": "patch_embed",
}


def load_weimann(golden: Path) -> Jepa:
    model = Jepa(WEIMANN)
    state = load_file(golden / "weimann_vitxs.safetensors") | load_file(golden / "weimann_vitxs_target.safetensors")
    model.load_state_dict({weimann_name(name): _shaped(name, value) for name, value in state.items()})
    for encoder in (model.context_encoder, model.target_encoder):
        use_golden_positions_(encoder)
    return model


def load_kim(golden: Path) -> Jepa:
    model = Jepa(KIM)
    state = load_file(golden / "kim_small.safetensors")
    named = {kim_name(name): _shaped(name, value) for name, value in state.items() if "pos_embed" not in name}
    model.load_state_dict(named)
    return model


def weimann_name(name: str) -> str:
    part, _, rest = name.partition(".")
    return f"{'context_encoder' if part == 'encoder' else part}.{rest.replace('patch_embed.proj', 'patch_embed')}"


def kim_name(name: str) -> str:
    part, _, rest = name.partition(".")
    for theirs, ours in _KIM_NAMES.items():
        rest = rest.replace(theirs, ours)
    return f"{'context_encoder' if part == 'encoder' else part}.{rest}"


def _shaped(name: str, value: torch.Tensor) -> torch.Tensor:
    if name.endswith("patch_embed.proj.weight"):
        return value.flatten(1)
    if name.endswith("registers"):
        return value[0]
    return value.flatten() if name.endswith("mask_token") else value
