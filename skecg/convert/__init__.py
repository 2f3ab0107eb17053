"""Published checkpoints to weights folders, one module for each origin.

The only place of skecg that opens a pickle, and then only with ``torch.load(weights_only=True)``, which builds tensors
and plain containers and runs nothing.
"""

from __future__ import annotations

from skecg.convert.checkpoint import ConversionReport
from skecg.convert.kim import convert_kim
from skecg.convert.weimann import STATISTICS, convert_weimann

__all__ = ["STATISTICS", "ConversionReport", "convert_kim", "convert_weimann"]
