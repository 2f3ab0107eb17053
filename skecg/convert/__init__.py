"""Published checkpoints to weights folders, one module for each origin.

The only place of skecg that opens a pickle, and then only with ``torch.load(weights_only=True)``, which builds tensors
and plain containers and runs nothing.
"""

from __future__ import annotations

from skecg.convert.checkpoint import ConversionReport
from skecg.convert.clef import convert_clef
from skecg.convert.ecg_fm import convert_ecg_fm
from skecg.convert.ecgfounder import convert_ecgfounder
from skecg.convert.kim import convert_kim
from skecg.convert.merl import convert_merl
from skecg.convert.onnx import convert_onnx
from skecg.convert.weimann import STATISTICS, convert_weimann
from skecg.convert.xecg import convert_xecg

__all__ = [
    "STATISTICS",
    "ConversionReport",
    "convert_clef",
    "convert_ecg_fm",
    "convert_ecgfounder",
    "convert_kim",
    "convert_merl",
    "convert_onnx",
    "convert_weimann",
    "convert_xecg",
]
