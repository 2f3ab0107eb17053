"""How much arithmetic a training step is, by the model's shape, and how much of the hardware's it gets.

Model FLOPs: what the mathematics needs (2 for a multiplication with its addition), whatever an implementation spends
beyond it. A backward pass is counted as two forward ones.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from skecg.spec import MultiscaleConfig, block_flops

if TYPE_CHECKING:
    import torch

    from pretraining.config import PredictorConfig, PretrainConfig
    from skecg.spec import PatchEncoderConfig

__all__ = ["jepa_flops", "mae_flops", "pace", "peak_flops", "predictor_flops"]

# Dense bfloat16 peaks by words of the device's name, from the makers' data sheets (without sparsity), the more
# particular name first.
_BF16_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}


def jepa_flops(config: PretrainConfig, visible_slices: float) -> float:
    """Count what one record costs in a training step of JEPA.

    Parameters
    ----------
    config : PretrainConfig
    visible_slices : float
        Slices of time that the context encoder sees (the mean over draws).

    Returns
    -------
    float
        Floating-point operations: the target encoder forward on everything, the context encoder and the predictor
        forward and backward for each mask, and the context encoder once more where it sees other slices to describe.
    """
    encoder, n_slices = config.encoder, config.encoder.n_patches
    objective, predictor, masks = config.jepa
    n_masks = masks.masks_per_target
    trained = n_masks * encoder.flops(visible_slices)
    target = 0.0
    if objective.predict_weight:
        trained += n_masks * predictor_flops(encoder, predictor, visible_slices)
        target = encoder.flops(n_slices)
    if objective.describe_weight and objective.describe_share:
        trained += encoder.flops(objective.describe_share * n_slices)
    # A backward pass is two forward ones; the target encoder has none.
    return target + 3 * trained


def mae_flops(encoder: MultiscaleConfig, decoder: PredictorConfig, visible_tokens: float) -> float:
    """Count what one record costs in a training step of a masked autoencoder: all of it forward and backward.

    Parameters
    ----------
    encoder : MultiscaleConfig
    decoder : PredictorConfig
    visible_tokens : float
        Tokens that the encoder sees.
    """
    n_tokens = encoder.lead_groups * encoder.n_patches
    samples = encoder.n_leads // encoder.lead_groups * encoder.patch_samples
    edges = 2 * decoder.dim * (encoder.dim * visible_tokens + samples * n_tokens)
    block = block_flops(decoder.dim, int(decoder.dim * decoder.mlp_ratio), n_tokens)
    decoded = edges + n_tokens * decoder.depth * block
    return 3 * (encoder.flops(visible_tokens / encoder.lead_groups) + decoded)


def predictor_flops(encoder: PatchEncoderConfig, config: PredictorConfig, visible_slices: float) -> float:
    """Count a predictor's forward pass: each lead by itself where a lead has tokens of its own."""
    rows = encoder.n_leads if encoder.token_per_lead else 1
    masked = encoder.n_patches - visible_slices
    block = block_flops(config.dim, int(config.dim * config.mlp_ratio), encoder.n_patches)
    edges = 2 * encoder.dim * config.dim * (visible_slices + masked)  # in for what is seen, out for what is predicted
    return rows * (edges + encoder.n_patches * config.depth * block)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the dense peak of a known accelerator in bfloat16; None for anything else."""
    import torch

    # Peaks of float32 depend on whether TF32 rounds, those of CPUs on their clock: no share rather than a wrong one.
    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _BF16_PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


def pace(
    n_records: int, seconds: float, flops_of_record: float, device: torch.device, precision: str = "fp32"
) -> dict[str, float]:
    """Compute how fast a process trains.

    Parameters
    ----------
    n_records : int
        That this process trained on in so many `seconds`.
    seconds : float
    flops_of_record : float
        Of :meth:`pretraining.objectives.base.Objective.flops`.
    device : torch.device
    precision : {"fp32", "bf16"}

    Returns
    -------
    dict of str to float
        ``records_per_second``, ``model_tflops`` (10¹² a second) and, for known accelerators, ``peak_share``.
    """
    records_per_second = n_records / max(seconds, 1e-9)
    flops = records_per_second * flops_of_record
    found = {"records_per_second": records_per_second, "model_tflops": flops / 1e12}
    peak = peak_flops(device, precision)
    return found if peak is None else found | {"peak_share": flops / peak}
