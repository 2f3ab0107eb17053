"""The former name of what :mod:`skecg.finetuning` has for P, QRS and T waves."""

from skecg.finetuning import WAVE_CLASSES, Segmenter, WaveAnnotations, waves_of

__all__ = ["WAVE_CLASSES", "Segmenter", "WaveAnnotations", "waves_of"]
