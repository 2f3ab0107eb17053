"""Evaluation: which features are better, on which labels, with how many of them, and whether the difference is real.

Encoders are frozen and go through :class:`skecg.JEPAEmbedder`, as any user's would.
"""

from __future__ import annotations

from skecg.evaluation.attention_probe import AttentionProbe
from skecg.evaluation.attention_protocol import crop_tokens
from skecg.evaluation.bootstrap import Bootstrap, Interval, bootstrap_auroc
from skecg.evaluation.comparison import compare
from skecg.evaluation.features import standard_sources
from skecg.evaluation.protocols import PooledProtocol
from skecg.evaluation.report import Report
from skecg.evaluation.splitting import Split, split_by_folds
from skecg.evaluation.tasks import CPSC2018_TASKS, PTBXL_TASKS, TASKS, Task, open_dataset, task_labels
from skecg.metrics import (
    Calibration,
    area_under_precision_recall,
    area_under_roc,
    best_thresholds,
    calibration,
    f1_scores,
)
from skecg.splits import draw_patients

__all__ = [
    "CPSC2018_TASKS",
    "PTBXL_TASKS",
    "TASKS",
    "AttentionProbe",
    "Bootstrap",
    "Calibration",
    "Interval",
    "PooledProtocol",
    "Report",
    "Split",
    "Task",
    "area_under_precision_recall",
    "area_under_roc",
    "best_thresholds",
    "bootstrap_auroc",
    "calibration",
    "compare",
    "crop_tokens",
    "draw_patients",
    "f1_scores",
    "open_dataset",
    "split_by_folds",
    "standard_sources",
    "task_labels",
]
