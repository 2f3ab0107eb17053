"""Every run to Weights & Biases: ``python -m pretraining train --plugin examples/callbacks/weights_and_biases.py ...``.

With ``WANDB_MODE=offline`` nothing leaves the machine; ``wandb sync RUN/wandb/offline-run-*`` sends it later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import wandb

from pretraining.config import PretrainConfig
from pretraining.monitoring.callbacks import Callback, register_callback


@register_callback
class WeightsAndBiases(Callback):
    def start(self, config: PretrainConfig, folder: Path, step: int) -> None:
        self.run = wandb.init(project="skecg", name=folder.name, dir=folder, config=config.to_dict())

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    gauge = probe = step

    def end(self, step: int) -> None:
        self.run.finish()
