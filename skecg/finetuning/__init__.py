"""Fine-tuning: a head on an encoder, and gradients through both.

What is trained is always a copy; the encoders that the process shares stay as they are. Labels are of records
(:class:`skecg.FineTunedClassifier`) or of samples (:class:`Segmenter`: P, QRS and T waves, also as WFDB annotations).
"""

from __future__ import annotations

from skecg.annotations import WAVE_CLASSES, WaveAnnotations, waves_of
from skecg.finetuning.segmenter import Segmenter

__all__ = ["Segmenter", "WAVE_CLASSES", "WaveAnnotations", "waves_of"]
