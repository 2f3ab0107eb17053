"""skecg: self-supervised ECG encoders behind scikit-learn's fit and transform.

Research use only. skecg and its weights are not a medical device and must not be used for diagnosis, treatment
decisions, triage or monitoring of patients.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skecg._version import __version__

if TYPE_CHECKING:
    from skecg import errors
    from skecg.embedder import JEPAEmbedder
    from skecg.evaluation.occlusion import explain
    from skecg.finetuning import Segmenter
    from skecg.finetuning.classifier import FineTunedClassifier
    from skecg.finetuning.regressor import FineTunedRegressor
    from skecg.io import read_record, read_records
    from skecg.linear_model.distances import NoveltyScore, similar
    from skecg.linear_model.logistic import LogisticProbe
    from skecg.linear_model.ridge import RidgeProbe
    from skecg.preprocessing.windows import prepare
    from skecg.records import ECGRecord
    from skecg.versions import show_versions
    from skecg.weights import list_models, load_encoder, save_encoder


# Where each public name lives: resolved on first use, so that `import skecg` stays fast and does not import torch.
_HOMES = {
    "ECGRecord": "skecg.records",
    "FineTunedClassifier": "skecg.finetuning.classifier",
    "FineTunedRegressor": "skecg.finetuning.regressor",
    "JEPAEmbedder": "skecg.embedder",
    "LogisticProbe": "skecg.linear_model.logistic",
    "NoveltyScore": "skecg.linear_model.distances",
    "RidgeProbe": "skecg.linear_model.ridge",
    "Segmenter": "skecg.finetuning",
    "errors": "skecg.errors",
    "explain": "skecg.evaluation.occlusion",
    "list_models": "skecg.weights",
    "load_encoder": "skecg.weights",
    "prepare": "skecg.preprocessing.windows",
    "read_record": "skecg.io",
    "read_records": "skecg.io",
    "save_encoder": "skecg.weights",
    "show_versions": "skecg.versions",
    "similar": "skecg.linear_model.distances",
}

__all__ = [
    "ECGRecord",
    "FineTunedClassifier",
    "FineTunedRegressor",
    "JEPAEmbedder",
    "LogisticProbe",
    "NoveltyScore",
    "RidgeProbe",
    "Segmenter",
    "__version__",
    "errors",
    "explain",
    "list_models",
    "load_encoder",
    "prepare",
    "read_record",
    "read_records",
    "save_encoder",
    "show_versions",
    "similar",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skecg' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = module if name == "errors" else getattr(module, name)
    # Kept, so that the second use does not come here.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
