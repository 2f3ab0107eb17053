"""What the two runs of Kim's ECG-JEPA share (arXiv:2410.08559).

Eight leads at 250 Hz in windows of 10 s and raw millivolts, tokens of 200 ms of one lead, CroPA attention, one mask for
the whole batch; smooth absolute distance to the target encoder's tokens after a further layer norm. The context encoder
is what was evaluated and published, so it is what is exported.

Departures, all outside the model and the objective:

- Records are drawn for each step, not dealt out once an epoch: an epoch stands for as many steps as 174,140 records
  (43,240 of Chapman and Ningbo, 130,900 of CODE-15) took, the last, smaller batch included.
- bfloat16 autocast where the hardware has it; theirs is float16 with a scaled loss.
- Leads go by name, and CODE-15 by its true rate; theirs takes 10.24 s of it for 10.
- Everything drawn follows from the seed; theirs has none.

The learning rate of the weights that were published is in doubt: the first public version of the code never raised it
above 1e-6.
"""

from __future__ import annotations

import math

from pretraining.config import (
    DataConfig,
    EmaConfig,
    MaskConfig,
    ObjectiveConfig,
    OptimConfig,
    PredictorConfig,
    PretrainConfig,
    RunConfig,
    WatchConfig,
)
from skecg.leads import EIGHT_LEADS
from skecg.spec import InputSpec, LeadwiseConfig

__all__ = ["N_RECORDS", "kim_leadwise"]

#: Records of an epoch, after cleaning.
N_RECORDS = 174_140

_EPOCHS, _WARMUP_EPOCHS, _EPOCHS_A_CHECKPOINT = 100, 5, 5


def kim_leadwise(name: str, masks: MaskConfig, *, lr: float, batch_size: int) -> PretrainConfig:
    """Return the run with one kind of mask."""
    # The last, smaller batch is a step, too: theirs does not drop it.
    epoch = math.ceil(N_RECORDS / batch_size)
    return PretrainConfig(
        name=name,
        input=InputSpec(EIGHT_LEADS, 250.0, 2500, resampling="fourier"),
        encoder=LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=50, dim=768, depth=12, num_heads=16),
        predictor=PredictorConfig(384, 6, 12),
        masks=masks,
        objective=ObjectiveConfig(loss="smooth_l1", target_norm="layer"),
        optim=OptimConfig(
            lr=lr,
            warmup_lr=1e-6,
            final_lr=1e-6,
            warmup_steps=_WARMUP_EPOCHS * epoch,
            cosine_from="zero",
            weight_decay=0.05,
            final_weight_decay=0.05,
            betas=(0.9, 0.999),
            eps=1e-8,
        ),
        # After the optimizer's step, as their loop does.
        ema=EmaConfig(0.996, 1.0, before_step=False),
        data=DataConfig(drop_path=0.1),
        run=RunConfig(_EPOCHS * epoch, batch_size),
        watch=WatchConfig(checkpoint_every=epoch, keep_every=_EPOCHS_A_CHECKPOINT * epoch),
        export_encoder="context",
    )


def kim_leadwise_b_block() -> PretrainConfig:
    """Kim's encoder of single leads, four blocks hidden: 85.1 million trained parameters, best for linear probes.

    Four blocks of 17.5 to 22.5 % of the window, which may overlap, are hidden, the same in all leads of the batch;
    the last slice never is, as in the published code. The learning rate is the code's default and the paper's
    (their README has 5.5e-5).
    """
    masks = MaskConfig("multiblock", 0.175, 0.225, n_blocks=4, last_slice=False)
    return kim_leadwise("kim_leadwise_b_block", masks, lr=5e-5, batch_size=64)


def kim_leadwise_b_random() -> PretrainConfig:
    """Kim's encoder of single leads, single slices hidden: 85.1 million trained parameters, best for fine-tuning.

    Between 60 and 70 % of the slices are hidden, the same in all leads of the batch.
    """
    return kim_leadwise("kim_leadwise_b_random", MaskConfig("random", 0.6, 0.7), lr=2.5e-5, batch_size=128)
