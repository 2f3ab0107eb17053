"""Recordings to work with."""

from __future__ import annotations

from skecg.datasets.synthetic import SyntheticECG, make_ecg

__all__ = ["SyntheticECG", "make_ecg"]
