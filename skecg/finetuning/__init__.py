"""Fine-tuning: a head on an encoder, and gradients through both.

What is trained is always a copy; the encoders that the process shares stay as they are.

Segmenting: P, QRS and T waves sample by sample, as labels and as WFDB annotations.
"""

from __future__ import annotations

from skecg.annotations import WAVE_CLASSES, WaveAnnotations, waves_of
from skecg.finetuning.segmenter import Segmenter

__all__ = ["Segmenter", "WAVE_CLASSES", "WaveAnnotations", "waves_of"]
