"""Segmenting: P, QRS and T waves sample by sample, as labels and as WFDB annotations."""

from __future__ import annotations

from skecg.evaluation.wave_labels import WAVE_CLASSES
from skecg.segmenting.annotations import WaveAnnotations, waves_of
from skecg.segmenting.segmenter import Segmenter

__all__ = ["WAVE_CLASSES", "Segmenter", "WaveAnnotations", "waves_of"]
