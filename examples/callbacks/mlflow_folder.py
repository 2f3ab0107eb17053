"""Every run to MLflow, into a folder: ``python -m pretraining train --plugin examples/callbacks/mlflow_folder.py ...``.

``MLFLOW_TRACKING_URI`` names another place; ``mlflow ui --backend-store-uri ./mlruns`` shows what is there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import mlflow

from pretraining.config import PretrainConfig
from pretraining.monitoring.callbacks import Callback, register_callback


@register_callback
class MlflowFolder(Callback):
    def start(self, config: PretrainConfig, folder: Path, step: int) -> None:
        mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", Path("mlruns").absolute().as_uri()))
        mlflow.set_experiment("skecg")
        mlflow.start_run(run_name=folder.name)
        mlflow.log_dict(config.to_dict(), "config.json")

    def step(self, step: int, values: Mapping[str, float]) -> None:
        mlflow.log_metrics(dict(values), step=step)

    gauge = probe = step

    def end(self, step: int) -> None:
        mlflow.end_run()
