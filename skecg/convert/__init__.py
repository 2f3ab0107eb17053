"""Published checkpoints to weights folders, one module for each origin.

The only place of skecg that opens a pickle, and then only with ``torch.load(weights_only=True)``, which builds tensors
and plain containers and runs nothing.
"""

from __future__ import annotations

from skecg.convert.kim import convert_kim
from skecg.convert.report import ConversionReport
from skecg.convert.statistics import STATISTICS
from skecg.convert.weimann import convert_weimann

__all__ = ["STATISTICS", "ConversionReport", "convert_kim", "convert_weimann"]
